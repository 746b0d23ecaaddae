"""The standard errors of one run's figures, relative to a run with infinitely many requests. Pure.

They do not say how another run would come out: see `loadgen.decisions.compare.noise`.
"""

import math
from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from loadgen.analysis.metrics import MISSING
from loadgen.analysis.stage import StageData
from loadgen.analysis.summary import StageSummary
from loadgen.decisions.compare.figures import RATE, FigureKey, FigureTable
from loadgen.decisions.compare.paired_models import PairedModel
from loadgen.decisions.compare.sides import Sides
from loadgen.stats.permutation import Figures

RESAMPLES: Final = 500
MIN_BLOCK: Final = 10
"""The smallest block of requests, because consecutive requests resemble each other."""
AT_ONCE: Final = 1_000_000
"""Values of so many resamples are looked at in one step."""
MOST_DRAWN: Final = 100_000_000
"""How many values one bootstrap may draw; with more values, the interval of the percentile is used instead."""
_WIDTH_OF_95: Final = 3.92
"""Standard errors between the ends of a 95 % interval."""


def errors_within(table: FigureTable, sides: Sides, models: Sequence[PairedModel], rng: np.random.Generator) -> Figures:
    """The standard error of each figure within its run, on the scale of `FigureTable.scaled`: runs × figures.

    They come from a moving-block bootstrap over requests in the order of dispatch; for a baseline, which has no
    requests, from the intervals of its percentiles. Source: Künsch, Annals of Statistics 17 (1989), 1217–1241.
    """
    errors = np.zeros_like(table.scaled)
    for i, run in enumerate(sides.runs):
        draws: dict[tuple[int, str], Resamples | None] = {}
        for j, key in enumerate(table.keys):
            if key.level is None:
                continue
            stage_key = models[key.model].key(i, key.level)
            summary = run.stage(stage_key)
            data = None if run.stages is None else run.stages[stage_key]
            if (key.model, key.level) not in draws:
                draws[key.model, key.level] = None if data is None else Resamples(data, rng)
            assert summary is not None
            share = float(table.values[i, j])
            if key.unit == "share":
                errors[i, j] = error_of_share(share, float(table.requests[i, j]))
            elif key.metric != "rss":
                errors[i, j] = _error(key, summary, draws[key.model, key.level])
    for j, key in enumerate(table.keys):
        if key.level is None:  # the levels of a run are played one after another, so their errors are independent
            own = [k for k, other in enumerate(table.keys) if other.level and _same_metric(other, key)]
            errors[:, j] = np.sqrt((errors[:, own] ** 2).sum(1)) / len(own)
    return errors


def error_of_share(share: float, requests: float) -> float:
    """The standard error of the log odds of a share of `requests` requests."""
    return math.sqrt(1 / (share * requests + 0.5) + 1 / ((1 - share) * requests + 0.5))


def _same_metric(figure: FigureKey, other: FigureKey) -> bool:
    return (figure.model, figure.metric) == (other.model, other.metric)


def _error(key: FigureKey, summary: StageSummary, resamples: "Resamples | None") -> float:
    if key.metric == RATE:
        return 0.0 if resamples is None else resamples.error_of_rate()
    name, _, percentile = key.metric.rpartition("_")
    if resamples is not None and (error := resamples.error_of_percentile(name, float(percentile[1:]))) is not None:
        return error
    metric = summary.metric(f"{name}_ms")
    interval = None if metric is None else metric.percentile(percentile).interval
    if interval is None or interval[0] <= 0:
        return 0.0
    return math.log(interval[1] / interval[0]) / _WIDTH_OF_95


class Resamples:
    """How often each resample contains each answered request of a stage."""

    def __init__(self, data: StageData, rng: np.random.Generator) -> None:
        self._data = data
        self._order = np.argsort([record.dispatched_ns or 0 for record in data.ok], kind="stable")
        self._counts = resampled_counts(len(data.ok), max(2 * (data.planned.load.concurrency or 1), MIN_BLOCK), rng)

    def error_of_rate(self) -> float:
        """The standard error of the logarithm of tokens per second: all tokens divided by the time of all answers."""
        tokens = np.array([record.output_tokens or 0 for record in self._data.ok], float)[self._order]
        times = np.where((e2e := self._data.each["e2e"]) == MISSING, 0, e2e)[self._order].astype(float)
        rates = (self._counts @ tokens) / np.maximum(self._counts @ times, 1)
        return float(np.log(rates[rates > 0]).std(ddof=1)) if (rates > 0).sum() > 1 else 0.0

    def error_of_percentile(self, metric: str, percent: float) -> float | None:
        """The standard error of the logarithm of a percentile; None if there are too many values for a bootstrap."""
        place = np.empty(len(self._order), np.int64)
        place[self._order] = np.arange(len(self._order))
        if metric == "itl":
            values, owners = self._data.gaps.values, place[self._data.gaps.owners]
        else:
            each = self._data.each[metric]
            there = each != MISSING
            values, owners = each[there], place[there]
        if values.size * RESAMPLES > MOST_DRAWN or not values.size:
            return None
        ascending = np.argsort(values, kind="stable")
        ordered, owners = values[ascending], owners[ascending]
        drawn = np.empty(RESAMPLES)
        step = max(1, AT_ONCE // values.size)
        for start in range(0, RESAMPLES, step):
            cumulated = np.cumsum(self._counts[start : start + step, owners], axis=1)
            ranks = np.maximum(np.ceil(percent / 100 * cumulated[:, -1]), 1)
            places = (cumulated < ranks[:, None]).sum(axis=1)
            drawn[start : start + step] = ordered[np.minimum(places, len(ordered) - 1)]
        return float(np.log(drawn[drawn > 0]).std(ddof=1)) if (drawn > 0).sum() > 1 else None


def resampled_counts(requests: int, block: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """How often each resample of moving blocks contains each request: resamples × requests."""
    block = min(block, requests)
    starts = rng.integers(0, requests - block + 1, (RESAMPLES, math.ceil(requests / block)))
    places = (starts[:, :, None] + np.arange(block)).reshape(RESAMPLES, -1)[:, :requests]
    flat = places + np.arange(RESAMPLES)[:, None] * requests
    return np.bincount(flat.ravel(), minlength=RESAMPLES * requests).reshape(RESAMPLES, requests)
