"""Writes every report of a run into its folder, from the folder alone. The same folder gives the same bytes."""

import contextlib
import functools
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path

import msgspec
from msgspec import Struct

from loadgen.analysis import same_plan
from loadgen.analysis.quality import SCORES, quality_lines, with_quality
from loadgen.analysis.stage import StageData, stages_of
from loadgen.analysis.summarize import summary_of
from loadgen.analysis.summary import Summary, summary_data, summary_from
from loadgen.errors import FolderError, InputError
from loadgen.report.csv import csv_text, prompts_csv
from loadgen.report.document import Document, make_document, report_data
from loadgen.report.html import html
from loadgen.report.markdown import markdown
from loadgen.report.section import ReportData
from loadgen.stats.quantile import Floor
from loadgen.store import files, run_folder
from loadgen.store.hlog import Interval, interval_log, tag
from loadgen.store.run_folder import Run


class Reports(Struct, frozen=True):
    """The reports of a run or of several merged runs, and which of them could not be written."""

    summary: Summary
    folder: Path
    unwritten: tuple[str, ...] = ()
    """The names of the files that could not be written."""
    reason: str = ""
    """Why they could not be written."""


def make_reports(folder: Path, *, floor: Floor | None = None) -> Reports:
    """Make `summary.json`, `summary.csv`, `prompts.csv`, `report.md`, `report.html` and `histograms.hlog` (again), as
    far as they can be written.

    floor: how many samples a percentile needs; None: as the scenario says. Raises InputError for any other folder.
    """
    if (folder / "summary.json").exists() and not run_folder.logs_of(folder):
        raise InputError(f"{folder}: the requests of this run were not kept, as in a baseline; read its report.md")
    return reports_of(run_folder.read(folder), floor=floor)


def reports_of(
    run: Run, *, floor: Floor | None = None, opening: Callable[[Document], Document] | None = None
) -> Reports:
    """As `make_reports`, for a run that has already been read. Its folder may be gone by now.

    opening: puts in front of report.md and report.html what is known of the run beside its summary. Raises InputError
    for a soak, whose histograms are data and must not be replaced.
    """
    if run.manifest.soak is not None:
        raise InputError(f"{run.folder}: a soak, whose reports need no records; use `loadgen report {run.folder}`")
    stages = stages_of(run, floor=floor)
    summary = with_quality(summary_of([run], [stages]), [stages], run.manifest.scenario.sampling)
    data = report_data(summary, [run], [stages])
    more = {
        "prompts.csv": lambda: prompts_csv(summary, data.prompts).encode(),
        "histograms.hlog": lambda: histogram_log(data).encode(),
    }
    if any(stage.scorer is not None for stage in stages):
        more[SCORES] = lambda: quality_lines(stages)
    return _write(run.folder, data, more, opening)


def write_reports(folder: Path, *, floor: Floor | None = None) -> Summary:
    """As `make_reports`, but raises FolderError if one of the files cannot be written."""
    return _all_written(make_reports(folder, floor=floor), f"loadgen report {folder}").summary


def make_merged(folders: Sequence[Path], *, floor: Floor | None = None) -> Reports:
    """Merge runs of one plan: make `summary.json`, `summary.csv`, `report.md` and `report.html`, those of them that can
    be written, in a folder beside the first of them. floor: as in `make_reports`. Raises InputError for what is no run,
    and for runs of several plans.
    """
    return merged_reports_of([run_folder.read(folder) for folder in folders], floor=floor)


def merged_reports_of(runs: Sequence[Run], *, floor: Floor | None = None) -> Reports:
    """As `make_merged`, of runs that were read already."""
    same_plan.check_alike(runs)
    stages = [stages_of(run, floor=floor) for run in runs]
    summary = with_quality(summary_of(runs, stages), stages, runs[0].manifest.scenario.sampling)
    first = runs[0].folder if runs[0].folder.name not in {"", ".."} else runs[0].folder.resolve()
    folder = _merged_folder(first.parent, summary)
    summary = msgspec.structs.replace(summary, run_id=folder.name)
    return _write(folder, report_data(summary, runs, stages), {})


def write_merged(folders: Sequence[Path], *, floor: Floor | None = None) -> tuple[Summary, Path]:
    """As `make_merged`, but raises FolderError if one of the files cannot be written."""
    again = f"loadgen report --merge {' '.join(map(str, folders))}"
    reports = _all_written(make_merged(folders, floor=floor), again)
    return reports.summary, reports.folder


def _write(
    folder: Path,
    data: ReportData,
    more: dict[str, Callable[[], bytes]],
    opening: Callable[[Document], Document] | None = None,
) -> Reports:
    """Write the files of a report, and further files by name; skip those that cannot be written."""
    document = make_document(data) if opening is None else opening(make_document(data))
    contents: dict[str, Callable[[], bytes]] = {
        "summary.json": lambda: files.json_document(summary_data(data.summary)),
        "summary.csv": lambda: csv_text(data.summary).encode(),
        **more,
        "report.md": lambda: markdown(document).encode(),
        "report.html": lambda: html(document),
    }
    unwritten, reason = files.write_all(folder, contents)
    return Reports(data.summary, folder, unwritten, reason)


def _all_written(reports: Reports, again: str) -> Reports:
    """Raises FolderError if a file was not written. again: the command that makes the reports later."""
    if reports.unwritten:
        missing = "no report" if "report.md" in reports.unwritten else "not every report"
        complaint = f"{missing} could be written ({reports.reason}), but the records are kept; fix that"
        raise FolderError(f"{reports.folder}: {complaint}, then run `{again}`", reports.folder)
    return reports


def _merged_folder(parent: Path, summary: Summary) -> Path:
    """The folder `<first run>-x<N>`, made if possible; with a number at its end if other runs have that name."""
    for attempt in range(1, 1000):
        folder = parent / (summary.run_id if attempt == 1 else f"{summary.run_id}-{attempt}")
        with contextlib.suppress(OSError):
            folder.mkdir(exist_ok=True)
        if _runs_of(folder) in ((), summary.runs):
            return folder
    raise InputError(f"{parent}: there are already a thousand merged reports; remove some")


def _runs_of(folder: Path) -> tuple[str, ...]:
    try:
        return summary_from((folder / "summary.json").read_bytes()).runs
    except (OSError, msgspec.MsgspecError):
        return ()


def histogram_log(data: ReportData) -> str:
    """The interval log of a run: one interval per stage and metric, over the ok measured requests."""
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
