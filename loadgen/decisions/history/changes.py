"""What changed in a series of nights, and when. Pure.

A change is shown by one night and stays as it was shown. Only two things are added by later nights: a narrower answer
to when it began, with fewer builds in question; and that it has gone.
"""

from collections.abc import Sequence
from typing import Final, Literal

import numpy as np
from msgspec import Struct

from loadgen.decisions.history.possible_causes import Boundary, PossibleCauses, possible_causes_in
from loadgen.decisions.history.series import NightSeries
from loadgen.stats.change_points import STRETCH, ChangePoint, Floats, Size, change_points, split_range
from loadgen.stats.median import median
from loadgen.store.night_metrics import FAILED_SHARE, NightMetric

Direction = Literal["worse", "better"]

SHARE_MATTERS: Final = 0.005
"""A smaller difference of a share is no change."""


class NightChange(Struct, frozen=True, kw_only=True):
    """One change of one metric. Nights are indexes among all nights of the history."""

    series: NightSeries
    direction: Direction
    change: float | None
    """Relative to the level before (0.12: 12 % higher); of a share, the difference; None if the level before was 0."""
    before: float
    after: float
    """The levels, in the metric's unit: medians of the nights before, and from the change to the night that showed it.
    """
    night: int
    """The first night of the new level."""
    shown_by: int
    """The night that showed the change."""
    earliest: int
    latest: int
    """The range of nights in which the new level began, with 95 % confidence."""
    deviate: float
    """How sure it is, as a normal deviate."""
    possible_causes: PossibleCauses
    """What else changed in that range."""
    gone_on: int | None
    """The first night of a later level that is back at the one before this change, or beyond it."""


class NightLevel(Struct, frozen=True):
    """The level of a series between two changes: the median of its nights."""

    first: int
    last: int
    """The first and the last night at this level."""
    value: float


def matters_of(metric: NightMetric, matters: float) -> float:
    """The smallest change of a metric that is shown. matters: that of metrics that are no share."""
    return SHARE_MATTERS if size_kind_of(metric) == "difference" else matters


def size_kind_of(metric: NightMetric) -> Size:
    """How the size of a metric's change is counted."""
    return "difference" if metric == FAILED_SHARE else "ratio"


def changes_of(series: NightSeries, boundaries: Sequence[Boundary], matters: float) -> tuple[NightChange, ...]:
    """The changes of a series, in the order in which they were shown. boundaries: those of its stage."""
    values = np.array([value for _, value in series.used], dtype=np.float64)
    points = change_points(values, matters_of(series.metric, matters), size_kind_of(series.metric))
    begins = [0, *(point.split for point in points)]
    ends = [*(point.split for point in points[1:]), values.size]
    return tuple(
        _change_of(
            series,
            boundaries,
            point,
            _range_of(values, begin, point.split, end),
            _return_of(point, points[number:], series.metric, matters),
        )
        for number, (begin, point, end) in enumerate(zip(begins, points, ends, strict=False), start=1)
    )


def night_levels_of(series: NightSeries, changes: Sequence[NightChange]) -> tuple[NightLevel, ...]:
    """The levels of a series between its changes; none if no night counts. changes: those of `changes_of`."""
    used = series.used
    begins = [0, *(change.night for change in changes)]
    levels = []
    for begin, end in zip(begins, [*begins[1:], None], strict=True):
        rows = [(night, value) for night, value in used if begin <= night and (end is None or night < end)]
        if rows:
            levels.append(NightLevel(rows[0][0], rows[-1][0], median([value for _, value in rows])))
    return tuple(levels)


def _change_of(
    series: NightSeries,
    boundaries: Sequence[Boundary],
    point: ChangePoint,
    splits: tuple[int, int],
    undone_by: ChangePoint | None,
) -> NightChange:
    at = [night for night, _ in series.used]
    low, high = splits
    is_higher = point.after > point.before
    return NightChange(
        series=series,
        direction="better" if is_higher == (series.metric.better == "high") else "worse",
        change=point.change,
        before=point.before,
        after=point.after,
        night=at[point.split],
        shown_by=at[point.shown],
        earliest=at[low],
        latest=at[high],
        deviate=point.deviate,
        possible_causes=possible_causes_in(boundaries, at[low - 1], at[high], (at[point.split - 1], at[point.split])),
        gone_on=None if undone_by is None else at[undone_by.split],
    )


def _range_of(values: Floats, begin: int, split: int, end: int) -> tuple[int, int]:
    """The first and the last split of the range, from the values between the changes before and after it."""
    begin = max(begin, split - STRETCH)
    low, high = split_range(values[begin:end], split - begin)
    return begin + low, begin + high


def _return_of(
    point: ChangePoint, later: Sequence[ChangePoint], metric: NightMetric, matters: float
) -> ChangePoint | None:
    """The first later change that brings the level back to within what matters of the old one, or beyond it."""
    margin = matters_of(metric, matters) * (1.0 if size_kind_of(metric) == "difference" else abs(point.before))
    if point.after > point.before:
        return next((change for change in later if change.after <= point.before + margin), None)
    return next((change for change in later if change.after >= point.before - margin), None)
