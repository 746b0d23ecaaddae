"""Baselines: the results of a run, kept under version control for later comparisons. Copies files, measures nothing.

A baseline has the results and the circumstances of a run, but not its requests.
"""

import re
from pathlib import Path
from typing import Final

from loadgen.analysis.summary import Summary
from loadgen.errors import InputError
from loadgen.store.files import write_whole

FOLDER: Final = "baselines"
KEPT: Final = ("manifest.json", "summary.json", "summary.csv", "report.md")


def baseline_folder(results: Path, name: str, *, force: bool) -> Path:
    """The folder of a baseline: `<results>/baselines/<name>`. Does not make it.

    Raises InputError for an invalid name of a folder, and without `force` also if the folder exists.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}", name) or name.endswith("."):
        raise InputError(f"--baseline {name}: not a name; use letters, digits and . _ -, such as before-update")
    folder = results / FOLDER / name
    if folder.exists() and not force:
        raise InputError(f"--baseline {name}: {folder} already exists; choose another name, or add --force")
    return folder


def why_not_kept(summary: Summary) -> str | None:
    """Why a run cannot be a baseline; None if it can: it is complete, every model was played, and no stage is
    invalid."""
    if summary.incomplete or any(stage.incomplete for stage in summary.stages):
        return "the run is incomplete"
    skipped = [stage.model for stage in summary.stages if stage.status == "skipped"]
    if skipped or not summary.stages:
        return f"{skipped[0]} could not be used" if skipped else "nothing was played"
    invalid = [s for s in summary.stages if getattr(s.validity, "verdict", None) == "invalid"]
    return f"{invalid[0].model} at {invalid[0].level} is invalid" if invalid else None


def keep_baseline(run: Path, folder: Path) -> None:
    """Copy the files of a baseline from a run folder with its reports. Raises InputError if they cannot be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name in KEPT:
            write_whole(folder / name, (run / name).read_bytes())
    except OSError as error:
        raise InputError(f"{folder}: cannot be written ({error.strerror}); choose a folder you may write") from error
