"""What our own lateness does to the numbers: which is off, by how much; in virtual moments, without a stage played."""

from typing import Any

import msgspec
import pytest

from loadgen.analysis.evidence import evidence_of
from loadgen.analysis.own_effects import (
    achieved_share_at_best,
    metrics_spared_by,
    pause_effect,
    shared_reads_effect,
    slip_effect,
)
from loadgen.analysis.stage import StageData, stages_of
from loadgen.analysis.summarize import summarize
from loadgen.analysis.summary import Effect, Metric, Self
from loadgen.record import MachineFacts, Record, ServerTimings
from loadgen.store.run_folder import Run
from tests.records import MS, S, facts, planned, record, run_of, turn

CLOSED: dict[str, Any] = {"load": {"mode": "closed"}}


def closed(slips_ms: list[float], *, e2e_ms: float = 100.0) -> Run:
    """A closed loop in which each answer takes as long, and each request leaves so late after the one before."""
    records, now = [], 0.0
    for index, slip in enumerate(slips_ms):
        intended, dispatched = now, now + slip
        now = dispatched + e2e_ms
        records.append(request(index, intended, dispatched, now))
    return run_of(records, scenario=CLOSED)


def opened(slips_ms: list[float], *, ttft_ms: float = 50.0, every_ms: float = 1000.0) -> Run:
    """An open loop in which the server answers as fast to each request."""
    records = []
    for index, slip in enumerate(slips_ms):
        due = index * every_ms
        records.append(request(index, due, due + slip, due + slip + 2 * ttft_ms, first=due + slip + ttft_ms))
    return open_run(records)


def open_run(records: list[Record]) -> Run:
    return run_of(records, [planned(len(records), load={"mode": "constant", "rate_per_s": 1.0})])


def request(index: int, intended: float, dispatched: float, end: float, first: float | None = None) -> Record:
    first = first if first is not None else end - 10
    return record(
        index=index,
        intended_ns=round(intended * MS),
        dispatched_ns=round(dispatched * MS),
        sent_ns=round(dispatched * MS),
        written_ns=round(dispatched * MS),
        stamps_ns=(round(first * MS), round(end * MS)),
        first_visible_ns=round(first * MS),
        end_ns=round(end * MS),
        last_byte_ns=round(end * MS),
    )


def stage_of(run: Run) -> StageData:
    return stages_of(run)[0]


def own_of(run: Run) -> Self:
    (stage,) = summarize(run).stages
    assert not isinstance(stage.validity, msgspec.UnsetType)
    return stage.validity.self


def test_a_closed_loop_loses_the_share_of_time_in_which_its_users_waited_for_us() -> None:
    assert slip_effect(stage_of(closed([0.0] + [5.0] * 20))) == Effect(0.0455, "throughput", 4.7619)


def test_one_request_of_twelve_that_was_late_takes_hardly_anything_from_a_closed_loop() -> None:
    effect = slip_effect(stage_of(closed([0.1] * 11 + [12.0], e2e_ms=300.0)))
    assert effect is not None
    assert effect.share < 0.005


def test_users_who_think_lose_the_share_of_all_their_time() -> None:
    part = msgspec.structs.replace(stage_of(closed([0.0] + [5.0] * 20)), thinks=True)
    assert part.users is None
    effect = slip_effect(part)
    assert effect is not None
    assert effect.share == pytest.approx(100 / 2200, abs=1e-4)


def test_an_open_loop_has_the_slip_in_each_percentile_that_is_shown() -> None:
    effect = slip_effect(stage_of(opened([5.0] * 40)))
    assert effect == Effect(0.1, "TTFT p99", 5.0)


def test_a_slip_that_the_in_flight_limit_explains_is_not_ours() -> None:
    run = opened([40.0] * 40)
    held = [msgspec.structs.replace(item, held_ns=40 * MS) for item in run.records]
    effect = slip_effect(stage_of(msgspec.structs.replace(run, records=tuple(held))))
    assert effect is not None
    assert effect.share == 0.0


def test_a_late_request_in_a_hundred_is_in_the_percentile_that_it_changes_and_in_no_other() -> None:
    effect = slip_effect(stage_of(opened([0.0] * 390 + [30.0] * 10)))
    assert effect == Effect(0.6, "TTFT p99", 30.0)


def test_five_requests_are_too_few_to_say_what_was_lost() -> None:
    assert slip_effect(stage_of(closed([50.0] * 5))) is None
    assert slip_effect(stage_of(closed([50.0] * 6))) is not None


def test_where_nothing_was_dispatched_nothing_was_late() -> None:
    blank = record(outcome="shed", dispatched_ns=None, sent_ns=None, written_ns=None, end_ns=None, stamps_ns=())
    assert slip_effect(stage_of(run_of([blank], scenario=CLOSED))) is None
    assert slip_effect(stage_of(open_run([blank]))) is None


def test_twelve_slips_have_no_p99_but_a_bound_and_a_largest() -> None:
    own = own_of(closed([0.0] * 11 + [12.0], e2e_ms=300.0))
    assert (own.dispatch_slip_p99_ms, own.dispatch_slip_p90_ms, own.dispatch_slip_p99_ci_ms) == (None, None, None)
    assert (own.dispatch_slip_p50_ms, own.dispatch_slip_max_ms) == (0.0, 12.0)
    assert own.dispatch_slip_p99_at_least_ms is not None


def test_four_hundred_slips_have_a_p99_with_its_interval() -> None:
    own = own_of(closed([index / 100 for index in range(400)], e2e_ms=300.0))
    assert own.dispatch_slip_p99_ms == pytest.approx(3.95)
    assert own.dispatch_slip_p99_ci_ms is not None
    low, high = own.dispatch_slip_p99_ci_ms
    assert low < 3.95 < high
    assert own.dispatch_slip_p99_at_least_ms is None


@pytest.mark.parametrize(
    ("seconds", "reads", "loop_lag", "stamp_lag"),
    [(7.34, 367, None, None), (7.36, 368, 4.0, 3.0)],
    ids=["one too few", "enough"],
)
def test_the_p99_of_the_loop_s_lag_and_of_the_stamps_needs_as_many_samples_as_any(
    seconds: float, reads: int, loop_lag: float | None, stamp_lag: float | None
) -> None:
    run = closed([0.0] * 12)
    seen = facts(
        end_ns=round(seconds * S), loop_lag_p99_ns=4 * MS, stamp_lag_p99_ns=3 * MS, stamped_reads=reads, start_ns=0
    )
    own = own_of(msgspec.structs.replace(run, facts=(seen,)))
    assert (own.loop_lag_p99_ms, own.stamp_lag_p99_ms) == (loop_lag, stamp_lag)


def metrics_of(**slowest_ms: float) -> dict[str, Metric]:
    """Metrics of which the slowest is known."""
    return {f"{name}_ms": Metric(500, ms, ms, ms) for name, ms in slowest_ms.items()}


def test_a_pause_is_in_the_slowest_gap_or_where_there_is_none_in_the_slowest_answer() -> None:
    assert pause_effect(5.0, metrics_of(itl=25.0, e2e=500.0)) == Effect(0.25, "slowest ITL", 5.0)
    assert pause_effect(5.0, metrics_of(e2e=105.0)) == Effect(0.05, "slowest E2E", 5.0)
    assert pause_effect(None, metrics_of(e2e=105.0)) is None
    assert pause_effect(5.0, {}) is None


def test_a_pause_that_did_not_end_with_the_slowest_gap_or_answer_is_not_in_it() -> None:
    stage = stage_of(opened([0.0] * 12))  # the slowest gap and the slowest answer are the first: they end at 100 ms
    assert metrics_spared_by(stage, None) == set(), "an older run, which does not tell"
    assert metrics_spared_by(stage, 99 * MS) == set()
    assert metrics_spared_by(stage, 101 * MS) == {"itl_ms", "e2e_ms"}
    assert metrics_spared_by(stage, 70 * MS) == {"itl_ms", "e2e_ms"}
    assert pause_effect(5.0, metrics_of(itl=25.0, e2e=500.0), {"itl_ms"}) is None
    assert pause_effect(5.0, metrics_of(itl=25.0), {"e2e_ms"}) == Effect(0.25, "slowest ITL", 5.0)


def at(*moments_ms: tuple[float, float]) -> list[Record]:
    return [
        turn(index, every_ns=0, intended_ns=round(due * MS), dispatched_ns=round(sent * MS))
        for index, (due, sent) in enumerate(moments_ms)
    ]


def test_the_achieved_share_at_best_is_without_the_one_request_that_counts_most_against_it() -> None:
    punctual = [(100.0 * index, 100.0 * index) for index in range(12)]
    assert achieved_share_at_best(at(*punctual)) == 1.0
    assert achieved_share_at_best(at(*punctual[:-1], (1100.0, 1200.0))) == 1.0
    falling = [(100.0 * index, 110.0 * index) for index in range(12)]
    assert achieved_share_at_best(at(*falling)) == pytest.approx(1 / 1.1)
    assert achieved_share_at_best(at((0, 0), (100, 100))) is None


def test_a_wait_for_the_in_flight_limit_is_no_rate_that_loadgen_failed_to_send() -> None:
    falling = at(*((100.0 * i, 110.0 * i) for i in range(12)))
    held = [
        msgspec.structs.replace(record, held_ns=(record.dispatched_ns or 0) - record.intended_ns) for record in falling
    ]
    assert achieved_share_at_best(held) == 1.0
    half = [
        msgspec.structs.replace(record, held_ns=((record.dispatched_ns or 0) - record.intended_ns) // 2)
        for record in falling
    ]
    assert achieved_share_at_best(half) == pytest.approx(1 / 1.05)


def streamed(*reads: tuple[float, int], answers: int = 40) -> StageData:
    """A closed loop of answers whose tokens come in these reads: (when, ms after the send; how many)."""
    records = []
    for index in range(answers):
        sent = 1000.0 * index
        stamps = tuple(round((sent + after) * MS) for after, tokens in reads for _ in range(tokens))
        one = msgspec.structs.replace(request(index, sent, sent, sent + reads[-1][0]), stamps_ns=stamps)
        records.append(msgspec.structs.replace(one, shared_reads=sum(tokens - 1 for _, tokens in reads)))
    return stage_of(run_of(records, scenario=CLOSED))


def test_gaps_within_a_read_make_the_median_gap_too_low_by_what_it_would_be_if_they_were_even() -> None:
    effect = shared_reads_effect(streamed((100, 1), (140, 4), (180, 4)))
    assert effect is not None
    assert (effect.share, effect.by_ms) in {(3.0, 30.0), (1.0, -10.0)}, "gaps of 40 and 0 ms that were 10 ms each"
    assert effect.number.startswith("ITL p")


def test_reads_of_one_token_each_and_tokens_that_came_with_the_first_make_no_gap_wrong() -> None:
    assert shared_reads_effect(streamed((100, 1), (110, 1), (120, 1))) is None
    assert shared_reads_effect(streamed((100, 3), (110, 1), (120, 1))) is None
    assert shared_reads_effect(streamed((100, 2), (140, 4), answers=2)) is None, "no percentile is shown"


@pytest.mark.parametrize(
    ("waited", "samples", "longer"),
    [
        (0.2, (), 0.25),
        (0.8, (), 1.0),  # it cannot have waited for us for longer than the half of the time in which we ran
        (0.2, ((0, 1), (1, 0)), 0.2 / 0.3),  # half of the time there was nothing to do
        (None, (), None),
    ],
)
def test_a_server_waited_for_us_for_no_longer_than_it_waited_or_than_we_ran(
    waited: float | None, samples: tuple[tuple[int, int], ...], longer: float | None
) -> None:
    machine = MachineFacts(cores=2, server_wait_share=waited)
    seen = [facts(cpu_share=0.5, machine=machine, in_flight_samples=samples)]
    evidence = evidence_of(stage_of(run_of([turn(index) for index in range(12)], seen=seen)))
    assert evidence.longer_by_own_cpu == (None if longer is None else pytest.approx(longer))


@pytest.mark.parametrize(
    ("target", "shared", "slowdown", "source"),
    [
        ("llamacpp", 0.2, 0.2, "shared_waits"),
        ("llamacpp", None, 0.5, "run_delay"),  # an older run
        ("foundry", 0.2, 0.5, "run_delay"),
    ],
)
def test_the_slow_down_of_llama_cpp_is_that_of_threads_that_share_their_work(
    target: str, shared: float | None, slowdown: float, source: str
) -> None:
    machine = MachineFacts(cores=2, slowdown=0.5, slowdown_source="run_delay", shared_slowdown=shared)
    run = run_of([turn(index, target=target) for index in range(12)], [planned(12, target=target)])
    stage = msgspec.structs.replace(stage_of(run), facts=facts(machine=machine))
    assert (evidence := evidence_of(stage)).machine is not None
    assert (evidence.machine.slowdown, evidence.machine.slowdown_source) == (slowdown, source)


def test_the_timings_of_llama_cpp_tell_it_behind_any_address() -> None:
    timings = ServerTimings(prompt_n=5, prompt_ms=10.0, predicted_n=5, predicted_ms=50.0)
    machine = MachineFacts(cores=2, slowdown=0.5, shared_slowdown=0.2)
    run = run_of([turn(index, timings=timings) for index in range(12)], seen=[facts(machine=machine)])
    evidence = evidence_of(stage_of(run))
    assert evidence.machine is not None
    assert evidence.machine.slowdown == 0.2


def test_a_latency_of_more_than_an_hour_is_named() -> None:
    records = [turn(index) for index in range(12)]
    records[3] = msgspec.structs.replace(records[3], end_ns=10_000 * S)
    evidence = evidence_of(stage_of(run_of(records)))
    assert (evidence.over_range, evidence.over_range_metrics) == (1, ("E2E",))
