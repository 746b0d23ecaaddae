"""How far several graders agree: Krippendorff's alpha for ordinal notes, and Cohen's kappa for two graders. Knows no
file and no question.

A unit is graded by one or more graders; a unit with one note says nothing about agreement and is left out. Units may
belong together (the aspects of one answer), and the interval leaves out such groups as a whole.
"""

import math
from collections.abc import Hashable, Mapping, Sequence
from typing import Final

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from loadgen.stats.mean import student_quantile

Floats = NDArray[np.float64]

_MIN_GROUPS: Final = 3
"""The fewest groups of units for an interval."""


class GradedUnit(Struct, frozen=True):
    """The notes of one thing that was graded."""

    group: Hashable
    """What it belongs to: units of one group are left out together."""
    notes: Mapping[str, int]
    """The note of each grader."""


class Alpha(Struct, frozen=True):
    """Krippendorff's alpha: 1 is full agreement, 0 is that of chance."""

    value: float
    ci: tuple[float, float] | None
    """The 95 % interval, within −1 and 1. None: fewer than three groups of units."""
    units: int
    """How many units have two notes or more."""


def ordinal_alpha(units: Sequence[GradedUnit], confidence: float = 0.95) -> Alpha | None:
    """Krippendorff's alpha with ordinal distances, and a jackknife t interval over groups of units. None: no unit has
    two notes, or all notes are equal, so that agreement by chance has no size.

    Sources: Krippendorff, Content Analysis (2004), chapter 11; Hughes, R Journal 14/1 (2022), for the jackknife."""
    graded = [unit for unit in units if len(unit.notes) > 1]
    values = sorted({note for unit in graded for note in unit.notes.values()})
    if len(values) < 2:
        return None
    place = {value: index for index, value in enumerate(values)}
    groups: dict[Hashable, Floats] = {}
    for unit in graded:
        pairs = _coincidences([place[note] for note in unit.notes.values()], len(values))
        groups[unit.group] = groups.get(unit.group, np.zeros_like(pairs)) + pairs
    each = np.stack(list(groups.values()))
    total = each.sum(0)
    value = _alpha(total)
    assert value is not None  # two different notes, each in a pair, disagree by chance
    left_out = [_alpha(total - group) for group in each]
    return Alpha(value, _jackknife(value, left_out, confidence), len(graded))


def quadratic_kappa(first: Sequence[int], second: Sequence[int]) -> float | None:
    """Cohen's kappa of two graders with quadratic weights. first, second: their notes of the same units, n each. None:
    no units, or both gave one and the same note throughout. Source: Cohen, Psychological Bulletin 70 (1968)."""
    if not first:
        return None
    a, b = np.asarray(first, float), np.asarray(second, float)
    by_chance = float(((a[:, None] - b[None, :]) ** 2).mean())
    return None if by_chance == 0 else 1.0 - float(((a - b) ** 2).mean()) / by_chance


def _coincidences(places: Sequence[int], values: int) -> Floats:
    """The ordered pairs of notes within one unit, each with the weight 1 / (notes − 1). values × values."""
    counts = np.bincount(places, minlength=values).astype(float)
    pairs: Floats = (np.outer(counts, counts) - np.diag(counts)) / (len(places) - 1)
    return pairs


def _alpha(coincidences: Floats) -> float | None:
    """One minus the disagreement that there is over that of chance."""
    counts = coincidences.sum(0)
    number = float(counts.sum())
    middle = counts.cumsum() - counts / 2
    distances = (middle[:, None] - middle[None, :]) ** 2
    by_chance = float((np.outer(counts, counts) * distances).sum()) / (number - 1) if number > 1 else 0.0
    return None if by_chance == 0 else 1.0 - float((coincidences * distances).sum()) / by_chance


def _jackknife(value: float, left_out: Sequence[float | None], confidence: float) -> tuple[float, float] | None:
    known = np.array([each for each in left_out if each is not None])
    count = len(known)
    if count < _MIN_GROUPS or count < len(left_out):
        return None
    pseudo = count * value - (count - 1) * known
    reach = student_quantile(0.5 + confidence / 2, count - 1) * float(pseudo.std(ddof=1)) / math.sqrt(count)
    middle = float(pseudo.mean())
    return max(-1.0, middle - reach), min(1.0, middle + reach)
