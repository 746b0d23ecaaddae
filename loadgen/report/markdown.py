"""The report as Markdown: the answer, the table, why it can be believed, and the circumstances. Pure."""

from collections.abc import Iterable, Sequence
from typing import Any

from msgspec import UNSET

from loadgen.analysis.by_prompt import PromptRow
from loadgen.analysis.summary import StageSummary, Summary
from loadgen.redact import printable
from loadgen.report.capabilities import server_table
from loadgen.report.format import (
    UNKNOWN,
    format_bytes,
    format_duration,
    format_load,
    format_number,
    format_percent,
    format_with_interval,
)
from loadgen.report.highlights import highlights
from loadgen.report.main_table import Table, answer, main_table, marked
from loadgen.report.prompts import prompts_table
from loadgen.report.runs import runs_table
from loadgen.store.run_folder import Manifest

_SPECIAL = str.maketrans({sign: f"\\{sign}" for sign in "\\`*_[]<>|#~&$"})


def markdown(summary: Summary, manifest: Manifest, prompts: Sequence[PromptRow] = ()) -> str:
    """The whole of `report.md`."""
    parts = [f"# {escape(summary.scenario)}", "", _which(summary)]
    told = answer(summary)
    if told:
        parts += ["", f"**{escape(told)}**"]
    main = main_table(summary)
    parts += ["", *_models_line(summary), *_table(main), "", *(f"- {escape(note)}" for note in main.notes)]
    best = highlights(summary)
    if best:
        parts += ["", "## Highlights", "", *(f"- {escape(line)}" for line in best)]
    parts += ["", "## Latencies", "", *_latencies(summary.stages)]
    runs = runs_table(summary)
    if runs is not None:
        parts += ["", "## Run by run", "", *_table(runs)]
    if prompts:
        each = prompts_table(prompts)
        parts += ["", "## By prompt", "", *_table(each), "", *(f"- {escape(note)}" for note in each.notes)]
    parts += ["", "## Can these numbers be believed?", "", *_validity(summary.stages)]
    rates = _rates(summary.stages)
    if rates:
        parts += ["", "## The server's own account", "", *rates]
    does = server_table(manifest.models)
    if does is not None:
        parts += ["", "## What this server does", "", *_table(does), "", *(f"- {escape(note)}" for note in does.notes)]
    parts += ["", "## Models", "", *_cards(manifest.models)]
    parts += ["", "## Circumstances", "", *_circumstances(manifest)]
    return "\n".join(parts).rstrip() + "\n"


def escape(text: str) -> str:
    """Text that Markdown shows as it is, on one line."""
    return printable(text).translate(_SPECIAL)


def _which(summary: Summary) -> str:
    if not summary.runs:
        return f"Run `{summary.run_id}`, {summary.started_utc}"
    return f"{len(summary.runs)} runs, the first {summary.started_utc}: {', '.join(f'`{run}`' for run in summary.runs)}"


def _models_line(summary: Summary) -> list[str]:
    who = dict.fromkeys(f"{stage.model} on {stage.target}" for stage in summary.stages)
    return [f"Model: {escape(next(iter(who)))}", ""] if len(who) == 1 else []


def _grid(heads: Sequence[str], numbers: Sequence[bool], rows: Iterable[Sequence[str]]) -> list[str]:
    lines = ["| " + " | ".join(heads) + " |", "|" + "|".join("---:" if number else ":---" for number in numbers) + "|"]
    return lines + ["| " + " | ".join(cells) + " |" for cells in rows]


def _table(table: Table) -> list[str]:
    def cells(row_cells: Sequence[str], invalid: bool) -> list[str]:
        return [f"~~{escape(cell)}~~" if invalid else escape(cell) for cell in row_cells]

    heads, numbers = [column.title for column in table.columns], [column.number for column in table.columns]
    return _grid(heads, numbers, (cells(row.cells, row.invalid) for row in table.rows))


def _where(stage: StageSummary) -> str:
    return escape(f"{stage.model} on {stage.target}, {format_load(stage.load)}")


def _latencies(stages: Sequence[StageSummary]) -> list[str]:
    """Every metric of every stage: each percentile, with its 95 % interval beside it."""
    told = [
        (stage, name, metric)
        for stage in stages
        if stage.metrics is not UNSET
        for name, metric in stage.metrics.items()
    ]
    told = [(stage, name, metric) for stage, name, metric in told if metric["count"]]
    names = ["p50", "p90", "p95", "p99"]
    if any(metric.get("p99.9") is not None for _, _, metric in told):
        names.append("p99.9")
    heads = ["stage", "metric", "samples", "mean", "min", *names, "max"]
    rows = [
        [
            _where(stage),
            marked(stage, name, name.removesuffix("_ms")),
            str(metric["count"]),
            *(format_duration(metric[key]) for key in ("mean", "min")),
            *(format_with_interval(metric, percentile) for percentile in names),
            format_duration(metric["max"]),
        ]
        for stage, name, metric in told
    ]
    return _grid(heads, [False, False, *[True] * (len(heads) - 2)], rows) if rows else ["No request was answered."]


def _validity(stages: Sequence[StageSummary]) -> list[str]:
    heads = ["stage", "verdict", "stamps", "dispatch slip p99", "loop lag p99", "stamp lag p99", "our CPU"]
    heads += ["server's CPU", "GC pause", "achieved", "in flight: sampled / recorded", "shared reads", "window"]
    rows = []
    for stage in stages:
        if stage.validity is UNSET:
            continue
        own = stage.validity.self
        flights = f"{format_number(own.in_flight_sampled)} / {format_number(own.in_flight_recorded)}"
        rows.append(
            [
                _where(stage),
                stage.validity.verdict,
                stage.validity.stamp_source,
                *(format_duration(v) for v in (own.dispatch_slip_p99_ms, own.loop_lag_p99_ms, own.stamp_lag_p99_ms)),
                format_percent(own.cpu_share),
                format_percent(own.server_cpu_share),
                format_duration(own.gc_pause_max_ms),
                format_percent(own.users_share if own.achieved_share is None else own.achieved_share),
                flights,
                format_percent(own.shared_reads_share),
                UNKNOWN if stage.window_s is None else f"{stage.window_s:.1f} s",
            ]
        )
    return _grid(heads, [False, False, False, *[True] * (len(heads) - 3)], rows) if rows else ["Nothing was played."]


def _rates(stages: Sequence[StageSummary]) -> list[str]:
    """Prefill and decode rates by the server's timings beside ours: two clocks on the same work."""
    heads = ["stage", "prefill tok/s: server", "ours", "decode tok/s: server", "ours"]
    rows = []
    for stage in stages:
        rates = (stage.server or {}).get("rates")
        if rates:
            keys = ("server_prefill", "client_prefill", "server_decode", "client_decode")
            rows.append([_where(stage), *(format_number(rates[f"{key}_tokens_per_s"]) for key in keys)])
    if not rows:
        return []
    note = (
        "Ours is from stamps: prompt tokens over service TTFT (which waits for a free slot, too), and tokens over gaps."
    )
    return [*_grid(heads, [False, *[True] * 4], rows), "", note]


def _cards(cards: Sequence[dict[str, Any]]) -> list[str]:
    heads = [
        "model",
        "served by",
        "id",
        "size",
        "parameters",
        "quantization",
        "context",
        "license",
        "publisher",
        "start",
    ]
    rows = []
    for card in cards:
        parameters = card.get("parameters")
        startup = card.get("startup_s")
        cells = [card["alias"], card["target"], card["id"], format_bytes(card.get("size_bytes"))]
        cells.append(UNKNOWN if parameters is None else f"{parameters / 1e6:.0f} M")
        cells += [str(card.get(key) or UNKNOWN) for key in ("quantization", "context_tokens", "license", "publisher")]
        cells.append(UNKNOWN if startup is None else f"{startup:.1f} s")
        rows.append([escape(cell) for cell in cells])
    return _grid(heads, [False] * len(heads), rows) if rows else ["No model was served."]


def _circumstances(manifest: Manifest) -> list[str]:
    host, versions = manifest.host, manifest.versions
    machine = ", ".join(
        str(part)
        for part in (
            host.get("cpu"),
            f"{host.get('cores_usable')} of {host.get('cores')} cores",
            f"{host.get('memory_mib')} MiB",
            f"{host.get('system')} {host.get('kernel')} {host.get('machine')}",
            host.get("power"),
        )
        if part
    )
    told = [
        ("machine", machine),
        ("versions", ", ".join(f"{name} {version}" for name, version in versions.items())),
        ("stamps", f"{manifest.stamp_source}; clock {manifest.clock.get('implementation')}"),
        ("plan", manifest.plan_digest),
        ("seed", str(manifest.scenario.get("seed"))),
        ("state", manifest.state),
    ]
    if manifest.git_commit:
        told.append(("commit", manifest.git_commit))
    return [f"- {name}: {escape(value)}" for name, value in told]
