"""Several tests at once, as one family: how sure each is, when any of them could be a false alarm."""

import numpy as np
from numpy.typing import NDArray

PValues = NDArray[np.float64]


def holm(p: PValues) -> PValues:
    """Each p adjusted for all of them, in the order given.

    Of families without any effect, at most a share α have an adjusted p ≤ α, however the tests depend on each other.
    Source: Holm, Scandinavian Journal of Statistics 6 (1979), 65–70.
    """
    order = np.argsort(p, kind="stable")
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(p[order] * np.arange(p.size, 0, -1)))
    return adjusted
