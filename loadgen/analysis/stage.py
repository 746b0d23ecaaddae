"""A run's records and facts, stage by stage. Pure; knows no statistics, no terminal and no socket."""

from collections.abc import Sequence
from typing import Any

import msgspec
from msgspec import Struct

from loadgen.analysis import metrics
from loadgen.analysis.metric_flags import metric_flags
from loadgen.analysis.metrics import Window
from loadgen.analysis.summary import METRICS
from loadgen.record import Record, StageFacts
from loadgen.scenario.stop_rule import StopRule, stop_rule_of
from loadgen.stats.histogram import Histogram
from loadgen.stats.quantile import Floor
from loadgen.store.calibration import Budget
from loadgen.store.run_folder import PlannedStage, Run
from loadgen.targets.probe.findings import Probe, probe_of


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
        return bool(self.planned.load["mode"] == "closed")

    @property
    def users(self) -> int | None:
        """The users of a closed loop who should all be waiting for an answer at all times: without think time."""
        return None if self.thinks else self.planned.load.get("concurrency")

    @property
    def ok(self) -> list[Record]:
        return [record for record in self.measured if record.outcome == "ok"]

    @property
    def window(self) -> Window | None:
        users, ramp_in_ns = self.planned.load.get("concurrency"), self.planned.ramp_in_ns
        return metrics.steady_window(self.together, concurrency=users, ramp_in_ns=ramp_in_ns)


def stages_of(run: Run, *, strict: bool = False) -> list[StageData]:
    """A run's records by planned stage, in the plan's order. Models that took turns share the load of their level.

    strict: percentiles need the samples of a published result, whatever the scenario says.
    """
    floor: Floor = "strict" if strict or run.manifest.scenario.get("strict") else "contract"
    until = run.manifest.scenario.get("until")
    keyed: dict[tuple[str, str, str], list[Record]] = {}
    last, earlier = split_by_attempt(run.records)
    for record in last:
        keyed.setdefault((record.target, record.model, record.level), []).append(record)
    found = []
    for planned in run.manifest.stages:
        facts = next((fact for fact in run.facts if _is_of(fact, planned)), None)
        mine = keyed.get((planned.target, planned.model, planned.level), [])
        pairs = zip(facts.targets, facts.models, strict=True) if facts else [(planned.target, planned.model)]
        together = [record for pair in pairs for record in keyed.get((*pair, planned.level), [])]
        found.append(
            StageData(
                planned=planned,
                measured=tuple(record for record in mine if record.phase == "measured"),
                warmup=tuple(record for record in mine if record.phase == "warmup"),
                together=tuple(record for record in together if record.phase == "measured"),
                facts=facts,
                earlier=tuple(record for record in earlier if record.phase == "measured" and _asks(record, planned)),
                thinks=_thinks(run.manifest.scenario),
                floor=floor,
                workers=run.manifest.workers,
                budget=_budget(run.manifest.calibration),
                until=None if until is None else stop_rule_of(until),
                probe=next((probe_of(card) for card in run.manifest.models if _serves(card, planned)), None),
            )
        )
    return found


def split_by_attempt(records: Sequence[Record]) -> tuple[list[Record], list[Record]]:
    """Records that count, one a request, and those of the attempts before; each in the order in which they are."""
    highest: dict[tuple[str, str, str, str, int], int] = {}
    for record in records:
        if record.attempt:
            key = _request(record)
            highest[key] = max(record.attempt, highest.get(key, 0))
    last, earlier = list[Record](), list[Record]()
    for record in records:
        counts = not highest or record.attempt >= highest.get(_request(record), 0)
        (last if counts else earlier).append(record)
    return last, earlier


def _request(record: Record) -> tuple[str, str, str, str, int]:
    return record.target, record.model, record.level, record.phase, record.index


def _asks(record: Record, planned: PlannedStage) -> bool:
    return (record.target, record.model, record.level) == (planned.target, planned.model, planned.level)


def _thinks(scenario: dict[str, Any]) -> bool:
    """Whether the plan itself has users wait between an answer and the next question."""
    load = scenario.get("load", {})
    return bool(load.get("think_time", {}).get("mean_s")) or load.get("max_requests_per_s") is not None


def _budget(calibration: dict[str, Any] | None) -> Budget | None:
    return None if calibration is None else msgspec.convert(calibration["budget"], Budget)


def _serves(card: dict[str, Any], planned: PlannedStage) -> bool:
    return (card.get("target"), card.get("alias")) == (planned.target, planned.model)


def _is_of(facts: StageFacts, planned: PlannedStage) -> bool:
    return facts.level == planned.level and (planned.target, planned.model) in zip(
        facts.targets, facts.models, strict=True
    )


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
