"""Published datasets, downloaded once for all processes, whole or not at all."""

from __future__ import annotations

import shutil
import socket
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path
from urllib.error import URLError

from pfstudy.errors import PfstudyError, first_line
from pfstudy.files import locked

_DRAFT = ".download"
_PATIENCE_SECONDS = 60.0


def is_to_be_filled(folder: Path) -> bool:
    """Whether a folder is there and empty, or a download into it was begun."""
    if not folder.is_dir():
        return False
    return (folder / _DRAFT).exists() or all(e.name.startswith(".") for e in folder.iterdir())


def download(name: str, folder: Path, wanted: Iterable[Path], is_whole: Callable[[], bool]) -> None:
    """Download a dataset into a folder with what torchvision knows of it, unless another one does.

    Files are moved to where they belong when all are there, so that a download that is killed
    leaves nothing but a draft, which the next one removes.

    Args:
        name: Name of the dataset.
        folder: Where to; it is made.
        wanted: The files that are needed, from the folder on; others are not kept.
        is_whole: Whether they are there by now.

    Raises:
        PfstudyError: It cannot be downloaded, or what comes is not what was published.
    """
    draft = folder / _DRAFT
    with locked(draft):
        if is_whole():
            return
        shutil.rmtree(draft, ignore_errors=True)
        try:
            draft.mkdir()
            with _patience():
                _fetch(name, draft)
            for path in wanted:
                (folder / path).parent.mkdir(exist_ok=True)
                (draft / path).replace(folder / path)
        except (OSError, RuntimeError, HTTPException) as error:
            reason = error.reason if type(error) is URLError else first_line(error).rstrip(".")
            raise PfstudyError(
                f"{name} cannot be downloaded to {folder}: {reason}; download it elsewhere, unpack "
                "it, and give data.path=FOLDER."
            ) from None
        finally:
            shutil.rmtree(draft, ignore_errors=True)


def _fetch(name: str, folder: Path) -> None:
    from torchvision import datasets
    from torchvision.datasets.utils import download_and_extract_archive, download_url

    if name == "svhn":
        for part in ("train", "test"):
            url, file, md5 = datasets.SVHN.split_list[part]
            _say(name, url, folder)
            download_url(url, folder, file, md5)
        return
    archives = {
        "cifar10": datasets.CIFAR10,
        "cifar100": datasets.CIFAR100,
        "stl10": datasets.STL10,
    }
    source = archives[name]
    _say(name, source.url, folder)
    download_and_extract_archive(
        source.url, folder, filename=source.filename, md5=source.tgz_md5, remove_finished=True
    )


def _say(name: str, url: str, draft: Path) -> None:
    print(f"pfstudy: downloading {name} from {url} to {draft.parent}", file=sys.stderr, flush=True)


@contextmanager
def _patience() -> Iterator[None]:
    """Give up on a server that says nothing; torchvision would wait for ever."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_PATIENCE_SECONDS)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
