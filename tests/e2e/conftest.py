"""The command line as a user has it, and a tiny model for the real engine."""

import asyncio
import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import coverage
import psutil
import pytest

from loadgen import api
from loadgen.live.progress import Silence
from loadgen.record import Record
from loadgen.report.files import write_reports
from loadgen.scenario.file import load_scenario
from tests.command_line import run_command
from tests.e2e.browser import Browser
from tests.e2e.tiny import make_tiny_model

REPOSITORY = Path(__file__).resolve().parents[2]
Command = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(autouse=True)
def _not_counted() -> Iterator[None]:
    """What is said to be covered is what the unit and integration tests run."""
    measurement = coverage.Coverage.current()
    if measurement is not None:
        measurement.stop()
    yield
    if measurement is not None:
        measurement.start()


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if importlib.util.find_spec("xllamacpp") is None:
        pytest.skip("the embedded server is not installed (make setup)")
    return make_tiny_model(tmp_path_factory.mktemp("model") / "tiny.gguf")


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    started = Browser(tmp_path_factory.mktemp("browser"))
    yield started
    started.close()


@pytest.fixture
def scenario(tmp_path: Path, tiny_model: Path) -> Path:
    """A scenario on the tiny model, in a folder with a space in its name."""
    folder = tmp_path / "with a space"
    folder.mkdir()
    path = folder / "tiny.toml"
    path.write_text(
        f"""
        name = "tiny"
        prompts = ["Say hello.", "Count to ten, slowly.", "Name a colour.", "What is a lake?"]
        keep_text = true
        [[models]]
        name = "tiny"
        llamacpp = {{ gguf = '{tiny_model}' }}
        [load]
        mode = "closed"
        concurrency = [1, 4]
        requests = 8
        ramp_in_s = 0.1
        [sampling]
        max_tokens = 24
        [slo]
        ttft_ms = 60000.0
        """,
        encoding="utf-8",
    )
    return path


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(REPOSITORY), "NO_COLOR": "1"}


@pytest.fixture
def loadgen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    """The command line, played in this process, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))  # for the servers that it starts
    return run_command


@pytest.fixture
def loadgen_process(tmp_path: Path) -> Command:
    """The command line in a process of its own, in an empty folder, for what the process itself has a part in."""

    def run(*arguments: object, timeout_s: float = 240) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, "-m", "loadgen", *map(str, arguments)]
        return subprocess.run(
            command, cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=timeout_s, check=False
        )

    return run


class KillServer(Silence):
    """Kills the server of a run that this process plays, as soon as so many measured requests of a model have ended:
    before another is sent, however slow the machine is."""

    def __init__(self, module: str, *, after: int) -> None:
        self._module = module
        self._left = after

    def record(self, record: Record) -> None:
        self._left -= record.phase == "measured"
        if self._left == 0:
            (server,) = servers_of(os.getpid(), self._module)
            server.kill()
            self._left = -1


def servers_of(pid: int, module: str) -> list[psutil.Process]:
    """The servers that a process has started, by the module that they run."""
    children = psutil.Process(pid).children(recursive=True)
    return [child for child in children if module in " ".join(child.cmdline())]


def play_and_kill(scenario: Path, server: KillServer) -> tuple[Path, list[dict[str, Any]]]:
    """Play a scenario in this process while its server is killed; the run folder, and the stages of its summary."""
    run = asyncio.run(api.run(load_scenario(scenario), results=scenario.parent / "out", progress=server))
    write_reports(run.folder)
    stages: list[dict[str, Any]] = json.loads((run.folder / "summary.json").read_text(encoding="utf-8"))["stages"]
    return run.folder, stages


def code_of(summary: dict[str, Any]) -> int:
    """The exit code that a run's verdicts ask for: 1 where a stage is invalid, as on a machine that is too busy."""
    verdicts = [stage["validity"]["verdict"] for stage in summary["stages"] if "validity" in stage]
    return int("invalid" in verdicts)
