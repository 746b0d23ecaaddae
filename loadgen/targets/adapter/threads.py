"""Threads for blocking calls. Each makes one call at a time, and none keeps the program from ending. Knows no model.

This is no executor of the standard library, because the interpreter waits for those at its exit, and so would never end
if a call never returned.
"""

import asyncio
import contextlib
import itertools
import queue
import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")
Job = Callable[[], None]


class WorkerThreads:
    """As many threads as there are parallel calls. A thread whose call has returned is used again, the latest first, so
    that what a library keeps for each thread, such as a pool of its own, is made once."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._numbers = itertools.count(1)
        self._idle: list[queue.SimpleQueue[tuple[Job, Job] | None]] = []
        self._lock = threading.Lock()
        self._busy = 0
        self._closed = False

    @property
    def busy(self) -> int:
        """How many calls have not returned."""
        return self._busy

    def start(self, job: Job, then: Job) -> None:
        """Run a job in a thread, and then `then` in the same thread, which is free for other jobs by then. Neither may
        raise.

        Raises RuntimeError when the system has no more threads.
        """
        with self._lock:
            inbox = self._idle.pop() if self._idle else None
            self._busy += 1
        try:
            if inbox is None:
                inbox = queue.SimpleQueue()
                name = f"{self._name}-{next(self._numbers)}"
                threading.Thread(target=self._work, args=(inbox,), name=name, daemon=True).start()
        except RuntimeError:
            with self._lock:
                self._busy -= 1
            raise
        inbox.put((job, then))

    async def call(self, function: Callable[[], T]) -> T:
        """Call a function in a thread and return its result. If this is cancelled, the thread goes on, and its result
        is dropped."""
        loop = asyncio.get_running_loop()
        done: asyncio.Future[None] = loop.create_future()
        outcome: list[T | BaseException] = []

        def job() -> None:
            try:
                outcome.append(function())
            except BaseException as error:  # noqa: BLE001  it is raised again, in the loop
                outcome.append(error)

        def wake() -> None:
            if not done.done():
                done.set_result(None)

        self.start(job, lambda: call_in_loop(loop, wake))
        await done
        if isinstance(outcome[0], BaseException):
            raise outcome[0]
        return outcome[0]

    def close(self) -> None:
        """Let the idle threads end, and the others when they come back."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for inbox in idle:
            inbox.put(None)

    def _work(self, inbox: "queue.SimpleQueue[tuple[Job, Job] | None]") -> None:
        while (task := inbox.get()) is not None:
            job, then = task
            job()
            with self._lock:
                self._busy -= 1
                closed = self._closed
                if not closed:
                    self._idle.append(inbox)
            # Last, when the thread is idle already: who is woken by it may at once want a thread, and is to get this.
            then()
            if closed:
                return


def call_in_loop(loop: asyncio.AbstractEventLoop, callback: Callable[[], object]) -> None:
    """Have a loop call something, from another thread; nothing happens when the loop has ended meanwhile."""
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(callback)
