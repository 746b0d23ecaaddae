"""The one place that reads a clock. Knows nothing of requests; everything else is handed a `Clock`.

Inside a run, time is an integer of nanoseconds on one monotonic clock (`time.perf_counter_ns`: CLOCK_MONOTONIC on
Linux, the performance counter on Windows, mach time on macOS). The wall clock is read to date a run, and to convert
the kernel's receive stamps, which are CLOCK_REALTIME.
"""

import asyncio
import time
from datetime import UTC, datetime
from typing import Protocol

from loadgen.alarm import alarm_of

now_ns = time.perf_counter_ns
"""The monotonic clock itself, for the hot path, where a method call is a cost; everything else takes a `Clock`."""

SPIN_NS = 1_500_000
"""How long before a deadline `SystemClock` stops sleeping and yields instead where there is no `Alarm`: an event loop's
timers are late by up to this much (epoll counts whole milliseconds)."""


class Clock(Protocol):
    """Monotonic time in ns, and waiting until an absolute moment of it."""

    def now_ns(self) -> int: ...

    async def sleep_until_ns(self, deadline_ns: int) -> None:
        """Return at `deadline_ns` or as soon as possible after it, never before. Past deadlines return at once."""
        ...


class SystemClock:
    """The machine's clock."""

    def now_ns(self) -> int:
        return time.perf_counter_ns()

    async def sleep_until_ns(self, deadline_ns: int) -> None:
        alarm = alarm_of(asyncio.get_running_loop())
        if alarm is not None:
            while time.perf_counter_ns() < deadline_ns:
                await alarm.ring_at(deadline_ns)
            return
        coarse_ns = deadline_ns - SPIN_NS - time.perf_counter_ns()
        if coarse_ns > 0:
            await asyncio.sleep(coarse_ns / 1e9)
        while time.perf_counter_ns() < deadline_ns:  # noqa: ASYNC110  no event tells the time this precisely
            await asyncio.sleep(0)


def wall_offset_ns(tries: int = 5) -> int:
    """CLOCK_REALTIME minus the monotonic clock, ns: subtract it from a kernel stamp to place it on our clock.

    Both are slewed alike, so the offset is constant until somebody steps the wall clock. The narrowest of `tries`
    brackets is taken; its half-width, the error, is a fraction of a microsecond.
    """
    best_width, best_offset = 1 << 62, 0
    for _ in range(tries):
        before = time.perf_counter_ns()
        wall = time.time_ns()
        after = time.perf_counter_ns()
        if after - before < best_width:
            best_width, best_offset = after - before, wall - (before + after) // 2
    return best_offset


def utc_now() -> datetime:
    """The date and time, aware, in UTC."""
    return datetime.now(UTC)


def process_cpu_ns() -> int:
    """CPU time that this process has used, user and system, ns."""
    return time.process_time_ns()


def thread_cpu_ns() -> int:
    """CPU time that the calling thread has used, user and system, ns."""
    return time.thread_time_ns()
