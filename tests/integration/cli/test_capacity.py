"""The search as a process of its own, over loopback: stopped by a person, killed, and shown again."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from loadgen.decisions.capacity.files import CAPACITY
from loadgen.errors import ExitCode
from loadgen.store.run_folder import read
from tests.command_line import run_command
from tests.integration.server import Script, Served, Server, streamed

pytestmark = pytest.mark.skipif(os.name == "nt", reason="there are no such signals")

SIGNALED_AT = 14
"""In which chat the signal comes: the first visit has about eleven, and however busy the machine is, there is a second.
"""


def searched_until(
    ending: signal.Signals, folder: Path, *flags: str
) -> tuple[Path, "subprocess.CompletedProcess[str]"]:
    """The folder of a search that is sent a signal in one of its chats, and what the process came to."""
    process: list[subprocess.Popen[str]] = []
    chats = 0

    def choose(_: Served) -> Script:
        nonlocal chats
        chats += 1
        if chats == SIGNALED_AT:
            process[0].send_signal(ending)
        return streamed("a", "b")

    with Server(choose) as server:
        words = ("capacity", "--url", server.url, "--model", "m", "--slo", "ttft_p90=9s", "--out", folder, *flags)
        command = [sys.executable, "-m", "loadgen", *map(str, words)]
        process.append(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
        out, err = process[0].communicate(timeout=120)
    (place,) = folder.glob("*/capacity-*")
    return place, subprocess.CompletedProcess(command, process[0].returncode, out, err)


def answer_in(folder: Path) -> dict[str, Any]:
    (model,) = json.loads((folder / CAPACITY).read_text(encoding="utf-8"))["models"]
    return dict(model)


def visits_of(answer: dict[str, Any]) -> set[str]:
    return {visit for level in answer["levels"] for visit in level["visits"]}


@pytest.mark.parametrize("workers", [1, 2])
def test_ctrl_c_ends_the_visit_and_what_is_known_is_reported(workers: int, tmp_path: Path) -> None:
    folder, ended = searched_until(signal.SIGINT, tmp_path, "--workers", str(workers), "--from", "2")
    assert ended.returncode == ExitCode.INTERRUPTED, ended.stderr
    assert "Stopped: interrupted" in ended.stdout
    assert "--resume continues it" in ended.stdout
    assert (folder / "report.html").is_file()
    answer, run = answer_in(folder), read(folder)
    assert answer["stopped"] == "interrupted"
    assert visits_of(answer) == {facts.level for facts in run.facts}
    assert {len(facts.workers) for facts in run.facts} == {workers if workers > 1 else 0}
    assert run.manifest.state == "interrupted"


def test_a_search_that_is_killed_can_be_shown(tmp_path: Path) -> None:
    folder, ended = searched_until(signal.SIGKILL, tmp_path)
    assert ended.returncode == -signal.SIGKILL
    before = visits_of(answer_in(folder))
    assert before
    shown = run_command("capacity", "--show", folder)
    assert shown.returncode in (ExitCode.DONE, ExitCode.GATE_FAILED)
    assert "Stopped: interrupted" in shown.stdout
    assert visits_of(answer_in(folder)) == before
    assert (folder / "report.html").is_file()
