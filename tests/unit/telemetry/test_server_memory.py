"""The memory of a server's processes, read from real ones; and the machine's temperature, from scripted sensors."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

import pytest

from loadgen.telemetry.server_memory import (
    FAMILY_NS,
    MemoryKind,
    ServerMemory,
    ServerMemoryWatch,
    footprint_of,
    memory_of,
    own_pages_of,
)
from loadgen.telemetry.temperature import hottest_c, temperature_c

KINDS: Final[dict[str, MemoryKind]] = {"linux": "private", "win32": "private", "darwin": "footprint"}
MIB: Final = 1 << 20


class HandClock:
    """A clock that the test sets."""

    def __init__(self) -> None:
        self.at_ns = 0

    def now_ns(self) -> int:
        return self.at_ns

    async def sleep_until_ns(self, deadline_ns: int) -> None:
        raise NotImplementedError


class Child:
    """A process that holds so much memory, and says when it does."""

    def __init__(self, held_mib: int) -> None:
        code = f"import sys; held = bytearray({held_mib} << 20); print('holding', flush=True); sys.stdin.read()"
        command = [sys.executable, "-c", code]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "holding\n"

    def end(self) -> None:
        self.process.communicate()


@pytest.fixture
def child() -> Iterator[Child]:
    started = Child(40)
    yield started
    started.end()


def test_what_a_process_allocates_is_its_own_memory(child: Child) -> None:
    memory = ServerMemoryWatch(HandClock()).sample(child.process.pid)
    assert memory.kind == KINDS.get(sys.platform, "rss")
    assert memory.memory_bytes is not None
    assert 40 * MIB <= memory.memory_bytes <= 100 * MIB
    assert memory.rss_bytes is not None
    assert memory.rss_bytes >= 40 * MIB


def test_another_process_is_watched_as_soon_as_it_is_the_server(child: Child) -> None:
    clock = HandClock()
    watch = ServerMemoryWatch(clock)
    first = watch.sample(child.process.pid)
    child.end()
    assert watch.sample(child.process.pid) == ServerMemory()
    other = Child(80)
    second = watch.sample(other.process.pid)
    other.end()
    assert first.memory_bytes is not None
    assert second.memory_bytes is not None
    assert second.memory_bytes - first.memory_bytes >= 30 * MIB


def test_a_server_that_is_not_on_this_machine_has_no_memory() -> None:
    watch = ServerMemoryWatch(HandClock())
    assert watch.sample(None) == ServerMemory()
    assert watch.sample(2**22 + 1) == ServerMemory(), "no process has such an id"


def test_processes_that_a_server_starts_later_are_its_own_too(child: Child) -> None:
    clock = HandClock()
    watch = ServerMemoryWatch(clock)
    before = watch.sample(os.getpid())
    assert before.rss_bytes is not None
    other = Child(60)
    clock.at_ns = FAMILY_NS
    after = watch.sample(os.getpid())
    other.end()
    assert after.rss_bytes is not None
    assert after.rss_bytes - before.rss_bytes >= 40 * MIB


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        ("Name:\tx\nRssAnon:\t    300 kB\nRssFile:\t 9 kB\nVmSwap:\t   20 kB\n", 320 * 1024),
        ("Name:\tx\nVmRSS:\t 300 kB\n", None),
        ("", None),
    ],
)
def test_own_pages_are_those_that_are_allocated_wherever_they_are(
    tmp_path: Path, status: str, expected: int | None
) -> None:
    (tmp_path / "7").mkdir()
    (tmp_path / "7" / "status").write_text(status)
    assert own_pages_of(7, tmp_path) == expected
    assert own_pages_of(8, tmp_path) is None


@pytest.mark.skipif(sys.platform == "darwin", reason="it has a footprint there")
def test_where_the_system_tells_no_footprint_there_is_none() -> None:
    assert footprint_of(os.getpid()) is None


def test_where_the_system_tells_too_little_it_is_the_resident_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    import psutil

    monkeypatch.setattr(sys, "platform", "sunos5")
    own_bytes, kind = memory_of(psutil.Process())
    assert kind == "rss"
    assert own_bytes > 10 * MIB


class Reading(NamedTuple):
    current: float


def test_the_temperature_is_the_highest_of_the_processors_sensors() -> None:
    readings = {"nvme": [Reading(80.0)], "coretemp": [Reading(61.0), Reading(63.04)], "acpitz": [Reading(90.0)]}
    assert hottest_c(readings) == 63.0
    assert hottest_c({"acpitz": [Reading(0.0)], "nvme": [Reading(80.0)]}) is None
    assert hottest_c({}) is None
    shown = temperature_c()
    assert shown is None or 0 < shown < 150
