"""Keeps a model from being put aside while nobody asks it anything. Measures nothing, and is in no record."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

from loadgen.engine.background import Background
from loadgen.engine.preflight import ping
from loadgen.engine.stage import RunContext
from loadgen.targets.served import Served


@contextlib.asynccontextmanager
async def keep_warm(context: RunContext, index: int, served: Served) -> AsyncIterator[None]:
    """Ask for one token whenever `served.keep_warm_s` have passed without a request; `unload_info` says how often."""
    if served.keep_warm_s is None:
        yield
        return
    async with Background(_ping(context, index, served, round(served.keep_warm_s * 1e9))):
        yield


async def _ping(context: RunContext, index: int, served: Served, every_ns: int) -> None:
    pings = served.unload_info.keep_warm_pings = 0
    while True:
        # Nothing is sent beside a request: one in flight keeps the server awake, and a ping would be in its time.
        idle_ns = context.clock.now_ns() - context.client.last_sent_ns
        if idle_ns < every_ns or context.client.in_flight:
            # Not more often than ten times a period: while requests run for long, there is nothing to do but wait.
            await asyncio.sleep(max(every_ns - idle_ns, every_ns // 10) / 1e9)
            continue
        await ping(context, index, served)
        pings += 1
        served.unload_info.keep_warm_pings = pings
