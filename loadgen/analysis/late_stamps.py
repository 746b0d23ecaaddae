"""What a late event loop does to latencies whose stamps were taken in user space: which is off, by how much. Pure.

Of a stall of the loop it is known when it was: what was stamped at its end had arrived at any moment of it. Of all
other lateness only the distribution is known, which is taken out of that of the latencies. Both leave to chance which
requests were hit, and twelve requests may be hit or spared. So this is drawn many times.
"""

from collections.abc import Iterable, Sequence
from typing import Final

import numpy as np
from msgspec import Struct

from loadgen.analysis import metrics
from loadgen.analysis.metrics import MISSING, Ns
from loadgen.analysis.stage import StageData
from loadgen.analysis.summary import Effect
from loadgen.record import LAG_PERCENTILES, StageFacts
from loadgen.stats.deconvolve import Floats, quantiles_at, shares_of, without_error
from loadgen.stats.median import median
from loadgen.stats.quantile import floor_of

SHOWN: Final = (50.0, 90.0, 95.0, 99.0)
BOUNDS: Final = (50.0, 90.0, 95.0, 99.0)
"""The percentiles in the main table, which shows a bound if the samples give no value."""
TICK_NS: Final = 20_000_000
"""How often the event loop's lag is measured (`loadgen.telemetry.observer`)."""
SAME_NS: Final = 1_000_000
"""What was stamped no later than this after a stall was read in the loop's first turn after it."""
DRAWS: Final = 100
OFF_BY_STALLS: Final = 0.75
"""At which share of the draws a number counts as off by stalls. With few stalls a number is off by much in some draws,
and not at all in the others: by the median, of twenty numbers that were off one was missed."""
LAGS: Final = 100
"""At how many shares the distribution of the lag is looked at."""
MOST_VALUES: Final = 4000
"""Of more values than that, what chance does to a percentile is less than what is looked for."""
MOST_MOVED: Final = 2_000_000
"""So many stamps are moved at most, in all draws together."""


class _Latency(Struct, frozen=True):
    """One latency of a stage, ns. shown: its values, ascending. punctual: the same without stalls, as they may have
    been, a row for each draw."""

    name: str
    shown: Ns
    punctual: Floats


class _Off(Struct, frozen=True):
    """By how much a number is off in each draw: relative to the true value, and in ns."""

    shares: Floats
    by_ns: Floats


class _Number(Struct, frozen=True):
    """A number that is shown. off: because of all lateness; stalled: because of stalls alone."""

    name: str
    off: _Off
    stalled: _Off


def ticks_of(facts: StageFacts) -> int:
    """How often the event loop's lag was measured."""
    return max(0, facts.end_ns - facts.start_ns) // TICK_NS


def lag_effect(stage: StageData) -> Effect | None:
    """The number that late stamps make most wrong: by how much the number that is most off is off in half of the draws,
    or because of stalls alone in a quarter of them.

    The timer that wakes the loop is late by itself (`timer_slack_ns`); bytes that arrive do not wait for that. None
    where too few lags were taken for a p90.
    """
    facts = stage.facts
    if facts is None or not facts.loop_lags_ns or ticks_of(facts) < floor_of(90.0):
        return None
    chance = np.random.default_rng(0)
    numbers = [
        number for latency in _latencies(stage, facts, chance) for number in _numbers(stage, facts, latency, chance)
    ]
    if not numbers:
        return None
    usual = np.median(np.max([np.abs(number.off.shares) for number in numbers], axis=0))
    stalled = np.quantile(np.max([np.abs(number.stalled.shares) for number in numbers], axis=0), OFF_BY_STALLS)
    most_off = {number.name: most for number, most in zip(numbers, _most_off(numbers), strict=True)}
    worst = max(most_off, key=lambda name: (round(most_off[name][0], 6), name))
    return Effect(round(float(max(usual, stalled)), 4), worst, round(most_off[worst][1] / 1e6, 4))


def _most_off(numbers: Sequence[_Number]) -> list[tuple[float, float]]:
    """By how much each number is off, relative and in ns: because of all lateness in half of the draws, or because of
    stalls alone in a quarter of them, whichever is more."""
    off = np.array([(number.off.shares, number.off.by_ns) for number in numbers])
    stalled = np.array([(number.stalled.shares, number.stalled.by_ns) for number in numbers])
    usual = np.abs(np.median(off, axis=2)).tolist()
    by_stalls = np.quantile(np.abs(stalled), OFF_BY_STALLS, axis=2).tolist()
    return [max(tuple(all_of_it), tuple(alone)) for all_of_it, alone in zip(usual, by_stalls, strict=True)]


def _latencies(stage: StageData, facts: StageFacts, chance: np.random.Generator) -> Iterable[_Latency]:
    """TTFT, E2E and ITL, with stalls and without."""
    stamps, lengths = metrics.flat_stamps(stage.ok)
    ends = np.fromiter((MISSING if r.end_ns is None else r.end_ns for r in stage.ok), np.int64, len(stage.ok))
    # The stamps of each request, and its end after them.
    every, at_ends = np.insert(stamps, np.cumsum(lengths), ends), np.cumsum(lengths + 1) - 1
    is_gap = metrics.is_within_a_record(lengths)
    moved: dict[str, list[Floats]] = {"ttft": [], "e2e": [], "itl": []}
    gap_ns = median(stage.gaps.values) if len(stage.gaps.values) else 0.0
    for late in _stalled_ns(every, np.repeat(np.arange(len(lengths)), lengths + 1), gap_ns, facts, chance):
        moved["ttft"].append(stage.each["ttft"] - late[at_ends - lengths])
        moved["e2e"].append(stage.each["e2e"] - late[at_ends])
        moved["itl"].append(np.diff(np.delete(every - late, at_ends))[is_gap])
    for name, draws in moved.items():
        if len(stage.values[name]):
            there = slice(None) if name == "itl" else stage.each[name] != MISSING
            yield _Latency(name, np.sort(stage.values[name]), np.sort(np.array(draws)[:, there], axis=1))


def _stalled_ns(
    stamps: Ns, owners: Ns, gap_ns: float, facts: StageFacts, chance: np.random.Generator
) -> Iterable[Floats]:
    """How late each stamp may have been because the loop stood still: one draw where it did not, else as many as chance
    matters. What came for a request in a stall is taken to have come a usual gap apart, from a moment that is drawn.

    stamps: those of a request in order, one after the other. owners: the request of each.
    """
    if not facts.loop_stalls_ns or not len(stamps):
        yield np.zeros(len(stamps))
        return
    stall_ends, stall_lengths = np.array(sorted(facts.loop_stalls_ns), dtype=np.int64).T
    stalls = np.minimum(np.searchsorted(stall_ends, stamps - SAME_NS), len(stall_ends) - 1)
    after = stamps - stall_ends[stalls]
    hit = np.flatnonzero((after >= -TICK_NS) & (after <= SAME_NS))
    _, group, counts = np.unique(owners[hit] * len(stall_ends) + stalls[hit], return_inverse=True, return_counts=True)
    place = np.arange(len(hit)) - (np.cumsum(counts) - counts)[group]
    # The first tick that was late came due within a tick of the stall's beginning.
    lengths = np.zeros(len(counts))
    lengths[group] = stall_lengths[stalls[hit]]
    for _ in range(max(1, min(DRAWS, MOST_MOVED // len(stamps)))):
        late = np.zeros(len(stamps))
        longer = lengths + chance.random(len(counts)) * TICK_NS
        span = np.minimum(longer, counts * gap_ns)
        first = chance.random(len(counts)) * (longer - span) + chance.random(len(counts)) * span / counts
        late[hit] = (longer - first)[group] - place * (span / counts)[group]
        yield late


def _short_lags(facts: StageFacts, spread: float | Floats = 0.0) -> Floats:
    """The loop's lag at evenly spaced shares, ns: without stalls, and without what the timer alone explains.

    spread: as if each percentile of the lag were so many of its standard errors farther out. A column of them gives a
    row of lags for each.
    """
    in_stalls = sum(length_ns // TICK_NS + 1 for _, length_ns in facts.loop_stalls_ns) / max(1, len(facts.workers))
    shares = shares_of(LAGS)
    errors = np.sqrt(shares * (1 - shares) / max(1.0, ticks_of(facts) - in_stalls))
    known = facts.loop_short_lags_ns or facts.loop_lags_ns
    most_ns = max(known[-1], min(TICK_NS, facts.loop_lag_max_ns or 0))
    lags = np.interp(100 * (shares + spread * errors), [0.0, *LAG_PERCENTILES, 100.0], [0, *known, most_ns])
    return np.maximum(0.0, lags - facts.timer_slack_ns)


def _numbers(stage: StageData, facts: StageFacts, latency: _Latency, chance: np.random.Generator) -> Iterable[_Number]:
    """Each percentile of a latency that is shown, and by how much it is off in each draw."""
    lags, least, gap_ns = _short_lags(facts), -np.inf, None
    error = lags
    if latency.name == "itl":
        least, gap_ns = 0.0, median(latency.shown)  # a stamp is never before the one of the read before
        error = np.sort(_gap_lateness(lags[:, None], lags[None, :], gap_ns, chance.random((LAGS, 1))), axis=None)
        error = quantiles_at(error, shares_of(LAGS))
    grid = shares_of(len(latency.shown))
    # The mean over draws, so that what one draw of a stall does counts once, below.
    usual = quantiles_at(latency.punctual, grid).mean(axis=0)
    true = without_error(usual, error, least=least)
    shares = shares_of(len(latency.shown), MOST_VALUES)
    values = np.interp(shares, grid, true)
    late = np.sort(np.maximum(values + _drawn(facts, len(values), gap_ns, chance), least), axis=1)
    shown = quantiles_at(latency.shown, shares)
    stalled = shown - quantiles_at(latency.punctual, shares)
    stalled = stalled[np.arange(DRAWS) % len(stalled)]
    for name, share, most in _shown_percentiles(stage, latency):
        at = min(len(values) - 1, int(share * len(values)))
        # Lateness has not put a number beyond what was seen.
        by_ns = np.minimum(late[:, at], max(most, shown[at])) - values[at] + stalled[:, at]
        off, by_stalls = (_Off(ns / np.maximum(1.0, shown[at] - ns), ns) for ns in (by_ns, stalled[:, at]))
        yield _Number(name, off, by_stalls)


def _drawn(facts: StageFacts, count: int, gap_ns: float | None, chance: np.random.Generator) -> Floats:
    """How late so many values are, in each draw. gap_ns: the usual gap, if they are gaps."""
    lags_of_draws = _short_lags(facts, chance.normal(size=(DRAWS, 1)))
    if gap_ns is None:
        return np.take_along_axis(lags_of_draws, chance.integers(0, LAGS, (DRAWS, count)), axis=1)
    drawn = [
        (chance.integers(0, LAGS, count), chance.integers(0, LAGS, count), chance.random(count)) for _ in range(DRAWS)
    ]
    ends, begins = (np.take_along_axis(lags_of_draws, np.array([each[i] for each in drawn]), axis=1) for i in (0, 1))
    return _gap_lateness(ends, begins, gap_ns, np.array([moments for *_, moments in drawn]))


def _gap_lateness(ends: Floats, begins: Floats, gap_ns: float, moments: Floats) -> Floats:
    """How much longer gaps are because of the lateness of their ends, and shorter because of that of their beginnings.

    moments: when in the time that the loop was held up a gap began, as a share of it.

    What holds the loop up for longer than a gap holds up both: then they have one stamp, and of all the gaps that it
    covers only one is longer.
    """
    began = moments * ends <= gap_ns
    longer: Floats = np.where(begins > gap_ns, -gap_ns, np.where(began, ends, 0.0) - begins)
    return longer


def _shown_percentiles(stage: StageData, latency: _Latency) -> Iterable[tuple[str, float, float]]:
    """Each percentile of a latency that is shown, as a value or a bound; the middle of that part of the distribution
    for which the shown sample stands; and how high the percentile may be, ns."""
    metric = stage.latencies[f"{latency.name}_ms"]
    count = len(latency.shown)
    for p in SHOWN:
        percentile = metric.percentile(f"p{p:g}")
        if percentile.value is not None and percentile.high is not None:
            yield f"{latency.name.upper()} p{p:g}", p / 100 - 0.5 / count, percentile.high * 1e6
        elif percentile.low is not None and p in BOUNDS:
            # A bound is the value at a lower rank than that of its percentile. It is rounded; of equals, any is meant.
            first, last = np.searchsorted(latency.shown, (percentile.low * 1e6 - 51, percentile.low * 1e6 + 51))
            below = min(max(int(p / 100 * count), int(first)), max(int(first), int(last) - 1))
            yield f"{latency.name.upper()} p{p:g}", (below + 0.5) / count, float(latency.shown[-1])
