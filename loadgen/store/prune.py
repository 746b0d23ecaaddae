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


class OldNight(Struct, frozen=True):
    """A run folder, and its files that may go."""

    folder: Path
    started_utc: str
    files: tuple[Path, ...]
    size_bytes: int
    """How much they take together."""


class _Began(Struct, frozen=True):
    started_utc: str
    state: str = "running"


def old_nights(folder: Path, before: datetime) -> list[OldNight]:
    """The runs in a scenario's folder that began before a moment, are over, and have files that may go; oldest first.

    A folder whose manifest cannot be read is left alone, and so are a run that is being played and one behind a link.
    """
    place = folder.resolve()
    inside = (path for path in folder.iterdir() if path.resolve() == place / path.name)  # no link, no junction
    nights = [night for path in inside if (night := _old_night(path, before)) is not None]
    return sorted(nights, key=lambda night: (night.started_utc, night.folder.name))


def _old_night(path: Path, before: datetime) -> OldNight | None:
    try:
        began = msgspec.json.decode((path / MANIFEST).read_bytes(), type=_Began)
        moment = datetime.fromisoformat(began.started_utc)
        if began.state == "running" or moment.tzinfo is None or moment >= before:
            return None
        files = dict(_files_in(path))
    except (OSError, ValueError, msgspec.MsgspecError):
        return None
    return OldNight(path, began.started_utc, tuple(files), sum(files.values())) if files else None


def _files_in(path: Path) -> Iterator[tuple[Path, int]]:
    """The files of a run folder that may go, and their sizes. A link is not followed."""
    for file in sorted(path.iterdir()):
        status = file.lstat()
        if _MAY_GO.fullmatch(file.name) and S_ISREG(status.st_mode):
            yield file, status.st_size


def remove(nights: Iterable[OldNight]) -> list[str]:
    """Remove the files of old nights; returns a sentence for each that could not be removed."""
    problems = []
    for night in nights:
        for file in night.files:
            try:
                file.unlink(missing_ok=True)
            except OSError as error:
                problems.append(f"{file}: not removed ({error.strerror or error})")
    return problems
