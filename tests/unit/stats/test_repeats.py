"""Percentiles over repeated runs: what is shown, what is withheld, and how often the interval holds."""

import math

import numpy as np
import pytest
from scipy.special import stdtrit

from loadgen.plan.rng import generator
from loadgen.stats.quantile import Floor
from loadgen.stats.repeats import Repeated, estimate_repeated

RUNS = np.repeat(np.arange(3), 40)


def held(found: Repeated, truth: float) -> bool:
    return found.low is not None and found.high is not None and found.low <= truth <= found.high


@pytest.mark.slow
@pytest.mark.parametrize(("runs", "p", "n"), [(2, 50, 20), (3, 90, 36), (5, 95, 72), (10, 90, 36)])
def test_the_interval_holds_the_percentile_of_a_typical_run(runs: int, p: float, n: int) -> None:
    rng, trials = generator(1, "repeats", runs), 1_200
    ids = np.repeat(np.arange(runs), n)
    truth = -math.log1p(-p / 100)
    count = 0
    for _ in range(trials):
        levels = np.exp(0.2 * rng.normal(size=runs))
        count += held(estimate_repeated(rng.exponential(size=ids.size) * levels[ids], ids, [p])[0], truth)
    assert 0.93 <= count / trials <= 0.97


def test_runs_that_differ_are_not_taken_for_more_requests() -> None:
    spread = np.tile(np.linspace(0.9, 1.1, 40), 3)
    (alike,) = estimate_repeated(spread, RUNS, [50])
    (apart,) = estimate_repeated(spread * np.array([1.0, 2.0, 4.0])[RUNS], RUNS, [50])
    assert alike.low == alike.high == pytest.approx(1)
    # Logarithms 0, ln 2 and 2 ln 2: a standard deviation of ln 2 around ln 2.
    reach = float(stdtrit(2, 0.975)) * math.log(2) / math.sqrt(3)
    assert apart.value == pytest.approx(2)
    assert apart.low == pytest.approx(2 * math.exp(-reach))
    assert apart.high == pytest.approx(2 * math.exp(reach))
    assert apart.runs == pytest.approx((spread[19], 2 * spread[19], 4 * spread[19]))


def test_the_runs_percentiles_and_the_pooled_one_are_nearest_ranks() -> None:
    (found,) = estimate_repeated(np.arange(120), RUNS, [50])
    assert (found.runs, found.pooled) == ((19, 59, 99), 59)


def test_a_run_that_does_not_show_the_percentile_leaves_a_bound() -> None:
    values = generator(2, "few").exponential(size=120)
    (p90, p95), (few,) = estimate_repeated(values, RUNS, [90, 95]), estimate_repeated(values[6:], RUNS[6:], [90])
    assert p90.value is not None
    for withheld in (p95, few):
        assert (withheld.value, withheld.high) == (None, None)
        assert withheld.low is not None
        assert withheld.low < max(withheld.runs)


@pytest.mark.parametrize(("floor", "shown"), [("contract", True), ("strict", False)])
def test_the_floor_is_that_of_each_run(floor: Floor, shown: bool) -> None:
    (found,) = estimate_repeated(generator(3, "floor").exponential(size=120), RUNS, [90], floor=floor)
    assert (found.value is not None) == shown


def test_gaps_show_a_percentile_when_the_requests_of_every_run_do() -> None:
    values = generator(4, "gaps").exponential(size=3 * 40 * 50)
    requests = np.arange(values.size) // 50
    runs = requests // 40
    (enough,) = estimate_repeated(values, runs, [90], request_ids=requests)
    (few,) = estimate_repeated(values, runs, [90], request_ids=requests // 20)
    assert enough.value is not None
    assert few.value is None


def test_values_that_are_not_above_zero_are_taken_as_they_are() -> None:
    (found,) = estimate_repeated(np.repeat([-1.0, 0.0, 1.0], 40), RUNS, [50])
    reach = float(stdtrit(2, 0.975)) / math.sqrt(3)
    assert found.value == pytest.approx(0, abs=1e-12)
    assert found.low == pytest.approx(-reach)
    assert found.high == pytest.approx(reach)


def test_one_run_has_no_repeats_and_lengths_must_agree() -> None:
    with pytest.raises(ValueError, match="two runs"):
        estimate_repeated(np.arange(9), np.zeros(9, dtype=np.int64), [50])
    with pytest.raises(ValueError, match="9 values but 8"):
        estimate_repeated(np.arange(9), np.zeros(8, dtype=np.int64), [50])
