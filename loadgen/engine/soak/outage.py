"""Keeps a soak going when a server is gone: asks by one probe for each model until it answers again, starts a server of
ours again that has ended, and notices when another process serves. Plays no request.

The users of a closed loop wait meanwhile (`ServerGates`). In an open loop the requests go on being sent when they are
due, and each is recorded as it ends.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Final, Literal

from msgspec import Struct

from loadgen.clock import Clock
from loadgen.engine.background import Background
from loadgen.engine.heartbeat import Gap, Interruption
from loadgen.engine.servers import is_answer, is_unanswered
from loadgen.engine.stage import RunContext
from loadgen.engine.stop import StopSignal
from loadgen.errors import LoadgenError
from loadgen.live.sink import NullSink
from loadgen.record import Record
from loadgen.scenario import Model
from loadgen.store.events import EventLog
from loadgen.targets import registry
from loadgen.targets.ready import is_answering
from loadgen.targets.served import Served
from loadgen.telemetry.processes import is_running

HOUR_NS: Final = 3_600_000_000_000


class OutageRules(Struct, frozen=True, kw_only=True):
    """When a server counts as gone, and how it is waited for."""

    outage_after_ns: int = 10_000_000_000
    """A server that has answered nothing for this long while something was asked is gone: an outage."""
    first_pause_ns: int = 1_000_000_000
    """Before the first probe. Each later pause is twice as long."""
    longest_pause_ns: int = 30_000_000_000
    give_up_ns: int = 1_800_000_000_000
    """A server that has answered nothing for this long ends the soak."""
    restarts_per_hour: int = 10
    """How often the servers that we started are started again at most."""
    process_check_ns: int = 5_000_000_000
    """How often the processes of the servers are looked at."""


RULES: Final = OutageRules()

Restart = Callable[[int], Awaitable[Served]]
"""Starts the server of a model again, at the same address, and returns what it serves. Raises LoadgenError."""


class ServerSupport(Struct, frozen=True):
    """What is done to servers, for tests to replace."""

    answers: Callable[[Served], Awaitable[bool]]
    """Whether a server answers a request for its models."""
    pid_of: Callable[[Model, Served], Awaitable[int | None]]
    """The process that serves a model now; None if it cannot be known."""
    is_running: Callable[[int], bool]
    """Whether a process has not ended."""
    load_again: Callable[[Model, Served], Awaitable[float | None]]
    """Load a model that its server has unloaded; returns how many seconds that took. None: it was loaded."""


SUPPORT: Final = ServerSupport(is_answering, registry.serving_pid, is_running, registry.load_again)


class _Server:
    """What is known of the server of one model."""

    def __init__(self, model: int, name: str) -> None:
        self.model = model
        self.name = name
        self.answered_ns = 0
        """When it last answered."""
        self.gone_since_ns: int | None = None
        """Since when it has answered neither requests nor probes; None: it answered the last one."""
        self.silent_since_ns: int | None = None
        """The same, if only requests count."""
        self.probes = 0
        """How many probes were sent since a request was answered."""
        self.is_out = False
        """Whether it counts as gone."""
        self.why = ""
        """Why it does not answer, in words."""
        self.gave_http_error = False
        """Whether it has answered with an HTTP error since its model was last looked at."""
        self.changed = asyncio.Event()
        """Set when gone_since_ns becomes None, or is no longer."""

    def miss(self, sent_ns: int, why: str) -> None:
        """A request that was sent at a moment was not answered."""
        since_ns = max(sent_ns, self.answered_ns)  # it may have waited while others were answered
        if self.gone_since_ns is None:
            self.gone_since_ns, self.why = since_ns, why
            self.changed.set()
        if self.silent_since_ns is None:
            self.silent_since_ns = since_ns

    def postpone(self, to_ns: int) -> None:
        """What was asked until a moment does not count against it."""
        if not self.is_out:
            self.gone_since_ns = self.silent_since_ns = to_ns

    def come_back(self) -> None:
        self.gone_since_ns, self.why, self.is_out = None, "", False
        self.changed.set()

    async def wait_until(self, is_gone: Literal["gone", "back"]) -> None:
        while (self.gone_since_ns is None) == (is_gone == "gone"):
            self.changed.clear()
            await self.changed.wait()


class OutageWatch(NullSink):
    """The sink that notices by the records of a stage when a server is gone, and brings it back."""

    def __init__(
        self,
        context: RunContext,
        ready: dict[int, Served],
        stop: StopSignal,
        events: EventLog,
        restart: Restart,
        rules: OutageRules,
        support: ServerSupport = SUPPORT,
    ) -> None:
        """ready: the served models by their index in the plan; `restart` changes it. stop: the stage's signal."""
        self.gave_up: str | None = None
        """Why the soak ends, if a server has answered nothing for too long."""
        self._context = context
        self._ready = ready
        self._stop = stop
        self._events = events
        self._restart = restart
        self._rules = rules
        self._support = support
        names = {index: context.plan.models[index].name for index, served in ready.items() if served.adapter is None}
        self._servers = {
            (registry.target_name(context.plan.models[index]), name): _Server(index, name)
            for index, name in names.items()
        }
        self._restarts_ns: deque[int] = deque(maxlen=max(1, rules.restarts_per_hour))

    @property
    def _clock(self) -> Clock:
        return self._context.clock

    # As a sink

    def record(self, record: Record) -> None:
        server = self._servers.get((record.target, record.model))
        if server is None:
            return
        sent_ns = record.intended_ns if record.dispatched_ns is None else record.dispatched_ns
        sent_ns += self._context.epoch_ns
        if is_unanswered(record):
            server.miss(sent_ns, record.detail or record.outcome)
        elif is_answer(record):
            server.gave_http_error = server.gave_http_error or record.outcome == "http_error"
            if server.gone_since_ns is not None and sent_ns <= server.gone_since_ns:
                # A server that is shutting down accepts no connection, and still ends the answers that it has begun.
                server.postpone(self._clock.now_ns())
                return
            server.silent_since_ns, server.probes = None, 0
            self._welcome_back(server)

    def retry(self, record: Record) -> None:
        self.record(record)

    def take_answer(self, record: Record) -> None:
        self.record(record)

    def on_interruption(self, interruption: Interruption) -> None:
        """What was asked before a gap does not count against a server."""
        if not isinstance(interruption, Gap):
            return
        for server in self._servers.values():
            if server.gone_since_ns is not None:
                server.postpone(interruption.end_ns)
            if server.is_out and server.silent_since_ns is not None:
                server.silent_since_ns += interruption.end_ns - interruption.start_ns

    # Beside the stage

    async def keep(self) -> None:
        """Bring back each server that is gone, and look at their processes; never ends by itself."""
        async with asyncio.TaskGroup() as group:
            for server in self._servers.values():
                group.create_task(self._keep_server(server))
            group.create_task(self._look_regularly())

    async def _keep_server(self, server: _Server) -> None:
        while self.gave_up is None:
            await server.wait_until("gone")
            while server.gone_since_ns is not None and self.gave_up is None:
                await self._try_once(server)

    async def _try_once(self, server: _Server) -> None:
        """Start a server again that does not answer, or wait for it; then look whether it is back."""
        is_back = await self._start_again_if_ended(server)
        asked_ns = self._clock.now_ns()
        if not is_back:
            pause_ns = self._pause_ns(server)
            asked_ns += pause_ns
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause_ns / 1e9):
                    await server.wait_until("back")
            server.probes += 1
            is_back = server.gone_since_ns is None or await self._support.answers(self._ready[server.model])
        if server.gone_since_ns is None:  # a request was answered meanwhile, which has reported that
            return
        gone_ns = (asked_ns if is_back else self._clock.now_ns()) - server.gone_since_ns
        if gone_ns >= self._rules.outage_after_ns + is_back:
            self._report_gone(server)
        if is_back:
            await self._look_at(server)
            self._welcome_back(server)
        else:
            self._give_up_if_hopeless(server)

    def _pause_ns(self, server: _Server) -> int:
        """How long to wait before the next probe."""
        rules = self._rules
        pause_ns = min(rules.first_pause_ns << min(server.probes, 30), rules.longest_pause_ns)
        since_ns = server.gone_since_ns
        if since_ns is None or since_ns != server.silent_since_ns:  # probes are answered, and requests are not
            return pause_ns
        # One probe comes just when an outage would begin. Otherwise a server that is back by then would count as gone,
        # only because nobody had asked it.
        until_outage_ns = since_ns + rules.outage_after_ns - self._clock.now_ns()
        return min(pause_ns, until_outage_ns) if until_outage_ns > 0 else pause_ns

    def _report_gone(self, server: _Server) -> None:
        if server.gone_since_ns is not None and not server.is_out:
            server.is_out = True
            self._events.record("server_gone", server.why, at_ns=server.gone_since_ns, model=server.name)

    def _welcome_back(self, server: _Server) -> None:
        """A server has answered a request or a probe."""
        now_ns, since_ns = self._clock.now_ns(), server.gone_since_ns
        server.answered_ns = now_ns
        if since_ns is None:
            return
        if server.is_out:
            gone_s = round((now_ns - since_ns) / 1e9, 3)
            self._events.record("server_back", f"it was gone for {gone_s:.1f} s", for_s=gone_s, model=server.name)
        server.come_back()
        self._context.gates.open(server.model)

    def _give_up_if_hopeless(self, server: _Server) -> None:
        since_ns, now_ns = server.silent_since_ns, self._clock.now_ns()
        if since_ns is not None and now_ns - since_ns >= self._rules.give_up_ns and self.gave_up is None:
            self.gave_up = f"{server.name} has answered nothing for {self._rules.give_up_ns / 60e9:g} min: {server.why}"
            self._stop.end_stage()

    async def _start_again_if_ended(self, server: _Server) -> bool:
        """Start a server again that we started and that has ended; True if it serves."""
        child = self._ready[server.model].child
        crash = None if child is None else await child.crash()
        if child is None or crash is None:
            return False
        server.why = f"{child.name} {crash}"
        began_ns = self._clock.now_ns()
        limit = self._rules.restarts_per_hour
        if len(self._restarts_ns) == limit and began_ns - self._restarts_ns[0] < HOUR_NS:
            server.why += f"; it is not started again, after {limit} times within an hour"
            return False
        self._restarts_ns.append(began_ns)
        try:
            served = await self._restart(server.model)
        except LoadgenError as error:
            server.why += f"; it cannot be started again: {error}"
            return False
        took_s = (self._clock.now_ns() - began_ns) / 1e9
        self._begin_life(server, served.pid, f"{child.name} {crash}; started again in {took_s:.1f} s")
        return True

    # The processes

    async def _look_regularly(self) -> None:
        while True:
            await self._clock.sleep_until_ns(self._clock.now_ns() + self._rules.process_check_ns)
            for server in self._servers.values():
                pid = self._context.lives.of(server.model).pid
                if pid is not None and not self._support.is_running(pid):
                    await self._look_at(server)
                elif server.gave_http_error:
                    await self._load_if_unloaded(server)

    async def _look_at(self, server: _Server) -> None:
        """Look which process serves a model that somebody else started, and whether it has the model loaded."""
        served, model = self._ready[server.model], self._context.plan.models[server.model]
        if served.child is not None:
            if not self._support.is_running(served.child.pid):  # and nobody asked it, or they would have noticed
                server.miss(self._clock.now_ns(), "its process has ended")
            return
        if self._context.lives.of(server.model).pid is None:
            return
        pid = await self._support.pid_of(model, served)
        before = self._context.lives.of(server.model).pid  # only now: another look may have ended meanwhile
        if pid is not None and pid != before:
            self._begin_life(server, pid, f"process {pid} serves in place of {before}")
        await self._load_if_unloaded(server)

    async def _load_if_unloaded(self, server: _Server) -> None:
        server.gave_http_error = False
        try:
            model, served = self._context.plan.models[server.model], self._ready[server.model]
            load_s = await self._support.load_again(model, served)
        except LoadgenError:  # it is not there, which the next requests show
            return
        if load_s is not None:
            self._events.record("model_reloaded", f"it was loaded again in {load_s:.1f} s", model=server.name)

    def _begin_life(self, server: _Server, pid: int | None, detail: str) -> None:
        self._context.lives.begin(server.model, pid)
        self._events.record("server_restarted", detail, model=server.name)


@contextlib.asynccontextmanager
async def keeping(watch: OutageWatch, context: RunContext) -> AsyncIterator[None]:
    """While the context lasts, have the watch bring servers back."""
    heartbeat = context.heartbeat
    with contextlib.nullcontext() if heartbeat is None else heartbeat.calling(watch.on_interruption):
        async with Background(watch.keep()):
            yield
