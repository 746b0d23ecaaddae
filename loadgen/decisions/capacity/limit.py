"""What limited the server at the levels that do not hold: the first limit of a list that applies, with its figures.

The visits that do not hold are compared with the visits to the lowest level. Pure.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Final, Literal

import numpy as np
from msgspec import Struct

from loadgen.analysis.metrics import in_flight_recorded
from loadgen.decisions.capacity.known import Known
from loadgen.decisions.capacity.objective import verdict_of
from loadgen.decisions.capacity.visit_data import CLIENT_CODES, CLIENT_CODES_IF_FATAL, SERVER_ERRORS, VisitData
from loadgen.record import Record
from loadgen.scenario.objective import Objective, limits_ms

LimitedBy = Literal["errors", "client", "memory", "queue", "prefill", "decode"]

MOSTLY: Final = 0.5
STREAMS_OF_IN_FLIGHT: Final = 0.9
STREAMS_OF_MOST: Final = 0.9
"""Requests wait if two things are true: answers being streamed are fewer than this share of the requests in flight,
and at least this share of the most that were ever streamed at once."""
SWAPPED_BYTES: Final = 64 * 2**20
MEMORY_AVAILABLE: Final = 0.05
"""Memory was short if less than this share of it was available at one moment of a visit that does not hold."""


class LimitFigures(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The figures behind `limited_by`. None: not known, or not a figure of this limit."""

    binding: str | None = None
    """The objective for whose missing there is most evidence."""
    served_at_once: int | None = None
    """The most answers that were being streamed at one moment, if that number stopped growing."""
    in_flight: float | None = None
    """The mean number of requests in flight at the levels that do not hold."""
    streams: float | None = None
    """The mean number of answers that were being streamed there."""
    waiting_share: float | None = None
    """The share of the growth of TTFT that was waiting, from the server's own timings."""
    share: float | None = None
    """The share of the misses that were errors of the server."""
    outcome: str | None = None
    """The most frequent outcome of these errors; `status` and `detail` are those of the server's answer."""
    status: int | None = None
    detail: str | None = None
    reason: str | None = None
    """What was observed about loadgen itself or about memory, in words."""


def limit_of(visits: Sequence[VisitData], known: Known) -> tuple[LimitedBy | None, LimitFigures]:
    """What limited the server or loadgen; None if no level was seen to fail."""
    failing = _failing(visits, known)
    if failing and (errors := _errors(failing, known.settings.objectives)) is not None:
        return "errors", errors
    if known.cut is not None and (client := _client(visits, known.cut)) is not None:
        return "client", client
    lost = [reason for played in visits if (reason := _memory_reason(played)) is not None]
    lost += [reason for played in failing if (reason := _little_memory(played)) is not None]
    if lost:
        return "memory", LimitFigures(reason=lost[0])
    binding = _binding(known, failing)
    if binding is None or _is_unreachable(failing):
        return None, LimitFigures()
    return _server_limit(visits, failing, binding, known)


def _failing(visits: Sequence[VisitData], known: Known) -> list[VisitData]:
    """The visits to the lowest level shown not to hold, or else to the lowest level that probably does not hold."""
    _, high = known.ends
    if high == len(known.steps):
        high = min((at for at in known.levels if not known.looks_good(at)), default=high)
    if high == len(known.steps):
        return []
    level = known.steps[high]
    return [played for played in visits if played.visit.level == level and played.visit.is_judged]


def _is_unreachable(failing: Sequence[VisitData]) -> bool:
    """Whether most requests found no server: then their misses say nothing about queues, prompts or tokens."""
    outcomes = [record.outcome for played in failing for record in played.stage.measured]
    return outcomes.count("connect_error") > MOSTLY * len(outcomes)


def _binding(known: Known, failing: Sequence[VisitData]) -> Objective | None:
    """The objective for whose missing there is most evidence."""
    if not failing:
        return None
    level = known.levels[known.place(failing[0].visit.level)]
    log_fails = [each.log_fails for each in level.evidence.objectives]
    return known.settings.objectives[int(np.argmax(log_fails))]


def _errors(failing: Sequence[VisitData], objectives: Sequence[Objective]) -> LimitFigures | None:
    """The figures of the server's own errors if most of the misses are such errors; else None."""
    missed = list[Record]()
    for played in failing:
        missed += [
            record for record in played.stage.measured if any(_is_missed(record, each, played) for each in objectives)
        ]
    errors = [record for record in missed if record.outcome in SERVER_ERRORS]
    if not errors or len(errors) <= MOSTLY * len(missed):
        return None
    (outcome, status, detail), _ = Counter((e.outcome, e.status, e.detail) for e in errors).most_common(1)[0]
    return LimitFigures(share=round(len(errors) / len(missed), 4), outcome=outcome, status=status, detail=detail)


def _is_missed(record: Record, objective: Objective, played: VisitData) -> bool:
    origin, slo = played.stage.latency_origin, played.stage.slo
    return verdict_of(objective, record, origin=origin, slo=slo).verdict == "missed"


def _client(visits: Sequence[VisitData], level: float) -> LimitFigures | None:
    for played in reversed(visits):
        if played.visit.level == level and played.visit.doubt == "client":
            reasons = [r for r in played.reasons if r.code in CLIENT_CODES or r.code in CLIENT_CODES_IF_FATAL]
            return LimitFigures(reason="; ".join(reason.observed for reason in reasons) or None)
    return None


def _memory_reason(played: VisitData) -> str | None:
    """Why memory was short during a visit, in words; None if it was not."""
    if played.stage.planned.server_ended is not None:
        return f"the server died: {played.stage.planned.server_ended}"
    machine = None if played.stage.facts is None else played.stage.facts.machine
    if machine is not None and (machine.swapped_in_bytes or 0) >= SWAPPED_BYTES:
        return f"{(machine.swapped_in_bytes or 0) / 2**20:.0f} MiB were read back from swap"
    return None


def _little_memory(played: VisitData) -> str | None:
    """The least memory that was available, in words, if that was too little. None if it was enough, or if the server is
    not known to be on this machine."""
    facts = played.stage.facts
    if facts is None or facts.machine is None or not facts.servers:
        return None
    available = facts.machine.memory_available_share
    if available is None or available >= MEMORY_AVAILABLE:
        return None
    return f"only {100 * available:.1f} % of the memory was available"


def _server_limit(
    visits: Sequence[VisitData], failing: Sequence[VisitData], binding: Objective, known: Known
) -> tuple[LimitedBy, LimitFigures]:
    """Which part of a request is too slow: the wait for its turn, the work on its prompt, or the writing of its
    answer."""
    served = max((played.visit.streams or 0 for played in visits), default=0)
    streams, in_flight = _mean(map(_mean_streams, failing)), _mean(map(_mean_in_flight, failing))
    lowest = [played for played in visits if played.visit.level == min(each.visit.level for each in visits)]
    waiting = _waiting_share(lowest, failing)
    figures = LimitFigures(
        binding=binding.text,
        in_flight=None if in_flight is None else round(in_flight, 2),
        streams=None if streams is None else round(streams, 2),
        waiting_share=None if waiting is None else round(waiting, 3),
    )
    if not _is_late_to_begin(binding, lowest, failing):
        return "decode", figures
    peak = max((played.visit.streams or 0 for played in failing), default=0)
    is_full = bool(streams and in_flight and streams < STREAMS_OF_IN_FLIGHT * in_flight)
    is_full = is_full and peak >= STREAMS_OF_MOST * served
    if is_full if waiting is None else waiting > MOSTLY:
        return "queue", _with_served(figures, served if is_full else None)
    return "prefill", figures


def _with_served(figures: LimitFigures, served: int | None) -> LimitFigures:
    return LimitFigures(
        binding=figures.binding,
        served_at_once=served or None,
        in_flight=figures.in_flight,
        streams=figures.streams,
        waiting_share=figures.waiting_share,
    )


def _is_late_to_begin(objective: Objective, lowest: Sequence[VisitData], failing: Sequence[VisitData]) -> bool:
    """Whether an objective is missed because answers begin late. With several latencies, the one decides that grew most
    beyond its limit."""
    match objective.metric:
        case "ttft" | "ttfc":
            return True
        case "tpot" | "itl":
            return False
        case "goodput":
            limits = limits_ms(failing[0].stage.slo)
            over = {metric: (_mean_of(failing, metric) or 0.0) / (limit * 1e6) for metric, limit in limits.items()}
            worst = max(over, key=lambda metric: over[metric])
            if worst != "e2e":
                return worst == "ttft"
    grown = {
        metric: (_mean_of(failing, metric) or 0.0) - (_mean_of(lowest, metric) or 0.0) for metric in ("ttft", "e2e")
    }
    return grown["ttft"] > MOSTLY * grown["e2e"]


def _waiting_share(lowest: Sequence[VisitData], failing: Sequence[VisitData]) -> float | None:
    """The share of the growth of service TTFT that is not the server's work on the prompt; None if the server sends no
    timings, or if nothing grew."""
    before, after = _ttft_and_prompt(lowest), _ttft_and_prompt(failing)
    if before is None or after is None or after[0] <= before[0]:
        return None
    grown = after[0] - before[0]
    return max(0.0, min(1.0, (grown - (after[1] - before[1])) / grown))


def _ttft_and_prompt(visits: Sequence[VisitData]) -> tuple[float, float] | None:
    """The mean service TTFT and the mean `prompt_ms`, both ms."""
    timed = [
        (record.stamps_ns[0] - record.written_ns, record.timings.prompt_ms)
        for played in visits
        for record in played.stage.ok
        if record.timings is not None and record.stamps_ns and record.written_ns is not None
    ]
    if not timed:
        return None
    return sum(ttft for ttft, _ in timed) / len(timed) / 1e6, sum(prompt for _, prompt in timed) / len(timed)


def _mean_streams(played: VisitData) -> float | None:
    """The mean number of answers that were being streamed during the window."""
    window = played.stage.window
    if window is None:
        return None
    busy = 0
    for record in played.stage.measured:
        if record.stamps_ns and record.end_ns is not None:
            busy += max(0, min(record.end_ns, window.end_ns) - max(record.stamps_ns[0], window.start_ns))
    return busy / max(1, window.end_ns - window.start_ns)


def _mean_in_flight(played: VisitData) -> float | None:
    window = played.stage.window
    return None if window is None else in_flight_recorded(played.stage.measured, window)


def _mean_of(visits: Sequence[VisitData], metric: str) -> float | None:
    values = np.concatenate([played.stage.values[metric] for played in visits])
    return float(values.mean()) if values.size else None


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
