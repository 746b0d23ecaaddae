"""Values of a latency, ns, and what is said of them, ms: percentiles with their intervals. Pure."""

import math
from collections.abc import Sequence
from typing import Final

import numpy as np
from msgspec import Struct

from loadgen.analysis import metrics
from loadgen.analysis.metrics import Ns
from loadgen.analysis.summary import Metric, Percentile, in_ms
from loadgen.stats.quantile import CONFIDENCE, Floor, Ids, Quantile, estimate, estimate_clustered, moments_of
from loadgen.stats.repeats import Repeated, estimate_repeated

PERCENTILES: Final = (50.0, 90.0, 95.0, 99.0, 99.9)


class Samples(Struct, frozen=True):
    """The values of one metric in one run, ns."""

    values: Ns
    owners: Ids | None = None
    """Of gaps between tokens, the request that each is of."""
    moments: Ids | None = None
    """Of gaps, the slice of time that each fell into (`loadgen.stats.quantile.moments_of`)."""


def gap_samples(stamps: Ns, lengths: Ns) -> Samples:
    """The gaps between stamps that stand as `flat_stamps` of `loadgen.analysis.metrics` gives them."""
    gaps = metrics.gaps_between(stamps, lengths)
    return Samples(gaps.values, gaps.owners, moments_of(metrics.gap_ends(stamps, lengths), gaps.values))


def quantiles_of(
    samples: Samples, ps: Sequence[float], *, floor: Floor, confidence: float = CONFIDENCE
) -> tuple[Quantile, ...]:
    """Percentiles, uncertain as the requests are different."""
    if samples.owners is None:
        return estimate(np.sort(samples.values), ps, floor=floor, confidence=confidence)
    owners, moments = samples.owners, samples.moments
    return estimate_clustered(samples.values, owners, ps, moments=moments, floor=floor, confidence=confidence)


def metric_of_run(samples: Samples, *, floor: Floor) -> Metric:
    """What one run says of a metric."""
    quantiles = quantiles_of(samples, PERCENTILES, floor=floor)
    return _metric(samples.values, {f"p{quantile.p:g}": percentile_of(quantile) for quantile in quantiles})


def metric_of_runs(samples: Sequence[Samples | None], *, floor: Floor) -> Metric:
    """What several runs say of a metric together, uncertain as the runs are different. samples: of each run, None of
    one that is not compared; two runs or more have values."""
    known = [(place, of_run) for place, of_run in enumerate(samples) if of_run is not None and of_run.values.size]
    pooled = np.concatenate([of_run.values for _, of_run in known])
    owners = [of_run.owners for _, of_run in known if of_run.owners is not None]
    quantiles = estimate_repeated(
        pooled,
        np.repeat(np.arange(len(known)), [of_run.values.size for _, of_run in known]),
        PERCENTILES,
        request_ids=np.concatenate(owners) if owners else None,
        floor=floor,
    )
    percentiles = {}
    for quantile in quantiles:
        by_place = {place: in_ms(value) for (place, _), value in zip(known, quantile.runs, strict=True)}
        runs = tuple(by_place.get(place) for place in range(len(samples)))
        percentiles[f"p{quantile.p:g}"] = percentile_of(quantile, runs=runs)
    return _metric(pooled, percentiles)


def percentile_of(quantile: Quantile | Repeated, *, runs: tuple[float | None, ...] | None = None) -> Percentile:
    """A percentile in ms; without a value, and by its lower end alone, where its interval has no finite upper end."""
    bounded = quantile.high is not None and math.isfinite(quantile.high)
    value, high = (quantile.value, quantile.high) if bounded else (None, None)
    return Percentile(in_ms(value), in_ms(quantile.low), in_ms(high), runs)


def _metric(values: Ns, percentiles: dict[str, Percentile]) -> Metric:
    if not values.size:
        return Metric(percentiles=percentiles)
    mean, low, high = in_ms(float(values.mean())), in_ms(int(values.min())), in_ms(int(values.max()))
    return Metric(values.size, mean, low, high, percentiles)
