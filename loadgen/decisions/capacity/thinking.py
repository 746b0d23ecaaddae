"""Simulates users who think, at a measured server and in virtual time: limited processor sharing at measured speeds.

The server works on a limited number of requests together, first come first served. Each of them advances at the speed
that the server had with as many requests in work. The work of each is drawn from requests that were measured alone.
Pure.
"""

import heapq
from collections.abc import Sequence

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

Floats = NDArray[np.float64]


class MeasuredServer(Struct, frozen=True):
    """The properties of a server that its levels showed."""

    speeds: tuple[float, ...]
    """The speed of each request with 1, 2, … in work, as a share of its speed at the lowest level. With more in work,
    the total speed stays constant."""
    slots: int | None
    """How many requests are in work together; None: all."""
    first_s: Floats
    """For each measured request of the lowest level: seconds to its first token."""
    end_s: Floats
    """For each of them: seconds to its end."""


class ThinkingUsers(Struct, frozen=True):
    """The requests that a number of simulated users would send."""

    drawn: NDArray[np.int64]
    """For each request: the index of the measured request whose work it has."""
    first_s: Floats
    """Seconds from sending a request to its first token."""
    end_s: Floats
    in_flight: Floats
    """The number in flight when a request was sent, including itself."""


def play_thinking_users(
    server: MeasuredServer, users: int, think_s: float, rng: np.random.Generator, count: int
) -> ThinkingUsers:
    """About `count` requests of a number of users, without their first round. Each user waits for the answer and then
    thinks; think times are exponential with the mean `think_s`."""
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
    """The speed of each of a number of requests in work. Beyond the known numbers, the total speed stays constant."""
    if in_work <= len(speeds):
        return speeds[in_work - 1] if in_work else 0.0
    return speeds[-1] * len(speeds) / in_work
