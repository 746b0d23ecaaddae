"""Two variants in alternation, on the real engine: each run starts its own server."""

import json
from pathlib import Path

import psutil
import pytest

from tests.e2e.conftest import Command

pytestmark = pytest.mark.e2e


def test_a_setting_of_the_embedded_server_is_compared_with_another(
    loadgen: Command, scenario: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As on a system that does not say who else runs: no run is invalid because the machine is busy.
    monkeypatch.setattr("loadgen.engine.run.machine_source", lambda: None)
    before = {child.pid for child in psutil.Process().children(recursive=True)}
    out = tmp_path / "out"
    flags = ("--repeats", 2, "--versus", "models[0].llamacpp.threads=1", "--concurrency", 1, "--requests", 4)
    done = loadgen("run", scenario, *flags, "--out", out)
    assert done.returncode == 0, done.stderr  # two blocks can show nothing
    assert "models[0].llamacpp.threads" in done.stdout
    (folder,) = (out / "tiny").glob("*-ab2")
    pairs = json.loads((folder / "pairs.json").read_text(encoding="utf-8"))
    assert pairs["versus"] == {"models[0].llamacpp.threads": 1}
    for number, block in enumerate(pairs["blocks"], 1):
        for name in ("a", "b"):
            manifest = json.loads((out / "tiny" / block[name] / "manifest.json").read_text(encoding="utf-8"))
            assert (manifest["variant"], manifest["block"]) == (name.upper(), number)
            threads = (manifest["scenario"]["models"][0]["llamacpp"] or {}).get("threads")
            assert threads == (1 if name == "b" else None)
            card = manifest["models"][0]
            assert card["startup_s"] > card["load_s"] > 0, "it was started for this run"
            assert card["cold_start_ms"] > card["load_s"] * 1e3
    assert {child.pid for child in psutil.Process().children(recursive=True)} <= before
