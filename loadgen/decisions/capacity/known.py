"""What the visits of a search show: the evidence about each level, and the two levels that bound the capacity. Pure."""

import math
from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Final

import numpy as np
from msgspec import Struct, structs

from loadgen.decisions.capacity.e_values import (
    MIN_REQUESTS_OF_RATE,
    Floats,
    LevelEvidence,
    ObjectiveCounts,
    level_evidence_of,
    log_wanted,
)
from loadgen.decisions.capacity.levels import MAX_USERS, RATES, rate_levels, user_levels
from loadgen.decisions.capacity.likely import likely_shares
from loadgen.decisions.capacity.search import SearchSettings, SearchState, Shown
from loadgen.decisions.capacity.visit import BUSY, RISING, Visit

ALIKE: Final = 1.1
"""The queues of two rates change about equally slowly if the rates differ by at most this factor."""
CLIENT_LIMITED: Final = 2
"""If loadgen itself limits this many visits to a level in a row, the search plays no higher level."""


class JudgedLevel(Struct, frozen=True):
    """The sum of the judged visits to one level."""

    evidence: LevelEvidence
    log_holds: float
    """The largest value after any visit, because a claim that was shown stays shown."""
    log_fails: float
    rate: float
    """Requests per second."""
    inflation: float
    settles: bool
    """Whether there was a visit whose latencies settled and with which the server kept up."""


class Known:
    """The conclusions from the visits so far. A level is a place in `steps`; -1 and len(steps) mean no level."""

    def __init__(self, state: SearchState, settings: SearchSettings) -> None:
        self.state = state
        self.settings = settings
        self.wanted = log_wanted(settings.confidence)
        self.cut = client_limit(state)
        """The lowest level at which loadgen itself was the limit; None: no such level is known."""
        self.steps = self._playable_levels()
        visits = alike(state.visits) if settings.search == "rate" else state.visits
        by_level: dict[float, list[Visit]] = {}
        for visit in visits:
            by_level.setdefault(visit.level, []).append(visit)
        self.levels = {
            at: level
            for at, step in enumerate(self.steps)
            if step in by_level and (level := judged_level(by_level[step], settings)) is not None
        }

    def _playable_levels(self) -> list[float]:
        """All levels from the lowest to the highest, without the levels at which loadgen itself was the limit."""
        settings, visited = self.settings, {visit.level for visit in self.state.visits}
        if settings.search == "users":
            levels = user_levels(settings.from_level or 1.0, settings.to_level or MAX_USERS, visited)
        else:
            levels = rate_levels(settings.from_level or RATES[0], settings.to_level or RATES[1], visited)
        return levels if self.cut is None else [level for level in levels if level < self.cut]

    @cached_property
    def ends(self) -> tuple[int, int]:
        """The highest place shown to hold below the lowest place shown not to hold, and that lowest place."""
        high = min((at for at in self.levels if self.is_shown_to_fail(at)), default=len(self.steps))
        return max((at for at in self.levels if at < high and self.is_shown_to_hold(at)), default=-1), high

    @property
    def shown(self) -> Shown:
        low, high = self.ends
        above = [self.steps[at] for at in sorted(self.levels) if at > high and self.is_shown_to_hold(at)]
        return Shown(
            holds=self.steps[low] if low >= 0 else None,
            fails=self.steps[high] if high < len(self.steps) else None,
            not_monotone=tuple(above),
        )

    def is_shown(self, level: float) -> bool:
        """Whether it is shown that a level holds, or that it does not."""
        at = self.place(level)
        return at in self.levels and (self.is_shown_to_hold(at) or self.is_shown_to_fail(at))

    def is_shown_to_hold(self, at: int) -> bool:
        """Whether a place is shown to hold. If the opposite is shown as well, neither counts as shown."""
        level = self.levels[at]
        return level.log_holds >= self.wanted > level.log_fails

    def is_shown_to_fail(self, at: int) -> bool:
        level = self.levels[at]
        return level.log_fails >= self.wanted > level.log_holds

    @property
    def capacity(self) -> float | None:
        """The highest level between the ends whose likely share meets every objective, and at least the level shown to
        hold. None: not known."""
        low, high = self.ends
        holds = self.steps[low] if low >= 0 else None
        if not self.levels:
            return holds
        last = self.steps[high] if high < len(self.steps) else math.nextafter(self.steps[max(self.levels)], math.inf)
        levels = np.array([level for level in self._levels_below(last) if level >= (holds or 0)], float)
        if not len(levels):
            return holds
        is_good = (self.likely(levels) >= np.asarray(self.settings.shares)).all(1)
        return float(levels[is_good].max()) if is_good.any() else holds

    def _levels_below(self, end: float) -> Iterable[float]:
        """All levels below `end` that can be the capacity, among them every number of users."""
        if self.settings.search == "rate":
            return [level for level in self.steps if level < end]
        return map(float, range(math.ceil(self.steps[0]), math.ceil(end)))

    def place(self, level: float) -> int:
        """The highest place that is not above a level, or else the lowest place."""
        return max(0, int(np.searchsorted(self.steps, level, "right")) - 1)

    def nearest(self, at: int) -> JudgedLevel:
        """The nearest level that was played. At least one must have been played."""
        return self.levels[min(self.levels, key=lambda other: abs(other - at))]

    def likely(self, levels: Floats) -> Floats:
        """The likely share at each of `levels`, levels × objectives. At least one level must have been played."""
        played = sorted(self.levels)
        counts = [[each.counts for each in self.levels[at].evidence.objectives] for at in played]
        return likely_shares([self.steps[at] for at in played], counts, self.settings.shares, levels)

    def looks_good(self, at: int) -> bool:
        """Whether a place probably holds. Half a miss is forgiven, because one miss of twelve requests says little."""
        level = self.levels[at]
        counts = [each.counts for each in level.evidence.objectives]
        return level.log_holds >= self.wanted or (
            level.settles
            and all(
                each.missed - 0.5 <= (each.met + each.missed) * (1 - share)
                for each, share in zip(counts, self.settings.shares, strict=True)
            )
        )


def client_limit(state: SearchState) -> float | None:
    """The lowest level at which loadgen itself was the limit in the last CLIENT_LIMITED visits."""
    in_a_row: dict[float, int] = {}
    for visit in state.visits:
        in_a_row[visit.level] = in_a_row.get(visit.level, 0) + 1 if visit.doubt == "client" else 0
    return min((level for level, count in in_a_row.items() if count >= CLIENT_LIMITED), default=None)


def busy_visits(state: SearchState) -> int:
    """How many of this search's last visits in a row were on a busy machine, at whatever level."""
    visits = state.visits[state.earlier :]
    return next((count for count, visit in enumerate(reversed(visits)) if visit.doubt not in BUSY), len(visits))


def alike(visits: Sequence[Visit]) -> list[Visit]:
    """The visits to rates, each with the largest inflation of any long visit to a level within ALIKE of its own.

    Near the limit of an open loop, queues change slowly. A visit that met no queue by chance does not show how slowly.
    """
    long = [visit for visit in visits if visit.is_judged and visit.requests >= MIN_REQUESTS_OF_RATE]
    changed = []
    for visit in visits:
        near = [other.inflation for other in long if 1 / ALIKE <= other.level / visit.level <= ALIKE]
        inflation = tuple(map(max, zip(visit.inflation, *near, strict=True)))
        changed.append(structs.replace(visit, inflation=inflation))
    return changed


def judged_level(visits: Sequence[Visit], settings: SearchSettings) -> JudgedLevel | None:
    """The sum of the judged visits to one level; None if there are none."""
    judged = [visit for visit in visits if visit.is_judged and visit.requests]
    if not judged:
        return None
    level, shares = judged[0].level, settings.shares
    evidences = [
        level_evidence_of(
            level,
            sum(visit.requests for visit in judged[:count]),
            settings.floor(level),
            [counts_of(judged[:count], objective, settings) for objective in range(len(shares))],
            shares,
        )
        for count in range(1, len(judged) + 1)
    ]
    seconds = sum(visit.seconds for visit in judged)
    return JudgedLevel(
        evidence=evidences[-1],
        log_holds=max(evidence.log_holds for evidence in evidences),
        log_fails=max(evidence.log_fails for evidence in evidences),
        rate=sum(visit.played for visit in judged) / max(seconds, 1e-9),
        inflation=max(1.0, *(max(visit.inflation) for visit in judged)),
        settles=any(visit.doubt not in RISING for visit in judged),
    )


def counts_of(visits: Sequence[Visit], objective: int, settings: SearchSettings) -> ObjectiveCounts:
    """How many requests of the judged visits to one level met an objective. objective: its place.

    Short visits to a rate are no evidence, because the search itself made the queue with which they begin. The hits of
    a visit that drifts are no evidence that the level holds. The misses of a visit that still drains are no evidence
    that it does not hold.
    """
    hits = [visit.met[objective] / visit.inflation[objective] for visit in visits]
    misses = [visit.missed[objective] / visit.inflation[objective] for visit in visits]
    counts = [visit.requests >= settings.least_of_visit for visit in visits]
    rises = [visit.doubt in RISING for visit in visits]
    falls = [visit.doubt == "drains" for visit in visits]
    return ObjectiveCounts(
        met=sum(visit.met[objective] for visit in visits),
        missed=sum(visit.missed[objective] for visit in visits),
        hits=sum(hits),
        misses=sum(misses),
        for_holds=(
            sum(h for h, is_long, rising in zip(hits, counts, rises, strict=True) if is_long and not rising),
            sum(m for m, is_long in zip(misses, counts, strict=True) if is_long),
        ),
        for_fails=(
            sum(h for h, is_long in zip(hits, counts, strict=True) if is_long),
            sum(m for m, is_long, falling in zip(misses, counts, falls, strict=True) if is_long and not falling),
        ),
    )
