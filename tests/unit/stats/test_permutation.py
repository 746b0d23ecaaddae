"""Exchanges of runs: what a p-value may be, whatever the data, and that equal sides are seldom called different."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loadgen.plan.rng import generator
from loadgen.stats.permutation import (
    MAX_EXCHANGES,
    blocks_needed,
    effects_of_blocks,
    effects_of_runs,
    exchanges_of_blocks,
    exchanges_of_runs,
    fewest_blocks,
    p_higher_of_blocks,
    p_higher_of_errors,
    p_higher_of_runs,
    runs_needed,
    spread_in_blocks,
)


def sides(seed: int, runs: int, figures: int = 6, effect: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    rng = generator(seed, "sides")
    return rng.normal(0, 0.03, (runs, figures)), rng.normal(effect, 0.03, (runs, figures))


def test_three_runs_a_side_can_show_what_is_plain_and_no_more_than_their_exchanges_allow() -> None:
    base, new = sides(1, 3, effect=1.0)
    assert exchanges_of_runs(3, 3) == 20
    assert p_higher_of_runs(base, new, generator(0)).min() == pytest.approx(1 / 20)


def test_five_blocks_can_show_what_is_plain_and_no_more_than_their_exchanges_allow() -> None:
    assert exchanges_of_blocks(5) == 32
    assert p_higher_of_blocks(np.full((5, 2), 1.0) + sides(1, 5, 2)[0], generator(0)).min() == pytest.approx(1 / 32)


@given(st.integers(0, 10_000), st.integers(2, 5))
@settings(max_examples=30, deadline=None)
def test_renaming_figures_permutes_their_p_values(seed: int, runs: int) -> None:
    base, new = sides(seed, runs)
    order = generator(seed, "order").permutation(base.shape[1])
    np.testing.assert_allclose(
        p_higher_of_runs(base, new, generator(0))[order], p_higher_of_runs(base[:, order], new[:, order], generator(0))
    )


@given(st.integers(0, 10_000))
@settings(max_examples=20, deadline=None)
def test_the_order_of_the_runs_of_a_side_changes_nothing(seed: int) -> None:
    base, new = sides(seed, 4)
    np.testing.assert_allclose(
        p_higher_of_runs(base[::-1], new[[2, 0, 3, 1]], generator(0)), p_higher_of_runs(base, new, generator(0))
    )


def test_sides_that_are_equal_in_every_run_are_never_higher() -> None:
    equal = np.ones((3, 4))
    assert p_higher_of_runs(equal, equal, generator(0)).min() == 1.0
    assert p_higher_of_blocks(np.zeros((6, 4)), generator(0)).min() == 1.0
    assert p_higher_of_errors(np.zeros(4), np.zeros(4), math.inf).min() == 1.0


def test_where_exchanges_are_too_many_those_drawn_hold_the_one_that_happened() -> None:
    base, new = sides(2, 9, effect=1.0)
    assert exchanges_of_runs(9, 9) > MAX_EXCHANGES
    assert p_higher_of_runs(base, new, generator(0)).min() >= 1 / MAX_EXCHANGES
    assert p_higher_of_blocks(np.ones((14, 2)) + sides(2, 14, 2)[0], generator(0)).min() >= 1 / MAX_EXCHANGES


@pytest.mark.slow
def test_a_comparison_of_equal_sides_calls_one_of_its_figures_higher_in_one_of_twenty() -> None:
    alarms = 0
    for seed in range(400):
        base, new = sides(seed, 4, figures=24)
        alarms += bool(p_higher_of_runs(base, new, generator(seed)).min() <= 0.05)
    assert alarms <= 20 + 3 * math.sqrt(20)


def test_effects_are_differences_of_means_with_students_errors() -> None:
    base, new = np.array([[0.0], [2.0]]), np.array([[3.0], [5.0], [7.0]])
    effects = effects_of_runs(base, new)
    assert effects.mean[0] == 4.0
    assert effects.degrees == 3
    assert effects.error[0] == pytest.approx(math.sqrt((2 + 8) / 3 * (1 / 2 + 1 / 3)))
    assert effects.reach(0.95)[0] == pytest.approx(3.182446 * effects.error[0])
    blocks = effects_of_blocks(np.array([[1.0], [3.0]]))
    assert (blocks.mean[0], blocks.degrees, blocks.error[0]) == (2.0, 1, pytest.approx(1.0))


def test_holm_multiplies_each_p_by_the_figures_that_are_left() -> None:
    p = p_higher_of_errors(np.array([1.644854, 2.326348, 0.0]), np.ones(3), math.inf)
    assert p == pytest.approx([0.1, 0.03, 0.5], abs=1e-6)
    assert p_higher_of_errors(np.array([2.0]), np.ones(1), 5)[0] == pytest.approx(0.050970, abs=1e-6)


def test_more_spread_and_more_figures_ask_for_more_runs_up_to_a_limit() -> None:
    few, more = runs_needed(0.01, math.log(1.05), 30), runs_needed(0.03, math.log(1.05), 30)
    assert few is not None and more is not None
    assert 3 <= few < more
    assert runs_needed(0.5, math.log(1.05), 30) is None


def test_blocks_need_as_many_swaps_as_alpha_asks_for() -> None:
    assert [fewest_blocks(alpha) for alpha in (0.5, 0.05, 1 / 32, 0.01)] == [2, 5, 5, 7]
    assert blocks_needed(0.0001, math.log(1.05), 30) == 5
    assert blocks_needed(0.0001, math.log(1.05), 30, alpha=0.01) == 7


def test_as_many_blocks_as_runs_a_side_are_needed_and_a_few_more_for_fewer_degrees() -> None:
    effect = math.log(1.05)
    for spread in (0.02, 0.03, 0.05):
        runs, blocks = runs_needed(spread, effect, 30), blocks_needed(spread, effect, 30)
        assert runs is not None and blocks is not None
        assert runs < blocks <= runs + 3
    assert blocks_needed(0.5, effect, 30) is None


def test_the_spread_in_blocks_is_that_of_a_run_without_what_its_block_has_in_common() -> None:
    rng = generator(1, "blocks")
    drift = np.linspace(0, 5, 4000)[:, None]
    base, new = (drift + rng.normal(0, 0.03, (4000, 2)) for _ in range(2))
    assert spread_in_blocks(new - base) == pytest.approx([0.03, 0.03], rel=0.05)
