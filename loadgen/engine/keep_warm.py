"""Keeps a server from unloading an idle model, by small requests. They are measured nowhere and have no records."""

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
        # No ping beside a request: that keeps the server awake, and the ping would lengthen it.
        idle_ns = context.clock.now_ns() - context.client.last_sent_ns
        if idle_ns < every_ns or context.client.in_flight:
            # Checked at most ten times a period, because requests may be in flight for long.
            await asyncio.sleep(max(every_ns - idle_ns, every_ns // 10) / 1e9)
            continue
        await ping(context, index, served)
        pings += 1
        served.unload_info.keep_warm_pings = pings
