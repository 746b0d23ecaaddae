"""A worker: the program of a child process that plays its part of each stage. Knows no terminal.

`loadgen.engine.workers.pool` starts it, as `python -m loadgen.engine.workers`, and sends it commands on its
standard input. It shares nothing with other workers and writes its records to a log of its own. It ignores Ctrl-C,
which the parent process passes on as a command, and ends when its standard input ends, even if the parent was killed.
"""

import asyncio
import contextlib
import gc
import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, Final

import msgspec
from msgspec import UNSET

from loadgen.clock import SYSTEM_BOOT_CLOCK, SYSTEM_CLOCK
from loadgen.engine.background import Background
from loadgen.engine.heartbeat import Gap, Heartbeat, Interruption
from loadgen.engine.servers import is_answer, is_unanswered
from loadgen.engine.soak.in_flight import InFlightLog, in_flight_path_of
from loadgen.engine.soak.segments import SegmentEvent, SegmentLog
from loadgen.engine.soak.windows import WindowSink
from loadgen.engine.stage import LocalStageRunner, RunContext
from loadgen.engine.stop import StopSignal
from loadgen.engine.workers.messages import (
    CancelInFlight,
    Command,
    Done,
    Drain,
    Go,
    LogEvent,
    Prepare,
    Ready,
    ServerBack,
    SplitLog,
    StartWorker,
    StopRuleMet,
    Unwritable,
    Update,
    WorkerEvent,
    decode_command,
    line_of,
)
from loadgen.errors import FolderError
from loadgen.live.sink import EndedCounts, NullSink, Sink, Sinks
from loadgen.record import Record, StageFacts, StageKey
from loadgen.redact import guard_tracebacks
from loadgen.scenario.headers import protect_headers
from loadgen.store.run_folder import RequestLog
from loadgen.wire.client import Client

UPDATE_S: Final = 0.25
ALIVE_EVERY: Final = 4
"""While no request ends, only every fourth update is sent, to show that the worker is alive."""
SHUTDOWN_TIMEOUT_S: Final = 5.0
"""If the worker has not ended in order this long after its standard input ended, it ends at once."""

Send = Callable[[WorkerEvent], None]


class LastAnswers(NullSink):
    """The sink that holds whether servers answered since the last update, for a parent process that reads no
    records."""

    def __init__(self) -> None:
        self._records: dict[tuple[StageKey, bool], Record] = {}
        """By model, and whether it was answered: the measured request that ended last."""

    def record(self, record: Record) -> None:
        # Requests that we ended or never sent tell nothing of a server.
        if record.phase == "measured" and (is_answer(record) or is_unanswered(record)):
            key = record.stage_key, is_answer(record)
            self._records.pop(key, None)  # so that they are in the order in which they ended
            self._records[key] = record

    def retry(self, record: Record) -> None:
        self.record(record)

    def take(self) -> tuple[Record, ...]:
        """What came since the last call, without what grows with an answer."""
        records, self._records = self._records, {}
        return tuple(
            msgspec.structs.replace(record, stamps_ns=record.stamps_ns[:1], tokens_per_event=None, text=UNSET)
            for record in records.values()
        )


class Updates(NullSink):
    """The sink that tells the parent process, once an interval, how many records are in the log. It comes after the
    log."""

    def __init__(self, log: RequestLog | None, send: Send, answers: LastAnswers) -> None:
        """log: None if the parent process does not read it; it is sent the records of the warm-up then."""
        self._log = log
        self._send = send
        self._answers = answers
        self._warm_up: list[Record] = []
        self._lines = 0
        """How many lines were written since the last update."""
        self._retries: list[int] = []
        """Which of these lines are attempts that were retried, from 0."""
        self._late: list[Record] = []
        self._gaps: list[Gap] = []
        self._ended = 0
        """How many measured requests have ended since the last update, if the parent process does not read the log."""
        self._failed = 0

    def record(self, record: Record) -> None:
        self._take(record)
        if self._log is None and record.phase == "measured":
            self._ended += 1
            self._failed += record.outcome != "ok"

    def retry(self, record: Record) -> None:
        self._retries.append(self._lines)
        self._take(record)

    def _take(self, record: Record) -> None:
        self._lines += 1
        if self._log is None and record.phase == "warmup":
            self._warm_up.append(record)

    def late(self, record: Record) -> None:
        self._late.append(record)

    def on_interruption(self, interruption: Interruption) -> None:
        """Take what the worker's heartbeat noticed. Steps of the wall clock are noticed by the parent process too."""
        if isinstance(interruption, Gap):
            self._gaps.append(interruption)

    def send(self) -> None:
        """Send an update about all records that are in the log."""
        # The log comes before this sink, so it has every record that was counted here.
        answers = self._answers.take()
        size = 0 if self._log is None else self._log.size
        records = tuple(self._warm_up)
        counts = EndedCounts(self._ended, self._failed)
        update = Update(size, tuple(self._retries), tuple(self._late), tuple(self._gaps), answers, records, counts)
        self._lines, self._retries, self._late, self._gaps, self._warm_up = 0, [], [], [], []
        self._ended = self._failed = 0
        self._send(update)

    async def send_regularly(self) -> None:
        """Send updates four times a second while requests end, and once a second in any case; never ends by itself."""
        silent = 0
        while True:
            await asyncio.sleep(UPDATE_S)
            silent += 1
            # While no request ends, an update has nothing new, but a worker that sends nothing for long counts as lost.
            if self._lines or self._late or silent >= ALIVE_EVERY:
                silent = 0
                self.send()


class SentEvents:
    """Sends what happens to the log to the parent process, which has the log of events."""

    def __init__(self, send: Send) -> None:
        self._send = send

    def record(self, kind: SegmentEvent, detail: str) -> None:
        self._send(LogEvent(kind, detail))


class FactsHolder(NullSink):
    """The sink that holds the facts of the last part."""

    def __init__(self) -> None:
        self.facts: StageFacts | None = None

    def stop(self, facts: StageFacts) -> None:
        self.facts = facts


class Worker:
    """Carries out the commands of the parent process, part by part."""

    def __init__(self, start: StartWorker, client: Client, log: RequestLog | SegmentLog, send: Send) -> None:
        for model in start.plan.models:
            protect_headers(model.headers)
        heartbeat = Heartbeat(SYSTEM_CLOCK, SYSTEM_BOOT_CLOCK) if start.when_gone == "wait" else None
        self._context = RunContext(
            start.plan,
            client,
            SYSTEM_CLOCK,
            start.epoch_ns,
            StopSignal(),
            when_gone=start.when_gone,
            heartbeat=heartbeat,
        )
        self._log = log
        self._send = send
        self._answers = LastAnswers()
        log_that_is_read = log if start.window_settings is None and isinstance(log, RequestLog) else None
        self._updates = Updates(log_that_is_read, send, self._answers)
        self._window_settings = start.window_settings
        self._in_flight = (
            NullSink() if start.window_settings is None else InFlightLog(in_flight_path_of(Path(start.log)))
        )
        self._commands: asyncio.Queue[Prepare | Go] = asyncio.Queue()
        self._stage_stop: StopSignal | None = None

    def take(self, command: Command) -> None:
        """Take a command as it arrives: a stop takes effect at once, a part to play is queued."""
        match command:
            # Stops are not queued: they are for the part that is being played.
            case Prepare() | Go():
                self._commands.put_nowait(command)
            case Drain():
                self._context.stop_signal.drain()
            case StopRuleMet():
                # The part may have ended already; the next one has a signal of its own.
                if self._stage_stop is not None:
                    self._stage_stop.end_stage()
            case SplitLog():
                if isinstance(self._log, SegmentLog):
                    self._log.split()
            case CancelInFlight():
                self._context.stop_signal.cancel()
            case ServerBack(model):
                self._context.gates.open(model)

    async def play_parts(self) -> None:
        """Play parts, one after the other, until cancelled."""
        heartbeat = self._context.heartbeat
        async with contextlib.AsyncExitStack() as stack:
            if heartbeat is not None:
                stack.enter_context(heartbeat.calling(self._updates.on_interruption))
                await stack.enter_async_context(Background(heartbeat.beat()))
            stack.enter_context(self._context.stop_signal.cancelling(self._context.client.abandon))
            while True:
                prepare = await self._commands.get()
                assert isinstance(prepare, Prepare)
                with self._context.stop_signal.of_stage() as self._stage_stop:
                    await self._play_part(prepare, self._stage_stop)

    async def _play_part(self, prepare: Prepare, stop: StopSignal) -> None:
        facts_holder = FactsHolder()
        # Windows are sent after an update that covers their records, and before `Done`.
        of_soak: tuple[Sink, ...] = ()
        if self._window_settings is not None:
            of_soak = (self._in_flight, self._answers, WindowSink(self._window_settings, self._send))
        sinks = Sinks((self._log, self._updates, *of_soak, facts_holder))
        part = LocalStageRunner(self._context, prepare.stage, prepare.served, stop, sinks)
        async with Background(self._updates.send_regularly()):
            await part.warm_up()
            # Collected now, because there is no time for it after `Go`. Frozen objects are never examined again, and a
            # full collection in the middle of a stage would stall every stream.
            gc.collect()
            gc.freeze()
            # Measuring begins when every worker has sent `Ready`. The update goes first, because the parent process
            # limits the measured requests by the records of the warm-up.
            self._updates.send()
            self._send(Ready())
            go = await self._commands.get()
            assert isinstance(go, Go)
            await part.measure(go.limits_ns, go.at_ns)
        assert facts_holder.facts is not None
        # The last records first: `Done` says that all of them were reported.
        self._updates.send()
        # Not sent if an exception ended the part.
        self._send(Done(facts_holder.facts, part.answers()))


async def work(start: StartWorker, send: Send, lines: BinaryIO) -> None:
    """Carry out the commands in the lines until these end; then raise CancelledError."""
    with contextlib.closing(_log_of(start, send)) as log:
        async with Client() as client:
            worker = Worker(start, client, log, send)
            _listen(lines, worker.take)
            await worker.play_parts()


def _log_of(start: StartWorker, send: Send) -> RequestLog | SegmentLog:
    if start.segments is None:
        return RequestLog(Path(start.log))
    return SegmentLog(Path(start.log), start.segments, SentEvents(send), SYSTEM_CLOCK)


def _listen(lines: BinaryIO, take: Callable[[Command], None]) -> None:
    """Pass every line to the event loop, and cancel the calling task when the lines end. Reads in a thread, because
    pipes cannot be awaited on every platform."""
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None

    def read() -> None:
        with contextlib.suppress(RuntimeError):  # the loop has been closed already
            for line in iter(lines.readline, b""):
                loop.call_soon_threadsafe(take, decode_command(line))
            loop.call_soon_threadsafe(task.cancel)
        # The parent process is gone, so nothing else would end this one if a thread of it never returned.
        threading.Event().wait(SHUTDOWN_TIMEOUT_S)
        os._exit(1)

    threading.Thread(target=read, daemon=True).start()


def main() -> None:
    """Carry out the commands on standard input."""
    guard_tracebacks()
    # A terminal sends Ctrl-C to every process of the group, and SIGHUP when it is closed. Only the parent process
    # decides what they mean.
    for name in ("SIGINT", "SIGHUP"):
        if hasattr(signal, name):  # Windows has no SIGHUP
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    # Unbuffered, so that a line that was written has left this process even if it is killed.
    out = os.fdopen(os.dup(sys.stdout.fileno()), "wb", buffering=0)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what a library prints must not get between our lines

    def send(event: WorkerEvent) -> None:
        # An unbuffered write may write only a part.
        rest = memoryview(line_of(event))
        with contextlib.suppress(BrokenPipeError):  # the parent process is gone; standard input ends as well then
            while rest:
                rest = rest[out.write(rest) :]

    # Not `sys.stdin` itself: the interpreter cannot end while a thread reads it.
    lines = os.fdopen(os.dup(sys.stdin.fileno()), "rb")
    first = lines.readline()
    if not first:
        return
    start = decode_command(first)
    if not isinstance(start, StartWorker):
        raise msgspec.ValidationError("the first line must be a StartWorker")
    try:
        asyncio.run(work(start, send, lines))
    except asyncio.CancelledError:
        pass
    except FolderError as error:
        send(Unwritable(str(error)))
