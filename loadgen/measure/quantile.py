"""Exact quantiles of raw samples and how far they can be trusted; knows no histogram, no record and no unit.

A percentile `p` is a number of percent, read as the decimal it prints as: 99.9 is 999/1000, not the binary fraction
beside it, because `ceil(p / 100 * n)` in floats is off by one for ordinary (p, n), e.g. p99.9 of 1,000 samples.
"""

import math
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from fractions import Fraction
from functools import lru_cache

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray
from scipy.special import bdtr, bdtrc

Values = NDArray[np.int64] | NDArray[np.float64]

# Samples are sorted into this many equal bins to find a resampled quantile's neighbourhood, fewer when there are
# so many clusters that the table of clusters × bins would pass _TABLE_CELLS.
_BINS = 256
_TABLE_CELLS = 1 << 21
# A two-sided 95 % interval of a median takes six independent units: 2 · 0.5⁶ ≤ 0.05 < 2 · 0.5⁵.
MIN_CLUSTERS = 6


class Quantile(Struct, frozen=True):
    """A percentile and its two-sided 95 % interval, in the unit of the samples.

    p: percent. value: the nearest-rank percentile; None when the interval has no upper end, and then it must not be
    shown as a number. low: the interval's lower end, the "at least" bound when value is None; None when nothing bounds
    it from below. high: the interval's upper end, None exactly when value is. From integers all are ints.
    """

    p: float
    value: float | None
    low: float | None
    high: float | None


@lru_cache(maxsize=256)
def _decimal(number: float) -> Fraction:
    return Fraction(repr(float(number)))


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


def samples_needed(p: float, confidence: float = 0.95) -> int:
    """How many samples give a percentile's two-sided interval an upper end: the smallest n with (p/100)ⁿ ≤ (1−c)/2.

    At 95 %: p50 6, p90 36, p95 72, p99 368, p99.9 3,688. p and confidence lie strictly inside 0..100 and 0..1;
    ValueError otherwise. Below that n even the sample's maximum may lie under the percentile too often.
    """
    return _floor(_share(p), _tail(confidence))


def order_statistic_interval(p: float, n: int, confidence: float = 0.95) -> tuple[int | None, int | None]:
    """1-based ranks (lower, upper) of the order statistics that enclose a percentile, whatever the distribution.

    lower: the largest l with P(X₍ₗ₎ ≤ q) ≥ 1 − (1−c)/2; None when not even the minimum is low enough, which happens for
    small p (p1 below 368 samples) as it does at the other end for large. upper: the smallest u with P(X₍ᵤ₎ ≥ q) ≥
    1 − (1−c)/2; None when not even the maximum is high enough. n may be 0: (None, None). ValueError as in
    `samples_needed`. Source: David & Nagaraja, Order Statistics (2003), 7.1: the number of samples below q is
    binomial (n, p/100).
    """
    share, tail = _share(p), _tail(confidence)
    s, t = float(share), float(tail)
    lower = upper = None
    if n >= _floor(1 - share, tail):
        # P(X₍ₗ₎ ≤ q) = 1 − P(Bin ≤ l−1): as many ranks as there are k with P(Bin ≤ k) ≤ t.
        lower = bisect_right(range(n), t, key=lambda k: float(bdtr(k, n, s)))
    if n >= _floor(share, tail):
        # P(X₍ᵤ₎ ≥ q) = P(Bin ≤ u−1): the first k with P(Bin > k) ≤ t. The complement keeps its digits near 1. The last
        # k is known to do, by the floor, and is not asked, lest rounding say otherwise.
        upper = bisect_left(range(n - 1), -t, key=lambda k: -float(bdtrc(k, n, s))) + 1
    return lower or None, upper


def estimate(sorted_values: Values, ps: Sequence[float]) -> tuple[Quantile, ...]:
    """Percentiles of independent samples, each with its distribution-free 95 % interval.

    sorted_values: ascending, may be empty (value, low and high are then None). ps: percent, strictly inside 0..100.
    Integers in, ints out; floats in, floats out.
    """
    n = sorted_values.size

    def at(r: int | None) -> float | None:
        return None if r is None else sorted_values[r - 1].item()

    found = []
    for p in ps:
        lower, upper = order_statistic_interval(p, n)
        value = None if upper is None else nearest_rank(sorted_values, p)
        found.append(Quantile(p, value, at(lower), at(upper)))
    return tuple(found)


def estimate_clustered(
    values: Values,
    cluster_ids: NDArray[np.int64],
    ps: Sequence[float],
    *,
    rng: np.random.Generator,
    replicates: int = 400,
) -> tuple[Quantile, ...]:
    """Percentiles of samples that come in clusters (the gaps of a request), with intervals that resample the clusters.

    values and cluster_ids: equally long, in any order; ids are arbitrary integers. ps: percent, strictly inside
    0..100. The interval is the 2.5th to 97.5th percentile over `replicates` (40 or more) resamplings of whole clusters
    with replacement, each replicate's percentile being the exact nearest rank of its pooled samples; should the value
    lie outside, it is widened to the value. Integers in, ints out. ValueError when the lengths differ.

    value and high are None below the same floor on the number of samples as for independent ones (`samples_needed`).
    With fewer than MIN_CLUSTERS clusters nothing is shown at all, low included: clusters are what is independent, and
    so few of them bound no percentile at 95 %, not even a median. Above that the interval is approximate, and errs at
    its upper end: where clusters differ much in level, a p50 is covered 92 % of the time by ten of them, but a p99
    75 % by sixteen and 88 % by a hundred, as the clusters that make the tail are few. The lower end holds in 95 to
    99 % from ten on.
    Source: Davison & Hinkley, Bootstrap Methods (1997), 3.8: resample the upper level only.
    """
    if values.size != cluster_ids.size:
        raise ValueError(f"{values.size} values but {cluster_ids.size} cluster ids")
    if replicates < 40:
        raise ValueError("a 95 % interval takes 40 replicates or more")
    floors = [samples_needed(p) for p in ps]
    n = values.size
    clusters, members = np.unique(cluster_ids, return_inverse=True)
    if clusters.size < MIN_CLUSTERS:
        return tuple(Quantile(p, None, None, None) for p in ps)
    order = np.argsort(values, kind="stable")
    ordered, owners = values[order], members.reshape(-1)[order]
    drawn = np.sort(ordered[_resampled_positions(owners, clusters.size, ps, rng, replicates)], axis=0)
    low_row = rank(2.5, replicates) - 1
    found = []
    for column, (p, floor) in enumerate(zip(ps, floors, strict=True)):
        value = nearest_rank(ordered, p)
        low, high = min(value, drawn[low_row, column].item()), max(value, drawn[-1 - low_row, column].item())
        found.append(Quantile(p, value, low, high) if n >= floor else Quantile(p, None, low, None))
    return tuple(found)


def _resampled_positions(
    owners: NDArray[np.int64], clusters: int, ps: Sequence[float], rng: np.random.Generator, replicates: int
) -> NDArray[np.int64]:
    """Where each replicate's percentiles lie in the sorted samples: positions of shape (replicates, len(ps)).

    owners: the cluster 0..clusters−1 of each sample, samples ascending. A sample counts as often as its cluster was
    drawn. The cumulated weight is found in two steps, per bin by a product of matrices and then inside one bin, so that
    the cost is not replicates × samples.
    """
    n = owners.size
    bins = min(_BINS, max(16, _TABLE_CELLS // clusters), n)
    edges = np.linspace(0, n, bins + 1).astype(np.int64)
    bin_of = np.repeat(np.arange(bins), np.diff(edges))
    # Rows in blocks bound the memory with many clusters: a block's weights and its table have _TABLE_CELLS cells.
    table = np.bincount(owners * bins + bin_of, minlength=clusters * bins).reshape(clusters, bins)
    block = max(1, _TABLE_CELLS // clusters)
    positions = np.empty((replicates, len(ps)), dtype=np.int64)
    for start in range(0, replicates, block):
        rows = min(block, replicates - start)
        weights = _draw_weights(rng, rows, clusters)
        # Not `@`: its threaded BLAS took 29 s in place of 1 when something else, a model say, kept the cores busy.
        cumulated = np.cumsum(np.einsum("rc,cb->rb", weights, table), axis=1)
        for row in range(rows):
            total = int(cumulated[row, -1])
            for column, p in enumerate(ps):
                target = rank(p, total)
                inside = int(np.searchsorted(cumulated[row], target))
                before = int(cumulated[row, inside - 1]) if inside else 0
                running = np.cumsum(weights[row, owners[edges[inside] : edges[inside + 1]]])
                positions[start + row, column] = edges[inside] + np.searchsorted(running, target - before)
    return positions


def _draw_weights(rng: np.random.Generator, rows: int, clusters: int) -> NDArray[np.int64]:
    """How often each cluster was drawn, in `rows` independent draws of `clusters` out of `clusters`."""
    drawn = rng.integers(clusters, size=(rows, clusters)) + np.arange(rows)[:, np.newaxis] * clusters
    return np.bincount(drawn.reshape(-1), minlength=rows * clusters).reshape(rows, clusters)


def _share(p: float) -> Fraction:
    share = _decimal(p) / 100
    if not 0 < share < 1:
        raise ValueError(f"only a percentile between 0 and 100, ends excluded, has an interval; not {p}")
    return share


def _tail(confidence: float) -> Fraction:
    level = _decimal(confidence)
    if not 0 < level < 1:
        raise ValueError(f"a confidence lies between 0 and 1, ends excluded, not {confidence}")
    return (1 - level) / 2


@lru_cache(maxsize=256)
def _floor(share: Fraction, tail: Fraction) -> int:
    # log1p keeps the digits of a share near 1.
    log_share = math.log1p(-float(1 - share)) if 2 * share > 1 else math.log(share)
    return max(1, math.ceil(math.log(tail) / log_share))
