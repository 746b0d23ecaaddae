"""How often a verdict on our own lateness is wrong: simulated stages whose truth is known, judged by rule old and new.

    .venv/bin/python -m benchmarks.verdicts --stages 2000

Each stage is simulated twice with the same requests: as it was played, late as a busy harness is, and as it would have
been without our lateness. It is sound when no number that it shows is off by more than 1 %, and wrong when one is off
by 5 % or more. Printed for each kind of stage: how many sound ones were called degraded, and how many wrong ones were
not, by the rules before (the p99 of a slip above max(1 ms, 1 % of the TTFT); of the loop's lag above 5 ms; in flight
within 2 %; 99 % of the rate) and by those of `loadgen.analysis.validity`. What lies between is neither. A stage of
which the report says that too few requests tell whether it was steady is not called degraded, but passes for no sound
one.
"""

import argparse
import heapq
import math
from collections.abc import Callable, Sequence
from typing import Final

import msgspec
import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from loadgen.analysis.own_effects import pause_effect
from loadgen.analysis.stage import StageData
from loadgen.analysis.validity import validity
from loadgen.plan.plan import StageLoad
from loadgen.record import LAG_PERCENTILES, Record, StageFacts
from loadgen.store.manifest import PlannedStage

Chance = np.random.Generator
Ms = NDArray[np.float64]
SOUND: Final = 0.01
WRONG: Final = 0.05
TICK_MS: Final = 20.0


class Played(Struct, frozen=True):
    """A simulated stage as it is judged. off: by how much the number that is most off is off."""

    stage: StageData
    off: float


class Ticks(Struct, frozen=True):
    """What the observer's ticks saw of the loop's lateness, ms. short: the lags without stalls. stalls: (when each
    ended, for how long)."""

    lags: Ms
    short: Ms
    stalls: tuple[tuple[float, float], ...] = ()


class Requests(Struct, frozen=True):
    """Times of each request, ms."""

    intended: Ms
    dispatched: Ms
    first: Ms
    end: Ms


def lateness(chance: Chance, count: int, scale: float) -> Ms:
    """How late so many events of a harness are: mostly little, and now and then much."""
    late = chance.exponential(scale, count)
    held_up = chance.random(count) < chance.choice([0.0, 0.01, 0.05])
    return np.where(held_up, late + chance.uniform(1, 12, count), late)


def record_of(index: int, times: Requests, tokens: Ms | None, source: str) -> Record:
    first, end = times.first[index], times.end[index]
    stamps = (first, end) if tokens is None else tokens
    return Record(
        outcome="ok",
        status=200,
        dispatched_ns=_ns(times.dispatched[index]),
        sent_ns=_ns(times.dispatched[index]),
        written_ns=_ns(times.dispatched[index]),
        end_ns=_ns(end),
        last_byte_ns=_ns(end),
        first_visible_ns=_ns(first),
        stamps_ns=tuple(map(_ns, stamps)),
        stamp_source="kernel" if source == "kernel" else "user",
        output_tokens=len(stamps),
        token_source="usage",
        model="m",
        target="t",
        level="l",
        index=index,
        phase="measured",
        prompt_id="p",
        intended_ns=_ns(times.intended[index]),
    )


def stage_of(
    times: Requests,
    load: StageLoad,
    *,
    source: str = "kernel",
    tokens: Sequence[Ms] | None = None,
    ticks: Ticks | None = None,
    in_flight: tuple[tuple[int, int], ...] = (),
) -> StageData:
    count = len(times.intended)
    records = tuple(record_of(i, times, None if tokens is None else tokens[i], source) for i in range(count))
    facts = StageFacts(
        models=("m",),
        targets=("t",),
        level="l",
        start_ns=0,
        end_ns=_ns(times.end.max()),
        complete=True,
        cpu_share=0.05,
        timer_slack_ns=0,
        in_flight_samples=in_flight,
    )
    if ticks is not None:
        facts = msgspec.structs.replace(
            facts,
            loop_lag_p99_ns=_ns(np.percentile(ticks.lags, 99)),
            loop_lag_max_ns=_ns(ticks.lags.max()),
            loop_lags_ns=at_percentiles(ticks.lags),
            loop_short_lags_ns=at_percentiles(ticks.short),
            loop_stalls_ns=tuple((_ns(end), _ns(length)) for end, length in ticks.stalls),
        )
    planned = PlannedStage("m", "t", "l", load, planned=count, warmup=0)
    return StageData(planned=planned, measured=records, warmup=(), together=records, facts=facts)


def at_percentiles(lags: Ms) -> tuple[int, ...]:
    return tuple(map(_ns, np.percentile(lags, LAG_PERCENTILES)))


def _ns(ms: float) -> int:
    return round(float(ms) * 1e6)


# --- closed loops: a late request takes away load ---------------------------------------------------------------------


def closed(chance: Chance) -> Played:
    users = int(chance.choice([1, 2, 4, 8]))
    count = max(12, users * int(chance.choice([6, 12, 50])))
    slots = int(chance.choice([2, 1000]))
    answers = chance.lognormal(math.log(chance.choice([20, 100, 400, 2000])), 0.3, count)
    late = lateness(chance, count, chance.choice([0.05, 0.3, 1.0, 5.0, 20.0]))
    shown, true = play_closed(answers, late, users, slots), play_closed(answers, np.zeros(count), users, slots)
    # Users who ask late are a smaller load: throughput is lower, or the server's queue is shorter. Of latencies the
    # mean: a percentile of few moves with any change of the order in which a queue takes them.
    lost, shorter = 1 - true.end.max() / shown.end.max(), 1 - mean_answer(shown) / mean_answer(true)
    return Played(stage_of(shown, StageLoad("closed", users)), max(lost, shorter))


def mean_answer(times: Requests) -> float:
    return float((times.end - times.dispatched).mean())


def play_closed(answers: Ms, late: Ms, users: int, slots: int) -> Requests:
    """Users who ask again as soon as they are answered, of a server that answers so many at once."""
    ready = [(0.0, user) for user in range(users)]
    free = [0.0] * min(slots, len(answers))
    times = np.zeros((4, len(answers)))
    for at, (answer, slip) in enumerate(zip(answers, late, strict=True)):
        intended, user = heapq.heappop(ready)
        dispatched = intended + slip
        begin = max(dispatched, heapq.heappop(free))
        end = begin + answer
        heapq.heappush(free, end)
        heapq.heappush(ready, (end, user))
        times[:, at] = intended, dispatched, begin + answer / 2, end
    return Requests(*times)


# --- open loops: a late request is in its latency ---------------------------------------------------------------------


def opened(chance: Chance) -> Played:
    count, slots = int(chance.choice([12, 40, 100, 400])), int(chance.choice([1, 4, 1000]))
    mean = chance.choice([20, 100, 400, 2000])
    answers = chance.lognormal(math.log(mean), 0.3, count)
    due = np.cumsum(chance.exponential(mean * chance.choice([0.5, 1.5, 4.0]) / min(slots, 4), count))
    late = lateness(chance, count, chance.choice([0.05, 0.3, 1.0, 5.0, 20.0]))
    shown, true = play_open(due, answers, late, slots), play_open(due, answers, np.zeros(count), slots)
    stage = stage_of(shown, StageLoad("poisson", rate_per_s=1.0))
    truth = stage_of(true, StageLoad("poisson", rate_per_s=1.0))
    return Played(stage, most_off(stage, truth, ("ttft_ms", "e2e_ms")))


def play_open(due: Ms, answers: Ms, late: Ms, slots: int) -> Requests:
    free = [0.0] * min(slots, len(answers))
    times = np.zeros((4, len(answers)))
    for at in np.argsort(due + late):
        begin = max(due[at] + late[at], heapq.heappop(free))
        heapq.heappush(free, begin + answers[at])
        times[:, at] = due[at], due[at] + late[at], begin + answers[at] / 2, begin + answers[at]
    return Requests(*times)


def most_off(shown: StageData, true: StageData, metrics: Sequence[str]) -> float:
    """By how much the percentile that is most off is off, of those that are shown, as values or bounds.

    A bound is the value at some rank. It is compared with the true value at that rank, because lateness of a few µs can
    move the rank itself, and a bound at another rank is no less true.
    """
    worst = 0.0
    for metric in metrics:
        name = metric.removesuffix("_ms")
        seen, truly = np.sort(shown.values[name]), np.sort(true.values[name])
        for title, percentile in shown.latencies[metric].percentiles.items():
            value, truth = percentile.value, true.latencies[metric].percentile(title).value
            if value is None and percentile.low is not None:
                rank = int(np.searchsorted(seen, 1e6 * percentile.low - 51))
                value, truth = percentile.low, float(truly[min(rank, len(truly) - 1)]) / 1e6
            if title != "p99.9" and value is not None and truth:
                worst = max(worst, abs(value / truth - 1))
    return worst


# --- user stamps: a late loop is in them ------------------------------------------------------------------------------


def stamped(chance: Chance) -> Played:
    count, tokens, gap = int(chance.choice([12, 40, 400])), 20, chance.choice([5, 20, 60])
    scale = chance.choice([0.02, 0.1, 0.5, 2.0, 8.0])
    first = np.arange(count) * 25.0 * gap + chance.lognormal(math.log(200), 0.3, count)
    true = first[:, None] + np.cumsum(
        np.hstack([np.zeros((count, 1)), chance.normal(gap, gap / 10, (count, 19))]), axis=1
    )
    seen = np.maximum.accumulate(true + lateness(chance, count * tokens, scale).reshape(count, tokens), axis=1)
    sent = np.arange(count) * 25.0 * gap
    # The loop is as late for its own ticks as for the bytes that arrive.
    lags = chance.choice((seen - true).ravel(), max(1, int(seen.max() / TICK_MS)))
    load = StageLoad("closed", 1)
    shown = stage_of(
        Requests(sent, sent, seen[:, 0], seen[:, -1]), load, source="user", tokens=list(seen), ticks=Ticks(lags, lags)
    )
    truth = stage_of(Requests(sent, sent, true[:, 0], true[:, -1]), load, source="user", tokens=list(true))
    return Played(shown, most_off(shown, truth, ("ttft_ms", "e2e_ms", "itl_ms")))


def stalled(chance: Chance) -> Played:
    """The loop is punctual, but stands still now and then: what arrives meanwhile is stamped at the end of that."""
    count, gap = int(chance.choice([12, 40, 400])), float(chance.choice([5, 20, 60]))
    sent = np.arange(count, dtype=np.float64) * (25.0 * gap + 100)
    first = sent + chance.lognormal(math.log(200), 0.3, count)
    gaps = chance.normal(gap, gap / 10, (count, 19))
    true = first[:, None] + np.cumsum(np.hstack([np.zeros((count, 1)), gaps]), axis=1)
    length = float(chance.choice([30, 200, 1000]))
    number = chance.poisson(float(chance.choice([0.0005, 0.003, 0.02])) * true.max() / length)
    begins = np.sort(chance.uniform(0, true.max(), number))
    ends = begins + length * chance.lognormal(0, 0.5, number)
    apart = np.concatenate([[True], begins[1:] > np.maximum.accumulate(ends)[:-1]]) if number else np.array([], bool)
    begins, ends = begins[apart], ends[apart]
    usual = chance.exponential(0.02, true.shape)
    seen = np.maximum.accumulate(until_awake(true, begins, ends) + usual, axis=1)
    ticks = ticks_of(chance, float(seen.max()), begins, ends)
    load = StageLoad("closed", 1)
    shown = stage_of(Requests(sent, sent, seen[:, 0], seen[:, -1]), load, source="user", tokens=list(seen), ticks=ticks)
    truth = stage_of(Requests(sent, sent, true[:, 0], true[:, -1]), load, source="user", tokens=list(true))
    return Played(shown, most_off(shown, truth, ("ttft_ms", "e2e_ms", "itl_ms")))


def until_awake(moments: Ms, begins: Ms, ends: Ms) -> Ms:
    """The moments themselves, or the end of the stall that each falls into."""
    if not len(begins):
        return moments
    at = np.searchsorted(begins, moments) - 1
    return np.where(at >= 0, np.maximum(moments, ends[at]), moments)


def ticks_of(chance: Chance, until: float, begins: Ms, ends: Ms) -> Ticks:
    """What the observer sees of such stalls, by its own count."""
    lags, short = list[float](), list[float]()
    stalls, due = list[tuple[float, float]](), TICK_MS
    while due < until:
        lag = float(until_awake(np.array([due]), begins, ends)[0]) - due + float(chance.exponential(0.02))
        lags += np.arange(lag, -1e-9, -TICK_MS).tolist()
        if lag < TICK_MS:
            short.append(lag)
        else:
            stalls.append((due + lag, lag))
            due += lag
        due += TICK_MS
    return Ticks(np.array(lags), np.array(short), tuple(stalls))


# --- a pause of ours: it is in the slowest gap, or it is not ----------------------------------------------------------


def paused(chance: Chance) -> Played:
    """Punctual but for one pause, such as of a garbage collection, at any moment."""
    count, gap = int(chance.choice([12, 40, 400])), float(chance.choice([5, 20, 60]))
    sent = np.arange(count, dtype=np.float64) * (25.0 * gap + 250)
    first = sent + chance.lognormal(math.log(200), 0.3, count)
    true = first[:, None] + np.cumsum(np.hstack([np.zeros((count, 1)), chance.normal(gap, gap / 10, (count, 19))]), 1)
    begin = np.array([chance.uniform(0, true.max())])
    end = begin + chance.choice([1.5, 5.0, 20.0, 50.0])
    seen = until_awake(true, begin, end)
    load = StageLoad("closed", 1)
    shown = stage_of(Requests(sent, sent, seen[:, 0], seen[:, -1]), load, source="user", tokens=list(seen))
    assert shown.facts is not None
    facts = msgspec.structs.replace(shown.facts, gc_pause_max_ns=_ns((end - begin)[0]), gc_pause_end_ns=_ns(end[0]))
    return Played(msgspec.structs.replace(shown, facts=facts), float(np.diff(seen).max() / np.diff(true).max()) - 1)


# --- reads that come late: once, or all the time ----------------------------------------------------------------------


def late_reads(chance: Chance) -> Played:
    """With kernel stamps: the loop stood still once, for a tenth of the stage at most, or it does so all the time. Of
    the latter only stages that are long enough for a p99: less than 40 s show too few stalls."""
    is_once = bool(chance.random() < 0.5)
    reads = int(chance.choice([50, 400, 2000, 20_000] if is_once else [2000, 20_000]))
    until = reads * 20.0
    if is_once:
        lengths = np.array([min(chance.choice([200.0, 1000.0, 3000.0]), 0.1 * until)])
        begins = chance.uniform(0, until - lengths[0], 1)
    else:
        lengths = 200 + chance.exponential(float(chance.choice([100, 400])), max(1, int(until / 500)))
        begins = np.cumsum(chance.exponential(float(chance.choice([300, 1500])), len(lengths)) + lengths) - lengths
    ends = begins + lengths
    moments = chance.uniform(0, min(until, ends[-1]) if not is_once else until, reads)
    lags = until_awake(moments, begins, ends) - moments + chance.exponential(0.05, reads)
    sent = np.array([0.0])
    stage = stage_of(Requests(sent, sent, sent + 10, sent + until), StageLoad("closed", 1))
    assert stage.facts is not None
    facts = msgspec.structs.replace(
        stage.facts,
        stamped_reads=reads,
        stamp_lag_p99_ns=_ns(np.percentile(lags, 99)),
        stamp_lag_max_ns=_ns(lags.max()),
        stamp_lags_ns=at_percentiles(lags),
        loop_stalls_ns=tuple((_ns(end), _ns(length)) for end, length in zip(ends, lengths, strict=True)),
    )
    return Played(msgspec.structs.replace(stage, facts=facts), 0.0 if is_once else 1.0)


# --- a load that is the same from the first request to the last -------------------------------------------------------


def alike(chance: Chance) -> Played:
    """TTFTs that follow one distribution, or grow fourfold from the first to the last."""
    count, grows = int(chance.choice([40, 100, 400])), bool(chance.random() < 0.3)
    answers = chance.lognormal(math.log(200), 0.3, count) * (np.linspace(1, 4, count) if grows else 1.0)
    return Played(stage_of(play_closed(answers, np.zeros(count), 4, 1000), StageLoad("closed", 4)), float(grows))


# --- the sampler's and the records' requests in flight ----------------------------------------------------------------


def in_flight(chance: Chance) -> Played:
    """What the sampler sees and the records say is the same load, or the records lack a part of each request."""
    answer, users = float(chance.choice([15, 60, 300, 1500])), int(chance.choice([1, 4, 16]))
    # At least 3 s: what is sampled less than a hundred times is not judged.
    count = max(int(chance.choice([50, 200, 800])), int(3000 * users / answer))
    answers = chance.lognormal(math.log(answer), 0.3, count)
    times = play_closed(answers, np.full(count, 0.05), users, 1000)
    lost = float(chance.choice([0.0, 0.0, 0.05, 0.1]))
    phase = chance.uniform(0, TICK_MS)
    moments = np.arange(phase, times.end.max(), TICK_MS)
    # A request is seen to have ended a little after its last byte.
    noticed = times.end + lateness(chance, count, 0.2)
    counts = np.searchsorted(np.sort(times.dispatched), moments) - np.searchsorted(np.sort(noticed), moments)
    samples = tuple(zip((moments * 1e6).astype(int).tolist(), counts.tolist(), strict=True))
    shorter = Requests(times.intended, times.dispatched + lost * answers, times.first, times.end)
    return Played(stage_of(shorter if lost else times, StageLoad("closed", users), in_flight=samples), lost)


# --- the rate of an open loop -----------------------------------------------------------------------------------------


def rated(chance: Chance) -> Played:
    """Requests that leave late now and then, or fall behind more and more."""
    count = int(chance.choice([12, 40, 100, 400]))
    every = float(chance.choice([20, 100, 1000]))
    due: Ms = np.arange(count, dtype=np.float64) * every
    behind = float(chance.choice([0.0, 0.0, 0.002, 0.06, 0.12]))
    late = lateness(chance, count, 0.3) + behind * due
    answers = np.full(count, 300.0)
    return Played(stage_of(play_open(due, answers, late, 1000), StageLoad("constant", rate_per_s=1e3 / every)), behind)


KINDS: Final[dict[str, tuple[Callable[[Chance], Played], set[str]]]] = {
    "closed loop: throughput, TTFT and E2E": (closed, {"dispatch_slip", "achieved_users"}),
    "open loop: TTFT and E2E": (opened, {"dispatch_slip"}),
    "user stamps: TTFT, ITL and E2E": (stamped, {"loop_lag"}),
    "user stamps, a loop that stands still now and then": (stalled, {"loop_lag"}),
    "user stamps and one pause: the slowest ITL": (paused, {"gc_pause"}),
    "kernel stamps, read late once or all the time": (late_reads, {"stamp_lag"}),
    "TTFTs that are alike, or grow fourfold": (alike, {"never_steady"}),
    "in flight, sampled and recorded": (in_flight, {"littles_law"}),
    "achieved rate": (rated, {"achieved_rate"}),
}


def called_before(stage: StageData, codes: set[str]) -> bool:
    """By the rules of before, as far as they are about these codes."""
    own = validity(stage).self
    slips = sorted((r.dispatched_ns or 0) - r.intended_ns for r in stage.measured)
    slip_ms = slips[math.ceil(0.99 * len(slips)) - 1] / 1e6
    ttft = stage.latencies["ttft_ms"].percentile("p50").value or 0.0
    lag_ms = (stage.facts.loop_lag_p99_ns or 0) / 1e6 if stage.facts else 0.0
    sampled, recorded = own.in_flight_sampled, own.in_flight_recorded
    pause = pause_effect(own.gc_pause_max_ms, stage.latencies)
    late_ms = (stage.facts.stamp_lag_p99_ns or 0) / 1e6 if stage.facts and stage.facts.stamped_reads >= 368 else 0.0
    crossed = {
        "gc_pause": pause is not None and pause.share > 0.03,
        "stamp_lag": late_ms > 100,
        "never_steady": called_now(stage, {"never_steady"}),
        "dispatch_slip": slip_ms > max(1.0, 0.01 * ttft),
        "loop_lag": lag_ms > 5.0,
        "achieved_rate": own.achieved_share is not None and own.achieved_share < 0.99,
        "achieved_users": own.users_share is not None and own.users_share < 0.95,
        "littles_law": bool(sampled and recorded) and abs((sampled or 0) - (recorded or 0)) / (sampled or 1) > 0.02,
    }
    return any(crossed[code] for code in codes)


def called_now(stage: StageData, codes: set[str]) -> bool:
    return any(reason.code in codes for reason in validity(stage).reasons)


def is_not_told(stage: StageData, codes: set[str]) -> bool:
    """Whether the report says that too few requests tell."""
    return "never_steady" in codes and stage.steadiness is not None and stage.steadiness.steady is None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stages", type=int, default=1000, help="of each kind")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--kinds", default="", help="only the kinds whose name has this text")
    arguments = parser.parse_args()
    print("| stages | sound | degraded, before | now | off by 5 % or more | not degraded, before | now |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    for name, (play, codes) in KINDS.items():
        if arguments.kinds not in name:
            continue
        chance = np.random.default_rng(arguments.seed)
        sound, wrong = list[tuple[bool, bool]](), list[tuple[bool, bool]]()
        for _ in range(arguments.stages):
            played = play(chance)  # not kept: a stage has thousands of stamps
            if played.off <= SOUND:
                sound.append((called_before(played.stage, codes), called_now(played.stage, codes)))
            elif played.off >= WRONG:
                passed = not called_now(played.stage, codes) and not is_not_told(played.stage, codes)
                wrong.append((not called_before(played.stage, codes), passed))
        cells = [cell for of in (sound, wrong) for cell in (str(len(of)), *map(in_percent, zip(*of, strict=True)))]
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


def in_percent(cases: Sequence[bool]) -> str:
    """The share of cases, and its 95 % interval by Wilson's formula."""
    count, share, z = len(cases), float(np.mean(cases)), 1.96
    middle, half = share + z * z / 2 / count, z * math.sqrt(share * (1 - share) / count + (z / count) ** 2 / 4)
    low, high = ((middle + sign * half) / (1 + z * z / count) for sign in (-1, 1))
    return f"{share:.1%} ({max(0.0, low):.1%} to {high:.1%})"


if __name__ == "__main__":
    main()
