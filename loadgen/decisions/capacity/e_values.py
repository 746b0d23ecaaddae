"""Anytime-valid evidence that the share of requests which meet an objective is above, or below, the share asked. Pure.

An e-value is a ratio of two likelihoods of the counts: averaged over the shares for which a claim is true, and at the
edge q. If the claim is false, its mean is at most 1, however often one looks (Ville 1939). So a claim whose e-value
reaches 1/α counts as shown at any time, after any number of looks, and after a search was resumed on another day.
Sources: Robbins, Annals of Mathematical Statistics 41 (1970), 1397–1409; Howard, Ramdas, McAuliffe & Sekhon, Annals of
Statistics 49 (2021), 1055–1080.
"""

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Final

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

HOLDS_WEIGHT: Final = (1.0, 0.5)
"""The Beta parameters of the weight on shares above q. The weight is largest near 1, where the easy levels are."""
FAILS_WEIGHT: Final = (1.0, 1.0)
"""The Beta parameters of the weight on shares below q: uniform."""
CLAIMS: Final = 2
"""The claims of an answer: one level holds, and another does not. Both are true with the confidence asked for."""
MIN_REQUESTS: Final = 24
MIN_ROUNDS: Final = 3
MIN_REQUESTS_OF_RATE: Final = 200
"""The fewest requests for a claim about a rate. For users it is MIN_REQUESTS, and MIN_ROUNDS for each user."""
_MIN_SERIES: Final = 12
_MOST_CORRELATED: Final = 0.95
_SLOWEST: Final = 0.75
_SOKAL_WINDOW: Final = 3.0
NEAR_LIMIT: Final = 0.5
"""Requests are near their limit above this share of it."""
_SMALLEST: Final = 1e-280
"""Below this value, the incomplete beta function of scipy is not accurate."""


class ObjectiveCounts(Struct, frozen=True):
    """How many requests of one level met an objective, over all its visits."""

    met: int = 0
    missed: int = 0
    hits: float = 0.0
    """The effective count: how many independent requests the requests that met it are worth."""
    misses: float = 0.0
    for_holds: tuple[float, float] = (0.0, 0.0)
    """The effective hits and misses that count for the claim that the level holds."""
    for_fails: tuple[float, float] = (0.0, 0.0)
    """The effective hits and misses that count for the claim that it does not hold."""


class ObjectiveEvidence(Struct, frozen=True):
    """The evidence of the requests of one level about one objective."""

    counts: ObjectiveCounts
    log_holds: float
    """ln E⁺ for "at least the share asked meets it"."""
    log_fails: float
    """ln E⁻ for "less than the share asked meets it"."""


class LevelEvidence(Struct, frozen=True):
    """The evidence about one level. The logarithms are 0 while it has too few requests for a claim."""

    level: float
    requests: int
    objectives: tuple[ObjectiveEvidence, ...]
    log_holds: float
    """The least of its objectives."""
    log_fails: float
    """The logarithm of the mean over its objectives."""


def log_wanted(confidence: float) -> float:
    """ln of the evidence that shows a claim: 2 / (1 − confidence), which is 40 at 95 %. confidence: below 1."""
    return math.log(CLAIMS / (1 - confidence))


def log_holds(hits: float, misses: float, share: float) -> float:
    """ln E⁺ for "at least `share` of the requests meet it". hits, misses: effective counts, 0 or more, which need not
    be whole. share: between 0 and 1."""
    a, b = HOLDS_WEIGHT
    upper = log_upper_tail(hits + a, misses + b, share) - _log_upper_weight(share)
    return _log_beta(hits + a, misses + b) - _log_beta(a, b) + upper - _log_likelihood(hits, misses, share)


def log_fails(hits: float, misses: float, share: float) -> float:
    """ln E⁻ for "less than `share` of the requests meet it". As `log_holds`."""
    a, b = FAILS_WEIGHT
    lower = log_lower_tail(hits + a, misses + b, share) - math.log(share)
    return _log_beta(hits + a, misses + b) + lower - _log_likelihood(hits, misses, share)


@lru_cache(maxsize=256)
def requests_to_show(share: float, confidence: float = 0.95) -> int:
    """The number of independent requests, all of which meet the objective, that shows a share: at 95 % confidence, 44
    for 90 %, 89 for 95 % and 455 for 99 %."""
    low, high, wanted = 1, 2, log_wanted(confidence)
    while log_holds(high, 0, share) < wanted:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if log_holds(middle, 0, share) >= wanted else (middle, high)
    return high


def level_evidence_of(
    level: float, requests: int, floor: int, counts: Sequence[ObjectiveCounts], shares: Sequence[float]
) -> LevelEvidence:
    """The evidence of a level from the counts of each objective.

    floor: the fewest requests for a claim. shares: the shares that the objectives ask for.
    """
    objectives = tuple(
        ObjectiveEvidence(
            each,
            log_holds(*each.for_holds, share),
            log_fails(*each.for_fails, share),
        )
        for each, share in zip(counts, shares, strict=True)
    )
    if requests < floor or not objectives:
        return LevelEvidence(level, requests, objectives, 0.0, 0.0)
    holds = min(each.log_holds for each in objectives)
    fails = float(np.logaddexp.reduce([each.log_fails for each in objectives])) - math.log(len(objectives))
    return LevelEvidence(level, requests, objectives, holds, fails)


def inflation(values: Floats, missed: Bools, limit: float) -> float:
    """How many neighboring requests count as one: the integrated autocorrelation time of slow requests, at least 1.

    values: the latency of each request in the order of dispatch, infinite if it failed. missed: whether it missed the
    objective. limit: of the latency; infinite where the objective limits none. The result is the larger of two times:
    that of "among the slowest quarter, and near the limit", which shows queues before requests miss the objective, and
    that of "missed", which shows stalls. How alike requests are that are far from the limit says nothing about misses:
    a host that is a little slower for a minute makes none.
    """
    if len(values) < _MIN_SERIES:
        return 1.0
    near: Bools = is_slow(values) & (values > NEAR_LIMIT * limit)
    return max(autocorrelation_time(near), autocorrelation_time(missed))


def is_slow(values: Floats) -> Bools:
    """Whether each value is among the slowest quarter, by its mean rank."""
    ordered = np.sort(values)
    ranks = (np.searchsorted(ordered, values, "left") + np.searchsorted(ordered, values, "right") + 1) / 2
    slow: Bools = ranks > _SLOWEST * len(values)
    return slow


def autocorrelation_time(flags: Bools) -> float:
    """The integrated autocorrelation time of a series of yes and no, at least 1.

    It is the larger of two estimates: Sokal's sum, whose window is three times the sum itself; and (1 + r)/(1 − r) of
    an AR(1) process, because Sokal's sum misses the tail in a short series.

    Source: Sokal, Monte Carlo Methods in Statistical Mechanics (1997), section 3.
    """
    n = len(flags)
    series = flags - flags.mean()
    spread = float(series @ series)
    if n < _MIN_SERIES or spread <= 0:
        return 1.0
    first = min(max(0.0, float(series[1:] @ series[:-1]) / spread + 1 / n), _MOST_CORRELATED)
    total = 1.0
    for lag in range(1, n // 3):
        total += 2 * float(series[lag:] @ series[:-lag]) / spread
        if lag >= _SOKAL_WINDOW * total:
            break
    return max(1.0, total, (1 + first) / (1 - first))


def log_lower_tail(a: float, b: float, x: float) -> float:
    """ln of the regularized incomplete beta function I_x(a, b), even if I_x(a, b) is too small for a double."""
    from scipy.special import betainc  # here, as in `loadgen.stats.quantile`

    value = float(betainc(a, b, x))
    return math.log(value) if value > _SMALLEST else _log_series(a, b, x)


def log_upper_tail(a: float, b: float, x: float) -> float:
    """ln of 1 − I_x(a, b)."""
    from scipy.special import betaincc

    value = float(betaincc(a, b, x))
    return math.log(value) if value > _SMALLEST else _log_series(b, a, 1 - x)


def _log_series(a: float, b: float, x: float) -> float:
    """ln I_x(a, b) far below the mean a / (a + b), by the series x^a (1 − x)^b / (a B(a, b)) · Σ Π (a + b + k) / (a + 1
    + k) · x, whose terms decrease there. Source: NIST Digital Library of Mathematical Functions, 8.17.8."""
    term = total = 1.0
    k = 0
    while term > 1e-16 * total and k < 100_000:
        term *= (a + b + k) / (a + 1 + k) * x
        total += term
        k += 1
    return a * math.log(x) + b * math.log1p(-x) - math.log(a) - _log_beta(a, b) + math.log(total)


def _log_beta(a: float, b: float) -> float:
    return math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)


def _log_upper_weight(share: float) -> float:
    """ln of the part of HOLDS_WEIGHT above a share, which for Beta(1, ½) is √(1 − share)."""
    return HOLDS_WEIGHT[1] * math.log1p(-share)


def _log_likelihood(hits: float, misses: float, share: float) -> float:
    return hits * math.log(share) + misses * math.log1p(-share)
