"""The embedded model for Foundry Local, from the real weights; and the real runtime, which answers with it."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from loadgen.errors import TargetError
from loadgen.targets.foundry.model.cache import SEAL, FoundryCache, ensure_model
from loadgen.targets.foundry.model.layout import CATALOG, NO_CATALOG_URL
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
def users_cache() -> FoundryCache:
    """The model in the user's cache folder, where other tests use it too: built from nothing if none has used it."""
    if importlib.util.find_spec("gguf") is None:
        pytest.skip("the package gguf is not installed (make setup-dev)")
    try:
        return ensure_model()
    except TargetError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def cache(users_cache: FoundryCache, tmp_path_factory: pytest.TempPathFactory) -> FoundryCache:
    """The model, built by the documented step in a cache of its own, where it was but for one bit."""
    caches = tmp_path_factory.mktemp("a cache")
    folder = caches / "foundry-model"
    for path in (DATA.parent, Path(SEAL), Path(CATALOG)):
        copy = shutil.copytree if (users_cache.folder / path).is_dir() else shutil.copyfile
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        copy(users_cache.folder / path, folder / path)
    ensure_model(lambda step, share: pytest.fail(f"built before it was damaged: {step}"), folder=folder)
    with (folder / DATA).open("r+b") as file:
        file.seek((folder / DATA).stat().st_size // 2)
        byte = file.read(1)[0]
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte ^ 1]))
    done = subprocess.run(
        [sys.executable, "-m", "loadgen.targets.foundry.model"],
        env={**environment(), "LOADGEN_CACHE_DIR": str(caches)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [str(folder)]
    assert done.stderr == ""  # no progress where there is no terminal
    return ensure_model(lambda step, share: pytest.fail(f"built again: {step}"), folder=folder)


def test_a_single_damaged_bit_is_found_and_the_same_model_built_again(
    users_cache: FoundryCache, cache: FoundryCache
) -> None:
    assert cache.digest == users_cache.digest
    assert (cache.folder / DATA).read_bytes() == (users_cache.folder / DATA).read_bytes()


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
