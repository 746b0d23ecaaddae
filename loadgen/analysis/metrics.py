"""The definitions: from one stage's records to arrays of each metric. Pure; the formulas of `docs/metrics.md`.

All arrays are int64 ns, of `ok` measured requests only, unless said otherwise.
"""

import itertools
from collections.abc import Sequence

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from loadgen.analysis.summary import ServerRates
from loadgen.record import Record
from loadgen.scenario import Slo

Ns = NDArray[np.int64]
PILED_UP = 0.1
FROM_SEND = ("ttft_from_send", "e2e_from_send")


class Window(Struct, frozen=True):
    """The steady window: from the first to the last moment at which the asked-for load was in force, ns of the run."""

    start_ns: int
    end_ns: int

    @property
    def length_s(self) -> float:
        return (self.end_ns - self.start_ns) / 1e9

    def holds(self, moment_ns: int) -> bool:
        return self.start_ns <= moment_ns <= self.end_ns


def start_of(record: Record, *, closed: bool) -> int | None:
    """From when a request's latency counts: in a closed loop when it was sent, in an open loop when it was due."""
    return record.sent_ns if closed else record.intended_ns


def of_requests(records: Sequence[Record], *, closed: bool) -> dict[str, Ns]:
    """One value a request: ttft, service_ttft, ttfc, tpot, e2e, queue, connect; in an open loop, where latencies count
    from the intended time, also ttft_from_send and e2e_from_send. A request without one is left out."""
    names = ("ttft", "service_ttft", "ttfc", "tpot", "e2e", "queue", "connect", *(() if closed else FROM_SEND))
    found: dict[str, list[int]] = {name: [] for name in names}
    for record in records:
        for name, value in _one(record, closed=closed).items():
            if value is not None and name in found:
                found[name].append(value)
    return {name: np.array(values, dtype=np.int64) for name, values in found.items()}


def _one(record: Record, *, closed: bool) -> dict[str, int | None]:
    start, first = start_of(record, closed=closed), record.stamps_ns[0] if record.stamps_ns else None
    return {
        "ttft": _gap(start, first),
        "service_ttft": _gap(record.written_ns, first),
        "ttfc": _gap(start, record.first_visible_ns),
        "tpot": tpot_ns(record),
        "e2e": _gap(start, record.end_ns),
        "queue": _gap(record.intended_ns, record.sent_ns),
        "connect": record.connect_ns,
        "ttft_from_send": _gap(record.sent_ns, first),
        "e2e_from_send": _gap(record.sent_ns, record.end_ns),
    }


def _gap(start_ns: int | None, end_ns: int | None) -> int | None:
    return None if start_ns is None or end_ns is None else end_ns - start_ns


def tpot_ns(record: Record) -> int | None:
    """(t_n − t_1) / (output tokens − 1), rounded to a ns; None below two tokens or two events."""
    tokens = record.output_tokens or 0
    if tokens < 2 or len(record.stamps_ns) < 2:
        return None
    return round((record.stamps_ns[-1] - record.stamps_ns[0]) / (tokens - 1))


def speed_per_s(record: Record, *, closed: bool) -> float | None:
    """Output tokens a second of the whole answer: output tokens / e2e; None where either is not known, or is 0."""
    took = _gap(start_of(record, closed=closed), record.end_ns)
    return record.output_tokens / took * 1e9 if record.output_tokens and took and took > 0 else None


def flat_stamps(records: Sequence[Record]) -> tuple[Ns, Ns]:
    """The stamps of all records in one array, a record's after those of the one before it; and how many each has.

    One array, and no small one a record: a large run has ten million stamps.
    """
    lengths = np.fromiter((len(record.stamps_ns) for record in records), np.int64, count=len(records))
    flat = (stamp for record in records for stamp in record.stamps_ns)
    return np.fromiter(flat, np.int64, count=int(lengths.sum())), lengths


def gaps(records: Sequence[Record]) -> tuple[Ns, Ns]:
    """Every gap between a request's token-bearing events, pooled, and the request (its position) that each is of."""
    stamps, lengths = flat_stamps(records)
    owners = np.repeat(np.arange(len(records), dtype=np.int64), np.maximum(lengths - 1, 0))
    return np.diff(stamps)[_is_within_a_record(lengths)], owners


def gap_ends(records: Sequence[Record]) -> Ns:
    """When each gap of `gaps` ended, in the same order."""
    stamps, lengths = flat_stamps(records)
    return stamps[1:][_is_within_a_record(lengths)]


def _is_within_a_record(lengths: Ns) -> NDArray[np.bool_]:
    """Of the steps from each stamp to the next, which stay within one record."""
    within = np.ones(max(0, int(lengths.sum()) - 1), dtype=np.bool_)
    ends = np.cumsum(lengths[lengths > 0])
    within[ends[:-1] - 1] = False
    return within


def steady_window(records: Sequence[Record], *, concurrency: int | None, ramp_in_ns: int = 0) -> Window | None:
    """When the asked-for load was in force; None when it never was.

    records: all measured requests, of all models that share the load. ramp_in_ns: how long after the first user the
    last one begins. In a closed loop of c users: from the c-th dispatch, and not before the ramp-in has ended
    (everybody is there), to the first answer that ends after the last dispatch (somebody has nothing left to do). In an
    open loop: from the first to the last due time; what came due after a stop was not asked for any more.
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
    # A window of the last dispatch alone, c requests each asked once, shows no turn of the loop.
    if not ends or (len(sent) == concurrency and concurrency > 1):
        return None
    return Window(start, min(ends)) if min(ends) > start else None


def tokens_inside(records: Sequence[Record], window: Window) -> float:
    """Output tokens that arrived inside a window. Where events carry several tokens and the server does not say which,
    a request's tokens are spread over its events: for a count that is harmless, for gaps it would be invention. An
    answer that came whole brought all of its tokens at its end."""
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


def meets(record: Record, slo: Slo, *, closed: bool) -> bool:
    """Whether a request met every SLO that is set. What is not `ok` met none; one token has no TPOT to miss."""
    if record.outcome != "ok":
        return False
    got = _one(record, closed=closed)
    for name, limit_ms in (("ttft", slo.ttft_ms), ("tpot", slo.tpot_ms), ("e2e", slo.e2e_ms)):
        value = got[name]
        if limit_ms is not None and value is not None and value > limit_ms * 1e6:
            return False
    return True


def fluidity(record: Record, slo: Slo, *, closed: bool) -> float | None:
    """Share of tokens that arrived by start + TTFT SLO + i · TPOT SLO (Etalon's index); None without those two SLOs."""
    start = start_of(record, closed=closed)
    if slo.ttft_ms is None or slo.tpot_ms is None or start is None or not record.stamps_ns:
        return None
    stamps = np.array(record.stamps_ns, dtype=np.int64)
    deadlines = start + (slo.ttft_ms + slo.tpot_ms * np.arange(len(stamps))) * 1e6
    return float((stamps <= deadlines).mean())


def in_flight_recorded(records: Sequence[Record], window: Window) -> float:
    """Requests in flight, averaged over a window, as the records tell it (for Little's law against the sampler).

    A request is in flight from its dispatch to the last byte of its answer.
    """
    busy = 0
    for record in records:
        if record.dispatched_ns is not None and record.end_ns is not None:
            over_ns = max(record.end_ns, record.last_byte_ns or 0)
            busy += max(0, min(over_ns, window.end_ns) - max(record.dispatched_ns, window.start_ns))
    return busy / max(1, window.end_ns - window.start_ns)


def slips(records: Sequence[Record]) -> Ns:
    """How late we dispatched each request, ascending. What the in-flight limit held back, was the plan's doing."""
    late = [r.dispatched_ns - r.intended_ns - r.held_ns for r in records if r.dispatched_ns is not None]
    return np.sort(np.array(late, dtype=np.int64))


def achieved_share(records: Sequence[Record]) -> float | None:
    """Achieved over asked rate in an open loop, from what was dispatched and when; None below two requests.

    The rate over n gaps is n / (last − first); dispatching late throughout changes nothing, falling behind does.
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

    Ours: prompt tokens / service TTFT, and (output tokens − 1) / (t_n − t_1); both are sums over sums, so that long
    requests weigh as they do on the server. None where the server sends no timings, or tokens piled up in our reads.
    """
    told = [r for r in records if r.written_ns is not None and len(r.stamps_ns) > 1]
    told = [r for r in told if r.stamps_ns[-1] > r.stamps_ns[0] > (r.written_ns or 0)]
    # Tokens that piled up in one read have the last one's stamp: such a request knows no rate of its own.
    told = [r for r in told if r.shared_reads <= PILED_UP * (len(r.stamps_ns) - 1)]
    told = [r for r in told if r.timings is not None and r.timings.prompt_ms > 0 and r.timings.predicted_ms > 0]
    if not told:
        return None
    timings = [r.timings for r in told if r.timings is not None]
    prefill_ns = sum(r.stamps_ns[0] - (r.written_ns or 0) for r in told)
    decode_ns = sum(r.stamps_ns[-1] - r.stamps_ns[0] for r in told)
    server_prefill = sum(t.prompt_n for t in timings) / sum(t.prompt_ms for t in timings) * 1e3
    client_prefill = sum(t.prompt_n for t in timings) / prefill_ns * 1e9
    server_decode = sum(t.predicted_n for t in timings) / sum(t.predicted_ms for t in timings) * 1e3
    client_decode = sum((r.output_tokens or 1) - 1 for r in told) / decode_ns * 1e9
    return ServerRates(*(round(rate, 4) for rate in (server_prefill, client_prefill, server_decode, client_decode)))


def shared_share(records: Sequence[Record]) -> float | None:
    """Share of gaps whose two tokens came in one read; None without gaps."""
    total = sum(max(0, len(record.stamps_ns) - 1) for record in records)
    return sum(record.shared_reads for record in records) / total if total else None
