"""Sleeping until a moment: never early, everybody woken, and no turning over of the loop meanwhile."""

import asyncio
import gc
import selectors
import sys
import weakref

import pytest

from loadgen import clock
from loadgen.clock import SystemClock, Timer, timer_of

MS = 1_000_000
CLOCK = SystemClock()

needs_timer_descriptors = pytest.mark.skipif(sys.platform != "linux", reason="only Linux has timer descriptors")


class CountingSelector(selectors.DefaultSelector):
    """Counts how often its loop has turned over."""

    turns = 0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        self.turns += 1
        return super().select(timeout)


@pytest.fixture(params=["timer", "loop"])
def waited_by(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """With the timer where there is one, and without, as on other systems."""
    if request.param == "loop":
        monkeypatch.setattr(clock, "timer_of", lambda loop: None)
    elif sys.platform != "linux":
        pytest.skip("only Linux has timer descriptors")
    return str(request.param)


def test_nobody_wakes_early_and_everybody_wakes(waited_by: str) -> None:
    async def main() -> list[int]:
        start = CLOCK.now_ns()

        async def sleeper(position: int) -> int:
            # Neighbors a few µs apart, out of order, and some that are due together.
            deadline = start + 20 * MS + (position * 7919 % 50) // 2 * 100_000
            await CLOCK.sleep_until_ns(deadline)
            return CLOCK.now_ns() - deadline

        return await asyncio.gather(*(sleeper(position) for position in range(50)))

    late = asyncio.run(main())
    assert len(late) == 50
    assert min(late) >= 0


def test_a_moment_that_has_passed_is_not_waited_for(waited_by: str) -> None:
    async def main() -> None:
        await CLOCK.sleep_until_ns(CLOCK.now_ns() - 1)
        await CLOCK.sleep_until_ns(-1)

    asyncio.run(asyncio.wait_for(main(), 30))


@needs_timer_descriptors
def test_the_loop_does_not_turn_over_while_everybody_sleeps() -> None:
    selector = CountingSelector()

    async def main() -> int:
        await CLOCK.sleep_until_ns(CLOCK.now_ns() + MS)
        before = selector.turns
        await CLOCK.sleep_until_ns(CLOCK.now_ns() + 150 * MS)
        return selector.turns - before

    with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(selector)) as runner:
        assert runner.run(main()) <= 4


@needs_timer_descriptors
def test_one_who_gives_up_does_not_keep_the_others_asleep() -> None:
    async def main() -> bool:
        start = CLOCK.now_ns()
        impatient = [asyncio.ensure_future(CLOCK.sleep_until_ns(start + at * MS)) for at in (5, 10, 40)]
        patient = asyncio.ensure_future(CLOCK.sleep_until_ns(start + 15 * MS))
        await asyncio.sleep(0)
        for sleeper in impatient:
            sleeper.cancel()
        await asyncio.wait_for(patient, 30)
        return CLOCK.now_ns() >= start + 15 * MS

    assert asyncio.run(main())


@needs_timer_descriptors
def test_whoever_comes_later_and_is_due_earlier_is_woken_first() -> None:
    async def main() -> list[str]:
        start, woken = CLOCK.now_ns(), []

        async def sleeper(name: str, at_ms: int) -> None:
            await CLOCK.sleep_until_ns(start + at_ms * MS)
            woken.append(name)

        late = asyncio.ensure_future(sleeper("late", 60))
        await asyncio.sleep(0)
        early = asyncio.ensure_future(sleeper("early", 10))
        await asyncio.wait_for(asyncio.gather(late, early), 30)
        return woken

    assert asyncio.run(main()) == ["early", "late"]


@needs_timer_descriptors
def test_a_loop_has_one_timer_and_it_goes_with_the_loop() -> None:
    async def main() -> "weakref.ref[Timer]":
        timer = timer_of(asyncio.get_running_loop())
        assert timer is not None
        assert timer_of(asyncio.get_running_loop()) is timer
        return weakref.ref(timer)

    kept = asyncio.run(main())
    gc.collect()
    assert kept() is None
