"""How long each prompt took at each stage, with outliers marked. Pure; `prompts.csv` has the complete table."""

from collections.abc import Sequence
from typing import Final

from loadgen.analysis.by_prompt import PromptRow, ValueRange
from loadgen.report.format import UNKNOWN, format_duration, format_number, format_stage_load
from loadgen.report.section import Column, ReportData, Row, Section, Table

MAX_ROWS: Final = 100
"""If the table is longer, the report shows only the marked rows; the rest is for a spreadsheet."""
RULE: Final = (
    "An outlier's TTFT or E2E lies far from that of the stage's other requests: "
    "0.6745 · |x − median| / MAD above 3.5, among 5 or more."
)
COLUMNS: Final = (
    Column("stage", "text"),
    Column("prompt", "text"),
    *(Column(title) for title in ("ok", "TTFT median", "TTFT max", "E2E median", "E2E min", "E2E max", "tokens")),
    Column("outliers"),
)


def by_prompt(data: ReportData) -> Section | None:
    """None if nothing was measured, and for several runs."""
    if not data.prompts:
        return None
    return Section(title="By prompt", anchor="by-prompt", tables=(prompts_table(data.prompts),))


def prompts_table(rows: Sequence[PromptRow]) -> Table:
    """The table. If it has more than 100 rows, only those with an outlier or a failure, and a remark about the rest."""
    shown = list(rows) if len(rows) <= MAX_ROWS else [row for row in rows if row.outliers or row.failed]
    shown = shown[:MAX_ROWS]
    remarks = [RULE]
    if len(shown) < len(rows):
        remarks.append(f"{len(rows) - len(shown)} more rows are in prompts.csv")
    return Table(COLUMNS, rows=tuple(Row(_cells(row)) for row in shown), remarks=tuple(remarks))


def _cells(row: PromptRow) -> tuple[str, ...]:
    stage = row.stage
    return (
        f"{stage.model} on {stage.target}, {format_stage_load(stage)}",
        row.prompt_id,
        f"{row.ok}/{row.ok + row.failed}",
        _format_field(row.ttft, "median"),
        _format_field(row.ttft, "max"),
        *(_format_field(row.e2e, field) for field in ("median", "min", "max")),
        format_number(row.output_tokens),
        f"▲ {row.outliers} of {row.ok}" if row.outliers else "",
    )


def _format_field(spread: ValueRange | None, field: str) -> str:
    return UNKNOWN if spread is None else format_duration(getattr(spread, field))
