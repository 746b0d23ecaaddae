"""Facts about the stop signal: work that an end interrupts, and work that it does not."""

import asyncio

import pytest

from loadgen.engine.stop import StopSignal

pytestmark = pytest.mark.asyncio


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


async def test_work_that_is_done_is_returned_even_where_an_end_was_asked_for() -> None:
    stop = StopSignal()
    assert await stop.unless_requested(returned(1)) == 1
    stop.drain()
    assert await stop.unless_requested(returned(2)) == 2


@pytest.mark.parametrize("before", [True, False], ids=["before", "meanwhile"])
async def test_an_end_cancels_work_and_what_comes_of_it_is_nothing(before: bool) -> None:
    stop, work = StopSignal(), Work()
    if before:
        stop.drain()
    else:
        asyncio.get_running_loop().call_soon(stop.drain)
    assert await stop.unless_requested(work()) is None
    assert work.cancelled.is_set()


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


async def test_an_error_of_the_work_arrives_as_it_is() -> None:
    async def late() -> None:
        raise TimeoutError("of the work")

    with pytest.raises(TimeoutError, match="of the work"):
        await StopSignal().unless_requested(late())


async def test_a_task_that_is_cancelled_is_not_taken_for_an_end() -> None:
    task = asyncio.create_task(StopSignal().unless_requested(Work()()))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
