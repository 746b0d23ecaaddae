"""`run --versus` between two scripted servers, as somebody would call it."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from loadgen.decisions.versus.order import block_orders
from loadgen.errors import ExitCode
from loadgen.mock import FixedTime, MockProcess, Script, parse_fault
from loadgen.store import run_folder
from tests.command_line import run_command, without_settings
from tests.integration.server import Script as Answer
from tests.integration.server import Served, Server, streamed

NAMES = ("m", "other")
SOUND = Script(ttft_s=FixedTime(0.1), itl_s=FixedTime(0.005), tokens=FixedTime(3), models=NAMES)
FAILING = msgspec.structs.replace(SOUND, faults=(parse_fault("status:500@#every:2"),))
"""Refuses every second chat: a regression that no busy machine hides."""


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without_settings(monkeypatch)
    monkeypatch.chdir(tmp_path)
    # As on a system that does not say who else runs: a run must not be invalid because the tests keep the machine busy.
    monkeypatch.setattr("loadgen.engine.run.machine_source", lambda: None)


@pytest.fixture(scope="module")
def servers() -> Iterator[tuple[str, str]]:
    with MockProcess(SOUND) as sound, MockProcess(FAILING) as failing:
        yield sound.url, failing.url


def play(url: str, *flags: object) -> subprocess.CompletedProcess[str]:
    asked = ("run", "--url", url, "--model", "m", "--concurrency", 1, "--requests", 4, "--no-preflight")
    return run_command(*asked, "--warmup", 0, *flags)


def folder_of(blocks: int) -> Path:
    (folder,) = Path("results", "adhoc").glob(f"*-ab{blocks}")
    return folder


def test_a_server_that_fails_is_shown_to_be_worse_and_the_comparison_is_kept(servers: tuple[str, str]) -> None:
    sound, failing = servers
    result = play(sound, "--versus-url", failing, "--repeats", 5)
    assert result.returncode == ExitCode.GATE_FAILED, result.stderr
    assert result.stdout.startswith("worse: answered −50.0 points (")
    assert "; 5 blocks of two runs\n" in result.stdout
    folder = folder_of(5)
    assert (
        result.stdout.splitlines()[-1]
        == f"comparison: {folder / 'comparison.html'} (and comparison.md, comparison.json)"
    )
    assert {path.name for path in folder.iterdir()} == {
        *("pairs.json", "comparison.json", "comparison.md", "comparison.html"),
    }
    pairs = json.loads((folder / "pairs.json").read_text("utf-8"))
    assert pairs["order"] == list(block_orders(5, 1))
    assert pairs["versus"] == {"models[0].url": failing}
    assert f"B: models[0].url is {failing}" in result.stderr
    runs = run_folder.runs_of(Path("results", "adhoc"))
    assert len(runs) == 10 + len(pairs["unused"])
    assert all((run / name).is_file() for run in runs for name in ("report.html", "summary.json"))
    comparison = json.loads((folder / "comparison.json").read_text("utf-8"))
    assert (comparison["verdict"], comparison["design"]) == ("worse", "blocks")

    again = run_command("compare", folder, "--json")
    assert (again.returncode, json.loads(again.stdout)) == (ExitCode.GATE_FAILED, comparison)
    merged = run_command("compare", folder, runs[0])
    assert merged.returncode == ExitCode.BAD_INPUT


def test_few_blocks_of_a_server_and_itself_show_nothing_which_is_said_before(servers: tuple[str, str]) -> None:
    result = play(servers[0], "--versus-model", "other", "--repeats", 2, "--rest", "10ms")
    assert result.returncode == ExitCode.DONE, result.stderr
    assert "2 blocks cannot show a regression; --repeats 5 can" in result.stderr
    assert "B: models[0].name is other" in result.stderr
    assert re.match(
        r"(too few blocks to show a difference|the same within 5 %: all \d+ figures); 2 blocks of two runs\n",
        result.stdout,
    )
    comparison = json.loads((folder_of(2) / "comparison.json").read_text("utf-8"))
    assert {tuple(figure["model"]) for figure in comparison["figures"]} == {("m", "other")}


def test_a_variant_without_a_server_ends_with_3_and_says_why(servers: tuple[str, str]) -> None:
    result = run_command(
        *("run", "--url", servers[0], "--model", "m", "--requests", 2, "--ready", "0"),
        *("--versus-url", "http://127.0.0.1:9/v1", "--repeats", 5, "--quiet"),
    )
    assert result.returncode == ExitCode.NO_TARGET
    assert "loadgen: B: skipped m on 127.0.0.1:9: " in result.stderr
    assert "loadgen: 0 of 5 blocks can be compared" in result.stderr


@pytest.mark.skipif(os.name == "nt", reason="there are no such signals")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL], ids=["Ctrl-C", "kill -9"])
def test_what_ends_the_second_block_leaves_the_first(number: signal.Signals) -> None:
    """The signal comes while the first chat after a whole block is in flight."""
    process: list[subprocess.Popen[str]] = []
    sent: list[signal.Signals] = []

    def choose(_: Served) -> Answer:
        files = list(Path("results", "adhoc").glob("*-ab5/pairs.json"))
        if files and not sent and json.loads(files[0].read_text("utf-8"))["blocks"]:
            process[0].send_signal(number)
            sent.append(number)
        return streamed("a", "b")

    with Server(choose) as server:
        words = ("run", "--url", server.url, "--model", "m", "--concurrency", "1", "--requests", "2", "--no-preflight")
        command = [sys.executable, "-m", "loadgen", *words, "--warmup", "0", "--versus-model", "n", "--repeats", "5"]
        process.append(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
        out, err = process[0].communicate(timeout=120)
    folder = folder_of(5)
    if number == signal.SIGINT:
        assert process[0].returncode == ExitCode.INTERRUPTED, err
        assert "loadgen: 1 of 5 blocks can be compared (" in err
        assert (folder / "comparison.json").is_file()
    else:
        out = run_command("compare", folder).stdout
    assert "; 1 run against 1\n" in out
    pairs = json.loads((folder / "pairs.json").read_text("utf-8"))
    assert (len(pairs["blocks"]), len(pairs["order"])) == (1, 5)
