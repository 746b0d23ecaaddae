"""Reads the input of `loadgen.telemetry.neighbors`: on Linux from /proc and control groups, elsewhere through psutil.

Values that do not exist or may not be read are left out, and raise nothing. The functions that parse texts read no
files.
"""

import contextlib
import ipaddress
import os
import platform
import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any, Final

import psutil

from loadgen.clock import cpu_of_process_ns
from loadgen.redact import printable
from loadgen.telemetry.neighbors import CoreTimes, MachineSource, Shortages
from loadgen.telemetry.process_table import Processes, ProcessTimes
from loadgen.telemetry.thread_waits import ThreadId, Threads, ThreadTimes

NAME_CHARS: Final = 40
"""The longest name of a program that is kept, because some programs write their arguments into their name."""


def machine_source() -> MachineSource:
    """The source that reads this system."""
    return LinuxSource() if platform.system() == "Linux" else PsutilSource()


def usable_cores() -> int:
    """How many cores this process may run on."""
    granted = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return granted or 1


def program_name(text: str) -> str:
    """The name of a program without its path and arguments, safe to print.

    `kworker/0:1-events` becomes `kworker`, and `tmux: server` becomes `tmux`.
    """
    text = text.strip()
    base = re.split(r"[/\\]", text)[-1] if re.match(r"[/\\]|\w:[/\\]", text) else text.partition("/")[0]
    return printable(re.split(r":? -|: ", base)[0].strip() or "?")[:NAME_CHARS]


def process_of(stat: str, ticks_per_s: int) -> ProcessTimes:
    """A process from the text of /proc/PID/stat. Raises ValueError for any other text. Source: proc_pid_stat(5)."""
    head, _, rest = stat.rpartition(")")
    fields = rest.split()
    if len(fields) < 20:
        raise ValueError(f"not the state of a process: {stat[:40]!r}")
    # The fields from the third on. Search from the right, because a name may contain blanks and brackets.
    cpu_s = (int(fields[11]) + int(fields[12])) / ticks_per_s
    return ProcessTimes(program_name(head.partition("(")[2]), int(fields[1]), float(fields[19]), cpu_s)


def core_times_of(stat: str, ticks_per_s: int) -> CoreTimes:
    """All cores together from the text of /proc/stat: user, nice, system, idle, iowait, irq, softirq, steal, …"""
    line = stat.partition("\n")[0].split()
    ticks = [int(field) for field in line[1:]] if line[:1] == ["cpu"] else []
    if len(ticks) < 4:
        raise ValueError(f"not the state of the cores: {stat[:40]!r}")
    user, nice, system, idle = ticks[:4]
    idle += ticks[4] if len(ticks) > 4 else 0
    steal_s = ticks[7] / ticks_per_s if len(ticks) > 7 else None
    return CoreTimes((user + nice + system) / ticks_per_s, idle / ticks_per_s, steal_s)


def thread_of(schedstat: str) -> ThreadTimes:
    """A thread from the text of its schedstat: ns that it ran, ns that it waited for a core, how often it ran.

    Raises ValueError for any other text. Source: Documentation/scheduler/sched-stats.rst.
    """
    run_ns, wait_ns, _ = schedstat.split()
    return ThreadTimes(int(run_ns), int(wait_ns))


def pressure_s(text: str, line: str) -> float | None:
    """Seconds so far from the text of /proc/pressure/…; line: "some" or "full". None if there is no such line."""
    total = re.search(rf"^{line} .*\btotal=(\d+)", text, re.MULTILINE)
    return int(total[1]) / 1e6 if total else None


def available_share_of(meminfo: str) -> float | None:
    """The share of the memory that is available, from the text of /proc/meminfo; None if the text does not say."""
    kib = {
        name: int(value) for name, value in re.findall(r"^(MemTotal|MemAvailable): +(\d+) kB", meminfo, re.MULTILINE)
    }
    return _share_of(kib.get("MemAvailable"), kib.get("MemTotal"))


def _share_of(available: int | None, total: int | None) -> float | None:
    return round(available / total, 4) if available is not None and total else None


def throttled_s(text: str) -> float | None:
    """Seconds so far in which a control group was throttled, from the text of its cpu.stat (version 2 counts µs,
    version 1 counts ns); None if the text does not say."""
    for name, per_s in (("throttled_usec", 1e6), ("throttled_time", 1e9)):
        if value := re.search(rf"^{name} (\d+)", text, re.MULTILINE):
            return int(value[1]) / per_s
    return None


def cpu_stat_paths(cgroup: str) -> list[str]:
    """The possible paths of a process's cpu.stat, from the text of its /proc/PID/cgroup."""
    paths = []
    for line in cgroup.splitlines():
        _, controllers, path = line.split(":", 2)
        if not controllers:
            paths.append(f"/sys/fs/cgroup{path}/cpu.stat")
        elif "cpu" in controllers.split(","):
            paths += [f"/sys/fs/cgroup/{controllers}{path}/cpu.stat", f"/sys/fs/cgroup/cpu{path}/cpu.stat"]
    return [path.replace("//", "/") for path in paths]


def upstreams_of(connections: Iterable[Any], pids: Collection[int]) -> set[int]:
    """The processes that listen at a loopback address to which any of `pids` is connected.

    connections: those of the whole machine, as psutil returns them.
    """
    listeners, ports = dict[int, int](), set[int]()
    for connection in connections:
        if connection.status == psutil.CONN_LISTEN and connection.pid:
            listeners[connection.laddr.port] = connection.pid
        is_out = connection.status == psutil.CONN_ESTABLISHED and connection.pid in pids
        if is_out and is_loopback(connection.raddr.ip):
            ports.add(connection.raddr.port)
    return {listeners[port] for port in ports if port in listeners} - set(pids)


def is_loopback(address: str) -> bool:
    """Whether an address, as the system prints it, is a loopback address."""
    return ipaddress.ip_address(address.removeprefix("::ffff:").partition("%")[0]).is_loopback


def upstreams_by_psutil(pids: Collection[int]) -> set[int]:
    """`upstreams_of` for this machine; empty if we may not read its connections."""
    with contextlib.suppress(psutil.Error, OSError, RuntimeError):
        return upstreams_of(psutil.net_connections(kind="tcp"), pids)
    return set()


class LinuxSource:
    """Reads /proc and /sys/fs/cgroup. root: the folder that contains them."""

    def __init__(self, root: str = "/") -> None:
        self._root = root
        self._ticks_per_s = os.sysconf("SC_CLK_TCK")
        self._page_bytes = os.sysconf("SC_PAGE_SIZE")
        self._tells_waits = bool(self._read("proc/self/schedstat"))  # a kernel may be built without it
        self.cores = usable_cores()

    def processes(self) -> Processes:
        processes = {}
        for pid in self._pids():
            with contextlib.suppress(ValueError):
                processes[pid] = process_of(self._read(f"proc/{pid}/stat"), self._ticks_per_s)
        return processes

    def core_times(self) -> CoreTimes:
        try:
            return core_times_of(self._read("proc/stat"), self._ticks_per_s)
        except ValueError:
            return CoreTimes(0.0, 0.0)

    def upstreams(self, pids: Collection[int]) -> set[int]:
        return upstreams_by_psutil(pids)

    def shortages(self, server_pids: Sequence[int]) -> Shortages:
        memory = self._read("proc/pressure/memory")
        swapped = re.search(r"^pswpin (\d+)", self._read("proc/vmstat"), re.MULTILINE)
        throttled = [value for pid in server_pids if (value := self._throttled_s(pid)) is not None]
        return Shortages(
            cpu_s=pressure_s(self._read("proc/pressure/cpu"), "some"),
            memory_s=pressure_s(memory, "some"),
            all_memory_s=pressure_s(memory, "full"),
            throttled_s=max(throttled, default=None),
            swapped_in_bytes=int(swapped[1]) * self._page_bytes if swapped else None,
        )

    def memory_available_share(self) -> float | None:
        return available_share_of(self._read("proc/meminfo"))

    def cpu_s(self, pids: Iterable[int]) -> float:
        return sum(cpu_of_process_ns(pid) or 0 for pid in pids) / 1e9

    def threads(self, pids: Iterable[int], skip: Collection[ThreadId] = ()) -> Threads | None:
        if not self._tells_waits:
            return None
        threads = {}
        for pid in pids:
            for tid in self._entries(f"proc/{pid}/task"):
                if (pid, int(tid)) not in skip:
                    with contextlib.suppress(ValueError):
                        threads[pid, int(tid)] = thread_of(self._read(f"proc/{pid}/task/{tid}/schedstat"))
        return threads

    def _throttled_s(self, pid: int) -> float | None:
        with contextlib.suppress(ValueError):
            for path in cpu_stat_paths(self._read(f"proc/{pid}/cgroup")):
                if (value := throttled_s(self._read(path.removeprefix("/")))) is not None:
                    return value
        return None

    def _pids(self) -> Iterator[int]:
        return (int(name) for name in self._entries("proc") if name.isdecimal())

    def _entries(self, path: str) -> list[str]:
        with contextlib.suppress(OSError):
            return os.listdir(self._root + path)  # noqa: PTH208  reads many entries: do not make an object for each
        return []

    def _read(self, path: str) -> str:
        """The text of a file; empty if it cannot be read."""
        try:
            with open(self._root + path, "rb", buffering=0) as file:  # noqa: PTH123  as above
                return file.read().decode("utf-8", "replace")
        except OSError:
            return ""


class PsutilSource:
    """Reads through psutil, for Windows and macOS, which do not report how long a thread waited."""

    def __init__(self) -> None:
        self.cores = usable_cores()

    def processes(self) -> Processes:
        processes = {}
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, OSError), process.oneshot():
                times = process.cpu_times()
                processes[process.pid] = ProcessTimes(
                    program_name(process.name()), process.ppid(), process.create_time(), times.user + times.system
                )
        # The idle process of Windows accounts for all time that no other process used.
        return {pid: process for pid, process in processes.items() if process.name != "System Idle Process"}

    def core_times(self) -> CoreTimes:
        times = psutil.cpu_times()
        return CoreTimes(times.user + times.system + getattr(times, "nice", 0.0), times.idle)

    def upstreams(self, pids: Collection[int]) -> set[int]:
        return upstreams_by_psutil(pids)

    def shortages(self, server_pids: Sequence[int]) -> Shortages:
        with contextlib.suppress(psutil.Error, OSError, RuntimeError):
            return Shortages(swapped_in_bytes=psutil.swap_memory().sin)
        return Shortages()

    def memory_available_share(self) -> float | None:
        with contextlib.suppress(psutil.Error, OSError, RuntimeError):
            memory = psutil.virtual_memory()
            return _share_of(memory.available, memory.total)
        return None

    def cpu_s(self, pids: Iterable[int]) -> float:
        total = 0.0
        for pid in pids:
            with contextlib.suppress(psutil.Error, OSError):
                times = psutil.Process(pid).cpu_times()
                total += times.user + times.system
        return total

    def threads(self, pids: Iterable[int], skip: Collection[ThreadId] = ()) -> Threads | None:
        return None
