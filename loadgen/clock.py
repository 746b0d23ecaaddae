"""The only module that reads a clock. Knows no requests; all other code gets a `Clock`.

Inside a run, time is an integer of nanoseconds on one monotonic clock (`time.perf_counter_ns`: CLOCK_MONOTONIC on
Linux, the performance counter on Windows, mach time on macOS). The wall clock is read only to date a run, and to
convert the kernel's receive stamps, which are CLOCK_REALTIME.
"""

import asyncio
import contextlib
import ctypes
import functools
import heapq
import itertools
import os
import sys
import time
import weakref
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final, Protocol

now_ns = time.perf_counter_ns
"""The monotonic clock itself, for the hot path, in which a method call is too slow; all other code uses a `Clock`."""

wall_ns = time.time_ns
"""The wall clock, ns since 1970. It may be stepped."""

SPIN_NS = 1_500_000
"""How long before a deadline `SystemClock` stops sleeping and yields instead, if there is no `Timer`. An event loop's
timers are late by up to this much, because epoll counts whole milliseconds."""


class Clock(Protocol):
    """Monotonic time in ns, and waiting until an absolute moment of it."""

    def now_ns(self) -> int: ...

    async def sleep_until_ns(self, deadline_ns: int) -> None:
        """Return at `deadline_ns` or as soon as possible after it, never before. Returns at once if it is past."""
        ...


class SystemClock:
    """The machine's clock."""

    def now_ns(self) -> int:
        return time.perf_counter_ns()

    async def sleep_until_ns(self, deadline_ns: int) -> None:
        timer = timer_of(asyncio.get_running_loop())
        if timer is not None:
            while time.perf_counter_ns() < deadline_ns:
                await timer.ring_at(deadline_ns)
            return
        coarse_ns = deadline_ns - SPIN_NS - time.perf_counter_ns()
        if coarse_ns > 0:
            await asyncio.sleep(coarse_ns / 1e9)
        while time.perf_counter_ns() < deadline_ns:  # noqa: ASYNC110  no event tells the time this precisely
            await asyncio.sleep(0)


SYSTEM_CLOCK: Final = SystemClock()
"""The clock of this process, for the code that starts a run; all other code gets its clock as an argument."""


class BootClock(Protocol):
    """Real time, which goes on while the machine is suspended. The clock of a run (`Clock`) stands still then."""

    def now_ns(self) -> int:
        """Real time since some moment, ns."""

    def suspended_ns(self) -> int:
        """For how long the machine was suspended since some moment, ns."""


class SystemBootClock:
    """The machine's `BootClock`.

    Linux, macOS and Windows each have a pair of clocks of which one stands still while the machine is suspended. Where
    neither can be read, the wall clock takes the place of the other one; a step of the wall clock then looks like a
    suspension.
    """

    def __init__(self, pair: "ClockPair | None" = None) -> None:
        """pair: None: that of this platform."""
        self._real_ns, self._awake_ns = clock_pair() if pair is None else pair
        self._first_ns = self._offset_ns()

    def now_ns(self) -> int:
        return self._real_ns()

    def suspended_ns(self) -> int:
        return self._offset_ns() - self._first_ns

    def _offset_ns(self) -> int:
        return offset_ns(self._real_ns, self._awake_ns, tries=5, narrow_ns=10_000)


ClockPair = tuple[Callable[[], int], Callable[[], int]]
"""A clock that goes on while the machine is suspended, and one that does not. Both return ns."""


def clock_pair(platform: str = sys.platform) -> ClockPair:
    """The pair of clocks of a platform."""
    with contextlib.suppress(OSError, AttributeError):
        if platform == "linux":
            return _system_clock(7), _system_clock(_CLOCK_MONOTONIC)  # CLOCK_BOOTTIME is 7
        if platform == "darwin":
            return mach_pair(ctypes.CDLL(None))
        if platform == "win32":
            return windows_pair(ctypes.CDLL("kernel32"))
    return time.time_ns, time.monotonic_ns


def _system_clock(number: int) -> Callable[[], int]:
    """A clock of the system by its number. Raises OSError if there is none."""
    read = functools.partial(time.clock_gettime_ns, number)
    read()
    return read


class _MachTimebase(ctypes.Structure):
    _fields_ = (("numerator", ctypes.c_uint32), ("denominator", ctypes.c_uint32))


def mach_pair(library: Any) -> ClockPair:
    """The pair of macOS: `mach_continuous_time` and `mach_absolute_time`, which count ticks."""
    base = _MachTimebase()
    library.mach_timebase_info(ctypes.byref(base))
    library.mach_continuous_time.restype = library.mach_absolute_time.restype = ctypes.c_uint64

    def continuous_ns() -> int:
        return int(library.mach_continuous_time() * base.numerator // base.denominator)

    def absolute_ns() -> int:
        return int(library.mach_absolute_time() * base.numerator // base.denominator)

    return continuous_ns, absolute_ns


def windows_pair(library: Any) -> ClockPair:
    """The pair of Windows: `GetTickCount64`, which counts milliseconds, and `QueryUnbiasedInterruptTime`, which counts
    tenths of microseconds."""
    library.GetTickCount64.restype = ctypes.c_uint64

    def ticks_ns() -> int:
        return int(library.GetTickCount64()) * 1_000_000

    def unbiased_ns() -> int:
        time_100ns = ctypes.c_uint64()
        library.QueryUnbiasedInterruptTime(ctypes.byref(time_100ns))
        return time_100ns.value * 100

    return ticks_ns, unbiased_ns


def wall_offset_ns(tries: int = 5) -> int:
    """CLOCK_REALTIME minus the monotonic clock, ns. Subtract it from a kernel stamp to convert the stamp to our clock.

    Both clocks are slewed alike, so the offset is constant until the wall clock is stepped. The error is a fraction of
    a microsecond.
    """
    return offset_ns(time.time_ns, time.perf_counter_ns, tries)


def offset_ns(clock: Callable[[], int], base: Callable[[], int], tries: int, narrow_ns: int = 0) -> int:
    """A clock minus another one, the base, ns.

    The narrowest of `tries` brackets is used, or the first that is at most narrow_ns wide. Its half-width is the error.
    """
    best_width, best_offset = 1 << 62, 0
    for _ in range(tries):
        before = base()
        reading = clock()
        after = base()
        if after - before < best_width:
            best_width, best_offset = after - before, reading - (before + after) // 2
        if best_width <= narrow_ns:
            break
    return best_offset


def utc_now() -> datetime:
    """The date and time, aware, in UTC."""
    return datetime.now(UTC)


def process_cpu_ns() -> int:
    """CPU time that this process has used, user and system, ns."""
    return time.process_time_ns()


def cpu_of_process_ns(pid: int) -> int | None:
    """The CPU time of all threads of a process so far, ns, including those that have ended; None if the process is
    gone, or this is not Linux."""
    if sys.platform != "linux":
        return None
    try:
        return time.clock_gettime_ns((~pid << 3) | 2)  # its CPU-time clock, as made by `clock_getcpuclockid(3)`
    except OSError:
        return None


def thread_cpu_ns() -> int:
    """CPU time that the calling thread has used, user and system, ns."""
    return time.thread_time_ns()


_CLOCK_MONOTONIC: Final = 1
_NONBLOCK_CLOEXEC: Final = 0o4000 | 0o2000000
_ABSOLUTE: Final = 1


class _Timespec(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("nanos", ctypes.c_long))


class _TimerSpec(ctypes.Structure):
    _fields_ = (("interval", _Timespec), ("value", _Timespec))


class Timer:
    """Wakes the tasks of one event loop at absolute times, to a fraction of a millisecond. It is always set to the
    earliest deadline.

    An event loop's own timers are late by up to a millisecond, because epoll counts whole milliseconds. A Linux timer
    descriptor (`timerfd_create(2)`) counts nanoseconds, never fires early, and costs nothing while nothing is due. It
    uses CLOCK_MONOTONIC, which is `time.perf_counter_ns` on Linux.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        """Raises OSError, AttributeError or NotImplementedError if there are no timer descriptors, or the loop cannot
        watch them."""
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
        """A future of the running loop that is done at a time of CLOCK_MONOTONIC or soon after it, never before."""
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
        while self._sleepers and self._sleepers[0][2].done():  # cancelled by the task that slept
            heapq.heappop(self._sleepers)
        if self._sleepers:
            self._set(self._sleepers[0][0])

    def _set(self, deadline_ns: int) -> None:
        seconds, nanos = divmod(max(1, deadline_ns), 1_000_000_000)
        spec = _TimerSpec(_Timespec(0, 0), _Timespec(seconds, nanos))
        if self._set_time(self._fd, _ABSOLUTE, ctypes.byref(spec), None) != 0:
            raise OSError(ctypes.get_errno(), "timerfd_settime")


_timers: "weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, Timer | None]" = weakref.WeakKeyDictionary()


def timer_of(loop: asyncio.AbstractEventLoop) -> Timer | None:
    """The timer of a loop; None if there can be none: not on Linux, or the loop cannot watch descriptors."""
    if loop not in _timers:
        _timers[loop] = _start_timer(loop)
    return _timers[loop]


def _start_timer(loop: asyncio.AbstractEventLoop) -> Timer | None:
    if sys.platform != "linux":
        return None
    try:
        return Timer(loop)
    except (OSError, AttributeError, NotImplementedError):
        return None


def _libc() -> Any:
    return ctypes.CDLL(None, use_errno=True)


SYSTEM_BOOT_CLOCK: Final = SystemBootClock()
"""The `BootClock` of this process, for the code that starts a soak; all other code gets it as an argument."""
