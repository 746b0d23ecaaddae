"""Who else was on the machine while a stage ran, and for how long the server waited because of them. Reads nothing by
itself: a `MachineSource` does (`loadgen.telemetry.machine_source`), and all that is computed here is pure.

How much longer the server took is estimated from the first of these that the system tells:

1. `run_delay` (Linux): for how long the server's threads were ready to run and waited for a core. Part of that wait is
   our own doing, and part that of the server's other threads: neighbors are charged with their share of the CPU that
   was taken beside the server's busiest threads, and never with more than the CPU time that they had.
2. `idle_cores` (everywhere else): the neighbors' CPU time beyond what the cores were idle, as far as the server's
   threads did not have theirs.
"""

import math
import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Final, Protocol

import msgspec
from msgspec import Struct

from loadgen.clock import Clock
from loadgen.record import MachineFacts, Neighbor, SlowdownSource

BUSIEST: Final = 3
"""So many neighbors are named at most."""
READ_BESIDE: Final = 16
"""So many of a server's threads, those that have run longest, are read while a stage runs, and all that are new: some
servers have hundreds that do nothing, and each costs 10 to 20 µs."""
TICKS_OFF: Final = 0.25
"""Of a core: how far a machine's total, counted by ticks, may be off."""
NAMED_CPU: Final = 0.01
"""Who used less than this share of a core is not named."""


class ProcessTimes(Struct, frozen=True):
    """A process at some moment. name: of its program, without path and arguments. cpu_s: CPU time that it has used."""

    name: str
    parent: int
    started: float
    """Tells a process from an earlier one of the same id; its unit is the system's own."""
    cpu_s: float


class ThreadTimes(Struct, frozen=True):
    """For how long a thread has run, and for how long it was ready to run and waited for a core, ns."""

    run_ns: int
    wait_ns: int


class CoreTimes(Struct, frozen=True):
    """CPU time of all cores together since the system began, s. None: the system does not tell.

    busy: in programs and in the kernel on their behalf, without interrupts. steal: taken by the host of this virtual
    machine.
    """

    busy_s: float
    idle_s: float
    steal_s: float | None = None


class Shortages(Struct, frozen=True):
    """What the system was short of, so far. None: the system does not tell.

    cpu_s, memory_s: how long some task waited for it; all_memory_s: how long all that were not idle did. throttled_s:
    how long the server's group of processes was kept from running by its own limit. swapped_in_bytes: read from swap.
    """

    cpu_s: float | None = None
    memory_s: float | None = None
    all_memory_s: float | None = None
    throttled_s: float | None = None
    swapped_in_bytes: int | None = None


Processes = Mapping[int, ProcessTimes]
ThreadId = tuple[int, int]
"""Of a process, and of a thread in it."""
Threads = Mapping[ThreadId, ThreadTimes]


class MachineSource(Protocol):
    """What a system tells of itself."""

    @property
    def cores(self) -> int: ...

    def processes(self) -> Processes:
        """All processes that may be looked at. Takes milliseconds."""

    def core_times(self) -> CoreTimes: ...

    def shortages(self, server_pids: Sequence[int]) -> Shortages: ...

    def upstreams(self, pids: Collection[int]) -> set[int]:
        """The processes on this machine that some processes are connected to, at a port where those listen."""

    def cpu_s(self, pids: Iterable[int]) -> float:
        """CPU time of some processes; one that is gone has none."""

    def threads(self, pids: Iterable[int], skip: Collection[ThreadId] = ()) -> Threads | None:
        """The threads of some processes; None where the system does not tell for how long they waited."""


class Waited(Struct, frozen=True):
    """What a stage's server and its surroundings did during some time, s of wall time or of CPU time.

    stalled_s: how long at least one of the server's threads waited for a core. crowding_s: CPU time of the server's
    threads beyond as many of them as there are cores, which the others wait for. taken_s: CPU time of neighbors that
    the server missed, by the cores that were idle.
    """

    wall_s: float = 0.0
    own_cpu_s: float = 0.0
    server_cpu_s: float = 0.0
    core_times: CoreTimes = CoreTimes(0.0, 0.0)
    stalled_s: float | None = None
    crowding_s: float = 0.0
    taken_s: float = 0.0


class Look(Struct, frozen=True):
    """The state of the machine at one moment of a stage, as far as it can be read beside a measurement."""

    at_s: float
    own_cpu_s: float
    server_cpu_s: float
    core_times: CoreTimes
    threads: Threads | None


def family_of(roots: Iterable[int], processes: Processes) -> set[int]:
    """Some processes and all their descendants."""
    children: dict[int, list[int]] = {}
    for pid, process in processes.items():
        children.setdefault(process.parent, []).append(pid)
    family, queue = set[int](), list(roots)
    while queue:
        pid = queue.pop()
        if pid not in family:
            family.add(pid)
            queue += children.get(pid, ())
    return family


def waited_between(before: Look, after: Look, cores: int) -> Waited:
    """What happened between two looks."""
    wall_s = max(1e-9, after.at_s - before.at_s)
    own_s, server_s = after.own_cpu_s - before.own_cpu_s, after.server_cpu_s - before.server_cpu_s
    core_times = _core_times_between(before.core_times, after.core_times)
    stalled_s, crowding_s = None, 0.0
    if before.threads is not None and after.threads is not None:
        stalled_s, crowding_s = _stalled_between(before.threads, after.threads, wall_s, cores)
    neighbors_s = max(0.0, core_times.busy_s - own_s - server_s)
    # A thread that has a core to itself uses all of it: what is missing to whole cores is what it may have waited for.
    missed_s = math.ceil(server_s / wall_s) * wall_s - server_s
    taken_s = max(0.0, min(neighbors_s, missed_s) - core_times.idle_s)
    return Waited(wall_s, own_s, server_s, core_times, stalled_s, crowding_s, taken_s)


def _core_times_between(before: CoreTimes, after: CoreTimes) -> CoreTimes:
    stolen = None if before.steal_s is None or after.steal_s is None else max(0.0, after.steal_s - before.steal_s)
    return CoreTimes(max(0.0, after.busy_s - before.busy_s), max(0.0, after.idle_s - before.idle_s), stolen)


def _stalled_between(
    before: Threads, after: Threads, wall_s: float, cores: int, busiest_s: float = 0.0
) -> tuple[float, float]:
    """How long the server stood still because threads of it waited, and the CPU time of its threads beyond that of as
    many as there are cores.

    Threads that compute a token together wait for the one that waits: each counts as if it waited independently of the
    others, but only as far as it was as active as the busiest one. A thread that hands tokens on now and then, or helps
    with prompts alone, does not hold up the others when it waits. busiest_s: what a thread that is not here was active.
    """
    runs_s, waits_s = [], []
    for key, times in after.items():
        start = before.get(key, ThreadTimes(0, 0))  # one that is new began within
        runs_s.append(max(0, times.run_ns - start.run_ns) / 1e9)
        waits_s.append(max(0, times.wait_ns - start.wait_ns) / 1e9)
    busiest_s = max(busiest_s, *(run_s + wait_s for run_s, wait_s in zip(runs_s, waits_s, strict=True)), 1e-9)
    undisturbed = 1.0
    for run_s, wait_s in zip(runs_s, waits_s, strict=True):
        undisturbed *= 1 - min(1.0, wait_s / wall_s) * (run_s + wait_s) / busiest_s
    runs_s.sort(reverse=True)
    return (1 - undisturbed) * wall_s, sum(runs_s[cores:])


def together(first: Waited, second: Waited) -> Waited:
    """What happened in two times, one after the other."""
    a, b = first.core_times, second.core_times
    stolen = b.steal_s if a.steal_s is None else a.steal_s if b.steal_s is None else a.steal_s + b.steal_s
    stalled = [value for value in (first.stalled_s, second.stalled_s) if value is not None]
    return Waited(
        wall_s=first.wall_s + second.wall_s,
        own_cpu_s=first.own_cpu_s + second.own_cpu_s,
        server_cpu_s=first.server_cpu_s + second.server_cpu_s,
        core_times=CoreTimes(a.busy_s + b.busy_s, a.idle_s + b.idle_s, stolen),
        stalled_s=sum(stalled) if stalled else None,
        crowding_s=first.crowding_s + second.crowding_s,
        taken_s=first.taken_s + second.taken_s,
    )


def with_idle_threads(waited: Waited, before: Threads, after: Threads | None) -> Waited:
    """With what threads waited that were read at the start and at the end alone."""
    if waited.stalled_s is None or after is None or waited.wall_s <= 0:
        return waited
    read = {key: times for key, times in after.items() if key in before}
    stalled_s, _ = _stalled_between(before, read, waited.wall_s, len(read), waited.server_cpu_s)
    both_s = waited.stalled_s + stalled_s - waited.stalled_s * stalled_s / waited.wall_s
    return msgspec.structs.replace(waited, stalled_s=both_s)


def neighbors_between(before: Processes, after: Processes, ours: set[int]) -> dict[str, float]:
    """CPU time of the processes that are not ours, by program, the busiest first, s. ours: processes that are no
    neighbors. One that began in between counts as a whole; one that ended does not count."""
    by_name: dict[str, float] = {}
    for pid, process in after.items():
        if pid in ours:
            continue
        earlier = before.get(pid)
        is_same = earlier is not None and earlier.started == process.started
        used_s = process.cpu_s - (earlier.cpu_s if earlier is not None and is_same else 0.0)
        by_name[process.name] = by_name.get(process.name, 0.0) + max(0.0, used_s)
    return dict(sorted(by_name.items(), key=lambda item: -item[1]))


def slowdown_of(
    waited: Waited, neighbors_cpu_s: float, active_s: float, all_memory_s: float = 0.0
) -> tuple[float, SlowdownSource]:
    """By how much neighbors lengthened what the server did (0.05: 5 %), and from what that is known.

    active_s: how long the server had something to do. all_memory_s: how long nobody could run for want of memory.
    """
    source: SlowdownSource = "idle_cores"
    stalled_s = waited.taken_s
    if waited.stalled_s is not None:
        source = "run_delay"
        others_s = waited.own_cpu_s + waited.crowding_s + neighbors_cpu_s
        share = neighbors_cpu_s / others_s if others_s > 0 else 0.0
        stalled_s = min(waited.stalled_s * share, neighbors_cpu_s)
    return _longer(stalled_s + all_memory_s, active_s), source


def host_slowdown_of(waited: Waited, neighbors_cpu_s: float, active_s: float) -> float | None:
    """By how much the host of this virtual machine lengthened what the server did: by what it took, in proportion to
    the CPU time that was the server's, and from all cores at once that the server kept busy. None where the system does
    not tell."""
    if waited.core_times.steal_s is None:
        return None
    ran_s = waited.server_cpu_s + waited.own_cpu_s + neighbors_cpu_s
    from_server_s = waited.core_times.steal_s * (waited.server_cpu_s / ran_s if ran_s > 0 else 0.0)
    return _longer(from_server_s / max(1.0, waited.server_cpu_s / max(1e-9, waited.wall_s)), active_s)


def _longer(lost_s: float, active_s: float) -> float:
    """What took so long, less what was lost, took by so much longer because of that."""
    lost_s = min(lost_s, 0.99 * active_s)
    return lost_s / (active_s - lost_s) if active_s > 0 else 0.0


class NeighborWatch:
    """Looks at the machine around a stage: `start`, `sample` now and then, and `facts` at the end."""

    def __init__(self, source: MachineSource, clock: Clock, server_pids: Sequence[int] = ()) -> None:
        """server_pids: the server's processes on this machine; empty where it is elsewhere, or is not known."""
        self._source = source
        self._clock = clock
        self._server_pids = tuple(server_pids)
        self._processes: Processes = {}
        self._own: set[int] = set()
        self._server: set[int] = set()
        self._shortages = Shortages()
        self._idle_threads: Threads = {}
        """Those that are read at the start and at the end alone."""
        self._last: Look | None = None
        self._waited = Waited()

    def start(self) -> None:
        """Begin. Reads every process of the machine: for before a measurement, not beside it."""
        self._processes = self._source.processes()
        self._server_pids = self._with_upstreams()
        self._own, self._server = self._families(self._processes)
        self._shortages = self._source.shortages(self._server_pids)
        threads = self._source.threads(self._server)
        longest = sorted((threads or {}).items(), key=lambda item: -item[1].run_ns)
        self._idle_threads = dict(longest[READ_BESIDE:])
        self._last, self._waited = self._look(), Waited()

    def sample(self) -> None:
        """Look at the server's threads and at the cores: cheap enough for beside a measurement."""
        if self._last is not None:
            look = self._look()
            self._waited = together(self._waited, waited_between(self._last, look, self._source.cores))
            self._last = look

    def facts(self, active_share: float = 1.0) -> MachineFacts:
        """What was seen since `start`. active_share: of the time, how much of it the server had something to do."""
        self.sample()
        processes = self._source.processes()
        own, server = self._families(processes)
        waited = with_idle_threads(self._waited, self._idle_threads, self._source.threads(self._server))
        wall_s = max(1e-9, waited.wall_s)
        used_s = neighbors_between(self._processes, processes, own | server)
        # The sum of those that are still there lacks who has ended. What is left of the machine's total lacks nobody,
        # but is counted by ticks, which may be off by a tenth of a core and more where programs run in bursts.
        rest_s = waited.core_times.busy_s - waited.own_cpu_s - waited.server_cpu_s
        there_s = sum(used_s.values())
        neighbors_cpu_s = rest_s if rest_s > there_s + TICKS_OFF * wall_s else there_s
        short = _shortages_between(self._shortages, self._source.shortages(self._server_pids))
        slowdown, source, host_slowdown = None, None, None
        if server and self._with_upstreams() == self._server_pids:  # else a part of it was taken for a neighbor
            active_s = active_share * wall_s
            slowdown, source = slowdown_of(waited, neighbors_cpu_s, active_s, short.all_memory_s or 0.0)
            host_slowdown = host_slowdown_of(waited, neighbors_cpu_s, active_s)
        return MachineFacts(
            cores=self._source.cores,
            neighbors_cpu_share=neighbors_cpu_s / wall_s,
            busiest=busiest(used_s, wall_s),
            slowdown=slowdown,
            slowdown_source=source,
            host_slowdown=host_slowdown,
            server_wait_share=_share(waited.stalled_s if server else None, wall_s),
            steal_share=_share(waited.core_times.steal_s, wall_s),
            throttled_share=_share(short.throttled_s, wall_s),
            cpu_pressure=_share(short.cpu_s, wall_s),
            memory_pressure=_share(short.memory_s, wall_s),
            swapped_in_bytes=short.swapped_in_bytes,
        )

    def _with_upstreams(self) -> tuple[int, ...]:
        """A gateway's work is done by the server behind it, and so on: none of them is a neighbor."""
        roots = self._server_pids
        while roots and (more := self._source.upstreams(roots) - {*roots, os.getpid()}):
            roots += tuple(sorted(more))
        return roots

    def _families(self, processes: Processes) -> tuple[set[int], set[int]]:
        """Our own processes, and the server's: each of them only where the other does not have it."""
        own, server = family_of((os.getpid(),), processes), family_of(self._server_pids, processes)
        if os.getpid() in server and os.getpid() not in self._server_pids:  # the server's program has started us
            return own, server - own
        return own - server, server

    def _look(self) -> Look:
        source = self._source
        return Look(
            at_s=self._clock.now_ns() / 1e9,
            own_cpu_s=source.cpu_s(self._own),
            server_cpu_s=source.cpu_s(self._server),
            core_times=source.core_times(),
            threads=source.threads(self._server, skip=self._idle_threads),
        )


def busiest(used_s: Mapping[str, float], wall_s: float) -> tuple[Neighbor, ...]:
    """Who used most. used_s: CPU time by program, the busiest first."""
    shares = ((name, cpu_s / wall_s) for name, cpu_s in list(used_s.items())[:BUSIEST])
    return tuple(Neighbor(name, round(share, 4)) for name, share in shares if share >= NAMED_CPU)


def _share(seconds: float | None, wall_s: float) -> float | None:
    return None if seconds is None else round(max(0.0, seconds) / wall_s, 4)


def _shortages_between(before: Shortages, after: Shortages) -> Shortages:
    def more(name: str) -> float | None:
        first, last = getattr(before, name), getattr(after, name)
        return None if first is None or last is None else max(0, last - first)

    swapped = more("swapped_in_bytes")
    return Shortages(
        cpu_s=more("cpu_s"),
        memory_s=more("memory_s"),
        all_memory_s=more("all_memory_s"),
        throttled_s=more("throttled_s"),
        swapped_in_bytes=None if swapped is None else int(swapped),
    )
