"""The verb grade: what it prints and writes, its exit codes, and what it does with wrong flags."""

import codecs
import csv
import io
import json
import sys
from pathlib import Path

import pytest

from loadgen.decisions.grade.notes import read_notes
from loadgen.errors import ExitCode
from tests.command_line import run_command
from tests.selected_runs import SelectedModel, write_run


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run of two models that kept its texts."""
    models = (SelectedModel(name="a", points=(4, 3)), SelectedModel(name="b", points=(1, 2)))
    return write_run(tmp_path / "run", models)


def typed(monkeypatch: pytest.MonkeyPatch, *lines: str) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("".join(f"{line}\n" for line in lines)))


def test_notes_that_are_typed_are_saved_at_once_and_kept_at_the_end_of_the_input(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    typed(monkeypatch, "4", "3", "2")
    result = run_command("grade", run, "--by", "ana")
    assert (result.returncode, result.stderr) == (ExitCode.DONE, "")
    assert sorted(note.note for note in read_notes([run])) == [2, 3, 4]
    assert "ana (by hand): 0 of 16 answers graded, 3 notes" in result.stdout


def test_a_sheet_goes_out_and_its_notes_come_back(run: Path, tmp_path: Path) -> None:
    sheet = tmp_path / "sheet.csv"
    assert run_command("grade", run, "--by", "ben", "--export", sheet).returncode == ExitCode.DONE
    assert sheet.read_bytes().startswith(codecs.BOM_UTF8), "or Excel takes it for another encoding"
    rows = list(csv.DictReader(io.StringIO(sheet.read_text(encoding="utf-8-sig"))))
    with sheet.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows({**row, "note": "4"} for row in rows)
    result = run_command("grade", run, "--import", sheet)
    assert result.returncode == ExitCode.DONE
    assert f"{sheet}: 64 notes imported" in result.stdout
    state = json.loads(run_command("grade", run, "--status", "--json").stdout)
    assert state["graders"] == [{"by": "ben", "kind": "hand", "notes": 64, "answers": 16}]
    assert state["agreement"] is None


def test_the_status_of_two_graders_is_json_with_their_agreement(run: Path, tmp_path: Path) -> None:
    sheet = tmp_path / "sheet.csv"
    run_command("grade", run, "--export", sheet)
    rows = list(csv.DictReader(io.StringIO(sheet.read_text(encoding="utf-8-sig"))))
    for by in ("ana", "ben"):
        with sheet.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows({**row, "note": str(1 + int(row["answer"], 16) % 5), "by": by} for row in rows)
        assert run_command("grade", run, "--import", sheet).returncode == ExitCode.DONE
    state = json.loads(run_command("grade", run, "--status", "--json").stdout)
    assert state["agreement"] == {"alpha": 1.0, "ci": [1.0, 1.0], "kappa": 1.0, "units": 64, "answers": 16}
    assert state["judges"] == []


def test_a_bad_sheet_is_one_line_and_changes_nothing(run: Path, tmp_path: Path) -> None:
    (tmp_path / "sheet.csv").write_text("answer,aspect,note,by\n123456789abc,clear,9,ana\n", encoding="utf-8")
    result = run_command("grade", run, "--import", tmp_path / "sheet.csv")
    assert result.returncode == ExitCode.BAD_INPUT
    assert len(result.stderr.splitlines()) == 1
    assert read_notes([run]) == ()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ((), "who grades? give --by NAME"),
        (("--by", ""), "a name has 1 to 80 printable characters"),
        (("--by", "a\nb"), "a name has 1 to 80 printable characters"),
        (("--status", "--export", "a.csv"), "--export and --status: give one of them at a time"),
        (("--by", "ana", "--json"), "--json goes with --status"),
        (("--export", "sheet.xlsx"), "a sheet is FILE.csv or FILE.html"),
        (("--export", "/nowhere/sheet.csv"), "cannot be written"),
        (("--by", "ana", "--sample", "0"), "--sample"),
    ],
)
def test_wrong_flags_are_one_line(run: Path, flags: tuple[str, ...], message: str) -> None:
    result = run_command("grade", run, *flags)
    assert result.returncode == ExitCode.BAD_INPUT
    assert message in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_no_run_folder_is_one_line(tmp_path: Path) -> None:
    result = run_command("grade", tmp_path, "--by", "ana")
    assert result.returncode == ExitCode.BAD_INPUT
    assert len(result.stderr.splitlines()) == 1


def test_a_sheet_that_is_there_already_is_not_written_over(run: Path, tmp_path: Path) -> None:
    sheet = tmp_path / "sheet.csv"
    sheet.write_text("notes that somebody gave", encoding="utf-8")
    result = run_command("grade", run, "--export", sheet)
    assert result.returncode == ExitCode.BAD_INPUT
    assert "is already there, perhaps with notes; give another name" in result.stderr
    assert sheet.read_text(encoding="utf-8-sig") == "notes that somebody gave"
