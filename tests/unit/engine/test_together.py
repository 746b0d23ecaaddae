"""What several workers saw of a stage, merged: worst of the lags, sum of the counts, nothing lost."""

from itertools import pairwise

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loadgen.engine.workers.merge import in_flight_of, merge_facts
from loadgen.record import ServerFacts, StageFacts, WorkerFacts
from loadgen.telemetry.observer import MOST_SAMPLES, TICK_NS
from tests.records import MS, S, facts

SERVER = ServerFacts(pid=7, cpu_share=1.5, rss_start_bytes=1, rss_peak_bytes=2)
PARENT = facts(cpu_share=0.01, servers=(SERVER,), loop_lag_max_ns=9 * S, stamped_reads=0)


def sampled(*samples: tuple[int, int], end_ns: int) -> StageFacts:
    return facts(in_flight_samples=samples, start_ns=0, end_ns=end_ns)


def test_a_stage_is_as_long_as_its_longest_part_and_as_late_as_its_latest_worker() -> None:
    one = facts(start_ns=5, end_ns=20 * S, cpu_share=0.2, loop_lag_p99_ns=3 * MS, stamp_lag_max_ns=None, clock_steps=1)
    two = facts(start_ns=3, end_ns=10 * S, cpu_share=0.3, loop_lag_p99_ns=2 * MS, gc_pause_max_ns=4, stamped_reads=11)
    told = merge_facts(PARENT, [one, two])
    assert (told.start_ns, told.end_ns, told.cpu_share) == (3, 20 * S, 0.3)
    assert (told.loop_lag_p99_ns, told.loop_lag_max_ns) == (3 * MS, one.loop_lag_max_ns), "not the parent's"
    assert told.stamp_lag_max_ns == two.stamp_lag_max_ns
    lags = [facts(loop_lags_ns=lags_ns) for lags_ns in ((1, 8), (2, 7), ())]
    assert merge_facts(PARENT, lags).loop_lags_ns == (2, 8), "the worst worker's at each percentile"
    parts = [
        facts(loop_stalls_ns=((9, 5), (30, 4)), gc_pause_max_ns=7, gc_pause_end_ns=40, stamp_lags_ns=(1, 9)),
        facts(loop_stalls_ns=((20, 6),), gc_pause_max_ns=8, gc_pause_end_ns=50, loop_short_lags_ns=(3, 4)),
    ]
    merged = merge_facts(PARENT, parts)
    assert merged.loop_stalls_ns == ((9, 5), (20, 6), (30, 4)), "all of them: each delays its own worker's requests"
    assert (merged.gc_pause_max_ns, merged.gc_pause_end_ns) == (8, 50)
    assert (merged.stamp_lags_ns, merged.loop_short_lags_ns) == ((1, 9), (3, 4))
    assert (told.stamped_reads, told.gc_pause_max_ns, told.clock_steps) == (one.stamped_reads + 11, 4, 1)
    steps = [facts(clock_steps=1, clock_step_max_ns=step_ns) for step_ns in (7, 9, None)]
    assert merge_facts(PARENT, steps).clock_step_max_ns == 9
    assert (told.clock_step_max_ns, told.servers) == (None, (SERVER,))
    assert told.complete


def test_a_parent_that_works_harder_than_its_workers_is_not_hidden() -> None:
    assert merge_facts(facts(cpu_share=0.9), [facts(cpu_share=0.1)]).cpu_share == 0.9


@pytest.mark.parametrize("whose", ["parent", "worker"])
def test_a_stage_is_complete_when_all_of_it_is(whose: str) -> None:
    cut = facts(complete=False)
    parts = [facts(), cut] if whose == "worker" else [facts(), facts()]
    assert not merge_facts(cut if whose == "parent" else facts(), parts).complete


def test_a_lost_worker_leaves_the_stage_incomplete_and_the_others_count() -> None:
    lost = WorkerFacts(pid=1, requests=3, lost="was ended by SIGKILL")
    told = merge_facts(PARENT, [facts(stamped_reads=5)], [lost, WorkerFacts(pid=2, requests=9, cpu_share=0.08)])
    assert not told.complete
    assert told.stamped_reads == 5
    assert told.workers[0] == lost


def test_when_all_are_lost_nothing_is_known_of_their_lateness() -> None:
    told = merge_facts(PARENT, [], [WorkerFacts(pid=1, requests=0, lost="was ended by SIGKILL")])
    assert not told.complete
    assert (told.start_ns, told.end_ns) == (PARENT.start_ns, PARENT.end_ns)
    assert (told.loop_lag_p99_ns, told.stamp_lag_p99_ns, told.in_flight_samples) == (None, None, ())


def test_in_flight_is_the_sum_of_what_each_saw_last() -> None:
    ms = [moment * 20 * MS for moment in range(5)]
    one = sampled((ms[0], 1), (ms[1], 2), (ms[2], 3), (ms[3], 4), end_ns=ms[4])
    two = sampled((ms[0] + 5, 10), (ms[1] + 5, 20), (ms[2] + 5, 30), end_ns=ms[2] + 6)
    assert in_flight_of([one, two]) == (
        (ms[0], 1),  # the second has not looked yet
        (ms[1], 2 + 10),
        (ms[2], 3 + 20),
        (ms[3], 4),  # the second had ended by then
    )


def test_a_worker_that_saw_nothing_adds_nothing() -> None:
    one = sampled((0, 1), (TICK_NS, 2), end_ns=S)
    assert in_flight_of([one, sampled(end_ns=S)]) == ((0, 1), (TICK_NS, 2))
    assert in_flight_of([sampled(end_ns=S)]) == ()


@pytest.mark.slow
@settings(derandomize=True, deadline=None, max_examples=60)
@given(
    st.lists(st.tuples(st.integers(1, 5_000), st.integers(0, 9), st.integers(0, TICK_NS - 1)), min_size=1, max_size=4)
)
def test_of_steady_workers_the_mean_is_the_sum_of_theirs_on_an_even_grid(workers: list[tuple[int, int, int]]) -> None:
    long = max(count for count, _, _ in workers)
    told = [
        sampled(*((late + turn * TICK_NS, level) for turn in range(long)), end_ns=late + long * TICK_NS)
        for _, level, late in workers
    ]
    found = in_flight_of(told)
    assert len(found) <= MOST_SAMPLES
    gaps = {after[0] - before[0] for before, after in pairwise(found)}
    assert len(gaps) <= 1
    assert {count for _, count in found[1:-1]} <= {sum(level for _, level, _ in workers)}


def test_facts_with_workers_are_read_back_as_they_were() -> None:
    told = merge_facts(PARENT, [facts()], [WorkerFacts(pid=1, requests=0, lost="x")])
    assert msgspec.json.decode(msgspec.json.encode(told), type=StageFacts) == told
