"""Stages that end when enough is known: what may be asked, when it is looked at, and when it is enough."""

import asyncio
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from loadgen.analysis import metrics, stop_rule_monitor
from loadgen.analysis.samples import Samples
from loadgen.analysis.stop_rule_monitor import (
    Series,
    StopRuleMonitor,
    earliest_end,
    estimate_for,
    first_look,
    needed,
    reason_unreachable,
    sampler,
)
from loadgen.analysis.summarize import summarize
from loadgen.analysis.summary import Until
from loadgen.errors import InputError
from loadgen.plan.plan import Plan, digest, make_plan, parts
from loadgen.plan.prompts import Prompt
from loadgen.plan.rng import generator
from loadgen.record import LatencyOrigin, Record
from loadgen.report.main_table import main_table
from loadgen.report.plan_text import plan_data, plan_table
from loadgen.report.text_table import Screen
from loadgen.scenario import Closed, Constant, Load, Model, Scenario
from loadgen.scenario.file import load_scenario
from loadgen.scenario.overrides import Overrides
from loadgen.scenario.stop_rule import StopRule, mismatch, stop_rule_of
from loadgen.stats.quantile import STOPPED_CONFIDENCE, estimate, estimate_clustered, moments_of
from tests.records import MS, facts, planned, record, run_of, turn, unsent

P50 = StopRule("e2e", 50.0, 0.1)
WHO = (("t", "m"),)

# --- what may be asked ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "goal"),
    [
        ("ttft_p99:5%", StopRule("ttft", 99.0, 0.05)),
        ("service_ttft_p90:10%", StopRule("service_ttft", 90.0, 0.1)),
        ("itl_p99.9:2.5%", StopRule("itl", 99.9, 0.025)),
        ("e2e_p50:100%", StopRule("e2e", 50.0, 1.0)),
    ],
)
def test_a_goal_is_a_metric_a_percentile_and_a_width(text: str, goal: StopRule) -> None:
    assert mismatch(text) is None
    assert stop_rule_of(text) == goal
    assert goal.percentile in text


@pytest.mark.parametrize(
    ("text", "mend"),
    [
        ("ttft_p99", "write e.g. ttft_p99:5%"),
        ("ttft_p99:5", "write e.g. ttft_p99:5%"),
        ("ttft p99 5%", "write e.g. ttft_p99:5%"),
        ("", "write e.g. ttft_p99:5%"),
        ("tttf_p99:5%", "did you mean ttft?"),
        ("queue_p99:5%", "write ttft, service_ttft, itl, tpot or e2e"),
        ("ttft_p75:5%", "write p50, p90, p95, p99 or p99.9"),
        ("ttft_p9..9:5%", "write p50, p90, p95, p99 or p99.9"),
        ("ttft_p99:0%", "write e.g. ttft_p99:5%"),
        ("ttft_p99:101%", "write e.g. ttft_p99:5%"),
    ],
)
def test_a_wrong_goal_is_one_line_that_names_the_flag_and_the_mend(text: str, mend: str, tmp_path: Path) -> None:
    path = tmp_path / "x.toml"
    path.write_text('name = "x"\nprompts = ["Say hello."]\n')
    with pytest.raises(InputError) as told:
        load_scenario(str(path), Overrides(until=text))
    assert str(told.value).startswith(f"--until {text}: until: ")
    assert str(told.value).endswith(f"; {mend}")
    assert "\n" not in str(told.value)
    with pytest.raises(ValueError, match=r"write|did you mean"):
        stop_rule_of(text)


def test_what_a_whole_answer_does_not_have_is_not_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "x.toml"
    path.write_text('name = "x"\nprompts = ["Say hello."]\nuntil = "itl_p50:5%"\n[sampling]\nstream = false\n')
    with pytest.raises(InputError, match=r"x\.toml: until: answers that are not streamed .* have no itl; use e2e"):
        load_scenario(str(path))
    assert load_scenario(str(path), Overrides(until="e2e_p50:5%")).scenario.until == "e2e_p50:5%"


# --- the plan ---------------------------------------------------------------------------------------------------------


def plan_of(load: Load, goal: str | None = "e2e_p50:10%", **changes: Any) -> Plan:
    scenario = Scenario(name="x", prompts="p", load=load, models=(Model(name="m", target="llamacpp"),), until=goal)
    return make_plan(msgspec.structs.replace(scenario, **changes), (Prompt("a", "Say hello."),))


@pytest.mark.parametrize("load", [Closed(requests=500), Constant((5.0,), requests=500)])
def test_the_requests_of_a_plan_are_the_most_and_none_is_promised(load: Load) -> None:
    plan = plan_of(load)
    (stage,) = plan.stages
    assert (stage.count, stage.planned_of(0), stage.promised) == (500, None, False)
    assert plan_of(load, None).stages[0].planned_of(0) == 500
    assert {part.until for part in parts(stage, 2)} == {P50}
    assert digest(plan) != digest(plan_of(load, None))
    assert digest(plan) != digest(plan_of(load, "e2e_p50:11%"))


def test_the_plan_says_until_when() -> None:
    text = plan_table(plan_of(Closed(requests=500)), {}, Screen(150))
    assert "at most 500" in text
    assert "until e2e p50 ±10 %" in text
    assert plan_data(plan_of(Closed(requests=500)))["stages"][0]["until"] == "e2e_p50:10%"
    assert "until" not in plan_table(plan_of(Closed(requests=500), None), {}, Screen(150))


@pytest.mark.parametrize(("requests", "told"), [(37, True), (38, False), (None, False)])
def test_a_budget_below_the_second_look_is_warned_of(requests: int | None, told: bool) -> None:
    load = Closed(requests=requests, duration_s=None if requests else 60.0)
    assert (reason_unreachable(plan_of(load)) is not None) == told
    assert reason_unreachable(plan_of(load, None)) is None


def test_the_fewest_requests_are_those_of_two_looks() -> None:
    assert [first_look(StopRule("ttft", p, 0.05)) for p in (50.0, 90.0, 99.0)] == [30, 72, 736]
    assert [earliest_end(StopRule("ttft", p, 0.05)) for p in (50.0, 90.0, 99.0)] == [38, 90, 920]
    assert first_look(StopRule("ttft", 99.0, 0.05), "strict") == 1_324


# --- looking ----------------------------------------------------------------------------------------------------------


def watch(goal: StopRule, models: int = 1) -> tuple[StopRuleMonitor, list[str]]:
    told: list[str] = []
    return StopRuleMonitor(goal, models, "contract", enough=lambda: told.append("enough"), report=told.append), told


def ended_after(goal: StopRule, values: Iterable[int]) -> int | None:
    """After how many requests it was enough."""
    watching, told = watch(goal)
    for at, value in enumerate(values, start=1):
        watching.take((0, (int(value),)))
        if watching.met:
            assert told.count("enough") == 1
            return at
    return None


def test_looks_are_at_geometrically_growing_numbers_and_two_in_a_row_are_enough() -> None:
    steady = [100 * MS + at for at in range(1_000)]
    assert ended_after(P50, steady) == 38
    wild = [1 * MS, 100 * MS] * 15
    assert ended_after(P50, [*wild, *steady]) in {48, 60, 75, 94, 118, 148, 185, 232}


def test_one_narrow_look_is_not_enough() -> None:
    p90 = StopRule("e2e", 90.0, 0.1)
    narrow, wide = [100 * MS] * 72, [100 * MS] * 6 + [10_000 * MS] * 12
    assert ended_after(p90, narrow) is None
    assert ended_after(p90, [*narrow, *wide]) is None
    assert ended_after(p90, [*narrow, *narrow]) == 90


def test_what_is_too_uncertain_never_ends() -> None:
    assert ended_after(P50, [1 * MS, 100 * MS] * 1_000) is None


def test_a_stage_of_several_models_ends_when_all_are_known() -> None:
    watching, told = watch(P50, models=2)
    for _ in range(60):
        watching.take((0, (100 * MS,)))
    assert "enough" not in told
    assert told[-1] == "e2e p50 not known yet (asked: ±10 %)"
    for at in range(60):
        watching.take((1, (50 * MS + at,)))
        watching.take(None)
    assert watching.met
    assert told.count("enough") == 1


def test_the_bar_is_told_the_present_width() -> None:
    watching, told = watch(P50)
    values = generator(1, "until").normal(100, 10, 40) * MS
    for value in values.astype(np.int64)[:30]:
        watching.take((0, (int(value),)))
    quantile = estimate_for(Samples(values.astype(np.int64)[:30]), P50)
    assert quantile == estimate(np.sort(values.astype(np.int64)[:30]), [50.0], confidence=STOPPED_CONFIDENCE)[0]
    assert quantile.low is not None
    assert quantile.high is not None
    assert quantile.value is not None
    width = (quantile.high - quantile.low) / 2 / quantile.value
    assert told == [f"e2e p50 ±{100 * width:.2g} % (asked: ±10 %)"]


def test_a_long_look_is_taken_beside_the_event_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stop_rule_monitor, "AT_ONCE", 30)

    async def main() -> None:
        enough = asyncio.Event()
        watching = StopRuleMonitor(P50, 1, "contract", enough=enough.set, report=lambda _: None)
        for at in range(400):
            watching.take((0, (100 * MS + at,)))
            before = watching.met
            await asyncio.sleep(0)
            assert not before or enough.is_set()
        assert len(asyncio.all_tasks()) == 1
        await asyncio.wait_for(enough.wait(), 20)

    asyncio.run(main())


# --- what a request tells ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("origin", ["sent", "intended"])
@pytest.mark.parametrize("metric", ["ttft", "service_ttft", "tpot", "e2e"])
def test_a_request_tells_what_the_summary_takes_of_it(metric: str, origin: LatencyOrigin) -> None:
    sample = sampler(StopRule(metric, 50.0, 0.1), WHO, origin=origin)
    one = record()
    assert sample(one) == (0, tuple(metrics.of_requests([one], origin=origin)[metric].tolist()))


def test_failures_warm_up_and_what_has_no_value_tell_nothing() -> None:
    sample = sampler(StopRule("tpot", 50.0, 0.1), WHO, origin="sent")
    silent = [record(phase="warmup"), record(outcome="timeout"), unsent("shed"), record(output_tokens=1)]
    assert [sample(one) for one in silent] == [None] * 4


def test_gaps_are_looked_at_as_the_summary_does() -> None:
    goal, rng = StopRule("itl", 90.0, 0.1), generator(2, "until")
    records = [_spoken(at, rng.exponential(20, size=3 + at % 5)) for at in range(200)]
    records.insert(7, record(stamps_ns=(5 * MS,)))
    series, sample = Series(goal, "contract"), sampler(goal, WHO, origin="sent")
    for one in records:
        if (told := sample(one)) is not None:
            series.take(told[1])
    gaps = metrics.gaps_of(records)
    moments = moments_of(metrics.gap_ends(*metrics.flat_stamps(records)), gaps.values)
    whole = estimate_clustered(gaps.values, gaps.owners, [90.0], moments=moments, confidence=STOPPED_CONFIDENCE)
    assert series.estimate(series.begin()) == whole[0]
    assert whole[0].value is not None


def _spoken(at: int, gaps_ms: Any) -> Record:
    stamps = at * 50 * MS + np.cumsum(np.array(gaps_ms) * MS).astype(np.int64)
    return record(index=at, stamps_ns=tuple(stamps.tolist()))


# --- what the summary says --------------------------------------------------------------------------------------------


def summed(count: int, *, ended_early: bool, goal: str = "e2e_p50:10%", noise: float = 0.02) -> tuple[Until, str]:
    """What a stage of so many requests says of its goal, and the note under the table."""
    rng = generator(3, "until", count)
    ended = [int((300 + 300 * noise * x) * MS) for x in rng.normal(size=count)]
    records = [turn(at, end_ns=102 * MS + ended[at]) for at in range(count)]
    run = run_of(records, [planned(None)], seen=[facts(ended_early=ended_early)], scenario={"name": "x", "until": goal})
    summary = summarize(run)
    (stage,) = summary.stages
    assert stage.until is not None
    assert stage.requests is not msgspec.UNSET
    assert stage.requests.planned == count
    assert not stage.incomplete
    return stage.until, next(note for note in main_table(summary).remarks if "E2E p50" in note)


def test_a_stage_that_ended_early_says_how_well_it_is_known() -> None:
    told, note = summed(40, ended_early=True)
    assert (told.metric, told.percentile, told.asked) == ("e2e", "p50", 0.1)
    assert (told.early, told.requests, told.needed) == (True, 40, None)
    assert told.reached == told.width
    assert told.width is not None
    assert 0 < told.width < 0.1
    assert f"ended early: E2E p50 is known to ±{100 * told.width:.3g} % (asked: ±10 %) after 40 answered" in note


def test_a_stage_that_spent_its_budget_says_about_how_many_requests_would_do() -> None:
    told, note = summed(100, ended_early=False, goal="e2e_p50:1%", noise=0.2)
    assert told.width is not None
    assert told.reached is None
    assert told.needed == pytest.approx(100 * (told.width / 0.01) ** 2, rel=0.01)
    assert note.endswith("would be enough")
    assert f"known to ±{100 * told.width:.3g} % (asked: ±1 %) after 100 answered requests" in note


def test_a_budget_that_was_just_enough_has_reached_it() -> None:
    told, note = summed(37, ended_early=False)
    assert told.reached == told.width
    assert not told.early
    assert told.needed is None
    assert "ended early" not in note


def test_a_percentile_that_is_not_bounded_needs_two_looks_at_least() -> None:
    told, _ = summed(5, ended_early=False)
    assert (told.width, told.reached, told.needed) == (None, None, 38)
    assert needed(None, 1_000, P50) == 1_250


def test_the_interval_that_decided_is_the_wider_one() -> None:
    def ends(goal: str | None) -> list[float]:
        records = [turn(at, end_ns=(402 + at) * MS) for at in range(400)]
        (stage,) = summarize(run_of(records, scenario={"name": "x", "until": goal})).stages
        assert stage.metrics is not msgspec.UNSET
        return list(stage.metrics["e2e_ms"].percentile("p50").interval or ())

    (low, high), (wide_low, wide_high) = ends(None), ends("e2e_p50:10%")
    assert wide_low < low < high < wide_high
