"""The lease of a device on this host: shared for training, exclusive for measuring speed.

Kept by the kernel as file locks, so it ends with the process that holds it, however that ends.
A measurement that waits goes first: it closes the gate that every training run passes on its way
to the device.
"""

from __future__ import annotations

import fcntl
import os
import stat
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from pfstudy.errors import PfstudyError

DIRECTORY = "PFSTUDY_LEASE_DIR"
"""Environment variable that moves the lock files; all users of a host must agree on it."""

_POLL_S = 1.0


@contextmanager
def training(
    device: str,
    on_wait: Callable[[], None] | None = None,
    on_poll: Callable[[], None] | None = None,
) -> Iterator[None]:
    """Hold a device together with other training runs.

    Args:
        device: ``cpu`` or the UUID of a GPU.
        on_wait: Called once if a measurement is under way.
        on_poll: Called every second while it is.
    """
    with _lock(device, "gate", fcntl.LOCK_SH, on_wait, on_poll):
        handle = _acquire(device, "device", fcntl.LOCK_SH, on_wait, on_poll)
    try:
        yield
    finally:
        os.close(handle)


@contextmanager
def training_on(
    devices: Iterable[str],
    on_wait: Callable[[], None] | None = None,
    on_poll: Callable[[], None] | None = None,
) -> Iterator[None]:
    """Hold several devices as `training` holds one."""
    with ExitStack() as held:
        for device in sorted(set(devices)):  # in one order, or two wait for each other
            held.enter_context(training(device, on_wait, on_poll))
        yield


@contextmanager
def measuring(device: str, on_wait: Callable[[], None] | None = None) -> Iterator[None]:
    """Hold a device alone.

    Args:
        device: ``cpu`` or the UUID of a GPU.
        on_wait: Called once if training runs or another measurement have to end first.
    """
    with (
        _lock(device, "gate", fcntl.LOCK_EX, on_wait),
        _lock(device, "device", fcntl.LOCK_EX, on_wait),
    ):
        yield


def is_free(device: str) -> bool:
    """Whether a measurement could begin at once."""
    try:
        for part in ("gate", "device"):
            handle = _open(device, part)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            finally:
                os.close(handle)
    except BlockingIOError:
        return False
    return True


@contextmanager
def _lock(
    device: str,
    part: str,
    kind: int,
    on_wait: Callable[[], None] | None,
    on_poll: Callable[[], None] | None = None,
) -> Iterator[None]:
    handle = _acquire(device, part, kind, on_wait, on_poll)
    try:
        yield
    finally:
        os.close(handle)


def _acquire(
    device: str,
    part: str,
    kind: int,
    on_wait: Callable[[], None] | None,
    on_poll: Callable[[], None] | None,
) -> int:
    handle = _open(device, part)
    try:
        try:
            fcntl.flock(handle, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            if on_wait is not None:
                on_wait()
            _wait(handle, kind, on_poll)
    except BaseException:
        os.close(handle)
        raise
    return handle


def _wait(handle: int, kind: int, on_poll: Callable[[], None] | None) -> None:
    pause_s = 0.01
    while True:
        try:
            fcntl.flock(handle, kind | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, _POLL_S)
            if on_poll is not None:
                on_poll()


def _open(device: str, part: str) -> int:
    directory = Path(os.environ.get(DIRECTORY) or Path(tempfile.gettempdir()) / "pfstudy-leases")
    path = directory / f"{device}.{part}.lock"
    try:
        if not directory.exists():
            directory.mkdir(parents=True, exist_ok=True)
            directory.chmod(0o1777)  # the users of a host share its devices
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
    except OSError as error:
        raise PfstudyError(
            f"the lease {path} cannot be opened: {error.strerror}; set {DIRECTORY} to a directory "
            "that all users of this host can write to."
        ) from None
    if stat.S_IMODE(os.fstat(handle).st_mode) != 0o666 and os.fstat(handle).st_uid == os.getuid():
        os.fchmod(handle, 0o666)
    return handle
