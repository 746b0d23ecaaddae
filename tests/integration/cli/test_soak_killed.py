"""A soak as a process that is killed and resumed: its records are those of the server's own log."""

import asyncio
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from loadgen.engine.soak.lock import LOCK
from loadgen.engine.soak.resume import LOST
from loadgen.store.events import read_events
from loadgen.store.run_folder import read
from loadgen.store.windows import WINDOWS, read_windows
from tests.integration.engine.test_session import PREFLIGHT, eventually, loadgen
from tests.integration.server import Server, streamed

SCENARIO = """
name = "killed"
probe = false
prompts = ["First question.", "Second question."]
warmup_requests = 0
[[models]]
name = "m"
url = "{url}"
[load]
mode = "closed"
concurrency = [3]
"""


async def start(*arguments: object) -> asyncio.subprocess.Process:
    words = loadgen("soak", *map(str, arguments))
    return await asyncio.create_subprocess_exec(*words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


async def end(process: asyncio.subprocess.Process, signal_number: int) -> int:
    if process.returncode is None:
        process.send_signal(signal_number)
    return await asyncio.wait_for(process.wait(), 60.0)


def windows_in(folder: Path) -> int:
    """How many windows the soak in a results folder has written."""
    return sum(path.read_bytes().count(b"\n") for path in folder.glob(f"*/*/{WINDOWS}"))


def folder_in(results: Path) -> Path:
    (folder,) = results.glob("*/*")
    return folder


@pytest.mark.asyncio
@pytest.mark.skipif(sys.platform == "win32", reason="POSIX's signals")
async def test_after_kill_9_a_soak_goes_on_and_each_chat_of_the_server_has_one_record(tmp_path: Path) -> None:
    path = tmp_path / "killed.toml"
    with Server(streamed("a", "b", "c", gap_s=0.03)) as server:
        path.write_text(SCENARIO.format(url=server.url), encoding="utf-8")
        process = await start(path, "--duration", "10m", "--window", "1s", "--out", tmp_path / "out")
        try:
            await eventually(lambda: windows_in(tmp_path / "out") >= 2)
        finally:
            assert await end(process, signal.SIGKILL) == -signal.SIGKILL
        folder = folder_in(tmp_path / "out")
        before = {record.index: record for record in read(folder).records if record.phase == "measured"}
        played = windows_in(tmp_path / "out")
        process = await start("--resume", folder)
        try:
            await eventually(lambda: windows_in(tmp_path / "out") >= played + 2)
        finally:
            code = await end(process, signal.SIGINT)
        chats = [chat for chat in server.chats if chat.says != PREFLIGHT]
    run, windows = read(folder), read_windows(folder)
    assert code in (0, 130), "a soak that was stopped has a verdict so far"
    assert run.manifest.state == "interrupted"
    measured = [record for record in run.records if record.phase == "measured"]
    assert sorted(record.index for record in measured) == list(range(len(measured)))
    # What was on disk stays as it was; of what was in flight, each request has one record.
    after = {record.index: record for record in measured}
    assert {index: after[index] for index in before} == before
    lost = [record for record in measured if record.detail == LOST]
    assert 1 <= len(lost) <= 6
    assert Counter(record.outcome for record in measured) == {
        "ok": len(measured) - len(lost),
        "cancelled": len(lost),
    }
    # A request that was about to be sent has a record, and the server has not heard of it.
    assert 0 <= len(measured) - len(chats) <= len(lost)
    whole = [chat for chat in chats if len(chat.tokens_ns) == 3 and chat.gone_ns is None]
    assert len(measured) - len(lost) <= len(whole)
    assert [event.kind for event in read_events(folder)] == ["resumed"]
    assert sum(window.ok for window in windows) == len(measured) - len(lost)
    assert [window.window for window in windows] == list(range(len(windows)))
    assert not (folder / LOCK).exists()
