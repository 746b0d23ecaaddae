"""The report as one page that needs no network: the answer, the table, the charts, why to believe it. Pure.

The page carries its style sheet, its script and plotly.js; a content policy with their digests lets nothing else run,
and nothing be fetched.
"""

import base64
import hashlib
import html as markup
from collections.abc import Iterable, Sequence
from importlib import resources
from typing import Any, Final

import orjson
from msgspec import UNSET

from loadgen.analysis.summary import StageSummary, Summary
from loadgen.redact import printable
from loadgen.report.capabilities import server_table
from loadgen.report.charts.distribution import distribution_charts
from loadgen.report.charts.figure import Chart, ChartStage, played
from loadgen.report.charts.level import server_charts, throughput_chart, ttft_chart
from loadgen.report.charts.timeline import timeline_charts
from loadgen.report.format import UNKNOWN, format_bytes, format_duration, format_load, format_number, format_percent
from loadgen.report.main_table import Table, answer, main_table
from loadgen.store.run_folder import Manifest, Run

NOTES_SHOWN: Final = 6
"""Notes under the table; those beyond are folded away."""
MARKS: Final = {"valid": "✓", "degraded": "!", "invalid": "✕", "skipped": "–"}
TIMELINE_KEY: Final = (
    '<p class="key"><span class="waiting">waiting for the first token</span><span class="streaming">streaming</span>'
    '<span class="failed">failed</span><span class="window">steady window, in which throughput counts</span></p>'
)


def html(summary: Summary, run: Run) -> str:
    """The whole of `report.html`; equal runs give equal bytes. ValueError when the summary is not of this run."""
    stages = played(summary, run)
    levels = [chart for chart in (ttft_chart(stages), throughput_chart(stages)) if chart is not None]
    spreads, timelines, server = distribution_charts(stages), timeline_charts(stages), server_charts(stages)
    body = [
        *_head(summary),
        *_main(summary),
        *_section("How many at once", levels, note=_start_note(stages)),
        *_section("How they are spread", spreads),
        *_section("When each request waited and streamed", timelines, key=TIMELINE_KEY, columns=1),
        *_section("What the server used", server),
        *_validity(summary.stages),
        *_server(run.manifest.models),
        *_cards(run.manifest.models),
        *_circumstances(run.manifest),
    ]
    return _page(summary.scenario, body, [*levels, *spreads, *timelines, *server])


def text(value: object) -> str:
    """Text that a browser shows as it is, in an element or in a quoted attribute."""
    return markup.escape(printable(str(value)))


def _page(title: str, body: Iterable[str], charts: Sequence[Chart]) -> str:
    # Here, lest every command pay for it: plotly is slow to import, and its script is 5 MB.
    from plotly.offline import get_plotlyjs

    scripts = [get_plotlyjs(), _resource("page.js")] if charts else []
    data = [{"id": c.id, "height": c.height, "traces": c.traces, "layout": c.layout} for c in charts]
    lines = [
        "<!DOCTYPE html>",
        '<html lang="en">',
        "<head>",
        '<meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{_policy(scripts)}">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        '<meta name="color-scheme" content="light dark">',
        '<meta name="generator" content="loadgen">',
        f"<title>{text(title)}</title>",
        f"<style>{_resource('page.css')}</style>",
        "</head>",
        "<body>",
        "<main>",
        *body,
        "</main>",
        f'<script type="application/json" id="charts">{_json(data)}</script>',
        *(f"<script>{script}</script>" for script in scripts),
        "</body>",
        "</html>",
    ]
    return "\n".join(lines) + "\n"


def _policy(scripts: Sequence[str]) -> str:
    """Our own scripts and nothing else. plotly.js sets styles in place, and makes pictures of charts as data."""
    digests = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    allowed = " ".join(f"'sha256-{digest}'" for digest in digests) or "'none'"
    rules = ("default-src 'none'", f"script-src {allowed}", "style-src 'unsafe-inline'", "img-src data: blob:")
    return "; ".join((*rules, "base-uri 'none'", "form-action 'none'"))


def _resource(name: str) -> str:
    return (resources.files("loadgen.report") / name).read_text(encoding="utf-8")


def _json(value: Any) -> str:
    """JSON that cannot end the element that it stands in."""
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS).decode().replace("<", "\\u003c")


def _head(summary: Summary) -> list[str]:
    who = dict.fromkeys(f"{stage.model} on {stage.target}" for stage in summary.stages)
    about = [f"{next(iter(who))}" if len(who) == 1 else f"{len(who)} models"]
    about += [f"run {summary.run_id}", summary.started_utc[:16].replace("T", " ") + " UTC"]
    lines = ["<header>", f"<h1>{text(summary.scenario)}</h1>", f'<p class="run">{text(" · ".join(about))}</p>']
    if summary.incomplete:
        lines.append('<p class="banner">Incomplete: the run was cut short. What is shown is what was measured.</p>')
    told = answer(summary)
    if told is None:
        count = sum(stage.status == "played" for stage in summary.stages)
        told = f"Played: {count} of {len(summary.stages)} planned stages."
    return [*lines, f'<div class="answer"><p>{text(told)}</p></div>', "</header>"]


def _main(summary: Summary) -> list[str]:
    table = main_table(summary)
    return ['<section class="card verdict-last">', *_main_table(table), *_notes(table.notes), "</section>"]


def _main_table(table: Table) -> list[str]:
    heads = [(column.title, column.number) for column in table.columns]
    rows = []
    for row in table.rows:
        cells = [f"<s>{text(cell)}</s>" if row.invalid else text(cell) for cell in row.cells[:-1]]
        # The verdict itself is never struck out.
        rows.append((row.invalid, [*cells, _badge(row.cells[-1])]))
    return _table(heads, rows)


def _table(heads: Sequence[tuple[str, bool]], rows: Iterable[tuple[bool, Sequence[str]]]) -> list[str]:
    """A table that scrolls by itself where the page is narrow. Cells are markup already."""
    kinds = [' class="number"' if number else "" for _, number in heads]
    lines = ['<div class="scroll" tabindex="0"><table>', "<thead><tr>"]
    lines += [f"<th{kind}>{text(title)}</th>" for (title, _), kind in zip(heads, kinds, strict=True)]
    lines.append("</tr></thead><tbody>")
    for invalid, cells in rows:
        told = "".join(f"<td{kind}>{cell}</td>" for cell, kind in zip(cells, kinds, strict=True))
        row = '<tr class="invalid">' if invalid else "<tr>"
        lines.append(f"{row}{told}</tr>")
    return [*lines, "</tbody></table></div>"]


def _badge(verdict: str) -> str:
    """A verdict with a mark and a word, so that its color is not needed. verdict: may go on after a comma."""
    kind = verdict.partition(",")[0]
    kind = kind if kind in MARKS else "skipped"
    return f'<span class="badge {kind}">{MARKS[kind]} {text(verdict)}</span>'


def _notes(notes: Sequence[str]) -> list[str]:
    def items(told: Sequence[str]) -> list[str]:
        return ['<ul class="notes">', *(f"<li>{text(note)}</li>" for note in told), "</ul>"] if told else []

    lines = items(notes[:NOTES_SHOWN])
    if len(notes) > NOTES_SHOWN:
        more = items(notes[NOTES_SHOWN:])
        lines += [f"<details><summary>{len(notes) - NOTES_SHOWN} more</summary>", *more, "</details>"]
    return lines


def _start_note(stages: Sequence[ChartStage]) -> str:
    opens = {not one.part.closed for one in stages}
    if opens == {True}:
        return "In this open loop a request's time counts from when it was due, so waiting for our turn is in it."
    return "A request's time counts from when it was sent." if opens == {False} else ""


def _section(title: str, charts: Sequence[Chart], *, note: str = "", key: str = "", columns: int = 2) -> list[str]:
    if not charts:
        return []
    lines = [f"<section><h2>{text(title)}</h2>", key, f'<p class="note">{text(note)}</p>' if note else ""]
    lines.append('<div class="grid two">' if columns == 2 and len(charts) > 1 else '<div class="grid">')
    for chart in charts:
        lines += ['<div class="card plot">', f"<h3>{text(chart.title)}</h3>"]
        lines += [f'<p class="note">{text(chart.note)}</p>'] if chart.note else []
        name = text(f"Chart: {chart.title}")
        lines.append(f'<div class="chart" id="{chart.id}" role="img" aria-label="{name}"></div></div>')
    return [*(line for line in lines if line), "</div></section>"]


def _validity(stages: Sequence[StageSummary]) -> list[str]:
    titles = (
        "stage",
        "verdict",
        "why",
        "stamps",
        "dispatch slip p99",
        "loop lag p99",
        "stamp lag p99",
        "our CPU",
        "server's CPU",
        "achieved",
        "in flight: sampled / recorded",
        "shared reads",
    )
    heads = [(title, place > 3) for place, title in enumerate(titles)]
    rows = []
    alone = len({(stage.model, stage.target) for stage in stages}) == 1
    for stage in stages:
        name = text(format_load(stage.load) if alone else f"{stage.model} on {stage.target}, {format_load(stage.load)}")
        if stage.validity is UNSET:
            why = text(stage.reason if stage.reason is not UNSET else UNKNOWN)
            rows.append((False, [name, _badge("skipped"), _long(why), *[UNKNOWN] * 9]))
            continue
        own, judged = stage.validity.self, stage.validity
        why = "<br>".join(text(f"{reason.seen} (line: {reason.limit})") for reason in judged.reasons)
        flights = f"{format_number(own.in_flight_sampled)} / {format_number(own.in_flight_recorded)}"
        lags = (own.dispatch_slip_p99_ms, own.loop_lag_p99_ms, own.stamp_lag_p99_ms)
        achieved = own.users_share if own.achieved_share is None else own.achieved_share
        told = [judged.stamp_source, *map(format_duration, lags)]
        told += [format_percent(share) for share in (own.cpu_share, own.server_cpu_share, achieved)]
        told += [flights, format_percent(own.shared_reads_share)]
        rows.append((False, [name, _badge(judged.verdict), _long(why or "no line was crossed"), *map(text, told)]))
    table = _table(heads, rows) if rows else ["<p>Nothing was planned.</p>"]
    return ["<section><h2>Can these numbers be believed?</h2>", '<div class="card">', *table, "</div></section>"]


def _long(cell: str) -> str:
    return f'<div class="long">{cell}</div>'


def _server(cards: Sequence[dict[str, Any]]) -> list[str]:
    does = server_table(cards)
    if does is None:
        return []
    heads = [(column.title, column.number) for column in does.columns]
    rows = [(False, [text(row.cells[0]), *map(_long, map(text, row.cells[1:]))]) for row in does.rows]
    body = [*_table(heads, rows), *_notes(does.notes)]
    return ["<section><h2>What this server does</h2>", '<div class="card">', *body, "</div></section>"]


def _cards(cards: Sequence[dict[str, Any]]) -> list[str]:
    if not cards:
        return []
    lines = ["<section><h2>Models</h2>", '<div class="grid two">']
    for card in cards:
        parameters, startup, size = card.get("parameters"), card.get("startup_s"), card.get("size_bytes")
        told = [
            ("served by", card.get("target")),
            ("id", card.get("id")),
            ("size", format_bytes(size) if size is not None else None),
            ("parameters", f"{parameters / 1e6:.0f} M" if parameters is not None else None),
            *((name, card.get(key)) for name, key in (("quantization", "quantization"), ("device", "device"))),
            ("context", f"{card['context_tokens']} tokens" if card.get("context_tokens") else None),
            *((name, card.get(name)) for name in ("license", "publisher")),
            ("start", f"{startup:.1f} s" if startup is not None else None),
            ("settings", ", ".join(f"{key} {value}" for key, value in (card.get("settings") or {}).items())),
        ]
        lines += ['<div class="card">', f"<h3>{text(card.get('alias', '?'))}</h3>", *_facts(told), "</div>"]
    return [*lines, "</div></section>"]


def _facts(told: Iterable[tuple[str, Any]]) -> list[str]:
    """A list of what is known; None and empty text are left out."""
    known = [(name, value) for name, value in told if value not in (None, "")]
    return ["<dl>", *(f"<dt>{text(name)}</dt><dd>{text(value)}</dd>" for name, value in known), "</dl>"]


def _circumstances(manifest: Manifest) -> list[str]:
    host = manifest.host
    machine = [host.get("cpu"), f"{host.get('cores_usable')} of {host.get('cores')} cores"]
    machine += [f"{host.get('memory_mib')} MiB", f"{host.get('system')} {host.get('kernel')} {host.get('machine')}"]
    machine.append(host.get("power"))
    told = [
        ("machine", ", ".join(str(part) for part in machine if part)),
        ("versions", ", ".join(f"{name} {version}" for name, version in manifest.versions.items())),
        ("stamps", f"{manifest.stamp_source}; clock {manifest.clock.get('implementation')}"),
        ("seed", manifest.scenario.get("seed")),
        ("plan", manifest.plan_digest),
        ("state", manifest.state),
        ("commit", manifest.git_commit),
    ]
    foot = "Every number is in summary.json, every request in requests.jsonl, beside this page."
    card = ['<div class="card">', *_facts(told), "</div>"]
    return ["<section><h2>Circumstances</h2>", *card, "</section>", f"<footer>{foot}</footer>"]
