"""The command line as a user has it, and a tiny model for the real engine."""

import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.tiny import make_tiny_model

REPOSITORY = Path(__file__).resolve().parents[2]
Command = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if importlib.util.find_spec("xllamacpp") is None:
        pytest.skip("the embedded server is not installed (make setup)")
    return make_tiny_model(tmp_path_factory.mktemp("model") / "tiny.gguf")


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
def loadgen(tmp_path: Path) -> Command:
    """Run the command line in an empty folder; it must end within a minute and a half."""

    def run(*arguments: object, timeout_s: float = 90) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, "-m", "loadgen", *map(str, arguments)]
        return subprocess.run(
            command, cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=timeout_s, check=False
        )

    return run


def code_of(summary: dict[str, Any]) -> int:
    """The exit code that a run's verdicts ask for: 1 where a stage is invalid, as on a machine that is too busy."""
    verdicts = [stage["validity"]["verdict"] for stage in summary["stages"] if "validity" in stage]
    return int("invalid" in verdicts)
