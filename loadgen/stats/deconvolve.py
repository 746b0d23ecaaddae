"""Takes an independent error of a known distribution out of a sample's quantiles; knows no unit."""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from loadgen.stats.quantile import Values

Floats = NDArray[np.float64]
GRID: Final = 400
"""The most shares of a distribution that are looked at."""
STEPS: Final = 12


def shares_of(count: int, most: int = GRID) -> Floats:
    """The middle of each of `count` equal parts of a distribution, or of `most` if those are fewer."""
    points = min(count, most)
    shares: Floats = (np.arange(points) + 0.5) / points
    return shares


def quantiles_at(sorted_values: Values, shares: Floats) -> Floats:
    """The sample's value at each share, 0 to 1: the one in whose own part of the distribution the share is. Of a table
    with a sample in each row, a row of values for each."""
    count = sorted_values.shape[-1]
    at = np.minimum((shares * count).astype(np.int64), count - 1)
    return sorted_values[..., at].astype(np.float64)


def without_error(observed: Floats, error: Floats, *, least: float = -np.inf) -> Floats:
    """The quantiles of a value of which only the sum with an error was observed.

    observed: quantiles of the sum, at `shares_of` any count. error: quantiles of the error, at `shares_of` any count;
    it is independent of the value. least: the lowest that a sum can be observed as.

    The value's distribution is changed until that of its sum with the error is the observed one: at each step by as
    much as that is off at the same place. Places are told apart after the error's median is taken off. Source: van
    Cittert, Zum Einfluß der Spaltbreite auf die Intensitätsverteilung in Spektrallinien II, Zeitschrift für Physik 69
    (1931), 298-308, there for densities.
    """
    usual = float(error[error.size // 2])
    # Equals are a little apart, so that each has its own share.
    places = observed + np.arange(observed.size) * (1e-12 * max(1.0, float(np.abs(observed).max())))
    sums = shares = shares_of(observed.size, observed.size)
    for _ in range(STEPS):
        again = np.interp(places[:, None] - (error - usual), places, shares, left=0.0, right=1.0).mean(axis=1)
        shares = _ascending(np.clip(shares + np.where(observed > least, sums - again, 0.0), 0.0, 1.0))
    value: Floats = np.interp(sums, shares, places) - usual
    return value


def _ascending(values: Floats) -> Floats:
    """The ascending values that are nowhere farther from these than need be: half-way between the highest so far and
    the lowest yet to come."""
    highest, lowest = np.maximum.accumulate(values), np.minimum.accumulate(values[::-1])[::-1]
    ascending: Floats = (highest + lowest) / 2
    return ascending
