"""Ranks and intervals against their definitions, in exact arithmetic."""

import math
from collections import defaultdict
from fractions import Fraction
from itertools import accumulate
from math import comb

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.special import ndtri, stdtrit

from loadgen.plan.rng import generator
from loadgen.stats import binomial
from loadgen.stats.binomial import MOST_SUMMED
from loadgen.stats.quantile import (
    CARRIERS,
    CONFIDENCE,
    MIN_CLUSTERS,
    STOPPED_CONFIDENCE,
    Floor,
    Quantile,
    estimate,
    estimate_clustered,
    floor_of,
    fractional_ranks,
    moments_of,
    nearest_rank,
    order_statistic_interval,
    rank,
    samples_needed,
    strict_samples_needed,
)
from loadgen.stats.settled import is_settled, relative_half_width

# A percentile beside its exact number of hundredths of a percent.
CENTI = [(1, 100), (50, 5_000), (90, 9_000), (95, 9_500), (99, 9_900), (99.9, 9_990), (99.99, 9_999)]
FLOORS = [(50, 6), (90, 36), (95, 72), (99, 368), (99.9, 3_688)]
STRICT = [(90, 64), (95, 130), (99, 662), (99.9, 6_636)]


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


@pytest.mark.slow
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


@pytest.mark.parametrize("confidence", [0.8, CONFIDENCE, STOPPED_CONFIDENCE])
@pytest.mark.parametrize("p", [1, 10, 25, 50, 75, 90, 95, 99, 99.9])
def test_sums_and_scipy_give_the_same_ranks(p: float, confidence: float, monkeypatch: pytest.MonkeyPatch) -> None:
    summed = [order_statistic_interval(p, n, confidence) for n in range(MOST_SUMMED + 1)]
    monkeypatch.setattr(binomial, "MOST_SUMMED", -1)
    order_statistic_interval.cache_clear()
    assert [order_statistic_interval(p, n, confidence) for n in range(MOST_SUMMED + 1)] == summed
    order_statistic_interval.cache_clear()


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


@pytest.mark.parametrize(("p", "n"), STRICT)
def test_the_strict_floor_is_where_two_lie_above_with_99_percent(p: float, n: int) -> None:
    below = Fraction(str(p)) / 100

    def at_most_one_above(count: int) -> Fraction:
        return below**count + count * (1 - below) * below ** (count - 1)

    assert strict_samples_needed(p) == floor_of(p, "strict") == n
    assert at_most_one_above(n) <= Fraction(1, 100) < at_most_one_above(n - 1)


@pytest.mark.parametrize(("floor", "p", "n"), [("contract", *FLOORS[2]), ("strict", *STRICT[1])])
def test_a_percentile_is_a_number_exactly_from_the_asked_floor(floor: Floor, p: float, n: int) -> None:
    enough, few = (estimate(np.arange(count, dtype=np.int64), [p], floor=floor)[0] for count in (n, n - 1))
    assert enough.value is not None
    assert enough.high is not None
    assert (few.value, few.high) == (None, None)
    assert few.low is not None


@given(st.sampled_from(CENTI), st.integers(1, 5_000), st.sampled_from([0.95, 0.97, 0.8]))
def test_fractional_ranks_lie_inside_the_plain_ones_by_less_than_one(
    case: tuple[float, int], n: int, confidence: float
) -> None:
    lower, upper = fractional_ranks(case[0], n, confidence)
    plain = order_statistic_interval(case[0], n, confidence)
    assert (None if lower is None else math.floor(lower), None if upper is None else math.ceil(upper)) == plain


@pytest.mark.slow
@pytest.mark.parametrize(("p", "n"), [(50, 7), (90, 45), (95, 100), (99, 550)])
def test_both_ends_miss_two_and_a_half_percent_of_the_time_where_plain_ranks_miss_less(p: float, n: int) -> None:
    rng, trials = generator(1, "coverage"), 4_000
    drawn = np.sort(rng.exponential(size=(trials, n)), axis=1)
    truth = -math.log1p(-p / 100)
    found = [estimate(row, [p])[0] for row in drawn]
    held = sum(q.low <= truth <= q.high for q in found if q.low is not None and q.high is not None) / trials
    lower, upper = order_statistic_interval(p, n)
    assert lower is not None
    assert upper is not None
    plain = np.mean((drawn[:, lower - 1] <= truth) & (truth <= drawn[:, upper - 1]))
    assert 0.94 <= held <= 0.972
    assert plain > held + 0.005


def test_a_bound_that_stands_alone_is_the_plain_order_statistic() -> None:
    values = np.arange(71, dtype=np.float64)
    lower, _ = order_statistic_interval(95, 71)
    assert lower is not None
    assert estimate(values, [95]) == (Quantile(95, None, lower - 1.0, None),)


def test_integers_are_the_same_interval_rounded_outward() -> None:
    values = generator(2, "outward").integers(0, 10_000, 150)
    values.sort()
    for whole, real in zip(
        *(estimate(kind, [50, 90, 95]) for kind in (values, values.astype(np.float64))), strict=True
    ):
        assert None not in (whole.low, whole.high, real.low, real.high)
        assert whole.low == math.floor(real.low or 0)
        assert whole.high == math.ceil(real.high or 0)


def test_nothing_lies_between_ties() -> None:
    # The 40th and 61st of 100 end and begin a run of five equals: an interpolated end would lie between two of them.
    values = np.repeat(np.arange(20, dtype=np.float64), 5)
    assert order_statistic_interval(50, 100) == (40, 61)
    assert estimate(values, [50]) == (Quantile(50, 9, 7, 12),)
    assert estimate(np.full(40, 3), [50, 90]) == (Quantile(50, 3, 3, 3), Quantile(90, 3, 3, 3))


def test_more_confidence_is_wider_and_ends_at_the_maximum() -> None:
    values = np.arange(72, dtype=np.float64)
    for p in (50, 95):
        (usual,), (surer,) = estimate(values, [p]), estimate(values, [p], confidence=STOPPED_CONFIDENCE)
        assert surer.value == usual.value
        assert (surer.low or 0) < (usual.low or 0)
        assert (surer.high or 0) >= (usual.high or 0)
    assert surer.high == 71


def test_a_relative_half_width_takes_both_ends_and_a_value_above_zero() -> None:
    assert relative_half_width(Quantile(50, 100, 90, 120)) == 0.15
    assert relative_half_width(Quantile(50, None, 90, None)) is None
    assert relative_half_width(Quantile(5, 100, None, 120)) is None
    assert relative_half_width(Quantile(50, 0, -1, 1)) is None


def test_a_percentile_is_settled_at_the_second_narrow_look_in_a_row() -> None:
    wide, narrow, unknown = Quantile(50, 100, 80, 120), Quantile(50, 100, 95, 105), Quantile(50, None, 95, None)
    assert is_settled([wide, narrow, narrow], 0.05)
    assert not is_settled([narrow, narrow], 0.049)
    assert not is_settled([narrow, wide, narrow], 0.05)
    assert not is_settled([narrow, unknown], 0.05)
    assert not is_settled([narrow], 0.05)
    assert not is_settled([], 0.05)


def shares_at_or_below(values: list[int], share: float) -> list[float]:
    """1 below the percentile, 0 above, equals shared out."""
    at = sorted(values)[max(1, math.ceil(share * len(values) - 1e-9)) - 1]
    fraction = (share * len(values) - sum(v < at for v in values)) / values.count(at)
    return [1.0 if v < at else fraction if v == at else 0.0 for v in values]


def summed(keys: list[int], weights: list[float]) -> dict[int, float]:
    sums: dict[int, float] = defaultdict(float)
    for key, weight in zip(keys, weights, strict=True):
        sums[key] += weight
    return sums


def naive_effect(values: list[int], ids: list[int], moments: list[int] | None, share: float) -> float:
    apart = [w - share for w in shares_at_or_below(values, share)]
    of_id = summed(ids, apart)
    variance = sum(a * a for a in of_id.values()) * len(of_id) / (len(of_id) - 1)
    if moments is not None and len(set(moments)) > 1:
        place = {moment: index for index, moment in enumerate(sorted(set(moments)))}
        slices = [place[moment] for moment in moments]
        weight = len(place) / max(1, len(place) - 3)

        def neighbors(pairs: list[int], weights: list[float]) -> float:
            sums = summed(pairs, weights)
            return sum(a * (a + 2 * sums[s + 1]) for s, a in list(sums.items()))

        alone = sum(
            neighbors(
                [s for s, i in zip(slices, ids, strict=True) if i == k],
                [a for a, i in zip(apart, ids, strict=True) if i == k],
            )
            for k in set(ids)
        )
        variance += max(0.0, weight * neighbors(slices, apart) - alone)
    return max(1.0, variance / (len(values) * share * (1 - share)))


def naive_carriers(values: list[int], groups: list[int], share: float) -> float:
    each = summed(groups, [1 - w for w in shares_at_or_below(values, share)])
    return float(sum(each.values()) ** 2 / sum(e * e for e in each.values()))


@pytest.mark.slow
@settings(max_examples=60, deadline=None, phases=[Phase.explicit, Phase.generate])  # to shrink takes minutes
@given(
    st.lists(
        st.tuples(st.integers(0, 10_000), st.integers(-7, 12), st.integers(0, 9)),
        min_size=40,
        max_size=300,
        unique_by=lambda sample: sample[0],
    ),
    st.sampled_from([50.0, 80.0, 90.0]),
    st.booleans(),
)
def test_the_clustered_interval_is_that_of_as_many_independent_samples_as_its_design_effect_leaves(
    samples: list[tuple[int, int, int]], p: float, timed: bool
) -> None:
    values, ids, moments = (list(column) for column in zip(*samples, strict=True))
    (found,) = estimate_clustered(
        ints(values).astype(np.float64), ints(ids), [p], moments=ints(moments) if timed else None
    )
    if len(set(ids)) < MIN_CLUSTERS:
        assert found == Quantile(p, None, None, None)
        return
    share, n, in_time = p / 100, len(values), moments if timed else None
    effects = [naive_effect(values, ids, in_time, s) for s in (share, max(0.5, 2 * share - 1))]
    carriers = [naive_carriers(values, ids, share)]
    carriers += [naive_carriers(values, moments, share)] if timed and len(set(moments)) > 1 else []
    free = max(1.0, min([carriers[0], *(c / 2 for c in carriers[1:])]) - 1)
    shrink = (ndtri(0.025) / stdtrit(free, 0.025)) ** 2
    outer = n * shrink / (sum(effects) / 2)
    known = min(carriers) >= (8 if p <= 75 else CARRIERS) and outer >= samples_needed(p)
    assert (found.value is not None) == known
    ordered = np.sort(np.array(values, dtype=np.float64))
    nearest = float(nearest_rank(ordered, p))

    def at(samples_left: float, end: int) -> float | None:
        position = fractional_ranks(p, samples_left)[end]
        if position is None:
            return None
        position = min(max(position / (samples_left + 1) * (n + 1), 1), n)
        return float(np.interp(position, np.arange(1, n + 1), ordered))

    low = at(n * shrink / (effects[0] if known else max(effects)), 0)
    assert found.low == (None if low is None else pytest.approx(min(low, nearest)))
    if known:
        high = at(outer, 1)
        assert high is not None
        assert found.high == pytest.approx(max(high, nearest))
        assert found.value == nearest


def leveled(rng: np.random.Generator, requests: int, spread: float) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    ids = np.repeat(np.arange(requests), rng.integers(5, 201, requests))
    return np.exp(spread * rng.normal(size=requests)[ids] + 0.3 * rng.normal(size=ids.size)), ids


@pytest.mark.slow
def test_requests_of_different_levels_are_covered_where_gaps_taken_as_independent_are_not() -> None:
    rng, trials = generator(3, "levels"), 300
    truth = math.exp(math.hypot(0.3, 0.3) * float(ndtri(0.9)))
    held = naive = shown = 0
    for _ in range(trials):
        values, ids = leveled(rng, 80, 0.3)
        (clustered,), (taken,) = estimate_clustered(values, ids, [90]), estimate(np.sort(values), [90])
        if clustered.low is not None and clustered.high is not None:
            shown += 1
            held += clustered.low <= truth <= clustered.high
        naive += taken.low is not None and taken.high is not None and taken.low <= truth <= taken.high
    assert shown > 0.8 * trials
    assert 0.91 <= held / shown <= 0.99
    assert naive / trials < 0.7


@pytest.mark.slow
def test_what_slows_the_whole_server_is_covered_only_when_moments_are_told() -> None:
    rng, trials, users, steps = generator(4, "server"), 300, 8, 400
    held = {True: 0, False: 0}
    for _ in range(trials):
        slow = np.repeat(np.exp(0.3 * rng.normal(size=steps // 10)), 10)
        values = (slow * np.exp(0.1 * rng.normal(size=(users, steps)))).reshape(-1)
        ids = np.arange(values.size) // 40
        moments = moments_of(np.tile(np.cumsum(slow), users), values)
        for told in held:
            (found,) = estimate_clustered(values, ids, [50], moments=moments if told else None)
            held[told] += found.low is not None and found.high is not None and found.low <= 1 <= found.high
    assert held[True] / trials >= 0.9
    assert held[False] / trials < 0.75


def test_the_order_of_the_samples_does_not_matter() -> None:
    rng = generator(5, "order")
    values, ids = leveled(rng, 60, 0.1)
    moments = np.arange(ids.size) // 50
    shuffled = rng.permutation(ids.size)
    one = estimate_clustered(values, ids, [50, 90, 99], moments=moments)
    assert one == estimate_clustered(values[shuffled], ids[shuffled], [50, 90, 99], moments=moments[shuffled])
    assert all(quantile.value is not None for quantile in one[:2])


def test_what_the_clusters_are_called_does_not_matter() -> None:
    rng = generator(3, "names")
    values, ids = rng.integers(1, 10**6, 4_000), np.repeat(np.arange(200), 20)
    moments = np.arange(4_000) // 100
    expected = estimate_clustered(values, ids, [50, 90, 99], moments=moments)
    for names in (ids * 10**9, ids - 100):
        assert estimate_clustered(values, names, [50, 90, 99], moments=moments * 10**9) == expected


def test_a_small_percentile_of_clusters_is_the_mirrored_large_one() -> None:
    values, ids = leveled(generator(6, "mirror"), 60, 0.1)
    values = values[: values.size // 10 * 10 - 1]  # so that the nearest ranks mirror too
    (ten,), (ninety,) = (estimate_clustered(v, ids[: values.size], [p]) for v, p in ((values, 10), (-values, 90)))
    assert ninety.value is not None
    assert ninety.low is not None
    assert ninety.high is not None
    assert ten.value == pytest.approx(-ninety.value)
    assert ten.low == pytest.approx(-ninety.high)
    assert ten.high == pytest.approx(-ninety.low)


def test_clusters_of_one_are_about_independent() -> None:
    values = generator(7, "single").exponential(size=5_000)
    (clustered,), (known,) = estimate_clustered(values, np.arange(5_000), [90]), estimate(np.sort(values), [90])
    assert clustered.value == known.value
    assert clustered.low == pytest.approx(known.low, rel=1e-3)
    assert clustered.high == pytest.approx(known.high, rel=1e-3)


def test_clusters_of_equal_samples_widen_the_interval() -> None:
    # A hundred copies of forty numbers know no more than the forty.
    values = np.repeat(np.arange(40, dtype=np.int64), 100)
    (clustered,) = estimate_clustered(values, values, [50])
    (naive,) = estimate(values, [50])
    (forty,) = estimate(np.arange(40, dtype=np.int64), [50])
    assert clustered.low == pytest.approx(forty.low, abs=1)
    assert clustered.high == pytest.approx(forty.high, abs=1)
    assert naive.low is not None
    assert clustered.low is not None
    assert clustered.low < naive.low


def test_a_tail_that_few_requests_make_is_a_bound_however_many_gaps_it_has() -> None:
    ids = np.repeat(np.arange(50), 100).astype(np.int64)
    spread = np.tile(np.arange(100), 50)
    slow = np.where(ids < CARRIERS - 1, spread + 1_000, spread)
    (p90,) = estimate_clustered(slow, ids, [90])
    assert (p90.value, p90.high) == (None, None)
    assert p90.low is not None
    (of_all,) = estimate_clustered(spread, ids, [90])
    assert of_all.value == 89


def test_a_stall_of_the_whole_server_carries_a_tail_only_once() -> None:
    # Every 50th step takes a hundred times as long, for all 20 requests at once: 6 stalls, not 120.
    step = np.tile(np.arange(300), 20)
    values = np.where(step % 50 == 49, 1_000 + step, 10 + step % 7)
    ids = np.repeat(np.arange(60), 100).astype(np.int64)
    (apart,), (together,) = (estimate_clustered(values, ids, [99], moments=m) for m in (None, step // 10))
    assert apart.value is not None
    assert together.value is None
    assert together.low is not None


def test_five_clusters_show_nothing_however_many_samples_they_have() -> None:
    ids = np.repeat(np.arange(MIN_CLUSTERS - 1), 1_000).astype(np.int64)
    assert estimate_clustered(ids, ids, [50, 99]) == (Quantile(50, None, None, None), Quantile(99, None, None, None))


def test_no_gaps_show_nothing() -> None:
    assert estimate_clustered(ints([]), ints([]), [50]) == (Quantile(50, None, None, None),)
    assert moments_of(ints([]), ints([])).size == 0


@pytest.mark.parametrize(("floor", "needed"), [("contract", 72), ("strict", 130)])
def test_clusters_show_a_percentile_only_from_the_floor_of_independent_samples(floor: Floor, needed: int) -> None:
    # Equal samples in equal clusters: as good as independent but for the t quantile, of 69 degrees of freedom here.
    shrink = (ndtri(0.025) / stdtrit(69, 0.025)) ** 2
    for length in (1, 2, 3):
        ids = np.repeat(np.arange(70), length).astype(np.int64)
        (p95,) = estimate_clustered(np.full(ids.size, 5), ids, [95], floor=floor)
        assert p95 == (Quantile(95, 5, 5, 5) if 70 * length * shrink >= needed else Quantile(95, None, 5, None))


def test_integers_of_clusters_give_ints() -> None:
    ids = np.repeat(np.arange(40), 50).astype(np.int64)
    (found,) = estimate_clustered(generator(8, "ints").integers(0, 10**9, ids.size), ids, [90])
    assert [type(end) for end in (found.value, found.low, found.high)] == [int, int, int]


def test_moments_are_twenty_gaps_long_or_a_fiftieth_of_the_whole() -> None:
    arrived = np.arange(0, 1_000, 10, dtype=np.int64)
    assert np.unique(moments_of(arrived, np.full(100, 10)), return_counts=True)[1].tolist() == [20] * 5
    assert np.unique(moments_of(np.arange(1_001), np.ones(1_001))).size == 51
    assert not moments_of(np.full(10, 7), np.zeros(10)).any()


def test_values_and_ids_must_pair_up() -> None:
    with pytest.raises(ValueError, match="2 values but 3"):
        estimate_clustered(ints([1, 2]), ints([1, 2, 3]), [50])
    with pytest.raises(ValueError, match="2 values"):
        estimate_clustered(ints([1, 2]), ints([1, 2]), [50], moments=ints([1]))
