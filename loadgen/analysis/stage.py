"""A run's records and facts, sorted by stage, and what is computed from them for one stage. Pure; knows no terminal."""

from collections import defaultdict
from collections.abc import Sequence
from functools import cached_property
from typing import Final

import msgspec
import numpy as np
from msgspec import Struct

from loadgen.analysis import metrics
from loadgen.analysis.held_back import held_back
from loadgen.analysis.metric_flags import MetricFlags, judged, metric_flags
from loadgen.analysis.metrics import Gaps, Ns, Window
from loadgen.analysis.quality_types import ScoredAnswer
from loadgen.analysis.samples import Samples, gap_samples, metric_of_run, percentile_of
from loadgen.analysis.scored import AnswerScorer
from loadgen.analysis.stage_steady import steadiness_of
from loadgen.analysis.stop_rule_monitor import estimate_for
from loadgen.analysis.summary import METRICS, Metric, Steadiness
from loadgen.record import LatencyOrigin, Phase, Record, StageFacts, StageKey
from loadgen.scenario import Closed, Scenario, Slo
from loadgen.scenario.stop_rule import StopRule, stop_rule_of
from loadgen.stats.histogram import Histogram
from loadgen.stats.quantile import Floor
from loadgen.store.calibration import Budget
from loadgen.store.manifest import PlannedStage, ServedModel
from loadgen.store.run_folder import Run
from loadgen.targets.probe.findings import least_tokens

LATENCIES: Final = (*METRICS, *metrics.FROM_SEND, "ttfc")
"""The names of all latencies that a stage may have, in the order of the summary."""

RequestKey = tuple[StageKey, Phase, int]
"""The same for all attempts of a request."""


class StageData(Struct, frozen=True, dict=True):
    """One planned stage with its records and facts, and what is computed from them, each once."""

    planned: PlannedStage
    measured: tuple[Record, ...]
    """One record for each request, that of its last attempt. The next two fields are alike in this."""
    warmup: tuple[Record, ...]
    together: tuple[Record, ...]
    """The measured requests of all models that share the stage's load."""
    facts: StageFacts | None
    earlier: tuple[Record, ...] = ()
    """The attempts of the measured requests that were retried."""
    card: ServedModel | None = None
    """What is known of the model, if it was served."""
    slo: Slo = Slo()
    """The limits on each request, without those that such answers can neither meet nor miss."""
    thinks: bool = False
    """Whether the plan has users wait between an answer and the next question."""
    floor: Floor = "contract"
    """How many samples a percentile needs."""
    workers: int = 1
    """How many processes shared the stage."""
    budget: Budget | None = None
    """What one process was calibrated for on this machine, if it was."""
    until: StopRule | None = None
    """The stop rule of the stage, if it has one."""
    scorer: AnswerScorer | None = None
    """Scores its answers; None if their texts were not kept, or the scenario does not want them scored."""

    @property
    def latency_origin(self) -> LatencyOrigin:
        return self.planned.load.latency_origin

    @property
    def users(self) -> int | None:
        """The users of a closed loop without think time, all of whom should wait for an answer at all times."""
        return None if self.thinks else self.planned.load.concurrency

    @property
    def is_skipped(self) -> bool:
        """Whether it was not played."""
        return self.planned.skipped is not None and not self.measured

    @property
    def is_complete(self) -> bool:
        """Whether it was played to its end, and each planned request has its record."""
        return self.facts is not None and self.facts.complete and len(self.measured) >= (self.planned.planned or 0)

    @property
    def requests(self) -> int:
        """How many requests were planned. If time bounds a closed loop: how many there were."""
        return max(self.planned.planned or 0, len(self.measured))

    @cached_property
    def ok(self) -> tuple[Record, ...]:
        """The measured requests that were answered."""
        return tuple(record for record in self.measured if record.outcome == "ok")

    @cached_property
    def scored(self) -> tuple[ScoredAnswer, ...] | None:
        """The quality of the answers to the measured requests; None if their texts were not kept."""
        return None if self.scorer is None else self.scorer.answers(self.measured)

    @cached_property
    def each(self) -> dict[str, Ns]:
        """By metric, a value of each ok request, or `metrics.MISSING`."""
        return metrics.of_each_request(self.ok, origin=self.latency_origin)

    @cached_property
    def gaps(self) -> Gaps:
        """The gaps between the tokens of the ok requests."""
        return metrics.gaps_of(self.ok)

    @cached_property
    def flags(self) -> MetricFlags:
        """Which numbers of this stage do not mean what their names say."""
        probe = None if self.card is None else self.card.known_probe
        lag_ns = None if self.facts is None else self.facts.loop_lag_p50_ns
        tokens = None if probe is None else [least_tokens(record, probe) for record in self.ok]
        return metric_flags(self.ok, probe, held_back(self.ok, self.gaps, lag_ns, tokens))

    @cached_property
    def values(self) -> dict[str, Ns]:
        """By metric, the values of the ok requests, and for itl the gaps. No values if they would be wrong."""
        arrays = {name: metrics.known(values) for name, values in self.each.items()} | {"itl": self.gaps.values}
        return {name: values[:0] if self._is_suppressed(name) else values for name, values in arrays.items()}

    def _is_suppressed(self, metric: str) -> bool:
        return f"{metric}_ms" in self.flags.nulled

    def samples(self, metric: str) -> Samples:
        """The values of a metric; gaps come with the requests to which they belong."""
        is_of_gaps = metric == "itl" and not self._is_suppressed(metric)
        return Samples(self.values[metric], self.gaps.owners if is_of_gaps else None)

    @cached_property
    def latencies(self) -> dict[str, Metric]:
        """The statistics of each latency in this run, by its name in the summary."""
        first, visible = self.values["ttft"], self.values["ttfc"]
        left_out = () if len(visible) and not np.array_equal(first, visible) else ("ttfc",)
        names = [name for name in LATENCIES if name in self.values and name not in left_out]
        return {f"{name}_ms": self._metric(name) for name in names}

    def _metric(self, name: str) -> Metric:
        samples = self.samples(name)
        if samples.owners is not None:
            samples = gap_samples(*metrics.flat_stamps(self.ok))
        metric = metric_of_run(samples, floor=self.floor)
        if self.until is None or self.until.metric != name or self._is_suppressed(name):
            return metric
        waited_for = {self.until.percentile: percentile_of(estimate_for(samples, self.until, self.floor))}
        return msgspec.structs.replace(metric, percentiles=metric.percentiles | waited_for)

    @cached_property
    def histograms(self) -> dict[str, Histogram]:
        """A histogram for each metric, which also counts values out of its range."""
        by_metric = {name: Histogram() for name in METRICS}
        for name, histogram in by_metric.items():
            histogram.record(self.values[name])
        return by_metric

    @cached_property
    def window(self) -> Window | None:
        """The steady window: when the requested load was applied."""
        users, ramp_in_ns = self.planned.load.concurrency, self.planned.ramp_in_ns
        return metrics.steady_window(self.together, concurrency=users, ramp_in_ns=ramp_in_ns)

    @cached_property
    def _steadiness(self) -> tuple[Steadiness | None, Window | None]:
        return steadiness_of(self.together, self.planned.load, self.window)

    @property
    def steadiness(self) -> Steadiness | None:
        """Whether the latencies settled inside the window."""
        return self._steadiness[0]

    @property
    def steady_window(self) -> Window | None:
        """The part of the window after the latencies had settled; all of it if they never did."""
        return self._steadiness[1]

    @cached_property
    def _judged(self) -> tuple[Slo, dict[str, str]]:
        return judged(self.slo, self.flags)

    @property
    def judged_slo(self) -> Slo:
        """The SLO without what cannot be judged on this server."""
        return self._judged[0]

    @property
    def not_judged(self) -> str | None:
        """Why some of the SLO cannot be judged; None if all of it can."""
        return self._judged[1].get("slo")

    @property
    def slo_limits_ms(self) -> dict[str, float]:
        """The limits that requests are judged by, in ms."""
        slo = self.judged_slo
        limits = {"ttft_ms": slo.ttft_ms, "tpot_ms": slo.tpot_ms, "e2e_ms": slo.e2e_ms}
        return {name: limit for name, limit in limits.items() if limit is not None}

    @property
    def not_valid(self) -> dict[str, str]:
        """By metric, why it is not what its name says."""
        flagged = self.flags.not_valid | self._judged[1]
        return {name: why for name, why in flagged.items() if name in self.latencies or not name.endswith("_ms")}


def stages_of(run: Run, *, floor: Floor | None = None) -> list[StageData]:
    """The stages of a run with their records, in the plan's order. Models that took turns share the load of their
    level.

    floor: how many samples a percentile needs; None: as the scenario says.
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
    scorer = AnswerScorer(run) if run.prompts and run.manifest.scenario.quality.score else None
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
                card=run.manifest.card(planned.target, planned.model),
                slo=slo_of(run.manifest.scenario),
                earlier=tuple(record for record in earlier_of[planned.key] if record.phase == "measured"),
                thinks=_thinks(run.manifest.scenario),
                floor=floor,
                workers=run.manifest.workers,
                budget=run.manifest.calibration.budget if run.manifest.calibration else None,
                until=None if until is None else stop_rule_of(until),
                scorer=scorer,
            )
        )
    return stages


def split_by_attempt(records: Sequence[Record]) -> tuple[list[Record], list[Record]]:
    """The records that count, one for each request, and those of earlier attempts; both keep their order."""
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


def slo_of(scenario: Scenario) -> Slo:
    """The SLO of a scenario. If answers are not streamed, it has no limits on TTFT and TPOT, which they do not have."""
    slo = scenario.slo
    return slo if scenario.sampling.stream else msgspec.structs.replace(slo, ttft_ms=None, tpot_ms=None)


def _thinks(scenario: Scenario) -> bool:
    """Whether the plan itself has users wait between an answer and the next question."""
    load = scenario.load
    return isinstance(load, Closed) and (load.think_time.mean_s > 0 or load.max_requests_per_s is not None)
