"""The metrics of requests and of their load, computed from one stage's records, with the formulas of `docs/metrics.md`.

Pure. All arrays are int64 ns and have only `ok` measured requests, unless a function says otherwise. The rates of a
stage are in `throughput.py`, its verdict in `validity.py`.
"""

import itertools
import operator
from collections.abc import Sequence
from typing import Final

import numpy as np
from msgspec import UNSET, Struct
from numpy.typing import NDArray

from loadgen.analysis.summary import ServerRates
from loadgen.record import LatencyOrigin, Record
from loadgen.scenario import Slo

Ns = NDArray[np.int64]
MISSING: Final = int(np.iinfo(np.int64).min)
"""Stands for a value that a request does not have."""
PILED_UP = 0.1
FROM_SEND = ("ttft_from_send", "e2e_from_send")


class Window(Struct, frozen=True):
    """The steady window: from the first to the last moment at which the requested load was applied, ns of the run."""

    start_ns: int
    end_ns: int

    @property
    def length_s(self) -> float:
        return (self.end_ns - self.start_ns) / 1e9

    def holds(self, moment_ns: int) -> bool:
        return self.start_ns <= moment_ns <= self.end_ns


def start_of(record: Record, *, origin: LatencyOrigin) -> int | None:
    """The moment from which a request's latency counts; None if it never came."""
    return record.sent_ns if origin == "sent" else record.intended_ns


def of_requests(records: Sequence[Record], *, origin: LatencyOrigin) -> dict[str, Ns]:
    """One value a request: ttft, service_ttft, ttfc, tpot, e2e, queue, connect; in an open loop, where latencies count
    from the intended time, also ttft_from_send and e2e_from_send. A request without one is left out."""
    return {name: known(values) for name, values in of_each_request(records, origin=origin).items()}


def of_each_request(records: Sequence[Record], *, origin: LatencyOrigin) -> dict[str, Ns]:
    """As `of_requests`, but as long as the records: a request without a value has MISSING."""
    intended, sent = _column(records, "intended_ns"), _column(records, "sent_ns")
    first = np.fromiter((r.stamps_ns[0] if r.stamps_ns else MISSING for r in records), np.int64, len(records))
    start, end = sent if origin == "sent" else intended, _column(records, "end_ns")
    values = {
        "ttft": _between(start, first),
        "service_ttft": _between(_column(records, "written_ns"), first),
        "ttfc": _between(start, _column(records, "first_visible_ns")),
        "tpot": np.fromiter((MISSING if (v := tpot_ns(r)) is None else v for r in records), np.int64, len(records)),
        "e2e": _between(start, end),
        "queue": _between(intended, sent),
        "connect": _column(records, "connect_ns"),
    }
    if origin == "intended":
        values |= {"ttft_from_send": _between(sent, first), "e2e_from_send": _between(sent, end)}
    return values


def known(values: Ns) -> Ns:
    """The values that are not MISSING."""
    there = values != MISSING
    return values if there.all() else values[there]


def _column(records: Sequence[Record], field: str) -> Ns:
    read = operator.attrgetter(field)
    return np.fromiter((MISSING if (v := read(r)) is None else v for r in records), np.int64, len(records))


def _between(start: Ns, end: Ns) -> Ns:
    differences: Ns = np.where((start == MISSING) | (end == MISSING), MISSING, end - start)
    return differences


def _gap(start_ns: int | None, end_ns: int | None) -> int | None:
    return None if start_ns is None or end_ns is None else end_ns - start_ns


def tpot_ns(record: Record) -> int | None:
    """(t_n − t_1) / (output tokens − 1), rounded to a ns; None below two tokens or two events."""
    tokens = record.output_tokens or 0
    if tokens < 2 or len(record.stamps_ns) < 2:
        return None
    return round((record.stamps_ns[-1] - record.stamps_ns[0]) / (tokens - 1))


def speed_per_s(record: Record, *, origin: LatencyOrigin) -> float | None:
    """Output tokens a second of the whole answer: output tokens / e2e; None if either is not known, or is 0."""
    took = _gap(start_of(record, origin=origin), record.end_ns)
    return record.output_tokens / took * 1e9 if record.output_tokens and took and took > 0 else None


def flat_stamps(records: Sequence[Record]) -> tuple[Ns, Ns]:
    """The stamps of all records in one array, record after record, and how many each record has.

    It is one array and not one for each record, because a large run has ten million stamps.
    """
    lengths = np.fromiter((len(record.stamps_ns) for record in records), np.int64, count=len(records))
    flat = itertools.chain.from_iterable(map(operator.attrgetter("stamps_ns"), records))
    return np.fromiter(flat, np.int64, count=int(lengths.sum())), lengths


class Gaps(Struct, frozen=True):
    """The gaps between the token-bearing events of some requests, pooled.

    A large run keeps these for all of its stages, so what can be computed again from a few numbers is not stored.
    """

    values: Ns
    counts: Ns
    """How many each request has."""

    @property
    def owners(self) -> Ns:
        """For each gap, the position of its request."""
        return np.repeat(np.arange(len(self.counts), dtype=np.int64), self.counts)


def gaps_of(records: Sequence[Record]) -> Gaps:
    """Every gap of some requests."""
    return gaps_between(*flat_stamps(records))


def gaps_between(stamps: Ns, lengths: Ns) -> Gaps:
    """The gaps between stamps, given as `flat_stamps` returns them."""
    return Gaps(np.diff(stamps)[is_within_a_record(lengths)], np.maximum(lengths - 1, 0))


def gap_ends(stamps: Ns, lengths: Ns) -> Ns:
    """When each gap of `gaps_between` ended, in the same order."""
    return stamps[1:][is_within_a_record(lengths)]


def is_within_a_record(lengths: Ns) -> NDArray[np.bool_]:
    """For each step from one stamp to the next: whether both belong to one record."""
    within = np.ones(max(0, int(lengths.sum()) - 1), dtype=np.bool_)
    ends = np.cumsum(lengths[lengths > 0])
    within[ends[:-1] - 1] = False
    return within


def steady_window(records: Sequence[Record], *, concurrency: int | None, ramp_in_ns: int = 0) -> Window | None:
    """When the requested load was applied; None if it never was.

    records: all measured requests, of all models that share the load. ramp_in_ns: how long after the first user the
    last one begins. In a closed loop of c users: from the c-th dispatch, but not before the end of the ramp-in (from
    then on all users are active), to the first answer that ends after the last dispatch (from then on a user is idle).
    In an open loop: from the first to the last due time, without requests that came due after a stop.
    """
    sent = sorted(
        (record for record in records if record.dispatched_ns is not None), key=lambda record: record.dispatched_ns or 0
    )
    if concurrency is None:
        due = [r.intended_ns for r in records if r.outcome != "cancelled" or r.dispatched_ns is not None]
        return Window(min(due), max(due)) if len(due) > 1 and max(due) > min(due) else None
    if len(sent) < concurrency:
        return None
    ramped = min(record.intended_ns for record in sent) + ramp_in_ns
    start, last = max(sent[concurrency - 1].dispatched_ns or 0, ramped), sent[-1].dispatched_ns or 0
    ends = [record.end_ns for record in sent if record.end_ns is not None and record.end_ns > last]
    # If c users sent one request each, the window would be the last dispatch alone, in which no user sends a second
    # one.
    if not ends or (len(sent) == concurrency and concurrency > 1):
        return None
    return Window(start, min(ends)) if min(ends) > start else None


def tokens_inside(records: Sequence[Record], window: Window) -> float:
    """How many output tokens arrived inside a window.

    If events carry several tokens and the server does not say how many, a request's tokens are spread evenly over its
    events. That is accurate enough for a count, though it would make up gaps. The tokens of an answer that was not
    streamed arrived at its end.
    """
    stamps, lengths = flat_stamps(records)
    inside = (stamps >= window.start_ns) & (stamps <= window.end_ns)
    begins = np.cumsum(lengths) - lengths
    total = 0.0
    for record, begin, length in zip(records, begins.tolist(), lengths.tolist(), strict=True):
        of_record = inside[begin : begin + length]
        if record.tokens_per_event is not None and len(record.tokens_per_event) == length:
            total += sum(itertools.compress(record.tokens_per_event, of_record.tolist()))
        elif length:
            total += int(np.count_nonzero(of_record)) * (record.output_tokens or length) / length
        elif record.outcome == "ok" and record.end_ns is not None and window.holds(record.end_ns):
            total += record.output_tokens or 0
    return total


def meets(record: Record, slo: Slo, *, origin: LatencyOrigin) -> bool:
    """Whether a request met every limit that is set. One that is not `ok` met none; one with a single token has no
    TPOT, and so meets that limit."""
    if record.outcome != "ok":
        return False
    start = start_of(record, origin=origin)
    first = record.stamps_ns[0] if record.stamps_ns else None
    return (
        _is_within(_gap(start, first), slo.ttft_ms)
        and _is_within(tpot_ns(record), slo.tpot_ms)
        and _is_within(_gap(start, record.end_ns), slo.e2e_ms)
    )


def _is_within(value_ns: int | None, limit_ms: float | None) -> bool:
    return limit_ms is None or value_ns is None or value_ns <= limit_ms * 1e6


def fluidity(records: Sequence[Record], slo: Slo, *, origin: LatencyOrigin) -> list[float]:
    """For each request, the share of tokens that arrived by start + TTFT SLO + i · TPOT SLO (Etalon's index). Requests
    without tokens are left out. Empty without limits on both TTFT and TPOT."""
    started = [r for r in records if r.stamps_ns and start_of(r, origin=origin) is not None]
    if slo.ttft_ms is None or slo.tpot_ms is None or not started:
        return []
    stamps, lengths = flat_stamps(started)
    begins = np.cumsum(lengths) - lengths
    place = np.arange(stamps.size) - np.repeat(begins, lengths)
    starts = np.repeat(_column(started, "sent_ns" if origin == "sent" else "intended_ns"), lengths)
    in_time = stamps <= starts + (slo.ttft_ms + slo.tpot_ms * place) * 1e6
    shares: list[float] = (np.add.reduceat(in_time.astype(np.int64), begins) / lengths).tolist()
    return shares


def in_flight_recorded(records: Sequence[Record], window: Window) -> float:
    """The mean number of requests in flight in a window, computed from the records. Little's law compares it with the
    sampler's.

    A request is in flight from its dispatch to the last byte of its answer.
    """
    busy = 0
    for record in records:
        if record.dispatched_ns is not None and record.end_ns is not None:
            over_ns = max(record.end_ns, record.last_byte_ns or 0)
            busy += max(0, min(over_ns, window.end_ns) - max(record.dispatched_ns, window.start_ns))
    return busy / max(1, window.end_ns - window.start_ns)


def slip_ns(record: Record) -> int:
    """How late we dispatched a request, without the time that the in-flight limit took; 0 if it was not late or not
    dispatched."""
    return 0 if record.dispatched_ns is None else max(0, record.dispatched_ns - record.intended_ns - record.held_ns)


def slips(records: Sequence[Record]) -> Ns:
    """How late we dispatched each request, in ascending order. The time that the in-flight limit took does not
    count."""
    late = [r.dispatched_ns - r.intended_ns - r.held_ns for r in records if r.dispatched_ns is not None]
    return np.sort(np.array(late, dtype=np.int64))


def achieved_share(records: Sequence[Record]) -> float | None:
    """The achieved rate over the requested rate in an open loop, from the dispatches; None below two requests.

    The rate over n gaps is n / (last − first). It is the same if all requests are equally late, and lower if we fall
    behind more and more.
    """
    sent = [(r.intended_ns, r.dispatched_ns) for r in records if r.dispatched_ns is not None]
    if len(sent) < 2:
        return None
    sent.sort()
    asked = sent[-1][0] - sent[0][0]
    got = max(dispatched for _, dispatched in sent) - min(dispatched for _, dispatched in sent)
    return asked / got if got > 0 else None


def peak_events_per_s(records: Sequence[Record]) -> int:
    """The most token-bearing events that arrived within any one second."""
    stamps = np.sort(flat_stamps(records)[0])
    return int((np.searchsorted(stamps, stamps + 1_000_000_000) - np.arange(len(stamps))).max(initial=0))


def server_rates(records: Sequence[Record]) -> ServerRates | None:
    """Prefill and decode rates by the server's own `timings`, and the same from our stamps, tokens a second.

    Ours are prefilled tokens / service TTFT, and (output tokens − 1) / (t_n − t_1). Both are sums over sums, so that
    long requests weigh as they do on the server. None if the server sends no timings, or if tokens piled up in our
    reads.
    """
    timed = [r for r in records if r.written_ns is not None and len(r.stamps_ns) > 1]
    timed = [r for r in timed if r.stamps_ns[-1] > r.stamps_ns[0] > (r.written_ns or 0)]
    # Tokens that piled up in one read all have its stamp, so the decode rate of such a request is not known.
    timed = [r for r in timed if r.shared_reads <= PILED_UP * (len(r.stamps_ns) - 1)]
    timed = [r for r in timed if r.timings is not None and r.timings.prompt_ms > 0 and r.timings.predicted_ms > 0]
    if not timed:
        return None
    timings = [r.timings for r in timed if r.timings is not None]
    prefill_ns = sum(r.stamps_ns[0] - (r.written_ns or 0) for r in timed)
    decode_ns = sum(r.stamps_ns[-1] - r.stamps_ns[0] for r in timed)
    prefilled = sum(map(prefilled_tokens, timed))
    server_prefill = prefilled / sum(t.prompt_ms for t in timings) * 1e3
    client_prefill = prefilled / prefill_ns * 1e9
    server_decode = sum(t.predicted_n for t in timings) / sum(t.predicted_ms for t in timings) * 1e3
    client_decode = sum((r.output_tokens or 1) - 1 for r in timed) / decode_ns * 1e9
    return ServerRates(*(round(rate, 4) for rate in (server_prefill, client_prefill, server_decode, client_decode)))


def prefilled_tokens(record: Record) -> int:
    """How many prompt tokens the server computed, without those from its cache. record: of a server that sent
    `timings`.

    llama.cpp's `prompt_n` counts exactly these. If it and the cached tokens together are more than the prompt has, it
    counts the whole prompt.
    """
    cached = 0 if record.cached_tokens is UNSET else record.cached_tokens
    counted = 0 if record.timings is None else record.timings.prompt_n
    if record.prompt_tokens is None or counted + cached <= record.prompt_tokens:
        return counted
    return max(0, counted - cached)


def shared_share(records: Sequence[Record]) -> float | None:
    """Share of gaps whose two tokens came in one read; None without gaps."""
    total = sum(max(0, len(record.stamps_ns) - 1) for record in records)
    return sum(record.shared_reads for record in records) / total if total else None
