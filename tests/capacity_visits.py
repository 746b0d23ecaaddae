"""Visits of a search with their records, as a simulated queue gives them. Measures nothing itself."""

from collections.abc import Callable, Iterable, Sequence
from itertools import islice

import numpy as np

from benchmarks.queues import Queue, closed, opened, record_of
from loadgen.analysis.stage import stages_of
from loadgen.decisions.capacity.search import SearchSettings
from loadgen.decisions.capacity.visit_data import VisitData, visit_data_of
from loadgen.plan.plan import StageLoad
from loadgen.record import Record, StageFacts
from tests.records import facts, planned, run_of

Change = Callable[[Record], Record]


def played(
    settings: SearchSettings,
    level: float,
    records: Iterable[Record],
    *,
    number: int = 1,
    seen: StageFacts | None = None,
    server_ended: str | None = None,
) -> VisitData:
    """The visit that these records make. seen: what was seen of ourselves; None: nothing was in the way."""
    is_of_users = settings.search == "users"
    load = StageLoad("closed", int(level)) if is_of_users else StageLoad("poisson", rate_per_s=level)
    name = f"{'c' if is_of_users else 'r'}{level:g}" + (f".{number}" if number > 1 else "")
    visit_records = [each for each in records if each.level == name]
    ends = [each.end_ns for each in visit_records if each.end_ns is not None]
    stage = planned(len(visit_records), level=name, load=load, server_ended=server_ended)
    seen = facts(level=name, start_ns=0, end_ns=max(ends, default=0)) if seen is None else seen
    run = run_of(visit_records, [stage], seen=[seen])
    return visit_data_of(stages_of(run)[0], settings)


def of_queue(
    settings: SearchSettings,
    queue: Queue,
    levels: Sequence[float],
    count: int = 200,
    change: Change = lambda each: each,
) -> list[VisitData]:
    """A visit of so many requests to each level. change: what becomes of each record."""
    visits = []
    for level in levels:
        rng = np.random.default_rng([5, round(1000 * level)])
        is_of_users = settings.search == "users"
        name = f"{'c' if is_of_users else 'r'}{level:g}"
        load = StageLoad("closed", int(level)) if is_of_users else StageLoad("poisson", rate_per_s=level)
        requests = closed(queue, int(level), rng) if is_of_users else opened(queue, level, 12, rng)
        records = [
            change(record_of(request, i, load, name)) for i, request in enumerate(islice(requests, count + int(level)))
        ]
        visits.append(played(settings, level, records))
    return visits
