"""Whether a series moved along a night: against the formulas of the test's sources, and on made nights."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.special import stdtrit

from loadgen.plan.rng import generator
from loadgen.stats.bucket_counts import BucketCounts
from loadgen.stats.drift import (
    MOST_CHANGE,
    NOISE_COMPONENTS,
    PercentileTest,
    basis,
    change_of,
    floors_of,
    level_test,
    share_test,
    t_of,
    theil_sen,
)
from loadgen.stats.histogram import buckets_of
from loadgen.stats.steps import best_split, blocks_of, step_gain, warm_up_of

Floats = NDArray[np.float64]
Ids = NDArray[np.int64]
WINDOWS = 120
AT = np.arange(WINDOWS, dtype=np.float64)
QUANTILE = float(stdtrit(NOISE_COMPONENTS, 0.95))


def counts_of(values: Ids, window: Ids, windows: int = WINDOWS) -> BucketCounts:
    keys, count = np.unique(window * 100_000 + buckets_of(values), return_counts=True)
    return BucketCounts(windows, keys // 100_000, keys % 100_000, count)


def latencies(seed: int, drift: float = 0.0, per_window: int = 20) -> tuple[Ids, Ids]:
    """Latencies around 200 ms that grow by `drift`, a logarithm, and the window of each."""
    rng = generator(seed, "drift")
    window = np.repeat(np.arange(WINDOWS), rng.poisson(per_window, WINDOWS))
    logs = drift * (AT / (WINDOWS - 1) - 0.5)[window] + 0.4 * rng.normal(size=window.size)
    return (2e8 * np.exp(logs)).astype(np.int64), window


def t_by_the_formula(values: Ids, window: Ids, p: float, change: float = 0.0) -> float:
    """Müller and Watson's statistic of the values above a percentile, with polynomials by numpy."""
    along = AT / (WINDOWS - 1) - 0.5
    n = np.bincount(window, minlength=WINDOWS).astype(float)
    flat = np.log(values) - change * along[window]
    threshold = np.sort(flat)[int(np.ceil(p / 100 * flat.size)) - 1]
    above = np.bincount(window, flat > threshold, WINDOWS)
    q, r = np.linalg.qr(np.polynomial.legendre.legvander(2 * along, NOISE_COMPONENTS + 1) * np.sqrt(n)[:, None])
    phi = q * np.sign(np.diag(r)) / np.sqrt(n)[:, None]
    z = phi.T @ (above - above.sum() / flat.size * n)
    return float(z[1] / np.sqrt(np.mean(z[2:] ** 2)))


@pytest.mark.parametrize("p", [50.0, 95.0])
@pytest.mark.parametrize("change", [0.0, 0.1, -0.25])
@pytest.mark.parametrize("seed", range(5))
def test_the_statistic_of_a_percentile_is_that_of_the_formula(seed: int, change: float, p: float) -> None:
    values, window = latencies(seed, drift=0.1)
    test = PercentileTest(counts_of(values, window), AT, p)
    assert test.t(change) == pytest.approx(t_by_the_formula(values, window, p, change), rel=0.08, abs=0.1)


def test_the_basis_is_orthonormal_under_weights_of_which_some_are_zero() -> None:
    weights = generator(1, "weights").poisson(2, WINDOWS).astype(np.float64)
    phi = basis(AT, weights)
    assert (weights == 0).any()
    assert phi.T @ (phi * weights[:, None]) == pytest.approx(np.eye(NOISE_COMPONENTS + 2), abs=1e-9)
    assert phi[-1, 1] > 0


def test_the_change_of_a_percentile_is_about_the_true_one_and_its_interval_has_it() -> None:
    for seed in range(5):
        for p in (50.0, 95.0):
            values, window = latencies(seed, drift=0.3, per_window=100)
            change = change_of(PercentileTest(counts_of(values, window), AT, p))
            assert change.estimate == pytest.approx(0.3, abs=0.1)
            assert change.ci[0] <= change.ci90[0] < change.estimate < change.ci90[1] <= change.ci[1]
            assert change.ci[0] < 0.3 < change.ci[1]
            assert change.p < 0.05


def test_the_ends_of_an_interval_are_where_the_statistic_is_at_its_quantiles() -> None:
    values, window = latencies(3, drift=0.1)
    rng = generator(3, "level")
    for test in (PercentileTest(counts_of(values, window), AT, 50.0), level_test(rng.normal(size=WINDOWS), AT)):
        change = change_of(test)
        assert test.t(change.estimate) == pytest.approx(0.0, abs=0.01)
        assert test.t(change.ci90[0]) == pytest.approx(QUANTILE, abs=0.01)
        assert test.t(change.ci90[1]) == pytest.approx(-QUANTILE, abs=0.01)


def test_a_95_percent_interval_looks_at_the_slowest_wander_alone_and_never_is_within_the_90_percent_one() -> None:
    phi, noise = basis(AT, np.ones(WINDOWS)), 0.001 * generator(3, "slow").normal(size=WINDOWS)
    slow, fast = phi[:, 3] + noise, phi[:, 8] + noise
    of_slow, of_fast = change_of(level_test(slow, AT)), change_of(level_test(fast, AT))
    assert np.ptp(of_slow.ci) / np.ptp(of_slow.ci90) > 1.7
    assert of_fast.ci[0] <= of_fast.ci90[0] < of_fast.ci90[1] <= of_fast.ci[1]
    assert np.ptp(of_fast.ci) / np.ptp(of_fast.ci90) < 1.2


def test_the_interval_of_a_tail_does_not_reach_to_where_its_statistic_comes_back() -> None:
    """Far out, all values above p99 are in the first window, which says little about a line."""
    values, window = latencies(1, per_window=100)
    test = PercentileTest(counts_of(values, window), AT, 99.0)
    assert abs(test.t(2.9)) < float(stdtrit(NOISE_COMPONENTS, 0.975))
    low, high = change_of(test).ci
    assert -0.7 < low < 0 < high < 0.7


def test_a_tail_that_moves_by_more_than_its_noise_is_a_sure_change() -> None:
    """Without its change, all that is above p99 is in the last windows, which say little about a line."""
    rng = generator(2, "tail")
    window = np.repeat(np.arange(WINDOWS), 100)
    values = (2e8 * np.exp(0.3 * AT / WINDOWS)[window] * (1 + 0.01 * rng.normal(size=window.size))).astype(np.int64)
    test = PercentileTest(counts_of(values, window), AT, 99.0)
    assert abs(test.t(0.0)) < 1.5
    change = change_of(test)
    assert change.estimate == pytest.approx(0.3, abs=0.02)
    assert change.p < 0.05


@pytest.mark.parametrize("p", [50.0, 95.0])
def test_scaling_the_values_scales_the_level_and_nothing_else(p: float) -> None:
    values, window = latencies(2, drift=0.2)
    plain = change_of(PercentileTest(counts_of(values, window), AT, p))
    scaled = change_of(PercentileTest(counts_of(values * 7, window), AT * 60 + 1000, p))
    assert scaled.level - plain.level == pytest.approx(np.log(7), abs=1e-3)
    assert scaled.estimate == pytest.approx(plain.estimate, abs=3e-3)
    assert scaled.ci == pytest.approx(plain.ci, abs=5e-3)
    assert scaled.p == pytest.approx(plain.p, rel=0.1)


@given(seed=st.integers(0, 1000), factor=st.sampled_from([1e-6, 0.5, 1e9]), shift=st.sampled_from([0.0, -5.0, 1e3]))
@settings(max_examples=25, deadline=None)
def test_a_plain_series_in_another_unit_changes_by_as_much_in_that_unit(seed: int, factor: float, shift: float) -> None:
    values = generator(seed, "level").normal(size=WINDOWS)
    plain = change_of(level_test(values, AT))
    scaled = change_of(level_test(values * factor + shift * factor, AT))
    assert scaled.estimate / factor == pytest.approx(plain.estimate, abs=1e-6)
    assert np.array(scaled.ci) / factor == pytest.approx(plain.ci, abs=1e-6)
    assert scaled.p == pytest.approx(plain.p, abs=1e-6)


@pytest.mark.parametrize("seed", range(3))
def test_a_night_that_is_played_backward_changes_by_as_much_the_other_way(seed: int) -> None:
    values, window = latencies(seed, drift=0.1)
    forward = change_of(PercentileTest(counts_of(values, window), AT, 50.0))
    backward = change_of(PercentileTest(counts_of(values, WINDOWS - 1 - window), AT, 50.0))
    assert backward.estimate == pytest.approx(-forward.estimate, abs=1e-3)
    assert backward.ci == pytest.approx((-forward.ci[1], -forward.ci[0]), abs=1e-3)
    assert backward.p == pytest.approx(forward.p, rel=0.02)


def test_what_never_changes_has_no_change_and_no_interval() -> None:
    window = np.repeat(np.arange(WINDOWS), 5)
    same = change_of(PercentileTest(counts_of(np.full(window.size, 200_000_000), window), AT, 50.0))
    assert same.p == 1.0
    assert same.estimate == 0.0
    assert same.ci == pytest.approx((0, 0), abs=2e-3)  # the width of a bucket
    for test in (level_test(np.full(WINDOWS, 7.3), AT), share_test(np.zeros(WINDOWS), np.full(WINDOWS, 20.0), AT)):
        change = change_of(test)
        assert (change.estimate, change.ci, change.ci90, change.p) == (0.0, (0.0, 0.0), (0.0, 0.0), 1.0)


def test_a_line_without_noise_is_a_sure_change_of_its_own_size() -> None:
    change = change_of(level_test(10 + 3 * AT / (WINDOWS - 1), AT))
    assert change.estimate == pytest.approx(3.0)
    assert change.ci == pytest.approx((3.0, 3.0))
    assert (change.p, change.start, change.end) == pytest.approx((0.0, 10.0, 13.0))


def test_a_single_stall_hardly_moves_a_plain_series() -> None:
    values = 10 + 0.1 * generator(4, "stall").normal(size=WINDOWS)
    stalled = values.copy()
    stalled[-1] += 1000
    assert change_of(level_test(stalled, AT)).estimate == pytest.approx(
        change_of(level_test(values, AT)).estimate, abs=0.05
    )


def test_a_share_that_grows_by_two_points_changes_by_about_as_much() -> None:
    rng = generator(5, "share")
    totals = rng.poisson(2000, WINDOWS).astype(np.float64)
    hits = rng.binomial(totals.astype(int), 0.02 + 0.02 * (AT / (WINDOWS - 1) - 0.5)).astype(np.float64)
    change = change_of(share_test(hits, totals, AT))
    assert change.estimate == pytest.approx(0.02, abs=0.004)
    assert change.ci[0] < 0.02 < change.ci[1]
    assert change.level == hits.sum() / totals.sum()


def test_windows_without_values_have_no_weight() -> None:
    values, window = latencies(6, drift=0.2)
    inside = (window < 40) | (window >= 50)
    with_gap = PercentileTest(counts_of(values[inside], window[inside]), AT, 50.0)
    present = np.ones(WINDOWS, dtype=np.bool_)
    present[40:50] = False
    without = PercentileTest(counts_of(values[inside], window[inside]).of_windows(present), AT[present], 50.0)
    assert with_gap.t(0.0) == pytest.approx(without.t(0.0))
    assert change_of(with_gap).estimate == pytest.approx(change_of(without).estimate, abs=1e-3)


def test_t_is_infinite_where_nothing_wanders_and_zero_where_nothing_moves_either() -> None:
    components = np.zeros(NOISE_COMPONENTS + 2)
    assert t_of(components) == 0
    components[1] = -2
    assert t_of(components) == -np.inf


def test_slow_first_minutes_are_warm_up_and_a_night_that_goes_on_slowing_has_none() -> None:
    noise = 0.05 * generator(7, "warm").normal(size=WINDOWS)
    assert 15 <= warm_up_of(1 + noise + np.exp(-AT / 8)) <= 40
    assert warm_up_of(1 + noise) == 0
    assert warm_up_of(1 + noise + AT / WINDOWS) == 0
    assert warm_up_of(1 + noise - 0.9 * AT / WINDOWS) == 0
    assert warm_up_of(1 + noise + 0.5 * (AT >= 40)) == 0  # slower from then on
    assert warm_up_of(np.array([])) == 0


def test_a_step_and_its_place_are_told_from_a_line() -> None:
    noise = 0.2 * generator(8, "step").normal(size=WINDOWS)
    step = noise + (AT >= 70)
    assert abs(best_split(step) - 70) <= 2
    assert step_gain(step, best_split(step)) > 2
    line = noise + 2 * AT / WINDOWS
    assert step_gain(line, best_split(line)) < 0


def test_values_that_resemble_each_other_are_joined() -> None:
    rng = generator(9, "blocks")
    assert blocks_of(rng.normal(size=WINDOWS))[1] <= 2
    slow = np.repeat(rng.normal(size=WINDOWS // 5), 5)
    blocks, size = blocks_of(slow)
    assert 4 <= size <= WINDOWS // 16
    assert blocks.size == WINDOWS // size


def test_floors_are_the_lowest_of_neighbors() -> None:
    values, at = floors_of(np.array([3.0, 1, 2, 5, 4, 6, 0]), np.arange(7.0), 3)
    assert values.tolist() == [1, 4]
    assert at.tolist() == [1, 4]


def test_theil_and_sen_take_the_median_slope_of_pairs_that_differ_in_time() -> None:
    assert theil_sen(np.array([0.0, 9.0, 1.0, 2.0]), np.array([0.0, 0.0, 1.0, 2.0])) == pytest.approx(1.0)


def test_bucket_counts_are_chosen_and_joined_by_window() -> None:
    counts = BucketCounts(4, np.array([0, 0, 1, 3]), np.array([5, 9, 5, 2]), np.array([1, 2, 3, 4]))
    assert counts.totals.tolist() == [3, 3, 0, 4]
    chosen = counts.of_windows(np.array([False, True, True, True]))
    assert (chosen.window_count, chosen.window.tolist(), chosen.bucket.tolist()) == (3, [0, 2], [5, 2])
    joined = counts.in_groups(2)
    assert (joined.window_count, joined.window.tolist()) == (2, [0, 0, 1])
    assert (joined.bucket.tolist(), joined.count.tolist()) == ([5, 9, 2], [4, 2, 4])


def test_a_change_beyond_all_that_are_tried_has_the_largest_as_its_estimate() -> None:
    values = np.repeat((1e6 * np.exp(np.linspace(0, 12, WINDOWS))).astype(np.int64), 20)
    test = PercentileTest(counts_of(values, np.repeat(np.arange(WINDOWS), 20)), AT, 50.0)
    assert change_of(test).estimate == pytest.approx(MOST_CHANGE)
