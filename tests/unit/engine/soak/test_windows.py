"""The windows of a soak, in virtual time: they are what the records say, whoever plays, and are closed on time."""

import contextlib
import functools
import gc
import itertools
from collections import Counter, deque
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from loadgen.analysis import metrics
from loadgen.engine import stage
from loadgen.engine.heartbeat import Gap
from loadgen.engine.run import play_plan
from loadgen.engine.soak.unwritten import Unwritten, write_unwritten
from loadgen.engine.soak.window_writer import WindowWriter
from loadgen.engine.soak.windows import WindowGrid, WindowPart, WindowSettings, WindowSink
from loadgen.live.sink import MeasuringStart, NullSink, StageStart
from loadgen.plan.plan import Plan, make_plan
from loadgen.plan.prompts import Prompt
from loadgen.record import LatencyOrigin, Record
from loadgen.scenario import Closed, Constant, Load, Model, Scenario, Slo, ThinkTime
from loadgen.stats.histogram import Histogram
from loadgen.store.hlog import read_interval_log, tag
from loadgen.store.run_folder import Run
from loadgen.store.windows import HISTOGRAMS, WINDOW_METRICS, WindowLine, WindowLog, read_windows
from loadgen.targets.registry import target_name
from loadgen.telemetry import observer
from loadgen.telemetry.observer import Observer
from tests.records import MS, S, facts, record, turn, unsent
from tests.virtual import START_NS, VirtualClock, run
from tests.virtual_client import CLOCK, ScriptedClient, no_connection, stream

pytestmark = pytest.mark.slow  # hours of virtual time

STAGE = StageStart(
    models=("m",), targets=("t",), level="c1", latency_origin="sent", count=None, duration_s=None, users=1
)
SLO = Slo(ttft_ms=100.0)


def plan_of(load: Load, models: int = 1, **changes: Any) -> Plan:
    scenario = Scenario(
        name="windows",
        prompts=("Say something.",),
        models=tuple(Model(name=f"m{at}", url=f"http://m{at}.invalid/v1", target="openai") for at in range(models)),
        load=load,
        slo=SLO,
        preflight=False,
        probe=False,
        warmup_requests=2,
        **changes,
    )
    return make_plan(scenario, (Prompt("p", "Say something."),))


def play(plan: Plan, folder: Path, *, window_ns: int = 10 * S, answer: Callable[..., Any] | None = None) -> Run:
    """Play a plan with windows. The second of three requests fails."""

    def default(_body: dict[str, Any], number: int) -> Any:
        return no_connection() if number % 3 == 1 else stream(*"abcd", gap_ns=(5 + number % 40) * MS, usage=4)

    settings = WindowSettings(window_ns, SLO)
    log = WindowLog(folder, 0.0)
    writer = WindowWriter(log, settings, lambda _: (0, None))
    sink = WindowSink(settings, lambda part: writer.take(0, part))
    client = ScriptedClient(answer or default)
    with contextlib.closing(log):
        return run(play_plan(plan, folder / "results", clock=CLOCK, client=client, sinks=(sink, writer)))


def histograms_in(folder: Path) -> dict[tuple[str, float], Histogram]:
    text = (folder / HISTOGRAMS).read_text("utf-8")
    return {(interval.tag, interval.start_s): interval.histogram for interval in read_interval_log(text)}


def check_sums(
    folder: Path, records: Iterable[Record], origin: LatencyOrigin, slo: Slo | None = SLO
) -> tuple[WindowLine, ...]:
    """That each window has exactly the requests that ended in it, in its line and in its histograms."""
    windows, histograms = read_windows(folder), histograms_in(folder)
    measured = [r for r in records if r.phase == "measured"]
    assert sum(sum(line.by_outcome.values()) for line in windows) == len(measured)
    # A stage ends with its last request, at the same ns in virtual time.
    last = {line.level: line.window for line in windows}.values()
    for line in windows:
        own = [
            r
            for r in measured
            if (r.model, r.target, r.level) == (line.model, line.target, line.level)
            and line.start_ns <= (r.intended_ns if r.end_ns is None else r.end_ns) < line.end_ns + (line.window in last)
        ]
        ok = [r for r in own if r.outcome == "ok"]
        assert line.by_outcome == Counter(r.outcome for r in own)
        assert line.ok == len(ok)
        assert line.output_tokens == sum(r.output_tokens or 0 for r in ok)
        assert line.prompt_tokens == sum(r.prompt_tokens or 0 for r in ok)
        assert line.slo_met == (None if slo is None else sum(metrics.meets(r, slo, origin=origin) for r in ok))
        assert line.stream_s == pytest.approx(sum((r.end_ns or 0) - r.stamps_ns[0] for r in ok if r.stamps_ns) / 1e9)
        values = metrics.of_requests(ok, origin=origin) | {"itl": metrics.gaps_of(ok).values}
        for metric in WINDOW_METRICS:
            expected, key = Histogram(), (tag(line.target, line.model, line.level, metric), line.start_ns / 1e9)
            expected.record(values[metric])
            assert histograms.get(key, Histogram()) == expected, (line.window, metric)
            extremes = (int(values[metric].min()), int(values[metric].max())) if len(values[metric]) else None
            assert line.extremes_ns.get(metric) == extremes
    return windows


@pytest.mark.parametrize(
    ("load", "origin"),
    [
        (Closed(concurrency=(3,), duration_s=100.0, think_time=ThinkTime(0.5)), "sent"),
        (Constant(rates_per_s=(4.0,), duration_s=100.0), "intended"),
    ],
    ids=["closed", "open"],
)
def test_each_window_has_exactly_the_requests_that_ended_in_it(
    tmp_path: Path, load: Load, origin: LatencyOrigin
) -> None:
    played = play(plan_of(load), tmp_path)
    windows = check_sums(tmp_path, played.records, origin)
    regular = [line for line in windows if not line.draining]
    assert len(regular) == 10
    assert [line.window for line in windows] == list(range(len(windows)))
    assert all(later.start_ns == earlier.end_ns for earlier, later in itertools.pairwise(windows))
    assert {line.end_ns - line.start_ns for line in regular[:-1]} == {10 * S}


def test_models_that_take_turns_have_a_line_each_in_every_window_and_stages_go_on_counting(tmp_path: Path) -> None:
    load = Closed(concurrency=(1, 2), duration_s=30.0, think_time=ThinkTime(1.0))
    played = play(plan_of(load, 2, order="interleaved"), tmp_path, window_ns=10 * S)
    windows = check_sums(tmp_path, played.records, "sent")
    assert [(line.window, line.level, line.model) for line in windows if not line.draining] == [
        (number, level, model)
        for number, level in ((0, "c1"), (1, "c1"), (2, "c1"), (3, "c2"), (4, "c2"), (5, "c2"))
        for model in ("m0", "m1")
    ]


class Bench:
    """A stage in this process, or in several, with the clock in the test's hands."""

    def __init__(self, folder: Path, *, processes: int = 1, window_ns: int = 10 * S, stage: StageStart = STAGE) -> None:
        self.folder = folder
        settings = WindowSettings(window_ns, SLO)
        self.log = WindowLog(folder, 0.0)
        self.writer = WindowWriter(self.log, settings, lambda _: (0, None))
        self.sinks = [WindowSink(settings, self._taker(process)) for process in range(processes)]
        self.now_s = 0
        self._processes = processes
        self._stage = stage
        self.parts: list[tuple[int, WindowPart]] = []

    def _taker(self, process: int) -> Callable[[WindowPart], None]:
        def take(part: WindowPart) -> None:
            self.parts.append((process, part))
            self.writer.take(process, part)

        return take

    def begin(self) -> None:
        workers = self._processes if self._processes > 1 else 0
        for sink in self.all_sinks:
            sink.start(self._stage)
            sink.measure(MeasuringStart(0, START_NS, Observer(VirtualClock(), lambda: 0), workers))

    def tick(self, until_s: int) -> None:
        for second in range(int(self.now_s) + 1, until_s + 1):
            for sink in self.sinks:
                sink.tick(second * S)
        self.now_s = until_s

    def stop(self, end_s: float) -> tuple[WindowLine, ...]:
        for process, sink in enumerate(self.sinks):
            sink.stop(facts(end_ns=round(end_s * S)))
            self.writer.finish(process)
        self.writer.stop(facts(end_ns=round(end_s * S)))
        self.log.close()
        return read_windows(self.folder)

    @property
    def all_sinks(self) -> tuple[WindowSink | WindowWriter, ...]:
        return (*self.sinks, self.writer)

    @property
    def written(self) -> list[int]:
        return [line.window for line in read_windows(self.folder)]


def on_bench(test: Callable[[], Any]) -> Any:
    """Call a function in an event loop of virtual time, whose clock observers read."""

    async def call() -> Any:
        return test()

    return run(call())


def ended(second: float, **changes: Any) -> Record:
    """A request that ended then."""
    return turn(0, **changes) if second < 0 else record(end_ns=round(second * S), **changes)


def gap(start_ns: int, end_ns: int, suspended_s: int = 0) -> Gap:
    """A time in which we were not run. Moments since the run began."""
    start_ns, end_ns = START_NS + start_ns, START_NS + end_ns
    return Gap("suspended" if suspended_s else "stopped", start_ns, end_ns, start_ns, end_ns + suspended_s * S)


def test_a_window_is_closed_on_time_although_nothing_ends_and_nothing_changes_it_later(tmp_path: Path) -> None:
    def play() -> tuple[WindowLine, ...]:
        bench = Bench(tmp_path)
        bench.begin()
        bench.sinks[0].record(ended(9.9999))
        bench.tick(10)
        # What ended before the window did may be recorded a moment later.
        bench.sinks[0].record(ended(9.99999))
        assert bench.written == []
        bench.tick(11)
        assert bench.written == [0]
        bench.tick(41)
        assert bench.written == [0, 1, 2, 3]
        # One that comes after all counts in the window that is open.
        bench.sinks[0].record(ended(5.0, outcome="cancelled"))
        return bench.stop(45.0)

    windows = on_bench(play)
    assert [(line.ok, sum(line.by_outcome.values())) for line in windows] == [(2, 2), (0, 0), (0, 0), (0, 0), (0, 1)]
    assert [line.end_ns for line in windows] == [10 * S, 20 * S, 30 * S, 40 * S, 45 * S]


def test_the_event_loop_may_stand_still_and_what_had_arrived_still_counts_where_it_ended(tmp_path: Path) -> None:
    def play() -> tuple[WindowLine, ...]:
        bench = Bench(tmp_path)
        bench.begin()
        bench.tick(8)
        bench.sinks[0].tick(35 * S)  # the first look for 27 s: what had arrived is recorded after it
        for second in (9.0, 19.0, 29.0):
            bench.sinks[0].record(ended(second))
        bench.now_s = 35
        bench.writer.add_gap(gap(8 * S, 35 * S))
        bench.tick(36)
        assert bench.written == [0, 1, 2]
        return bench.stop(40.0)

    windows = on_bench(play)
    assert [line.ok for line in windows] == [1, 1, 1, 0]
    assert [line.gap_s for line in windows] == [2.0, 10.0, 10.0, 5.0]


def test_a_suspended_machine_is_in_the_gap_of_the_window_in_which_it_woke(tmp_path: Path) -> None:
    def play() -> tuple[WindowLine, ...]:
        bench = Bench(tmp_path)
        bench.begin()
        bench.tick(12)
        bench.writer.add_gap(gap(12 * S, 12 * S + 300 * MS, suspended_s=3_600))
        bench.tick(31)
        return bench.stop(31.0)

    assert [line.gap_s for line in on_bench(play)] == [0.0, 3_600.3, 0.0, 0.0]


def test_what_ends_after_the_deadline_has_windows_of_its_own(tmp_path: Path) -> None:
    def play() -> tuple[WindowLine, ...]:
        bench = Bench(tmp_path, stage=msgspec.structs.replace(STAGE, duration_s=25.0))
        bench.begin()
        for second in (24.999, 25.0, 34.999, 35.0):
            bench.sinks[0].record(ended(second))
            bench.tick(int(second))
        return bench.stop(37.0)

    windows = on_bench(play)
    assert [(line.start_ns, line.end_ns, line.ok, line.draining) for line in windows] == [
        (0, 10 * S, 0, False),
        (10 * S, 20 * S, 0, False),
        (20 * S, 25 * S, 1, False),
        (25 * S, 35 * S, 2, True),
        (35 * S, 37 * S, 1, True),
    ]


def test_a_stop_begins_to_drain_and_a_deadline_after_which_nothing_ends_leaves_no_window(tmp_path: Path) -> None:
    def play() -> tuple[WindowLine, ...]:
        bench = Bench(tmp_path, stage=msgspec.structs.replace(STAGE, duration_s=25.0))
        bench.begin()
        bench.tick(13)
        for sink in bench.all_sinks:
            sink.drain(13 * S)
            sink.drain(14 * S)
        bench.sinks[0].record(ended(12.0))
        bench.tick(16)
        return bench.stop(16.0)

    windows = on_bench(play)
    assert [(line.start_ns, line.end_ns, line.ok, line.draining) for line in windows] == [
        (0, 10 * S, 0, False),
        (10 * S, 13 * S, 1, False),
    ]


def test_the_windows_of_several_processes_merge_exactly_and_wait_for_the_last_of_them(tmp_path: Path) -> None:
    records = [turn(index, every_ns=300 * MS) for index in range(100)]

    def play(folder: Path, processes: int) -> tuple[WindowLine, ...]:
        folder.mkdir()
        bench = Bench(folder, processes=processes)
        bench.begin()
        for index, each in enumerate(records):
            bench.sinks[index % processes].record(each)
        if processes > 1:
            for second in (10, 11, 12):
                bench.sinks[0].tick(second * S)
            assert bench.written == []
        bench.tick(40)
        return bench.stop(40.0)

    alone, together = (on_bench(functools.partial(play, tmp_path / str(n), n)) for n in (1, 3))
    for one, several in zip(alone, together, strict=True):
        own = dict.fromkeys(("own_rss_bytes", "start_utc"))
        assert msgspec.structs.replace(one, **own) == msgspec.structs.replace(several, **own)
    assert histograms_in(tmp_path / "1") == histograms_in(tmp_path / "3")
    check_sums(tmp_path / "3", records, "sent")


def test_windows_of_processes_that_drain_at_different_moments_do_not_overlap(tmp_path: Path) -> None:
    def play() -> tuple[WindowLine, ...]:
        bench = Bench(tmp_path, processes=2)
        bench.begin()
        bench.tick(19)
        for process, at_ns in enumerate((19 * S + 100_000, 19 * S + 700_000)):
            bench.sinks[process].drain(at_ns)
        bench.sinks[0].record(ended(19.5))
        bench.tick(40)
        return bench.stop(40.0)

    lines = on_bench(play)
    assert any(line.draining for line in lines) and sum(line.ok for line in lines) == 1
    assert all(later.start_ns == earlier.end_ns for earlier, later in itertools.pairwise(lines))


def test_what_a_lost_process_had_not_sent_counts_where_it_ended(tmp_path: Path) -> None:
    def play() -> tuple[WindowLine, ...]:
        bench = Bench(tmp_path, processes=2)
        bench.begin()
        bench.sinks[0].record(ended(3.0))
        for second in range(1, 25):
            bench.sinks[0].tick(second * S)
        assert bench.written == []
        for moment_s in (4.0, 14.0, 45.0):
            bench.writer.take_late(ended(moment_s))
        bench.writer.finish(1)
        assert bench.written == [0, 1]
        bench.sinks.pop()
        return bench.stop(30.0)

    assert [line.ok for line in on_bench(play)] == [2, 1, 0, 0, 1]


def test_the_windows_of_a_process_that_was_killed_have_nothing_of_the_one_that_writes_them(tmp_path: Path) -> None:
    plan = plan_of(Closed(concurrency=(1,), duration_s=60.0))
    target = target_name(plan.models[0])
    records = tuple(
        msgspec.structs.replace(ended(moment_s), model="m0", target=target) for moment_s in (12.0, 13.0, 25.0)
    )
    log = WindowLog(tmp_path, 0.0)
    writer = WindowWriter(log, WindowSettings(10 * S, None), lambda _: (0, None), next_window=1)
    with contextlib.closing(log):
        unwritten = Unwritten(plan.stages[0], records, 10 * S, 27 * S)
        on_bench(lambda: write_unwritten(writer, plan, unwritten, CLOCK, 0))
    windows = read_windows(tmp_path)
    assert [line.ok for line in windows] == [2, 1]
    assert {(line.own_rss_bytes, line.temperature_c, line.server_memory_bytes) for line in windows} == {(None,) * 3}


def test_a_part_of_a_window_survives_the_way_from_a_worker(tmp_path: Path) -> None:
    def play() -> list[tuple[int, WindowPart]]:
        bench = Bench(tmp_path)
        bench.begin()
        for index in range(40):
            bench.sinks[0].record(turn(index))
        bench.tick(41)
        bench.stop(41.0)
        return bench.parts

    for _, part in on_bench(play):
        assert msgspec.json.decode(msgspec.json.encode(part), type=WindowPart) == part


def test_requests_that_were_never_sent_count_where_they_were_due(tmp_path: Path) -> None:
    def play() -> tuple[WindowLine, ...]:
        bench = Bench(tmp_path)
        bench.begin()
        bench.sinks[0].record(unsent("shed", intended_ns=12 * S))
        bench.sinks[0].record(ended(3.0, phase="warmup"))
        bench.tick(22)
        return bench.stop(22.0)

    assert [line.by_outcome for line in on_bench(play)] == [{}, {"shed": 1}, {}]


@pytest.mark.parametrize("drain_ns", [None, 32 * S, 5 * S])
def test_every_moment_lies_within_the_bounds_of_its_window(drain_ns: int | None) -> None:
    grid = WindowGrid(5 * S, 10 * S, drain_ns)
    for moment_ns in range(5 * S, 70 * S, 250 * MS):
        start_ns, end_ns = grid.bounds(grid.number_of(moment_ns))
        assert start_ns <= moment_ns < end_ns
        assert grid.is_draining(grid.number_of(moment_ns)) == (grid.drain_ns is not None and moment_ns >= grid.drain_ns)
    numbers = [grid.number_of(moment) for moment in range(5 * S, 70 * S, 250 * MS)]
    assert sorted(set(numbers)) == list(range(len(set(numbers))))
    assert numbers == sorted(numbers)


def entries() -> int:
    """How many entries all containers of this process have together."""
    gc.unfreeze()
    count = sum(len(each) for each in gc.get_objects() if isinstance(each, list | dict | set | deque))
    gc.freeze()
    return count


def test_nothing_grows_over_eight_hours_and_garbage_is_collected_between_windows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # So that the test takes seconds, and not a minute.
    monkeypatch.setattr(observer, "TICK_NS", 10 * S)
    monkeypatch.setattr(observer, "MOST_SAMPLES", 64)
    monkeypatch.setattr(stage, "TICK_S", 10.0)
    client = ScriptedClient(lambda _body, _number: stream("a", "b"))

    class Node:
        def __init__(self) -> None:
            self.itself = self

    garbage, sizes = [0] * 8, [0] * 8

    class Littering(NullSink):
        """Leaves garbage that only a collection finds, with each record, and counts what there is once an hour."""

        def record(self, record: Record) -> None:
            Node()
            client.requests.clear()
            client.sent_at_ns.clear()
            if record.phase == "measured" and record.index % 350 == 349:
                garbage[record.index // 350] = sum(isinstance(each, Node) for each in gc.get_objects())
                sizes[record.index // 350] = entries()

    plan = plan_of(Closed(concurrency=(1,), duration_s=8 * 3600.0, think_time=ThinkTime(10.0)))
    settings = WindowSettings(300 * S)
    log = WindowLog(tmp_path, 0.0)
    writer = WindowWriter(log, settings, lambda _: (0, None))
    sinks = (Littering(), WindowSink(settings, lambda part: writer.take(0, part)), writer)
    with contextlib.closing(log):
        run(play_plan(plan, tmp_path / "results", clock=CLOCK, client=client, sinks=sinks))
    assert len(read_windows(tmp_path)) == 96
    assert 0 < max(garbage) <= 40, "those of a window and a little"
    assert max(sizes[2:]) - min(sizes[2:]) <= 350, f"not one entry more for every ninth request: {sizes}"
