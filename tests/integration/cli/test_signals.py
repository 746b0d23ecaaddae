"""Ctrl-C, SIGTERM and SIGHUP, whatever a command is doing: it ends with 130, and what was measured is reported."""

import json
import os
import signal
import sys
import threading
from collections.abc import Iterator
from importlib.abc import MetaPathFinder
from pathlib import Path
from typing import Final

import pytest

from loadgen.__main__ import main
from loadgen.cli.signals import hang_ups
from loadgen.store import run_folder
from tests.command_line import run_command
from tests.integration.server import Hang, Script, Served, Server, streamed, whole

pytestmark = pytest.mark.skipif(os.name == "nt", reason="there are no such signals")
SIGNALS: Final = ("SIGINT", "SIGTERM", "SIGHUP")
MODELS: Final = whole("200 OK", json.dumps({"data": [{"id": "m", "object": "model"}]}).encode())
LOADING: Final = whole("503 Service Unavailable", b'{"error": {"message": "Loading model"}}')
ANSWER: Final = streamed("a", "b")


@pytest.fixture(autouse=True)
def _no_signal_ends_the_tests() -> Iterator[None]:
    """A signal that no handler of ours takes is an error of the test, and not the end of all tests."""

    def fail(number: int, _: object) -> None:
        raise AssertionError(f"nobody handles {signal.Signals(number).name}")

    names = ("SIGTERM", "SIGHUP")
    before = {name: signal.signal(getattr(signal, name), fail) for name in names}
    # A shell has what it starts in the background ignore SIGINT.
    before["SIGINT"] = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    for name, handler in before.items():
        signal.signal(getattr(signal, name), handler)


def send(name: str) -> None:
    os.kill(os.getpid(), getattr(signal, name))


def run_words(url: str, results: Path, *more: object) -> tuple[object, ...]:
    return ("run", "--url", url, "--model", "m", "--out", results, "--warmup", "0", "--requests", "5", *more)


def states(results: Path) -> list[str]:
    return [json.loads(path.read_text("utf-8"))["state"] for path in results.glob("*/*/manifest.json")]


@pytest.mark.parametrize("name", SIGNALS)
@pytest.mark.parametrize("script", [LOADING, (Hang(),)], ids=["while the server loads", "in the test chat"])
def test_before_anything_is_measured_a_run_ends_at_once(script: Script, name: str, tmp_path: Path) -> None:
    chats: list[Served] = []

    def choose(request: Served) -> Script:
        if not chats:
            send(name)
        chats.append(request)
        return script

    with Server(choose, get=lambda _: MODELS) as server:
        done = run_command(*run_words(server.url, tmp_path))
    assert done.returncode == 130, done.stderr
    assert "Traceback" not in done.stderr
    assert "loadgen: stopping: " in done.stderr
    assert (len(chats), states(tmp_path)) == (1, ["interrupted"])


@pytest.mark.parametrize("name", SIGNALS)
def test_in_the_warm_up_a_run_ends_with_the_answers_that_are_on_their_way(name: str, tmp_path: Path) -> None:
    chats: list[Served] = []

    def choose(request: Served) -> Script:
        chats.append(request)
        if len(chats) == 2:
            send(name)
        return ANSWER

    with Server(choose, get=lambda _: MODELS) as server:
        done = run_command(*run_words(server.url, tmp_path, "--warmup", "3"))
    assert done.returncode == 130, done.stderr
    assert "Traceback" not in done.stderr
    (folder,) = tmp_path.glob("*/*/")
    outcomes = [record.outcome for record in run_folder.read(folder).records if record.phase == "warmup"]
    assert outcomes == ["ok", "cancelled", "cancelled"]


IDLE: Final = {
    "a think time": ("--set", "load.think_time.mean_s=3600", "--set", "load.think_time.distribution=constant"),
    "an open loop with nothing due": ("--rate", "0.0003", "--arrivals", "constant"),
    "a wait to retry": (
        "--set",
        "retries.attempts=1",
        "--set",
        "retries.backoff_s=3600",
        "--set",
        "retries.max_backoff_s=3600",
    ),
}


@pytest.mark.parametrize(("name", "workers"), [*((name, "1") for name in SIGNALS), ("SIGHUP", "2")])
@pytest.mark.parametrize("idle", IDLE)
def test_while_nothing_is_in_flight_a_run_ends_at_once_with_what_it_has(
    idle: str, name: str, workers: str, tmp_path: Path
) -> None:
    numbers = iter(range(100))

    def choose(_: Served) -> Script:
        answered = idle != "a wait to retry" or next(numbers) == 0  # the test chat
        return ANSWER if answered else LOADING

    def send_after_the_first_record() -> None:
        until_asked = threading.Event()
        while not any(log.stat().st_size for log in tmp_path.glob("*/*/requests*")):
            until_asked.wait(0.01)
        send(name)

    users = ("--concurrency", workers) if idle != "an open loop with nothing due" else ()
    watcher = threading.Thread(target=send_after_the_first_record, daemon=True)
    with Server(choose, get=lambda _: MODELS) as server:
        watcher.start()
        done = run_command(
            *run_words(
                server.url,
                tmp_path,
                *users,
                "--workers",
                workers,
                "--set",
                "load.ramp_in_s=0" if users else "probe=false",
                *IDLE[idle],
            )
        )
        watcher.join()
    assert done.returncode == 130, done.stderr
    assert "Traceback" not in done.stderr
    assert "loadgen: stopping: waiting for the requests in flight" in done.stderr
    assert states(tmp_path) == ["interrupted"]
    assert "TTFT" in done.stdout


@pytest.mark.parametrize("name", SIGNALS)
def test_a_command_that_measures_nothing_ends_at_once(name: str) -> None:
    def choose(_: Served) -> Script:
        send(name)
        return (Hang(),)

    with Server(ANSWER, get=choose) as server:
        done = run_command("models", "--url", server.url)
    assert (done.returncode, done.stdout) == (130, "")
    assert "Traceback" not in done.stderr


class _Interrupted(MetaPathFinder):
    """Ctrl-C is pressed while a module is imported."""

    def find_spec(self, name: str, *_: object) -> None:
        if name == "loadgen.cli.app":
            raise KeyboardInterrupt


def test_ctrl_c_while_the_command_is_imported_shows_no_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "loadgen.cli.app")
    monkeypatch.setattr(sys, "meta_path", [_Interrupted(), *sys.meta_path])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 130


def test_a_signal_that_somebody_has_ignored_stays_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    assert hang_ups() == (signal.SIGTERM, signal.SIGHUP)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    assert hang_ups() == (signal.SIGTERM,)
    monkeypatch.delattr(signal, "SIGHUP")
    assert hang_ups() == (signal.SIGTERM,)
