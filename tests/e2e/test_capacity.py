"""The search for the capacity, on the real engine."""

import asyncio
import json
import signal
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from loadgen import api
from loadgen.decisions.capacity.files import Capacity
from loadgen.decisions.capacity.resume import read_earlier
from loadgen.decisions.capacity.search_request import CapacitySettings
from loadgen.decisions.capacity.words import lines_of_model
from loadgen.scenario.file import load_scenario
from loadgen.store.run_folder import read
from tests.e2e.conftest import REPOSITORY, Command, KillServer

pytestmark = pytest.mark.e2e


def test_the_capacity_of_the_embedded_server_is_searched(loadgen: Command, scenario: Path, tmp_path: Path) -> None:
    done = loadgen(
        *("capacity", scenario, "--slo", "e2e_p90=60s", "--slo", "ok=90%", "--to", "2", "--budget", "30s"),
        *("--out", tmp_path / "out", "--json"),
    )
    answer = json.loads(done.stdout)
    (model,) = answer["models"]
    # A busy machine may leave nothing to judge, but nothing is ever shown to fail.
    assert model["fails"] is None
    assert model["levels"]
    assert model["stopped"] in ("top", "budget", "client", "busy_machine")
    assert done.returncode == (1 if model["holds"] is None else 0), done.stderr
    (folder,) = (tmp_path / "out" / "tiny").iterdir()
    assert folder.name == answer["run_id"]
    assert {"capacity.json", "report.html", "summary.json"} <= {path.name for path in folder.iterdir()}


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
def test_a_server_that_dies_ends_the_search_and_another_one_continues_it(
    scenario: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    settings = CapacitySettings(objectives=("e2e_p90=60s", "ok=90%"), highest=2.0, budget_s=30.0)

    def search(**options: Any) -> Capacity:
        return asyncio.run(api.capacity(load_scenario(scenario), settings=settings, results=tmp_path, **options))

    first = search(progress=KillServer("loadgen.targets.llamacpp.child_program", after=12))
    (before,) = first.answer.models
    assert (before.stopped, before.fails) == ("target_lost", None), "that it died says nothing about a level"
    lines = lines_of_model(before, 0.95, 600.0)
    assert any("Stopped: the server was lost" in line and "--resume" in line for line in lines)
    run = read(first.folder)
    played = Counter(record.level for record in run.records if record.phase == "measured")
    assert set(played) == {facts.level for facts in run.facts} == {v for level in before.levels for v in level.visits}
    assert sum(played.values()) >= 12
    counted = [each.met + each.missed for level in before.levels for each in level.objectives]
    assert sum(counted) <= len(settings.objectives) * sum(played.values())
    (died,) = [stage.server_ended for stage in run.manifest.stages if stage.server_ended is not None]
    assert "SIGKILL" in died

    settings = structs.replace(settings, budget_s=2.0)
    second = search(earlier=read_earlier(first.folder))
    (after,) = second.answer.models
    assert {v for level in before.levels for v in level.visits} < {v for level in after.levels for v in level.visits}
    assert after.fails is None
    assert all(record.outcome == "ok" for record in read(second.folder).records), "it has a server of its own"
