"""Small files, written so that a reader sees the old one or the new one, never a part."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

import orjson
from filelock import FileLock

from pfstudy.errors import DiskError, PfstudyError


def read_json(path: str | Path, *, missing_ok: bool = False) -> dict[str, Any]:
    """Read a JSON object.

    Args:
        path: The file.
        missing_ok: Whether an empty object stands for a file that is not there.

    Raises:
        PfstudyError: It cannot be read or is damaged.
    """
    try:
        with open(path, "rb") as file:  # noqa: PTH123  (thousands of them: a Path takes as long)
            text = file.read()
        try:
            content = orjson.loads(text)
        except ValueError:  # NaN, which a loss may be, or damaged
            content = json.loads(text)
    except OSError as error:
        if missing_ok and isinstance(error, FileNotFoundError | NotADirectoryError):
            return {}
        raise PfstudyError(f"{path} cannot be read: {error.strerror}.") from None
    except ValueError as error:
        raise PfstudyError(f"{path} is damaged: {error}.") from None
    if not isinstance(content, dict):
        raise PfstudyError(f"{path} is damaged: expected an object.")
    return content


def write_json(
    path: Path, content: Mapping[str, Any], *, durable: bool = False, once: bool = False
) -> bool:
    """Write a JSON file as `write_text` does."""
    return write_text(path, json.dumps(content, indent=1) + "\n", durable=durable, once=once)


def write_text(path: Path, text: str, *, durable: bool = False, once: bool = False) -> bool:
    """Write a text file so that a reader sees the old one or the new one, never a part.

    Args:
        path: The file.
        text: Its content.
        durable: Whether it must be on the disk on return, and survive a power cut.
        once: Whether a file that is there already stays as it is.

    Returns:
        Whether it was written; of several processes that write it once, one does.

    Raises:
        DiskError: It cannot be written.
    """
    draft = draft_of(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with draft.open("w") as file:
                file.write(text)
                if durable:
                    file.flush()
                    os.fsync(file.fileno())
            if once:
                try:
                    os.link(draft, path)  # whole from the start, and only one can
                except FileExistsError:
                    return False
                finally:
                    draft.unlink()
            else:
                draft.replace(path)
        except BaseException:
            draft.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise cannot_write(path, error) from None
    return True


def make_directory(path: Path) -> None:
    """Make a directory, and those above it, where there is none.

    Raises:
        DiskError: It cannot be made.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise cannot_write(path, error) from None


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Write a file beside where it belongs, and put it there when it is whole.

    Raises:
        DiskError: It cannot be written; the directory is not made.
    """
    draft = draft_of(path)
    try:
        try:
            yield draft
            draft.replace(path)
        except BaseException:
            with suppress(OSError):  # what went wrong matters more
                draft.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise cannot_write(path, error) from None


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Keep other processes of ours from changing files of a directory meanwhile.

    Args:
        path: A file in it.

    Raises:
        DiskError: The directory takes no files.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path.with_name(".lock")).acquire()
    except OSError as error:
        raise cannot_write(path, error) from None
    with lock:
        yield


def file_name(text: str) -> str:
    """Make a name that any file system takes."""
    return re.sub(r"[^A-Za-z0-9=._+]+", "-", text).strip("-.").lower()


def draft_of(path: Path) -> Path:
    """A hidden file beside a file, to be written first; no other process has the same."""
    return path.with_name(f".{path.name}.draft-{uuid4().hex[:8]}")


def cannot_write(path: Path, error: OSError) -> DiskError:
    """Say that a file cannot be written, and why."""
    return DiskError(f"{path} cannot be written: {error.strerror}.")
