"""The summary: counts that add up, percentiles that never say more than the samples know, and the contract's keys."""

import math
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import UNSET

from loadgen.analysis.stage import stages_of
from loadgen.analysis.summarize import summarize
from loadgen.analysis.summary import (
    METRICS,
    Requests,
    StageSummary,
    Steadiness,
    Tokens,
    Validity,
    metric_data,
    summary_from,
)
from loadgen.record import LAG_PERCENTILES, OUTCOMES, MachineFacts, Outcome, Record, WorkerFacts
from loadgen.report.sureness import sureness
from loadgen.stats.quantile import MIN_CLUSTERS
from loadgen.store import calibration as calibration_file
from loadgen.store.calibration import Budget, CalibrationQuote, Ceiling, ErrorBand, Limit
from loadgen.store.run_folder import Run
from tests.records import MS, S, facts, planned, run_of, turn, unsent

PERCENTILES = {"p50": 6, "p90": 36, "p95": 72, "p99": 368}
"""From how many samples on each is known: the contract's floors, and what they follow from for the median."""

law = settings(derandomize=True, deadline=None, max_examples=60)
LATENCIES = tuple(f"{name}_ms" for name in METRICS)


def stage_of(run: Run) -> StageSummary:
    (stage,) = summarize(run).stages
    return stage


def turns(count: int, **changes: Any) -> list[Record]:
    return [turn(index, **changes) for index in range(count)]


def as_json(value: object) -> Any:
    return msgspec.json.decode(msgspec.json.encode(value))


def metric_of(stage: StageSummary, name: str) -> dict[str, Any]:
    """A metric as `summary.json` has it."""
    assert isinstance(stage.metrics, dict)
    return metric_data(stage.metrics[name])


def requests_of(stage: StageSummary) -> Requests:
    assert isinstance(stage.requests, Requests)
    return stage.requests


def reasons_of(stage: StageSummary) -> list[str]:
    assert isinstance(stage.validity, Validity)
    return [reason.code for reason in stage.validity.reasons]


# --- counts -----------------------------------------------------------------------------------------------------------


def with_outcome(index: int, outcome: Outcome) -> Record:
    return unsent(outcome, index) if outcome in {"shed", "cancelled"} else turn(index, outcome=outcome)


@law
@given(st.lists(st.sampled_from(OUTCOMES), max_size=30), st.integers(0, 10), st.booleans(), st.integers(0, 3))
def test_counts_always_add_up_to_what_was_planned(
    outcomes: list[Outcome], lost: int, has_facts: bool, warmup: int
) -> None:
    records = [with_outcome(index, outcome) for index, outcome in enumerate(outcomes)]
    records += [turn(index, phase="warmup") for index in range(warmup)]
    run = run_of(records, [planned(len(outcomes) + lost)], seen=[facts()] if has_facts else [])
    told = requests_of(stage_of(run))
    assert told.planned == len(outcomes) + lost
    assert told.ok + told.failed == told.planned == sum(told.by_outcome.values())
    assert told.ok == told.by_outcome.get("ok", 0) == outcomes.count("ok")
    assert set(told.by_outcome) <= set(OUTCOMES)
    assert 0 not in told.by_outcome.values()
    assert told.by_outcome.get("cancelled", 0) == outcomes.count("cancelled") + lost
    assert told.warmup == warmup


def test_what_a_killed_run_has_no_record_of_was_cancelled_and_the_stage_is_incomplete() -> None:
    summary = summarize(run_of(turns(3), [planned(8)], seen=[], state="running"))
    (stage,) = summary.stages
    assert requests_of(stage).by_outcome == {"ok": 3, "cancelled": 5}
    assert (summary.incomplete, stage.incomplete) == (True, True)
    assert "incomplete" in reasons_of(stage)


def test_a_stage_that_a_killed_run_did_not_reach_is_all_cancelled() -> None:
    run = run_of(turns(2), [planned(2), planned(4, level="c2")], state="running")
    stage = summarize(run).stages[1]
    assert requests_of(stage).by_outcome == {"cancelled": 4}
    assert stage.incomplete
    assert isinstance(stage.validity, Validity)
    assert stage.validity.verdict == "invalid"


def test_where_only_time_bounds_a_stage_what_was_sent_is_what_was_planned() -> None:
    stage = stage_of(run_of(turns(5), [planned(None)]))
    assert requests_of(stage).planned == 5
    assert not stage.incomplete


def test_a_run_that_was_stopped_is_incomplete_though_every_request_has_its_record() -> None:
    records = [*turns(2), unsent("cancelled", 2)]
    stage = stage_of(run_of(records, seen=[facts(complete=False)], state="interrupted"))
    assert stage.incomplete
    assert requests_of(stage).by_outcome == {"ok": 2, "cancelled": 1}


@pytest.mark.parametrize(("state", "incomplete"), [("complete", False), ("interrupted", True), ("running", True)])
def test_a_run_is_complete_only_when_it_says_so(state: str, incomplete: bool) -> None:
    assert summarize(run_of(turns(1), state=state)).incomplete is incomplete


def test_torn_lines_are_told() -> None:
    assert summarize(msgspec.structs.replace(run_of(turns(1)), torn=3)).torn_lines == 3


# --- percentiles ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "floor"), PERCENTILES.items())
def test_a_percentile_is_a_number_from_its_floor_on_and_a_lower_bound_below_it(name: str, floor: int) -> None:
    for count, known in ((floor - 1, False), (floor, True)):
        told = metric_of(stage_of(run_of(turns(count))), "ttft_ms")
        if known:
            assert isinstance(told[name], float)
            assert f"{name}_at_least" not in told
            low, high = told[f"{name}_ci"]
            assert low <= told[name] <= high
        else:
            assert told[name] is None
            assert f"{name}_ci" not in told
            # Six of a kind bound a median from below; fewer bound nothing.
            assert told[f"{name}_at_least"] == (None if name == "p50" else 98.0)


@pytest.mark.parametrize("count", [0, 1, 5, 6, 40, 100])
def test_every_metric_has_all_its_keys_whatever_the_samples(count: int) -> None:
    stage = stage_of(run_of(turns(count), [planned(count)]))
    assert isinstance(stage.metrics, dict)
    assert set(stage.metrics) == set(LATENCIES)
    for metric in stage.metrics.values():
        told = metric_data(metric)
        assert {"count", "mean", "min", "max", *PERCENTILES} <= set(told)
        for name in PERCENTILES:
            assert (f"{name}_at_least" in told) == (told[name] is None)
            assert (f"{name}_ci" in told) == (told[name] is not None)


def test_without_a_sample_nothing_is_zero() -> None:
    told = metric_of(stage_of(run_of([], [planned(4)])), "ttft_ms")
    assert told.pop("count") == 0
    assert set(told.values()) == {None}


def test_percentiles_are_nearest_rank_and_exact() -> None:
    values = [1000 + 7 * index for index in range(400)]
    records = [turn(index, stamps_ns=((102 + value) * MS,)) for index, value in enumerate(values)]
    told = metric_of(stage_of(run_of(records)), "ttft_ms")
    assert [told["min"], told["max"], told["mean"]] == [values[0], values[-1], float(np.mean(values))]
    assert [told[name] for name in PERCENTILES] == [values[math.ceil(p * 4) - 1] for p in (50, 90, 95, 99)]


def test_gaps_are_pooled_and_bound_by_requests_not_by_tokens() -> None:
    def spoken(index: int) -> Record:
        stamps = tuple(200 * MS + gap * 10 * MS for gap in range(101))
        return turn(index, stamps_ns=stamps, output_tokens=101)

    few = metric_of(stage_of(run_of([spoken(index) for index in range(MIN_CLUSTERS - 1)])), "itl_ms")
    bound = metric_of(stage_of(run_of([spoken(index) for index in range(MIN_CLUSTERS)])), "itl_ms")
    known = metric_of(stage_of(run_of([spoken(index) for index in range(20)])), "itl_ms")
    assert (few["count"], few["p50"], few["p50_at_least"]) == (500, None, None)
    assert (bound["count"], bound["p50"], bound["p50_at_least"]) == (600, None, 10.0)
    assert (known["count"], known["p50"], known["p99"]) == (2000, 10.0, 10.0)


def test_a_strict_summary_asks_for_the_samples_of_a_published_result() -> None:
    run = run_of(turns(400))
    told, strict = metric_of(stage_of(run), "ttft_ms"), metric_of(summarize(run, floor="strict").stages[0], "ttft_ms")
    assert told["p99"] is not None
    assert (strict["p99"], strict["p99_at_least"]) == (None, told["p99"])
    assert strict["p90"] == told["p90"]
    assert (summarize(run).floor, summarize(run, floor="strict").floor) == ("contract", "strict")
    asked = run_of(turns(400), scenario={"name": "x", "seed": 1, "strict": True})
    assert summarize(asked).floor == "strict"
    assert "p99 takes 662" in (sureness(summarize(asked)) or "")


def growing(count: int, by_ms: float) -> list[Record]:
    """Turns whose first token comes later each time."""
    return [
        turn(index, stamps_ns=tuple(200 * MS + round(index * by_ms * MS) + gap for gap in (0, 1 * MS, 2 * MS)))
        for index in range(count)
    ]


def test_an_open_loop_whose_ttft_keeps_growing_was_never_steady() -> None:
    overloaded = stage_of(run_of(growing(60, 5.0), stages=[planned(60, load=OPEN)]))
    assert overloaded.steadiness is not None
    assert (overloaded.steadiness.steady, overloaded.steadiness.why) == (False, "never_settles")
    assert overloaded.validity is not UNSET
    (reason,) = [reason for reason in overloaded.validity.reasons if reason.code == "never_steady"]
    assert reason.observed.startswith("TTFT grew all the time, by 46%")


def test_one_that_settles_is_steady_and_a_short_one_is_not_asked() -> None:
    assert stage_of(run_of(growing(60, 0.0), stages=[planned(60, load=OPEN)])).steadiness == Steadiness(
        steady=True, why="steady", warmed_after=0, growth=0.0
    )
    few = stage_of(run_of(growing(20, 5.0), stages=[planned(20, load=OPEN)])).steadiness
    assert few is not None
    assert (few.steady, few.why) == (None, "too_few")


def test_what_warms_up_is_kept_out_of_the_window() -> None:
    warming = [
        turn(index, stamps_ns=(200 * MS + (80 * MS if index < 10 else index % 3 * MS),) * 3) for index in range(100)
    ]
    stage = stage_of(run_of(warming, stages=[planned(100, load=OPEN)]))
    assert stage.steadiness is not None
    assert (stage.steadiness.steady, stage.steadiness.warmed_after) == (True, 10)
    assert stage.window_s == pytest.approx(99 - 10 + 0.001, abs=0.01)


def test_a_load_that_is_meant_to_change_is_not_asked_to_settle() -> None:
    ramp = {"mode": "ramp", "from_per_s": 0.5, "to_per_s": 2.0}
    assert stage_of(run_of(growing(60, 5.0), stages=[planned(60, load=ramp)])).steadiness is None


def test_more_than_was_calibrated_for_is_said() -> None:
    calibration = CalibrationQuote(
        schema=calibration_file.SCHEMA,
        made_utc="2026-01-01T00:00:00+00:00",
        band=ErrorBand(None, None),
        ceiling=Ceiling(Limit(4.0, at_least=False), Limit(8.0, at_least=False)),
        budget=Budget(events_per_s=2.0, streams=4),
        cpu_us_per_event=None,
        busy_share=0.0,
    )
    samples = tuple((101 * MS + tick * 10 * MS, 5) for tick in range(20))
    run = run_of(turns(20), seen=[facts(in_flight_samples=samples)], calibration=calibration)
    (reason,) = [r for r in validity_of(stage_of(run)).reasons if r.code == "beyond_calibration"]
    assert "3 token events a second (calibrated for 2)" in reason.observed
    assert "5 streams at once (calibrated for 4)" in reason.observed
    shared = msgspec.structs.replace(run, manifest=msgspec.structs.replace(run.manifest, workers=2))
    assert "beyond_calibration" not in reasons_of(stage_of(shared))


def test_a_process_that_died_makes_the_stage_invalid_and_is_named() -> None:
    crew = (WorkerFacts(pid=1, requests=10), WorkerFacts(pid=2, requests=3, lost="killed by signal 9"))
    stage = stage_of(run_of(turns(20), seen=[facts(workers=crew)]))
    (reason,) = [reason for reason in validity_of(stage).reasons if reason.code == "worker_lost"]
    text = "throughput is up to 50% too low, because loadgen lost process 2 of 2: killed by signal 9"
    assert (reason.observed, reason.fatal) == (text, True)


def validity_of(stage: StageSummary) -> Validity:
    assert isinstance(stage.validity, Validity)
    return stage.validity


def test_the_first_visible_content_has_a_line_of_its_own_only_where_it_is_not_the_first_token() -> None:
    assert "ttfc_ms" not in as_json(stage_of(run_of(turns(3))))["metrics"]
    reasoning = metric_of(stage_of(run_of(turns(3, first_visible_ns=300 * MS))), "ttfc_ms")
    assert reasoning["mean"] == 198.0
    assert "ttfc_ms" in as_json(stage_of(run_of([*turns(3), turn(3, first_visible_ns=None)])))["metrics"]


def test_equal_runs_give_equal_summaries() -> None:
    run = run_of(turns(50))
    assert msgspec.json.encode(summarize(run)) == msgspec.json.encode(summarize(run))


# --- what enters ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@law
@given(st.lists(st.sampled_from([outcome for outcome in OUTCOMES if outcome != "ok"]), max_size=10))
def test_failed_requests_and_warm_up_never_enter_the_latencies(outcomes: list[Outcome]) -> None:
    slow: dict[str, Any] = {
        "sent_ns": 0,
        "written_ns": 0,
        "stamps_ns": (50 * S, 60 * S),
        "end_ns": 90 * S,
        "connect_ns": 9 * S,
    }
    failed = [turn(10 + index, outcome=outcome, **slow) for index, outcome in enumerate(outcomes)]
    warmup = [turn(0, phase="warmup", **slow)]
    clean, mixed = stage_of(run_of(turns(10))), stage_of(run_of([*turns(10), *failed, *warmup]))
    assert clean.metrics == mixed.metrics
    assert clean.tokens == mixed.tokens


def test_tokens_are_those_of_answers_and_say_who_counted_them() -> None:
    told = [turn(0), turn(1, token_source="events"), turn(2, outcome="timeout", output_tokens=999)]
    assert stage_of(run_of(told)).tokens == Tokens(prompt=20, output=6, source="mixed")
    assert stage_of(run_of(told[:1])).tokens == Tokens(prompt=10, output=3, source="usage")
    assert stage_of(run_of(told[1:2])).tokens == Tokens(prompt=10, output=3, source="events")


def test_throughput_is_what_the_window_holds() -> None:
    # One user, 100 turns: from the first dispatch at 101 ms to the end of the last answer at 99.31 s.
    stage = stage_of(run_of(turns(100)))
    assert stage.window_s == pytest.approx(99.209)
    throughput = as_json(stage.throughput)
    assert throughput["requests_per_s"] == pytest.approx(100 / 99.209, abs=1e-4)
    assert throughput["output_tokens_per_s"] == pytest.approx(300 / 99.209, abs=1e-4)
    assert throughput["per_user_tokens_per_s"] == 20.0
    assert throughput["goodput_requests_per_s"] is None


def test_without_a_window_there_is_no_rate_but_each_user_s_own() -> None:
    load = {"mode": "closed", "concurrency": 4}
    stage = stage_of(run_of(turns(3), [planned(3, load=load)]))
    assert stage.window_s is None
    assert as_json(stage.throughput) == {
        "output_tokens_per_s": None,
        "requests_per_s": None,
        "per_user_tokens_per_s": 20.0,
        "e2e_tokens_per_s": 14.4231,
        "e2e_tokens_per_s_ci": None,
        "goodput_requests_per_s": None,
    }
    assert "no_window" in reasons_of(stage)


def test_an_open_loop_counts_from_the_due_time_and_a_closed_one_from_the_sending() -> None:
    open_load = planned(10, load={"mode": "poisson", "rate_per_s": 1.0})
    assert metric_of(stage_of(run_of(turns(10))), "ttft_ms")["mean"] == 98.0
    assert metric_of(stage_of(run_of(turns(10), [open_load])), "ttft_ms")["mean"] == 100.0


def test_the_ramp_in_is_outside_the_window() -> None:
    load = {"mode": "closed", "concurrency": 1}
    whole, ramped = (stage_of(run_of(turns(9), [planned(9, load=load, ramp_in_ns=ns)])) for ns in (0, 3 * S))
    assert whole.window_s == pytest.approx(8.209)
    assert ramped.window_s == pytest.approx(8.209 - 2.999)


# --- SLOs -------------------------------------------------------------------------------------------------------------


def with_slo(records: Sequence[Record], count: int | None = None, **slo: float) -> StageSummary:
    stages = [planned(len(records) if count is None else count)]
    return stage_of(run_of(records, stages, scenario={"name": "x", "slo": slo}))


def test_without_an_slo_there_is_nothing_to_attain() -> None:
    assert with_slo(turns(4)).slo is None
    assert with_slo(turns(4), attainment=0.9).slo is None


def test_failed_shed_and_lost_requests_miss_the_slo() -> None:
    records = [*turns(6), turn(6, outcome="timeout"), unsent("shed", 7)]
    stage = with_slo(records, 10, ttft_ms=98.0)
    assert stage.slo is not None
    assert (stage.slo.met, stage.slo.share, stage.slo.passed) == (6, 0.6, None)


@pytest.mark.parametrize(("attainment", "passed"), [(0.6, True), (0.61, False), (1.0, False)])
def test_the_gate_is_passed_at_its_share_and_not_below(attainment: float, passed: bool) -> None:
    records = [*turns(6), *(turn(index, outcome="empty") for index in range(6, 10))]
    stage = with_slo(records, ttft_ms=98.0, e2e_ms=208.0, attainment=attainment)
    assert stage.slo is not None
    assert stage.slo.passed is passed
    assert stage.slo.slo == {"ttft_ms": 98.0, "e2e_ms": 208.0}


def test_goodput_counts_requests_that_met_every_slo() -> None:
    half = [turn(index, stamps_ns=((200 + index % 2) * MS, 250 * MS, 300 * MS)) for index in range(100)]
    good, all_of_them = (as_json(with_slo(half, ttft_ms=limit).throughput) for limit in (98.0, 99.0))
    assert good["goodput_requests_per_s"] == pytest.approx(all_of_them["goodput_requests_per_s"] / 2, abs=1e-3)
    assert all_of_them["goodput_requests_per_s"] == all_of_them["requests_per_s"]


# --- stages -----------------------------------------------------------------------------------------------------------


def test_a_model_that_could_not_be_used_is_skipped_with_its_reason_and_does_not_stop_the_others() -> None:
    stages = [planned(4, model="gone", skipped="connection refused"), planned(4)]
    gone, there = summarize(run_of(turns(4), stages)).stages
    assert as_json(gone) == {
        "model": "gone",
        "target": "t",
        "load": {"mode": "closed", "concurrency": 1},
        "level": "c1",
        "status": "skipped",
        "reason": "connection refused",
        "problem": "unusable",
        "card": None,
        "incomplete": False,
        "window_s": None,
        "slo": None,
        "server": None,
        "steadiness": None,
        "not_valid": {},
        "until": None,
        "runs": None,
    }
    assert (there.status, requests_of(there).ok) == ("played", 4)


def test_records_belong_to_the_stage_of_their_model_target_and_level() -> None:
    stages = [planned(1), planned(2, level="c2"), planned(3, model="n"), planned(4, target="u")]
    records = [*turns(1), *turns(2, level="c2"), *turns(3, model="n"), *turns(4, target="u")]
    run = run_of(records, stages, seen=[])
    assert [len(stage.measured) for stage in stages_of(run)] == [1, 2, 3, 4]
    assert [requests_of(stage).ok for stage in summarize(run).stages] == [1, 2, 3, 4]


def test_models_that_took_turns_share_the_window_of_their_level() -> None:
    load = {"mode": "closed", "concurrency": 2}
    stages = [planned(2, load=load), planned(2, load=load, model="n")]
    records = [*turns(2), *turns(2, model="n")]
    together = [facts(models=("m", "n"), targets=("t", "t"))]
    assert [len(stage.together) for stage in stages_of(run_of(records, stages, seen=together))] == [4, 4]
    alone = [facts(), facts(models=("n",))]
    assert [len(stage.together) for stage in stages_of(run_of(records, stages, seen=alone))] == [2, 2]
    first, second = summarize(run_of(records, stages, seen=together)).stages
    assert first.window_s == second.window_s == pytest.approx(1.209)


def test_our_own_part_is_told_and_judged() -> None:
    samples = tuple((101 * MS + tick * 10 * MS, 2) for tick in range(200))
    late = [turn(index, dispatched_ns=103 * MS) for index in range(20)]
    stage = stage_of(run_of(late, seen=[facts(in_flight_samples=samples, cpu_share=0.6)]))
    assert isinstance(stage.validity, Validity)
    assert as_json(stage.validity.self) == {
        "dispatch_slip_p99_ms": None,  # of twenty requests
        "dispatch_slip_p90_ms": None,
        "dispatch_slip_p50_ms": 3.0,
        "dispatch_slip_max_ms": 3.0,
        "dispatch_slip_p99_ci_ms": None,
        "dispatch_slip_p99_at_least_ms": 3.0,
        "slip_effect": {"share": 0.003, "number": "throughput", "by_ms": 3.0},
        "loop_lag_p99_ms": 1.0,
        "stamp_lag_p99_ms": None,  # of three hundred reads
        "cpu_share": 0.6,
        "gc_pause_max_ms": 0.0,
        "in_flight_sampled": 2.0,
        "in_flight_recorded": pytest.approx((20 * 0.217 - 0.010) / 19.207, abs=1e-3),
        "shared_reads_share": 0.0,
        "loop_lag_max_ms": 2.0,
        "stamp_lag_p50_ms": 0.05,
        "stamp_lag_max_ms": 0.3,
        "server_cpu_share": None,
        "achieved_share": None,
        "users_share": None,
        "over_range": 0,
        "clock_steps": 0,
    }
    assert reasons_of(stage) == ["own_cpu", "littles_law"]
    assert stage.validity.verdict == "invalid"


def test_a_stage_that_hardly_was_says_nothing_of_our_share_of_cpu() -> None:
    stage = stage_of(run_of([unsent("cancelled")], seen=[facts(start_ns=0, end_ns=MS, cpu_share=1.0)]))
    assert validity_of(stage).self.cpu_share is None
    assert "own_cpu" not in reasons_of(stage)


def test_users_who_are_not_being_answered_are_a_load_that_was_not_there() -> None:
    alone: dict[str, Any] = {"scenario": {"name": "x", "load": {"mode": "closed"}}}
    stage = stage_of(run_of(turns(20), **alone))
    assert isinstance(stage.validity, Validity)
    assert stage.validity.self.users_share == pytest.approx((20 * 0.219 - 0.010) / 19.209, abs=1e-3)
    assert reasons_of(stage) == ["achieved_users"]
    brief = stage_of(run_of([turn(index, every_ns=400 * MS) for index in range(5)], **alone))
    assert validity_of(brief).self.users_share is None, "of so short a window, one turn may be all"
    busy = [turn(index, every_ns=219 * MS) for index in range(20)]
    assert reasons_of(stage_of(run_of(busy, **alone))) == []


OPEN = {"mode": "constant", "rate_per_s": 1.0}
LATE = (6 * MS,) * len(LAG_PERCENTILES)
LATE_AT_P99 = (*[0] * (len(LAG_PERCENTILES) - 2), 6 * MS, 6 * MS)
BEHIND = [turn(index, dispatched_ns=101 * MS + index * 10_500_000) for index in range(20)]


@pytest.mark.parametrize(
    ("records", "load", "seen", "reasons"),
    [
        (turns(20), OPEN, {}, []),
        ([*turns(20), unsent("shed", 20)], OPEN, {}, ["shed"]),
        (BEHIND, OPEN, {}, ["dispatch_slip", "achieved_rate"]),
        (BEHIND, planned(1).load, {}, ["dispatch_slip"]),  # a closed loop asks for no rate
        (turns(20, dispatched_ns=102 * MS), OPEN, {}, []),
        (turns(20, dispatched_ns=103 * MS), planned(1).load, {}, []),
        (turns(20, dispatched_ns=103 * MS, intended_ns=99 * MS), OPEN, {}, ["dispatch_slip"]),
        (turns(20), OPEN, {"gc_pause_max_ns": 2 * MS}, []),
        (turns(20, stamp_source="user"), OPEN, {"gc_pause_max_ns": 2 * MS}, ["gc_pause"]),
        (turns(20), OPEN, {"clock_steps": 1}, ["clock_step"]),
        (turns(20, shared_reads=1), OPEN, {}, ["shared_reads"]),
        (turns(400), OPEN, {"loop_lag_p99_ns": 200 * MS}, []),
        (turns(400), OPEN, {"loop_lags_ns": LATE}, []),
        (turns(400, stamp_source="user"), OPEN, {"loop_lags_ns": LATE}, ["loop_lag"]),
        (turns(400, stamp_source="user"), OPEN, {"loop_lags_ns": LATE_AT_P99}, []),  # all are alike: it is in none
        (turns(20), OPEN, {"stamp_lag_p99_ns": 101 * MS}, []),  # of 300 reads, which have no p99
        (turns(20), OPEN, {"stamp_lag_p99_ns": 101 * MS, "stamped_reads": 400}, ["stamp_lag"]),
        (turns(20), OPEN, {"machine": MachineFacts(cores=2, slowdown=0.04)}, ["busy_machine"]),
        (turns(20), OPEN, {"machine": MachineFacts(cores=2, slowdown=0.9), "start_ns": 100 * S - MS}, []),
    ],
)
def test_what_was_seen_reaches_the_verdict(
    records: list[Record], load: dict[str, Any], seen: dict[str, Any], reasons: list[str]
) -> None:
    assert reasons_of(stage_of(run_of(records, [planned(len(records), load=load)], seen=[facts(**seen)]))) == reasons


def test_a_hundred_samples_are_the_least_that_tell_how_many_were_in_flight() -> None:
    for count, known in ((99, False), (100, True)):
        samples = tuple((200 * MS + tick, 1) for tick in range(count))
        stage = stage_of(run_of(turns(20), seen=[facts(in_flight_samples=samples)]))
        assert isinstance(stage.validity, Validity)
        assert (stage.validity.self.in_flight_sampled is not None) is known


def test_one_stamp_taken_in_user_space_makes_the_stage_s_stamps_user_space_ones() -> None:
    mixed = stage_of(run_of([*turns(3), turn(3, stamp_source="user")]))
    assert isinstance(mixed.validity, Validity)
    assert mixed.validity.stamp_source == "user"
    kernel = stage_of(run_of([*turns(3), unsent("connect_error", 3)]))
    assert isinstance(kernel.validity, Validity)
    assert kernel.validity.stamp_source == "kernel"


def test_a_value_beyond_the_histograms_makes_a_stage_invalid() -> None:
    stage = stage_of(run_of([*turns(9), turn(9, end_ns=4_000 * S)]))
    assert reasons_of(stage) == ["over_range"]


def test_a_stage_says_what_the_contract_says() -> None:
    run = run_of(turns(400), scenario={"name": "x", "slo": {"ttft_ms": 200.0}})
    told = as_json(summarize(run))
    assert set(told) == {
        *("schema", "scenario", "run_id", "started_utc", "stages"),
        *("incomplete", "plan_digest", "torn_lines", "streamed", "floor", "runs"),
    }
    assert told["schema"] == "loadgen.summary/1"
    (stage,) = told["stages"]
    assert set(stage) == {
        *("model", "target", "load", "requests", "window_s", "metrics", "throughput", "tokens", "validity"),
        *("level", "status", "incomplete", "slo", "server", "steadiness", "not_valid", "card", "until", "runs"),
    }
    assert {key: set(stage[key]) for key in ("requests", "throughput", "tokens", "validity")} == {
        "requests": {"planned", "ok", "failed", "by_outcome", "warmup", "retried", "attempts"},
        "throughput": {
            *("output_tokens_per_s", "requests_per_s", "per_user_tokens_per_s", "goodput_requests_per_s"),
            *("e2e_tokens_per_s", "e2e_tokens_per_s_ci"),
        },
        "tokens": {"prompt", "output", "source"},
        "validity": {"verdict", "reasons", "stamp_source", "self"},
    }
    assert list(stage["metrics"]) == [
        *("ttft_ms", "service_ttft_ms", "itl_ms", "tpot_ms", "e2e_ms", "queue_ms", "connect_ms"),
    ]
    assert set(stage["validity"]["self"]) == {
        *("dispatch_slip_p99_ms", "loop_lag_p99_ms", "stamp_lag_p99_ms", "cpu_share", "gc_pause_max_ms"),
        *("in_flight_sampled", "in_flight_recorded", "shared_reads_share", "dispatch_slip_p90_ms"),
        *("loop_lag_max_ms", "stamp_lag_p50_ms", "stamp_lag_max_ms", "server_cpu_share"),
        *("achieved_share", "users_share", "over_range", "clock_steps", "slip_effect"),
        *("dispatch_slip_p50_ms", "dispatch_slip_max_ms", "dispatch_slip_p99_ci_ms", "dispatch_slip_p99_at_least_ms"),
    }
    assert stage["load"] == {"mode": "closed", "concurrency": 1}
    assert stage["validity"]["verdict"] == "valid"


@pytest.mark.parametrize(
    "text", [b'{"stages": [1]}', b'{"stages": null}', b"[]", b'{"stages": [{"metrics": 3}]}', b"{"]
)
def test_a_text_that_is_no_summary_is_refused_as_such(text: bytes) -> None:
    with pytest.raises(msgspec.MsgspecError):
        summary_from(text)
