"""A run by prompt: as `prompts.csv`, and as the section of `report.md`. Pure."""

from collections.abc import Sequence
from typing import Any, Final

from loadgen.analysis.by_prompt import PromptRow, ValueRange
from loadgen.analysis.summary import Summary
from loadgen.redact import printable
from loadgen.report.csv import written
from loadgen.report.format import UNKNOWN, format_duration, format_load, format_number
from loadgen.report.main_table import Column, Row, Table

MOST_ROWS: Final = 100
"""A longer table is for a spreadsheet: the page keeps what is marked."""
RULE: Final = (
    "An outlier's TTFT or E2E lies far from that of the stage's other requests: "
    "0.6745 · |x − median| / MAD above 3.5, among 5 or more."
)
_HEADS: Final = ("stage", "prompt", "ok", "TTFT median", "TTFT max", "E2E median", "E2E min", "E2E max", "tokens")


def prompts_csv(summary: Summary, rows: Sequence[PromptRow]) -> str:
    """`prompts.csv`: one row a model, level and prompt; empty cells are not known."""
    return written([_flat(summary, row) for row in rows])


def prompts_table(rows: Sequence[PromptRow]) -> Table:
    """The table of the report. Beyond 100 rows only those with an outlier or a failure, and a note about the rest."""
    kept = list(rows) if len(rows) <= MOST_ROWS else [row for row in rows if row.outliers or row.failed]
    kept = kept[:MOST_ROWS]
    notes = [RULE]
    if len(kept) < len(rows):
        notes.append(f"{len(rows) - len(kept)} more rows are in prompts.csv")
    columns = tuple(Column(head, number=i > 1) for i, head in enumerate((*_HEADS, "outliers")))
    return Table(columns=columns, rows=tuple(Row(_cells(row)) for row in kept), notes=tuple(notes))


def _cells(row: PromptRow) -> tuple[str, ...]:
    stage = row.stage
    return (
        f"{stage.model} on {stage.target}, {format_load(stage.load)}",
        row.prompt_id,
        f"{row.ok}/{row.ok + row.failed}",
        _shown(row.ttft, "median"),
        _shown(row.ttft, "max"),
        *(_shown(row.e2e, name) for name in ("median", "min", "max")),
        format_number(row.output_tokens),
        f"▲ {row.outliers} of {row.ok}" if row.outliers else "",
    )


def _shown(spread: ValueRange | None, name: str) -> str:
    return UNKNOWN if spread is None else format_duration(getattr(spread, name))


def _flat(summary: Summary, row: PromptRow) -> dict[str, Any]:
    told: dict[str, Any] = {
        "scenario": summary.scenario,
        "run_id": summary.run_id,
        "model": row.stage.model,
        "target": row.stage.target,
        "level": row.stage.level,
        "prompt_id": printable(row.prompt_id),
        "ok": row.ok,
        "failed": row.failed,
    }
    for metric, spread in (("ttft", row.ttft), ("e2e", row.e2e)):
        for name in ValueRange.__struct_fields__:
            told[f"{metric}_{name}_ms"] = None if spread is None else getattr(spread, name)
    return told | {"output_tokens_median": row.output_tokens, "outliers": row.outliers}
