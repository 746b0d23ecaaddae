"""The commands, on the real engine."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.e2e.conftest import Command, code_of, environment

pytestmark = pytest.mark.e2e


def run_folder(results: Path, scenario: str = "tiny") -> Path:
    folders = sorted((results / scenario).iterdir())
    assert folders, "no run folder was written"
    return folders[-1]


def summary_of(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    return found


def records_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "requests.jsonl").read_text(encoding="utf-8").splitlines()]


def test_a_run_answers_writes_its_folder_and_leaves_no_server(
    loadgen_process: Command, scenario: Path, tmp_path: Path
) -> None:
    before = {child.pid for child in psutil.Process().children(recursive=True)}
    done = loadgen_process("run", scenario, "--out", tmp_path / "out")
    assert "4 users" in done.stdout
    assert "report:" in done.stdout
    assert [line for line in done.stderr.splitlines() if not line.startswith(("loadgen: ", "this machine "))] == []
    assert "\x1b" not in done.stderr, "no bar where there is no terminal"
    folder = run_folder(tmp_path / "out")
    expected = {"manifest.json", "requests.jsonl", "stages.jsonl", "histograms.hlog", "summary.json", "summary.csv"}
    assert expected | {"report.md", "report.html"} <= {path.name for path in folder.iterdir()}
    summary = summary_of(folder)
    assert done.returncode == code_of(summary), done.stderr
    for stage in summary["stages"]:
        counted = stage["requests"]
        assert counted["planned"] == counted["ok"] == 8
        assert counted["by_outcome"] == {"ok": 8}
        assert stage["metrics"]["ttft_ms"]["p50"] > 0
        assert stage["tokens"]["source"] == "usage"
    assert {child.pid for child in psutil.Process().children(recursive=True)} <= before
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["state"] == "complete"
    assert manifest["models"][0]["alias"] == "tiny"


def test_the_same_seed_gives_the_same_digest_and_the_same_text(
    loadgen: Command, scenario: Path, tmp_path: Path
) -> None:
    texts, digests = [], []
    for place in ("first", "second"):
        done = loadgen("run", scenario, "--quiet", "--out", tmp_path / place)
        folder = run_folder(tmp_path / place)
        assert done.returncode == code_of(summary_of(folder)), done.stderr
        digests.append(json.loads((folder / "manifest.json").read_text(encoding="utf-8"))["plan_digest"])
        texts.append({(r["level"], r["phase"], r["index"]): r["text_sha256"] for r in records_of(folder)})
    assert digests[0] == digests[1]
    assert texts[0] == texts[1]
    assert digests[0] in loadgen("plan", scenario).stdout
    by_prompt: dict[str, set[str]] = {}
    for record in records_of(folder):
        by_prompt.setdefault(record["prompt_id"], set()).add(record["text_sha256"])
    assert all(len(hashes) == 1 for hashes in by_prompt.values()), "alone or in company, a prompt has one answer"


def test_report_makes_the_same_bytes_from_the_folder_alone(loadgen: Command, scenario: Path, tmp_path: Path) -> None:
    done = loadgen("run", scenario, "--quiet", "--requests", 2, "--out", tmp_path / "out")
    folder = run_folder(tmp_path / "out")
    assert done.returncode == code_of(summary_of(folder)), done.stderr
    names = ("summary.json", "summary.csv", "prompts.csv", "report.md", "report.html", "histograms.hlog")
    made = [folder / name for name in names]
    before = [path.read_bytes() for path in made]
    for path in made:
        path.unlink()
    again = loadgen("report", folder)
    assert again.returncode == 0, again.stderr
    assert [path.read_bytes() for path in made] == before


def test_the_servers_own_timings_agree_at_one_user(loadgen: Command, scenario: Path, tmp_path: Path) -> None:
    done = loadgen("run", scenario, "--concurrency", 1, "--max-tokens", 200, "--json", "--out", tmp_path / "out")
    assert done.returncode == code_of(json.loads(done.stdout)), done.stderr
    (stage,) = json.loads(done.stdout)["stages"]
    if "rates" not in stage["server"]:  # 150 µs a token: a busy machine let them pile up, and then it says so
        assert stage["validity"]["self"]["shared_reads_share"] > 0.1
        return
    rates = stage["server"]["rates"]
    assert rates["client_decode_tokens_per_s"] == pytest.approx(rates["server_decode_tokens_per_s"], rel=0.1)


def test_a_url_needs_no_scenario(loadgen: Command, tiny_model: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "loadgen", "serve", "--model", "tiny", "--gguf", str(tiny_model)]
    server = subprocess.Popen(
        command, cwd=tmp_path, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert server.stdout is not None
        url = server.stdout.readline().strip()
        assert url.endswith("/v1"), server.communicate(timeout=10)
        options = ("--concurrency", "2", "--requests", 4, "--max-tokens", 8)
        done = loadgen("run", "--url", url, "--model", "tiny", *options, "--json", "--out", "out")
        assert done.returncode == code_of(json.loads(done.stdout)), done.stderr
        stage = json.loads(done.stdout)["stages"][0]
        assert stage["requests"]["ok"] == 4
        assert stage["target"] == url.split("/")[2]
    finally:
        server.send_signal(signal.SIGINT)
        server.communicate(timeout=20)
    assert server.returncode == 0
    with pytest.raises(OSError):
        urllib.request.urlopen(f"{url}/models", timeout=2)


MANY = 3_000
"""Requests that take far longer to play than it takes to stop them."""


def started(scenario: Path, tmp_path: Path) -> "tuple[subprocess.Popen[str], Path]":
    """A run of MANY requests, once it has written its first measured records."""
    command = [sys.executable, "-m", "loadgen", "run", str(scenario), "--requests", str(MANY), "--out", "out"]
    process = subprocess.Popen(
        command, cwd=tmp_path, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    log = None
    while process.poll() is None:
        log = next(iter((tmp_path / "out").glob("tiny/*/requests.jsonl")), None)
        if log is not None and log.read_text(encoding="utf-8").count('"measured"') > 5:
            return process, log.parent
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(0.05)
    raise AssertionError(process.communicate())


def test_ctrl_c_once_drains_reports_and_says_130(scenario: Path, tmp_path: Path) -> None:
    process, folder = started(scenario, tmp_path)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=240)
    assert process.returncode == 130, err
    assert "stopping" in err
    assert "Traceback" not in err
    assert "incomplete" in out
    stages = json.loads((folder / "summary.json").read_text(encoding="utf-8"))["stages"]
    for stage in stages:
        counted = stage["requests"]
        assert counted["planned"] == sum(counted["by_outcome"].values()) == counted["ok"] + counted["failed"]
    assert stages[0]["requests"]["planned"] == MANY
    assert stages[0]["requests"]["ok"] > 5


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
def test_a_killed_run_keeps_its_records_and_takes_its_server_along(
    loadgen: Command, scenario: Path, tmp_path: Path
) -> None:
    process, folder = started(scenario, tmp_path)
    children = psutil.Process(process.pid).children(recursive=True)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate(timeout=60)
    _gone, alive = psutil.wait_procs(children, timeout=60)
    assert children
    assert not alive
    done = loadgen("report", folder)
    assert done.returncode == 0, done.stderr
    assert "incomplete" in done.stdout
    assert json.loads((folder / "summary.json").read_text(encoding="utf-8"))["incomplete"] is True


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("run", "nowhere"), "no such scenario"),
        (("run", "tiny.toml", "--set", "load.rates=3"), "load.rates"),
        (("run", "tiny.toml", "--concurrency", "0"), "--concurrency"),
        (("run", "tiny.toml", "--bogus"), "--bogus"),
        (("frobnicate",), "frobnicate"),
        (("report", "nowhere"), "not a run folder"),
    ],
)
def test_a_wrong_word_gets_one_line_and_exit_code_2(
    loadgen: Command, scenario: Path, tmp_path: Path, arguments: tuple[str, ...], said: str
) -> None:
    named = [str(scenario) if word == "tiny.toml" else word for word in arguments]
    done = loadgen(*named)
    assert done.returncode == 2
    assert done.stdout == ""
    assert said in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "results").exists()


def test_a_model_that_cannot_be_served_is_exit_code_3_with_the_reason(
    loadgen: Command, tmp_path: Path, tiny_model: Path
) -> None:
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(tiny_model.read_bytes()[:5000])
    path = tmp_path / "broken.toml"
    path.write_text(
        f"name = 'broken'\nprompts = ['Hi.']\n[[models]]\nname = 'b'\nllamacpp = {{ gguf = '{broken}' }}\n",
        encoding="utf-8",
    )
    done = loadgen("run", path)
    assert done.returncode == 3, done.stderr
    assert "skipped" in done.stdout
    assert "Traceback" not in done.stderr


def test_the_small_model_answers_the_smoke_scenario(loadgen: Command, tmp_path: Path) -> None:
    done = loadgen("run", "smoke", "--concurrency", "1", "--requests", "4", "--json", "--out", tmp_path / "out")
    assert done.returncode == code_of(json.loads(done.stdout)), done.stderr
    stage = json.loads(done.stdout)["stages"][0]
    assert stage["requests"]["ok"] == stage["requests"]["planned"] == 4
    assert stage["tokens"]["prompt"] > 0
    card = json.loads((run_folder(tmp_path / "out", "smoke") / "manifest.json").read_text(encoding="utf-8"))["models"][
        0
    ]
    assert card["license"] == "apache-2.0"
    assert card["parameters"] == 134_515_008
