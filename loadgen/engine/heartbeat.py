"""Notices when this process was not run for a while: the machine was suspended, or the process was stopped. Also
notices steps of the wall clock. Knows no server.

A request in flight across such a gap has waited for us, not for its server, so none of its times is a latency.
"""

import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractContextManager
from typing import Final, Literal

from msgspec import Struct

from loadgen.clock import BootClock, Clock, offset_ns, wall_ns
from loadgen.engine.background import Background
from loadgen.engine.listeners import Listeners
from loadgen.store.events import EventLog

BEAT_NS: Final = 1_000_000_000
GAP_NS: Final = 5_000_000_000
"""A longer time between two looks at the clocks is a gap."""
STEP_NS: Final = 100_000_000
"""If the wall clock moves against real time by more than this from one beat to the next, it was stepped. Where the
clocks of a suspended machine count in ticks, they differ by up to 16 ms."""


class Gap(Struct, frozen=True):
    """A time in which this process was not run. Moments are on the clock of the run."""

    kind: Literal["suspended", "stopped"]
    start_ns: int
    """When it was last known to run."""
    end_ns: int
    real_start_ns: int
    """As start_ns and end_ns, on a clock that also counts the time in which the machine was suspended."""
    real_end_ns: int
    who: str = "loadgen"
    """Which process, in words."""

    @property
    def for_s(self) -> float:
        """How long it lasted, in real time."""
        return (self.real_end_ns - self.real_start_ns) / 1e9

    @property
    def words(self) -> str:
        return "the machine was suspended" if self.kind == "suspended" else f"{self.who} was stopped"

    def moment_of(self, real_ns: int) -> int:
        """The moment of the clock for a moment of real time until the end of the gap. The clock stands still while the
        machine is suspended, so all of the later moments become the end of the gap."""
        return min(self.start_ns + real_ns - self.real_start_ns, self.end_ns)


class ClockStep(Struct, frozen=True):
    """The wall clock was set."""

    by_ns: int
    """Above 0: forward."""


Interruption = Gap | ClockStep
Listener = Callable[[Interruption], None]


class Heartbeat:
    """Looks at the clocks each second, and whenever somebody calls `check`; passes what it notices to its listeners."""

    def __init__(
        self,
        clock: Clock,
        boot: BootClock,
        *,
        gap_ns: int = GAP_NS,
        beat_ns: int = BEAT_NS,
        wall: Callable[[], int] = wall_ns,
    ) -> None:
        self._clock = clock
        self._boot = boot
        self._gap_ns = gap_ns
        self._beat_ns = beat_ns
        self._wall = wall
        self._listeners = Listeners[[Interruption]]()
        self._last = self._read()
        self._wall_ahead_ns = self._wall_offset_ns()
        self.last_gap: Gap | None = None
        self.ahead_ns = 0
        """How far real time is ahead of the run's clock, because that stood still while the machine was suspended."""

    @property
    def boot(self) -> BootClock:
        """Real time."""
        return self._boot

    def check(self) -> None:
        """Look whether this process was not run since it last looked. Call it before a request is sent and after it has
        ended: then no request is taken for one that began before a gap, and none that was in flight across it passes
        for an ordinary one."""
        before, now = self._last, self._read()
        self._last = now
        real_ns = now.real_ns - before.real_ns
        if real_ns <= self._gap_ns:
            return
        is_suspended = 2 * (now.suspended_ns - before.suspended_ns) >= real_ns
        real_start_ns = before.at_ns + self.ahead_ns
        if is_suspended:
            self.ahead_ns += max(0, real_ns - (now.at_ns - before.at_ns))
        self.last_gap = Gap(
            kind="suspended" if is_suspended else "stopped",
            start_ns=before.at_ns,
            end_ns=now.at_ns,
            real_start_ns=real_start_ns,
            real_end_ns=now.at_ns + self.ahead_ns,
        )
        self._listeners.call(self.last_gap)

    def report(self, gap: Gap) -> None:
        """A worker was not run for a while. If this process was not run either, it has said so itself."""
        own = self.last_gap
        if gap.kind == "stopped" and (own is None or own.end_ns <= gap.start_ns or gap.end_ns <= own.start_ns):
            self._listeners.call(gap)

    def calling(self, listener: Listener) -> AbstractContextManager[None]:
        """While the context lasts, call `listener` with each gap and each step of the wall clock."""
        return self._listeners.calling(listener)

    async def beat(self) -> None:
        """Look at the clocks each second; never ends by itself."""
        # Nobody has looked since it was made, so how long that was says nothing.
        self._last, self._wall_ahead_ns = self._read(), self._wall_offset_ns()
        while True:
            await self._clock.sleep_until_ns(self._clock.now_ns() + self._beat_ns)
            self.check()
            self._check_wall_clock()

    def _check_wall_clock(self) -> None:
        ahead_ns = self._wall_offset_ns()
        by_ns, self._wall_ahead_ns = ahead_ns - self._wall_ahead_ns, ahead_ns
        if abs(by_ns) > STEP_NS:
            self._listeners.call(ClockStep(by_ns))

    def _wall_offset_ns(self) -> int:
        """The wall clock minus real time. It changes only if the wall clock is set."""
        return offset_ns(self._wall, self._boot.now_ns, tries=3)

    def _read(self) -> "_Clocks":
        return _Clocks(self._clock.now_ns(), self._boot.now_ns(), self._boot.suspended_ns())


class _Clocks(Struct, frozen=True):
    """What the clocks showed at one moment."""

    at_ns: int
    real_ns: int
    suspended_ns: int


def boot_of(heartbeat: Heartbeat | None) -> BootClock | None:
    """Real time, if somebody notices when the machine was suspended."""
    return None if heartbeat is None else heartbeat.boot


@contextlib.asynccontextmanager
async def beating(heartbeat: Heartbeat, events: EventLog) -> AsyncIterator[None]:
    """While the context lasts, have the heartbeat look at the clocks, and log what it notices."""

    def log(interruption: Interruption) -> None:
        match interruption:
            case Gap() as gap:
                detail = f"{gap.words} for {gap.for_s:.1f} s"
                events.record(gap.kind, detail, at_ns=gap.start_ns, for_s=round(gap.for_s, 3))
            case ClockStep(by_ns):
                way = "forward" if by_ns > 0 else "back"
                events.record("clock_stepped", f"the wall clock was set {way} by {abs(by_ns) / 1e9:.1f} s")

    with heartbeat.calling(log):
        async with Background(heartbeat.beat()):
            yield
