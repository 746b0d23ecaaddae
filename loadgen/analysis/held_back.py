"""Whether a stage's tokens were held back on their way: a proxy that buffers turns a stream into a few lumps. Pure.

What is held back arrives together, and late; but so does what a busy reader of ours picks up late, and what a fast
server makes within one turn of our event loop. Three things tell them apart: how far apart the lumps are, how late our
own event loop was, and, where the server tells it (`timings`), how long it generated.
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
"""An answer of fewer token-bearing events says nothing, unless one has many tokens: two may come together anywhere."""
TOGETHER_NS: Final = 250_000
"""Events that follow one another so closely arrived together, in one read or in several: no model makes 4,000 a
second in one stream."""
AT_ONCE_NS: Final = 500_000
"""A whole answer with a mean gap below this came at once."""
FIRST_LUMP: Final = 3
"""So many events in the first arrival: the first of them waited for the others."""
FEW_ARRIVALS: Final = 2
"""All in so many arrivals: the first token alone and then the rest, or two halves."""
LUMP: Final = 8
"""Tokens an arrival, on average: more than a step of speculative decoding gives, and less than a buffer of 4 KiB."""
APART_NS: Final = 10_000_000
"""Lumps that follow one another more quickly are a reader's turns, not a buffer's."""
LATENESS: Final = 4.0
"""A reader whose median lag is L comes round every 2 L on average; twice that is still taken for its own doing."""
COVERED: Final = 0.5
"""Tokens that came within less than this share of the time in which the server says that it made them."""
MOST: Final = 0.5
"""The share of a stage's answers above which its numbers are not what their names say."""


class HeldBack(Struct, frozen=True):
    """A stage most of whose answers were held back. tokens, arrivals and span_ns: their medians."""

    answers: int
    """Those that were held back."""
    judged: int
    """Those with enough events to tell."""
    tokens: int
    arrivals: int
    """In how many lumps they came."""
    span_ns: int
    """From the first event to the last."""


class _Answers(Struct, frozen=True):
    """Of each answer that can be judged: how its events arrived."""

    events: Ns
    tokens: Ns
    """As many as there are events, where nobody knows how many of them were shown."""
    arrivals: Ns
    first: Ns
    """Events of the first arrival."""
    spans_ns: Ns
    generated_ns: Ns
    """How long it took to generate, as the server says; 0 where it does not, or not of what was shown."""


def held_back(
    records: Sequence[Record], gaps: Gaps, lag_ns: int | None, tokens: Sequence[int] | None = None
) -> HeldBack | None:
    """How the tokens of a stage were held back; None where they were not, or nothing can be said.

    records: its ok requests, gaps: those of their token-bearing events. lag_ns: the median lag of our event loop.
    tokens: how many each request showed, where none is hidden; None where that is not known.
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
    return HeldBack(count, int(held.size), shown, arrivals, spans)


def _is_held_back(answers: _Answers, late_ns: float) -> NDArray[np.bool_]:
    """Of each answer, whether it was held back by somebody else. late_ns: what our own lateness explains."""
    steps, arrivals, told_ns = answers.tokens - 1, answers.arrivals, answers.generated_ns
    together = 2 * arrivals < answers.tokens
    at_once = answers.spans_ns < AT_ONCE_NS * steps
    few = (arrivals <= FEW_ARRIVALS) & (answers.events >= MIN_EVENTS)
    lumps = (answers.first >= FIRST_LUMP) | few | (answers.tokens >= LUMP * arrivals)
    apart_ns = answers.spans_ns / np.maximum(1, arrivals - 1)
    in_lumps = together & ~at_once & lumps & (apart_ns >= max(APART_NS, late_ns))
    # How long the server took is not known: as long as it must have, at the pace of the fastest.
    all_at_once = together & at_once & (told_ns == 0) & (late_ns < AT_ONCE_NS * steps)
    too_short = answers.spans_ns < COVERED * told_ns * steps / answers.tokens
    held: NDArray[np.bool_] = in_lumps | all_at_once | (too_short & (late_ns < told_ns))
    return held


def _answers(records: Sequence[Record], gaps: Gaps, tokens: Sequence[int] | None) -> _Answers | None:
    """None where no answer has enough events to tell."""
    events = np.fromiter((len(record.stamps_ns) for record in records), np.int64, len(records))
    shown = events if tokens is None else np.maximum(events, np.array(tokens, dtype=np.int64))
    judged = (events >= MIN_EVENTS) | ((events > 0) & (shown >= LUMP))
    if not judged.any():
        return None
    arrivals, first, spans = np.ones(len(events), np.int64), events.copy(), np.zeros(len(events), np.int64)
    has_gaps = events > 1
    if has_gaps.any():
        counts = gaps.counts[has_gaps]
        starts = np.cumsum(counts) - counts
        far = gaps.values > TOGETHER_NS
        place = np.arange(len(far)) - np.repeat(starts, counts)
        arrivals[has_gaps] += np.add.reduceat(far.astype(np.int64), starts)
        # The place of the first gap that parts two arrivals is the length of the first arrival, less one.
        first[has_gaps] = np.minimum.reduceat(np.where(far, place, np.repeat(counts, counts)), starts) + 1
        spans[has_gaps] = np.add.reduceat(gaps.values, starts)
    generated = (_generated_ns(record, n) for record, n, j in zip(records, shown.tolist(), judged, strict=True) if j)
    return _Answers(
        events=events[judged],
        tokens=shown[judged],
        arrivals=arrivals[judged],
        first=first[judged],
        spans_ns=spans[judged],
        generated_ns=np.fromiter(generated, np.int64),
    )


def _generated_ns(record: Record, shown: int) -> int:
    """How long the server generated what it showed, by its own timings; 0 where it does not tell."""
    timings = record.timings
    if timings is None or not shown <= 2 * timings.predicted_n <= 4 * shown:  # else it counts what is not shown
        return 0
    return round(timings.predicted_ms * 1e6)
