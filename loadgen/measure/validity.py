"""Is a stage to be believed? Facts in, a verdict out, with reasons in words. Knows no files and no terminal.

The lines are those of `docs/metrics.md`: crossing one makes a stage `degraded`, crossing it grossly makes it `invalid`.
"""

from typing import Final, Literal

from msgspec import Struct

Verdict = Literal["valid", "degraded", "invalid"]
Code = Literal[
    "dispatch_slip",
    "loop_lag",
    "stamp_lag",
    "own_cpu",
    "shed",
    "gc_pause",
    "achieved_rate",
    "achieved_users",
    "littles_law",
    "shared_reads",
    "over_range",
    "clock_step",
    "no_window",
    "never_steady",
    "nothing_answered",
    "incomplete",
    "server_died",
    "worker_lost",
    "beyond_calibration",
]
"""Why a stage is not simply valid: the closed set."""

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


class Reason(Struct, frozen=True):
    """One line that was crossed. seen and limit in words with units; advice: what to do."""

    code: Code
    seen: str
    limit: str
    advice: str
    fatal: bool = False


class Evidence(Struct, frozen=True, kw_only=True):
    """What a verdict rests on; None is not known, and not judged. Times in ms; shares of 1, CPU of one core.

    whole: answers came whole, and the latency that a slip is held against is the E2E. achieved_share: of the asked rate
    (open loop). users_share: of the asked users, how many were being answered (closed loop without think time).
    unsteady: how the series of TTFTs never settled. server_ended: how the server ended of itself.
    lost_workers: what became of each receiver process that died.
    beyond: by how much the load was above what this machine was calibrated for.
    """

    stamp_source: str
    ok: int
    complete: bool = True
    ttft_p50_ms: float | None = None
    e2e_p50_ms: float | None = None
    whole: bool = False
    dispatch_slip_p99_ms: float | None = None
    dispatch_slip_p90_ms: float | None = None
    loop_lag_p99_ms: float | None = None
    stamp_lag_p99_ms: float | None = None
    cpu_share: float | None = None
    gc_pause_max_ms: float | None = None
    shed: int = 0
    achieved_share: float | None = None
    users_share: float | None = None
    in_flight_sampled: float | None = None
    in_flight_recorded: float | None = None
    shared_share: float | None = None
    over_range: int = 0
    clock_steps: int = 0
    window_s: float | None = None
    unsteady: str | None = None
    server_ended: str | None = None
    lost_workers: tuple[str, ...] = ()
    beyond: str | None = None


class Judgement(Struct, frozen=True):
    """A verdict and what it rests on."""

    verdict: Verdict
    reasons: tuple[Reason, ...]


def judge(evidence: Evidence) -> Judgement:
    """The verdict on a stage: invalid when any reason is fatal, degraded when there is any other."""
    reasons = (*_of_ourselves(evidence), *_of_the_load(evidence), *_of_the_samples(evidence))
    if any(reason.fatal for reason in reasons):
        return Judgement("invalid", reasons)
    return Judgement("degraded" if reasons else "valid", reasons)


def _of_ourselves(seen: Evidence) -> list[Reason]:
    """Whether the harness was the bottleneck."""
    found: list[Reason] = []
    slip = seen.dispatch_slip_p99_ms
    if slip is not None:
        name, latency = ("E2E", seen.e2e_p50_ms) if seen.whole else ("TTFT", seen.ttft_p50_ms)
        limit = max(SLIP_FLOOR_MS, SLIP_SHARE_OF_TTFT * (latency or 0.0))
        if slip > limit:
            advice = "lower the load, or give the harness a core of its own"
            said = f"≤ {limit:.1f} ms (1 % of the median {name}, at least 1 ms)"
            # One request that the system held up is a blemish; when one in ten is grossly late, the load was another.
            gross = (seen.dispatch_slip_p90_ms or 0.0) > GROSS * limit
            found.append(Reason("dispatch_slip", f"requests left {slip:.1f} ms late (p99)", said, advice, gross))
    found += _late(seen)
    if seen.cpu_share is not None and seen.cpu_share > OWN_CPU:
        advice = "lower the load, or run the harness on another machine"
        used = f"the harness used {seen.cpu_share:.0%} of a core"
        found.append(Reason("own_cpu", used, f"≤ {OWN_CPU:.0%}", advice, seen.cpu_share > OWN_CPU_INVALID))
    if seen.gc_pause_max_ms is not None and seen.gc_pause_max_ms > GC_PAUSE_MS:
        advice = "run fewer requests a stage"
        pause = f"a garbage collection took {seen.gc_pause_max_ms:.1f} ms"
        found.append(Reason("gc_pause", pause, f"≤ {GC_PAUSE_MS:g} ms", advice))
    if seen.clock_steps:
        advice = "run again; keep the clock from being set while a run is on"
        found.append(Reason("clock_step", f"the wall clock was stepped {seen.clock_steps} times", "none", advice, True))
    return found


def _late(seen: Evidence) -> list[Reason]:
    """Whether we looked too late at what had arrived."""
    found: list[Reason] = []
    advice = "lower the load, or give the harness a core of its own"
    lag, limit, gross = seen.loop_lag_p99_ms, LATE_READS_MS, LATE_READS_INVALID_MS
    if seen.stamp_source == "user":
        advice = "stamps are taken in user space here: lower the load, or measure from Linux"
        limit, gross = LOOP_LAG_MS, GROSS * LOOP_LAG_MS
    if lag is not None and lag > limit:
        found.append(
            Reason("loop_lag", f"the event loop was {lag:.1f} ms late (p99)", f"≤ {limit:g} ms", advice, lag > gross)
        )
    lag = seen.stamp_lag_p99_ms
    if lag is not None and lag > LATE_READS_MS:
        told = f"bytes were read {lag:.1f} ms after they had arrived (p99)"
        found.append(Reason("stamp_lag", told, f"≤ {LATE_READS_MS:g} ms", advice, lag > LATE_READS_INVALID_MS))
    return found


def _of_the_load(seen: Evidence) -> list[Reason]:
    """Whether the load that was asked for was there."""
    found: list[Reason] = []
    if seen.shed:
        advice = "raise max_in_flight, or take the shed requests as the answer: the server cannot keep up"
        found.append(Reason("shed", f"{seen.shed} requests were shed at the in-flight limit", "none", advice))
    if seen.achieved_share is not None and seen.achieved_share < ACHIEVED:
        advice = "lower the rate, or give the harness a core of its own"
        got = f"{seen.achieved_share:.1%} of the asked rate"
        found.append(Reason("achieved_rate", got, f"≥ {ACHIEVED:.0%}", advice, seen.achieved_share < ACHIEVED_INVALID))
    if seen.users_share is not None and seen.users_share < USERS:
        advice = "answers are so short that our own turn between them counts: ask for more tokens, or use --workers"
        got = f"{seen.users_share:.1%} of the asked users were being answered"
        found.append(Reason("achieved_users", got, f"≥ {USERS:.0%}", advice, seen.users_share < USERS_INVALID))
    if seen.server_ended is not None:
        advice = "see the server's own last words; what it had answered until then is in the records"
        found.append(Reason("server_died", seen.server_ended, "a server that lives", advice, True))
    for lost in seen.lost_workers:
        advice = "its requests count as cancelled, and the load was smaller than asked: run it again"
        found.append(Reason("worker_lost", lost, "none", advice, True))
    if seen.beyond is not None:
        advice = "lower the load, use --workers, or see with `loadgen calibrate` what this machine holds"
        found.append(Reason("beyond_calibration", seen.beyond, "what was calibrated", advice))
    sampled, recorded = seen.in_flight_sampled, seen.in_flight_recorded
    if sampled and recorded is not None:
        off = abs(sampled - recorded) / sampled
        if off > LITTLE:
            told = f"{sampled:.2f} in flight when sampled, {recorded:.2f} by the records"
            advice = "the records do not explain the load: run longer, or report it as a fault of the harness"
            found.append(Reason("littles_law", told, f"within {LITTLE:.0%}", advice, off > LITTLE_INVALID))
    if seen.window_s is None and seen.ok:
        advice = "ask for more requests a level: at least three times the concurrency"
        found.append(Reason("no_window", "the asked-for load was never in force", "a steady window", advice))
    return found


def _of_the_samples(seen: Evidence) -> list[Reason]:
    """Whether the samples say what they seem to say."""
    found: list[Reason] = []
    if not seen.ok:
        advice = "see the outcomes, and the details in requests.jsonl"
        found.append(Reason("nothing_answered", "no request was answered", "at least one", advice, True))
    if not seen.complete:
        found.append(Reason("incomplete", "the stage was cut short", "all planned requests", "run it again"))
    if seen.unsteady is not None:
        advice = "run longer or lower the load: what is shown depends on how long was measured"
        found.append(Reason("never_steady", seen.unsteady, "a series of TTFTs that settles", advice))
    if seen.shared_share is not None and seen.shared_share > SHARED:
        advice = "read ITL as gaps between reads; TTFT and throughput are not touched"
        told = f"{seen.shared_share:.0%} of the tokens shared a read with the one before"
        found.append(Reason("shared_reads", told, f"≤ {SHARED:.0%}", advice))
    if seen.over_range:
        advice = "shorten the request's deadline below an hour"
        found.append(Reason("over_range", f"{seen.over_range} values below 0 or beyond 1 h", "none", advice, True))
    return found
