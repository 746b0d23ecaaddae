"""When a run is to end: a wish that is asked once, and wakes whoever waits."""

import asyncio
from collections.abc import Coroutine
from typing import Any, Final

from loadgen.clock import Clock

INTERRUPTIBLE_NS: Final = 20_000_000
"""A wait longer than this can be cut short by a stop; a shorter one is not worth two tasks."""


class StopSignal:
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
