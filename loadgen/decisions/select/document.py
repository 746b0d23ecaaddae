"""A selection as a document, which the Markdown and the page draw, and as text for a terminal. Pure."""

from collections.abc import Sequence
from typing import Final

import msgspec

from loadgen.decisions.select.answers import answers_table, shown_prompts, three_prompts
from loadgen.decisions.select.charts import BANDS_CHART, QUALITY_CHART, bands_chart, quality_chart
from loadgen.decisions.select.decide import SelectionData
from loadgen.decisions.select.graded import graded_lines
from loadgen.decisions.select.selection import Selection
from loadgen.decisions.select.tables import (
    console_table,
    cost_table,
    facts_table,
    graded_table,
    leads_table,
    main_table,
    requirements_table,
    steps_table,
    turning_table,
)
from loadgen.decisions.select.words import STEPS_NOTE, lines_of
from loadgen.report.console import lines_text, table_text
from loadgen.report.document import Document, Headline
from loadgen.report.format import format_count
from loadgen.report.section import Chart, Section, Table
from loadgen.report.text_table import Screen

FOOTER: Final = "Every number is in selection.json, beside this report; what it means is in docs/select.md."
WORKSHOP_COST: Final = (
    "workshop_cost is (tokens/s × tokens per request) × energy factor. It decides nothing, because it grows with "
    "speed: a model that is twice as fast at the same power would cost twice as much. docs/facts.md has the reason."
)


def selection_text(selection: Selection, screen: Screen) -> str:
    """The selection for a terminal: the decision, the table of candidates, and what was left out."""
    first, *more = lines_of(selection)
    remarks = [f"· {remark}" for remark in selection.remarks]
    table = table_text(console_table(selection), "", screen)
    return lines_text([first], screen) + table + lines_text([*more, *remarks], screen)


def report_document(data: SelectionData) -> Document:
    """The document of `benchmark_report.md`: the decision, the workshop's table, and the reasons."""
    answers = [answers_table(data, prompt) for prompt in three_prompts(data)]
    paragraph = (
        "The prompt whose answers differ most in quality, one in the middle, and the one whose answers differ least. "
        "All answers are in selection.html."
    )
    section = _answers_section("Three answers side by side", paragraph, answers)
    return _document(data, (), section)


def page_document(data: SelectionData) -> Document:
    """The document of `selection.html`: as the report, with charts and every answer."""
    prompts = list(shown_prompts(data))
    answers = [
        msgspec.structs.replace(answers_table(data, prompt), folded_under=_title_of(data, prompt)) for prompt in prompts
    ]
    left_out = len(data.key_points) - len(prompts)
    paragraph = "Each answer with its quality, and for each key point whether the answer says it, and where."
    if left_out > 0 and len(prompts) > 0:
        paragraph += f" {left_out} more prompts are in the run folders alone."
    section = _answers_section("Every answer side by side", paragraph, answers)
    charts = [chart for chart in (quality_chart(data.selection), bands_chart(data.selection)) if chart is not None]
    return _document(data, charts, section)


def _title_of(data: SelectionData, prompt: str) -> str:
    marks = [
        f"{each.name} {each.values.quality[prompt]:.0f}"
        for each in data.known
        if each.values is not None and prompt in each.values.quality
    ]
    return f"{prompt}: {', '.join(marks)}" if marks else prompt


def _answers_section(title: str, paragraph: str, tables: Sequence[Table]) -> Section | None:
    if not tables:
        return None
    return Section(title=title, anchor="answers", paragraphs=(paragraph,), tables=tuple(tables))


def _document(data: SelectionData, charts: Sequence[Chart], last: Section | None) -> Document:
    selection = data.selection
    sections = (
        _sureness(selection, [chart for chart in charts if chart.id == QUALITY_CHART]),
        _changes(selection, [chart for chart in charts if chart.id == BANDS_CHART]),
        _requirements(selection),
        _cost(selection),
        _graded(selection),
        Section(title="Facts", anchor="facts", tables=(facts_table(selection),)),
        last,
        _remarks(selection),
    )
    return Document(
        headline=_headline(data),
        sections=tuple(section for section in sections if section is not None),
        footer=FOOTER,
    )


def _headline(data: SelectionData) -> Headline:
    selection = data.selection
    first, *more = lines_of(selection)
    return Headline(
        title=f"{selection.scenario}: which model?",
        models=tuple(row.name for row in selection.candidates),
        run_id=selection.runs[0],
        runs=selection.runs if len(selection.runs) > 1 else (),
        started_utc=data.started_utc,
        incomplete=any(row.incomplete for row in selection.candidates),
        answer=first,
        sureness=" ".join(more),
        progress="",
        table=main_table(selection),
    )


def _sureness(selection: Selection, charts: Sequence[Chart]) -> Section | None:
    """How sure the choice is; None if there is none."""
    if selection.decision.first is None:
        return Section(title="Quality and latency", anchor="choice", charts=tuple(charts)) if charts else None
    asked = f"{format_count(selection.prompts, 'prompt')} that all were asked, at {selection.level}"
    paragraphs = (
        f"Compared on {asked}; throughput is that at {selection.throughput_level}.",
        STEPS_NOTE,
    )
    return Section(
        title="How sure the choice is",
        anchor="choice",
        paragraphs=paragraphs,
        charts=tuple(charts),
        tables=(leads_table(selection), steps_table(selection)),
    )


def _changes(selection: Selection, charts: Sequence[Chart]) -> Section | None:
    """Which weights would change the choice; None if there is nobody else, or nothing else to weigh."""
    if sum(row.eligible for row in selection.candidates) < 2 or len(selection.sensitivity) < 2:
        return None
    return Section(
        title="What would change the choice",
        anchor="weights",
        paragraphs=("Each row changes the share of one criterion; the others keep their proportions.",),
        charts=tuple(charts),
        tables=(turning_table(selection),),
    )


def _requirements(selection: Selection) -> Section | None:
    table = requirements_table(selection)
    if table is None:
        out = tuple(f"{row.name} is out: {row.out}" for row in selection.candidates if row.out is not None)
        return Section(title="Out", anchor="requirements", points=out) if out else None
    bound = {
        "estimate": "A requirement holds if the estimate meets it.",
        "interval": "A requirement holds if the worse end of the 95 % interval meets it (--strict).",
    }[selection.policy.bound]
    paragraph = f"{bound} What is not known does not meet a requirement."
    return Section(title="Requirements", anchor="requirements", paragraphs=(paragraph,), tables=(table,))


def _cost(selection: Selection) -> Section | None:
    table = cost_table(selection)
    if table is None:
        return None
    paragraphs = (WORKSHOP_COST,) if selection.policy.cost.energy_factor is not None else ()
    return Section(title="Energy and cost", anchor="cost", paragraphs=paragraphs, tables=(table,))


def _graded(selection: Selection) -> Section | None:
    """What people and judges say, beside the key points; None without notes."""
    if not selection.graded:
        return None
    paragraph = (
        "Notes from 1 to 5 as 0 to 100 points, on the prompts for which every candidate has notes, beside the quality "
        "by the key points on the same prompts."
    )
    points = tuple(line for row in selection.graded for line in graded_lines(row))
    return Section(
        title="Quality by notes",
        anchor="graded",
        paragraphs=(paragraph,),
        tables=(graded_table(selection),),
        points=points,
    )


def _remarks(selection: Selection) -> Section | None:
    points = (
        *(f"{name} is not compared: {reason}" for name, reason in selection.left_out.items()),
        *selection.remarks,
    )
    return Section(title="What was left out, and remarks", anchor="remarks", points=points) if points else None
