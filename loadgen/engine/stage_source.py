"""Which stages a run plays: those of its plan, or those that are chosen while the run goes. Knows no socket."""

from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Protocol

import msgspec
from msgspec import Struct

from loadgen.engine.soak.outage import Restart
from loadgen.engine.stage import RunContext
from loadgen.engine.stop import StopSignal
from loadgen.engine.stop_rule_sink import stop_rule_sinks
from loadgen.live.progress import Progress
from loadgen.live.sink import Sink
from loadgen.plan.plan import Plan, Stage
from loadgen.targets.served import Served


class StageSource(Protocol):
    """Gives the stages of models that are served together, from the first of these stages to the last."""

    @property
    def models(self) -> tuple[int, ...]:
        """The models' indices into the plan's models."""

    def next_stage(self) -> Stage | None:
        """The stage to play now, or None after the last one. Called again when that stage has ended."""

    def sinks(self, stage: Stage, stop: StopSignal) -> tuple[Sink, ...]:
        """Sinks for this stage alone. They may end it early with `stop.end_stage()`."""

    def lose_model(self, model: int, reason: str) -> None:
        """A model could not be served, or its server has ended by itself. Its stages are not played any further."""


MakeStageSources = Callable[[RunContext, Path], Sequence[StageSource]]
"""Makes the sources of a run whose stages are chosen while it goes, for its context and its folder."""


class PlannedStages:
    """The stages of a plan that share their models. Each may have a stop rule."""

    def __init__(self, plan: Plan, stages: Sequence[Stage], progress: Progress) -> None:
        self.models = stages[0].models
        self._plan = plan
        self._progress = progress
        self._stages = iter(stages)

    def next_stage(self) -> Stage | None:
        return next(self._stages, None)

    def sinks(self, stage: Stage, stop: StopSignal) -> tuple[Sink, ...]:
        return stop_rule_sinks(self._plan, stage, stop, self._progress)

    def lose_model(self, model: int, reason: str) -> None:
        """Nothing: a stage without a model that can be used is passed over."""


def planned_sources(plan: Plan, progress: Progress) -> list[StageSource]:
    """The stages of a plan, grouped by their models, in order."""
    groups: dict[tuple[int, ...], list[Stage]] = {}
    for stage in plan.stages:
        groups.setdefault(stage.models, []).append(stage)
    return [PlannedStages(plan, group, progress) for group in groups.values()]


def only(stage: Stage, models: tuple[int, ...]) -> Stage:
    """A stage with only the models that can be used. Their requests keep their prompts and due times."""
    if models == stage.models:
        return stage
    # The requests are selected, not planned anew, so that the run can be compared with others.
    positions = [at for at in range(stage.count or 0) if stage.models[at % len(stage.models)] in models]
    due = None if stage.due_ns is None else stage.due_ns[positions]
    count = None if stage.count is None else len(positions)
    return msgspec.structs.replace(stage, models=models, count=count, due_ns=due)


class StagePlay(Struct, frozen=True):
    """A stage that is about to be played."""

    stage: Stage
    ready: dict[int, Served]
    """Its served models, by their index in the plan."""
    stop: StopSignal
    """The signal of this stage."""
    restart: Restart


BesideStage = Callable[[StagePlay], AbstractAsyncContextManager[Sequence[Sink]]]
"""Makes what is done beside a stage, from before its warm-up until its last request has ended; yields sinks for it."""
