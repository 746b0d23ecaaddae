"""Makes the statistics of a latency, ms, from its values, ns: percentiles with their intervals. Pure."""

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
    """For gaps between tokens: the request of each."""
    moments: Ids | None = None
    """For gaps: the slice of time of each (`loadgen.stats.quantile.moments_of`)."""


def gap_samples(stamps: Ns, lengths: Ns) -> Samples:
    """The gaps between stamps, given as `loadgen.analysis.metrics.flat_stamps` returns them."""
    gaps = metrics.gaps_between(stamps, lengths)
    return Samples(gaps.values, gaps.owners, moments_of(metrics.gap_ends(stamps, lengths), gaps.values))


def quantiles_of(
    samples: Samples, ps: Sequence[float], *, floor: Floor, confidence: float = CONFIDENCE
) -> tuple[Quantile, ...]:
    """Percentiles, whose intervals come from the differences between the requests."""
    if samples.owners is None:
        return estimate(np.sort(samples.values), ps, floor=floor, confidence=confidence)
    owners, moments = samples.owners, samples.moments
    return estimate_clustered(samples.values, owners, ps, moments=moments, floor=floor, confidence=confidence)


def metric_of_run(samples: Samples, *, floor: Floor) -> Metric:
    """The statistics of a metric in one run."""
    quantiles = quantiles_of(samples, PERCENTILES, floor=floor)
    return _metric(samples.values, {f"p{quantile.p:g}": percentile_of(quantile) for quantile in quantiles})


def metric_of_runs(samples: Sequence[Samples | None], *, floor: Floor) -> Metric:
    """The statistics of a metric over several runs, whose intervals come from the differences between the runs.
    samples: those of each run; None: the run is not compared. At least two runs must have values."""
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
    """A percentile in ms. If its interval has no finite upper end, it has no value, only the lower end."""
    bounded = quantile.high is not None and math.isfinite(quantile.high)
    value, high = (quantile.value, quantile.high) if bounded else (None, None)
    return Percentile(in_ms(value), in_ms(quantile.low), in_ms(high), runs)


def _metric(values: Ns, percentiles: dict[str, Percentile]) -> Metric:
    if not values.size:
        return Metric(percentiles=percentiles)
    mean, low, high = in_ms(float(values.mean())), in_ms(int(values.min())), in_ms(int(values.max()))
    return Metric(values.size, mean, low, high, percentiles)
