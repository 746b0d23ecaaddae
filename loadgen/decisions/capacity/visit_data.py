"""A visit together with its stage: the records, and whether they can be trusted. Pure."""

from collections.abc import Sequence
from typing import Final

from msgspec import Struct

from loadgen.analysis.busy_machine import is_host_alone
from loadgen.analysis.evidence import Evidence
from loadgen.analysis.evidence import evidence_of as evidence_of_stage
from loadgen.analysis.reason_codes import Code
from loadgen.analysis.stage import StageData
from loadgen.analysis.summary import Reason
from loadgen.analysis.validity import judge
from loadgen.decisions.capacity.objective import latency_limits
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
LAG_CODES: Final[frozenset[Code]] = frozenset({"dispatch_slip", "loop_lag", "achieved_users"})
"""Those of them that say nothing about a level if loadgen's lag is short beside the limits of the objectives."""
GAPS: Final = frozenset({"tpot", "itl"})
"""The metrics that do not depend on when a request was sent."""
GAPS_NEAR_LIMIT: Final = 0.5
"""Late requests leave fewer answers to be streamed at once. That can hide a missed limit of a gap only if gaps are
longer than this share of it."""
LAG_OF_LIMIT: Final = 0.01
"""loadgen's usual lag can be ignored if it is at most this share of a limit. It changes a latency by at most itself: a
user who is late by d ms shortens the latencies of the others by d ms at most."""
LONGEST_LAG_OF_LIMIT: Final = 0.1
"""The same for its longest lag."""
CLIENT_CODES_IF_FATAL: Final[frozenset[Code]] = frozenset({"gc_pause", "littles_law"})
SERVER_ERRORS: Final[frozenset[Outcome]] = frozenset(
    {"http_error", "stream_error", "malformed", "not_streamed", "empty"}
)
"""The outcomes that only the server can cause; a slow client cannot."""


class VisitData(Struct, frozen=True):
    """One visit with all its records."""

    visit: Visit
    stage: StageData
    reasons: tuple[Reason, ...] = ()
    """The reasons why its numbers may be wrong."""


def visit_data_of(stage: StageData, settings: SearchSettings) -> VisitData:
    """The visit of a stage in a search's run folder."""
    load, facts = stage.planned.load, stage.facts
    workers = 1 if facts is None else max(1, len(facts.workers))
    tally = VisitTally(settings.objectives, load, stage.slo, workers)
    for record in stage.measured:
        tally.take(record)
    evidence = evidence_of_stage(stage)
    reasons = judge(evidence).reasons if stage.measured else ()
    if is_lag_negligible(evidence, stage, settings):
        reasons = tuple(reason for reason in reasons if reason.code not in LAG_CODES)
    visit = tally.visit(
        level=float(load.concurrency or load.rate_per_s or 0),
        label=stage.planned.level,
        seconds=seconds_of(stage),
        doubt=_doubt_of(reasons, evidence, stage.measured, settings),
    )
    return VisitData(visit, stage, reasons)


def state_of(visits: Sequence[VisitData], *, earlier: int = 0) -> SearchState:
    """The search so far, from its visits in the order of playing. earlier: how many are of earlier searches."""
    return SearchState(tuple(played.visit for played in visits), earlier)


def seconds_of(stage: StageData) -> float:
    """The time from the first request of a stage's warm-up to the end of its last request."""
    records = (*stage.warmup, *stage.measured)
    begins = [moment for record in records if (moment := record.dispatched_ns) is not None]
    ends = [moment for record in records if (moment := record.end_ns) is not None]
    if stage.facts is not None:
        begins.append(stage.facts.start_ns)
        ends.append(stage.facts.end_ns)
    return max(0.0, (max(ends) - min(begins)) / 1e9) if begins and ends else 0.0


def _doubt_of(
    reasons: Sequence[Reason], evidence: Evidence, records: Sequence[Record], settings: SearchSettings
) -> Doubt | None:
    codes = {reason.code for reason in reasons}
    if "busy_machine" in codes:  # which may also be the reason why loadgen was late
        return "busy_host" if evidence.machine is not None and is_host_alone(evidence.machine) else "busy_machine"
    fatal = {reason.code for reason in reasons if reason.fatal}
    if (codes & CLIENT_CODES or fatal & CLIENT_CODES_IF_FATAL) and not fails_by_errors(records, settings):
        return "client"
    return None


def is_lag_negligible(evidence: Evidence, stage: StageData, settings: SearchSettings) -> bool:
    """Whether loadgen's own lag is too short to change whether a request meets an objective."""
    slip, lag = evidence.slip_effect, evidence.lag_effect
    late_ms = max(_unused_ms(evidence, stage), 0.0 if slip is None else slip.by_ms)
    stamps_ms = 0.0 if lag is None else lag.by_ms
    longest_ms = 0.0 if evidence.stamp_source == "kernel" else evidence.loop_lag_max_ms or 0.0
    for metric, limit_ms in latency_limits(settings.objectives, stage.slo):
        usual, longest = stamps_ms, longest_ms
        if metric not in GAPS:
            usual, longest = max(usual, late_ms), max(longest, evidence.dispatch_slip_max_ms or 0.0)
        if usual > LAG_OF_LIMIT * limit_ms or longest > LONGEST_LAG_OF_LIMIT * limit_ms:
            return False
    return late_ms == 0.0 or not _gaps_near_limit(stage, settings)


def _gaps_near_limit(stage: StageData, settings: SearchSettings) -> bool:
    """Whether a request's gaps are so near their limit that more answers at once might have lengthened them past it."""
    for name, limit_ms in latency_limits(settings.objectives, stage.slo):
        if name in GAPS:
            values_ns = stage.values[name]
            near = (values_ns > GAPS_NEAR_LIMIT * limit_ms * 1e6) & (values_ns <= limit_ms * 1e6)
            if near.any():
                return True
    return False


def _unused_ms(evidence: Evidence, stage: StageData) -> float:
    """For how long, on average, a user waited for loadgen before the next request."""
    e2e_ns = stage.values["e2e"]
    if not evidence.users_share or not e2e_ns.size:
        return 0.0
    return (1 / evidence.users_share - 1) * float(e2e_ns.mean()) / 1e6


def fails_by_errors(records: Sequence[Record], settings: SearchSettings) -> bool:
    """Whether the server's own errors alone exceed the misses that an objective allows."""
    sent = [record for record in records if record.outcome != "cancelled"]
    errors = sum(record.outcome in SERVER_ERRORS for record in sent)
    return errors > 0 and errors > (1 - max(settings.shares)) * len(sent)
