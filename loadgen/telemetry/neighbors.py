"""Estimates how much neighbors slowed the server during a stage. A neighbor is a process that is neither ours nor the
server's. This module reads nothing itself: a `MachineSource` reads the system (`loadgen.telemetry.machine_source`), and
everything that is computed here is pure.

The slow-down is estimated from the first of these that the system offers:

1. `run_delay` (Linux): how long the server's threads were ready to run and waited for a core. We cause part of that
   wait, and the server's other threads cause another part. The neighbors' part is their share of the CPU time that was
   used beside the server's busiest threads, but never more than the CPU time that the neighbors used.
2. `idle_cores` (all other systems): the neighbors' CPU time minus the idle time of the cores. It counts only up to the
   CPU time that the server's threads could have used but did not get.
"""

import math
import os
from collections.abc import Collection, Iterable, Sequence
from typing import Final, Protocol

import msgspec
from msgspec import Struct

from loadgen.clock import Clock
from loadgen.record import MachineFacts, SlowdownSource
from loadgen.telemetry.process_table import Processes, busiest, family_of, neighbors_between, processes_at
from loadgen.telemetry.thread_waits import ThreadId, Threads, runs_and_waits, stalled_between, wait_if_shared_s

READ_BESIDE: Final = 16
"""How many of a server's threads, those that have run longest, are read during a stage; new threads are read too. All
others are read only at the start and the end, because some servers have hundreds of threads that do nothing, and each
takes 10 to 20 µs to read."""
TICKS_OFF: Final = 0.25
"""The possible error of the machine's total CPU time, which is counted in ticks, as a share of one core."""


class CoreTimes(Struct, frozen=True):
    """CPU time of all cores together since the system started, s. None: the system does not report it.

    busy: time in programs, and in the kernel on their behalf, without interrupts. steal: time that the host of this
    virtual machine took.
    """

    busy_s: float
    idle_s: float
    steal_s: float | None = None


class Shortages(Struct, frozen=True):
    """Shortages of CPU and memory since the system started. None: the system does not report it.

    cpu_s, memory_s: how long at least one task waited for CPU or memory. all_memory_s: how long all tasks that were not
    idle waited for memory. throttled_s: how long a limit kept the server's control group from running.
    swapped_in_bytes: bytes read from swap.
    """

    cpu_s: float | None = None
    memory_s: float | None = None
    all_memory_s: float | None = None
    throttled_s: float | None = None
    swapped_in_bytes: int | None = None


class MachineSource(Protocol):
    """Reads the state of the machine from the system."""

    @property
    def cores(self) -> int: ...

    def processes(self) -> Processes:
        """All processes that we may read. Takes milliseconds."""

    def core_times(self) -> CoreTimes: ...

    def shortages(self, server_pids: Sequence[int]) -> Shortages: ...

    def memory_available_share(self) -> float | None:
        """The share of the machine's memory that programs could get now without swapping. Takes less than 0.1 ms."""

    def upstreams(self, pids: Collection[int]) -> set[int]:
        """The processes on this machine that listen at a port to which any of `pids` is connected."""

    def cpu_s(self, pids: Iterable[int]) -> float:
        """The CPU time of some processes together; a process that has ended counts as 0."""

    def threads(self, pids: Iterable[int], skip: Collection[ThreadId] = ()) -> Threads | None:
        """The threads of some processes; None if the system does not report how long threads waited."""


class Waited(Struct, frozen=True):
    """The activity of the server, of us and of the cores over some time, in s of wall time or of CPU time.

    stalled_s: how long at least one of the server's threads waited for a core. shared_wait_s: how long the server was
    held up if its threads take over each other's work (`thread_waits`). crowding_s: the CPU time of the server's
    threads other than its busiest ones (as many as there are cores), which make the busiest ones wait. taken_s: the CPU
    time of neighbors that the server would have used, judged by the idle time of the cores. memory_available_share: the
    least share of the machine's memory that was available in a sample.
    """

    wall_s: float = 0.0
    own_cpu_s: float = 0.0
    server_cpu_s: float = 0.0
    core_times: CoreTimes = CoreTimes(0.0, 0.0)
    stalled_s: float | None = None
    crowding_s: float = 0.0
    taken_s: float = 0.0
    shared_wait_s: float = 0.0
    memory_available_share: float | None = None


class MachineSample(Struct, frozen=True):
    """The state of the machine at one moment of a stage, with only the parts that are cheap to read during a stage."""

    at_s: float
    own_cpu_s: float
    server_cpu_s: float
    core_times: CoreTimes
    threads: Threads | None
    memory_available_share: float | None = None


def waited_between(before: MachineSample, after: MachineSample, cores: int) -> Waited:
    """The activity between two samples."""
    wall_s = max(1e-9, after.at_s - before.at_s)
    own_s, server_s = after.own_cpu_s - before.own_cpu_s, after.server_cpu_s - before.server_cpu_s
    core_times = _core_times_between(before.core_times, after.core_times)
    stalled_s, crowding_s, shared_wait_s = None, 0.0, 0.0
    if before.threads is not None and after.threads is not None:
        stalled_s, crowding_s = stalled_between(before.threads, after.threads, wall_s, cores)
        shared_wait_s = min(stalled_s, wait_if_shared_s(*runs_and_waits(before.threads, after.threads)))
    neighbors_s = max(0.0, core_times.busy_s - own_s - server_s)
    # A busy thread with a core of its own uses all of that core. So the server may have missed the time that is lacking
    # to a whole number of cores.
    missed_s = math.ceil(server_s / wall_s) * wall_s - server_s
    taken_s = max(0.0, min(neighbors_s, missed_s) - core_times.idle_s)
    available = _least(before.memory_available_share, after.memory_available_share)
    return Waited(wall_s, own_s, server_s, core_times, stalled_s, crowding_s, taken_s, shared_wait_s, available)


def _least(*values: float | None) -> float | None:
    return min((value for value in values if value is not None), default=None)


def _core_times_between(before: CoreTimes, after: CoreTimes) -> CoreTimes:
    stolen = None if before.steal_s is None or after.steal_s is None else max(0.0, after.steal_s - before.steal_s)
    return CoreTimes(max(0.0, after.busy_s - before.busy_s), max(0.0, after.idle_s - before.idle_s), stolen)


def together(first: Waited, second: Waited) -> Waited:
    """The activity over two consecutive times."""
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
        shared_wait_s=first.shared_wait_s + second.shared_wait_s,
        memory_available_share=_least(first.memory_available_share, second.memory_available_share),
    )


def with_idle_threads(waited: Waited, before: Threads, after: Threads | None) -> Waited:
    """The activity, with the waits of the threads that are read only at the start and the end added."""
    if waited.stalled_s is None or after is None or waited.wall_s <= 0:
        return waited
    read = {key: times for key, times in after.items() if key in before}
    stalled_s, _ = stalled_between(before, read, waited.wall_s, len(read), waited.server_cpu_s)
    both_s = waited.stalled_s + stalled_s - waited.stalled_s * stalled_s / waited.wall_s
    return msgspec.structs.replace(waited, stalled_s=both_s)


def slowdown_of(
    waited: Waited, neighbors_cpu_s: float, active_s: float, all_memory_s: float = 0.0
) -> tuple[float, SlowdownSource]:
    """By how much neighbors lengthened the server's work (0.05: 5 %), and how that was estimated.

    active_s: how long the server had work to do. all_memory_s: how long no process could run because memory was short.
    """
    source: SlowdownSource = "idle_cores"
    stalled_s = waited.taken_s
    if waited.stalled_s is not None:
        source = "run_delay"
        stalled_s = _charged_s(waited.stalled_s, waited, neighbors_cpu_s)
    return _longer(stalled_s + all_memory_s, active_s), source


def shared_slowdown_of(
    waited: Waited, neighbors_cpu_s: float, active_s: float, all_memory_s: float = 0.0
) -> float | None:
    """By how much neighbors lengthened the server's work if its threads take over each other's work while one of them
    waits; None if the system does not report how long threads waited. Arguments: as for `slowdown_of`."""
    if waited.stalled_s is None:
        return None
    return _longer(_charged_s(waited.shared_wait_s, waited, neighbors_cpu_s) + all_memory_s, active_s)


def _charged_s(held_up_s: float, waited: Waited, neighbors_cpu_s: float) -> float:
    """The neighbors' part of the time for which the server was held up."""
    others_s = waited.own_cpu_s + waited.crowding_s + neighbors_cpu_s
    share = neighbors_cpu_s / others_s if others_s > 0 else 0.0
    return min(held_up_s * share, neighbors_cpu_s)


def host_slowdown_of(waited: Waited, neighbors_cpu_s: float, active_s: float) -> float | None:
    """By how much the host of this virtual machine lengthened the server's work; None if the system does not report
    what the host took. The server lost a part of that time in proportion to its share of the CPU time. The loss is
    divided by the number of cores that the server kept busy, because they lose time in parallel."""
    if waited.core_times.steal_s is None:
        return None
    ran_s = waited.server_cpu_s + waited.own_cpu_s + neighbors_cpu_s
    from_server_s = waited.core_times.steal_s * (waited.server_cpu_s / ran_s if ran_s > 0 else 0.0)
    return _longer(from_server_s / max(1.0, waited.server_cpu_s / max(1e-9, waited.wall_s)), active_s)


def _longer(lost_s: float, active_s: float) -> float:
    """The lost time as a share of the rest of the active time: by how much the loss lengthened the work."""
    lost_s = min(lost_s, 0.99 * active_s)
    return lost_s / (active_s - lost_s) if active_s > 0 else 0.0


class NeighborWatch:
    """Observes the machine during a stage: `start`, then `sample` now and then, and `facts` at the end."""

    def __init__(self, source: MachineSource, clock: Clock, server_pids: Sequence[int] = ()) -> None:
        """server_pids: the server's processes on this machine; empty if it runs elsewhere, or is not known."""
        self._source = source
        self._clock = clock
        self._server_pids = tuple(server_pids)
        self._before: tuple[Processes, float] = ({}, 0.0)
        """The processes at the start, and when that was, s."""
        self._own: set[int] = set()
        self._server: set[int] = set()
        self._shortages = Shortages()
        self._idle_threads: Threads = {}
        """The threads that are read only at the start and the end."""
        self._last: MachineSample | None = None
        self._waited = Waited()

    def start(self) -> None:
        """Begin. Reads every process of the machine, so call it before a measurement and not during one."""
        self._before = processes_at(self._source.processes, self._clock)
        self._server_pids = self._with_upstreams()
        self._own, self._server = self._families(self._before[0])
        self._shortages = self._source.shortages(self._server_pids)
        threads = self._source.threads(self._server)
        longest = sorted((threads or {}).items(), key=lambda item: -item[1].run_ns)
        self._idle_threads = dict(longest[READ_BESIDE:])
        self._last, self._waited = self._read(), Waited()

    def sample(self) -> None:
        """Read the server's threads and the cores. Cheap enough to do during a measurement."""
        if self._last is not None:
            now = self._read()
            self._waited = together(self._waited, waited_between(self._last, now, self._source.cores))
            self._last = now

    def follow(self, pid: int) -> None:
        """Observe a process too that has taken the server's place. Reads every process of the machine once."""
        self._server_pids, server = (*self._server_pids, pid), family_of((pid,), self._source.processes())
        self._server, self._last = self._server | server, None if self._last is None else self._read()

    def facts(self, active_share: float = 1.0) -> MachineFacts:
        """The facts since `start`. active_share: the share of the time in which the server had work to do."""
        self.sample()
        processes, at_s = processes_at(self._source.processes, self._clock)
        own, server = self._families(processes)
        waited = with_idle_threads(self._waited, self._idle_threads, self._source.threads(self._server))
        wall_s = max(1e-9, waited.wall_s)
        # On a busy machine the processes take long to read, and a part of what they used was not in the stage.
        stage_share = min(1.0, wall_s / max(1e-9, at_s - self._before[1]))
        used_s = neighbors_between(self._before[0], processes, own | server)
        used_s = {name: cpu_s * stage_share for name, cpu_s in used_s.items()}
        # The sum over the processes that still exist lacks those that have ended. The rest of the machine's total lacks
        # none of them, but it is counted in ticks, which may be off by a tenth of a core or more if programs run in
        # bursts. So the rest counts only if it is clearly larger.
        rest_s = waited.core_times.busy_s - waited.own_cpu_s - waited.server_cpu_s
        there_s = sum(used_s.values())
        neighbors_cpu_s = rest_s if rest_s > there_s + TICKS_OFF * wall_s else there_s
        short = _shortages_between(self._shortages, self._source.shortages(self._server_pids))
        slowdown, source, host_slowdown, shared_slowdown = None, None, None, None
        if server and self._with_upstreams() == self._server_pids:  # otherwise a part of it counted as a neighbor
            active_s = active_share * wall_s
            slowdown, source = slowdown_of(waited, neighbors_cpu_s, active_s, short.all_memory_s or 0.0)
            shared_slowdown = shared_slowdown_of(waited, neighbors_cpu_s, active_s, short.all_memory_s or 0.0)
            host_slowdown = host_slowdown_of(waited, neighbors_cpu_s, active_s)
        return MachineFacts(
            cores=self._source.cores,
            neighbors_cpu_share=neighbors_cpu_s / wall_s,
            busiest=busiest(used_s, wall_s),
            slowdown=slowdown,
            slowdown_source=source,
            shared_slowdown=shared_slowdown,
            host_slowdown=host_slowdown,
            server_wait_share=_share(waited.stalled_s if server else None, wall_s),
            server_shared_wait_share=_share(
                waited.shared_wait_s if server and waited.stalled_s is not None else None, wall_s
            ),
            steal_share=_share(waited.core_times.steal_s, wall_s),
            throttled_share=_share(short.throttled_s, wall_s),
            cpu_pressure=_share(short.cpu_s, wall_s),
            memory_pressure=_share(short.memory_s, wall_s),
            memory_available_share=waited.memory_available_share,
            swapped_in_bytes=short.swapped_in_bytes,
        )

    def _with_upstreams(self) -> tuple[int, ...]:
        """The server's processes and those that they are connected to. The server behind a gateway does the gateway's
        work, so it is not a neighbor."""
        roots = self._server_pids
        while roots and (more := self._source.upstreams(roots) - {*roots, os.getpid()}):
            roots += tuple(sorted(more))
        return roots

    def _families(self, processes: Processes) -> tuple[set[int], set[int]]:
        """Our own processes and the server's, without overlap: if one family started the other, the latter keeps its
        own."""
        own, server = family_of((os.getpid(),), processes), family_of(self._server_pids, processes)
        if os.getpid() in server and os.getpid() not in self._server_pids:  # the server's program started us
            return own, server - own
        return own - server, server

    def _read(self) -> MachineSample:
        source = self._source
        return MachineSample(
            at_s=self._clock.now_ns() / 1e9,
            own_cpu_s=source.cpu_s(self._own),
            server_cpu_s=source.cpu_s(self._server),
            core_times=source.core_times(),
            threads=source.threads(self._server, skip=self._idle_threads),
            memory_available_share=source.memory_available_share(),
        )


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
