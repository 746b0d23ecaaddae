"""The part of a report that is the search's: its answer, the table of levels, and its pictures. Pure."""

from collections.abc import Sequence
from typing import Final

import msgspec

from loadgen.decisions.capacity.answer import CapacityFile, LevelAnswer, ModelAnswer
from loadgen.decisions.capacity.charts import VisitSpan, asked_text, search_charts
from loadgen.decisions.capacity.words import lines_of, lines_of_model, notes_of, share_text
from loadgen.report.console import lines_text, table_text
from loadgen.report.document import Document
from loadgen.report.format import UNKNOWN, format_number
from loadgen.report.section import Column, Row, Section, Table
from loadgen.report.text_table import Screen

FOOTER: Final = (
    "What the search shows is in capacity.json, every other number in summary.json, every request in requests.jsonl, "
    "beside this report."
)
_STATES: Final = {"holds": "holds", "fails": "does not hold", "undecided": "undecided", "not_judged": "not judged"}


def levels_table(model: ModelAnswer) -> Table:
    """One row a level: what is shown of it, and from what."""
    first = "users" if model.search == "users" else "requests/s"
    columns = (
        Column(first),
        Column("shown", "text"),
        Column("requests", rank=1),
        *(Column(f"met {objective.objective}") for objective in model.objectives),
        Column("answers/s", rank=2),
        Column("tok/s", rank=2),
        Column("played", rank=3),
        Column("inflation", rank=4),
    )
    return Table(columns, tuple(_row(level, len(model.objectives)) for level in model.levels), tuple(notes_of(model)))


def _row(level: LevelAnswer, objectives: int) -> Row:
    shares = [share_text(objective) for objective in level.objectives]
    return Row(
        (
            f"{level.level:.4g}",
            _STATES[level.state],
            str(level.requests),
            *(shares or [UNKNOWN] * objectives),
            format_number(level.requests_per_s),
            format_number(level.output_tokens_per_s),
            f"{level.seconds:.0f} s",
            f"{level.inflation:.3g}",
        )
    )


def search_sections(capacity: CapacityFile, visits: Sequence[Sequence[VisitSpan]]) -> list[Section]:
    """A section of each model. visits: of each model, in the same order."""
    sections = []
    for number, (model, own) in enumerate(zip(capacity.models, visits, strict=True)):
        title = f"Capacity of {model.model} on {model.target}" if len(capacity.models) > 1 else "Capacity"
        sections.append(
            Section(
                title=title,
                anchor=f"capacity-{number}" if len(capacity.models) > 1 else "capacity",
                paragraphs=(f"Asked: {asked_text(model)}.",),
                charts=search_charts(model, number, own),
                tables=() if len(capacity.models) == 1 else (levels_table(model),),
            )
        )
    return sections


def with_search(document: Document, capacity: CapacityFile, visits: Sequence[Sequence[VisitSpan]]) -> Document:
    """The report of a run, opened by the answer of its search. The run's own table comes after it, as a section."""
    headline = document.headline
    first, *more = lines_of(capacity) or ["no model was searched"]
    table = levels_table(capacity.models[0]) if len(capacity.models) == 1 else headline.table
    stages = Section(title="Every visit as a stage", anchor="stages", tables=(headline.table,))
    own = search_sections(capacity, visits)
    opened = msgspec.structs.replace(
        headline, answer=first, sureness=" ".join(map(_sentence, more)) or None, table=table
    )
    sections = (*own, *((stages,) if len(capacity.models) == 1 else ()), *document.sections)
    return Document(headline=opened, sections=sections, footer=FOOTER)


def _sentence(line: str) -> str:
    return f"{line[:1].upper()}{line[1:]}."


def search_text(capacity: CapacityFile, screen: Screen) -> str:
    """The answer for a terminal: of each model its lines and the table of its levels."""
    parts = []
    for model in capacity.models:
        name = f"{model.model} on {model.target}"
        title = f"{name} · {capacity.run_id}" if len(capacity.models) == 1 else name
        parts.append(lines_text(lines_of_model(model, capacity.confidence), screen))
        parts.append(table_text(levels_table(model), title, screen))
    return "".join(parts)
