"""A worker: plays its part of each stage in a process of its own, as it is told on standard input. Knows no terminal.

`python -m loadgen.engine.workers.worker`; started by `loadgen.engine.workers.pool`. It shares nothing with the others
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
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import BinaryIO, Final

import msgspec

from loadgen.analysis.stop_rule import Sample
from loadgen.engine.background import Background
from loadgen.engine.stage import Player, measure, samples_of, staged, warm_up
from loadgen.engine.stop import StopSignal
from loadgen.engine.workers.messages import (
    CancelInFlight,
    Command,
    Count,
    Done,
    Drain,
    Event,
    Go,
    NewSamples,
    Prepare,
    Ready,
    StartWorker,
    StopRuleMet,
    Unwritable,
    decode_command,
    line_of,
)
from loadgen.errors import FolderError
from loadgen.record import Record, StageFacts
from loadgen.redact import guard_tracebacks
from loadgen.store.run_folder import Log
from loadgen.wire.client import Client

COUNT_EVERY_S: Final = 0.25
ALIVE_EVERY: Final = 4
"""Counts that have not changed are told only so many times less often: they say that we are alive."""
LEAVE_S: Final = 5.0
"""A worker that was left alone and has not ended in order after so long ends at once."""

Say = Callable[[Event], None]


class StageProgress:
    """How far the part of the current stage is, and what is to be told of it."""

    def __init__(self) -> None:
        self.begin(None)

    def begin(self, sample: Callable[[Record], Sample | None] | None) -> None:
        """sample: of a record, where somebody waits until enough is known."""
        self.count = Count()
        self.enough = StopSignal()
        self._sample = sample
        self._new: list[Sample] = []

    def new(self) -> tuple[Sample, ...]:
        """The samples that have not been told yet."""
        told, self._new = tuple(self._new), []
        return told

    def ended(self, record: Record) -> None:
        sample = None if self._sample is None or self.enough.asked else self._sample(record)
        if sample is not None:
            self._new.append(sample)
        if record.phase == "measured":
            before = self.count
            self.count = Count(before.ended + 1, before.failed + (record.outcome != "ok"))


async def work(hire: StartWorker, say: Say, lines: BinaryIO) -> None:
    """Do as the lines say until they end, and then raise CancelledError."""
    orders: asyncio.Queue[Prepare | Go] = asyncio.Queue()
    stop, tally, log = StopSignal(), StageProgress(), Log(Path(hire.log))
    try:
        async with Client() as client:

            def take(order: Command) -> None:
                match order:
                    case Prepare() | Go():
                        orders.put_nowait(order)
                    case Drain():
                        stop.ask()
                    case StopRuleMet():
                        tally.enough.ask()
                    case CancelInFlight():
                        stop.ask()
                        client.abandon()

            _listen(lines, take)
            player = Player(hire.plan, client, log, hire.epoch_ns, stop, tally.ended)
            while True:
                await _play_part(player, orders, say, tally)
    finally:
        log.close()


async def _play_part(player: Player, orders: "asyncio.Queue[Prepare | Go]", say: Say, tally: StageProgress) -> None:
    order = await orders.get()
    assert isinstance(order, Prepare)
    tally.begin(samples_of(player.plan, order.stage))
    player = msgspec.structs.replace(player, enough=tally.enough)
    async with _counting(tally, say):
        part = staged(order.stage, order.served, player)
        await warm_up(part)
        # Between "go" and the first request there is no time to look at all that we have made so far.
        gc.collect()
        gc.freeze()
        say(Ready())
        go = await orders.get()
        assert isinstance(go, Go)
        seen: list[StageFacts] = []
        await measure(part, seen.append, go.at_ns)
        # Not where something else has ended the stage: then it is not done.
        say(Done(seen[0], tally.count, part.sampler.answers()))


@contextlib.asynccontextmanager
async def _counting(tally: StageProgress, say: Say) -> AsyncIterator[None]:
    """While it lasts, say how far we are: at most four times a second, and once a second in any case."""

    async def tell() -> None:
        told, silent = Count(), 0
        while True:
            await asyncio.sleep(COUNT_EVERY_S)
            if new := tally.new():
                say(NewSamples(new))
            silent += 1
            if tally.count != told or silent >= ALIVE_EVERY:
                told, silent = tally.count, 0
                say(told)

    async with Background(tell()):
        yield


def _listen(lines: BinaryIO, take: Callable[[Command], None]) -> None:
    """Hand every line to the event loop; at their end, cancel the task that called. In a thread of its own, which waits
    in the system: pipes cannot be awaited on every platform."""
    loop, worker = asyncio.get_running_loop(), asyncio.current_task()
    assert worker is not None

    def read() -> None:
        with contextlib.suppress(RuntimeError):  # the loop has been closed already
            for line in iter(lines.readline, b""):
                loop.call_soon_threadsafe(take, decode_command(line))
            loop.call_soon_threadsafe(worker.cancel)
        threading.Event().wait(LEAVE_S)
        os._exit(1)

    threading.Thread(target=read, daemon=True).start()


def main() -> None:
    """Work for whoever started this process, as its standard input says."""
    guard_tracebacks()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    out = os.fdopen(os.dup(sys.stdout.fileno()), "wb", buffering=0)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # whoever prints here does not break into our lines

    def say(word: Event) -> None:
        rest = memoryview(line_of(word))
        with contextlib.suppress(BrokenPipeError):  # nobody listens: then standard input ends as well
            while rest:
                rest = rest[out.write(rest) :]

    # Not `sys.stdin` itself: while a thread waits in it, the interpreter could not end.
    lines = os.fdopen(os.dup(sys.stdin.fileno()), "rb")
    first = lines.readline()
    if not first:
        return
    hire = decode_command(first)
    if not isinstance(hire, StartWorker):
        raise msgspec.ValidationError("the first line hires")
    try:
        asyncio.run(work(hire, say, lines))
    except asyncio.CancelledError:
        pass
    except FolderError as error:
        say(Unwritable(str(error)))


if __name__ == "__main__":
    main()
