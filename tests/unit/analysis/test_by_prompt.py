"""A run by prompt, its outliers, and what the highlights dare to say."""

import csv
import io
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadgen.analysis.by_prompt import ValueRange, rows_by_prompt
from loadgen.analysis.summarize import summarize
from loadgen.decisions.baseline import KEPT, baseline_folder, keep_baseline, why_not_kept
from loadgen.errors import InputError
from loadgen.report.csv import prompts_csv
from loadgen.report.document import make_document, report_data
from loadgen.report.files import write_reports
from loadgen.report.markdown import markdown
from loadgen.report.sections.by_prompt import MAX_ROWS, prompts_table
from loadgen.report.sections.highlights import NOTHING, highlight_lines
from loadgen.stats.outlier import outliers
from loadgen.store.run_folder import Run
from tests.records import MS, facts, planned, run_of, turn, unsent, write

# --- outliers ---------------------------------------------------------------------------------------------------------


def marked(*values: int) -> list[bool]:
    return [bool(mark) for mark in outliers(np.array(values, dtype=np.int64))]


def test_what_lies_far_from_the_others_is_marked_above_and_below() -> None:
    # The median is 12, the median distance from it 1: beyond 12 ± 5.19 is far.
    assert marked(11, 11, 12, 12, 13, 13, 18, 6) == [False] * 6 + [True, True]
    assert marked(11, 11, 12, 12, 13, 13, 17, 7) == [False] * 8


def test_among_fewer_than_five_nothing_is_unusual() -> None:
    assert marked(10, 11, 12, 1_000_000) == [False] * 4


def test_where_half_of_the_values_are_equal_there_is_no_scale() -> None:
    assert marked(10, 10, 10, 10, 99) == [False] * 5


@given(st.lists(st.integers(-(10**12), 10**12), max_size=40), st.integers(-(10**12), 10**12))
def test_a_shift_of_all_values_marks_the_same_and_never_half_of_them(values: list[int], shift: int) -> None:
    marks = marked(*values)
    assert marks == marked(*(value + shift for value in values))
    assert sum(marks) * 2 <= len(values)


# --- by prompt --------------------------------------------------------------------------------------------------------


def by_prompt(count: int = 12) -> Run:
    """Three prompts in turn; the 6th request, of the third prompt, takes ten times as long, and the 7th fails."""
    records = []
    for i in range(count):
        late = 2_000 * MS if i == 5 else i % 4 * MS
        base = turn(i, every_ns=5_000 * MS, prompt_id=f"p{i % 3 + 1}")
        stamps = tuple(stamp + late for stamp in base.stamps_ns)
        records.append(msgspec.structs.replace(base, stamps_ns=stamps, end_ns=(base.end_ns or 0) + late))
    records[6] = msgspec.structs.replace(records[6], outcome="timeout")
    prompts = tuple({"id": f"p{i}", "characters": 1, "key_points": []} for i in (3, 1, 2))
    return run_of(records, prompts=prompts)


def test_each_prompt_has_its_spread_its_failures_and_its_outliers() -> None:
    rows = rows_by_prompt(by_prompt())
    assert [(row.prompt_id, row.ok, row.failed, row.outliers) for row in rows] == [
        ("p3", 4, 0, 1),
        ("p1", 3, 1, 0),
        ("p2", 4, 0, 0),
    ]
    assert rows[0].ttft == ValueRange(98.0, 100.5, 2098.0)
    assert rows[0].e2e == ValueRange(208.0, 210.5, 2208.0)
    assert rows[0].output_tokens == 3.0


def test_a_prompt_that_nobody_answered_has_no_latency() -> None:
    (row,) = rows_by_prompt(run_of([unsent("connect_error")]))
    assert (row.ok, row.failed, row.ttft, row.e2e, row.output_tokens) == (0, 1, None, None, None)


def test_warm_up_is_no_part_of_it() -> None:
    (row,) = rows_by_prompt(run_of([turn(0), turn(1, phase="warmup")]))
    assert row.ok == 1


def test_prompts_csv_has_a_row_a_stage_and_prompt() -> None:
    run = by_prompt()
    rows = list(csv.DictReader(io.StringIO(prompts_csv(summarize(run), rows_by_prompt(run)))))
    assert [(row["prompt_id"], row["outliers"], row["ttft_max_ms"]) for row in rows] == [
        ("p3", "1", "2098.0"),
        ("p1", "0", "101.0"),
        ("p2", "0", "101.0"),
    ]


def test_the_report_marks_outliers_and_says_by_which_rule() -> None:
    run = by_prompt()
    told = markdown(make_document(report_data(summarize(run), [run])))
    assert "| p3 | 4/4 | 100 ms | 2.1 s | 210 ms | 208 ms | 2.21 s | 3 | ▲ 1 of 4 |" in told
    assert "above 3.5, among 5 or more" in told


def test_of_a_long_table_the_report_keeps_what_is_marked() -> None:
    records = [turn(i, prompt_id=f"p{i:03}") for i in range(MAX_ROWS + 1)]
    records[7] = msgspec.structs.replace(records[7], outcome="timeout")
    table = prompts_table(rows_by_prompt(run_of(records)))
    assert [row.cells[1] for row in table.rows] == ["p007"]
    assert table.remarks[-1] == f"{MAX_ROWS} more rows are in prompts.csv"


# --- highlights -------------------------------------------------------------------------------------------------------


def two(count: int, late_ms: int, **of_b: Any) -> Run:
    """Models a and b at one level; b is so much later, and has a larger process."""
    late = late_ms * MS
    first = [turn(i, model="a") for i in range(count)]
    base = [turn(i, model="b") for i in range(count)]
    second = [
        msgspec.structs.replace(r, stamps_ns=tuple(s + late for s in r.stamps_ns), end_ns=(r.end_ns or 0) + late)
        for r in base
    ]
    jitter = [
        msgspec.structs.replace(
            r, stamps_ns=tuple(s + i % 7 * MS for s in r.stamps_ns), end_ns=(r.end_ns or 0) + i % 7 * MS
        )
        for i, r in [*enumerate(first), *enumerate(second)]
    ]
    stages = [planned(count, model="a"), planned(count, model="b", **of_b)]
    return run_of(jitter, stages, seen=[facts(models=("a",)), facts(models=("b",))])


def lines(run: Run) -> dict[str, str]:
    return dict(line.split(": ", 1) for line in highlight_lines(summarize(run)))


def test_the_better_model_is_named_where_the_intervals_lie_apart() -> None:
    told = lines(two(40, 50))
    assert told["1 user, lowest TTFT"].startswith("a on t, 101 ms (")
    assert told["1 user, lowest TTFT"].endswith("; b on t 151 ms")
    assert told["1 user, lowest E2E"].startswith("a on t")
    assert told["1 user, highest throughput of an answer"].startswith("a on t, 14.2 tok/s (")


def test_where_they_overlap_nobody_is_named() -> None:
    told = lines(two(40, 0))
    assert {line.partition(" (")[0] for line in told.values()} == {NOTHING}


def test_with_too_few_requests_for_an_interval_nobody_is_named() -> None:
    assert set(lines(two(5, 500))) == {
        "1 user, lowest TTFT",
        "1 user, lowest E2E",
        "1 user, least time per token",
        "1 user, highest throughput of an answer",
    }
    assert all(line.startswith(NOTHING) for line in lines(two(5, 500)).values())


def test_an_invalid_level_is_named_and_not_compared() -> None:
    run = two(40, 50)
    run = msgspec.structs.replace(run, facts=(run.facts[0], facts(models=("b",), cpu_share=0.95)))
    assert highlight_lines(summarize(run)) == ["1 user: b on t is invalid, so not compared"]


def test_models_at_different_levels_are_not_compared() -> None:
    assert highlight_lines(summarize(two(40, 50, level="c2", load={"mode": "closed", "concurrency": 2}))) == []
    assert highlight_lines(summarize(run_of([turn(i) for i in range(40)]))) == []


# --- baselines --------------------------------------------------------------------------------------------------------


def test_a_baseline_is_what_a_run_said_without_its_requests(tmp_path: Path) -> None:
    run = write(tmp_path / "run", by_prompt())
    write_reports(run)
    folder = baseline_folder(tmp_path, "before", force=False)
    keep_baseline(run, folder)
    assert folder == tmp_path / "baselines" / "before"
    assert {path.name for path in folder.iterdir()} == set(KEPT)
    assert all((folder / name).read_bytes() == (run / name).read_bytes() for name in KEPT)


def test_a_baseline_is_not_replaced_unless_that_is_asked_for(tmp_path: Path) -> None:
    (tmp_path / "baselines" / "before").mkdir(parents=True)
    with pytest.raises(InputError, match="already exists; choose another name, or add --force"):
        baseline_folder(tmp_path, "before", force=False)
    assert baseline_folder(tmp_path, "before", force=True).is_dir()


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a\\b", "-x", "a.", "x" * 81, "a b"])
def test_a_name_that_cannot_name_a_folder_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match="not a name"):
        baseline_folder(tmp_path, name, force=True)


def test_only_a_whole_and_valid_run_can_be_a_baseline() -> None:
    whole = run_of([turn(i) for i in range(12)])
    assert why_not_kept(summarize(whole)) is None
    assert why_not_kept(summarize(run_of([], []))) == "nothing was played"
    assert why_not_kept(summarize(run_of([turn(i) for i in range(12)], state="interrupted"))) == "the run is incomplete"
    gone = [planned(12), planned(12, model="gone", skipped="refused")]
    assert why_not_kept(summarize(run_of([turn(i) for i in range(12)], gone))) == "gone could not be used"
    failed = run_of([unsent("connect_error", i, dispatched_ns=1, sent_ns=1) for i in range(12)])
    assert why_not_kept(summarize(failed)) == "m at c1 is invalid"


def test_reports_are_not_made_again_from_a_baseline(tmp_path: Path) -> None:
    run = write(tmp_path / "run", by_prompt())
    write_reports(run)
    folder = tmp_path / "baselines" / "x"
    keep_baseline(run, folder)
    before = (folder / "summary.json").read_bytes()
    with pytest.raises(InputError, match="the requests of this run were not kept"):
        write_reports(folder)
    assert (folder / "summary.json").read_bytes() == before
