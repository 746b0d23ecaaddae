"""The signal that ends a run, or one stage of it, early. It has two levels, and wakes every task that waits on it."""

import asyncio
import contextlib
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, Final, Literal, TypeVar

from loadgen.clock import Clock

T = TypeVar("T")

INTERRUPTIBLE_NS: Final = 20_000_000
"""A stop can cut a longer wait short. For a shorter one that is not worth its cost."""

StopLevel = Literal["drain", "cancel"]
"""drain: no more requests begin, those in flight may end. cancel: those in flight are given up as well."""


class StopSignal:
    """The request to end a run. Its level only rises: from None to drain, from drain to cancel.

    Each stage has a signal of its own (`of_stage`). It follows the run's signal, and `end_stage` drains it, which ends
    the stage and not the run.
    """

    def __init__(self) -> None:
        self.level: StopLevel | None = None
        self.is_stage_over = False
        """The stage has all that it was to have: requests that have not begun are not missing."""
        self._event = asyncio.Event()
        self._listeners: dict[object, Callable[[StopLevel], None]] = {}
        """Each under a key of its own, so that thousands of waits can be added and removed cheaply."""

    @property
    def requested(self) -> bool:
        return self.level is not None

    def drain(self) -> None:
        """Request that no more requests begin."""
        if self.level is None:
            self._raise_to("drain")

    def cancel(self) -> None:
        """Request that those in flight are given up as well."""
        if self.level != "cancel":
            self._raise_to("cancel")

    def escalate(self) -> StopLevel:
        """Raise the level: the first call to drain, later ones to cancel. Returns the new level."""
        level: StopLevel = "cancel" if self.requested else "drain"
        self._raise_to(level)
        return level

    def end_stage(self) -> None:
        """End this stage, because its stop rule is met, its time is over, or who chose its load knows enough."""
        self.is_stage_over = True  # before drain(), which wakes tasks that read it
        self.drain()

    def _raise_to(self, level: StopLevel) -> None:
        # Set first, because listeners and the tasks that wake read it.
        self.level = level
        self._event.set()
        # A copy, because a listener that ends a wait may remove itself.
        for listener in tuple(self._listeners.values()):
            listener(level)

    @contextlib.contextmanager
    def calling(self, listener: Callable[[StopLevel], None]) -> Iterator[None]:
        """While the context lasts, call `listener` with each new level, and at once with the present one, if any."""
        key = object()
        self._listeners[key] = listener
        try:
            # A listener may come after the stop: a stage that begins then must send nothing.
            if self.level is not None:
                listener(self.level)
            yield
        finally:
            del self._listeners[key]

    @contextlib.contextmanager
    def cancelling(self, give_up: Callable[[], None]) -> Iterator[None]:
        """While the context lasts, call `give_up` when the level becomes cancel."""
        with self.calling(lambda level: give_up() if level == "cancel" else None):
            yield

    @contextlib.contextmanager
    def of_stage(self) -> Iterator["StopSignal"]:
        """The signal of one stage, which follows this signal, the run's."""
        stage = StopSignal()
        with self.calling(stage._raise_to):
            yield stage

    async def wait(self) -> None:
        """Wait until a stop is requested."""
        await self._event.wait()

    async def sleep_until_ns(self, clock: Clock, deadline_ns: int) -> None:
        """Sleep until the deadline, or until a stop is requested."""
        if self.requested:
            return
        # An interruptible wait costs a timeout and a listener, and ends later by that. A short one needs neither.
        if deadline_ns - clock.now_ns() <= INTERRUPTIBLE_NS:
            await clock.sleep_until_ns(deadline_ns)
            return
        await self.unless_requested(clock.sleep_until_ns(deadline_ns))

    async def unless_requested(self, work: Coroutine[Any, Any, T]) -> T | None:
        """Await `work` and return its result. If a stop is requested before it is done, cancel it and return None."""
        # A timeout whose deadline is set only when a stop is requested. The work runs in the caller's own task, so that
        # its exceptions arrive unchanged and no task is left to be awaited.
        try:
            async with asyncio.timeout(None) as interruption:

                def interrupt(_: StopLevel) -> None:
                    # A cancel may follow the drain that interrupted the work.
                    if not interruption.expired():
                        interruption.reschedule(asyncio.get_running_loop().time())

                with self.calling(interrupt):
                    return await work
        except TimeoutError:
            if not interruption.expired():
                raise  # the work's own
            return None
