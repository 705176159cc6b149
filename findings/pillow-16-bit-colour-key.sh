#!/usr/bin/env bash
# Pillow makes black transparent in a 16-bit colour PNG that declares another colour so.
#
# Version:  Pillow 13.0.0
# Setting:  a PNG with 16 bits per colour declares one colour, (51200, 25600, 12800), transparent
#           (chunk tRNS). Of its two pixels one has that colour and the other is black.
# Expected: 8-bit pixels, as Pillow has no 16-bit colour; convert("RGBA") makes the first pixel
#           transparent and leaves the second, as in the same PNG of 8 bits.
# Seen:     the other way round. Pixels keep the upper 8 of their 16 bits, info["transparency"]
#           keeps the 16-bit values, and the comparison takes the lower 8 bits of these: (0, 0, 0).
#           There is neither an error nor a warning.
# Matters:  a drawing with black lines on a transparent colour becomes its negative: the lines
#           show the background and the colour that should be transparent stays.
set -eu
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" install -q pillow==13.0.0
"$dir/venv/bin/python" - <<'PY'
import io
import struct
import sys
import zlib

from PIL import Image


def chunk(name: bytes, content: bytes) -> bytes:
    checksum = zlib.crc32(name + content)
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", checksum)


def alpha(bits: int, clear: tuple[int, ...], other: tuple[int, ...]) -> tuple[bool, list[int]]:
    code = "B" if bits == 8 else "H"
    pixels = b"\0" + struct.pack(f">6{code}", *clear, *other)
    content = (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", 2, 1, bits, 2, 0, 0, 0))
        + chunk(b"tRNS", struct.pack(">3H", *clear))
        + chunk(b"IDAT", zlib.compress(pixels))
        + chunk(b"IEND", b"")
    )
    image = Image.open(io.BytesIO(content))
    declared = image.has_transparency_data
    image = image.convert("RGBA")
    print(f"{bits} bits: declared {declared}, pixels {[image.getpixel((x, 0)) for x in (0, 1)]}")
    return declared, [image.getpixel((x, 0))[3] for x in (0, 1)]


found = {
    8: alpha(8, (200, 100, 50), (0, 0, 0)),
    16: alpha(16, (51200, 25600, 12800), (0, 0, 0)),
}
recorded = {8: (True, [0, 255]), 16: (True, [255, 0])}
if found != recorded:
    sys.exit(f"changed: {found} instead of {recorded}")
PY
