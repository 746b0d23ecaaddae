"""Plays one stage, or one part of it, in this process: makes its requests, sends, keeps, and watches itself. Knows no
terminal, and not whether others play the rest."""

from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from msgspec import Struct

from loadgen.analysis.stop_rule import Sample, StopRuleMonitor, sampler
from loadgen.clock import SystemClock, process_cpu_ns, thread_cpu_ns, utc_now
from loadgen.engine.players import EngineIO, RetryPolicy, play, play_warmup
from loadgen.engine.retry import is_last, wait_ns
from loadgen.engine.stop import StopSignal
from loadgen.plan.plan import Plan, Planned, Stage
from loadgen.plan.rng import generator
from loadgen.record import Phase, Record, Reply, StageFacts
from loadgen.store.run_folder import Log, folder_errors_alone
from loadgen.targets.adapter.in_process import Question, question_of
from loadgen.targets.probe.answers import AnswerSampler
from loadgen.targets.registry import target_name
from loadgen.targets.request import ask_of, body_of, deadlines_of
from loadgen.targets.served import Served
from loadgen.telemetry.observer import Observer
from loadgen.wire.client import Ask, Client
from loadgen.wire.reply import read_reply

OPEN_LOOP_CONNECTIONS = 8


class Player(Struct, frozen=True):
    """What all stages that are played in one process share. epoch_ns: the run's beginning, on the monotonic clock.
    ended: told of each request's record, after it has been written; not of attempts that were not the last. enough:
    ends the stage that is being played."""

    plan: Plan
    client: Client
    log: Log
    epoch_ns: int
    stop: StopSignal
    ended: Callable[[Record], None]
    enough: StopSignal | None = None


class Staged(Struct, frozen=True):
    """A stage that is ready to be played here: `warm_up`, then `measure`. sampler: what its answers show, then."""

    stage: Stage
    ready: dict[int, Served]
    player: Player
    observer: Observer
    ports: EngineIO
    sampler: AnswerSampler


def staged(stage: Stage, ready: dict[int, Served], player: Player, *, watched: tuple[int, ...] = ()) -> Staged:
    """Make a stage's requests. ready: its models that are being served, by their index in the plan. watched: processes
    of servers, whose CPU and memory go into the facts."""
    again = _again(stage, player) if player.plan.scenario.retries.attempts else None
    adapters = [adapter for index in stage.models if (adapter := ready[index].adapter) is not None]
    # A model in this process takes its CPU from it; ours is then that of the thread that we are in.
    observer = Observer(
        lambda: (
            player.client.in_flight + sum(adapter.in_flight for adapter in adapters) + (again.waiting if again else 0)
        ),
        watched,
        thread_cpu_ns if adapters else process_cpu_ns,
    )
    answers = AnswerSampler()
    ports = EngineIO(
        send=_sender(stage, ready, player, observer, answers),
        keep=_keeper(stage, player),
        clock=SystemClock(),
        epoch_ns=player.epoch_ns,
        stop=player.stop,
        enough=player.enough,
        again=again,
    )
    return Staged(stage, ready, player, observer, ports, answers)


async def warm_up(staged: Staged) -> None:
    """Open about as many connections as the stage will need, and play its warm-up requests."""
    stage = staged.stage
    count = stage.users or min(stage.max_in_flight or OPEN_LOOP_CONNECTIONS, OPEN_LOOP_CONNECTIONS)
    for index in stage.models:
        served = staged.ready[index]
        if served.adapter is None:
            await staged.player.client.open_connections(f"{served.base_url}/models", count, served.headers)
    with folder_errors_alone():
        await play_warmup(stage, staged.ports)


async def measure(staged: Staged, tell: Callable[[StageFacts], None], start_ns: int | None = None) -> None:
    """Play a stage's measured requests from a moment of the clock on (None: now). tell: takes what was seen meanwhile,
    whatever ended the stage. Raises FolderError as soon as a record cannot be written: nothing more is sent."""
    stage, player, observer = staged.stage, staged.player, staged.observer
    observer.start()
    try:
        with folder_errors_alone():
            await play(stage, msgspec.structs.replace(staged.ports, start_ns=start_ns))
    finally:
        identity = identity_of(player.plan, stage)
        tell(await observer.stop(epoch_ns=player.epoch_ns, complete=not player.stop.asked, **identity))


def samples_of(plan: Plan, stage: Stage) -> Callable[[Record], Sample | None] | None:
    """What tells of a record to whoever decides that enough is known; None for a stage that is played to its end."""
    if stage.until is None:
        return None
    identity = identity_of(plan, stage)
    who = tuple(zip(identity["targets"], identity["models"], strict=True))
    return sampler(stage.until, who, closed=stage.due_ns is None)


def watch_over(
    plan: Plan, stage: Stage, enough: Callable[[], None], say: Callable[[str], None]
) -> StopRuleMonitor | None:
    """Who decides that enough is known of a stage; None for one that is played to its end."""
    if stage.until is None:
        return None
    return StopRuleMonitor(stage.until, len(stage.models), plan.scenario.floor, enough=enough, say=say)


def identity_of(plan: Plan, stage: Stage) -> dict[str, Any]:
    """By what the facts of a stage say whose they are."""
    models = [plan.models[index] for index in stage.models]
    return {
        "models": tuple(model.name for model in models),
        "targets": tuple(target_name(model) for model in models),
        "level": stage.level.label,
    }


def _sender(
    stage: Stage, ready: dict[int, Served], player: Player, observer: Observer, answers: AnswerSampler
) -> Callable[[Planned, int], Awaitable[Reply]]:
    """What the engine sends with: bodies are made once a prompt, before the request is due."""
    plan, deadlines = player.plan, deadlines_of(player.plan.scenario.timeouts)
    asks: dict[tuple[int, int], Ask | Question] = {}
    for model in stage.models:
        for prompt in range(stage.prompts):
            served, body = ready[model], body_of(plan, Planned(model=model, index=0, prompt=prompt))
            made = ask_of(served, body, deadlines) if served.adapter is None else question_of(body, deadlines)
            asks[model, prompt] = made

    async def send(planned: Planned, dispatched_ns: int) -> Reply:
        ask, adapter = asks[planned.model, planned.prompt], ready[planned.model].adapter
        if isinstance(ask, Question):
            assert adapter is not None
            return await adapter.send(ask, dispatched_ns, epoch_ns=player.epoch_ns, keep_text=plan.scenario.keep_text)
        exchange = await player.client.send(ask, dispatched_ns)
        reply, lags_ns = read_reply(
            exchange,
            epoch_ns=player.epoch_ns,
            wall_offset_ns=observer.wall_offset_ns,
            keep_text=plan.scenario.keep_text,
        )
        observer.stamp_lags.record(lags_ns)
        answers.take(planned.model, exchange, reply)
        return reply

    return send


def _keeper(stage: Stage, player: Player) -> Callable[[Planned, Phase, int, Reply], None]:
    write = _writer(stage, player)

    def keep(planned: Planned, phase: Phase, intended_ns: int, reply: Reply) -> None:
        player.ended(write(planned, phase, intended_ns, reply))

    return keep


def _again(stage: Stage, player: Player) -> RetryPolicy:
    """When requests are asked again, by the scenario and chance of its seed. Each attempt is written as it ends."""
    scenario, write = player.plan.scenario, _writer(stage, player)

    def wait(planned: Planned, phase: Phase, reply: Reply) -> int | None:
        if is_last(scenario.retries, reply):
            return None
        who = (planned.model, stage.level.label, phase, planned.index, reply.attempt)
        return wait_ns(scenario.retries, reply, generator(scenario.seed, "retry", *who), utc_now())

    def keep(planned: Planned, phase: Phase, intended_ns: int, reply: Reply) -> None:
        write(planned, phase, intended_ns, reply)

    return RetryPolicy(wait, keep)


def _writer(stage: Stage, player: Player) -> Callable[[Planned, Phase, int, Reply], Record]:
    plan, level = player.plan, stage.level.label

    def write(planned: Planned, phase: Phase, intended_ns: int, reply: Reply) -> Record:
        model = plan.models[planned.model]
        record = Record(
            **msgspec.structs.asdict(reply),
            model=model.name,
            target=target_name(model),
            level=level,
            index=planned.index,
            phase=phase,
            prompt_id=plan.prompts[planned.prompt].id,
            intended_ns=intended_ns,
        )
        player.log.append(record)
        return record

    return write
