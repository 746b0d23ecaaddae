"""Ranks and intervals against their definitions, in exact arithmetic."""

from fractions import Fraction
from itertools import accumulate
from math import comb

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from loadgen.chance import generator
from loadgen.measure.quantile import (
    MIN_CLUSTERS,
    Quantile,
    estimate,
    estimate_clustered,
    nearest_rank,
    order_statistic_interval,
    rank,
    samples_needed,
)

# A percentile beside its exact number of hundredths of a percent.
CENTI = [(1, 100), (50, 5_000), (90, 9_000), (95, 9_500), (99, 9_900), (99.9, 9_990), (99.99, 9_999)]
FLOORS = [(50, 6), (90, 36), (95, 72), (99, 368), (99.9, 3_688)]


def ints(values: list[int]) -> NDArray[np.int64]:
    return np.array(values, dtype=np.int64)


def cumulated(n: int, centi: int) -> list[int]:
    """P(Bin(n, centi / 10⁴) <= k) · 10⁴ⁿ for k in 0..n, exactly."""
    return list(accumulate(comb(n, k) * centi**k * (10_000 - centi) ** (n - k) for k in range(n + 1)))


@pytest.mark.parametrize(("p", "centi"), CENTI)
def test_the_rank_is_the_smallest_that_covers_p_percent_for_every_n(p: float, centi: int) -> None:
    for n in range(1, 4_001):
        r = rank(p, n)
        assert 1 <= r <= n
        assert 10_000 * r >= centi * n
        assert r == 1 or 10_000 * (r - 1) < centi * n


def test_the_rank_does_not_round_through_floats() -> None:
    assert rank(99.9, 1_000) == 999
    assert rank(55, 100) == 55
    assert rank(np.float64(99.9), 1_000) == 999
    assert rank(99.99, 10**15) == 9_999 * 10**11


def test_the_ends_are_the_minimum_and_the_maximum() -> None:
    values = ints([3, 5, 9])
    assert nearest_rank(values, 0) == 3
    assert nearest_rank(values, 100) == 9


@pytest.mark.parametrize("p", [-0.1, 100.1, float("nan")])
def test_a_percentile_outside_0_to_100_has_no_rank(p: float) -> None:
    with pytest.raises(ValueError, match=r"."):
        rank(p, 10)


def test_no_samples_have_no_rank() -> None:
    with pytest.raises(ValueError, match="no samples"):
        nearest_rank(ints([]), 50)


@given(st.lists(st.integers(-(2**62), 2**62), min_size=1, max_size=300), st.sampled_from(CENTI))
def test_nearest_rank_is_the_smallest_value_with_p_percent_at_or_below(
    values: list[int], case: tuple[float, int]
) -> None:
    p, centi = case
    covering = [v for v in values if 10_000 * sum(w <= v for w in values) >= centi * len(values)]
    assert nearest_rank(ints(sorted(values)), p) == min(covering)


@pytest.mark.parametrize(("p", "n"), FLOORS)
def test_an_upper_end_exists_exactly_from_the_contracts_floor(p: float, n: int) -> None:
    assert samples_needed(p) == n
    assert order_statistic_interval(p, n)[1] == n
    assert order_statistic_interval(p, n - 1)[1] is None
    assert all(order_statistic_interval(p, m)[1] is None for m in range(n))


@pytest.mark.parametrize(("p", "centi"), CENTI[:-1])
def test_the_floor_is_the_smallest_n_whose_maximum_covers(p: float, centi: int) -> None:
    share, n = Fraction(centi, 10_000), samples_needed(p)
    assert share**n <= Fraction(1, 40)
    assert n == 1 or share ** (n - 1) > Fraction(1, 40)


def test_more_confidence_takes_more_samples() -> None:
    # A one-sided 99 % bound is the upper end of a two-sided 98 % interval with 1 % in each tail.
    assert samples_needed(99, confidence=0.98) == 459
    assert samples_needed(90, confidence=0.98) == 44


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(CENTI), st.integers(0, 120), st.sampled_from([(0.95, Fraction(1, 40)), (0.8, Fraction(1, 10))]))
def test_the_interval_is_the_tightest_that_leaves_half_the_rest_on_each_side(
    case: tuple[float, int], n: int, level: tuple[float, Fraction]
) -> None:
    (p, centi), (confidence, tail) = case, level
    law, whole = cumulated(n, centi), 10_000**n
    lowers = [r for r in range(1, n + 1) if law[r - 1] <= tail * whole]
    uppers = [r for r in range(1, n + 1) if whole - law[r - 1] <= tail * whole]
    expected = (max(lowers, default=None), min(uppers, default=None))
    assert order_statistic_interval(p, n, confidence) == expected


@given(st.sampled_from([1, 10, 25, 50, 75, 90, 99]), st.integers(0, 100_000))
def test_the_interval_of_the_mirrored_percentile_is_the_mirrored_interval(p: int, n: int) -> None:
    lower, upper = order_statistic_interval(p, n)
    mirrored_lower, mirrored_upper = order_statistic_interval(100 - p, n)
    assert upper == (None if mirrored_lower is None else n + 1 - mirrored_lower)
    assert lower == (None if mirrored_upper is None else n + 1 - mirrored_upper)


@pytest.mark.parametrize(("p", "confidence"), [(0, 0.95), (100, 0.95), (50, 0), (50, 1)])
def test_the_ends_have_no_interval(p: float, confidence: float) -> None:
    with pytest.raises(ValueError, match="between"):
        order_statistic_interval(p, 10, confidence)


def test_below_the_floor_there_is_no_value_but_a_lower_bound() -> None:
    values = np.arange(1, 72, dtype=np.int64)
    p90, p95 = estimate(values, [90, 95])
    assert (p90.value, p90.low, p90.high) == (64, 59, 69)
    assert p95 == Quantile(95, None, 63, None)


def test_at_the_floor_the_upper_end_is_the_maximum() -> None:
    assert estimate(np.arange(1, 73, dtype=np.int64), [95]) == (Quantile(95, 69, 64, 72),)


def test_nothing_is_known_of_no_samples() -> None:
    assert estimate(ints([]), [50, 99]) == (Quantile(50, None, None, None), Quantile(99, None, None, None))


def test_a_small_percentile_may_have_a_value_without_a_lower_end() -> None:
    (p5,) = estimate(np.arange(1, 51, dtype=np.int64), [5])
    assert (p5.value, p5.low, p5.high) == (3, None, 7)


def test_integers_give_ints_and_floats_give_floats() -> None:
    (whole,) = estimate(np.arange(100, dtype=np.int64), [50])
    (real,) = estimate(np.arange(100, dtype=np.float64), [50])
    assert [type(end) for end in (whole.value, whole.low, whole.high)] == [int, int, int]
    assert [type(end) for end in (real.value, real.low, real.high)] == [float, float, float]


def naive_clustered(
    values: NDArray[np.int64], ids: NDArray[np.int64], p: float, rng: np.random.Generator, replicates: int
) -> Quantile:
    groups = [values[ids == i] for i in np.unique(ids)]
    drawn = sorted(
        nearest_rank(np.sort(np.concatenate([groups[i] for i in row])), p)
        for row in rng.integers(len(groups), size=(replicates, len(groups)))
    )
    value = nearest_rank(np.sort(values), p)
    cut = rank(2.5, replicates)
    low, high = min(value, drawn[cut - 1]), max(value, drawn[replicates - cut])
    return Quantile(p, value, low, high) if values.size >= samples_needed(p) else Quantile(p, None, low, None)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 50), st.integers(-3, 9)), min_size=1, max_size=120),
    st.sampled_from([2.5, 50, 90, 99]),
    st.integers(0, 2**32),
)
def test_the_clustered_interval_is_that_of_pooling_whole_resampled_clusters(
    samples: list[tuple[int, int]], p: float, seed: int
) -> None:
    values, ids = ints([v for v, _ in samples]), ints([i for _, i in samples])
    (found,) = estimate_clustered(values, ids, [p], rng=generator(seed, "test"), replicates=40)
    if np.unique(ids).size < MIN_CLUSTERS:
        assert found == Quantile(p, None, None, None)
    else:
        assert found == naive_clustered(values, ids, p, generator(seed, "test"), 40)


def test_the_clustered_interval_stays_exact_when_a_bin_holds_many_samples() -> None:
    rng = generator(1, "many samples")
    ids = np.repeat(np.arange(20), 1_000).astype(np.int64)
    values = rng.lognormal(17, 0.5, ids.size).astype(np.int64)
    (found,) = estimate_clustered(values, ids, [99], rng=generator(2, "test"), replicates=40)
    assert found == naive_clustered(values, ids, 99, generator(2, "test"), 40)


def test_many_clusters_are_resampled_in_blocks_to_the_same_law() -> None:
    # 60,000 clusters of one sample each are independent samples, whose interval is known; 60,000 clusters also pass
    # the number above which replicates go through in blocks.
    n = 60_000
    values = np.arange(n, dtype=np.int64)
    (found,) = estimate_clustered(values, values, [50], rng=generator(3, "test"), replicates=200)
    (known,) = estimate(values, [50])
    assert found.value == known.value
    assert found.low == pytest.approx(known.low, abs=60)
    assert found.high == pytest.approx(known.high, abs=60)


def test_the_order_of_the_samples_does_not_matter() -> None:
    rng = generator(4, "order")
    ids = np.repeat(np.arange(12), 40).astype(np.int64)
    values = rng.integers(0, 500, ids.size)
    shuffled = rng.permutation(ids.size)
    ps = [50, 90, 99]
    one = estimate_clustered(values, ids, ps, rng=generator(5, "test"))
    other = estimate_clustered(values[shuffled], ids[shuffled], ps, rng=generator(5, "test"))
    assert one == other


def test_clusters_of_equal_samples_widen_the_interval() -> None:
    # A hundred copies of forty numbers know no more than the forty.
    values = np.repeat(np.arange(40, dtype=np.int64), 100)
    (clustered,) = estimate_clustered(values, values, [50], rng=generator(6, "test"))
    (naive,) = estimate(values, [50])
    (forty,) = estimate(np.arange(40, dtype=np.int64), [50])
    assert clustered.low == pytest.approx(forty.low, abs=1)
    assert clustered.high == pytest.approx(forty.high, abs=1)
    assert naive.low is not None
    assert clustered.low is not None
    assert clustered.low < naive.low


def test_five_clusters_show_nothing_however_many_samples_they_have() -> None:
    ids = np.repeat(np.arange(MIN_CLUSTERS - 1), 1_000).astype(np.int64)
    found = estimate_clustered(ids, ids, [50, 99], rng=generator(7, "test"))
    assert found == (Quantile(50, None, None, None), Quantile(99, None, None, None))


def test_no_gaps_show_nothing() -> None:
    found = estimate_clustered(ints([]), ints([]), [50], rng=generator(8, "test"))
    assert found == (Quantile(50, None, None, None),)


def test_clusters_below_the_sample_floor_give_a_lower_bound_only() -> None:
    ids = np.repeat(np.arange(10), 7).astype(np.int64)
    (p95,) = estimate_clustered(np.arange(70, dtype=np.int64), ids, [95], rng=generator(9, "test"))
    assert p95.value is None
    assert p95.high is None
    assert p95.low is not None


def test_clusters_at_the_sample_floor_give_a_value() -> None:
    ids = np.repeat(np.arange(9), 8).astype(np.int64)
    (p95,) = estimate_clustered(np.arange(72, dtype=np.int64), ids, [95], rng=generator(9, "test"))
    assert p95.value == 68
    assert p95.high is not None


def test_values_and_ids_must_pair_up() -> None:
    with pytest.raises(ValueError, match="2 values but 3"):
        estimate_clustered(ints([1, 2]), ints([1, 2, 3]), [50], rng=generator(10, "test"))
