"""A visit together with its stage: the records, and whether they can be trusted. Pure."""

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
"""The reasons for which loadgen itself disturbed a visit, whether they make it degraded or invalid."""
CLIENT_CODES_IF_FATAL: Final[frozenset[Code]] = frozenset({"gc_pause", "littles_law"})
SERVER_ERRORS: Final[frozenset[Outcome]] = frozenset(
    {"http_error", "stream_error", "malformed", "not_streamed", "empty"}
)
"""The outcomes that only the server can cause; a slow client cannot."""


class PlayedVisit(Struct, frozen=True):
    """One visit with all its records."""

    visit: Visit
    stage: StageData
    reasons: tuple[Reason, ...] = ()
    """The reasons why its numbers may be wrong."""


def played_visit(stage: StageData, settings: SearchSettings) -> PlayedVisit:
    """The visit of a stage in a search's run folder."""
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
    """The search so far, from its visits in the order of playing."""
    return SearchState(tuple(played.visit for played in visits))


def seconds_of(stage: StageData) -> float:
    """The time from the first request of a stage's warm-up to the end of its last request."""
    records = (*stage.warmup, *stage.measured)
    begins = [moment for record in records if (moment := record.dispatched_ns) is not None]
    ends = [moment for record in records if (moment := record.end_ns) is not None]
    if stage.facts is not None:
        begins.append(stage.facts.start_ns)
        ends.append(stage.facts.end_ns)
    return max(0.0, (max(ends) - min(begins)) / 1e9) if begins and ends else 0.0


def _doubt_of(reasons: Sequence[Reason], records: Sequence[Record], settings: SearchSettings) -> Doubt | None:
    codes = {reason.code for reason in reasons}
    if "busy_machine" in codes:  # which may also be the reason why loadgen was late
        return "busy_machine"
    fatal = {reason.code for reason in reasons if reason.fatal}
    if (codes & CLIENT_CODES or fatal & CLIENT_CODES_IF_FATAL) and not fails_by_errors(records, settings):
        return "client"
    return None


def fails_by_errors(records: Sequence[Record], settings: SearchSettings) -> bool:
    """Whether the server's own errors alone exceed the misses that an objective allows."""
    sent = [record for record in records if record.outcome != "cancelled"]
    errors = sum(record.outcome in SERVER_ERRORS for record in sent)
    return errors > 0 and errors > (1 - max(settings.shares)) * len(sent)
