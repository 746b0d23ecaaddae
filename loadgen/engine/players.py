"""Plays a stage of a plan: begins each request when it is due, whatever the server does. Knows no HTTP and no reports.

There are three players: for the warm-up, for a closed loop, and for an open loop. A player either sends a planned
request (`RequestRunner.play_request`) or skips it, with a reply that says why: shed at the in-flight limit, or
cancelled because the run was stopped before its turn. A request that is retried keeps its user, or its place within the
limit, while it waits.
"""

import asyncio
from collections import deque
from typing import Final, Protocol

from asyncio_throttle.throttler import Throttler

from loadgen.clock import Clock
from loadgen.engine.heartbeat import Gap
from loadgen.engine.servers import WhenGone
from loadgen.engine.stop import StopSignal
from loadgen.plan.plan import Planned, Stage
from loadgen.record import Phase, Reply

CONNECT_PAUSE_NS: Final = 250_000_000
"""How long a user of a closed loop waits after a connection that could not be made."""
GONE_NS: Final = 10_000_000_000
"""A server that has accepted no connection for this long is gone, and the rest of a closed-loop stage is cancelled."""
PIECE_NS: Final = 1_000_000_000
"""How long a soak sleeps at most before it looks again how far real time is ahead of its clock."""
YIELD_EVERY: Final = 16
"""An open loop that is behind its schedule gives up control once for this many requests."""


class RequestRunner(Protocol):
    """Sends the requests of a stage for its players: every planned request is one call of `play_request` or
    `skip_request`.

    `LocalStageRunner` (stage.py) is the only one. It cannot be named here, because it imports this module.
    """

    @property
    def clock(self) -> Clock: ...

    @property
    def run_stop_signal(self) -> StopSignal:
        """Tells when the run is to end."""

    @property
    def stop_signal(self) -> StopSignal:
        """Tells when this stage is to end: with the run, or because its stop rule is met."""

    @property
    def when_gone(self) -> WhenGone:
        """What users do whose server accepts no connection."""

    @property
    def ahead_ns(self) -> int:
        """How far real time is ahead of the clock, which stands still while the machine is suspended."""

    def last_gap(self) -> Gap | None:
        """The last time in which this process was not run, by a look at the clocks now; None if there was none, or if
        nobody looks."""

    def is_gone(self, model: int) -> bool:
        """Whether a model's server is gone, and waited for."""

    async def wait_for_server(self, model: int) -> None:
        """Return when a model's server is back; at once, if it is not gone."""
        ...

    async def play_request(self, planned: Planned, phase: Phase, intended_ns: int, held_ns: int = 0) -> Reply:
        """Send a request, retry it as the scenario says, and record it. Returns the reply of its last attempt.

        intended_ns: on the clock. held_ns: for how long after that the in-flight limit delayed it.
        """
        ...

    def skip_request(self, planned: Planned, phase: Phase, intended_ns: int, reply: Reply) -> None:
        """Record a request that is never sent, with the reply that says why."""

    def ended_ns(self, reply: Reply) -> int:
        """When the last byte of an answer had arrived, on the clock: its user may go on from then."""
        ...


class WarmUp:
    """Plays a stage's warm-up requests, as many at once as the stage has users. They are recorded separately."""

    def __init__(self, stage: Stage, runner: RequestRunner) -> None:
        self._stage = stage
        self._runner = runner
        self._positions = iter(range(stage.warmup_count))

    async def play(self) -> None:
        async with asyncio.TaskGroup() as group:
            # They share one iterator, so that a slow answer occupies one user, while the others take its requests.
            for _ in range(min(self._stage.warmup_count, self._stage.users or 1)):
                group.create_task(self._play_user())

    async def _play_user(self) -> None:
        runner = self._runner
        for position in self._positions:
            planned = self._stage.warmup_request(position)
            if runner.is_gone(planned.model):
                await runner.stop_signal.unless_requested(runner.wait_for_server(planned.model))
            # The run's signal, because the stage's stop rule is about measured requests, of which none has begun.
            if runner.run_stop_signal.requested:
                runner.skip_request(planned, "warmup", runner.clock.now_ns(), cancelled())
            else:
                await runner.play_request(planned, "warmup", runner.clock.now_ns())


class ConnectBackoff:
    """Makes the users of a closed loop wait when the server accepts no connection, and in the end give up.

    Without the wait, they would ask a server that has died thousands of times a second. An open loop needs none of
    this, as the plan says when its requests are due; nor does a soak, whose users wait until their server is back.
    """

    def __init__(self, when_gone: WhenGone) -> None:
        self._when_gone = when_gone
        self._since_ns: int | None = None
        self.server_gone = False

    def pause_ns(self, reply: Reply, now_ns: int) -> int:
        """How long a user waits after this reply before it asks again. Sets `server_gone` once the server has accepted
        no connection for GONE_NS."""
        # One connection that was made is enough for all users: the server is there.
        if reply.outcome != "connect_error" or self._when_gone == "wait":
            self._since_ns = None
            return 0
        if self._since_ns is None:
            self._since_ns = now_ns
        self.server_gone = self.server_gone or now_ns - self._since_ns >= GONE_NS
        return CONNECT_PAUSE_NS


class ClosedLoop:
    """Plays the measured requests of a closed loop: each user takes the next one when its last one has ended."""

    def __init__(self, stage: Stage, runner: RequestRunner, start_ns: int) -> None:
        self._stage = stage
        self._runner = runner
        self._start_ns = start_ns
        self._until_ns = None if stage.duration_ns is None else start_ns + stage.duration_ns
        self._rate_limit = None if stage.max_requests_per_s is None else Throttler(stage.max_requests_per_s, 1.0)
        self._taken = 0
        self._waiting: list[Planned] = []
        """Requests that users had taken and that still waited, for the rate limit or for their server, when the stage
        ended."""
        self._backoff = ConnectBackoff(runner.when_gone)
        self._done = StopSignal()
        """Drained when no user may take another request. It wakes the users that wait, who then end, so that the stage
        ends with its last answer."""

    async def play(self) -> None:
        stage, runner = self._stage, self._runner
        with runner.stop_signal.calling(lambda _: self._done.drain()):
            async with asyncio.TaskGroup() as group:
                for offset_ns in [0] if stage.ramp_in_ns is None else stage.ramp_in_ns:
                    group.create_task(self._play_user(self._start_ns + int(offset_ns)))
        # If time or the stop rule ends a stage, its number of requests was never fixed, and none of them is missing.
        if stage.promised and stage.count is not None and not runner.stop_signal.is_stage_over:
            reply = server_gone() if self._backoff.server_gone else cancelled()
            for planned in (*self._waiting, *(stage.request(at) for at in range(self._taken, stage.count))):
                runner.skip_request(planned, "measured", runner.clock.now_ns(), reply)

    async def _play_user(self, ready_ns: int) -> None:
        stage, runner, clock = self._stage, self._runner, self._runner.clock
        signal = self._done
        # A user whose next request would come after the end of the stage ends at once.
        while not self._is_over(ready_ns):
            await signal.sleep_until_ns(clock, ready_ns)
            is_taken = stage.count is not None and self._taken >= stage.count
            if is_taken or self._is_stopped() or self._is_over(clock.now_ns()):
                self._done.drain()
                return
            # No await between the check and the increment, so two users cannot take the same request.
            planned = stage.request(self._taken)
            self._taken += 1
            if self._taken == stage.count or self._is_over(clock.now_ns()):
                self._done.drain()
            # The request is taken before it waits for the rate limit and its server, so that requests keep the order of
            # the plan.
            if self._rate_limit is not None or runner.is_gone(planned.model):
                in_time = await self._wait_until_allowed(planned.model)
                ready_ns = clock.now_ns()  # the limit is part of the plan, so its wait does not count as lateness
                if not in_time or self._is_stopped():
                    self._waiting.append(planned)
                    return
            gap = runner.last_gap()
            if gap is not None:
                ready_ns = max(ready_ns, gap.end_ns)  # what is late because nothing was run is no lateness
            reply = await runner.play_request(planned, "measured", ready_ns)
            # Counted from the end of the answer, not from now: if we notice that end late, it is lateness of ours.
            pause_ns = self._backoff.pause_ns(reply, clock.now_ns())
            think_ns = 0 if self._backoff.server_gone else planned.think_ns  # no next request, so nothing to wait for
            ready_ns = runner.ended_ns(reply) + think_ns + pause_ns
            # Think time ends as soon as no request is left to take. A pause alone does not: it is short, and the
            # server's last chance.
            signal = self._done if think_ns else runner.stop_signal

    async def _wait_until_allowed(self, model: int) -> bool:
        """Wait until the rate limit lets a request through and its server is there, or a stop is requested. False if
        the stage's time is over before."""
        allowed = self._runner.stop_signal.unless_requested(self._permit(model))
        is_due = self._until_ns is None or self._taken <= self._stage.min_count
        left_s = None if is_due or self._until_ns is None else (self._until_ns - self._runner.clock.now_ns()) / 1e9
        try:
            async with asyncio.timeout(left_s):
                await allowed
        except TimeoutError:
            return False
        return True

    async def _permit(self, model: int) -> None:
        if self._rate_limit is not None:
            await self._rate_limit.acquire()  # type: ignore[no-untyped-call]
        await self._runner.wait_for_server(model)

    def _is_stopped(self) -> bool:
        """Whether no more requests may begin, whatever the time."""
        return self._runner.stop_signal.requested or self._backoff.server_gone

    def _is_over(self, at_ns: int) -> bool:
        """Whether time bounds the stage, is over at a moment, and enough requests have begun."""
        return self._until_ns is not None and at_ns >= self._until_ns and self._taken >= self._stage.min_count


class OpenLoop:
    """Plays the measured requests of an open loop: each begins when it is due and the in-flight limit allows it."""

    def __init__(self, stage: Stage, runner: RequestRunner, start_ns: int) -> None:
        self._stage = stage
        self._runner = runner
        self._real_start_ns = start_ns + runner.ahead_ns
        """In real time, by which requests are due: a machine that was suspended does not make up for it."""
        self._in_flight = 0
        self._queue: deque[tuple[Planned, int]] = deque()

    async def play(self) -> None:
        stage, runner, clock = self._stage, self._runner, self._runner.clock
        async with asyncio.TaskGroup() as group:
            for position in range(stage.count or 0):
                planned = stage.request(position)
                real_due_ns = self._real_start_ns + (planned.due_ns or 0)
                # If we are late, the sleep returns at once. Without a yield now and then, a backlog would be sent in
                # one go, and the answers to earlier requests would wait until all of it is sent.
                is_late = clock.now_ns() >= real_due_ns - runner.ahead_ns
                await self._sleep_until(real_due_ns)
                if is_late and position % YIELD_EVERY == 0:
                    await asyncio.sleep(0)
                if runner.stop_signal.is_stage_over or (runner.stop_signal.requested and not stage.promised):
                    break
                gap = runner.last_gap()
                if gap is not None and real_due_ns <= gap.real_end_ns:  # else they would be sent all at once
                    runner.skip_request(planned, "measured", gap.moment_of(real_due_ns), missed(gap))
                else:
                    self._arrive(planned, real_due_ns - runner.ahead_ns, group)
        # Only after the group has ended, because requests that end in it take others from the queue.
        for planned, due_ns in () if runner.stop_signal.is_stage_over else self._queue:
            runner.skip_request(planned, "measured", due_ns, cancelled())

    async def _sleep_until(self, real_ns: int) -> None:
        """Sleep until a moment of real time, or until a stop is requested."""
        runner, clock = self._runner, self._runner.clock
        if runner.when_gone == "cancel":
            await runner.stop_signal.sleep_until_ns(clock, real_ns - runner.ahead_ns)
            return
        # In pieces, because the clock may stand still, and real time not.
        while (now_ns := clock.now_ns()) < real_ns - runner.ahead_ns and not runner.stop_signal.requested:
            await runner.stop_signal.sleep_until_ns(clock, min(real_ns - runner.ahead_ns, now_ns + PIECE_NS))

    def _arrive(self, planned: Planned, due_ns: int, group: asyncio.TaskGroup) -> None:
        """A request has come due: begin it, queue it, or shed it."""
        limit = self._stage.max_in_flight
        if self._runner.stop_signal.requested:
            self._runner.skip_request(planned, "measured", due_ns, cancelled())
        elif limit is None or self._in_flight < limit:
            # Counted here and not in the task, which begins later than the next request may come due.
            self._in_flight += 1
            group.create_task(self._play_place(planned, due_ns))
        elif self._stage.at_limit == "queue":
            self._queue.append((planned, due_ns))
        else:
            self._runner.skip_request(planned, "measured", due_ns, shed(limit))

    async def _play_place(self, planned: Planned, due_ns: int) -> None:
        """Play a request, and after it, in the same place within the limit, those that wait in the queue."""
        held_ns = 0
        while True:
            reply = await self._runner.play_request(planned, "measured", due_ns, held_ns)
            self._skip_missed()
            if self._runner.stop_signal.requested or not self._queue:
                break
            planned, due_ns = self._queue.popleft()
            # The place is free when the answer has ended. The time until we notice that is lateness of ours.
            held_ns = max(0, self._runner.ended_ns(reply) - due_ns)
        # The place passes directly from one request to the next. If it were free in between, a new request could take
        # it before the one that has waited longest. There was no await since the queue was empty, so none waits there.
        self._in_flight -= 1

    def _skip_missed(self) -> None:
        """Skip what waited in the queue while nothing was run: that wait is no latency."""
        gap = self._runner.last_gap()
        while gap is not None and self._queue and self._queue[0][1] <= gap.end_ns:
            planned, due_ns = self._queue.popleft()
            self._runner.skip_request(planned, "measured", due_ns, missed(gap))


def measured_player(stage: Stage, runner: RequestRunner, start_ns: int) -> ClosedLoop | OpenLoop:
    """The player of a stage's measured requests. start_ns: when they begin, on the clock."""
    player = ClosedLoop if stage.due_ns is None else OpenLoop
    return player(stage, runner, start_ns)


def cancelled() -> Reply:
    """The reply of a request that was never sent because the run was stopped."""
    return Reply(outcome="cancelled", detail="the run was stopped before its turn")


def server_gone() -> Reply:
    """The reply of a request that was never sent because the server had accepted no connection for too long."""
    return Reply(outcome="cancelled", detail="the server accepted no more connections")


def shed(limit: int) -> Reply:
    """The reply of a request that came due when `limit` others were in flight."""
    return Reply(outcome="shed", detail=f"{limit} requests were in flight when it came due")


def missed(gap: Gap) -> Reply:
    """The reply of a request that came due, or waited for its turn, while nothing was run."""
    return Reply(outcome="cancelled", detail=gap.words)
