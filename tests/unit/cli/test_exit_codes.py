"""The exit code of a run, and the lines that say which stage is to blame."""

from typing import Any

import msgspec
import pytest

from loadgen.analysis.summarize import summarize
from loadgen.analysis.summary import Summary
from loadgen.cli.run import exit_code, failures, failures_in_runs
from loadgen.errors import ExitCode
from loadgen.record import Outcome, Record
from tests.records import MS, facts, planned, run_of, turn, unsent

RUNS = {"first": (10, 0), "second": (3, 7), "third": (8, 2)}
"""How many requests of each run were answered, and how many failed."""


def answered(ok: int, failed: int, outcome: Outcome = "http_error") -> list[Record]:
    """Turns of a user of which the last ones fail."""
    return [turn(i) if i < ok else turn(i, outcome=outcome, stamps_ns=()) for i in range(ok + failed)]


def summary_of(records: list[Record], **changes: Any) -> Summary:
    return summarize(run_of(records, seen=[facts()], **changes))


@pytest.mark.parametrize(
    ("ok", "failed", "code"),
    [(20, 0, ExitCode.DONE), (10, 10, ExitCode.DONE), (9, 11, ExitCode.GATE_FAILED), (1, 2, ExitCode.GATE_FAILED)],
)
def test_most_of_a_stage_s_requests_decide_without_a_gate(ok: int, failed: int, code: ExitCode) -> None:
    summary = summary_of(answered(ok, failed))
    assert exit_code(summary) == code
    assert bool(failures(summary)) is (code != ExitCode.DONE)


@pytest.mark.parametrize("outcome", ["timeout", "empty", "truncated", "connect_error", "stream_error"])
def test_whatever_failed_the_line_says_which_stage_how_many_and_how(outcome: Outcome) -> None:
    (line,) = failures(summary_of(answered(4, 6, outcome)))
    assert line == f"m on t, 1 user: 6 of 10 requests failed (6 {outcome})"


def test_a_stage_of_which_nothing_was_answered_is_named_once() -> None:
    (line,) = failures(summary_of(answered(0, 3)))
    assert line == (
        "m on t, 1 user: 3 of 3 requests failed (3 http_error); invalid: no request was answered, so no latency and no "
        "throughput is known; look at the outcomes, and at `detail` in requests.jsonl"
    )


def test_of_several_stages_the_one_that_failed_is_named() -> None:
    by_level = [*answered(5, 0), *(unsent("shed", i, level="c2") for i in range(5))]
    stages = [planned(5), planned(5, level="c2", load={"mode": "closed", "concurrency": 2})]
    lines = failures(summarize(run_of(by_level, stages, seen=[facts(), facts(level="c2")])))
    assert [line.partition(":")[0] for line in lines] == ["m on t, 2 users"]


def test_requests_that_were_shed_have_failed() -> None:
    records = [*answered(4, 0), *(unsent("shed", 4 + i) for i in range(6))]
    assert exit_code(summary_of(records)) == ExitCode.GATE_FAILED


def test_an_attempt_that_failed_is_no_failed_request() -> None:
    asked_again = [
        record for i in range(5) for record in (turn(i, outcome="http_error", stamps_ns=()), turn(i, attempt=1))
    ]
    assert exit_code(summary_of(asked_again, stages=[planned(5)])) == ExitCode.DONE


def test_a_gate_that_failed_says_by_how_much() -> None:
    scenario = {"slo": {"ttft_ms": 1.0, "attainment": 0.9}}
    (line,) = failures(summary_of(answered(20, 0), scenario=scenario))
    assert line == "m on t, 1 user: 90.0% of the requests must meet the SLO, and 0.0% of them did"


def test_a_gate_that_could_not_be_judged_says_why() -> None:
    scenario = {"slo": {"ttft_ms": 1000.0, "attainment": 0.9}}
    records = [turn(i, stamps_ns=(200 * MS,) * 9, shared_reads=8, output_tokens=9) for i in range(20)]
    summary = summary_of(records, scenario=scenario)
    assert exit_code(summary) == ExitCode.GATE_FAILED
    (line,) = failures(summary)
    assert "it was not judged (TTFT is not judged: tokens were held back in 20 of 20 answers" in line


def test_a_run_of_several_most_of_whose_requests_failed_is_named_whatever_the_others_hide() -> None:
    runs = [msgspec.structs.replace(summary_of(answered(*counts)), run_id=name) for name, counts in RUNS.items()]
    merged = summary_of(answered(26, 14))
    assert failures(merged) == []
    assert failures_in_runs(merged, runs) == ["second: m on t, 1 user: 7 of 10 requests failed (7 http_error)"]
    assert failures_in_runs(summary_of(answered(9, 31)), runs) == [], "said of all of them"
    assert failures_in_runs(runs[1], runs[1:2]) == [], "said of the only one"


def test_where_nothing_was_played_there_was_no_target() -> None:
    skipped = planned(5, skipped="no such model")
    assert exit_code(summary_of([], stages=[skipped])) == ExitCode.NO_TARGET
