"""Whether one side of a comparison is higher than the other, judged by exchanging runs. Knows no metric and no unit.

A row is a run (or a block of two runs), a column is a figure; higher is worse. What the columns are is up to the
caller: logarithms, say, whose differences are ratios. All columns of a comparison are one family: whoever calls worse
what has p ≤ α calls something of two equal sides worse in at most a share α of comparisons, however many columns there
are.
"""

import math
from itertools import combinations, product
from typing import Final

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

Figures = NDArray[np.float64]
"""Runs × figures, or one value a figure."""

MAX_EXCHANGES: Final = 5000
"""Where there are more, so many are drawn, and the exchange that happened is among them."""
MIN_EXCHANGES: Final = 20
"""Below it no p-value can reach 5 %."""
MAX_RUNS: Final = 50
"""More runs a side than this are not recommended to anybody."""
_TINY: Final = 1e-18
"""A variance that is added, so that figures which are equal in all runs have a t of 0."""


class Effects(Struct, frozen=True):
    """By how much the new side is above the base, for each figure."""

    mean: Figures
    error: Figures
    """Standard error of the mean."""
    degrees: int
    """Of freedom, of the error."""

    def reach(self, confidence: float) -> Figures:
        """Half the width of the two-sided interval of each mean, by Student's t."""
        from scipy.special import stdtrit  # here, as in `loadgen.stats.quantile`

        return self.error * float(stdtrit(self.degrees, (1 + confidence) / 2))


def effects_of_runs(base: Figures, new: Figures) -> Effects:
    """Difference of the means over runs, with one variance for both sides. base, new: runs × figures, two runs or more
    in all beyond one a side."""
    a, b = len(base), len(new)
    squares = ((base - base.mean(0)) ** 2).sum(0) + ((new - new.mean(0)) ** 2).sum(0)
    return Effects(new.mean(0) - base.mean(0), np.sqrt(squares / (a + b - 2) * (1 / a + 1 / b)), a + b - 2)


def effects_of_blocks(differences: Figures) -> Effects:
    """Mean of the differences within blocks, new less base. differences: blocks × figures, two blocks or more."""
    count = len(differences)
    return Effects(differences.mean(0), differences.std(0, ddof=1) / math.sqrt(count), count - 1)


def spread_in_blocks(differences: Figures) -> Figures:
    """Standard deviation of each figure over the runs of one block. differences: as in `effects_of_blocks`."""
    spread: Figures = differences.std(0, ddof=1) / math.sqrt(2)
    return spread


def exchanges_of_runs(base: int, new: int) -> int:
    """In how many ways so many runs can be dealt to both sides."""
    return math.comb(base + new, base)


def exchanges_of_blocks(blocks: int) -> int:
    """In how many ways the two runs of so many blocks can be called base and new."""
    return 1 << blocks


def p_higher_of_runs(base: Figures, new: Figures, rng: np.random.Generator) -> Figures:
    """For each figure, the adjusted p that the new side is higher: step-down max-T over exchanges of runs.

    Exact where runs of both sides would be alike but for their names, whatever their distribution; figures that move
    together cost little, which Holm's method would not know. The least p is 1 / exchanges.
    Source: Westfall & Young, Resampling-Based Multiple Testing (1993), algorithm 2.8.
    """
    a, b = len(base), len(new)
    both = np.vstack([base, new])
    in_base = _deals(a, b, rng)
    differences = (~in_base @ both) / b - (in_base @ both) / a
    total = ((both - both.mean(0)) ** 2).sum(0)
    within = np.maximum(total - differences**2 * (a * b / (a + b)), 0)
    return _step_down(differences / np.sqrt(within / (a + b - 2) * (1 / a + 1 / b) + _TINY))


def p_higher_of_blocks(differences: Figures, rng: np.random.Generator) -> Figures:
    """The same over all choices of which run of a block is called new. differences: as in `effects_of_blocks`."""
    count = len(differences)
    if exchanges_of_blocks(count) <= MAX_EXCHANGES:
        signs = np.array(list(product((1.0, -1.0), repeat=count)))
    else:
        signs = np.vstack([np.ones(count), rng.choice((1.0, -1.0), (MAX_EXCHANGES - 1, count))])
    means = signs @ differences / count
    variance = np.maximum((differences**2).sum(0) - count * means**2, 0) / (count - 1)
    return _step_down(means / np.sqrt(variance / count + _TINY))


def p_higher_of_errors(effect: Figures, error: Figures, degrees: float) -> Figures:
    """The same where too few runs can be exchanged: from standard errors that are known otherwise, by Holm's method.

    degrees: of freedom of the errors; infinite where they are assumed.
    Source: Holm, Scandinavian Journal of Statistics 6 (1979), 65–70.
    """
    from scipy.special import ndtr, stdtr

    t = effect / np.sqrt(error**2 + _TINY)
    p: Figures = ndtr(-t) if math.isinf(degrees) else stdtr(degrees, -t)
    order = np.argsort(p, kind="stable")
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(p[order] * np.arange(p.size, 0, -1)))
    return adjusted


def runs_needed(spread: float, effect: float, figures: int, *, alpha: float = 0.05, power: float = 0.8) -> int | None:
    """The fewest runs a side, 3 or more, that show an effect of this size with this power among so many figures.

    spread: standard deviation of a figure over runs. None above `MAX_RUNS`. By the shifted t distribution in place of
    the noncentral one, and α / √figures for a family of figures that move together: an approximation, for advice.
    """
    counts = range(3, MAX_RUNS + 1)
    reached = (count for count in counts if effect >= spread * _reach(count, 2 * count - 2, figures, alpha, power))
    return next(reached, None)


def blocks_needed(spread: float, effect: float, figures: int, *, alpha: float = 0.05, power: float = 0.8) -> int | None:
    """The same in blocks of two runs. spread: standard deviation of a figure over the runs of one block, which is that
    of the differences within blocks / √2."""
    counts = range(fewest_blocks(alpha), MAX_RUNS + 1)
    return next((count for count in counts if effect >= spread * _reach(count, count - 1, figures, alpha, power)), None)


def fewest_blocks(alpha: float) -> int:
    """How many blocks can be swapped in enough ways for a p-value of alpha: 5 for 5 %."""
    return next(count for count in range(2, 100) if exchanges_of_blocks(count) * alpha >= 1 - 1e-9)


def _reach(count: int, degrees: int, figures: int, alpha: float, power: float) -> float:
    """The smallest effect that so many runs a side show, in standard deviations of a run."""
    from scipy.special import stdtrit

    return math.sqrt(2 / count) * float(stdtrit(degrees, 1 - alpha / math.sqrt(figures)) + stdtrit(degrees, power))


def _deals(a: int, b: int, rng: np.random.Generator) -> NDArray[np.bool_]:
    """Which runs are called base: exchanges × runs, the one that happened first."""
    happened = np.arange(a + b) < a
    if exchanges_of_runs(a, b) > MAX_EXCHANGES:
        return np.vstack([happened, rng.permuted(np.tile(happened, (MAX_EXCHANGES - 1, 1)), axis=1)])
    chosen = np.array(list(combinations(range(a + b), a)))  # begins with 0, 1, …, a − 1
    deals = np.zeros((len(chosen), a + b), bool)
    deals[np.arange(len(chosen))[:, None], chosen] = True
    return deals


def _step_down(ts: Figures) -> Figures:
    """Adjusted p of each column. ts: exchanges × figures, the one that happened first."""
    order = np.argsort(-ts[0], kind="stable")
    highest_of_rest = np.maximum.accumulate(ts[:, order[::-1]], axis=1)[:, ::-1]
    adjusted = np.empty(ts.shape[1])
    adjusted[order] = np.maximum.accumulate((highest_of_rest >= ts[0, order] - 1e-9).mean(0))
    return adjusted
