"""What is watched of ourselves beside a stage, in virtual time where time counts."""

import asyncio
import gc
import itertools
import os
import tracemalloc
from collections.abc import Callable

import numpy as np
import pytest

from loadgen.record import LAG_PERCENTILES, StageFacts
from loadgen.stats.histogram import Histogram
from loadgen.telemetry import observer, wall_clock
from loadgen.telemetry.observer import MOST_SAMPLES, TICK_NS, Observer
from loadgen.telemetry.wall_clock import STEP_AFTER_SUSPEND_NS, STEP_NS
from tests.virtual import START_NS, VirtualBootClock, VirtualClock, VirtualLoop, run

S = 1_000_000_000


def observed(
    seconds: float,
    *pids: int,
    cpu_ns: tuple[int, int] = (0, 0),
    stall: Callable[[], None] = lambda: None,
    boot: VirtualBootClock | None = None,
) -> StageFacts:
    """What an observer saw of so many seconds. cpu_ns: our CPU time at the start, and at the end. stall: called before
    the last second."""
    times = iter(cpu_ns)

    async def watch() -> StageFacts:
        clock = VirtualClock()
        watching = Observer(clock, lambda: 3, pids, lambda: next(times), boot=boot)
        watching.start()
        end_ns = clock.now_ns() + round(seconds * S)
        await clock.sleep_until_ns(end_ns - S)
        stall()
        await clock.sleep_until_ns(end_ns)
        return await watching.stop(epoch_ns=START_NS, complete=True, models=("m",), targets=("t",), level="c1")

    return run(watch())


def test_start_end_and_the_share_of_cpu_are_those_between_start_and_stop() -> None:
    facts = observed(10, cpu_ns=(5 * S, 7 * S))
    assert (facts.start_ns, facts.end_ns, facts.cpu_share) == (0, 10 * S, 0.2)
    assert (facts.models, facts.targets, facts.level, facts.complete) == (("m",), ("t",), "c1", True)


def test_requests_in_flight_are_sampled_at_each_tick() -> None:
    samples = observed(2.01).in_flight_samples
    assert len(samples) == 2 * S // TICK_NS
    assert samples[0] == (TICK_NS, 3)


def test_samples_of_a_long_stage_are_bounded_and_evenly_spaced_over_all_of_it() -> None:
    ticks = 3 * MOST_SAMPLES
    samples = observed(ticks * TICK_NS / S).in_flight_samples
    gaps = {later - earlier for (earlier, _), (later, _) in itertools.pairwise(samples)}
    assert len(samples) <= MOST_SAMPLES
    assert gaps == {4 * TICK_NS}
    assert samples[-1][0] > (ticks - 5) * TICK_NS


def test_a_stepped_wall_clock_is_counted_once_a_step_and_a_slow_drift_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    offset_ns = [0]
    monkeypatch.setattr(wall_clock, "wall_offset_ns", lambda: offset_ns[0])

    def step() -> None:
        offset_ns[0] += STEP_NS + 1

    def drift() -> None:
        offset_ns[0] += STEP_NS

    assert observed(3).clock_steps == 0
    assert observed(3).clock_step_max_ns is None
    stepped = observed(3, stall=step)
    assert (stepped.clock_steps, stepped.clock_step_max_ns) == (1, STEP_NS + 1)
    assert observed(3, stall=drift).clock_steps == 0


@pytest.mark.parametrize(
    ("suspended_ns", "moved_ns", "steps"),
    [
        (3600 * S, 3600 * S, 0),
        (3600 * S, 3600 * S + STEP_AFTER_SUSPEND_NS, 0),
        (3600 * S, 3601 * S, 1),
        (3600 * S, 0, 0),  # seen before the wall clock goes on
        (0, 3600 * S, 1),
        (STEP_AFTER_SUSPEND_NS, STEP_AFTER_SUSPEND_NS, 1),  # as much as a clock that counts ticks is off by
    ],
)
def test_a_time_in_which_the_machine_was_suspended_is_no_step_of_the_wall_clock(
    suspended_ns: int, moved_ns: int, steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    offset_ns = [0]
    monkeypatch.setattr(wall_clock, "wall_offset_ns", lambda: offset_ns[0])
    boot = VirtualBootClock()

    def suspend() -> None:
        boot.suspend(suspended_ns)
        offset_ns[0] += moved_ns

    facts = observed(3, stall=suspend, boot=boot)
    assert facts.clock_steps == steps
    step_ns = moved_ns - suspended_ns if suspended_ns > STEP_AFTER_SUSPEND_NS else moved_ns
    assert facts.clock_step_max_ns == (step_ns if steps else None)


def test_where_nobody_tells_that_the_machine_was_suspended_it_is_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    offset_ns = [0]
    monkeypatch.setattr(wall_clock, "wall_offset_ns", lambda: offset_ns[0])

    def suspend() -> None:
        offset_ns[0] += 3600 * S

    assert observed(3, stall=suspend).clock_steps == 1


def test_the_garbage_collector_is_off_while_a_stage_runs_and_on_again_after_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    called: list[str] = []
    monkeypatch.setattr(gc, "freeze", lambda: called.append("freeze"))
    monkeypatch.setattr(gc, "unfreeze", lambda: called.append("unfreeze"))
    enabled: list[bool] = []
    before = len(gc.callbacks)
    observed(2, stall=lambda: enabled.append(gc.isenabled()))
    assert (enabled, gc.isenabled(), len(gc.callbacks)) == ([False], True, before)
    assert called == ["freeze", "unfreeze"]


def stalled(*stalls_ms: int) -> StageFacts:
    """What an observer saw of 10 s in which the event loop stood still now and then: from 1 s on, once a second."""

    async def watch() -> StageFacts:
        clock = VirtualClock()
        watching = Observer(clock, lambda: 3)
        watching.start()
        for second, length_ms in enumerate(stalls_ms, start=1):
            await clock.sleep_until_ns(START_NS + second * S)
            loop = asyncio.get_running_loop()
            assert isinstance(loop, VirtualLoop)
            loop.now_ns += length_ms * 1_000_000
        await clock.sleep_until_ns(START_NS + 10 * S)
        watching.stamp_lags.record(np.array([1_000_000] * 3, dtype=np.int64))
        return await watching.stop(epoch_ns=START_NS, complete=True, models=("m",), targets=("t",), level="c1")

    return run(watch())


def test_a_stall_of_the_loop_is_kept_with_its_moment_and_a_shorter_lag_is_not() -> None:
    facts = stalled(15, 50, 300)
    from_first_late_tick = [50, 290]
    assert [length_ns // 1_000_000 for _, length_ns in facts.loop_stalls_ns] == from_first_late_tick
    assert [end_ns // 1_000_000 for end_ns, _ in facts.loop_stalls_ns] == [2_050, 3_300]
    assert facts.loop_lag_max_ns == 290_000_000
    assert facts.loop_lags_ns[-1] > 200_000_000, "a stall is as many late ticks as came due in it"
    assert facts.loop_short_lags_ns[-1] < TICK_NS
    assert len(facts.stamp_lags_ns) == len(LAG_PERCENTILES)
    assert stalled().loop_stalls_ns == ()


@pytest.mark.parametrize("ticks", [254, 255, 256, 257, 600, 1024, 1025])
def test_each_tick_that_came_due_in_a_long_stall_counts_once(ticks: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(observer, "MOST_LAGS_AT_ONCE", 300)
    late_ns = ticks * TICK_NS + 7
    lags = observer._LoopLags()
    lags.record(0, late_ns)
    at_once = Histogram()
    at_once.record(np.arange(late_ns, -1, -TICK_NS))
    assert at_once.count == ticks + 1
    assert lags.histogram() == at_once


def test_a_process_that_was_stopped_for_a_night_takes_no_more_memory_for_it() -> None:
    lags = observer._LoopLags()
    lags.record(0, TICK_NS)
    tracemalloc.start()
    try:
        lags.record(0, 10 * 3600 * S)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert lags.histogram().count + lags.histogram().over_range == 10 * 3600 * S // TICK_NS + 3
    assert peak_bytes < 4 << 20


def test_of_many_stalls_the_longest_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(observer, "MOST_STALLS", 2)
    assert [length_ns // 1_000_000 for _, length_ns in stalled(300, 50, 80).loop_stalls_ns] == [300, 70]


def test_the_longest_pause_of_the_collector_is_kept_with_its_end() -> None:
    assert observed(2).gc_pause_end_ns is None
    facts = observed(3, stall=collect_for(5))
    assert facts.gc_pause_max_ns == 5_000_000
    assert facts.gc_pause_end_ns == 2 * S + 5_000_000


def collect_for(pause_ms: int) -> Callable[[], None]:
    """A garbage collection that takes so long in virtual time: the observer's callback is the last that was added."""

    def collect() -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        gc.callbacks[-1]("start", {})
        loop.now_ns += pause_ms * 1_000_000
        gc.callbacks[-1]("stop", {})

    return collect


def test_a_process_that_is_watched_has_its_memory_in_the_facts_and_one_that_is_gone_has_none() -> None:
    facts = observed(2, os.getpid(), 2**22 + 1)
    (server,) = facts.servers
    assert server.pid == os.getpid()
    assert server.rss_start_bytes is not None
    assert server.rss_peak_bytes is not None
    assert server.rss_peak_bytes >= server.rss_start_bytes > 0
