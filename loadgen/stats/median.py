"""The median; knows no unit."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def median(values: Sequence[float] | NDArray[np.int64] | NDArray[np.float64]) -> float:
    """The middle value, or the mean of the two middle ones; ValueError if there are no values.

    `np.median` gives the same, but imports numpy's masked arrays, which takes longer than the reports of a short run.
    """
    numbers = np.asarray(values)
    if not numbers.size:
        raise ValueError("no values have no median")
    low, high = (numbers.size - 1) // 2, numbers.size // 2
    parted = np.partition(numbers, (low, high))
    return (float(parted[low]) + float(parted[high])) / 2
