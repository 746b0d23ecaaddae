"""Percentiles of values that are known only as counts, by bucket and block of time, with intervals. Knows no
unit."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from loadgen.stats.quantile import (
    CONFIDENCE,
    MIN_CLUSTERS,
    Floor,
    Ids,
    Quantile,
    floor_of,
    fractional_ranks,
    rank,
    share_of,
    tail_of,
)


def estimate_in_blocks(
    lows: Ids,
    tops: Ids,
    counts: Ids,
    ps: Sequence[float],
    *,
    floor: Floor = "contract",
    confidence: float = CONFIDENCE,
) -> tuple[Quantile, ...]:
    """Percentiles of counted values, with intervals from blocks of time.

    lows, tops: the lowest and the highest value of each bucket, ascending; shape (buckets,). counts: how many values of
    each block are in each bucket; shape (blocks, buckets). ps: percent, strictly inside 0..100. Integers in, ints out:
    a percentile is the highest value of its bucket, and the ends of its interval are rounded outward to those of
    theirs.

    The samples count as n / (design effect) independent ones. The design effect is the variance of the share at or
    below the percentile if whole blocks are resampled with replacement, in closed form, over the variance for
    independent samples. So values that rise and fall together within a block count as few, whatever makes them do so. A
    t quantile widens both ends; its degrees of freedom are the effective number of blocks with values beyond the
    percentile, (Σe)² / Σe² for e of them per block, minus one.

    value and high are None if the effective number of samples is below `floor`, or that number of blocks below
    MIN_CLUSTERS. Sources: as for `loadgen.stats.quantile.estimate_clustered`; of blocks:
    Künsch, Annals of Statistics 17 (1989), 1217–1241.
    """
    used = counts[counts.sum(axis=1) > 0]
    if used.shape[0] < MIN_CLUSTERS:
        return tuple(Quantile(p, None, None, None) for p in ps)
    return tuple(_in_blocks(lows, tops, used, p, floor_of(p, floor), confidence) for p in ps)


def _in_blocks(lows: Ids, tops: Ids, counts: Ids, p: float, needed: int, confidence: float) -> Quantile:
    from scipy.special import ndtri, stdtrit

    reached = np.cumsum(counts.sum(axis=0))
    n = int(reached[-1])
    at = int(np.searchsorted(reached, rank(p, n)))
    off, thin = _off(counts, reached, at, float(share_of(p)))
    blocks, share = off.size, float(share_of(p))
    variance = float(np.sum(off * off)) * blocks / (blocks - 1)
    effect = max(1.0, variance / (n * share * (1 - share)))
    squares = float(np.sum(thin * thin))
    carriers = float(thin.sum()) ** 2 / squares if squares else 0.0
    tail, independent = float(tail_of(confidence)), n / effect

    def effective(degrees: float) -> float:
        return independent * float((ndtri(tail) / stdtrit(max(1.0, degrees), tail)) ** 2)

    def bucket_at(bound: float, samples: float) -> int:
        position = min(max(bound / (samples + 1) * (n + 1), 1.0), float(n))
        return int(np.searchsorted(reached, position))

    samples = effective(carriers - 1)
    is_known = samples >= needed and carriers >= MIN_CLUSTERS
    samples = samples if is_known else effective(blocks - 1)
    lower, upper = fractional_ranks(p, samples, confidence)
    low = None if lower is None else int(lows[min(bucket_at(lower, samples), at)])
    if not is_known:
        return Quantile(p, None, low, None)
    high = tops[-1] if upper is None else tops[max(bucket_at(upper, samples), at)]
    return Quantile(p, int(tops[at]), low, int(high))


def _off(counts: Ids, reached: Ids, at: int, share: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """For each block, by how many more values it has at or below a percentile than its number of values suggests; and
    how many it has beyond the percentile. at: the bucket of the percentile, whose values count as partly below it, so
    that just `share` of all are."""
    before = int(reached[at - 1]) if at else 0
    part = (share * int(reached[-1]) - before) / (int(reached[at]) - before)
    below = counts[:, :at].sum(axis=1) + min(max(part, 0.0), 1.0) * counts[:, at]
    sizes = counts.sum(axis=1)
    return below - share * sizes, sizes - below if share >= 0.5 else below
