"""Forecasts: users who think at a measured server, fleets, and everything that is not said."""

import math

import numpy as np
import pytest

from benchmarks.queues import Queue, closed, shares_met
from loadgen.decisions.capacity.forecast import ForecastAnswer, ForecastRequest, fleet_of, forecasts_of
from loadgen.decisions.capacity.measured_levels import measured_levels, speeds_of
from loadgen.decisions.capacity.search import SearchSettings
from loadgen.decisions.capacity.thinking import MeasuredServer, play_thinking_users
from loadgen.decisions.capacity.visit_data import VisitData
from loadgen.scenario.objective import objective_of
from tests.capacity_visits import of_queue

SETTINGS = SearchSettings(objectives=(objective_of("ttft_p95=2s"),))
LEVELS = (1, 2, 3, 4, 6, 8)


@pytest.fixture(scope="module")
def visits() -> list[VisitData]:
    return of_queue(SETTINGS, Queue(), LEVELS)


@pytest.fixture(scope="module")
def ten_seconds(visits: list[VisitData]) -> ForecastAnswer:
    return forecast(visits, 10.0)


def forecast(visits: list[VisitData], think_s: float, settings: SearchSettings = SETTINGS) -> ForecastAnswer:
    return forecasts_of(visits, settings, ForecastRequest((think_s,)))[0]


def true_users(queue: Queue, think_s: float, low: int, high: int) -> int:
    """The most users who think for so long and meet the objective in the long run."""
    from msgspec import structs

    thinking = structs.replace(queue, think_s=think_s)
    while high - low > 1:
        users = (low + high) // 2
        (share,) = shares_met(closed(thinking, users, np.random.default_rng(3)), SETTINGS.objectives, 12_000, 500)
        low, high = (users, high) if share >= 0.95 else (low, users)
    return low


@pytest.mark.slow
def test_users_who_think_are_forecast_from_levels_without_think_time(ten_seconds: ForecastAnswer) -> None:
    answer = ten_seconds
    truth = true_users(Queue(), 10.0, 8, 30)
    assert answer.users is not None
    assert abs(answer.users - truth) <= 1
    assert answer.users_ci is not None
    assert answer.users_ci[0] <= truth <= answer.users_ci[1]
    assert answer.why_not is None


@pytest.mark.slow
def test_what_would_see_more_in_flight_than_was_played_is_not_known(visits: list[VisitData]) -> None:
    low = [visit for visit in visits if visit.visit.level <= 3]
    answer = forecast(low, 10.0)
    assert (answer.users, answer.users_ci) == (None, None)
    assert answer.why_not is not None
    assert answer.why_not.startswith("not known: play up to ")
    assert "1.5 times the 3 played" in answer.why_not


@pytest.mark.parametrize(
    ("settings", "levels", "says"),
    [
        (SearchSettings(objectives=SETTINGS.objectives, search="rate"), (1,), "search users, not rates"),
        (SearchSettings(objectives=SETTINGS.objectives, think_s=5.0), (1, 2, 4), "search without it"),
        (SETTINGS, (1, 4), "at least 3 levels (this search has 2)"),
        (SETTINGS, (), "nothing was played"),
    ],
)
def test_what_was_not_measured_is_refused(settings: SearchSettings, levels: tuple[int, ...], says: str) -> None:
    visits = of_queue(SETTINGS, Queue(), levels, 60)
    for fleet in (None, 50):
        (answer,) = forecasts_of(visits, settings, ForecastRequest((5.0,), fleet))
        assert answer.users is None
        assert answer.why_not is not None
        assert says in answer.why_not
        assert fleet is None or (answer.fleet is not None and answer.fleet.devices is None)


@pytest.mark.slow
def test_each_think_time_has_its_forecast_and_nothing_asked_is_nothing_said(
    visits: list[VisitData], ten_seconds: ForecastAnswer
) -> None:
    assert forecasts_of(visits, SETTINGS, ForecastRequest()) == ()
    few, many = forecast(visits, 2.0).users, ten_seconds.users
    assert few is not None
    assert many is not None
    assert few < many


def test_a_fleet_without_think_time_is_of_what_was_shown(visits: list[VisitData]) -> None:
    (answer,) = forecasts_of(visits, SETTINGS, ForecastRequest((), 100))
    assert answer.fleet is not None
    assert answer.users_ci is not None
    assert answer.fleet.devices == math.ceil(100 / answer.users_ci[0])
    (unknown,) = forecasts_of(visits[:0], SETTINGS, ForecastRequest((), 100))
    assert unknown.why_not == "not known: no level is shown to hold"


def test_a_fleet_by_chance_takes_more_devices() -> None:
    fleet = fleet_of(200, 41, 43)
    assert (fleet.devices, fleet.devices_at_best, fleet.devices_random) == (5, 5, 7)
    assert fleet_of(10, 10, 10).devices_random == 1
    assert fleet_of(3, 1, 1).devices_random == 3


def test_users_who_think_at_a_server_of_one_slot_follow_the_machine_repairman() -> None:
    """With exponential work the closed queue has a known answer: compare the mean number in flight."""
    rng = np.random.default_rng(4)
    work = rng.exponential(1.0, 20_000)
    played = play_thinking_users(MeasuredServer((1.0,), 1, work / 2, work), 5, 4.0, np.random.default_rng(5), 20_000)
    weights = [math.factorial(4) / math.factorial(4 - k) * 0.25**k for k in range(5)]  # what an arrival sees of others
    seen = sum(k * weight for k, weight in enumerate(weights)) / sum(weights) + 1
    assert float(played.in_flight.mean()) == pytest.approx(seen, rel=0.03)
    assert (played.first_s <= played.end_s).all()


def test_more_in_work_is_slower_by_the_measured_rates() -> None:
    assert speeds_of([1, 2, 4], [1.0, 1.5, 2.0])[:4] == pytest.approx([1.0, 0.75, 1.75 / 3, 0.5])
    assert speeds_of([1, 2, 4], [1.0, 1.5, 1.4])[3] == pytest.approx(1.45 / 4)  # rates never fall
    assert len(speeds_of([1, 2, 4], [1.0, 1.5, 2.0])) == 6


def test_the_law_predicts_where_it_is_nearer_than_a_plateau() -> None:
    levels = [1, 2, 3, 4, 6, 8, 12]
    linear = speeds_of(levels, [float(level) for level in levels])
    assert linear[-1] == pytest.approx(1.0, abs=0.02)
    flat = speeds_of(levels, [min(float(level), 4.0) for level in levels])
    assert flat[-1] == pytest.approx(4.0 / 18, abs=0.02)


def test_levels_above_the_slots_tell_the_speed_with_the_slots_full(visits: list[VisitData]) -> None:
    """No level has as many users as slots: between 2 users and 6, the rate with 4 in work is not halfway."""
    around = [visit for visit in visits if visit.visit.level not in {3, 4}]
    with_four, without = (measured_levels(each, SETTINGS.objectives) for each in (visits, around))
    assert (with_four.slots, without.slots) == (4, 4)
    assert without.server.speeds[3] == pytest.approx(with_four.server.speeds[3], rel=0.05)
    full = [rate for level, rate in zip(without.levels, without.rates, strict=True) if level > 4]
    assert min(full) <= without.server.speeds[3] * 4 * without.rates[0] <= max(full)


def test_streams_served_at_once_are_known_where_they_stopped_growing(visits: list[VisitData]) -> None:
    assert measured_levels(visits, SETTINGS.objectives).slots == 4
    growing = [visit for visit in visits if visit.visit.level <= 4]
    assert measured_levels(growing, SETTINGS.objectives).slots is None
