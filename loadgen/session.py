"""One session: plays a plan against its targets and leaves a run folder. Where everything meets; decides nothing."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Protocol

import msgspec
from msgspec import Struct

from loadgen import runfolder
from loadgen.clock import SystemClock, utc_now
from loadgen.engine import Ports, Stop, play, play_warmup
from loadgen.errors import LoadgenError, TargetError
from loadgen.measure import host
from loadgen.measure.observe import Observer
from loadgen.measure.record import Phase, Record, Reply
from loadgen.plan import Plan, Planned, Stage, body_of, digest
from loadgen.runfolder import Log, Manifest, PlannedStage, Run
from loadgen.targets.opening import serving, target_name
from loadgen.targets.served import Served
from loadgen.wire.client import Ask, Client
from loadgen.wire.exchange import Deadlines
from loadgen.wire.reply import read_reply

OPEN_LOOP_CONNECTIONS = 8
PREFLIGHT_TOKENS = 8
PREFLIGHT_S = 120.0


class Progress(Protocol):
    """Who is told how far a run is. Called from the event loop; must not block."""

    def note(self, text: str) -> None: ...

    def stage(self, title: str, total: int | None, duration_s: float | None) -> None: ...

    def ended(self, record: Record) -> None: ...


class Silence:
    """A progress that tells nobody."""

    def note(self, text: str) -> None: ...

    def stage(self, title: str, total: int | None, duration_s: float | None) -> None: ...

    def ended(self, record: Record) -> None: ...


class Controls:
    """The person's hand on a run: `stop` once to drain, `stop` again to give up what is in flight."""

    def __init__(self) -> None:
        self.wish = Stop()
        self.client: Client | None = None

    def stop(self) -> bool:
        """Ask for an end; returns True when it was the second time."""
        if not self.wish.asked:
            self.wish.ask()
            return False
        if self.client is not None:
            self.client.abandon()
        return True


class Play(Struct, frozen=True):
    """What all stages of one run share."""

    plan: Plan
    client: Client
    log: Log
    facts: Log
    epoch_ns: int
    progress: Progress
    controls: Controls


async def play_plan(
    plan: Plan, results: Path, *, progress: Progress | None = None, controls: Controls | None = None
) -> Run:
    """Play a plan; returns the run as read back from its folder.

    A model that cannot be used is skipped, and its stages say why. Raises InputError when the folder cannot be made.
    Whatever was measured is on disk in every case.
    """
    progress, controls = progress or Silence(), controls or Controls()
    started = utc_now()
    plan_digest = digest(plan)
    folder = runfolder.create(results, plan.scenario.name, started, plan_digest[:8])
    log, facts = Log(folder / runfolder.REQUESTS), Log(folder / runfolder.STAGES)
    try:
        async with Client() as client:
            controls.client = client
            played = Play(plan, client, log, facts, SystemClock().now_ns(), progress, controls)
            book = _Book(folder, _first_manifest(plan, plan_digest, folder, started.isoformat(), client))
            for group in _groups(plan):
                await _play_group(group, played, book)
            book.end("interrupted" if controls.wish.asked else "complete")
    finally:
        log.close()
        facts.close()
    return runfolder.read(folder)


class _Book:
    """The manifest as it grows: on disk after each change, whole."""

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self._folder = folder
        self._manifest = manifest
        self._write()

    def add_card(self, served: Served) -> None:
        card = msgspec.to_builtins(served.card) | {"startup_s": served.startup_s, "settings": served.settings}
        self._update(models=(*self._manifest.models, card))

    def skip(self, names: set[tuple[str, str]], reason: str) -> None:
        stages = tuple(
            msgspec.structs.replace(stage, skipped=reason) if (stage.target, stage.model) in names else stage
            for stage in self._manifest.stages
        )
        self._update(stages=stages)

    def end(self, state: str) -> None:
        self._update(state=state, ended_utc=utc_now().isoformat())

    def _update(self, **changes: Any) -> None:
        self._manifest = msgspec.structs.replace(self._manifest, **changes)
        self._write()

    def _write(self) -> None:
        runfolder.write_json(self._folder / runfolder.MANIFEST, self._manifest)


def _first_manifest(plan: Plan, plan_digest: str, folder: Path, started_utc: str, client: Client) -> Manifest:
    stages = tuple(
        PlannedStage(
            model=plan.models[model].name,
            target=target_name(plan.models[model]),
            level=stage.level.label,
            load=stage.level.load(),
            planned=stage.planned_of(model),
            warmup=stage.warmup,
            ramp_in_ns=0 if stage.ramp_in_ns is None else int(stage.ramp_in_ns[-1]),
        )
        for stage in plan.stages
        for model in stage.models
    )
    prompts = tuple({"id": p.id, "characters": len(p.text), "key_points": list(p.key_points)} for p in plan.prompts)
    return Manifest(
        schema=runfolder.SCHEMA,
        run_id=folder.name,
        scenario=msgspec.to_builtins(plan.scenario),
        started_utc=started_utc,
        plan_digest=plan_digest,
        stages=stages,
        prompts=prompts,
        stamp_source="kernel" if client.kernel and client.stamping else "user",
        clock=host.clock(asyncio.get_running_loop()),
        versions=host.versions(),
        host=host.host(),
        git_commit=host.git_commit(Path(__file__).parent),
    )


def _groups(plan: Plan) -> list[tuple[Stage, ...]]:
    """Stages that share their models, in order: their servers stay up from the first to the last of them."""
    groups: dict[tuple[int, ...], list[Stage]] = {}
    for stage in plan.stages:
        groups.setdefault(stage.models, []).append(stage)
    return [tuple(group) for group in groups.values()]


async def _play_group(stages: tuple[Stage, ...], played: Play, book: _Book) -> None:
    """Serve the models of a group, play its stages, and let the servers go."""
    async with contextlib.AsyncExitStack() as stack:
        ready: dict[int, Served] = {}
        for index in stages[0].models:
            model = played.plan.models[index]
            if played.controls.wish.asked:
                break
            try:
                played.progress.note(f"starting {model.name} on {target_name(model)}")
                served = await stack.enter_async_context(serving(model))
                await _preflight(index, served, played)
            except LoadgenError as error:
                played.progress.note(f"skipped {model.name} on {target_name(model)}: {error}")
                book.skip({(target_name(model), model.name)}, str(error))
                continue
            ready[index] = served
            book.add_card(served)
        for stage in stages if ready else ():
            usable = tuple(index for index in stage.models if index in ready)
            await _play_stage(_only(stage, usable), ready, played)


def _only(stage: Stage, models: tuple[int, ...]) -> Stage:
    """A stage without the models that cannot be used: the others keep their requests, and their due times."""
    if models == stage.models:
        return stage
    kept = [position for position in range(stage.count or 0) if stage.models[position % len(stage.models)] in models]
    due = None if stage.due_ns is None else stage.due_ns[kept]
    return msgspec.structs.replace(stage, models=models, count=None if stage.count is None else len(kept), due_ns=due)


async def _preflight(index: int, served: Served, played: Play) -> None:
    """One short chat: a model that does not answer it is not measured. Raises TargetError."""
    plan = played.plan
    body = body_of(plan, Planned(model=index, index=0, prompt=0)) | served.extra
    body |= {"messages": [{"role": "user", "content": "Say hello."}], "max_tokens": PREFLIGHT_TOKENS}
    ask = _ask(served, body, Deadlines(request_ns=int(PREFLIGHT_S * 1e9)))
    exchange = await played.client.send(ask, SystemClock().now_ns())
    reply, _ = read_reply(exchange, epoch_ns=played.epoch_ns, wall_offset_ns=0)
    if reply.outcome != "ok":
        status = f" {reply.status}" if reply.status else ""
        raise TargetError(f"does not answer a short chat: {reply.outcome}{status}: {reply.detail}")


def _ask(served: Served, body: dict[str, Any], deadlines: Deadlines) -> Ask:
    return Ask(
        url=f"{served.base_url}/chat/completions",
        body=msgspec.json.encode(body),
        headers=served.headers,
        deadlines=deadlines,
    )


def _deadlines(plan: Plan) -> Deadlines:
    def ns(seconds: float | None) -> int | None:
        return None if seconds is None else round(seconds * 1e9)

    limits = plan.scenario.timeouts
    return Deadlines(
        request_ns=round(limits.request_s * 1e9),
        headers_ns=ns(limits.headers_s),
        first_token_ns=ns(limits.first_token_s),
        next_token_ns=ns(limits.next_token_s),
    )


async def _play_stage(stage: Stage, ready: dict[int, Served], played: Play) -> None:
    plan, level = played.plan, stage.level
    models = [plan.models[index] for index in stage.models]
    title = f"{', '.join(model.name for model in models)} {level.label}"
    pids = tuple(pid for index in stage.models if (pid := ready[index].pid) is not None)
    observer = Observer(lambda: played.client.in_flight, pids)
    ports = Ports(
        send=_sender(stage, ready, played, observer),
        keep=_keeper(stage, played),
        clock=SystemClock(),
        epoch_ns=played.epoch_ns,
        stop=played.controls.wish,
    )
    played.progress.stage(title, stage.count, None if stage.duration_ns is None else stage.duration_ns / 1e9)
    await _open_connections(stage, ready, played)
    await play_warmup(stage, ports)
    observer.start()
    try:
        await play(stage, ports)
    finally:
        told = await observer.stop(
            epoch_ns=played.epoch_ns,
            complete=not played.controls.wish.asked,
            models=tuple(model.name for model in models),
            targets=tuple(target_name(model) for model in models),
            level=level.label,
        )
        played.facts.append(told)


async def _open_connections(stage: Stage, ready: dict[int, Served], played: Play) -> None:
    count = stage.level.concurrency or min(stage.max_in_flight or OPEN_LOOP_CONNECTIONS, OPEN_LOOP_CONNECTIONS)
    for index in stage.models:
        served = ready[index]
        await played.client.open_connections(f"{served.base_url}/models", count, served.headers)


def _sender(
    stage: Stage, ready: dict[int, Served], played: Play, observer: Observer
) -> Callable[[Planned, int], Awaitable[Reply]]:
    """What the engine sends with: bodies are made once a prompt, before the request is due."""
    plan, deadlines = played.plan, _deadlines(played.plan)
    asks: dict[tuple[int, int], Ask] = {}
    for position in range(stage.prompts * len(stage.models)):
        planned = stage.warmup_request(position)
        served = ready[planned.model]
        asks[planned.model, planned.prompt] = _ask(served, body_of(plan, planned) | served.extra, deadlines)

    async def send(planned: Planned, dispatched_ns: int) -> Reply:
        exchange = await played.client.send(asks[planned.model, planned.prompt], dispatched_ns)
        reply, lags_ns = read_reply(
            exchange,
            epoch_ns=played.epoch_ns,
            wall_offset_ns=observer.wall_offset_ns,
            keep_text=plan.scenario.keep_text,
        )
        observer.stamp_lags.record(lags_ns)
        return reply

    return send


def _keeper(stage: Stage, played: Play) -> Callable[[Planned, Phase, int, Reply], None]:
    plan, level = played.plan, stage.level.label

    def keep(planned: Planned, phase: Phase, intended_ns: int, reply: Reply) -> None:
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
        played.log.append(record)
        played.progress.ended(record)

    return keep
