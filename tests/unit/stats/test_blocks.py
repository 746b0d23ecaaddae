"""Percentiles of counted values, and intervals from blocks of time."""

import numpy as np
import pytest
from numpy.typing import NDArray

from loadgen.plan.rng import generator
from loadgen.stats.blocks import estimate_in_blocks
from loadgen.stats.quantile import MIN_CLUSTERS, Floor, Quantile, nearest_rank

BLOCKS = 16


def counted(values: NDArray[np.int64], blocks: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The distinct values, and how often each block has each."""
    distinct, at = np.unique(values, return_inverse=True)
    counts = np.zeros((int(blocks.max()) + 1, distinct.size), dtype=np.int64)
    np.add.at(counts, (blocks, at.reshape(-1)), 1)
    return distinct, counts


def estimated(values: NDArray[np.int64], blocks: NDArray[np.int64], p: float, floor: Floor = "contract") -> Quantile:
    distinct, counts = counted(values, blocks)
    return estimate_in_blocks(distinct, distinct, counts, (p,), floor=floor)[0]


def even(count: int) -> NDArray[np.int64]:
    return np.arange(count) * BLOCKS // count


@pytest.mark.parametrize("p", [50.0, 90.0, 99.0])
def test_a_percentile_is_the_nearest_rank_and_lies_in_its_interval(p: float) -> None:
    values = generator(1, "blocks").integers(0, 10**6, 4000)
    quantile = estimated(values, even(4000), p)
    assert quantile.value == nearest_rank(np.sort(values), p)
    assert quantile.low is not None and quantile.high is not None
    assert quantile.low <= quantile.value <= quantile.high


def test_the_ends_of_an_interval_are_those_of_buckets_rounded_outward() -> None:
    counts = np.full((BLOCKS, 3), 10)
    quantile = estimate_in_blocks(np.array([0, 10, 20]), np.array([9, 19, 29]), counts, (50.0,))[0]
    assert (quantile.low, quantile.value, quantile.high) == (10, 19, 19)


def test_blocks_that_differ_make_the_interval_wider() -> None:
    rng = generator(2, "blocks")
    values = rng.integers(0, 1000, 4000)
    apart = values + 400 * (even(4000) % 2)
    narrow, wide = estimated(values, even(4000), 50.0), estimated(apart, even(4000), 50.0)
    shuffled = estimated(rng.permutation(apart), even(4000), 50.0)

    def width(quantile: Quantile) -> float:
        assert quantile.low is not None and quantile.high is not None
        return quantile.high - quantile.low

    assert width(wide) > 2 * width(shuffled)
    assert width(narrow) < width(wide)


def test_an_interval_of_values_that_wander_from_block_to_block_covers_the_truth() -> None:
    covered, nights = 0, 300
    rng = generator(3, "blocks")
    for _ in range(nights):
        level = rng.normal(size=BLOCKS) * 100
        values = (level[even(1600)] + rng.normal(size=1600) * 200 + 5000).astype(np.int64)
        quantile = estimated(values, even(1600), 50.0)
        assert quantile.low is not None and quantile.high is not None
        covered += quantile.low <= 5000 <= quantile.high
    assert 0.91 <= covered / nights <= 0.99


@pytest.mark.parametrize(
    ("count", "floor", "is_known"), [(300, "contract", False), (2000, "contract", True), (1500, "strict", True)]
)
def test_a_percentile_with_too_few_values_beyond_it_is_only_bounded(count: int, floor: Floor, is_known: bool) -> None:
    quantile = estimated(generator(4, "blocks").integers(0, 10**6, count), even(count), 99.0, floor)
    assert (quantile.value is not None) is is_known
    assert quantile.low is not None


def test_values_beyond_a_percentile_that_all_lie_in_one_block_do_not_make_it_known() -> None:
    values = np.ones(4000, dtype=np.int64)
    values[:80] = np.arange(100, 180)
    assert estimated(values, even(4000), 99.0).value is None


def test_fewer_blocks_than_an_interval_takes_show_nothing() -> None:
    counts = np.full((MIN_CLUSTERS - 1, 1), 1000)
    one = np.array([5])
    assert estimate_in_blocks(one, one, counts, (50.0,)) == (Quantile(50.0, None, None, None),)
    empty = np.zeros((BLOCKS, 0), dtype=np.int64)
    nothing = np.zeros(0, dtype=np.int64)
    assert estimate_in_blocks(nothing, nothing, empty, (50.0,)) == (Quantile(50.0, None, None, None),)


def test_values_that_are_all_equal_have_an_interval_of_one_value() -> None:
    quantile = estimated(np.full(1600, 7, dtype=np.int64), even(1600), 50.0)
    assert (quantile.low, quantile.value, quantile.high) == (7, 7, 7)
