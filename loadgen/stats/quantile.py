"""Exact quantiles of raw samples, and their intervals; knows no histogram, no record and no unit.

A percentile `p` is a number of percent, read as the decimal that it prints as: 99.9 is 999/1000, and not the nearest
binary fraction. With floats, `ceil(p / 100 * n)` would be off by one for common values, such as p99.9 of 1,000 samples.

The functions that use scipy import it themselves, because its import would delay the start of a run.
"""

import math
from bisect import bisect_left
from collections.abc import Sequence
from fractions import Fraction
from functools import lru_cache
from itertools import pairwise
from typing import Final, Literal, assert_never

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from loadgen.stats.binomial import few_above, few_at_most
from loadgen.stats.median import median

Values = NDArray[np.int64] | NDArray[np.float64]
Ids = NDArray[np.int64]
Floor = Literal["contract", "strict"]

CONFIDENCE: Final = 0.95
STOPPED_CONFIDENCE: Final = 0.96
"""The confidence of intervals whose width decides when to stop; about 95 % of them then cover the truth."""
MIN_CLUSTERS: Final = 6
"""A two-sided 95 % interval of a median needs six independent units: 2 · 0.5⁶ ≤ 0.05 < 2 · 0.5⁵."""
CARRIERS: Final = 12.0
CENTRAL_CARRIERS: Final = 8.0
"""The effective number of clusters beyond a percentile that it needs; between p25 and p75, fewer are enough."""
_SLICE_GAPS: Final = 20
_MOST_SLICES: Final = 50


class Quantile(Struct, frozen=True):
    """A percentile and its two-sided interval (95 % by default), in the unit of the samples.

    p: percent. value: the nearest-rank percentile; None if the interval has no upper end, as it must not be shown then.
    low: the lower end of the interval, and the "at least" bound if value is None; None if there is no lower bound.
    high: the upper end of the interval; None exactly if value is None. If the samples are integers, all three are ints.
    """

    p: float
    value: float | None
    low: float | None
    high: float | None


@lru_cache(maxsize=256)
def _decimal(number: float) -> Fraction:
    return Fraction(repr(float(number)))


@lru_cache(maxsize=1024)
def rank(p: float, n: int) -> int:
    """1-based nearest rank: the smallest r in 1..n with at least p percent of n samples among the first r.

    p: 0 to 100 (0 gives 1, 100 gives n). Exact: ⌈p·n/100⌉ in integers. ValueError when p is out of range or n < 1.
    """
    fraction = _decimal(p)
    if not 0 <= fraction <= 100:
        raise ValueError(f"a percentile lies between 0 and 100, not {p}")
    if n < 1:
        raise ValueError("no samples have no rank")
    return max(1, -(-fraction.numerator * n // (fraction.denominator * 100)))


def nearest_rank(sorted_values: Values, p: float) -> float:
    """The nearest-rank percentile of ascending values: always one of them; an int when they are integers.

    p: 0 (the minimum) to 100 (the maximum). ValueError when there are no values or p is out of range.
    """
    value: float = sorted_values[rank(p, sorted_values.size) - 1].item()
    return value


@lru_cache(maxsize=256)
def samples_needed(p: float, confidence: float = CONFIDENCE) -> int:
    """How many samples give a percentile's two-sided interval an upper end: the smallest n with (p/100)ⁿ ≤ (1−c)/2.

    At 95 %: p50 6, p90 36, p95 72, p99 368, p99.9 3,688. p and confidence must be strictly inside 0..100 and 0..1;
    ValueError otherwise. With fewer samples, even their maximum lies below the percentile too often.
    """
    return _floor(share_of(p), tail_of(confidence))


@lru_cache(maxsize=1024)
def order_statistic_interval(p: float, n: int, confidence: float = CONFIDENCE) -> tuple[int | None, int | None]:
    """1-based ranks (lower, upper) of the order statistics that enclose a percentile, whatever the distribution.

    lower: the largest l with P(X₍ₗ₎ ≤ q) ≥ 1 − (1−c)/2; None if not even the minimum is low enough, as for a small p
    (p1 below 368 samples). upper: the smallest u with P(X₍ᵤ₎ ≥ q) ≥ 1 − (1−c)/2; None if not even the maximum is high
    enough. n may be 0: (None, None). ValueError as in
    `samples_needed`. Source: David & Nagaraja, Order Statistics (2003), 7.1: the number of samples below q is
    binomial (n, p/100).
    """
    share, tail = share_of(p), tail_of(confidence)
    lower = upper = None
    if n >= _floor(1 - share, tail):
        # P(X₍ₗ₎ ≤ q) = 1 − P(Bin ≤ l−1): as many ranks as there are k with P(Bin ≤ k) ≤ t.
        lower = bisect_left(range(n), True, key=lambda k: not few_at_most(k, n, share, tail))
    if n >= _floor(share, tail):
        # P(X₍ᵤ₎ ≥ q) = P(Bin ≤ u−1): the first k with P(Bin > k) ≤ t. The complement keeps its digits near 1. The floor
        # guarantees the last k, so it is not checked: a rounding error could reject it.
        upper = bisect_left(range(n - 1), True, key=lambda k: few_above(k, n, share, tail)) + 1
    return lower or None, upper


def strict_samples_needed(p: float) -> int:
    """The stricter floor, for published results: p90 64, p95 130, p99 662, p99.9 6,636.

    It is the smallest n for which, with 99 % confidence, at least two samples lie above the percentile:
    P(Bin(n, 1 − p/100) ≤ 1) ≤ 0.01. The second largest sample then does not understate it. p must be strictly inside
    0..100. Source: MLPerf LoadGen, early stopping.
    """
    from scipy.special import bdtr

    above = float(1 - share_of(p))
    return bisect_left(range(math.ceil(12 / above) + 2), -0.01, lo=2, key=lambda n: -float(bdtr(1, n, above)))


def floor_of(p: float, floor: Floor = "contract") -> int:
    """How many independent samples a percentile needs to be shown as a number, by the usual floor or the strict one."""
    match floor:
        case "contract":
            return samples_needed(p)
        case "strict":
            return strict_samples_needed(p)
    assert_never(floor)


@lru_cache(maxsize=1024)
def fractional_ranks(p: float, n: float, confidence: float = CONFIDENCE) -> tuple[float | None, float | None]:
    """Real ranks (lower, upper) that leave exactly (1−c)/2 outside on each side. n need not be an integer.

    The share of the distribution below the r-th of n samples is Beta(r, n + 1 − r), with r taken as real. An end is
    None if the minimum or the maximum is not far enough out, so that ⌊lower⌋ and ⌈upper⌉ agree with
    `order_statistic_interval`. Source: Hutson, Calculating nonparametric confidence intervals for quantiles using
    fractional order statistics, Journal of Applied Statistics 26 (1999), 343–353.
    """
    from scipy.special import betainc

    share, tail = share_of(p), tail_of(confidence)

    def solve(target: float) -> float:
        low, high = 0.0, n + 1.0
        for _ in range(60):
            middle = (low + high) / 2
            if betainc(middle, n + 1 - middle, float(share)) > target:
                low = middle
            else:
                high = middle
        return (low + high) / 2

    lower = max(1.0, solve(1 - float(tail))) if n * _log(1 - share) <= math.log(tail) else None
    upper = min(n, solve(float(tail))) if n * _log(share) <= math.log(tail) else None
    return lower, upper


def estimate(
    sorted_values: Values, ps: Sequence[float], *, floor: Floor = "contract", confidence: float = CONFIDENCE
) -> tuple[Quantile, ...]:
    """Percentiles of independent samples, each with its interval, whatever the distribution.

    sorted_values: ascending, may be empty (value, low and high are then None). ps: percent, strictly inside 0..100.
    floor: the floor that a percentile needs to be a number. A confidence above 95 % does not raise it; an upper end
    beyond the maximum is set to the maximum. Integers in, ints out: ends are rounded outward by less than 1.

    The ends are interpolated between order statistics (`fractional_ranks`), because intervals of plain order statistics
    cover up to 98.5 %. Between equal neighbors there is nothing to interpolate, and the outer one is the end. It is
    also the end if the bound has no value beside it.
    """
    n = sorted_values.size
    quantiles = []
    for p in ps:
        plain = order_statistic_interval(p, n, confidence)[0]
        if n < floor_of(p, floor):
            quantiles.append(Quantile(p, None, None if plain is None else sorted_values[plain - 1].item(), None))
            continue
        lower, upper = fractional_ranks(p, n, confidence)
        low = None if lower is None else _between(sorted_values, lower, down=True)
        high = _between(sorted_values, n if upper is None else upper, down=False)
        quantiles.append(Quantile(p, nearest_rank(sorted_values, p), low, high))
    return tuple(quantiles)


def estimate_clustered(
    values: Values,
    cluster_ids: Ids,
    ps: Sequence[float],
    *,
    moments: Ids | None = None,
    floor: Floor = "contract",
    confidence: float = CONFIDENCE,
) -> tuple[Quantile, ...]:
    """Percentiles of samples that come in clusters (the gaps of a request), with intervals that allow for that.

    values and cluster_ids: equally long, in any order; ids are arbitrary integers. moments: for each value, the slice
    of time that it falls into (`moments_of`), so that a stall of the whole server, which affects several requests at
    once, counts once. ps: percent, strictly inside 0..100. Integers in, ints out. ValueError if lengths differ.

    The samples count as n / (design effect) independent ones. The design effect is a ratio of two variances of the
    share of samples at or below the percentile: the variance under resampling of whole clusters with replacement, in
    closed form (a bootstrap of requests with infinitely many replicates), divided by the variance for independent
    samples. With moments, the first variance includes the covariance of different clusters within a slice and between
    neighboring slices. The outer end uses the mean of the design effects at the percentile and half-way to the median,
    because the clusters in the tail are few, and the design effect there is uncertain. A t quantile widens both ends;
    its degrees of freedom are the number of carriers minus one. Carriers are the effective number of clusters beyond
    the percentile, (Σe)² / Σe² for e samples beyond it per cluster, or half the effective number of slices beyond it if
    that is smaller. The ranks are those of `fractional_ranks` for the effective number of samples.

    value and high are None if the effective number of samples is below `floor`, or the number of carriers is below
    CARRIERS (CENTRAL_CARRIERS between p25 and p75); low then uses the larger design effect. With fewer than
    MIN_CLUSTERS clusters nothing is shown at all. Shown intervals cover 93 to 97 %; resampled percentiles, an earlier
    method, covered 75 to 88 % (docs/intervals.md). Sources: Korn & Graubard, Survey Methodology 24 (1998), 193–201;
    Woodruff, JASA 47 (1952), 635–646; two-way: Cameron, Gelbach & Miller, JBES 29 (2011), 238–249.
    """
    if values.size != cluster_ids.size or (moments is not None and moments.size != values.size):
        raise ValueError(f"{values.size} values but {cluster_ids.size} cluster ids")
    order = np.argsort(values, kind="stable")
    ordered, groups = values[order], [_grouped(cluster_ids[order])]
    if groups[0].sizes.size < MIN_CLUSTERS:
        return tuple(Quantile(p, None, None, None) for p in ps)
    if moments is not None:
        slices = _grouped(moments[order])
        groups += [slices] if slices.sizes.size > 1 else []
    # With ten million values, memory matters: arrays that are no longer used are released here and by the caller.
    del order, cluster_ids, moments
    effects: dict[float, float] = {}
    return tuple(_of_clusters(ordered, groups, effects, p, floor_of(p, floor), confidence) for p in ps)


def moments_of(arrived: Values, values: Values) -> Ids:
    """The slice of time of each gap, for `estimate_clustered`: 20 median gaps long, and at least 1/50 of the whole.

    arrived: when each gap ended, in the unit of values. A stall of the whole server falls into one or two slices.
    """
    if not values.size:
        return np.empty(0, dtype=np.int64)
    elapsed = arrived - arrived.min()
    width = max(_SLICE_GAPS * median(values), float(elapsed.max()) / _MOST_SLICES)
    slices: Ids = (elapsed / width).astype(np.int64) if width > 0 else np.zeros(elapsed.size, dtype=np.int64)
    return slices


def _between(ordered: Values, position: float, *, down: bool) -> float:
    """The value at a real rank, 1..n, interpolated between two samples; for integers and ties, the outer sample."""
    below = int(position)
    above = min(below + 1, ordered.size) if position > below else below
    a, b = ordered[below - 1].item(), ordered[above - 1].item()
    around = ordered[max(0, below - 2) : above + 1].tolist()
    if above == below or any(left == right for left, right in pairwise(around)):
        outer: float = a if down else b
        return outer
    share = position - below
    inside: float = (b - a) * share
    if isinstance(a, int):
        inside = math.floor(inside) if down else min(b - a, math.ceil(inside))
    between: float = a + inside
    return between


class _Groups(Struct, frozen=True):
    """The group (0..) of each sample, samples ascending, and the number of samples in each group."""

    of: Ids
    sizes: Ids


def _grouped(ids: Ids) -> _Groups:
    if ids.size and ids.min() >= 0 and ids.max() < ids.size:
        counts = np.bincount(ids)  # the same groups as below for a fifth of the memory, without sorting
        return _Groups((np.cumsum(counts > 0) - 1)[ids], counts[counts > 0])
    _, of, sizes = np.unique(ids, return_inverse=True, return_counts=True)
    return _Groups(of.reshape(-1), sizes)


def _of_clusters(
    ordered: Values, groups: Sequence[_Groups], effects: dict[float, float], p: float, needed: int, confidence: float
) -> Quantile:
    """effects: the design effects at the shares that were looked at before; those of this percentile are added."""
    from scipy.special import ndtri, stdtrit

    n, share, exact = ordered.size, float(share_of(p)), share_of(p)
    is_upper = 2 * exact >= 1
    half_way = float(max(Fraction(1, 2), 2 * exact - 1) if is_upper else min(Fraction(1, 2), 2 * exact))
    below = _at_or_below(ordered, share)
    if share not in effects:
        effects[share] = _design_effect(below, groups, share)
    if half_way not in effects:
        effects[half_way] = _design_effect(_at_or_below(ordered, half_way), groups, half_way)
    effect, other = effects[share], effects[half_way]
    thin = 1 - below if is_upper else below
    carriers = [_carriers(thin, group) for group in groups]
    tail = float(tail_of(confidence))
    free = min([carriers[0], *(each / 2 for each in carriers[1:])]) - 1
    shrink = float((ndtri(tail) / stdtrit(max(1.0, free), tail)) ** 2)
    inner, outer = n * shrink / effect, n * shrink * 2 / (effect + other)
    central = 1 <= 4 * exact <= 3
    carried = min(carriers) >= (CENTRAL_CARRIERS if central else CARRIERS)

    def end(samples: float, *, down: bool) -> float | None:
        bound = fractional_ranks(p, samples, confidence)[0 if down else 1]
        if bound is None:
            return None if down else ordered[-1].item()
        position = min(max(bound / (samples + 1) * (n + 1), 1.0), float(n))
        return _between(ordered, position, down=down)

    for_low, for_high = (inner, outer) if is_upper else (outer, inner)
    value = nearest_rank(ordered, p)
    if not carried or for_high < needed:
        low = end(n * shrink / max(effect, other), down=True) if is_upper or carried else None
        return Quantile(p, None, None if low is None else min(low, value), None)
    low, high = end(for_low, down=True), end(for_high, down=False)
    return Quantile(p, value, None if low is None else min(low, value), value if high is None else max(high, value))


def _at_or_below(ordered: Values, share: float) -> NDArray[np.float64]:
    """1 for each sample below a percentile, 0 for each above, and the weight that makes the mean `share` for ties."""
    target = share * ordered.size
    at = ordered[min(ordered.size, max(1, math.ceil(target))) - 1]
    first, last = np.searchsorted(ordered, at, side="left"), np.searchsorted(ordered, at, side="right")
    below = np.zeros(ordered.size)
    below[:first] = 1
    below[first:last] = (target - first) / (last - first)
    return below


def _design_effect(below: NDArray[np.float64], groups: Sequence[_Groups], share: float) -> float:
    clusters = groups[0]
    apart = below - share
    off = _sums(clusters.of, apart)
    total = _squares(off) * off.size / (off.size - 1)
    if len(groups) > 1:
        total += max(0.0, _in_time(apart, clusters, groups[1]))
    return max(1.0, total / (below.size * share * (1 - share)))


def _in_time(apart: NDArray[np.float64], clusters: _Groups, slices: _Groups) -> float:
    """The covariance of different clusters within and between neighboring slices of time, as sums of products."""
    count = slices.sizes.size
    all_of_slice = _sums(slices.of, apart)
    # An additional column, always 0, separates the last slice of a cluster from the first of the next.
    table = _sums(clusters.of * (count + 1) + slices.of, apart)
    # With few slices, the overall mean costs more than one degree of freedom, because neighboring slices count too.
    together = _squares(all_of_slice) + 2 * _total(all_of_slice[1:] * all_of_slice[:-1])
    alone = _squares(table) + 2 * _total(table[1:] * table[:-1])
    return together * count / max(1, count - 3) - alone


def _sums(of: Ids, weights: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.bincount(of, weights=weights).astype(np.float64, copy=False)


def _squares(sums: NDArray[np.float64]) -> float:
    return _total(sums * sums)


def _total(values: NDArray[np.float64]) -> float:
    return float(np.add.reduce(values))


def _carriers(thin: NDArray[np.float64], group: _Groups) -> float:
    each = _sums(group.of, thin)
    return _total(each) ** 2 / _squares(each)


@lru_cache(maxsize=256)
def share_of(p: float) -> Fraction:
    """A percentile as a share, exactly. ValueError unless strictly inside 0..100."""
    share = _decimal(p) / 100
    if not 0 < share < 1:
        raise ValueError(f"only a percentile between 0 and 100, ends excluded, has an interval; not {p}")
    return share


@lru_cache(maxsize=256)
def tail_of(confidence: float) -> Fraction:
    """The probability that a two-sided interval leaves on each side. ValueError unless strictly inside 0..1."""
    level = _decimal(confidence)
    if not 0 < level < 1:
        raise ValueError(f"a confidence lies between 0 and 1, ends excluded, not {confidence}")
    return (1 - level) / 2


def _floor(share: Fraction, tail: Fraction) -> int:
    return max(1, math.ceil(math.log(tail) / _log(share)))


def _log(share: Fraction) -> float:
    # log1p keeps the digits of a share near 1.
    return math.log1p(-float(1 - share)) if 2 * share > 1 else math.log(share)
