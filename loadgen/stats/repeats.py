"""Percentiles over repeated runs, with intervals from the differences between runs; knows no record and no unit."""

import math
from collections.abc import Sequence

import numpy as np
from msgspec import Struct

from loadgen.stats.mean import student_quantile
from loadgen.stats.quantile import (
    CONFIDENCE,
    Floor,
    Ids,
    Values,
    estimate,
    estimate_clustered,
    nearest_rank,
    share_of,
    tail_of,
)


class Repeated(Struct, frozen=True):
    """A percentile over repeated runs: the geometric mean of the runs' percentiles, which is that of a typical run, and
    its interval.

    p: percent. value, low, high: as in `Quantile`, but always floats. runs: each run's own nearest-rank percentile, in
    the order of their ids. pooled: the nearest-rank percentile of all samples together, which has no interval here.
    """

    p: float
    value: float | None
    low: float | None
    high: float | None
    runs: tuple[float, ...]
    pooled: float


def estimate_repeated(
    values: Values,
    run_ids: Ids,
    ps: Sequence[float],
    *,
    request_ids: Ids | None = None,
    floor: Floor = "contract",
    confidence: float = CONFIDENCE,
) -> tuple[Repeated, ...]:
    """Percentiles over N ≥ 2 repeated runs. The intervals come only from the differences between runs, with N − 1
    degrees of freedom.

    values, run_ids, request_ids: equally long, in any order; request_ids are needed if a request has several values
    (gaps). The interval is Student's, over the logarithms of the runs' median-unbiased percentiles (over the
    percentiles themselves if one is not above 0). It needs no model of the dependence within a run, such as a warm
    cache. With two or three runs it is correct but wide: 9.0 and 2.5 standard deviations each way. value and high are
    None unless every run by itself shows the percentile. docs/intervals.md says why this is the percentile of a typical
    run, and not that of all runs pooled. ValueError if lengths differ, or for fewer than two runs. Source: Hyndman &
    Fan, The American Statistician 50 (1996), 361–365, definition 8, for the percentile of a run.
    """
    if values.size != run_ids.size or (request_ids is not None and request_ids.size != values.size):
        raise ValueError(f"{values.size} values but {run_ids.size} run ids")
    names = np.unique(run_ids)
    if names.size < 2:
        raise ValueError("an interval over repeats takes two runs or more")
    parts = [_sorted(values[run_ids == name]) for name in names]
    shown = [True] * len(ps)
    for name, part in zip(names, parts, strict=True):
        if request_ids is None:
            own = estimate(part, ps, floor=floor)
        else:
            in_run = run_ids == name
            own = estimate_clustered(values[in_run], request_ids[in_run], ps, floor=floor)
        shown = [known and quantile.value is not None for known, quantile in zip(shown, own, strict=True)]
    pooled = _sorted(values)
    estimates = []
    for p, known in zip(ps, shown, strict=True):
        value, low, high = _student([_median_unbiased(part, p) for part in parts], confidence)
        runs = tuple(nearest_rank(part, p) for part in parts)
        shown_value, shown_high = (value, high) if known else (None, None)
        estimates.append(Repeated(p, shown_value, low, shown_high, runs, nearest_rank(pooled, p)))
    return tuple(estimates)


def _sorted(values: Values) -> Values:
    ordered = values.copy()
    ordered.sort()
    return ordered


def _student(each: Sequence[float], confidence: float) -> tuple[float, float, float]:
    scale = np.log(each) if min(each) > 0 else np.array(each)
    reach = (
        -student_quantile(float(tail_of(confidence)), scale.size - 1) * float(scale.std(ddof=1)) / math.sqrt(scale.size)
    )
    ends = float(scale.mean()) + np.array([0.0, -reach, reach])
    # An interval may be so wide that its end overflows. Such an end is infinite, and not an error.
    with np.errstate(over="ignore"):
        value, low, high = (np.exp(ends) if min(each) > 0 else ends).tolist()
    return value, low, high


def _median_unbiased(ordered: Values, p: float) -> float:
    n, share = ordered.size, float(share_of(p))
    at = min(max((n + 1 / 3) * share + 1 / 3, 1.0), float(n))
    below = int(at)
    value = float(ordered[below - 1])
    return value if below == n else value + (at - below) * (float(ordered[below]) - value)
