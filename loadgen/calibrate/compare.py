"""What we report of a load against what was sent, token by token. Pure: knows no socket and no clock."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from loadgen.calibrate.loads import LoadStep
from loadgen.mock import Truth
from loadgen.record import StageFacts, StampSource
from loadgen.stats.quantile import nearest_rank
from loadgen.store.calibration import ErrorSpread, Step

Ns = NDArray[np.int64]


class ReceivedAnswer(Struct, frozen=True, kw_only=True):
    """One answer as a run would report it. All `_ns` on the clock of the server's truth.

    number: of the request, as the answer's text says it; None where it says none. stamps_ns: a token each, as reported;
    user_ns: the same by user stamps. reads: which read brought each. written_ns: of the request.
    """

    number: int | None
    ok: bool
    source: StampSource
    stamps_ns: Ns
    user_ns: Ns
    reads: NDArray[np.intp]
    written_ns: int
    text_sha256: str | None


class PlayedStep(Struct, frozen=True):
    """One load of a course, played: the answers that each server gave, and what was seen of ourselves."""

    course: LoadStep
    streams: int
    heard: tuple[tuple[ReceivedAnswer, ...], ...]
    facts: StageFacts

    @property
    def answers(self) -> list[ReceivedAnswer]:
        """Of all servers."""
        return [one for heard in self.heard for one in heard]


class _Errors(Struct, frozen=True):
    """Of one answer, ns: reported minus true. shared, apart: tokens that were sent apart, and of them those that shared
    a read with the one before."""

    kernel: Ns
    user: Ns
    service_ttft: Ns
    itl: Ns
    shared: int
    apart: int


class Observation(Struct, frozen=True):
    """What can be said of a load before it is known what was sent: the names are those of `Step`.

    merged_share: of the tokens, how many were read together with the one before, whatever the reason.
    """

    events_per_s: float
    cpu_us_per_event: float
    cpu_share: float
    loop_lag_p99_ms: float | None
    stretch: float
    merged_share: float


def outlined(played: PlayedStep) -> Observation:
    """A load by our own account."""
    answers, facts = played.answers, played.facts
    events = max(1, sum(len(one.stamps_ns) for one in answers))
    rate = events_per_s(answers, played.course.ramp_in_of(played.streams))
    cpu_us = facts.cpu_share * (facts.end_ns - facts.start_ns) / 1e3 / events
    lag = facts.loop_lag_p99_ns
    return Observation(
        events_per_s=round(rate, 1),
        cpu_us_per_event=round(cpu_us, 2),
        cpu_share=round(cpu_us * rate / 1e6, 4),
        loop_lag_p99_ms=None if lag is None else round(lag / 1e6, 3),
        stretch=round(stretch(answers, played.course.itl_ms), 4),
        merged_share=sum(int((np.diff(one.reads) == 0).sum()) for one in answers) / events,
    )


def compared(played: PlayedStep, truths: Sequence[dict[int, Truth]]) -> Step:
    """A load with its errors. truths: by each server, its requests by their numbers."""
    course, outline = played.course, outlined(played)
    half_gap_ns = round(course.itl_ms * 0.5e6)
    found, wrong = [], 0
    for heard, truth in zip(played.heard, truths, strict=True):
        for one in heard:
            sent = None if one.number is None else truth.get(one.number)
            if sent is None or not _is_what_was_sent(one, sent):
                wrong += 1
            else:
                found.append(_errors(one, sent, half_gap_ns))
    apart = sum(one.apart for one in found)
    return Step(
        series=course.series,
        streams=played.streams,
        pace=course.pace,
        itl_ms=course.itl_ms,
        answers=len(played.answers),
        wrong=wrong,
        events=sum(len(one.user) for one in found),
        events_per_s=outline.events_per_s,
        shared_share=round(sum(one.shared for one in found) / max(1, apart), 4),
        cpu_us_per_event=outline.cpu_us_per_event,
        cpu_share=outline.cpu_share,
        loop_lag_p99_ms=outline.loop_lag_p99_ms,
        stretch=outline.stretch,
        **_spreads(found),
    )


def events_per_s(answers: Sequence[ReceivedAnswer], ramp_in_s: float) -> float:
    """Token events a second while all streams were there: from the ramp-in's end until the first user was through."""
    stamps = np.sort(np.concatenate([one.stamps_ns for one in answers])) if answers else np.empty(0, dtype=np.int64)
    if not len(stamps):
        return 0.0
    begin, end = stamps[0] + round(ramp_in_s * 1e9), stamps[-1] - round(ramp_in_s * 1e9)
    inside = int(np.searchsorted(stamps, end) - np.searchsorted(stamps, begin))
    return inside / float(end - begin) * 1e9 if end > begin else 0.0


def stretch(answers: Sequence[ReceivedAnswer], itl_ms: float) -> float:
    """How long an answer's tokens took to come, as a multiple of what was scheduled; the median. 0 without any."""
    taken = [
        (one.stamps_ns[-1] - one.stamps_ns[0]) / ((len(one.stamps_ns) - 1) * itl_ms * 1e6)
        for one in answers
        if len(one.stamps_ns) > 1
    ]
    return float(np.median(taken)) if taken else 0.0


def _is_what_was_sent(one: ReceivedAnswer, sent: Truth) -> bool:
    return one.ok and one.text_sha256 == sent.text_sha256 and len(one.stamps_ns) == len(sent.stamps_ns)


def _errors(one: ReceivedAnswer, sent: Truth, half_gap_ns: int) -> _Errors:
    true = np.array(sent.stamps_ns, dtype=np.int64)
    error = one.stamps_ns - true
    with_before = np.diff(one.reads) == 0
    alone = ~(np.append(False, with_before) | np.append(with_before, False))
    apart = np.diff(true) >= half_gap_ns
    reported_ttft = one.stamps_ns[:1] - one.written_ns
    return _Errors(
        kernel=error if one.source == "kernel" else error[:0],
        user=one.user_ns - true,
        service_ttft=reported_ttft - (true[:1] - sent.arrived_ns),
        itl=np.diff(error)[alone[1:] & alone[:-1]],
        shared=int((with_before & apart).sum()),
        apart=int(apart.sum()),
    )


def _spreads(found: Sequence[_Errors]) -> dict[str, Any]:
    names = ("kernel", "user", "service_ttft", "itl")
    return {name: spread([getattr(one, name) for one in found]) for name in names}


def spread(errors_ns: Sequence[Ns]) -> ErrorSpread | None:
    """Of errors of either sign, their sizes; None without any."""
    sizes = np.sort(np.abs(np.concatenate(errors_ns))) if errors_ns else np.empty(0, dtype=np.int64)
    if not sizes.size:
        return None
    p50, p99, most = (round(nearest_rank(sizes, p) / 1e3, 2) for p in (50, 99, 100))
    return ErrorSpread(p50, p99, most)
