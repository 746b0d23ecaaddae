"""Watches ourselves and the server's process while a stage runs: facts only, judged elsewhere. Knows no requests.

Everything here is sampled beside the measurement and may not disturb it: one task wakes every 20 ms, another looks at
the processes every half second.
"""

import asyncio
import contextlib
import gc
from collections.abc import Callable
from typing import Any, Final

import numpy as np
import psutil

from loadgen.clock import Clock, process_cpu_ns, wall_offset_ns
from loadgen.record import ServerFacts, StageFacts
from loadgen.stats.histogram import Histogram

TICK_NS: Final = 20_000_000
PROCESS_EVERY_TICKS: Final = 25
MOST_SAMPLES: Final = 4096
STEP_NS: Final = 1_000_000
"""The wall clock moved against the monotonic one by more than this: somebody stepped it."""


class Observer:
    """Facts about one stage while it runs: `start`, then `stop`."""

    def __init__(
        self,
        clock: Clock,
        in_flight: Callable[[], int],
        server_pids: tuple[int, ...] = (),
        own_cpu_ns: Callable[[], int] = process_cpu_ns,
    ) -> None:
        self._in_flight = in_flight
        self._own_cpu_ns = own_cpu_ns
        self._clock = clock
        watches = (_ServerWatch.of(pid, clock) for pid in server_pids)
        self._servers = [watch for watch in watches if watch is not None]
        self._loop_lags = Histogram()
        self.stamp_lags = Histogram()
        self._samples: list[tuple[int, int]] = []
        self._sample_every = 1
        self._gc_started_ns = 0
        self._gc_pause_max_ns = 0
        self._steps = 0
        self._task: asyncio.Task[None] | None = None
        self._start_ns = 0
        self._cpu_start_ns = 0
        self.wall_offset_ns = wall_offset_ns()

    def start(self) -> None:
        """Begin: collect and freeze what is there, and keep the collector off until `stop`."""
        gc.collect()
        gc.freeze()
        gc.disable()
        gc.callbacks.append(self._on_gc)
        self.wall_offset_ns = wall_offset_ns()
        self._start_ns, self._cpu_start_ns = self._clock.now_ns(), self._own_cpu_ns()
        for server in self._servers:
            server.start()
        self._task = asyncio.get_running_loop().create_task(self._watch())

    async def stop(self, *, epoch_ns: int, complete: bool, **identity: Any) -> StageFacts:
        """End, and say what was seen. identity: models, targets and level of the stage."""
        end_ns, cpu_ns = self._clock.now_ns(), self._own_cpu_ns() - self._cpu_start_ns
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        self._note_step()
        gc.callbacks.remove(self._on_gc)
        gc.enable()
        gc.unfreeze()
        lag50, lag99, lag_max = _spread(self._loop_lags)
        stamp50, stamp99, stamp_max = _spread(self.stamp_lags)
        return StageFacts(
            start_ns=self._start_ns - epoch_ns,
            end_ns=end_ns - epoch_ns,
            complete=complete,
            cpu_share=cpu_ns / max(1, end_ns - self._start_ns),
            loop_lag_p50_ns=lag50,
            loop_lag_p99_ns=lag99,
            loop_lag_max_ns=lag_max,
            stamp_lag_p50_ns=stamp50,
            stamp_lag_p99_ns=stamp99,
            stamp_lag_max_ns=stamp_max,
            stamped_reads=self.stamp_lags.count,
            gc_pause_max_ns=self._gc_pause_max_ns,
            clock_steps=self._steps,
            in_flight_samples=tuple((at - epoch_ns, count) for at, count in self._samples),
            servers=tuple(server.facts() for server in self._servers),
            **identity,
        )

    async def _watch(self) -> None:
        due_ns, tick = self._clock.now_ns(), 0
        while True:
            due_ns += TICK_NS
            await asyncio.sleep(max(0, due_ns - self._clock.now_ns()) / 1e9)
            now = self._clock.now_ns()
            # A stall is as many late ticks as came due in it: as one of a thousand, no percentile would show it.
            self._loop_lags.record(np.arange(max(0, now - due_ns), -1, -TICK_NS, dtype=np.int64))
            self._sample_in_flight(tick, now)
            if now > due_ns + TICK_NS:
                due_ns = now  # after a stall, do not look twenty times at once
            tick += 1
            if tick % PROCESS_EVERY_TICKS == 0:
                self._note_step()
                for server in self._servers:
                    server.look()

    def _sample_in_flight(self, tick: int, now: int) -> None:
        if tick % self._sample_every:
            return
        self._samples.append((now, self._in_flight()))
        if len(self._samples) > MOST_SAMPLES:  # a long stage: half as often from now on, and so far
            del self._samples[1::2]
            self._sample_every *= 2

    def _note_step(self) -> None:
        offset = wall_offset_ns()
        if abs(offset - self.wall_offset_ns) > STEP_NS:
            self._steps += 1
            self.wall_offset_ns = offset

    def _on_gc(self, phase: str, _: dict[str, int]) -> None:
        now = self._clock.now_ns()
        if phase == "start":
            self._gc_started_ns = now
        elif self._gc_started_ns:
            self._gc_pause_max_ns = max(self._gc_pause_max_ns, now - self._gc_started_ns)


def _spread(histogram: Histogram) -> tuple[int | None, int | None, int | None]:
    if not histogram.count:
        return None, None, None
    return histogram.quantile_ns(50), histogram.quantile_ns(99), histogram.max_ns


class _ServerWatch:
    """CPU and memory of one process and its children, as far as we may look."""

    def __init__(self, process: psutil.Process, clock: Clock) -> None:
        self._process = process
        self._family = [process]
        self._clock = clock
        self._start_ns = self._end_ns = 0
        self._cpu_start_s: float | None = None
        self._cpu_end_s: float | None = None
        self._rss_start: int | None = None
        self._rss_peak: int | None = None

    @classmethod
    def of(cls, pid: int, clock: Clock) -> "_ServerWatch | None":
        with contextlib.suppress(psutil.Error):
            return cls(psutil.Process(pid), clock)
        return None

    def start(self) -> None:
        # Looked up once: finding children reads every process of the machine, which takes too long beside a run.
        with contextlib.suppress(psutil.Error):
            self._family = [self._process, *self._process.children(recursive=True)]
        self._start_ns = self._clock.now_ns()
        self.look()
        self._cpu_start_s, self._rss_start = self._cpu_end_s, self._rss_peak

    def look(self) -> None:
        with contextlib.suppress(psutil.Error):
            rss = sum(process.memory_info().rss for process in self._family)
            cpu = [process.cpu_times() for process in self._family]
            self._rss_peak = max(rss, self._rss_peak or 0)
            self._cpu_end_s = sum(times.user + times.system for times in cpu)
            self._end_ns = self._clock.now_ns()

    def facts(self) -> ServerFacts:
        self.look()
        share = None
        if self._cpu_start_s is not None and self._cpu_end_s is not None and self._end_ns > self._start_ns:
            share = (self._cpu_end_s - self._cpu_start_s) / ((self._end_ns - self._start_ns) / 1e9)
        return ServerFacts(
            pid=self._process.pid, cpu_share=share, rss_start_bytes=self._rss_start, rss_peak_bytes=self._rss_peak
        )
