"""What stands under a run's table: what was skipped, and what could not be written."""

import errno
import os
import shutil
from pathlib import Path
from typing import Any

import msgspec
import pytest
from typer.testing import CliRunner

from loadgen.analysis.summarize import summarize
from loadgen.cli.app import app
from loadgen.cli.run import skipped_lines
from loadgen.store import files
from tests.records import planned, run_of, turn

KEPT = Path(__file__).parents[2] / "data" / "runs" / "closed"


def turns(count: int, **changes: Any) -> list[Any]:
    return [turn(index, **changes) for index in range(count)]


def test_each_skipped_model_has_one_line_however_many_levels_it_had() -> None:
    load = {"mode": "closed", "concurrency": 2}
    gone = [planned(4, model="gone", level=level, load=load, skipped="refused") for level in ("c1", "c2")]
    assert skipped_lines(summarize(run_of(turns(40), [planned(40), *gone]))) == ["skipped gone on t: refused"]


@pytest.fixture
def readonly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(KEPT, tmp_path / "run")

    def write(path: Path, data: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), path)

    monkeypatch.setattr(files, "write_whole", write)
    return tmp_path / "run"


def test_a_folder_that_cannot_be_written_is_reported_all_the_same(readonly: Path) -> None:
    answer = CliRunner().invoke(app, ["report", str(readonly)])
    assert answer.exit_code == 0, answer.output
    assert "TTFT" in answer.stdout
    names = "summary.json, summary.csv, prompts.csv, histograms.hlog, report.md, report.html"
    assert answer.stderr == f"loadgen: {readonly}: not written: {names} (Read-only file system)\n"


def test_its_summary_is_printed_as_json_too(readonly: Path) -> None:
    answer = CliRunner().invoke(app, ["report", "--json", str(readonly)])
    assert answer.exit_code == 0, answer.output
    assert msgspec.json.decode(answer.stdout)["stages"]


def test_runs_that_cannot_be_written_beside_are_merged_all_the_same(readonly: Path) -> None:
    shutil.copytree(KEPT.parent / "repeats", readonly / "repeats")
    answer = CliRunner().invoke(app, ["report", "--merge", *(str(readonly / "repeats" / f"run{i}") for i in (1, 2, 3))])
    assert answer.exit_code == 0, answer.output
    assert "3 runs of one plan" in answer.stdout
    assert "not written: summary.json, summary.csv, report.md, report.html" in answer.stderr
