"""A soak of a minute, on the real engine."""

import json
from collections import Counter
from pathlib import Path

import pytest

from loadgen.analysis.soak_types import DRIFT_VERDICTS
from loadgen.store.run_folder import read
from loadgen.store.windows import read_windows
from tests.e2e.conftest import Command

pytestmark = pytest.mark.e2e


def test_a_soak_of_a_minute_has_windows_that_are_what_its_records_say(
    loadgen: Command, scenario: Path, tmp_path: Path
) -> None:
    done = loadgen(
        # At a rate, because users who ask without a pause keep both cores busy for the minute.
        *("soak", scenario, "--rate", "2", "--set", "sampling.max_tokens=8"),
        *("--duration", "1m", "--window", "1s", "--fail-on", "never"),
        *("--out", tmp_path / "out"),
    )
    (folder,) = (tmp_path / "out" / "tiny").iterdir()
    played, windows = read(folder), read_windows(folder)
    assert played.manifest.state == "complete"
    assert {"windows.jsonl", "histograms.hlog", "report.html", "summary.json"} <= {
        each.name for each in folder.iterdir()
    }
    measured = [record for record in played.records if record.phase == "measured"]
    in_windows = Counter[str]()
    for window in windows:
        in_windows.update(window.by_outcome)
    assert in_windows == Counter(record.outcome for record in measured)
    assert [window.window for window in windows] == list(range(len(windows)))
    assert sum(not window.draining for window in windows) >= 60
    assert {window.server_life for window in windows} == {0}
    assert all(window.server_memory_bytes for window in windows)
    (stage,) = json.loads((folder / "summary.json").read_bytes())["stages"]
    assert stage["drift"]["verdict"] in DRIFT_VERDICTS
    assert stage["requests"]["ok"] == in_windows["ok"] > 0
    # The verdict is the last line; a busy machine may leave nothing to judge.
    assert done.stdout.splitlines()[-1].split(":")[0].split(" ")[0] in {word.split()[0] for word in DRIFT_VERDICTS}
    assert done.returncode == 0 or "exit 1: " in done.stderr
