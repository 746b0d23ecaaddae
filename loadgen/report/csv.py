"""`summary.csv`, one row per model and level, and `prompts.csv`, one row per model, level and prompt. Pure."""

import csv
import io
from collections.abc import Sequence
from typing import Final, Literal

from msgspec import UNSET

from loadgen.analysis.by_prompt import PromptRow, ValueRange
from loadgen.analysis.soak_types import DRIFT_METRICS
from loadgen.analysis.summary import METRICS, Metric, StageSummary, Summary
from loadgen.redact import printable

CsvValue = str | int | float | None
CsvRow = dict[str, CsvValue]
"""By the heading of the column."""
LineBreaks = Literal["kept", "replaced"]
"""What becomes of line breaks and tabs within a text: a person reads it, or a program a line at a time."""
LOAD_KEYS: Final = ("mode", "concurrency", "rate_per_s", "burstiness", "from_per_s", "to_per_s")
PERCENTILES: Final = ("p50", "p90", "p95", "p99")
_FORMULA_STARTS: Final = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")
"""The characters with which a formula starts in a spreadsheet; some spreadsheets also accept the full-width forms."""


def csv_text(summary: Summary) -> str:
    """The contents of `summary.csv`. An empty cell means not known. Lines end in LF."""
    return csv_of([_stage_row(summary, stage) for stage in summary.stages])


def prompts_csv(summary: Summary, rows: Sequence[PromptRow]) -> str:
    """The contents of `prompts.csv`. An empty cell means not known. Lines end in LF."""
    return csv_of([_prompt_row(summary, row) for row in rows])


def csv_of(rows: Sequence[CsvRow], line_breaks: LineBreaks = "replaced") -> str:
    """Rows as CSV. The columns are the keys, in the order in which they first occur. Lines end in LF."""
    heads = list(dict.fromkeys(key for row in rows for key in row))
    out = io.StringIO()
    writer = csv.DictWriter(out, heads, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: _cell(value, line_breaks) for key, value in row.items()} for row in rows)
    return out.getvalue()


def _cell(value: CsvValue, line_breaks: LineBreaks) -> CsvValue:
    """A spreadsheet must not read text as a formula, nor a terminal as a command."""
    if not isinstance(value, str):
        return value
    text = f"'{value}" if value.startswith(_FORMULA_STARTS) else value
    if line_breaks == "kept":
        return "\n".join(printable(line.expandtabs(4)) for line in text.splitlines())
    return printable(text)


def _stage_row(summary: Summary, stage: StageSummary) -> CsvRow:
    row: CsvRow = {
        "scenario": summary.scenario,
        "run_id": summary.run_id,
        "model": stage.model,
        "target": stage.target,
        "level": stage.level,
        **{key: getattr(stage.load, key) for key in LOAD_KEYS},
        "status": stage.status,
        "incomplete": stage.incomplete,
        "verdict": None if stage.validity is UNSET else stage.validity.verdict,
    }
    if stage.requests is not UNSET:
        row |= {"planned": stage.requests.planned, "ok": stage.requests.ok, "failed": stage.requests.failed}
    row["window_s"] = stage.window_s
    if stage.throughput is not UNSET:
        names = (name for name in stage.throughput.__struct_fields__ if not name.endswith("_ci"))
        row |= {name: getattr(stage.throughput, name) for name in names}
    if stage.slo is not None:
        row["slo_met_share"] = stage.slo.share
    if stage.tokens is not UNSET:
        row |= {"prompt_tokens": stage.tokens.prompt, "output_tokens": stage.tokens.output}
        if stage.tokens.cached is not UNSET:
            row["cached_tokens"] = stage.tokens.cached
    for metric in METRICS:
        row |= _metric_cells(metric, stage.metric(f"{metric}_ms"))
    row["not_valid"] = " ".join(stage.not_valid)
    row["rss_peak_mib"] = stage.peak_mib
    return row | _quality_cells(stage) | _drift_cells(stage)


def _quality_cells(stage: StageSummary) -> CsvRow:
    """The quality of the answers; no columns if the texts were not kept."""
    if stage.quality is UNSET:
        return {}
    low, high = (None, None) if stage.quality is None or stage.quality.ci is None else stage.quality.ci
    names = ("mean", "covered", "mentioned", "supported", "rouge_l", "same_text", "prompts")
    values = {f"quality_{name}": None if stage.quality is None else getattr(stage.quality, name) for name in names}
    return values | {"quality_low": low, "quality_high": high}


def _drift_cells(stage: StageSummary) -> CsvRow:
    """What a soak came to; no columns in any other run. A series without an entry is not known."""
    if stage.soak is UNSET or stage.drift is UNSET:
        return {}
    soak, drift = stage.soak, stage.drift
    cells: CsvRow = {
        "drift": drift.verdict,
        "drift_since_utc": drift.since_utc,
        "windows": soak.windows,
        "valid_windows": soak.valid_windows,
        "outages": soak.outages.count,
        "outages_s": soak.outages.s,
        "server_restarts": soak.server_restarts,
    }
    for name in DRIFT_METRICS:
        metric = drift.metrics.get(name)
        low, high = (None, None) if metric is None or metric.change_ci is None else metric.change_ci
        cells |= {
            f"{name}_drift": None if metric is None else metric.verdict,
            f"{name}_change": None if metric is None else metric.change,
            f"{name}_change_low": low,
            f"{name}_change_high": high,
        }
    return cells


def _metric_cells(name: str, metric: Metric | None) -> CsvRow:
    known = metric or Metric()
    cells: CsvRow = {f"{name}_count": None if metric is None else metric.count}
    cells |= {f"{name}_mean_ms": known.mean, f"{name}_min_ms": known.min, f"{name}_max_ms": known.max}
    for key in PERCENTILES:
        percentile = known.percentile(key)
        cells |= {f"{name}_{key}_ms": percentile.value, f"{name}_{key}_at_least_ms": percentile.at_least}
    return cells


def _prompt_row(summary: Summary, row: PromptRow) -> CsvRow:
    cells: CsvRow = {
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
        for field in ValueRange.__struct_fields__:
            cells[f"{metric}_{field}_ms"] = None if spread is None else getattr(spread, field)
    return cells | {"output_tokens_median": row.output_tokens, "outliers": row.outliers}
