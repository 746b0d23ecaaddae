"""The workshop's surface through the command line: its variables, its files, an endpoint without any SDK, baselines."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest

from loadgen.analysis import validity
from loadgen.analysis.evidence import Evidence
from loadgen.analysis.validity import Judgment, StageVerdict
from loadgen.targets.extra_chats import TEST_CHAT
from tests.command_line import run_command

MODELS = ("phi-4-mini-instruct-generic-cpu:3", "qwen2.5-0.5b-instruct-generic-cpu:4")


class Foundry(BaseHTTPRequestHandler):
    """Foundry Local's service as it looks on the wire: full ids with a version, and aliases that it does not know."""

    protocol_version = "HTTP/1.1"
    asked: ClassVar[list[dict[str, Any]]] = []

    def do_GET(self) -> None:
        listed = [{"id": name, "object": "model", "owned_by": "Microsoft"} for name in MODELS]
        self._send(json.dumps({"object": "list", "data": listed if self.path == "/v1/models" else []}).encode())

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.asked.append(body)
        if body["model"] not in MODELS:
            self.send_error(404)
            return
        usage = {"prompt_tokens": 5, "completion_tokens": 2}
        if not body["stream"]:
            choice = {"index": 0, "message": {"content": "Hello."}, "finish_reason": "stop"}
            self._send(json.dumps({"choices": [choice], "usage": usage}).encode())
            return
        chunks: list[dict[str, Any]] = [
            {"choices": [{"index": 0, "delta": {"content": text}}]} for text in ("Hel", "lo.")
        ]
        chunks += [{"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}, {"choices": [], "usage": usage}]
        events = "".join(f"data: {json.dumps(chunk)}\n\n" for chunk in chunks) + "data: [DONE]\n\n"
        self._send(events.encode(), "text/event-stream")

    def _send(self, data: bytes, kind: str = "application/json") -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def endpoint() -> Iterator[str]:
    Foundry.asked = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Foundry)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}/v1"
    server.shutdown()
    thread.join()
    server.server_close()


def judged(verdict: StageVerdict) -> Callable[[Evidence], Judgment]:
    """The verdict on every stage, however busy this machine is."""
    return lambda _: Judgment(verdict, ())


@pytest.fixture(autouse=True)
def _in_a_folder_without_an_sdk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty folder, no variables, importing an SDK ends the command, and every stage is valid."""
    monkeypatch.setattr(validity, "judge", judged("valid"))
    poison = tmp_path / "poison"
    poison.mkdir()
    for name in ("foundry_local", "foundry_local_sdk"):
        (poison / f"{name}.py").write_text("raise SystemExit('an SDK was imported')\n", encoding="utf-8")
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.syspath_prepend(poison)
    monkeypatch.chdir(tmp_path)
    for name in list(os.environ):
        if name.startswith(("BENCH_", "FOUNDRY_")):
            monkeypatch.delenv(name)


def loadgen(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """The command with these variables set."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in variables.items():
            patch.setenv(name, value)
        return run_command(*arguments)


def summary_of(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    assert done.returncode == 0, done.stderr
    told: dict[str, Any] = json.loads(done.stdout)
    return told


def measured() -> list[dict[str, Any]]:
    """What was asked, without what the harness asks of a server before a run."""
    return [body for body in Foundry.asked if body["messages"][-1]["content"] != TEST_CHAT]


def test_an_endpoint_and_models_are_enough_and_no_sdk_is_imported(endpoint: str, tmp_path: Path) -> None:
    variables = {"FOUNDRY_LOCAL_ENDPOINT": endpoint, "BENCH_MODELS": "phi-4-mini,qwen2.5-0.5b", "BENCH_ROUNDS": "2"}
    done = loadgen("run", "--warmup", "0", **variables, BENCH_PROMPT="Why local?")
    assert done.returncode == 0, done.stderr
    assert "BENCH_MODELS is set: plays phi-4-mini, qwen2.5-0.5b" in done.stderr
    assert f"FOUNDRY_LOCAL_ENDPOINT is set: uses the Foundry Local at {endpoint}" in done.stderr
    assert "phi-4-mini on foundry" in (next(tmp_path.glob("results/adhoc/*/report.md"))).read_text(encoding="utf-8")
    asked = [(body["model"], body["messages"][-1]["content"]) for body in measured()]
    assert asked == [(MODELS[0], "Why local?")] * 2 + [(MODELS[1], "Why local?")] * 2


def test_with_bench_stream_0_answers_come_whole(endpoint: str, tmp_path: Path) -> None:
    variables = {"FOUNDRY_LOCAL_ENDPOINT": endpoint, "BENCH_STREAM": "0", "BENCH_ROUNDS": "2"}
    done = loadgen("run", "--model", "phi-4-mini", "--json", **variables)
    assert done.stderr == ""
    summary = summary_of(done)
    (stage,) = summary["stages"]
    assert (summary["streamed"], stage["requests"]["by_outcome"]) == (False, {"ok": 12})
    assert stage["metrics"]["e2e_ms"]["count"] == 12
    assert stage["metrics"]["ttft_ms"]["count"] == 0
    assert stage["throughput"]["e2e_tokens_per_s"] > 0
    assert {body["stream"] for body in measured()} == {False}


def test_an_alias_that_is_not_there_is_skipped_and_the_others_are_played(endpoint: str, tmp_path: Path) -> None:
    variables = {"FOUNDRY_LOCAL_ENDPOINT": endpoint, "BENCH_MODELS": "mistral-7b,phi-4-mini"}
    summary = summary_of(loadgen("run", "--json", "--requests", "3", **variables))
    assert [stage["status"] for stage in summary["stages"]] == ["skipped", "played"]
    assert "foundry model load mistral-7b" in summary["stages"][0]["reason"]


def test_what_models_writes_run_reads(endpoint: str, tmp_path: Path) -> None:
    written = loadgen("models", "--url", endpoint, "--write", "models.json")
    assert (written.returncode, written.stderr) == (0, "wrote models.json\n")
    assert all(name in written.stdout for name in MODELS)
    cards = json.loads((tmp_path / "models.json").read_text(encoding="utf-8"))
    assert {name: card["publisher"] for name, card in cards.items()} == dict.fromkeys(MODELS, "Microsoft")
    again = loadgen("models", "--url", endpoint, "--write", "models.json")
    assert (again.returncode, "add --force" in again.stderr) == (2, True)
    (tmp_path / "prompts.json").write_text('["One?", {"prompt": "Two?", "facets": ["k"]}]', encoding="utf-8")
    files = ("--models-file", "models.json", "--prompts-file", "prompts.json")
    run = loadgen("run", *files, "--json", "--requests", "2", FOUNDRY_LOCAL_ENDPOINT=endpoint)
    assert [stage["model"] for stage in summary_of(run)["stages"]] == list(MODELS)
    assert {body["messages"][-1]["content"] for body in measured()} == {"One?", "Two?"}


def test_models_as_json_and_of_an_address_where_nobody_is(endpoint: str, tmp_path: Path) -> None:
    told = loadgen("models", "--json", FOUNDRY_LOCAL_ENDPOINT=endpoint)
    found = {(card["target"], card["id"]) for card in json.loads(told.stdout)}
    assert {("foundry", name) for name in MODELS} <= found
    nobody = loadgen("models", "--url", "http://127.0.0.1:1/v1", "--ready", "0")
    assert nobody.returncode == 3
    assert "nothing listens at 127.0.0.1:1" in nobody.stderr


def test_a_baseline_is_kept_once_and_only_of_a_whole_run(
    endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = ("run", "--url", endpoint, "--model", MODELS[0], "--requests", "6", "--baseline", "first", "--quiet")
    done = loadgen(*first)
    assert done.returncode == 0, done.stdout + done.stderr
    folder = tmp_path / "results" / "baselines" / "first"
    kept = {path.name for path in folder.iterdir()}
    assert kept == {"manifest.json", "summary.json", "summary.csv", "report.md"}
    count = len(Foundry.asked)
    again = loadgen(*first)
    assert (again.returncode, "already exists" in again.stderr) == (2, True)
    assert len(Foundry.asked) == count, "nothing is played for a baseline that cannot be kept"
    assert loadgen(*first, "--force").returncode == 0
    gone = loadgen(*first[:4], "nobody", "--baseline", "second")
    assert "no baseline was kept: nobody could not be used" in gone.stderr
    monkeypatch.setattr(validity, "judge", judged("invalid"))
    busy = loadgen(*first[:7], "--baseline", "second")
    assert (busy.returncode, f"no baseline was kept: {MODELS[0]} at c" in busy.stderr) == (1, True)
    assert not (tmp_path / "results" / "baselines" / "second").exists()
