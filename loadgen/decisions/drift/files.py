"""The reports of a soak, which are made from its manifest, its windows, its histograms and its events alone.

No record is read: a soak may have hundreds of megabytes of them, and may have had to remove the oldest ones. So the
same folder gives the same bytes, whatever became of the records.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec
from msgspec import Struct

from loadgen.analysis.soak_summary import soak_stage, soak_summary_of
from loadgen.analysis.soak_types import DriftWord
from loadgen.analysis.summary import SCHEMA, StageSummary, Summary, summary_data
from loadgen.decisions.drift.charts import NightView, with_events
from loadgen.decisions.drift.document import SoakReport, soak_document
from loadgen.decisions.drift.night import Night, read_nights
from loadgen.decisions.drift.series import tested_windows
from loadgen.decisions.drift.verdict import drifts_of
from loadgen.decisions.drift.words import models_of_soak, soak_sentence, soak_word
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


class Soak(Struct, frozen=True):
    """A soak that was read from its folder, and the reports that could be written."""

    reports: Reports
    word: DriftWord
    """The verdict: the worst of its models."""
    sentence: str
    """The verdict in one sentence."""
    events: tuple[Event, ...]
    gave_up: str | None = None
    """Why it ended before its time; None if it did not."""

    @property
    def folder(self) -> Path:
        return self.reports.folder

    @property
    def summary(self) -> Summary:
        return self.reports.summary


def is_soak(folder: Path) -> bool:
    """Whether a run folder is that of a soak. InputError if its manifest cannot be read."""
    return read_manifest(folder).soak is not None


def make_soak_reports(folder: Path, *, floor: Floor | None = None) -> Soak:
    """Make summary.json, summary.csv, report.md and report.html of a soak (again), as far as they can be written.

    The soak may still be going on, or have been cut short. floor: how many samples a percentile needs; None: as the
    scenario says. Raises InputError for any other folder, and if a file of it is damaged.
    """
    manifest = read_manifest(folder)
    if manifest.soak is None:
        raise InputError(f"{folder}: not a soak; give a folder that `loadgen soak` has left")
    nights, events = read_nights(folder), read_events(folder)
    floor = floor or ("strict" if manifest.scenario.strict else "contract")
    summary = _summary(folder, manifest, nights, events, floor)
    report = _report(summary, manifest, nights, events)
    document = soak_document(report)
    unwritten, reason = files.write_all(
        folder,
        {
            "summary.json": lambda: files.json_document(summary_data(summary)),
            "summary.csv": lambda: csv_text(summary).encode(),
            "report.md": lambda: markdown(document).encode(),
            "report.html": lambda: html(document),
        },
    )
    reports = Reports(summary, folder, unwritten, reason)
    return Soak(reports, soak_word(models_of_soak(summary)), soak_sentence(summary), events, manifest.soak.gave_up)


def _summary(
    folder: Path, manifest: Manifest, nights: Sequence[Night], events: Sequence[Event], floor: Floor
) -> Summary:
    """The summary of a soak. A model without windows has no `soak` and no `drift`."""
    assert manifest.soak is not None
    by_key = {StageKey(night.target, night.model, night.level): night for night in nights}
    memory_mib = manifest.host.memory_mib
    drifts_in_order = drifts_of(nights, manifest.soak.matters, None if memory_mib is None else memory_mib * 2**20)
    drifts = dict(zip(by_key, drifts_in_order, strict=True))
    size = manifest.soak.run_folder_bytes
    size = measured_bytes(folder) if size is None else size
    stages: list[StageSummary] = []
    for planned in manifest.stages:
        night = by_key.get(planned.key)
        stage = soak_stage(
            planned,
            manifest,
            () if night is None else night.windows,
            {} if night is None else night.counts,
            floor=floor,
        )
        if night is not None:
            soak = soak_summary_of(planned.key, night.windows, events, run_folder_bytes=size)
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


def _report(summary: Summary, manifest: Manifest, nights: Sequence[Night], events: Sequence[Event]) -> SoakReport:
    by_key = {StageKey(night.target, night.model, night.level): night for night in nights}
    views = []
    for model in models_of_soak(summary):
        stage = model.summary
        night = by_key[StageKey(stage.target, stage.model, stage.level)]
        views.append(NightView(night, tested_windows(night), with_events(events, stage.model)))
    return SoakReport(ReportData(summary=summary, manifest=manifest, stages=()), tuple(views), tuple(events))
