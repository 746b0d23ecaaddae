"""How much disk the run folder of a soak takes, and how much of it is left for records. Writes and removes nothing."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Final

from msgspec import Struct

from loadgen.store.segments import Segment, is_unfinished, log_of, segments_of

BLOCK_BYTES: Final = 4096
"""File systems give whole blocks to a file."""
RESERVED_BYTES: Final = 8 << 20
"""What the reports and the next windows may need: the page alone has 5 MiB. Records leave it free, or of a small budget
a fourth part."""
LOW_BYTES: Final = 512 << 20
LOW_SHARE: Final = 0.05
PARTS_OF_RESERVE: Final = 4


class Space(Struct, frozen=True):
    """A file system. Bytes."""

    total: int
    free: int

    @property
    def is_low(self) -> bool:
        """Whether less than 5 % or 512 MiB is free, whichever is less: of a large disk 5 % may be more than a night
        takes, and a small one may never have had 512 MiB."""
        return self.free < min(LOW_BYTES, self.total * LOW_SHARE)


def space_of(folder: Path) -> Space:
    """The file system of a folder. Raises OSError."""
    usage = shutil.disk_usage(folder)
    return Space(usage.total, usage.free)


SpaceOf = Callable[[Path], Space]


class Room(Struct, frozen=True):
    """The room for one log's records within the folder's budget. Bytes, in whole blocks."""

    allowed: int
    """What the log and all its segments may take; below 0 if the other files take more than the budget."""
    log: int
    segments: tuple[tuple[Segment, int], ...]
    """The closed segments with what each takes, oldest first."""

    @property
    def taken(self) -> int:
        return self.log + sum(size for _, size in self.segments)

    @property
    def left(self) -> int:
        return self.allowed - self.taken


def room_of(log: Path, budget_bytes: int, writers: tuple[str, ...]) -> Room:
    """The room of a log as its folder stands.

    writers: the names of the logs that are written, this one among them, which share equally what the other files
    leave. A segment that is not compressed yet counts twice, because both of its forms exist for a moment. Raises
    OSError.
    """
    sizes: dict[str, int] = {}
    with os.scandir(log.parent) as entries:
        for entry in entries:
            try:
                size = entry.stat(follow_symlinks=False).st_size
            except FileNotFoundError:  # renamed or removed since it was listed
                continue
            sizes[entry.name] = -(-size // BLOCK_BYTES) * BLOCK_BYTES
    others = sum(size for name, size in sizes.items() if log_of(name) not in writers and not is_unfinished(name))
    segments = tuple(
        (segment, 2 * sizes.get(segment.plain.name, 0) + sizes.get(segment.compressed.name, 0))
        for segment in segments_of(log, sizes)
    )
    reserved = min(RESERVED_BYTES, budget_bytes // PARTS_OF_RESERVE)
    return Room((budget_bytes - reserved - others) // len(writers), sizes.get(log.name, 0), segments)
