"""The mean of independent values, and its interval by Student's t. Knows no unit."""

import math
from collections.abc import Sequence
from functools import lru_cache

from loadgen.stats.quantile import CONFIDENCE


def mean_interval(values: Sequence[float], confidence: float = CONFIDENCE) -> tuple[float, float] | None:
    """The two-sided interval of the mean, with N − 1 degrees of freedom; None for fewer than two values.

    Source: Student, The probable error of a mean, Biometrika 6 (1908), 1–25.
    """
    if len(values) < 2:
        return None
    mean = sum(values) / len(values)
    variance = sum((value - mean) ** 2 for value in values) / (len(values) - 1)
    reach = student_quantile((1 + confidence) / 2, len(values) - 1) * math.sqrt(variance / len(values))
    return mean - reach, mean + reach


@lru_cache(maxsize=1024)
def student_quantile(p: float, degrees: float) -> float:
    """The quantile p of Student's t."""
    from scipy.special import stdtrit  # here, as in `loadgen.stats.quantile`

    return float(stdtrit(degrees, p))
