"""The report as Markdown. Draws a document and does not choose its contents. Pure."""

from collections.abc import Iterable, Sequence

from loadgen.redact import printable
from loadgen.report.document import Document, Headline
from loadgen.report.section import Row, Section, Table

_SPECIAL = str.maketrans({sign: f"\\{sign}" for sign in "\\`*_[]<>|#~&$"})


def markdown(document: Document) -> str:
    """The contents of `report.md`."""
    blocks = [*_headline(document.headline)]
    for section in document.sections:
        blocks += _section(section)
    blocks.append([escape(document.footer)])
    return "\n\n".join("\n".join(lines) for lines in blocks if lines) + "\n"


def escape(text: str) -> str:
    """Text that Markdown shows literally, on one line."""
    return printable(text).translate(_SPECIAL)


def _headline(headline: Headline) -> Iterable[list[str]]:
    """Blocks of lines, which must be separated by an empty line."""
    yield [f"# {escape(headline.title)}"]
    yield [_which_run(headline)]
    if headline.answer:
        yield [f"**{escape(headline.answer)}**"]
    if headline.sureness:
        yield [escape(headline.sureness)]
    if len(headline.models) == 1:
        yield [f"Model: {escape(headline.models[0])}"]
    yield from _table(headline.table)


def _which_run(headline: Headline) -> str:
    if len(headline.runs) < 2:
        return f"Run `{next(iter(headline.runs), headline.run_id)}`, {headline.started_utc}"
    ids = ", ".join(f"`{run_id}`" for run_id in headline.runs)
    return f"{len(headline.runs)} runs, the first {headline.started_utc}: {ids}"


def _section(section: Section) -> Iterable[list[str]]:
    yield [f"## {section.title}"]
    for paragraph in section.paragraphs:
        yield [escape(paragraph)]
    if section.charts:
        yield [f"Charts in report.html: {escape('; '.join(chart.title for chart in section.charts))}."]
    yield _list(section.points)
    for table in section.tables:
        yield from _table(table)
    yield _list(f"{fact.name}: {fact.value}" for fact in section.facts)
    if section.answers:
        yield ["Each answer with its part marks is in report.html, and in quality.jsonl."]


def _list(texts: Iterable[str]) -> list[str]:
    return [f"- {escape(text)}" for text in texts]


def _table(table: Table) -> Iterable[list[str]]:
    if table.folded_under:
        yield [f"### {escape(table.folded_under)}"]
    sides = ["---:" if column.kind == "number" else ":---" for column in table.columns]
    heads = _line([escape(column.title) for column in table.columns])
    yield [heads, f"|{'|'.join(sides)}|", *(_line(_cells(row)) for row in table.rows)]
    yield _list(table.remarks)


def _cells(row: Row) -> list[str]:
    """The cells of a row; those of an invalid row are struck out."""
    cells = [escape(cell) for cell in row.cells]
    return [f"~~{cell}~~" for cell in cells] if row.invalid else cells


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
