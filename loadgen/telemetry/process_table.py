"""The processes of the machine at two moments, and what those of them used in between that are neighbors. Reads nothing
itself."""

from collections.abc import Callable, Iterable, Mapping
from typing import Final

from msgspec import Struct

from loadgen.clock import Clock
from loadgen.record import Neighbor

BUSIEST: Final = 3
"""At most this many neighbors are named."""
NAMED_CPU: Final = 0.01
"""A neighbor that used less than this share of a core is not named."""


class ProcessTimes(Struct, frozen=True):
    """A process at one moment. name: the name of its program, without path and arguments. cpu_s: the CPU time that it
    has used so far."""

    name: str
    parent: int
    started: float
    """When it started, in the system's own unit; it distinguishes a process from an earlier one with the same id."""
    cpu_s: float


Processes = Mapping[int, ProcessTimes]
"""By process id."""


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


def processes_at(read: Callable[[], Processes], clock: Clock) -> tuple[Processes, float]:
    """All processes, and the middle of the time in which they were read, s."""
    began_ns = clock.now_ns()
    processes = read()
    return processes, (began_ns + clock.now_ns()) / 2e9


def neighbors_between(before: Processes, after: Processes, ours: set[int]) -> dict[str, float]:
    """The CPU time of neighbors by program, the busiest first, s. ours: the processes that are not neighbors. A process
    that started in between counts fully; one that ended does not count."""
    by_name: dict[str, float] = {}
    for pid, process in after.items():
        if pid in ours:
            continue
        earlier = before.get(pid)
        is_same = earlier is not None and earlier.started == process.started
        used_s = process.cpu_s - (earlier.cpu_s if earlier is not None and is_same else 0.0)
        by_name[process.name] = by_name.get(process.name, 0.0) + max(0.0, used_s)
    return dict(sorted(by_name.items(), key=lambda item: -item[1]))


def busiest(used_s: Mapping[str, float], wall_s: float) -> tuple[Neighbor, ...]:
    """The neighbors that used the most CPU. used_s: CPU time by program, the busiest first."""
    shares = ((name, cpu_s / wall_s) for name, cpu_s in list(used_s.items())[:BUSIEST])
    return tuple(Neighbor(name, round(share, 4)) for name, share in shares if share >= NAMED_CPU)
