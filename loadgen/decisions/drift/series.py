"""The series of a soak that are tested, each as a `Measure`: by how much it changed, in the unit of the report."""

from collections.abc import Iterator
from typing import Final, Literal

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from loadgen.analysis.soak_types import DriftMetricName, DriftUnit
from loadgen.decisions.drift.stage_windows import StageWindows
from loadgen.stats.bucket_counts import BucketCounts
from loadgen.stats.drift import (
    MIN_POINTS,
    DriftEstimate,
    Floats,
    PercentileTest,
    change_of,
    level_test,
    share_test,
)
from loadgen.stats.steps import warm_up_of
from loadgen.store.windows import WindowLine

MOST_WINDOWS: Final = 1440
"""Neighboring windows are joined until there are at most so many."""
WARM_UP_WINDOWS: Final = 20
WARM_UP_SHARE: Final = 0.04
"""The first windows are always warm-up: so many, or this share of them, whichever is less."""
TAILS: Final = ("p99", "p95", "p90")
BEYOND_TAIL: Final = 100
"""How many values are beyond a tail's percentile, at least."""
TAIL_MATTERS: Final = 3.0
"""The smallest change of a tail that counts, as a multiple of that of a median."""
FAILED_MATTERS: Final = 0.005
TEMPERATURE_MATTERS_C: Final = 5.0
_NS_PER_MS: Final = 1e6

Worse = Literal[1, -1]
"""Whether a series gets worse as it grows, or as it falls."""


class Movement(Struct, frozen=True):
    """How a series moved over the time that is tested. change, ci, ci90: see `DriftMetric`; start, end: in its unit."""

    change: float
    ci: tuple[float, float]
    """The 95 % interval."""
    ci90: tuple[float, float]
    p: float
    start: float
    end: float


class Measure(Struct, frozen=True, kw_only=True):
    """One series of a model, and how it moved."""

    name: DriftMetricName
    unit: DriftUnit
    worse: Worse
    matters: float
    """The smallest change that counts, in the unit of the change."""
    movement: Movement
    values: Floats
    """In which a step is looked for: one of each place in `at`."""
    at: Floats
    """The middle of each place, s since the run began."""
    percentile: str | None = None
    """Of a tail: which percentile it is."""


class TestedWindows(Struct, frozen=True):
    """The windows of a stage that are tested, with their histograms."""

    lines: tuple[WindowLine, ...]
    counts: dict[str, BucketCounts]
    chosen: NDArray[np.bool_]
    """Of all windows of the stage: which these are."""
    warm_up: int
    """How many windows before them are left out as warm-up."""


def is_fit(window: WindowLine) -> bool:
    """Whether a window may be tested: it is valid, before the deadline and in no gap."""
    return window.valid and not window.draining and window.gap_s == 0


def asked_of(window: WindowLine) -> int:
    """How many requests of a window ended by what their server did. What loadgen itself gave up is no failure: it was
    stopped, not run or killed."""
    return sum(window.by_outcome.values()) - window.by_outcome.get("cancelled", 0)


def tested_windows(stage: StageWindows) -> TestedWindows:
    """The windows of a stage that are fit, without its warm-up.

    Warm-up are the first windows, and those that MSER-5 cuts off the ranks of TTFT by window. The latter only where the
    soak began slower, and in a step rather than in a line: a server that slows down is not warming up.
    """
    fit = np.array([is_fit(window) for window in stage.windows], dtype=np.bool_)
    places = np.flatnonzero(fit)
    warm_up = int(min(WARM_UP_WINDOWS, WARM_UP_SHARE * places.size))
    answered = [place for place in places[warm_up:] if stage.windows[place].ttft_p50_ms is not None]
    cut = warm_up_of(np.array([stage.windows[place].ttft_p50_ms for place in answered], dtype=np.float64))
    if cut:
        warm_up = int(np.searchsorted(places, answered[cut]))
    fit[places[:warm_up]] = False
    lines = tuple(window for window, is_chosen in zip(stage.windows, fit, strict=True) if is_chosen)
    counts = {name: counts.of_windows(fit) for name, counts in stage.counts.items()}
    return TestedWindows(lines, counts, fit, warm_up)


def middles_of(lines: tuple[WindowLine, ...]) -> Floats:
    """The middle of each window, s since the run began."""
    return np.array([(window.start_ns + window.end_ns) / 2e9 for window in lines])


def measures_of(tested: TestedWindows, matters: float) -> Iterator[Measure]:
    """Each series that is known, but for the server's memory. matters: the smallest change of medians and of the pace
    that counts."""
    size = max(1, -(-len(tested.lines) // MOST_WINDOWS))
    at = middles_of(tested.lines)
    grouped = _sums(at, size) / _sums(np.ones(at.size), size)
    for metric in ("ttft", "itl"):
        counts = tested.counts.get(metric)
        if counts is not None:
            yield from _percentiles(metric, counts.in_groups(size), grouped, matters)
    yield from _pace(tested.lines, grouped, size, matters)
    yield from _failures(tested.lines, grouped, size)
    yield from _temperature(tested.lines, at)


def _percentiles(metric: Literal["ttft", "itl"], counts: BucketCounts, at: Floats, matters: float) -> Iterator[Measure]:
    has_values = counts.totals > 0
    if np.count_nonzero(has_values) < MIN_POINTS:
        return
    middle: DriftMetricName = "ttft_p50" if metric == "ttft" else "itl_p50"
    yield _percentile(PercentileTest(counts, at, 50.0), middle, matters, None, at, has_values)
    total = int(counts.totals.sum())
    tail = next((name for name in TAILS if total * (100 - int(name[1:])) >= 100 * BEYOND_TAIL), None)
    if tail is not None:
        name: DriftMetricName = "ttft_tail" if metric == "ttft" else "itl_tail"
        test = PercentileTest(counts, at, float(tail[1:]))
        yield _percentile(test, name, TAIL_MATTERS * matters, tail, at, has_values)


def _percentile(
    test: PercentileTest,
    name: DriftMetricName,
    matters: float,
    percentile: str | None,
    at: Floats,
    has_values: NDArray[np.bool_],
) -> Measure:
    return Measure(
        name=name,
        unit="ms",
        worse=1,
        matters=matters,
        movement=of_logarithms(change_of(test), _NS_PER_MS),
        values=test.shares_above()[has_values],
        at=at[has_values],
        percentile=percentile,
    )


def _pace(lines: tuple[WindowLine, ...], at: Floats, size: int, matters: float) -> Iterator[Measure]:
    tokens = _sums(np.array([float(window.output_tokens) for window in lines]), size)
    seconds = _sums(np.array([window.stream_s for window in lines]), size)
    known = (tokens > 0) & (seconds > 0)
    if np.count_nonzero(known) >= MIN_POINTS:
        values = np.log(tokens[known] / seconds[known])
        movement = of_logarithms(change_of(level_test(values, at[known])), 1.0)
        yield Measure(
            name="stream_tokens_per_s",
            unit="tokens/s",
            worse=-1,
            matters=matters,
            movement=movement,
            values=values,
            at=at[known],
        )


def _failures(lines: tuple[WindowLine, ...], at: Floats, size: int) -> Iterator[Measure]:
    totals = _sums(np.array([float(asked_of(window)) for window in lines]), size)
    failed = totals - _sums(np.array([float(window.ok) for window in lines]), size)
    asked = totals > 0
    if np.count_nonzero(asked) >= MIN_POINTS:
        yield Measure(
            name="failed_share",
            unit="share",
            worse=1,
            matters=FAILED_MATTERS,
            movement=of_differences(change_of(share_test(failed, totals, at)), lowest=0.0),
            values=failed[asked] / totals[asked],
            at=at[asked],
        )


def _temperature(lines: tuple[WindowLine, ...], at: Floats) -> Iterator[Measure]:
    known = np.array([window.temperature_c is not None for window in lines], dtype=np.bool_)
    values = np.array([window.temperature_c for window in lines if window.temperature_c is not None])
    if values.size >= MIN_POINTS:
        yield Measure(
            name="temperature",
            unit="°C",
            worse=1,
            matters=TEMPERATURE_MATTERS_C,
            movement=of_differences(change_of(level_test(values, at[known]))),
            values=values,
            at=at[known],
        )


def of_logarithms(change: DriftEstimate, unit: float) -> Movement:
    """The movement of a series that is tested in logarithms. unit: by how much its values are divided."""
    low, high = np.expm1(change.ci).tolist()
    low90, high90 = np.expm1(change.ci90).tolist()
    start, end = (np.exp([change.start, change.end]) / unit).tolist()
    return Movement(float(np.expm1(change.estimate)), (low, high), (low90, high90), change.p, start, end)


def of_differences(change: DriftEstimate, lowest: float = -np.inf) -> Movement:
    """The movement of a series whose change is told in its own unit. lowest: the lowest value that it can have."""
    start, end = max(lowest, change.start), max(lowest, change.end)
    return Movement(change.estimate, change.ci, change.ci90, change.p, start, end)


def of_ratios(change: DriftEstimate) -> Movement:
    """The movement of a series that is tested in its own unit, relative to where it started."""
    start = max(change.start, 1e-9)
    low, high, low90, high90 = (end / start for end in (*change.ci, *change.ci90))
    return Movement(change.estimate / start, (low, high), (low90, high90), change.p, change.start, change.end)


def _sums(values: Floats, size: int) -> Floats:
    """The sum of each `size` neighbors; the last may have fewer."""
    sums: Floats = np.add.reduceat(values, np.arange(0, values.size, size)) if size > 1 else values
    return sums
