"""Forecasts: users who think at a measured server, fleets, and everything that is not said."""

import math

import numpy as np
import pytest
from msgspec import structs

from benchmarks.queues import Queue, closed, shares_met
from loadgen.decisions.capacity import forecast as forecasts
from loadgen.decisions.capacity.forecast import ForecastAnswer, ForecastRequest, fleet_of, forecasts_of
from loadgen.decisions.capacity.known import Known
from loadgen.decisions.capacity.measured_levels import measured_levels, speeds_of
from loadgen.decisions.capacity.search import SearchSettings
from loadgen.decisions.capacity.thinking import MeasuredServer, play_thinking_users
from loadgen.decisions.capacity.visit_data import VisitData, state_of
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
    low, high = answer.users_ci
    assert high is not None
    assert low <= truth <= high
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
        (SearchSettings(objectives=SETTINGS.objectives, think_s=4.0), (1, 2, 4), "search without it"),
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


def test_levels_that_could_not_be_judged_are_told_from_those_that_were_played() -> None:
    visits = of_queue(SETTINGS, Queue(), (1, 2, 4), 60)
    doubted = structs.replace(visits[-1].visit, doubt="busy_machine")
    visits[-1] = structs.replace(visits[-1], visit=doubted)
    why_not = forecast(visits, 5.0).why_not
    assert why_not == "not known: play at least 3 levels (this search has 3, of which 2 could be judged)"


def test_a_lowest_level_without_answers_gives_no_forecast() -> None:
    visits = of_queue(SETTINGS, Queue(), (1, 2, 4), 60, lambda each: structs.replace(each, stamps_ns=()))
    assert forecast(visits, 5.0).why_not == "not known: the lowest level (1) has no answer with tokens"


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
    known = Known(state_of(visits), SETTINGS)
    assert known.shown.fails is not None
    assert known.shown.holds is not None
    assert (answer.users, *answer.users_ci) == (known.capacity, known.shown.holds, known.shown.fails - 1)
    (asked_by_name,) = forecasts_of(visits, SETTINGS, ForecastRequest((0.0,), 100))
    assert asked_by_name == answer, "the same question has the same answer"
    below = [visit for visit in visits if visit.visit.level <= known.shown.holds]
    (open_above,) = forecasts_of(below, SETTINGS, ForecastRequest((0.0,)))
    assert open_above.users_ci == (int(known.shown.holds), None)
    (unknown,) = forecasts_of(visits[:0], SETTINGS, ForecastRequest((), 100))
    assert unknown.why_not == "not known: no level is shown to hold"


def test_users_who_think_as_they_were_played_are_those_that_the_search_shows(visits: list[VisitData]) -> None:
    settings = structs.replace(SETTINGS, think_s=5.0)
    (answer,) = forecasts_of(visits, settings, ForecastRequest((), 100))
    assert answer.users is not None
    assert forecasts_of(visits, settings, ForecastRequest(), [answer]) == (answer,), "also when it is shown again"


def test_earlier_questions_stay_and_the_same_question_is_asked_anew(visits: list[VisitData]) -> None:
    few = visits[:2]  # too few levels for think times: the questions count, not the answers
    first = forecasts_of(few, SETTINGS, ForecastRequest((10.0, 30.0), 50))
    second = forecasts_of(few, SETTINGS, ForecastRequest((), 200), first)
    third = forecasts_of(few, SETTINGS, ForecastRequest((10.0,), 80), second)
    fourth = forecasts_of(few, SETTINGS, ForecastRequest((30.0, 40.0)), third)
    questions = [
        [(each.think_s, each.fleet and each.fleet.users) for each in answers]
        for answers in (first, second, third, fourth)
    ]
    assert questions[:2] == [[(10.0, 50), (30.0, 50)], [(10.0, 50), (30.0, 50), (0.0, 200)]]
    assert questions[2] == [(10.0, 80), (30.0, 50), (0.0, 200)]
    assert questions[3] == [*questions[2], (40.0, None)], "a question without a fleet keeps that of before"
    assert forecasts_of(few, SETTINGS, ForecastRequest(), fourth) == fourth


@pytest.mark.slow
def test_what_is_for_sure_is_the_lower_end_of_the_interval(
    visits: list[VisitData], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forecasts, "REQUESTS", 2_000)
    monkeypatch.setattr(forecasts, "REQUESTS_ROUGH", 1_000)
    (answer,) = forecasts_of(visits, SETTINGS, ForecastRequest((10.0,), 200))
    assert answer.users is not None
    assert answer.users_ci is not None
    low, high = answer.users_ci
    assert high is not None
    assert low < answer.users < high
    assert answer.fleet == fleet_of(200, low, high)
    assert answer.fleet.devices == math.ceil(200 / low)
    assert answer.fleet.devices_at_best == math.ceil(200 / high)


def test_a_fleet_by_chance_takes_more_devices() -> None:
    fleet = fleet_of(200, 41, 43)
    assert (fleet.devices, fleet.devices_at_best, fleet.devices_random) == (5, 5, 7)
    assert fleet_of(10, 10, 10).devices_random == 1
    assert fleet_of(3, 1, 1).devices_random == 3
    nothing_sure = fleet_of(10, 0, 2)
    assert (nothing_sure.devices, nothing_sure.devices_at_best, nothing_sure.devices_random) == (None, 5, None)


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
