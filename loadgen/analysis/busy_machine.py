"""How much other work on the machine slowed the server during a stage, in words. Pure."""

from typing import Final

from loadgen.record import MachineFacts

BUSY: Final = 0.03
BUSY_IF_SHARED: Final = 0.02
BUSY_HOST: Final = 0.1
BUSY_INVALID: Final = 0.25
"""By how much neighbors, or the host of a virtual machine, may lengthen what the server did. A host takes a little time
from most machines, so its limit is higher. The estimate for threads that share their work is lower where little was
lost, and so is its limit; benchmarks/neighbors.py."""
KNOWN_SLOWDOWN: Final = BUSY_INVALID
"""A greater slow-down is not shown as a number. Beside neighbors that are busy half of the time or more, two thirds
were estimated where answers took 5 to 20 % longer, and 40 % where they took 75 % longer: how much a server loses with a
core depends on what it waits for. benchmarks/neighbors.py."""
NAMED_SHARE: Final = 0.01
"""A cause with a smaller share than this is not named."""


def total_slowdown_of(machine: MachineFacts) -> float:
    """By how much neighbors and the host of the virtual machine together lengthened what the server did."""
    host_slowdown = machine.host_slowdown or 0.0
    return (1 + (machine.slowdown or 0.0)) * (1 + (host_slowdown if host_slowdown > BUSY_HOST else 0.0)) - 1


def slowdown_limit_of(machine: MachineFacts) -> float:
    """By how much neighbors may lengthen what the server did."""
    return BUSY_IF_SHARED if machine.slowdown_source == "shared_waits" else BUSY


def is_host_alone(machine: MachineFacts) -> bool:
    """Whether the host of this virtual machine alone slowed the server too much, and no neighbor did."""
    return (machine.slowdown or 0.0) <= slowdown_limit_of(machine) and (machine.host_slowdown or 0.0) > BUSY_HOST


def busy_text(machine: MachineFacts) -> str:
    """By about how much the server was slowed, and the causes, in words."""
    causes = [f"{neighbor.name} {neighbor.cpu_share:.0%}" for neighbor in machine.busiest]
    if not causes and machine.neighbors_cpu_share and (machine.slowdown or 0.0) > slowdown_limit_of(machine):
        causes = [f"programs that came and went {machine.neighbors_cpu_share:.0%}"]
    text = ", ".join(causes) + " of a core" if causes else ""
    if (machine.host_slowdown or 0.0) > BUSY_HOST:
        text = _joined(text, f"the host of this virtual machine took {machine.steal_share:.0%} of a core")
    if (machine.memory_pressure or 0.0) >= NAMED_SHARE:
        text = _joined(text, f"memory was short for {machine.memory_pressure:.0%} of the time")
    slowdown = total_slowdown_of(machine)
    by = f"about {slowdown:.0%} too high" if slowdown <= KNOWN_SLOWDOWN else "too high, by how much is not known"
    return f"TTFT, ITL and E2E are {by}, because other work on this machine slowed the server ({text})"


def _joined(text: str, more: str) -> str:
    return f"{text}; {more}" if text else more
