"""A stage's runner whose server is a function, for playing in virtual time."""

from collections.abc import Awaitable, Callable

from loadgen.engine.players import WarmUp, measured_player
from loadgen.engine.stage import LocalStageRunner, RunContext
from loadgen.engine.stop import StopSignal
from loadgen.live.sink import Sink, Sinks
from loadgen.plan.plan import Plan, Planned, Stage
from loadgen.plan.prompts import Prompt
from loadgen.record import Phase, Reply
from loadgen.scenario import Model, Retries, Scenario
from loadgen.store.manifest import ModelCard
from loadgen.targets.served import Served
from loadgen.wire.client import Client
from tests.virtual import VirtualClock

Send = Callable[[Planned, int], Awaitable[Reply]]
"""Answers a request that is dispatched at a moment of the clock."""

MODELS = tuple(Model(name=str(number), url="http://nowhere.invalid/v1", target="openai") for number in range(10))


class ScriptedRunner(LocalStageRunner):
    """Sends nothing: a function answers."""

    def __init__(
        self,
        stage: Stage,
        answer: Send,
        sink: Sink,
        *,
        epoch_ns: int,
        retries: Retries | None = None,
        run_stop: StopSignal | None = None,
        stop: StopSignal | None = None,
    ) -> None:
        run_stop = run_stop or StopSignal()
        scenario = Scenario(name="x", prompts="p", models=MODELS, retries=retries or Retries())
        plan = Plan(scenario=scenario, prompts=(Prompt("p", "Say hello."),) * 3, stages=(stage,))
        card = ModelCard(alias="m", id="m", target="t")
        served = {index: Served(base_url="http://nowhere.invalid/v1", card=card) for index in stage.models}
        context = RunContext(plan, Client(), VirtualClock(), epoch_ns, run_stop)
        super().__init__(context, stage, served, stop or run_stop, Sinks((sink,)))
        self._answer = answer

    async def send(self, planned: Planned, dispatched_ns: int) -> Reply:
        return await self._answer(planned, dispatched_ns)

    @property
    def waiting(self) -> int:
        """Requests that wait for their next attempt; of others, our client has none."""
        return self._in_flight()

    async def play_all(self, phase: Phase, start_ns: int | None = None) -> None:
        """Play the stage's requests of one phase; measured ones from a moment of the clock on."""
        if phase == "warmup":
            await WarmUp(self._stage, self).play()
        else:
            await measured_player(self._stage, self, self.clock.now_ns() if start_ns is None else start_ns).play()
