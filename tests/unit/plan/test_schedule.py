"""Arrival processes: exact arithmetic, the right distributions, and the same array for the same seed."""

import math
from fractions import Fraction
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loadgen.errors import InputError
from loadgen.plan.arrivals import (
    DEFAULT_REQUESTS,
    LONGEST_NS,
    Offsets,
    arrivals_ns,
    constant_ns,
    default_ramp_in_s,
    gamma_ns,
    poisson_ns,
    ramp_in_ns,
    ramp_ns,
    shard,
    think_times_ns,
    trace_ns,
)
from loadgen.plan.rng import generator
from loadgen.scenario import Closed, Constant, Gamma, Poisson, RatedLoad, ThinkTime

# The same examples every time: a statistical line that holds today holds tomorrow.
law = settings(derandomize=True, deadline=None, max_examples=60)
statistical_law = settings(derandomize=True, deadline=None, max_examples=25)

MANY = 20_000
seeds = st.integers(0, 2**63)
rates = st.floats(0.01, 5_000)
Mode = Literal["constant", "poisson", "gamma"]
modes = st.sampled_from(["constant", "poisson", "gamma"])


def rated(mode: Mode, requests: int | None = None, duration_s: float | None = None) -> RatedLoad:
    match mode:
        case "constant":
            return Constant((1.0,), requests=requests, duration_s=duration_s)
        case "poisson":
            return Poisson((1.0,), requests=requests, duration_s=duration_s)
        case "gamma":
            return Gamma((1.0,), burstiness=0.5, requests=requests, duration_s=duration_s)


def gaps_cv(offsets: Offsets) -> float:
    gaps = np.diff(offsets)
    return float(gaps.std() / gaps.mean())


def phase(offsets: Offsets, rate_per_s: float) -> npt.NDArray[np.float64]:
    phases: npt.NDArray[np.float64] = np.mod(offsets * (rate_per_s / 1e9), 1.0)
    return phases


def is_a_schedule(offsets: Offsets) -> bool:
    return offsets.dtype == np.int64 and bool(np.all(offsets >= 0)) and bool(np.all(np.diff(offsets) >= 0))


# Constant


@pytest.mark.parametrize(
    ("rate_per_s", "index", "due_ns"),
    [
        (1, 0, 0),
        (1, 1, 1_000_000_000),
        (1, 3_600, 3_600_000_000_000),
        (0.5, 1, 2_000_000_000),
        (0.1, 100_000, 1_000_000_000_000_000),
        (3, 1, 333_333_333),
        (3, 2, 666_666_667),
        (3, 3, 1_000_000_000),
        (7, 9_999, 1_428_428_571_429),
        (60, 1, 16_666_667),
        (1_000, 999, 999_000_000),
        (1e9, 5, 5),
        (4e8, 1, 3),
        (2e9, 4, 2),
    ],
)
def test_request_i_at_a_constant_rate_is_due_at_i_over_the_rate(rate_per_s: float, index: int, due_ns: int) -> None:
    assert constant_ns(rate_per_s, index + 1)[index] == due_ns


@pytest.mark.slow
@pytest.mark.parametrize("rate_per_s", [3.0, 2.718281828459045])
def test_a_constant_schedule_has_lost_no_ns_after_ten_million_requests(rate_per_s: float) -> None:
    index = 10_000_000
    offsets = constant_ns(rate_per_s, index + 1)
    for i in (index, index - 1, index - 2, index // 3):
        assert abs(int(offsets[i]) - i * 10**9 / Fraction(str(rate_per_s))) <= Fraction(1, 2) + Fraction(1, 10**7)


@pytest.mark.slow
@law
@given(rates, st.integers(0, 3_000))
def test_a_constant_schedule_is_the_exact_fraction_rounded(rate_per_s: float, count: int) -> None:
    offsets = constant_ns(rate_per_s, count)
    assert is_a_schedule(offsets)
    assert offsets.size == count
    period = 10**9 / Fraction(str(rate_per_s))
    assert all(abs(int(offset) - i * period) <= Fraction(1, 2) + Fraction(1, 10**7) for i, offset in enumerate(offsets))


@law
@given(st.floats(0.1, 1_000))
def test_constant_gaps_do_not_vary_and_keep_their_phase(rate_per_s: float) -> None:
    offsets = constant_ns(rate_per_s, 2_000)
    assert gaps_cv(offsets) < 1e-6
    phases = phase(offsets, rate_per_s)
    assert np.max(np.minimum(phases, 1 - phases)) < 1e-6


# Poisson and gamma


@statistical_law
@given(seeds, rates)
def test_poisson_arrivals_come_at_their_rate_with_gaps_as_wide_as_they_vary(seed: int, rate_per_s: float) -> None:
    offsets = poisson_ns(rate_per_s, MANY, generator(seed, "test"))
    assert is_a_schedule(offsets)
    assert offsets[0] > 0
    assert offsets[-1] * rate_per_s / 1e9 / MANY == pytest.approx(1, abs=5 / math.sqrt(MANY))
    assert gaps_cv(offsets) == pytest.approx(1, abs=5 / math.sqrt(MANY))


@statistical_law
@given(seeds, rates, st.floats(0.2, 20))
def test_gamma_arrivals_come_at_their_rate_with_gaps_that_vary_by_one_over_root_burstiness(
    seed: int, rate_per_s: float, burstiness: float
) -> None:
    offsets = gamma_ns(rate_per_s, burstiness, MANY, generator(seed, "test"))
    cv = 1 / math.sqrt(burstiness)
    assert is_a_schedule(offsets)
    assert offsets[-1] * rate_per_s / 1e9 / MANY == pytest.approx(1, abs=5 * cv / math.sqrt(MANY))
    # The sample CV's standard error, by the delta method with the gamma distribution's skewness and kurtosis.
    cv_error = cv * math.sqrt((1 + 1 / burstiness) / 2 / MANY)
    assert gaps_cv(offsets) == pytest.approx(cv, abs=5 * cv_error)


def p_value(values: Any, distribution: str) -> float:
    """Of the Kolmogorov-Smirnov test. scipy.stats takes a second to import, for the few tests that use it."""
    from scipy.stats import kstest

    return float(kstest(values, distribution).pvalue)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_poisson_arrivals_have_uniform_phase_and_exponential_gaps(seed: int) -> None:
    offsets = poisson_ns(40.0, MANY, generator(seed, "test"))
    assert p_value(phase(offsets, 40.0), "uniform") > 0.01
    assert p_value(np.diff(offsets) * 40.0 / 1e9, "expon") > 0.01


@pytest.mark.slow
def test_gamma_with_burstiness_one_has_exponential_gaps_and_with_two_has_not() -> None:
    gaps = [np.diff(gamma_ns(40.0, shape, MANY, generator(1, "test"))) * 40.0 / 1e9 for shape in (1.0, 2.0)]
    assert p_value(gaps[0], "expon") > 0.01
    assert p_value(gaps[1], "expon") < 1e-6


def test_poisson_gaps_are_independent_of_the_gap_before() -> None:
    gaps = np.diff(poisson_ns(40.0, MANY, generator(1, "test")))
    assert abs(np.corrcoef(gaps[:-1], gaps[1:])[0, 1]) < 4 / math.sqrt(MANY)


@pytest.mark.parametrize("rate_per_s", [5e-324, 1e-300, 1e-12])
@pytest.mark.parametrize("burstiness", [1e-300, 1e-6, 1.0])
def test_what_would_come_due_after_a_year_stands_at_a_year(rate_per_s: float, burstiness: float) -> None:
    for offsets in (
        constant_ns(rate_per_s, 1_000),
        poisson_ns(rate_per_s, 1_000, generator(1, "test")),
        gamma_ns(rate_per_s, burstiness, 1_000, generator(1, "test")),
    ):
        assert is_a_schedule(offsets)
        assert offsets[-1] <= LONGEST_NS


def test_a_sum_past_int64_stands_at_a_year() -> None:
    # 200,000 gaps of a tenth of a year: the bare sum would wrap more than 60 times.
    offsets = poisson_ns(10e9 / LONGEST_NS, 200_000, generator(1, "test"))
    assert is_a_schedule(offsets)
    assert offsets[-1] == LONGEST_NS


# One stage of an open loop


@pytest.mark.parametrize(
    ("rate_per_s", "requests", "duration_s", "count"),
    [
        (1.0, 5, None, 5),
        (1.0, None, 5.0, 5),
        (1.0, None, 5.000000001, 6),
        (1.0, None, 4.999999999, 5),
        (3.0, None, 1.0, 3),
        (3.0, None, 0.666666667, 2),
        (3.0, None, 0.666666668, 3),
        (0.1, None, 30.0, 3),
        (0.3, None, 10.0, 3),
        (10.0, 7, 1.0, 7),
        (10.0, 70, 1.0, 10),
        (0.001, None, 1.0, 1),
        (1.0, None, 1e-12, 1),
        (1.0, None, None, DEFAULT_REQUESTS),
    ],
)
def test_a_constant_stage_holds_what_is_due_before_its_end(
    rate_per_s: float, requests: int | None, duration_s: float | None, count: int
) -> None:
    assert arrivals_ns(rated("constant", requests, duration_s), rate_per_s, 1).size == count


@law
@given(modes, seeds, rates, st.integers(1, 10_000))
def test_requests_is_an_exact_count(mode: Mode, seed: int, rate_per_s: float, requests: int) -> None:
    offsets = arrivals_ns(rated(mode, requests=requests), rate_per_s, seed)
    assert offsets.size == requests
    assert is_a_schedule(offsets)


@law
@given(modes, seeds, st.floats(0.01, 500), st.floats(0.001, 40), st.floats(0.001, 40))
def test_a_longer_duration_only_appends(
    mode: Mode, seed: int, rate_per_s: float, first_s: float, second_s: float
) -> None:
    shorter_s, longer_s = sorted((first_s, second_s))
    shorter = arrivals_ns(rated(mode, duration_s=shorter_s), rate_per_s, seed)
    longer = arrivals_ns(rated(mode, duration_s=longer_s), rate_per_s, seed)
    assert is_a_schedule(longer)
    assert np.array_equal(shorter, longer[: shorter.size])
    assert np.all(shorter < shorter_s * 1e9 + 1e-6)
    assert np.all(longer[shorter.size :] >= math.floor(shorter_s * 1e9))


@law
@given(modes, seeds, st.floats(0.1, 500), st.integers(1, 6_000), st.floats(0.001, 40))
def test_with_both_the_stage_ends_with_what_comes_first(
    mode: Mode, seed: int, rate_per_s: float, requests: int, duration_s: float
) -> None:
    counted = arrivals_ns(rated(mode, requests=requests), rate_per_s, seed)
    timed = arrivals_ns(rated(mode, duration_s=duration_s), rate_per_s, seed)
    both = arrivals_ns(rated(mode, requests, duration_s), rate_per_s, seed)
    assert np.array_equal(both, min(counted, timed, key=len))


@statistical_law
@given(seeds, st.floats(50, 500))
def test_a_random_stage_of_a_duration_holds_the_requests_it_should_to_its_end(seed: int, rate_per_s: float) -> None:
    expected = rate_per_s * 40
    count = arrivals_ns(rated("poisson", duration_s=40.0), rate_per_s, seed).size
    assert count == pytest.approx(expected, abs=5 * math.sqrt(expected))


def test_a_seed_gives_one_schedule_and_another_seed_mode_or_rate_gives_another() -> None:
    def in_periods(mode: Mode, rate_per_s: float, seed: int) -> list[float]:
        offsets = arrivals_ns(rated(mode, requests=50), rate_per_s, seed)
        return [round(float(offset), 6) for offset in offsets * rate_per_s / 1e9]

    base = in_periods("poisson", 4.0, 1)
    assert in_periods("poisson", 4.0, 1) == base
    assert in_periods("poisson", 4, 1) == base
    assert in_periods("poisson", 4.0, 2) != base
    assert in_periods("poisson", 8.0, 1) != base
    assert in_periods("gamma", 4.0, 1) != base


def test_a_schedule_is_what_it_was_when_the_first_plan_was_made() -> None:
    # If this fails, every plan's digest has changed: say so under "Measurement" in the changelog.
    assert arrivals_ns(rated("constant", requests=4), 3.0, 1).tolist() == [0, 333333333, 666666667, 1000000000]
    assert arrivals_ns(rated("poisson", requests=4), 4.0, 1).tolist() == [428967137, 497556016, 629099081, 763406256]
    assert arrivals_ns(rated("gamma", requests=4), 4.0, 1).tolist() == [137978681, 1078282962, 1568298476, 1922959621]
    assert ramp_ns(2, 6, 1.0, "poisson", generator(1, "golden")).tolist() == [
        209762144,
        372594766,
        573781230,
        727407203,
        816573634,
        892104694,
        958874600,
        988714055,
    ]
    assert think_times_ns(ThinkTime(2.0, "exponential"), 3, generator(1, "golden")).tolist() == [
        1015049202,
        1030637301,
        1566338014,
    ]


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["constant", "poisson"])
def test_a_stage_too_large_for_a_plan_is_refused(mode: Mode) -> None:
    for load in (rated(mode, requests=10**12), rated(mode, duration_s=3600.0)):
        with pytest.raises(InputError, match="more than 10,000,000 requests; lower"):
            arrivals_ns(load, 1e6, 1)


@pytest.mark.parametrize("mode", ["constant", "poisson", "gamma"])
def test_a_stage_of_more_than_a_year_is_refused_with_the_key_that_made_it_so(mode: Mode) -> None:
    with pytest.raises(InputError, match=r"^load\.rates_per_s: at 1e-07 .* more than a year; raise the rate"):
        arrivals_ns(rated(mode, requests=1000), 1e-7, 1)
    with pytest.raises(InputError, match=r"^load\.duration_s: 4e\+07 s is more than a year; lower it"):
        arrivals_ns(rated(mode, duration_s=4e7), 1.0, 1)


# Ramp

ends = st.sampled_from([0.0, 0.001, 1.0, 50.0]) | st.floats(0, 60)


def expected_by(t_s: float, from_per_s: float, to_per_s: float, duration_s: float) -> float:
    return from_per_s * t_s + (to_per_s - from_per_s) * t_s**2 / (2 * duration_s)


@law
@given(ends, ends, st.floats(0.1, 60), st.floats(0, 1), st.floats(0, 1))
def test_an_even_ramp_holds_between_any_two_times_the_integral_of_its_rate(
    from_per_s: float, to_per_s: float, duration_s: float, first: float, second: float
) -> None:
    offsets = ramp_ns(from_per_s, to_per_s, duration_s, "constant", generator(1, "test"))
    assert is_a_schedule(offsets)
    t1, t2 = (share * duration_s for share in sorted((first, second)))
    count = np.searchsorted(offsets, t2 * 1e9) - np.searchsorted(offsets, t1 * 1e9)
    ramp = (from_per_s, to_per_s, duration_s)
    assert abs(count - (expected_by(t2, *ramp) - expected_by(t1, *ramp))) <= 1 + 1e-3


@statistical_law
@given(seeds, ends, ends, st.floats(100, 300), st.floats(0, 1), st.floats(0, 1))
def test_a_poisson_ramp_holds_between_any_two_times_about_the_integral_of_its_rate(
    seed: int, from_per_s: float, to_per_s: float, duration_s: float, first: float, second: float
) -> None:
    offsets = ramp_ns(from_per_s, to_per_s, duration_s, "poisson", generator(seed, "test"))
    assert is_a_schedule(offsets)
    t1, t2 = (share * duration_s for share in sorted((first, second)))
    count = np.searchsorted(offsets, t2 * 1e9) - np.searchsorted(offsets, t1 * 1e9)
    ramp = (from_per_s, to_per_s, duration_s)
    expected = expected_by(t2, *ramp) - expected_by(t1, *ramp)
    assert abs(count - expected) <= 5 * math.sqrt(expected) + 5


@pytest.mark.parametrize(("from_per_s", "to_per_s"), [(0.0, 100.0), (100.0, 0.0), (100.0, 100.0), (20.0, 80.0)])
def test_a_poisson_ramp_is_uniform_in_expected_count(from_per_s: float, to_per_s: float) -> None:
    offsets = ramp_ns(from_per_s, to_per_s, 200.0, "poisson", generator(1, "test"))
    total = expected_by(200.0, from_per_s, to_per_s, 200.0)
    counts = [expected_by(offset / 1e9, from_per_s, to_per_s, 200.0) / total for offset in offsets]
    assert p_value(counts, "uniform") > 0.01


@law
@given(st.floats(0.1, 100), st.floats(0.1, 60))
def test_a_ramp_between_equal_rates_is_the_constant_schedule(rate_per_s: float, duration_s: float) -> None:
    ramp = ramp_ns(rate_per_s, rate_per_s, duration_s, "constant", generator(1, "test"))
    constant = arrivals_ns(rated("constant", duration_s=duration_s), rate_per_s, 1)
    assert abs(ramp.size - constant.size) <= 1
    shared = min(ramp.size, constant.size)
    assert np.max(np.abs(ramp[:shared] - constant[:shared])) <= 1


@pytest.mark.parametrize(
    ("from_per_s", "to_per_s", "due_ns"),
    [
        (0.0, 4.0, [0, 1_000_000_000, 1_414_213_562, 1_732_050_808]),
        (4.0, 0.0, [0, 267_949_192, 585_786_438, 1_000_000_000]),
        (2.0, 2.0, [0, 500_000_000, 1_000_000_000, 1_500_000_000]),
        (1.0, 3.0, [0, 732_050_808, 1_236_067_977, 1_645_751_311]),
    ],
)
def test_arrival_k_of_an_even_ramp_is_due_when_k_are_expected(
    from_per_s: float, to_per_s: float, due_ns: list[int]
) -> None:
    assert ramp_ns(from_per_s, to_per_s, 2.0, "constant", generator(1, "test")).tolist() == due_ns


@pytest.mark.parametrize("arrivals", ["constant", "poisson"])
def test_a_ramp_between_nearly_equal_rates_is_as_sound_as_between_equal_ones(
    arrivals: Literal["constant", "poisson"],
) -> None:
    equal = ramp_ns(30.0, 30.0, 100.0, arrivals, generator(1, "test"))
    nearly = ramp_ns(30.0, 30.0 * (1 + 1e-15), 100.0, arrivals, generator(1, "test"))
    assert np.max(np.abs(equal - nearly[: equal.size])) <= 1


@pytest.mark.parametrize("arrivals", ["constant", "poisson"])
def test_a_ramp_that_stays_at_zero_has_no_arrivals_and_one_too_large_is_refused(
    arrivals: Literal["constant", "poisson"],
) -> None:
    assert ramp_ns(0.0, 0.0, 10.0, arrivals, generator(1, "test")).size == 0
    with pytest.raises(InputError, match="more than 10,000,000 requests"):
        ramp_ns(0.0, 1e6, 60.0, arrivals, generator(1, "test"))
    with pytest.raises(InputError, match=r"^load\.duration_s: .* more than a year"):
        ramp_ns(0.0, 1.0, 1e9, arrivals, generator(1, "test"))


def test_a_ramp_from_the_least_rate_there_is_is_a_ramp_from_zero() -> None:
    rng = generator(1, "test")
    assert np.array_equal(ramp_ns(5e-324, 60.0, 1.0, "constant", rng), ramp_ns(0.0, 60.0, 1.0, "constant", rng))
    assert ramp_ns(5e-324, 5e-324, 0.1, "constant", rng).size == 0


def test_an_arrival_that_rounds_to_the_end_of_a_ramp_is_not_before_it() -> None:
    barely_more_than_one = 1 + 2**-52
    assert ramp_ns(barely_more_than_one, barely_more_than_one, 1.0, "constant", generator(1, "test")).tolist() == [0]


# Trace


def test_a_trace_is_read_line_by_line_past_blanks_and_comments() -> None:
    text = "# seconds\r\n\r\n0\r\n 0.25 \r\n  # a pause\n1.5e0\n1.5\n\n3600.000000001\n"
    expected = [0, 250_000_000, 1_500_000_000, 1_500_000_000, 3_600_000_000_001]
    assert trace_ns(text, "trace.txt").tolist() == expected


def test_a_trace_plays_at_its_speed_and_no_further_than_its_limit() -> None:
    text = "1\n2\n3\nnot read\n"
    assert trace_ns(text, "trace.txt", speed=2.0, limit=3).tolist() == [500_000_000, 1_000_000_000, 1_500_000_000]
    assert trace_ns("0.3\n", "trace.txt", speed=0.1).tolist() == [3_000_000_000]


@law
@given(st.lists(st.integers(0, 10**15), min_size=1, max_size=50))
def test_a_trace_keeps_every_ns_that_was_written(offsets: list[int]) -> None:
    text = "\n".join(f"{offset // 10**9}.{offset % 10**9:09}" for offset in sorted(offsets))
    assert trace_ns(text, "trace.txt").tolist() == sorted(offsets)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0\n# x\n1,5\n", "t.txt, line 3: '1,5' is not a number; write one offset in seconds, such as 1.25"),
        ("0 1\n", "t.txt, line 1: '0 1' is not a number; write one offset in seconds, such as 1.25"),
        ("nan\n", "t.txt, line 1: nan is not finite; write an offset in seconds, such as 1.25"),
        ("0\ninf\n", "t.txt, line 2: inf is not finite; write an offset in seconds, such as 1.25"),
        ("-1\n", "t.txt, line 1: -1 is negative; count offsets in seconds from the start of the trace, 0 or more"),
        ("0\n2\n\n1.5\n", "t.txt, line 4: 1.5 is less than 2.0 before it; sort the offsets"),
        (
            "1700000000\n",
            "t.txt, line 1: 1700000000 s at speed 1 is more than a year; count offsets from the start of the trace",
        ),
        (
            "# none\n\n",
            "t.txt, line 3: the trace ends without an offset; write at least one, in seconds from the start",
        ),
        ("", "t.txt, line 1: the trace ends without an offset; write at least one, in seconds from the start"),
    ],
)
def test_a_bad_trace_is_refused_with_its_line_and_the_mend(text: str, message: str) -> None:
    with pytest.raises(InputError) as refused:
        trace_ns(text, "t.txt")
    assert str(refused.value) == message


@law
@given(
    st.lists(st.text(max_size=8) | st.floats().map(str) | st.floats(0, 1e5).map(str), max_size=4).map("\n".join),
    st.floats(1e-300, 1e300),
)
def test_any_text_is_a_schedule_or_an_input_error(text: str, speed: float) -> None:
    try:
        offsets = trace_ns(text, "t.txt", speed)
    except InputError as refused:
        assert str(refused).startswith("t.txt, line ")
    else:
        assert is_a_schedule(offsets)
        assert offsets.size > 0


# Closed loop


def test_think_times_are_constant_or_exponential_with_their_mean() -> None:
    constant = think_times_ns(ThinkTime(1.5), 3, generator(1, "test"))
    assert constant.tolist() == [1_500_000_000] * 3
    assert constant.dtype == np.int64
    exponential = think_times_ns(ThinkTime(1.5, "exponential"), MANY, generator(1, "test"))
    assert exponential.dtype == np.int64
    assert exponential.mean() == pytest.approx(1.5e9, rel=4 / math.sqrt(MANY))
    assert p_value(exponential / 1.5e9, "expon") > 0.01
    assert think_times_ns(ThinkTime(0.0, "exponential"), 2, generator(1, "test")).tolist() == [0, 0]


def test_users_come_in_evenly_from_the_start_and_before_the_end() -> None:
    assert ramp_in_ns(4, 1.0).tolist() == [0, 250_000_000, 500_000_000, 750_000_000]
    assert ramp_in_ns(3, 0.1).tolist() == [0, 33_333_333, 66_666_667]
    assert ramp_in_ns(1, 5.0).tolist() == [0]
    assert ramp_in_ns(3, 0.0).tolist() == [0, 0, 0]


@pytest.mark.parametrize(("mean_s", "users", "ramp_in_s"), [(0, 1, 0), (0, 2, 1), (0.5, 8, 1), (4, 8, 4), (4, 1, 0)])
def test_by_default_users_come_in_over_a_second_or_a_longer_think_time_and_one_user_at_once(
    mean_s: float, users: int, ramp_in_s: float
) -> None:
    assert default_ramp_in_s(Closed(think_time=ThinkTime(mean_s)), users) == ramp_in_s


# Shards


@law
@given(st.integers(0, 500), st.integers(1, 12), seeds)
def test_shards_interleave_to_the_whole(count: int, n: int, seed: int) -> None:
    whole = poisson_ns(100.0, count, generator(seed, "test"))
    shards = [shard(whole, k, n) for k in range(n)]
    assert sum(part.size for part in shards) == count
    assert [int(shards[i % n][i // n]) for i in range(count)] == whole.tolist()
    assert all(is_a_schedule(part) for part in shards)


@pytest.mark.parametrize(("k", "n"), [(2, 2), (-1, 2), (0, 0)])
def test_a_shard_outside_its_range_is_refused(k: int, n: int) -> None:
    with pytest.raises(ValueError, match=f"shard {k} of {n}"):
        shard(constant_ns(1.0, 4), k, n)
