"""A report as data: the headline with which every format begins, and the sections. Pure; the renderers draw it.

To add a section, write one file in `loadgen/report/sections/` with a function that makes a `Section` of the
`ReportData`, or returns None if there is nothing to show, and add the function to `SECTIONS`, which has the order of
the report. `report.md` and `report.html` then both show it.
"""

from collections.abc import Callable, Sequence
from typing import Final

import msgspec
from msgspec import Struct

from loadgen.analysis.by_prompt import rows_by_prompt
from loadgen.analysis.stage import StageData, stages_of
from loadgen.analysis.summary import Summary
from loadgen.report.answer import answer
from loadgen.report.main_table import main_table
from loadgen.report.section import ReportData, ReportStage, Section, Table, was_played
from loadgen.report.sections.acceleration import acceleration
from loadgen.report.sections.by_prompt import by_prompt
from loadgen.report.sections.circumstances import circumstances
from loadgen.report.sections.highlights import highlights
from loadgen.report.sections.latencies import latencies
from loadgen.report.sections.levels import levels
from loadgen.report.sections.models import models
from loadgen.report.sections.quality import quality
from loadgen.report.sections.run_by_run import run_by_run
from loadgen.report.sections.server_behavior import server_behavior
from loadgen.report.sections.server_rates import server_rates
from loadgen.report.sections.server_use import server_use
from loadgen.report.sections.spread import spread
from loadgen.report.sections.timelines import timelines
from loadgen.report.sections.validity import validity
from loadgen.report.sureness import sureness
from loadgen.store.run_folder import Run

SECTIONS: Final[tuple[Callable[[ReportData], Section | None], ...]] = (
    levels,
    highlights,
    quality,
    acceleration,
    run_by_run,
    spread,
    timelines,
    server_use,
    validity,
    latencies,
    by_prompt,
    server_rates,
    server_behavior,
    models,
    circumstances,
)
"""The sections below the main table, from top to bottom: charts, the verdicts, and then the long tables."""

FOOTER: Final = "Every number is in summary.json, every request in requests.jsonl, beside this report."
FOOTER_OF_SEVERAL: Final = (
    "Every number is in summary.json, beside this report; every request is in the folder of its run."
)


class Headline(Struct, frozen=True, kw_only=True):
    """The start of a report: what was played, the answer, and the main table."""

    title: str
    """The scenario's name."""
    models: tuple[str, ...]
    """Each model with its target, once: `smollm2-135m on llamacpp`."""
    run_id: str
    runs: tuple[str, ...]
    """The ids of the runs that were merged; empty for one run."""
    started_utc: str
    incomplete: bool
    answer: str | None
    """With how many users at once the SLO was met; None without an SLO, or without a closed loop."""
    sureness: str | None
    """Which percentiles the requests suffice for, and how many the others take; None if nothing was answered."""
    progress: str
    """How many of the planned stages were played."""
    table: Table
    line: str = ""
    """What stands below the title, in place of the models, the run and its start; empty: those."""


class Document(Struct, frozen=True):
    """A complete report."""

    headline: Headline
    sections: tuple[Section, ...]
    footer: str


def headline(summary: Summary) -> Headline:
    """The headline of a summary, of one run or of several."""
    played = sum(stage.status == "played" for stage in summary.stages)
    return Headline(
        title=summary.scenario,
        models=tuple(dict.fromkeys(f"{stage.model} on {stage.target}" for stage in summary.stages)),
        run_id=summary.run_id,
        runs=summary.runs,
        started_utc=summary.started_utc,
        incomplete=summary.incomplete,
        answer=answer(summary),
        sureness=sureness(summary),
        progress=f"Played: {played} of {len(summary.stages)} planned stages.",
        table=main_table(summary),
    )


def report_data(
    summary: Summary, runs: Sequence[Run], stages: Sequence[Sequence[StageData]] | None = None
) -> ReportData:
    """The input of the sections of a summary's report. runs: the run of the summary, or the runs that were merged.
    stages: the stages of each run, if they have already been computed.

    Raises ValueError if the summary is not that of these runs.
    """
    data_by_run = [stages_of(run) for run in runs] if stages is None else stages
    numbered = enumerate(zip(summary.stages, *data_by_run, strict=True))
    state = next((run.manifest.state for run in runs if run.manifest.state != "complete"), "complete")
    return ReportData(
        summary=summary,
        manifest=msgspec.structs.replace(runs[0].manifest, state=state),
        stages=tuple(
            ReportStage(number, stage, tuple(data)) for number, (stage, *data) in numbered if was_played(stage)
        ),
        prompts=() if summary.runs else rows_by_prompt(runs[0], data_by_run[0]),
    )


def make_document(data: ReportData) -> Document:
    """The complete report; equal data give an equal document."""
    sections = (make_section(data) for make_section in SECTIONS)
    return Document(
        headline=headline(data.summary),
        sections=tuple(section for section in sections if section is not None),
        footer=FOOTER_OF_SEVERAL if data.summary.runs else FOOTER,
    )
