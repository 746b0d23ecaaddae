"""Observes our own process and the server's during a stage. It only records facts; `analysis` judges them. Knows no
requests.

Sampling runs during the measurement and must not disturb it: a task wakes every 20 ms, and reads the processes every
half second.
"""

import asyncio
import contextlib
import gc
import heapq
import sys
from collections.abc import Callable
from typing import Any, Final

import numpy as np
import psutil

from loadgen.clock import BootClock, Clock, process_cpu_ns
from loadgen.record import LAG_PERCENTILES, ServerFacts, StageFacts
from loadgen.stats.histogram import Histogram
from loadgen.telemetry.neighbors import MachineSource, NeighborWatch
from loadgen.telemetry.wall_clock import WallClock

TICK_NS: Final = 20_000_000
"""How often the observer's task asks the event loop to wake it."""
PROCESS_EVERY_TICKS: Final = 25
"""After this many ticks, the processes and the wall clock are read again."""
TIMER_SLACK_NS: Final = 16_000_000 if sys.platform == "win32" else 1_500_000
"""How late an undisturbed event loop may wake a task: epoll and kqueue count whole milliseconds, and the timer of
Windows ticks 64 times per second."""
MOST_STALLS: Final = 256
"""Only the longest stalls of the event loop are kept with their moments: at most this many."""
LAGS_AT_ONCE: Final = 256
"""So many ticks' lags are added to their histogram at once, which takes much less CPU than each by itself."""
MOST_SAMPLES: Final = 4096
"""The largest number of samples of requests in flight, however long the stage is."""
MOST_LAGS_AT_ONCE: Final = 1 << 16
"""The lags of a stall are added in parts of at most so many, because a stall may take hours."""


class Observer:
    """Facts about one stage while it runs: `start`, then `stop`."""

    def __init__(
        self,
        clock: Clock,
        in_flight: Callable[[], int],
        server_pids: tuple[int, ...] = (),
        own_cpu_ns: Callable[[], int] = process_cpu_ns,
        machine: MachineSource | None = None,
        boot: BootClock | None = None,
    ) -> None:
        """in_flight: returns the number of requests in flight. server_pids: the processes to observe. own_cpu_ns:
        returns the CPU time that we have used. machine: reads the state of the machine; None: neighbors are not
        observed. boot: real time; None: a time in which the machine was suspended counts as a step of the wall clock,
        because nobody else notices it."""
        self._clock = clock
        self._own_cpu = _OwnCpu(clock, own_cpu_ns)
        self._loop_lags = _LoopLags()
        self.stamp_lags = Histogram()
        """User stamp minus kernel stamp of each read; the code that reads appends to it."""
        self._in_flight = _InFlightSamples(in_flight)
        self._collector = _GarbageCollector(clock)
        self._wall_clock = WallClock(boot)
        watches = (_ServerWatch.of(pid, clock) for pid in server_pids)
        self._servers = [watch for watch in watches if watch is not None]
        self._neighbors = None if machine is None else NeighborWatch(machine, clock, server_pids)
        self._task: asyncio.Task[None] | None = None

    @property
    def clock(self) -> Clock:
        return self._clock

    @property
    def loop_lags(self) -> Histogram:
        """How late the event loop woke the task that watches it, since `start`."""
        return self._loop_lags.histogram()

    @property
    def clock_steps(self) -> tuple[int, int | None]:
        """How often the wall clock was stepped since `start`, and the largest step, ns."""
        return self._wall_clock.steps, self._wall_clock.step_max_ns

    def own_cpu_ns(self) -> int:
        """The CPU time that we have used so far."""
        return self._own_cpu.cpu_ns()

    def collect_garbage(self) -> int:
        """Collect what was allocated since `start`; returns how long that took, ns. For moments at which a pause does
        no harm."""
        return self._collector.collect()

    @property
    def wall_offset_ns(self) -> int:
        """The wall clock minus the monotonic one, when they were last read."""
        return self._wall_clock.offset_ns

    def start(self) -> None:
        """Begin: collect garbage, freeze the remaining objects, and turn the collector off until `stop`."""
        self._collector.start()
        if self._neighbors is not None:
            self._neighbors.start()
        self._wall_clock.start()
        self._own_cpu.start()
        for server in self._servers:
            server.start()
        self._task = asyncio.get_running_loop().create_task(self._watch())

    def follow(self, pid: int) -> None:
        """Observe a process too that has taken a server's place."""
        watch = _ServerWatch.of(pid, self._clock)
        if watch is not None:
            watch.start()
            self._servers.append(watch)
        if self._neighbors is not None:
            self._neighbors.follow(pid)

    def check_wall_clock(self) -> None:
        """Read the wall clock now, and not only at the next sample: it may have been stepped."""
        self._wall_clock.check()

    async def stop(self, *, epoch_ns: int, complete: bool, **identity: Any) -> StageFacts:
        """End, and return the facts. identity: models, targets and level of the stage."""
        end_ns, cpu_share = self._own_cpu.stop()
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        self._wall_clock.check()
        self._collector.stop()
        lags, stamp_lags = self._loop_lags.histogram(), self.stamp_lags
        lag50, lag99, lag_max = _spread(lags)
        stamp50, stamp99, stamp_max = _spread(stamp_lags)
        return StageFacts(
            start_ns=self._own_cpu.start_ns - epoch_ns,
            end_ns=end_ns - epoch_ns,
            complete=complete,
            cpu_share=cpu_share,
            loop_lag_p50_ns=lag50,
            loop_lag_p99_ns=lag99,
            loop_lag_max_ns=lag_max,
            stamp_lag_p50_ns=stamp50,
            stamp_lag_p99_ns=stamp99,
            stamp_lag_max_ns=stamp_max,
            stamped_reads=stamp_lags.count,
            gc_pause_max_ns=self._collector.pause_max_ns,
            gc_pause_end_ns=self._collector.pause_end_ns(epoch_ns),
            clock_steps=self._wall_clock.steps,
            clock_step_max_ns=self._wall_clock.step_max_ns,
            in_flight_samples=tuple((at - epoch_ns, count) for at, count in self._in_flight.samples),
            servers=tuple(server.facts() for server in self._servers),
            loop_lags_ns=_at_percentiles(lags),
            loop_short_lags_ns=_at_percentiles(self._loop_lags.short_histogram()),
            loop_stalls_ns=self._loop_lags.stalls(epoch_ns),
            stamp_lags_ns=_at_percentiles(stamp_lags),
            timer_slack_ns=TIMER_SLACK_NS,
            machine=None if self._neighbors is None else self._neighbors.facts(self._in_flight.active_share),
            **identity,
        )

    async def _watch(self) -> None:
        due_ns, tick = self._clock.now_ns(), 0
        while True:
            due_ns += TICK_NS
            await asyncio.sleep(max(0, due_ns - self._clock.now_ns()) / 1e9)
            now = self._clock.now_ns()
            self._loop_lags.record(due_ns, now)
            self._in_flight.sample(tick, now)
            if now > due_ns + TICK_NS:
                due_ns = now  # do not catch up on all missed ticks at once
            tick += 1
            if tick % PROCESS_EVERY_TICKS == 0:
                self._wall_clock.check()
                for server in self._servers:
                    server.sample()
                if self._neighbors is not None:
                    self._neighbors.sample()


class _LoopLags:
    """How late the event loop woke us, at each tick that was due; and the longest times for which it stood still."""

    def __init__(self) -> None:
        self._all, self._short = Histogram(), Histogram()
        self._new_ns: list[int] = []
        self._new_short_ns: list[int] = []
        self._longest: list[tuple[int, int]] = []
        """A heap of (length of a stall, ns; when it ended, ns on the clock)."""

    def record(self, due_ns: int, now_ns: int) -> None:
        """The task was due at due_ns, and woke at now_ns."""
        late_ns = max(0, now_ns - due_ns)
        # A stall counts once for each tick that came due in it; a single sample among a thousand would be in no
        # percentile.
        if late_ns < TICK_NS * LAGS_AT_ONCE:
            self._new_ns.extend(range(late_ns, -1, -TICK_NS))
        else:
            part_ns = TICK_NS * MOST_LAGS_AT_ONCE
            for longest_ns in range(late_ns, -1, -part_ns):
                self._all.record(np.arange(longest_ns, max(-1, longest_ns - part_ns), -TICK_NS, dtype=np.int64))
        if late_ns < TICK_NS:
            self._new_short_ns.append(late_ns)
        else:
            heapq.heappush(self._longest, (late_ns, now_ns))
            if len(self._longest) > MOST_STALLS:
                heapq.heappop(self._longest)
        if len(self._new_ns) >= LAGS_AT_ONCE:
            self._fold()

    def _fold(self) -> None:
        self._all.record(np.array(self._new_ns, dtype=np.int64))
        self._short.record(np.array(self._new_short_ns, dtype=np.int64))
        self._new_ns, self._new_short_ns = [], []

    def histogram(self) -> Histogram:
        """All lags so far."""
        self._fold()
        return self._all

    def short_histogram(self) -> Histogram:
        """All lags so far that were shorter than a tick."""
        self._fold()
        return self._short

    def stalls(self, epoch_ns: int) -> tuple[tuple[int, int], ...]:
        """(When it ended, its length) of each stall, ns, in order of time."""
        return tuple(sorted((ended_ns - epoch_ns, length_ns) for length_ns, ended_ns in self._longest))


class _OwnCpu:
    """Our own CPU time, and the times between which it was used."""

    def __init__(self, clock: Clock, cpu_ns: Callable[[], int]) -> None:
        self._clock = clock
        self.cpu_ns = cpu_ns
        self.start_ns = 0
        self._cpu_start_ns = 0

    def start(self) -> None:
        self.start_ns, self._cpu_start_ns = self._clock.now_ns(), self.cpu_ns()

    def stop(self) -> tuple[int, float]:
        """The end, ns on the clock, and the share of one core that we used until then."""
        end_ns, cpu_ns = self._clock.now_ns(), self.cpu_ns() - self._cpu_start_ns
        return end_ns, cpu_ns / max(1, end_ns - self.start_ns)


class _InFlightSamples:
    """Evenly spaced samples of the number of requests in flight, in bounded memory."""

    def __init__(self, in_flight: Callable[[], int]) -> None:
        self._in_flight = in_flight
        self._every_ticks = 1
        self.samples: list[tuple[int, int]] = []
        """(ns on the clock, requests in flight)."""

    def sample(self, tick: int, now_ns: int) -> None:
        if tick % self._every_ticks:
            return
        self.samples.append((now_ns, self._in_flight()))
        if len(self.samples) > MOST_SAMPLES:  # a long stage: drop every second sample, and sample half as often
            del self.samples[1::2]
            self._every_ticks *= 2

    @property
    def active_share(self) -> float:
        """The share of the samples with a request in flight; 1 if there was none in any sample."""
        busy = sum(count > 0 for _, count in self.samples)
        return busy / len(self.samples) if busy else 1.0


class _GarbageCollector:
    """Keeps Python's garbage collector off during a stage, and records the longest pause if other code calls it."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._pause_start_ns = 0
        self.pause_max_ns = 0
        self._pause_max_end_ns: int | None = None

    def start(self) -> None:
        gc.collect()
        gc.freeze()
        gc.disable()
        gc.callbacks.append(self._on_phase)

    def collect(self) -> int:
        """Collect what was allocated since `start`; returns how long that took, ns.

        Nothing is frozen anew: what is in flight now would stay for good if it became garbage later. What was frozen is
        not looked at, so that this takes as long as the requests in flight are many, however long the stage is.
        """
        start_ns = self._clock.now_ns()
        gc.collect()
        return self._clock.now_ns() - start_ns

    def stop(self) -> None:
        gc.callbacks.remove(self._on_phase)
        gc.enable()
        gc.unfreeze()

    def _on_phase(self, phase: str, _: dict[str, int]) -> None:
        now = self._clock.now_ns()
        if phase == "start":
            self._pause_start_ns = now
        elif self._pause_start_ns and now - self._pause_start_ns > self.pause_max_ns:
            self.pause_max_ns, self._pause_max_end_ns = now - self._pause_start_ns, now

    def pause_end_ns(self, epoch_ns: int) -> int | None:
        """When the longest pause ended, ns since `epoch_ns`; None without any."""
        return None if self._pause_max_end_ns is None else self._pause_max_end_ns - epoch_ns


def _spread(histogram: Histogram) -> tuple[int | None, int | None, int | None]:
    if not histogram.count:
        return None, None, None
    return histogram.quantile_ns(50), histogram.quantile_ns(99), histogram.max_ns


def _at_percentiles(histogram: Histogram) -> tuple[int, ...]:
    return histogram.quantiles_ns(LAG_PERCENTILES) if histogram.count else ()


class _ServerWatch:
    """CPU and memory of one process and its children, as far as we may read them."""

    def __init__(self, process: psutil.Process, clock: Clock) -> None:
        self._process = process
        self._family = [process]
        self._clock = clock
        self._start_ns = self._end_ns = 0
        self._cpu_start_s: float | None = None
        self._cpu_end_s: float | None = None
        self._rss_start_bytes: int | None = None
        self._rss_peak_bytes: int | None = None

    @classmethod
    def of(cls, pid: int, clock: Clock) -> "_ServerWatch | None":
        with contextlib.suppress(psutil.Error):
            return cls(psutil.Process(pid), clock)
        return None

    def start(self) -> None:
        # Look them up once: finding children reads every process of the machine, which takes too long during a run.
        with contextlib.suppress(psutil.Error):
            self._family = [self._process, *self._process.children(recursive=True)]
        self._start_ns = self._clock.now_ns()
        self.sample()
        self._cpu_start_s, self._rss_start_bytes = self._cpu_end_s, self._rss_peak_bytes

    def sample(self) -> None:
        with contextlib.suppress(psutil.Error):
            rss_bytes = sum(process.memory_info().rss for process in self._family)
            cpu = [process.cpu_times() for process in self._family]
            self._rss_peak_bytes = max(rss_bytes, self._rss_peak_bytes or 0)
            self._cpu_end_s = sum(times.user + times.system for times in cpu)
            self._end_ns = self._clock.now_ns()

    def facts(self) -> ServerFacts:
        self.sample()
        share = None
        if self._cpu_start_s is not None and self._cpu_end_s is not None and self._end_ns > self._start_ns:
            share = (self._cpu_end_s - self._cpu_start_s) / ((self._end_ns - self._start_ns) / 1e9)
        return ServerFacts(
            pid=self._process.pid,
            cpu_share=share,
            rss_start_bytes=self._rss_start_bytes,
            rss_peak_bytes=self._rss_peak_bytes,
        )
