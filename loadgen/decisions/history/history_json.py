"""A history as JSON, `loadgen.history/1`. Pure."""

from typing import Literal

from msgspec import Struct, field

from loadgen.decisions.history.breaks import LevelDifference, SeriesBreak
from loadgen.decisions.history.changes import Direction, NightChange
from loadgen.decisions.history.series import NightSeries
from loadgen.decisions.history.verdict import SCHEMA, HistoryAnswer, HistoryVerdict


class MachineJson(Struct, frozen=True):
    """A machine by its id, and in words."""

    id: str
    name: str


class ChangeJson(Struct, frozen=True, kw_only=True):
    """One change. Nights are run ids."""

    model: str
    target: str
    level: str
    metric: str
    direction: Direction
    change: float | None
    """Relative; of a share, the difference; null if the level before was 0."""
    before: float = field(name="from")
    after: float = field(name="to")
    unit: str
    night: str
    """The first night of the new level."""
    utc: str
    """When that night began."""
    between: tuple[str, str]
    """The first and the last night on which the new level may have begun."""
    shown_by: str
    builds: tuple[str, ...]
    traits: tuple[str, ...]
    gone_on: str | None
    new: bool
    """Whether its group was first shown, for the worse or for the better, by the newest night, or since `--since`."""


class BreakJson(Struct, frozen=True):
    """Another machine or another test: series begin anew."""

    kind: Literal["machine", "scenario"]
    night: str
    utc: str
    machine: MachineJson
    keys: tuple[str, ...]
    levels: tuple[LevelDifference, ...]


class SeriesJson(Struct, frozen=True):
    """The values of one metric. A value that is missing, or does not count, is null."""

    model: str
    target: str
    level: str
    metric: str
    machine: str
    nights: tuple[str, ...]
    values: tuple[float | None, ...]
    usable: int


class HistoryJson(Struct, frozen=True):
    """A whole history."""

    schema: str
    scenario: str
    nights: int
    used: int
    machine: MachineJson | None
    """Null if all machines were asked for."""
    newest: str | None
    verdict: HistoryVerdict
    changes: tuple[ChangeJson, ...]
    series: tuple[SeriesJson, ...]
    breaks: tuple[BreakJson, ...]


def history_json(answer: HistoryAnswer) -> HistoryJson:
    """The document that `loadgen history --json` prints."""
    newest = answer.newest
    machine = (
        None if answer.settings.machine is None or newest is None else MachineJson(newest.machine, newest.machine_name)
    )
    return HistoryJson(
        schema=SCHEMA,
        scenario=answer.settings.scenario,
        nights=len(answer.chosen),
        used=answer.used,
        machine=machine,
        newest=None if newest is None else newest.run_id,
        verdict=answer.verdict,
        changes=tuple(
            _change(answer, change, is_new=group.is_new(change.direction, answer.first_new))
            for group in answer.change_groups
            for change in group.changes
        ),
        series=tuple(_series(answer, series) for series in answer.series),
        breaks=tuple(_break(answer, each) for each in answer.breaks),
    )


def _change(answer: HistoryAnswer, change: NightChange, *, is_new: bool) -> ChangeJson:
    ids, key = [night.run_id for night in answer.nights], change.series.stage.key
    return ChangeJson(
        model=key.model,
        target=key.target,
        level=key.level,
        metric=change.series.metric.name,
        direction=change.direction,
        change=None if change.change is None else round(change.change, 4),
        before=_rounded(change.before),
        after=_rounded(change.after),
        unit=change.series.metric.unit,
        night=ids[change.night],
        utc=answer.nights[change.night].started_utc,
        between=(ids[change.earliest], ids[change.latest]),
        shown_by=ids[change.shown_by],
        builds=change.possible_causes.builds,
        traits=change.possible_causes.traits,
        gone_on=None if change.gone_on is None else ids[change.gone_on],
        new=is_new,
    )


def _series(answer: HistoryAnswer, series: NightSeries) -> SeriesJson:
    key, used = series.stage.key, dict(series.used)
    return SeriesJson(
        model=key.model,
        target=key.target,
        level=key.level,
        metric=series.metric.name,
        machine=key.machine,
        nights=tuple(answer.nights[night].run_id for night in series.stage.nights),
        values=tuple(used.get(night) for night in series.stage.nights),
        usable=len(used),
    )


def _break(answer: HistoryAnswer, each: SeriesBreak) -> BreakJson:
    night = answer.nights[each.night]
    machine = MachineJson(night.machine, night.machine_name)
    return BreakJson(each.kind, night.run_id, night.started_utc, machine, each.keys, each.levels)


def _rounded(value: float) -> float:
    """A level as a summary rounds: to four decimal places."""
    return round(value, 4)
