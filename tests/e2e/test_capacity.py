"""The search for the capacity, on the real engine."""

import json
from pathlib import Path

import pytest

from tests.e2e.conftest import Command

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
