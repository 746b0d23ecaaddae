"""Where series begin anew: another machine, or another test. Neither is a change of the level. Pure."""

from collections.abc import Iterator, Sequence
from typing import Final, Literal

from msgspec import Struct

from loadgen.decisions.history.series import NightSeries
from loadgen.stats.change_points import AFTER, BEFORE
from loadgen.stats.median import median
from loadgen.store.history import NightRecord, scenario_differences

MIN_NIGHTS: Final = AFTER
"""A level of fewer nights is not compared with another."""
MOST_NIGHTS: Final = BEFORE
"""How many nights before and after a change of the machine its levels are medians of."""


class LevelDifference(Struct, frozen=True):
    """The levels of one metric on the machine before and on the new one."""

    model: str
    target: str
    level: str
    metric: str
    unit: str
    before: float
    after: float


class SeriesBreak(Struct, frozen=True):
    """The night on which series begin anew. Nights are indexes among all nights of the history."""

    kind: Literal["machine", "scenario"]
    night: int
    before: int
    """The night with which it is compared: the last one of another machine, or of the scenario before."""
    keys: tuple[str, ...] = ()
    """The keys of the scenario that changed; empty if the scenario does not say what changed."""
    levels: tuple[LevelDifference, ...] = ()
    """Of another machine: what the same test came to on both, as far as there are three nights of each."""


def breaks_of(nights: Sequence[NightRecord], series: Sequence[NightSeries]) -> tuple[SeriesBreak, ...]:
    """The first night of each machine and of each test, but for the first ones, the newest first.

    nights: all nights of the history, in order. series: of all machines. A machine or a test that comes back continues
    its series, and is no break.
    """
    breaks = [*_machine_breaks(nights, series), *_scenario_breaks(nights)]
    return tuple(sorted(breaks, key=lambda each: (-each.night, each.kind)))


def _machine_breaks(nights: Sequence[NightRecord], series: Sequence[NightSeries]) -> Iterator[SeriesBreak]:
    machines: set[str] = set()
    for index, night in enumerate(nights):
        if machines and night.machine not in machines:
            before = nights[index - 1].machine
            yield SeriesBreak(
                "machine", index, index - 1, (), tuple(_differences(before, night.machine, index, series))
            )
        machines.add(night.machine)


def _scenario_breaks(nights: Sequence[NightRecord]) -> Iterator[SeriesBreak]:
    digests: set[tuple[str, str]] = set()
    latest: dict[str, int] = {}
    for index, night in enumerate(nights):
        before = latest.get(night.machine)
        if before is None and index and all(digest != night.digest for _, digest in digests):
            before = index - 1
        if before is not None and (night.machine, night.digest) not in digests:
            yield SeriesBreak("scenario", index, before, scenario_differences(nights[before], night))
        digests.add((night.machine, night.digest))
        latest[night.machine] = index


def _differences(before: str, after: str, first: int, series: Sequence[NightSeries]) -> Iterator[LevelDifference]:
    """The levels of the same tests on two machines, before and from the night `first` on."""
    old = {_test_of(each): each for each in series if each.stage.key.machine == before}
    for new in series:
        if new.stage.key.machine != after or (other := old.get(_test_of(new))) is None:
            continue
        earlier = [value for night, value in other.used if night < first][-MOST_NIGHTS:]
        later = [value for night, value in new.used if night >= first][:MOST_NIGHTS]
        if min(len(earlier), len(later)) >= MIN_NIGHTS:
            key, metric = new.stage.key, new.metric
            yield LevelDifference(
                key.model, key.target, key.level, metric.name, metric.unit, median(earlier), median(later)
            )


def _test_of(series: NightSeries) -> tuple[str, ...]:
    key = series.stage.key
    return key.digest, key.model, key.target, key.level, series.metric.name
