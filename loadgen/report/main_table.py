"""The one table that answers "how many at once, at what tail", and what must stand under it. Pure; no format."""

import itertools
from collections.abc import Sequence
from typing import Final

from msgspec import UNSET

from loadgen.analysis.summary import Requests, StageSummary, Summary, Throughput, Until, Validity
from loadgen.report.format import (
    UNKNOWN,
    format_duration,
    format_load,
    format_minutes,
    format_number,
    format_percent,
    format_percentile,
)
from loadgen.report.section import Column, Row, Table, stage_name
from loadgen.stats.quantile import MIN_CLUSTERS, Floor, floor_of

DEFAULT_ATTAINMENT: Final = 0.9
"""The share of requests that must meet the SLO for a level to be called good, where the scenario sets no gate."""
SHOWN: Final = (("ttft_ms", "p50"), ("ttft_ms", "p90"), ("ttft_ms", "p99"), ("tpot_ms", "p50"), ("itl_ms", "p99"))
ITL_SHOWN: Final = tuple(name for metric, name in SHOWN if metric == "itl_ms")
SKIPPED: Final = "skipped"
DAGGER: Final = "†"
"""After a number that does not mean what its heading says on this server."""
TITLES: Final = {
    "output_tokens_per_s": "tok/s",
    "per_user_tokens_per_s": "tok/s/user",
    "e2e_tokens_per_s": "tok/s E2E",
    "goodput_requests_per_s": "goodput",
    "prompt_tokens": "prompt tokens",
    "slo": "SLO met",
}
WHOLE: Final = "answers came whole (stream = false): no TTFT, ITL or TPOT is known, and no SLO on them is judged"

CLOSED: Final = (
    "closed loop: users wait for their answers, so a stall of the server shows in no more requests than there were "
    "users, and no latency at a given rate of arrivals is bounded by these; for that, play an open loop (--rate)"
)
REPEATED: Final = (
    "{count} runs of one plan: percentiles are those of a typical run, rates the mean of the runs, and each interval "
    "comes from how the runs differ, however many requests they had"
)
HIDDEN: Final = 1.1
"""A TTFT p99 from the intended time that is so many times the one from the send hides something in the latter."""


def main_table(summary: Summary) -> Table:
    """One row a stage. A column in which nothing is known, or all is alike, is left out."""
    heads = [*(Column(title, "text") for title in ("model", "served by", "load")), Column("ok")]
    heads += [Column(f"{metric.removesuffix('_ms').upper()} {name}") for metric, name in SHOWN]
    heads += [Column(title) for title in ("E2E p50", "tok/s", "tok/s/user", "tok/s E2E", "SLO met", "memory")]
    heads += [Column("verdict", "verdict")]
    rows = [_row(summary, stage) for stage in summary.stages]
    keep = [i for i, head in enumerate(heads) if _worth_showing(i, head, rows)]
    return Table(
        columns=tuple(heads[i] for i in keep),
        rows=tuple(Row(tuple(row.cells[i] for i in keep), row.invalid) for row in rows),
        notes=notes(summary),
    )


def _worth_showing(index: int, head: Column, rows: Sequence[Row]) -> bool:
    cells = {row.cells[index] for row in rows}
    if head.title in {"model", "served by"}:
        return len(cells) > 1
    return head.title not in {"tok/s E2E", "SLO met", "memory"} or cells != {UNKNOWN}


def _row(summary: Summary, stage: StageSummary) -> Row:
    who = (stage.model, stage.target, format_load(stage.load))
    if stage.metrics is UNSET or stage.requests is UNSET or stage.throughput is UNSET or stage.validity is UNSET:
        return Row((*who, *[UNKNOWN] * (len(SHOWN) + 7), SKIPPED))
    requests, throughput, measured = stage.requests, stage.throughput, stage.metrics
    return Row(
        (
            *who,
            f"{requests.ok}/{requests.planned}",
            *(marked(stage, metric, format_percentile(measured[metric], name)) for metric, name in SHOWN),
            marked(stage, "e2e_ms", format_percentile(measured["e2e_ms"], "p50")),
            marked(stage, "output_tokens_per_s", format_number(throughput.output_tokens_per_s)),
            marked(stage, "per_user_tokens_per_s", format_number(throughput.per_user_tokens_per_s)),
            # Beside the pace of a stream it would be one number too many; where answers come whole it is all there is.
            UNKNOWN
            if summary.streamed
            else marked(stage, "e2e_tokens_per_s", format_number(throughput.e2e_tokens_per_s)),
            marked(stage, "slo", format_percent(stage.slo.share)) if stage.slo else UNKNOWN,
            _memory(stage.peak_mib),
            stage.validity.verdict + (", incomplete" if stage.incomplete else ""),
        ),
        invalid=stage.validity.verdict == "invalid",
    )


def marked(stage: StageSummary, metric: str, cell: str) -> str:
    """A cell, with a dagger where its metric is not valid on this server."""
    return f"{cell} {DAGGER}" if metric in stage.not_valid else cell


def _not_valid(stage: StageSummary, who: str) -> list[str]:
    """What the daggers mean: a line a reason."""
    by_reason: dict[str, list[str]] = {}
    for metric, why in stage.not_valid.items():
        by_reason.setdefault(why, []).append(TITLES.get(metric, metric.removesuffix("_ms").upper()))
    return [f"{DAGGER} {who}: {', '.join(titles)}: {why}" for why, titles in by_reason.items()]


def _memory(peak_mib: float | None) -> str:
    return UNKNOWN if peak_mib is None else f"{peak_mib:.0f} MiB"


def notes(summary: Summary) -> tuple[str, ...]:
    """What the table must not be read without: bounds, reasons, failures, skipped models."""
    found = []
    if summary.incomplete:
        found.append("incomplete: the run was cut short; what is shown is what was measured")
    if summary.torn_lines:
        found.append(f"{summary.torn_lines} torn lines of the logs could not be read")
    if not summary.streamed:
        found.append(WHOLE)
    if summary.runs:
        found.append(REPEATED.format(count=len(summary.runs)))
    found += _bounds(summary.stages, "strict" if summary.floor == "strict" else "contract", each=bool(summary.runs))
    if any(stage.load["mode"] == "closed" and stage.status != SKIPPED for stage in summary.stages):
        found.append(CLOSED)
    for stage in summary.stages:
        if stage.runs is not None and stage.runs.played < len(summary.runs):
            found.append(f"{stage_name(stage)}: played in {stage.runs.played} of {len(summary.runs)} runs")
        found += _of_stage(stage)
    return tuple(dict.fromkeys(found))


def _bounds(stages: Sequence[StageSummary], floor: Floor, *, each: bool) -> list[str]:
    """For each percentile shown as a bound: how many requests, and about how long, would make it known; in each of
    several runs."""
    found = []
    for name in ("p50", "p90", "p95", "p99"):
        open_ones = [stage for stage in stages if _is_bound(stage, "ttft_ms", name) or _is_bound(stage, "e2e_ms", name)]
        if not open_ones or (name == "p95" and not any(shown == ("ttft_ms", "p95") for shown in SHOWN)):
            continue
        needed = floor_of(float(name[1:]), floor)
        longest = [_seconds_for(stage, needed) for stage in open_ones]
        took = [seconds for seconds in longest if seconds is not None]
        about = f", {format_minutes(max(took))} a level at this pace" if took else ""
        where = "a level in each run" if each else "a level"
        found.append(f"≥ at {name}: {needed:,} answered requests {where} would make it known{about}")
    few = [stage for stage in stages if _is_bound(stage, "itl_ms", "p50") and _ok(stage) < MIN_CLUSTERS]
    if few:
        found.append(f"– at ITL: tokens of fewer than {MIN_CLUSTERS} requests bound no percentile")
    if any(_is_bound(stage, "itl_ms", name) and _ok(stage) >= MIN_CLUSTERS for stage in stages for name in ITL_SHOWN):
        found.append("≥ or – at ITL: the gaps of one request are alike; it takes more requests to make this percentile")
    return found


def _ok(stage: StageSummary) -> int:
    return stage.requests.ok if isinstance(stage.requests, Requests) else 0


def _is_bound(stage: StageSummary, metric: str, name: str) -> bool:
    latency = stage.metric(metric)
    return latency is not None and latency.count > 0 and latency.percentile(name).value is None


def _seconds_for(stage: StageSummary, needed: int) -> float | None:
    rate = stage.throughput.requests_per_s if isinstance(stage.throughput, Throughput) else None
    return needed / rate if rate else None


def _of_stage(stage: StageSummary) -> list[str]:
    who = f"{stage.model} on {stage.target}"
    if stage.status == SKIPPED:
        return [f"{who}: skipped: {stage.reason}"]
    found = _not_valid(stage, who)
    where = stage_name(stage)
    if isinstance(stage.requests, Requests) and stage.requests.failed:
        told = ", ".join(f"{count} {name}" for name, count in stage.requests.by_outcome.items() if name != "ok")
        answered = 100 * stage.requests.ok // stage.requests.planned
        found.append(f"{where}: {told}; of all that were planned, no latency beyond p{answered} is known")
    if isinstance(stage.requests, Requests) and stage.requests.retried:
        told = f"{stage.requests.retried} requests were asked again, {stage.requests.attempts} attempts in all"
        found.append(f"{where}: {told}; the waits between them count in the latencies")
    found += _from_send(stage, where)
    if stage.until is not None:
        found.append(f"{where}: {_until(stage.until)}")
    if isinstance(stage.validity, Validity):
        verdict = stage.validity.verdict
        found += [f"{where}: {verdict}: {r.seen} (line: {r.limit}); {r.advice}" for r in stage.validity.reasons]
    return found


def _until(until: Until) -> str:
    """How far a stage came in what it waited for."""
    name = f"{until.metric.upper()} {until.percentile}"
    asked, count = f"±{100 * until.asked:.3g} %", f"{until.requests:,} answered requests"
    width = None if until.width is None else f"±{100 * until.width:.3g} %"
    at = f"{name} is known to {width} (asked: {asked})" if width else f"{name} is not bounded (asked: {asked})"
    if until.needed is None:
        return f"{'ended early: ' if until.early else ''}{at} after {count}"
    return f"{at} after {count}, and no more were to be played: about {_about(until.needed)} would do"


def _about(count: int) -> str:
    """A number of which two digits are meant."""
    digits = max(0, len(str(count)) - 2)
    return f"{-(-count // 10**digits) * 10**digits:,}"


def _from_send(stage: StageSummary, where: str) -> list[str]:
    """What counting from the send would have hidden."""
    due, sent = stage.metric("ttft_ms"), stage.metric("ttft_from_send_ms")
    if due is None or sent is None:
        return []
    name, from_due, from_send = "p99", due.percentile("p99").value, sent.percentile("p99").value
    if from_due is None or from_send is None:
        name, from_due, from_send = "max", due.max, sent.max
    if from_due is None or from_send is None or from_due < HIDDEN * from_send:
        return []
    text = f"the TTFT's {name} is {format_duration(from_due)} from when requests were due"
    return [f"{where}: {text}; counted from the send, as most tools do, it would be {format_duration(from_send)}"]


def answer(summary: Summary) -> str | None:
    """How many at once, in one sentence a model; None without an SLO or closed-loop levels."""
    told = []
    for model, target in dict.fromkeys((stage.model, stage.target) for stage in summary.stages):
        mine = [stage for stage in summary.stages if (stage.model, stage.target) == (model, target) and stage.slo]
        closed = [stage for stage in mine if stage.load["mode"] == "closed"]
        if closed:
            told.append(_answer_for(f"{model} on {target}", closed))
    return " ".join(told) or None


def _answer_for(who: str, stages: Sequence[StageSummary]) -> str:
    """The most users up to whom every level was believable, and had the asked share of requests within the SLO."""
    slo = next(stage.slo for stage in stages if stage.slo is not None)
    asked = ", ".join(
        f"{name.removesuffix('_ms').upper()} ≤ {format_duration(limit)}" for name, limit in slo.slo.items()
    )
    needed = slo.attainment or DEFAULT_ATTAINMENT
    share = f"at least {needed:.0%} of the requests met {asked}"
    ordered = sorted(stages, key=lambda stage: int(stage.load["concurrency"]))
    good = [stage.load["concurrency"] for stage in itertools.takewhile(lambda s: _is_good(s, needed), ordered)]
    if not good:
        return f"{who}: at no level that was played {share}."
    users = "one user at a time" if good[-1] == 1 else f"up to {good[-1]} users at once"
    more = ", the most that was played" if len(good) == len(ordered) else ""
    return f"{who}: {share} with {users}{more}."


def _is_good(stage: StageSummary, needed: float) -> bool:
    believable = isinstance(stage.validity, Validity) and stage.validity.verdict != "invalid"
    return believable and stage.slo is not None and stage.slo.share >= needed
