#!/usr/bin/env bash
# Makes archive.tar.xz: runs of the pfstudy that PF names, which tests/test_archive.py reads.
#
#   PF=.venv/bin/pfstudy PYTHON=.venv/bin/python bash tests/archive/make.sh OUT
#
# The archive holds two datasets, 15 finished runs (one with an operation of its own), a
# tuned study, a search, speed tables, and two runs that were stopped in the middle: one by SIGINT,
# one by SIGTERM. Absolute paths in configs read @ARCHIVE@ for the directory that it is unpacked
# in. The shipped archive was made at commit 0b2860a, and it is never made again: it stands for runs
# that people have from then. A later format gets an archive of its own.
set -euo pipefail
OUT=$(realpath "$1"); mkdir -p "$OUT/archive"; cd "$OUT/archive"
export CUDA_VISIBLE_DEVICES='' PYTHONDONTWRITEBYTECODE=1

"$PYTHON" - <<'P'
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

digits = load_digits()
left = {c: iter(np.flatnonzero(digits.target == c)) for c in range(10)}
for part, number in (("train", 12), ("val", 5)):
    for c in range(10):
        folder = Path("images", part, str(c))
        folder.mkdir(parents=True)
        for n in range(number):
            grey = (digits.images[next(left[c])] * 15.9375).astype(np.uint8)
            Image.fromarray(grey).save(folder / f"{n:02d}.bmp")
P
mkdir parts
cat > parts/slow.py <<'P'
import os
import time


def wait():
    time.sleep(float(os.environ.get("ARCHIVE_PACE", 0)))
P
cat > own_ops.py <<'P'
from pfstudy import Operation, register
from parts.slow import wait


def build(layer):
    from torch import nn

    class Paced(nn.AvgPool2d):
        def forward(self, x_NCHW):
            if self.training:
                wait()
            return super().forward(x_NCHW)

    return Paced(layer.kernel_size, layer.stride, layer.padding)


register(Operation("paced", build, trainable=False))
P

SMALL=(model=resnet_digits 'model.args.channels=[4,8]' model.args.stem_channels=4 logger=none
  trainer.accelerator=cpu launcher.num_workers=1 recipe.epochs=3 recipe.warmup_epochs=1)
QUIET=("${SMALL[@]}" speed=none)
IMAGES=(data=imagefolder data.path=images data.image_size=8 data.channels=1 data.num_classes=10
  data.num_validation=20 'data.mean=[0.5]' 'data.std=[0.5]' data.num_workers=0 recipe.batch_size=32 recipe.epochs=8)
QUICK=(speed.num_processes=2 speed.max_processes=2 speed.num_rounds=3 speed.max_load=99
  speed.num_threads=1)

"$PF" -m "${SMALL[@]}" "${QUICK[@]}" study.name=digits seeds=2 block.spatial=original,maxpool,identity
"$PF" -m "${QUIET[@]}" "${IMAGES[@]}" study.name=images seeds=2 block.spatial=original,maxpool,avgpool
"$PF" "${QUIET[@]}" "${IMAGES[@]}" study.name=own 'imports=[own_ops]' block.spatial=paced
"$PF" -m "${QUIET[@]}" study.name=tuned tune.trials=2 tune.epochs=2 block.spatial=original,maxpool
"$PF" search "${SMALL[@]}" search=darts 'search.operations=[conv,maxpool,identity]' search.epochs=2 \
  search.warmup_epochs=1 search.name=found
"$PF" speed -m "${SMALL[@]}" "${QUICK[@]}" speed.batch_size=8 block.spatial=maxpool,identity
"$PF" speed table -m "${SMALL[@]}" "${QUICK[@]}" block.spatial=conv,maxpool --seconds 5

stop() {  # SIGNAL EPOCH COMMAND...: stops a command when its run has ended an epoch
  local signal=$1 epoch=$2; shift 2
  setsid "$PYTHON" - "$signal" "$epoch" "$@" <<'P'
import json, signal, subprocess, sys, time
from pathlib import Path

number, epoch, command = getattr(signal, sys.argv[1]), int(sys.argv[2]), sys.argv[3:]
signal.signal(signal.SIGINT, signal.default_int_handler)
study = next(each for each in command if each.startswith("study.name=")).partition("=")[2]
process = subprocess.Popen(command)
while process.poll() is None:
    time.sleep(0.05)
    path = Path("runs/studies", f"{study}.json")
    for member in json.loads(path.read_text())["members"] if path.exists() else []:
        state = Path("runs", member, "state.json")
        if state.exists() and json.loads(state.read_text()).get("epoch", 0) >= epoch:
            process.send_signal(number)
            sys.exit(process.wait() != 130)
sys.exit("it ended before it could be stopped")
P
}
ARCHIVE_PACE=0.5 stop SIGINT 1 "$PF" "${QUIET[@]}" "${IMAGES[@]}" recipe.epochs=4 \
  study.name=stopped_own 'imports=[own_ops]' block.spatial=paced
stop SIGTERM 3 "$PF" "${QUIET[@]}" "${IMAGES[@]}" recipe.epochs=150 study.name=stopped \
  block.spatial=maxpool

find . \( -name wandb -o -name '*.log' -o -name resume.before.ckpt -o -name __pycache__ \) \
  -prune -exec rm -r {} +
grep -rlF "$PWD" . | xargs sed -i "s|$PWD|@ARCHIVE@|g"
! grep -rlF "$PWD" .
cd ..
tar --sort=name --mtime=2025-01-01 --owner=0 --group=0 --numeric-owner -cJf archive.tar.xz archive
du -b archive.tar.xz
