"""The example adapter on Foundry Local's real runtime: the same model with HTTP and without says the same."""

import importlib.util
import shutil
from collections import defaultdict
from pathlib import Path
from statistics import median
from typing import Any

import pytest

from loadgen.errors import TargetError
from loadgen.targets.foundry.model.cache import ensure_model
from tests.e2e.conftest import REPOSITORY, Command, code_of
from tests.e2e.test_commands import records_of, run_folder, summary_of

pytestmark = pytest.mark.e2e

EXAMPLE = REPOSITORY / "examples"


@pytest.fixture(scope="module")
def embedded_model() -> None:
    """The runtime and its embedded model are there; the command finds it in the same cache folder."""
    if importlib.util.find_spec("foundry_local_sdk") is None:
        pytest.skip("Foundry Local is not installed: pip install 'loadgen[foundry]'")
    try:
        ensure_model()
    except TargetError as error:
        pytest.skip(str(error))


@pytest.fixture
def example(tmp_path: Path) -> Path:
    """The example as it stands, in a folder with a space in its name."""
    folder = tmp_path / "an example"
    folder.mkdir()
    for name in ("foundry_in_process.py", "foundry_in_process.toml"):
        shutil.copy(EXAMPLE / name, folder)
    return folder / "foundry_in_process.toml"


@pytest.mark.usefixtures("embedded_model")
def test_with_http_and_in_process_text_and_tokens_agree_at_temperature_0(
    loadgen_process: Command, example: Path, tmp_path: Path
) -> None:
    # A process of its own, as the runtime is a native library whose threads may outlive it.
    # A short system message takes the place of the model's own, which is longer than the questions.
    less = ("--requests", 4, "--max-tokens", 8, "--set", "probe=false", "--set", "system=Be brief.")
    done = loadgen_process("run", example, *less, "--out", tmp_path / "results", "--quiet")
    folder = run_folder(tmp_path / "results", "foundry-in-process")
    assert done.returncode == code_of(summary_of(folder)), done.stdout + done.stderr
    said: dict[str, dict[int, dict[str, Any]]] = defaultdict(dict)
    for record in records_of(folder):
        if record["phase"] == "measured":
            said[record["target"]][record["index"]] = record
    http, in_process = said["foundry"], said["FoundryInProcess"]
    assert len(http) == len(in_process) == 4
    for index, record in http.items():
        other = in_process[index]
        assert (record["outcome"], other["outcome"]) == ("ok", "ok")
        for key in ("prompt_id", "text", "text_sha256", "output_tokens", "prompt_tokens", "finish_reason"):
            assert record[key] == other[key], (index, key)
        assert (record["token_source"], other["token_source"]) == ("usage", "usage")
        assert len(record["stamps_ns"]) == len(other["stamps_ns"])
    for target, records in said.items():
        ttft_ms = [(r["stamps_ns"][0] - r["written_ns"]) / 1e6 for r in records.values()]
        print(f"{target}: median TTFT from the question's last byte: {median(ttft_ms):.1f} ms")
