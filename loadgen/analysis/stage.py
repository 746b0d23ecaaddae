"""A run's records and facts, stage by stage. Pure; knows no statistics, no terminal and no socket."""

from collections import defaultdict
from collections.abc import Sequence

from msgspec import Struct

from loadgen.analysis import metrics
from loadgen.analysis.metric_flags import metric_flags
from loadgen.analysis.metrics import Window
from loadgen.analysis.summary import METRICS
from loadgen.record import Phase, Record, StageFacts, StageKey
from loadgen.scenario import Closed, Scenario
from loadgen.scenario.stop_rule import StopRule, stop_rule_of
from loadgen.stats.histogram import Histogram
from loadgen.stats.quantile import Floor
from loadgen.store.calibration import Budget
from loadgen.store.manifest import PlannedStage, Probe
from loadgen.store.run_folder import Run

RequestKey = tuple[StageKey, Phase, int]
"""The same for all attempts of a request."""


class StageData(Struct, frozen=True):
    """One planned stage with the records and facts that belong to it. measured, warmup, together: one record a
    request, that of its last attempt. earlier: the measured requests' attempts before it. budget: what one process
    of this machine was calibrated for, if it was; workers: how many processes shared the stage. floor: of the
    samples of a percentile. until: what was to be known before the stage ended."""

    planned: PlannedStage
    measured: tuple[Record, ...]
    warmup: tuple[Record, ...]
    together: tuple[Record, ...]
    facts: StageFacts | None
    earlier: tuple[Record, ...] = ()
    probe: Probe | None = None
    thinks: bool = False
    floor: Floor = "contract"
    workers: int = 1
    budget: Budget | None = None
    until: StopRule | None = None

    @property
    def closed(self) -> bool:
        return self.planned.load.is_closed

    @property
    def users(self) -> int | None:
        """The users of a closed loop who should all be waiting for an answer at all times: without think time."""
        return None if self.thinks else self.planned.load.concurrency

    @property
    def ok(self) -> list[Record]:
        return [record for record in self.measured if record.outcome == "ok"]

    @property
    def window(self) -> Window | None:
        users, ramp_in_ns = self.planned.load.concurrency, self.planned.ramp_in_ns
        return metrics.steady_window(self.together, concurrency=users, ramp_in_ns=ramp_in_ns)


def stages_of(run: Run, *, floor: Floor | None = None) -> list[StageData]:
    """A run's records by planned stage, in the plan's order. Models that took turns share the load of their level.

    floor: how many samples a percentile needs; None: as many as the scenario says.
    """
    floor = floor or ("strict" if run.manifest.scenario.strict else "contract")
    until = run.manifest.scenario.until
    keyed: dict[StageKey, list[Record]] = defaultdict(list)
    last, earlier = split_by_attempt(run.records)
    for record in last:
        keyed[record.stage_key].append(record)
    found = []
    for planned in run.manifest.stages:
        facts = next((fact for fact in run.facts if planned.key in fact.keys), None)
        mine = keyed[planned.key]
        together = [record for key in (facts.keys if facts else (planned.key,)) for record in keyed[key]]
        found.append(
            StageData(
                planned=planned,
                measured=tuple(record for record in mine if record.phase == "measured"),
                warmup=tuple(record for record in mine if record.phase == "warmup"),
                together=tuple(record for record in together if record.phase == "measured"),
                facts=facts,
                earlier=tuple(
                    record for record in earlier if record.phase == "measured" and record.stage_key == planned.key
                ),
                thinks=_thinks(run.manifest.scenario),
                floor=floor,
                workers=run.manifest.workers,
                budget=run.manifest.calibration.budget if run.manifest.calibration else None,
                until=None if until is None else stop_rule_of(until),
                probe=card.known_probe if (card := run.manifest.card(planned.target, planned.model)) else None,
            )
        )
    return found


def split_by_attempt(records: Sequence[Record]) -> tuple[list[Record], list[Record]]:
    """Records that count, one a request, and those of the attempts before; each in the order in which they are."""
    highest: dict[RequestKey, int] = defaultdict(int)
    for record in records:
        if record.attempt:
            key = _request(record)
            highest[key] = max(record.attempt, highest[key])
    last, earlier = list[Record](), list[Record]()
    for record in records:
        counts = not highest or record.attempt >= highest[_request(record)]
        (last if counts else earlier).append(record)
    return last, earlier


def _request(record: Record) -> RequestKey:
    return record.stage_key, record.phase, record.index


def _thinks(scenario: Scenario) -> bool:
    """Whether the plan itself has users wait between an answer and the next question."""
    load = scenario.load
    return isinstance(load, Closed) and (load.think_time.mean_s > 0 or load.max_requests_per_s is not None)


def histograms(part: StageData) -> dict[str, Histogram]:
    """A stage's histograms by metric, of its ok measured requests; over-range values are counted in each."""
    arrays = {**metrics.of_requests(part.ok, closed=part.closed), "itl": metrics.gaps(part.ok)[0]}
    nulled = metric_flags(part.ok, part.probe).nulled
    found = {}
    for name in METRICS:
        found[name] = Histogram()
        if f"{name}_ms" not in nulled:
            found[name].record(arrays[name])
    return found
