"""The verdict on a stage, with its reasons in words, from the stage's evidence. Knows no files and no terminal.

`docs/validity.md` lists the limits. A stage that crosses one is `degraded`, or `invalid` if it crosses it by far.
"""

import math
from collections.abc import Callable, Sequence
from typing import Final, Literal

import msgspec
from msgspec import UNSET, Struct

from loadgen.analysis.busy_machine import BUSY_HOST, BUSY_INVALID, busy_text, is_host_alone, slowdown_limit_of
from loadgen.analysis.evidence import Evidence, evidence_of
from loadgen.analysis.own_effects import THROUGHPUT
from loadgen.analysis.reason_codes import RuleCode
from loadgen.analysis.stage import StageData
from loadgen.analysis.summary import Effect, Reason, Self, Validity

StageVerdict = Literal["valid", "degraded", "invalid"]

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


class Judgment(Struct, frozen=True):
    """A verdict and its reasons."""

    verdict: StageVerdict
    reasons: tuple[Reason, ...]


def judge(evidence: Evidence) -> Judgment:
    """The verdict on a stage: invalid if any reason is fatal, degraded if there are only others, else valid."""
    reasons = tuple(
        Reason(
            code=rule.code,
            observed=crossing.observed,
            limit=crossing.limit,
            advice=crossing.advice or rule.advice,
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
    advice: str = ""
    """What to do about this cause; empty: the advice of the rule."""


class Rule(Struct, frozen=True):
    """A possible reason not to believe a stage: how to find whether it holds, and what to do if it does."""

    code: RuleCode
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
    return _off(evidence.slip_effect, "{number} is up to {share} ({ms}) too high, because loadgen sent requests late")


def _loop_lag(evidence: Evidence) -> Sequence[Crossing]:
    effect = evidence.lag_effect if evidence.stamp_source == "user" else None
    return _off(effect, "{number} is off by about {share} ({ms}), because loadgen's event loop took stamps late")


def _gc_pause(evidence: Evidence) -> Sequence[Crossing]:
    if (evidence.gc_pause_max_ms or 0.0) <= GC_PAUSE_MS or evidence.stamp_source == "kernel":
        return ()
    effect = evidence.pause_effect
    crossings = _off(effect, "the {number} may be {share} ({ms}) too high, because loadgen collected garbage meanwhile")
    return [msgspec.structs.replace(crossing, fatal=False) for crossing in crossings]


def _achieved_rate(evidence: Evidence) -> Sequence[Crossing]:
    lacking = 1 - (evidence.achieved_share or 0.0)
    text = f"throughput is up to {lacking:.1%} too low, because loadgen sent only {{:.1%}} of the requested rate"
    crossings = _below(evidence.achieved_share, ACHIEVED, ACHIEVED_INVALID, text, "≥ {:.0%}")
    if evidence.achieved_at_best is None or evidence.achieved_at_best < ACHIEVED:
        return crossings
    return ()


def _achieved_users(evidence: Evidence) -> Sequence[Crossing]:
    off = f"throughput is up to {1 - (evidence.users_share or 0.0):.0%} too low"
    text = off + ", because only {:.1%} of the users were being answered, and the others waited for loadgen"
    return _below(evidence.users_share, USERS, USERS_INVALID, text, "≥ {:.0%}")


def _beyond_calibration(evidence: Evidence) -> Sequence[Crossing]:
    if evidence.beyond is None:
        return ()
    off = f"one TTFT, ITL or E2E in a hundred may be off by more than {STAMP_ERROR_MS:g} ms"
    text = f"{off}, because loadgen took {evidence.beyond}"
    return (Crossing(text, "what was calibrated"),)


def _busy_machine(evidence: Evidence) -> Sequence[Crossing]:
    machine = evidence.machine
    if machine is None or machine.slowdown is None:
        return ()
    host_slowdown = machine.host_slowdown or 0.0
    line = slowdown_limit_of(machine)
    if machine.slowdown <= line and host_slowdown <= BUSY_HOST:
        return ()
    limit = f"≤ {line:.0%}" if machine.slowdown > line else f"≤ {BUSY_HOST:.0%} because of the host"
    advice = BUSY_HOST_ADVICE if is_host_alone(machine) else ""
    return (Crossing(busy_text(machine), limit, machine.slowdown > BUSY_INVALID, advice),)


def _stamp_lag(evidence: Evidence) -> Sequence[Crossing]:
    surely_ms, ci_ms, late = evidence.stamp_lag_p99_ms, evidence.stamp_lag_p99_ci_ms, "{:.1f} ms"
    if ci_ms is not UNSET:
        surely_ms, late = ci_ms[0], f"{ci_ms[0]:.1f} to {ci_ms[1]:.1f} ms"
    elif evidence.stamp_lag_p99_at_least_ms is not UNSET:
        surely_ms, late = evidence.stamp_lag_p99_at_least_ms, "{:.1f} ms or more"
    cause = f"because loadgen read bytes {late} after they had arrived (p99), for which the server may have waited"
    text = f"ITL and E2E may be too high, {UNKNOWN_SIZE}, {cause}"
    return _above(surely_ms, LATE_READ_MS, LATE_READ_MS, text, "≤ {:g} ms")


def _littles_law(evidence: Evidence) -> Sequence[Crossing]:
    in_flight = evidence.in_flight
    if in_flight is None or not in_flight.sampled:
        return ()
    share = abs(in_flight.sampled - in_flight.recorded) / in_flight.sampled
    cause = f"loadgen saw {in_flight.sampled:.2f} requests in flight, and recorded {in_flight.recorded:.2f}"
    text = f"throughput or E2E is off by about {share:.0%}, because {cause}"
    return _above(share - SURE * in_flight.error, LITTLE, LITTLE_INVALID, text, "within {:.0%}")


def _shared_reads(evidence: Evidence) -> Sequence[Crossing]:
    if evidence.held_back is not None:  # the reason `held_back` says more, and gives other advice
        return ()
    effect, shared = (
        evidence.shared_reads_effect,
        "{:.0%} of the tokens reached loadgen in one read with the token before",
    )
    text = f"ITL is off, {UNKNOWN_SIZE}, because {shared}"
    if effect is not None:
        way = "low" if effect.by_ms < 0 else "high"
        off = f"{effect.number} is up to {effect.share:.0%} ({abs(effect.by_ms):.3g} ms) too {way}"
        text = f"{off}, because {shared}"
    return _above(evidence.shared_reads_share, SHARED, NEVER, text, "≤ {:.0%}")


def _own_cpu(evidence: Evidence) -> Sequence[Crossing]:
    used, longer = "loadgen used {:.0%} of a core", evidence.longer_by_own_cpu
    text = f"TTFT, ITL and E2E may be too high, {UNKNOWN_SIZE}, because {used}"
    if longer is not None:
        text = f"TTFT, ITL and E2E are up to {longer:.1%} too high where the server waited for a core, because {used}"
    return _above(evidence.cpu_share, OWN_CPU, OWN_CPU_INVALID, text, "≤ {:.0%}")


def _clock_step(evidence: Evidence) -> Sequence[Crossing]:
    is_stamped_by_it = evidence.stamp_source == "kernel" or evidence.stamp_lag_max_ms is not None
    step_ms = evidence.clock_step_max_ms
    by = UNKNOWN_SIZE if step_ms is None else f"by up to {step_ms:.3g} ms"
    count = evidence.clock_steps
    steps = "once" if count == 1 else f"{count} times"
    text = f"TTFT, ITL and E2E of the requests then in flight are off, {by}, because the system set its clock {steps}"
    return _above(count if is_stamped_by_it else 0, 0, 0, text, "none")


def _shed(evidence: Evidence) -> Sequence[Crossing]:
    shed, count = evidence.shed, max(evidence.shed, evidence.requests)
    of = f"{shed} of {_counted(count, 'request')}"
    lower = f"the load was {shed / max(1, count):.1%} lower than requested, because loadgen shed {of} at max_in_flight"
    return _above(shed, 0, NEVER, f"{lower}, so TTFT and E2E are too low, {UNKNOWN_SIZE}", "none")


def _server_died(evidence: Evidence) -> Sequence[Crossing]:
    if evidence.server_ended is None:
        return ()
    answered = _counted(evidence.ok, "request")
    text = f"{evidence.server_ended}, so throughput and all latencies are of the {answered} that it had answered"
    return (Crossing(f"{text}, and off, {UNKNOWN_SIZE}", "a running server", fatal=True),)


def _worker_lost(evidence: Evidence) -> Sequence[Crossing]:
    share = 1 / max(1, evidence.workers)
    return [
        Crossing(f"throughput is up to {share:.0%} too low, because loadgen lost {lost}", "none", fatal=True)
        for lost in evidence.lost_workers
    ]


def _no_window(evidence: Evidence) -> Sequence[Crossing]:
    if evidence.window_s is not None or not evidence.ok:
        return ()
    text = f"throughput is not known, and TTFT and E2E are off, {UNKNOWN_SIZE}"
    return (Crossing(f"{text}, because the requested load was never reached", "a steady window"),)


def _incomplete(evidence: Evidence) -> Sequence[Crossing]:
    if evidence.complete:
        return ()
    done, planned = evidence.requests, evidence.planned
    after = f" after {done} of {_counted(planned, 'request')}" if planned > done else ""
    text = f"throughput and all latencies may be off, {UNKNOWN_SIZE}, because the stage was cut short{after}"
    return (Crossing(text, "all planned requests"),)


def _held_back(evidence: Evidence) -> Sequence[Crossing]:
    if evidence.held_back is None:
        return ()
    text = f"TTFT is too high, {UNKNOWN_SIZE}, and TPOT and ITL are not known, because {evidence.held_back}"
    return (Crossing(text, "at most half of the answers"),)


def _over_range(evidence: Evidence) -> Sequence[Crossing]:
    of = " and ".join(evidence.over_range_metrics) or "a latency"
    values = f"{_counted(evidence.over_range, 'value')} {'is' if evidence.over_range == 1 else 'are'}"
    off = f"the mean and the highest percentiles of {of} are off, {UNKNOWN_SIZE}"
    text = f"{off}, because {values} below 0 or above 1 h"
    return _above(evidence.over_range, 0, 0, text, "none")


def _counted(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


OWN_CORE: Final = "lower the load, or give loadgen a core of its own"
NOTHING: Final = "no request was answered, so no latency and no throughput is known"
UNKNOWN_SIZE: Final = "by how much is not known"
USER_STAMPS: Final = "lower the load, or measure from Linux, where the kernel takes the stamps"
BUSY_HOST_ADVICE: Final = (
    "run it again later, or on a machine of your own: the host's other guests cannot be closed from here"
)
NEVER: Final = math.inf
"""The `fatal` of a limit that never makes a stage invalid, by however much it is crossed."""

RULES: Final = (
    # Was loadgen the bottleneck?
    Rule("dispatch_slip", OWN_CORE, _dispatch_slip),
    Rule("loop_lag", USER_STAMPS, _loop_lag),
    Rule("stamp_lag", OWN_CORE, _stamp_lag),
    Rule("own_cpu", "lower the load, or run loadgen on another machine", _own_cpu),
    Rule("gc_pause", "run fewer requests in a stage", _gc_pause),
    Rule("clock_step", "run again, and prevent the clock from being set during the run", _clock_step),
    # Did other programs slow the server?
    Rule("busy_machine", "close the other programs, or wait until they are done, and run it again", _busy_machine),
    # Was the requested load applied?
    Rule(
        "shed",
        "raise max_in_flight, or take the shed requests as the answer: the server cannot keep up",
        _shed,
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
        _server_died,
    ),
    Rule(
        "worker_lost",
        "its requests count as cancelled, and the load was lower than planned; run it again",
        _worker_lost,
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
        _no_window,
    ),
    # Do the samples mean what they seem to mean?
    Rule(
        "nothing_answered",
        "look at the outcomes, and at `detail` in requests.jsonl",
        lambda e: () if e.ok else (Crossing(NOTHING, "at least one", fatal=True),),
    ),
    Rule("incomplete", "run it again", _incomplete),
    Rule(
        "never_steady",
        "run longer or lower the load: the numbers depend on how long you measured",
        lambda e: () if e.unsteady is None else (Crossing(e.unsteady, "latencies that settle"),),
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
        _held_back,
    ),
    Rule("over_range", "shorten the request's deadline below an hour", _over_range),
)
"""All rules, in the order in which reports name their reasons. A new one is an entry here and a code in
`reason_codes.RuleCode`."""


def validity(stage: StageData) -> Validity:
    """The verdict on a stage of one run, its reasons, and the evidence."""
    evidence = evidence_of(stage)
    judgment = judge(evidence)
    own = Self(**{name: getattr(evidence, name) for name in Self.__struct_fields__})
    machine = UNSET if evidence.machine is None else evidence.machine
    return Validity(judgment.verdict, judgment.reasons, evidence.stamp_source, own, machine)
