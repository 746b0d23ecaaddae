"""A comparison as the document of a page: verdict, forest plot, each run, the differences, all figures. Pure."""

from collections.abc import Sequence
from typing import Final

from loadgen.decisions.compare.charts import forest_charts, run_charts
from loadgen.decisions.compare.comparison import Comparison, Figure
from loadgen.decisions.compare.sides import Sides
from loadgen.decisions.compare.words import (
    change_text,
    context_lines,
    interval_text,
    marked_name,
    model_text,
    needed_text,
    size_of,
    value_text,
    verdict_line,
)
from loadgen.report.document import Document, Headline
from loadgen.report.format import format_percent
from loadgen.report.section import Column, Row, Section, Table

MAX_ROWS: Final = 12
"""The maximum number of rows in the table at the top of the page; the table at its end has all figures."""
_COLUMNS = (
    Column("figure", "text"),
    Column("BASE"),
    Column("NEW"),
    Column("change"),
    Column("95 % interval"),
    Column("p worse"),
    Column("p better"),
    Column("verdict", "verdict"),
)


def comparison_document(comparison: Comparison, sides: Sides) -> Document:
    """The document of `comparison.html`; equal comparisons give equal documents."""
    sections = (_forest(comparison), _run_by_run(comparison), _unlike(comparison), _all_figures(comparison))
    return Document(
        headline=_headline(comparison, sides),
        sections=tuple(section for section in sections if section is not None),
        footer="Every number is in comparison.json, beside this page; what it means is in docs/compare.md.",
    )


def _headline(comparison: Comparison, sides: Sides) -> Headline:
    sides_lines = (f"BASE: {', '.join(comparison.base)}", f"NEW: {', '.join(comparison.new)}")
    lines = (*context_lines(comparison), *sides_lines)
    changed = [figure for figure in comparison.figures if figure.verdict in ("worse", "better")]
    shown = sorted(changed, key=lambda figure: (figure.verdict != "worse", -size_of(figure)))
    if not shown:
        shown = [figure for figure in comparison.figures if figure.level is None] or list(comparison.figures)
    table = figures_table(comparison, shown[:MAX_ROWS])
    return Headline(
        title=f"{comparison.scenario}: NEW against BASE",
        models=tuple(dict.fromkeys(model_text(figure) for figure in comparison.figures)),
        run_id="",
        runs=(*comparison.base, *comparison.new),
        started_utc=sides.base[0].manifest.started_utc,
        incomplete=False,
        answer=verdict_line(comparison),
        sureness=None,
        progress="",
        table=Table(table.columns, table.rows, lines),
    )


def figures_table(comparison: Comparison, figures: Sequence[Figure]) -> Table:
    """Figures as rows, each with the numbers that explain its verdict."""
    return Table(_COLUMNS, tuple(_row(comparison, figure) for figure in figures))


def _row(comparison: Comparison, figure: Figure) -> Row:
    needed = f", {needed_text(comparison, figure)}" if figure.runs_needed is not None else ""
    return Row(
        (
            marked_name(comparison, figure),
            value_text(figure, figure.base),
            value_text(figure, figure.new),
            change_text(figure),
            interval_text(figure),
            f"{figure.p_worse:.3g}",
            f"{figure.p_better:.3g}",
            f"{figure.verdict}{needed}",
        )
    )


def _forest(comparison: Comparison) -> Section:
    paragraph = (
        f"The change of each figure with its 95 % interval. Right is worse, whatever the metric; the band is "
        f"±{format_percent(comparison.margin)}, which counts as the same."
    )
    charts = forest_charts(comparison)
    return Section(title="What changed", anchor="changes", paragraphs=(paragraph,), charts=charts)


def _run_by_run(comparison: Comparison) -> Section | None:
    charts = run_charts(comparison)
    if not charts:
        return None
    paragraph = "Each run, in the order in which the runs were started. A slope across both sides means a drift."
    return Section(title="Run by run", anchor="runs", paragraphs=(paragraph,), charts=charts)


def _unlike(comparison: Comparison) -> Section | None:
    if not comparison.differences:
        return None
    columns = (Column("what differs", "text"), Column("BASE", "prose"), Column("NEW", "prose"), Column("", "text"))
    ordered = sorted(comparison.differences, key=lambda each: each.allowed)
    rows = (
        Row((each.subject, each.base, each.new, "may differ" if each.allowed else "should be alike"))
        for each in ordered
    )
    return Section(title="What differs", anchor="differences", tables=(Table(columns, tuple(rows)),))


def _all_figures(comparison: Comparison) -> Section:
    return Section(title="All figures", anchor="figures", tables=(figures_table(comparison, comparison.figures),))
