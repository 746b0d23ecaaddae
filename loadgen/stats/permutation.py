"""Permutation tests of whether one side of a comparison is higher than the other: runs are exchanged between the sides.
Knows no metric and no unit.

A row is a run (or a block of two runs), and a column is a figure; higher is worse. The caller chooses the scale of the
columns, such as logarithms, whose differences are ratios. All columns of a comparison form one family: if figures with
p ≤ α are called worse, then at most a share α of the comparisons of two equal sides call any figure worse, however many
columns there are.
"""

import math
from itertools import combinations, product
from typing import Final

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from loadgen.stats.family import holm
from loadgen.stats.mean import student_quantile

Figures = NDArray[np.float64]
"""Runs × figures, or one value per figure."""

MAX_EXCHANGES: Final = 5000
"""If there are more exchanges, this many are drawn at random; the observed one is always among them."""
MIN_EXCHANGES: Final = 20
"""With fewer exchanges, no p-value can reach 5 %."""
MAX_RUNS: Final = 50
"""The largest number of runs a side that is recommended."""
_TINY: Final = 1e-18
"""A variance that is added, so that figures that are equal in all runs have a t of 0."""


class Effects(Struct, frozen=True):
    """By how much the new side is above the base, for each figure."""

    mean: Figures
    error: Figures
    """Standard error of the mean."""
    degrees: int
    """Degrees of freedom of the error."""

    def reach(self, confidence: float) -> Figures:
        """Half the width of the two-sided interval of each mean, by Student's t."""
        return self.error * student_quantile((1 + confidence) / 2, self.degrees)


def effects_of_runs(base: Figures, new: Figures) -> Effects:
    """The differences of the means over runs, with one variance for both sides. base, new: runs × figures, with at
    least one run a side and three runs in all."""
    a, b = len(base), len(new)
    squares = ((base - base.mean(0)) ** 2).sum(0) + ((new - new.mean(0)) ** 2).sum(0)
    return Effects(new.mean(0) - base.mean(0), np.sqrt(squares / (a + b - 2) * (1 / a + 1 / b)), a + b - 2)


def effects_of_blocks(differences: Figures) -> Effects:
    """The means of the differences within blocks, new minus base. differences: blocks × figures, at least two
    blocks."""
    count = len(differences)
    return Effects(differences.mean(0), differences.std(0, ddof=1) / math.sqrt(count), count - 1)


def spread_in_blocks(differences: Figures) -> Figures:
    """Standard deviation of each figure over the runs of one block. differences: as in `effects_of_blocks`."""
    spread: Figures = differences.std(0, ddof=1) / math.sqrt(2)
    return spread


def exchanges_of_runs(base: int, new: int) -> int:
    """The number of ways to divide the runs among the two sides."""
    return math.comb(base + new, base)


def exchanges_of_blocks(blocks: int) -> int:
    """The number of ways to call the two runs of each block base and new."""
    return 1 << blocks


def p_higher_of_runs(base: Figures, new: Figures, rng: np.random.Generator) -> Figures:
    """For each figure, the adjusted p that the new side is higher: step-down max-T over exchanges of runs.

    Exact, for any distribution, if the names of the sides could be exchanged when both are equal. Unlike Holm's method,
    it loses little power if figures move together. The smallest possible p is 1 / exchanges.
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
    """As `p_higher_of_runs`, over all choices of the run of each block that is called new. differences: as in
    `effects_of_blocks`."""
    count = len(differences)
    if exchanges_of_blocks(count) <= MAX_EXCHANGES:
        signs = np.array(list(product((1.0, -1.0), repeat=count)))
    else:
        signs = np.vstack([np.ones(count), rng.choice((1.0, -1.0), (MAX_EXCHANGES - 1, count))])
    means = signs @ differences / count
    variance = np.maximum((differences**2).sum(0) - count * means**2, 0) / (count - 1)
    return _step_down(means / np.sqrt(variance / count + _TINY))


def p_higher_of_errors(effect: Figures, error: Figures, degrees: float) -> Figures:
    """As `p_higher_of_runs`, if there are too few runs to exchange: from given standard errors, by Holm's method.

    degrees: the degrees of freedom of the errors; infinite if the errors are assumed.
    """
    from scipy.special import ndtr, stdtr

    t = effect / np.sqrt(error**2 + _TINY)
    p: Figures = ndtr(-t) if math.isinf(degrees) else stdtr(degrees, -t)
    return holm(p)


def runs_needed(spread: float, effect: float, figures: int, *, alpha: float = 0.05, power: float = 0.8) -> int | None:
    """The smallest number of runs a side, at least 3, that shows an effect of this size with this power in a family of
    `figures` figures; None above `MAX_RUNS`.

    spread: standard deviation of a figure over runs. An approximation, meant as advice: it uses a shifted t
    distribution instead of the noncentral one, and α / √figures for a family of figures that move together.
    """
    counts = range(3, MAX_RUNS + 1)
    reached = (count for count in counts if effect >= spread * _reach(count, 2 * count - 2, figures, alpha, power))
    return next(reached, None)


def blocks_needed(spread: float, effect: float, figures: int, *, alpha: float = 0.05, power: float = 0.8) -> int | None:
    """As `runs_needed`, in blocks of two runs. spread: standard deviation of a figure over the runs of one block, which
    is that of the differences within blocks / √2."""
    counts = range(fewest_blocks(alpha), MAX_RUNS + 1)
    return next((count for count in counts if effect >= spread * _reach(count, count - 1, figures, alpha, power)), None)


def fewest_blocks(alpha: float) -> int:
    """The smallest number of blocks with enough exchanges for a p-value of alpha: 5 for 5 %."""
    return next(count for count in range(2, 100) if exchanges_of_blocks(count) * alpha >= 1 - 1e-9)


def _reach(count: int, degrees: int, figures: int, alpha: float, power: float) -> float:
    """The smallest effect that `count` runs a side show, in standard deviations of a run."""
    return math.sqrt(2 / count) * (
        student_quantile(1 - alpha / math.sqrt(figures), degrees) + student_quantile(power, degrees)
    )


def _deals(a: int, b: int, rng: np.random.Generator) -> NDArray[np.bool_]:
    """The runs that are called base: exchanges × runs, with the observed exchange first."""
    happened = np.arange(a + b) < a
    if exchanges_of_runs(a, b) > MAX_EXCHANGES:
        return np.vstack([happened, rng.permuted(np.tile(happened, (MAX_EXCHANGES - 1, 1)), axis=1)])
    chosen = np.array(list(combinations(range(a + b), a)))  # begins with 0, 1, …, a − 1
    deals = np.zeros((len(chosen), a + b), bool)
    deals[np.arange(len(chosen))[:, None], chosen] = True
    return deals


def _step_down(ts: Figures) -> Figures:
    """The adjusted p of each column. ts: exchanges × figures, with the observed exchange first."""
    order = np.argsort(-ts[0], kind="stable")
    highest_of_rest = np.maximum.accumulate(ts[:, order[::-1]], axis=1)[:, ::-1]
    adjusted = np.empty(ts.shape[1])
    adjusted[order] = np.maximum.accumulate((highest_of_rest >= ts[0, order] - 1e-9).mean(0))
    return adjusted
