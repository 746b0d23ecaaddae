"""One worker as the parent process sees it: its process, its log, and what it has reported of the stage."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec
from msgspec import Struct

from loadgen.child import Child
from loadgen.engine.servers import WhenGone
from loadgen.engine.soak.windows import WindowPart, WindowSettings
from loadgen.engine.workers.messages import (
    Command,
    Done,
    Go,
    LogEvent,
    Prepare,
    Ready,
    StartWorker,
    Unwritable,
    Update,
    WorkerEvent,
    decode_event,
    line_of,
)
from loadgen.engine.workers.window_parts import WindowParts
from loadgen.errors import FolderError
from loadgen.live.sink import Sinks
from loadgen.plan.plan import Plan, Stage
from loadgen.record import StageFacts
from loadgen.store.log_reader import LogReader
from loadgen.store.run_folder import part_name
from loadgen.targets.probe.answers import StreamAnswers
from loadgen.targets.served import Served

if TYPE_CHECKING:
    from loadgen.engine.soak.segments import WorkerLogs
    from loadgen.engine.soak.window_writer import WindowWriter

POLLS: Final = 4
"""SILENT_S is waited for in this many parts, so that a parent process that was itself suspended loses no worker."""
SHUTDOWN_TIMEOUT_S: Final = 10.0


class WorkerConfig(Struct, frozen=True):
    """What all workers of a run have in common."""

    plan: Plan
    epoch_ns: int
    """The run's beginning, on the clock."""
    folder: Path
    """The run folder, in which each worker has a log of its own."""
    when_gone: WhenGone
    silent_s: float
    """A worker that sends nothing for this many seconds is lost."""
    window_settings: WindowSettings | None = None
    """How workers fold their measured records; None: they do not, and this process reads the records in their logs."""
    logs: "WorkerLogs | None" = None
    """How workers split their logs; None: they do not."""


class WorkerHandle:
    """One worker as the parent process sees it: its process, what it has reported of the stage, and whether it is
    lost."""

    def __init__(self, child: Child, log: Path, config: WorkerConfig) -> None:
        self._child = child
        self._log_path = log
        self._log = LogReader(log)
        self._config = config
        self._sinks = Sinks(())
        self._window_parts: WindowParts | None = None
        """Takes the windows of its measured records, if it folds them."""
        self.requests = 0
        """How many measured requests of the stage have ended, by its last update."""
        self.facts: StageFacts | None = None
        self.answers: StreamAnswers = {}
        self.lost: str | None = None

    @classmethod
    async def start(cls, config: WorkerConfig, serial: int) -> "WorkerHandle":
        """Start a worker's process and send it `StartWorker`. serial: its number among all workers of the run, which
        names its log, or if logs are split, its number among the workers that play."""
        child = await Child.start(f"worker process {serial}", "loadgen.engine.workers")
        log = config.folder / part_name(serial)
        worker = cls(child, log, config)
        # Without the stages: each part comes later, and a worker needs no due times of the other parts.
        plan = msgspec.structs.replace(config.plan, stages=())
        segments = None if config.logs is None else config.logs.settings
        worker.send(StartWorker(plan, config.epoch_ns, str(log), config.when_gone, config.window_settings, segments))
        return worker

    @property
    def pid(self) -> int:
        return self._child.pid

    @property
    def has_ended(self) -> bool:
        """Whether the worker is lost or ending, and can play no further stage."""
        return self.lost is not None or self._child.output_ended

    def prepare(self, part: Stage, served: dict[int, Served], sinks: Sinks) -> None:
        """Have the worker prepare its part of a stage. sinks: receive the records of that part."""
        self.requests, self.facts, self.answers, self._sinks, self._window_parts = 0, None, {}, sinks, None
        self.send(Prepare(part, {index: served[index] for index in part.models}))

    def measure(self, go: Go, writer: "WindowWriter | None", place: int) -> None:
        """Have the worker play its measured requests. writer: takes the windows into which it folds their records.
        place: its number among the workers that play the stage."""
        self._window_parts = None if writer is None else WindowParts(writer, place, self._log_path)
        self.send(go)

    def send(self, command: Command) -> None:
        """Send a command; does nothing if the worker has ended."""
        if not self.has_ended:
            self._child.send(line_of(command))

    async def wait_for(self, kind: type[Ready] | type[Done], on_update: Callable[[Update], None]) -> None:
        """Wait for an event of this kind, or until the worker is lost, and pass its records to the sinks meanwhile.

        Raises FolderError if the worker cannot write its log, or this process cannot read it.
        """
        polls = 0
        while self.lost is None:
            try:
                line = await self._child.read_line(self._config.silent_s / POLLS)
            except TimeoutError:
                # One long wait would run out while this process was suspended, although the worker sent updates. With
                # several short waits, the first one after the suspension reads those.
                polls += 1
                if polls == POLLS:
                    self._child.kill()
                    self.lost = f"sent nothing for {self._config.silent_s:g} s"
                continue
            polls = 0
            if not line:  # its output has ended: so has the worker
                self.lost = await self._crash()
                break
            event = decode_event(line)
            self._take(event)
            if isinstance(event, Update):
                on_update(event)
            if isinstance(event, kind):
                if self._window_parts is not None:
                    self._window_parts.finish()
                return
        if self._window_parts is not None:
            self.requests += self._window_parts.recover()
            self._window_parts = None

    def _take(self, event: WorkerEvent) -> None:
        match event:
            case Update():
                self._take_update(event)
            case WindowPart() if self._window_parts is not None:
                self.requests += self._window_parts.take(event)
            case LogEvent() if self._config.logs is not None:
                self._config.logs.events.record(event.kind, event.detail)
            case Unwritable():
                raise FolderError(event.reason, self._config.folder)
            case Done():
                self.facts, self.answers = event.facts, event.answers

    def _take_update(self, update: Update) -> None:
        for record in update.late:  # first, because the record of its end may be among the others
            self._sinks.late(record)
        if self._window_parts is not None:
            for record in update.answers:
                self._sinks.take_answer(record)
            self._sinks.take_counts(update.counts)
            return
        # Up to `log_bytes` the log has only complete lines; the line after that may be half written.
        retries = frozenset(update.retries)
        is_read = self._config.window_settings is None and self._config.logs is None
        records = self._log.read_to(update.log_bytes) if is_read else update.warm_up
        for position, record in enumerate(records):
            if position in retries:
                self._sinks.retry(record)
            else:
                self.requests += record.phase == "measured"
                self._sinks.record(record)

    async def stop(self) -> None:
        """End the worker. Its log is complete when this returns."""
        self._log.close()
        await self._child.stop()

    async def _crash(self) -> str:
        """How a worker ended whose output has ended. One that still runs after that is killed."""
        # A process ends a little after its output, and only then its exit code is known.
        await self._child.exit_code(SHUTDOWN_TIMEOUT_S)
        crash = await self._child.crash()
        if crash is None:
            self._child.kill()
        return crash or "closed its output"
