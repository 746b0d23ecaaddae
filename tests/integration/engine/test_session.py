"""Whole runs against a scripted server: what is planned is accounted for, whatever the server and the person do."""

import asyncio
import os
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from loadgen import api
from loadgen.analysis.summary import StageSummary, summary_from
from loadgen.cli.run import exit_code
from loadgen.engine.preflight import LEAST_RETRIES
from loadgen.engine.stop import StopSignal
from loadgen.errors import ExitCode
from loadgen.live.progress import Silence
from loadgen.plan.rng import generator
from loadgen.record import Record
from loadgen.report.files import write_reports
from loadgen.scenario import Closed, Constant, Load, Model, Retries, Scenario, Timeouts
from loadgen.scenario.file import LoadedScenario
from loadgen.store import run_folder
from loadgen.store.run_folder import Run
from tests.command_line import run_command
from tests.integration.server import (
    BEGIN,
    DONE,
    END,
    FINISH,
    LAST_CHUNK,
    Fin,
    Hang,
    Rst,
    Script,
    Send,
    Served,
    Server,
    Until,
    Wait,
    chunk,
    event,
    every,
    say,
    singly,
    streamed,
    whole,
)

pytestmark = pytest.mark.asyncio
PREFLIGHT = "Say hello."


def scenario(folder: Path, models: dict[str, str], load: Load, **rest: Any) -> LoadedScenario:
    """A scenario of models by name -> URL."""
    made = Scenario(
        name="session",
        models=tuple(Model(name=name, url=url, target="openai") for name, url in models.items()),
        load=load,
        **{
            "prompts": ("First question.", "Second question."),
            "probe": False,
            "warmup_requests": 1,
            "timeouts": Timeouts(request_s=20.0),
            **rest,
        },
    )
    return LoadedScenario(made, None, folder, "the test")


def closed(users: tuple[int, ...] | int, requests: int, **rest: Any) -> Closed:
    levels = (users,) if isinstance(users, int) else users
    return Closed(concurrency=levels, requests=requests, ramp_in_s=0.05, **rest)


def measured(run: Run) -> list[Record]:
    return [record for record in run.records if record.phase == "measured"]


def counted(stage: StageSummary) -> dict[str, int]:
    """A stage's counts by outcome; they add up to what was planned."""
    requests = stage.requests
    assert requests is not msgspec.UNSET
    assert sum(requests.by_outcome.values()) == requests.planned == requests.ok + requests.failed
    return requests.by_outcome


async def eventually(is_so: Callable[[], bool], within_s: float = 60.0) -> None:
    until_s = time.perf_counter() + within_s
    while not is_so():
        assert time.perf_counter() < until_s
        await asyncio.sleep(0.005)


# Everything that is planned is accounted for

FAULTS: tuple[tuple[str, Script], ...] = (
    ("ok", streamed("a", "b")),
    ("ok", streamed("a", "b", "c", gap_s=0.01)),
    ("ok", (BEGIN, *say("a"), Send(chunk(FINISH)), Rst())),
    ("http_error", whole("503 Service Unavailable", b"{}", "Retry-After: 1")),
    ("stream_error", (BEGIN, *say("a"), Send(chunk(event({"error": {"message": "boom"}})) + LAST_CHUNK))),
    ("truncated", (BEGIN, *every(0.01, say("a")), Fin())),
    ("truncated", (BEGIN, *every(0.01, say("a", "b")), Wait(0.02), Rst())),
    ("malformed", (BEGIN, Send(chunk(b"data: {]\n\n") + LAST_CHUNK))),
    ("malformed", (Send(b"SSH-2.0-OpenSSH_9.6\r\n\r\n"), Fin())),
    ("not_streamed", whole("200 OK", b'{"choices": []}')),
    ("empty", (BEGIN, Send(chunk(DONE) + LAST_CHUNK))),
    ("timeout", (BEGIN, *say("a"), Hang())),
)


async def test_with_a_server_that_fails_at_random_every_stage_accounts_for_all_that_was_planned(tmp_path: Path) -> None:
    done: list[str] = []

    def choose(request: Served) -> Script:
        if request.says == PREFLIGHT:
            return streamed("hi")
        # With this seed, one answer hangs: a deadline that all others meet on any machine passes once.
        outcome, script = FAULTS[int(generator(14, "fault", len(done)).integers(len(FAULTS)))]
        done.append(outcome)
        return script

    with Server(choose) as server:
        load = closed((1, 4), 30)
        run = await api.run(
            scenario(tmp_path, {"m": server.url}, load, timeouts=Timeouts(request_s=5.0)), results=tmp_path
        )
    assert run.manifest.state == "complete"
    assert Counter(record.outcome for record in run.records) == Counter(done)
    assert set(done) == {outcome for outcome, _ in FAULTS}, "the seed reaches them all"
    for stage in write_reports(run.folder).stages:
        assert sum(counted(stage).values()) == 30
        assert not stage.incomplete
    for level in ("c1", "c4"):
        assert sorted(record.index for record in measured(run) if record.level == level) == list(range(30))


class FirstShed(Silence):
    """Answers that wait until an arrival was shed."""

    def __init__(self) -> None:
        self._came = threading.Event()
        self.answer: Script = (BEGIN, Until(self._wait), *say("a"), END)

    async def _wait(self) -> None:
        assert await asyncio.to_thread(self._came.wait, 60)

    def record(self, record: Record) -> None:
        if record.outcome == "shed":
            self._came.set()


async def test_an_open_loop_sheds_at_its_limit_and_counts_what_it_shed(tmp_path: Path) -> None:
    first_shed = FirstShed()
    with Server(lambda request: streamed("hi") if request.says == PREFLIGHT else first_shed.answer) as server:
        load = Constant(rates_per_s=(50.0,), requests=30, max_in_flight=4)
        made = scenario(tmp_path, {"m": server.url}, load, warmup_requests=0)
        run = await api.run(made, results=tmp_path, progress=first_shed)
    by_outcome = counted(write_reports(run.folder).stages[0])
    assert set(by_outcome) == {"ok", "shed"}
    assert sum(by_outcome.values()) == 30
    assert by_outcome["ok"] == len([request for request in server.chats if request.says != PREFLIGHT])
    shed = [record for record in run.records if record.outcome == "shed"]
    assert all((record.sent_ns, record.end_ns, record.stamps_ns) == (None, None, ()) for record in shed)
    assert by_outcome["ok"] >= 4, "the first four are never shed"


async def test_interleaved_models_take_turns_and_each_has_all_its_requests(tmp_path: Path) -> None:
    with Server(streamed("a")) as one, Server(streamed("b", gap_s=0.01)) as other:
        models = {"one": one.url, "other": other.url}
        run = await api.run(scenario(tmp_path, models, closed(1, 6), order="interleaved"), results=tmp_path)
    assert [counted(stage) for stage in write_reports(run.folder).stages] == [{"ok": 6}, {"ok": 6}]
    in_order = sorted(measured(run), key=lambda record: record.dispatched_ns or 0)
    assert [record.model for record in in_order] == ["one", "other"] * 6
    assert [len(server.chats) for server in (one, other)] == [8, 8], "a preflight and a warm-up each"


async def test_requests_in_one_level_never_exceed_the_ceiling(tmp_path: Path) -> None:
    with Server(streamed("a")) as server:
        load = closed(8, 25, max_requests_per_s=10)
        run = await api.run(scenario(tmp_path, {"m": server.url}, load, warmup_requests=0), results=tmp_path)
    assert counted(write_reports(run.folder).stages[0]) == {"ok": 25}
    # Late on their way they may be, early never; a test of the engine in virtual time looks at each second.
    before_ns, *arrived = sorted(request.arrived_ns for request in server.chats)
    assert [arrived[10] - before_ns > 1e9, arrived[20] - before_ns > 2e9] == [True, True]


# Models that cannot be used


async def test_a_model_that_fails_its_preflight_is_skipped_and_the_other_plays(tmp_path: Path) -> None:
    def choose(request: Served) -> Script:
        return whole("404 Not Found", b'{"error": "no such model"}') if request.model == "b" else streamed("x")

    with Server(choose) as server:
        models = {"b": server.url, "a": server.url}
        run = await api.run(scenario(tmp_path, models, closed((1, 2), 3)), results=tmp_path)
    summary = write_reports(run.folder)
    assert [(stage.model, stage.status) for stage in summary.stages] == [
        ("b", "skipped"),
        ("b", "skipped"),
        ("a", "played"),
        ("a", "played"),
    ]
    assert "http_error 404" in str(summary.stages[0].reason)
    assert "no such model" in str(summary.stages[0].reason)
    assert [counted(stage) for stage in summary.stages[2:]] == [{"ok": 3}, {"ok": 3}]
    assert {record.model for record in run.records} == {"a"}
    assert run.manifest.state == "complete"
    assert exit_code(summary) != ExitCode.NO_TARGET


async def test_interleaved_with_a_model_that_cannot_be_used_the_other_keeps_its_requests(tmp_path: Path) -> None:
    def choose(request: Served) -> Script:
        return (Fin(),) if request.model == "b" else streamed("x")

    with Server(choose) as server:
        models = {"a": server.url, "b": server.url, "c": server.url}
        run = await api.run(scenario(tmp_path, models, closed(2, 5), order="interleaved"), results=tmp_path)
    by_model = {stage.model: stage for stage in write_reports(run.folder).stages}
    assert by_model["b"].status == "skipped"
    assert [counted(by_model[name]) for name in "ac"] == [{"ok": 5}, {"ok": 5}]
    for name in "ac":
        assert sorted(record.index for record in measured(run) if record.model == name) == list(range(5))


async def test_when_no_model_can_be_used_the_run_says_so_and_measures_nothing(tmp_path: Path) -> None:
    with Server(whole("500 Internal Server Error", b"broken")) as server:
        models = {"a": server.url, "b": server.url}
        retries = Retries(backoff_s=0.0)
        run = await api.run(scenario(tmp_path, models, closed(1, 3), retries=retries), results=tmp_path)
        assert len(server.chats) == 2 * (1 + LEAST_RETRIES)
    summary = write_reports(run.folder)
    assert [stage.status for stage in summary.stages] == ["skipped", "skipped"]
    assert all("http_error 500: broken" in str(stage.reason) for stage in summary.stages)
    assert run.records == ()
    assert exit_code(summary) == ExitCode.NO_TARGET


async def test_where_nobody_listens_the_reason_is_the_connection(tmp_path: Path) -> None:
    with Server(streamed("a")) as server:
        url = server.url
    gone = scenario(tmp_path, {"m": url}, closed(1, 3), timeouts=Timeouts(ready_s=0.0))
    run = await api.run(gone, results=tmp_path)
    assert "connect_error" in str(write_reports(run.folder).stages[0].reason)


# Stopping


class StopAfter(Silence):
    """A person who asks for an end when so many measured requests have ended."""

    def __init__(self, stop: StopSignal, count: int) -> None:
        self._stop = stop
        self._left = count

    def record(self, record: Record) -> None:
        self._left -= record.phase == "measured"
        if self._left == 0:
            assert self._stop.escalate() == "drain"


@pytest.mark.parametrize("mode", ["closed", "constant"])
async def test_stopped_once_what_is_in_flight_ends_and_what_is_not_sent_is_cancelled(mode: str, tmp_path: Path) -> None:
    stop = StopSignal()
    planned = 400
    load: Load = closed(3, planned) if mode == "closed" else Constant(rates_per_s=(20.0,), requests=planned)

    async def stopped() -> None:
        while stop.level is None:  # noqa: ASYNC110  it tells no event loop but its own
            await asyncio.sleep(0.005)

    def choose(_: Served) -> Script:
        """A preflight, a warm-up and four measured ones are answered at once."""
        return (BEGIN, *singly(*say("a", "b")), *([Until(stopped)] if len(server.chats) > 6 else []), END)

    with Server(choose) as server:
        run = await api.run(
            scenario(tmp_path, {"m": server.url, "n": server.url}, load),
            results=tmp_path,
            progress=StopAfter(stop, 4),
            stop=stop,
        )
    summary = write_reports(run.folder)
    stage = summary.stages[0]
    by_outcome = counted(stage)
    assert sum(by_outcome.values()) == planned
    assert set(by_outcome) == {"ok", "cancelled"}
    assert 4 <= by_outcome["ok"] <= (4 + 3 if mode == "closed" else planned // 2)
    assert by_outcome["ok"] == len([request for request in server.chats if request.says != PREFLIGHT]) - 1
    unsent = [record for record in measured(run) if record.outcome == "cancelled"]
    assert all(record.sent_ns is None and "stopped before its turn" in str(record.detail) for record in unsent)
    assert all(len(record.stamps_ns) == 2 for record in run.records if record.outcome == "ok")
    assert (run.manifest.state, stage.incomplete, summary.incomplete) == ("interrupted", True, True)
    assert {record.model for record in run.records} == {"m"}, "the next model was not begun"


async def test_stopped_twice_what_is_in_flight_is_given_up_at_once_with_its_stamps(tmp_path: Path) -> None:
    came: list[int] = []

    async def token_came() -> None:
        came.append(1)

    def choose(request: Served) -> Script:
        return streamed("hi") if request.says == PREFLIGHT else (BEGIN, *singly(*say("a"), Until(token_came)), Hang())

    stop = StopSignal()
    with Server(choose) as server:
        playing = asyncio.create_task(
            api.run(
                scenario(tmp_path, {"m": server.url}, closed(3, 20), warmup_requests=0),
                results=tmp_path,
                stop=stop,
            )
        )
        await eventually(lambda: len(came) == 3)
        assert stop.escalate() == "drain"
        await asyncio.sleep(0.1)
        assert not playing.done(), "the first time, what is in flight may end"
        assert stop.escalate() == "cancel"
        run = await asyncio.wait_for(playing, timeout=60)
    assert counted(write_reports(run.folder).stages[0]) == {"cancelled": 20}
    given_up = [record for record in run.records if record.sent_ns is not None]
    assert [record.detail for record in given_up] == ["stopped by the user"] * 3
    assert [len(record.stamps_ns) for record in given_up] == [1, 1, 1]


SCENARIO = """
name = "killed"
probe = false
prompts = ["First question.", "Second question."]
[[models]]
name = "m"
url = "{url}"
[load]
mode = "closed"
concurrency = [2]
requests = 400
ramp_in_s = 0.0
"""


def loadgen(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "loadgen", *arguments]


def finished(folder: Path) -> int:
    """Whole lines in the log of the run in a results folder."""
    return sum(log.read_bytes().count(b"\n") for log in folder.glob("*/*/requests.jsonl"))


async def test_a_killed_run_keeps_every_request_that_had_ended_and_reports_as_incomplete(tmp_path: Path) -> None:
    with Server((BEGIN, *every(0.03, say("a", "b")), END)) as server:
        path = tmp_path / "killed.toml"
        path.write_text(SCENARIO.format(url=server.url), encoding="utf-8")
        results = tmp_path / "results"
        process = await asyncio.create_subprocess_exec(
            *loadgen("run", str(path), "--out", str(results)), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            await eventually(lambda: finished(results) >= 12)
        finally:
            process.kill()
            await process.wait()
        at_the_kill = finished(results)
    folder = next(results.glob("*/*"))
    run = run_folder.read(folder)
    assert run.manifest.state == "running"
    assert len(run.records) == at_the_kill >= 12
    assert at_the_kill >= sum(bool(request.gone_ns is None) for request in server.chats[1:]) - 2
    assert all((record.outcome, len(record.stamps_ns)) == ("ok", 2) for record in run.records)

    def report(*flags: str) -> str:
        made = run_command("report", folder, *flags)
        assert made.returncode == 0, made.stderr
        return made.stdout

    summary = summary_from(report("--json").encode())
    assert summary.incomplete
    by_outcome = counted(summary.stages[0])
    assert by_outcome == {"ok": len(measured(run)), "cancelled": 400 - len(measured(run))}
    assert "incomplete" in report().lower()
    assert "incomplete" in (folder / "report.md").read_text(encoding="utf-8").lower()


async def test_a_torn_last_line_is_counted_and_spoils_no_other(tmp_path: Path) -> None:
    with Server(streamed("a")) as server:
        run = await api.run(scenario(tmp_path, {"m": server.url}, closed(1, 5)), results=tmp_path)
    log = run.folder / run_folder.REQUESTS
    log.write_bytes(log.read_bytes()[:-40])
    again = run_folder.read(run.folder)
    assert (len(again.records), again.torn) == (len(run.records) - 1, 1)
    summary = write_reports(run.folder)
    assert summary.torn_lines == 1
    assert counted(summary.stages[0]) == {"ok": 4, "cancelled": 1}
    assert summary.stages[0].incomplete


# Secrets


async def test_a_key_from_the_environment_is_sent_and_is_in_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = "sk-not-to-be-seen-0123456789"
    monkeypatch.setenv("LOADGEN_API_KEY", key)

    def choose(request: Served) -> Script:
        """As real services do, some answers repeat the key."""
        told = request.headers["authorization"].removeprefix("Bearer ")
        if request.says == PREFLIGHT and request.model == "b":
            return whole("401 Unauthorized", f'{{"error": "wrong key {told}"}}'.encode())
        if request.number % 3 == 0 and request.says != PREFLIGHT:
            return whole("401 Unauthorized", f'{{"error": "wrong key {told}"}}'.encode())
        if request.number % 3 == 1 and request.says != PREFLIGHT:
            return (BEGIN, Send(chunk(event({"error": {"message": f"wrong key {told}"}})) + LAST_CHUNK))
        return streamed("a")

    with Server(choose) as server:
        models = {"a": server.url, "b": server.url}
        run = await api.run(scenario(tmp_path, models, closed(2, 9), keep_text=True), results=tmp_path)
    write_reports(run.folder)
    assert {request.headers.get("authorization") for request in server.served} == {f"Bearer {key}"}
    outcomes = {record.outcome for record in run.records}
    assert outcomes == {"ok", "http_error", "stream_error"}
    files = [path for path in run.folder.rglob("*") if path.is_file()]
    assert len(files) >= 6
    assert [path.name for path in files if key.encode() in path.read_bytes()] == []
    assert os.environ["LOADGEN_API_KEY"] == key
