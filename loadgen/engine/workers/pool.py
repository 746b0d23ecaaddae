"""The conductor's side of several processes that play a run together: starts them, tells them when, merges what they
saw. Plays nothing itself.

A worker that dies, or says nothing for too long, is lost: what it had written is kept, the others go on, and the next
stage begins with a fresh one in its place. Whatever ends the conductor ends its workers: their standard input ends.
"""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec
from msgspec import Struct

from loadgen.child import Child
from loadgen.engine.request_limits import RequestLimits
from loadgen.engine.stage import RunContext, start_of
from loadgen.engine.stop import StopLevel, StopSignal
from loadgen.engine.workers.merge import merge_facts
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
    decode_event,
    line_of,
)
from loadgen.errors import FolderError
from loadgen.live.sink import Sinks
from loadgen.plan.plan import Plan, Stage, parts
from loadgen.record import StageFacts, WorkerFacts
from loadgen.store.run_folder import LogReader, part_name, ungroup_errors
from loadgen.targets.probe.answers import StreamAnswers, merge_answers
from loadgen.targets.served import Served
from loadgen.telemetry.observer import Observer

LEAD_NS: Final = 50_000_000
"""How far ahead of "go" a stage begins: time for every worker to hear it."""
SILENT_S: Final = 60.0
"""A worker that says nothing for so long is lost; one that is alive says how far it is every second."""
POLLS: Final = 4
"""In how many parts that time is waited for: a conductor that was stopped for an hour does not blame its workers."""
SHUTDOWN_TIMEOUT_S: Final = 10.0


class WorkerConfig(Struct, frozen=True):
    """What all workers of a run are told at first, and where they leave their records."""

    plan: Plan
    epoch_ns: int
    """The run's beginning, on the clock."""
    folder: Path
    silent_s: float
    """A worker that says nothing for so long is lost, s."""


class WorkerHandle:
    """One worker as the conductor sees it: its process, what it has said of a stage so far, and whether it is lost."""

    def __init__(self, child: Child, log: LogReader, silent_s: float) -> None:
        self._child = child
        self._log = log
        self._silent_s = silent_s
        self._sinks = Sinks(())
        self.requests = 0
        """Measured requests of the stage that have ended, as far as it has said."""
        self.facts: StageFacts | None = None
        self.answers: StreamAnswers = {}
        self.lost: str | None = None

    @classmethod
    async def start(cls, config: WorkerConfig, serial: int) -> "WorkerHandle":
        """Start a process, which is then told what it is for. serial: of the run's workers; no two share a log."""
        child = await Child.start(f"worker process {serial}", "loadgen.engine.workers")
        log = config.folder / part_name(serial)
        worker = cls(child, LogReader(log), config.silent_s)
        # Stages come later, part by part: a worker has no use for the due times of the others.
        plan = msgspec.structs.replace(config.plan, stages=())
        worker.send(StartWorker(plan, config.epoch_ns, str(log)))
        return worker

    @property
    def pid(self) -> int:
        return self._child.pid

    @property
    def gone(self) -> bool:
        """Whether it can play no further stage."""
        return self.lost is not None or self._child.output_ended

    def prepare(self, part: Stage, served: dict[int, Served], sinks: Sinks) -> None:
        """Have it prepare its part of a stage. sinks: hear of that part's records."""
        self.requests, self.facts, self.answers, self._sinks = 0, None, {}, sinks
        self.send(Prepare(part, {index: served[index] for index in part.models}))

    def send(self, command: Command) -> None:
        """Tell it something; one that has gone, in vain."""
        if not self.gone:
            self._child.send(line_of(command))

    async def wait_for(self, kind: type[Ready] | type[Done], on_update: Callable[[], None]) -> None:
        """Wait until it says so, or is lost, and hand its records to the sinks meanwhile.

        Raises FolderError when it cannot write what it plays, or we cannot read it.
        """
        polls = 0
        while self.lost is None:
            try:
                line = await self._child.read_line(self._silent_s / POLLS)
            except TimeoutError:
                # One long wait would run out while this process was stopped, though the worker had spoken meanwhile;
                # of several short ones, the first after it reads what is there.
                polls += 1
                if polls == POLLS:
                    self._child.kill()
                    self.lost = f"said nothing for {self._silent_s:g} s"
                continue
            polls = 0
            if not line:  # its output has ended, and so has it
                self.lost = await self._crash()
                return
            event = decode_event(line)
            match event:
                case Update():
                    self._read_records(event)
                    on_update()
                case Unwritable():
                    raise FolderError(event.reason)
                case Done():
                    self.facts, self.answers = event.facts, event.answers
            if isinstance(event, kind):
                return

    def _read_records(self, update: Update) -> None:
        # The update says how far the log is whole: beyond that a line may be half written.
        retries = frozenset(update.retries)
        for position, record in enumerate(self._log.read_to(update.log_bytes)):
            if position in retries:
                self._sinks.retry(record)
            else:
                self.requests += record.phase == "measured"
                self._sinks.record(record)

    async def stop(self) -> None:
        """Let it go: what it has written is there when this returns."""
        self._log.close()
        await self._child.stop()

    async def _crash(self) -> str:
        """How it has ended, of one whose output has; one that goes on without is killed."""
        # Its output ends a little before it does, and only then is it known how.
        await self._child.exit_code(SHUTDOWN_TIMEOUT_S)
        crash = await self._child.crash()
        if crash is None:
            self._child.kill()
        return crash or "closed its output"


class WorkerPool:
    """The processes that play a run together. Use as `async with`: it starts them, and none is left behind."""

    def __init__(
        self,
        size: int,
        context: RunContext,
        folder: Path,
        note: Callable[[str], None],
        *,
        silent_s: float = SILENT_S,
    ) -> None:
        """note: told in words of a worker that was lost."""
        self.context = context
        self.note = note
        self._size = size
        self._config = WorkerConfig(context.plan, context.epoch_ns, folder, silent_s)
        self._started = 0
        self._workers: list[WorkerHandle] = []

    async def __aenter__(self) -> "WorkerPool":
        try:
            for _ in range(self._size):
                self._workers.append(await self._start_worker())
        except BaseException:  # __aexit__ is not called for what fails in here
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        # All of them, whatever one raises: none may be left behind.
        results = await asyncio.gather(*(worker.stop() for worker in self._workers), return_exceptions=True)
        for failure in results:
            if failure is not None:
                raise failure

    @property
    def pids(self) -> tuple[int, ...]:
        """The processes that play now, or would play the next stage."""
        return tuple(worker.pid for worker in self._workers)

    async def workers_for(self, count: int) -> list[WorkerHandle]:
        """So many workers that can play a stage: in the place of each that is lost, a fresh one."""
        # Between two stages: in the middle of one, a fresh worker would begin a part that is half played.
        for place, worker in enumerate(self._workers):
            if worker.gone:
                await worker.stop()
                self._workers[place] = await self._start_worker()
        return self._workers[:count]

    def parts_of(self, stage: Stage) -> list[Stage]:
        """The parts of a stage, one a worker that takes part in it."""
        return list(parts(stage, self._size))

    async def _start_worker(self) -> WorkerHandle:
        self._started += 1
        return await WorkerHandle.start(self._config, self._started - 1)


class PooledStageRunner:
    """Has the workers of a pool play one stage, all parts from one moment on; a `StageRunner`."""

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
        # Requests in flight are known to the workers alone; what is watched here are the servers, and this process.
        self._observer = Observer(pool.context.clock, lambda: 0, server_pids, machine=pool.context.machine)
        self._workers: list[WorkerHandle] = []

    async def warm_up(self) -> None:
        """Have each worker connect and play its part of the warm-up."""
        self._sinks.start(start_of(self._context.plan, self._stage))
        shares = self._pool.parts_of(self._stage)
        self._workers = await self._pool.workers_for(len(shares))
        # An end is passed on from here: a warm-up may take minutes.
        with self._stop.calling(self._pass_on):
            for worker, share in zip(self._workers, shares, strict=True):
                worker.prepare(share, self._served, self._sinks)
            await self._wait_for_all(Ready)

    async def measure(self, limits_ns: RequestLimits) -> None:
        """Have all workers play their part from one moment on; then the sinks are told of the stage's facts, whatever
        ended it."""
        self._observer.start()
        try:
            with self._stop.calling(self._pass_on):
                # One moment for all, a little ahead: pipes and schedulers deliver at different times, and a stage whose
                # parts begin apart is no stage of that many users.
                go = Go(self._context.clock.now_ns() + LEAD_NS, limits_ns)
                for worker in self._workers:
                    worker.send(go)
                await self._wait_for_all(Done)
        finally:
            start = start_of(self._context.plan, self._stage)
            own_facts = await self._observer.stop(
                epoch_ns=self._context.epoch_ns,
                complete=not self._context.stop.requested,
                models=start.models,
                targets=start.targets,
                level=start.level,
                rule_met=self._stop.rule_met,
            )
            # A worker that was lost has no facts; what it had written counts, and `lost` says what is missing.
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
        await worker.wait_for(kind, self._note_activity)
        if worker.lost and not was_lost:
            which = f"worker {place + 1} of {len(self._workers)}"
            self._pool.note(f"{which} {worker.lost}; what it had written is kept, and the others go on")

    def _note_activity(self) -> None:
        # Others send, not our client; a model that is asked needs no keeping warm all the same.
        self._context.client.last_sent_ns = self._context.clock.now_ns()

    def _pass_on(self, level: StopLevel) -> None:
        """Tell the workers of an end that is asked for here."""
        # A drain of the stage's own signal, and not of the run's, can only be its rule.
        command: Command = StopRuleMet()
        if level == "cancel":
            command = CancelInFlight()
        elif self._context.stop.requested:
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
