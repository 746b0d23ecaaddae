"""A clock for the client's deadlines that a test moves on, so that what is late does not depend on the machine."""

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Final

import pytest

from loadgen.clock import now_ns
from tests.integration.server import Until, in_loop

_STAMPING: Final = ("receiver", "stamps", "direct_response")


class LeapingClock:
    """Runs with the machine's clock, and leaps when a server's script says so.

    stamps: reads are stamped by it, too, and so are not believed to be the kernel's.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, stamps: bool = False) -> None:
        self._ahead_ns = 0
        self._timers: dict[asyncio.TimerHandle, tuple[int, Callable[[], None]]] = {}
        for module in ("deadlines", *(_STAMPING if stamps else ())):
            monkeypatch.setattr(f"loadgen.wire.{module}.now_ns", self.now_ns)
        monkeypatch.setattr("loadgen.wire.deadlines._call_at", self._call_at)

    def now_ns(self) -> int:
        return now_ns() + self._ahead_ns

    def leap(self, s: float) -> Until:
        """A server's step: so many seconds pass at once, for the client."""

        async def leap() -> None:
            await in_loop(self._loop, partial(self._move, round(s * 1e9)))

        return Until(leap)

    def _move(self, by_ns: int) -> None:
        self._ahead_ns += by_ns
        for timer, (due_ns, call) in list(self._timers.items()):
            if timer.cancelled():
                del self._timers[timer]
            elif due_ns <= self.now_ns():
                timer.cancel()
                call()

    def _call_at(self, now: int, due_ns: int, callback: Callable[..., None], *args: object) -> asyncio.TimerHandle:
        self._loop = asyncio.get_running_loop()

        def call() -> None:
            del self._timers[timer]
            callback(*args)

        timer = self._loop.call_later(max(0, due_ns - now) / 1e9, call)
        self._timers[timer] = (due_ns, call)
        return timer
