"""The subcommand that packs folders of images."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from pfstudy.cli.app import app
from pfstudy.errors import PfstudyError

_QUALITY = 90


@app.command("pack")
def pack_folder(
    folder: Annotated[
        Path, typer.Argument(help="A folder of images: train/CLASS/, val/CLASS/, or CLASS/ alone.")
    ],
    out: Annotated[Path, typer.Argument(help="The packed folder, which must not be there.")],
    side: Annotated[
        int | None,
        typer.Option(min=1, help="Shrink images until their shorter side has so many pixels."),
    ] = None,
    quality: Annotated[
        int | None,
        typer.Option(min=1, max=95, help=f"Of JPEGs that --side makes; default: {_QUALITY}."),
    ] = None,
    background: Annotated[
        Literal["white", "black"] | None,
        typer.Option(help="Behind transparent pixels of images that --side shrinks."),
    ] = None,
    bit_depth: Annotated[
        int | None,
        typer.Option(min=8, max=16, help="Bits that 16-bit images use, for --side; default: 16."),
    ] = None,
) -> None:
    """Pack a folder of images into few large files, which are faster to read and to copy.

    Without --side, the bytes of the images stay as they are, and runs are the same as with the
    folder. Images that --side shrinks are turned upright and lose their transparency. For example:

    \b
        pfstudy pack FOLDER PACKED --side 500
        pfstudy data=imagefolder data.path=PACKED data.num_classes=10 data.num_validation=1000
    """  # noqa: D301  (click's mark of lines that are not folded)
    given = {"quality": quality, "background": background, "bit-depth": bit_depth}
    for name, value in given.items():
        if value is not None and side is None:
            raise PfstudyError(f"--{name} is for images that are shrunk; give --side, too.")
    from pfstudy.data.packing import pack
    from pfstudy.launch.display import Display
    from pfstudy.words import counted

    with Display() as display:
        packed = pack(
            folder,
            out,
            side,
            quality or _QUALITY,
            background or "white",
            bit_depth,
            display.note,
            lambda done, total: display.bar("packing", done, total, f"{done}/{total}"),
        )
    images = sum(len(part.names_N) for part in packed.parts.values())
    shards = [size for part in packed.parts.values() for size in part.shard_sizes_S.tolist()]
    print(
        f"{out}: {counted(images, 'image')} in {counted(len(shards), 'file')}, "
        f"{sum(shards) / 1e6:,.1f} MB"
    )
