"""Warnings about the machine before a run: it is already busy, runs on battery, or saves power."""

import os
from collections.abc import Collection, Iterable, Sequence
from typing import Final

from loadgen.clock import Clock
from loadgen.record import Neighbor
from loadgen.telemetry.host import Host
from loadgen.telemetry.neighbors import MachineSource
from loadgen.telemetry.process_table import Processes, busiest, family_of, neighbors_between, processes_at

BUSY_CPU: Final = 0.2
"""From this share of a core on, a line warns about other programs."""
SHORTEST_S: Final = 0.1
"""A shorter time shows little, because a system counts CPU time in hundredths of a second."""


class BusyCheck:
    """Observes the use of the machine from now on, until `warning`."""

    def __init__(self, source: MachineSource, clock: Clock) -> None:
        self._source = source
        self._clock = clock
        self._before, self._start_s = processes_at(source.processes, clock)
        self._is_over = False

    def warning(self, server_pids: Sequence[int]) -> str | None:
        """One line if other programs are busy; None if they are not, if it is too early to tell, or the second time.

        What listens at an address of this machine to which we or the server are connected works for this run, also
        where its process was not known: a server that has just started uses CPU time to load.
        """
        if self._is_over or self._clock.now_ns() / 1e9 - self._start_s < SHORTEST_S:
            return None
        self._is_over = True
        after, end_s = processes_at(self._source.processes, self._clock)
        wall_s = end_s - self._start_s
        roots = {os.getpid(), *server_pids}
        if warning := self._warning_without(roots, after, wall_s):  # otherwise no connection has to be read
            while more := self._source.upstreams(roots) - roots:
                roots |= more
            warning = self._warning_without(roots, after, wall_s)
        return warning

    def _warning_without(self, roots: Collection[int], after: Processes, wall_s: float) -> str | None:
        """The line about what all processes used but `roots` and their descendants."""
        used_s = neighbors_between(self._before, after, family_of(roots, after))
        return busy_warning(sum(used_s.values()) / wall_s, busiest(used_s, wall_s))


def busy_warning(cpu_share: float, neighbors: Iterable[Neighbor]) -> str | None:
    """One line if other programs use this share of a core; None if the share is too small."""
    if cpu_share < BUSY_CPU:
        return None
    names = ", ".join(f"{neighbor.name} {neighbor.cpu_share:.0%}" for neighbor in neighbors)
    who = f" ({names})" if names else ""
    return f"this machine is already busy: other programs use {cpu_share:.0%} of a core{who}, which may slow the server"


def power_warning(host: Host) -> str | None:
    """One line if the machine runs on battery or saves power."""
    states = []
    if host.power is not None and host.power.startswith("battery"):
        states.append(f"runs on {host.power}")
    if host.power_saving is not None:
        states.append(f"saves power ({host.power_saving})")
    return f"this machine {' and '.join(states)}, which may slow the server" if states else None
