"""The heartbeat, in virtual time: which gaps it notices, of which kind, and how long they were."""

import asyncio
import ctypes
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from loadgen.clock import SYSTEM_BOOT_CLOCK, SystemBootClock, clock_pair, mach_pair, windows_pair
from loadgen.engine.background import Background
from loadgen.engine.heartbeat import Gap, Heartbeat, Interruption, beating
from loadgen.store.events import Event, EventLog, read_events
from tests.virtual import START_NS, VirtualBootClock, VirtualClock, run

S = 1_000_000_000
CLOCK = VirtualClock()


class Noticed:
    """What a heartbeat noticed of the machine that a test disturbs at a moment."""

    def __init__(self) -> None:
        self.boot = VirtualBootClock()
        self.heartbeat: Heartbeat
        self.interruptions: list[Interruption] = []

    async def disturb(
        self, disturbances: list[tuple[float, Callable[[VirtualBootClock], None]]], until_s: float
    ) -> None:
        self.heartbeat = Heartbeat(CLOCK, self.boot, wall=self.boot.wall_ns)
        with self.heartbeat.calling(self.interruptions.append):
            async with Background(self.heartbeat.beat()):
                for at_s, disturb in disturbances:
                    await CLOCK.sleep_until_ns(START_NS + round(at_s * S))
                    disturb(self.boot)
                await CLOCK.sleep_until_ns(START_NS + round(until_s * S))


def noticed(*disturbances: tuple[float, Callable[[VirtualBootClock], None]], until_s: float = 100.0) -> Noticed:
    result = Noticed()
    run(result.disturb(list(disturbances), until_s))
    return result


def test_an_undisturbed_night_has_no_gap() -> None:
    night = noticed(until_s=8 * 3600.0)
    assert night.interruptions == []
    assert night.heartbeat.last_gap is None


def test_a_suspended_machine_is_noticed_within_a_second_by_real_time() -> None:
    night = noticed((10.5, lambda boot: boot.suspend(3600 * S)))
    (gap,) = night.interruptions
    # The clock of the run stood still, so the gap is between two of its beats.
    assert gap == Gap("suspended", START_NS + 10 * S, START_NS + 11 * S, START_NS + 10 * S, START_NS + 3611 * S)
    assert gap.for_s == 3601.0
    assert gap.words == "the machine was suspended"
    assert night.heartbeat.ahead_ns == 3600 * S


def test_a_stopped_process_is_noticed_and_real_time_is_not_ahead_of_it() -> None:
    night = noticed((10.5, lambda boot: boot.stop(20 * S)))
    (gap,) = night.interruptions
    assert gap == Gap(
        "stopped", START_NS + 10 * S, START_NS + 30 * S + S // 2, START_NS + 10 * S, START_NS + 30 * S + S // 2
    )
    assert gap.for_s == 20.5
    assert gap.words == "loadgen was stopped"
    assert night.heartbeat.ahead_ns == 0


@pytest.mark.parametrize(("for_s", "gaps"), [(3.0, 0), (4.4, 0), (4.6, 1), (6.0, 1)])
def test_a_gap_is_longer_than_five_seconds(for_s: float, gaps: int) -> None:
    assert len(noticed((10.5, lambda boot: boot.stop(round(for_s * S)))).interruptions) == gaps


def test_whoever_looks_first_notices_a_gap_and_it_is_noticed_once() -> None:
    boot, heard = VirtualBootClock(), list[Interruption]()

    async def main() -> None:
        heartbeat = Heartbeat(CLOCK, boot, wall=boot.wall_ns)
        with heartbeat.calling(heard.append):
            async with Background(heartbeat.beat()):
                await CLOCK.sleep_until_ns(START_NS + 3 * S + 1)
                boot.suspend(60 * S)
                heartbeat.check()  # as before a request is sent, or after it has ended
                assert len(heard) == 1
                await CLOCK.sleep_until_ns(START_NS + 50 * S)

    run(main())
    assert len(heard) == 1


def test_the_time_before_the_first_beat_is_no_gap() -> None:
    boot, heard = VirtualBootClock(), list[Interruption]()

    async def main() -> None:
        heartbeat = Heartbeat(CLOCK, boot, wall=boot.wall_ns)
        await CLOCK.sleep_until_ns(START_NS + 60 * S)  # as long as a slow machine takes to start its workers
        boot.set_wall_clock(S)
        with heartbeat.calling(heard.append):
            async with Background(heartbeat.beat()):
                await CLOCK.sleep_until_ns(START_NS + 70 * S)

    run(main())
    assert heard == []


def test_several_suspensions_add_up() -> None:
    night = noticed((10.5, lambda boot: boot.suspend(60 * S)), (20.5, lambda boot: boot.suspend(30 * S)))
    first, second = night.interruptions
    assert isinstance(first, Gap)
    assert isinstance(second, Gap)
    assert second.real_start_ns == second.start_ns + 60 * S
    assert second.real_end_ns == second.end_ns + 90 * S
    assert night.heartbeat.ahead_ns == 90 * S


def test_a_moment_of_real_time_has_its_place_on_the_clock_of_the_run() -> None:
    gap = Gap("suspended", 100, 101, 1100, 5000)
    assert [gap.moment_of(real_ns) for real_ns in (1050, 1100, 1101, 3000, 5000)] == [50, 100, 101, 101, 101]


@pytest.mark.parametrize(("by_s", "words"), [(3600, "forward by 3600.0 s"), (-0.25, "back by 0.2 s")])
def test_a_step_of_the_wall_clock_is_an_event_and_no_gap(tmp_path: Path, by_s: float, words: str) -> None:
    async def main() -> Heartbeat:
        boot = VirtualBootClock()
        heartbeat = Heartbeat(CLOCK, boot, wall=boot.wall_ns)
        async with beating(heartbeat, EventLog(tmp_path, CLOCK, START_NS)):
            await CLOCK.sleep_until_ns(START_NS + 3 * S + S // 2)
            boot.set_wall_clock(round(by_s * S))
            await CLOCK.sleep_until_ns(START_NS + 60 * S)
        return heartbeat

    assert run(main()).last_gap is None
    (event,) = read_events(tmp_path)
    assert (event.kind, event.at_ns, event.detail) == ("clock_stepped", 4 * S, f"the wall clock was set {words}")


@pytest.mark.parametrize("by_ms", [-90, 16, 90])
def test_a_clock_that_ticks_does_not_look_like_a_step(by_ms: int) -> None:
    assert noticed((10.5, lambda boot: boot.set_wall_clock(by_ms * 1_000_000))).interruptions == []


def test_gaps_are_events_with_their_length_in_real_time(tmp_path: Path) -> None:
    async def main() -> None:
        boot = VirtualBootClock()
        async with beating(Heartbeat(CLOCK, boot, wall=boot.wall_ns), EventLog(tmp_path, CLOCK, START_NS)):
            await CLOCK.sleep_until_ns(START_NS + 10 * S + S // 2)
            boot.suspend(3600 * S)
            await CLOCK.sleep_until_ns(START_NS + 20 * S + S // 2)
            boot.stop(20 * S)
            await asyncio.sleep(5)

    run(main())
    assert [(event.kind, event.at_ns, event.for_s, event.detail) for event in read_events(tmp_path)] == [
        ("suspended", 10 * S, 3601.0, "the machine was suspended for 3601.0 s"),
        ("stopped", 20 * S, 20.5, "loadgen was stopped for 20.5 s"),
    ]


def test_a_stop_of_a_worker_is_told_unless_all_were_stopped() -> None:
    night = noticed((10.5, lambda boot: boot.stop(20 * S)))
    heard: list[Interruption] = []
    with night.heartbeat.calling(heard.append):
        own = night.heartbeat.last_gap
        assert own is not None
        night.heartbeat.report(Gap("stopped", own.start_ns + S, own.end_ns, 0, 0, "worker 1 of 2"))
        night.heartbeat.report(Gap("suspended", 90 * S, 91 * S, 0, 0, "worker 1 of 2"))
        assert heard == []
        alone = Gap("stopped", own.end_ns + S, own.end_ns + 9 * S, 0, 0, "worker 2 of 2")
        night.heartbeat.report(alone)
    assert heard == [alone]
    assert alone.words == "worker 2 of 2 was stopped"


# The clocks of the platforms


def test_the_boot_clock_of_this_machine_goes_on_and_was_not_suspended_meanwhile() -> None:
    first = SYSTEM_BOOT_CLOCK.now_ns()
    assert SYSTEM_BOOT_CLOCK.now_ns() >= first
    assert abs(SystemBootClock().suspended_ns()) < S


def library(**functions: Callable[..., int]) -> SimpleNamespace:
    class Function:
        restype: object = None

        def __init__(self, call: Callable[..., int]) -> None:
            self.call = call

        def __call__(self, *arguments: object) -> int:
            return self.call(*arguments)

    return SimpleNamespace(**{name: Function(call) for name, call in functions.items()})


def test_the_clocks_of_macos_count_ticks_of_their_timebase() -> None:
    def timebase(base: object) -> int:
        base._obj.numerator, base._obj.denominator = 125, 3  # type: ignore[attr-defined]
        return 0

    ticks = {"continuous": 48_000_000, "absolute": 24_000_000}
    real_ns, awake_ns = mach_pair(
        library(
            mach_timebase_info=timebase,
            mach_continuous_time=lambda: ticks["continuous"],
            mach_absolute_time=lambda: ticks["absolute"],
        )
    )
    assert (real_ns(), awake_ns()) == (2 * S, S)
    clock = SystemBootClock((real_ns, awake_ns))
    ticks["continuous"] += 24_000_000
    assert (clock.now_ns(), clock.suspended_ns()) == (3 * S, S)


def test_the_clocks_of_windows_count_milliseconds_and_tenths_of_microseconds() -> None:
    def unbiased(pointer: object) -> int:
        target = pointer._obj  # type: ignore[attr-defined]
        assert isinstance(target, ctypes.c_ulonglong)
        target.value = 7 * 10_000_000
        return 1

    real_ns, awake_ns = windows_pair(library(GetTickCount64=lambda: 9_000, QueryUnbiasedInterruptTime=unbiased))
    assert (real_ns(), awake_ns()) == (9 * S, 7 * S)


@pytest.mark.parametrize("platform", ["freebsd14", "win32", "darwin"])
def test_without_the_clocks_of_its_platform_the_wall_clock_takes_their_place(
    platform: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_library(_: object) -> object:
        raise OSError("no such library")

    monkeypatch.setattr(ctypes, "CDLL", no_library)
    assert clock_pair(platform) == (time.time_ns, time.monotonic_ns)


def test_a_process_that_is_stopped_between_two_readings_was_not_suspended() -> None:
    # The clocks are read one after the other. A stop between them makes the bracket wide, and another is read.
    now = {"ns": 0, "reads": 0}

    def read() -> int:
        now["reads"] += 1
        now["ns"] += 20 * S if now["reads"] == 5 else 100
        return now["ns"]

    clock = SystemBootClock((read, read))
    assert abs(clock.suspended_ns()) < 1_000


def test_listeners_hear_nothing_after_their_context(tmp_path: Path) -> None:
    heard: list[Event] = []

    async def main() -> None:
        boot = VirtualBootClock()
        heartbeat = Heartbeat(CLOCK, boot, wall=boot.wall_ns)
        async with beating(heartbeat, EventLog(tmp_path, CLOCK, START_NS, on_event=heard.append)):
            pass
        boot.stop(60 * S)
        heartbeat.check()

    run(main())
    assert heard == []
