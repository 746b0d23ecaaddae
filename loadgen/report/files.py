"""Writes every report of a run into its folder, from the folder alone. The same folder gives the same bytes."""

import contextlib
import functools
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path

import msgspec

from loadgen.analysis import same_plan
from loadgen.analysis.stage import StageData, stages_of
from loadgen.analysis.summarize import summary_of
from loadgen.analysis.summary import Summary, summary_data, summary_from
from loadgen.errors import FolderError, InputError
from loadgen.report.csv import csv_text, prompts_csv
from loadgen.report.document import make_document, report_data
from loadgen.report.hlog import Interval, interval_log, tag
from loadgen.report.html import html
from loadgen.report.markdown import markdown
from loadgen.report.section import ReportData
from loadgen.stats.quantile import Floor
from loadgen.store import files, run_folder


def write_reports(folder: Path, *, floor: Floor | None = None) -> Summary:
    """Make `summary.json`, `summary.csv`, `prompts.csv`, `report.md`, `report.html`, `histograms.hlog` (again).

    floor: how many samples a percentile needs; None: as many as the scenario says.
    Raises InputError for no run, FolderError when they cannot be written.
    """
    if (folder / "summary.json").exists() and not run_folder.logs_of(folder):
        raise InputError(f"{folder}: its requests were not kept, as in a baseline; read its report.md")
    run = run_folder.read(folder)
    stages = stages_of(run, floor=floor)
    summary = summary_of([run], [stages])
    data = report_data(summary, [run], [stages])
    with _errors_explained(folder, f"loadgen report {folder}"):
        _write_summary(folder, summary)
        files.write_whole(folder / "prompts.csv", prompts_csv(summary, data.prompts).encode())
        files.write_whole(folder / "histograms.hlog", histogram_log(data).encode())
        _write_document(folder, data)
    return summary


def _write_summary(folder: Path, summary: Summary) -> None:
    files.write_json(folder / "summary.json", summary_data(summary))
    files.write_whole(folder / "summary.csv", csv_text(summary).encode())


def _write_document(folder: Path, data: ReportData) -> None:
    document = make_document(data)
    files.write_whole(folder / "report.md", markdown(document).encode())
    files.write_whole(folder / "report.html", html(document))


@contextlib.contextmanager
def _errors_explained(folder: Path, again: str) -> Iterator[None]:
    """What cannot be written inside is said in one line. again: the command that makes it once it can be."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or error
        complaint = f"no report could be written ({reason}); the records are kept: fix that, then `{again}` makes it"
        raise FolderError(f"{folder}: {complaint}") from error


def write_merged(folders: Sequence[Path], *, floor: Floor | None = None) -> tuple[Summary, Path]:
    """Merge runs of one plan: make `summary.json`, `summary.csv`, `report.md` and `report.html` in a folder beside the
    first of them, and return it. floor: as in `write_reports`. Raises InputError for what is no run, and for runs of
    several plans; FolderError when it cannot be written.
    """
    runs = [run_folder.read(folder) for folder in folders]
    same_plan.check_alike(runs)
    stages = [stages_of(run, floor=floor) for run in runs]
    summary = summary_of(runs, stages)
    first = folders[0] if folders[0].name not in {"", ".."} else folders[0].resolve()
    folder = _merged_folder(first.parent, summary)
    summary = msgspec.structs.replace(summary, run_id=folder.name)
    with _errors_explained(folder, f"loadgen report --merge {' '.join(map(str, folders))}"):
        _write_summary(folder, summary)
        _write_document(folder, report_data(summary, runs, stages))
    return summary, folder


def _merged_folder(parent: Path, summary: Summary) -> Path:
    """`<first run>-x<N>`, made if need be; with a number after it where another choice of runs has that name."""
    for attempt in range(1, 1000):
        folder = parent / (summary.run_id if attempt == 1 else f"{summary.run_id}-{attempt}")
        try:
            folder.mkdir(exist_ok=True)
        except OSError as error:
            reason = error.strerror or error
            raise InputError(f"{folder}: cannot be made ({reason}); move the runs to where you may write") from error
        if _runs_of(folder) in ((), summary.runs):
            return folder
    raise InputError(f"{parent}: a thousand merged reports are there already; remove some")


def _runs_of(folder: Path) -> tuple[str, ...]:
    try:
        return summary_from((folder / "summary.json").read_bytes()).runs
    except (OSError, msgspec.MsgspecError):
        return ()


def histogram_log(data: ReportData) -> str:
    """The interval log of a run: one interval a stage and metric, of its ok measured requests."""
    intervals = [interval for stage in data.stages for in_run in stage.runs for interval in _intervals(in_run)]
    return interval_log(datetime.fromisoformat(data.manifest.started_utc).timestamp(), intervals)


def _intervals(stage: StageData) -> list[Interval]:
    if not stage.measured:
        return []
    moments = [moment for r in stage.measured for moment in (r.intended_ns, r.end_ns) if moment is not None]
    start_s, end_s = max(0, min(moments)) / 1e9, max(moments) / 1e9
    name = functools.partial(tag, stage.planned.target, stage.planned.model, stage.planned.level)
    return [
        Interval(name(metric), start_s, end_s - start_s, histogram)
        for metric, histogram in stage.histograms.items()
        if histogram.count
    ]
