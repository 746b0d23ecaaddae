"""The reports of a soak, which are made from its manifest, its windows, its histograms and its events alone.

No record is read: a soak may have hundreds of megabytes of them, and may have had to remove the oldest ones. So the
same folder gives the same bytes, whatever became of the records.
"""

import contextlib
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec
from msgspec import Struct

from loadgen.analysis.soak_summary import soak_stage, soak_summary_of
from loadgen.analysis.soak_types import DriftVerdict
from loadgen.analysis.summary import SCHEMA, StageSummary, Summary, summary_data
from loadgen.decisions.drift.charts import StageView, with_events
from loadgen.decisions.drift.document import SoakReport, soak_document
from loadgen.decisions.drift.series import tested_windows
from loadgen.decisions.drift.stage_windows import StageWindows, read_stage_windows
from loadgen.decisions.drift.verdict import drifts_of
from loadgen.decisions.drift.words import models_of_soak, page_left_out, soak_sentence, soak_word
from loadgen.errors import InputError
from loadgen.record import StageKey
from loadgen.report.csv import csv_text
from loadgen.report.files import Reports
from loadgen.report.html import html
from loadgen.report.markdown import markdown
from loadgen.report.section import ReportData
from loadgen.stats.quantile import Floor
from loadgen.store import files
from loadgen.store.events import Event, read_events
from loadgen.store.folder_size import measured_bytes
from loadgen.store.manifest import Manifest
from loadgen.store.run_folder import read_manifest

REPORTS: Final = ("summary.json", "summary.csv", "report.md", "report.html")
PAGE: Final = "report.html"
MARGIN_BYTES: Final = 256 << 10
"""What files take beyond their bytes, because they take whole blocks, and what the folder has beside its data."""


class Soak(Struct, frozen=True):
    """A soak that was read from its folder, and the reports that could be written."""

    reports: Reports
    word: DriftVerdict
    """The verdict: the worst of its models."""
    sentence: str
    """The verdict in one sentence."""
    events: tuple[Event, ...]
    gave_up: str | None = None
    """Why it ended before its time; None if it did not."""
    page_remark: str = ""
    """Why report.html is left out, and what writes it elsewhere; empty if it has its place in the folder."""

    @property
    def folder(self) -> Path:
        return self.reports.folder

    @property
    def summary(self) -> Summary:
        return self.reports.summary


def is_soak(folder: Path) -> bool:
    """Whether a run folder is that of a soak. InputError if its manifest cannot be read."""
    return read_manifest(folder).soak is not None


def make_soak_reports(folder: Path, *, floor: Floor | None = None, page_path: Path | None = None) -> Soak:
    """Make summary.json, summary.csv, report.md and report.html of a soak (again), as far as they can be written.

    The page has plotly.js in it. It is left out where the run folder would be larger than its budget with it.

    The soak may still be going on, or have been cut short. floor: how many samples a percentile needs; None: as the
    scenario says. page_path: where the page is written to as well. Raises InputError for any other folder, if a
    file of it is damaged, and if `page_path` cannot be written.
    """
    manifest = read_manifest(folder)
    if manifest.soak is None:
        raise InputError(f"{folder}: not a soak; give a folder that `loadgen soak` has left")
    played, events = read_stage_windows(folder), read_events(folder)
    floor = floor or ("strict" if manifest.scenario.strict else "contract")
    # As it was when the soak ended: the same reports, also when records were removed since.
    size = manifest.soak.run_folder_bytes
    size = measured_bytes(folder) if size is None else size
    summary = _summary(manifest, played, events, floor, size)
    document = soak_document(_report(summary, manifest, played, events))
    page = html(document)
    contents = {
        "summary.json": files.json_document(summary_data(summary)),
        "summary.csv": csv_text(summary).encode(),
        "report.md": markdown(document).encode(),
        PAGE: page,
    }
    page_remark = ""
    if size + sum(map(len, contents.values())) + MARGIN_BYTES > manifest.soak.disk_bytes:
        page_remark = page_left_out(len(page), manifest.soak.disk_bytes)
        with_remark = msgspec.structs.replace(document, footer=f"{document.footer} {page_remark}")
        contents["report.md"] = markdown(with_remark).encode()
        del contents[PAGE]
        with contextlib.suppress(OSError):  # one that was made when there was room is not of these numbers
            (folder / PAGE).unlink()
    unwritten, reason = files.write_all(
        folder, {name: functools.partial(bytes, content) for name, content in contents.items()}
    )
    if page_path is not None:
        _write_page(page_path, page)
    reports = Reports(summary, folder, unwritten, reason)
    verdict = soak_word(models_of_soak(summary)), soak_sentence(summary)
    return Soak(reports, *verdict, events, gave_up=manifest.soak.gave_up, page_remark=page_remark)


def _write_page(path: Path, page: bytes) -> None:
    try:
        files.write_to(path, page)
    except OSError as error:
        raise InputError(
            f"{path}: cannot be written ({error.strerror or error}); choose a file you may write"
        ) from error


def _summary(
    manifest: Manifest, played: Sequence[StageWindows], events: Sequence[Event], floor: Floor, run_folder_bytes: int
) -> Summary:
    """The summary of a soak. A model without windows has no `soak` and no `drift`."""
    assert manifest.soak is not None
    by_key = {StageKey(each.target, each.model, each.level): each for each in played}
    memory_mib = manifest.host.memory_mib
    drifts_in_order = drifts_of(played, manifest.soak.matters, None if memory_mib is None else memory_mib * 2**20)
    drifts = dict(zip(by_key, drifts_in_order, strict=True))
    stages: list[StageSummary] = []
    for planned in manifest.stages:
        stage_windows = by_key.get(planned.key)
        stage = soak_stage(
            planned,
            manifest,
            () if stage_windows is None else stage_windows.windows,
            {} if stage_windows is None else stage_windows.counts,
            floor=floor,
        )
        if stage_windows is not None:
            soak = soak_summary_of(planned.key, stage_windows.windows, events, run_folder_bytes=run_folder_bytes)
            stage = msgspec.structs.replace(stage, soak=soak, drift=drifts[planned.key])
        stages.append(stage)
    return Summary(
        schema=SCHEMA,
        scenario=manifest.scenario.name,
        run_id=manifest.run_id,
        started_utc=manifest.started_utc,
        incomplete=manifest.state != "complete",
        stages=tuple(stages),
        plan_digest=manifest.plan_digest,
        streamed=manifest.scenario.sampling.stream,
        floor=floor,
    )


def _report(
    summary: Summary, manifest: Manifest, played: Sequence[StageWindows], events: Sequence[Event]
) -> SoakReport:
    by_key = {StageKey(each.target, each.model, each.level): each for each in played}
    views = []
    for model in models_of_soak(summary):
        stage = model.summary
        stage_windows = by_key[StageKey(stage.target, stage.model, stage.level)]
        views.append(StageView(stage_windows, tested_windows(stage_windows), with_events(events, stage.model)))
    return SoakReport(ReportData(summary=summary, manifest=manifest, stages=()), tuple(views), tuple(events))
