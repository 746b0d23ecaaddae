"""The likely shares between levels, and the law that explains how throughput grows."""

import numpy as np
import pytest

from loadgen.decisions.capacity.e_values import ObjectiveCounts
from loadgen.decisions.capacity.likely import likely_shares
from loadgen.decisions.capacity.throughput import LevelRates, fit_usl, throughput_of_levels, usl_rate


def counts(hits: float, misses: float) -> list[ObjectiveCounts]:
    return [ObjectiveCounts(int(hits), int(misses), hits, misses)]


def likely(played: dict[float, tuple[float, float]], *levels: float) -> list[float]:
    rows = [counts(*pair) for pair in played.values()]
    shares: list[float] = likely_shares(list(played), rows, [0.9], np.array(levels))[:, 0].tolist()
    return shares


def test_at_a_level_it_is_what_was_counted_and_one_request_more() -> None:
    assert likely({4: (18, 2)}, 4) == pytest.approx([(18 + 0.95) / 21])


def test_it_falls_with_the_level_whatever_was_counted() -> None:
    shares = likely({2: (10, 10), 4: (19, 1), 8: (5, 15)}, 1, 2, 3, 4, 6, 8, 16)
    assert shares == sorted(shares, reverse=True)
    assert shares[1] == shares[3] == pytest.approx((10 + 19 + 1.9) / 42)


def test_between_levels_it_is_on_a_line_and_steep_beyond_them() -> None:
    low, middle, high, beyond = likely({2: (99, 1), 8: (20, 80)}, 2, 4, 8, 16)
    odds = [np.log(share / (1 - share)) for share in (low, middle, high, beyond)]
    assert odds[1] == pytest.approx((odds[0] + odds[2]) / 2)
    assert odds[3] == pytest.approx(odds[2] - 12 * np.log(2))


LEVELS = [1.0, 2.0, 4.0, 8.0, 12.0, 16.0]


def test_the_law_is_recovered_and_its_intervals_hold_it() -> None:
    rng = np.random.default_rng(1)
    true = usl_rate(np.array(LEVELS), 2.0, 0.08, 0.002)
    exact = fit_usl(LEVELS, true.tolist())
    assert exact is not None
    assert (exact.rate, exact.contention, exact.coherence) == pytest.approx((2.0, 0.08, 0.002), rel=1e-3)
    held = 0
    for _ in range(40):
        noisy = fit_usl(LEVELS, (true * np.exp(0.02 * rng.standard_normal(len(LEVELS)))).tolist())
        assert noisy is not None
        held += noisy.contention_ci[0] <= 0.08 <= noisy.contention_ci[1]
    assert held >= 34


def rates(*pairs: tuple[float, float]) -> list[LevelRates]:
    return [LevelRates(level, rate, 40 * rate, 2.0) for level, rate in pairs]


def test_throughput_saturates_at_95_percent_of_the_most() -> None:
    levels = rates((1, 1.0), (2, 1.8), (4, 2.9), (8, 3.0))
    result = throughput_of_levels(levels, "users")
    assert (result.saturates_at, result.knee, result.usl) == (4, 6.0, None)
    assert throughput_of_levels(levels, "users", think_s=10.0).knee == 36.0
    assert throughput_of_levels(levels, "rate").knee is None
    assert throughput_of_levels([LevelRates(1, None, None)], "users").saturates_at is None


def test_the_law_takes_six_levels_of_users_who_do_not_think() -> None:
    six = rates(*zip(LEVELS, usl_rate(np.array(LEVELS), 2.0, 0.08, 0.002).tolist(), strict=True))
    assert throughput_of_levels(six, "users").usl is not None
    assert throughput_of_levels(six[:5], "users").usl is None
    assert throughput_of_levels(six, "rate").usl is None
    assert throughput_of_levels(six, "users", think_s=1.0).usl is None
