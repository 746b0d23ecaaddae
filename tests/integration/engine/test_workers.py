"""Runs that several processes play: together they are the plan, and whatever dies, what was measured is kept."""

import asyncio
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Awaitable, Callable
from itertools import pairwise
from pathlib import Path

import msgspec
import psutil
import pytest

from loadgen import api, child
from loadgen.analysis.summarize import summarize
from loadgen.clock import SYSTEM_CLOCK
from loadgen.engine.stage import RunContext, StageRunner
from loadgen.engine.stop import StopSignal
from loadgen.engine.workers.pool import PooledStageRunner, WorkerPool
from loadgen.errors import InputError
from loadgen.live.progress import Silence
from loadgen.live.recorder import Recorder
from loadgen.live.sink import NullSink, Sinks, StageStart
from loadgen.record import Record, StageFacts
from loadgen.scenario import Constant, Load, Model, Retries, Timeouts
from loadgen.store import run_folder
from loadgen.targets.openai import serve_url
from loadgen.wire.client import Client
from tests.integration.engine.test_session import PREFLIGHT, closed, counted, eventually, loadgen, measured, scenario
from tests.integration.server import BEGIN, END, Hang, Script, Served, Server, every, say, streamed, whole

pytestmark = pytest.mark.asyncio
KILLED = "has died (ended by SIGKILL, as the system does when memory runs out)"
KEY = "sk-not-to-be-seen-0123456789"


@pytest.fixture(autouse=True)
def memory_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    """Others on this machine may run out of memory, and what we kill has not."""
    monkeypatch.setattr(child, "_oom_kills", lambda: 0)


class Watching(Silence):
    """Does something the first time that so many requests have been counted in a stage."""

    def __init__(self, count: int, then: Callable[[], object]) -> None:
        self.stages: list[StageStart] = []
        self.ended = 0
        self.notes: list[str] = []
        self._count = count
        self._then = then

    def announce(self, text: str) -> None:
        self.notes.append(text)

    def warn(self, text: str) -> None:
        self.notes.append(text)

    def start(self, stage: StageStart) -> None:
        self.stages.append(stage)
        self.ended = 0

    def record(self, record: Record) -> None:
        self.ended += record.phase == "measured"
        if self._count and self.ended >= self._count:
            self._count = 0
            self._then()


def workers_of(pid: int) -> list[psutil.Process]:
    """The workers among a process's children."""
    processes = psutil.Process(pid).children()
    return [process for process in processes if "engine.workers" in " ".join((process.name(), *process.cmdline()))]


async def test_the_warm_up_of_all_workers_limits_how_long_a_request_may_take(tmp_path: Path) -> None:
    with Server(streamed("a")) as server:
        asked = scenario(
            tmp_path, {"m": server.url}, closed(2, 2), warmup_requests=3, preflight=False, timeouts=Timeouts()
        )
        run = await api.run(asked, results=tmp_path, workers=2)
    assert [stage.request_limit_s for stage in run.manifest.stages] == [60.0]  # without an answer it would be 600


@pytest.mark.parametrize("mode", ["closed", "constant"])
async def test_two_workers_play_the_plan_of_one(mode: str, tmp_path: Path) -> None:
    load: Load = closed((5, 1), 20) if mode == "closed" else Constant(rates_per_s=(80.0,), requests=20)
    heard = Watching(0, lambda: None)
    with Server(streamed("a", "b", gap_s=0.005)) as server:
        models = {"m": server.url, "n": server.url}
        asked = scenario(tmp_path, models, load, order="interleaved", warmup_requests=3)
        run = await api.run(asked, results=tmp_path, workers=2, progress=heard)
        alone = await api.run(asked, results=tmp_path, workers=1)

    def told(records: tuple[Record, ...]) -> list[tuple[str, ...]]:
        return sorted((r.model, r.level, r.phase, str(r.index), r.prompt_id, r.outcome) for r in records)

    assert told(run.records) == told(alone.records)
    assert {record.outcome for record in run.records} == {"ok"}
    assert (run.manifest.workers, alone.manifest.workers) == (2, 1)
    assert run.manifest.plan_digest == alone.manifest.plan_digest
    assert [len(facts.workers) for facts in run.facts] == ([2, 1] if mode == "closed" else [2])
    assert all(worker.lost is None and worker.requests for facts in run.facts for worker in facts.workers)
    assert all(facts.complete and facts.in_flight_samples for facts in run.facts)
    assert {name for facts in run.facts for name in facts.models} == {"m", "n"}
    assert heard.ended == 40
    assert [stage.models for stage in heard.stages] == [facts.models for facts in run.facts]
    assert sorted(path.name for path in run.folder.glob("requests*")) == [run_folder.REQUESTS]
    if mode == "constant":
        due = sorted(record.intended_ns for record in measured(run))
        assert max(abs(after - before - 12_500_000) for before, after in pairwise(due)) <= 1
        assert sorted(worker.requests for worker in run.facts[0].workers) == [20, 20]
    for stage in summarize(run).stages:
        assert counted(stage) == {"ok": 20}
        assert not stage.incomplete


class Totals(NullSink):
    """Counts all that a sink hears."""

    def __init__(self) -> None:
        self.stages: list[StageStart] = []
        self.records: Counter[tuple[str, str, str]] = Counter()
        self.retries: Counter[tuple[str, str]] = Counter()
        self.facts: list[tuple[str, bool]] = []

    def start(self, stage: StageStart) -> None:
        self.stages.append(stage)

    def record(self, record: Record) -> None:
        self.records[record.phase, record.outcome, record.level] += 1

    def retry(self, record: Record) -> None:
        self.retries[record.outcome, record.level] += 1

    def stop(self, facts: StageFacts) -> None:
        self.facts.append((facts.level, facts.complete))


async def test_a_sink_hears_the_same_totals_of_one_process_and_of_four(tmp_path: Path) -> None:
    def choose(request: Served) -> Script:
        return whole("503 Service Unavailable", b"busy") if request.says == "Second question." else streamed("a", "b")

    heard: list[tuple[Totals, Recorder]] = []
    with Server(choose) as server:
        retries = Retries(attempts=1, backoff_s=0.01)
        asked = scenario(tmp_path, {"m": server.url}, closed((4, 5), 40), warmup_requests=2, retries=retries)
        for workers in (1, 4):
            heard.append((Totals(), Recorder()))
            await api.run(asked, results=tmp_path, workers=workers, sinks=heard[-1])
    (alone, recorder), (together, recorder_of_four) = heard
    assert vars(alone) == vars(together)
    assert alone.records["measured", "ok", "c4"] == alone.records["measured", "http_error", "c5"] == 20
    assert alone.retries == {("http_error", "c4"): 21, ("http_error", "c5"): 21}
    assert folded(recorder) == folded(recorder_of_four)
    values = {"ttft": 20, "tpot": 20, "itl": 20, "e2e": 20, "dispatch_slip": 40}
    assert folded(recorder)["c4"] == ({"ok": 20, "http_error": 20}, 40, values)


def folded(recorder: Recorder) -> dict[str, tuple[dict[str, int], int, dict[str, int]]]:
    """By level: outcomes, output tokens, and how many values each histogram has."""
    levels: dict[str, tuple[dict[str, int], int, dict[str, int]]] = {}
    for interval in recorder.snapshot():
        outcomes, tokens, values = levels.get(interval.level, ({}, 0, {}))
        counts = {metric: sum(buckets.values()) for metric, buckets in interval.buckets.items()}
        levels[interval.level] = (
            dict(Counter(outcomes) + Counter({str(name): count for name, count in interval.by_outcome.items()})),
            tokens + interval.output_tokens,
            dict(Counter(values) + Counter(counts)),
        )
    return levels


async def test_a_worker_that_is_killed_is_reported_and_its_loss_counted_and_a_fresh_one_plays_the_next_stage(
    tmp_path: Path,
) -> None:
    pids = list[int]()

    def kill() -> None:
        pids.extend(worker.pid for worker in workers_of(os.getpid()))
        os.kill(pids[0], signal.SIGKILL)

    def choose(_: Served) -> Script:
        return streamed("a", "b", gap_s=0.0 if pids else 0.2)  # slow until then, so that it is in the middle

    heard = Watching(1, kill)
    with Server(choose) as server:
        asked = scenario(tmp_path, {"m": server.url}, closed((4, 2), 40), warmup_requests=0)
        run = await api.run(asked, results=tmp_path, workers=2, progress=heard)
    first, second = run.facts
    assert [worker.pid for worker in first.workers] == pids
    assert [worker.lost for worker in first.workers] == [KILLED, None]
    assert (first.complete, second.complete) == (False, True)
    assert pids[0] not in {worker.pid for worker in second.workers}
    assert pids[1] in {worker.pid for worker in second.workers}
    assert any(f"worker 1 of 2 {KILLED}" in note for note in heard.notes)
    stages = summarize(run).stages
    kept = [record for record in measured(run) if record.level == "c4"]
    lost = 40 - len(kept)
    assert 0 < lost <= 20
    assert counted(stages[0]) == {"ok": len(kept), "cancelled": lost}
    assert {record.index for record in kept} >= {index for index in range(40) if index % 4 in {1, 3}}
    assert stages[0].incomplete
    assert counted(stages[1]) == {"ok": 40}
    assert not stages[1].incomplete


async def stop_one(crew: WorkerPool) -> None:
    os.kill(crew.pids[0], signal.SIGSTOP)


async def kill_all(crew: WorkerPool) -> None:
    for pid in crew.pids:
        os.kill(pid, signal.SIGKILL)


async def nothing(_: WorkerPool) -> None:
    pass


async def with_crew(
    folder: Path, *befores: Callable[[WorkerPool], Awaitable[None]], silent_s: float
) -> list[StageFacts]:
    """What is seen of a stage that a crew plays several times, where something happens each time as soon as it was told
    to prepare."""
    kept = FactsKept()
    with Server(streamed("a")) as server:
        plan = api.plan_of(scenario(folder, {"m": server.url}, closed(2, 4), warmup_requests=0))
        context = RunContext(plan, Client(), SYSTEM_CLOCK, 0, StopSignal())
        pool = WorkerPool(2, context, folder, lambda _: None, silent_s=silent_s)
        async with pool, serve_url(plan.models[0], "t") as served:
            for before in befores:
                runner = PooledStageRunner(pool, plan.stages[0], {0: served}, context.stop_signal, Sinks((kept,)))
                playing = asyncio.create_task(play(runner))
                await asyncio.sleep(0)
                await before(pool)
                await playing
    return kept.facts


async def play(runner: StageRunner) -> None:
    await runner.warm_up()
    await runner.measure({0: 60_000_000_000})


class FactsKept(NullSink):
    def __init__(self) -> None:
        self.facts: list[StageFacts] = []

    def stop(self, facts: StageFacts) -> None:
        self.facts.append(facts)


async def test_a_worker_that_says_nothing_for_long_is_ended_and_lost(tmp_path: Path) -> None:
    (told,) = await with_crew(tmp_path, stop_one, silent_s=1.0)
    assert told.workers[0].lost == "sent nothing for 1 s"
    assert not told.complete


async def test_when_all_workers_die_the_stage_says_so_and_the_next_is_played_by_others(tmp_path: Path) -> None:
    before, dead, after = await with_crew(tmp_path, nothing, kill_all, nothing, silent_s=60.0)
    assert [(worker.requests, worker.lost) for worker in before.workers] == [(2, None), (2, None)]
    assert [worker.lost for worker in dead.workers] == [KILLED] * 2
    assert [(worker.requests, worker.cpu_share) for worker in dead.workers] == [(0, None), (0, None)], "not of before"
    assert (before.complete, dead.complete, after.complete) == (True, False, True)
    assert not {worker.pid for worker in after.workers} & {worker.pid for worker in before.workers}


# Stopping


async def test_stopped_once_what_is_in_flight_ends_and_all_that_was_planned_is_kept(tmp_path: Path) -> None:
    stop = StopSignal()
    with Server((BEGIN, *every(0.05, say("a", "b")), END)) as server:
        asked = scenario(tmp_path, {"m": server.url, "n": server.url}, closed(3, 400), warmup_requests=0)
        heard = Watching(3, stop.drain)
        run = await api.run(asked, results=tmp_path, workers=2, progress=heard, stop=stop)
    stage = summarize(run).stages[0]
    by_outcome = counted(stage)
    assert set(by_outcome) == {"ok", "cancelled"}
    assert by_outcome["ok"] == len([request for request in server.chats if request.says != PREFLIGHT])
    assert sorted(record.index for record in measured(run)) == list(range(400))
    assert (run.manifest.state, stage.incomplete) == ("interrupted", True)
    assert all(worker.lost is None for worker in run.facts[0].workers)
    assert {record.model for record in run.records} == {"m"}


async def test_stopped_twice_what_is_in_flight_is_given_up(tmp_path: Path) -> None:
    def choose(request: Served) -> Script:
        return streamed("hi") if request.says == PREFLIGHT else (BEGIN, *every(0.02, say("a")), Hang())

    stop = StopSignal()
    with Server(choose) as server:
        asked = scenario(tmp_path, {"m": server.url}, closed(3, 9), warmup_requests=0)
        playing = asyncio.create_task(api.run(asked, results=tmp_path, workers=2, stop=stop))
        await eventually(lambda: sum(len(request.tokens_ns) for request in server.chats[1:]) == 3)
        assert stop.escalate() == "drain"
        assert stop.escalate() == "cancel"
        run = await asyncio.wait_for(playing, timeout=60)
    assert counted(summarize(run).stages[0]) == {"cancelled": 9}
    given_up = [record for record in run.records if record.sent_ns is not None]
    assert [record.detail for record in given_up] == ["stopped by the user"] * 3
    assert sorted(record.index for record in run.records) == list(range(9))


# The command

SCENARIO = """
name = "workers"
probe = false
prompts = ["First question.", "Second question."]
warmup_requests = 0
[[models]]
name = "m"
url = "{url}"
[load]
mode = "closed"
concurrency = [4]
requests = 4000
ramp_in_s = 0.0
"""


async def command(folder: Path, url: str, *, group: bool = False) -> asyncio.subprocess.Process:
    path = folder / "workers.toml"
    path.write_text(SCENARIO.format(url=url), encoding="utf-8")
    arguments = loadgen("run", str(path), "--out", str(folder / "results"), "--workers", "2")
    return await asyncio.create_subprocess_exec(
        *arguments,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=group,
        env={**os.environ, "LOADGEN_API_KEY": KEY},
    )


def written(folder: Path) -> int:
    """Whole lines in the logs of the run in a results folder."""
    return sum(log.read_bytes().count(b"\n") for log in folder.glob("results/*/*/requests*.jsonl"))


@pytest.mark.usefixtures("new_interpreters")
async def test_when_the_parent_process_is_killed_its_workers_go_and_every_ended_request_is_kept(tmp_path: Path) -> None:
    with Server((BEGIN, *every(0.03, say("a", "b")), END)) as server:
        process = await command(tmp_path, server.url)
        try:
            await eventually(lambda: written(tmp_path) >= 12, within_s=60.0)
            workers = workers_of(process.pid)
            commands = [" ".join(worker.cmdline()) for worker in workers]
        finally:
            process.kill()
            await process.wait()
        try:
            await eventually(lambda: not any(alive(worker) for worker in workers), within_s=60.0)
        finally:
            for worker in filter(alive, workers):
                worker.kill()
    assert len(workers) == 2
    assert KEY not in " ".join(commands)
    assert {request.headers.get("authorization") for request in server.served} == {f"Bearer {KEY}"}
    run = run_folder.read(folder_in(tmp_path))
    assert run.manifest.state == "running"
    assert len(run.records) + run.torn == written(tmp_path) >= 12
    assert {record.outcome for record in run.records} == {"ok"}
    stage = summarize(run).stages[0]
    assert counted(stage) == {"ok": len(run.records), "cancelled": 4000 - len(run.records)}
    assert stage.incomplete
    assert files_with_key(run.folder) == []


def folder_in(folder: Path) -> Path:
    return next(folder.glob("results/*/*"))


def files_with_key(folder: Path) -> list[str]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert len(files) >= 3
    return [path.name for path in files if KEY.encode() in path.read_bytes()]


def alive(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


@pytest.mark.skipif(sys.platform == "win32", reason="a process group's Ctrl-C is POSIX's")
@pytest.mark.usefixtures("new_interpreters")
async def test_ctrl_c_at_the_terminal_drains_and_the_run_is_whole(tmp_path: Path) -> None:
    with Server((BEGIN, *every(0.03, say("a", "b")), END)) as server:
        process = await command(tmp_path, server.url, group=True)
        try:
            await eventually(lambda: written(tmp_path) >= 12, within_s=60.0)
            os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to everybody in the foreground
            code = await asyncio.wait_for(process.wait(), timeout=60)
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
    assert code == 130
    run = run_folder.read(folder_in(tmp_path))
    assert (run.manifest.state, run.manifest.workers, run.torn) == ("interrupted", 2, 0)
    assert sorted(record.index for record in run.records) == list(range(4000))
    assert {record.outcome for record in run.records} == {"ok", "cancelled"}
    assert [worker.lost for worker in run.facts[0].workers] == [None, None]


async def test_a_model_in_this_process_is_refused_before_anything_is_sent(tmp_path: Path) -> None:
    with Server(streamed("a")) as server:
        asked = scenario(tmp_path, {"m": server.url}, closed(2, 4))
        inside = Model(name="mine", target="python:nowhere.to_be:Found")
        changed = msgspec.structs.replace(asked.scenario, models=(*asked.scenario.models, inside))
        with pytest.raises(InputError, match="--workers 2"):
            await api.run(msgspec.structs.replace(asked, scenario=changed), results=tmp_path / "results", workers=2)
    assert server.served == []
    assert not (tmp_path / "results").exists()
