"""The sink that ends a stage when its stop rule is met. `loadgen.analysis.stop_rule_monitor` decides when that is."""

from collections.abc import Callable

from loadgen.analysis.stop_rule_monitor import Sample, StopRuleMonitor, sampler
from loadgen.engine.stop import StopSignal
from loadgen.live.progress import Progress
from loadgen.live.sink import NullSink, Sink
from loadgen.plan.plan import Plan, Stage
from loadgen.record import Record
from loadgen.targets.registry import target_name


class StopRuleSink(NullSink):
    """Ends one stage, by its own signal, as soon as its stop rule is met for each of its models."""

    def __init__(self, sample: Callable[[Record], Sample | None], monitor: StopRuleMonitor) -> None:
        self._sample = sample
        self._monitor = monitor

    def record(self, record: Record) -> None:
        # Requests that were in flight when the rule was met still end and are recorded; the decision stays.
        if not self._monitor.met:
            self._monitor.take(self._sample(record))


def stop_rule_sinks(plan: Plan, stage: Stage, stop: StopSignal, progress: Progress) -> tuple[Sink, ...]:
    """The sink that ends a stage early; none if the stage has no stop rule."""
    if stage.until is None:
        return ()
    # One monitor for all processes, because the rule is about the whole stage, not about each worker's part of it.
    models = [plan.models[index] for index in stage.models]
    places = tuple((target_name(model), model.name) for model in models)
    monitor = StopRuleMonitor(
        stage.until, len(models), plan.scenario.floor, enough=stop.end_stage, report=progress.known
    )
    return (StopRuleSink(sampler(stage.until, places, origin=stage.latency_origin), monitor),)
