"""Changes that belong together, and which of them are new. Pure.

A change joins the event of its model whose first change began at most three nights away, or begins one; it does not
matter whether a soak or a plain run showed it. Changes come
in the order in which nights showed them, so a later one never alters to which event an earlier one belongs.
"""

from collections.abc import Iterable, Sequence
from datetime import date
from typing import Final

from msgspec import Struct

from loadgen.decisions.history.changes import Direction, NightChange
from loadgen.store.history import NightRecord

TOGETHER: Final = 3
"""Changes of one model that begin at most so many nights apart are one event."""


class NightEvent(Struct, frozen=True):
    """The changes of one model at one time."""

    changes: tuple[NightChange, ...]
    """The surest first."""
    shown_by: dict[Direction, int]
    """The night that first showed a change for the worse, and one for the better, as far as there is one."""

    @property
    def lead(self) -> NightChange:
        return self.changes[0]

    @property
    def first_shown_by(self) -> int:
        return min(self.shown_by.values())

    @property
    def stands(self) -> bool:
        """Whether some change for the worse has not gone."""
        return any(change.direction == "worse" and change.gone_on is None for change in self.changes)

    def is_new(self, direction: Direction, since: int) -> bool:
        """Whether the event was first shown for the worse, or for the better, by the night `since` or a later one."""
        return self.shown_by.get(direction, -1) >= since


def events_of(changes: Iterable[NightChange], nights: Sequence[NightRecord]) -> tuple[NightEvent, ...]:
    """The changes of all series as events, the newest first. nights: all nights of the history, in order."""
    places, days = _places(nights), [date.fromisoformat(night.date).toordinal() for night in nights]

    def apart(group: Sequence[NightChange], change: NightChange) -> int:
        """How many nights a change is from an event's first; between two tests, how many days."""
        first = group[0]
        order = places if first.series.stage.key.digest == change.series.stage.key.digest else days
        return abs(order[first.night] - order[change.night])

    groups: dict[tuple[str, str, str], list[list[NightChange]]] = {}
    for change in sorted(changes, key=_order_of_showing):
        key = change.series.stage.key
        of_model = groups.setdefault((key.machine, key.model, key.target), [])
        near = [(distance, at) for at, group in enumerate(of_model) if (distance := apart(group, change)) <= TOGETHER]
        if near:
            of_model[min(near)[1]].append(change)
        else:
            of_model.append([change])
    events = [_event_of(group) for of_model in groups.values() for group in of_model]
    return tuple(sorted(events, key=lambda event: (-event.first_shown_by, -event.lead.night, _names(event.lead))))


def _places(nights: Sequence[NightRecord]) -> list[int]:
    """The place of each night among the nights of its test on its machine."""
    counts: dict[tuple[str, str], int] = {}
    places = []
    for night in nights:
        key = (night.machine, night.digest)
        places.append(counts.get(key, 0))
        counts[key] = places[-1] + 1
    return places


def _event_of(group: Sequence[NightChange]) -> NightEvent:
    shown_by: dict[Direction, int] = {}
    for change in group:
        shown_by.setdefault(change.direction, change.shown_by)
    return NightEvent(tuple(sorted(group, key=lambda change: (-change.deviate, _names(change)))), shown_by)


def _order_of_showing(change: NightChange) -> tuple[object, ...]:
    return change.shown_by, change.night, _names(change)


def _names(change: NightChange) -> tuple[object, ...]:
    return change.series.stage.key, change.series.metric.name
