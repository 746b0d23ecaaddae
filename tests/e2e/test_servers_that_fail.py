"""Embedded servers as they fail: each is named with its reason, its stages are marked, and the rest goes on."""

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.e2e.conftest import REPOSITORY, Command, KillServer, environment, play_and_kill, servers_of
from tests.e2e.test_commands import records_of, run_folder

pytestmark = pytest.mark.e2e
SERVER = "loadgen.targets.llamacpp.child_program"


def scenario_of(folder: Path, name: str, *models: str, requests: int = 4, tokens: int = 24) -> Path:
    path = folder / f"{name}.toml"
    path.write_text(
        f"""
        name = "{name}"
        prompts = ["Say hello.", "Count to ten, slowly."]
        warmup_requests = 0
        probe = false
        models = [{", ".join(models)}]
        [load]
        mode = "closed"
        concurrency = [2]
        requests = {requests}
        [sampling]
        max_tokens = {tokens}
        """,
        encoding="utf-8",
    )
    return path


def model(name: str, path: Path, more: str = "") -> str:
    return f"{{ name = '{name}', llamacpp = {{ gguf = '{path}'{more} }} }}"


def stages_of(folder: Path) -> dict[str, dict[str, Any]]:
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    return {stage["model"]: stage for stage in summary["stages"]}


def test_a_model_that_cannot_be_loaded_is_named_and_the_next_is_played(
    loadgen: Command, tmp_path: Path, tiny_model: Path
) -> None:
    whole = tiny_model.read_bytes()
    damaged = {
        "cut": (whole[: len(whole) // 2], "is not within the file bounds"),
        "other": (b"hello, this is a text", "invalid magic characters"),
        "newer": (whole[:4] + b"\x63" + whole[5:], "version 99"),
    }
    for name, (data, _) in damaged.items():
        (tmp_path / f"{name}.gguf").write_bytes(data)
    models = [model(name, tmp_path / f"{name}.gguf") for name in damaged]
    path = scenario_of(tmp_path, "damaged", *models, model("whole", tiny_model))
    done = loadgen("run", path, "--out", "out")
    assert "Traceback" not in done.stderr
    stages = stages_of(run_folder(tmp_path / "out", "damaged"))
    for name, (_, said) in damaged.items():
        assert stages[name]["status"] == "skipped"
        assert said in stages[name]["reason"]
        assert "is the file whole?" in stages[name]["reason"]
    assert stages["whole"]["status"] == "played"
    assert stages["whole"]["requests"]["ok"] == 4
    assert done.returncode in {0, 1}  # 1 where this machine's own measurement is judged invalid


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux limits memory")
def test_a_server_without_enough_memory_is_named_and_the_next_is_played(tmp_path: Path, tiny_model: Path) -> None:
    import resource

    large = model("large", tiny_model, ", context_tokens = 4000000")
    path = scenario_of(tmp_path, "large", large, model("small", tiny_model))
    command = [sys.executable, "-m", "loadgen", "run", str(path), "--out", "out"]
    limit = 4 << 30  # twice what a small server wants, and less than the large one's keys and values
    done = subprocess.run(
        command,
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (limit, limit)),
    )
    assert "Traceback" not in done.stderr
    stages = stages_of(run_folder(tmp_path / "out", "large"))
    assert stages["large"]["status"] == "skipped"
    assert "it ran out of memory: insufficient memory (attempted to allocate" in stages["large"]["reason"]
    assert "take a smaller model" in stages["large"]["reason"]
    assert stages["small"]["requests"]["ok"] == 4


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
def test_a_server_that_is_killed_half_way_ends_its_own_stage_alone(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    models = (model("first", tiny_model), model("second", tiny_model))
    path = scenario_of(tmp_path, "killed", *models, requests=8)
    folder, (first, second) = play_and_kill(path, KillServer(SERVER, after=2))
    assert (first["model"], second["model"]) == ("first", "second")
    assert set(first["requests"]["by_outcome"]) <= {"ok", "truncated", "connect_error", "cancelled"}
    assert first["requests"]["ok"] >= 2
    assert first["requests"]["failed"] > 0
    assert sum(first["requests"]["by_outcome"].values()) == first["requests"]["planned"] == 8
    assert second["requests"]["by_outcome"] == {"ok": 8}
    assert len(records_of(folder)) == 16
    (died,) = [reason for reason in first["validity"]["reasons"] if reason["code"] == "server_died"]
    assert "SIGKILL" in died["seen"]
    assert first["validity"]["verdict"] == "invalid"
    assert "second" in (folder / "report.md").read_text(encoding="utf-8")


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
def test_the_embedded_server_listens_on_loopback_alone(tmp_path: Path, tiny_model: Path) -> None:
    command = [sys.executable, "-m", "loadgen", "serve", "--model", "tiny", "--gguf", str(tiny_model)]
    process = subprocess.Popen(
        command, cwd=tmp_path, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        (server,) = servers_of(process.pid, SERVER)
        listening = [c.laddr for c in server.net_connections(kind="inet") if c.status == psutil.CONN_LISTEN]
        assert [(address.ip, f"http://127.0.0.1:{address.port}/v1") for address in listening] == [("127.0.0.1", url)]
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=30)
