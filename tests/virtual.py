"""Virtual time for tests: an event loop in which waiting takes none. Knows nothing of what is tested.

When everyone sleeps, the clock jumps to the next deadline; so an hour of load is played at once, and every moment is
exact to the ns, in the first hundred days. There is no socket in it, not even asyncio's own.
"""

import asyncio
from asyncio.base_events import BaseEventLoop
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")

START_NS = 5_000_000_000_000
"""What the clock shows when a loop begins: no test may take it for 0."""


class VirtualLoop(BaseEventLoop):
    """An event loop whose time moves only when nothing else can happen."""

    _scheduled: list[asyncio.TimerHandle]

    def __init__(self) -> None:
        super().__init__()
        self.now_ns = START_NS
        self._selector = self  # the base class asks it what has happened outside: never anything
        self._clock_resolution = 0.5e-9  # deadlines are whole ns; by default, one that is a ns away counts as due

    def time(self) -> float:
        return self.now_ns / 1e9

    def select(self, timeout: float | None) -> tuple[()]:
        """Nothing arrives. With nothing to do now, jump to the next deadline; with none either, it is a deadlock."""
        if timeout is None:
            raise RuntimeError("everyone waits, and nobody for a moment of the clock")
        if timeout > 0:
            self.now_ns = max(self.now_ns, round(self._scheduled[0].when() * 1e9))
        return ()

    async def getaddrinfo(self, *_: Any, **__: Any) -> Any:
        """Nobody is there: who looks for somebody beside what is tested finds nothing."""
        raise OSError("there is no network in virtual time")

    def _process_events(self, event_list: tuple[()]) -> None:
        pass


class VirtualClock:
    """The `Clock` of the running `VirtualLoop`."""

    def now_ns(self) -> int:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        return loop.now_ns

    async def sleep_until_ns(self, deadline_ns: int) -> None:
        while (left_ns := deadline_ns - self.now_ns()) > 0:  # noqa: ASYNC110  a double of seconds may fall short by a ns
            await asyncio.sleep(left_ns / 1e9)


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine in virtual time, to its end."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(main)


class VirtualBootClock:
    """The `BootClock` and the wall clock of the running `VirtualLoop`: a test suspends the machine, stops the process,
    or sets the wall clock."""

    def __init__(self) -> None:
        self._suspended_ns = 0
        self._wall_ahead_ns = 1_700_000_000_000_000_000

    def now_ns(self) -> int:
        return VirtualClock().now_ns() + self._suspended_ns

    def suspended_ns(self) -> int:
        return self._suspended_ns

    def wall_ns(self) -> int:
        return self.now_ns() + self._wall_ahead_ns

    def suspend(self, for_ns: int) -> None:
        """The machine is suspended: the clock of a run stands still, and real time goes on."""
        self._suspended_ns += for_ns

    def stop(self, for_ns: int) -> None:
        """The process is stopped: time goes on, and nobody in the loop is woken."""
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        loop.now_ns += for_ns

    def set_wall_clock(self, by_ns: int) -> None:
        self._wall_ahead_ns += by_ns
