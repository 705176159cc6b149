#!/usr/bin/env bash
# Pillow turns a TIFF upright while it loads, but its EXIF tag asks for the turn until then.
#
# Version:  Pillow 13.0.0
# Setting:  a picture of 4 x 8 pixels with EXIF orientation 6 (turn by 90 degrees), as PNG and as
#           TIFF. It is opened, the orientation is read from getexif(), and the image is turned
#           as the tag says: the lazy way to avoid decoding images that need no turn.
# Expected: the same for both formats: 4 x 8 in the file, 8 x 4 once turned.
# Seen:     the PNG is 4 x 8 when opened and 8 x 4 after the turn. The TIFF has size 8 x 4 already
#           when it is opened, with the tag still at 6. transpose() loads the pixels, which turns
#           them a first time and removes the tag, and then turns them again: 4 x 8, on its side.
# Matters:  code that reads the tag before it loads turns TIFFs twice, and no error shows it. Read
#           the tag after load(), or use ImageOps.exif_transpose, which loads first.
set -eu
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" install -q pillow==13.0.0
"$dir/venv/bin/python" - <<'PY'
import io
import sys

from PIL import Image, ImageOps

exif = Image.Exif()
exif[0x0112] = 6
found = {}
for kind in ("PNG", "TIFF"):
    file = io.BytesIO()
    Image.new("L", (4, 8)).save(file, kind, exif=exif)
    opened = Image.open(file)
    size, tag = opened.size, opened.getexif().get(0x0112)
    turned = opened.transpose(Image.Transpose.ROTATE_270)  # what orientation 6 asks for
    after = opened.getexif().get(0x0112)
    right = ImageOps.exif_transpose(Image.open(file)).size
    found[kind] = (size, tag, turned.size, after, right)
    print(f"{kind}: opened {size} tag {tag}, turned {turned.size}, tag then {after}, right {right}")
recorded = {"PNG": ((4, 8), 6, (8, 4), 6, (8, 4)), "TIFF": ((8, 4), 6, (4, 8), None, (8, 4))}
if found != recorded:
    sys.exit(f"changed: {found} instead of {recorded}")
PY
