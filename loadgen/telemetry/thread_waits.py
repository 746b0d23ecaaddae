"""How long a server was held up because its threads waited for a core. Pure."""

from collections.abc import Mapping, Sequence

from msgspec import Struct


class ThreadTimes(Struct, frozen=True):
    """How long a thread has run, and how long it was ready to run but waited for a core, ns."""

    run_ns: int
    wait_ns: int


ThreadId = tuple[int, int]
"""The ids of a process and of a thread in it."""
Threads = Mapping[ThreadId, ThreadTimes]


def runs_and_waits(before: Threads, after: Threads) -> tuple[list[float], list[float]]:
    """For how long each thread ran, and for how long it waited for a core, s."""
    runs_s, waits_s = list[float](), list[float]()
    for key, times in after.items():
        start = before.get(key, ThreadTimes(0, 0))  # a new thread started in between
        runs_s.append(max(0, times.run_ns - start.run_ns) / 1e9)
        waits_s.append(max(0, times.wait_ns - start.wait_ns) / 1e9)
    return runs_s, waits_s


def stalled_between(
    before: Threads, after: Threads, wall_s: float, cores: int, busiest_s: float = 0.0
) -> tuple[float, float]:
    """Two values: how long the server stood still because some of its threads waited for a core, and the CPU time of
    its threads other than the busiest ones (as many as there are cores).

    Threads that compute a token together all wait for the one that waits. The waits are combined as if they were
    independent. The wait of a thread is weighted by its activity relative to the busiest thread, because a thread that
    only hands tokens on, or helps only with prompts, holds up no other thread. busiest_s: the least activity of the
    busiest thread, in case that thread is not among these.
    """
    runs_s, waits_s = runs_and_waits(before, after)
    busiest_s = max(busiest_s, *(run_s + wait_s for run_s, wait_s in zip(runs_s, waits_s, strict=True)), 1e-9)
    undisturbed = 1.0
    for run_s, wait_s in zip(runs_s, waits_s, strict=True):
        undisturbed *= 1 - min(1.0, wait_s / wall_s) * (run_s + wait_s) / busiest_s
    runs_s.sort(reverse=True)
    return (1 - undisturbed) * wall_s, sum(runs_s[cores:])


def wait_if_shared_s(runs_s: Sequence[float], waits_s: Sequence[float]) -> float:
    """How long the server was held up if its threads take over each other's work while one of them waits, as those that
    share a matrix out in small parts do.

    Of two threads that are equally active, one that waits half of the time then costs a quarter. The wait of each
    counts by its share of the activity, and by its own activity, as a thread that only hands tokens on holds up no
    other.
    """
    actives_s = [run_s + wait_s for run_s, wait_s in zip(runs_s, waits_s, strict=True)]
    weight = sum(active_s * active_s for active_s in actives_s)
    if not weight:
        return 0.0
    waits = sum(active_s * wait_s for active_s, wait_s in zip(actives_s, waits_s, strict=True))
    return max(actives_s) * waits / weight
