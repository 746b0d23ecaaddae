"""The builds and traits that changed while a level changed: what may explain it. Pure.

A build or a trait that is not known on a night may have been any; so its change lies anywhere between the last night
on which the old one is known and the first on which the new one is.
"""

from collections.abc import Iterable, Sequence
from typing import Final

from msgspec import Struct

from loadgen.decisions.history.series import StageSeries
from loadgen.store.history import NightRecord

BUILD: Final = "build"
SERVER: Final = "server"
"""The trait whose value is the build where the build has no label."""


class Boundary(Struct, frozen=True):
    """A change of the build or of a trait, after the night `after` and at the latest on the night `by`."""

    name: str
    old: str
    new: str
    after: int
    by: int

    @property
    def text(self) -> str:
        return f"{self.name} {self.old} → {self.new}"


class PossibleCauses(Struct, frozen=True):
    """What changed within the range of a change of a level."""

    builds: tuple[str, ...]
    """The builds on either side of each change of the build: the change exactly at the split first, then in order."""
    is_between_two_builds: bool
    """Whether the build changed once, and surely within the range: what changed lies between these two builds."""
    traits: tuple[str, ...]
    """Each change of a trait, "kernel 6.12.5 → 6.12.9", in the same order."""


def boundaries_of(stage: StageSeries, nights: Sequence[NightRecord]) -> tuple[Boundary, ...]:
    """The changes of the build and of each trait over the nights of a series, whether they count or not."""
    last: dict[str, tuple[str, int]] = {}
    boundaries = []
    for night, played in zip(stage.nights, stage.stages, strict=True):
        values = {**nights[night].traits, **played.traits}
        if played.build is not None:
            values[BUILD] = played.build
        for name, value in values.items():
            old, after = last.get(name, (value, night))
            if old != value:
                boundaries.append(Boundary(name, old, value, after, night))
            last[name] = (value, night)
    return tuple(boundaries)


def possible_causes_in(boundaries: Iterable[Boundary], old: int, new: int, split: tuple[int, int]) -> PossibleCauses:
    """What changed in a range of nights.

    old: the last night before the range, whose level is the old one. new: the last night of the range, whose level is
    the new one. split: the nights on either side of the change as it was shown.
    """
    within = [boundary for boundary in boundaries if boundary.by > old and boundary.after < new]
    within.sort(key=lambda boundary: not (split[0] <= boundary.after and boundary.by <= split[1]))
    builds = [boundary for boundary in within if boundary.name == BUILD]
    steps = {(boundary.old, boundary.new) for boundary in builds}
    return PossibleCauses(
        tuple(dict.fromkeys(name for boundary in builds for name in (boundary.old, boundary.new))),
        len(builds) == 1 and builds[0].after >= old and builds[0].by <= new,
        tuple(
            boundary.text
            for boundary in within
            if boundary.name != BUILD and not (boundary.name == SERVER and (boundary.old, boundary.new) in steps)
        ),
    )
