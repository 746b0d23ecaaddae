"""The log of a whole soak in virtual time: what is done to it, and what can be read in the end."""

import contextlib
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest

from loadgen.engine.soak import session
from loadgen.engine.soak.play import play_soak
from loadgen.scenario import Closed
from loadgen.store.events import read_events
from loadgen.store.run_folder import REQUESTS, read
from tests.soak_log import MIB, bytes_in, compress_in_process
from tests.unit.engine.soak.test_play import SECOND, look_rarely, soak_plan, virtual_machine
from tests.virtual import run
from tests.virtual_client import Answer, ScriptedClient, stream


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    look_rarely(monkeypatch)
    compress_in_process(monkeypatch)


def play(
    tmp_path: Path,
    do: Mapping[int, Callable[[Path], object]],
    *,
    duration_s: float = 1200.0,
    request_s: int = 4,
    disk_bytes: int = 1 << 31,
    text: Callable[[], str] = lambda: "One",
) -> Path:
    """Play a soak with a request every `request_s` seconds. do: what is done to the run folder while a request is in
    flight, by its number, the one of the warm-up among them."""
    count = 0

    def answer(_: dict[str, Any], __: int) -> Answer:
        nonlocal count
        if count in do:
            (folder,) = tmp_path.glob("night/*")
            do[count](folder)
        count += 1
        return stream(text(), " two", gap_ns=request_s * SECOND // 2)

    planned, plan = soak_plan(tmp_path, Closed(), duration_s=duration_s, keep_text=True)
    settings = msgspec.structs.replace(planned.settings, disk_bytes=disk_bytes)
    return run(play_soak(plan, settings, tmp_path, machine=virtual_machine(), client=ScriptedClient(answer)))


def measured_in(folder: Path) -> list[int]:
    return [record.index for record in read(folder).records if record.phase == "measured"]


def kinds_in(folder: Path) -> list[str]:
    return [event.kind for event in read_events(folder)]


@pytest.mark.slow
def test_a_soak_of_two_hours_leaves_two_closed_segments_and_the_newest(tmp_path: Path) -> None:
    folder = play(tmp_path, {}, duration_s=7_500.0, request_s=20)
    assert sorted(path.name for path in folder.glob("requests*")) == [
        "requests-00001.jsonl.gz",
        "requests-00002.jsonl.gz",
        REQUESTS,
    ]
    assert measured_in(folder) == list(range(375))


def test_through_a_renamed_and_a_removed_log_no_other_record_is_lost(tmp_path: Path) -> None:
    removed = []

    def rename(folder: Path) -> None:
        (folder / REQUESTS).rename(folder / "requests.jsonl.1")

    def remove(folder: Path) -> None:
        removed.append((folder / REQUESTS).read_bytes().count(b"\n"))
        (folder / REQUESTS).unlink()

    folder = play(tmp_path, {101: rename, 201: remove})
    renamed = (folder / "requests.jsonl.1").read_bytes().splitlines()
    warm_up = sum(b'"phase":"warmup"' in line for line in renamed)
    left = measured_in(folder)
    assert len(renamed) - warm_up + removed[0] + len(left) == 300
    assert left == list(range(300 - len(left), 300))
    assert kinds_in(folder) == ["records_reopened", "records_reopened"]


def test_a_hang_up_closes_the_segment_and_begins_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    splits: list[Callable[[], None]] = []

    def calling(split: Callable[[], None]) -> contextlib.AbstractContextManager[None]:
        splits.append(split)
        return contextlib.nullcontext()

    monkeypatch.setattr(session, "calling_on_hang_up", calling)
    folder = play(tmp_path, {101: lambda _: splits[0](), 102: lambda _: splits[0]()})
    assert len(list(folder.glob("requests-*.jsonl.gz"))) == 2
    assert measured_in(folder) == list(range(300))


@pytest.mark.slow
def test_the_folder_of_a_soak_stays_within_its_budget(tmp_path: Path) -> None:
    sizes: list[int] = []

    def measure(folder: Path) -> None:
        sizes.append(bytes_in(folder))

    watch = dict.fromkeys(range(2, 1000), measure)
    folder = play(tmp_path, watch, disk_bytes=2 * MIB, text=lambda: os.urandom(6000).hex())
    assert max(sizes) <= 2 * MIB
    left = measured_in(folder)
    assert left == list(range(left[0], 300))
    assert 33 < left[0] < 267
    assert set(kinds_in(folder)) == {"records_dropped"}
