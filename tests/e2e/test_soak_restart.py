"""A soak whose embedded server is killed: it is started again at the same address, and the load goes on."""

import asyncio
from pathlib import Path

import pytest

from loadgen import api
from loadgen.engine.soak.play import play_soak
from loadgen.engine.stop import StopSignal
from loadgen.live.progress import Silence
from loadgen.plan.soak import soak_of
from loadgen.record import Record
from loadgen.scenario import Closed, LlamaCpp, Model, Sampling, Scenario, SoakTable
from loadgen.scenario.file import LoadedScenario
from loadgen.store.events import read_events
from loadgen.store.run_folder import read
from tests.e2e.conftest import KillServer

pytestmark = pytest.mark.e2e
SERVER = "loadgen.targets.llamacpp.child_program"


class KillThenStop(Silence):
    """Kills the server after some measured requests, and ends the soak when as many were answered after that."""

    def __init__(self, stop: StopSignal, *, after: int) -> None:
        self._kill = KillServer(SERVER, after=after)
        self._stop = stop
        self._after = after
        self._answered = 0

    def record(self, record: Record) -> None:
        self._kill.record(record)
        self._answered += (record.phase, record.outcome) == ("measured", "ok")
        if self._answered == 3 * self._after:
            self._stop.drain()


def test_a_killed_server_of_a_soak_is_started_again_and_answers_again(tmp_path: Path, tiny_model: Path) -> None:
    scenario = Scenario(
        name="killed",
        prompts=("Say hello.", "Count to ten, slowly."),
        models=(Model(name="tiny", llamacpp=LlamaCpp(gguf=str(tiny_model))),),
        load=Closed(concurrency=(2,)),
        soak=SoakTable(duration_s=600.0, window_s=10.0),
        sampling=Sampling(max_tokens=8),
        probe=False,
        warmup_requests=0,
    )
    planned = soak_of(LoadedScenario(scenario, None, tmp_path, "the test"))
    stop = StopSignal()
    progress = KillThenStop(stop, after=4)
    folder = asyncio.run(play_soak(api.soak_plan_of(planned), planned.settings, tmp_path, stop=stop, progress=progress))
    restarted = [event for event in read_events(folder) if event.kind == "server_restarted"]
    assert len(restarted) == 1
    assert restarted[0].model == "tiny"
    assert restarted[0].detail.startswith("the embedded server has died (ended by SIGKILL, as the system does when")
    assert "; started again in " in restarted[0].detail
    played = read(folder)
    measured = [record for record in played.records if record.phase == "measured"]
    assert sorted(record.index for record in measured) == list(range(len(measured)))
    assert sum(record.outcome == "ok" for record in measured) >= 12
    # Its end is that of the first process, and the stage was played on.
    assert [stage.server_ended for stage in played.manifest.stages] == [None]
    assert len({server.pid for facts in played.facts for server in facts.servers}) == 2
