"""Nights as series of values: one for each test, model, level, machine and metric. Pure; knows no file.

Nights are named by their index among all nights of the history. Whether a value is used depends on earlier nights
alone, so that later nights change nothing of it.
"""

from collections.abc import Iterable, Sequence
from typing import Final

from msgspec import Struct

from loadgen.stats.median import median
from loadgen.store.history import NightRecord, NightStage
from loadgen.store.night_metrics import NightMetric, NightValue

ENOUGH_OF_A_NIGHT: Final = 0.5
"""The share of the answers of its fellow nights from which an incomplete night counts."""


class StageSeriesKey(Struct, frozen=True, order=True):
    """One model at one level of one test on one machine."""

    machine: str
    digest: str
    model: str
    target: str
    level: str


class StageSeries(Struct, frozen=True):
    """The nights in which a model was played at a level, whatever was measured."""

    key: StageSeriesKey
    nights: tuple[int, ...]
    stages: tuple[NightStage, ...]
    is_used: tuple[bool, ...]
    """Whether the night counts: it is valid, and complete or long enough."""


class NightSeries(Struct, frozen=True):
    """The values of one metric, night by night."""

    stage: StageSeries
    metric: NightMetric
    values: tuple[NightValue | None, ...]
    """Of each of the stage's nights; None if the night did not measure or could not bound it."""

    @property
    def used(self) -> tuple[tuple[int, float], ...]:
        """The nights that count and their values, in order."""
        rows = zip(self.stage.nights, self.values, self.stage.is_used, strict=True)
        return tuple((night, value.value) for night, value, is_used in rows if value is not None and is_used)


def in_order(nights: Iterable[NightRecord]) -> tuple[NightRecord, ...]:
    """Nights in the order in which they began; of those that began at once, by their ids."""
    return tuple(sorted(nights, key=lambda night: (night.moment, night.run_id)))


def stage_series_of(nights: Sequence[NightRecord]) -> tuple[StageSeries, ...]:
    """The series of each model and level that was played, in the order of their first nights. nights: in order."""
    rows: dict[StageSeriesKey, list[tuple[int, NightStage]]] = {}
    for index, night in enumerate(nights):
        for stage in night.stages:
            if stage.played:
                key = StageSeriesKey(night.machine, night.digest, stage.model, stage.target, stage.level)
                rows.setdefault(key, []).append((index, stage))
    return tuple(
        StageSeries(
            key,
            tuple(index for index, _ in row),
            tuple(stage for _, stage in row),
            _which_count([(nights[index].incomplete, stage) for index, stage in row]),
        )
        for key, row in rows.items()
    )


def series_of(stage: StageSeries, metrics: Sequence[NightMetric]) -> tuple[NightSeries, ...]:
    """The series of each metric that some night has."""
    series = (
        NightSeries(stage, metric, tuple(played.values.get(metric.name) for played in stage.stages))
        for metric in metrics
    )
    return tuple(each for each in series if any(value is not None for value in each.values))


def _which_count(row: Sequence[tuple[bool, NightStage]]) -> tuple[bool, ...]:
    """Which nights of a series count, from pairs of `is_incomplete` and the stage.

    An incomplete night is compared with the complete ones before it. Without any, nothing tells how long it was.
    """
    complete: list[int] = []
    counts = []
    for is_incomplete, stage in row:
        is_valid = stage.verdict != "invalid"
        if is_incomplete:
            counts.append(is_valid and bool(complete) and stage.ok >= ENOUGH_OF_A_NIGHT * median(complete))
        else:
            counts.append(is_valid)
            complete.append(stage.ok)
    return tuple(counts)
