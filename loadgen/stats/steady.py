"""Whether a measured series settles, and where; knows no record and no unit.

Two looks, because neither alone will do: MSER-5 finds where a warm-up ends, and a test of trend finds what does not
end, such as the TTFT of an open loop that asks more than the server can do. Both see only ranks, so that one stall of
seconds among milliseconds is one large value and not the whole series.
"""

from typing import Final, Literal

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from loadgen.stats.median import median

Series = NDArray[np.int64] | NDArray[np.float64]
Scores = NDArray[np.float64]
Why = Literal["steady", "too_few", "never_settles", "drift"]

BATCH: Final = 5
"""The 5 of MSER-5: values are averaged in fives before a truncation point is sought."""
FEWEST: Final = 30
"""Fewer values show no trend that autocorrelation could not make as well."""
NOTABLE: Final = 0.05
"""A trend that moves the level by less is none, however sure it is: with thousands of values any is."""
_KEPT: Final = 5
"""Batches that every truncation leaves: the variance of fewer is small by chance (White, Cobb & Spratt 2000)."""
_MOST_CORRELATED: Final = 0.97
_SURE: Final = 0.005
_LIKELY: Final = 0.025
_HINTED: Final = 0.1
"""What each tail may hold for a trend to be sure, likely, or hinted at."""


class Steady(Struct, frozen=True):
    """Whether and from where a series is steady.

    steady: None when there are too few values to say. why: the finding in one word. truncated: how many values at the
    front are the warm-up, and share: of all; both are the best guess even where nothing settles. growth: the median of
    the last third of the rest over that of its first third, less 1; None where that is not defined.
    """

    steady: bool | None
    why: Why
    truncated: int
    share: float
    growth: float | None


def warm_until(values: Series, order: Series | None = None) -> Steady:
    """Where a series has warmed up, and whether it is steady from there.

    values: what was measured, finite, e.g. TTFT by request, or tokens by slice of time. order: what to sort them by,
    e.g. the time of dispatch; None when they are in order. ValueError when the lengths differ.

    The front that MSER-5 cuts off is the one with the least standard error of the mean of the rest, sought in the first
    half. "never_settles": over the whole series the least one is in the last half, and the series likely trends and
    what is left of it hints at going on the same way. The latter is ours: MSER alone says so of 10 to 25 % of steady
    series of 60 to 300 values. "drift": what is left surely trends, or the whole surely does and what is left likely
    goes on the same way. Neither is said where the level moves by less than NOTABLE.
    What false alarms and power come of it stands in docs/intervals.md.
    Sources: White, Simulation 69 (1997), 323–334; White, Cobb & Spratt, WSC 2000, 755–760.
    """
    if order is not None and order.size != values.size:
        raise ValueError(f"{values.size} values but {order.size} to order them by")
    series: Series = values if order is None else values[np.argsort(order, kind="stable")]
    if series.size < FEWEST:
        return Steady(None, "too_few", 0, 0.0, None)
    errors = _standard_errors(_scores(series))
    half = series.size // BATCH // 2
    cut = int(np.argmin(errors[: half + 1])) * BATCH
    rest = series[cut:]
    growth = _growth(rest)
    notable = growth is None or abs(growth) >= NOTABLE
    over_all, left = trend(series), trend(rest)
    goes_on = over_all.t * left.t > 0
    why: Why = "steady"
    if not notable:  # of whatever shape, a level that moves so little is one
        why = "steady"
    elif int(np.argmin(errors)) > half and goes_on and over_all.beyond(_LIKELY) and left.beyond(_HINTED):
        why = "never_settles"
    elif left.beyond(_SURE) or (goes_on and over_all.beyond(_SURE) and left.beyond(_LIKELY)):
        why = "drift"
    return Steady(why == "steady", why, cut, cut / series.size, growth)


class Trend(Struct, frozen=True):
    """A trend's t statistic, and how many independent values its autocorrelation leaves."""

    t: float
    effective: float

    def beyond(self, tail: float) -> bool:
        """Whether |t| is beyond Student's (1 − tail) quantile.

        Degrees of freedom: a third of the effective values less 3. The third is measured, not derived: with all of them
        a series of 30 at φ = 0.8 alarms 7 % of the time in place of 1, since φ itself is estimated too low.
        """
        from scipy.special import stdtrit  # here, as in `loadgen.stats.quantile`

        return abs(self.t) > float(stdtrit(max(0.8, (self.effective - 3) / 3), 1 - tail))


def trend(series: Series) -> Trend:
    """The trend of the ranks of a series over its order, as strong as autocorrelation lets it be.

    The slope is least squares; its variance that of an AR(1) process with the residuals' first autocorrelation φ,
    raised by (2 + 4φ)/n for what detrending takes from it, and kept in 0..0.97. At least 3 values.
    """
    n = series.size
    scores, at = _scores(series), np.arange(n) - (n - 1) / 2
    spread = float(np.sum(at * at))
    slope = float(np.sum(at * scores)) / spread
    residual = scores - scores.mean() - slope * at
    power = float(np.sum(residual * residual))
    if power <= 1e-9 * n:  # without noise: all trend, or all equal
        return Trend(0.0 if abs(slope) * n < 1e-6 else float("inf"), float(n))
    phi = float(np.sum(residual[1:] * residual[:-1])) / power
    phi = min(max(phi + (2 + 4 * phi) / n, 0.0), _MOST_CORRELATED)
    inflation = (1 + phi) / (1 - phi)
    return Trend(slope / float(np.sqrt(power / (n - 2) * inflation / spread)), n / inflation)


def _scores(series: Series) -> Scores:
    """Ranks as shares, 0 to 1; equals share their mean rank."""
    # Not `scipy.stats.rankdata`: to import that package takes longer than all else that a command begins with.
    _, place, counts = np.unique(series, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[place.reshape(-1)]
    scores: Scores = (ranks - 0.5) / series.size
    return scores


def _standard_errors(scores: Scores) -> Scores:
    """MSER of the batch means by how many batches are cut off: Σ(z − mean)² / kept², for each that leaves _KEPT."""
    count = scores.size // BATCH
    batches = scores[: count * BATCH].reshape(count, BATCH).mean(axis=1)
    remaining = np.arange(count, 0, -1)
    total = np.cumsum(batches[::-1])[::-1]
    squares = np.cumsum((batches * batches)[::-1])[::-1]
    errors: Scores = ((squares - total * total / remaining) / remaining**2)[: count - _KEPT + 1]
    return errors


def _growth(rest: Series) -> float | None:
    third = rest.size // 3  # 5 at least: no more than half of FEWEST values or more are cut off
    first, last = median(rest[:third]), median(rest[-third:])
    return last / first - 1 if first > 0 else None
