"""A soak while it is played: what begins and ends with each of its stages, and what must happen once a second."""

import contextlib
import functools
import itertools
from collections.abc import AsyncIterator, Callable, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Final

import msgspec
from msgspec import Struct

from loadgen.clock import BootClock, Clock, utc_now, wall_ns
from loadgen.engine.background import Background
from loadgen.engine.heartbeat import Gap, Heartbeat, Interruption, beating
from loadgen.engine.run import MakeManifest, OpenRun
from loadgen.engine.soak.deadline import SoakDeadline
from loadgen.engine.soak.hang_up import calling_on_hang_up
from loadgen.engine.soak.outage import RULES, SUPPORT, OutageRules, OutageWatch, ServerSupport, keeping
from loadgen.engine.soak.segments import SegmentLog, SegmentSettings, WorkerLogs
from loadgen.engine.soak.server_numbers import ServerKey, ServerNumbers
from loadgen.engine.soak.unwritten import Unwritten, write_unwritten
from loadgen.engine.soak.window_writer import WindowWriter
from loadgen.engine.soak.windows import WindowSettings, WindowSink
from loadgen.engine.stage import stage_start
from loadgen.engine.stage_source import StagePlay, planned_sources
from loadgen.engine.stop import StopSignal
from loadgen.live.progress import Progress
from loadgen.live.sink import MeasuringStart, NullSink, Sink
from loadgen.plan.plan import Plan, Stage
from loadgen.plan.soak import SoakSettings
from loadgen.record import StageFacts
from loadgen.scenario.objective import limits_ms
from loadgen.store.events import EventLog
from loadgen.store.manifest import SoakStage
from loadgen.store.run_folder import REQUESTS, part_name
from loadgen.store.windows import WindowLog

CHECK_NS: Final = 1_000_000_000
"""How often the soak is looked after."""


class Beginning(Struct, frozen=True):
    """Where a soak begins, or goes on."""

    epoch_ns: int
    """The beginning of the run, on the clock."""
    make_manifest: MakeManifest
    stages: tuple[Stage, ...]
    """Those that are still to be played."""
    window_log: WindowLog
    """Where its windows are written."""
    left_ns: int | None = None
    """How much time is left for all of them; None: all of it."""
    next_window: int = 0
    """The number of the next window."""
    server_lives: Mapping[ServerKey, int] = {}
    """The life of each server when an earlier process last looked."""
    unwritten: Unwritten | None = None
    """What an earlier process had played and of which it had written no window."""


class SoakMachine(Struct, frozen=True):
    """The clocks and the servers of a soak, for tests to replace."""

    clock: Clock
    boot: BootClock
    """Also counts the time in which the machine was suspended."""
    wall_ns: Callable[[], int] = wall_ns
    servers: ServerSupport = SUPPORT
    rules: OutageRules = RULES
    """When a server counts as gone. The settings say when the soak gives up."""


class SoakSession:
    """Plays the stages of a soak: `open_log`, then `play_stages`."""

    def __init__(
        self, plan: Plan, settings: SoakSettings, beginning: Beginning, machine: SoakMachine, events: EventLog
    ) -> None:
        self.heartbeat = Heartbeat(machine.clock, machine.boot, wall=machine.wall_ns)
        self._settings = settings
        self._beginning = beginning
        self._servers = ServerNumbers(plan, beginning.server_lives)
        slo = plan.scenario.slo if limits_ms(plan.scenario.slo) else None
        folding = WindowSettings(round(settings.window_s * 1e9), slo)
        self.window_writer = WindowWriter(beginning.window_log, folding, self._servers.of, beginning.next_window)
        """Writes the windows of all stages."""
        if beginning.unwritten is not None:
            write_unwritten(self.window_writer, plan, beginning.unwritten, machine.clock, beginning.epoch_ns)
        self._machine = machine
        self._events = events
        self._deadline = SoakDeadline(machine.boot.now_ns, round(settings.duration_s * 1e9))
        if beginning.left_ns is not None:
            self._deadline.resume(beginning.left_ns)
        self._log: SegmentLog | None = None
        self._stop: StopSignal | None = None
        """The signal of the stage that is played."""

    def open_log(self, folder: Path) -> SegmentLog:
        """Open the log of the records."""
        settings = SegmentSettings(budget_bytes=self._settings.disk_bytes)
        self._log = SegmentLog(folder / REQUESTS, settings, self._events, self._machine.clock)
        return self._log

    def worker_logs(self, workers: int) -> WorkerLogs:
        """How so many workers write the records, each in a log of its own."""
        logs = tuple(part_name(place) for place in range(workers))
        return WorkerLogs(SegmentSettings(budget_bytes=self._settings.disk_bytes, logs=logs), self._events)

    async def play_stages(self, opened: OpenRun, progress: Progress) -> None:
        """Play the stages that are still to be played."""
        context = opened.context
        rest = msgspec.structs.replace(context.plan, stages=self._beginning.stages)
        rules = msgspec.structs.replace(self._machine.rules, give_up_ns=round(self._settings.give_up_s * 1e9))
        gave_up: list[str] = []

        @contextlib.asynccontextmanager
        async def beside(play: StagePlay) -> AsyncIterator[tuple[Sink, ...]]:
            servers = self._machine.servers
            watch = OutageWatch(context, play.ready, play.stop, self._events, play.restart, rules, servers)
            async with keeping(watch, context):
                self._servers.serve(context.lives, play.ready)
                yield (StageSpan(self, opened, play), watch, *self._window_sinks(opened))
            if watch.gave_up is not None:
                gave_up.append(watch.gave_up)
                _record_giving_up(opened, watch.gave_up)

        async with beating(self.heartbeat, self._events), Background(self._watch(context.stop_signal)):
            with (
                calling_on_hang_up(opened.split_logs or self._split_log),
                self.heartbeat.calling(self._on_interruption),
            ):
                # A server that stays away ends the soak, and not only its stage.
                await opened.play_sources(
                    itertools.takewhile(lambda _: not gave_up, planned_sources(rest, progress)), beside
                )

    def _window_sinks(self, opened: OpenRun) -> tuple[Sink, ...]:
        """What folds records into windows here, unless workers do, and what writes them."""
        fold = WindowSink(self.window_writer.settings, functools.partial(self.window_writer.take, 0))
        return (self.window_writer,) if opened.workers > 1 else (fold, self.window_writer)

    def _on_interruption(self, interruption: Interruption) -> None:
        if isinstance(interruption, Gap):
            self.window_writer.add_gap(interruption)

    def _split_log(self) -> None:
        if self._log is not None:
            self._log.split()

    async def _watch(self, stop: StopSignal) -> None:
        """Look after the soak once a second, and at its deadlines; never ends by itself. stop: of the run."""
        clock = self._machine.clock
        try:
            while True:
                left_ns = self._deadline.left_ns
                wait_ns = CHECK_NS if left_ns is None or left_ns <= 0 else min(CHECK_NS, left_ns)
                await clock.sleep_until_ns(clock.now_ns() + wait_ns)
                self._check()
        except Exception:
            # Whoever waits for the soak hears of it when the soak has ended, so it must end.
            stop.cancel()
            raise

    def _check(self) -> None:
        left_ns = self._deadline.left_ns
        if self._stop is not None and left_ns is not None and left_ns <= 0:
            self._stop.end_stage()
        if self._log is not None:
            self._log.check()
        self._events.write_rest()

    def begin_stage(self, opened: OpenRun, play: StagePlay, start_ns: int) -> None:
        """The measured requests of a stage begin. start_ns: since the beginning of the run."""
        stage, facts = play.stage, opened.manifest.manifest.soak
        assert stage.duration_ns is not None
        assert facts is not None
        left_ns, now = self._deadline.begin_stage(stage.duration_ns), utc_now()
        self._stop = play.stop
        start = stage_start(opened.context.plan, stage)
        begun = SoakStage(
            level=start.level,
            models=start.models,
            targets=start.targets,
            start_ns=start_ns,
            deadline_utc=(now + timedelta(microseconds=left_ns // 1000)).isoformat(),
        )
        end = now + timedelta(microseconds=self._deadline.soak_left_ns // 1000)
        changes = {"stages": (*facts.stages, begun), "deadline_utc": end.isoformat()}
        opened.manifest.set_soak(msgspec.structs.replace(facts, **changes))

    def end_stage(self) -> None:
        """The last request of a stage has ended."""
        self._stop = None
        self._deadline.end_stage()


def _record_giving_up(opened: OpenRun, why: str) -> None:
    facts = opened.manifest.manifest.soak
    assert facts is not None
    opened.manifest.set_soak(msgspec.structs.replace(facts, gave_up=why))


class StageSpan(NullSink):
    """Tells the session when a stage begins to be measured, and when it has ended."""

    def __init__(self, session: SoakSession, opened: OpenRun, play: StagePlay) -> None:
        self._session = session
        self._opened = opened
        self._play = play

    def measure(self, beginning: MeasuringStart) -> None:
        self._session.begin_stage(self._opened, self._play, beginning.start_ns)

    def stop(self, facts: StageFacts) -> None:
        self._session.end_stage()
