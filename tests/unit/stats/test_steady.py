"""Where a series has warmed up, and whether it ever settles: alarms, false and true, on made series."""

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from loadgen.plan.rng import generator
from loadgen.stats.steady import MIN_VALUES, Steady, trend, warm_until

Rng = np.random.Generator
Floats = NDArray[np.float64]


def autocorrelated(rng: Rng, n: int, phi: float, spread: float = 0.5) -> Floats:
    from scipy.signal import lfilter  # here, as it takes a second to import and every test file is imported

    noise = lfilter([np.sqrt(1 - phi * phi)], [1, -phi], rng.normal(size=n + 100))[100:]
    series: Floats = np.exp(spread * noise)
    return series


def overloaded(rng: Rng, n: int, load: float) -> Floats:
    """Waits at a server that is asked `load` times what it can do (Lindley), and a little service."""
    steps = np.exp(0.3 * rng.normal(size=n)) - rng.exponential(1 / load, size=n)
    walk = np.cumsum(steps)
    waits: Floats = 0.2 + walk - np.minimum(np.minimum.accumulate(walk), 0)
    return waits


def share_not_steady(name: str, trials: int, make: Callable[[Rng], Floats]) -> float:
    rng = generator(1, "steady", name)
    return sum(warm_until(make(rng)).steady is False for _ in range(trials)) / trials


@pytest.mark.slow
@pytest.mark.parametrize("phi", [0.0, 0.5, 0.8])
@pytest.mark.parametrize("n", [30, 100, 300, 1_000])
def test_a_stationary_series_is_called_unsteady_two_percent_of_the_time_or_less(phi: float, n: int) -> None:
    # 2 % of 500, and three standard errors for chance: a rate of 5 % would fail 19 times in 20.
    assert share_not_steady(f"{phi} {n}", 500, lambda rng: autocorrelated(rng, n, phi)) <= 0.02 + 3 * 0.0063


@pytest.mark.slow
@pytest.mark.parametrize("n", [60, 300])
def test_rare_long_stalls_are_no_trend_and_no_warm_up(n: int) -> None:
    rng = generator(2, "heavy")
    found = [warm_until(1 + rng.pareto(1.5, size=n)) for _ in range(300)]
    assert sum(one.steady is False for one in found) <= 9
    assert np.mean([one.share for one in found]) < 0.15


@pytest.mark.slow
@pytest.mark.parametrize(("load", "n", "least"), [(1.3, 100, 0.5), (1.3, 300, 0.9), (2.0, 60, 0.85), (2.0, 300, 0.99)])
def test_an_overloaded_queue_is_not_steady(load: float, n: int, least: float) -> None:
    assert share_not_steady(f"queue {load} {n}", 200, lambda rng: overloaded(rng, n, load)) >= least


def test_a_ramp_is_a_drift_that_does_not_settle_and_its_growth_is_told() -> None:
    n = 300
    ramp = (1 + 3 * np.arange(n) / n) * autocorrelated(generator(3, "ramp"), n, 0.3, 0.2)
    found = warm_until(ramp)
    assert found.steady is False
    assert found.why in {"drift", "never_settles"}
    assert found.growth is not None
    assert found.growth > 0.2


@pytest.mark.slow
@pytest.mark.parametrize(("last", "n"), [(4.0, 40), (4.0, 60), (4.0, 100), (0.25, 60), (2.0, 100)])
def test_a_series_that_grows_or_falls_all_the_time_is_hardly_ever_called_steady(last: float, n: int) -> None:
    rng = generator(7, "grows", str(last), n)
    ramps = [np.linspace(1, last, n) * autocorrelated(rng, n, 0.0, 0.3) for _ in range(200)]
    called = [warm_until(ramp).steady for ramp in ramps]
    assert sum(steady is True for steady in called) <= (12 if last > 2 or last < 1 else 40)


@pytest.mark.slow
def test_a_trend_of_which_too_few_values_tell_whether_it_ended_is_not_called_steady() -> None:
    rng = generator(8, "hidden")
    called = [warm_until(np.linspace(1, 4, 40) * autocorrelated(rng, 40, 0.0, 0.3)) for _ in range(100)]
    hidden = [steady for steady in called if steady.steady is None]
    assert len(hidden) >= 20
    assert {steady.why for steady in hidden} == {"too_few"}


def test_a_jump_after_the_middle_never_settles() -> None:
    n = 200
    found = warm_until((1 + (np.arange(n) > 140)) * autocorrelated(generator(4, "jump"), n, 0.3, 0.2))
    assert (found.steady, found.why) == (False, "never_settles")


@pytest.mark.slow
@pytest.mark.parametrize("n", [60, 100, 300])
def test_a_slow_front_is_cut_off_and_the_rest_is_steady(n: int) -> None:
    rng, front = generator(5, "front", n), n * 15 // 100
    found = [warm_until(np.where(np.arange(n) < front, 5, 1) * autocorrelated(rng, n, 0.3, 0.3)) for _ in range(200)]
    assert sum(one.steady is True for one in found) >= 186
    assert sum(one.truncated >= front - 4 for one in found) >= 190
    assert np.median([one.truncated for one in found]) <= front + 0.1 * n


def test_the_series_is_put_in_order() -> None:
    n = 200
    rng = generator(6, "order")
    ramp, shuffled = np.arange(n, dtype=np.float64), rng.permutation(n)
    assert warm_until(ramp[shuffled], shuffled) == warm_until(ramp)
    assert warm_until(ramp).steady is False
    assert warm_until(ramp[shuffled]).steady is True


def test_too_few_values_say_nothing() -> None:
    few = warm_until(np.arange(MIN_VALUES - 1, dtype=np.float64))
    assert few == Steady(None, "too_few", 0, 0.0, None)
    assert warm_until(np.arange(MIN_VALUES, dtype=np.float64)).steady is False
    assert warm_until(np.empty(0)).steady is None


def test_equal_values_are_steady() -> None:
    assert warm_until(np.full(100, 7)) == Steady(True, "steady", 0, 0.0, 0.0)
    assert trend(np.full(100, 7)).t == 0


def test_a_trend_too_small_to_matter_is_none() -> None:
    n = 5_000
    noise = autocorrelated(generator(7, "small"), n, 0.0, 0.02)
    for rise, steady in ((0.03, True), (0.3, False)):
        assert warm_until((1 + rise * np.arange(n) / n) * noise).steady is steady


def test_a_falling_series_is_a_drift_too() -> None:
    n = 300
    found = warm_until((4 - 3 * np.arange(n) / n) * autocorrelated(generator(8, "fall"), n, 0.3, 0.2))
    assert found.steady is False
    assert found.growth is not None
    assert found.growth < 0


def test_autocorrelation_takes_certainty_from_a_trend() -> None:
    noise = autocorrelated(generator(9, "phi"), 400, 0.9)
    assert trend(noise).effective < 60
    shuffled = generator(10, "shuffle").permutation(noise)
    assert trend(shuffled).effective > 250


def test_what_detrending_takes_from_the_autocorrelation_is_given_back() -> None:
    # 40 values at 0.8 are worth 4.4; from the residuals as they are they would seem worth 9.
    rng = generator(11, "bias")
    assert np.median([trend(autocorrelated(rng, 40, 0.8)).effective for _ in range(300)]) < 8


def test_lengths_must_agree() -> None:
    with pytest.raises(ValueError, match="2 values but 3"):
        warm_until(np.ones(2), np.ones(3))
