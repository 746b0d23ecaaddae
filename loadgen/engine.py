"""Plays a stage of a plan: sends each request when it is due, whatever the server does. Knows no HTTP and no reports.

Open and closed loop are two players of the same data. Every planned request ends in exactly one call of `Ports.keep`:
answered, shed at the in-flight limit, or cancelled because the person stopped the run before its turn.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Final

from asyncio_throttle.throttler import Throttler
from msgspec import Struct

from loadgen.clock import Clock
from loadgen.measure.record import Phase, Reply
from loadgen.plan import Planned, Stage

INTERRUPTIBLE_NS: Final = 20_000_000
"""A wait longer than this can be cut short by a stop; a shorter one is not worth two tasks."""
REFUSED_PAUSE_NS: Final = 250_000_000
GONE_NS: Final = 10_000_000_000
"""A server that has taken no connection for so long is gone, and the rest of a closed-loop stage is cancelled."""
YIELD_EVERY: Final = 16
"""When an open loop is behind its schedule, so many requests are started before others get the event loop."""


class Stop:
    """The person's wish to end the run: asked once, no new request is sent, and those in flight may end."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    @property
    def asked(self) -> bool:
        return self._event.is_set()

    def ask(self) -> None:
        self._event.set()

    async def wait(self) -> None:
        """Until somebody asks."""
        await self._event.wait()

    async def sleep_until_ns(self, clock: Clock, deadline_ns: int) -> None:
        """Sleep until the deadline, or until a stop is asked for."""
        if self.asked:
            return
        if deadline_ns - clock.now_ns() <= INTERRUPTIBLE_NS:
            await clock.sleep_until_ns(deadline_ns)
            return
        await self.or_done(clock.sleep_until_ns(deadline_ns))

    async def or_done(self, wait: Coroutine[Any, Any, None]) -> None:
        """Await something that may be given up, until it is done or a stop is asked for."""
        done = asyncio.ensure_future(wait)
        asked = asyncio.ensure_future(self._event.wait())
        try:
            await asyncio.wait((done, asked), return_when=asyncio.FIRST_COMPLETED)
            if done.done():
                done.result()  # what went wrong in it is not lost
        finally:
            done.cancel()
            asked.cancel()


class Refusals:
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


class Ports(Struct, frozen=True):
    """What a player touches the world through.

    send: one request, dispatched at a moment (ns); returns its reply and never raises for what a server does. keep:
    takes (planned, phase, intended_ns, reply) of every request as it ends. epoch_ns: the run's beginning: moments in
    replies count from it, moments of the clock do not.
    """

    send: Callable[[Planned, int], Awaitable[Reply]]
    keep: Callable[[Planned, Phase, int, Reply], None]
    clock: Clock
    epoch_ns: int
    stop: Stop


async def play_warmup(stage: Stage, ports: Ports) -> None:
    """Play a stage's warm-up requests: as many at once as the stage will have users, and recorded apart."""
    count = stage.warmup * len(stage.models)
    waiting = iter(range(count))

    async def user() -> None:
        for position in waiting:
            planned = stage.warmup_request(position)
            if ports.stop.asked:
                ports.keep(planned, "warmup", ports.clock.now_ns() - ports.epoch_ns, cancelled())
                continue
            await _one(planned, "warmup", ports.clock.now_ns(), ports)

    async with asyncio.TaskGroup() as group:
        for _ in range(min(count, stage.level.concurrency or 1)):
            group.create_task(user())


async def play(stage: Stage, ports: Ports) -> None:
    """Play a stage's measured requests to their end."""
    if stage.due_ns is None:
        await _play_closed(stage, ports)
    else:
        await _play_open(stage, ports)


async def _one(planned: Planned, phase: Phase, intended_ns: int, ports: Ports) -> Reply:
    reply = await ports.send(planned, ports.clock.now_ns())
    ports.keep(planned, phase, intended_ns - ports.epoch_ns, reply)
    return reply


async def _play_closed(stage: Stage, ports: Ports) -> None:
    clock, stop = ports.clock, ports.stop
    start_ns = clock.now_ns()
    until_ns = None if stage.duration_ns is None else start_ns + stage.duration_ns
    ceiling = None if stage.max_requests_per_s is None else Throttler(stage.max_requests_per_s, 1.0)
    taken = 0
    unsent: list[Planned] = []  # taken, and then held back by the ceiling until the end
    refusals = Refusals()

    def is_closed() -> bool:
        return stop.asked or refusals.gone or (until_ns is not None and clock.now_ns() >= until_ns)

    def is_over() -> bool:
        return is_closed() or (stage.count is not None and taken >= stage.count)

    async def user(ready_ns: int) -> None:
        nonlocal taken
        while True:
            await stop.sleep_until_ns(clock, ready_ns)
            if is_over():
                return
            planned = stage.request(taken)
            taken += 1
            if ceiling is not None:
                await stop.or_done(ceiling.acquire())  # type: ignore[no-untyped-call]
                ready_ns = clock.now_ns()  # the ceiling is part of the plan: its wait is nobody's lateness
                if is_closed():
                    unsent.append(planned)
                    return
            reply = await _one(planned, "measured", ready_ns, ports)
            ready_ns = _ended_ns(reply, ports) + planned.think_ns + refusals.pause_ns(reply, clock.now_ns())

    async with asyncio.TaskGroup() as group:
        for offset_ns in [0] if stage.ramp_in_ns is None else stage.ramp_in_ns:
            group.create_task(user(start_ns + int(offset_ns)))
    # Where time bounds the stage, what would have been sent next was never promised.
    if until_ns is None and stage.count is not None:
        for planned in (*unsent, *(stage.request(position) for position in range(taken, stage.count))):
            ports.keep(planned, "measured", clock.now_ns() - ports.epoch_ns, cancelled(gone=refusals.gone))


def _ended_ns(reply: Reply, ports: Ports) -> int:
    """When a user may ask again: the answer's last byte is there. What the server does between the orderly end and
    that is the server's time, not lateness of ours."""
    moments = [moment for moment in (reply.end_ns, reply.last_byte_ns) if moment is not None]
    return ports.epoch_ns + max(moments) if moments else ports.clock.now_ns()


async def _play_open(stage: Stage, ports: Ports) -> None:
    clock, stop, limit = ports.clock, ports.stop, stage.max_in_flight
    start_ns = clock.now_ns()
    in_flight: set[asyncio.Task[Reply]] = set()
    count = 0 if stage.due_ns is None else len(stage.due_ns)
    async with asyncio.TaskGroup() as group:
        for position in range(count):
            planned = stage.request(position)
            due_ns = start_ns + (planned.due_ns or 0)
            behind = clock.now_ns() >= due_ns
            await stop.sleep_until_ns(clock, due_ns)
            if behind and position % YIELD_EVERY == 0:
                await asyncio.sleep(0)
            if stop.asked:
                ports.keep(planned, "measured", due_ns - ports.epoch_ns, cancelled())
            elif limit is not None and len(in_flight) >= limit:
                ports.keep(planned, "measured", due_ns - ports.epoch_ns, shed(limit))
            else:
                task = group.create_task(_one(planned, "measured", due_ns, ports))
                in_flight.add(task)
                task.add_done_callback(in_flight.discard)


def cancelled(*, gone: bool = False) -> Reply:
    """The reply of a request that was never sent because the run was stopped, or the server was gone."""
    why = "the server took no connection any more" if gone else "the run was stopped before its turn"
    return Reply(outcome="cancelled", detail=why)


def shed(limit: int) -> Reply:
    """The reply of a request that came due when `limit` others were in flight."""
    return Reply(outcome="shed", detail=f"{limit} requests were in flight when it came due")
