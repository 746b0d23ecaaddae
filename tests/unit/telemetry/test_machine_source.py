"""What the texts of a system mean, as they were recorded; and that what is not there is left out."""

import contextlib
import os
import platform
import socket
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from loadgen.telemetry import machine_source
from loadgen.telemetry.machine_source import (
    LinuxSource,
    PsutilSource,
    available_share_of,
    core_times_of,
    cpu_stat_paths,
    pressure_s,
    process_of,
    program_name,
    thread_of,
    throttled_s,
    upstreams_of,
)
from loadgen.telemetry.neighbors import CoreTimes, Shortages
from loadgen.telemetry.process_table import ProcessTimes
from loadgen.telemetry.thread_waits import ThreadTimes

STAT = """cpu  1251087 118090 175838 1189772 6705 0 7012 18123 0 0
cpu0 597412 46274 81782 644119 1877 0 2555 9055 0 0
intr 1
"""
PROCESS = (
    "77 (Web Content (1)) S 12 77 77 0 -1 4194560 165303 185948809 0 16594 1256 5721 9 9 20 0 14 0 4242 57561088 5478 "
    "18446744073709551615 1 1 0 0 0 0 0 4096 1256 0 0 0 17 1 0 0 0 0 0 0 0 0 0 0 0 0 0"
)
PRESSURE = """some avg10=59.98 avg60=30.40 avg300=15.04 total=4543096569
full avg10=0.00 avg60=0.00 avg300=0.00 total=1500000
"""
CPU_STAT_2 = "usage_usec 9\nuser_usec 7\nnr_periods 12\nnr_throttled 3\nthrottled_usec 2500000\n"
CPU_STAT_1 = "nr_periods 12\nnr_throttled 3\nthrottled_time 2500000000\n"
CGROUP_1 = "4:memory:/docker/abc\n2:cpu,cpuacct:/docker/abc\n0::/docker/abc\n"


def test_the_cores_times_are_the_sum_of_what_programs_and_the_kernel_took_for_them() -> None:
    assert core_times_of(STAT, 100) == CoreTimes(15450.15, 11964.77, 181.23)
    assert core_times_of("cpu 1 2 3 4\n", 1) == CoreTimes(6.0, 4.0, None), "before Linux 2.6.11"


def test_a_process_is_read_whatever_its_name_has_in_it() -> None:
    assert process_of(PROCESS, 100) == ProcessTimes("Web Content (1)", 12, 4242.0, 69.77)


@pytest.mark.parametrize("text", ["", "77", "77 (a) S 1 2", "cpu", "intr 1 2 3"])
def test_what_is_no_state_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        process_of(text, 100)
    with pytest.raises(ValueError):
        core_times_of(text, 100)
    with pytest.raises(ValueError):
        thread_of(text)


def test_a_thread_has_run_and_has_waited() -> None:
    assert thread_of("266357 1403938 2\n") == ThreadTimes(266357, 1403938)


def test_pressure_is_the_total_of_its_line() -> None:
    assert pressure_s(PRESSURE, "some") == 4543.096569
    assert pressure_s(PRESSURE, "full") == 1.5
    assert pressure_s("some avg10=0.00 avg60=0.00 avg300=0.00 total=7\n", "full") is None, "before Linux 5.13"
    assert pressure_s("", "some") is None


def test_either_version_of_control_groups_says_for_how_long_it_throttled() -> None:
    assert throttled_s(CPU_STAT_2) == throttled_s(CPU_STAT_1) == 2.5
    assert throttled_s("usage_usec 9\n") is None


def test_a_process_s_limits_are_where_its_control_group_is() -> None:
    assert cpu_stat_paths("0::/user.slice/a\n") == ["/sys/fs/cgroup/user.slice/a/cpu.stat"]
    assert cpu_stat_paths("0::/\n") == ["/sys/fs/cgroup/cpu.stat"]
    assert cpu_stat_paths(CGROUP_1) == [
        "/sys/fs/cgroup/cpu,cpuacct/docker/abc/cpu.stat",
        "/sys/fs/cgroup/cpu/docker/abc/cpu.stat",
        "/sys/fs/cgroup/docker/abc/cpu.stat",
    ]


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("python3.11", "python3.11"),
        ("/home/anna/secret project/train", "train"),
        (r"C:\Users\Anna\tool.exe", "tool.exe"),
        ("kworker/u8:0-flush-254:0", "kworker"),
        ("tmux: server", "tmux"),
        ("postgres: anna payroll 10.0.0.7", "postgres"),
        ("redis-server", "redis-server"),
        ("Google Chrome Helper", "Google Chrome Helper"),
        ("train --token=abc", "train"),
        ("evil\x1b[2J", "evil�[2J"),
        ("x" * 99, "x" * 40),
        ("  ", "?"),
        ("", "?"),
    ],
)
def test_a_program_s_name_has_neither_path_nor_arguments_nor_control_characters(text: str, name: str) -> None:
    assert program_name(text) == name


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The files of a small machine with one process of two threads."""
    files = {
        "proc/stat": STAT,
        "proc/meminfo": "MemTotal:       2000 kB\nMemFree:           5 kB\nMemAvailable:     500 kB\n",
        "proc/vmstat": "nr_free_pages 9\npswpin 3\npswpout 1\n",
        "proc/self/schedstat": "1 2 3\n",
        "proc/pressure/cpu": PRESSURE,
        "proc/pressure/memory": PRESSURE,
        "proc/77/stat": PROCESS,
        "proc/77/cgroup": "0::/a\n",
        "proc/77/task/77/schedstat": "10 20 1\n",
        "proc/77/task/78/schedstat": "30 40 1\n",
        "proc/88/stat": "",
        "sys/fs/cgroup/a/cpu.stat": CPU_STAT_2,
    }
    for path, text in files.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    return tmp_path


def linux_source(root: Path, monkeypatch: pytest.MonkeyPatch) -> LinuxSource:
    settings = {"SC_CLK_TCK": 100, "SC_PAGE_SIZE": 4096}
    monkeypatch.setattr(os, "sysconf", settings.__getitem__, raising=False)
    return LinuxSource(f"{root}/")


def test_a_linux_machine_is_read_from_its_files(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = linux_source(root, monkeypatch)
    assert list(source.processes()) == [77], "one that has just ended is left out"
    assert source.core_times() == core_times_of(STAT, 100)
    assert source.shortages([77]) == Shortages(4543.096569, 4543.096569, 1.5, 2.5, 3 * 4096)
    assert source.memory_available_share() == 0.25
    assert source.threads([77, 99]) == {(77, 77): ThreadTimes(10, 20), (77, 78): ThreadTimes(30, 40)}
    assert source.threads([77], skip={(77, 78)}) == {(77, 77): ThreadTimes(10, 20)}


def test_a_linux_that_tells_nothing_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = linux_source(tmp_path, monkeypatch)
    assert source.processes() == {}
    assert source.core_times() == CoreTimes(0.0, 0.0)
    assert source.shortages([77]) == Shortages()
    assert source.memory_available_share() is None
    assert source.threads([77]) is None


@pytest.mark.parametrize(
    "meminfo", ["MemTotal: 2000 kB\n", "MemAvailable: 500 kB\n", "MemTotal: 0 kB\nMemAvailable: 0 kB"]
)
def test_memory_without_both_figures_is_not_known(meminfo: str) -> None:
    assert available_share_of(meminfo) is None


class Times:
    user, system, nice, idle = 3.0, 2.0, 1.0, 30.0


def named(pid: int, name: str, error: type[Exception] | None = None) -> Any:
    class Process:
        def __init__(self) -> None:
            self.pid = pid

        def oneshot(self) -> Any:
            return contextlib.nullcontext()

        def cpu_times(self) -> Times:
            if error is not None:
                raise error(pid) if issubclass(error, psutil.Error) else error()
            return Times()

        def name(self) -> str:
            return name

        def ppid(self) -> int:
            return 4

        def create_time(self) -> float:
            return 7.5

    return Process()


def test_elsewhere_psutil_tells_of_the_processes_that_it_may_look_at(monkeypatch: pytest.MonkeyPatch) -> None:
    table = [
        named(0, "System Idle Process"),
        named(8, r"MsMpEng.exe"),
        named(9, "kernel_task", psutil.AccessDenied),
        named(10, "gone", psutil.NoSuchProcess),
    ]
    monkeypatch.setattr(psutil, "process_iter", lambda: iter(table))
    monkeypatch.setattr(psutil, "cpu_times", lambda: Times())
    source = PsutilSource()
    assert source.processes() == {8: ProcessTimes("MsMpEng.exe", 4, 7.5, 5.0)}
    assert source.core_times() == CoreTimes(6.0, 30.0, None)
    assert source.threads([8]) is None


def test_a_system_without_figures_of_its_swap_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise RuntimeError("no sysctl")

    monkeypatch.setattr(psutil, "swap_memory", fail)
    monkeypatch.setattr(psutil, "virtual_memory", fail)
    assert PsutilSource().shortages([]) == Shortages()
    assert PsutilSource().memory_available_share() is None


def test_this_system_is_read_by_what_knows_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for system, kind in (("Windows", PsutilSource), ("Darwin", PsutilSource)):
        monkeypatch.setattr(platform, "system", lambda system=system: system)
        assert isinstance(machine_source.machine_source(), kind)


def test_this_very_process_is_seen_where_it_runs() -> None:
    source = machine_source.machine_source()
    assert source.processes()[os.getpid()].cpu_s > 0
    assert source.cpu_s([os.getpid(), 2**22 + 1]) > 0
    assert source.core_times().busy_s > 0
    available = source.memory_available_share()
    assert available is not None
    assert 0 < available < 1


def connection(pid: int | None, status: str, local: int, remote: tuple[str, int] | None = None) -> SimpleNamespace:
    ends = SimpleNamespace(ip="127.0.0.1", port=local), remote and SimpleNamespace(ip=remote[0], port=remote[1])
    return SimpleNamespace(pid=pid, status=status, laddr=ends[0], raddr=ends[1])


def test_an_upstream_is_who_listens_where_a_process_is_connected_on_this_machine() -> None:
    connections = [
        connection(10, psutil.CONN_LISTEN, 4000),
        connection(10, psutil.CONN_ESTABLISHED, 50001, ("127.0.0.1", 8080)),
        connection(10, psutil.CONN_ESTABLISHED, 50002, ("::ffff:127.0.0.1", 8081)),
        connection(10, psutil.CONN_ESTABLISHED, 50003, ("93.184.216.34", 8082)),
        connection(10, psutil.CONN_CLOSE_WAIT, 50004, ("127.0.0.1", 8083)),
        connection(10, psutil.CONN_ESTABLISHED, 50005, ("::1", 8084)),
        connection(77, psutil.CONN_ESTABLISHED, 50006, ("127.0.0.1", 8085)),
        *(connection(pid, psutil.CONN_LISTEN, port) for pid, port in ((20, 8080), (21, 8081), (22, 8082), (23, 8083))),
        connection(None, psutil.CONN_LISTEN, 8084),
        connection(25, psutil.CONN_LISTEN, 8085),
    ]
    assert upstreams_of(connections, {10}) == {20, 21}


def test_this_machine_says_who_a_connected_process_is_connected_to() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()):
        # Who listens is this process itself, which is no upstream of its own.
        assert machine_source.machine_source().upstreams({os.getpid()}) == set()
    assert machine_source.machine_source().upstreams(set()) == set()
