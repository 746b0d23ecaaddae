"""Finds the values of a sample that lie far from the others. Pure; knows no unit."""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from loadgen.stats.median import median

MIN_VALUES: Final = 5
"""Fewer values do not show which ones are usual."""
LIMIT: Final = 3.5
_NORMAL: Final = 0.6745
"""The median absolute deviation of a normal distribution, in its standard deviations."""


def outliers(values: NDArray[np.int64]) -> NDArray[np.bool_]:
    """True for each value whose modified z-score, 0.6745 · |x − median| / MAD, is above 3.5.

    No value is marked if there are fewer than 5 values, or if half of them or more are equal, because then MAD, the
    median of |x − median|, is 0. Source: Iglewicz & Hoaglin, How to Detect and Handle Outliers (1993), 3.3.
    """
    if len(values) < MIN_VALUES:
        return np.zeros(len(values), dtype=np.bool_)
    away = np.abs(values - median(values))
    deviation = median(away)
    return away * _NORMAL > LIMIT * deviation if deviation > 0 else np.zeros(len(values), dtype=np.bool_)
