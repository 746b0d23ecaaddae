"""Probes a model's server outside its stages, or recalls an earlier probe of it. Knows no stage and no run folder."""

import contextlib
from collections.abc import AsyncIterator

from msgspec import Struct

from loadgen.clock import SYSTEM_CLOCK, Clock
from loadgen.engine.preflight import Preflight, Tell
from loadgen.engine.stage import RunContext
from loadgen.engine.stop import StopSignal
from loadgen.errors import InputError, LoadgenError, TargetError
from loadgen.plan.plan import Plan
from loadgen.store.manifest import ModelCard, Probe
from loadgen.targets.extra_chats import questions_for
from loadgen.targets.probe.cache import recall, remember
from loadgen.targets.probe.probe import probe
from loadgen.targets.registry import target_name
from loadgen.targets.served import Served
from loadgen.wire.client import Client


async def ask_or_recall(context: RunContext, index: int, served: Served, tell: Tell) -> Probe | None:
    """Probe a server if the scenario asks for it, and store the result. Else return the stored probe of the same
    server, which sends nothing. None if it was never probed.

    Call it after the model's stages: parallel streams make a server use more memory from then on (Foundry Local: a
    third more), and no stage may show that.
    """
    plan = context.plan
    if served.adapter is not None or not plan.scenario.sampling.stream:
        return None
    if not questions_for(plan.scenario, plan.models[index]):
        return recall(served)
    tell(f"asking what {served.card.alias} on {served.card.target} does")
    asked = await probe(
        plan, index, served, context.client, clock=context.clock, stop_requested=lambda: context.stop_signal.requested
    )
    if context.stop_signal.requested:  # an incomplete probe must not replace a complete one
        return asked
    # If it cannot be stored, this run still has it.
    try:
        remember(served, asked)
    except (OSError, InputError) as error:
        reason = getattr(error, "strerror", None) or error
        tell(f"what {served.card.alias} does cannot be remembered: {reason}")
    return asked


class AskedServer(Struct, frozen=True):
    """A model's server that was probed outside a run."""

    card: ModelCard
    probe: Probe


async def ask_servers(plan: Plan, tell: Tell, clock: Clock = SYSTEM_CLOCK) -> AsyncIterator[AskedServer]:
    """Serve each of a plan's models in turn and probe its server, after the test chat. Plays no stage.

    A model that cannot be used is noted, and the next one is probed.
    """
    async with Client() as client:
        # Outside a run there are no records, so the beginning from which moments count does not matter.
        context = RunContext(plan, client, clock, clock.now_ns(), StopSignal())
        preflight = Preflight(context, tell, lambda text, share: tell(text) if share is None else None)
        for index, model in enumerate(plan.models):
            try:
                if not questions_for(plan.scenario, model):
                    raise TargetError("nothing to probe: the model runs in this process, or answers are not streamed")
                async with contextlib.AsyncExitStack() as stack:
                    served = (await preflight.open(index, stack)).served
                    asked = await ask_or_recall(context, index, served, tell)
                    if asked is not None:
                        yield AskedServer(served.card, asked)
            except LoadgenError as error:
                tell(f"skipped {model.name} on {target_name(model)}: {error}")
