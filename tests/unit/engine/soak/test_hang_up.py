"""SIGHUP during a soak splits its log, and is handled as before when the soak is over."""

import asyncio
import os
import signal
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from loadgen.engine.soak.hang_up import calling_on_hang_up

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGHUP")


def test_each_hang_up_splits_the_log_and_ends_nothing() -> None:
    async def play() -> int:
        splits, split = 0, asyncio.Event()

        def count() -> None:
            nonlocal splits
            splits += 1
            split.set()

        with calling_on_hang_up(count):
            for _ in range(2):
                os.kill(os.getpid(), signal.SIGHUP)
                await split.wait()
                split.clear()
        return splits

    before = signal.getsignal(signal.SIGHUP)
    assert asyncio.run(play()) == 2
    assert signal.getsignal(signal.SIGHUP) == before


def test_outside_the_main_thread_nothing_is_changed() -> None:
    async def play() -> object:
        with calling_on_hang_up(lambda: None):
            return signal.getsignal(signal.SIGHUP)

    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(lambda: asyncio.run(play())).result() == signal.getsignal(signal.SIGHUP)
