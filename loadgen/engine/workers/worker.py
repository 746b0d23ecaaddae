"""A worker: plays its part of each stage in a process of its own, as it is told on standard input. Knows no terminal.

`python -m loadgen.engine.workers`; started by `loadgen.engine.workers.pool`. It shares nothing with the others
while it plays, keeps its records in a log of its own, ignores Ctrl-C (the conductor tells it what the person wants),
and leaves when its standard input ends, whatever has become of the conductor.
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

from loadgen.clock import SYSTEM_CLOCK
from loadgen.engine.background import Background
from loadgen.engine.stage import LocalStageRunner, RunContext
from loadgen.engine.stop import StopSignal
from loadgen.engine.workers.messages import (
    CancelInFlight,
    Command,
    Done,
    Drain,
    Go,
    Prepare,
    Ready,
    StartWorker,
    StopRuleMet,
    Unwritable,
    Update,
    WorkerEvent,
    decode_command,
    line_of,
)
from loadgen.errors import FolderError
from loadgen.live.sink import NullSink, Sinks
from loadgen.record import Record, StageFacts
from loadgen.redact import guard_tracebacks
from loadgen.scenario.headers import protect_headers
from loadgen.store.run_folder import RequestLog
from loadgen.wire.client import Client

UPDATE_S: Final = 0.25
ALIVE_EVERY: Final = 4
"""Where nothing has ended, only every so many updates are sent: they say that we are alive."""
SHUTDOWN_TIMEOUT_S: Final = 5.0
"""A worker that was left alone and has not ended in order after so long ends at once."""

Send = Callable[[WorkerEvent], None]


class Updates(NullSink):
    """The sink that tells the conductor of new records, once an interval; comes after the log that they are in."""

    def __init__(self, log: RequestLog, send: Send) -> None:
        self._log = log
        self._send = send
        self._lines = 0
        """Written since the last update, as `_retries` counts them."""
        self._retries: list[int] = []

    def record(self, record: Record) -> None:
        self._lines += 1

    def retry(self, record: Record) -> None:
        self._retries.append(self._lines)
        self._lines += 1

    def send(self) -> None:
        """Send an update of all that is in the log."""
        # The log comes before this sink, so that all records that were counted here are in it.
        update = Update(self._log.size, tuple(self._retries))
        self._lines, self._retries = 0, []
        self._send(update)

    async def send_regularly(self) -> None:
        """Send updates four times a second while requests end, and once a second in any case; never ends by itself."""
        silent = 0
        while True:
            await asyncio.sleep(UPDATE_S)
            silent += 1
            # An update says nothing new while nothing ends, and yet a worker that says nothing for long is given up.
            if self._lines or silent >= ALIVE_EVERY:
                silent = 0
                self.send()


class FactsHolder(NullSink):
    """The sink that holds the facts of the part that has been played."""

    def __init__(self) -> None:
        self.facts: StageFacts | None = None

    def stop(self, facts: StageFacts) -> None:
        self.facts = facts


class Worker:
    """Does as the conductor's commands say, part by part."""

    def __init__(self, start: StartWorker, client: Client, log: RequestLog, send: Send) -> None:
        for model in start.plan.models:
            protect_headers(model.headers)
        self._context = RunContext(start.plan, client, SYSTEM_CLOCK, start.epoch_ns, StopSignal())
        self._log = log
        self._send = send
        self._updates = Updates(log, send)
        self._commands: asyncio.Queue[Prepare | Go] = asyncio.Queue()
        self._stage_stop: StopSignal | None = None

    def take(self, command: Command) -> None:
        """Take a command as it arrives: an end at once, what is to be played in its turn."""
        match command:
            # Ends do not queue: they are for what is being played now.
            case Prepare() | Go():
                self._commands.put_nowait(command)
            case Drain():
                self._context.stop.drain()
            case StopRuleMet():
                # It may come after the part has ended by itself; the next one has a signal of its own.
                if self._stage_stop is not None:
                    self._stage_stop.meet_rule()
            case CancelInFlight():
                self._context.stop.cancel()

    async def play(self) -> None:
        """Play parts, one after the other; never ends by itself."""
        with self._context.stop.cancelling(self._context.client.abandon):
            while True:
                prepare = await self._commands.get()
                assert isinstance(prepare, Prepare)
                with self._context.stop.of_stage() as self._stage_stop:
                    await self._play_part(prepare, self._stage_stop)

    async def _play_part(self, prepare: Prepare, stop: StopSignal) -> None:
        facts_holder = FactsHolder()
        sinks = Sinks((self._log, self._updates, facts_holder))
        part = LocalStageRunner(self._context, prepare.stage, prepare.served, stop, sinks)
        async with Background(self._updates.send_regularly()):
            await part.warm_up()
            # Between "go" and the first request there is no time to look at all that we have made so far; and frozen,
            # the collector never looks at it again: a full collection in the middle of a stage stalls every stream.
            gc.collect()
            gc.freeze()
            # The conductor waits for the slowest of us: what is sent before this is part of no measurement.
            self._updates.send()  # first the records of the warm-up, by which requests are limited
            self._send(Ready())
            go = await self._commands.get()
            assert isinstance(go, Go)
            await part.measure(go.limits_ns, go.at_ns)
        assert facts_holder.facts is not None
        # The last records before the word that all have been told of.
        self._updates.send()
        # Not where something else has ended the part: then it is not done.
        self._send(Done(facts_holder.facts, part.answers()))


async def work(start: StartWorker, send: Send, lines: BinaryIO) -> None:
    """Do as the lines say until they end, and then raise CancelledError."""
    with contextlib.closing(RequestLog(Path(start.log))) as log:
        async with Client() as client:
            worker = Worker(start, client, log, send)
            _listen(lines, worker.take)
            await worker.play()


def _listen(lines: BinaryIO, take: Callable[[Command], None]) -> None:
    """Hand every line to the event loop; at their end, cancel the task that called. In a thread of its own, which waits
    in the system: pipes cannot be awaited on every platform."""
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None

    def read() -> None:
        with contextlib.suppress(RuntimeError):  # the loop has been closed already
            for line in iter(lines.readline, b""):
                loop.call_soon_threadsafe(take, decode_command(line))
            loop.call_soon_threadsafe(task.cancel)
        # Nobody is left to stop us: a thread that never returns must not keep this process alive.
        threading.Event().wait(SHUTDOWN_TIMEOUT_S)
        os._exit(1)

    threading.Thread(target=read, daemon=True).start()


def main() -> None:
    """Work for whoever started this process, as its standard input says."""
    guard_tracebacks()
    # A terminal sends Ctrl-C to every process of the group; the conductor alone knows what the first one means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Unbuffered: a line is with the conductor when it has been written, whatever becomes of us.
    out = os.fdopen(os.dup(sys.stdout.fileno()), "wb", buffering=0)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # whoever prints here does not break into our lines

    def send(event: WorkerEvent) -> None:
        # Unbuffered, so that nothing lies in a buffer of ours when we are killed; a write may then be a short one.
        rest = memoryview(line_of(event))
        with contextlib.suppress(BrokenPipeError):  # nobody listens: then standard input ends as well
            while rest:
                rest = rest[out.write(rest) :]

    # Not `sys.stdin` itself: while a thread waits in it, the interpreter could not end.
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
