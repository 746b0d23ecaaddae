"""Plays a stage of a plan: sends each request when it is due, whatever the server does. Knows no HTTP and no reports.

Open and closed loop are two players of the same data. Every planned request ends in exactly one call of
`EngineIO.keep`: answered, shed at the in-flight limit, or cancelled because the person stopped the run before its turn.
What is asked again is one request still: it keeps its user, or its place within the limit, while it waits."""

import asyncio
import contextlib
import itertools
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from typing import Any, Final

import msgspec
from asyncio_throttle.throttler import Throttler
from msgspec import Struct

from loadgen.clock import Clock
from loadgen.engine.retry import as_one, given_up
from loadgen.engine.stop import StopSignal
from loadgen.plan.plan import Planned, Stage
from loadgen.record import Phase, Reply

REFUSED_PAUSE_NS: Final = 250_000_000
GONE_NS: Final = 10_000_000_000
"""A server that has taken no connection for so long is gone, and the rest of a closed-loop stage is cancelled."""
YIELD_EVERY: Final = 16
"""When an open loop is behind its schedule, so many requests are started before others get the event loop."""


class ConnectBackoff:
    """What users of a closed loop do when nobody takes their connection: wait a little, and in the end go home.

    Without the wait, a server that has died would be asked thousands of times a second. In an open loop the plan says
    when requests are due, and nobody goes home.
    """

    def __init__(self) -> None:
        self._since_ns: int | None = None
        self.gone = False

    def pause_ns(self, reply: Reply, now_ns: int) -> int:
        """How long this user waits before asking again; notes when the server has refused for long enough."""
        if reply.outcome != "connect_error":
            self._since_ns = None
            return 0
        if self._since_ns is None:
            self._since_ns = now_ns
        self.gone = self.gone or now_ns - self._since_ns >= GONE_NS
        return REFUSED_PAUSE_NS


class RetryPolicy:
    """When a request that failed is asked again, and who is told of the attempts that are not its last.

    wait_ns: of (planned, phase, reply): how long after the end of this attempt the next one is made; None: it was the
    last. keep: takes an attempt that was not, as `EngineIO.keep` takes the last one. waiting: requests that wait now.
    """

    def __init__(
        self,
        wait_ns: Callable[[Planned, Phase, Reply], int | None],
        keep: Callable[[Planned, Phase, int, Reply], None],
    ) -> None:
        self.wait_ns, self.keep = wait_ns, keep
        self.waiting = 0

    @contextlib.contextmanager
    def waits(self) -> Iterator[None]:
        """While it lasts, one more request waits for its next attempt."""
        self.waiting += 1
        try:
            yield
        finally:
            self.waiting -= 1


class EngineIO(Struct, frozen=True):
    """What a player touches the world through.

    send: one request, dispatched at a moment (ns); returns its reply and never raises for what a server does. keep:
    takes (planned, phase, intended_ns, reply) of every request as it ends. epoch_ns: the run's beginning: moments in
    replies count from it, moments of the clock do not. start_ns: the moment of the clock at which the measured
    requests begin, which may be to come; None: at once. enough: asked by somebody else, where a stage may end early: no
    more begin, those under way end, and of those that were not begun there is no record: they are not missed. again:
    None where nothing is asked a second time.
    """

    send: Callable[[Planned, int], Awaitable[Reply]]
    keep: Callable[[Planned, Phase, int, Reply], None]
    clock: Clock
    epoch_ns: int
    stop: StopSignal
    start_ns: int | None = None
    enough: StopSignal | None = None
    again: RetryPolicy | None = None


class Halt:
    """Why no more requests begin in a stage: the person asked, or enough is known. Either wakes those who wait."""

    def __init__(self, ports: EngineIO) -> None:
        self._ports = ports
        self._wake = StopSignal()

    @property
    def enough(self) -> bool:
        return self._ports.enough is not None and self._ports.enough.asked

    @property
    def asked(self) -> bool:
        return self.enough or self._ports.stop.asked

    async def sleep_until_ns(self, deadline_ns: int) -> None:
        await self._wake.sleep_until_ns(self._ports.clock, deadline_ns)

    async def or_done(self, wait: Coroutine[Any, Any, None]) -> None:
        await self._wake.or_done(wait)

    @contextlib.asynccontextmanager
    async def watching(self) -> AsyncIterator[None]:
        """While it lasts, either wakes those who wait."""
        wishes = [wish for wish in (self._ports.stop, self._ports.enough) if wish is not None]
        watches = [asyncio.ensure_future(wish.wait()) for wish in wishes]
        for watch in watches:
            watch.add_done_callback(lambda _: self._wake.ask())
        try:
            yield
        finally:
            for watch in watches:
                watch.cancel()


async def play_warmup(stage: Stage, ports: EngineIO) -> None:
    """Play a stage's warm-up requests: as many at once as the stage will have users, and recorded apart."""
    count = stage.warmup_count
    waiting = iter(range(count))

    async def user() -> None:
        for position in waiting:
            planned = stage.warmup_request(position)
            if ports.stop.asked:
                ports.keep(planned, "warmup", ports.clock.now_ns() - ports.epoch_ns, cancelled())
                continue
            await _one(planned, "warmup", ports.clock.now_ns(), ports)

    async with asyncio.TaskGroup() as group:
        for _ in range(min(count, stage.users or 1)):
            group.create_task(user())


async def play(stage: Stage, ports: EngineIO) -> None:
    """Play a stage's measured requests, or those of the part that is given, to their end."""
    halt = Halt(ports)
    async with halt.watching():
        if stage.due_ns is None:
            await _play_closed(stage, ports, halt)
        else:
            await _OpenLoop(stage, ports, halt).play()


async def _one(planned: Planned, phase: Phase, intended_ns: int, ports: EngineIO, held_ns: int = 0) -> Reply:
    """One request, asked again where it is to be; returns what counts: the reply of its last attempt."""
    again, first = ports.again, None
    for attempt in itertools.count():
        reply = await ports.send(planned, ports.clock.now_ns())
        if held_ns:
            reply = msgspec.structs.replace(reply, held_ns=held_ns)
        first = first or reply
        reply = as_one(first, reply, attempt)
        wait_ns = None if again is None or ports.stop.asked else again.wait_ns(planned, phase, reply)
        if again is None or wait_ns is None:
            break
        again.keep(planned, phase, intended_ns - ports.epoch_ns, reply)
        with again.waits():
            await ports.stop.sleep_until_ns(ports.clock, _ended_ns(reply, ports) + wait_ns)
        if ports.stop.asked:
            reply = given_up(reply, ports.clock.now_ns() - ports.epoch_ns)
            break
    ports.keep(planned, phase, intended_ns - ports.epoch_ns, reply)
    return reply


async def _play_closed(stage: Stage, ports: EngineIO, halt: Halt) -> None:
    clock = ports.clock
    start_ns = clock.now_ns() if ports.start_ns is None else ports.start_ns
    until_ns = None if stage.duration_ns is None else start_ns + stage.duration_ns
    ceiling = None if stage.max_requests_per_s is None else Throttler(stage.max_requests_per_s, 1.0)
    taken = 0
    unsent: list[Planned] = []  # taken, and then held back by the ceiling until the end
    refusals = ConnectBackoff()

    def is_closed() -> bool:
        return halt.asked or refusals.gone or (until_ns is not None and clock.now_ns() >= until_ns)

    def is_over() -> bool:
        return is_closed() or (stage.count is not None and taken >= stage.count)

    async def user(ready_ns: int) -> None:
        nonlocal taken
        while True:
            await halt.sleep_until_ns(ready_ns)
            if is_over():
                return
            planned = stage.request(taken)
            taken += 1
            if ceiling is not None:
                await halt.or_done(ceiling.acquire())  # type: ignore[no-untyped-call]
                ready_ns = clock.now_ns()  # the ceiling is part of the plan: its wait is nobody's lateness
                if is_closed():
                    unsent.append(planned)
                    return
            reply = await _one(planned, "measured", ready_ns, ports)
            ready_ns = _ended_ns(reply, ports) + planned.think_ns + refusals.pause_ns(reply, clock.now_ns())

    async with asyncio.TaskGroup() as group:
        for offset_ns in [0] if stage.ramp_in_ns is None else stage.ramp_in_ns:
            group.create_task(user(start_ns + int(offset_ns)))
    # Where time or what is known ends the stage, what would have been sent next was never promised.
    if stage.promised and stage.count is not None and not halt.enough:
        for planned in (*unsent, *(stage.request(position) for position in range(taken, stage.count))):
            ports.keep(planned, "measured", clock.now_ns() - ports.epoch_ns, cancelled(gone=refusals.gone))


def _ended_ns(reply: Reply, ports: EngineIO) -> int:
    """When a user may ask again: the answer's last byte is there. What the server does between the orderly end and
    that is the server's time, not lateness of ours."""
    moments = [moment for moment in (reply.end_ns, reply.last_byte_ns) if moment is not None]
    return ports.epoch_ns + max(moments) if moments else ports.clock.now_ns()


class _OpenLoop:
    """One open-loop stage as it is played: who is under way, and who waits for a place at the in-flight limit."""

    def __init__(self, stage: Stage, ports: EngineIO, halt: Halt) -> None:
        self._stage = stage
        self._ports = ports
        self._halt = halt
        self._under_way = 0
        self._waiting: deque[tuple[Planned, int]] = deque()

    async def play(self) -> None:
        stage, clock, halt = self._stage, self._ports.clock, self._halt
        start_ns = clock.now_ns() if self._ports.start_ns is None else self._ports.start_ns
        async with asyncio.TaskGroup() as group:
            for position in range(stage.count or 0):
                planned = stage.request(position)
                due_ns = start_ns + (planned.due_ns or 0)
                behind = clock.now_ns() >= due_ns
                await halt.sleep_until_ns(due_ns)
                if behind and position % YIELD_EVERY == 0:
                    await asyncio.sleep(0)
                if halt.enough or (halt.asked and not stage.promised):
                    break
                self._arrive(planned, due_ns, group)
        for planned, due_ns in () if halt.enough else self._waiting:
            self._keep(planned, due_ns, cancelled())

    def _arrive(self, planned: Planned, due_ns: int, group: asyncio.TaskGroup) -> None:
        """A request has come due: it begins, waits, or is turned away."""
        limit = self._stage.max_in_flight
        if self._halt.asked:
            self._keep(planned, due_ns, cancelled())
        elif limit is None or self._under_way < limit:
            self._under_way += 1
            group.create_task(self._place(planned, due_ns))
        elif self._stage.at_limit == "queue":
            self._waiting.append((planned, due_ns))
        else:
            self._keep(planned, due_ns, shed(limit))

    async def _place(self, planned: Planned, due_ns: int) -> None:
        """One place within the limit: a request, and as long as others wait, the one that has waited longest."""
        held_ns = 0
        while True:
            reply = await _one(planned, "measured", due_ns, self._ports, held_ns)
            if self._halt.asked or not self._waiting:
                break
            planned, due_ns = self._waiting.popleft()
            # Free when the answer had ended. What we need to see that is lateness of ours, and not the limit's.
            held_ns = max(0, _ended_ns(reply, self._ports) - due_ns)
        self._under_way -= 1  # nothing was awaited since nobody was seen to wait: nobody is left behind

    def _keep(self, planned: Planned, due_ns: int, reply: Reply) -> None:
        self._ports.keep(planned, "measured", due_ns - self._ports.epoch_ns, reply)


def cancelled(*, gone: bool = False) -> Reply:
    """The reply of a request that was never sent because the run was stopped, or the server was gone."""
    why = "the server took no connection any more" if gone else "the run was stopped before its turn"
    return Reply(outcome="cancelled", detail=why)


def shed(limit: int) -> Reply:
    """The reply of a request that came due when `limit` others were in flight."""
    return Reply(outcome="shed", detail=f"{limit} requests were in flight when it came due")
