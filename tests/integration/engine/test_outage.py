"""Servers on loopback that go and come back, and a harness that is stopped: real sockets, processes and signals."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

import pytest

from loadgen import api
from loadgen.clock import SYSTEM_BOOT_CLOCK, SYSTEM_CLOCK
from loadgen.engine.heartbeat import Heartbeat, beating
from loadgen.engine.soak.outage import OutageRules, OutageWatch, keeping
from loadgen.engine.soak.play import play_soak
from loadgen.engine.soak.session import SoakMachine
from loadgen.engine.stage import LocalStageRunner, RunContext
from loadgen.engine.stop import StopSignal
from loadgen.live.sink import Sinks
from loadgen.plan.soak import soak_of
from loadgen.record import Record
from loadgen.scenario import Closed, Constant, Load, Model, Scenario, SoakTable
from loadgen.scenario.file import LoadedScenario
from loadgen.store.events import Event, EventLog, read_events
from loadgen.store.run_folder import read
from loadgen.targets.registry import serve_model
from loadgen.targets.served import Served
from loadgen.wire.client import Client
from tests.integration.server import Server, ServerProcess, Ticking, streamed
from tests.soak_device import Records

RULES: Final = OutageRules(
    outage_after_ns=300_000_000, first_pause_ns=50_000_000, longest_pause_ns=200_000_000, process_check_ns=100_000_000
)
USERS: Final = Closed(concurrency=(3,), duration_s=120.0, ramp_in_s=0.0)
STREAM: Final = Ticking(tokens=3, first_s=0.01, gap_s=0.01)
ANSWER: Final = streamed("a ", "b ", gap_s=0.005)


class SoakedStage:
    """A stage that is played while a test does something to its server."""

    def __init__(self, context: RunContext, stop: StopSignal, folder: Path) -> None:
        self.context = context
        self.stop = stop
        self._folder = folder
        self.heard = Records()

    @property
    def events(self) -> tuple[Event, ...]:
        return read_events(self._folder)

    @property
    def kinds(self) -> list[str]:
        return [event.kind for event in self.events]

    def ok(self) -> int:
        return sum(record.outcome == "ok" for record in self.heard.records)

    async def more_answers(self, count: int = 5) -> None:
        """Wait until so many more requests were answered."""
        before = self.ok()
        await until(lambda: self.ok() >= before + count)

    async def event(self, kind: str) -> None:
        await until(lambda: kind in self.kinds)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110  the condition is about what another task or process does
            await asyncio.sleep(0.005)


async def never_restarts(_: int) -> Served:
    raise AssertionError("nobody started a server here")


def soaked(
    url: str, load: Load, folder: Path, during: Callable[[SoakedStage], Awaitable[None]], gap_s: float = 5.0
) -> SoakedStage:
    """Play a stage until `during` has returned."""
    model = Model(name="m", url=url, target="openai")
    scenario = Scenario(
        name="soak", prompts=("Say hello.",), models=(model,), load=load, probe=False, warmup_requests=0
    )
    plan = api.plan_of(LoadedScenario(scenario, None, folder, "the test"))

    async def main() -> SoakedStage:
        async with Client() as client, serve_model(model, lambda *_: None) as served:
            epoch_ns = SYSTEM_CLOCK.now_ns()
            heartbeat = Heartbeat(SYSTEM_CLOCK, SYSTEM_BOOT_CLOCK, gap_ns=round(gap_s * 1e9), beat_ns=50_000_000)
            context = RunContext(
                plan, client, SYSTEM_CLOCK, epoch_ns, StopSignal(), when_gone="wait", heartbeat=heartbeat
            )
            context.lives.begin(0, served.pid)
            events, ready = EventLog(folder, SYSTEM_CLOCK, epoch_ns), {0: served}
            with context.stop_signal.of_stage() as stop:
                stage = SoakedStage(context, stop, folder)
                watch = OutageWatch(context, ready, stop, events, never_restarts, RULES)
                runner = LocalStageRunner(context, plan.stages[0], ready, stop, Sinks((stage.heard, watch)))
                async with beating(heartbeat, events), keeping(watch, context), asyncio.TaskGroup() as group:
                    group.create_task(_during(during, stage))
                    await runner.measure({0: 20_000_000_000})
            return stage

    return asyncio.run(main())


async def _during(during: Callable[[SoakedStage], Awaitable[None]], stage: SoakedStage) -> None:
    try:
        await during(stage)
    finally:
        stage.stop.end_stage()


def assert_each_request_has_one_record(records: list[Record]) -> None:
    assert sorted(record.index for record in records) == list(range(len(records)))


def test_a_server_that_refuses_for_a_while_is_gone_and_back_and_the_load_goes_on(tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        first = stack.enter_context(contextlib.ExitStack())
        server = first.enter_context(Server(ANSWER))
        second = Server.__new__(Server)

        async def during(stage: SoakedStage) -> None:
            nonlocal second
            await stage.more_answers()
            await asyncio.to_thread(first.close)
            await stage.event("server_gone")
            second = stack.enter_context(Server(ANSWER, port=server.port))
            await stage.more_answers()

        stage = soaked(server.url, USERS, tmp_path, during)
    outcomes = Counter(record.outcome for record in stage.heard.records)
    assert stage.kinds == ["server_gone", "server_back"]
    gone, back = stage.events
    assert gone.model == "m"
    assert back.for_s is not None
    assert back.for_s >= 0.3
    # Each user was cut off or refused once or twice, and then waited; one probe asked in their place.
    # Where all were cut off and the probe was refused before any asked again, no request was refused.
    assert outcomes["connect_error"] <= 3
    assert 1 <= outcomes["connect_error"] + outcomes["truncated"] <= 6
    assert sum(request.method == "GET" for request in second.served) == 1
    assert_each_request_has_one_record(stage.heard.records)


def test_an_open_loop_goes_on_sending_what_is_due(tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        first = stack.enter_context(contextlib.ExitStack())
        server = first.enter_context(Server(ANSWER))

        async def during(stage: SoakedStage) -> None:
            await stage.more_answers()
            await asyncio.to_thread(first.close)
            await stage.event("server_gone")
            stack.enter_context(Server(ANSWER, port=server.port))
            await stage.more_answers()

        stage = soaked(server.url, Constant(rates_per_s=(100.0,), duration_s=120.0), tmp_path, during)
    outcomes = Counter(record.outcome for record in stage.heard.records)
    assert stage.kinds == ["server_gone", "server_back"]
    assert outcomes["connect_error"] > 10
    assert_each_request_has_one_record(stage.heard.records)


def test_a_server_process_that_was_killed_and_started_again_is_another_life(tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        first = stack.enter_context(ServerProcess(STREAM))
        port = int(first.url.rpartition(":")[2].partition("/")[0])
        again = ServerProcess(Ticking(tokens=3, first_s=0.01, gap_s=0.01, port=port))

        async def during(stage: SoakedStage) -> None:
            await stage.more_answers()
            assert stage.context.lives.of(0).pid == first.pid
            await asyncio.to_thread(first.kill)
            await asyncio.to_thread(stack.enter_context, again)
            await stage.event("server_restarted")
            await stage.more_answers()

        stage = soaked(first.url, USERS, tmp_path, during)
        life = stage.context.lives.of(0)
        assert (life.number, life.pid) == (1, again.pid)
        restarted = next(event for event in stage.events if event.kind == "server_restarted")
        assert restarted.detail == f"process {again.pid} serves in place of {first.pid}"
    assert_each_request_has_one_record(stage.heard.records)


def play_for_a_signal(url: str, folder: Path) -> None:
    """The harness that a test stops: it plays until 40 more requests were answered after a gap."""

    async def during(stage: SoakedStage) -> None:
        await stage.more_answers(20)
        print("playing", flush=True)
        await stage.event("stopped")
        await stage.more_answers(40)

    stage = soaked(url, USERS, folder, during, gap_s=1.0)
    with (folder / "records.jsonl").open("w", encoding="utf-8") as file:
        for record in stage.heard.records:
            start_ns = record.dispatched_ns or record.intended_ns
            took_ns = (record.end_ns or start_ns) - min(start_ns, record.intended_ns)
            file.write(f"{record.index} {record.outcome} {took_ns} {record.detail}\n")


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGSTOP")
def test_what_was_in_flight_while_the_harness_was_stopped_is_cancelled_and_no_latency_has_the_stop_in_it(
    tmp_path: Path,
) -> None:
    stop_s = 1.6
    with Server(streamed("a ", "b ", gap_s=0.05)) as server:
        play = f"play_for_a_signal({server.url!r}, Path({str(tmp_path)!r}))"
        program = f"from pathlib import Path\nfrom tests.integration.engine.test_outage import *\n{play}"
        harness = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
        assert harness.stdout is not None
        try:
            assert harness.stdout.readline() == b"playing\n"
            os.kill(harness.pid, signal.SIGSTOP)
            with contextlib.suppress(subprocess.TimeoutExpired):
                harness.wait(stop_s)
            os.kill(harness.pid, signal.SIGCONT)
            assert harness.wait(60) == 0
        finally:
            harness.kill()
            harness.wait()
            harness.stdout.close()
    stops_s = [event.for_s or 0.0 for event in read_events(tmp_path) if event.kind == "stopped"]
    assert max(stops_s) >= stop_s - 0.05
    lines = [line.split(" ", 3) for line in (tmp_path / "records.jsonl").read_text().splitlines()]
    assert sorted(int(index) for index, *_ in lines) == list(range(len(lines)))
    cut = [detail for _, outcome, _, detail in lines if outcome == "cancelled"]
    assert 1 <= len(cut) <= 3 * len(stops_s)  # a machine that is short of CPU may stop it too
    assert set(cut) == {"loadgen was stopped"}
    assert max(int(took_ns) for _, outcome, took_ns, _ in lines if outcome == "ok") < stop_s * 0.9e9


def folder_in(results: Path) -> Path:
    (manifest,) = results.glob("*/*/manifest.json")
    return manifest.parent


def test_the_users_of_all_workers_wait_for_a_server_that_is_gone_and_go_on_when_it_is_back(tmp_path: Path) -> None:
    table = SoakTable(duration_s=120.0, window_s=1.0)
    with contextlib.ExitStack() as stack:
        first = stack.enter_context(contextlib.ExitStack())
        server = first.enter_context(Server(ANSWER))
        model = Model(name="m", url=server.url, target="openai")
        scenario = Scenario(
            name="soak",
            prompts=("Say hello.",),
            models=(model,),
            load=Closed(concurrency=(4,)),
            soak=table,
            probe=False,
            warmup_requests=0,
        )
        planned = soak_of(LoadedScenario(scenario, None, tmp_path, "the test"))

        async def main() -> tuple[Path, Server]:
            plan = api.soak_plan_of(planned)
            stop, machine = StopSignal(), SoakMachine(SYSTEM_CLOCK, SYSTEM_BOOT_CLOCK, rules=RULES)
            async with asyncio.TaskGroup() as group:
                playing = group.create_task(
                    play_soak(plan, planned.settings, tmp_path, workers=2, stop=stop, machine=machine)
                )
                await until(lambda: len(server.chats) > 20)
                await asyncio.to_thread(first.close)
                folder = folder_in(tmp_path)
                await until(lambda: any(event.kind == "server_gone" for event in read_events(folder)))
                second = stack.enter_context(Server(ANSWER, port=server.port))
                await until(lambda: len(second.chats) > 20)
                stop.drain()
            return playing.result(), second

        folder, second = asyncio.run(main())
        # Both workers went on, each with the connections of its users.
        assert len({request.connection for request in second.chats}) == 4
    assert [event.kind for event in read_events(folder)] == ["server_gone", "server_back"]
    records = read(folder).records
    indices = [record.index for record in records if record.phase == "measured"]
    assert len(set(indices)) == len(indices)  # a worker may be further than the other, so some numbers are left out
    assert Counter(record.outcome for record in records)["connect_error"] <= 4
