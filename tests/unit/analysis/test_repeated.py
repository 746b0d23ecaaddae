"""Repeated runs as one: what adds up, what is averaged, what is worst, and which runs are no repeats."""

import itertools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from msgspec import UNSET
from scipy.special import stdtrit

from loadgen.analysis.metrics import gaps_of
from loadgen.analysis.same_plan import difference
from loadgen.analysis.summarize import merged, summarize
from loadgen.analysis.summary import (
    Requests,
    StageSummary,
    Steadiness,
    Summary,
    Throughput,
    Tokens,
    Validity,
    metric_data,
    summary_from,
)
from loadgen.analysis.throughput import over
from loadgen.errors import InputError
from loadgen.record import MachineFacts, Record
from loadgen.report.console import console
from loadgen.report.csv import csv_text
from loadgen.report.document import make_document, report_data
from loadgen.report.files import write_merged
from loadgen.report.main_table import main_table
from loadgen.report.markdown import markdown
from loadgen.report.sections.run_by_run import runs_table
from loadgen.stats.repeats import estimate_repeated
from loadgen.store.manifest import PlannedStage
from loadgen.store.run_folder import Run
from tests.records import MS, facts, manifest, planned, run_of, turn, unsent, write

NUMBERS = itertools.count(1)


def run(records: Sequence[Record], stages: Sequence[PlannedStage] | None = None, **changes: Any) -> Run:
    """One of several runs of a plan, with an id and a folder of its own."""
    number = next(NUMBERS)
    made = run_of(records, stages, **{"run_id": f"20260102T0304{number % 60:02d}Z-0123abcd", **changes})
    return msgspec.structs.replace(made, folder=Path(f"run-{number}"))


def turns(count: int, e2e_ms: float = 208.0, **changes: Any) -> list[Record]:
    """Turns of one user, whose answers end a little later each."""
    end = [102 * MS + int((e2e_ms + 0.01 * at) * MS) for at in range(count)]
    return [turn(at, end_ns=end[at], last_byte_ns=end[at], **changes) for at in range(count)]


def stage_of(summary: Summary) -> StageSummary:
    (stage,) = summary.stages
    return stage


def requests_of(stage: StageSummary) -> Requests:
    assert isinstance(stage.requests, Requests)
    return stage.requests


def metric_of(stage: StageSummary, name: str) -> dict[str, Any]:
    """A metric as `summary.json` has it."""
    assert isinstance(stage.metrics, dict)
    return metric_data(stage.metrics[name])


def validity_of(stage: StageSummary) -> Validity:
    assert isinstance(stage.validity, Validity)
    return stage.validity


# --- sums, means and intervals ----------------------------------------------------------------------------------------


def test_outcomes_tokens_and_windows_add_up() -> None:
    runs = [
        run([*turns(8), turn(8, outcome="timeout"), unsent("cancelled", 9)]),
        run([*turns(9), turn(9, outcome="timeout")]),
    ]
    stage, alone = stage_of(merged(runs)), [stage_of(summarize(one)) for one in runs]
    assert requests_of(stage) == Requests(
        warmup=0,
        retried=0,
        planned=20,
        ok=17,
        failed=3,
        by_outcome={"ok": 17, "timeout": 2, "cancelled": 1},
        attempts=19,
    )
    assert stage.tokens == Tokens(prompt=170, output=51, source="usage")
    assert stage.window_s == pytest.approx(sum(one.window_s or 0 for one in alone))
    assert stage.runs is not None
    assert stage.runs.windows_s == tuple(one.window_s for one in alone)


def test_outcomes_stand_in_one_order_whichever_run_had_them_first() -> None:
    late, stopped = run([turn(0, outcome="timeout")]), run([unsent("cancelled"), turn(1)])
    for runs in ([late, stopped], [stopped, late]):
        assert list(requests_of(stage_of(merged(runs))).by_outcome) == ["ok", "timeout", "cancelled"]


def test_a_run_without_an_answer_does_not_say_who_counted_the_tokens() -> None:
    answered = run(turns(8, token_source="events", prompt_tokens=None))
    silent = run([turn(0, outcome="timeout")])
    assert stage_of(merged([answered, silent])).tokens == Tokens(prompt=None, output=24, source="events")
    assert stage_of(merged([silent, run([turn(0, outcome="timeout")])])).tokens == Tokens(0, 0, "usage")


def test_percentiles_are_those_of_a_typical_run_with_the_runs_own_beside_them() -> None:
    runs = [run(turns(40, e2e_ms)) for e2e_ms in (200.0, 210.0, 230.0)]
    metric = metric_of(stage_of(merged(runs)), "e2e_ms")
    values = [(r.end_ns or 0) - (r.sent_ns or 0) for one in runs for r in one.records]
    found = estimate_repeated(np.array(values), np.repeat(np.arange(3), 40), [50.0, 99.0])
    assert metric["count"] == 120
    assert metric["mean"] == pytest.approx(np.mean(values) / MS, abs=1e-4)
    assert (metric["min"], metric["max"]) == (min(values) / MS, max(values) / MS)
    assert metric["p50"] == pytest.approx((found[0].value or 0) / MS, abs=1e-4)
    assert metric["p50_ci"] == pytest.approx([(found[0].low or 0) / MS, (found[0].high or 0) / MS], abs=1e-4)
    assert metric["p50_runs"] == [metric_of(stage_of(summarize(one)), "e2e_ms")["p50"] for one in runs]
    assert metric["p99"] is None, "40 requests a run do not show it, however many runs there are"
    assert metric["p99_at_least"] == pytest.approx((found[1].low or 0) / MS, abs=1e-4)


def test_runs_that_differ_widen_the_interval_and_more_requests_do_not_narrow_it() -> None:
    def width(*e2e_ms: float, count: int = 40) -> float:
        low, high = metric_of(stage_of(merged([run(turns(count, one)) for one in e2e_ms])), "e2e_ms")["p50_ci"]
        return float(high - low)

    assert width(200, 201, 202) < width(200, 220, 240)
    assert width(200, 220, 240, count=400) == pytest.approx(width(200, 220, 240), rel=0.1)


def test_gaps_are_bound_by_the_requests_of_each_run_not_by_tokens() -> None:
    def spoken(requests: int) -> list[Record]:
        gaps_ms = [[20 + (at * 7 + gap * 13) % 31 for gap in range(40)] for at in range(requests)]
        stamps = [tuple(int((200 + sum(one[:gap])) * MS) for gap in range(41)) for one in gaps_ms]
        return [turn(at, every_ns=3_000 * MS, stamps_ns=stamps[at]) for at in range(requests)]

    few, many = (metric_of(stage_of(merged([run(spoken(n)), run(spoken(n))])), "itl_ms") for n in (5, 60))
    assert (few["count"], few["p50"], few["p90"]) == (400, None, None)
    gaps = gaps_of(spoken(60))
    ids = np.repeat([0, 1], gaps.values.size)
    found = estimate_repeated(np.tile(gaps.values, 2), ids, [90.0], request_ids=np.tile(gaps.owners, 2))[0]
    assert many["p90"] == pytest.approx((found.value or 0) / MS)


def test_a_rate_is_the_mean_of_the_runs_with_an_interval_over_them() -> None:
    runs = [run(turns(40, every_ns=every * MS)) for every in (1_000, 1_100, 1_300)]
    stage = stage_of(merged(runs))
    alone = [stage_of(summarize(one)).throughput for one in runs]
    each = [one.requests_per_s for one in alone if isinstance(one, Throughput)]
    known = [rate for rate in each if rate is not None]
    assert stage.runs is not None
    rate = stage.runs.throughput["requests_per_s"]
    reach = float(stdtrit(2, 0.975)) * float(np.std(known, ddof=1)) / math.sqrt(3)
    assert isinstance(stage.throughput, Throughput)
    assert len(known) == 3
    assert rate.values == tuple(each)
    assert stage.throughput.requests_per_s == rate.mean == pytest.approx(np.mean(known), abs=1e-3)
    assert rate.ci == pytest.approx((np.mean(known) - reach, np.mean(known) + reach), abs=1e-3)


def test_one_value_has_no_interval_and_none_has_no_mean() -> None:
    assert (over([3.0, None]).mean, over([3.0, None]).ci) == (3.0, None)
    assert (over([None, None]).mean, over([None, None]).ci) == (None, None)


def test_the_slo_is_met_by_the_share_of_all_requests() -> None:
    asked = {"name": "x", "slo": {"e2e_ms": 250.0, "attainment": 0.6}}
    runs = [run(turns(8, 200.0), scenario=asked), run(turns(8, 300.0), scenario=asked)]
    slo = stage_of(merged(runs)).slo
    assert slo is not None
    assert (slo.met, slo.share, slo.passed) == (8, 0.5, False)


# --- verdicts ---------------------------------------------------------------------------------------------------------


def test_the_verdict_is_the_worst_and_each_reason_says_in_how_many_runs() -> None:
    late = facts(cpu_share=0.6)
    later = facts(cpu_share=0.95, clock_steps=1)
    runs = [run(turns(8), seen=[seen]) for seen in (facts(), late, later, facts(), facts())]
    stage = stage_of(merged(runs))
    validity, alone = validity_of(stage), [validity_of(stage_of(summarize(one))) for one in runs]
    assert validity.verdict == "invalid"
    assert stage.runs is not None
    assert stage.runs.verdicts == tuple(one.verdict for one in alone)
    reasons = {reason.code: reason for reason in validity.reasons}
    worst = next(reason for reason in alone[2].reasons if reason.code == "own_cpu")
    assert reasons["own_cpu"].observed == f"{worst.observed}, in 2 of 5 runs"
    assert reasons["own_cpu"].fatal
    assert reasons["clock_step"].observed.endswith("in 1 of 5 runs")
    assert validity.self.cpu_share == 0.95
    assert validity.self.clock_steps == 1


def test_of_a_stage_that_one_run_alone_played_the_reasons_are_those_of_that_run() -> None:
    gone = [planned(8, skipped="no such model", problem="input")]
    played = run(turns(8), seen=[facts(clock_steps=1)])
    stage, alone = stage_of(merged([run([], gone, seen=[]), played])), stage_of(summarize(played))
    assert validity_of(stage) == validity_of(alone)
    assert [reason.code for reason in validity_of(stage).reasons] == ["clock_step"]


def test_of_the_machine_the_run_is_shown_that_its_neighbors_slowed_most() -> None:
    calm, busy = (MachineFacts(cores=2, slowdown=slowdown) for slowdown in (0.01, 0.4))
    stage = stage_of(merged([run(turns(8), seen=[facts(machine=one)]) for one in (calm, busy, calm)]))
    assert validity_of(stage).machine == busy
    (reason,) = validity_of(stage).reasons
    assert (reason.code, reason.fatal) == ("busy_machine", True)
    assert reason.observed.endswith("in 1 of 3 runs")


def test_runs_that_were_all_believable_are() -> None:
    stage = stage_of(merged([run(turns(40)), run(turns(40))]))
    assert validity_of(stage).verdict == "valid"
    assert stage.steadiness == Steadiness(steady=True, why="steady", warmed_after=0, growth=0.0)


def test_one_run_that_never_settled_is_what_is_said_of_steadiness() -> None:
    growing = [turn(at, stamps_ns=tuple((200 + 20 * at + more) * MS for more in (0, 50, 100))) for at in range(60)]
    runs = [run(turns(60)), run(growing)]
    assert stage_of(summarize(runs[0])).steadiness != stage_of(summarize(runs[1])).steadiness
    assert stage_of(merged(runs)).steadiness == stage_of(summarize(runs[1])).steadiness


# --- runs that are not whole ------------------------------------------------------------------------------------------


def test_a_run_that_was_cut_short_counts_but_is_not_compared() -> None:
    stages, whole = [planned(40)], [facts()]
    runs = [run(turns(40, e2e), stages, seen=whole) for e2e in (200.0, 210.0)]
    runs.insert(1, run(turns(3, 900.0), stages, seen=[facts(complete=False)], state="interrupted"))
    summary = merged(runs)
    stage = stage_of(summary)
    assert summary.incomplete
    assert requests_of(stage).by_outcome == {"ok": 83, "cancelled": 37}
    metric = metric_of(stage, "e2e_ms")
    assert metric["count"] == 80
    assert metric["p50_runs"][1] is None
    assert 200 < metric["p50"] < 211
    assert stage.runs is not None
    assert stage.runs.throughput["requests_per_s"].values[1] is None


def test_a_stage_that_was_skipped_in_one_run_is_of_the_others() -> None:
    gone = [planned(40, skipped="no such model", problem="input")]
    runs = [run([], gone, seen=[]), run(turns(40, 200.0)), run(turns(40, 210.0))]
    summary = merged(runs)
    stage = stage_of(summary)
    assert (stage.status, stage.incomplete) == ("played", True)
    assert stage.runs is not None
    assert (stage.runs.played, stage.runs.verdicts[0]) == (2, "skipped")
    assert metric_of(stage, "e2e_ms")["count"] == 80
    assert any("played in 2 of 3 runs" in note for note in main_table(summary).remarks)
    nobody = merged([run([], gone, seen=[]), run([], gone, seen=[])])
    assert stage_of(nobody).status == "skipped"


# --- what may be merged -----------------------------------------------------------------------------------------------


def test_runs_of_other_plans_are_refused_and_what_differs_is_said() -> None:
    one = run(turns(8))
    other = run(
        turns(8), plan_digest="f" * 64, scenario={"name": "x", "seed": 2, "load": {"mode": "closed", "requests": 3}}
    )
    with pytest.raises(InputError) as told:
        merged([one, other])
    assert str(told.value).startswith(f"{other.folder}: not the same plan as {one.folder}: load.")
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"scenario": {"name": "y", "strict": True}}, None),
        ({"scenario": {"name": "x", "slo": {"ttft_ms": 9.0}}}, "slo.ttft_ms is not set there and 9.0 here"),
        ({"plan_digest": "f" * 64, "scenario": {"name": "x", "seed": 2}}, "seed is 1 there and 2 here"),
        ({"plan_digest": "f" * 64, "prompts": ()}, "the prompts differ"),
        ({"plan_digest": "f" * 64}, "the plans' digests differ"),
        ({"stages": [planned(1, target="elsewhere")]}, "the models' addresses differ"),
        ({"scenario": {"name": "x", "slo": {"objectives": ["ok=99%"]}}}, None),
        (
            {"scenario": {"name": "x", "slo": {"objectives": ["ok=99%"], "ttft_ms": 9.0}}},
            "slo.ttft_ms is not set there",
        ),
    ],
)
def test_only_what_decides_what_is_sent_or_how_it_is_judged_keeps_runs_apart(
    changes: dict[str, Any], told: str | None
) -> None:
    changes = dict(changes)
    stages = changes.pop("stages", [planned(1)])
    found = difference(
        manifest([planned(1)], scenario={"name": "x"}), manifest(stages, **{"scenario": {"name": "x"}, **changes})
    )
    assert found is None if told is None else (found or "").startswith(told)


def test_other_objectives_keep_runs_apart_neither_alone_nor_beside_a_limit() -> None:
    slos: list[dict[str, Any]] = [{"ttft_ms": 9.0, "objectives": ["ok=99%"]}, {"ttft_ms": 9.0}]
    with_objectives, without = (manifest([planned(1)], scenario={"name": "x", "slo": slo}) for slo in slos)
    assert difference(with_objectives, without) is None
    runs = [run(turns(8), scenario={"name": "x", "slo": {**slo, "e2e_ms": 250.0}}) for slo in slos]
    assert merged(runs).runs == tuple(each.manifest.run_id for each in runs)


def test_one_run_and_one_twice_are_refused() -> None:
    one = run(turns(8))
    with pytest.raises(InputError, match="give two or more"):
        merged([one])
    with pytest.raises(InputError, match="give each run once"):
        merged([one, run(turns(8)), one])


# --- reports ----------------------------------------------------------------------------------------------------------


def test_the_reports_say_that_they_are_of_several_runs() -> None:
    runs = [run(turns(40, e2e)) for e2e in (200.0, 220.0)]
    summary = merged(runs)
    assert summary.runs == tuple(one.manifest.run_id for one in runs)
    assert summary.run_id == f"{runs[0].manifest.run_id}-x2"
    text = console(summary)
    assert "2 runs of one plan" in text
    assert "80/80" in text
    page = markdown(make_document(report_data(summary, runs)))
    assert all(f"`{name}`" in page for name in summary.runs)
    table = runs_table(summary)
    assert table is not None
    assert [column.title for column in table.columns][-2:] == ["run 1", "run 2"]
    rows = {row.cells[1]: row.cells[2:] for row in table.rows}
    assert rows["E2E p50"][2:] == ("200 ms", "220 ms")
    assert "run 2" in page
    assert csv_text(summary).count("\n") == 2
    assert runs_table(summarize(runs[0])) is None


@pytest.mark.slow
def test_the_same_runs_have_the_same_folder_and_others_another(tmp_path: Path) -> None:
    folders = []
    for e2e in (200.0, 210.0, 220.0):
        made = run(turns(8, e2e))
        folders.append(write(tmp_path / made.manifest.run_id, made))
    summary, folder = write_merged(folders[:2])
    assert folder == tmp_path / f"{folders[0].name}-x2"
    assert sorted(path.name for path in folder.iterdir()) == ["report.html", "report.md", "summary.csv", "summary.json"]
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert summary_from(before["summary.json"]) == summary
    assert write_merged(folders[:2])[1] == folder
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert write_merged([folders[0], folders[2]])[1].name == f"{folders[0].name}-x2-2"
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_a_summary_of_one_run_is_of_no_runs() -> None:
    alone = summarize(run(turns(8)))
    assert alone.runs == ()
    assert stage_of(alone).runs is None
    assert stage_of(alone).metrics is not UNSET
