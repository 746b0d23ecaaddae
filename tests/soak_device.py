"""A device for soaks in virtual time: a scripted server with its process, and a machine that a test disturbs. Plays one
stage on it, with everything that keeps a soak going."""

import asyncio
import contextlib
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, Literal, cast

import pytest
from msgspec import Struct

from loadgen import api
from loadgen.child import Child
from loadgen.engine.heartbeat import Heartbeat, beating
from loadgen.engine.soak.outage import OutageRules, OutageWatch, Restart, ServerSupport, keeping
from loadgen.engine.stage import LocalStageRunner, RunContext
from loadgen.engine.stop import StopSignal
from loadgen.errors import TargetError
from loadgen.live.sink import NullSink, Sink, Sinks
from loadgen.record import Record
from loadgen.scenario import Load, Model, Retries, Scenario
from loadgen.scenario.file import LoadedScenario
from loadgen.store.events import Event, EventLog, read_events
from loadgen.store.manifest import ModelCard
from loadgen.targets.served import Served
from loadgen.telemetry import observer
from loadgen.wire.exchange import Failure
from tests.virtual import START_NS, VirtualBootClock, VirtualClock, run
from tests.virtual_client import Answer, ScriptedClient, no_connection, refuse, stream

S: Final = 1_000_000_000
CLOCK: Final = VirtualClock()
State = Literal["up", "refusing", "loading", "silent"]


class OwnProcess:
    """A server's process that loadgen started."""

    name = "the embedded server"

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.ended: str | None = None

    async def crash(self) -> str | None:
        return self.ended


class Device:
    """A server whose state a test changes, and the machine on which it runs. It answers in `answer_s`."""

    def __init__(self, *, answer_s: float = 0.4, own_process: bool = False) -> None:
        self.boot = VirtualBootClock()
        self.state: State = "up"
        self.answer_s = answer_s
        self.pid: int | None = 100
        self.dead_pids: set[int] = set()
        self.processes = [OwnProcess(100)] if own_process else []
        self.restart_s = 3.0
        self.cannot_restart = False
        self.unloaded = False
        self.probes_s: list[float] = []
        """When it was probed, from the stage's start."""

    def answer(self, body: dict[str, Any], number: int) -> Answer:
        match self.state:
            case "refusing":
                return no_connection()
            case "loading":
                return refuse(503, {"error": {"message": "Loading model"}})
            case "silent":
                return Answer(failure=Failure("timeout", "waiting for headers"), gap_ns=20 * S)
        if self.unloaded:
            return refuse(404, {"error": {"message": "no such model"}})
        return stream("a ", "b ", gap_ns=round(self.answer_s * S / 2))

    def become(self, state: State) -> Callable[[], None]:
        """Something that happens: its server gets into a state."""
        return lambda: setattr(self, "state", state)

    def crash(self, why: str = "has died (exit code 3)") -> None:
        self.state = "refusing"
        self.processes[-1].ended = why
        self.dead_pids.add(self.processes[-1].pid)

    def replace_process(self, pid: int) -> None:
        """Somebody else starts the server again."""
        assert self.pid is not None
        self.dead_pids.add(self.pid)
        self.pid = pid

    async def answers(self, _: Served) -> bool:
        self.probes_s.append((CLOCK.now_ns() - START_NS) / S)
        return self.state == "up"

    async def pid_of(self, _: Model, __: Served) -> int | None:
        return self.pid

    def is_running(self, pid: int) -> bool:
        return pid not in self.dead_pids

    async def load_again(self, _: Model, __: Served) -> float | None:
        was_unloaded, self.unloaded = self.unloaded, False
        return 2.5 if was_unloaded else None

    @property
    def support(self) -> ServerSupport:
        return ServerSupport(self.answers, self.pid_of, self.is_running, self.load_again)

    def served(self) -> Served:
        child = cast("Child", self.processes[-1]) if self.processes else None
        card = ModelCard(alias="m", id="m", target="device.invalid")
        return Served(base_url="http://device.invalid/v1", card=card, child=child, pid=self.pid)

    def restart_into(self, ready: dict[int, Served]) -> Restart:
        async def restart(model: int) -> Served:
            await asyncio.sleep(self.restart_s)
            if self.cannot_restart:
                raise TargetError("no memory left")
            self.processes.append(OwnProcess(self.processes[-1].pid + 1))
            self.state, self.pid = "up", self.processes[-1].pid
            ready[model] = self.served()
            return ready[model]

        return restart


class Records(NullSink):
    def __init__(self) -> None:
        self.records: list[Record] = []

    def record(self, record: Record) -> None:
        self.records.append(record)


class Night(Struct, frozen=True):
    """What came of a stage."""

    records: list[Record]
    """The measured ones."""
    events: tuple[Event, ...]
    watch: OutageWatch
    context: RunContext
    sent_s: list[float]
    """When each chat was sent, from the stage's start."""
    lasted_s: float

    def outcomes(self) -> Counter[str]:
        return Counter(record.outcome for record in self.records)

    def happened(self) -> list[tuple[str, float, float | None]]:
        """The events: what, when (from the run's beginning), and for how long."""
        return [(event.kind, event.at_ns / S, event.for_s) for event in self.events]


Disturbance = tuple[float, Callable[[], object]]
"""At which second of the stage something happens to the device, and what."""


def play_night(
    device: Device,
    load: Load,
    folder: Path,
    disturbances: Sequence[Disturbance] = (),
    *,
    rules: OutageRules | None = None,
    retries: Retries | None = None,
    request_s: float = 60.0,
    sinks: Sequence[Sink] = (),
    ends_at_s: float | None = None,
    tick_s: float = 1.0,
) -> Night:
    """Play the first stage of a load. ends_at_s: its stop rule is met then, as at the deadline of a soak. tick_s: how
    often the observer looks, which in virtual time costs most."""
    scenario = Scenario(
        name="night",
        prompts=("Say hello.",),
        models=(Model(name="m", url="http://device.invalid/v1", target="openai"),),
        load=load,
        probe=False,
        warmup_requests=0,
        retries=retries or Retries(),
    )
    plan = api.plan_of(LoadedScenario(scenario, None, folder, "the test"))

    async def main() -> Night:
        client, heard = ScriptedClient(device.answer), Records()
        context = RunContext(
            plan,
            client,
            CLOCK,
            START_NS,
            StopSignal(),
            when_gone="wait",
            heartbeat=Heartbeat(CLOCK, device.boot, wall=device.boot.wall_ns),
        )
        assert context.heartbeat is not None
        context.lives.begin(0, device.pid)
        ready = {0: device.served()}
        events = EventLog(folder, CLOCK, START_NS)
        with context.stop_signal.of_stage() as stop:
            restart = device.restart_into(ready)
            watch = OutageWatch(context, ready, stop, events, restart, rules or OutageRules(), device.support)
            runner = LocalStageRunner(context, plan.stages[0], ready, stop, Sinks((heard, watch, *sinks)))
            async with (
                beating(context.heartbeat, events),
                keeping(watch, context),
                asyncio.TaskGroup() as group,
            ):
                disturbing = group.create_task(_disturb(disturbances, stop, ends_at_s))
                await runner.measure({0: round(request_s * S)})
                lasted_s = (CLOCK.now_ns() - START_NS) / S
                disturbing.cancel()
        sent_s = [(at_ns - START_NS) / S for at_ns in client.sent_at_ns]
        return Night(heard.records, read_events(folder), watch, context, sent_s, lasted_s)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(observer, "TICK_NS", round(tick_s * S))
        return run(main())


async def _disturb(disturbances: Sequence[Disturbance], stop: StopSignal, ends_at_s: float | None) -> None:
    steps = [*disturbances, *([] if ends_at_s is None else [(ends_at_s, stop.end_stage)])]
    with contextlib.suppress(asyncio.CancelledError):
        for at_s, happen in sorted(steps, key=lambda step: step[0]):
            await CLOCK.sleep_until_ns(START_NS + round(at_s * S))
            happen()
