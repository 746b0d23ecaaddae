"""The one table that answers "how many at once, at what tail". Pure; no format."""

from collections.abc import Sequence
from typing import Final

from msgspec import UNSET

from loadgen.analysis.summary import StageSummary, Summary
from loadgen.report.format import UNKNOWN, format_load, format_number, format_percent, format_percentile
from loadgen.report.main_notes import main_notes
from loadgen.report.metric_names import marked, metric_title
from loadgen.report.section import MAIN_PERCENTILES, Column, Row, Table

COLUMNS: Final = (
    Column("model", "text"),
    Column("served by", "text"),
    Column("load", "text"),
    Column("ok"),
    *(Column(f"{metric_title(metric)} {percentile}") for metric, percentile in MAIN_PERCENTILES),
    Column("tok/s"),
    Column("tok/s/user"),
    Column("tok/s E2E"),
    Column("SLO met"),
    Column("memory"),
    Column("verdict", "verdict"),
)
IF_DIFFERENT: Final = ("model", "served by")
"""Columns that are left out where all rows are alike."""
IF_KNOWN: Final = ("tok/s E2E", "SLO met", "memory")
"""Columns that are left out where no row knows anything."""


def main_table(summary: Summary) -> Table:
    """One row a stage. A column in which nothing is known, or all is alike, is left out."""
    described = [_describe(summary, stage) for stage in summary.stages]
    columns = [column for column in COLUMNS if _is_worth_showing(column.title, described)]
    rows = (
        Row(tuple(cells[column.title] for column in columns), _is_invalid(stage))
        for stage, cells in zip(summary.stages, described, strict=True)
    )
    return Table(tuple(columns), tuple(rows), main_notes(summary))


def _is_worth_showing(title: str, described: Sequence[dict[str, str]]) -> bool:
    values = {cells[title] for cells in described}
    if title in IF_DIFFERENT:
        return len(values) > 1
    return title not in IF_KNOWN or values != {UNKNOWN}


def _is_invalid(stage: StageSummary) -> bool:
    return stage.validity is not UNSET and stage.validity.verdict == "invalid"


def _describe(summary: Summary, stage: StageSummary) -> dict[str, str]:
    """A stage's cells by heading."""
    cells = dict.fromkeys((column.title for column in COLUMNS), UNKNOWN)
    cells |= {"model": stage.model, "served by": stage.target, "load": format_load(stage.load), "verdict": "skipped"}
    if stage.metrics is UNSET or stage.requests is UNSET or stage.throughput is UNSET or stage.validity is UNSET:
        return cells
    for metric, percentile in MAIN_PERCENTILES:
        cell = format_percentile(stage.metrics[metric], percentile)
        cells[f"{metric_title(metric)} {percentile}"] = marked(stage, metric, cell)
    rates = ["output_tokens_per_s", "per_user_tokens_per_s"]
    if not summary.streamed:  # beside the pace of a stream it would be one number too many
        rates.append("e2e_tokens_per_s")
    for rate in rates:
        cells[metric_title(rate)] = marked(stage, rate, format_number(getattr(stage.throughput, rate)))
    if stage.slo is not None:
        cells["SLO met"] = marked(stage, "slo", format_percent(stage.slo.share))
    if stage.peak_mib is not None:
        cells["memory"] = f"{stage.peak_mib:.0f} MiB"
    cells["ok"] = f"{stage.requests.ok}/{stage.requests.planned}"
    cells["verdict"] = stage.validity.verdict + (", incomplete" if stage.incomplete else "")
    return cells
