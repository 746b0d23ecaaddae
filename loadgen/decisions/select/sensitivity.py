"""What would change a choice: other weights, and which candidates are best under some weights. Pure; knows no names."""

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Final

import numpy as np
from msgspec import Struct

from loadgen.decisions.select.criteria import Criterion, Values
from loadgen.decisions.select.leader import StepTable, leader_of, utilities_of
from loadgen.plan.rng import generator

WEIGHTINGS: Final = 20_000
NEAR: Final = 0.01
"""How far beyond a turning point a share is tried."""
SHARE_STEP: Final = 0.02
"""So far from each other, shares are tried for whether the first is recommended; in between, the end is halved in."""
HALVINGS: Final = 8
_ROUNDING: Final = 1e-9
_SAME_SLOPE: Final = 1e-12


class Band(Struct, frozen=True):
    """A range of a weight in which one candidate is first. It ends where the next begins, or at 1."""

    start: float
    first: int


def pareto_front(points: Values) -> tuple[int, ...]:
    """The rows (more is better in each column) that no other row equals in all columns and beats in one."""
    front = []
    for i, point in enumerate(points):
        beaten = (points >= point).all(1) & (points > point).any(1)
        if not beaten.any():
            front.append(i)
    return tuple(front)


def bands_of(means: Mapping[Criterion, Values], shares: Mapping[Criterion, float], name: Criterion) -> tuple[Band, ...]:
    """Who is first by utility for each share of one criterion from 0 to 1, the others kept in proportion.

    means: by criterion, the value of each candidate in steps. Exact: each utility is a line over that share, and who is
    first changes only where two lines cross.
    """
    alone = means[name]
    rest = _utility_without(means, shares, name)
    cuts = {0.0, 1.0}
    for i in range(len(alone)):
        for j in range(i):
            slope = (alone[i] - rest[i]) - (alone[j] - rest[j])
            if abs(slope) > _SAME_SLOPE:
                crossing = float((rest[j] - rest[i]) / slope)
                if _ROUNDING < crossing < 1 - _ROUNDING:  # lines that meet at an end do not cross
                    cuts.add(crossing)
    bands: list[Band] = []
    for low, high in pairwise(sorted(cuts)):
        first = _first(_mixed(alone, rest, (low + high) / 2))
        if not bands or bands[-1].first != first:
            bands.append(Band(low, first))
    return tuple(bands)


def recommended_between(
    table: StepTable, shares: Mapping[Criterion, float], name: Criterion
) -> tuple[float, float] | None:
    """The shares of one criterion around its own, the others kept in proportion, for which the first leads everybody
    for sure; None if it does not now."""
    first = leader_of(utilities_of(table, shares)).first

    def is_recommended(share: float) -> bool:
        rest = sum(other for key, other in shares.items() if key != name)
        scaled = {key: share if key == name else other / rest * (1 - share) for key, other in shares.items()}
        leader = leader_of(utilities_of(table, scaled))
        return leader.first == first and len(leader.not_told_apart) == 1

    now = shares[name]
    if len(shares) == 1 or not is_recommended(now):
        return None
    return _last(is_recommended, now, 0.0), _last(is_recommended, now, 1.0)


def _last(holds: Callable[[float], bool], start: float, end: float) -> float:
    """The last share on the way from one that holds to an end up to which all hold, as far as they are tried."""
    steps = max(1, math.ceil(abs(end - start) / SHARE_STEP))
    good = start
    for step in range(1, steps + 1):
        tried = end if step == steps else start + (end - start) * step / steps
        if not holds(tried):
            for _ in range(HALVINGS):
                middle = (good + tried) / 2
                good, tried = (middle, tried) if holds(middle) else (good, middle)
            return good
        good = tried
    return end


def acceptability(means: Mapping[Criterion, Values], compared: Sequence[Criterion]) -> tuple[float, ...]:
    """The share of all weightings of the compared criteria under which each candidate is first; equals share one.

    Source: SMAA-2, Lahdelma & Salminen, Operations Research 49 (2001), 444–454. The weightings are even on the simplex.
    """
    table = np.array([means[name] for name in compared])
    weights = generator(1, "select", "weightings").dirichlet(np.ones(len(table)), size=WEIGHTINGS)
    utilities = weights @ table
    best = utilities >= utilities.max(1, keepdims=True) - _ROUNDING
    return tuple(float(share) for share in (best / best.sum(1, keepdims=True)).mean(0))


def band_at(bands: Sequence[Band], share: float) -> int:
    """The number of the band in which a share is."""
    return max(at for at, band in enumerate(bands) if band.start <= share or at == 0)


def bands_beside(share: float, first: Sequence[tuple[float, str]]) -> list[tuple[float, float]]:
    """The ranges just below and just above the band of a share, at most 0.02 wide, in which another candidate is first.

    first: the start of each band, and who is first in it.
    """
    at = max(place for place, (start, _) in enumerate(first) if start <= share or place == 0)
    starts = [start for start, _ in first] + [1.0]
    ranges = []
    if at:
        ranges.append((max(starts[at - 1], starts[at] - 2 * NEAR), starts[at]))
    if at + 1 < len(first):
        ranges.append((starts[at + 1], min(starts[at + 2], starts[at + 1] + 2 * NEAR)))
    return ranges


def _utility_without(means: Mapping[Criterion, Values], shares: Mapping[Criterion, float], name: Criterion) -> Values:
    others = {other: share for other, share in shares.items() if other != name}
    total = sum(others.values())
    utility = np.zeros(len(means[name]))
    for other, share in others.items():
        utility = utility + share / total * means[other]
    return utility


def _mixed(alone: Values, rest: Values, share: float) -> Values:
    return np.asarray(share * alone + (1 - share) * rest, dtype=np.float64)


def _first(utility: Values) -> int:
    return int(np.flatnonzero(utility >= utility.max() - _ROUNDING)[0])
