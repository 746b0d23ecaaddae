"""What is watched of ourselves beside a stage, in virtual time where time counts."""

import gc
import itertools
import os
from collections.abc import Callable

import pytest

from loadgen.record import StageFacts
from loadgen.telemetry import observer
from loadgen.telemetry.observer import MOST_SAMPLES, STEP_NS, TICK_NS, Observer
from tests.garbage import unfreeze
from tests.virtual import START_NS, VirtualClock, run

S = 1_000_000_000


def observed(
    seconds: float, *pids: int, cpu_ns: tuple[int, int] = (0, 0), stall: Callable[[], None] = lambda: None
) -> StageFacts:
    """What an observer saw of so many seconds. cpu_ns: our CPU time at the start, and at the end. stall: called before
    the last second."""
    times = iter(cpu_ns)

    async def watch() -> StageFacts:
        clock = VirtualClock()
        watching = Observer(clock, lambda: 3, pids, lambda: next(times))
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
    monkeypatch.setattr(observer, "wall_offset_ns", lambda: offset_ns[0])

    def step() -> None:
        offset_ns[0] += STEP_NS + 1

    def drift() -> None:
        offset_ns[0] += STEP_NS

    assert observed(3).clock_steps == 0
    assert observed(3, stall=step).clock_steps == 1
    assert observed(3, stall=drift).clock_steps == 0


def test_the_garbage_collector_is_off_while_a_stage_runs_and_on_again_after_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(gc, "unfreeze", unfreeze)
    enabled: list[bool] = []
    before = len(gc.callbacks)
    observed(2, stall=lambda: enabled.append(gc.isenabled()))
    assert (enabled, gc.isenabled(), len(gc.callbacks)) == ([False], True, before)
    assert gc.get_freeze_count() == 0


def test_a_process_that_is_watched_has_its_memory_in_the_facts_and_one_that_is_gone_has_none() -> None:
    facts = observed(2, os.getpid(), 2**22 + 1)
    (server,) = facts.servers
    assert server.pid == os.getpid()
    assert server.rss_start_bytes is not None
    assert server.rss_peak_bytes is not None
    assert server.rss_peak_bytes >= server.rss_start_bytes > 0
