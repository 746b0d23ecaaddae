"""Finds where the level of a series changed, as its values come in one after another; knows no unit.

Value t is judged by the values up to t alone. A change that was shown is therefore never taken back: more values at the
end of a series add changes, and alter none. `benchmarks/nights.py` simulates how often a change is shown without one,
and how soon a true one is shown.
"""

from functools import cache
from statistics import NormalDist
from typing import Final, Literal

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from loadgen.stats.median import median

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Size = Literal["ratio", "difference"]
"""How the size of a change is counted: after / before − 1, or after − before."""

BEFORE: Final = 8
AFTER: Final = 3
"""How many values a change needs before and after it."""
MIN_VALUES: Final = BEFORE + AFTER
STRETCH: Final = 90
"""How many values, at most, one look takes in."""
LIMIT: Final = 4.4
"""The size, as a normal deviate, from which the statistic of a scan shows a change."""
FAR: Final = 4.0
"""The last values show a change at once if each of them is so many robust deviations off, all to one side."""
CERTAIN: Final = 99.0
"""The largest normal deviate that is told."""
_MOST_CORRELATED: Final = 0.8
_TINY: Final = 1e-12
"""A deviation that is smaller than this is an error of rounding."""
_MOST_EVIDENCE: Final = 4.5
_LOOKS: Final = 128
"""How many looks are computed together; only the speed depends on it."""


class ChangePoint(Struct, frozen=True):
    """One change of the level of a series."""

    shown: int
    """The index of the value that showed it."""
    split: int
    """The index of the first value at the new level, as well as could be told when it was shown."""
    before: float
    """The median of the stretch before the split."""
    after: float
    """The median from the split to the value that showed it."""
    change: float | None
    """after / before − 1, or after − before, as `Size` says; None for a ratio to 0."""
    deviate: float
    """How sure it is, as a normal deviate without its sign, up to `CERTAIN`."""


def change_points(
    values: Floats, matters: float, size: Size = "ratio", limit: float = LIMIT
) -> tuple[ChangePoint, ...]:
    """The changes of the level of a series, in the order in which its values showed them.

    values: finite. matters: smaller changes are not shown. limit: see `LIMIT`. Each look takes in the stretch from the
    last change, or from the first value, and at most `STRETCH` values. Two rules show a change:

    - Each of the last 3 values is at least 4 robust deviations (1.4826 MAD · (1 + 5/n)) off the median of the n values
      of the stretch before them, and by what matters, all to one side. Ratios are judged by logarithms where all values
      are positive.
    - The scan: of the normal scores of the stretch's ranks, the split with the largest |right mean − left mean| ·
      √(k(n − k)/n). Its t has the variance of the residuals, times (1 + φ)/(1 − φ) for their first autocorrelation φ,
      which is raised by (1 + 3φ)/n and kept in 0..0.8; and (n − 2)(1 − φ)/(1 + φ) degrees of freedom, at least 2.
      Equal values get their mean score, and count with the variance that they would have if they were not quite equal.

    Ranks, because a single outlier is then no more than one large value.
    """
    changes: list[ChangePoint] = []
    begin, end = 0, MIN_VALUES
    while end <= values.size:
        looks = _looks_at(values, begin, np.arange(end, min(end + _LOOKS, values.size + 1)), matters, size)
        change = _first_change(values, looks, matters, size, limit)
        if change is None:
            end += _LOOKS
        else:
            changes.append(change)
            begin, end = change.split, max(change.shown + 2, change.split + MIN_VALUES)
    return tuple(changes)


def split_range(values: Floats, split: int, confidence: float = 0.95) -> tuple[int, int]:
    """The first and last index at which a step of the level may have begun: where the new level's first value may be.

    values: all values from the last change before the step to the next one after it. split: the index at which the step
    was seen, from 1 to the last; the range always contains it. The range holds the smallest set of splits with the
    given share of the likelihood, of normal noise around the medians before and after the split, with equal weight for
    all splits beforehand. The noise is 1.2 robust deviations (1.4826 MAD · (1 + 5/n)) of all values. No value changes
    the logarithm of the likelihood by more than 4.5, so that an outlier says little.

    Not by ranks: of a step that a few values have shown, they only say that these are the largest, and the range would
    be many times as wide. `benchmarks/nights.py` simulates how often the range has the true split.
    """
    before, after = median(values[:split]), median(values[split:])
    off = np.abs(values - np.where(np.arange(values.size) < split, before, after))
    noise = 1.2 * 1.4826 * median(off) * (1 + 5 / values.size)
    noise = max(noise, _TINY * abs(after - before)) or 1.0
    for_new = (after - before) / noise * ((values - (before + after) / 2) / noise)
    for_new = np.clip(for_new, -_MOST_EVIDENCE, _MOST_EVIDENCE)
    cost = np.cumsum(for_new)[:-1]  # of each split after the first value, up to a constant
    weight = np.exp(cost.min() - cost)
    order = np.argsort(-weight, kind="stable")
    share = np.cumsum(weight[order]) / weight.sum()
    likely = 1 + order[: int(np.searchsorted(share, confidence)) + 1]
    return min(split, int(likely.min())), max(split, int(likely.max()))


class _Looks(Struct, frozen=True):
    """What many looks at a series show, each at the stretch `begins[i]..ends[i]`."""

    begins: Ints
    ends: Ints
    far: Floats
    """How far the last values are off, as a normal deviate with its sign; 0 if one of them is not `FAR` off."""
    t: Floats
    degrees: Floats
    splits: Ints
    """Of the scan: Student's t, its degrees of freedom, and the best split, as an index of the series."""


def _first_change(values: Floats, looks: _Looks, matters: float, size: Size, limit: float) -> ChangePoint | None:
    """The first change that matters."""
    # Student's tails are wider than the normal distribution's: a smaller t is never beyond the limit.
    for look in np.flatnonzero((looks.far != 0) | (np.abs(looks.t) >= limit)):
        begin, end = int(looks.begins[look]), int(looks.ends[look])
        candidates = [(end - AFTER, abs(float(looks.far[look])))] if looks.far[look] else []
        candidates.append(
            (int(looks.splits[look]), normal_deviate(abs(float(looks.t[look])), float(looks.degrees[look])))
        )
        for split, deviate in candidates:
            if deviate < limit:
                continue
            before, after = median(values[begin:split]), median(values[split:end])
            change = _size_of(before, after, size)
            if change is None or abs(change) >= matters:
                return ChangePoint(end - 1, split, before, after, change, deviate)
    return None


def _size_of(before: float, after: float, size: Size) -> float | None:
    if size == "difference":
        return after - before
    if before == after:
        return 0.0
    return after / before - 1 if before else None


def normal_deviate(t: float, degrees: float) -> float:
    """The normal deviate that is exceeded as rarely as a value of Student's t ≥ 0, up to `CERTAIN`."""
    from scipy.special import ndtri, stdtr  # here, as in `loadgen.stats.quantile`

    tail = float(stdtr(degrees, -t))
    return min(CERTAIN, -float(ndtri(tail))) if tail > 0 else CERTAIN


def _looks_at(values: Floats, begin: int, ends: Ints, matters: float, size: Size) -> _Looks:
    """Look at the stretches that begin at `begin` and end before each of `ends`, each a row of `STRETCH` places.

    Rows are computed alike whichever rows are beside them, so that what is shown does not depend on later values.
    """
    begins = np.maximum(begin, ends - STRETCH)
    lengths = (ends - begins)[:, None]
    places = np.arange(STRETCH)
    inside = places < lengths
    rows = values[np.minimum(begins[:, None] + places, values.size - 1)]
    far = _far_off(rows, inside, lengths, matters, size)
    t, degrees, splits = _scan(_scores(rows, inside, lengths), inside, lengths)
    return _Looks(begins, ends, far, t, degrees, begins + splits)


def _far_off(rows: Floats, inside: NDArray[np.bool_], lengths: Ints, matters: float, size: Size) -> Floats:
    """How far the last values of each row are off, as a normal deviate with its sign; 0 if they show nothing."""
    positive = (np.where(inside, rows, 1.0) > 0).all(axis=1, keepdims=True) & (size == "ratio")
    rows = np.where(positive, np.log(np.where(inside & positive, rows, 1.0)), rows)
    earlier = lengths - AFTER
    is_earlier = np.arange(STRETCH) < earlier
    middle = _medians(np.where(is_earlier, rows, np.inf), earlier)
    deviation = _medians(np.where(is_earlier, np.abs(rows - middle), np.inf), earlier)
    least = np.where(positive, np.log1p(matters), matters if size == "difference" else matters * np.abs(middle))
    scale = np.maximum(1.4826 * deviation * (1 + 5 / earlier), np.maximum(least / FAR, _TINY))
    last = np.take_along_axis(rows, earlier + np.arange(AFTER), axis=1)
    off = (last - middle) / scale
    is_far = (off >= FAR).all(axis=1) | (off <= -FAR).all(axis=1)
    together = np.clip(off.sum(axis=1) / np.sqrt(AFTER), -CERTAIN, CERTAIN)
    return np.where(is_far, together, 0.0)


def _medians(rows: Floats, counts: Ints) -> Floats:
    """The median of each row's `counts` smallest values, as a column."""
    ordered = np.sort(rows, axis=1)
    low = np.take_along_axis(ordered, (counts - 1) // 2, axis=1)
    high = np.take_along_axis(ordered, counts // 2, axis=1)
    medians: Floats = (low + high) / 2
    return medians


def _scan(scores: Floats, inside: NDArray[np.bool_], lengths: Ints) -> tuple[Floats, Floats, Ints]:
    """t, its degrees of freedom and the split with the largest statistic, of each row of normal scores (0 outside)."""
    splits = np.arange(BEFORE, STRETCH - AFTER + 1)
    right_counts = lengths - splits
    allowed = right_counts >= AFTER
    right_counts = np.maximum(right_counts, 1)
    total = np.cumsum(scores, axis=1)
    left_sums = total[:, splits - 1]
    left, right = left_sums / splits, (total[:, -1:] - left_sums) / right_counts
    weights = np.sqrt(splits * right_counts / lengths)
    best = np.argmax(np.where(allowed, np.abs(right - left) * weights, -1.0), axis=1)[:, None]
    split = splits[best]
    before, after = np.take_along_axis(left, best, axis=1), np.take_along_axis(right, best, axis=1)
    rest = np.where(inside, scores - np.where(np.arange(STRETCH) < split, before, after), 0.0)
    # Equal values hide how far they are apart: their mean scores have a smaller sum of squares than those of a row
    # without any. Without the difference, two failures among nights that are all alike would be a change.
    power = (rest * rest).sum(axis=1) + (_table()[1][lengths[:, 0]] - (scores * scores).sum(axis=1))
    n = lengths[:, 0].astype(np.float64)
    phi = (rest[:, 1:] * rest[:, :-1]).sum(axis=1) / power
    phi = np.clip(phi + (1 + 3 * phi) / n, 0.0, _MOST_CORRELATED)
    jump, at = (after - before)[:, 0], split[:, 0]
    t = jump / np.sqrt(power / (n - 2) * (1 + phi) / (1 - phi) * (1 / at + 1 / (n - at)))
    return t, np.maximum(2.0, (n - 2) * (1 - phi) / (1 + phi)), at


def _scores(rows: Floats, inside: NDArray[np.bool_], lengths: Ints) -> Floats:
    """The normal score of each value among those of its row, 0 outside; equal values get their mean rank."""
    rows = np.where(inside, rows, np.inf)
    order = np.argsort(rows, axis=1, kind="stable")
    ordered = np.take_along_axis(rows, order, axis=1)
    differs = ordered[:, 1:] != ordered[:, :-1]
    edge = np.ones((len(rows), 1), dtype=np.bool_)
    places = np.arange(STRETCH)
    first = np.maximum.accumulate(np.where(np.hstack([edge, differs]), places, 0), axis=1)
    ends = np.where(np.hstack([differs, edge]), places, STRETCH)
    last = np.minimum.accumulate(ends[:, ::-1], axis=1)[:, ::-1]
    scores = np.empty_like(rows)
    np.put_along_axis(scores, order, _table()[0][lengths, first + last + 2], axis=1)
    return np.where(inside, scores, 0.0)


@cache
def _table() -> tuple[Floats, Floats]:
    """Normal scores by the number of values and by twice the rank, 0 where there is no such rank; and by the number of
    values, the sum of squares of the scores of values that all differ."""
    inverse = NormalDist().inv_cdf
    table = np.zeros((STRETCH + 1, 2 * STRETCH + 1))
    for n in range(MIN_VALUES, STRETCH + 1):
        table[n, 2 : 2 * n + 1] = [inverse(_share(twice, n)) for twice in range(2, 2 * n + 1)]
    return table, (table[:, ::2] ** 2).sum(axis=1)


def _share(twice_the_rank: int, n: int) -> float:
    """Blom's plotting position of a rank among n (Blom, Statistical Estimates and Transformed Beta-Variables, 1958)."""
    return (twice_the_rank / 2 - 0.375) / (n + 0.25)
