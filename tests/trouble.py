"""Operations of a user's that behave badly while they train, each in its own way."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pfstudy.schema import imports
from pfstudy.schema.operations import OPERATIONS, REGISTERED_IN

MODULE = "trouble_ops.py"
PACE = "pace"
"""File beside the module: how long a training step of ``paced`` and ``paced_too`` takes."""

SMALL = (
    *("model=bottleneck1", "data=synthetic", "data.num_train=128"),
    *("recipe.epochs=2", "trainer.accelerator=cpu", "speed=none"),
)
"""A run of 4 steps, which takes a moment."""

_SOURCE = """
import os
import signal
import time
from pathlib import Path

from pfstudy import Operation, register
from pfstudy.errors import PfstudyError

HERE = Path(__file__).parent


def operation(behave):
    def build(layer):
        from torch import nn  # here, so that the command itself need not import it

        class Pool(nn.AvgPool2d):
            def forward(self, x_NCHW):
                if self.training and x_NCHW.device.type == "cpu":
                    behave(x_NCHW)
                return super().forward(x_NCHW)

        return Pool(layer.kernel_size, layer.stride, layer.padding)

    register(Operation(behave.__name__, build, trainable=False))
    return behave


@operation
def paced(x_NCHW):
    if (HERE / "pace").exists():
        time.sleep(float((HERE / "pace").read_text()))


@operation
def paced_too(x_NCHW):
    paced(x_NCHW)


@operation
def hangs(x_NCHW):
    (HERE / "hanging").touch()
    time.sleep(3600)


@operation
def raises(x_NCHW):
    raise RuntimeError("the paint is wet")


@operation
def refuses(x_NCHW):
    raise PfstudyError("this brush is no good; take another.")


@operation
def dies(x_NCHW):
    print("last words", flush=True)
    os.kill(os.getpid(), signal.SIGKILL)


@operation
def dies_once(x_NCHW):
    if not (HERE / "died").exists():
        (HERE / "died").touch()
        os.kill(os.getpid(), signal.SIGKILL)


@operation
def hungry(x_NCHW):
    if len(x_NCHW) > 32:
        import torch

        torch.empty(2**55)


@operation
def raises_on_rank_1(x_NCHW):
    if os.environ["RANK"] == "1":
        raise RuntimeError("the paint is wet")


@operation
def dies_on_rank_1(x_NCHW):
    if os.environ["RANK"] == "1":
        os.kill(os.getpid(), signal.SIGKILL)


@operation
def dies_on_rank_0(x_NCHW):
    if os.environ["RANK"] == "0":
        os.kill(os.getpid(), signal.SIGKILL)


@operation
def hungry_on_rank_1(x_NCHW):
    if os.environ["RANK"] == "1" and len(x_NCHW) > 16:
        import torch

        torch.empty(2**55)


@operation
def hangs_on_rank_1(x_NCHW):
    if os.environ["RANK"] == "1":
        time.sleep(3600)
"""


def write_module(directory: Path) -> Path:
    """Write the module that registers them."""
    path = directory / MODULE
    path.write_text(_SOURCE)
    return path


def set_pace(directory: Path, seconds: float) -> None:
    """Have the training steps of ``paced`` sleep this long from now on."""
    draft = directory / f".{PACE}"
    draft.write_text(str(seconds))
    draft.replace(directory / PACE)


@contextmanager
def registered(path: Path) -> Iterator[None]:
    """Have them registered in this process, too, which composes the configs."""
    before, search_path = set(OPERATIONS), list(sys.path)
    imports.import_modules([str(path)])
    try:
        yield
    finally:
        for name in set(OPERATIONS) - before:
            del OPERATIONS[name], REGISTERED_IN[name]
        del sys.modules[path.stem]
        sys.path[:] = search_path
        imports._import.cache_clear()
