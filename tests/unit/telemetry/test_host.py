"""The circumstances of a run, as far as they are read from other programs."""

import shutil
import subprocess
from pathlib import Path

import pytest

from loadgen.telemetry.host import git_commit


def git(folder: Path, *words: str) -> str:
    command = ["git", "-c", "user.name=n", "-c", "user.email=e", *words]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
def test_the_commit_is_that_of_the_checkout_and_its_index_is_left_alone(tmp_path: Path) -> None:
    assert git_commit(tmp_path) is None, "no checkout"
    git(tmp_path, "init", "--quiet")
    assert git_commit(tmp_path) is None, "no commit"
    (tmp_path / "a").write_text("1", "utf-8")
    git(tmp_path, "add", "a")
    git(tmp_path, "commit", "--quiet", "--message", "m")
    commit = git(tmp_path, "rev-parse", "HEAD")[:12]
    (tmp_path / "new").write_text("1", "utf-8")
    (tmp_path / "a").touch()
    index = (tmp_path / ".git" / "index").stat()
    assert git_commit(tmp_path) == commit, "new files and new times are no changes"
    after = (tmp_path / ".git" / "index").stat()
    assert (after.st_ino, after.st_size, after.st_mtime_ns) == (index.st_ino, index.st_size, index.st_mtime_ns)
    (tmp_path / "a").write_text("2", "utf-8")
    assert git_commit(tmp_path) == f"{commit}+changes"
    git(tmp_path, "add", "a")
    assert git_commit(tmp_path) == f"{commit}+changes"
