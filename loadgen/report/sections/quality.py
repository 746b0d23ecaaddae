"""The quality of the answers: by stage, under load, by prompt, and of each answer with its part marks. Pure."""

from collections.abc import Sequence
from typing import Final

from loadgen.analysis.quality import MIN_FOR_UNCHANGED, UNCHANGED_WITHIN, by_prompt
from loadgen.analysis.quality_types import Quality, UnderLoad
from loadgen.report.charts.quality import quality_charts
from loadgen.report.format import (
    UNKNOWN,
    format_count,
    format_number,
    format_percent,
    format_quality,
    format_quality_interval,
)
from loadgen.report.marked_answers import FORMS, answers_by_prompt
from loadgen.report.section import Column, ReportData, ReportStage, Row, Section, Table, stage_name

MOST_PROMPTS: Final = 100
"""If there are more, the table by prompt shows only the first ones."""
MEANING: Final = (
    "The quality of an answer is the share of its prompt's key points that it says, from 0 to 100, lowered by figures "
    "and names that the prompt does not have, and by repetition, copying and length. A request that failed counts as 0."
)
NO_KEY_POINTS: Final = "The prompts have no key points, so the answers have no mark; only their form was checked."
MARKS: Final = (
    "Green: this says a key point, whose number follows. Red: a figure or a name that the prompt does not have."
)


def quality(data: ReportData) -> Section | None:
    """None if the run did not keep its texts, or nothing was asked."""
    stages = [stage for stage in data.stages if isinstance(stage.summary.quality, Quality)]
    if not stages:
        return None
    has_marks = any(block.mean is not None for block in _blocks(stages))
    tables = (_stage_table(stages), *((_prompt_table(stages),) if has_marks else ()))
    answers = answers_by_prompt(stages)
    return Section(
        title="Quality of the answers",
        anchor="quality",
        paragraphs=(MEANING if has_marks else NO_KEY_POINTS, *((MARKS,) if answers and has_marks else ())),
        charts=quality_charts(stages),
        points=tuple(sentence for stage in stages for sentence in load_sentences(stage)),
        tables=tables,
        answers=answers,
    )


def _blocks(stages: Sequence[ReportStage]) -> list[Quality]:
    return [stage.summary.quality for stage in stages if isinstance(stage.summary.quality, Quality)]


def load_sentences(stage: ReportStage) -> list[str]:
    """What load changed in the answers of a model; empty for all stages but that of its highest level."""
    block = stage.summary.quality
    if not isinstance(block, Quality) or block.under_load is None:
        return []
    return [f"{stage.who}: {_under_load_text(block.under_load, stage)}"]


def _under_load_text(load: UnderLoad, stage: ReportStage) -> str:
    where = f"from {load.lowest} to {stage.level} ({stage.load})"
    change = ""
    if load.difference is not None and load.ci is not None:
        interval = f"{_signed(load.ci[0])} to {_signed(load.ci[1])}"
        change = f" ({_signed(load.difference)} points, {interval}, {format_count(load.prompts, 'prompt')})"
    match load.verdict:
        case "unchanged":
            text = f"quality does not change with load {where} by {UNCHANGED_WITHIN:g} points or more{change}"
        case "unknown":
            few = f"; with fewer than {MIN_FOR_UNCHANGED} prompts, rare losses may be missed"
            text = f"whether load changes the quality {where} is not known{change}"
            text += few if load.prompts < MIN_FOR_UNCHANGED else ""
        case _:
            text = f"quality is {load.verdict} under load {where}{change}"
    same = "" if load.same_text is None else f"; {format_percent(load.same_text)} of the prompts got the same text"
    return f"{text}{same}"


def _signed(value: float) -> str:
    return f"{value:+.1f}".replace("-", "−").replace("+0.0", "0").replace("−0.0", "0")


def _stage_table(stages: Sequence[ReportStage]) -> Table:
    columns = (
        Column("stage", "text"),
        *(Column(title) for title in ("quality", "95 % CI", "answers", "failed", "left out")),
        *(Column(title) for title in ("key points said", "mentioned", "supported", "ROUGE-L", "same text")),
        Column("form", "prose"),
    )
    return Table(columns, tuple(_stage_row(stage) for stage in stages))


def _stage_row(stage: ReportStage) -> Row:
    (block,) = _blocks([stage])
    flags = ", ".join(f"{format_count(count, 'answer')} {FORMS[flag]}" for flag, count in block.flags.items())
    cells = (
        stage_name(stage.summary),
        format_quality(block),
        format_quality_interval(block),
        str(block.answers),
        str(block.failed),
        str(block.left_out),
        *(format_percent(share) for share in (block.covered, block.mentioned, block.supported)),
        format_number(block.rouge_l, 2),
        format_percent(block.same_text),
        flags,
    )
    return Row(cells, stage.is_invalid)


def _prompt_table(stages: Sequence[ReportStage]) -> Table:
    """The quality of each prompt at each stage."""
    marks = [by_prompt((answer for data in stage.runs for answer in data.scored or ()), "quality") for stage in stages]
    prompts = list(dict.fromkeys(prompt for each in marks for prompt in each))
    rows = (
        Row((prompt, *(UNKNOWN if prompt not in each else f"{each[prompt]:.0f}" for each in marks)))
        for prompt in prompts[:MOST_PROMPTS]
    )
    more = len(prompts) - MOST_PROMPTS
    remarks = (f"{format_count(more, 'more prompt')} in quality.jsonl",) if more > 0 else ()
    columns = (Column("prompt", "text"), *(Column(stage_name(stage.summary)) for stage in stages))
    return Table(columns, tuple(rows), remarks)
