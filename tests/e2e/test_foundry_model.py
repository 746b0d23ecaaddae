"""The embedded model for Foundry Local, from the real weights; and the real runtime, which answers with it."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

from loadgen.errors import TargetError
from loadgen.targets.foundry.model.cache import FoundryCache, ensure_model
from loadgen.targets.foundry.model.layout import CATALOG, NO_CATALOG_URL
from loadgen.targets.small_model import installed_gguf
from tests.e2e.conftest import environment

pytestmark = pytest.mark.e2e

DATA = Path("Local") / "smollm2-135m-instruct-generic-cpu-1" / "v1" / "model.onnx.data"

# In a process of its own, as the runtime is a native library whose threads may outlive it.
ASK = """
import json, os, sys, urllib.request
import foundry_local_sdk as sdk

given = json.loads(sys.argv[1])
sdk.FoundryLocalManager.initialize(sdk.Configuration(
    app_name="loadgen-tests", app_data_dir=given["work"] + "/app", logs_dir=given["work"] + "/logs",
    model_cache_dir=given["cache"], catalog_urls=[(given["catalog"], None)], log_level=sdk.LogLevel.FATAL,
    web=sdk.Configuration.WebService(urls="http://127.0.0.1:0"), disable_nonessential_telemetry=True,
))
manager = sdk.FoundryLocalManager.instance
model = manager.catalog.get_model(given["alias"])
model.load()
manager.start_web_service()
body = {
    "model": given["id"], "temperature": 0, "max_tokens": 40,
    "messages": [{"role": "user", "content": "What is the capital of France?"}],
}
request = urllib.request.Request(
    manager.urls[0].rstrip("/") + "/v1/chat/completions",
    json.dumps(body).encode(), {"Content-Type": "application/json"},
)
with urllib.request.urlopen(request, timeout=60) as reply:
    answer = json.load(reply)
print("\\nanswer:" + json.dumps({"id": model.id, "text": answer["choices"][0]["message"]["content"]}), flush=True)
model.unload()
manager.stop_web_service()
os._exit(0)
"""


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> FoundryCache:
    """The model, built by the documented step into a cache of its own."""
    if importlib.util.find_spec("gguf") is None:
        pytest.skip("the package gguf is not installed (make setup-dev)")
    try:
        installed_gguf()
    except TargetError as error:
        pytest.skip(str(error))
    kept = tmp_path_factory.mktemp("a cache")
    done = subprocess.run(
        [sys.executable, "-m", "loadgen.targets.foundry.model"],
        env={**environment(), "LOADGEN_CACHE_DIR": str(kept)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [str(kept / "foundry-model")]
    assert done.stderr == ""  # no progress where there is no terminal
    return ensure_model(lambda what, share: pytest.fail(f"built again: {what}"), folder=kept / "foundry-model")


def test_a_single_damaged_bit_is_found_and_the_same_model_built_again(cache: FoundryCache) -> None:
    whole = (cache.folder / DATA).read_bytes()
    with (cache.folder / DATA).open("r+b") as file:
        file.seek(len(whole) // 2)
        file.write(bytes([whole[len(whole) // 2] ^ 1]))
    done = []
    assert ensure_model(lambda what, share: done.append(what), folder=cache.folder) == cache
    assert "quantizing" in done
    assert (cache.folder / DATA).read_bytes() == whole


def test_the_real_runtime_loads_it_and_knows_the_capital_of_france(cache: FoundryCache, tmp_path: Path) -> None:
    if importlib.util.find_spec("foundry_local_sdk") is None:
        pytest.skip("Foundry Local is not installed: pip install 'loadgen[foundry]'")
    given = {
        "work": str(tmp_path),
        "cache": str(cache.folder),
        "catalog": NO_CATALOG_URL,
        "alias": cache.alias,
        "id": cache.model_id,
    }
    done = subprocess.run(
        [sys.executable, "-c", ASK, json.dumps(given)],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    told = [line.removeprefix("answer:") for line in done.stdout.splitlines() if line.startswith("answer:")]
    assert told, done.stderr
    answer = json.loads(told[0])
    assert answer["id"] == cache.model_id
    assert "Paris" in answer["text"]
    assert [model["id"] for model in json.loads((cache.folder / CATALOG).read_bytes())["models"]] == [cache.model_id]
