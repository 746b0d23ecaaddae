"""One visit to a level, from its records: how many requests met each objective, and how much that counts. Pure.

The first round does not count. In a closed loop it has as many requests as there are users. In an open loop it ends
with the burst, and then with the front that MSER-5 cuts off. The other requests count in the order of dispatch, up to
the first request that is not decided yet. The requests that have ended so far would give too good a result, because
the slow ones are missing. A request that is still open is decided as soon as a limit has passed, as a miss.
"""

import math
from array import array
from collections.abc import Iterable, Iterator, Sequence
from typing import Final, Literal

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from loadgen.decisions.capacity.e_values import MIN_REQUESTS_OF_RATE, Bools, Floats, inflation
from loadgen.decisions.capacity.objective import Judged, ObjectiveVerdict, slowness_limit, verdict_of
from loadgen.plan.plan import StageLoad, part_size
from loadgen.record import Record
from loadgen.scenario import Slo
from loadgen.scenario.objective import Objective
from loadgen.stats.steady import trend, warm_until

Doubt = Literal["client", "busy_machine", "busy_host", "drift", "behind", "drains"]
"""Why a visit does not count in full. `client`, `busy_machine`, `busy_host`: loadgen itself, other programs, or the
host of this virtual machine alone disturbed it, and it is not judged. `drift`: latencies never settled; `behind`: too
few of the requests that came due had ended; such a visit is no evidence that a level holds. `drains`: latencies fall,
because the server is still busy with the burst at the beginning; such a visit is no evidence that a level does not
hold."""
BUSY: Final[frozenset[Doubt | None]] = frozenset({"busy_machine", "busy_host"})
RISING: Final[frozenset[Doubt | None]] = frozenset({"drift", "behind"})

REFUSED_AT_END: Final = 3
"""A server is gone if at least this many connections, and one for each user, were refused at the end of a visit. That
says nothing about the level, so they do not count; the answers that broke off when the server went do."""
ENDED_OF_DUE: Final = 0.95
"""An open loop falls behind if a smaller share of the requests that came due has ended."""
_CODES: Final[dict[ObjectiveVerdict, int]] = {"met": 0, "missed": 1, "not_applicable": 2, "undecided": 3}
_MET, _MISSED, _UNDECIDED = 0, 1, 3


class Visit(Struct, frozen=True, kw_only=True):
    """One uninterrupted stage at one level."""

    level: float
    """Users, or requests per second."""
    label: str
    """The label of its stage in the run folder: c6, or c6.2 when the level is visited again."""
    requests: int
    """The number of requests that count. While some are open, they may count for one objective only."""
    met: tuple[int, ...]
    """For each objective: how many of these met it."""
    missed: tuple[int, ...]
    """For each objective: how many did not. A request to which an objective does not apply is in neither number."""
    inflation: tuple[float, ...]
    """For each objective: how many neighboring requests count as one, at least 1."""
    seconds: float
    """The time that it took, including warm-up."""
    played: int
    """The number of measured requests that ended."""
    burst: int = 0
    """For an open loop: the number of requests that came due at once when it began."""
    streams: int | None = None
    """The most answers that were being streamed at one moment; None if answers are not streamed."""
    doubt: Doubt | None = None

    @property
    def is_judged(self) -> bool:
        """Whether the visit says anything about the server."""
        return self.doubt != "client" and self.doubt not in BUSY


class _Rows:
    """Requests as numbers, a row each."""

    def __init__(self) -> None:
        self.moments = array("q")
        """For each request: index, start, first token, end, due; -1 for a missing one."""
        self.verdicts = array("b")
        """For each request and objective, its code; `slowness` is as long."""
        self.slowness = array("d")
        self.unconnected = array("b")
        """For each request: whether there was no connection."""

    def copy(self) -> "_Rows":
        rows = _Rows()
        rows.moments, rows.verdicts = self.moments[:], self.verdicts[:]
        rows.slowness, rows.unconnected = self.slowness[:], self.unconnected[:]
        return rows

    def add(self, record: Record, end_ns: int, judged: Iterable[Judged]) -> None:
        start = record.intended_ns if record.dispatched_ns is None else record.dispatched_ns
        first = record.stamps_ns[0] if record.stamps_ns else -1
        self.moments.extend((record.index, start, first, end_ns, record.intended_ns))
        self.unconnected.append(record.outcome == "connect_error")
        for each in judged:
            self.verdicts.append(_CODES[each.verdict])
            self.slowness.append(each.slowness)


class VisitTally:
    """Takes the records of a visit as its requests end, in any order, and counts them when asked."""

    def __init__(self, objectives: Sequence[Objective], load: StageLoad, slo: Slo, workers: int = 1) -> None:
        """load: that of the visit's stage. slo: the limits of `goodput`. workers: how many processes play the stage."""
        self._objectives = tuple(objectives)
        self._load = load
        self._slo = slo
        self._workers = max(1, min(workers, load.concurrency or workers))
        self._beside = load.concurrency or 0
        """How many requests did not count in the last look: left out, or not decided yet."""
        self._ended = _Rows()
        self._open: dict[int, Record] = {}
        """The requests that are open and late, by their index."""

    def take(self, record: Record) -> None:
        """Add the last attempt of a request. Warm-up and requests that were not sent because of a stop do not count."""
        is_cut = record.outcome == "cancelled" and record.dispatched_ns is None and self._load.is_closed
        if record.phase != "measured" or is_cut:
            return
        self._open.pop(record.index, None)
        self._ended.add(record, -1 if record.end_ns is None else record.end_ns, self._judged(record))

    def take_open(self, record: Record) -> None:
        """Add a measured request that is still open, as if it were cancelled now. Its own record replaces it."""
        self._open[record.index] = record

    def _judged(self, record: Record) -> Iterator[Judged]:
        for objective in self._objectives:
            yield verdict_of(objective, record, origin=self._load.latency_origin, slo=self._slo)

    @property
    def taken(self) -> int:
        """How many requests were taken, those that are open among them."""
        return len(self._ended.moments) // 5 + len(self._open)

    @property
    def counted_at_most(self) -> int:
        """About how many requests count so far. If they are too few, a look is not needed."""
        return max(0, self.taken - self._beside)

    def visit(self, *, level: float, label: str, seconds: float, doubt: Doubt | None = None) -> Visit:
        """The visit so far. doubt: the doubt that is known already."""
        width, rows = len(self._objectives), self._ended.copy()
        for record in self._open.values():
            rows.add(record, -1, self._judged(record))
        moments = np.array(rows.moments, np.int64).reshape(-1, 5)
        order = np.lexsort((moments[:, 0], moments[:, 1]))
        order = order[
            : len(order) - unconnected_at_end(np.array(rows.unconnected, bool)[order], self._load.concurrency)
        ]
        moments = moments[order]
        verdicts = np.array(rows.verdicts, np.int8).reshape(-1, width)[order]
        slowness = np.array(rows.slowness).reshape(-1, width)[order]
        decided_of = self._decided(moments, verdicts)
        decided = max(decided_of)
        first = self._left_out(moments, slowness, decided)
        counted = [verdicts[first : max(first, end), j] for j, end in enumerate(decided_of)]
        slow = slowness[first:decided]
        self._beside = self.taken - (decided - first)
        if doubt is None and not self._load.is_closed:
            doubt = _doubt_of_open_loop(moments, slow, first, decided)
        return Visit(
            level=level,
            label=label,
            requests=decided - first,
            met=tuple(int((of_objective == _MET).sum()) for of_objective in counted),
            missed=tuple(int((of_objective == _MISSED).sum()) for of_objective in counted),
            inflation=tuple(
                _inflation_of(of_objective, slow[: len(of_objective), j], slowness_limit(self._objectives[j]))
                for j, of_objective in enumerate(counted)
            ),
            seconds=seconds,
            played=int((moments[:, 3] >= 0).sum()),
            burst=0 if self._load.is_closed else burst_of(moments[:, 4]),
            streams=most_at_once(moments[:, 2], moments[:, 3]),
            doubt=doubt,
        )

    def _decided(self, moments: NDArray[np.int64], verdicts: NDArray[np.int8]) -> list[int]:
        """For each objective: how many requests, in the order of dispatch, come before the first undecided one."""
        reach = min(self._reaches(moments), default=-1)
        begun = int(np.searchsorted(moments[:, 1], reach, "right"))
        undecided = [np.flatnonzero(of_objective == _UNDECIDED) for of_objective in verdicts.T]
        return [min(begun, int(places[0])) if len(places) else begun for places in undecided]

    def _reaches(self, moments: NDArray[np.int64]) -> list[int]:
        """For each process: when it dispatched the last request before which none is open. Because a process takes its
        requests in order, a gap means a request that has not ended."""
        users, workers = self._load.concurrency, self._workers
        index = moments[:, 0]
        place = index if users is None else index % users
        part = place % workers
        turn = index // workers
        if users is not None:
            sizes = np.array([part_size(users, k, workers) for k in range(workers)])
            turn = index // users * sizes[part] + place // workers
        reaches = []
        for k in range(workers):
            own = np.flatnonzero(part == k)
            own = own[np.argsort(turn[own])]
            unbroken = int((turn[own] == np.arange(len(own))).sum())
            reaches.append(int(moments[own[unbroken - 1], 1]) if unbroken else -1)
        return reaches

    def _left_out(self, moments: NDArray[np.int64], slowness: Floats, decided: int) -> int:
        """The number of requests at the front that do not count."""
        if self._load.concurrency is not None:
            return min(self._load.concurrency, decided)
        burst = burst_of(moments[:, 4])
        first = burst
        if burst:  # until it is over, requests wait behind requests that no user sent
            first = int(np.searchsorted(moments[:, 1], moments[:burst, 3].max(), "right"))
        first = min(first, decided)
        return first if first == decided else first + warm_until(_finite(slowness[first:decided, 0])).truncated


def unconnected_at_end(unconnected: Bools, users: int | None) -> int:
    """How many connections were refused at the end of a visit because the server was gone. unconnected: whether each
    request, in the order of dispatch, got no connection."""
    connected = np.flatnonzero(~unconnected)
    tail = len(unconnected) - (int(connected[-1]) + 1 if len(connected) else 0)
    return tail if tail >= max(REFUSED_AT_END, users or 0) else 0


def burst_of(due_ns: NDArray[np.int64]) -> int:
    """The number of requests that came due at once when an open loop began; 0 if the first came alone."""
    count = int((due_ns == due_ns.min()).sum()) if len(due_ns) else 0
    return count if count > 1 else 0


def most_at_once(first_ns: NDArray[np.int64], end_ns: NDArray[np.int64]) -> int | None:
    """The most answers that were between their first token and their end at one moment; None if there are no tokens."""
    streamed = (first_ns >= 0) & (end_ns >= first_ns)
    begins, ends = np.sort(first_ns[streamed]), np.sort(end_ns[streamed])
    if not len(begins):
        return None
    return int((np.arange(1, len(begins) + 1) - np.searchsorted(ends, begins, "right")).max())


def _inflation_of(verdicts: NDArray[np.int8], slowness: Floats, limit: float) -> float:
    applies = verdicts <= _MISSED
    missed: Bools = verdicts[applies] == _MISSED
    return inflation(slowness[applies], missed, limit)


def _doubt_of_open_loop(moments: NDArray[np.int64], slow: Floats, first: int, decided: int) -> Doubt | None:
    """Whether an open loop falls behind, or its latencies never settle."""
    if decided - first < 2:
        return None
    start, end = int(moments[first, 4]), int(moments[decided - 1, 4])
    ended = int(((moments[:, 3] >= start) & (moments[:, 3] <= end)).sum())
    due = decided - first
    chance = 2 * math.sqrt(due) * max(0.0, 1 - due / MIN_REQUESTS_OF_RATE)  # by chance, with few requests
    if ended < ENDED_OF_DUE * due - chance:
        return "behind"
    steady = warm_until(_finite(slow[:, 0]))
    if steady.steady is not False:
        return None
    return "drift" if trend(_finite(slow[:, 0])).t > 0 else "drains"


def _finite(slowness: Floats) -> Floats:
    """The values with failed requests as slow as the slowest, because a trend of ranks cannot use infinity."""
    finite = slowness[np.isfinite(slowness)]
    most = float(finite.max()) if len(finite) else 0.0
    values: Floats = np.minimum(slowness, most)
    return values
