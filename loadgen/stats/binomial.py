"""Whether a binomial probability is as small as asked: exactly for few samples, by scipy for many.

A short run then needs no scipy, which takes longer to import than all else that a run begins with.
"""

import math
from fractions import Fraction
from typing import Final

MOST_SUMMED: Final = 64
"""Up to so many samples the probabilities are summed in whole numbers."""


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
    """P(Bin(n, share) ≤ k) times the n-th power of the share's denominator, a whole number."""
    hit, miss = share.numerator, share.denominator - share.numerator
    return sum(math.comb(n, i) * hit**i * miss ** (n - i) for i in range(k + 1))
