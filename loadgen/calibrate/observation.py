"""Compares our report of a load with what was sent, token by token. Pure: knows no socket and no clock."""

from collections.abc import Sequence

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from loadgen.calibrate.loads import LoadStep
from loadgen.mock import Truth
from loadgen.record import StageFacts, StampSource
from loadgen.stats.median import median
from loadgen.stats.quantile import nearest_rank
from loadgen.store.calibration import ErrorSpread, Step

Ns = NDArray[np.int64]


class ReceivedAnswer(Struct, frozen=True, kw_only=True):
    """One answer as a run would report it. All `_ns` on the clock of the server's truth."""

    number: int | None
    """The number of the request, from the text of the answer; None if the text has none."""
    ok: bool
    source: StampSource
    stamps_ns: Ns
    """The stamp of each token, as reported."""
    user_ns: Ns
    """The user stamp of each token."""
    reads: NDArray[np.intp]
    """The index of the read that brought each token."""
    written_ns: int
    """When the request was written."""
    text_sha256: str | None


class PlayedStep(Struct, frozen=True):
    """One load of a step that was played."""

    step: LoadStep
    streams: int
    """The number of streams at once; one of the numbers of the step."""
    by_server: tuple[tuple[ReceivedAnswer, ...], ...]
    """The answers of each server."""
    facts: StageFacts
    """Our measurements of ourselves during the load."""

    @property
    def answers(self) -> list[ReceivedAnswer]:
        """The answers of all servers."""
        return [answer for answers in self.by_server for answer in answers]


class _Errors(Struct, frozen=True):
    """The errors of one answer, ns: reported minus true."""

    kernel: Ns
    user: Ns
    service_ttft: Ns
    itl: Ns
    shared: int
    """How many tokens shared a read with the token before, although they were sent at least half a gap after it."""
    apart: int
    """How many tokens were sent at least half a gap after the token before."""


class Observation(Struct, frozen=True):
    """The values of a load that are known without the server's log; the names are those of `Step`."""

    events_per_s: float
    cpu_us_per_event: float
    cpu_share: float
    loop_lag_p99_ms: float | None
    stretch: float
    merged_share: float
    """The share of tokens that were read together with the token before, for any reason."""


def observe(played: PlayedStep) -> Observation:
    """The values of a load by our own measurements."""
    answers, facts = played.answers, played.facts
    events = max(1, sum(len(answer.stamps_ns) for answer in answers))
    rate = events_per_s(answers, played.step.ramp_in_of(played.streams))
    cpu_us = facts.cpu_share * (facts.end_ns - facts.start_ns) / 1e3 / events
    lag = facts.loop_lag_p99_ns
    return Observation(
        events_per_s=round(rate, 1),
        cpu_us_per_event=round(cpu_us, 2),
        cpu_share=round(cpu_us * rate / 1e6, 4),
        loop_lag_p99_ms=None if lag is None else round(lag / 1e6, 3),
        stretch=round(stretch(answers, played.step.itl_ms), 4),
        merged_share=sum(int((np.diff(answer.reads) == 0).sum()) for answer in answers) / events,
    )


def compare(played: PlayedStep, truths: Sequence[dict[int, Truth]]) -> Step:
    """A load with its errors. truths: for each server, its log of requests by their numbers."""
    step, observation = played.step, observe(played)
    half_gap_ns = round(step.itl_ms * 0.5e6)
    errors: list[_Errors] = []
    wrong = 0
    for answers, truth in zip(played.by_server, truths, strict=True):
        for answer in answers:
            sent = None if answer.number is None else truth.get(answer.number)
            if sent is None or not _is_what_was_sent(answer, sent):
                wrong += 1
            else:
                errors.append(_errors(answer, sent, half_gap_ns))
    apart = sum(each.apart for each in errors)
    return Step(
        series=step.series,
        streams=played.streams,
        pace=step.pace,
        itl_ms=step.itl_ms,
        answers=len(played.answers),
        wrong=wrong,
        events=sum(len(each.user) for each in errors),
        events_per_s=observation.events_per_s,
        kernel=spread([each.kernel for each in errors]),
        user=spread([each.user for each in errors]),
        service_ttft=spread([each.service_ttft for each in errors]),
        itl=spread([each.itl for each in errors]),
        shared_share=round(sum(each.shared for each in errors) / max(1, apart), 4),
        cpu_us_per_event=observation.cpu_us_per_event,
        cpu_share=observation.cpu_share,
        loop_lag_p99_ms=observation.loop_lag_p99_ms,
        stretch=observation.stretch,
    )


def events_per_s(answers: Sequence[ReceivedAnswer], ramp_in_s: float) -> float:
    """Token events per second while all streams ran: from the end of the ramp-in until the first user was done."""
    stamps = (
        np.sort(np.concatenate([answer.stamps_ns for answer in answers])) if answers else np.empty(0, dtype=np.int64)
    )
    if not len(stamps):
        return 0.0
    # Only over that time, because before and after it the rate depends on how users start and end.
    begin, end = stamps[0] + round(ramp_in_s * 1e9), stamps[-1] - round(ramp_in_s * 1e9)
    inside = int(np.searchsorted(stamps, end) - np.searchsorted(stamps, begin))
    return inside / float(end - begin) * 1e9 if end > begin else 0.0


def stretch(answers: Sequence[ReceivedAnswer], itl_ms: float) -> float:
    """The time that an answer's tokens took, as a multiple of the scheduled time; the median. 0 without answers."""
    taken = [
        (answer.stamps_ns[-1] - answer.stamps_ns[0]) / ((len(answer.stamps_ns) - 1) * itl_ms * 1e6)
        for answer in answers
        if len(answer.stamps_ns) > 1
    ]
    return median(taken) if taken else 0.0


def _is_what_was_sent(answer: ReceivedAnswer, sent: Truth) -> bool:
    return answer.ok and answer.text_sha256 == sent.text_sha256 and len(answer.stamps_ns) == len(sent.stamps_ns)


def _errors(answer: ReceivedAnswer, sent: Truth, half_gap_ns: int) -> _Errors:
    true = np.array(sent.stamps_ns, dtype=np.int64)
    error = answer.stamps_ns - true
    with_before = np.diff(answer.reads) == 0
    # The error of a gap comes from its two stamps. A token that shared a read has no stamp of its own, so it is counted
    # separately; otherwise the same error would count twice.
    alone = ~(np.append(False, with_before) | np.append(with_before, False))
    apart = np.diff(true) >= half_gap_ns
    reported_ttft = answer.stamps_ns[:1] - answer.written_ns
    return _Errors(
        kernel=error if answer.source == "kernel" else error[:0],
        user=answer.user_ns - true,
        service_ttft=reported_ttft - (true[:1] - sent.arrived_ns),
        itl=np.diff(error)[alone[1:] & alone[:-1]],
        shared=int((with_before & apart).sum()),
        apart=int(apart.sum()),
    )


def spread(errors_ns: Sequence[Ns]) -> ErrorSpread | None:
    """The distribution of the absolute errors; None without errors."""
    sizes = np.sort(np.abs(np.concatenate(errors_ns))) if errors_ns else np.empty(0, dtype=np.int64)
    if not sizes.size:
        return None
    p50, p99, most = (round(nearest_rank(sizes, p) / 1e3, 2) for p in (50, 99, 100))
    return ErrorSpread(p50, p99, most)
