"""The likely shares between levels, and the law that explains how throughput grows."""

from itertools import islice

import numpy as np
import pytest

from benchmarks.queues import Queue, Request, closed, opened, record_of
from loadgen.decisions.capacity.e_values import ObjectiveCounts
from loadgen.decisions.capacity.likely import likely_shares
from loadgen.decisions.capacity.search import SearchSettings
from loadgen.decisions.capacity.throughput import LevelRates, fit_usl, rates_of, throughput_of_levels, usl_rate
from loadgen.plan.plan import StageLoad
from loadgen.scenario.objective import objective_of
from tests.capacity_visits import played


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


def test_saturation_and_knee_need_three_levels_and_a_level_above_which_throughput_did_not_grow() -> None:
    for few in (rates((1, 2.0)), rates((1, 2.01), (2, 1.6)), rates((1, 2.0), (2, 2.1))):
        for search in ("users", "rate"):
            result = throughput_of_levels(few, search)
            assert (result.saturates_at, result.knee) == (None, None)
    growing = throughput_of_levels(rates((1, 1.0), (2, 2.0), (4, 4.0)), "users")
    assert (growing.saturates_at, growing.knee) == (None, None)
    assert throughput_of_levels(rates((1, 1.0), (2, 2.0), (3, 2.0)), "users").saturates_at == 2


THREE_SLOTS = Queue(slots=3, prefill_s=0.15, prefill_sigma=0.0, tokens=(30, 30), itl_s=0.01, slowdown=0.0)
SERVICE_S = 0.15 + 29 * 0.01
MOST = 3 / SERVICE_S


def of_visit(level: float, seed: int, count: int, *, burst: int | None = None) -> LevelRates:
    """The throughput of one visit to the queue. burst: for a rate."""
    rng, is_of_users = np.random.default_rng([seed, round(100 * level)]), burst is None
    name = f"{'c' if is_of_users else 'r'}{level:g}"
    load = StageLoad("closed", int(level)) if is_of_users else StageLoad("poisson", rate_per_s=level)
    requests = closed(THREE_SLOTS, int(level), rng) if burst is None else opened(THREE_SLOTS, level, burst, rng)
    records = [record_of(request, index, load, name) for index, request in enumerate(islice(requests, count))]
    settings = SearchSettings(objectives=(objective_of("ttft_p90=660ms"),), search="users" if is_of_users else "rate")
    (result,) = rates_of([played(settings, level, records)])
    return result


@pytest.mark.parametrize("users", [1, 2, 4, 8])
def test_a_short_visit_of_users_has_the_answers_per_second_of_a_long_one(users: int) -> None:
    each = [of_visit(users, seed, users + max(4, users)) for seed in range(20)]
    answers = [visit.requests_per_s or 0.0 for visit in each]
    assert np.mean(answers) == pytest.approx(min(users, 3) / SERVICE_S, rel=0.04)


def test_users_who_ask_together_get_no_answer_counted_twice_or_never() -> None:
    """Two users in step: their last answers end a moment apart, and the window ends with the first of them."""
    records = []
    for index in range(10):
        begun, user = index // 2 * SERVICE_S, index % 2 * 1e-4
        moments = Request(begun + user, begun + user + 0.15, begun + user + SERVICE_S, 30)
        records.append(record_of(moments, index, StageLoad("closed", 2), "c2"))
    (result,) = rates_of([played(SearchSettings(objectives=(objective_of("ok=90%"),)), 2, records)])
    assert result.requests_per_s == pytest.approx(2 / SERVICE_S, rel=0.01)


@pytest.mark.parametrize(("rate", "count"), [(1.0, 45), (5.0, 300), (5.77, 80), (9.0, 80)])
def test_the_burst_of_a_rate_is_in_neither_answers_nor_tokens(rate: float, count: int) -> None:
    each = [of_visit(rate, seed, count, burst=24) for seed in range(20)]
    answers = [visit.requests_per_s for visit in each if visit.requests_per_s is not None]
    tokens = [visit.output_tokens_per_s for visit in each if visit.output_tokens_per_s is not None]
    assert len(answers) == len(tokens) == len(each)
    assert np.mean(answers) == pytest.approx(min(rate, MOST), rel=0.06)
    assert np.array(tokens) == pytest.approx(30 * np.array(answers), rel=1e-3)
