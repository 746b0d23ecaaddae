"""Keeps a model from being put aside while nobody asks it anything. Measures nothing, and is in no record."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

from loadgen.clock import SystemClock
from loadgen.engine.background import Background
from loadgen.engine.preflight import chat
from loadgen.plan.plan import Plan
from loadgen.targets.extra_chats import PING
from loadgen.targets.served import Served
from loadgen.wire.client import Client


@contextlib.asynccontextmanager
async def kept_warm(plan: Plan, index: int, served: Served, client: Client) -> AsyncIterator[None]:
    """Ask for one token whenever `served.keep_warm_s` have passed without a request; `unload_info` says how often."""
    if served.keep_warm_s is None:
        yield
        return
    async with Background(_ping(plan, index, served, client, round(served.keep_warm_s * 1e9))):
        yield


async def _ping(plan: Plan, index: int, served: Served, client: Client, every_ns: int) -> None:
    clock = SystemClock()
    pings = served.unload_info.keep_warm_pings = 0
    while True:
        idle_ns = clock.now_ns() - client.last_sent_ns
        if idle_ns < every_ns or client.in_flight:
            await asyncio.sleep(max(every_ns - idle_ns, every_ns // 10) / 1e9)
            continue
        await chat(plan, index, served, client, PING, 1)
        pings += 1
        served.unload_info.keep_warm_pings = pings
