"""Plays one stage, or one part of it: makes its requests, sends them, and records what came of each. Knows no terminal.

From a planned request to its record, read down `LocalStageRunner`: a player calls `play_request`, which sends each
attempt by the client (`send`, the one seam to servers) and hands its record to the sinks. The first sink is the run's
log.
"""

import asyncio
import contextlib
import itertools
from collections.abc import Callable, Iterator
from typing import Protocol

import msgspec
from msgspec import Struct

from loadgen.clock import Clock, process_cpu_ns, thread_cpu_ns
from loadgen.engine.heartbeat import Gap, Heartbeat, Interruption, boot_of
from loadgen.engine.players import WarmUp, measured_player, missed
from loadgen.engine.request_limits import RequestLimits
from loadgen.engine.retry import as_one, cut_by_gap, given_up, is_last, wait_ns
from loadgen.engine.servers import ServerGates, ServerLife, ServerLives, WhenGone, is_unanswered
from loadgen.engine.stage_requests import requests_of
from loadgen.engine.stop import StopSignal
from loadgen.live.sink import MeasuringStart, Sinks, StageStart
from loadgen.plan.plan import Plan, Planned, Stage
from loadgen.plan.rng import generator
from loadgen.plan.visits import visit_words
from loadgen.record import BegunRequest, Phase, Record, Reply, StageKey, record_of
from loadgen.scenario.urls import route_url
from loadgen.store.run_folder import ungroup_errors
from loadgen.targets.adapter.in_process import Question
from loadgen.targets.probe.answers import AnswerSampler, StreamAnswers
from loadgen.targets.registry import target_name
from loadgen.targets.served import Served
from loadgen.telemetry.neighbors import MachineSource
from loadgen.telemetry.observer import Observer
from loadgen.wire.client import Client
from loadgen.wire.reply import read_open, read_reply

OPEN_LOOP_CONNECTIONS = 8
TICK_S = 1.0
"""How often sinks that go by the clock are called."""
LATE_NS = 2_000_000
"""A request is looked at so long after each of `Stage.late_after_ns`, because timers are not exact, and because it was
sent a little after it was dispatched."""


class RunContext(Struct, frozen=True):
    """What all stages share that are played in one process."""

    plan: Plan
    client: Client
    clock: Clock
    epoch_ns: int
    """The run's beginning, on the clock. Moments in records count from it."""
    stop_signal: StopSignal
    machine: MachineSource | None = None
    """Reads what other programs on the machine do; None: nobody needs to know."""
    when_gone: WhenGone = "cancel"
    gates: ServerGates = msgspec.field(default_factory=ServerGates)
    """Closed for the models whose server is gone, if that is waited for."""
    lives: ServerLives = msgspec.field(default_factory=ServerLives)
    heartbeat: Heartbeat | None = None
    """Notices when this process is not run; None: nobody needs to know."""


class StageRunner(Protocol):
    """Plays one stage: `warm_up`, then `measure`. Passes the records of both to the sinks.

    `LocalStageRunner` plays in this process. `PooledStageRunner` (workers/pool.py) has workers play, each with a
    `LocalStageRunner` of its own.
    """

    async def warm_up(self) -> None:
        """Connect, and play the warm-up requests. Raises FolderError as soon as a record cannot be written."""

    async def measure(self, limits_ns: RequestLimits) -> None:
        """Play the measured requests. limits_ns: how long one may take, by its model. Raises FolderError as soon as a
        record cannot be written, and sends nothing more."""

    def answers(self) -> StreamAnswers:
        """What the stage's first answers showed about their servers. Known when the stage is over."""
        ...


MakeStageRunner = Callable[[Stage, dict[int, Served], StopSignal, Sinks, tuple[int, ...]], StageRunner]
"""Makes the runner of one stage. Its arguments: the stage; its served models, by their index in the plan; the stage's
own stop signal; the sinks; and the processes of servers, whose CPU and memory go into the stage's facts."""


class LocalStageRunner:
    """Plays one stage, or one part of it, in this process. It is a `StageRunner`, and the `RequestRunner` of its
    players."""

    def __init__(
        self,
        context: RunContext,
        stage: Stage,
        served: dict[int, Served],
        stop: StopSignal,
        sinks: Sinks,
        server_pids: tuple[int, ...] = (),
    ) -> None:
        """Makes the body of every request, once for each prompt. The other arguments are those of `MakeStageRunner`."""
        self._context = context
        self._stage = stage
        self._served = served
        self._sinks = sinks
        self._answers = AnswerSampler()
        self._retrying = 0
        """How many requests wait for their next attempt."""
        # Made before anything is timed, so that encoding a body is part of no latency.
        self._requests = requests_of(context.plan, stage, served)
        models, level = context.plan.models, stage.level.label
        self._keys = {at: StageKey(target_name(models[at]), models[at].name, level) for at in stage.models}
        # A model in this process uses the process's CPU time. Ours is then the CPU time of this thread alone.
        own_cpu_ns = thread_cpu_ns if any(served[at].adapter is not None for at in stage.models) else process_cpu_ns
        boot = boot_of(context.heartbeat)
        self._observer = Observer(context.clock, self._in_flight, server_pids, own_cpu_ns, context.machine, boot)
        self.stop_signal = stop

    @property
    def clock(self) -> Clock:
        return self._context.clock

    @property
    def run_stop_signal(self) -> StopSignal:
        return self._context.stop_signal

    @property
    def when_gone(self) -> WhenGone:
        return self._context.when_gone

    @property
    def ahead_ns(self) -> int:
        return 0 if self._context.heartbeat is None else self._context.heartbeat.ahead_ns

    def last_gap(self) -> Gap | None:
        heartbeat = self._context.heartbeat
        if heartbeat is None:
            return None
        heartbeat.check()
        return heartbeat.last_gap

    def _gap_since(self, from_ns: int, until_ns: int | None = None) -> Gap | None:
        """The last gap, if any of it lies between two moments of the clock. until_ns: None means now."""
        gap = self.last_gap()
        is_outside = gap is None or gap.end_ns <= from_ns or (until_ns is not None and gap.start_ns >= until_ns)
        return None if is_outside else gap

    def is_gone(self, model: int) -> bool:
        return self._context.gates.is_closed(model)

    async def wait_for_server(self, model: int) -> None:
        await self._context.gates.wait_until_open(model)

    @contextlib.contextmanager
    def _listening(self) -> Iterator[None]:
        """While the context lasts, give up what is in flight when this process was not run, and observe the process
        that takes a server's place."""
        heartbeat = self._context.heartbeat
        with contextlib.ExitStack() as stack:
            if heartbeat is not None:
                stack.enter_context(heartbeat.calling(self._on_interruption))
            stack.enter_context(self._context.lives.calling(self._follow))
            yield

    def _on_interruption(self, interruption: Interruption) -> None:
        self._observer.check_wall_clock()  # by which stamps of the kernel become moments of the run
        if isinstance(interruption, Gap):
            self._context.client.abandon(interruption.words)

    def _follow(self, model: int, life: ServerLife) -> None:
        if model in self._stage.models and life.pid is not None:
            self._observer.follow(life.pid)

    async def warm_up(self) -> None:
        """Open about as many connections as the stage will need, and play its warm-up requests."""
        # Before the warm-up, whose records belong to the stage.
        stage = self._stage
        self._sinks.start(stage_start(self._context.plan, stage))
        # As many as the stage needs at once, so that the load does not begin with all users connecting together. How
        # many an open loop needs is not known; a few spare its first requests the set-up.
        count = stage.users or min(stage.max_in_flight or OPEN_LOOP_CONNECTIONS, OPEN_LOOP_CONNECTIONS)
        for index in stage.models:
            served = self._served[index]
            if served.adapter is None:
                await self._context.client.open_connections(route_url(served.base_url, "models"), count, served.headers)
        with ungroup_errors(), self._listening():
            await WarmUp(stage, self).play()

    async def measure(self, limits_ns: RequestLimits, start_ns: int | None = None) -> None:
        """Play the measured requests from start_ns on (None: now), then pass the stage's facts to the sinks, whatever
        ended the stage."""
        context, stage = self._context, self._stage
        for (model, prompt), request in self._requests.items():
            deadlines = msgspec.structs.replace(request.deadlines, request_ns=limits_ns[model])
            self._requests[model, prompt] = msgspec.structs.replace(request, deadlines=deadlines)
        # Started after the warm-up, so that CPU and lag are those of the measured time alone.
        self._observer.start()
        try:
            begins_ns = self._now_ns() if start_ns is None else start_ns - context.epoch_ns
            self._sinks.measure(MeasuringStart(begins_ns, context.epoch_ns, self._observer))
            drain = self.stop_signal.calling(lambda _: self._sinks.drain(self._now_ns()))
            with ungroup_errors(), self._listening(), drain:
                await self._play_measured(start_ns)
        finally:
            start = stage_start(context.plan, stage)
            facts = await self._observer.stop(
                epoch_ns=context.epoch_ns,
                complete=not context.stop_signal.requested,
                models=start.models,
                targets=start.targets,
                level=start.level,
                ended_early=self.stop_signal.is_stage_over,
            )
            self._sinks.stop(facts)

    async def _play_measured(self, start_ns: int | None) -> None:
        """Play the measured requests, and call sinks that go by the clock once a second meanwhile."""
        player = measured_player(self._stage, self, self.clock.now_ns() if start_ns is None else start_ns)
        if not self._sinks.timed:
            await player.play()
            return
        # In a group with the player, so that a sink that cannot write ends the stage at once.
        async with asyncio.TaskGroup() as group:
            ticking = group.create_task(self._tick())
            await player.play()
            ticking.cancel()

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            self._sinks.tick(self._now_ns())

    def _now_ns(self) -> int:
        """The time since the run began."""
        return self.clock.now_ns() - self._context.epoch_ns

    def answers(self) -> StreamAnswers:
        return self._answers.answers()

    async def play_request(self, planned: Planned, phase: Phase, intended_ns: int, held_ns: int = 0) -> Reply:
        if phase == "measured" and self._sinks.begin_sinks:
            self._sinks.begin_request(self._begun(planned, intended_ns))
        timers = self._late_timers(planned, intended_ns) if phase == "measured" and self._stage.late_after_ns else ()
        try:
            return await self._play_attempts(planned, phase, intended_ns, held_ns)
        finally:
            for timer in timers:
                timer.cancel()

    async def _play_attempts(self, planned: Planned, phase: Phase, intended_ns: int, held_ns: int) -> Reply:
        """Send a request until an attempt is the last, and pass every attempt to the sinks."""
        first = None
        for attempt in itertools.count():
            # Also a look at the clocks, so that no gap before the dispatch counts as one during the request.
            if (gap := self._gap_since(intended_ns)) is not None and first is None and phase == "measured":
                reply = missed(gap)
                break
            # Dispatched now, not when it was due: the difference is our lateness, which is reported.
            reply = await self._send_in_one_go(planned, self.clock.now_ns())
            # Set on every attempt, although the limit delayed only the first: any of them may be the one that counts.
            if held_ns:
                reply = msgspec.structs.replace(reply, held_ns=held_ns)
            first = first or reply
            reply = as_one(first, reply, attempt)
            if self.when_gone == "wait" and is_unanswered(reply) and self._served[planned.model].adapter is None:
                self._context.gates.close(planned.model)
            pause_ns = self._retry_pause_ns(planned, phase, reply)
            if pause_ns is None:
                break
            # Passed on at once, so that each attempt is on disk before the next one begins.
            self._sinks.retry(self._record(planned, phase, intended_ns, reply))
            await self._wait_to_retry(planned, self.ended_ns(reply) + pause_ns)
            # Only the run's signal ends the attempts: a request that has begun is played to its end by its stage.
            if self.run_stop_signal.requested:
                reply = given_up(reply, self.clock.now_ns() - self._context.epoch_ns)
                break
            if (gap := self._gap_since(self.ended_ns(reply))) is not None:
                reply = given_up(reply, self.clock.now_ns() - self._context.epoch_ns, gap.words)
                break
        self._sinks.record(self._record(planned, phase, intended_ns, reply))
        return reply

    async def _send_in_one_go(self, planned: Planned, dispatched_ns: int) -> Reply:
        """Send one attempt. It ends as cancelled if this process was not run for a while meanwhile."""
        reply = await self.send(planned, dispatched_ns)
        cut = self._gap_since(dispatched_ns, self.ended_ns(reply))
        return reply if cut is None else cut_by_gap(reply, cut.words)

    def _late_timers(self, planned: Planned, intended_ns: int) -> list[asyncio.TimerHandle]:
        """Timers that pass the request to the sinks while it is open."""
        loop, task, now_ns = asyncio.get_running_loop(), asyncio.current_task(), self.clock.now_ns()
        start_ns = now_ns if self._stage.latency_origin == "sent" else intended_ns
        return [
            loop.call_later((start_ns + after_ns + LATE_NS - now_ns) / 1e9, self._pass_late, planned, intended_ns, task)
            for after_ns in self._stage.late_after_ns
        ]

    def _pass_late(self, planned: Planned, intended_ns: int, task: "asyncio.Task[object] | None") -> None:
        exchange = self._context.client.exchange_of(task)
        if exchange is None:  # it waits for its next attempt, or a model in this process answers it
            return
        reply = read_open(
            exchange,
            epoch_ns=self._context.epoch_ns,
            wall_offset_ns=self._observer.wall_offset_ns,
            now_ns=self.clock.now_ns(),
        )
        if reply is not None:
            self._sinks.late(self._record(planned, "measured", intended_ns, reply))

    def skip_request(self, planned: Planned, phase: Phase, intended_ns: int, reply: Reply) -> None:
        self._sinks.record(self._record(planned, phase, intended_ns, reply))

    def ended_ns(self, reply: Reply) -> int:
        # The later of the two, because the time from the orderly end to the last byte is the server's, no lateness of
        # ours.
        moments = [moment for moment in (reply.end_ns, reply.last_byte_ns) if moment is not None]
        return self._context.epoch_ns + max(moments) if moments else self.clock.now_ns()

    async def send(self, planned: Planned, dispatched_ns: int) -> Reply:
        """Send one attempt and wait for its end. Never raises for what a server does."""
        context, request = self._context, self._requests[planned.model, planned.prompt]
        keep_text = context.plan.scenario.keep_text
        if isinstance(request, Question):
            adapter = self._served[planned.model].adapter
            assert adapter is not None
            return await adapter.send(request, dispatched_ns, epoch_ns=context.epoch_ns, keep_text=keep_text)
        # The bytes are parsed only now, after the end: while tokens arrive, only their stamps are taken.
        exchange = await context.client.send(request, dispatched_ns)
        reply, lags_ns = read_reply(
            exchange,
            epoch_ns=context.epoch_ns,
            wall_offset_ns=self._observer.wall_offset_ns,
            keep_text=keep_text,
        )
        # Kept short, because other requests wait for the event loop meanwhile.
        self._observer.stamp_lags.record(lags_ns)
        self._answers.take(planned.model, exchange, reply)
        return reply

    def _begun(self, planned: Planned, intended_ns: int) -> BegunRequest:
        key = self._keys[planned.model]
        prompt_id = self._context.plan.prompts[planned.prompt].id
        return BegunRequest(
            key.model, key.target, key.level, planned.index, prompt_id, intended_ns - self._context.epoch_ns
        )

    def _record(self, planned: Planned, phase: Phase, intended_ns: int, reply: Reply) -> Record:
        return record_of(
            reply,
            self._keys[planned.model],
            index=planned.index,
            phase=phase,
            prompt_id=self._context.plan.prompts[planned.prompt].id,
            intended_ns=intended_ns - self._context.epoch_ns,
        )

    def _retry_pause_ns(self, planned: Planned, phase: Phase, reply: Reply) -> int | None:
        """How long after the end of an attempt the next one begins; None: it was the last."""
        scenario = self._context.plan.scenario
        if self.run_stop_signal.requested or is_last(scenario.retries, reply):
            return None
        # Each request has jitter of its own from the scenario's seed, so that requests that failed together are not
        # retried together.
        attempt_key = (planned.model, self._stage.level.label, phase, planned.index, reply.attempt)
        return wait_ns(scenario.retries, reply, generator(scenario.seed, "retry", *attempt_key))

    async def _wait_to_retry(self, planned: Planned, until_ns: int) -> None:
        # The request keeps its user or its place meanwhile, so it counts as in flight.
        self._retrying += 1
        try:
            await self.run_stop_signal.sleep_until_ns(self.clock, until_ns)
            if self.is_gone(planned.model) and self._stage.due_ns is None:
                await self.stop_signal.unless_requested(self.wait_for_server(planned.model))
        finally:
            self._retrying -= 1

    def _in_flight(self) -> int:
        adapters = (self._served[index].adapter for index in self._stage.models)
        in_adapters = sum(adapter.in_flight for adapter in adapters if adapter is not None)
        return self._context.client.in_flight + in_adapters + self._retrying


def stage_start(plan: Plan, stage: Stage) -> StageStart:
    """What sinks receive when a stage, or a part of it, begins."""
    models = [plan.models[index] for index in stage.models]
    return StageStart(
        models=tuple(model.name for model in models),
        targets=tuple(target_name(model) for model in models),
        level=stage.level.label,
        latency_origin=stage.latency_origin,
        count=stage.count,
        duration_s=None if stage.duration_ns is None else stage.duration_ns / 1e9,
        users=stage.users,
        visit=visit_words(stage) if stage.visit else None,
    )
