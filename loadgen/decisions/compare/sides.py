"""The two sides of a comparison: which runs stand behind a path, and reading them. Measures nothing."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final, Literal

import msgspec
from msgspec import UNSET, Struct

from loadgen.analysis.stage import StageData, stages_of
from loadgen.analysis.summarize import summary_of
from loadgen.analysis.summary import StageSummary, Summary, summary_from
from loadgen.decisions.baseline import FOLDER as BASELINES
from loadgen.errors import InputError
from loadgen.record import StageKey
from loadgen.store import run_folder
from loadgen.store.manifest import Manifest, manifest_from

BASELINE_PREFIX: Final = "baseline:"
SUMMARY: Final = "summary.json"


class ComparedRun(Struct, frozen=True):
    """One run of a side."""

    folder: Path
    manifest: Manifest
    summary: Summary
    stages: dict[StageKey, StageData] | None
    """Its records; None of a baseline, which does not keep them, and of a soak, which may have had to remove them."""

    @property
    def run_id(self) -> str:
        return self.manifest.run_id

    def stage(self, key: StageKey) -> StageSummary | None:
        """What it says of a stage; None where that was not played."""
        return next((stage for stage in self.played if stage_key(stage) == key), None)

    @property
    def played(self) -> tuple[StageSummary, ...]:
        return tuple(stage for stage in self.summary.stages if stage.status == "played")


Arrangement = Literal["apart", "blocks"]
"""How the runs of both sides were played: each by itself; or in blocks of two, one of each side, next to each other."""


class Sides(Struct, frozen=True):
    """What is compared: runs of each side in the order in which they were started."""

    base: tuple[ComparedRun, ...]
    new: tuple[ComparedRun, ...]
    arrangement: Arrangement = "apart"
    """In blocks, run i of BASE and run i of NEW are of one block."""

    @property
    def runs(self) -> tuple[ComparedRun, ...]:
        return (*self.base, *self.new)


def stage_key(stage: StageSummary) -> StageKey:
    return StageKey(stage.target, stage.model, stage.level)


def read_sides(base: Sequence[str | Path], new: Sequence[str | Path], *, results: Path) -> Sides:
    """The runs behind paths: run folders, merged folders, a scenario's folder (its newest run), or `baseline:NAME`.

    results: where baselines are looked for. Raises InputError for what is no run, for a run without an answer, and for
    one that stands on both sides or twice.
    """
    read: dict[str, ComparedRun] = {}
    sides = []
    for paths in (base, new):
        runs = []
        for folder in (folder for path in paths for folder in _run_folders(path, results)):
            run = read_compared(folder)
            if (twice := read.get(run.run_id)) is not None:
                raise InputError(f"{folder}: the same run as {twice.folder} ({run.run_id}); give each run once")
            read[run.run_id] = run
            runs.append(run)
        sides.append(tuple(sorted(runs, key=lambda run: run.manifest.started_utc)))
    return Sides(sides[0], sides[1])


def _run_folders(path: str | Path, results: Path) -> list[Path]:
    name = str(path)
    if name.startswith(BASELINE_PREFIX):
        folder = results / BASELINES / name.removeprefix(BASELINE_PREFIX)
        if not (folder / run_folder.MANIFEST).is_file():
            raise InputError(f"{name}: there is no {folder}; keep one with `loadgen run --baseline NAME`")
        return [folder]
    folder = Path(path)
    if (folder / run_folder.MANIFEST).is_file() or not (folder / SUMMARY).is_file():
        return [run_folder.run_folder_at(folder)]
    merged = _read_summary(folder / SUMMARY).runs
    if not merged:
        raise InputError(f"{folder}: no run folder, it has no {run_folder.MANIFEST}; give one under results/")
    folders = [folder.resolve().parent / run_id for run_id in merged]
    missing = next((each for each in folders if not (each / run_folder.MANIFEST).is_file()), None)
    if missing is not None:
        raise InputError(f"{folder}: {missing}, one of the merged runs, is missing; give the runs one by one")
    return folders


def read_compared(folder: Path) -> ComparedRun:
    """One run with its records; of a soak and of a baseline, its summary alone. Raises InputError for what is no run,
    and for a run without an answer."""
    manifest = run_folder.read_manifest(folder)
    has_records = manifest.soak is None and run_folder.logs_of(folder)
    if not has_records and (folder / SUMMARY).is_file():
        compared = ComparedRun(folder, manifest, _read_summary(folder / SUMMARY), None)
    else:
        run = run_folder.read(folder)
        stages = stages_of(run)
        by_key = {stage.planned.key: stage for stage in stages}
        compared = ComparedRun(folder, manifest, summary_of([run], [stages]), by_key)
    if not any(stage.requests is not UNSET and stage.requests.ok for stage in compared.played):
        message = "none of its requests was answered, so there is nothing to compare"
        raise InputError(f"{folder}: {message}; give another run")
    return compared


def read_summarized(folder: Path) -> ComparedRun:
    """A run by its manifest and its summary alone, without its records. InputError where one of them is not there."""
    try:
        manifest = manifest_from((folder / run_folder.MANIFEST).read_bytes())
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise InputError(f"{folder}: its manifest cannot be read ({error}); is the folder damaged?") from error
    return ComparedRun(folder, manifest, _read_summary(folder / SUMMARY), None)


def _read_summary(path: Path) -> Summary:
    try:
        return summary_from(path.read_bytes())
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read ({error}); is the folder damaged?") from error
