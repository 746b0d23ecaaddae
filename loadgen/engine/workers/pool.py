"""The parent process's side of a worker pool: starts the workers, has them play each stage at the same moment, and
merges their facts. Plays nothing itself.

A worker that dies, or sends nothing for too long, is lost: the records that it had written are kept, the others go on,
and before the next stage a new worker takes its place. When the parent process ends, for whatever reason, the standard
input of its workers ends, and they end as well.
"""

import asyncio
import contextlib
import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from loadgen.engine.heartbeat import boot_of
from loadgen.engine.request_limits import RequestLimits
from loadgen.engine.servers import ServerLife
from loadgen.engine.stage import RunContext, stage_start
from loadgen.engine.stop import StopLevel, StopSignal
from loadgen.engine.workers.handle import WorkerConfig, WorkerHandle
from loadgen.engine.workers.merge import merge_facts
from loadgen.engine.workers.messages import (
    CancelInFlight,
    Command,
    Done,
    Drain,
    Go,
    Ready,
    ServerBack,
    SplitLog,
    StopRuleMet,
    Update,
)
from loadgen.live.sink import MeasuringStart, Sinks
from loadgen.plan.plan import Stage, parts
from loadgen.record import WorkerFacts
from loadgen.store.run_folder import ungroup_errors
from loadgen.targets.probe.answers import StreamAnswers, merge_answers
from loadgen.targets.served import Served
from loadgen.telemetry.observer import Observer

if TYPE_CHECKING:
    from loadgen.engine.soak.segments import WorkerLogs
    from loadgen.engine.soak.window_writer import WindowWriter

LEAD_NS: Final = 50_000_000
"""How long after `Go` a stage begins, so that every worker has read it by then."""
SILENT_S: Final = 60.0
"""A worker that sends nothing for this long is lost. A live one sends an update every second."""


class WorkerPool:
    """The worker processes of a run. Use as `async with`, which starts them and ends them all."""

    def __init__(
        self,
        size: int,
        context: RunContext,
        folder: Path,
        tell: Callable[[str], None],
        *,
        silent_s: float = SILENT_S,
        window_writer: "WindowWriter | None" = None,
        logs: "WorkerLogs | None" = None,
    ) -> None:
        """tell: called with a line for the user when a worker is lost. window_writer: writes the windows into which
        workers fold their measured records, which then no other sink gets; None: all sinks get all records. logs: how
        they split their logs; None: they do not."""
        self.context = context
        self.tell = tell
        self._size = size
        self.window_writer = window_writer
        settings = None if window_writer is None else window_writer.settings
        self._config = WorkerConfig(context.plan, context.epoch_ns, folder, context.when_gone, silent_s, settings, logs)
        self._started = 0
        self._workers: list[WorkerHandle] = []

    async def __aenter__(self) -> "WorkerPool":
        try:
            for _ in range(self._size):
                self._workers.append(await self._start_worker(len(self._workers)))
        except BaseException:  # Python does not call __aexit__ if __aenter__ raises
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        # All of them are ended, even if ending one raises.
        results = await asyncio.gather(*(worker.stop() for worker in self._workers), return_exceptions=True)
        for failure in results:
            if failure is not None:
                raise failure

    @property
    def pids(self) -> tuple[int, ...]:
        """The processes of the current workers."""
        return tuple(worker.pid for worker in self._workers)

    async def workers_for(self, count: int) -> list[WorkerHandle]:
        """The first `count` workers, of which each that is gone was replaced by a new one."""
        # Called between two stages. During a stage, a new worker would have to begin a part that is half played.
        for place, worker in enumerate(self._workers):
            if worker.has_ended:
                await worker.stop()
                self._workers[place] = await self._start_worker(place)
        return self._workers[:count]

    def parts_of(self, stage: Stage) -> list[Stage]:
        """The parts of a stage, one for each worker that takes part in it."""
        return list(parts(stage, self._size))

    def split_logs(self) -> None:
        """Have all workers begin the next segment of their logs."""
        for worker in self._workers:
            worker.send(SplitLog())

    async def _start_worker(self, place: int) -> WorkerHandle:
        self._started += 1
        # A log that is split is continued by the worker that takes the place of a lost one, so that all logs together
        # stay within the budget.
        serial = self._started - 1 if self._config.logs is None else place
        return await WorkerHandle.start(self._config, serial)


class PooledStageRunner:
    """A `StageRunner` that has the workers of a pool play one stage, all parts beginning at the same moment."""

    def __init__(
        self,
        pool: WorkerPool,
        stage: Stage,
        served: dict[int, Served],
        stop: StopSignal,
        sinks: Sinks,
        server_pids: tuple[int, ...] = (),
    ) -> None:
        """The other arguments are those of `MakeStageRunner`."""
        self._pool = pool
        self._context = pool.context
        self._stage = stage
        self._served = served
        self._stop = stop
        self._sinks = sinks
        # Only the workers know the requests in flight. This observer measures the servers and this process.
        context = pool.context
        self._observer = Observer(
            context.clock, lambda: 0, server_pids, machine=context.machine, boot=boot_of(context.heartbeat)
        )
        self._workers: list[WorkerHandle] = []

    async def warm_up(self) -> None:
        """Have each worker connect and play its part of the warm-up."""
        self._sinks.start(stage_start(self._context.plan, self._stage))
        shares = self._pool.parts_of(self._stage)
        self._workers = await self._pool.workers_for(len(shares))
        # A stop is passed on during the warm-up too, which may take minutes.
        with self._listening():
            for worker, share in zip(self._workers, shares, strict=True):
                worker.prepare(share, self._served, self._sinks)
            await self._wait_for_all(Ready)

    async def measure(self, limits_ns: RequestLimits) -> None:
        """Have all workers play their parts from one moment on; then pass the stage's facts to the sinks, whatever
        ended the stage."""
        self._observer.start()
        try:
            with self._listening():
                # One moment for all, a little ahead, because each worker reads its line at a different time. If the
                # parts began at different times, fewer users than planned would be active together.
                go = Go(self._context.clock.now_ns() + LEAD_NS, limits_ns)
                epoch_ns = self._context.epoch_ns
                workers = len(self._workers)
                self._sinks.measure(MeasuringStart(go.at_ns - epoch_ns, epoch_ns, self._observer, workers))
                for place, worker in enumerate(self._workers):
                    worker.measure(go, self._pool.window_writer, place)
                await self._wait_for_all(Done)
        finally:
            start = stage_start(self._context.plan, self._stage)
            own_facts = await self._observer.stop(
                epoch_ns=self._context.epoch_ns,
                complete=not self._context.stop_signal.requested,
                models=start.models,
                targets=start.targets,
                level=start.level,
                ended_early=self._stop.is_stage_over,
            )
            # A lost worker has no facts. The records that it had written count, and `lost` tells why others are
            # missing.
            part_facts = [worker.facts for worker in self._workers if worker.facts]
            self._sinks.stop(merge_facts(own_facts, part_facts, [_facts_of(worker) for worker in self._workers]))

    def answers(self) -> StreamAnswers:
        return merge_answers(worker.answers for worker in self._workers)

    async def _wait_for_all(self, kind: type[Ready] | type[Done]) -> None:
        with ungroup_errors():
            async with asyncio.TaskGroup() as group:
                for place, worker in enumerate(self._workers):
                    group.create_task(self._wait_for(kind, place, worker))

    async def _wait_for(self, kind: type[Ready] | type[Done], place: int, worker: WorkerHandle) -> None:
        was_lost = worker.lost
        which = f"worker {place + 1} of {len(self._workers)}"
        await worker.wait_for(kind, functools.partial(self._take_update, which))
        if worker.lost and not was_lost:
            kept = "the records that it had written are kept, and the other workers continue"
            self._pool.tell(f"{which} {worker.lost}; {kept}")

    def _take_update(self, which: str, update: Update) -> None:
        # The workers send, not this process's client, so its last send is set here: it tells keep_warm.py to send no
        # pings.
        self._context.client.last_sent_ns = self._context.clock.now_ns()
        if self._context.heartbeat is not None:
            for gap in update.gaps:
                self._context.heartbeat.report(msgspec.structs.replace(gap, who=which))

    @contextlib.contextmanager
    def _listening(self) -> Iterator[None]:
        """While the context lasts, pass on to the workers what they need to know, and observe the process that takes a
        server's place."""
        with (
            self._stop.calling(self._pass_on),
            self._context.gates.calling(self._let_through),
            self._context.lives.calling(self._follow),
        ):
            yield

    def _let_through(self, model: int) -> None:
        for worker in self._workers:
            worker.send(ServerBack(model))

    def _follow(self, model: int, life: ServerLife) -> None:
        if model in self._stage.models and life.pid is not None:
            self._observer.follow(life.pid)

    def _pass_on(self, level: StopLevel) -> None:
        """Pass a stop on to the workers."""
        # If the stage's signal is drained and the run's is not, the stage's stop rule is met.
        self._sinks.drain(self._context.clock.now_ns() - self._context.epoch_ns)
        command: Command = StopRuleMet()
        if level == "cancel":
            command = CancelInFlight()
        elif self._context.stop_signal.requested:
            command = Drain()
        for worker in self._workers:
            worker.send(command)


def _facts_of(worker: WorkerHandle) -> WorkerFacts:
    return WorkerFacts(
        pid=worker.pid,
        requests=worker.requests,
        cpu_share=worker.facts.cpu_share if worker.facts else None,
        lost=worker.lost if worker.lost or worker.facts else "did not end",
    )
