"""The reports: equal folders give equal bytes, bounds are shown as bounds, and no text from outside steers them."""

import csv
import io
import re
from pathlib import Path
from typing import Any

import msgspec
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loadgen.analysis.summarize import merged, summarize
from loadgen.analysis.summary import METRICS, Metric, Percentile, summary_data, summary_from
from loadgen.errors import InputError
from loadgen.redact import printable
from loadgen.report.answer import answer
from loadgen.report.charts.figure import level_axis
from loadgen.report.console import console
from loadgen.report.csv import csv_text
from loadgen.report.document import make_document, report_data
from loadgen.report.files import write_reports
from loadgen.report.format import format_percentile
from loadgen.report.main_table import main_table
from loadgen.report.markdown import escape, markdown
from loadgen.report.sureness import sureness
from loadgen.report.text_table import CROSS
from loadgen.store.hlog import read_interval_log
from loadgen.store.run_folder import Run
from tests.records import MS, S, facts, planned, run_of, turn, write

HOSTILE = (
    "\x1b[2J\x1b]0;owned\x07 |a|b| <script>alert(1)</script> `x` [link](http://h) **b** # =1+1 \r\n~~s~~ &lt; \u202e"
)


def turns(count: int, **changes: Any) -> list[Any]:
    return [turn(index, **changes) for index in range(count)]


def mixed() -> Run:
    """A run with a bit of everything: two levels, an SLO, a failure, a model that was skipped."""
    stages = [planned(40), planned(40, level="c2", load={"mode": "closed", "concurrency": 2})]
    stages.append(planned(40, model="gone", skipped="connection refused"))
    second = [turn(index // 2, level="c2", connect_ns=3 * MS) for index in range(39)]
    return run_of(
        [*turns(40), *second, turn(40, level="c2", outcome="timeout", detail="first token")],
        stages,
        seen=[facts(), facts(level="c2")],
        scenario={"name": "x", "seed": 1, "slo": {"ttft_ms": 98.0, "tpot_ms": 60.0}},
        models=({"alias": "m", "target": "t", "id": "m-q4", "size_bytes": 145 * 2**20, "startup_s": 1.25},),
    )


def markdown_of(run: Run) -> str:
    return markdown(make_document(report_data(summarize(run), [run])))


def rows_of(run: Run) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(csv_text(summarize(run)))))


# --- files ------------------------------------------------------------------------------------------------------------


def test_the_same_folder_gives_the_same_bytes(tmp_path: Path) -> None:
    write(tmp_path, mixed())
    given_ = {path.name for path in tmp_path.iterdir()}

    def made() -> dict[str, bytes]:
        write_reports(tmp_path)
        return {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.name not in given_}

    first = made()
    assert {"summary.json", "summary.csv", "report.md", "histograms.hlog"} <= set(first)
    assert made() == first
    assert all(first.values())


def test_another_folder_with_the_same_run_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_reports(write(tmp_path / name, mixed()))
    for path in (tmp_path / "a").iterdir():
        assert (tmp_path / "b" / path.name).read_bytes() == path.read_bytes(), path.name


def test_what_is_written_is_the_summary(tmp_path: Path) -> None:
    summary = write_reports(write(tmp_path, mixed()))
    raw = (tmp_path / "summary.json").read_bytes()
    assert orjson.loads(raw) == orjson.loads(orjson.dumps(summary_data(summary)))
    assert summary_from(raw) == summary
    assert summary == summarize(mixed())


def test_the_interval_log_holds_ok_measured_requests_by_stage_and_metric(tmp_path: Path) -> None:
    run = mixed()
    warmup = turn(99, phase="warmup", stamps_ns=(99 * S,))
    write_reports(write(tmp_path, msgspec.structs.replace(run, records=(*run.records, warmup))))
    found = {interval.tag: interval for interval in read_interval_log((tmp_path / "histograms.hlog").read_text())}
    tags = {f"t/m/{level}/{name}" for level in ("c1", "c2") for name in METRICS}
    assert set(found) == tags - {"t/m/c1/connect"}
    assert found["t/m/c1/ttft"].histogram.count == 40
    assert found["t/m/c2/ttft"].histogram.count == 39
    assert found["t/m/c1/itl"].histogram.count == 80
    ttft = found["t/m/c1/ttft"]
    assert [ttft.start_s, ttft.start_s + ttft.length_s] == pytest.approx([0.1, 39.31])
    assert ttft.histogram.quantile_ns(50) == pytest.approx(98 * MS, rel=1e-3)


def test_a_run_without_a_single_record_has_reports_too(tmp_path: Path) -> None:
    write_reports(write(tmp_path, run_of([], [planned(4)], seen=[], state="running")))
    assert read_interval_log((tmp_path / "histograms.hlog").read_text()) == []
    assert "No request was answered." in (tmp_path / "report.md").read_text(encoding="utf-8")


def test_no_run_no_reports(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not a run folder"):
        write_reports(tmp_path)
    assert not list(tmp_path.iterdir())


def cells_of(table: str, first: str) -> list[str]:
    """The cells of the first row of a terminal's table that begins so."""
    line = next(line for line in table.splitlines() if line.startswith(first))
    return re.split(r"\s{2,}", line.strip())


# --- bounds -----------------------------------------------------------------------------------------------------------


def headings(run: Run) -> list[str]:
    return [column.title for column in main_table(summarize(run)).columns]


@pytest.mark.parametrize(
    ("count", "tail"),
    [
        (5, ["TTFT slowest"]),
        (12, ["TTFT slowest"]),
        (40, ["TTFT p90", "TTFT slowest"]),
        (80, ["TTFT p90", "TTFT p95", "TTFT slowest"]),
        (368, ["TTFT p90", "TTFT p95", "TTFT p99"]),
    ],
)
def test_percentiles_come_when_the_samples_carry_them_and_until_then_the_slowest_request(
    count: int, tail: list[str]
) -> None:
    shown = headings(run_of(turns(count)))
    assert [heading for heading in shown if heading.startswith("TTFT") and "p50" not in heading] == tail
    assert ("TTFT p50 95 % CI" in shown) is (count > 5)
    assert sum(heading.startswith("ITL ") for heading in shown) == 1


def test_the_median_stands_with_its_interval_and_the_slowest_of_all() -> None:
    first_ms = [198 + 10 * index for index in range(12)]
    spread = [turn(i, stamps_ns=(at * MS, (at + 50) * MS, (at + 100) * MS)) for i, at in enumerate(first_ms)]
    told = console(summarize(run_of(spread)))
    assert cells_of(told, "1 user")[:5] == ["1 user", "12/12", "146 ms", "118–184 ms", "206 ms"]


def test_a_percentile_that_one_stage_knows_is_a_bound_at_those_that_do_not() -> None:
    stages = [planned(40), planned(10, level="c2", load={"mode": "closed", "concurrency": 2})]
    table = main_table(summarize(run_of([*turns(40), *turns(10, level="c2")], stages)))
    at = [column.title for column in table.columns].index("TTFT p90")
    assert [row.cells[at] for row in table.rows] == ["98 ms", "≥ 98 ms"]


@pytest.mark.parametrize(
    ("count", "told"),
    [
        # 40 requests in 39.2 s: 368 take six minutes.
        (
            40,
            "Each level has 40 answered requests, enough for p50 and p90; p95 takes 72 (about 71 s), "
            "p99 takes 368 (about 6 min)",
        ),
        (368, "Each level has 368 answered requests, enough for p50, p90, p95 and p99"),
    ],
)
def test_one_line_says_which_percentiles_the_requests_suffice_for_and_what_it_takes_to_know_more(
    count: int, told: str
) -> None:
    assert sureness(summarize(run_of(turns(count)))) == f"{told}."
    assert told in console(summarize(run_of(turns(count))), width=None)


def test_it_says_how_many_requests_the_levels_got_where_they_differ() -> None:
    stages = [planned(40), planned(10, level="c2", load={"mode": "closed", "concurrency": 2})]
    told = sureness(summarize(run_of([*turns(40), *turns(10, level="c2")], stages))) or ""
    assert told.startswith("Each level has 10 to 40 answered requests; p50 is known at every level; p90 takes 36 (")


def test_one_answered_request_is_no_plural() -> None:
    told = sureness(summarize(run_of(turns(1)))) or ""
    assert told.startswith("Each level has 1 answered request, too few for any percentile; p50 takes 6 (")


def test_of_repeated_runs_it_counts_the_requests_of_each() -> None:
    runs = [run_of(turns(20), run_id=f"run{at}") for at in range(3)]
    told = sureness(merged(runs)) or ""
    assert told.startswith("Each level of each run has 20 answered requests, enough for p50; p90 takes 36 (")


def test_where_nothing_was_answered_there_is_nothing_to_be_sure_of() -> None:
    failed = [turn(index, outcome="timeout", detail="first token") for index in range(4)]
    assert sureness(summarize(run_of(failed))) is None


def test_what_counting_from_the_send_would_have_hidden_stands_under_the_table() -> None:
    def remarks_of(*, held: int) -> list[str]:
        late = [turn(at, intended_ns=-1_900 * MS if at < held else 100 * MS) for at in range(400)]
        stage = planned(400, load={"mode": "constant", "rate_per_s": 1.0})
        found = main_table(summarize(run_of(late, [stage]))).remarks
        return [note for note in found if "counted from the send" in note]

    (remark,) = remarks_of(held=10)
    assert "the TTFT's p99 is 2.1 s from when requests were due" in remark
    assert remark.endswith("counted from the send, as most tools do, it would be 98 ms")
    assert remarks_of(held=0) == []


def test_a_level_with_too_few_requests_to_bound_anything_shows_its_slowest_and_says_why() -> None:
    told = console(summarize(run_of(turns(5))))
    assert cells_of(told, "1 user")[:7] == ["1 user", "5/5", "–", "98 ms", "–", "50 ms", "–"]
    assert "Each level has 5 answered requests, too few for any percentile; p50 takes 6 (" in told


def test_the_same_line_and_columns_are_in_markdown() -> None:
    text = markdown_of(run_of(turns(40)))
    assert "p99 takes 368" in text
    assert "| TTFT p90 | TTFT slowest |" in text


# --- what is not to be believed ---------------------------------------------------------------------------------------


def table_row(text: str, first_cell: str) -> list[str]:
    """The cells of the first Markdown row that begins with a cell."""
    line = next(line for line in text.splitlines() if re.match(rf"\| (~~)?{first_cell}(~~)? \|", line))
    return [cell.strip() for cell in line.strip("|").split(" | ")]


def test_an_invalid_stage_is_struck_through_in_markdown_and_others_are_not() -> None:
    struck = table_row(markdown_of(run_of(turns(40), seen=[facts(clock_steps=1)])), "1 user")
    assert all(cell.startswith("~~") and cell.endswith("~~") for cell in struck)
    assert struck[-1] == "~~invalid~~"
    for good in (facts(), facts(cpu_share=0.6)):
        assert "~~" not in "".join(table_row(markdown_of(run_of(turns(40), seen=[good])), "1 user"))


def test_an_invalid_stage_is_struck_through_on_a_terminal_with_color() -> None:
    invalid = summarize(run_of(turns(40), seen=[facts(clock_steps=1)]))
    assert "\x1b[9m" in console(invalid, style="color")
    assert "\x1b" not in console(invalid)
    assert console(invalid).count(CROSS) > 5, "where no line can be drawn, each number is marked"
    assert CROSS not in console(summarize(run_of(turns(40))))
    assert "\x1b[9m" not in console(summarize(run_of(turns(40))), style="color")


def test_too_few_requests_to_tell_whether_latencies_had_settled_are_said_once() -> None:
    few = main_table(summarize(run_of(turns(12)))).remarks
    assert [note for note in few if note.startswith("whether the latencies had settled is not known, because")]
    both = summarize(
        run_of(
            [*turns(12), *(msgspec.structs.replace(turn, level="c2") for turn in turns(100))],
            [planned(12), planned(100, level="c2", load={"mode": "closed", "concurrency": 2})],
            seen=[facts(), facts(level="c2")],
        )
    )
    (note,) = [note for note in main_table(both).remarks if "settled" in note]
    assert note.startswith("whether the latencies had settled at 1 user is not known, because")
    assert not [note for note in main_table(summarize(run_of(turns(368)))).remarks if "settled" in note]


def test_reasons_failures_and_skipped_models_stand_under_the_table() -> None:
    run = mixed()
    notes = main_table(summarize(msgspec.structs.replace(run, torn=2))).remarks
    assert "2 torn lines of the logs could not be read" in notes
    failed = "m on t, 2 users: 1 timeout; counting all requests that were sent, no latency above p"
    assert [note for note in notes if note.startswith(failed)]
    assert "gone on t: skipped: connection refused" in notes
    closed, degraded = main_table(summarize(run_of(turns(368), seen=[facts(cpu_share=0.6)]))).remarks
    assert closed.startswith("closed loop: ")
    assert degraded.startswith(
        "m on t, 1 user: degraded: TTFT, ITL and E2E may be too high, by how much is not known, "
    )
    assert "because loadgen used 60% of a core (limit: ≤ 50%); lower the load" in degraded


def test_what_a_stop_left_unplayed_is_no_failure() -> None:
    stopped = [turn(0), turn(1), *(turn(index, outcome="cancelled", detail="the run was stopped") for index in (2, 3))]
    notes = main_table(summarize(run_of(stopped, [planned(8)], state="interrupted"))).remarks
    assert "m on t, 1 user: 6 of 8 were given up or never sent, because the run was stopped" in notes
    assert not [note for note in notes if "beyond p" in note or "cancelled" in note]


def test_where_nothing_was_answered_no_percentile_is_named() -> None:
    failed = [turn(index, outcome="timeout", detail="first token") for index in range(4)]
    notes = main_table(summarize(run_of(failed))).remarks
    assert "m on t, 1 user: 4 timeout; counting all requests that were sent, hardly any latency is known" in notes


@pytest.mark.parametrize(("bound", "cell"), [(49.9, "–"), (50.0, "≥ 50 ms"), (70.0, "≥ 70 ms")])
def test_a_bound_below_the_median_says_nothing(bound: float, cell: str) -> None:
    known = Percentile(50.0, low=40.0, high=60.0)
    metric = Metric(count=9, percentiles={"p50": known, "p99": Percentile(None, low=bound)})
    assert format_percentile(metric, "p99") == cell
    bounded = {"p50": Percentile(None, low=50.0), "p99": Percentile(None, low=bound)}
    assert format_percentile(Metric(count=9, percentiles=bounded), "p99") == cell


def test_a_run_that_was_cut_short_says_so_first() -> None:
    summary = summarize(run_of(turns(3), [planned(8)], seen=[], state="running"))
    assert main_table(summary).remarks[0].startswith("incomplete: ")
    assert main_table(summary).rows[0].cells[-1] == "degraded, incomplete"


def test_a_column_in_which_nothing_is_known_or_all_is_alike_is_left_out() -> None:
    one = [column.title for column in main_table(summarize(run_of(turns(4)))).columns]
    many = [column.title for column in main_table(summarize(mixed())).columns]
    assert not {"model", "served by", "SLO met", "memory"} & set(one)
    assert {"model", "SLO met"} <= set(many)
    assert "m on t" in console(summarize(run_of(turns(4))))


def test_the_answer_is_the_most_users_whose_slo_held() -> None:
    assert answer(summarize(run_of(turns(4)))) is None
    told = answer(summarize(mixed()))
    assert told == (
        "m on t: at least 90% of the requests met TTFT ≤ 98 ms, TPOT ≤ 60 ms with up to 2 users at once, "
        "the highest level of this run."
    )
    missed = run_of(turns(4), scenario={"name": "x", "slo": {"ttft_ms": 1.0}})
    assert answer(summarize(missed)) == (
        "m on t: at no level of this run at least 90% of the requests met TTFT ≤ 1 ms."
    )


@pytest.mark.parametrize("limit_ms", [1.0, 100_000.0])
def test_a_lowest_level_that_is_invalid_neither_met_nor_missed_the_slo(limit_ms: float) -> None:
    invalid = run_of(turns(40), seen=[facts(clock_steps=1)], scenario={"name": "x", "slo": {"ttft_ms": limit_ms}})
    said = answer(summarize(invalid)) or ""
    assert said.startswith("m on t: it is not known with how many users at once at least 90% of the requests met TTFT")
    assert said.endswith(": the level with 1 user is invalid.")


def levels_of(*counts: int, invalid: tuple[int, ...] = (), limit_ms: float = 100_000.0) -> str:
    """The answer for levels of 1, 2, 3, … users, each with so many answered requests."""
    users = range(1, len(counts) + 1)
    labels = {count: {"level": f"c{count}"} for count in users}
    return (
        answer(
            summarize(
                run_of(
                    [record for at, count in zip(users, counts, strict=True) for record in turns(count, **labels[at])],
                    [
                        planned(count, load={"mode": "closed", "concurrency": at}, **labels[at])
                        for at, count in zip(users, counts, strict=True)
                    ],
                    seen=[facts(clock_steps=int(at in invalid), **labels[at]) for at in users],
                    scenario={"name": "x", "slo": {"ttft_ms": limit_ms}},
                )
            )
        )
        or ""
    )


MET = "m on t: at least 90% of the requests met TTFT ≤ 100 s with"


@pytest.mark.parametrize(
    ("counts", "invalid", "said"),
    [
        ((6, 6), (), f"{MET} up to 2 users at once, the highest level of this run."),
        (
            (6, 5),
            (),
            f"{MET} one user at a time; the level with 2 users has 5 answered requests, too few for a median.",
        ),
        ((6, 1), (), f"{MET} one user at a time; the level with 2 users has 1 answered request, too few for a median."),
        ((6, 6, 6), (3,), f"{MET} up to 2 users at once; the level with 3 users is invalid."),
        ((6, 6, 6, 6), (2, 4), f"{MET} one user at a time; the levels with 2 and 4 users are invalid."),
        ((6, 5, 6), (3,), f"{MET} one user at a time; {{}}; the level with 3 users is invalid."),
    ],
)
def test_the_answer_counts_a_level_only_where_its_medians_are_shown_and_names_those_that_say_nothing(
    counts: tuple[int, ...], invalid: tuple[int, ...], said: str
) -> None:
    too_few = "the level with 2 users has 5 answered requests, too few for a median"
    assert levels_of(*counts, invalid=invalid) == said.format(too_few)


def test_where_the_lowest_level_has_too_few_answers_nothing_is_known() -> None:
    assert levels_of(5, 6, invalid=(2,)) == (
        "m on t: it is not known with how many users at once at least 90% of the requests met TTFT ≤ 100 s: the level "
        "with 1 user has 5 answered requests, too few for a median, and the level with 2 users is invalid."
    )


def test_a_level_that_missed_the_slo_is_a_miss_and_the_invalid_ones_above_it_are_named() -> None:
    assert levels_of(6, 6, invalid=(2,), limit_ms=1.0) == (
        "m on t: at no level of this run at least 90% of the requests met TTFT ≤ 1 ms; "
        "the level with 2 users is invalid."
    )


# --- text from outside ------------------------------------------------------------------------------------------------


def hostile() -> Run:
    """A run of which all that a server, a card or somebody else's folder can say is hostile."""
    card = {"alias": HOSTILE, "target": HOSTILE, "id": HOSTILE, "license": HOSTILE, "publisher": HOSTILE}
    stages = [
        planned(2, model="=cmd()", target=HOSTILE),
        planned(2, model=HOSTILE, skipped=f"404: {HOSTILE}"),
        planned(2, model="@x", level="-1+1"),
    ]
    records = turns(2, model="=cmd()", target=HOSTILE, detail=HOSTILE)
    versions = {"python": HOSTILE}
    seen = [facts(models=("=cmd()",), targets=(HOSTILE,))]
    name = {"name": HOSTILE, "seed": 1}
    return run_of(records, stages, seen=seen, models=(card,), scenario=name, host={"cpu": HOSTILE}, versions=versions)


def controls_of(text: str) -> set[str]:
    return {sign for sign in text if not sign.isprintable() and sign != "\n"}


def test_nothing_that_a_server_says_steers_a_terminal() -> None:
    told = console(summarize(hostile()))
    assert not controls_of(told)
    assert "�[2J" in told
    lines = console(summarize(hostile()), style="color")
    assert "\x1b[2J" not in lines and "\x1b]0;" not in lines
    assert "[link]" in told  # nor is it read as markup


@given(st.text())
def test_plain_text_has_no_control_character_and_keeps_all_others(text: str) -> None:
    assert not controls_of(printable(text)) and "\n" not in printable(text)
    assert len(printable(text)) == len(text)
    assert all(ours in (theirs, "�") for ours, theirs in zip(printable(text), text, strict=True))


def test_nothing_that_a_server_says_is_markup_in_a_report() -> None:
    told = markdown_of(hostile())
    assert not controls_of(told)
    bare = re.sub(r"\\[^\w\s]", "", told)  # without what is escaped
    for markup in ("<", "](", "**b", "`x", "&lt", "~~s"):
        assert markup not in bare, markup
    heads = re.findall(r"^#+ .*", bare, re.MULTILINE)
    assert [head for head in heads if head.startswith("## ")] == [
        "## How many at once",
        "## How latencies are spread",
        "## When each request waited and streamed",
        "## Can these numbers be believed?",
        "## Latencies",
        "## By prompt",
        "## Models",
        "## Circumstances",
    ]
    assert len(heads) == 1 + 8


def test_a_pipe_does_not_add_a_cell_to_a_table() -> None:
    for block in re.findall(r"(?:^\|.*\n)+", markdown_of(hostile()), re.MULTILINE):
        cells = {len(re.split(r"(?<!\\)\|", line)) for line in block.splitlines()}
        assert len(cells) == 1, block


@given(st.text())
def test_escaped_text_is_one_line_and_can_be_read_back(text: str) -> None:
    assert "\n" not in escape(text)
    assert re.sub(r"\\([!-/:-@\[-`{-~])", r"\1", escape(text)) == printable(text)


def test_a_spreadsheet_reads_no_text_as_a_formula() -> None:
    rows = rows_of(hostile())
    assert [row["model"] for row in rows][::2] == ["'=cmd()", "'@x"]
    assert rows[2]["level"] == "'-1+1"
    for row in rows:
        for cell in row.values():
            assert not cell.startswith(("=", "+", "@", "\t", "\r")), cell
            assert not cell.startswith("-") or float(cell) < 0
            assert not controls_of(cell)


@pytest.mark.slow
@settings(deadline=None, max_examples=60)
@given(st.text(), st.text())
def test_whatever_is_in_a_cell_a_csv_file_has_a_row_a_stage(model: str, target: str) -> None:
    run = run_of([turn(0, model=model, target=target)], [planned(1, model=model, target=target), planned(1)])
    rows = rows_of(run)
    assert len(rows) == 2
    assert rows[0]["model"].removeprefix("'") == printable(model).removeprefix("'")
    assert rows[0]["ok"] == "1"


# --- CSV --------------------------------------------------------------------------------------------------------------


def test_a_row_of_the_csv_file_says_what_the_summary_says_and_leaves_empty_what_is_not_known() -> None:
    first, second, skipped = rows_of(mixed())
    assert first | {"level": "c1", "concurrency": "1", "rate_per_s": "", "status": "played"} == first
    assert (first["planned"], first["ok"], first["failed"]) == ("40", "40", "0")
    assert (second["planned"], second["ok"], second["failed"]) == ("40", "39", "1")
    assert (first["ttft_count"], first["ttft_p50_ms"], first["ttft_p90_ms"]) == ("40", "98.0", "98.0")
    assert (first["ttft_p99_ms"], first["ttft_p99_at_least_ms"]) == ("", "98.0")
    assert (first["connect_count"], first["connect_p50_ms"]) == ("0", "")
    assert (skipped["status"], skipped["planned"], skipped["ttft_count"]) == ("skipped", "", "")


def test_two_visits_to_one_level_are_two_rows_that_can_be_told_apart() -> None:
    levels = ("c2", "c2.2", "c2.12")
    load = {"mode": "closed", "concurrency": 2}
    turns_of_levels = [turn(index, level=level) for level in levels for index in range(8)]
    run = run_of(
        turns_of_levels,
        [planned(8, level=level, load=load) for level in levels],
        seen=[facts(level=level) for level in levels],
    )
    loads = ["2 users", "2 users (visit 2)", "2 users (visit 12)"]
    table = main_table(summarize(run))
    column = [each.title for each in table.columns].index("load")
    assert [row.cells[column] for row in table.rows] == loads
    text = markdown_of(run)
    assert all(f"m on t, {load}" in text for load in loads)
    stages = report_data(summarize(run), [run]).stages
    assert level_axis(stages)["ticktext"] == ["2", "2<br>(visit 2)", "2<br>(visit 12)"]
