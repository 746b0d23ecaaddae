"""Is a stage to be believed? Facts in, a verdict out, with reasons in words. Knows no files and no terminal.

The lines are those of `docs/validity.md`: crossing one makes a stage `degraded`, crossing it grossly `invalid`.
"""

import math
from collections.abc import Callable, Sequence
from typing import Final, Literal

import msgspec
from msgspec import Struct

from loadgen.analysis import metric_flags, metrics, stage_steady
from loadgen.analysis.metrics import Ns, Window
from loadgen.analysis.stage import StageData
from loadgen.analysis.summary import Code, Reason, Self, Validity, in_ms, rounded, total
from loadgen.record import StageFacts
from loadgen.store.calibration import beyond

Verdict = Literal["valid", "degraded", "invalid"]

SLIP_FLOOR_MS: Final = 1.0
SLIP_SHARE_OF_TTFT: Final = 0.01
LOOP_LAG_MS: Final = 5.0
"""Where stamps are taken in user space, the event loop's lag is in every one of them."""
LATE_READS_MS: Final = 20.0
LATE_READS_INVALID_MS: Final = 100.0
"""Kernel stamps are true however late we read; but a reader who is so late sends late, and lets tokens pile up."""
OWN_CPU: Final = 0.5
OWN_CPU_INVALID: Final = 0.9
GC_PAUSE_MS: Final = 1.0
ACHIEVED: Final = 0.99
ACHIEVED_INVALID: Final = 0.9
USERS: Final = 0.95
USERS_INVALID: Final = 0.8
LITTLE: Final = 0.02
LITTLE_INVALID: Final = 0.1
SHARED: Final = 0.1
GROSS: Final = 10.0
"""A lateness of so many times its line is not a blemish but the result."""


class Evidence(Self, frozen=True, kw_only=True):
    """What a verdict rests on: what was measured of ourselves, and what came of the stage. None is not known, and not
    judged."""

    stamp_source: str
    ok: int
    """Requests that were answered."""
    complete: bool = True
    ttft_p50_ms: float | None = None
    e2e_p50_ms: float | None = None
    whole: bool = False
    """Answers came whole: the latency that a slip is held against is the E2E."""
    shed: int = 0
    window_s: float | None = None
    unsteady: str | None = None
    """How the series of TTFTs never settled."""
    server_ended: str | None = None
    """How the server ended of itself."""
    lost_workers: tuple[str, ...] = ()
    """What became of each worker that died."""
    beyond: str | None = None
    """By how much the load was above what this machine was calibrated for."""
    held_back: str | None = None
    """How tokens were held back on their way."""


class Judgment(Struct, frozen=True):
    """A verdict and what it rests on."""

    verdict: Verdict
    reasons: tuple[Reason, ...]


def judge(evidence: Evidence) -> Judgment:
    """The verdict on a stage: invalid when any reason is fatal, degraded when there is any other."""
    reasons = tuple(
        Reason(rule.code, crossing.observed, crossing.limit, rule.advice, crossing.fatal)
        for rule in RULES
        for crossing in rule.find(evidence)
    )
    if any(reason.fatal for reason in reasons):
        return Judgment("invalid", reasons)
    return Judgment("degraded" if reasons else "valid", reasons)


class Crossing(Struct, frozen=True):
    """A line that was crossed: what was observed, and what the line is, in words with units."""

    observed: str
    limit: str
    fatal: bool = False
    """Crossed grossly: the stage is not to be believed."""


class Rule(Struct, frozen=True):
    """A reason not to believe a stage: when it holds, and what to do then."""

    code: Code
    advice: str
    find: Callable[[Evidence], Sequence[Crossing]]


def _above(value: float | None, limit: float, fatal: float, text: str, line: str) -> Sequence[Crossing]:
    """Crossed by more than the limit, and grossly by more than `fatal`. text, line: templates of value and limit."""
    if value is None or value <= limit:
        return ()
    return (Crossing(text.format(value), line.format(limit), value > fatal),)


def _below(value: float | None, limit: float, fatal: float, text: str, line: str) -> Sequence[Crossing]:
    """As `_above`, the other way round."""
    if value is None or value >= limit:
        return ()
    return (Crossing(text.format(value), line.format(limit), value < fatal),)


def _dispatch_slip(evidence: Evidence) -> Sequence[Crossing]:
    slip = evidence.dispatch_slip_p99_ms
    name, latency = ("E2E", evidence.e2e_p50_ms) if evidence.whole else ("TTFT", evidence.ttft_p50_ms)
    limit = max(SLIP_FLOOR_MS, SLIP_SHARE_OF_TTFT * (latency or 0.0))
    if slip is None or slip <= limit:
        return ()
    # One request that the system held up is a blemish; when one in ten is grossly late, the load was another.
    fatal = (evidence.dispatch_slip_p90_ms or 0.0) > GROSS * limit
    line = f"≤ {limit:.1f} ms (1 % of the median {name}, at least 1 ms)"
    return (Crossing(f"requests left {slip:.1f} ms late (p99)", line, fatal),)


def _loop_lag(evidence: Evidence, stamp_source: str, limit: float, fatal: float) -> Sequence[Crossing]:
    lag = evidence.loop_lag_p99_ms if evidence.stamp_source == stamp_source else None
    return _above(lag, limit, fatal, "the event loop was {:.1f} ms late (p99)", "≤ {:g} ms")


def _stamp_lag(evidence: Evidence, stamp_source: str) -> Sequence[Crossing]:
    lag = evidence.stamp_lag_p99_ms if evidence.stamp_source == stamp_source else None
    text = "bytes were read {:.1f} ms after they had arrived (p99)"
    return _above(lag, LATE_READS_MS, LATE_READS_INVALID_MS, text, "≤ {:g} ms")


def _littles_law(evidence: Evidence) -> Sequence[Crossing]:
    sampled, recorded = evidence.in_flight_sampled, evidence.in_flight_recorded
    if not sampled or recorded is None:
        return ()
    text = f"{sampled:.2f} in flight when sampled, {recorded:.2f} by the records"
    return _above(abs(sampled - recorded) / sampled, LITTLE, LITTLE_INVALID, text, "within {:.0%}")


def _shared_reads(evidence: Evidence) -> Sequence[Crossing]:
    if evidence.held_back is not None:  # which says more, and gives other advice
        return ()
    text = "{:.0%} of the tokens shared a read with the one before"
    return _above(evidence.shared_reads_share, SHARED, NEVER, text, "≤ {:.0%}")


OWN_CORE: Final = "lower the load, or give the harness a core of its own"
USER_STAMPS: Final = "stamps are taken in user space here: lower the load, or measure from Linux"
NEVER: Final = math.inf
"""Of a line that is never crossed so grossly that a stage is not to be believed."""

RULES: Final = (
    # Was the harness the bottleneck?
    Rule("dispatch_slip", OWN_CORE, _dispatch_slip),
    Rule("loop_lag", OWN_CORE, lambda e: _loop_lag(e, "kernel", LATE_READS_MS, LATE_READS_INVALID_MS)),
    Rule("loop_lag", USER_STAMPS, lambda e: _loop_lag(e, "user", LOOP_LAG_MS, GROSS * LOOP_LAG_MS)),
    Rule("stamp_lag", OWN_CORE, lambda e: _stamp_lag(e, "kernel")),
    Rule("stamp_lag", USER_STAMPS, lambda e: _stamp_lag(e, "user")),
    Rule(
        "own_cpu",
        "lower the load, or run the harness on another machine",
        lambda e: _above(e.cpu_share, OWN_CPU, OWN_CPU_INVALID, "the harness used {:.0%} of a core", "≤ {:.0%}"),
    ),
    Rule(
        "gc_pause",
        "run fewer requests a stage",
        lambda e: _above(e.gc_pause_max_ms, GC_PAUSE_MS, NEVER, "a garbage collection took {:.1f} ms", "≤ {:g} ms"),
    ),
    Rule(
        "clock_step",
        "run again; keep the clock from being set while a run is on",
        lambda e: _above(e.clock_steps, 0, 0, "the wall clock was stepped {} times", "none"),
    ),
    # Was the load that was asked for there?
    Rule(
        "shed",
        "raise max_in_flight, or take the shed requests as the answer: the server cannot keep up",
        lambda e: _above(e.shed, 0, NEVER, "{} requests were shed at the in-flight limit", "none"),
    ),
    Rule(
        "achieved_rate",
        "lower the rate, or give the harness a core of its own",
        lambda e: _below(e.achieved_share, ACHIEVED, ACHIEVED_INVALID, "{:.1%} of the asked rate", "≥ {:.0%}"),
    ),
    Rule(
        "achieved_users",
        "answers are so short that our own turn between them counts: ask for more tokens, or use --workers",
        lambda e: _below(
            e.users_share, USERS, USERS_INVALID, "{:.1%} of the asked users were being answered", "≥ {:.0%}"
        ),
    ),
    Rule(
        "server_died",
        "see the server's own last words; what it had answered until then is in the records",
        lambda e: () if e.server_ended is None else (Crossing(e.server_ended, "a server that lives", fatal=True),),
    ),
    Rule(
        "worker_lost",
        "its requests count as cancelled, and the load was smaller than asked: run it again",
        lambda e: [Crossing(lost, "none", fatal=True) for lost in e.lost_workers],
    ),
    Rule(
        "beyond_calibration",
        "lower the load, use --workers, or see with `loadgen calibrate` what this machine holds",
        lambda e: () if e.beyond is None else (Crossing(e.beyond, "what was calibrated"),),
    ),
    Rule(
        "littles_law",
        "the records do not explain the load: run longer, or report it as a fault of the harness",
        _littles_law,
    ),
    Rule(
        "no_window",
        "ask for more requests a level: at least three times the concurrency",
        lambda e: (
            (Crossing("the asked-for load was never in force", "a steady window"),)
            if e.window_s is None and e.ok
            else ()
        ),
    ),
    # Do the samples say what they seem to say?
    Rule(
        "nothing_answered",
        "see the outcomes, and the details in requests.jsonl",
        lambda e: () if e.ok else (Crossing("no request was answered", "at least one", fatal=True),),
    ),
    Rule(
        "incomplete",
        "run it again",
        lambda e: () if e.complete else (Crossing("the stage was cut short", "all planned requests"),),
    ),
    Rule(
        "never_steady",
        "run longer or lower the load: what is shown depends on how long was measured",
        lambda e: () if e.unsteady is None else (Crossing(e.unsteady, "a series of TTFTs that settles"),),
    ),
    Rule(
        "shared_reads",
        "read ITL as gaps between reads; TTFT and throughput are not touched",
        _shared_reads,
    ),
    Rule(
        "held_back",
        "something between the model and here collects the stream before it passes it on, such as a proxy or a gateway "
        "that buffers (nginx: proxy_buffering off): turn that off, or ask the model's own server; E2E, token counts "
        "and throughput are not touched",
        lambda e: () if e.held_back is None else (Crossing(e.held_back, "at most half of the answers"),),
    ),
    Rule(
        "over_range",
        "shorten the request's deadline below an hour",
        lambda e: _above(e.over_range, 0, 0, "{} values below 0 or beyond 1 h", "none"),
    ),
)
"""All reasons, in the order in which they are named. A new one is a line here and its code in `summary.Code`."""


TELLING_NS: Final = 200_000_000
"""A stage that was shorter, such as one that was stopped before its first request, says nothing of a share of CPU."""

TELLING_WINDOW_S: Final = 2.0
"""In a shorter window, one user's turn may be all that there is."""


def validity(stage: StageData) -> Validity:
    """Whether a stage is to be believed, in one run."""
    evidence = evidence_of(stage)
    judgment = judge(evidence)
    own = msgspec.convert(evidence, Self, from_attributes=True)
    return Validity(judgment.verdict, judgment.reasons, evidence.stamp_source, own)


def evidence_of(stage: StageData) -> Evidence:
    """What the verdict on a stage rests on, from its records and facts."""
    window = stage.steady_window
    late = metrics.slips(stage.measured)
    recorded = metrics.in_flight_recorded(stage.together, window) if window else None
    sources = {record.stamp_source for record in stage.measured if record.stamps_ns or record.outcome == "ok"}
    evidence = Evidence(
        stamp_source="kernel" if sources == {"kernel"} else "user",
        ok=len(stage.ok),
        complete=stage.is_complete,
        ttft_p50_ms=stage.latencies["ttft_ms"].percentile("p50").value,
        e2e_p50_ms=stage.latencies["e2e_ms"].percentile("p50").value,
        whole=bool(stage.ok) and not any(record.stamps_ns for record in stage.ok),
        dispatch_slip_p99_ms=in_ms(_plain_quantile(late, 99)),
        dispatch_slip_p90_ms=in_ms(_plain_quantile(late, 90)),
        shed=sum(record.outcome == "shed" for record in stage.measured),
        in_flight_sampled=rounded(_sampled_in_flight(stage.facts, window)),
        in_flight_recorded=rounded(recorded),
        shared_reads_share=rounded(metrics.shared_share(stage.ok)),
        achieved_share=None if stage.latency_origin == "sent" else rounded(metrics.achieved_share(stage.together)),
        users_share=rounded(_users_share(stage, window, recorded)),
        over_range=sum(histogram.over_range for histogram in stage.histograms.values()),
        window_s=window.length_s if window else None,
        unsteady=stage_steady.in_words(stage.steadiness),
        server_ended=stage.planned.server_ended,
        beyond=_beyond(stage),
        held_back=None if stage.flags.held_back is None else metric_flags.in_words(stage.flags.held_back),
    )
    return evidence if stage.facts is None else _with_facts(evidence, stage.facts)


def _with_facts(evidence: Evidence, facts: StageFacts) -> Evidence:
    """With what the harness saw of itself while the stage ran."""
    return msgspec.structs.replace(
        evidence,
        loop_lag_p99_ms=in_ms(facts.loop_lag_p99_ns),
        loop_lag_max_ms=in_ms(facts.loop_lag_max_ns),
        stamp_lag_p50_ms=in_ms(facts.stamp_lag_p50_ns),
        stamp_lag_p99_ms=in_ms(facts.stamp_lag_p99_ns),
        stamp_lag_max_ms=in_ms(facts.stamp_lag_max_ns),
        cpu_share=round(facts.cpu_share, 4) if facts.end_ns - facts.start_ns >= TELLING_NS else None,
        gc_pause_max_ms=in_ms(facts.gc_pause_max_ns),
        server_cpu_share=total(server.cpu_share for server in facts.servers),
        clock_steps=facts.clock_steps,
        lost_workers=_lost(facts),
    )


def _users_share(stage: StageData, window: Window | None, recorded: float | None) -> float | None:
    """Of the users of a closed loop, how many were being answered on average; None in a window that is too short."""
    if window is None or recorded is None or stage.users is None or window.length_s < TELLING_WINDOW_S:
        return None
    return recorded / stage.users


def _lost(facts: StageFacts) -> tuple[str, ...]:
    """What became of each worker that died."""
    workers = facts.workers
    numbered = enumerate(workers, start=1)
    return tuple(f"process {at} of {len(workers)}: {worker.lost}" for at, worker in numbered if worker.lost is not None)


def _beyond(stage: StageData) -> str | None:
    """By how much the load was more than this machine was calibrated for."""
    streams = max((count for _, count in stage.facts.in_flight_samples), default=None) if stage.facts else None
    return beyond(stage.budget, metrics.peak_events_per_s(stage.together), streams, stage.workers)


def _plain_quantile(ordered: Ns, p: float) -> int | None:
    """Of what we measured of ourselves there is no more than the sample: its nearest rank, without an interval."""
    return int(ordered[math.ceil(p * len(ordered) / 100) - 1]) if len(ordered) else None


def _sampled_in_flight(facts: StageFacts | None, window: Window | None) -> float | None:
    """Mean in flight inside the window, from the independent sampler; None below a hundred samples."""
    if facts is None or window is None:
        return None
    inside = [count for moment, count in facts.in_flight_samples if window.holds(moment)]
    return sum(inside) / len(inside) if len(inside) >= 100 else None
