"""Whether a stage's tokens were held back on their way, as by a proxy that buffers and turns a stream into lumps. Pure.

Tokens that were held back arrive together, and late. But so do tokens that our own event loop reads late, and tokens
that a fast server makes within one iteration of that loop. Three things tell these apart: the time between the lumps,
how late our event loop was, and how long the server says that it generated (`timings`).
"""

from collections.abc import Sequence
from typing import Final

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from loadgen.analysis.metrics import Gaps, Ns
from loadgen.record import Record
from loadgen.stats.median import median

MIN_EVENTS: Final = 3
"""An answer with fewer token-bearing events is not judged, unless it has many tokens, because two events may come
together by chance."""
TOGETHER_NS: Final = 250_000
"""Events with a smaller gap arrived together, in one read or in several: no model makes 4,000 a second in one
stream."""
AT_ONCE_NS: Final = 500_000
"""An answer with a smaller mean gap came at once."""
AT_END: Final = 0.2
"""If its events also took a smaller share of the time since the request was sent, the answer was held back even if no
two events came together: a program that has the whole answer writes its words one by one."""
FIRST_LUMP: Final = 3
"""If the first arrival has at least this many events, and so have nearly all others, the first of them waited for the
others. A first burst that a steady stream follows, or the uneven steps of speculative decoding, were not held back."""
EVEN: Final = 0.8
"""How large a share of the arrivals that is. The last one, which has what was left, does not count."""
FEW_ARRIVALS: Final = 2
"""An answer in at most this many arrivals came as the first token and then the rest, or as two halves."""
LUMP: Final = 8
"""With at least this many tokens an arrival, on average, an answer came in lumps. A step of speculative decoding gives
fewer, a buffer of 4 KiB more."""
APART_NS: Final = 10_000_000
"""Lumps with less time between them come from the iterations of a reader, not from a buffer."""
LATENESS: Final = 4.0
"""A reader whose median lag is L reads every 2 L on average. Up to twice that time between lumps, the reader itself may
have caused them."""
COVERED: Final = 0.5
"""If the tokens arrived within a smaller share of the time in which the server says that it made them, they were held
back."""
MOST: Final = 0.5
"""If a larger share of a stage's answers was held back, its numbers do not mean what their names say."""


class HeldBack(Struct, frozen=True):
    """How most answers of a stage were held back. tokens, arrivals and span_ns are medians over those."""

    answers: int
    """How many answers were held back."""
    judged: int
    """How many answers had enough events to be judged."""
    tokens: int
    arrivals: int
    """In how many lumps the tokens came."""
    span_ns: int
    """The time from the first event to the last."""
    is_estimated: bool = False
    """The server counts no tokens, and their number was estimated from the length of the text."""


class _Answers(Struct, frozen=True):
    """How the events of each answer that can be judged arrived, in columns."""

    events: Ns
    tokens: Ns
    """The tokens that were shown; as many as there are events, if their number is not known."""
    arrivals: Ns
    first: Ns
    """How many events the first arrival has."""
    is_even: NDArray[np.bool_]
    """Whether nearly all arrivals but the last have at least FIRST_LUMP events."""
    spans_ns: Ns
    since_sent_ns: Ns
    """From the end of the request to the last event."""
    generated_ns: Ns
    """How long the server generated, by its own account; 0 if it gives none, or counts hidden tokens."""


def held_back(
    records: Sequence[Record], gaps: Gaps, lag_ns: int | None, tokens: Sequence[int] | None = None
) -> HeldBack | None:
    """How the tokens of a stage were held back; None if they were not, or if no answer can be judged.

    records: the stage's ok requests. gaps: those between their token-bearing events. lag_ns: the median lag of our
    event loop. tokens: how many tokens each request showed, at least; None if nothing but its events tells.
    """
    answers = _answers(records, gaps, tokens)
    if answers is None:
        return None
    held = _is_held_back(answers, LATENESS * (lag_ns or 0))
    count = int(np.count_nonzero(held))
    if count <= MOST * held.size:
        return None
    shown, arrivals, spans = (
        round(median(values[held])) for values in (answers.tokens, answers.arrivals, answers.spans_ns)
    )
    is_estimated = tokens is not None and any(
        record.token_source == "events" and count > len(record.stamps_ns)
        for record, count in zip(records, tokens, strict=True)
    )
    return HeldBack(count, int(held.size), shown, arrivals, spans, is_estimated)


def _is_held_back(answers: _Answers, late_ns: float) -> NDArray[np.bool_]:
    """For each answer, whether it was held back by something else than us. late_ns: the time between lumps that our own
    lateness explains."""
    steps, arrivals, generated_ns = answers.tokens - 1, answers.arrivals, answers.generated_ns
    together = 2 * arrivals < answers.tokens
    at_once = answers.spans_ns < AT_ONCE_NS * steps
    few = (arrivals <= FEW_ARRIVALS) & (answers.events >= MIN_EVENTS)
    lumps = ((answers.first >= FIRST_LUMP) & answers.is_even) | few | (answers.tokens >= LUMP * arrivals)
    apart_ns = answers.spans_ns / np.maximum(1, arrivals - 1)
    in_lumps = together & ~at_once & lumps & (apart_ns >= max(APART_NS, late_ns))
    # If the server does not say how long it generated, it took at least as long as the fastest model would.
    at_end = answers.spans_ns < AT_END * answers.since_sent_ns
    all_at_once = (together | at_end) & at_once & (generated_ns == 0) & (late_ns < AT_ONCE_NS * steps)
    too_short = answers.spans_ns < COVERED * generated_ns * steps / answers.tokens
    held: NDArray[np.bool_] = in_lumps | all_at_once | (too_short & (late_ns < generated_ns))
    return held


def _answers(records: Sequence[Record], gaps: Gaps, tokens: Sequence[int] | None) -> _Answers | None:
    """None if no answer has enough events to be judged."""
    events = np.fromiter((len(record.stamps_ns) for record in records), np.int64, len(records))
    shown = events if tokens is None else np.maximum(events, np.array(tokens, dtype=np.int64))
    judged = (events >= MIN_EVENTS) | ((events > 0) & (shown >= LUMP))
    if not judged.any():
        return None
    arrivals, first, is_even = np.ones(len(events), np.int64), events.copy(), np.ones(len(events), np.bool_)
    spans = np.zeros(len(events), np.int64)
    has_gaps = events > 1
    if has_gaps.any():
        counts = gaps.counts[has_gaps]
        arrivals[has_gaps], first[has_gaps], is_even[has_gaps] = _arrivals(gaps.values > TOGETHER_NS, counts)
        spans[has_gaps] = np.add.reduceat(gaps.values, np.cumsum(counts) - counts)
    since_sent = (r.stamps_ns[-1] - (r.written_ns or r.sent_ns or 0) for r, j in zip(records, judged, strict=True) if j)
    generated = (_generated_ns(record, n) for record, n, j in zip(records, shown.tolist(), judged, strict=True) if j)
    return _Answers(
        events=events[judged],
        tokens=shown[judged],
        arrivals=arrivals[judged],
        first=first[judged],
        is_even=is_even[judged],
        spans_ns=spans[judged],
        since_sent_ns=np.fromiter(since_sent, np.int64),
        generated_ns=np.fromiter(generated, np.int64),
    )


def _arrivals(far: NDArray[np.bool_], counts: Ns) -> tuple[Ns, Ns, NDArray[np.bool_]]:
    """For each answer of two events or more: in how many arrivals its events came, how many came in the first, and
    whether nearly all arrivals but the last have at least FIRST_LUMP.

    far: for each gap, whether it is one between two arrivals. counts: how many gaps each answer has.
    """
    # Of each event, whether an arrival begins with it: the first one of an answer, and each behind a wide gap.
    begins = np.insert(far, np.cumsum(counts) - counts, True)
    places = np.flatnonzero(begins)
    sizes = np.diff(np.append(places, len(begins)))
    owners = np.repeat(np.arange(len(counts)), counts + 1)[places]
    arrivals = np.bincount(owners, minlength=len(counts))
    firsts = np.cumsum(arrivals) - arrivals
    large = sizes >= FIRST_LUMP
    large[firsts + arrivals - 1] = False  # the last arrival is what was left, of whatever size
    is_even = np.add.reduceat(large.astype(np.int64), firsts) >= EVEN * (arrivals - 1)
    return arrivals, sizes[firsts], is_even


def _generated_ns(record: Record, shown: int) -> int:
    """How long the server generated, ns, by its own timings; 0 if it gives none, or if they are not about what it
    showed."""
    timings = record.timings
    if timings is None or not shown <= 2 * timings.predicted_n <= 4 * shown:  # it counts tokens that were not shown
        return 0
    return round(timings.predicted_ms * 1e6)
