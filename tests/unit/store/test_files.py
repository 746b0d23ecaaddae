"""Files that a person names: written whole, and never in place of what is no file; and disks that have no room."""

import os
import stat
import sys
from pathlib import Path

import pytest

from loadgen.cli.mock import _TruthLog
from loadgen.mock import Truth
from loadgen.store.files import write_to
from tests.command_line import run_command
from tests.integration.engine.test_lost_folder import no_file_longer_than

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="pipes, links and limits of POSIX")


def test_a_pipe_is_written_to_and_stays_one(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    write_to(pipe, b"text")
    assert os.read(reader, 100) == b"text"
    os.close(reader)
    assert stat.S_ISFIFO(pipe.lstat().st_mode)
    assert [path.name for path in tmp_path.iterdir()] == ["pipe"]


@pytest.mark.parametrize("is_there", [True, False])
def test_of_a_link_the_file_is_written_that_it_leads_to(is_there: bool, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("file")
    if is_there:
        (tmp_path / "file").write_text("before", "utf-8")
    write_to(tmp_path / "link", b"text")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "file").read_text("utf-8") == "text"


def test_a_folder_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError):
        write_to(tmp_path, b"text")


def test_a_scenario_that_does_not_fit_leaves_nothing_in_the_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with no_file_longer_than(10):
        refused = run_command("init", "mine")
    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)
    assert list(tmp_path.iterdir()) == []
    assert run_command("init", "mine").returncode == 0


def test_a_truth_that_cannot_be_written_any_more_is_said_once_and_ends_no_server(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = _TruthLog(tmp_path / "truth.jsonl")
    with log.open(), no_file_longer_than(10):
        for _ in range(3):
            log.append(Truth(number=1, connection=0, nth=0, arrived_ns=0, read_ns=0))
    said = capsys.readouterr().err
    assert said == (
        f"loadgen: --truth {tmp_path / 'truth.jsonl'}: cannot be written any more (File too large); "
        "the server goes on\n"
    )
