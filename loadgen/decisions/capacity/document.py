"""The part of a report about the search: its answer, the table of levels, and the charts. Pure."""

from collections.abc import Sequence
from typing import Final

import msgspec

from loadgen.decisions.capacity.answer import CapacityFile, LevelAnswer, ModelAnswer
from loadgen.decisions.capacity.charts import VisitSpan, asked_text, search_charts
from loadgen.decisions.capacity.words import answer_line, is_limit_shown, lines_of_model, remarks_of, share_text
from loadgen.report.console import lines_text, table_text
from loadgen.report.document import Document
from loadgen.report.format import UNKNOWN, format_number
from loadgen.report.section import Column, Row, Section, Table
from loadgen.report.text_table import Screen

FOOTER: Final = (
    "What the search shows is in capacity.json, every other number in summary.json, every request in requests.jsonl, "
    "beside this report."
)
INFLATION: Final = "inflation: how many neighboring requests count as one independent request"
"""The line that explains the column."""
_STATES: Final = {"holds": "holds", "fails": "does not hold", "undecided": "undecided", "not_judged": "not judged"}


def levels_table(model: ModelAnswer) -> Table:
    """A row for each level: its state, and the figures behind that."""
    columns = (
        Column("users" if model.search == "users" else "requests/s"),
        Column("requests", rank=1),
        *(Column(f"met {objective.objective}") for objective in model.objectives),
        Column("answers/s", rank=2),
        Column("tok/s", rank=2),
        Column("played", rank=3),
        Column("inflation", rank=4),
        Column("shown", "text"),
    )
    rows = tuple(_row(level, len(model.objectives)) for level in model.levels)
    return Table(columns, rows, (*((INFLATION,) if rows else ()), *remarks_of(model)))


def _row(level: LevelAnswer, objectives: int) -> Row:
    shares = [share_text(objective) for objective in level.objectives]
    return Row(
        (
            f"{level.level:.4g}",
            str(level.requests),
            *(shares or [UNKNOWN] * objectives),
            format_number(level.requests_per_s),
            format_number(level.output_tokens_per_s),
            f"{level.seconds:.0f} s",
            f"{level.inflation:.3g}",
            _STATES[level.state],
        )
    )


def models_table(capacity: CapacityFile) -> Table:
    """One row a model: how much it carries."""
    columns = (
        *(Column(title, "text") for title in ("model", "served by", "levels")),
        *(Column(title) for title in ("holds", "capacity", "does not hold")),
        Column("limited by", "text"),
        Column("played"),
        Column("stopped", "text"),
    )
    rows = (
        Row(
            (
                *(model.model, model.target, model.search),
                *(UNKNOWN if end is None else f"{end:.4g}" for end in (model.holds, model.capacity, model.fails)),
                _limited_by(model),
                f"{model.spent_s:.0f} s",
                model.stopped.replace("_", " "),
            )
        )
        for model in capacity.models
    )
    return Table(columns, tuple(rows))


def _limited_by(model: ModelAnswer) -> str:
    if model.limited_by is None:
        return UNKNOWN
    return model.limited_by if is_limit_shown(model) else f"probably {model.limited_by}"


def search_sections(capacity: CapacityFile, visits: Sequence[Sequence[VisitSpan]]) -> list[Section]:
    """A section for each model. visits: of each model, in the same order."""
    sections, several = [], len(capacity.models) > 1
    for number, (model, own) in enumerate(zip(capacity.models, visits, strict=True)):
        _, *more = lines_of_model(
            model, capacity.confidence, capacity.budget_s
        )  # where there is one model, the headline has them
        title = f"Capacity of {model.model} on {model.target}" if several else "Capacity"
        sections.append(
            Section(
                title=title,
                anchor=f"capacity-{number}" if several else "capacity",
                paragraphs=(f"Asked: {asked_text(model)}.", *(map(_sentence, more) if several else ())),
                charts=search_charts(model, number, own),
                tables=(levels_table(model),) if several else (),
            )
        )
    return sections


def with_search(document: Document, capacity: CapacityFile, visits: Sequence[Sequence[VisitSpan]]) -> Document:
    """The report of a run that begins with the answer of its search. The table of the run follows as a section."""
    headline, models = document.headline, capacity.models
    if len(models) == 1:
        first, *more = lines_of_model(models[0], capacity.confidence, capacity.budget_s)
        table = levels_table(models[0])
    else:
        names = [f"{model.model} on {model.target}" for model in models]
        lines = [answer_line(model, capacity.confidence) for model in models]
        first, *more = [f"{name}: {line}" for name, line in zip(names, lines, strict=True)]
        table = models_table(capacity)
    stages = Section(title="Every visit as a stage", anchor="stages", tables=(headline.table,))
    opened = msgspec.structs.replace(
        headline, answer=first, sureness=" ".join(map(_sentence, more)) or None, table=table
    )
    return Document(opened, (*search_sections(capacity, visits), stages, *document.sections), FOOTER)


def _sentence(line: str) -> str:
    return f"{line[:1].upper()}{line[1:]}."


def search_text(capacity: CapacityFile, screen: Screen) -> str:
    """The answer for a terminal: for each model, its lines and the table of its levels."""
    parts = []
    for model in capacity.models:
        name = f"{model.model} on {model.target}"
        first, *more = lines_of_model(model, capacity.confidence, capacity.budget_s)
        if len(capacity.models) == 1:
            title = f"{name} · {capacity.run_id}"
        else:
            title, first = "", f"{name}: {first}"
        parts += [lines_text([first, *more], screen), table_text(levels_table(model), title, screen)]
    return "".join(parts)
