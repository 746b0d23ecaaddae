"""Whether a server drifted over a soak, on simulated nights whose truth is known."""

from collections.abc import Callable

import numpy as np
import pytest
from msgspec.structs import replace

from benchmarks.soak_nights import Truth, night_of
from loadgen.analysis.soak_types import DRIFT_METRICS, Drift, DriftMetric, DriftMetricName
from loadgen.decisions.drift.stage_windows import StageWindows
from loadgen.decisions.drift.verdict import drifts_of, verdict_of
from loadgen.store.windows import WindowLine

pytestmark = pytest.mark.slow  # statistics of nights

MATTERS = 0.05
QUIET = Truth("AR(1), 0.6 a minute", failed_share=0.0005)
SLOWER = Truth("AR(1), 0.6 a minute", drift=float(np.log(1.3)), failed_share=0.0005)
LEAKS = Truth("AR(1), 0.6 a minute", memory="a leak of 16 MiB/h beside 5 MiB of noise", failed_share=0.0005)


def simulated(truth: Truth, seed: int = 1) -> StageWindows:
    return night_of(truth, np.random.default_rng(seed))


def with_windows(night: StageWindows, change: Callable[[WindowLine], WindowLine]) -> StageWindows:
    return replace(night, windows=tuple(map(change, night.windows)))


def first_windows(night: StageWindows, number: int) -> StageWindows:
    chosen = np.arange(len(night.windows)) < number
    counts = {name: counts.of_windows(chosen) for name, counts in night.counts.items()}
    return replace(night, windows=night.windows[:number], counts=counts)


def drift_of(night: StageWindows) -> Drift:
    return drifts_of([night], MATTERS)[0]


def test_a_quiet_night_is_stable_and_says_within_how_much() -> None:
    drift = drift_of(simulated(QUIET))
    assert drift.verdict == "stable"
    assert (drift.windows, drift.left_out, drift.warm_up, drift.why, drift.short) == (461, 19, 19, None, False)
    assert tuple(drift.metrics) == DRIFT_METRICS
    for name in ("ttft_p50", "itl_p50", "stream_tokens_per_s", "failed_share", "server_memory"):
        metric = drift.metrics[name]
        assert metric.verdict == "stable"
        assert metric.within is not None
        assert 0 < metric.within < 2 * metric.matters
        assert metric.could_show is None
        assert metric.since_utc is None
    assert drift.since_utc is None


def test_a_night_that_slows_down_by_30_percent_is_degrading_by_about_as_much() -> None:
    drift = drift_of(simulated(SLOWER))
    assert drift.verdict == "degrading"
    for name in ("ttft_p50", "itl_p50"):
        metric = drift.metrics[name]
        assert metric.verdict == "degrading"
        assert metric.change == pytest.approx(0.29, abs=0.05)
        assert metric.start is not None
        assert metric.end is not None
        assert metric.end / metric.start - 1 == pytest.approx(metric.change, abs=0.01)
    assert drift.metrics["ttft_p50"].start == pytest.approx(200 / 1.3**0.5, rel=0.05)
    rate = drift.metrics["stream_tokens_per_s"]
    assert rate.verdict == "degrading"
    assert rate.change == pytest.approx(1 / 1.29 - 1, abs=0.05)
    assert drift.since_utc is None  # all night


def test_a_night_that_gets_faster_is_improving() -> None:
    drift = drift_of(simulated(replace(SLOWER, drift=-SLOWER.drift)))
    assert drift.verdict == "improving"
    assert drift.metrics["stream_tokens_per_s"].change == pytest.approx(0.29, abs=0.05)


def test_a_step_is_dated_and_a_night_that_is_slower_from_early_on_is_no_warm_up() -> None:
    for at in (0.4, 0.6):
        drift = drift_of(simulated(replace(SLOWER, step_at=at)))
        assert drift.verdict == "degrading"
        metric = drift.metrics["itl_p50"]
        assert metric.since_utc is not None
        assert metric.since_between_utc is not None
        minute = round(480 * at)
        assert abs(_minute(metric.since_utc) - minute) <= 3
        assert _minute(metric.since_between_utc[0]) <= minute <= _minute(metric.since_between_utc[1])
        assert drift.since_utc is not None


def _minute(utc: str) -> int:
    return 60 * int(utc[11:13]) + int(utc[14:16])


def test_slow_first_minutes_are_cut_off_as_warm_up() -> None:
    def slow_at_first(window: WindowLine) -> WindowLine:
        return replace(window, ttft_p50_ms=(window.ttft_p50_ms or 0) * (2 if window.window < 60 else 1))

    drift = drift_of(with_windows(simulated(QUIET), slow_at_first))
    assert 55 <= drift.warm_up <= 75
    assert drift.warm_up == drift.left_out


def test_a_leak_is_told_by_the_hour_by_request_and_by_token_and_when_memory_is_full() -> None:
    night = simulated(LEAKS)
    drift = drifts_of([night], MATTERS, machine_bytes=2**31)[0]
    memory = drift.metrics["server_memory"]
    assert (drift.verdict, memory.verdict) == ("degrading", "degrading")
    assert isinstance(memory.mib_per_h, float)
    assert memory.end is not None
    assert memory.mib_per_h == pytest.approx(16, rel=0.2)
    requests_per_h = sum(window.ok for window in night.windows) / 8
    tokens_per_h = sum(window.output_tokens for window in night.windows) / 8
    assert memory.mib_per_request == pytest.approx(memory.mib_per_h / requests_per_h, rel=0.05)
    assert memory.mib_per_1000_tokens == pytest.approx(1000 * memory.mib_per_h / tokens_per_h, rel=0.05)
    assert memory.full_in_h == pytest.approx((2048 - memory.end) / memory.mib_per_h, rel=0.01)
    assert drift_of(night).metrics["server_memory"].full_in_h is None  # the size of the machine is not known


def test_what_loadgen_itself_gave_up_is_no_failure() -> None:
    def cancel_many_later(window: WindowLine) -> WindowLine:
        cancelled = {"cancelled": 5} if window.window > 300 else {}
        return replace(window, by_outcome={**window.by_outcome, **cancelled})

    night = simulated(QUIET)
    before, after = drift_of(night), drift_of(with_windows(night, cancel_many_later))
    assert after.metrics["failed_share"] == before.metrics["failed_share"]


def test_a_leak_by_request_counts_the_requests_of_all_windows_also_of_those_that_are_not_tested() -> None:
    night = simulated(LEAKS)
    memory = drift_of(night).metrics["server_memory"]
    half = with_windows(night, lambda window: replace(window, valid=window.window % 2 == 0))
    of_half = drift_of(half).metrics["server_memory"]
    assert isinstance(memory.mib_per_request, float)
    assert isinstance(memory.mib_per_1000_tokens, float)
    assert of_half.mib_per_request == pytest.approx(memory.mib_per_request, rel=0.1)
    assert of_half.mib_per_1000_tokens == pytest.approx(memory.mib_per_1000_tokens, rel=0.1)


def test_memory_is_that_of_the_longest_life_of_the_server() -> None:
    def restarted(window: WindowLine) -> WindowLine:
        return replace(window, server_life=0 if window.window < 100 else 1, server_memory_bytes=_sizes(window.window))

    def _sizes(number: int) -> int:
        return 2**20 * ((900 if number < 100 else 500) + number * 7 % 5)

    memory = drift_of(with_windows(simulated(QUIET), restarted)).metrics["server_memory"]
    assert (memory.life, memory.verdict) == (1, "stable")
    assert memory.start == pytest.approx(500, abs=5)


def test_memory_that_is_not_known_has_no_row() -> None:
    drift = drift_of(with_windows(simulated(QUIET), lambda window: replace(window, server_memory_bytes=None)))
    assert "server_memory" not in drift.metrics
    assert drift.verdict == "stable"


def without_shares(metrics: dict[DriftMetricName, DriftMetric]) -> dict[DriftMetricName, DriftMetric]:
    memory = replace(metrics["server_memory"], mib_per_request=None, mib_per_1000_tokens=None)
    return {**metrics, "server_memory": memory}


def test_windows_in_a_gap_invalid_ones_and_those_after_the_deadline_are_in_no_test() -> None:
    slow = 10**6

    def spoiled(window: WindowLine) -> WindowLine:
        if 300 <= window.window < 310:
            return replace(window, gap_s=30.0, output_tokens=slow)
        if 350 <= window.window < 360:
            return replace(window, valid=False, reasons=("busy_machine",), output_tokens=slow)
        return replace(window, draining=True, output_tokens=slow) if window.window >= 470 else window

    night = simulated(QUIET)
    present = np.array([not (300 <= n < 310 or 350 <= n < 360 or n >= 470) for n in range(480)])
    drift = drift_of(with_windows(night, spoiled))
    assert drift.left_out == 20 + 18
    assert drift.windows == 480 - 30 - 18
    counts = {name: counts.of_windows(present) for name, counts in night.counts.items()}
    lines = tuple(window for window, is_there in zip(night.windows, present, strict=True) if is_there)
    alone = drift_of(replace(night, windows=lines, counts=counts))
    # Only the leak by request and by token needs them: memory grows by all requests.
    assert without_shares(alone.metrics) == without_shares(drift.metrics)


@pytest.mark.parametrize(("windows", "why"), [(49, "few_windows"), (50, None)])
def test_fewer_than_50_windows_are_not_enough_data(windows: int, why: str | None) -> None:
    drift = drift_of(first_windows(simulated(SLOWER), windows))
    assert drift.why == why
    assert drift.short
    assert bool(drift.metrics) == (why is None)
    if why:
        assert drift.verdict == "not enough data"


def test_fewer_than_300_answers_are_not_enough_data() -> None:
    drift = drift_of(with_windows(simulated(QUIET), lambda window: replace(window, ok=0)))
    assert (drift.verdict, drift.why, drift.metrics) == ("not enough data", "few_requests", {})


def test_a_night_that_cannot_tell_says_what_it_could_have_shown() -> None:
    drift = drift_of(simulated(Truth("AR(1), 0.6 a minute", failed_wander=1.5)))
    failed = drift.metrics["failed_share"]
    assert (drift.verdict, failed.verdict) == ("not enough data", "not enough data")
    assert failed.could_show is not None
    assert failed.could_show > 0.005
    assert failed.within is None


def test_a_server_that_fails_never_is_stable_in_that() -> None:
    def answered(window: WindowLine) -> WindowLine:
        return replace(window, by_outcome={"ok": window.ok})

    failed = drift_of(with_windows(simulated(QUIET), answered)).metrics["failed_share"]
    assert (failed.verdict, failed.change, failed.change_ci, failed.within) == ("stable", 0.0, (0.0, 0.0), 0.0)


def test_the_order_of_nights_does_not_matter_and_every_night_makes_the_others_less_sure() -> None:
    first, second = simulated(replace(SLOWER, drift=0.1), 1), simulated(QUIET, 2)
    forward, backward = drifts_of([first, second], MATTERS), drifts_of([second, first], MATTERS)
    assert forward == backward[::-1]
    alone = drift_of(first)
    assert (alone.metrics["ttft_p50"].p_adjusted or 0) < (forward[0].metrics["ttft_p50"].p_adjusted or 0)
    assert alone.metrics["ttft_p50"].change == forward[0].metrics["ttft_p50"].change


def test_a_night_is_judged_the_same_twice_and_in_parts_of_another_length() -> None:
    night = simulated(SLOWER)
    assert drift_of(night) == drift_of(night)

    def longer(window: WindowLine) -> WindowLine:
        return replace(window, start_ns=2 * window.start_ns, end_ns=2 * window.end_ns)

    stretched = drift_of(with_windows(night, longer))
    for name, metric in drift_of(night).metrics.items():
        assert stretched.metrics[name].change == metric.change
    assert stretched.metrics["server_memory"].mib_per_h == pytest.approx(
        (drift_of(night).metrics["server_memory"].mib_per_h or 0) / 2, abs=1e-3
    )


def metric_of(verdict: str) -> DriftMetric:
    return DriftMetric(
        verdict=verdict,  # type: ignore[arg-type]
        change=0.1,
        change_ci=None,
        p=None,
        p_adjusted=None,
        matters=0.05,
        unit="ms",
    )


@pytest.mark.parametrize(
    ("words", "verdict"),
    [
        ({"ttft_p50": "stable", "itl_p50": "improving"}, "improving"),
        ({"ttft_p50": "not enough data", "itl_p50": "improving"}, "not enough data"),
        ({"ttft_p50": "not enough data", "ttft_tail": "degrading"}, "degrading"),
        ({"ttft_p50": "stable", "ttft_tail": "not enough data"}, "stable"),
        ({"ttft_p50": "stable", "temperature": "degrading"}, "stable"),
        ({"ttft_p50": "stable", "temperature": "not enough data"}, "stable"),
        ({"temperature": "stable"}, "not enough data"),
        ({}, "not enough data"),
    ],
)
def test_the_word_of_a_soak_is_that_of_its_worst_metric(words: dict[DriftMetricName, str], verdict: str) -> None:
    assert verdict_of({name: metric_of(word) for name, word in words.items()}) == verdict
