"""The signal that ends a run: its two levels, who is called, and what work it interrupts."""

import asyncio

import pytest

from loadgen.engine.stop import INTERRUPTIBLE_NS, StopLevel, StopSignal
from tests.virtual import START_NS, VirtualClock, run

CLOCK = VirtualClock()
S = 1_000_000_000


async def returned(value: int) -> int:
    return value


class Work:
    """Waits until it is cancelled, and then takes another turn of the event loop to end."""

    def __init__(self) -> None:
        self.cancelled = asyncio.Event()

    async def __call__(self) -> int:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            await asyncio.sleep(0)
            raise
        return 0


@pytest.mark.asyncio
async def test_work_that_is_done_is_returned_even_where_an_end_was_asked_for() -> None:
    stop = StopSignal()
    assert await stop.unless_requested(returned(1)) == 1
    stop.drain()
    assert await stop.unless_requested(returned(2)) == 2


@pytest.mark.asyncio
@pytest.mark.parametrize("before", [True, False], ids=["before", "meanwhile"])
async def test_an_end_cancels_work_and_what_comes_of_it_is_nothing(before: bool) -> None:
    stop, work = StopSignal(), Work()
    if before:
        stop.drain()
    else:
        asyncio.get_running_loop().call_soon(stop.drain)
    assert await stop.unless_requested(work()) is None
    assert work.cancelled.is_set()


@pytest.mark.asyncio
async def test_a_second_level_while_the_work_ends_changes_nothing() -> None:
    stop, work = StopSignal(), Work()

    async def cancel_later() -> None:
        await work.cancelled.wait()
        stop.cancel()

    async with asyncio.TaskGroup() as group:
        group.create_task(cancel_later())
        asyncio.get_running_loop().call_soon(stop.drain)
        assert await stop.unless_requested(work()) is None
    assert stop.level == "cancel"


@pytest.mark.asyncio
async def test_an_error_of_the_work_arrives_as_it_is() -> None:
    async def late() -> None:
        raise TimeoutError("of the work")

    with pytest.raises(TimeoutError, match="of the work"):
        await StopSignal().unless_requested(late())


@pytest.mark.asyncio
async def test_a_task_that_is_cancelled_is_not_taken_for_an_end() -> None:
    task = asyncio.create_task(StopSignal().unless_requested(Work()()))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


def test_the_first_wish_drains_and_the_next_cancels() -> None:
    stop, levels = StopSignal(), list[StopLevel]()
    given_up: list[str] = []
    assert not stop.requested
    with stop.calling(levels.append), stop.cancelling(lambda: given_up.append("client")):
        assert (stop.escalate(), stop.level, given_up) == ("drain", "drain", [])
        stop.drain()
        assert (stop.escalate(), stop.level, given_up) == ("cancel", "cancel", ["client"])
        stop.cancel()
        stop.drain()
    assert (stop.level, levels) == ("cancel", ["drain", "cancel"])


def test_who_comes_late_is_called_at_once_and_who_has_gone_not_at_all() -> None:
    stop, late, gone = StopSignal(), list[StopLevel](), list[StopLevel]()
    with stop.calling(gone.append):
        pass
    stop.drain()
    with stop.calling(late.append):
        assert late == ["drain"]
    stop.cancel()
    assert (late, gone) == (["drain"], [])


def test_a_stage_ends_with_its_run_and_a_run_does_not_end_with_its_stage() -> None:
    stop = StopSignal()
    with stop.of_stage() as stage:
        stage.end_stage()
        assert (stage.level, stage.is_stage_over, stop.requested) == ("drain", True, False)
    with stop.of_stage() as stage:
        stop.drain()
        assert (stage.level, stage.is_stage_over) == ("drain", False)
        stop.cancel()
        assert stage.level == "cancel"
    with stop.of_stage() as stage:
        assert stage.level == "cancel"


def test_a_rule_that_is_met_after_the_person_asked_is_met_all_the_same() -> None:
    stop = StopSignal()
    with stop.of_stage() as stage:
        stop.drain()
        stage.end_stage()
        assert (stage.level, stage.is_stage_over) == ("drain", True)


def test_work_is_given_up_when_an_end_is_asked_for_and_has_ended_by_then() -> None:
    ends: list[str] = []

    async def work() -> str:
        try:
            await CLOCK.sleep_until_ns(START_NS + 60 * S)
        finally:
            await CLOCK.sleep_until_ns(CLOCK.now_ns() + 2 * S)
            ends.append("cleaned up")
        return "done"

    async def main() -> tuple[str | None, int]:
        stop = StopSignal()
        asyncio.get_running_loop().call_later(5, stop.drain)
        return await stop.unless_requested(work()), CLOCK.now_ns() - START_NS

    assert run(main()) == (None, 7 * S)
    assert ends == ["cleaned up"]


def test_who_is_cancelled_himself_is_not_taken_for_an_end_that_was_asked_for() -> None:
    async def main() -> list[bool]:
        stop = StopSignal()
        waiting = asyncio.ensure_future(stop.unless_requested(CLOCK.sleep_until_ns(START_NS + 60 * S)))
        await asyncio.sleep(1)
        waiting.cancel()
        stop.drain()
        await asyncio.wait((waiting,))
        return [waiting.cancelled(), len(asyncio.all_tasks()) == 1]

    assert run(main()) == [True, True]


def test_a_sleep_is_cut_short_where_that_is_worth_it() -> None:
    async def slept_ns(sleep_ns: int) -> int:
        stop = StopSignal()
        asyncio.get_running_loop().call_later(0.001, stop.drain)
        await stop.sleep_until_ns(CLOCK, START_NS + sleep_ns)
        return CLOCK.now_ns() - START_NS

    assert run(slept_ns(INTERRUPTIBLE_NS)) == INTERRUPTIBLE_NS
    assert run(slept_ns(INTERRUPTIBLE_NS + 1)) == 1_000_000
