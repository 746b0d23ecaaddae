"""Is a stage to be believed? Facts in, a verdict out, with reasons in words. Knows no files and no terminal.

The lines are those of `docs/validity.md`: crossing one makes a stage `degraded`, crossing it grossly `invalid`.
"""

import math
from collections.abc import Callable, Sequence
from typing import Final, Literal

import msgspec
from msgspec import UNSET, Struct

from loadgen.analysis.evidence import Evidence, evidence_of
from loadgen.analysis.own_effects import THROUGHPUT
from loadgen.analysis.stage import StageData
from loadgen.analysis.summary import Code, Effect, Reason, Self, Validity
from loadgen.record import MachineFacts

Verdict = Literal["valid", "degraded", "invalid"]

OFF: Final = 0.03
"""By so much a number is called off: between what is sound (1 %) and what is wrong (5 %); benchmarks/verdicts.py."""
OFF_INVALID: Final = 0.25
OFF_INVALID_MS: Final = 10.0
"""What is off by less than this is not called invalid, however short the answers are."""
HELD_BACK_MS: Final = 100.0
"""Kernel stamps are true however late we read; a reader who is later than this may have held the server back, whose
bytes then found the socket full."""
OWN_CPU: Final = 0.5
OWN_CPU_INVALID: Final = 0.9
GC_PAUSE_MS: Final = 1.0
"""A shorter pause is not looked at."""
ACHIEVED: Final = 0.99
ACHIEVED_INVALID: Final = 0.9
USERS: Final = 0.95
USERS_INVALID: Final = 0.8
LITTLE: Final = 0.03
LITTLE_INVALID: Final = 0.1
SURE: Final = 1.6
"""So many standard errors a sampled number is too high by chance in one of twenty."""
SHARED: Final = 0.1
BUSY: Final = 0.03
BUSY_HOST: Final = 0.1
BUSY_INVALID: Final = 0.25
"""Of how much longer the server took because of its neighbors, and because of the host of a virtual machine, which
takes a little from most of them; benchmarks/neighbors.py."""
NAMED_SHARE: Final = 0.01
"""A cause of less than this is not named."""


class Judgment(Struct, frozen=True):
    """A verdict and what it rests on."""

    verdict: Verdict
    reasons: tuple[Reason, ...]


def judge(evidence: Evidence) -> Judgment:
    """The verdict on a stage: invalid when any reason is fatal, degraded when there is any other."""
    reasons = tuple(
        Reason(
            code=rule.code,
            observed=crossing.observed,
            limit=crossing.limit,
            advice=rule.advice,
            fatal=crossing.fatal,
        )
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


def _off(effect: Effect | None, text: str) -> Sequence[Crossing]:
    """A number that is off. text: a template of the number, and by how much it is off."""
    if effect is None or effect.share <= OFF:
        return ()
    by = f"{effect.share:.0%}"
    observed = text.format(number=effect.number, share=by, ms=f"{effect.by_ms:.3g} ms")
    return (Crossing(observed, f"≤ {OFF:.0%}", effect.share > OFF_INVALID and effect.by_ms > OFF_INVALID_MS),)


def _dispatch_slip(evidence: Evidence) -> Sequence[Crossing]:
    if evidence.slip_effect is not None and evidence.slip_effect.number == THROUGHPUT:
        return _off(
            evidence.slip_effect, "{number} is up to {share} too low: users waited {ms} for us before each request"
        )
    return _off(evidence.slip_effect, "{number} is up to {share} ({ms}) too high: requests left late")


def _loop_lag(evidence: Evidence) -> Sequence[Crossing]:
    effect = evidence.lag_effect if evidence.stamp_source == "user" else None
    return _off(effect, "{number} is up to {share} ({ms}) too high: the event loop was late, and so were its stamps")


def _gc_pause(evidence: Evidence) -> Sequence[Crossing]:
    if (evidence.gc_pause_max_ms or 0.0) <= GC_PAUSE_MS or evidence.stamp_source == "kernel":
        return ()
    effect = evidence.pause_effect
    crossings = _off(effect, "the {number} may be {share} ({ms}) too high: garbage was collected meanwhile")
    return [msgspec.structs.replace(crossing, fatal=False) for crossing in crossings]


def _achieved_rate(evidence: Evidence) -> Sequence[Crossing]:
    crossings = _below(evidence.achieved_share, ACHIEVED, ACHIEVED_INVALID, "{:.1%} of the asked rate", "≥ {:.0%}")
    if evidence.achieved_at_best is None or evidence.achieved_at_best < ACHIEVED:
        return crossings
    return ()


def _busy_machine(evidence: Evidence) -> Sequence[Crossing]:
    machine = evidence.machine
    if machine is None or machine.slowdown is None:
        return ()
    host_slowdown = machine.host_slowdown or 0.0
    if machine.slowdown <= BUSY and host_slowdown <= BUSY_HOST:
        return ()
    limit = f"≤ {BUSY:.0%}" if machine.slowdown > BUSY else f"≤ {BUSY_HOST:.0%} because of the host"
    return (Crossing(busy_text(machine), limit, machine.slowdown > BUSY_INVALID),)


def slowdown_of(machine: MachineFacts) -> float:
    """By how much neighbors and the host of the virtual machine together lengthened what the server did."""
    host_slowdown = machine.host_slowdown or 0.0
    return (1 + (machine.slowdown or 0.0)) * (1 + (host_slowdown if host_slowdown > BUSY_HOST else 0.0)) - 1


def busy_text(machine: MachineFacts) -> str:
    """What slowed the server, and by about how much, in words."""
    causes = [f"{neighbor.name} {neighbor.cpu_share:.0%}" for neighbor in machine.busiest]
    if not causes and machine.neighbors_cpu_share and (machine.slowdown or 0.0) > BUSY:
        causes = [f"programs that came and went {machine.neighbors_cpu_share:.0%}"]
    text = ", ".join(causes) + " of a core" if causes else ""
    if (machine.host_slowdown or 0.0) > BUSY_HOST:
        text = _joined(text, f"the host of this virtual machine took {machine.steal_share:.0%} of a core")
    if (machine.memory_pressure or 0.0) >= NAMED_SHARE:
        text = _joined(text, f"memory was short for {machine.memory_pressure:.0%} of the time")
    return f"what the server did took about {slowdown_of(machine):.0%} longer because of what else ran here ({text})"


def _joined(text: str, more: str) -> str:
    return f"{text}; {more}" if text else more


def _stamp_lag(evidence: Evidence) -> Sequence[Crossing]:
    text = "bytes were read {:.1f} ms after they had arrived (p99)"
    return _above(evidence.stamp_lag_p99_ms, HELD_BACK_MS, HELD_BACK_MS, text, "≤ {:g} ms")


def _littles_law(evidence: Evidence) -> Sequence[Crossing]:
    in_flight = evidence.in_flight
    if in_flight is None or not in_flight.sampled:
        return ()
    text = f"{in_flight.sampled:.2f} in flight when sampled, {in_flight.recorded:.2f} by the records"
    off = abs(in_flight.sampled - in_flight.recorded) / in_flight.sampled - SURE * in_flight.error
    return _above(off, LITTLE, LITTLE_INVALID, text, "within {:.0%}")


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
    Rule("loop_lag", USER_STAMPS, _loop_lag),
    Rule("stamp_lag", OWN_CORE, _stamp_lag),
    Rule(
        "own_cpu",
        "lower the load, or run the harness on another machine",
        lambda e: _above(e.cpu_share, OWN_CPU, OWN_CPU_INVALID, "the harness used {:.0%} of a core", "≤ {:.0%}"),
    ),
    Rule("gc_pause", "run fewer requests a stage", _gc_pause),
    Rule(
        "clock_step",
        "run again; keep the clock from being set while a run is on",
        lambda e: _above(
            e.clock_steps if e.stamp_source == "kernel" or e.stamp_lag_max_ms is not None else 0,
            *(0, 0, "the wall clock was stepped {} times", "none"),
        ),
    ),
    # Who else was there?
    Rule("busy_machine", "close what else runs here, or wait until it is done, and run it again", _busy_machine),
    # Was the load that was asked for there?
    Rule(
        "shed",
        "raise max_in_flight, or take the shed requests as the answer: the server cannot keep up",
        lambda e: _above(e.shed, 0, NEVER, "{} requests were shed at the in-flight limit", "none"),
    ),
    Rule("achieved_rate", "lower the rate, or give the harness a core of its own", _achieved_rate),
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


def validity(stage: StageData) -> Validity:
    """Whether a stage is to be believed, in one run."""
    evidence = evidence_of(stage)
    judgment = judge(evidence)
    own = msgspec.convert(evidence, Self, from_attributes=True)
    machine = UNSET if evidence.machine is None else evidence.machine
    return Validity(judgment.verdict, judgment.reasons, evidence.stamp_source, own, machine)
