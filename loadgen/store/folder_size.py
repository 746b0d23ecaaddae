"""How large a run folder is without what is computed from it."""

import contextlib
import os
from pathlib import Path
from typing import Final

import msgspec

from loadgen.errors import InputError
from loadgen.store.events import EVENTS
from loadgen.store.files import write_json
from loadgen.store.run_folder import MANIFEST, PROMPTS, STAGES, read_manifest
from loadgen.store.segments import log_of
from loadgen.store.windows import HISTOGRAMS, WINDOWS

DATA: Final = frozenset({MANIFEST, STAGES, PROMPTS, WINDOWS, HISTOGRAMS, EVENTS})
"""The files of a soak that are data, beside its records."""


def measured_bytes(folder: Path) -> int:
    """The size of what was measured: the data of a run folder, without its reports and what else lies there.

    Raises InputError if the folder cannot be read.
    """
    try:
        with os.scandir(folder) as entries:
            return sum(map(_size, (entry for entry in entries if entry.name in DATA or log_of(entry.name))))
    except OSError as error:
        raise InputError(f"{folder}: cannot be read ({error.strerror or error}); fix that") from error


def _size(entry: "os.DirEntry[str]") -> int:
    """0 if it is gone: a soak that is going on compresses and removes segments."""
    try:
        return entry.stat().st_size
    except FileNotFoundError:
        return 0


def keep_measured_bytes(folder: Path) -> None:
    """Write the size of what was measured into the manifest of a soak that has ended, as far as that can be done."""
    with contextlib.suppress(OSError, InputError):
        manifest = read_manifest(folder)
        if manifest.soak is not None:
            soak = msgspec.structs.replace(manifest.soak, run_folder_bytes=measured_bytes(folder))
            write_json(folder / MANIFEST, msgspec.structs.replace(manifest, soak=soak))
