"""How a table fits a width: the law that nothing is cut, on runs of every kind; and each way to make it fit."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path

import pytest
from rich.cells import cell_len

from loadgen.analysis.summarize import summarize
from loadgen.analysis.summary import Summary
from loadgen.report.charset import spell
from loadgen.report.console import lines_text, report_text, table_text
from loadgen.report.document import make_document, report_data
from loadgen.report.main_table import main_table
from loadgen.report.section import Column, Row, Table
from loadgen.report.text_table import Screen, table_lines, wrap
from loadgen.store import run_folder

RUNS = Path(__file__).parents[2] / "data" / "runs"
FOLDERS = sorted(path.parent for path in RUNS.rglob("manifest.json"))
WIDTHS = range(40, 201)


@cache
def summary(folder: Path) -> Summary:
    return summarize(run_folder.read(folder))


@cache
def tables(folder: Path) -> tuple[Table, ...]:
    """Every table of a run's report, the main one first."""
    run = run_folder.read(folder)
    document = make_document(report_data(summary(folder), [run]))
    return (main_table(summary(folder)), *(table for section in document.sections for table in section.tables))


def shown_columns(table: Table, lines: Sequence[str]) -> list[int]:
    """Those that the note under a table does not say to be left out."""
    text = " ".join(lines)
    dropped = text.partition("not shown at this width: ")[2].split(", ")
    return [i for i, column in enumerate(table.columns) if column.title not in dropped]


def assert_fits(table: Table, widths: Iterable[int]) -> None:
    """At each width, no line is wider and nothing of the table is cut. Most widths lay it out as their neighbors do."""
    lines_at = {width: tuple(table_lines(table, Screen(width))) for width in widths}
    for width, lines in lines_at.items():
        assert max(map(cell_len, lines), default=0) <= width
    for lines in dict.fromkeys(lines_at.values()):
        assert_nothing_is_cut(table, lines)


def assert_nothing_is_cut(table: Table, lines: Sequence[str]) -> None:
    assert [line for line in lines if line != line.rstrip()] == []
    text, words = "\n".join(lines), Counter(" ".join(lines).split())
    shown = shown_columns(table, lines)
    for number in shown:
        column = table.columns[number]
        assert all(words[word] for word in column.title.split()), column.title
        cells = Counter(row.cells[number] for row in table.rows)
        if column.kind == "number":
            assert all(text.count(cell) >= count for cell, count in cells.items()), column.title
        else:
            for cell in cells:
                assert all(word in text for word in cell.split() if len(word) <= 24), cell


@pytest.mark.slow
@pytest.mark.parametrize("folder", FOLDERS, ids=lambda path: path.relative_to(RUNS).as_posix())
def test_at_every_width_every_number_and_heading_of_the_main_table_stands_whole(folder: Path) -> None:
    assert_fits(tables(folder)[0], WIDTHS)


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda path: path.relative_to(RUNS).as_posix())
def test_so_do_those_of_all_other_tables(folder: Path) -> None:
    for table in tables(folder)[1:]:
        assert_fits(table, (40, 80, 120))


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda path: path.relative_to(RUNS).as_posix())
def test_no_line_of_what_a_run_prints_is_wider_than_the_terminal(folder: Path) -> None:
    for width in (40, 80, 133):
        assert max(map(cell_len, report_text(summary(folder), Screen(width)).splitlines())) <= width


def grid(*rows: tuple[str, ...], heads: tuple[Column, ...]) -> Table:
    return Table(heads, tuple(Row(row) for row in rows))


LOADS = grid(
    ("1 user", "1.28 s", "452 MiB", "valid"),
    ("8 users", "10.8 s", "864 MiB", "valid"),
    heads=(
        Column("load", "text"),
        Column("TTFT p50"),
        Column("memory", rank=1),
        Column("verdict", "verdict"),
    ),
)


def test_without_an_end_of_columns_nothing_is_wrapped() -> None:
    assert list(table_lines(LOADS, Screen())) == [
        "load     TTFT p50   memory  verdict",
        "1 user     1.28 s  452 MiB  valid",
        "8 users    10.8 s  864 MiB  valid",
    ]


@pytest.mark.parametrize(
    "whole", ["12 %", "12 %,", "(412 ms)", "≥ 12 ms", "(± 6.5 %)", "+/- 6 %", "8 MiB/h;", "30 tokens/s", "1.5 points"]
)
def test_no_line_ends_between_a_number_and_its_unit_or_its_sign(whole: str) -> None:
    text = f"the level rose {whole} on that night"
    for width in range(max(len(whole), len("level")), len(text)):
        lines = wrap(text, width)
        assert max(map(cell_len, lines)) <= width
        assert " ".join(lines) == text
        assert [line for line in lines if whole in line], width


def test_a_number_with_a_unit_that_is_wider_than_the_screen_is_wrapped_before_it_is_broken() -> None:
    assert wrap("about 12345 tokens/s", 9) == ["about", "12345", "tokens/s"]


def test_headings_wrap_first() -> None:
    assert list(table_lines(LOADS, Screen(33))) == [
        "           TTFT",
        "load        p50   memory  verdict",
        "1 user   1.28 s  452 MiB  valid",
        "8 users  10.8 s  864 MiB  valid",
    ]


def test_then_columns_of_a_lower_rank_are_left_out_and_named() -> None:
    lines = list(table_lines(Table(LOADS.columns, LOADS.rows * 3), Screen(26)))
    assert lines[:2] == ["load     TTFT p50  verdict", "1 user     1.28 s  valid"]
    assert lines[7:] == ["not shown at this width:", "memory"]


def test_where_even_the_others_do_not_fit_the_table_is_turned() -> None:
    assert list(table_lines(LOADS, Screen(18))) == [
        "load      1 user",
        "TTFT p50  1.28 s",
        "memory    452 MiB",
        "verdict   valid",
        "",
        "load      8 users",
        "TTFT p50  10.8 s",
        "memory    864 MiB",
        "verdict   valid",
    ]


def test_a_table_of_few_rows_is_turned_before_a_column_is_left_out() -> None:
    heads = (Column("load", "text"), *(Column(f"latency{i}", rank=i) for i in range(9)))
    rows = (("1 user", *["7 ms"] * 9), ("2 users", *["12 ms"] * 9))
    lines = list(table_lines(grid(*rows, heads=heads), Screen(40)))
    assert lines[:3] == ["load      1 user  2 users", "latency0    7 ms    12 ms", "latency1    7 ms    12 ms"]
    assert len(lines) == 10


def test_a_name_longer_than_a_line_is_broken_and_a_wide_sign_takes_two_columns() -> None:
    path = "/srv/models/" + "x" * 60 + "/q4.gguf"
    text = table_text(grid((path, "7 ms"), heads=(Column("model", "text"), Column("TTFT"))), "", Screen(40))
    assert max(map(len, text.splitlines())) <= 40
    assert path in re.sub(r"\s|7 ms", "", text)
    assert wrap("模型" * 4, 8) == ["模型模型", "模型模型"]


def test_the_lines_after_the_first_of_a_note_are_indented() -> None:
    assert wrap("· a note of some words", 12, "  ") == ["· a note of", "  some words"]
    assert lines_text(["  2 deeper"], Screen(8)) == "  2\n  deeper\n"


def test_a_cross_or_a_line_marks_what_is_not_to_be_believed_and_widths_know_it() -> None:
    table = Table((Column("load", "text"), Column("TTFT")), (Row(("1 user", "7 ms"), invalid=True),))
    assert list(table_lines(table, Screen(40)))[1] == "1 user  7 ms ✗"
    assert list(table_lines(table, Screen(40, encoding="ascii")))[1] == "1 user  7 ms x"
    assert list(table_lines(table, Screen(40, "color")))[1] == "\x1b[9m1 user\x1b[0m  \x1b[9m7 ms\x1b[0m"


@pytest.mark.parametrize(
    ("encoding", "spelled"),
    [("utf-8", "≥ 1 – 2 µs 你"), ("cp1252", ">= 1 – 2 µs \\u4f60"), ("ascii", ">= 1 - 2 us \\u4f60")],
)
def test_a_sign_that_an_encoding_lacks_is_spelled(encoding: str, spelled: str) -> None:
    assert spell("≥ 1 – 2 µs 你", encoding) == spelled


def test_every_sign_of_our_own_tables_has_a_spelling() -> None:
    for folder in FOLDERS:
        text = report_text(summary(folder), Screen(encoding="ascii"))
        assert text.isascii()
        assert "\\u" not in text and "\\x" not in text
