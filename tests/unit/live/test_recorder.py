"""The Recorder: what it says is what the records say, in whatever order they come, and its memory is bounded."""

import itertools
from collections import Counter

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loadgen.analysis import metrics
from loadgen.live.recorder import FOLD_EVERY, IntervalSnapshot, Recorder
from loadgen.live.sink import Sinks, StageStart
from loadgen.record import Record
from loadgen.stats.histogram import Histogram
from tests.records import MS, S, record, turn, unsent

CLOSED = StageStart(models=("m",), targets=("t",), level="c1", latency_origin="sent", count=None, duration_s=None)
OPEN = msgspec.structs.replace(CLOSED, level="r1", latency_origin="intended")


def recorded(records: list[Record], stage: StageStart = CLOSED, **limits: int) -> tuple[IntervalSnapshot, ...]:
    recorder = Recorder(**limits)
    sinks = Sinks((recorder,))
    sinks.start(stage)
    for one in records:
        sinks.record(one)
    return recorder.snapshot()


def histogram_of(values: "np.ndarray[tuple[int], np.dtype[np.int64]]") -> Histogram:
    histogram = Histogram()
    histogram.record(values)
    return histogram


def total(intervals: tuple[IntervalSnapshot, ...], metric: str) -> Histogram:
    merged = Histogram()
    for interval in intervals:
        merged.merge(interval.histogram(metric))
    return merged


@pytest.mark.slow
@pytest.mark.parametrize("stage", [CLOSED, OPEN])
def test_the_histograms_are_those_of_the_metrics(stage: StageStart) -> None:
    records = [turn(index) for index in range(1_000)]
    intervals = recorded(records, stage)
    values = metrics.of_requests(records, origin=stage.latency_origin)
    assert total(intervals, "ttft") == histogram_of(values["ttft"])
    assert total(intervals, "e2e") == histogram_of(values["e2e"])
    assert total(intervals, "itl") == histogram_of(metrics.gaps_of(records).values)
    assert sum(interval.output_tokens for interval in intervals) == sum(r.output_tokens or 0 for r in records)


def test_a_request_is_wholly_of_the_interval_in_which_it_ended() -> None:
    intervals = recorded([record(end_ns=999 * MS), record(end_ns=1 * S), record(end_ns=3 * S)])
    assert [(interval.start_ns, interval.length_ns, dict(interval.by_outcome)) for interval in intervals] == [
        (0, 1 * S, {"ok": 1}),
        (1 * S, 1 * S, {"ok": 1}),
        (3 * S, 1 * S, {"ok": 1}),
    ]


def test_failures_count_and_have_no_latency_and_a_warm_up_counts_not() -> None:
    (interval,) = recorded([record(), record(outcome="timeout"), record(phase="warmup")])
    assert dict(interval.by_outcome) == {"ok": 1, "timeout": 1}
    assert interval.histogram("e2e").count == 1
    (interval,) = recorded([unsent("shed")])
    assert dict(interval.by_outcome) == {"shed": 1}
    assert interval.buckets == {}


def test_each_stage_and_each_model_has_intervals_of_its_own() -> None:
    recorder = Recorder()
    for stage in (CLOSED, OPEN):
        recorder.start(stage)
        for model in ("b", "a"):
            recorder.record(record(model=model))
    assert [(i.level, i.model) for i in recorder.snapshot()] == [("c1", "a"), ("c1", "b"), ("r1", "a"), ("r1", "b")]


@settings(derandomize=True, deadline=None, max_examples=30)
@given(st.permutations(range(60)), st.integers(1, 59))
def test_the_order_of_records_and_when_it_is_looked_at_change_nothing(order: list[int], look_after: int) -> None:
    records = [turn(index, every_ns=300 * MS) for index in range(60)]
    recorder = Recorder(max_intervals=5)
    recorder.start(CLOSED)
    for at, index in enumerate(order):
        recorder.record(records[index])
        if at == look_after:
            recorder.snapshot()
    assert recorder.snapshot() == recorded(records, max_intervals=5)


@pytest.mark.slow
def test_however_many_records_leave_no_more_than_the_intervals_that_are_allowed() -> None:
    spread = [turn(index, every_ns=1 * S, stamps_ns=(200 * MS,)) for index in range(20_000)]
    recorder = Recorder()
    recorder.start(CLOSED)
    for one in itertools.islice(itertools.cycle(spread), 100_000):
        recorder.record(one)
        assert len(recorder._stages[0]._fold._pending) < FOLD_EVERY
    intervals = recorder.snapshot()
    assert len(intervals) == 1_250, "20,000 s in intervals of 16 s, as 1,440 are allowed"
    assert {interval.length_ns for interval in intervals} == {16 * S}
    assert sum(interval.by_outcome["ok"] for interval in intervals) == 100_000
    assert Counter(len(interval.buckets["e2e"]) for interval in intervals) == {1: 1_250}, "a bucket that is used, each"
