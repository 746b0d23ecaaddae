"""The file `lock` of a run folder: which process plays the soak in it. A process that has died holds nothing."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec
import psutil
from msgspec import Struct

from loadgen.errors import InputError
from loadgen.store.run_folder import no_longer_written

LOCK: Final = "lock"
TRIES: Final = 10


class Holder(Struct, frozen=True):
    """The process that plays a soak."""

    pid: int
    started_s: float
    """When it started, by the system's wall clock: the id may belong to another process later."""

    @property
    def is_alive(self) -> bool:
        try:
            # The system rounds to a hundredth of a second, and not always the same way.
            return bool(abs(psutil.Process(self.pid).create_time() - self.started_s) < 1)
        except psutil.NoSuchProcess:
            return False
        except psutil.Error:  # it is there, and belongs to somebody else
            return True


@contextlib.contextmanager
def folder_lock(folder: Path) -> Iterator[None]:
    """Hold the lock of a run folder while the context lasts. Raises InputError if a living process holds it."""
    lock = folder / LOCK
    try:
        _take(lock, Holder(os.getpid(), psutil.Process().create_time()))
    except OSError as error:
        raise no_longer_written(folder, error) from error
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # the folder may be gone
            lock.unlink()


def check_lock(folder: Path) -> None:
    """Raise InputError if a living process plays the soak in a folder."""
    holder = _holder_of(folder / LOCK)
    if holder is not None and holder.is_alive:
        hint = "wait until it has ended, or end it with Ctrl-C there"
        raise InputError(f"{folder}: process {holder.pid} is playing this soak; {hint}")


def _take(lock: Path, own: Holder) -> None:
    for _ in range(TRIES):
        with contextlib.suppress(FileExistsError), lock.open("xb") as file:
            file.write(msgspec.json.encode(own) + b"\n")
            return
        check_lock(lock.parent)
        # Renamed first: if two processes take over the lock of a dead one, only one of them can rename it.
        stale = lock.with_name(f".{LOCK}.{own.pid}")
        with contextlib.suppress(FileNotFoundError):
            lock.rename(stale)
            stale.unlink()
    raise InputError(f"{lock}: cannot be taken over; remove it if no process plays this soak")


def _holder_of(lock: Path) -> Holder | None:
    """Who holds a lock; None if nobody does, or if a crash has left a part of the file."""
    try:
        return msgspec.json.decode(lock.read_bytes(), type=Holder)
    except (FileNotFoundError, msgspec.MsgspecError):
        return None
