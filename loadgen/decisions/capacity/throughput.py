"""The throughput of the levels: where it saturates, its knee, and the Universal Scalability Law. Pure."""

import math
from collections.abc import Sequence
from typing import Final

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from loadgen.analysis.throughput import throughput_of_run
from loadgen.decisions.capacity.search import SearchKind
from loadgen.decisions.capacity.visit_data import VisitData

Floats = NDArray[np.float64]

SATURATED: Final = 0.95
MIN_LEVELS: Final = 6
"""The fewest levels to which the law is fitted."""
PARAMETERS: Final = 3
_CONFIDENCE: Final = 0.95


class LevelRates(Struct, frozen=True):
    """The throughput of one level. None: not known."""

    level: float
    requests_per_s: float | None
    output_tokens_per_s: float | None
    e2e_s: float | None = None
    """The mean time of an answer."""


class UslAnswer(Struct, frozen=True):
    """X(n) = λn / (1 + σ(n − 1) + κn(n − 1)), fitted by least squares on logarithms, σ, κ ≥ 0, with 95 % intervals by
    Student. Source: Gunther, Guerrilla Capacity Planning (2007)."""

    rate: float
    """λ: requests per second with one request at a time."""
    contention: float
    """σ: the share of the work that cannot be done in parallel."""
    coherence: float
    """κ: the cost of keeping requests consistent with each other."""
    rate_ci: tuple[float, float]
    contention_ci: tuple[float, float]
    coherence_ci: tuple[float, float]
    levels: int
    """The number of levels to which the law was fitted."""


class ThroughputAnswer(Struct, frozen=True):
    """How throughput grows with the level."""

    saturates_at: float | None = None
    """The lowest level with 95 % of the most requests per second."""
    knee: float | None = None
    """(R₁ + Z) · X_max, the asymptotic bound on users: with more, somebody must wait. None for rates."""
    usl: UslAnswer | None = None
    """None with fewer than six levels, and for rates."""


def throughput_of_levels(levels: Sequence[LevelRates], search: SearchKind, think_s: float = 0.0) -> ThroughputAnswer:
    """How throughput grows with the level. levels: ascending. think_s: the mean think time of users."""
    known = [
        (each.level, rate, each.e2e_s) for each in levels if (rate := each.requests_per_s) is not None and rate > 0
    ]
    if not known:
        return ThroughputAnswer()
    most = max(rate for _, rate, _ in known)
    saturates_at = min(level for level, rate, _ in known if rate >= SATURATED * most)
    if search == "rate":
        return ThroughputAnswer(saturates_at)
    alone_s = known[0][2]
    knee = None if alone_s is None else round((alone_s + think_s) * most, 2)
    usl = None
    if think_s == 0 and len(known) >= MIN_LEVELS:
        usl = fit_usl([level for level, *_ in known], [rate for _, rate, _ in known])
    return ThroughputAnswer(saturates_at, knee, usl)


def usl_rate(n: Floats, rate: float, contention: float, coherence: float) -> Floats:
    """Requests per second with n in flight, by the law."""
    value: Floats = rate * n / (1 + contention * (n - 1) + coherence * n * (n - 1))
    return value


def fit_usl(levels: Sequence[float], rates: Sequence[float]) -> UslAnswer | None:
    """The law that fits the measured rates best; None if none can be fitted. levels: at least 4."""
    from scipy.optimize import least_squares
    from scipy.special import stdtrit

    n, measured = np.asarray(levels, float), np.log(np.asarray(rates, float))

    def residuals(parameters: Floats) -> Floats:
        difference: Floats = np.log(usl_rate(n, math.exp(parameters[0]), parameters[1], parameters[2])) - measured
        return difference

    start = np.array([measured[0] - math.log(n[0]), 0.1, 0.001])
    fit = least_squares(residuals, start, bounds=([-np.inf, 0.0, 0.0], [np.inf, np.inf, np.inf]), x_scale="jac")
    if not fit.success:
        return None
    degrees = len(n) - PARAMETERS
    variance = float(fit.fun @ fit.fun) / degrees
    error = np.sqrt(np.maximum(np.diag(np.linalg.pinv(fit.jac.T @ fit.jac)) * variance, 0.0))
    reach = float(stdtrit(degrees, (1 + _CONFIDENCE) / 2)) * error
    rate, contention, coherence = math.exp(fit.x[0]), float(fit.x[1]), float(fit.x[2])
    return UslAnswer(
        rate=_rounded(rate),
        contention=_rounded(contention),
        coherence=_rounded(coherence),
        rate_ci=(_rounded(rate * math.exp(-reach[0])), _rounded(rate * math.exp(min(reach[0], 700.0)))),
        contention_ci=(_rounded(max(0.0, contention - reach[1])), _rounded(contention + reach[1])),
        coherence_ci=(_rounded(max(0.0, coherence - reach[2])), _rounded(coherence + reach[2])),
        levels=len(n),
    )


def _rounded(value: float) -> float:
    """The value, rounded to five significant digits."""
    return float(f"{value:.5g}")


def rates_of(visits: Sequence[VisitData]) -> list[LevelRates]:
    """The throughput of each judged level, in ascending order."""
    by_level: dict[float, list[VisitData]] = {}
    for played in visits:
        if played.visit.is_judged and played.stage.steady_window is not None:
            by_level.setdefault(played.visit.level, []).append(played)
    return [_rates_of_level(level, by_level[level]) for level in sorted(by_level)]


def _rates_of_level(level: float, visits: Sequence[VisitData]) -> LevelRates:
    rates = [throughput_of_run(played.stage) for played in visits]
    seconds = [window.length_s for played in visits if (window := played.stage.steady_window) is not None]
    e2e = np.concatenate([played.stage.values["e2e"] for played in visits])
    return LevelRates(
        level,
        _mean([rate.requests_per_s for rate in rates], seconds),
        _mean([rate.output_tokens_per_s for rate in rates], seconds),
        float(e2e.mean()) / 1e9 if e2e.size else None,
    )


def _mean(values: Sequence[float | None], weights: Sequence[float]) -> float | None:
    """The weighted mean; None if one of the values is not known."""
    known = [value * weight for value, weight in zip(values, weights, strict=True) if value is not None]
    return round(sum(known) / sum(weights), 4) if len(known) == len(values) and sum(weights) > 0 else None
