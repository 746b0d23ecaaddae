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

from loadgen.analysis.stop_rule import Sample, StopRuleMonitor
from loadgen.child import Child
from loadgen.clock import SystemClock
from loadgen.engine.background import Background
from loadgen.engine.stage import identity_of, watch_over
from loadgen.engine.stop import StopSignal
from loadgen.engine.workers.merge import together
from loadgen.engine.workers.messages import (
    CancelInFlight,
    Command,
    Count,
    Done,
    Drain,
    Go,
    NewSamples,
    Prepare,
    Ready,
    StartWorker,
    StopRuleMet,
    Unwritable,
    decode_event,
    line_of,
)
from loadgen.errors import FolderError
from loadgen.plan.plan import Plan, Stage, parts
from loadgen.record import StageFacts, WorkerFacts
from loadgen.store.run_folder import folder_errors_alone, part_name
from loadgen.targets.probe.answers import StreamAnswers, merged
from loadgen.targets.served import Served
from loadgen.telemetry.observer import Observer

LEAD_NS: Final = 50_000_000
"""How far ahead of "go" a stage begins: time for every worker to hear it."""
SILENT_S: Final = 60.0
"""A worker that says nothing for so long is lost; one that is alive says how far it is every second."""
LOOKS: Final = 4
"""In how many parts that time is waited for: a conductor that was stopped for an hour does not blame its workers."""
LEAVE_S: Final = 10.0


class WorkerConfig(Struct, frozen=True):
    """What all workers of a run are told at first, and where they leave their records."""

    plan: Plan
    epoch_ns: int
    folder: Path
    silent_s: float


class WorkerHandle:
    """One worker as the conductor sees it: its process, what it has said so far, and whether it is lost."""

    def __init__(
        self, child: Child, silent_s: float, heard: Callable[[], None], sampled: Callable[[Sample], None]
    ) -> None:
        self._child = child
        self._silent_s = silent_s
        self._heard = heard
        self._sampled = sampled
        self.count = Count()
        self.facts: StageFacts | None = None
        self.answers: StreamAnswers = {}
        self.lost: str | None = None

    @classmethod
    async def hired(
        cls, seat: WorkerConfig, serial: int, heard: Callable[[], None], sampled: Callable[[Sample], None]
    ) -> "WorkerHandle":
        """Start a process, which is then told what it is for. serial: of the run's workers; no two share a log."""
        child = await Child.start(f"worker process {serial}", "loadgen.engine.workers.worker")
        hand = cls(child, seat.silent_s, heard, sampled)
        bare = msgspec.structs.replace(seat.plan, stages=())
        hand.tell(StartWorker(bare, seat.epoch_ns, str(seat.folder / part_name(serial))))
        return hand

    @property
    def pid(self) -> int:
        return self._child.pid

    @property
    def gone(self) -> bool:
        """Whether it can play no further stage."""
        return self.lost is not None or self._child.output_ended

    def tell(self, order: Command) -> None:
        """Say something to it; to one that has gone, in vain."""
        if not self.gone:
            self._child.send(line_of(order))

    async def until(self, kind: type[Ready] | type[Done]) -> None:
        """Wait until it says so, or is lost. Raises FolderError when it cannot write what it plays."""
        looks = 0
        while self.lost is None:
            try:
                line = await self._child.read_line(self._silent_s / LOOKS)
            except TimeoutError:
                looks += 1
                if looks == LOOKS:
                    self._child.kill()
                    self.lost = f"said nothing for {self._silent_s:g} s"
                continue
            looks = 0
            if not line:
                self.lost = await self._crash()
                return
            word = decode_event(line)
            match word:
                case Count():
                    self._note(word)
                case NewSamples():
                    for sample in word.new:
                        self._sampled(sample)
                case Unwritable():
                    raise FolderError(word.why)
                case Done():
                    self.facts, self.answers = word.facts, word.answers
                    self._note(word.count)
            if isinstance(word, kind):
                return

    def _note(self, count: Count) -> None:
        self.count = count
        self._heard()

    async def leave(self) -> None:
        """Let it go: what it has written is there when this returns."""
        await self._child.stop()

    async def _crash(self) -> str:
        """How it has ended, of one whose output has; one that goes on without is killed."""
        await self._child.exit_code(LEAVE_S)
        crash = await self._child.crash()
        if crash is None:
            self._child.kill()
        return crash or "closed its output"


class WorkerPool:
    """The processes that play a run together. Use as `async with`: it starts them, and none is left behind."""

    def __init__(
        self,
        size: int,
        plan: Plan,
        folder: Path,
        epoch_ns: int,
        *,
        heard: Callable[[int, int], None],
        note: Callable[[str], None],
        known: Callable[[str], None] = lambda _: None,
        silent_s: float = SILENT_S,
    ) -> None:
        """heard: told how many measured requests of the stage have ended, and how many of them were not ok. note: told
        in words of a worker that was lost. known: told in words how precisely that is known what a stage waits for."""
        self._size = size
        self._seat = WorkerConfig(plan, epoch_ns, folder, silent_s)
        self._heard = heard
        self._note = note
        self._known = known
        self._watch: StopRuleMonitor | None = None
        self._hired = 0
        self._hands: list[WorkerHandle] = []
        self._playing: list[WorkerHandle] = []

    async def __aenter__(self) -> "WorkerPool":
        try:
            for _ in range(self._size):
                self._hands.append(await self._hire())
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        left = await asyncio.gather(*(hand.leave() for hand in self._hands), return_exceptions=True)
        for failure in left:
            if failure is not None:
                raise failure

    @property
    def pids(self) -> tuple[int, ...]:
        """The processes that play now, or would play the next stage."""
        return tuple(hand.pid for hand in self._hands)

    def abandon(self) -> None:
        """Have all workers give up what is under way."""
        for hand in self._hands:
            hand.tell(CancelInFlight())

    async def play(
        self,
        stage: Stage,
        served: dict[int, Served],
        stop: StopSignal,
        tell: Callable[[StageFacts], None],
        *,
        watched: tuple[int, ...] = (),
    ) -> StreamAnswers:
        """Play a stage: warm-up, then all parts from one moment on; returns what its first answers showed. tell: takes
        what was seen, whatever ended it. watched: processes of servers, whose CPU and memory go into the facts."""
        shares = parts(stage, self._size)
        await self._make_up_for_the_lost()
        self._playing = self._hands[: len(shares)]
        self._watch = watch_over(self._seat.plan, stage, self._tell_enough, self._known)
        observer = Observer(lambda: 0, watched)
        async with Background(self._drain_when_asked(stop)):
            for hand, share in zip(self._playing, shares, strict=True):
                hand.count, hand.facts, hand.answers = Count(), None, {}
                hand.tell(Prepare(share, {index: served[index] for index in stage.models}))
            await self._all(Ready)
            observer.start()
            try:
                at_ns = SystemClock().now_ns() + LEAD_NS
                for hand in self._playing:
                    hand.tell(Go(at_ns))
                await self._all(Done)
            finally:
                identity = identity_of(self._seat.plan, stage)
                seen = await observer.stop(epoch_ns=self._seat.epoch_ns, complete=not stop.asked, **identity)
                tell(self._together(seen, settled=self._watch is not None and self._watch.settled))
        return merged(hand.answers for hand in self._playing)

    async def _hire(self) -> WorkerHandle:
        self._hired += 1
        return await WorkerHandle.hired(self._seat, self._hired - 1, self._tell_how_far, self._sampled)

    async def _make_up_for_the_lost(self) -> None:
        for place, hand in enumerate(self._hands):
            if hand.gone:
                await hand.leave()
                self._hands[place] = await self._hire()

    def _tell_how_far(self) -> None:
        counts = [hand.count for hand in self._playing]
        self._heard(sum(count.ended for count in counts), sum(count.failed for count in counts))

    def _sampled(self, sample: Sample) -> None:
        if self._watch is not None:
            self._watch.take(sample)

    def _tell_enough(self) -> None:
        for hand in self._playing:
            hand.tell(StopRuleMet())

    async def _all(self, kind: type[Ready] | type[Done]) -> None:
        async def wait(place: int, hand: WorkerHandle) -> None:
            before = hand.lost
            await hand.until(kind)
            if hand.lost and not before:
                told = f"worker {place + 1} of {len(self._playing)} {hand.lost}"
                self._note(f"{told}; what it had written is kept, and the others go on")

        with folder_errors_alone():
            async with asyncio.TaskGroup() as group:
                for place, hand in enumerate(self._playing):
                    group.create_task(wait(place, hand))

    async def _drain_when_asked(self, stop: StopSignal) -> None:
        await stop.wait()
        for hand in self._hands:
            hand.tell(Drain())

    def _together(self, seen: StageFacts, *, settled: bool) -> StageFacts:
        workers = [
            WorkerFacts(
                pid=hand.pid,
                requests=hand.count.ended,
                cpu_share=hand.facts.cpu_share if hand.facts else None,
                lost=hand.lost if hand.lost or hand.facts else "did not end",
            )
            for hand in self._playing
        ]
        seen = msgspec.structs.replace(seen, settled=settled)
        return together(seen, [hand.facts for hand in self._playing if hand.facts], workers)
