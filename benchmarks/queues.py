"""Queues whose capacity can be known, played in virtual time: closed loops with or without think time, and open loops.

A queue has slots, first come first served, or works at all requests together (`slots = None`). Each further request in
work slows the others. Requests come one after another in the order of dispatch, without end.
"""

import heapq
import math
from bisect import bisect_right
from collections.abc import Iterator
from itertools import islice
from typing import Final, Literal

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from loadgen.plan.plan import StageLoad
from loadgen.record import Record
from loadgen.scenario.objective import Objective

Floats = NDArray[np.float64]

BLOCK: Final = 512
S: Final = 1e9


HostKind = Literal["steady", "bursts", "wander"]
"""`bursts`: every 20 to 60 s, everything takes 1.5 to 4 times as long for 1 to 3 s. `wander`: the speed changes slowly,
by a fifth in the standard deviation, and is forgotten after about a minute."""
WANDER: Final = (5.0, 0.92, 0.2)
"""Seconds for which a speed lasts, the correlation with the next, and the standard deviation of its logarithm."""


class Queue(Struct, frozen=True):
    """A server. Times in seconds."""

    slots: int | None = 4
    prefill_s: float = 0.4
    """Median of a lognormal."""
    prefill_sigma: float = 0.4
    tokens: tuple[int, int] = (20, 60)
    itl_s: float = 0.04
    slowdown: float = 0.1
    """Each other request in work lengthens a gap by this share."""
    think_s: float = 0.0
    """Mean of users' exponential think time."""
    stalls: tuple[float, float] | None = None
    """Mean seconds between stalls, and how long one lasts: what begins in it waits for its end."""
    host: HostKind = "steady"
    """How fast the machine is on which it runs."""


class Request(Struct, frozen=True):
    """One request. Seconds since its visit began."""

    dispatched: float
    first: float
    ended: float
    tokens: int

    @property
    def latencies(self) -> tuple[float, float, float]:
        """TTFT, TPOT and E2E, s."""
        tpot = (self.ended - self.first) / max(1, self.tokens - 1)
        return self.first - self.dispatched, tpot, self.ended - self.dispatched


class _Host:
    """Turns moments of the clock into seconds of work at full speed, and back."""

    def __init__(self, kind: HostKind, rng: np.random.Generator) -> None:
        self._slownesses = self._steady() if kind == "steady" else getattr(self, f"_{kind}")(rng)
        self._clock, self._work = [0.0], [0.0]
        """Where each time of one speed begins."""
        self._slowness: list[float] = []

    @staticmethod
    def _steady() -> Iterator[tuple[float, float]]:
        while True:
            yield 1e9, 1.0

    @staticmethod
    def _bursts(rng: np.random.Generator) -> Iterator[tuple[float, float]]:
        while True:
            yield float(rng.uniform(20, 60)), 1.0
            yield float(rng.uniform(1, 3)), float(rng.uniform(1.5, 4))

    @staticmethod
    def _wander(rng: np.random.Generator) -> Iterator[tuple[float, float]]:
        seconds, alike, sigma = WANDER
        at = float(rng.standard_normal())
        while True:
            yield seconds, math.exp(sigma * at)
            at = alike * at + math.sqrt(1 - alike**2) * float(rng.standard_normal())

    def work_at(self, clock: float) -> float:
        while self._clock[-1] <= clock:
            self._extend()
        at = bisect_right(self._clock, clock) - 1
        return self._work[at] + (clock - self._clock[at]) / self._slowness[at]

    def clock_at(self, work: float) -> float:
        while self._work[-1] <= work:
            self._extend()
        at = bisect_right(self._work, work) - 1
        return self._clock[at] + (work - self._work[at]) * self._slowness[at]

    def _extend(self) -> None:
        seconds, slowness = next(self._slownesses)
        self._clock.append(self._clock[-1] + seconds)
        self._work.append(self._work[-1] + seconds / slowness)
        self._slowness.append(slowness)


class _Draws:
    """What requests need, drawn in blocks."""

    def __init__(self, queue: Queue, rng: np.random.Generator) -> None:
        self._queue = queue
        self._rng = rng
        self.host = _Host(queue.host, rng)
        self.needs = self._needs()

    def _needs(self) -> Iterator[tuple[float, int, float]]:
        """Prefill (s), tokens and think time (s) of each request."""
        queue, rng = self._queue, self._rng
        while True:
            prefill = queue.prefill_s * np.exp(queue.prefill_sigma * rng.standard_normal(BLOCK))
            tokens = rng.integers(*queue.tokens, BLOCK, endpoint=True)
            think = rng.exponential(queue.think_s, BLOCK) if queue.think_s else np.zeros(BLOCK)
            yield from zip(prefill.tolist(), tokens.tolist(), think.tolist(), strict=True)

    def stall_end(self, at: float, ends: list[float]) -> float:
        """When work that would begin at a moment does begin. Moments never fall. ends: of the stalls so far."""
        if self._queue.stalls is None:
            return at
        between, length = self._queue.stalls
        while not ends or ends[-1] < at:
            ends.append((ends[-1] if ends else 0.0) + float(self._rng.exponential(between)) + length)
        return ends[-1] if at >= ends[-1] - length else at


def closed(queue: Queue, users: int, rng: np.random.Generator) -> Iterator[Request]:
    """The requests of so many users, who begin within a second or one think time. Needs slots."""
    assert queue.slots is not None
    draws = _Draws(queue, rng)
    coming = sorted(rng.uniform(0, max(1.0, queue.think_s) if users > 1 else 1e-9, users).tolist())
    free, stalls = [0.0] * queue.slots, list[float]()
    for prefill, tokens, think in draws.needs:
        request = _in_slot(queue, heapq.heappop(coming), prefill, tokens, free, stalls, draws)
        heapq.heappush(coming, request.ended + think)
        yield request


def opened(queue: Queue, rate: float, burst: int, rng: np.random.Generator) -> Iterator[Request]:
    """The requests of a Poisson process, after a burst of so many at the start."""
    if queue.slots is None:
        yield from _batched(queue, rate, burst, rng)
        return
    draws = _Draws(queue, rng)
    free, stalls = [0.0] * queue.slots, list[float]()
    for at, (prefill, tokens, _) in zip(_arrivals(rate, burst, rng), draws.needs, strict=False):
        yield _in_slot(queue, at, prefill, tokens, free, stalls, draws)


def _arrivals(rate: float, burst: int, rng: np.random.Generator) -> Iterator[float]:
    yield from [0.0] * burst
    at = 0.0
    while True:
        for gap in rng.exponential(1 / rate, BLOCK).tolist():
            at += gap
            yield at


def _in_slot(
    queue: Queue, at: float, prefill: float, tokens: int, free: list[float], stalls: list[float], draws: _Draws
) -> Request:
    """A request in the slot that is free first."""
    start = draws.stall_end(max(at, heapq.heappop(free)), stalls)
    gap = queue.itl_s * (1 + queue.slowdown * sum(end > start for end in free))
    if queue.host == "steady":
        first = start + prefill
        ended = first + gap * (tokens - 1)
    else:
        work = draws.host.work_at(start)
        first = draws.host.clock_at(work + prefill)
        ended = draws.host.clock_at(work + prefill + gap * (tokens - 1))
    heapq.heappush(free, ended)
    return Request(at, first, ended, tokens)


def _batched(queue: Queue, rate: float, burst: int, rng: np.random.Generator) -> Iterator[Request]:
    """All requests in work share the server: with k of them, each advances at 1 / (1 + slowdown · (k − 1))."""
    needs = _Draws(queue, rng).needs
    active: list[tuple[float, int, bool]] = []
    asked, first, ended, tokens_of = list[float](), dict[int, float](), dict[int, float](), list[int]()
    now = work = 0.0
    in_work = given = 0
    for at in _arrivals(rate, burst, rng):
        while active:
            speed = 1 / (1 + queue.slowdown * (in_work - 1))
            then = now + (active[0][0] - work) / speed
            if then > at:
                break
            work, now = active[0][0], then
            _, request, is_end = heapq.heappop(active)
            if is_end:
                ended[request], in_work = now, in_work - 1
            else:
                first[request] = now
        if in_work:
            work += (at - now) / (1 + queue.slowdown * (in_work - 1))
        now, in_work = at, in_work + 1
        prefill, tokens, _ = next(needs)
        heapq.heappush(active, (work + prefill, len(asked), False))
        heapq.heappush(active, (work + prefill + queue.itl_s * (tokens - 1), len(asked), True))
        asked.append(at)
        tokens_of.append(tokens)
        while given in ended:
            yield Request(asked[given], first.pop(given), ended.pop(given), tokens_of[given])
            given += 1


def record_of(request: Request, index: int, load: StageLoad, level: str = "c1") -> Record:
    """The record that loadgen would have written of a request, of two events."""
    dispatched, first, ended = (round(moment * S) for moment in (request.dispatched, request.first, request.ended))
    return Record(
        outcome="ok",
        model="m",
        target="t",
        level=level,
        index=index,
        phase="measured",
        prompt_id="p",
        intended_ns=dispatched,
        dispatched_ns=dispatched,
        sent_ns=dispatched,
        written_ns=dispatched,
        end_ns=ended,
        last_byte_ns=ended,
        stamps_ns=(first, max(first, ended)),
        stamp_source="kernel",
        output_tokens=request.tokens,
        token_source="usage",
    )


def shares_met(requests: Iterator[Request], objectives: tuple[Objective, ...], count: int, skip: int) -> list[float]:
    """The share of so many requests that meets each objective, after some that are left out."""
    latencies = np.array([request.latencies for request in islice(requests, skip, skip + count)])
    columns = {"ttft": 0, "tpot": 1, "e2e": 2}
    return [
        1.0 if o.metric == "ok" else float((latencies[:, columns[o.metric]] <= (o.limit_ms or 0.0) / 1e3).mean())
        for o in objectives
    ]
