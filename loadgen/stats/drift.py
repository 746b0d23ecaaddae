"""Whether a series moved along a night, in spite of a pace that wanders; knows no file, no metric and no unit.

A night is cut into windows. Each test takes scores by window and projects them onto polynomials in time that are
orthonormal under the windows' weights. The first component is what moves along the night, and the next ones are what
wanders almost as slowly. Their ratio is Student's t, whatever the autocorrelation within minutes and hours, which is
therefore not estimated. Sources: Müller & Watson, Econometrica 76 (2008), 979-1016; Phillips, Econometric Theory 21
(2005), 116-142; Sun, Journal of Econometrics 177 (2013), 345-366. `benchmarks/drift.py` has the simulations.

Changes are those over the night: `change` is added in equal parts from its first window to its last.
"""

from collections.abc import Callable
from functools import cached_property
from typing import Final, Protocol

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from loadgen.stats.bucket_counts import BucketCounts
from loadgen.stats.histogram import EDGES_NS, HIGHEST_NS, buckets_of
from loadgen.stats.mean import student_quantile
from loadgen.stats.median import median

Floats = NDArray[np.float64]

NOISE_COMPONENTS: Final = 8
"""How many components estimate the noise: the degrees of freedom of every test."""
SLOWEST_COMPONENTS: Final = 5
WIDENED: Final = 1.15
"""A 95 % interval estimates the noise from the slowest components alone, and is so many times as wide as Student's.
With all components, only 86 % of them cover the truth where the pace wanders over half an hour."""
MIN_POINTS: Final = NOISE_COMPONENTS + 4
"""A test of fewer windows has hardly more values than components."""
MOST_CHANGE: Final = 3.0
"""The largest change of a percentile, as a logarithm: to where an interval reaches that has no end."""
FLOORS: Final = 32
"""Of how many parts of a night the lowest memory is taken."""
_PULLED: Final = 4.0
"""Values of a plain series are pulled to as many robust deviations around its line."""
_COARSE: Final = np.minimum(np.cumsum(0.05 * 3.0 ** np.arange(5)), MOST_CHANGE)
"""How far from none the changes are between which that of a percentile is looked for."""
_STEPS: Final = np.minimum(np.cumsum(0.004 * 2.0 ** np.arange(10)), MOST_CHANGE)
"""How far from the estimate the changes are between which the ends of its interval are looked for."""
_FINE: Final = 1e-4
_CLOSE: Final = 0.01
"""How precisely the ends of a percentile's interval are computed: as a logarithm, or in units of t."""
_EXACT: Final = 0.3
"""How many values more or less than expected may be above a threshold."""
_NEAR: Final = 0.01
"""How far from the percentile its density is taken, as a logarithm."""
_LOWS: Final = EDGES_NS[:-1].astype(np.float64)
_WIDTHS: Final = np.diff(EDGES_NS).astype(np.float64)
"""Of each bucket of a histogram, ns."""
_FLAT: Final = 1e-9
"""Components that are smaller than this share of the scores are rounding errors."""


class DriftTest(Protocol):
    """The test of one series: how far its change over the night is from a given one."""

    def t(self, change: float) -> float:
        """Student's t with NOISE_COMPONENTS degrees of freedom, once a change of `change` is taken out."""

    def changes_at(self, ts: Floats, noise: int = NOISE_COMPONENTS) -> Floats:
        """The change at which t has each value: the estimate at 0, and the ends of its interval at ± a quantile. It is
        infinite if t never has that value. noise: how many components estimate the noise of this t."""

    def t_of_no_change(self, estimate: float) -> float:
        """How far the series is from one that does not change, without a sign. estimate: its change."""

    def level(self, change: float) -> float:
        """The level in the middle of the night, if the series changes by `change` over the night."""


class DriftEstimate(Struct, frozen=True):
    """How much a series changed over the night, in the unit of its test."""

    estimate: float
    ci: tuple[float, float]
    """The 95 % interval."""
    ci90: tuple[float, float]
    level: float
    """The level in the middle of the night."""
    p: float
    """Two-sided, of the test that nothing changed."""

    @property
    def start(self) -> float:
        """The level of the fitted line at the start."""
        return self.level - self.estimate / 2

    @property
    def end(self) -> float:
        return self.level + self.estimate / 2


def basis(at: Floats, weights: Floats) -> Floats:
    """Polynomials of degree 0 to NOISE_COMPONENTS + 1 in time, orthonormal under the weights.

    at: the time of each window, in any unit. weights: 0 or more, one of each window. Shape (windows, NOISE_COMPONENTS +
    2)."""
    place = 2 * _along(at)
    legendre = np.ones((at.size, NOISE_COMPONENTS + 2))
    legendre[:, 1] = place
    for degree in range(2, NOISE_COMPONENTS + 2):  # numpy.polynomial takes longer to import than this test takes
        legendre[:, degree] = (
            (2 * degree - 1) * place * legendre[:, degree - 1] - (degree - 1) * legendre[:, degree - 2]
        ) / degree
    root = np.sqrt(weights)[:, None]
    q, r = np.linalg.qr(legendre * root)
    orthonormal: Floats = q * np.sign(np.diag(r)) / np.where(root > 0, root, 1)
    return orthonormal


def t_of(components: Floats, noise: int = NOISE_COMPONENTS) -> Floats:
    """The component that moves along the night, in units of those that wander almost as slowly. components: of degree
    0, 1 and those of the noise, in rows; of the latter, the first `noise` count. Infinite if nothing wanders, and 0 if
    nothing moves either."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(components[1] == 0, 0.0, components[1] / _noise(components, noise))


class PercentileTest:
    """A percentile's change over the night, as a logarithm, from histograms by window.

    A window's score is the number of its values above the percentile of the night, less the number that is expected
    there. To take out a change, all values would be divided by exp(change · u), u from −1/2 to 1/2 over the night; this
    is a threshold that moves with time. Within a bucket, values are taken as spread evenly.
    """

    def __init__(self, counts: BucketCounts, at: Floats, p: float) -> None:
        """at: the time of each window. p: percent, inside 0 to 100."""
        self._expected = 1 - p / 100
        self._along = _along(at)
        self._totals = counts.totals.astype(np.float64)
        self._basis = basis(at, self._totals)
        self._keys = np.append(counts.window * EDGES_NS.size + counts.bucket, -1)
        self._counts = np.append(counts.count, 0).astype(np.float64)
        self._before = np.concatenate([[0.0], np.cumsum(counts.count, dtype=np.float64)])
        self._reached = np.cumsum(self._totals)
        used = EDGES_NS[[counts.bucket.min(), counts.bucket.max() + 1]].astype(np.float64)
        low, high = np.log(np.maximum(used, 1.0))[:, None]
        none = np.zeros(1)
        self._level = float(_crossings(lambda level: self._excess(level, none), low, high, none, (1e-7, _CLOSE))[0])
        near = self._excess(self._level + np.array([-_NEAR, _NEAR]), np.zeros(2))
        self._density = max(float(near[0] - near[1]) / (2 * _NEAR), 1.0)

    def t(self, change: float) -> float:
        return float(t_of(self._components(np.array([change])))[0])

    def changes_at(self, ts: Floats, noise: int = NOISE_COMPONENTS) -> Floats:
        """Of several places at which t has a value, the one next to the estimate: t falls as the change grows, but that
        of a tail comes back from far out."""
        changes, components = self._around
        known = t_of(components, noise)
        lower = np.array([_lower_end(known, t) for t in ts.tolist()])
        inside = (lower >= 0) & (lower < changes.size - 1)
        lows, highs = changes[np.where(inside, lower, 0)], changes[np.where(inside, lower + 1, 1)]

        def t_at(places: Floats) -> Floats:
            return t_of(self._components(places), noise)

        crossed = _crossings(t_at, lows, highs, ts, (_FINE, _CLOSE))
        beyond = np.where(lower < 0, -np.inf, np.inf)
        return np.where(ts == 0, self._estimate, np.where(inside, crossed, beyond))

    def t_of_no_change(self, estimate: float) -> float:
        """The largest t of the changes from none to the estimate: that of a tail is small for a change that is far from
        the estimate, because all that is beyond the percentile is then at one end of the night."""
        changes, components = self._around
        between = (changes * np.sign(estimate) >= 0) & (np.abs(changes) <= abs(estimate))
        largest = np.abs(t_of(components[:, between])).max(initial=0.0)
        return max(abs(self.t(0.0)), float(largest))

    def level(self, change: float) -> float:
        return float(self._levels(np.array([change]))[0])

    def shares_above(self) -> Floats:
        """The share of each window's values that are above the percentile of the night; 0 if it has none."""
        above: Floats = self._above(np.array([self._level]), np.zeros(1))[0] / np.maximum(self._totals, 1.0)
        return above

    @cached_property
    def _estimate(self) -> float:
        """The change nearest to none at which t is 0."""
        changes = np.concatenate([-_COARSE[::-1], [0.0], _COARSE])
        known = t_of(self._components(changes))
        falls = np.flatnonzero((known[:-1] > 0) & (known[1:] <= 0))
        if not falls.size:
            return float(np.copysign(MOST_CHANGE, known[_COARSE.size]))
        first = falls[np.argmin(np.abs(falls + 0.5 - _COARSE.size))][None]
        crossed = _crossings(
            lambda places: t_of(self._components(places)),
            changes[first],
            changes[first + 1],
            np.zeros(1),
            (_FINE, _CLOSE),
        )
        return float(crossed[0])

    @cached_property
    def _around(self) -> tuple[Floats, Floats]:
        """Changes around the estimate, and the components at each."""
        changes = self._estimate + np.concatenate([-_STEPS[::-1], [0.0], _STEPS])
        return changes, self._components(changes)

    def _components(self, changes: Floats) -> Floats:
        above = self._above(self._levels(changes), changes)
        shares = above.sum(axis=1, keepdims=True) / self._totals.sum()
        return _components(self._basis, (above - shares * self._totals).T)

    def _levels(self, changes: Floats) -> Floats:
        reach = np.abs(changes) / 2  # nothing moves by more than this
        levels = np.full(changes.size, self._level)
        lows, highs, falls = levels - reach, levels + reach, np.full(changes.size, self._density)
        excess = self._excess(levels, changes)
        for _ in range(60):
            close = (np.abs(excess) <= _EXACT) | (highs - lows < 1e-9)
            if close.all():
                break
            far = ~close
            lows, highs = np.where(excess > 0, levels, lows), np.where(excess > 0, highs, levels)
            guess = levels + excess / falls
            guess = np.where((lows < guess) & (guess < highs), guess, (lows + highs) / 2)
            last, last_excess = levels, excess
            levels = np.where(close, levels, guess)
            excess = excess.copy()
            excess[far] = self._excess(levels[far], changes[far])
            fallen, moved = last_excess - excess, levels - last
            falls = np.where(fallen * moved > 0, fallen / np.where(moved == 0, 1.0, moved), falls)
        return levels

    def _excess(self, levels: Floats, changes: Floats) -> Floats:
        """How many values more than expected are above the threshold of each level and change."""
        excess: Floats = self._above(levels, changes).sum(axis=1) - self._expected * self._totals.sum()
        return excess

    def _above(self, levels: Floats, changes: Floats) -> Floats:
        """How many values of each window are above the threshold, exp(level + change · u), of each level and change.
        Shape (levels, windows)."""
        threshold = np.minimum(np.exp(levels[:, None] + changes[:, None] * self._along), float(HIGHEST_NS))
        bucket = buckets_of(threshold.astype(np.int64))
        key = np.arange(self._totals.size) * EDGES_NS.size + bucket
        place = np.searchsorted(self._keys[:-1], key)
        share = np.minimum((threshold - _LOWS[bucket]) / _WIDTHS[bucket], 1.0)
        in_bucket = np.where(self._keys[place] == key, share * self._counts[place], 0.0)
        above: Floats = self._reached - self._before[place] - in_bucket
        return above


class LinearTest:
    """The change over the night of a series that changes are simply subtracted from: in its own unit, or in logarithms.

    Of values that are heavily weighted, the line follows them more closely.
    """

    def __init__(self, scores: Floats, at: Floats, weights: Floats, level: float) -> None:
        """scores: value · weight of each window. level: what `level` returns."""
        self._components = _components(basis(at, weights), scores)
        along = _along(at)
        # A line under these weights has a component of degree 0 and one of degree 1, and no other.
        self._per_change = float((basis(at, weights)[:, 1] * weights) @ along)
        self._level = level

    def t(self, change: float) -> float:
        components = self._components.copy()
        components[1] -= change * self._per_change
        return float(t_of(components))

    def changes_at(self, ts: Floats, noise: int = NOISE_COMPONENTS) -> Floats:
        changes: Floats = (self._components[1] - ts * _noise(self._components, noise)) / self._per_change
        return changes

    def t_of_no_change(self, estimate: float) -> float:
        return abs(self.t(0.0))

    def level(self, change: float) -> float:
        return self._level


def level_test(values: Floats, at: Floats) -> LinearTest:
    """The test of a plain series. values: one of each window, finite; at: its time.

    Outliers are pulled to four robust deviations around the Theil-Sen line, so that a single stall is one large value.
    """
    along = _along(at)
    slope = theil_sen(values, along)
    rest = values - slope * along
    middle = median(rest)
    reach = _PULLED * 1.4826 * median(np.abs(rest - middle))
    pulled = np.clip(rest, middle - reach, middle + reach) if reach > 0 else rest
    return LinearTest(slope * along + pulled, at, np.ones(at.size), middle)


def share_test(hits: Floats, totals: Floats, at: Floats) -> LinearTest:
    """The test of a share, such as that of failures. hits: how many of each window's totals."""
    return LinearTest(hits, at, totals, float(hits.sum() / totals.sum()))


def theil_sen(values: Floats, at: Floats) -> float:
    """The median of the slopes of all pairs: of pairs at one time none. At least two different times."""
    first, second = np.triu_indices(at.size, 1)
    apart = at[second] - at[first]
    return median((values[second] - values[first])[apart > 0] / apart[apart > 0])


def change_of(test: DriftTest) -> DriftEstimate:
    """The change over the night: where t is 0, and its intervals: where t is at its quantiles."""
    from scipy.special import stdtr  # here, as in `loadgen.stats.quantile`

    usual, narrow = student_quantile(0.975, NOISE_COMPONENTS), student_quantile(0.95, NOISE_COMPONENTS)
    wide = WIDENED * student_quantile(0.975, SLOWEST_COMPONENTS)
    estimate, *ends = test.changes_at(np.array([0.0, usual, -usual, narrow, -narrow])).tolist()
    low, high = test.changes_at(np.array([wide, -wide]), SLOWEST_COMPONENTS).tolist()
    p = 2 * float(stdtr(NOISE_COMPONENTS, -test.t_of_no_change(estimate)))
    low90, high90 = _reached(ends[2]), _reached(ends[3])
    low = min(_reached(low if np.isfinite(low) else ends[0]), low90)
    high = max(_reached(high if np.isfinite(high) else ends[1]), high90)
    return DriftEstimate(_reached(estimate), (low, high), (low90, high90), test.level(_reached(estimate)), p)


def _reached(change: float) -> float:
    """A change as it is told: one without an end ends somewhere."""
    return change if np.isfinite(change) else float(np.copysign(MOST_CHANGE, change))


def floors_of(values: Floats, at: Floats, size: int) -> tuple[Floats, Floats]:
    """The lowest of each `size` neighboring values, and the middle of their time: what a collector's sawtooth stands
    on. The last values are left out if they are fewer."""
    parts = values.size // size
    lowest: Floats = values[: parts * size].reshape(parts, size).min(axis=1)
    middle: Floats = at[: parts * size].reshape(parts, size).mean(axis=1)
    return lowest, middle


def _along(at: Floats) -> Floats:
    """The times from −1/2 to 1/2."""
    begin, end = float(at.min()), float(at.max())
    along: Floats = (at - begin) / max(end - begin, 1e-9) - 0.5
    return along


def _components(phi: Floats, scores: Floats) -> Floats:
    """scores: shape (windows,), or (windows, series)."""
    components: Floats = phi.T @ scores
    rounding = _FLAT * float(np.sqrt((phi * phi).sum(axis=0).max())) * np.abs(scores).sum(axis=0)
    return np.where(np.abs(components) > rounding, components, 0.0)


def _noise(components: Floats, noise: int) -> Floats:
    size: Floats = np.sqrt(np.mean(components[2 : 2 + noise] ** 2, axis=0))
    return size


def _lower_end(known: Floats, t: float) -> int:
    """Between which two changes around an estimate t is passed: the index of the lower one; −1, or that of the last
    one, if it is not. known: t at each change, of which the middle one is the estimate."""
    middle = known.size // 2
    if t > 0:
        above = np.flatnonzero(known[:middle] >= t)
        return int(above[-1]) if above.size else -1
    below = np.flatnonzero(known[middle + 1 :] <= t)
    return middle + int(below[0]) if below.size else known.size - 1


def _crossings(
    falls: Callable[[Floats], Floats], lows: Floats, highs: Floats, targets: Floats, close: tuple[float, float]
) -> Floats:
    """Where a function that falls from `lows` to `highs` is at `targets`, by the Illinois form of the false position.
    close: how far from the place, or from the target, is near enough."""
    at_lows, at_highs = falls(lows) - targets, falls(highs) - targets
    places = np.where(at_lows <= 0, lows, highs)
    side = np.zeros(lows.size)
    done = (at_lows <= 0) | (at_highs >= 0)
    for _ in range(60):
        with np.errstate(divide="ignore", invalid="ignore"):
            middles = (lows * at_highs - highs * at_lows) / (at_highs - at_lows)
        middles = np.where((lows < middles) & (middles < highs), middles, (lows + highs) / 2)
        at_middles = falls(middles) - targets
        places = np.where(done, places, middles)
        done |= (np.abs(at_middles) <= close[1]) | (highs - lows <= close[0])
        if done.all():
            break
        is_low = at_middles > 0
        at_highs = np.where(is_low, np.where(side > 0, at_highs / 2, at_highs), at_middles)
        at_lows = np.where(is_low, at_middles, np.where(side < 0, at_lows / 2, at_lows))
        lows, highs = np.where(is_low, middles, lows), np.where(is_low, highs, middles)
        side = np.where(is_low, 1.0, -1.0)
    return places
