"""The sheet: blind, the same prompts for every candidate, shuffled by grader; and the dialog that goes through it."""

import csv
import io
import json
import re
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest

from loadgen.decisions.candidates.runs import read_runs
from loadgen.decisions.grade.notes import Note
from loadgen.decisions.grade.session import GradingSession, note_of
from loadgen.decisions.grade.sheet import Sheet, sheet_of
from loadgen.decisions.grade.sheet_files import COLUMNS, SCHEMA, read_sheet, sheet_csv, sheet_page
from loadgen.decisions.grade.status import agreement_line, status_lines, status_of
from loadgen.decisions.grade.terminal import grade_in_terminal
from loadgen.errors import InputError
from tests.selected_runs import SelectedModel, write_run

MODELS = (
    SelectedModel(name="secret-alpha", points=(4, 3, 4, 2)),
    SelectedModel(name="secret-beta", points=(1, 2, 1, 2)),
    SelectedModel(name="secret-gamma", points=(4, 3, 4, 2)),
)
AT = "2026-01-02T03:04:05.000+00:00"


def sheet_with(folder: Path, models: Sequence[SelectedModel] = MODELS, sample: int = 8, **changes: Any) -> Sheet:
    return sheet_of(read_runs([write_run(folder / "run", models, **changes)]), sample)


def test_equal_texts_are_graded_once_and_every_candidate_has_the_same_prompts(tmp_path: Path) -> None:
    sheet = sheet_with(tmp_path)
    assert len(sheet.prompts) == 8
    drawn = {prompt.id for prompt in sheet.prompts}
    assert {frozenset(each) for each in sheet.by_candidate.values()} == {frozenset(drawn)}
    assert sheet.by_candidate["secret-alpha@url"] == sheet.by_candidate["secret-gamma@url"]
    assert len({answer.answer for answer in sheet.answers}) == len(sheet.answers) <= 16


def test_the_sample_is_drawn_by_the_run_and_not_by_the_grader(tmp_path: Path) -> None:
    first, second = sheet_with(tmp_path / "a"), sheet_with(tmp_path / "b", number=1)
    assert first.prompts == sheet_with(tmp_path / "c").prompts
    assert first.prompts != second.prompts


def test_each_grader_has_an_order_of_their_own_in_which_a_prompt_is_read_once(tmp_path: Path) -> None:
    sheet = sheet_with(tmp_path)
    ana, ben = sheet.order_for("ana"), sheet.order_for("ben")
    assert ana == sheet.order_for("ana")
    assert ana != ben
    assert set(ana) == set(ben) == set(sheet.answers)
    prompts = [answer.prompt.id for answer in ana]
    assert len(re.findall(r"(\S+)(?: \1)*", " ".join(prompts))) == len(set(prompts))


def test_a_request_that_failed_is_no_answer_and_counts_for_its_candidate(tmp_path: Path) -> None:
    failing = SelectedModel(name="failing", points=(2,), outcomes=("ok", "timeout"))
    sheet = sheet_with(tmp_path, [MODELS[0], failing], sample=16)
    assert sum(ids == (None,) for ids in sheet.by_candidate["failing@url"].values()) == 8


def test_a_run_without_texts_says_how_to_keep_them(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"not kept.*--set keep_text=true"):
        sheet_with(tmp_path, keep_text=False)


def test_runs_with_different_aspects_are_graded_apart(tmp_path: Path) -> None:
    first = write_run(tmp_path / "a", MODELS)
    other = write_run(tmp_path / "b", MODELS, 1, scenario={"quality": {"aspects": {"kind": "is it kind?"}}})
    with pytest.raises(InputError, match="different aspects"):
        sheet_of(read_runs([first, other]))


# --- in the terminal --------------------------------------------------------------------------------------------------


def play(sheet: Sheet, typed: Sequence[str], by: str = "ana", notes: Sequence[Note] = ()) -> tuple[list[Note], str]:
    """Grade by typing these lines; returns the new notes, and what was shown."""
    given, shown, lines = list[Note](), list[str](), iter(typed)

    def read(prompt: str) -> str | None:
        shown.append(prompt)
        return next(lines, None)

    clock: Callable[[], datetime] = lambda: datetime(2026, 1, 2, tzinfo=UTC)  # noqa: E731
    session = GradingSession(sheet, by, notes)
    grade_in_terminal(sheet, session, read=read, write=shown.append, append=given.append, clock=clock, width=80)
    return given, "".join(shown)


def test_nothing_that_is_shown_names_a_model(tmp_path: Path) -> None:
    sheet = sheet_with(tmp_path)
    everything = ["3"] * len(sheet.answers) * len(sheet.aspects)
    notes, shown = play(sheet, everything)
    assert len(notes) == len(everything)
    for text in (shown, sheet_csv(sheet, "ana"), sheet_page(sheet, "ana")):
        assert "secret" not in text
        assert "@url" not in text


def test_a_grader_who_comes_back_goes_on_where_they_stopped(tmp_path: Path) -> None:
    sheet = sheet_with(tmp_path)
    all_at_once, _ = play(sheet, ["3"] * 1000)
    notes, _ = play(sheet, ["3"] * 5 + ["q", "4"])
    assert len(notes) == 5
    rest, _ = play(sheet, ["3"] * 1000, notes=notes)
    assert [*notes, *rest] == all_at_once


def test_b_goes_back_and_the_later_note_replaces_the_earlier(tmp_path: Path) -> None:
    notes, shown = play(sheet_with(tmp_path), ["b", "2", "3", "b", "b", "5"])
    assert "this is the first question" in shown
    assert [(note.aspect, note.note) for note in notes] == [("complete", 2), ("correct", 3), ("complete", 5)]
    assert notes[0].place == notes[2].place


def test_s_skips_the_answer_and_another_session_asks_again(tmp_path: Path) -> None:
    sheet = sheet_with(tmp_path)
    notes, _ = play(sheet, ["4", "s", "3", "q"])
    assert notes[0].answer != notes[1].answer
    again, _ = play(sheet, ["1"], notes=notes)
    assert (again[0].answer, again[0].aspect) == (notes[0].answer, "correct")


@pytest.mark.parametrize("typed", ["0", "6", "9", "three", "3.5", "", "²", "-1", "\x1b[31m"])
def test_what_is_no_note_is_asked_again(tmp_path: Path, typed: str) -> None:
    notes, shown = play(sheet_with(tmp_path), [typed, "3"])
    assert [note.note for note in notes] == [3]
    assert "is none of: 1-5, b: back" in shown
    assert "\x1b" not in shown


# --- sheets for somebody else -----------------------------------------------------------------------------------------


def filled(sheet: Sheet, note: Callable[[int], object], by: str = "ana") -> str:
    """The CSV of a sheet with a note in each row."""
    rows = list(csv.DictReader(io.StringIO(sheet_csv(sheet, by))))
    out = io.StringIO()
    writer = csv.DictWriter(out, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows({**row, "note": note(number)} for number, row in enumerate(rows))
    return out.getvalue()


def test_a_csv_that_was_filled_in_comes_back(tmp_path: Path) -> None:
    sheet = sheet_with(tmp_path)
    path = tmp_path / "sheet.csv"
    path.write_text(filled(sheet, lambda number: number % 5 + 1 if number % 3 else ""), encoding="utf-8")
    notes = read_sheet(path, sheet, None, AT)
    count = len(sheet.answers) * len(sheet.aspects)
    assert len(notes) == count - len(range(0, count, 3))
    assert {note.by for note in notes} == {"ana"}
    spreadsheet = "\ufeff" + path.read_text(encoding="utf-8").replace('","', '";"')
    assert spreadsheet.startswith("\ufeffanswer,")


def test_a_csv_of_a_german_spreadsheet_comes_back(tmp_path: Path) -> None:
    sheet = sheet_with(tmp_path)
    rows = list(csv.reader(io.StringIO(filled(sheet, lambda _: 4))))
    out = io.StringIO()
    csv.writer(out, delimiter=";").writerows(rows)
    path = tmp_path / "sheet.csv"
    path.write_text(out.getvalue(), encoding="utf-8-sig")
    assert {note.note for note in read_sheet(path, sheet, None, AT)} == {4}


@pytest.mark.parametrize("note", ["4", "4.0", "4,0", "4.00", " 4 "])
def test_a_note_counts_as_spreadsheets_write_whole_numbers(tmp_path: Path, note: str) -> None:
    sheet = sheet_with(tmp_path)
    path = tmp_path / "sheet.csv"
    path.write_text(filled(sheet, lambda _: note), encoding="utf-8")
    assert {each.note for each in read_sheet(path, sheet, None, AT)} == {4}


@pytest.mark.parametrize(
    ("answer", "saved"),
    [("123456789012", "1.23457E+11"), ("012345678901", "12345678901"), ("123456789012", "1,23457E+11")],
)
def test_an_id_that_a_spreadsheet_took_for_a_number_is_the_same_answer(tmp_path: Path, answer: str, saved: str) -> None:
    sheet = sheet_with(tmp_path)
    first, *others = sheet.answers
    sheet = msgspec.structs.replace(sheet, answers=(msgspec.structs.replace(first, answer=answer), *others))
    path = tmp_path / "sheet.csv"
    path.write_text(filled(sheet, lambda _: 4).replace(answer, f'"{saved}"'), encoding="utf-8")
    notes = read_sheet(path, sheet, None, AT)
    assert [note.answer for note in notes].count(answer) == len(sheet.aspects)


def test_a_csv_keeps_the_lines_of_an_answer_and_nothing_that_moves_a_cursor(tmp_path: Path) -> None:
    sheet = sheet_with(tmp_path)
    first = msgspec.structs.replace(sheet.answers[0], text="- a\r\n- b\tc\x1b[31m")
    sheet = msgspec.structs.replace(sheet, answers=(first,))
    row = next(csv.DictReader(io.StringIO(sheet_csv(sheet, "ana"), newline="")))
    assert row["text"] == "'- a\n- b c\ufffd[31m"
    assert row["key_points"].split("\n") == list(first.prompt.key_points)


def test_a_sheet_with_a_long_answer_comes_back(tmp_path: Path) -> None:
    sheet = sheet_with(tmp_path)
    first = msgspec.structs.replace(sheet.answers[0], text="word " * 200_000)
    sheet = msgspec.structs.replace(sheet, answers=(first,))
    path = tmp_path / "sheet.csv"
    path.write_text(filled(sheet, lambda _: 4), encoding="utf-8")
    assert len(read_sheet(path, sheet, None, AT)) == len(sheet.aspects)


def test_two_notes_of_one_grader_on_one_question_are_refused_unless_they_agree(tmp_path: Path) -> None:
    sheet = sheet_with(tmp_path)
    path = tmp_path / "sheet.csv"
    text = filled(sheet, lambda _: 3)
    again = filled(sheet, lambda number: 5 if number == 1 else 3).partition("\n")[2]
    path.write_text(text + again, encoding="utf-8")
    rows = len(sheet.answers) * len(sheet.aspects)
    with pytest.raises(InputError, match=f"row {rows + 3}, note: '5', but row 3 has '3'; nothing was imported"):
        read_sheet(path, sheet, None, AT)
    path.write_text(text + text.partition("\n")[2], encoding="utf-8")
    assert {note.note for note in read_sheet(path, sheet, None, AT)} == {3}


def test_a_json_of_the_page_comes_back(tmp_path: Path) -> None:
    sheet = sheet_with(tmp_path)
    answer = sheet.answers[0]
    given = {"answer": answer.answer, "aspect": "clear", "note": 2, "comment": "dull"}
    path = tmp_path / "notes.json"
    path.write_text(json.dumps({"schema": SCHEMA, "by": "ben", "notes": [given]}), encoding="utf-8")
    assert read_sheet(path, sheet, None, AT) == (note_of(answer, "clear", 2, by="ben", at=AT, reason="dull"),)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"note": "6"}, r"row 2, note: '6' is not a whole number from 1 to 5"),
        ({"note": "3.5"}, r"row 2, note: '3.5' is not"),
        ({"note": "good"}, r"row 2, note: 'good' is not"),
        ({"aspect": "claer"}, r"row 2, aspect: 'claer' is not one of complete, correct, brief, clear"),
        ({"answer": "0" * 12}, r"row 2, answer: '000000000000' is not an answer of this sheet"),
        ({"by": ""}, r"row 2, by: no grader is named; fill the column, or give --by NAME"),
        ({"by": "x" * 81}, r"row 2, by: 'x{80}' is no name; a name has 1 to 80 printable characters"),
        ({"by": "\x1b[31mana"}, r"row 2, by: .* is no name"),
    ],
)
def test_a_bad_row_is_named_and_nothing_is_imported(tmp_path: Path, change: dict[str, str], message: str) -> None:
    sheet = sheet_with(tmp_path)
    rows = list(csv.DictReader(io.StringIO(filled(sheet, lambda _: 3))))
    out = io.StringIO()
    writer = csv.DictWriter(out, COLUMNS)
    writer.writeheader()
    writer.writerows([rows[0] | change, *rows[1:]])
    path = tmp_path / "sheet.csv"
    path.write_text(out.getvalue(), encoding="utf-8")
    with pytest.raises(InputError, match=f"{message}.*nothing was imported"):
        read_sheet(path, sheet, None, AT)


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.csv", b"", "no column 'answer' in the first row"),
        ("a.csv", b"answer,aspect\n", "no column 'note'"),
        ("a.csv", b"\xff\xfe\x00", "not UTF-8"),
        ("a.csv", b"answer,aspect,note,by\n000000000000,clear,3,ana\n", "the sheet of another run"),
        ("a.json", b"[]", "not the notes of a sheet"),
        ("a.json", b'{"schema": "other/1", "notes": []}', "schema is 'other/1'"),
        ("a.json", b'{"schema": "loadgen.notes/1", "by": "x", "notes": [{"answer": 3}]}', "not the notes of a sheet"),
    ],
)
def test_a_file_that_is_no_sheet_is_one_line(tmp_path: Path, name: str, data: bytes, message: str) -> None:
    sheet = sheet_with(tmp_path)
    (tmp_path / name).write_bytes(data)
    with pytest.raises(InputError, match=message):
        read_sheet(tmp_path / name, sheet, "ana", AT)
    with pytest.raises(InputError, match="cannot be read"):
        read_sheet(tmp_path / "missing.csv", sheet, "ana", AT)


def test_the_page_escapes_what_models_wrote(tmp_path: Path) -> None:
    page = sheet_page(sheet_with(tmp_path), '"><script>alert(1)</script>')
    assert "<script>alert" not in page
    assert "default-src &#39;none&#39;" in page


# --- how far it is ----------------------------------------------------------------------------------------------------


def test_the_status_counts_each_grader_and_their_agreement(tmp_path: Path) -> None:
    sheet = sheet_with(tmp_path)
    assert status_lines(status_of(sheet, [], {})) == [f"no notes yet on the {len(sheet.answers)} answers to 8 prompts"]
    ana, _ = play(sheet, [str(number % 5 + 1) for number in range(1000)])
    one = status_of(sheet, ana, {})
    assert one.agreement is None
    assert agreement_line(one.agreement).startswith("agreement: not known; one grader alone")
    ben = [
        note_of(answer, note.aspect, note.note, by="ben", at=AT)
        for answer in sheet.answers
        for note in ana
        if note.answer == answer.answer
    ]
    both = status_of(sheet, [*ana, *ben], {})
    assert [(grader.by, grader.answers) for grader in both.graders] == [("ana", len(sheet.answers))] * 1 + [
        ("ben", len(sheet.answers))
    ]
    assert both.agreement is not None
    assert both.agreement.alpha == pytest.approx(1.0)
