"""A run's records and facts, stage by stage. Pure; knows no statistics, no terminal and no socket."""

from collections import defaultdict
from collections.abc import Sequence
from functools import cached_property

from msgspec import Struct

from loadgen.analysis import metrics
from loadgen.analysis.held_back import held_back
from loadgen.analysis.metric_flags import MetricFlags, metric_flags
from loadgen.analysis.metrics import Gaps, Ns, Window
from loadgen.analysis.summary import METRICS
from loadgen.record import LatencyOrigin, Phase, Record, StageFacts, StageKey
from loadgen.scenario import Closed, Scenario
from loadgen.scenario.stop_rule import StopRule, stop_rule_of
from loadgen.stats.histogram import Histogram
from loadgen.stats.quantile import Floor
from loadgen.store.calibration import Budget
from loadgen.store.manifest import PlannedStage, Probe
from loadgen.store.run_folder import Run

RequestKey = tuple[StageKey, Phase, int]
"""The same for all attempts of a request."""


class StageData(Struct, frozen=True, dict=True):
    """One planned stage with the records and facts that belong to it, and what is computed of them: each once."""

    planned: PlannedStage
    measured: tuple[Record, ...]
    """One record a request, that of its last attempt; so are the next two."""
    warmup: tuple[Record, ...]
    together: tuple[Record, ...]
    """The measured requests of all models that share the stage's load."""
    facts: StageFacts | None
    earlier: tuple[Record, ...] = ()
    """The attempts of the measured requests before their last."""
    probe: Probe | None = None
    thinks: bool = False
    """Whether the plan has users wait between an answer and the next question."""
    floor: Floor = "contract"
    """How many samples a percentile needs."""
    workers: int = 1
    """How many processes shared the stage."""
    budget: Budget | None = None
    """What one process of this machine was calibrated for, if it was."""
    until: StopRule | None = None
    """What was to be known before the stage ended."""

    @property
    def latency_origin(self) -> LatencyOrigin:
        return self.planned.load.latency_origin

    @property
    def users(self) -> int | None:
        """The users of a closed loop who should all be waiting for an answer at all times: without think time."""
        return None if self.thinks else self.planned.load.concurrency

    @property
    def is_complete(self) -> bool:
        """Whether it was played to its end, and each planned request has its record."""
        return self.facts is not None and self.facts.complete and len(self.measured) >= (self.planned.planned or 0)

    @cached_property
    def ok(self) -> tuple[Record, ...]:
        """The measured requests that were answered."""
        return tuple(record for record in self.measured if record.outcome == "ok")

    @cached_property
    def each(self) -> dict[str, Ns]:
        """By metric, a value of each ok request, or `metrics.MISSING`."""
        return metrics.of_each_request(self.ok, origin=self.latency_origin)

    @cached_property
    def values(self) -> dict[str, Ns]:
        """By metric, the values that the ok requests have."""
        return {name: metrics.known(values) for name, values in self.each.items()}

    @cached_property
    def gaps(self) -> Gaps:
        """The gaps between the tokens of the ok requests."""
        return metrics.gaps_of(self.ok)

    @cached_property
    def flags(self) -> MetricFlags:
        """Which of its numbers are not what their names say."""
        lag_ns = None if self.facts is None else self.facts.loop_lag_p50_ns
        return metric_flags(self.ok, self.probe, held_back(self.ok, self.gaps, lag_ns))

    @cached_property
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
    earlier_of: dict[StageKey, list[Record]] = defaultdict(list)
    for record in earlier:
        earlier_of[record.stage_key].append(record)
    stages = []
    for planned in run.manifest.stages:
        facts = next((fact for fact in run.facts if planned.key in fact.keys), None)
        together = [record for key in (facts.keys if facts else (planned.key,)) for record in keyed[key]]
        stages.append(
            StageData(
                planned=planned,
                measured=tuple(record for record in keyed[planned.key] if record.phase == "measured"),
                warmup=tuple(record for record in keyed[planned.key] if record.phase == "warmup"),
                together=tuple(record for record in together if record.phase == "measured"),
                facts=facts,
                earlier=tuple(record for record in earlier_of[planned.key] if record.phase == "measured"),
                thinks=_thinks(run.manifest.scenario),
                floor=floor,
                workers=run.manifest.workers,
                budget=run.manifest.calibration.budget if run.manifest.calibration else None,
                until=None if until is None else stop_rule_of(until),
                probe=card.known_probe if (card := run.manifest.card(planned.target, planned.model)) else None,
            )
        )
    return stages


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
    arrays = {**part.values, "itl": part.gaps.values}
    by_metric = {}
    for name in METRICS:
        by_metric[name] = Histogram()
        if f"{name}_ms" not in part.flags.nulled:
            by_metric[name].record(arrays[name])
    return by_metric
