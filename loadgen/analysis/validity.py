"""The verdict on a stage, with its reasons in words, from the stage's evidence. Knows no files and no terminal.

`docs/validity.md` lists the limits. A stage that crosses one is `degraded`, or `invalid` if it crosses it by far.
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
"""A number is reported as off from this relative error on. It lies between a sound error (1 %) and a wrong one (5 %):
see benchmarks/verdicts.py."""
OFF_INVALID: Final = 0.25
OFF_INVALID_MS: Final = 10.0
"""A number that is off by less than this makes no stage invalid, however short the answers are."""
LATE_READ_MS: Final = 100.0
"""Kernel stamps are true however late we read. But when we read later than this, the socket's buffer may have been full
and have made the server wait."""
OWN_CPU: Final = 0.5
OWN_CPU_INVALID: Final = 0.9
STAMP_ERROR_MS: Final = 1.0
"""The p99 of a stamp's error up to which `loadgen calibrate` counts a load as within what this machine can handle."""
GC_PAUSE_MS: Final = 1.0
"""A shorter pause is not judged."""
ACHIEVED: Final = 0.99
ACHIEVED_INVALID: Final = 0.9
USERS: Final = 0.95
USERS_INVALID: Final = 0.8
LITTLE: Final = 0.03
LITTLE_INVALID: Final = 0.1
SURE: Final = 1.6
"""By chance, a sampled number is too high by more than this many standard errors in one case of twenty."""
SHARED: Final = 0.1
BUSY: Final = 0.03
BUSY_HOST: Final = 0.1
BUSY_INVALID: Final = 0.25
"""By how much neighbors, or the host of a virtual machine, may lengthen what the server did. A host takes a little time
from most machines, so its limit is higher; benchmarks/neighbors.py."""
KNOWN_SLOWDOWN: Final = 1.0
"""A greater slow-down is not shown as a number. Estimates of 4 to 7.5 were measured where answers took 1.9 to 4 times
as long: waits of threads that share their work add up too far."""
NAMED_SHARE: Final = 0.01
"""A cause with a smaller share than this is not named."""


class Judgment(Struct, frozen=True):
    """A verdict and its reasons."""

    verdict: Verdict
    reasons: tuple[Reason, ...]


def judge(evidence: Evidence) -> Judgment:
    """The verdict on a stage: invalid if any reason is fatal, degraded if there are only others, else valid."""
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
    """A limit that was crossed: the observed value and the limit, in words with units."""

    observed: str
    limit: str
    fatal: bool = False
    """Crossed by so far that the stage is invalid."""


class Rule(Struct, frozen=True):
    """A possible reason not to believe a stage: how to find whether it holds, and what to do if it does."""

    code: Code
    advice: str
    find: Callable[[Evidence], Sequence[Crossing]]


def _above(value: float | None, limit: float, fatal: float, text: str, limit_text: str) -> Sequence[Crossing]:
    """A crossing if the value is above the limit, a fatal one if it is above `fatal`; none if the value is not known.

    text, limit_text: templates of what was observed, with the value, and of the limit.
    """
    if value is None or value <= limit:
        return ()
    return (Crossing(text.format(value), limit_text.format(limit), value > fatal),)


def _below(value: float | None, limit: float, fatal: float, text: str, limit_text: str) -> Sequence[Crossing]:
    """As `_above`, but a crossing if the value is below the limit."""
    if value is None or value >= limit:
        return ()
    return (Crossing(text.format(value), limit_text.format(limit), value < fatal),)


def _off(effect: Effect | None, text: str) -> Sequence[Crossing]:
    """A crossing if a number is off by more than `OFF`. text: a template with the number and by how much it is off."""
    if effect is None or effect.share <= OFF:
        return ()
    by = f"{effect.share:.0%}"
    observed = text.format(number=effect.number, share=by, ms=f"{effect.by_ms:.3g} ms")
    return (Crossing(observed, f"≤ {OFF:.0%}", effect.share > OFF_INVALID and effect.by_ms > OFF_INVALID_MS),)


def _dispatch_slip(evidence: Evidence) -> Sequence[Crossing]:
    if evidence.slip_effect is not None and evidence.slip_effect.number == THROUGHPUT:
        text = "{number} is up to {share} too low, because users waited {ms} for loadgen before each request"
        return _off(evidence.slip_effect, text)
    return _off(evidence.slip_effect, "{number} is up to {share} ({ms}) too high, because requests left late")


def _loop_lag(evidence: Evidence) -> Sequence[Crossing]:
    effect = evidence.lag_effect if evidence.stamp_source == "user" else None
    return _off(effect, "{number} is off by about {share} ({ms}), because the event loop and its stamps were late")


def _gc_pause(evidence: Evidence) -> Sequence[Crossing]:
    if (evidence.gc_pause_max_ms or 0.0) <= GC_PAUSE_MS or evidence.stamp_source == "kernel":
        return ()
    effect = evidence.pause_effect
    crossings = _off(effect, "the {number} may be {share} ({ms}) too high, because garbage was collected meanwhile")
    return [msgspec.structs.replace(crossing, fatal=False) for crossing in crossings]


def _achieved_rate(evidence: Evidence) -> Sequence[Crossing]:
    crossings = _below(evidence.achieved_share, ACHIEVED, ACHIEVED_INVALID, "{:.1%} of the requested rate", "≥ {:.0%}")
    if evidence.achieved_at_best is None or evidence.achieved_at_best < ACHIEVED:
        return crossings
    return ()


def _achieved_users(evidence: Evidence) -> Sequence[Crossing]:
    off = f"throughput is up to {1 - (evidence.users_share or 0.0):.0%} too low"
    text = off + ": {:.1%} of the requested users were being answered"
    return _below(evidence.users_share, USERS, USERS_INVALID, text, "≥ {:.0%}")


def _beyond_calibration(evidence: Evidence) -> Sequence[Crossing]:
    if evidence.beyond is None:
        return ()
    text = f"{evidence.beyond}; beyond that, one stamp in a hundred may be off by more than {STAMP_ERROR_MS:g} ms"
    return (Crossing(text, "what was calibrated"),)


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
    """By about how much the server was slowed, and the causes, in words."""
    causes = [f"{neighbor.name} {neighbor.cpu_share:.0%}" for neighbor in machine.busiest]
    if not causes and machine.neighbors_cpu_share and (machine.slowdown or 0.0) > BUSY:
        causes = [f"programs that came and went {machine.neighbors_cpu_share:.0%}"]
    text = ", ".join(causes) + " of a core" if causes else ""
    if (machine.host_slowdown or 0.0) > BUSY_HOST:
        text = _joined(text, f"the host of this virtual machine took {machine.steal_share:.0%} of a core")
    if (machine.memory_pressure or 0.0) >= NAMED_SHARE:
        text = _joined(text, f"memory was short for {machine.memory_pressure:.0%} of the time")
    slowdown = slowdown_of(machine)
    by = f"about {slowdown:.0%} longer" if slowdown <= KNOWN_SLOWDOWN else "more than half as long again"
    return f"the server took {by} because of other work on this machine ({text})"


def _joined(text: str, more: str) -> str:
    return f"{text}; {more}" if text else more


def _stamp_lag(evidence: Evidence) -> Sequence[Crossing]:
    text = "bytes were read {:.1f} ms after they had arrived (p99)"
    surely_ms, ci_ms = evidence.stamp_lag_p99_ms, evidence.stamp_lag_p99_ci_ms
    if ci_ms is not UNSET:
        surely_ms, text = ci_ms[0], f"bytes were read {ci_ms[0]:.1f} to {ci_ms[1]:.1f} ms after they had arrived (p99)"
    elif evidence.stamp_lag_p99_at_least_ms is not UNSET:
        surely_ms = evidence.stamp_lag_p99_at_least_ms
        text = "bytes were read {:.1f} ms or more after they had arrived (p99)"
    return _above(surely_ms, LATE_READ_MS, LATE_READ_MS, text, "≤ {:g} ms")


def _littles_law(evidence: Evidence) -> Sequence[Crossing]:
    in_flight = evidence.in_flight
    if in_flight is None or not in_flight.sampled:
        return ()
    text = f"{in_flight.sampled:.2f} in flight when sampled, {in_flight.recorded:.2f} by the records"
    off = abs(in_flight.sampled - in_flight.recorded) / in_flight.sampled - SURE * in_flight.error
    return _above(off, LITTLE, LITTLE_INVALID, text, "within {:.0%}")


def _shared_reads(evidence: Evidence) -> Sequence[Crossing]:
    if evidence.held_back is not None:  # the reason `held_back` says more, and gives other advice
        return ()
    text = "{:.0%} of the tokens shared a read with the token before"
    return _above(evidence.shared_reads_share, SHARED, NEVER, text, "≤ {:.0%}")


OWN_CORE: Final = "lower the load, or give loadgen a core of its own"
USER_STAMPS: Final = "lower the load, or measure from Linux, where the kernel takes the stamps"
NEVER: Final = math.inf
"""The `fatal` of a limit that never makes a stage invalid, by however much it is crossed."""

RULES: Final = (
    # Was loadgen the bottleneck?
    Rule("dispatch_slip", OWN_CORE, _dispatch_slip),
    Rule("loop_lag", USER_STAMPS, _loop_lag),
    Rule("stamp_lag", OWN_CORE, _stamp_lag),
    Rule(
        "own_cpu",
        "lower the load, or run loadgen on another machine",
        lambda e: _above(e.cpu_share, OWN_CPU, OWN_CPU_INVALID, "loadgen used {:.0%} of a core", "≤ {:.0%}"),
    ),
    Rule("gc_pause", "run fewer requests in a stage", _gc_pause),
    Rule(
        "clock_step",
        "run again, and prevent the clock from being set during the run",
        lambda e: _above(
            e.clock_steps if e.stamp_source == "kernel" or e.stamp_lag_max_ms is not None else 0,
            *(0, 0, "the wall clock was stepped {} times", "none"),
        ),
    ),
    # Did other programs slow the server?
    Rule("busy_machine", "close the other programs, or wait until they are done, and run it again", _busy_machine),
    # Was the requested load applied?
    Rule(
        "shed",
        "raise max_in_flight, or take the shed requests as the answer: the server cannot keep up",
        lambda e: _above(e.shed, 0, NEVER, "{} requests were shed at the in-flight limit", "none"),
    ),
    Rule("achieved_rate", "lower the rate, or give loadgen a core of its own", _achieved_rate),
    Rule(
        "achieved_users",
        "ask for more tokens, or use --workers: the answers are so short that loadgen's own time between them counts",
        _achieved_users,
    ),
    Rule(
        "server_died",
        "read the server's last output; the requests that it had answered are in the records",
        lambda e: () if e.server_ended is None else (Crossing(e.server_ended, "a running server", fatal=True),),
    ),
    Rule(
        "worker_lost",
        "its requests count as cancelled, and the load was lower than planned; run it again",
        lambda e: [Crossing(lost, "none", fatal=True) for lost in e.lost_workers],
    ),
    Rule(
        "beyond_calibration",
        "lower the load, use --workers, or measure with `loadgen calibrate` what this machine can handle",
        _beyond_calibration,
    ),
    Rule(
        "littles_law",
        "the records do not explain the load; run longer, or report it as a bug in loadgen",
        _littles_law,
    ),
    Rule(
        "no_window",
        "ask for more requests at each level: at least three times the concurrency",
        lambda e: (
            (Crossing("the requested load was never reached", "a steady window"),)
            if e.window_s is None and e.ok
            else ()
        ),
    ),
    # Do the samples mean what they seem to mean?
    Rule(
        "nothing_answered",
        "look at the outcomes, and at `detail` in requests.jsonl",
        lambda e: () if e.ok else (Crossing("no request was answered", "at least one", fatal=True),),
    ),
    Rule(
        "incomplete",
        "run it again",
        lambda e: () if e.complete else (Crossing("the stage was cut short", "all planned requests"),),
    ),
    Rule(
        "never_steady",
        "run longer or lower the load: the numbers depend on how long you measured",
        lambda e: () if e.unsteady is None else (Crossing(e.unsteady, "a series of TTFTs that settles"),),
    ),
    Rule(
        "shared_reads",
        "read ITL as gaps between reads; TTFT and throughput are not affected",
        _shared_reads,
    ),
    Rule(
        "held_back",
        "something between the model and loadgen buffers the stream, such as a proxy or a gateway: turn that off "
        "(nginx: proxy_buffering off), or ask the model's own server; E2E, token counts "
        "and throughput are not affected",
        lambda e: () if e.held_back is None else (Crossing(e.held_back, "at most half of the answers"),),
    ),
    Rule(
        "over_range",
        "shorten the request's deadline below an hour",
        lambda e: _above(e.over_range, 0, 0, "{} values below 0 or beyond 1 h", "none"),
    ),
)
"""All rules, in the order in which reports name their reasons. A new one is an entry here and a code in
`summary.Code`."""


def validity(stage: StageData) -> Validity:
    """The verdict on a stage of one run, its reasons, and the evidence."""
    evidence = evidence_of(stage)
    judgment = judge(evidence)
    own = Self(**{name: getattr(evidence, name) for name in Self.__struct_fields__})
    machine = UNSET if evidence.machine is None else evidence.machine
    return Validity(judgment.verdict, judgment.reasons, evidence.stamp_source, own, machine)
