"""A visit with the stage of which it was made: its records, and whether they can be believed. Pure."""

from collections.abc import Sequence
from typing import Final

from msgspec import Struct

from loadgen.analysis.evidence import evidence_of as evidence_of_stage
from loadgen.analysis.stage import StageData
from loadgen.analysis.summary import Code, Reason
from loadgen.analysis.validity import judge
from loadgen.decisions.capacity.search import SearchSettings, SearchState
from loadgen.decisions.capacity.visit import Doubt, Visit, VisitTally
from loadgen.record import Outcome, Record

CLIENT_CODES: Final[frozenset[Code]] = frozenset(
    {
        "dispatch_slip",
        "loop_lag",
        "stamp_lag",
        "own_cpu",
        "achieved_users",
        "achieved_rate",
        "beyond_calibration",
        "worker_lost",
        "clock_step",
    }
)
"""Reasons that say that loadgen itself was in the way, whether they make a visit degraded or invalid."""
CLIENT_CODES_IF_FATAL: Final[frozenset[Code]] = frozenset({"gc_pause", "littles_law"})
SERVER_ERRORS: Final[frozenset[Outcome]] = frozenset(
    {"http_error", "stream_error", "malformed", "not_streamed", "empty"}
)
"""The server's own words: no client is so slow that it would be answered by these."""


class PlayedVisit(Struct, frozen=True):
    """One visit, and all that was recorded of it."""

    visit: Visit
    stage: StageData
    reasons: tuple[Reason, ...] = ()
    """Why its numbers may be off."""


def played_visit(stage: StageData, settings: SearchSettings) -> PlayedVisit:
    """A stage of a search's run folder as the visit that it was."""
    load, facts = stage.planned.load, stage.facts
    workers = 1 if facts is None else max(1, len(facts.workers))
    tally = VisitTally(settings.objectives, load, stage.slo, workers)
    for record in stage.measured:
        tally.take(record)
    reasons = judge(evidence_of_stage(stage)).reasons if stage.measured else ()
    visit = tally.visit(
        level=float(load.concurrency or load.rate_per_s or 0),
        label=stage.planned.level,
        seconds=seconds_of(stage),
        doubt=_doubt_of(reasons, stage.measured, settings),
    )
    return PlayedVisit(visit, stage, reasons)


def state_of(visits: Sequence[PlayedVisit]) -> SearchState:
    """The search so far, from its visits in the order in which they were played."""
    return SearchState(tuple(played.visit for played in visits))


def seconds_of(stage: StageData) -> float:
    """How long a stage took, from the first request of its warm-up to the end of its last one."""
    records = (*stage.warmup, *stage.measured)
    begins = [moment for record in records if (moment := record.dispatched_ns) is not None]
    ends = [moment for record in records if (moment := record.end_ns) is not None]
    if stage.facts is not None:
        begins.append(stage.facts.start_ns)
        ends.append(stage.facts.end_ns)
    return max(0.0, (max(ends) - min(begins)) / 1e9) if begins and ends else 0.0


def _doubt_of(reasons: Sequence[Reason], records: Sequence[Record], settings: SearchSettings) -> Doubt | None:
    codes = {reason.code for reason in reasons}
    if "busy_machine" in codes:  # which may be why loadgen was late as well
        return "busy_machine"
    fatal = {reason.code for reason in reasons if reason.fatal}
    if (codes & CLIENT_CODES or fatal & CLIENT_CODES_IF_FATAL) and not fails_by_errors(records, settings):
        return "client"
    return None


def fails_by_errors(records: Sequence[Record], settings: SearchSettings) -> bool:
    """Whether the server's own errors alone are more than an objective allows."""
    sent = [record for record in records if record.outcome != "cancelled"]
    errors = sum(record.outcome in SERVER_ERRORS for record in sent)
    return errors > 0 and errors > (1 - max(settings.shares)) * len(sent)
