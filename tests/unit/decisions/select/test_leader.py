"""The choice on plain numbers: steps, leads, who cannot be told apart, turning points. docs/select.md explains them."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadgen.decisions.select.criteria import (
    CRITERIA,
    DEFAULT_WEIGHTS,
    UNITS,
    Criterion,
    Values,
    run_noise,
    shares_of,
    steps_of,
)
from loadgen.decisions.select.leader import (
    MOST_PROMPTS,
    Lead,
    StepTable,
    Utilities,
    chance_of_first,
    leader_of,
    utilities_of,
)
from loadgen.decisions.select.sensitivity import (
    Band,
    acceptability,
    band_at,
    bands_of,
    pareto_front,
    recommended_between,
)
from loadgen.scenario.policy import WEIGHTED
from loadgen.stats.mean import student_quantile

ROWS = st.integers(2, 6)
SEEDS = st.integers(0, 2**32 - 1)


def values_of(seed: int, rows: int, prompts: int = 16) -> StepTable:
    rng = np.random.default_rng(seed)
    return StepTable(
        by_prompt={
            "quality": steps_of("quality", rng.uniform(0, 100, (rows, prompts))),
            "latency": steps_of("latency", rng.uniform(200, 9000, (rows, prompts))),
        },
        of_candidate={
            "memory": steps_of("memory", rng.uniform(100, 4000, rows)),
            "throughput": steps_of("throughput", rng.uniform(0.1, 4, rows)),
            "cost": steps_of("cost", rng.uniform(0.01, 2, rows)),
            "disk": steps_of("disk", rng.uniform(50, 2000, rows)),
        },
        runs=np.ones(rows),
    )


def plain(differences: list[float], noise: float = 0.0) -> Utilities:
    """Two candidates whose utilities differ by these, prompt by prompt."""
    by_prompt = np.array([differences, [0.0] * len(differences)])
    return Utilities(by_prompt, by_prompt.mean(1), np.full(2, noise))


def test_the_criteria_of_a_choice_are_those_of_a_policy() -> None:
    assert set(CRITERIA) == set(WEIGHTED) == set(DEFAULT_WEIGHTS) == set(UNITS)
    assert math.isclose(sum(DEFAULT_WEIGHTS.values()), 1.0)


@pytest.mark.parametrize(
    ("criterion", "worse", "better"),
    [
        ("quality", 30.0, 40.0),
        ("latency", 2000.0, 1000.0),
        ("memory", 800.0, 400.0),
        ("throughput", 0.5, 1.0),
        ("cost", 0.2, 0.1),
        ("disk", 700.0, 350.0),
    ],
)
def test_ten_points_a_halving_or_a_doubling_is_one_step(criterion: Criterion, worse: float, better: float) -> None:
    low, high = steps_of(criterion, np.array([worse, better]))
    assert math.isclose(high - low, 1.0)


def test_better_than_enough_counts_as_enough() -> None:
    fast, enough, slow = steps_of("latency", np.array([100.0, 1000.0, 2000.0]), 1000.0)
    assert (fast, enough - slow) == (enough, 1.0)
    best, good = steps_of("quality", np.array([95.0, 80.0]), 80.0)
    assert best == good


def test_weights_are_brought_to_the_sum_1_over_the_criteria_that_are_compared() -> None:
    assert shares_of({"quality": 3.0, "latency": 1.0, "cost": 9.0}, {"quality": 1, "latency": 1, "disk": 1}) == {
        "quality": 0.75,
        "latency": 0.25,
    }
    assert shares_of({"quality": 0.0, "latency": 0.2}, {"quality": 1}) == {}


def test_a_lead_is_a_paired_t_interval_over_prompts() -> None:
    """Checked against scipy's own paired interval."""
    from scipy.stats import ttest_rel

    rng = np.random.default_rng(5)
    by_prompt = rng.normal(size=(2, 16)) + np.array([[1.0], [0.0]])
    lead = leader_of(Utilities(by_prompt, by_prompt.mean(1), np.zeros(2))).leads[1]
    own = ttest_rel(by_prompt[0], by_prompt[1]).confidence_interval(0.95)
    assert lead is not None and lead.ci == pytest.approx((own.low, own.high))


def test_intervals_hold_for_all_pairs_at_once() -> None:
    rng = np.random.default_rng(6)
    by_prompt = rng.normal(size=(4, 16))
    leader = leader_of(Utilities(by_prompt, by_prompt.mean(1), np.zeros(4)))
    assert len(leader.not_told_apart) == 4
    other = next(at for at in range(4) if at != leader.first)
    lead, difference = leader.leads[other], by_prompt[leader.first] - by_prompt[other]
    assert lead is not None and lead.ci is not None
    reach = student_quantile(1 - 0.05 / 12, 15) * difference.std(ddof=1) / 4
    assert lead.ci == pytest.approx((difference.mean() - reach, difference.mean() + reach))


def test_who_is_told_apart_leaves_and_the_others_are_compared_for_fewer_pairs() -> None:
    """The same two candidates, alone and beside two that are far behind: their interval is that of two."""
    two = np.array([[0.6 + (-1) ** at for at in range(16)], [0.0] * 16])
    far = np.vstack([two, two[1] - 9, two[1] - 12])
    alone, beside = (leader_of(Utilities(table, table.mean(1), np.zeros(len(table)))) for table in (two, far))
    assert alone.not_told_apart == beside.not_told_apart == (0,)
    assert alone.leads[1] == beside.leads[1]
    lead = beside.leads[2]
    assert lead is not None and lead.ci is not None and lead.ci[0] > 0
    alike = np.vstack([two, two[1], two[1]])
    assert leader_of(Utilities(alike, alike.mean(1), np.zeros(4))).not_told_apart == (0, 1, 2, 3)


def test_a_candidate_that_is_equal_in_everything_is_not_told_apart() -> None:
    leader = leader_of(plain([0.0] * 16))
    assert (leader.first, leader.not_told_apart, leader.needed_prompts) == (0, (0, 1), None)


def test_a_small_constant_difference_is_within_the_noise_between_runs() -> None:
    noise = float(run_noise(DEFAULT_WEIGHTS, np.ones(1))[0])
    assert leader_of(plain([0.02] * 16, noise)).not_told_apart == (0, 1)
    assert leader_of(plain([0.02] * 16, noise)).needed_prompts is None  # no number of prompts would tell
    assert leader_of(plain([0.5] * 16, noise)).not_told_apart == (0,)


def test_more_runs_make_the_noise_between_runs_smaller() -> None:
    one, four = run_noise(DEFAULT_WEIGHTS, np.array([1.0, 4.0]))
    assert math.isclose(one, 2 * four)
    assert run_noise({"quality": 1.0}, np.ones(1))[0] == 0.0


def test_one_prompt_tells_nothing() -> None:
    utilities = Utilities(np.array([[3.0], [1.0]]), np.array([3.0, 1.0]), np.zeros(2))
    leader = leader_of(utilities)
    assert leader.leads[1] == Lead(2.0, None)
    assert leader.not_told_apart == (0, 1)
    assert chance_of_first(utilities) is None


def test_criteria_without_prompts_are_told_apart_by_the_noise_between_runs_alone() -> None:
    table = StepTable({}, {"memory": steps_of("memory", np.array([400.0, 800.0, 405.0]))}, np.ones(3))
    leader = leader_of(utilities_of(table, {"memory": 1.0}))
    assert (leader.first, leader.not_told_apart) == (0, (0, 2))


def test_one_candidate_is_first_without_a_lead() -> None:
    utilities = utilities_of(values_of(1, 1), {"quality": 1.0})
    leader = leader_of(utilities)
    assert (leader.leads, leader.not_told_apart, leader.needed_prompts) == ((None,), (0,), None)
    assert chance_of_first(utilities) == (1.0,)


def test_so_many_prompts_as_are_needed_show_the_difference() -> None:
    rng = np.random.default_rng(9)
    few = rng.normal(0.1, 1.0, 16)
    needed = leader_of(plain(list(few))).needed_prompts
    assert needed is not None
    lead, spread = few.mean(), few.std(ddof=1)
    shown = 0
    for _ in range(300):
        shown += leader_of(plain(list(rng.normal(lead, spread, needed)))).not_told_apart == (0,)
    assert 0.72 <= shown / 300 <= 0.9


def test_hardly_any_difference_needs_no_number_of_prompts() -> None:
    assert leader_of(plain([0.001 + 0.5 * (-1) ** at for at in range(16)])).needed_prompts is None
    assert MOST_PROMPTS < 100_000


@given(SEEDS, ROWS)
def test_taking_a_candidate_away_never_turns_the_order_of_two_others(seed: int, rows: int) -> None:
    table = values_of(seed, rows)
    shares = shares_of(DEFAULT_WEIGHTS, table.means)
    for left_out in range(rows):
        others = [row for row in range(rows) if row != left_out]
        before = utilities_of(table, shares).mean[others]
        after = utilities_of(table.take(others), shares).mean
        assert np.allclose(before, after, atol=1e-9)


@given(SEEDS, ROWS)
def test_the_first_is_on_the_front_of_all_criteria(seed: int, rows: int) -> None:
    table = values_of(seed, rows)
    leader = leader_of(utilities_of(table, shares_of(DEFAULT_WEIGHTS, table.means)))
    assert leader.first in pareto_front(np.array(list(table.means.values())).T)


def test_a_row_that_another_equals_and_beats_once_is_not_on_the_front() -> None:
    assert pareto_front(np.array([[1.0, 1.0], [1.0, 2.0], [3.0, 0.0], [0.0, 0.0]])) == (1, 2)
    assert pareto_front(np.array([[1.0, 1.0], [1.0, 1.0]])) == (0, 1)


@given(SEEDS, ROWS, st.sampled_from(CRITERIA))
def test_a_turning_point_is_where_the_first_changes(seed: int, rows: int, name: Criterion) -> None:
    table = values_of(seed, rows)
    shares = shares_of(DEFAULT_WEIGHTS, table.means)
    bands = bands_of(table.means, shares, name)
    assert band_at(bands, shares[name]) < len(bands)
    assert bands[band_at(bands, shares[name])].first == leader_of(utilities_of(table, shares)).first
    for before, after in itertools.pairwise(bands):
        for share, expected in ((after.start - 1e-6, before.first), (after.start + 1e-6, after.first)):
            assert leader_of(utilities_of(table, moved(shares, name, share))).first == expected


def moved(shares: dict[Criterion, float], name: Criterion, share: float) -> dict[Criterion, float]:
    """The shares with one of them changed, and the others in proportion."""
    rest = 1 - shares[name]
    return {other: share if other == name else value / rest * (1 - share) for other, value in shares.items()}


@given(SEEDS, ROWS, st.sampled_from(CRITERIA), st.floats(0.0, 1.0))
def test_the_first_is_recommended_at_each_weight_that_is_said_to_be_one(
    seed: int, rows: int, name: Criterion, part: float
) -> None:
    table, shares = values_of(seed, rows), dict(DEFAULT_WEIGHTS)
    now = leader_of(utilities_of(table, shares))
    between = recommended_between(table, shares, name)
    assert (between is None) == (len(now.not_told_apart) > 1)
    if between is not None:
        low, high = between
        leader = leader_of(utilities_of(table, moved(shares, name, low + part * (high - low))))
        assert leader.not_told_apart == (now.first,)
        for end, outside in ((low, low - 0.001), (high, high + 0.001)):
            if 0.0 < end < 1.0:
                beyond = leader_of(utilities_of(table, moved(shares, name, outside)))
                assert beyond.not_told_apart != (now.first,)


def test_bands_say_from_which_share_on_who_is_first() -> None:
    means: dict[Criterion, Values] = {"quality": np.array([4.0, 2.0]), "latency": np.array([-3.0, 0.0])}
    # Utilities over the share x of latency: 4 - 7x and 2 - 2x, which are equal at 0.4.
    before, after = bands_of(means, {"quality": 0.8, "latency": 0.2}, "latency")
    assert (before, after.first) == (Band(0.0, 0), 1)
    assert math.isclose(after.start, 0.4)


@given(st.floats(1.0, 5000.0), st.floats(0.1, 9.0))
def test_a_criterion_that_is_equal_for_all_has_no_turning_point(equal: float, lead: float) -> None:
    """The lines meet where that criterion weighs everything, and rounding must not make a crossing of it."""
    disk = steps_of("disk", np.array([equal, equal]))
    means: dict[Criterion, Values] = {"disk": disk, "quality": np.array([lead, 0.0]), "latency": np.array([0.3, 0.1])}
    shares: dict[Criterion, float] = {"disk": 0.1, "quality": 0.7, "latency": 0.2}
    assert bands_of(means, shares, "disk") == (Band(0.0, 0),)


def test_a_criterion_that_weighs_alone_has_its_bands() -> None:
    means: dict[Criterion, Values] = {"quality": np.array([4.0, 2.0])}
    assert bands_of(means, {"quality": 1.0}, "quality") == (Band(0.0, 0),)


def test_acceptability_is_the_share_of_all_weightings() -> None:
    means: dict[Criterion, Values] = {"quality": np.array([4.0, 2.0]), "latency": np.array([-3.0, 0.0])}
    assert acceptability(means, ["quality", "latency"]) == pytest.approx((0.4, 0.6), abs=0.01)
    assert acceptability({"quality": np.array([1.0, 1.0])}, ["quality"]) == (0.5, 0.5)


def test_the_chances_of_being_first_are_the_same_each_time_and_add_up_to_1() -> None:
    utilities = utilities_of(values_of(3, 4), shares_of(DEFAULT_WEIGHTS, values_of(3, 4).means))
    chances = chance_of_first(utilities)
    assert chances == chance_of_first(utilities)
    assert chances is not None and math.isclose(sum(chances), 1.0)


def test_equals_share_the_chance_of_being_first() -> None:
    assert chance_of_first(plain([0.0] * 16)) == (0.5, 0.5)
