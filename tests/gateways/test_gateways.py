"""Runs through the gateways that users have before their servers. Opt-in (`make gateways`): large to install."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import Command
from tests.gateways.conftest import KEY, MODEL

pytestmark = pytest.mark.e2e
REQUESTS = ("--requests", "6", "--concurrency", "1", "--max-tokens", "48")
PACE = {"tpot_ms", "itl_ms", "per_user_tokens_per_s"}
"""What only a stream has. The TTFT may be marked for another reason: the server's cache has the chat template."""


def run_of(loadgen_process: Command, out: Path, url: str, model: str, *more: str) -> tuple[dict[str, Any], str]:
    """The one stage of a run's summary, and all that the run said."""
    ended = loadgen_process("run", "--url", url, "--model", model, *REQUESTS, "--out", out, *more, timeout_s=240)
    said = ended.stdout + ended.stderr
    assert "Traceback" not in said
    (path,) = out.rglob("summary.json")
    (stage,) = json.loads(path.read_text(encoding="utf-8"))["stages"]
    return stage, said


def test_a_gateway_that_passes_tokens_on_as_they_come_is_measured(
    loadgen_process: Command, nginx: str, tmp_path: Path
) -> None:
    stage, _ = run_of(loadgen_process, tmp_path / "out", f"{nginx}/through/v1", MODEL)
    assert stage["requests"]["ok"] == 6
    assert not stage["not_valid"].keys() & PACE


def test_a_gateway_that_keeps_a_stream_back_gives_no_first_token_and_no_pace(
    loadgen_process: Command, nginx: str, tmp_path: Path
) -> None:
    stage, said = run_of(loadgen_process, tmp_path / "out", f"{nginx}/held/v1", MODEL)
    assert stage["requests"]["ok"] == 6
    assert stage["not_valid"].keys() >= PACE | {"ttft_ms"}
    assert stage["metrics"]["e2e_ms"]["count"] == 6
    assert "buffer" in said


def test_a_proxy_that_loads_is_waited_for_and_its_key_is_sent_and_not_written(
    loadgen_process: Command, litellm: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOADGEN_API_KEY", KEY)
    stage, said = run_of(loadgen_process, tmp_path / "out", litellm, "smol")
    assert stage["requests"]["ok"] == 6
    assert KEY not in said
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and KEY.encode() in path.read_bytes()]


def test_a_key_that_the_proxy_refuses_is_not_called_missing(
    loadgen_process: Command, litellm: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOADGEN_API_KEY", "sk-another")
    stage, said = run_of(loadgen_process, tmp_path / "out", litellm, "smol")
    assert stage["status"] == "skipped"
    assert "sk-another" not in said
    assert "LOADGEN_API_KEY" not in said
