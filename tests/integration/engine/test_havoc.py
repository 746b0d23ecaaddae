"""Runs against a server that fails in every way at once, and is killed, frozen and started anew in the middle: what was
planned is accounted for, and nothing waits longer than its deadline."""

import asyncio
import contextlib
import itertools
import os
import random
import signal
import socket
import sys
from collections.abc import AsyncIterator

import pytest

from loadgen import api
from loadgen.live.progress import Silence
from loadgen.mock.distribution import Exponential
from loadgen.mock.distribution import FixedTime as Fixed
from loadgen.mock.fault import Fault, Kind, Share, choose_fault
from loadgen.mock.process import MockProcess
from loadgen.mock.script import Freeze, Script
from loadgen.plan.rng import generator
from loadgen.record import Record
from loadgen.report.files import write_reports
from loadgen.scenario import Constant, Load, Retries, Timeouts
from loadgen.store.run_folder import Run
from tests.integration.engine.test_session import closed, counted, measured, scenario

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="has no signals to freeze or kill a process with")
DEADLINE_S = 1.2
FROZEN_S = 1.0
WRONG: tuple[tuple[Kind, float], ...] = (
    *(("reset", 0), ("reset", 2), ("fin", 1), ("cut-chunk", 3)),
    *(("stall", 1), ("status", 503), ("malformed", 1)),
)
FAULTS = tuple(Fault(kind, parameter, Share(0.07)) for kind, parameter in WRONG)
FIRST = next(seed for seed in itertools.count() if choose_fault(FAULTS, seed, 1) is None)
"""A seed of the server by which its first answer, which is the check before the run, is as it should be."""


def moody(seed: int) -> Script:
    return Script(
        seed=seed,
        ttft_s=Exponential(0.02),
        itl_s=Fixed(0.005),
        tokens=Fixed(6),
        faults=FAULTS,
        freezes=(Freeze(at_s=0.5, for_s=0.3),),
    )


def lasting_port() -> int:
    """A free port that no client is given for its end of a connection, so that a server can come back to it."""
    for port in random.Random(os.getpid()).sample(range(20_000, 30_000), 100):
        with socket.socket() as tried, contextlib.suppress(OSError):
            tried.bind(("127.0.0.1", port))
            return port
    raise RuntimeError("a hundred ports are all taken")


class Tormentor(Silence):
    """Freezes the server, or kills it, by turns, each time that a few more requests have ended: by the seed, how many.
    A killed one comes back after a while."""

    def __init__(self, seed: int) -> None:
        self._chance = generator(seed, "havoc")
        self._deeds: set[asyncio.Task[None]] = set()
        self._port = lasting_port()
        self._patience = 5
        self._server: MockProcess
        self.done: list[str] = []
        self.url = ""

    @contextlib.asynccontextmanager
    async def at_work(self) -> AsyncIterator["Tormentor"]:
        self._begin(FIRST)
        self.url = self._server.url
        try:
            yield self
        finally:
            await asyncio.gather(*self._deeds)
            self._end()

    def record(self, record: Record) -> None:
        self._patience -= 1
        if self._patience == 0:
            deed = self._kill if self.done[-1:] == ["frozen"] else self._freeze
            self._deeds.add(asyncio.create_task(deed()))

    async def _freeze(self) -> None:
        self.done.append("frozen")
        os.kill(self._server.pid, signal.SIGSTOP)
        await asyncio.sleep(FROZEN_S)
        os.kill(self._server.pid, signal.SIGCONT)
        self._patience = int(self._chance.integers(3, 9))

    async def _kill(self) -> None:
        self.done.append("killed")
        self._end()
        await asyncio.sleep(0.2)
        await asyncio.to_thread(self._begin, len(self.done))
        self._patience = int(self._chance.integers(3, 9))

    def _begin(self, seed: int) -> None:
        self._server = MockProcess(moody(seed), port=self._port)
        self._server.__enter__()

    def _end(self) -> None:
        os.kill(self._server.pid, signal.SIGKILL)
        with contextlib.suppress(RuntimeError):  # by which it tells that it has died
            self._server.__exit__()


CASES: dict[str, tuple[Load, Retries]] = {
    "closed": (closed(4, 60), Retries()),
    "asked-again": (
        closed(4, 60),
        Retries(attempts=2, on=("connect_error", "truncated", "http_503"), backoff_s=0.05),
    ),
    "open": (Constant(rates_per_s=(15.0,), requests=60), Retries()),
}


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Run, list[str]]]:
    """The run of each case and what was done to its server. All at once, as they wait most of the time."""

    async def play(case: str, tormentor: Tormentor) -> tuple[Run, list[str]]:
        load, retries = CASES[case]
        folder = tmp_path_factory.mktemp(case)
        asked = scenario(
            folder,
            {"mock": tormentor.url},
            load,
            timeouts=Timeouts(request_s=DEADLINE_S),
            retries=retries,
            warmup_requests=0,
        )
        run = await asyncio.wait_for(api.run(asked, results=folder, progress=tormentor), timeout=100)
        return run, tormentor.done

    async def main() -> list[tuple[Run, list[str]]]:
        async with contextlib.AsyncExitStack() as stack:
            # All servers first: the start of one holds up the event loop, and a deadline would pass meanwhile.
            tormentors = [await stack.enter_async_context(Tormentor(5).at_work()) for _ in CASES]
            return await asyncio.gather(*map(play, CASES, tormentors))

    return dict(zip(CASES, asyncio.run(main()), strict=True))


@pytest.mark.parametrize("case", CASES)
def test_whatever_happens_to_the_server_all_that_was_planned_is_accounted_for_within_its_deadline(
    played: dict[str, tuple[Run, list[str]]], case: str
) -> None:
    (run, done), (_, retries) = played[case], CASES[case]
    assert {"killed", "frozen"} <= set(done)
    (stage,) = write_reports(run.folder).stages
    by_outcome = counted(stage)
    assert sum(by_outcome.values()) == 60
    assert by_outcome["ok"]
    assert len(by_outcome) >= 3
    assert run.manifest.state == "complete"
    assert {record.index for record in measured(run)} == set(range(60))
    assert run.torn == 0
    for record in run.records:
        if record.dispatched_ns is not None:
            began_ns = record.dispatched_ns if record.attempt_ns is None else record.attempt_ns
            assert record.end_ns is not None
            # Generous, for a machine that has other things to do; a deadline that was missed would be without end.
            assert record.end_ns - began_ns < (DEADLINE_S + 5) * 1e9
    last_ns = max(record.dispatched_ns or 0 for record in run.records)
    assert run.facts[0].end_ns - last_ns < (DEADLINE_S * (1 + retries.attempts) + 6) * 1e9
