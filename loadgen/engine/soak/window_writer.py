"""Writes the windows of a soak: merges the parts of all processes, samples the memory of servers and our own, and
judges how well the window was measured. Keeps no window that is written."""

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime

from msgspec import Struct

from loadgen.analysis.summary import in_ms
from loadgen.analysis.window_validity import ClosedLoad, MeasuredWindow, lag_at, window_reasons
from loadgen.engine.heartbeat import Gap
from loadgen.engine.soak.windows import WindowPart, WindowSettings, grid_of
from loadgen.live.recorder import Fold, IntervalCounts, IntervalSnapshot
from loadgen.live.sink import MeasuringStart, NullSink, StageStart
from loadgen.record import ProcessFacts, Record, StageFacts, StageKey
from loadgen.stats.histogram import Histogram
from loadgen.stats.quantile import floor_of
from loadgen.store import hlog
from loadgen.store.windows import WINDOW_METRICS, WindowLine, WindowLog
from loadgen.telemetry.process_watch import ProcessWatch, worst_of
from loadgen.telemetry.server_memory import ServerMemory, ServerMemoryWatch
from loadgen.telemetry.temperature import temperature_c

ServerOf = Callable[[StageKey], tuple[int, int | None]]
"""Returns how many processes of a model's server have ended, and its process now; None if that is not known, or not on
this machine."""


class WindowWriter(NullSink):
    """The sink that writes each window as soon as every process that plays the stage has sent its part of it.

    Records reach it only by `take_late`.
    """

    def __init__(self, log: WindowLog, settings: WindowSettings, server_of: ServerOf, next_window: int = 0) -> None:
        """next_window: the number of the first window that is written."""
        self._log = log
        self.settings = settings
        self._server_of = server_of
        self._next_window = next_window
        self._stage: _OpenStage | None = None
        self._start: StageStart | None = None
        self._memory: dict[StageKey, ServerMemoryWatch] = {}
        self._gaps: list[Gap] = []
        """Those that may lie in a window that is not written."""
        self._written_until_ns = 0
        """The end of the last window that is written."""

    @property
    def now_ns(self) -> int:
        """The time since the run began. Only while a stage is measured."""
        assert self._stage is not None
        beginning = self._stage.beginning
        return beginning.observer.clock.now_ns() - beginning.epoch_ns

    def start(self, stage: StageStart) -> None:
        self._start, self._stage = stage, None

    def measure(self, beginning: MeasuringStart) -> None:
        assert self._start is not None
        self._stage = _OpenStage(self._start, self.settings, beginning, self._next_window)

    def tick(self, now_ns: int) -> None:
        """Nothing: a window is written when its last part comes."""

    def drain(self, at_ns: int) -> None:
        if self._stage is not None:
            self._stage.grid = self._stage.grid.draining_from(at_ns)

    def take(self, process: int, part: WindowPart) -> None:
        """A process has closed a window. process: its number, from 0."""
        if self._stage is not None:
            self._stage.parts.setdefault(part.number, []).append(part)
            self._stage.sent[process] = part.number
            self._write_complete(self._stage)

    def take_late(self, record: Record) -> None:
        """Fold a record that no process will send, because the one that had it was lost."""
        if self._stage is not None and record.phase == "measured":
            self._stage.late.take(record)

    def finish(self, process: int) -> None:
        """A process sends no more parts of this stage: it has ended its part, or was lost."""
        if self._stage is not None:
            self._stage.sent.pop(process, None)
            self._write_complete(self._stage)

    def add_gap(self, gap: Gap) -> None:
        """We were not run for a while. The windows in which that was say so."""
        self._gaps.append(gap)

    def window_of(self, moment_ns: int) -> int | None:
        """The window in which a moment of the run's clock lies, as far as is known now; None before the first stage."""
        if self._stage is None:
            return self._next_window - 1 if self._next_window else None
        return self._stage.first_window + self._stage.grid.number_of(moment_ns)

    def stop(self, facts: StageFacts) -> None:
        if self._stage is not None:
            self._stage.sent.clear()
            self._stage.add_late_parts()
            self._write_complete(self._stage)
            self._next_window = self._stage.first_window + self._stage.next
            self._stage = None

    def _write_complete(self, stage: "_OpenStage") -> None:
        """Write the windows of which all parts are there."""
        while stage.is_complete:
            self._write(stage, stage.parts.pop(stage.next))
            stage.next += 1
            stage.wall_offset_ns = stage.beginning.observer.wall_offset_ns

    def _write(self, stage: "_OpenStage", parts: Sequence[WindowPart]) -> None:
        """Write the next window of a stage."""
        # Each process drains from a moment of its own, a little apart.
        start_ns = max(self._written_until_ns, min(part.start_ns for part in parts))
        end_ns = max(start_ns, *(part.end_ns for part in parts))
        self._written_until_ns = end_ns
        snapshots = stage.merged(parts, start_ns, end_ns)
        facts = worst_of([part.facts for part in parts if part.facts is not None])
        users, slip_ns = stage.start.users, sum(snapshot.slip_ns for snapshot in snapshots)
        sent = sum(sum(snapshot.buckets.get("dispatch_slip", {}).values()) for snapshot in snapshots)
        window = WrittenWindow(
            number=stage.first_window + stage.next,
            start_ns=start_ns,
            end_ns=end_ns,
            start_utc=stage.utc_of(start_ns),
            is_draining=any(part.is_draining for part in parts),
            gap_s=round(sum(stage.lost_s(gap, start_ns, end_ns) for gap in self._gaps), 3),
            facts=facts,
            own_rss_bytes=stage.own_rss_bytes(facts),
            # No process played it that could tell: nothing that is read now belongs to it.
            temperature_c=None if facts is None else temperature_c(),
            closed_load=None if users is None else ClosedLoad(users, end_ns - start_ns, sent, slip_ns),
        )
        self._gaps = [gap for gap in self._gaps if gap.end_ns - stage.beginning.epoch_ns >= end_ns]
        lines, intervals = list[WindowLine](), list[hlog.Interval]()
        for snapshot in snapshots:
            histograms = {metric: snapshot.histogram(metric) for metric in snapshot.buckets}
            life, pid = self._server_of(snapshot.key)
            watch = self._memory.setdefault(snapshot.key, ServerMemoryWatch(stage.beginning.observer.clock))
            lines.append(_line_of(window, snapshot, histograms, watch.sample(pid), life))
            intervals += _intervals_of(snapshot, histograms)
        self._log.append(lines, intervals)
        stage.collect_garbage()


class _OpenStage:
    """The windows of one stage that are not written yet."""

    def __init__(
        self, start: StageStart, settings: WindowSettings, beginning: MeasuringStart, first_window: int
    ) -> None:
        self.start = start
        self.beginning = beginning
        self.first_window = first_window
        self.grid = grid_of(start, beginning.start_ns, settings.length_ns)
        self.parts: dict[int, list[WindowPart]] = {}
        """By the number of the window."""
        self.sent = dict.fromkeys(range(max(1, beginning.workers)), -1)
        """The last window that each process that still plays has sent."""
        self.next = 0
        """The first window that is not written."""
        self.late = Fold(start, self._number_of, settings.slo)
        """What processes that were lost had not sent."""
        self.wall_offset_ns = beginning.observer.wall_offset_ns
        """The wall clock minus ours when the next window began."""
        self._own = ProcessWatch(beginning.observer) if beginning.workers else None

    def _number_of(self, moment_ns: int) -> int:
        return max(self.next, self.grid.number_of(moment_ns))

    @property
    def is_complete(self) -> bool:
        """Whether all parts of the next window are there."""
        return self.next in self.parts and all(number >= self.next for number in self.sent.values())

    def add_late_parts(self) -> None:
        """Have windows written that only have what lost processes had not sent."""
        self.late.fold()
        last = max([self.next - 1, *self.parts, *(number for _, number in self.late.intervals)])
        for number in range(self.next, last + 1):
            part = WindowPart(number, *self.grid.bounds(number), self.grid.is_draining(number), (), None)
            self.parts.setdefault(number, [part])

    def merged(self, parts: Sequence[WindowPart], start_ns: int, end_ns: int) -> list[IntervalSnapshot]:
        """The counts of all processes together in the next window, of each model of the stage."""
        keys = [StageKey(*pair, self.start.level) for pair in zip(self.start.targets, self.start.models, strict=True)]
        intervals = {key: IntervalCounts() for key in keys}
        for part in parts:
            for snapshot in part.intervals:
                intervals[snapshot.key].merge(snapshot)
        self.late.fold()
        for key in keys:
            late = self.late.intervals.pop((key, self.next), None)
            if late is not None:
                intervals[key].merge(late)
        return [i.snapshot(key, start_ns, end_ns - start_ns, self.late.slo) for key, i in intervals.items()]

    def utc_of(self, moment_ns: int) -> str:
        """The date and time of the beginning of the next window, ISO 8601."""
        wall_ns = self.beginning.epoch_ns + self.wall_offset_ns + moment_ns
        return datetime.fromtimestamp(wall_ns / 1e9, UTC).isoformat(timespec="milliseconds")

    def lost_s(self, gap: Gap, start_ns: int, end_ns: int) -> float:
        """How much of a gap lies in a window, s. While the machine is suspended, the run's clock stands still: all
        of that time is in the window in which the gap ends."""
        gap_start_ns, gap_end_ns = gap.start_ns - self.beginning.epoch_ns, gap.end_ns - self.beginning.epoch_ns
        stopped_s = max(0, min(end_ns, gap_end_ns) - max(start_ns, gap_start_ns)) / 1e9
        suspended_s = max(0.0, gap.for_s - (gap_end_ns - gap_start_ns) / 1e9)
        return stopped_s + (suspended_s if start_ns <= gap_end_ns < end_ns else 0.0)

    def own_rss_bytes(self, played: ProcessFacts | None) -> int | None:
        """The resident memory of all our processes. played: the facts of those that play; None: they are gone."""
        if played is None:
            return None
        own = None if self._own is None else self._own.rss_bytes()
        known = [rss for rss in (played.rss_bytes, own) if rss is not None]
        return sum(known) if known else None

    def collect_garbage(self) -> None:
        """If others play, collect the garbage of this process, in which nobody measures anything."""
        if self._own is not None:
            self.beginning.observer.collect_garbage()


class WrittenWindow(Struct, frozen=True, kw_only=True):
    """What the models of a window have in common. The fields are those of `WindowLine`."""

    number: int
    start_ns: int
    end_ns: int
    start_utc: str
    is_draining: bool
    gap_s: float
    facts: ProcessFacts | None
    own_rss_bytes: int | None
    temperature_c: float | None
    closed_load: ClosedLoad | None


def _line_of(
    window: WrittenWindow,
    snapshot: IntervalSnapshot,
    histograms: Mapping[str, Histogram],
    memory: ServerMemory,
    life: int,
) -> WindowLine:
    facts = window.facts
    measured = MeasuredWindow(
        stamp_source="user" if snapshot.user_stamped else "kernel",
        histograms=histograms,
        slowest_ns={metric: highest for metric, (_, highest) in snapshot.extremes_ns.items()},
        over_range=snapshot.over_range,
        closed_load=window.closed_load,
        facts=facts,
    )
    reasons = window_reasons(measured)
    return WindowLine(
        window=window.number,
        start_ns=window.start_ns,
        end_ns=window.end_ns,
        start_utc=window.start_utc,
        model=snapshot.model,
        target=snapshot.target,
        level=snapshot.level,
        ok=snapshot.by_outcome.get("ok", 0),
        by_outcome=snapshot.by_outcome,
        output_tokens=snapshot.output_tokens,
        prompt_tokens=snapshot.prompt_tokens,
        stream_s=snapshot.stream_ns / 1e9,
        slo_met=snapshot.slo_met,
        ttft_p50_ms=_percentile_ms(histograms.get("ttft"), 50.0, 1),
        itl_p50_ms=_percentile_ms(histograms.get("itl"), 50.0, 1),
        e2e_p50_ms=_percentile_ms(histograms.get("e2e"), 50.0, 1),
        extremes_ns={metric: pair for metric, pair in snapshot.extremes_ns.items() if metric in WINDOW_METRICS},
        server_memory_bytes=memory.memory_bytes,
        server_memory_kind=memory.kind,
        server_rss_bytes=memory.rss_bytes,
        own_rss_bytes=window.own_rss_bytes,
        server_life=life,
        temperature_c=window.temperature_c,
        throttled=None,
        loop_lag_p99_ms=None if facts is None else in_ms(lag_at(facts.loop_lags_ns, 99.0, facts.ticks)),
        dispatch_slip_p99_ms=_percentile_ms(histograms.get("dispatch_slip"), 99.0, floor_of(99.0)),
        collector_ms=round(facts.collector_ns / 1e6, 4) if facts is not None else 0.0,
        gap_s=window.gap_s,
        draining=window.is_draining,
        valid=not reasons,
        reasons=reasons,
    )


def _percentile_ms(histogram: Histogram | None, p: float, fewest: int) -> float | None:
    """A percentile; None if there are fewer values than that."""
    return in_ms(histogram.quantile_ns(p)) if histogram is not None and histogram.count >= fewest else None


def _intervals_of(snapshot: IntervalSnapshot, histograms: Mapping[str, Histogram]) -> list[hlog.Interval]:
    """The lines of the histogram log."""
    start_s, length_s = snapshot.start_ns / 1e9, snapshot.length_ns / 1e9
    return [
        hlog.Interval(
            hlog.tag(snapshot.target, snapshot.model, snapshot.level, metric), start_s, length_s, histograms[metric]
        )
        for metric in WINDOW_METRICS
        if metric in histograms
    ]
