"""The gates of servers that are gone, and the lives of their processes."""

import asyncio

from loadgen.engine.servers import ServerGates, ServerLife, ServerLives


def test_whoever_waits_at_a_gate_goes_on_when_it_opens_and_others_never_wait() -> None:
    gates, opened = ServerGates(), list[int]()

    async def main() -> list[str]:
        gates.close(0)
        gates.close(0)
        done: list[str] = []

        async def ask(model: int, who: str) -> None:
            await gates.wait_until_open(model)
            done.append(who)

        async with asyncio.TaskGroup() as group:
            group.create_task(ask(0, "first"))
            group.create_task(ask(0, "second"))
            group.create_task(ask(1, "other"))
            await asyncio.sleep(0)
            assert done == ["other"]
            with gates.calling(opened.append):
                gates.open(0)
            gates.open(0)
        return done

    assert asyncio.run(main()) == ["other", "first", "second"]
    assert opened == [0]
    assert not gates.is_closed(0)


def test_a_gate_that_is_closed_again_before_a_user_wakes_holds_it() -> None:
    async def main() -> bool:
        gates = ServerGates()
        gates.close(0)
        waiting = asyncio.ensure_future(gates.wait_until_open(0))
        await asyncio.sleep(0)
        gates.open(0)
        gates.close(0)
        for _ in range(3):
            await asyncio.sleep(0)
        is_held = not waiting.done()
        gates.open(0)
        await waiting
        return is_held

    assert asyncio.run(main())


def test_each_process_that_serves_is_a_life_and_the_first_one_calls_nobody() -> None:
    lives, begun = ServerLives(), list[tuple[int, ServerLife]]()
    assert lives.of(0) == ServerLife(0, None)
    with lives.calling(lambda model, life: begun.append((model, life))):
        lives.begin(0, 10)
        lives.begin(1, 11)
        lives.begin(0, 12)
    lives.begin(0, 13)
    assert begun == [(0, ServerLife(1, 12))]
    assert (lives.of(0), lives.of(1)) == (ServerLife(2, 13), ServerLife(0, 11))
