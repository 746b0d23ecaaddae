"""Wakes sleepers of one event loop at absolute moments, to a fraction of a millisecond. Reads no clock.

An event loop's own timers are late by up to a millisecond: epoll counts whole ones. A Linux timer descriptor
(`timerfd_create(2)`) counts nanoseconds, never rings early, and costs nothing while nothing is due; one of them serves
all sleepers of a loop. It runs on CLOCK_MONOTONIC, which is `time.perf_counter_ns` there.
"""

import asyncio
import ctypes
import heapq
import itertools
import os
import sys
import weakref
from typing import Any, Final

_CLOCK_MONOTONIC: Final = 1
_NONBLOCK_CLOEXEC: Final = 0o4000 | 0o2000000
_ABSOLUTE: Final = 1


class _Timespec(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("nanos", ctypes.c_long))


class _TimerSpec(ctypes.Structure):
    _fields_ = (("interval", _Timespec), ("value", _Timespec))


class Alarm:
    """One timer for all sleepers of a loop: it is set to the earliest of their deadlines."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        """Raises OSError, AttributeError or NotImplementedError where there are no timer descriptors, or the loop
        watches none."""
        self._set_time = _libc().timerfd_settime
        fd = int(_libc().timerfd_create(_CLOCK_MONOTONIC, _NONBLOCK_CLOEXEC))
        if fd < 0:
            raise OSError(ctypes.get_errno(), "timerfd_create")
        self._fd = fd
        self._close = weakref.finalize(self, os.close, fd)
        self._sleepers: list[tuple[int, int, asyncio.Future[None]]] = []
        self._order = itertools.count()
        loop.add_reader(fd, self._wake)

    def ring_at(self, deadline_ns: int) -> "asyncio.Future[None]":
        """A future of the running loop that is done at a moment of CLOCK_MONOTONIC or soon after it, never before."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        first = self._sleepers[0][0] if self._sleepers else None
        heapq.heappush(self._sleepers, (deadline_ns, next(self._order), future))
        if first is None or deadline_ns < first:
            self._set(deadline_ns)
        return future

    def _wake(self) -> None:
        try:
            os.read(self._fd, 8)
        except BlockingIOError:  # it was set anew after it rang
            return
        # It has rung for the earliest; whoever is due by now as well is woken by the next ring, which is at once.
        due_ns = self._sleepers[0][0] if self._sleepers else 0
        while self._sleepers and self._sleepers[0][0] <= due_ns:
            future = heapq.heappop(self._sleepers)[2]
            if not future.done():
                future.set_result(None)
        while self._sleepers and self._sleepers[0][2].done():  # given up by who slept
            heapq.heappop(self._sleepers)
        if self._sleepers:
            self._set(self._sleepers[0][0])

    def _set(self, deadline_ns: int) -> None:
        seconds, nanos = divmod(max(1, deadline_ns), 1_000_000_000)
        spec = _TimerSpec(_Timespec(0, 0), _Timespec(seconds, nanos))
        if self._set_time(self._fd, _ABSOLUTE, ctypes.byref(spec), None) != 0:
            raise OSError(ctypes.get_errno(), "timerfd_settime")


_alarms: "weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, Alarm | None]" = weakref.WeakKeyDictionary()


def alarm_of(loop: asyncio.AbstractEventLoop) -> Alarm | None:
    """The alarm of a loop; None where there can be none: not on Linux, or a loop that watches no descriptors."""
    if loop not in _alarms:
        _alarms[loop] = _made(loop)
    return _alarms[loop]


def _made(loop: asyncio.AbstractEventLoop) -> Alarm | None:
    if sys.platform != "linux":
        return None
    try:
        return Alarm(loop)
    except (OSError, AttributeError, NotImplementedError):
        return None


def _libc() -> Any:
    return ctypes.CDLL(None, use_errno=True)
