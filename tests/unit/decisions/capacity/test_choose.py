"""What is played next, against queues of known capacity in virtual time, and rule by rule."""

import itertools
import math
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from benchmarks.capacity import World, search, truth_of
from benchmarks.queues import Queue
from loadgen.decisions.capacity.choose import VisitLooks, next_step, shown
from loadgen.decisions.capacity.e_values import requests_to_show
from loadgen.decisions.capacity.known import Known, client_limit
from loadgen.decisions.capacity.levels import rate_levels, user_levels
from loadgen.decisions.capacity.search import NextVisit, SearchEnd, SearchSettings, SearchState
from loadgen.decisions.capacity.visit import Doubt, Visit
from loadgen.scenario.objective import objective_of

NINETY = (objective_of("ttft_p90=1s"),)
USERS = SearchSettings(objectives=NINETY)
RATES = SearchSettings(objectives=NINETY, search="rate")


def visit(level: float, met: int, missed: int = 0, *, seconds: float = 10.0, doubt: Doubt | None = None) -> Visit:
    return Visit(
        level=level,
        label=f"c{level:g}",
        requests=met + missed,
        met=(met,),
        missed=(missed,),
        inflation=(1.0,),
        seconds=seconds,
        played=met + missed,
        doubt=doubt,
    )


def state(*visits: Visit) -> SearchState:
    return SearchState(visits)


def step_after(*visits: Visit, settings: SearchSettings = USERS) -> NextVisit:
    step = next_step(state(*visits), settings)
    assert isinstance(step, NextVisit)
    return step


def end_after(*visits: Visit, settings: SearchSettings = USERS) -> str:
    step = next_step(state(*visits), settings)
    assert isinstance(step, SearchEnd)
    return step.reason


def holding(level: float) -> Visit:
    return visit(level, max(requests_to_show(0.9), 3 * int(level)))


def failing(level: float) -> Visit:
    return visit(level, 0, max(24, 3 * int(level)))


# Levels


def test_every_user_up_to_40_then_steps_of_2_5_percent() -> None:
    levels = user_levels(1, 512)
    assert levels[:40] == list(range(1, 41))
    assert levels[-1] == 512
    assert all(b - a == 1 or b / a <= 1.025 for a, b in itertools.pairwise(levels))
    assert user_levels(5, 9) == [5, 6, 7, 8, 9]
    assert user_levels(100, 101) == [100, 101]


def test_rates_are_2_5_percent_apart_and_what_is_asked_for_is_among_them() -> None:
    levels = rate_levels(0.5, 20)
    assert levels[0] == 0.5
    assert levels[-1] == 20
    assert 1.0 in levels
    assert all(1.0 < b / a < 1.03 for a, b in itertools.pairwise(levels))


# The bracket


def test_a_search_begins_low_and_with_4_users_who_think() -> None:
    assert step_after().level == 1
    assert step_after(settings=structs.replace(USERS, think_s=10.0)).level == 4
    assert step_after(settings=structs.replace(USERS, from_level=7, think_s=10.0)).level == 7
    assert step_after(settings=RATES).level == 1.0
    assert step_after(settings=structs.replace(RATES, first_rate=0.2)).level == pytest.approx(0.2, rel=0.03)


def test_it_doubles_while_everything_is_met() -> None:
    visits = [visit(1, 8)]
    for level in (2, 4, 8, 16):
        step = step_after(*visits)
        assert (step.level, step.purpose) == (level, "bracket")
        visits.append(visit(level, max(8, level)))
    assert step_after(*visits).requests == 32


def test_it_halves_until_the_bracket_is_narrow() -> None:
    visits = [visit(8, 8), visit(16, 0, 16)]
    step = step_after(*visits)
    assert (step.level, step.purpose, step.requests) == (12, "bracket", 24)
    step = step_after(*visits, visit(12, 0, 24))
    assert (step.level, step.requests) == (10, 20)
    assert step_after(*visits, visit(12, 0, 24), visit(10, 20)).purpose in {"holds", "fails"}


def test_it_goes_down_where_the_first_level_does_not_hold() -> None:
    settings = structs.replace(USERS, think_s=10.0)
    assert step_after(visit(4, 0, 8), settings=settings).level == 2
    assert step_after(visit(8.0, 0, 40), settings=RATES).level == pytest.approx(4.0, rel=0.03)


def test_half_a_miss_is_forgiven() -> None:
    assert step_after(visit(1, 8), visit(2, 7, 1)).level == 4
    assert step_after(visit(1, 8), visit(2, 6, 2)).level != 4


def test_a_level_that_the_server_cannot_keep_up_with_looks_bad_whatever_its_share() -> None:
    assert step_after(visit(1.0, 40), visit(2.0, 40, doubt="behind"), settings=RATES).level < 2.0


def test_nothing_is_played_outside_of_what_may_be() -> None:
    settings = structs.replace(USERS, from_level=3, to_level=6)
    assert step_after(settings=settings).level == 3
    assert step_after(visit(3, 8), settings=settings).level == 6
    assert end_after(holding(6), settings=settings) == "top"
    assert end_after(failing(3), settings=settings) == "bottom"


# Ends


def test_neighbors_or_near_levels_end_it() -> None:
    assert end_after(holding(5), failing(6)) == "shown"
    assert end_after(holding(5), failing(7)) == "within"
    exact = structs.replace(USERS, within=None)
    assert step_after(holding(5), failing(7), settings=exact).level == 6
    assert end_after(holding(200), failing(210)) == "within"
    assert step_after(holding(200), failing(215)).level in range(200, 216)


def test_rates_are_near_by_their_share_alone() -> None:
    fails = visit(2.0, 0, 250)
    assert end_after(visit(1.93, 250), fails, settings=RATES) == "within"
    assert step_after(visit(1.5, 250), fails, settings=RATES).level < 2.0


def test_a_spent_budget_ends_it() -> None:
    assert end_after(visit(1, 8, seconds=600.0)) == "budget"
    assert step_after(visit(1, 8, seconds=599.0)).seconds == pytest.approx(1.0)


def test_a_search_of_rates_ends_when_the_rest_of_the_budget_can_show_no_closer_pair() -> None:
    def after(left_s: float, settings: SearchSettings) -> str | None:
        fails = visit(24, 0, 250, seconds=settings.budget_s - left_s - 10)
        step = next_step(state(visit(20, 400), fails), settings)
        return step.reason if isinstance(step, SearchEnd) else None

    assert after(8.0, RATES) == "nothing_closer"  # enough for a visit that counts, of 5.6 s
    assert after(500.0, RATES) is None
    assert after(2.0, USERS) is None
    # While nothing is shown, the rest is played all the same.
    assert step_after(visit(5, 20), visit(6, 10, 4, seconds=588.0)).seconds == pytest.approx(2.0)


def test_a_visit_to_a_rate_that_would_be_too_short_to_count_is_not_begun() -> None:
    played = (visit(1.0, 20, seconds=20.0), visit(1.2, 10, 10, seconds=500.0))
    assert end_after(*played, settings=RATES) == "nothing_closer"  # 80 s at 1 request a second
    longer = structs.replace(RATES, budget_s=900.0)
    assert step_after(*played, settings=longer).requests >= 200


# Whose fault it was


def test_a_level_at_which_the_client_was_the_limit_is_played_again_and_then_ends_the_way_up() -> None:
    limited = visit(4, 0, 40, doubt="client")
    step = step_after(holding(3), limited)
    assert (step.level, step.purpose) == (4, "again")
    assert client_limit(state(limited, limited)) == 4
    assert end_after(holding(3), limited, limited) == "client"
    assert shown(state(holding(3), limited, limited), USERS).fails is None
    assert step_after(holding(2), limited, limited).level == 3
    assert client_limit(state(limited, visit(4, 20), limited)) is None


def test_where_the_client_was_always_the_limit_nothing_is_shown() -> None:
    limited = visit(1, 0, 40, doubt="client")
    assert end_after(limited, limited) == "client"
    assert shown(state(limited, limited), USERS).holds is None
    assert Known(state(limited, limited), USERS).capacity is None


def test_a_stopped_client_does_not_lower_the_capacity() -> None:
    stopped = visit(4, 0, 60, doubt="client")
    result = shown(state(holding(3), stopped, failing(8)), USERS)
    assert (result.holds, result.fails) == (3, 8)


def test_a_busy_machine_ends_nothing_and_the_level_is_played_again() -> None:
    busy = visit(2, 0, 40, doubt="busy_machine")
    assert step_after(visit(1, 8), busy).level == 2
    assert step_after(busy).level == 1
    assert client_limit(state(busy, busy)) is None


def test_a_highest_level_that_is_far_away_takes_no_memory() -> None:
    far = structs.replace(USERS, to_level=1e9)
    tracemalloc.start()
    try:
        known = Known(state(holding(3), failing(8)), far)
        assert known.capacity == Known(state(holding(3), failing(8)), USERS).capacity
        assert Known(state(holding(3)), far).capacity == 3
        assert tracemalloc.get_traced_memory()[1] < 2**22
    finally:
        tracemalloc.stop()


def test_each_repeated_visit_on_a_busy_machine_is_longer_and_after_five_the_search_ends() -> None:
    visits = [visit(1, 8)]
    least = []
    while isinstance(step := next_step(state(*visits), USERS), NextVisit) and len(visits) < 20:
        least.append(step.least_s)
        doubt: Doubt = "busy_host" if len(visits) % 2 else "busy_machine"
        visits.append(visit(step.level, 0, 40, seconds=max(step.least_s, 1.0), doubt=doubt))
    assert least == [0.0, *(USERS.budget_s * share for share in (1 / 64, 1 / 32, 1 / 16, 1 / 8))]
    assert step == SearchEnd("busy_machine")


def test_a_visit_that_was_judged_ends_the_row_of_busy_ones() -> None:
    busy = visit(1, 0, 40, doubt="busy_machine")
    assert step_after(busy, busy, busy, busy, visit(1, 8), busy).least_s == USERS.budget_s / 64
    assert step_after(busy, busy, busy, busy, visit(1, 8)).least_s == 0


def test_a_search_that_ended_on_a_busy_machine_can_be_resumed() -> None:
    busy = visit(1, 0, 40, doubt="busy_machine")
    resumed = SearchState((busy,) * 5, earlier=5)
    step = next_step(resumed, USERS)
    assert isinstance(step, NextVisit)
    assert (step.level, step.least_s) == (1, 0)
    longer = next_step(resumed.with_visit(busy), USERS)
    assert isinstance(longer, NextVisit)
    assert longer.least_s == USERS.budget_s / 64


def test_no_look_ends_a_visit_before_its_least_time_but_the_budget_does() -> None:
    before = state(visit(1, 0, 40, doubt="busy_machine"))
    step = step_after(*before.visits)
    assert not VisitLooks(before, USERS, step).should_stop(visit(1, 200, seconds=step.least_s - 0.1))
    assert VisitLooks(before, USERS, step).should_stop(visit(1, 200, seconds=step.least_s))
    assert VisitLooks(before, USERS, step).should_stop(visit(1, 1, seconds=USERS.budget_s))


# What is shown


def test_evidence_of_one_level_counts_for_those_below_or_above() -> None:
    result = shown(state(holding(5), failing(9), visit(7, 10, 3)), USERS)
    assert (result.holds, result.fails, result.not_monotone) == (5, 9, ())


def test_a_lower_level_that_fails_stands_against_a_higher_one_that_holds() -> None:
    result = shown(state(holding(9), failing(5), holding(3)), USERS)
    assert (result.holds, result.fails, result.not_monotone) == (3, 5, (9,))


def test_what_was_shown_stays_shown_unless_the_opposite_is() -> None:
    then_worse = (holding(5), visit(5, 10, 12))
    assert shown(state(*then_worse), USERS).holds == 5
    then_bad = (holding(5), visit(5, 0, 200))
    result = shown(state(*then_bad), USERS)
    assert (result.holds, result.fails) == (None, None)


def test_hits_of_a_visit_that_drifts_do_not_show_that_a_rate_holds() -> None:
    assert shown(state(visit(2.0, 400, doubt="drift")), RATES).holds is None
    assert shown(state(visit(2.0, 400)), RATES).holds == 2.0
    assert shown(state(visit(2.0, 0, 400, doubt="drift")), RATES).fails == 2.0
    # Its misses count.
    assert (
        shown(state(visit(2.0, 260), visit(2.0, 150, 60, doubt="drift")), RATES).holds == 2.0
    )  # as it was shown before
    assert shown(state(visit(2.0, 150, 60, doubt="drift"), visit(2.0, 260)), RATES).holds is None


def test_misses_of_a_visit_that_still_drains_do_not_show_that_a_rate_fails() -> None:
    assert shown(state(visit(2.0, 0, 400, doubt="drains")), RATES).fails is None
    assert shown(state(visit(2.0, 0, 400)), RATES).fails == 2.0
    assert shown(state(visit(2.0, 400, doubt="drains")), RATES).holds == 2.0


def test_short_visits_to_a_rate_add_up_to_no_evidence() -> None:
    short = visit(2.0, 0, 100)
    assert shown(state(short, short, short), RATES).fails is None
    assert shown(state(visit(2.0, 150), visit(2.0, 150)), RATES).holds is None
    assert step_after(visit(1.0, 200), short, settings=RATES).requests >= 16


def test_a_rate_whose_neighbor_has_a_slow_queue_is_taken_to_have_one() -> None:
    slow = structs.replace(visit(2.1, 150, 60), inflation=(20.0,))
    assert shown(state(visit(2.0, 400)), RATES).holds == 2.0
    assert shown(state(visit(2.0, 400), slow), RATES).holds is None
    far = structs.replace(slow, level=2.5)
    assert shown(state(visit(2.0, 400), far), RATES).holds == 2.0
    assert shown(state(visit(5, 60), structs.replace(visit(5.0, 2, 1), inflation=(20.0,))), USERS).holds == 5


def test_the_burst_is_three_times_what_is_served_at_once() -> None:
    assert step_after(settings=RATES).burst == 24
    known = structs.replace(visit(1.0, 16), streams=4, burst=24)
    assert step_after(known, settings=RATES).burst == 12
    grown = structs.replace(visit(2.0, 16), streams=30, burst=12)
    assert step_after(known, grown, settings=RATES).burst == 12
    unlimited = structs.replace(visit(1.0, 16), streams=24, burst=24)
    assert step_after(unlimited, settings=RATES).burst == 24
    assert step_after().burst == 0


def test_a_rate_claims_nothing_below_200_requests() -> None:
    assert shown(state(visit(2.0, 199)), RATES).holds is None
    assert shown(state(visit(2.0, 200)), RATES).holds == 2.0


def test_the_confidence_decides_what_is_shown() -> None:
    seen = state(visit(5, requests_to_show(0.9)))
    assert shown(seen, structs.replace(USERS, confidence=0.99)).holds is None
    assert shown(seen, structs.replace(USERS, confidence=0.8)).holds == 5


def test_the_capacity_lies_between_what_is_shown() -> None:
    known = Known(state(holding(5), failing(9), visit(7, 30, 1), visit(8, 20, 11)), USERS)
    assert known.capacity == 7
    assert Known(state(holding(5), failing(6)), USERS).capacity == 5
    assert Known(state(), USERS).capacity is None


# Looks


def test_looks_come_after_a_round_and_then_after_15_percent_more() -> None:
    looks = VisitLooks(state(), USERS, NextVisit(20, 400, 600.0, "holds"))
    assert looks.next_at == 20
    assert not looks.should_stop(visit(20, 19))
    assert looks.next_at == 20
    assert not looks.should_stop(visit(20, 20))
    assert looks.next_at == 24


def test_a_visit_ends_when_its_level_is_shown_or_its_goal_reached_or_the_budget_spent() -> None:
    step = NextVisit(5, 500, 600.0, "holds")
    assert VisitLooks(state(), USERS, step).should_stop(visit(5, 60))
    assert VisitLooks(state(), USERS, step).should_stop(visit(5, 0, 40))
    assert VisitLooks(state(), USERS, step).should_stop(visit(5, 2, seconds=600.0))
    assert not VisitLooks(state(), USERS, step).should_stop(visit(5, 20, 2))
    few = NextVisit(5, 12, 600.0, "bracket")
    assert VisitLooks(state(visit(4, 8)), USERS, few).should_stop(visit(5, 12))


def test_a_visit_goes_on_where_its_level_is_also_the_next() -> None:
    before = state(holding(3), failing(8), visit(6, 8, 5))
    step = next_step(before, USERS)
    assert isinstance(step, NextVisit)
    looks = VisitLooks(before, USERS, step)
    half = visit(step.level, step.requests, seconds=2.0)
    stops = looks.should_stop(half)
    following = next_step(before.with_visit(half), USERS)
    assert stops == (isinstance(following, SearchEnd) or following.level != step.level or bool(looks.next_at < 0))


@given(
    visits=st.lists(
        st.builds(
            visit,
            st.integers(1, 30).map(float),
            st.integers(0, 60),
            st.integers(0, 20),
            seconds=st.floats(0.1, 60),
            doubt=st.sampled_from([None, None, None, "client", "busy_machine", "drift"]),
        ),
        max_size=12,
    ),
    settings=st.sampled_from([USERS, structs.replace(USERS, within=None), structs.replace(USERS, to_level=12.0)]),
)
def test_there_is_always_a_next_step_that_may_be_played(visits: list[Visit], settings: SearchSettings) -> None:
    step = next_step(state(*visits), settings)
    result = shown(state(*visits), settings)
    if isinstance(step, NextVisit):
        assert 1 <= step.level <= (settings.to_level or 512)
        assert step.requests >= 1
        assert step.seconds > 0
        assert result.fails is None or step.level <= result.fails or step.purpose == "again"
    assert result.holds is None or result.fails is None or result.holds < result.fails


@given(order=st.permutations(range(6)))
def test_the_order_of_visits_changes_no_evidence(order: list[int]) -> None:
    visits = [visit(5, 30), visit(5, 4, 1), visit(6, 20, 4), visit(7, 3, 9), visit(3, 20), visit(6, 8)]
    one, other = (Known(state(*some), USERS) for some in (visits, [visits[i] for i in order]))
    assert {at: level.evidence for at, level in one.levels.items()} == pytest.approx(
        {at: level.evidence for at, level in other.levels.items()}
    )
    assert one.capacity == other.capacity


# Whole searches


WORLDS = (
    World("4 slots", Queue(), ("ttft_p95=2500ms",), (3, 9)),
    World("1 slot", Queue(slots=1, prefill_s=0.3, tokens=(10, 60), itl_s=0.03), ("ttft_p90=6s",), (2, 8)),
    World("2 slots, think", Queue(slots=2, think_s=6), ("ttft_p90=2s", "tpot_p90=100ms"), (3, 9)),
)


@pytest.mark.slow
@pytest.mark.parametrize("world", WORLDS, ids=lambda world: world.name)
def test_a_search_claims_what_is_so_within_its_budget(world: World) -> None:
    truth = truth_of(world)
    for seed in range(4):
        outcome = search(world, seed)
        assert (outcome.holds or 0) <= truth
        assert outcome.fails is None or outcome.fails > truth
        assert outcome.seconds <= 600 + 60  # and the drain of the last visit
        if outcome.stopped in {"within", "shown"}:
            assert outcome.capacity is not None
            assert abs(outcome.capacity - truth) <= 1
        assert not math.isnan(outcome.seconds)


@pytest.mark.slow
def test_a_search_is_the_same_when_it_is_repeated() -> None:
    assert search(WORLDS[0], 3) == search(WORLDS[0], 3)
