"""Checks whether a binomial probability is at most a given value: exactly for few samples, through scipy for many.

A short run therefore does not import scipy, which takes longer to import than everything else at the start of a run.
"""

import math
from fractions import Fraction
from typing import Final

MOST_SUMMED: Final = 64
"""Up to this many samples, probabilities are summed exactly, as whole numbers."""


def few_at_most(k: int, n: int, share: Fraction, tail: Fraction) -> bool:
    """Whether P(Bin(n, share) ≤ k) ≤ tail."""
    if n <= MOST_SUMMED:
        every: int = share.denominator**n
        return _ways_at_most(k, n, share) <= tail * every
    from scipy.special import bdtr

    return bool(bdtr(k, n, float(share)) <= float(tail))


def few_above(k: int, n: int, share: Fraction, tail: Fraction) -> bool:
    """Whether P(Bin(n, share) > k) ≤ tail."""
    if n <= MOST_SUMMED:
        every: int = share.denominator**n
        return every - _ways_at_most(k, n, share) <= tail * every
    from scipy.special import bdtrc

    return bool(bdtrc(k, n, float(share)) <= float(tail))


def _ways_at_most(k: int, n: int, share: Fraction) -> int:
    """P(Bin(n, share) ≤ k) times the n-th power of the share's denominator, which is a whole number."""
    hit, miss = share.numerator, share.denominator - share.numerator
    return sum(math.comb(n, i) * hit**i * miss ** (n - i) for i in range(k + 1))
