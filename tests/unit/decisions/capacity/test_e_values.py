"""Evidence: e-values against quadrature and simulation, and the properties that any counts must have."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadgen.decisions.capacity.e_values import (
    ObjectiveCounts,
    autocorrelation_time,
    inflation,
    is_slow,
    level_evidence_of,
    log_fails,
    log_holds,
    log_lower_tail,
    log_upper_tail,
    log_wanted,
    requests_to_show,
)

SHARES = st.sampled_from([0.8, 0.9, 0.95, 0.99])
COUNTS = st.floats(0, 400, allow_nan=False)


@pytest.mark.parametrize(("hits", "misses", "share"), [(30, 2, 0.9), (12.5, 0.4, 0.95), (80, 20, 0.9), (3, 3, 0.6)])
def test_evidence_is_the_mean_likelihood_over_the_likelihood_at_the_edge(
    hits: float, misses: float, share: float
) -> None:
    from scipy.integrate import quad

    def ratio(p: float) -> float:
        return float((p / share) ** hits * ((1 - p) / (1 - share)) ** misses)

    above, _ = quad(lambda p: ratio(p) * 0.5 * (1 - p) ** -0.5, share, 1)  # Beta(1, ½)
    below, _ = quad(ratio, 0, share)
    assert log_holds(hits, misses, share) == pytest.approx(math.log(above / math.sqrt(1 - share)), abs=1e-6)
    assert log_fails(hits, misses, share) == pytest.approx(math.log(below / share), abs=1e-6)


def test_so_many_requests_without_a_miss_show_a_share() -> None:
    assert [requests_to_show(share) for share in (0.9, 0.95, 0.99)] == [44, 89, 455]
    assert log_holds(43, 0, 0.9) < log_wanted(0.95) <= log_holds(44, 0, 0.9)
    assert requests_to_show(0.9, 0.8) < 44 < requests_to_show(0.9, 0.999)


@given(hits=COUNTS, misses=COUNTS, share=SHARES)
def test_evidence_is_never_above_the_best_likelihood(hits: float, misses: float, share: float) -> None:
    """And so for equal requests: never above q⁻ⁿ where all met it, and (1 − q)⁻ⁿ where all missed."""
    total = hits + misses
    best = 0.0
    for count in (hits, misses):
        best += count * math.log(count / total) if count and count / total else 0.0
    best -= hits * math.log(share) + misses * math.log1p(-share)
    assert log_holds(hits, misses, share) <= best + 1e-6
    assert log_fails(hits, misses, share) <= best + 1e-6


@given(count=st.integers(1, 100_000), share=SHARES)
def test_equal_requests_give_finite_evidence_for_one_claim_alone(count: int, share: float) -> None:
    assert 0 <= log_holds(count, 0, share) <= -count * math.log(share)
    assert 0 <= log_fails(0, count, share) <= -count * math.log1p(-share)
    assert -math.inf < log_fails(count, 0, share) < 0
    assert -math.inf < log_holds(0, count, share) < 0


@given(hits=COUNTS, misses=COUNTS, share=SHARES, more=st.floats(0.1, 50))
def test_a_hit_speaks_for_holding_and_a_miss_against_it(hits: float, misses: float, share: float, more: float) -> None:
    assert log_holds(hits + more, misses, share) > log_holds(hits, misses, share) - 1e-9
    assert log_holds(hits, misses + more, share) < log_holds(hits, misses, share) + 1e-9
    assert log_fails(hits + more, misses, share) < log_fails(hits, misses, share) + 1e-9
    assert log_fails(hits, misses + more, share) > log_fails(hits, misses, share) - 1e-9


@pytest.mark.slow
@pytest.mark.parametrize("share", [0.9, 0.95])
@pytest.mark.parametrize("claim", [log_holds, log_fails])
def test_a_claim_that_is_false_at_its_edge_is_rarely_shown_however_often_one_looks(claim, share) -> None:  # type: ignore[no-untyped-def]
    """Ville: at most one series in 40 ever reaches 40, looking after each 15 % more."""
    rng, shown, series = np.random.default_rng(1), 0, 1000
    looks = [8]
    while looks[-1] < 1000:
        looks.append(int(looks[-1] * 1.15) + 1)
    for _ in range(series):
        hits = np.cumsum(rng.random(looks[-1]) < share)
        shown += any(claim(hits[n - 1], n - hits[n - 1], share) >= log_wanted(0.95) for n in looks)
    assert shown / series <= 1 / 40


@pytest.mark.parametrize(("a", "b", "x"), [(5000.0, 3.0, 0.5), (4000.0, 1.0, 0.8), (2000.0, 500.0, 0.3)])
def test_tails_too_small_for_a_double_have_their_logarithm(a: float, b: float, x: float) -> None:
    """Against the leading term and the bounds of the series behind it."""
    log_term = a * math.log(x) + b * math.log1p(-x) - math.log(a)
    log_term -= math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)
    ratio = (a + b) / (a + 1) * x
    assert log_term <= log_lower_tail(a, b, x) <= log_term - math.log1p(-ratio)
    assert log_upper_tail(b, a, 1 - x) == pytest.approx(log_lower_tail(a, b, x))


def test_small_and_large_tails_meet() -> None:
    """Where scipy still has its digits, the series has the same."""
    from loadgen.decisions.capacity.e_values import _log_series

    assert _log_series(300.0, 5.0, 0.5) == pytest.approx(log_lower_tail(300.0, 5.0, 0.5), abs=1e-9)


@given(st.lists(st.booleans(), min_size=12, max_size=200))
def test_the_autocorrelation_time_is_the_same_backwards(flags: list[bool]) -> None:
    series = np.array(flags)
    assert autocorrelation_time(series) == pytest.approx(autocorrelation_time(series[::-1]))
    assert autocorrelation_time(series) >= 1.0


@given(st.integers(0, 500), st.floats(0.1, 1e6))
def test_equal_requests_are_independent_ones(count: int, value: float) -> None:
    assert inflation(np.full(count, value), np.zeros(count, bool), value) == 1.0
    assert inflation(np.full(count, value), np.ones(count, bool), value / 2) == 1.0


def test_requests_that_are_slow_together_count_for_fewer() -> None:
    rng = np.random.default_rng(2)
    alone = rng.exponential(size=600)
    together = np.repeat(rng.exponential(size=60), 10)
    met = np.zeros(600, bool)
    assert inflation(alone, met, 1.0) < 1.6
    assert 6 < inflation(together, met, 1.0) < 20
    stall = met.copy()
    stall[300:330] = True
    assert inflation(alone, stall, 1.0) > 10
    assert inflation(alone, stall, math.inf) > 10


def test_requests_far_from_the_limit_may_be_alike() -> None:
    """Such as those of a host that is slower for minutes: that says nothing about how misses come."""
    together = np.repeat(np.random.default_rng(2).uniform(1, 2, size=60), 10)
    met = np.zeros(600, bool)
    assert inflation(together, met, 4.1) == 1.0
    assert inflation(together, met, math.inf) == 1.0
    assert inflation(together, met, 3.0) > 6
    failed = together.copy()
    failed[300:330] = math.inf  # failed requests are beyond every limit
    assert inflation(failed, met, 4.1) > 10


def test_the_slowest_quarter_is_found_among_ties_and_failures() -> None:
    assert is_slow(np.array([1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, math.inf])).tolist() == [False] * 6 + [True] * 2
    assert not is_slow(np.full(8, 3.0)).any()


def counted(met: int, missed: int) -> ObjectiveCounts:
    both = (float(met), float(missed))
    return ObjectiveCounts(met, missed, *both, both, both)


def test_a_level_holds_by_all_objectives_and_fails_by_any() -> None:
    good, bad = counted(100, 0), counted(50, 50)
    both = level_evidence_of(4.0, 100, 24, [good, bad], [0.9, 0.9])
    assert both.log_holds == pytest.approx(log_holds(50, 50, 0.9))
    assert both.log_fails == pytest.approx(np.logaddexp(log_fails(100, 0, 0.9), log_fails(50, 50, 0.9)) - math.log(2))
    alone = level_evidence_of(4.0, 100, 24, [good], [0.9])
    assert (alone.log_holds, alone.log_fails) == (log_holds(100, 0, 0.9), log_fails(100, 0, 0.9))


def test_nothing_is_claimed_below_the_floor() -> None:
    counts = counted(0, 23)
    assert level_evidence_of(8.0, 23, 24, [counts], [0.9]).log_fails == 0.0
    assert level_evidence_of(8.0, 24, 24, [counts], [0.9]).log_fails > log_wanted(0.95)


def test_each_claim_has_the_counts_that_speak_to_it() -> None:
    counts = ObjectiveCounts(200, 0, 200.0, 0.0, for_holds=(0.0, 0.0), for_fails=(200.0, 0.0))
    level = level_evidence_of(4.0, 200, 200, [counts], [0.9])
    assert level.log_holds == 0.0
    assert level.log_fails == pytest.approx(log_fails(200, 0, 0.9))
