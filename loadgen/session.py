"""One session: plays a plan against its targets and leaves a run folder. Where everything meets; decides nothing."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any, Protocol, TypeVar

import msgspec
from msgspec import Struct

from loadgen import runfolder
from loadgen.book import Book, first_manifest
from loadgen.clock import SystemClock, process_cpu_ns, thread_cpu_ns, utc_now
from loadgen.engine import Ports, Stop, play, play_warmup
from loadgen.errors import LoadgenError
from loadgen.measure.observe import Observer
from loadgen.measure.record import Phase, Record, Reply
from loadgen.plan import Plan, Planned, Stage, body_of, digest
from loadgen.preflight import ask_of, check, deadlines_of
from loadgen.probe import probe
from loadgen.runfolder import Log, Run
from loadgen.targets.in_process import InProcess, Question, question_of
from loadgen.targets.opening import serving, target_name
from loadgen.targets.served import Served
from loadgen.warmth import kept_warm
from loadgen.wire.client import Ask, Client
from loadgen.wire.reply import read_reply

OPEN_LOOP_CONNECTIONS = 8
T = TypeVar("T")


class Progress(Protocol):
    """Who is told how far a run is. Called from the event loop; must not block."""

    def note(self, text: str) -> None: ...

    def work(self, title: str, share: float | None) -> None: ...

    def stage(self, title: str, total: int | None, duration_s: float | None) -> None: ...

    def ended(self, record: Record) -> None: ...


class Silence:
    """A progress that tells nobody."""

    def note(self, text: str) -> None: ...

    def work(self, title: str, share: float | None) -> None: ...

    def stage(self, title: str, total: int | None, duration_s: float | None) -> None: ...

    def ended(self, record: Record) -> None: ...


class Controls:
    """The person's hand on a run: `stop` once to drain, `stop` again to give up what is in flight."""

    def __init__(self) -> None:
        self.wish = Stop()
        self.client: Client | None = None
        self.adapters: list[InProcess] = []

    def stop(self) -> bool:
        """Ask for an end; returns True when it was the second time."""
        if not self.wish.asked:
            self.wish.ask()
            return False
        if self.client is not None:
            self.client.abandon()
        for adapter in self.adapters:
            adapter.abandon()
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
    folder = runfolder.create(results, plan.scenario.name, started, digest(plan)[:8])
    log, facts = Log(folder / runfolder.REQUESTS), Log(folder / runfolder.STAGES)
    try:
        async with Client() as client:
            controls.client = client
            played = Play(plan, client, log, facts, SystemClock().now_ns(), progress, controls)
            kernel_stamps = client.kernel and client.stamping
            book = Book(folder, first_manifest(plan, folder, started.isoformat(), kernel_stamps=kernel_stamps))
            for group in _groups(plan):
                await _play_group(group, played, book)
            book.end("interrupted" if controls.wish.asked else "complete")
    finally:
        log.close()
        facts.close()
    return runfolder.read(folder)


def _groups(plan: Plan) -> list[tuple[Stage, ...]]:
    """Stages that share their models, in order: their servers stay up from the first to the last of them."""
    groups: dict[tuple[int, ...], list[Stage]] = {}
    for stage in plan.stages:
        groups.setdefault(stage.models, []).append(stage)
    return [tuple(group) for group in groups.values()]


async def _play_group(stages: tuple[Stage, ...], played: Play, book: Book) -> None:
    """Serve the models of a group, play its stages, and let the servers go."""
    ready: dict[int, Served] = {}
    async with contextlib.AsyncExitStack() as stack:
        for index in stages[0].models:
            if played.controls.wish.asked:
                break
            served = await _opened(index, stack, played, book)
            if served is not None:
                ready[index] = served
        for stage in stages if ready else ():
            usable = tuple(index for index in stage.models if index in ready)
            await _play_stage(_only(stage, usable), ready, played)
        for index, served in ready.items():
            await _probe(index, served, played, book)
    for served in ready.values():
        book.part(served)


async def unless_stopped(wish: Stop, work: Coroutine[Any, Any, T]) -> T | None:
    """What a piece of work comes to; None, and the work is cancelled, when a stop is asked for before its end."""
    working, asked = asyncio.ensure_future(work), asyncio.ensure_future(wish.wait())
    try:
        await asyncio.wait((working, asked), return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        working.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await working
        return None
    finally:
        asked.cancel()
        if not working.done():
            working.cancel()


async def _opened(index: int, stack: contextlib.AsyncExitStack, played: Play, book: Book) -> Served | None:
    """Serve one model and see that it answers; None when it cannot be used, which is noted and ends nothing else."""
    model = played.plan.models[index]
    target = target_name(model)
    mine = contextlib.AsyncExitStack()

    async def ready() -> tuple[Served, float]:
        served = await mine.enter_async_context(serving(model, played.progress.work))
        if served.adapter is not None:
            played.controls.adapters.append(served.adapter)
        first_token_ms = await check(played.plan, index, served, played.client)
        await mine.enter_async_context(kept_warm(played.plan, index, served, played.client))
        return served, first_token_ms

    try:
        played.progress.note(f"starting {model.name} on {target}")
        # A start may be a download of hours: unlike an answer, it is not waited for once somebody wants an end.
        begun = await unless_stopped(played.controls.wish, ready())
        if begun is None:
            await mine.aclose()
            return None
        served, first_token_ms = begun
    except LoadgenError as error:
        played.progress.note(f"skipped {model.name} on {target}: {error}")
        book.skip(target, model.name, error)
        await mine.aclose()  # what was started for it does not wait for the others to end
        return None
    except BaseException:
        await mine.aclose()
        raise
    await stack.enter_async_context(mine)
    book.add_card(served, None if served.load_s is None else served.load_s * 1e3 + first_token_ms)
    return served


async def _probe(index: int, served: Served, played: Play, book: Book) -> None:
    """Ask a server what it does. Behind its stages: its streams at once leave a server with memory that it did not have
    (Foundry Local: a third more), and nothing of that is to be seen in a stage of one user."""
    scenario = played.plan.scenario
    wanted = scenario.probe and scenario.sampling.stream and served.adapter is None  # it is streams that are asked for
    if wanted and not played.controls.wish.asked:
        played.progress.note(f"probing what {served.card.alias} on {served.card.target} does")
        book.add_probe(served, await probe(played.plan, index, served, played.client))


def _only(stage: Stage, models: tuple[int, ...]) -> Stage:
    """A stage without the models that cannot be used: the others keep their requests, and their due times."""
    if models == stage.models:
        return stage
    kept = [position for position in range(stage.count or 0) if stage.models[position % len(stage.models)] in models]
    due = None if stage.due_ns is None else stage.due_ns[kept]
    return msgspec.structs.replace(stage, models=models, count=None if stage.count is None else len(kept), due_ns=due)


async def _play_stage(stage: Stage, ready: dict[int, Served], played: Play) -> None:
    plan, level = played.plan, stage.level
    models = [plan.models[index] for index in stage.models]
    title = f"{', '.join(model.name for model in models)} {level.label}"
    pids = tuple(dict.fromkeys(pid for index in stage.models if (pid := ready[index].pid) is not None))
    adapters = [adapter for index in stage.models if (adapter := ready[index].adapter) is not None]
    # A model in this process takes its CPU from it; ours is then that of the thread that we are in.
    observer = Observer(
        lambda: played.client.in_flight + sum(adapter.in_flight for adapter in adapters),
        pids,
        thread_cpu_ns if adapters else process_cpu_ns,
    )
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
        if served.adapter is None:
            await played.client.open_connections(f"{served.base_url}/models", count, served.headers)


def _sender(
    stage: Stage, ready: dict[int, Served], played: Play, observer: Observer
) -> Callable[[Planned, int], Awaitable[Reply]]:
    """What the engine sends with: bodies are made once a prompt, before the request is due."""
    plan, deadlines = played.plan, deadlines_of(played.plan.scenario.timeouts)
    asks: dict[tuple[int, int], Ask | Question] = {}
    for position in range(stage.prompts * len(stage.models)):
        planned = stage.warmup_request(position)
        served, body = ready[planned.model], body_of(plan, planned)
        made = ask_of(served, body, deadlines) if served.adapter is None else question_of(body, deadlines)
        asks[planned.model, planned.prompt] = made

    async def send(planned: Planned, dispatched_ns: int) -> Reply:
        ask, adapter = asks[planned.model, planned.prompt], ready[planned.model].adapter
        if isinstance(ask, Question):
            assert adapter is not None
            return await adapter.send(ask, dispatched_ns, epoch_ns=played.epoch_ns, keep_text=plan.scenario.keep_text)
        exchange = await played.client.send(ask, dispatched_ns)
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
