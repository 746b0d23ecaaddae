"""A choice between two models of the real engine: played, marked and chosen from by one command."""

import json
from pathlib import Path

import pytest

from tests.e2e.conftest import Command

pytestmark = pytest.mark.e2e
OWNERS = ("Ana", "Ben", "Cleo", "Dov")


def test_one_command_plays_marks_and_chooses(loadgen: Command, tiny_model: Path, tmp_path: Path) -> None:
    prompts = ", ".join(
        f'{{ id = "{name}", text = "{name}: I will send the report on {number + 2} May.", '
        f'key_points = ["{name} sends the report on {number + 2} May"] }}'
        for number, name in enumerate(OWNERS)
    )
    models = ", ".join(
        f"{{ name = \"{name}\", llamacpp = {{ gguf = '{tiny_model}', slots = {slots} }} }}"
        for name, slots in (("tiny", 1), ("twin", 2))
    )
    path = tmp_path / "minutes.toml"
    path.write_text(
        f"""
name = "minutes"
keep_text = true
warmup_requests = 0
prompts = [{prompts}]
models = [{models}]
[load]
mode = "closed"
requests = 4
[sampling]
max_tokens = 8
temperature = 0.0
""",
        encoding="utf-8",
    )
    done = loadgen("run", path, "--select", "--out", "out")
    (folder,) = Path("out/selections").iterdir()
    selection = json.loads((folder / "selection.json").read_text(encoding="utf-8"))
    candidates = {candidate["name"]: candidate for candidate in selection["candidates"]}
    assert {name.partition("@")[0] for name in candidates} == {"tiny", "twin"}
    # A model of random weights says nothing of what was agreed, and both say the same.
    (run,) = Path("out/minutes").iterdir()
    marks = [json.loads(line) for line in (run / "quality.jsonl").read_text(encoding="utf-8").splitlines()]
    assert len(marks) >= len(OWNERS)
    assert {"benchmark_report.md", "selection.html", "selection.csv", "models.json"} <= {
        each.name for each in folder.iterdir()
    }
    assert done.returncode in (0, 1), done.stderr
    # A stage that a busy machine spoiled leaves its model out, with the reason.
    valid = [candidate for candidate in candidates.values() if not candidate["out"]]
    assert len(valid) == 2 or done.returncode == 1
