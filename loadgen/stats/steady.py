"""Finds whether a measured series settles, and where; knows no record and no unit.

Two methods are combined, because neither is enough alone. MSER-5 finds the end of a warm-up. A test of trend finds
series that never settle, such as the TTFT of an open loop whose rate is too high for the server. Both use only ranks,
so that one stall of seconds among milliseconds is just one large value.
"""

from typing import Final, Literal

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from loadgen.stats.mean import student_quantile
from loadgen.stats.median import median

Series = NDArray[np.int64] | NDArray[np.float64]
Scores = NDArray[np.float64]
Why = Literal["steady", "too_few", "never_settles", "drift"]

BATCH: Final = 5
"""The 5 of MSER-5: values are averaged in groups of five before the truncation point is sought."""
MIN_VALUES: Final = 30
"""In a shorter series, autocorrelation could explain any trend."""
NOTABLE: Final = 0.05
"""A trend that changes the level by less does not count, because with thousands of values any trend is significant."""
_KEPT: Final = 5
"""How many batches every truncation leaves; the variance of fewer is small by chance (White, Cobb & Spratt 2000)."""
_MOST_CORRELATED: Final = 0.97
_SURE: Final = 0.005
_LIKELY: Final = 0.025
_HINTED: Final = 0.1
"""The probability in each tail for a trend to be sure, likely, or hinted at."""
_BETTER: Final = 2.0
"""If the log-likelihood of a warm-up and a constant level is higher by this than that of a straight line, a trend of
the whole series ended with the warm-up."""


class Steady(Struct, frozen=True):
    """Whether and from where a series is steady.

    steady: None if there are too few values to decide ("too_few"). why: the finding in one word. truncated: how many
    values at the start are the warm-up; share: the same as a share of all values. Both are the best guess even if
    nothing settles. growth: the median of the last third of the rest divided by that of its first third, minus 1; None
    if undefined.
    """

    steady: bool | None
    why: Why
    truncated: int
    share: float
    growth: float | None


def warm_until(values: Series, order: Series | None = None) -> Steady:
    """The length of a series' warm-up, and whether the series is steady after it.

    values: the measured series, finite, such as the TTFT of each request. order: the values to sort it by, such as the
    time of dispatch; None if it is in order. ValueError if the lengths differ.

    MSER-5 cuts the start of the series where the mean of the rest has the smallest standard error, within the first
    half. "never_settles": over the whole series, the smallest standard error is in the last half, and the series likely
    has a trend, and the rest hints at a trend in the same direction. The conditions on trends are our addition, because
    MSER alone rejects 10 to 25 % of steady series of 60 to 300 values. "drift": the rest surely has a trend; or the
    whole surely has one, and the rest likely one in the same direction. Neither applies if the level changes by less
    than NOTABLE. "too_few": there are fewer than MIN_VALUES values; or the whole surely has a trend, and too few values
    to show whether it ended with the warm-up. docs/intervals.md has the rates of false alarms and the power.
    Sources: White, Simulation 69 (1997), 323–334; White, Cobb & Spratt, WSC 2000, 755–760.
    """
    if order is not None and order.size != values.size:
        raise ValueError(f"{values.size} values but {order.size} to order them by")
    series: Series = values if order is None else values[np.argsort(order, kind="stable")]
    if series.size < MIN_VALUES:
        return Steady(None, "too_few", 0, 0.0, None)
    errors = _standard_errors(rank_shares(series))
    half = series.size // BATCH // 2
    cut = int(np.argmin(errors[: half + 1])) * BATCH
    rest = series[cut:]
    growth = _growth(rest)
    notable = growth is None or abs(growth) >= NOTABLE
    over_all, left = trend(series), trend(rest)
    goes_on = over_all.t * left.t > 0
    why: Why = "steady"
    if not notable:  # a level that changes so little counts as constant
        why = "steady"
    elif int(np.argmin(errors)) > half and goes_on and over_all.beyond(_LIKELY) and left.beyond(_HINTED):
        why = "never_settles"
    elif left.beyond(_SURE) or (goes_on and over_all.beyond(_SURE) and left.beyond(_LIKELY)):
        why = "drift"
    if why == "steady" and over_all.beyond(_SURE) and _may_go_on(series, over_all.effective):
        return Steady(None, "too_few", cut, cut / series.size, growth)
    return Steady(why == "steady", why, cut, cut / series.size, growth)


def _may_go_on(series: Series, effective: float) -> bool:
    """Whether the trend of a series may have gone on to its end: a warm-up within the first half, and then a constant
    level, do not explain the ranks clearly better than a straight line does, and the level changes notably.

    effective: how many independent values there are.
    """
    growth = _growth(series)
    if growth is not None and abs(growth) < NOTABLE:
        return False
    scores = rank_shares(series) - 0.5
    n, at = scores.size, np.arange(scores.size) - (scores.size - 1) / 2
    power = float(scores @ scores)
    line = power - float(at @ scores) ** 2 / float(at @ at)
    cuts, sums = np.arange(1, n // 2 + 1), np.cumsum(scores)
    step = power - float(np.max(sums[cuts - 1] ** 2 / cuts + (sums[-1] - sums[cuts - 1]) ** 2 / (n - cuts)))
    return effective / 2 * float(np.log(max(line, 1e-9) / max(step, 1e-9))) < _BETTER


class Trend(Struct, frozen=True):
    """A trend's t statistic, and how many independent values its autocorrelation leaves."""

    t: float
    effective: float

    def beyond(self, tail: float) -> bool:
        """Whether |t| is beyond Student's (1 − tail) quantile.

        The degrees of freedom are a third of the effective values, minus 3. The factor of a third was found by
        simulation: without it, a series of 30 values at φ = 0.8 gives 7 % false alarms instead of 1 %, because φ itself
        is estimated too low.
        """
        return abs(self.t) > student_quantile(1 - tail, max(0.8, (self.effective - 3) / 3))


def trend(series: Series) -> Trend:
    """The trend of the ranks of a series over its order, with an allowance for autocorrelation.

    The slope is by least squares. Its variance is that of an AR(1) process with the residuals' first autocorrelation φ,
    which is raised by (2 + 4φ)/n to correct for detrending, and kept in 0..0.97. At least 3 values.
    """
    n = series.size
    scores, at = rank_shares(series), np.arange(n) - (n - 1) / 2
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


def rank_shares(series: Series) -> Scores:
    """Ranks as shares, 0 to 1; equal values get their mean rank."""
    # Not `scipy.stats.rankdata`: importing that package takes longer than everything else at the start of a command.
    _, place, counts = np.unique(series, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[place.reshape(-1)]
    scores: Scores = (ranks - 0.5) / series.size
    return scores


def mser_cut(values: Series, batch: int = BATCH) -> int:
    """How many values at the start MSER cuts off as a warm-up: up to half of them, in groups of `batch`."""
    batches = values.size // batch
    if batches < 2 * _KEPT:
        return 0
    return int(np.argmin(_standard_errors(rank_shares(values), batch)[: batches // 2 + 1])) * batch


def _standard_errors(scores: Scores, batch: int = BATCH) -> Scores:
    """The MSER statistic by the number of batches that are cut off: Σ(z − mean)² / kept², as long as _KEPT remain."""
    count = scores.size // batch
    batches = scores[: count * batch].reshape(count, batch).mean(axis=1)
    remaining = np.arange(count, 0, -1)
    total = np.cumsum(batches[::-1])[::-1]
    squares = np.cumsum((batches * batches)[::-1])[::-1]
    errors: Scores = ((squares - total * total / remaining) / remaining**2)[: count - _KEPT + 1]
    return errors


def _growth(rest: Series) -> float | None:
    third = rest.size // 3  # at least 5, because at most half of MIN_VALUES or more values are cut off
    first, last = median(rest[:third]), median(rest[-third:])
    return last / first - 1 if first > 0 else None
