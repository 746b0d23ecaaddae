"""How long the requests of a stage may take if the scenario does not say: in proportion to the warm-up's answers."""

from loadgen.live.sink import NullSink
from loadgen.plan.plan import Plan, Stage
from loadgen.record import Record, StageKey
from loadgen.targets.probe.answers import ORDERLY
from loadgen.targets.registry import target_name
from loadgen.targets.request import limit_ns
from loadgen.targets.served import Served

RequestLimits = dict[int, int]
"""How long a request may take, ns, by its model's index in the plan."""


class WarmUpTimes(NullSink):
    """The sink that holds how long the slowest answer of each stage's warm-up took, for each model."""

    def __init__(self) -> None:
        self._longest_ns: dict[StageKey, int] = {}

    def record(self, record: Record) -> None:
        if record.phase != "warmup" or record.outcome not in ORDERLY or record.end_ns is None:
            return
        # The time of the attempt that was answered, because a limit is for one attempt.
        began_ns = record.dispatched_ns if record.attempt_ns is None else record.attempt_ns
        took_ns = record.end_ns - (record.end_ns if began_ns is None else began_ns)
        self._longest_ns[record.stage_key] = max(took_ns, self._longest_ns.get(record.stage_key, 0))

    def limits(self, plan: Plan, stage: Stage, served: dict[int, Served]) -> RequestLimits:
        """The limits of the stage's measured requests. Call it after the warm-up. A stage without a warm-up has the
        limits of those before it; a model that answered in no warm-up gets its limit from the test chat."""
        limits: RequestLimits = {}
        for index in stage.models:
            model = plan.models[index]
            target, name, level = target_name(model), model.name, stage.level.label
            shown = [
                longest_ns
                for key, longest_ns in self._longest_ns.items()
                if (key.target, key.model) == (target, name) and (key.level == level or not stage.warmup)
            ]
            shown_ns = max(shown, default=served[index].test_chat_ns)
            limits[index] = limit_ns(plan.scenario, shown_ns)
        return limits
