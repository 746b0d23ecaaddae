"""Plays a stage of a plan: begins each request when it is due, whatever the server does. Knows no HTTP and no reports.

The warm-up, a closed loop and an open loop are three players of the same data. Each planned request is either played
(`RequestRunner.play`) or skipped, with the reply that says why: shed at the in-flight limit, or cancelled because an
end was asked for before its turn. What is retried is one request still: it keeps its user, or its place within the
limit, while it waits.
"""

import asyncio
from collections import deque
from typing import Final, Protocol

from asyncio_throttle.throttler import Throttler

from loadgen.clock import Clock
from loadgen.engine.stop import StopSignal
from loadgen.plan.plan import Planned, Stage
from loadgen.record import Phase, Reply

REFUSED_PAUSE_NS: Final = 250_000_000
GONE_NS: Final = 10_000_000_000
"""A server that has taken no connection for so long is gone, and the rest of a closed-loop stage is cancelled."""
YIELD_EVERY: Final = 16
"""When an open loop is behind its schedule, so many requests are started before others get the event loop."""


class RequestRunner(Protocol):
    """Plays the single requests of a stage: every planned request is one call of `play` or `skip`.

    It is `LocalStageRunner` (loadgen/engine/stage.py), which cannot be named here: it imports this module.
    """

    @property
    def clock(self) -> Clock: ...

    @property
    def run_stop(self) -> StopSignal:
        """The end of the run."""

    @property
    def stop(self) -> StopSignal:
        """The end of this stage: with the run's, or because its stop rule is met."""

    async def play(self, planned: Planned, phase: Phase, intended_ns: int, held_ns: int = 0) -> Reply:
        """Send a request, again where it is to be retried, and record it; the reply of its last attempt.

        intended_ns: on the clock. held_ns: for how long the in-flight limit kept it back after that.
        """
        ...

    def skip(self, planned: Planned, phase: Phase, intended_ns: int, reply: Reply) -> None:
        """Record a request that is never sent, with the reply that says why."""

    def ended_ns(self, reply: Reply) -> int:
        """When an answer had ended, on the clock: its last byte is there, and its user may go on."""
        ...


class WarmUp:
    """A stage's warm-up requests: as many at once as the stage will have users, and recorded apart."""

    def __init__(self, stage: Stage, runner: RequestRunner) -> None:
        self._stage = stage
        self._runner = runner
        self._positions = iter(range(stage.warmup_count))

    async def play(self) -> None:
        async with asyncio.TaskGroup() as group:
            # They share one iterator, so that a slow answer keeps one user, and not the requests that it would take.
            for _ in range(min(self._stage.warmup_count, self._stage.users or 1)):
                group.create_task(self._play_user())

    async def _play_user(self) -> None:
        runner = self._runner
        for position in self._positions:
            planned = self._stage.warmup_request(position)
            # By the run's signal: a stop rule is about measured requests, and none of them has begun.
            if runner.run_stop.requested:
                runner.skip(planned, "warmup", runner.clock.now_ns(), cancelled())
            else:
                await runner.play(planned, "warmup", runner.clock.now_ns())


class ConnectBackoff:
    """What users of a closed loop do when nobody takes their connection: wait a little, and in the end go home.

    Without the wait, a server that has died would be asked thousands of times a second. In an open loop the plan says
    when requests are due, and nobody goes home.
    """

    def __init__(self) -> None:
        self._since_ns: int | None = None
        self.server_gone = False

    def pause_ns(self, reply: Reply, now_ns: int) -> int:
        """How long this user waits before asking again; notes when the server has refused for long enough."""
        # One that was taken clears it for all users: the server is there.
        if reply.outcome != "connect_error":
            self._since_ns = None
            return 0
        if self._since_ns is None:
            self._since_ns = now_ns
        self.server_gone = self.server_gone or now_ns - self._since_ns >= GONE_NS
        return REFUSED_PAUSE_NS


class ClosedLoop:
    """The measured requests of a closed loop: each of its users takes the next one when the last has ended."""

    def __init__(self, stage: Stage, runner: RequestRunner, start_ns: int) -> None:
        self._stage = stage
        self._runner = runner
        self._start_ns = start_ns
        self._until_ns = None if stage.duration_ns is None else start_ns + stage.duration_ns
        self._rate_limit = None if stage.max_requests_per_s is None else Throttler(stage.max_requests_per_s, 1.0)
        self._taken = 0
        self._held_back: list[Planned] = []
        """Taken by a user whom the rate limit then kept waiting until the end."""
        self._backoff = ConnectBackoff()
        self._done = StopSignal()
        """No user takes another request: those who only wait for their turn go home, and the stage ends with its last
        answer."""

    async def play(self) -> None:
        stage, runner = self._stage, self._runner
        with runner.stop.calling(lambda _: self._done.drain()):
            async with asyncio.TaskGroup() as group:
                for offset_ns in [0] if stage.ramp_in_ns is None else stage.ramp_in_ns:
                    group.create_task(self._play_user(self._start_ns + int(offset_ns)))
        # Where time or the stop rule ends the stage, what would have been sent next was never promised.
        if stage.promised and stage.count is not None and not runner.stop.rule_met:
            reply = server_gone() if self._backoff.server_gone else cancelled()
            for planned in (*self._held_back, *(stage.request(at) for at in range(self._taken, stage.count))):
                runner.skip(planned, "measured", runner.clock.now_ns(), reply)

    async def _play_user(self, ready_ns: int) -> None:
        stage, runner, clock = self._stage, self._runner, self._runner.clock
        signal = self._done
        # Who would ask after the stage's time does not wait for it to pass.
        while self._until_ns is None or ready_ns < self._until_ns:
            await signal.sleep_until_ns(clock, ready_ns)
            if self._is_closed() or (stage.count is not None and self._taken >= stage.count):
                self._done.drain()
                return
            # Nothing is awaited between the look and the taking: two users cannot take the same request.
            planned = stage.request(self._taken)
            self._taken += 1
            if self._taken == stage.count:
                self._done.drain()
            # Taken first and held back then, so that the order of requests is the plan's with a rate limit too.
            if self._rate_limit is not None:
                in_time = await self._wait_for_rate_limit(self._rate_limit)
                ready_ns = clock.now_ns()  # the limit is part of the plan: its wait is nobody's lateness
                if not in_time or self._is_closed():
                    self._held_back.append(planned)
                    return
            reply = await runner.play(planned, "measured", ready_ns)
            # From the answer's end, and not from now: that we notice it late is lateness of ours, and is reported so.
            pause_ns = self._backoff.pause_ns(reply, clock.now_ns())
            think_ns = 0 if self._backoff.server_gone else planned.think_ns  # there is no next question to think of
            ready_ns = runner.ended_ns(reply) + think_ns + pause_ns
            signal = self._done if think_ns else runner.stop  # a pause alone is short, and a server's last chance

    async def _wait_for_rate_limit(self, limit: Throttler) -> bool:
        """Until the limit lets a request through, or an end is asked for; False once the stage's time is over."""
        acquired = self._runner.stop.unless_requested(limit.acquire())  # type: ignore[no-untyped-call]
        left_s = None if self._until_ns is None else (self._until_ns - self._runner.clock.now_ns()) / 1e9
        try:
            async with asyncio.timeout(left_s):
                await acquired
        except TimeoutError:
            return False
        return True

    def _is_closed(self) -> bool:
        """Whether no request may begin any more."""
        if self._runner.stop.requested or self._backoff.server_gone:
            return True
        return self._until_ns is not None and self._runner.clock.now_ns() >= self._until_ns


class OpenLoop:
    """The measured requests of an open loop: each begins when it is due, or when the in-flight limit has a place."""

    def __init__(self, stage: Stage, runner: RequestRunner, start_ns: int) -> None:
        self._stage = stage
        self._runner = runner
        self._start_ns = start_ns
        self._in_flight = 0
        self._queue: deque[tuple[Planned, int]] = deque()

    async def play(self) -> None:
        stage, runner, clock = self._stage, self._runner, self._runner.clock
        async with asyncio.TaskGroup() as group:
            for position in range(stage.count or 0):
                planned = stage.request(position)
                due_ns = self._start_ns + (planned.due_ns or 0)
                # Asked before the sleep, which returns at once when it is late: without a yield now and then, a backlog
                # would be sent in one go, and the answers of those before would wait for it.
                is_late = clock.now_ns() >= due_ns
                await runner.stop.sleep_until_ns(clock, due_ns)
                if is_late and position % YIELD_EVERY == 0:
                    await asyncio.sleep(0)
                if runner.stop.rule_met or (runner.stop.requested and not stage.promised):
                    break
                self._arrive(planned, due_ns, group)
        # After the group: those in flight take from the queue as long as they may.
        for planned, due_ns in () if runner.stop.rule_met else self._queue:
            runner.skip(planned, "measured", due_ns, cancelled())

    def _arrive(self, planned: Planned, due_ns: int, group: asyncio.TaskGroup) -> None:
        """A request has come due: it begins, waits, or is turned away."""
        limit = self._stage.max_in_flight
        if self._runner.stop.requested:
            self._runner.skip(planned, "measured", due_ns, cancelled())
        elif limit is None or self._in_flight < limit:
            # Counted here and not in the task, which begins later: the next one to come due must see it.
            self._in_flight += 1
            group.create_task(self._play_place(planned, due_ns))
        elif self._stage.at_limit == "queue":
            self._queue.append((planned, due_ns))
        else:
            self._runner.skip(planned, "measured", due_ns, shed(limit))

    async def _play_place(self, planned: Planned, due_ns: int) -> None:
        """One place within the limit: a request, and as long as others wait, the one that has waited longest."""
        held_ns = 0
        while True:
            reply = await self._runner.play(planned, "measured", due_ns, held_ns)
            if self._runner.stop.requested or not self._queue:
                break
            planned, due_ns = self._queue.popleft()
            # Free when the answer had ended. The time that we need to see that is lateness of ours, not the limit's.
            held_ns = max(0, self._runner.ended_ns(reply) - due_ns)
        # The place is kept from one request to the next: given back, a newcomer could take it before who waits longest.
        self._in_flight -= 1  # nothing was awaited since the queue was seen empty: nobody is left waiting in it


def measured_player(stage: Stage, runner: RequestRunner, start_ns: int) -> ClosedLoop | OpenLoop:
    """The player of a stage's measured requests, which begin at a moment of the clock."""
    player = ClosedLoop if stage.due_ns is None else OpenLoop
    return player(stage, runner, start_ns)


def cancelled() -> Reply:
    """The reply of a request that was never sent because an end was asked for."""
    return Reply(outcome="cancelled", detail="the run was stopped before its turn")


def server_gone() -> Reply:
    """The reply of a request that was never sent because the server had refused connections for too long."""
    return Reply(outcome="cancelled", detail="the server took no connection any more")


def shed(limit: int) -> Reply:
    """The reply of a request that came due when `limit` others were in flight."""
    return Reply(outcome="shed", detail=f"{limit} requests were in flight when it came due")
