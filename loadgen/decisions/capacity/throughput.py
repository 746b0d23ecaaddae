"""The throughput of the levels: where it saturates, its knee, and the Universal Scalability Law. Pure."""

import math
from collections.abc import Sequence
from typing import Final

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from loadgen.analysis.metrics import Window, in_flight_recorded
from loadgen.analysis.stage import StageData
from loadgen.analysis.throughput import throughput_of_run
from loadgen.decisions.capacity.search import SearchKind
from loadgen.decisions.capacity.visit_data import VisitData

Floats = NDArray[np.float64]

SATURATED: Final = 0.95
LEVELS_TO_SATURATE: Final = 3
"""The fewest judged levels from which a saturation and a knee are computed, as for a forecast."""
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
    """The lowest level with 95 % of the most requests per second. None if that is the highest level, since throughput
    may still grow there, or if fewer than three levels were judged."""
    knee: float | None = None
    """(R₁ + Z) · X_max, the asymptotic bound on users: with more, somebody must wait. None for rates, and where
    `saturates_at` is None, because X_max is then not known."""
    usl: UslAnswer | None = None
    """None with fewer than six levels, and for rates."""


def throughput_of_levels(levels: Sequence[LevelRates], search: SearchKind, think_s: float = 0.0) -> ThroughputAnswer:
    """How throughput grows with the level. levels: ascending. think_s: the mean think time of users."""
    known = [
        (each.level, rate, each.e2e_s) for each in levels if (rate := each.requests_per_s) is not None and rate > 0
    ]
    if len(known) < LEVELS_TO_SATURATE:
        return ThroughputAnswer()
    most = max(rate for _, rate, _ in known)
    lowest = min(level for level, rate, _ in known if rate >= SATURATED * most)
    saturates_at = None if lowest == known[-1][0] else lowest
    if search == "rate":
        return ThroughputAnswer(saturates_at)
    alone_s = known[0][2]
    knee = None if alone_s is None or saturates_at is None else round((alone_s + think_s) * most, 2)
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
    rates = [rate for played in visits if (rate := _rates_of_visit(played)) is not None]
    e2e = np.concatenate([played.stage.values["e2e"] for played in visits])
    return LevelRates(
        level,
        _mean([rate.requests_per_s for rate in rates], [rate.seconds for rate in rates]),
        _mean([rate.output_tokens_per_s for rate in rates], [rate.seconds for rate in rates]),
        float(e2e.mean()) / 1e9 if e2e.size else None,
    )


class _VisitRates(Struct, frozen=True):
    """The throughput of one visit."""

    requests_per_s: float
    output_tokens_per_s: float | None
    seconds: float
    """The time over which it was counted."""


def _rates_of_visit(played: VisitData) -> _VisitRates | None:
    """The throughput of a visit; None if too few requests count."""
    stage, window = played.stage, played.stage.steady_window
    if not stage.planned.load.is_closed:
        return _rates_after_burst(played)
    answers = None if window is None else answers_of_users(stage, window)
    if window is None or answers is None:
        return None
    return _VisitRates(answers, throughput_of_run(stage).output_tokens_per_s, window.length_s)


def answers_of_users(stage: StageData, window: Window) -> float | None:
    """Ok answers a second of a closed loop by Little's law: the mean number of requests in flight in the window over
    the mean time of a request, without the first round, which finds an empty server. None if none comes after it.

    A count of the answers that ended in the window would be far off in a short visit: many of them end together, and
    the window ends with one of them.
    """
    sent = sorted(
        (record for record in stage.measured if record.dispatched_ns is not None and record.end_ns is not None),
        key=lambda record: record.dispatched_ns or 0,
    )
    later = sent[stage.planned.load.concurrency or 0 :]
    counted = [record for record in later if (record.dispatched_ns or 0) >= window.start_ns]
    took_ns = sum(max(record.end_ns or 0, record.last_byte_ns or 0) - (record.dispatched_ns or 0) for record in counted)
    if took_ns <= 0:
        return None
    answered = sum(record.outcome == "ok" for record in counted)
    return in_flight_recorded(sent, window) * answered / took_ns * 1e9


def _rates_after_burst(played: VisitData) -> _VisitRates | None:
    """The throughput of a visit to a rate, from the requests that came due after the burst was answered.

    They are divided by the time in which they came due, and by how much more the last had to wait than the first. So
    a server that keeps up has the rate of the arrivals, also while it works off what the burst left, and a server that
    does not keep up has the rate at which it answers.
    """
    due = sorted(
        (record for record in played.stage.measured if record.outcome != "cancelled"), key=lambda each: each.intended_ns
    )
    over_ns = max((record.end_ns or 0 for record in due[: played.visit.burst]), default=-1)
    counted = [record for record in due if record.intended_ns > over_ns]
    if len(counted) < 2:
        return None
    waits_ns = [record.end_ns - record.intended_ns for record in counted if record.end_ns is not None]
    half = len(waits_ns) // 2
    grown_ns = 2 * (sum(waits_ns[-half:]) - sum(waits_ns[:half])) / half if half else 0.0
    seconds = (counted[-1].intended_ns - counted[0].intended_ns + max(0.0, grown_ns)) / 1e9
    if seconds <= 0:
        return None
    answered = [record for record in counted if record.outcome == "ok"]
    tokens = sum(record.output_tokens or len(record.stamps_ns) for record in answered)
    of_gaps = (len(counted) - 1) / len(counted)  # n requests are n − 1 gaps apart
    return _VisitRates(len(answered) * of_gaps / seconds, tokens * of_gaps / seconds, seconds)


def _mean(values: Sequence[float | None], weights: Sequence[float]) -> float | None:
    """The weighted mean; None if there are no values, or one of them is not known."""
    known = [value * weight for value, weight in zip(values, weights, strict=True) if value is not None]
    return round(sum(known) / sum(weights), 4) if len(known) == len(values) and sum(weights) > 0 else None
