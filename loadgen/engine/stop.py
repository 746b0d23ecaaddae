"""How a run, or one stage of it, is ended before its time: a signal of two levels that wakes whoever waits."""

import asyncio
import contextlib
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, Final, Literal, TypeVar

from loadgen.clock import Clock

T = TypeVar("T")

INTERRUPTIBLE_NS: Final = 20_000_000
"""A wait longer than this can be cut short by a stop; a shorter one is not worth what that costs."""

StopLevel = Literal["drain", "cancel"]
"""drain: no request begins any more, those in flight may end. cancel: those in flight are given up as well."""


class StopSignal:
    """The wish to end a run, which only ever grows: from none to drain, from drain to cancel.

    A stage has a signal of its own (`of_stage`), which follows the run's and is drained when the stage's stop rule is
    met: that ends this stage, and not the run.
    """

    def __init__(self) -> None:
        self.level: StopLevel | None = None
        self.rule_met = False
        """The stage ends because its stop rule is met: what has not begun was never promised."""
        self._event = asyncio.Event()
        self._listeners: dict[object, Callable[[StopLevel], None]] = {}
        """By a key each: thousands of waits come and go."""

    @property
    def requested(self) -> bool:
        return self.level is not None

    def drain(self) -> None:
        """Ask that no request begins any more."""
        if self.level is None:
            self._raise_to("drain")

    def cancel(self) -> None:
        """Ask that what is in flight is given up as well."""
        if self.level != "cancel":
            self._raise_to("cancel")

    def escalate(self) -> StopLevel:
        """Ask for an end: the first time to drain, after that to cancel. Returns the level asked for."""
        level: StopLevel = "cancel" if self.requested else "drain"
        self._raise_to(level)
        return level

    def meet_rule(self) -> None:
        """End this stage because its stop rule is met."""
        self.rule_met = True  # first: what drain() wakes asks why
        self.drain()

    def _raise_to(self, level: StopLevel) -> None:
        # The level first: a listener, or whoever wakes, looks at it. A copy, as a listener may leave when it is called.
        self.level = level
        self._event.set()
        # A copy: a listener that ends a wait may take itself out of the list.
        for listener in tuple(self._listeners.values()):
            listener(level)

    @contextlib.contextmanager
    def calling(self, listener: Callable[[StopLevel], None]) -> Iterator[None]:
        """While the context lasts, call `listener` with each level that is reached; at once with one that is."""
        key = object()
        self._listeners[key] = listener
        try:
            # Who comes late must hear of it too: a stage begins after the person has asked, and sends nothing then.
            if self.level is not None:
                listener(self.level)
            yield
        finally:
            del self._listeners[key]

    @contextlib.contextmanager
    def cancelling(self, give_up: Callable[[], None]) -> Iterator[None]:
        """While the context lasts, call `give_up` when what is in flight is to be given up."""
        with self.calling(lambda level: give_up() if level == "cancel" else None):
            yield

    @contextlib.contextmanager
    def of_stage(self) -> Iterator["StopSignal"]:
        """The signal of one stage of the run that this is the signal of."""
        stage = StopSignal()
        with self.calling(stage._raise_to):
            yield stage

    async def wait(self) -> None:
        """Until an end is asked for."""
        await self._event.wait()

    async def sleep_until_ns(self, clock: Clock, deadline_ns: int) -> None:
        """Sleep until the deadline, or until an end is asked for."""
        if self.requested:
            return
        # An interruptible wait costs a timeout and a listener, and is late by that; so short a one ends soon by itself.
        if deadline_ns - clock.now_ns() <= INTERRUPTIBLE_NS:
            await clock.sleep_until_ns(deadline_ns)
            return
        await self.unless_requested(clock.sleep_until_ns(deadline_ns))

    async def unless_requested(self, work: Coroutine[Any, Any, T]) -> T | None:
        """What a piece of work returns; None, and the work is cancelled, when an end is asked for before it is done."""
        # A timeout that has no deadline until an end is asked for: the work runs in the caller's own task, so what it
        # raises arrives as it is, and nothing is left to be awaited.
        try:
            async with asyncio.timeout(None) as interruption:

                def interrupt(_: StopLevel) -> None:
                    # A cancel may follow the drain that has interrupted the work already.
                    if not interruption.expired():
                        interruption.reschedule(asyncio.get_running_loop().time())

                with self.calling(interrupt):
                    return await work
        except TimeoutError:
            if not interruption.expired():
                raise  # the work's own
            return None
