"""Virtual time itself: exact, in order, at once, and never stuck in silence."""

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.virtual import START_NS, VirtualClock, run

CLOCK = VirtualClock()
MONTH_NS = 30 * 86_400 * 10**9


@settings(derandomize=True, deadline=None, max_examples=60)
@given(st.lists(st.integers(0, MONTH_NS) | st.integers(0, 20), max_size=20))
def test_everyone_wakes_at_the_very_ns_and_in_order(offsets_ns: list[int]) -> None:
    woken: list[tuple[int, int]] = []

    async def sleeper(offset_ns: int) -> None:
        await CLOCK.sleep_until_ns(START_NS + offset_ns)
        woken.append((offset_ns, CLOCK.now_ns() - START_NS))

    async def main() -> None:
        await asyncio.gather(*(sleeper(offset_ns) for offset_ns in offsets_ns))

    run(main())
    assert woken == [(offset_ns, offset_ns) for offset_ns in sorted(offsets_ns)]


def test_a_deadline_that_has_passed_takes_no_time() -> None:
    async def main() -> int:
        await CLOCK.sleep_until_ns(START_NS - 1)
        return CLOCK.now_ns()

    assert run(main()) == START_NS


def test_time_stands_still_while_somebody_works() -> None:
    async def main() -> list[int]:
        later = asyncio.ensure_future(CLOCK.sleep_until_ns(START_NS + 10))
        seen = []
        for _ in range(5):
            await asyncio.sleep(0)
            seen.append(CLOCK.now_ns() - START_NS)
        await later
        return [*seen, CLOCK.now_ns() - START_NS]

    assert run(main()) == [0, 0, 0, 0, 0, 10]


def test_a_deadlock_is_told_and_not_waited_for() -> None:
    async def main() -> None:
        await asyncio.Event().wait()

    with pytest.raises(RuntimeError, match="nobody for a moment of the clock"):
        run(main())
