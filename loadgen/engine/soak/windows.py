"""Folds the measured records of a stage into windows of time, and sends each window when its time is over.

Every process that plays a part of the stage has a `WindowSink`. Its windows go to the `WindowWriter` of the process
that has the run folder, which merges those of all processes and writes them. No record outlives its fold.
"""

from collections.abc import Callable

import msgspec
from msgspec import Struct

from loadgen.live.recorder import Fold, IntervalSnapshot
from loadgen.live.sink import MeasuringStart, NullSink, StageStart
from loadgen.record import ProcessFacts, Record, StageFacts
from loadgen.scenario import Slo
from loadgen.telemetry.process_watch import ProcessWatch


class WindowSettings(Struct, frozen=True):
    """How records are folded."""

    length_ns: int
    slo: Slo | None = None


class WindowGrid(Struct, frozen=True):
    """Where the windows of a stage begin and end. Numbers count from 0 within the stage; moments are on the run's
    clock."""

    start_ns: int
    """When the measured requests begin."""
    length_ns: int
    drain_ns: int | None = None
    """From when on no more requests begin, if that is known. The window in which that is ends there, and what ends
    after it has windows of its own."""

    @property
    def last_regular(self) -> int | None:
        """The last window before the stage drains."""
        return None if self.drain_ns is None else (self.drain_ns - self.start_ns - 1) // self.length_ns

    def number_of(self, moment_ns: int) -> int:
        """The window that has a moment; the first if it is before that."""
        last = self.last_regular
        if self.drain_ns is None or last is None or moment_ns < self.drain_ns:
            return max(0, (moment_ns - self.start_ns) // self.length_ns)
        return last + 1 + (moment_ns - self.drain_ns) // self.length_ns

    def bounds(self, number: int) -> tuple[int, int]:
        """When a window begins and ends."""
        last = self.last_regular
        if self.drain_ns is None or last is None or number <= last:
            start_ns = self.start_ns + number * self.length_ns
            end_ns = start_ns + self.length_ns
            return start_ns, end_ns if self.drain_ns is None else min(end_ns, self.drain_ns)
        start_ns = self.drain_ns + (number - last - 1) * self.length_ns
        return start_ns, start_ns + self.length_ns

    def is_draining(self, number: int) -> bool:
        return self.last_regular is not None and number > self.last_regular

    def draining_from(self, at_ns: int) -> "WindowGrid":
        """The grid of a stage that drains from a moment on, or earlier if that was known already."""
        drain_ns = max(self.start_ns, _whole_us(at_ns if self.drain_ns is None else min(at_ns, self.drain_ns)))
        return msgspec.structs.replace(self, drain_ns=drain_ns)


def grid_of(stage: StageStart, start_ns: int, length_ns: int) -> WindowGrid:
    """The grid of a stage whose measured requests begin now."""
    grid = WindowGrid(_whole_us(start_ns), length_ns)
    return grid if stage.duration_s is None else grid.draining_from(start_ns + round(stage.duration_s * 1e9))


def _whole_us(moment_ns: int) -> int:
    """A moment without the fraction of a µs, which a histogram log cannot tell."""
    return moment_ns // 1_000 * 1_000


class WindowPart(Struct, frozen=True, tag=True):
    """One window of a stage, as one of the processes that play it has seen it. Final once sent."""

    number: int
    """Within the stage, from 0."""
    start_ns: int
    end_ns: int
    is_draining: bool
    intervals: tuple[IntervalSnapshot, ...]
    """One for each model of which a request ended."""
    facts: ProcessFacts | None


class WindowSink(NullSink):
    """Folds the measured records of this process. It is a `TimedSink`, whose ticks close the windows on time, even
    while no request ends."""

    def __init__(self, settings: WindowSettings, send: Callable[[WindowPart], None]) -> None:
        """send: called with each window when it is over, in order, also with those in which nothing ended."""
        self._settings = settings
        self._send = send
        self._stage: StageStart | None = None
        self._windows: _StageWindows | None = None

    def start(self, stage: StageStart) -> None:
        self._stage, self._windows = stage, None

    def measure(self, beginning: MeasuringStart) -> None:
        assert self._stage is not None
        self._windows = _StageWindows(self._stage, self._settings, beginning, self._send)

    def record(self, record: Record) -> None:
        if self._windows is not None and record.phase == "measured":
            self._windows.fold.take(record)

    def tick(self, now_ns: int) -> None:
        if self._windows is not None:
            self._windows.tick(now_ns)

    def drain(self, at_ns: int) -> None:
        if self._windows is not None:
            self._windows.grid = self._windows.grid.draining_from(at_ns)

    def stop(self, facts: StageFacts) -> None:
        if self._windows is not None:
            self._windows.close_all(facts.end_ns)
            self._windows = None


class _StageWindows:
    """The windows of one stage that are not closed yet."""

    def __init__(
        self,
        stage: StageStart,
        settings: WindowSettings,
        beginning: MeasuringStart,
        send: Callable[[WindowPart], None],
    ) -> None:
        self.grid = grid_of(stage, beginning.start_ns, settings.length_ns)
        self.fold = Fold(stage, self._number_of, settings.slo)
        self._send = send
        self._observer = beginning.observer
        self._watch = ProcessWatch(beginning.observer)
        self._next = 0
        """The first window that is not closed."""
        self._ticked_ns = beginning.start_ns
        """When the last tick was."""
        self._collector_ns = 0

    def _number_of(self, moment_ns: int) -> int:
        # A request that is recorded only after its window was closed counts in the first that is open. That happens to
        # requests that were never sent and had long been due.
        return max(self._next, self.grid.number_of(moment_ns))

    def tick(self, now_ns: int) -> None:
        """Close the windows that were over at the last tick. What had arrived by their end has been recorded
        since, even if the event loop stood still meanwhile."""
        is_over = self.grid.bounds(self._next)[1] <= self._ticked_ns
        if is_over:
            self._close_until(self._ticked_ns)
            self._collector_ns = self._observer.collect_garbage()
        self._ticked_ns = now_ns

    def close_all(self, now_ns: int) -> None:
        """Close all windows that have begun, the last of them now."""
        self.fold.fold()
        last = self.grid.number_of(now_ns - 1)
        if self.grid.last_regular is not None:  # a window in which the stage drains is there for what ended in it
            last = min(last, self.grid.last_regular)
        last = max([last, *(number for _, number in self.fold.intervals)])
        self._close_until(max(now_ns, self.grid.bounds(last)[1]), at_most_ns=now_ns)

    def _close_until(self, end_ns: int, at_most_ns: int | None = None) -> None:
        """Close the windows that end by a moment. at_most_ns: when the stage ended, and so the last window."""
        self.fold.fold()
        # Several at once are those in which this process was not run. They share its measurements.
        facts = self._watch.facts(self._collector_ns)
        while self.grid.bounds(self._next)[1] <= end_ns:
            number, (start_ns, ends_ns) = self._next, self.grid.bounds(self._next)
            self._next += 1
            keys = sorted(key for key in self.fold.intervals if key[1] == number)
            intervals = [(key, self.fold.intervals.pop((key, at))) for key, at in keys]
            length_ns = (ends_ns if at_most_ns is None else max(start_ns, min(ends_ns, at_most_ns))) - start_ns
            self._send(
                WindowPart(
                    number,
                    start_ns,
                    start_ns + length_ns,
                    self.grid.is_draining(number),
                    tuple(i.snapshot(key, start_ns, length_ns, self.fold.slo) for key, i in intervals),
                    facts,
                )
            )
