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
"""An answer of fewer token-bearing events says nothing: two may come together anywhere."""
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
"""Events an arrival, on average: more than a step of speculative decoding gives, and less than a buffer of 4 KiB."""
APART_NS: Final = 10_000_000
"""Lumps that follow one another more quickly are a reader's turns, not a buffer's."""
LATENESS: Final = 4.0
"""A reader whose median lag is L comes round every 2 L on average; twice that is still taken for its own doing."""
COVERED: Final = 0.5
"""Tokens that came within less than this share of the time in which the server says that it made them."""
MOST: Final = 0.5
"""The share of a stage's answers above which its numbers are not what their names say."""


class HeldBack(Struct, frozen=True):
    """A stage most of whose answers were held back. events, arrivals and span_ns: their medians."""

    answers: int
    """Those that were held back."""
    judged: int
    """Those with enough events to tell."""
    events: int
    arrivals: int
    """In how many lumps they came."""
    span_ns: int
    """From the first event to the last."""


class _Answers(Struct, frozen=True):
    """Of each answer that can be judged: how its events arrived."""

    events: Ns
    arrivals: Ns
    first: Ns
    """Events of the first arrival."""
    spans_ns: Ns
    generated_ns: Ns
    """How long it took to generate, as the server says; 0 where it does not, or not of what was shown."""


def held_back(records: Sequence[Record], gaps: Gaps, lag_ns: int | None) -> HeldBack | None:
    """How the tokens of a stage were held back; None where they were not, or nothing can be said.

    records: its ok requests, gaps: those of their token-bearing events. lag_ns: the median lag of our event loop.
    """
    answers = _answers(records, gaps)
    if answers is None:
        return None
    held = _is_held_back(answers, LATENESS * (lag_ns or 0))
    count = int(np.count_nonzero(held))
    if count <= MOST * held.size:
        return None
    events, arrivals, spans = (
        round(median(values[held])) for values in (answers.events, answers.arrivals, answers.spans_ns)
    )
    return HeldBack(count, int(held.size), events, arrivals, spans)


def _is_held_back(answers: _Answers, late_ns: float) -> NDArray[np.bool_]:
    """Of each answer, whether it was held back by somebody else. late_ns: what our own lateness explains."""
    steps, arrivals, told_ns = answers.events - 1, answers.arrivals, answers.generated_ns
    together = 2 * arrivals < answers.events
    at_once = answers.spans_ns < AT_ONCE_NS * steps
    lumps = (answers.first >= FIRST_LUMP) | (arrivals <= FEW_ARRIVALS) | (answers.events >= LUMP * arrivals)
    apart_ns = answers.spans_ns / np.maximum(1, arrivals - 1)
    in_lumps = together & ~at_once & lumps & (apart_ns >= max(APART_NS, late_ns))
    # How long the server took is not known: as long as it must have, at the pace of the fastest.
    all_at_once = together & at_once & (told_ns == 0) & (late_ns < AT_ONCE_NS * steps)
    too_short = answers.spans_ns < COVERED * told_ns * steps / answers.events
    held: NDArray[np.bool_] = in_lumps | all_at_once | (too_short & (late_ns < told_ns))
    return held


def _answers(records: Sequence[Record], gaps: Gaps) -> _Answers | None:
    """None where no answer has enough events to tell."""
    enough = gaps.counts >= MIN_EVENTS - 1
    if not enough.any():
        return None
    has_gaps = gaps.counts > 0
    counts = gaps.counts[has_gaps]
    starts = np.cumsum(counts) - counts
    far = gaps.values > TOGETHER_NS
    place = np.arange(len(far)) - np.repeat(starts, counts)
    # The place of the first gap that parts two arrivals is the length of the first arrival, less one.
    first = np.minimum.reduceat(np.where(far, place, np.repeat(counts, counts)), starts) + 1
    judged = counts >= MIN_EVENTS - 1
    return _Answers(
        events=counts[judged] + 1,
        arrivals=np.add.reduceat(far.astype(np.int64), starts)[judged] + 1,
        first=first[judged],
        spans_ns=np.add.reduceat(gaps.values, starts)[judged],
        generated_ns=np.fromiter((_generated_ns(r) for r, e in zip(records, enough, strict=True) if e), np.int64),
    )


def _generated_ns(record: Record) -> int:
    """How long the server generated what it showed, by its own timings; 0 where it does not tell."""
    timings, events = record.timings, len(record.stamps_ns)
    if timings is None or not events <= 2 * timings.predicted_n <= 4 * events:  # else it counts what is not shown
        return 0
    return round(timings.predicted_ms * 1e6)
