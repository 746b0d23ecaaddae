"""How large a run folder is without what is computed from it."""

import os
from pathlib import Path
from typing import Final

from loadgen.errors import InputError
from loadgen.store.events import EVENTS
from loadgen.store.run_folder import MANIFEST, PROMPTS, STAGES
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
            return sum(entry.stat().st_size for entry in entries if entry.name in DATA or log_of(entry.name))
    except OSError as error:
        raise InputError(f"{folder}: cannot be read ({error.strerror or error}); fix that") from error
