"""Which files of old nights may go: what history does not read and a report can do without. Removes only if asked."""

import re
from collections.abc import Iterable, Iterator
from datetime import datetime
from pathlib import Path
from stat import S_ISREG
from typing import Final

import msgspec
from msgspec import Struct

from loadgen.store.run_folder import MANIFEST

_MAY_GO: Final = re.compile(
    r"requests(?:\.w\d+|-\d+)?\.jsonl(?:\.gz)?|telemetry(?:-\d+)?\.jsonl(?:\.gz)?|[^.][^/\\]*\.html"
)
"""Records, telemetry and pages. Manifest, summary, windows, events, histograms and the Markdown report stay."""


class OldFile(Struct, frozen=True):
    """A file that may go."""

    path: Path
    size_bytes: int


class OldNight(Struct, frozen=True):
    """A run folder, and its files that may go."""

    folder: Path
    started_utc: str
    files: tuple[OldFile, ...]

    @property
    def size_bytes(self) -> int:
        """How much they take together."""
        return sum(file.size_bytes for file in self.files)


class _RunStart(Struct, frozen=True):
    started_utc: str
    state: str = "running"


def old_nights(folder: Path, before: datetime) -> list[OldNight]:
    """The runs in a scenario's folder that began before a moment, are over, and have files that may go; oldest first.

    A folder whose manifest cannot be read is left alone, and so are a run that is being played and one behind a link. A
    run that was killed says forever that it is running: it is over if nothing was written in its folder since `before`.
    """
    place = folder.resolve()
    inside = (path for path in folder.iterdir() if path.resolve() == place / path.name)  # no link, no junction
    nights = [night for path in inside if (night := _old_night(path, before)) is not None]
    return sorted(nights, key=lambda night: (night.started_utc, night.folder.name))


def _old_night(path: Path, before: datetime) -> OldNight | None:
    try:
        began = msgspec.json.decode((path / MANIFEST).read_bytes(), type=_RunStart)
        moment = datetime.fromisoformat(began.started_utc)
        if moment.tzinfo is None or moment >= before:
            return None
        if began.state == "running" and _written_at(path) >= before.timestamp():
            return None
        files = tuple(_files_in(path))
    except (OSError, ValueError, msgspec.MsgspecError):
        return None
    return OldNight(path, began.started_utc, files) if files else None


def _written_at(path: Path) -> float:
    """When something was last written in a run folder, s since 1970."""
    return max(each.lstat().st_mtime for each in (path, *path.iterdir()))


def _files_in(path: Path) -> Iterator[OldFile]:
    """The files of a run folder that may go. A link is not followed."""
    for file in sorted(path.iterdir()):
        status = file.lstat()
        if _MAY_GO.fullmatch(file.name) and S_ISREG(status.st_mode):
            yield OldFile(file, status.st_size)


def remove(nights: Iterable[OldNight]) -> tuple[list[OldNight], list[str]]:
    """Remove the files of old nights; returns the nights with the files that are gone, and a sentence for each file
    that could not be removed."""
    pruned, problems = [], []
    for night in nights:
        gone = []
        for file in night.files:
            try:
                file.path.unlink(missing_ok=True)
            except OSError as error:
                problems.append(f"{file.path}: not removed ({error.strerror or error})")
            else:
                gone.append(file)
        if gone:
            pruned.append(msgspec.structs.replace(night, files=tuple(gone)))
    return pruned, problems
