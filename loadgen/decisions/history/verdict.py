"""The answer of a history: what changed over the nights, and whether the newest one made something worse certain. Pure.

Without I/O and without chance: the same nights give the same answer, whatever order they come in.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Final, Literal

from msgspec import Struct

from loadgen.decisions.history.breaks import SeriesBreak, breaks_of
from loadgen.decisions.history.change_groups import ChangeGroup, change_groups_of
from loadgen.decisions.history.changes import NightChange, changes_of
from loadgen.decisions.history.possible_causes import boundaries_of
from loadgen.decisions.history.series import NightSeries, StageSeries, in_order, series_of, stage_series_of
from loadgen.stats.change_points import MIN_VALUES
from loadgen.store.history import NightRecord
from loadgen.store.night_metrics import NIGHT_METRICS, NightMetric

SCHEMA: Final = "loadgen.history/1"
HistoryVerdict = Literal["regression", "improvement", "same", "not enough nights"]
"""regression: something worse was first shown by the newest night, or since the moment that was asked for, and still
stands. improvement: not that, but something better was. not enough nights: no series has enough for any change."""
FailOn = Literal["regression", "change", "never"]


class HistorySettings(Struct, frozen=True, kw_only=True):
    """What is asked of a history."""

    scenario: str
    metrics: tuple[NightMetric, ...] = NIGHT_METRICS
    matters: float = 0.03
    """Smaller changes are not told; of a share, `SHARE_MATTERS`."""
    machine: str | None = None
    """Only the series of this machine; None: of all."""
    model: str | None = None
    level: str | None = None
    since: datetime | None = None
    """What was first shown by a night from this moment on is new; None: by the newest night."""


class HistoryAnswer(Struct, frozen=True, kw_only=True):
    """What changed over the nights. Nights are indexes in `nights`."""

    settings: HistorySettings
    nights: tuple[NightRecord, ...]
    """All nights, in order, of all machines."""
    chosen: tuple[int, ...]
    """Those of the machine that was asked for."""
    used: int
    """How many of these count in some series."""
    usable: int
    """The largest number of nights that count in one series; `MIN_VALUES` are needed for a change."""
    first_new: int
    """The first night by which something new may have been shown; the number of all nights if there is none."""
    series: tuple[NightSeries, ...]
    change_groups: tuple[ChangeGroup, ...]
    """The newest first."""
    breaks: tuple[SeriesBreak, ...]
    """Where series begin anew; the newest first."""

    @property
    def newest(self) -> NightRecord | None:
        return self.nights[self.chosen[-1]] if self.chosen else None

    @property
    def changes(self) -> tuple[NightChange, ...]:
        """Group by group."""
        return tuple(change for group in self.change_groups for change in group.changes)

    @property
    def verdict(self) -> HistoryVerdict:
        if self.usable < MIN_VALUES:
            return "not enough nights"
        if any(group.is_new("worse", self.first_new) and group.stands for group in self.change_groups):
            return "regression"
        if any(group.is_new("better", self.first_new) for group in self.change_groups):
            return "improvement"
        return "same"

    def fails(self, on: FailOn) -> bool:
        """Whether the exit code is 1."""
        match on:
            case "regression":
                return self.verdict == "regression"
            case "change":
                return self.verdict in ("regression", "improvement")
            case "never":
                return False


def history_of(nights: Sequence[NightRecord], settings: HistorySettings) -> HistoryAnswer:
    """What changed over the nights, as each night was judged by those before it.

    nights: of all machines, in any order.
    """
    ordered = in_order(nights)
    stages = [stage for stage in stage_series_of(ordered) if _is_asked(stage, settings)]
    by_stage = [(stage, series_of(stage, settings.metrics)) for stage in stages]
    every = [series for _, group in by_stage for series in group]
    series: list[NightSeries] = []
    changes: list[NightChange] = []
    for stage, group in by_stage:
        if settings.machine in (None, stage.key.machine):
            series += group
            boundaries = boundaries_of(stage, ordered)
            changes += [change for each in group for change in changes_of(each, boundaries, settings.matters)]
    chosen = tuple(at for at, night in enumerate(ordered) if settings.machine in (None, night.machine))
    return HistoryAnswer(
        settings=settings,
        nights=ordered,
        chosen=chosen,
        used=len({night for each in series for night, _ in each.used}),
        usable=max((len(each.used) for each in series), default=0),
        first_new=_first_new(ordered, chosen, settings.since),
        series=tuple(series),
        change_groups=change_groups_of(changes, ordered),
        breaks=tuple(each for each in breaks_of(ordered, every) if each.night in chosen),
    )


def _is_asked(stage: StageSeries, settings: HistorySettings) -> bool:
    return settings.model in (None, stage.key.model) and settings.level in (None, stage.key.level)


def _first_new(nights: Sequence[NightRecord], chosen: Sequence[int], moment: datetime | None) -> int:
    if moment is None:
        return chosen[-1] if chosen else len(nights)
    return next((at for at in chosen if nights[at].moment >= moment), len(nights))
