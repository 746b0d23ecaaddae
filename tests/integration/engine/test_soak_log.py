"""The logs of a soak that several processes play: each is split, all are read, and SIGHUP reaches all of them."""

import os
import signal
import sys
from pathlib import Path

import pytest

from loadgen import api
from loadgen.engine.soak.play import play_soak
from loadgen.plan.soak import soak_of
from loadgen.scenario import Closed, Model, Scenario, SoakTable
from loadgen.scenario.file import LoadedScenario
from loadgen.store.run_folder import REQUESTS, part_name, read
from loadgen.store.segments import Segment
from loadgen.store.windows import read_windows
from tests.integration.server import Script, Served, Server, streamed

pytestmark = [
    pytest.mark.asyncio,
    pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGHUP"),
]
CHATS_BEFORE = 40


async def test_each_worker_splits_its_own_log_when_the_soak_gets_a_hang_up(tmp_path: Path) -> None:
    chats = 0

    def choose(_: Served) -> Script:
        nonlocal chats
        chats += 1
        if chats == CHATS_BEFORE:
            os.kill(os.getpid(), signal.SIGHUP)
        return streamed("a", "b", gap_s=0.01)

    with Server(choose) as server:
        scenario = Scenario(
            name="night",
            prompts=("Hello.",),
            models=(Model(name="m", url=server.url, target="openai"),),
            load=Closed(concurrency=(4,)),
            soak=SoakTable(duration_s=3.0, window_s=1.0),
            preflight=False,
            warmup_requests=2,
        )
        planned = soak_of(LoadedScenario(scenario, None, tmp_path, "the test"))
        folder = await play_soak(api.soak_plan_of(planned), planned.settings, tmp_path, workers=2)
        served = len(server.chats)
    records = read(folder).records
    assert len(records) == served
    indices = [record.index for record in records if record.phase == "measured"]
    assert len(set(indices)) == len(indices) == served - 2
    assert sum(sum(window.by_outcome.values()) for window in read_windows(folder)) == len(indices)
    assert not (folder / REQUESTS).exists()
    logs = [folder / part_name(place) for place in range(2)]
    assert all(Segment(log, 1).compressed.exists() and log.exists() for log in logs)
