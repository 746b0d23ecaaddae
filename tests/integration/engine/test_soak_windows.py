"""The windows of a soak that several processes play: the records are on disk, and the parent process reads none of
them, unless a worker is lost."""

import asyncio
import contextlib
import os
import signal
from collections import Counter
from pathlib import Path

import pytest

from loadgen import api, child
from loadgen.clock import SYSTEM_CLOCK
from loadgen.engine.soak.window_writer import WindowWriter
from loadgen.engine.soak.windows import WindowSettings
from loadgen.engine.stage import RunContext
from loadgen.engine.stop import StopSignal
from loadgen.engine.workers.pool import PooledStageRunner, WorkerPool
from loadgen.live.lines import ProgressLines
from loadgen.live.sink import EndedCounts, NullSink, Sinks, StageStart
from loadgen.record import Record, StageFacts
from loadgen.store import run_folder
from loadgen.store.windows import WindowLine, WindowLog, read_windows
from loadgen.targets.openai import serve_url
from loadgen.wire.client import Client
from tests.integration.engine.test_session import closed, eventually, scenario
from tests.integration.server import Server, streamed
from tests.unit.engine.soak.test_windows import check_sums

pytestmark = pytest.mark.asyncio
WINDOW_NS = 200_000_000
LIMIT_NS = 60_000_000_000


class Watching(NullSink):
    """Holds what reaches the sinks of the parent process."""

    def __init__(self) -> None:
        self.measured = 0
        self.warmed_up = 0
        self.heard: list[Record] = []
        self.facts: list[StageFacts] = []
        self.counted = 0
        self.lines = ProgressLines(lambda _: None)

    def record(self, record: Record) -> None:
        self.measured += record.phase == "measured"
        self.warmed_up += record.phase == "warmup"

    def start(self, stage: StageStart) -> None:
        self.lines.start(stage)

    def take_counts(self, counts: EndedCounts) -> None:
        self.counted += counts.ended
        self.lines.take_counts(counts)

    def take_answer(self, record: Record) -> None:
        self.heard.append(record)

    def stop(self, facts: StageFacts) -> None:
        self.facts.append(facts)


async def play(
    folder: Path, *, kill_one: bool, stages: int = 1
) -> tuple[list[Record], tuple[WindowLine, ...], Watching]:
    """Play stages of 24 requests by two workers, of which the first is killed in the middle."""
    watching, lines = Watching(), WindowLog(folder, 0.0)
    writer = WindowWriter(lines, WindowSettings(WINDOW_NS), lambda _: (0, None))
    with contextlib.closing(lines), Server(streamed("a", "b", gap_s=0.02)) as server:
        load = closed(tuple(range(2, 2 + stages)), 24)
        plan = api.plan_of(scenario(folder, {"m": server.url}, load, warmup_requests=2))
        context = RunContext(plan, Client(), SYSTEM_CLOCK, SYSTEM_CLOCK.now_ns(), StopSignal())
        pool = WorkerPool(2, context, folder, lambda _: None, window_writer=writer)
        async with pool, serve_url(plan.models[0], "t") as served:
            for stage in plan.stages:
                sinks = Sinks((watching, writer))
                runner = PooledStageRunner(pool, stage, {0: served}, context.stop_signal, sinks)
                await runner.warm_up()
                playing = asyncio.create_task(runner.measure({0: LIMIT_NS}))
                if kill_one:
                    await eventually(lambda: len(server.chats) >= 12)
                    os.kill(pool.pids[0], signal.SIGKILL)
                await playing
    run_folder.join_parts(folder)
    records = [record for log in run_folder.logs_of(folder) for record in run_folder._read_lines(log, Record)[0]]
    return records, read_windows(folder), watching


async def test_each_worker_folds_its_own_requests_and_the_windows_are_those_of_all_of_them(tmp_path: Path) -> None:
    records, windows, watching = await play(tmp_path, kill_one=False, stages=2)
    check_sums(tmp_path, records, "sent", slo=None)
    assert Counter(line.level for line in windows for _ in range(line.ok)) == {"c2": 24, "c3": 24}
    assert [line.window for line in windows] == list(range(len(windows)))
    assert (watching.measured, watching.warmed_up) == (0, 4), "the parent process reads the warm-up only"
    assert {(record.level, record.outcome, len(record.stamps_ns)) for record in watching.heard} == {
        ("c2", "ok", 1),
        ("c3", "ok", 1),
    }, "but it knows that the server answers"
    assert [sum(worker.requests for worker in facts.workers) for facts in watching.facts] == [24, 24]
    assert watching.counted == 48, "and how many requests have ended"
    assert watching.lines.line(1) == "1 min: m, c3: 24 of 24"
    assert all(line.own_rss_bytes and line.own_rss_bytes > 3 * 20_000_000 for line in windows)


async def test_what_a_killed_worker_had_recorded_is_in_its_windows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(child, "_oom_kills", lambda: 0)
    records, windows, watching = await play(tmp_path, kill_one=True)
    check_sums(tmp_path, records, "sent", slo=None)
    measured = [record for record in records if record.phase == "measured"]
    assert sum(line.ok for line in windows) == len(measured) < 24
    assert [worker.lost is None for worker in watching.facts[0].workers] == [False, True]
