"""`notes.jsonl`: nothing is lost when the program is killed, and a later note replaces an earlier one."""

from pathlib import Path

import pytest

from loadgen.decisions.grade.notes import Note, answer_id, append_notes, read_notes
from loadgen.errors import InputError


def note(answer: str = "a" * 12, aspect: str = "clear", number: int = 3, by: str = "ana", at: str = "1") -> Note:
    return Note(
        answer=answer, prompt_id="p", text_sha256="0" * 64, aspect=aspect, note=number, by=by, kind="hand", at=at
    )


def test_notes_are_read_back_from_every_folder(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    append_notes([note(), note(aspect="brief")], [tmp_path / "one", tmp_path / "two"])
    append_notes([note(by="ben")], [tmp_path / "two"])
    assert read_notes([tmp_path / "one"]) == (note(aspect="brief"), note())
    assert len(read_notes([tmp_path / "one", tmp_path / "two"])) == 3


def test_a_later_note_replaces_an_earlier_note_of_the_same_grader(tmp_path: Path) -> None:
    append_notes([note(number=2, at="1"), note(number=5, at="2"), note(number=1, by="ben", at="3")], [tmp_path])
    assert [(each.by, each.note) for each in read_notes([tmp_path])] == [("ana", 5), ("ben", 1)]


def test_a_folder_without_notes_has_none(tmp_path: Path) -> None:
    assert read_notes([tmp_path]) == ()


@pytest.mark.parametrize("cut", range(1, 40, 7))
def test_a_line_that_was_cut_off_is_left_out_and_the_next_note_is_whole(tmp_path: Path, cut: int) -> None:
    append_notes([note(), note(aspect="brief")], [tmp_path])
    path = tmp_path / "notes.jsonl"
    path.write_bytes(path.read_bytes()[:-cut])
    left = {"clear", "brief"} if cut == 1 else {"clear"}  # one byte is the end of the line alone
    assert {each.aspect for each in read_notes([tmp_path])} == left
    append_notes([note(aspect="correct")], [tmp_path])
    assert {each.aspect for each in read_notes([tmp_path])} == {*left, "correct"}


@pytest.mark.parametrize("line", ['{"note": 3}', "not JSON", '{"answer": 7}'])
def test_a_damaged_line_is_named(tmp_path: Path, line: str) -> None:
    append_notes([note()], [tmp_path])
    with (tmp_path / "notes.jsonl").open("a", encoding="utf-8") as file:
        file.write(f"{line}\n")
    append_notes([note()], [tmp_path])
    with pytest.raises(InputError, match=r"notes\.jsonl, line 2: not a note"):
        read_notes([tmp_path])


def test_a_note_outside_the_scale_is_no_note(tmp_path: Path) -> None:
    append_notes([note(number=6)], [tmp_path])
    append_notes([note()], [tmp_path])
    with pytest.raises(InputError, match="line 1"):
        read_notes([tmp_path])


def test_equal_texts_to_one_prompt_are_one_answer() -> None:
    assert answer_id("p", "0") == answer_id("p", "0")
    assert len({answer_id("p", "0"), answer_id("q", "0"), answer_id("p", "1")}) == 3
    assert len(answer_id("p", "0")) == 12
