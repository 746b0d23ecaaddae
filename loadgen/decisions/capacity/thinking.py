"""Users who think at a measured server, played in virtual time: limited processor sharing at the measured speeds. Pure.

At most so many requests are worked at together, first come first served. All of them advance at the speed that the
server had with so many in work; what each needs is drawn from requests that were measured alone.
"""

import heapq
from collections.abc import Sequence

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

Floats = NDArray[np.float64]


class MeasuredServer(Struct, frozen=True):
    """A server as its levels showed it."""

    speeds: tuple[float, ...]
    """How fast each request advances with 1, 2, … in work, of its speed at the lowest level. Beyond, all together no
    faster."""
    slots: int | None
    """How many are worked at together; None: all."""
    first_s: Floats
    """Of each measured request of the lowest level: seconds to its first token."""
    end_s: Floats
    """And to its end."""


class ThinkingUsers(Struct, frozen=True):
    """What so many users would see."""

    drawn: NDArray[np.int64]
    """Of each request: which measured one it is like."""
    first_s: Floats
    """Seconds from when it was asked to its first token."""
    end_s: Floats
    in_flight: Floats
    """How many were in flight as it was asked, itself among them."""


def play_thinking_users(
    server: MeasuredServer, users: int, think_s: float, rng: np.random.Generator, count: int
) -> ThinkingUsers:
    """The requests of so many users, each of whom waits for the answer and then thinks, exponentially with mean
    think_s. About `count` requests, after a first round that is left out."""
    total = count + users
    drawn = rng.integers(len(server.first_s), size=total)
    needs_first, needs_end = server.first_s[drawn].tolist(), server.end_s[drawn].tolist()
    thinks: Sequence[float] = rng.exponential(think_s, total).tolist() if think_s else [0.0] * total
    slots, speeds = server.slots or users, server.speeds
    coming = [(float(at), user) for user, at in enumerate(np.sort(rng.uniform(0, max(think_s, 1.0), users)))]
    waiting: list[int] = []
    active: list[tuple[float, int, bool]] = []
    asked, first, end, in_flight = [0.0] * total, [0.0] * total, [0.0] * total, [0] * total
    now = work = 0.0
    served = in_work = begun = ended = 0
    while ended < total:
        speed = _speed(speeds, in_work)
        next_work = now + (active[0][0] - work) / speed if active else np.inf
        if coming and begun < total and coming[0][0] <= next_work:
            at, _ = heapq.heappop(coming)
            work, now = work + (at - now) * speed, at
            asked[begun], in_flight[begun] = at, begun - ended + 1
            waiting.append(begun)
            begun += 1
        elif active:
            work, now = active[0][0], next_work
            _, request, is_end = heapq.heappop(active)
            if not is_end:
                first[request] = now
                continue
            end[request] = now
            ended, in_work = ended + 1, in_work - 1
            heapq.heappush(coming, (now + thinks[request], request))
        while served < len(waiting) and in_work < slots:
            request, served, in_work = waiting[served], served + 1, in_work + 1
            heapq.heappush(active, (work + needs_first[request], request, False))
            heapq.heappush(active, (work + needs_end[request], request, True))
    start = np.asarray(asked)
    return ThinkingUsers(
        drawn[users:],
        (np.asarray(first) - start)[users:],
        (np.asarray(end) - start)[users:],
        np.asarray(in_flight, float)[users:],
    )


def _speed(speeds: Sequence[float], in_work: int) -> float:
    """How fast each of so many requests advances; beyond those that are known, all together no faster."""
    if in_work <= len(speeds):
        return speeds[in_work - 1] if in_work else 0.0
    return speeds[-1] * len(speeds) / in_work
