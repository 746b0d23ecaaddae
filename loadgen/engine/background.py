"""A task that runs beside a block of code and never outlives it."""

import asyncio
import contextlib
from collections.abc import Coroutine
from typing import Any


class Background:
    """Runs a coroutine beside a block: `async with Background(work()):`. At the block's end it is cancelled.

    What the coroutine raises is raised at the block's end. A TaskGroup would do both too, but it wraps what the block
    itself raises in a group, and the errors that end a run must arrive as they are.
    """

    def __init__(self, work: Coroutine[Any, Any, None]) -> None:
        self._work = work

    async def __aenter__(self) -> None:
        self._task = asyncio.create_task(self._work)

    async def __aexit__(self, *_: object) -> None:
        # Awaited too, so that the task has ended when the block has, and cannot write to a log that is closed then.
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task
