"""Changes that belong together, and which of them are new. Pure.

A change joins the group of its model whose first change began at most three nights away, or begins one; it does not
matter whether a soak or a plain run showed it. Changes come
in the order in which nights showed them, so a later one never alters to which group an earlier one belongs.
"""

from collections.abc import Iterable, Sequence
from datetime import date
from typing import Final

from msgspec import Struct

from loadgen.decisions.history.changes import Direction, NightChange
from loadgen.store.history import NightRecord

TOGETHER: Final = 3
"""Changes of one model that begin at most so many nights apart are one group."""


class ChangeGroup(Struct, frozen=True):
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

    def is_new(self, direction: Direction, first_new: int) -> bool:
        """Whether the group was first shown for the worse, or for the better, by the night `first_new` or later."""
        return self.shown_by.get(direction, -1) >= first_new


def change_groups_of(changes: Iterable[NightChange], nights: Sequence[NightRecord]) -> tuple[ChangeGroup, ...]:
    """The changes of all series as groups, the newest first. nights: all nights of the history, in order."""
    places, days = _places(nights), [date.fromisoformat(night.date).toordinal() for night in nights]

    def apart(members: Sequence[NightChange], change: NightChange) -> int:
        """How many nights a change is from a group's first; between two tests, how many days."""
        first = members[0]
        order = places if first.series.stage.key.digest == change.series.stage.key.digest else days
        return abs(order[first.night] - order[change.night])

    of_models: dict[tuple[str, str, str], list[list[NightChange]]] = {}
    for change in sorted(changes, key=_order_of_showing):
        key = change.series.stage.key
        of_model = of_models.setdefault((key.machine, key.model, key.target), [])
        near = [
            (distance, at) for at, members in enumerate(of_model) if (distance := apart(members, change)) <= TOGETHER
        ]
        if near:
            of_model[min(near)[1]].append(change)
        else:
            of_model.append([change])
    groups = [_group_of(members) for of_model in of_models.values() for members in of_model]
    return tuple(sorted(groups, key=lambda group: (-group.first_shown_by, -group.lead.night, _names(group.lead))))


def _places(nights: Sequence[NightRecord]) -> list[int]:
    """The place of each night among the nights of its test on its machine."""
    counts: dict[tuple[str, str], int] = {}
    places = []
    for night in nights:
        key = (night.machine, night.digest)
        places.append(counts.get(key, 0))
        counts[key] = places[-1] + 1
    return places


def _group_of(members: Sequence[NightChange]) -> ChangeGroup:
    shown_by: dict[Direction, int] = {}
    for change in members:
        shown_by.setdefault(change.direction, change.shown_by)
    return ChangeGroup(tuple(sorted(members, key=lambda change: (-change.deviate, _names(change)))), shown_by)


def _order_of_showing(change: NightChange) -> tuple[object, ...]:
    return change.shown_by, change.night, _names(change)


def _names(change: NightChange) -> tuple[object, ...]:
    return change.series.stage.key, change.series.metric.name
