"""One session: plays a plan against its targets and leaves a run folder. Where everything meets; decides nothing."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from msgspec import Struct

from loadgen.clock import SystemClock, utc_now
from loadgen.engine.keep_warm import kept_warm
from loadgen.engine.manifest import ManifestWriter, first_manifest
from loadgen.engine.preflight import check
from loadgen.engine.stage import Player, measure, samples_of, staged, warm_up, watch_over
from loadgen.engine.stop import StopSignal
from loadgen.engine.workers import sizing
from loadgen.engine.workers.pool import WorkerPool
from loadgen.engine.workers.sizing import descriptors_of, staffed
from loadgen.errors import FolderError, LoadgenError
from loadgen.live.progress import Progress, Silence
from loadgen.plan.plan import Plan, Stage, digest
from loadgen.record import Record
from loadgen.store import run_folder
from loadgen.store.run_folder import Log, Run
from loadgen.targets.adapter.in_process import InProcess
from loadgen.targets.probe.answers import StreamAnswers, merged
from loadgen.targets.probe.findings import Probe, with_streams
from loadgen.targets.probe.probe import probe
from loadgen.targets.registry import serve_model, target_name
from loadgen.targets.served import Served
from loadgen.wire.client import Client

T = TypeVar("T")


class Controls:
    """The person's hand on a run: `stop` once to drain, `stop` again to give up what is in flight."""

    def __init__(self) -> None:
        self.wish = StopSignal()
        self.client: Client | None = None
        self.crew: WorkerPool | None = None
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
        if self.crew is not None:
            self.crew.abandon()
        return True


Perform = Callable[[Stage, dict[int, Served], tuple[int, ...]], Awaitable[StreamAnswers]]
"""Plays a stage on the models that are ready, watching these processes of servers; its facts are then on disk. Returns
what the first answers showed of their servers."""


class RunContext(Struct, frozen=True):
    """What all stages of one run share."""

    plan: Plan
    client: Client
    perform: Perform
    progress: Progress
    controls: Controls


async def play_plan(
    plan: Plan,
    results: Path,
    *,
    workers: int = 1,
    progress: Progress | None = None,
    controls: Controls | None = None,
) -> Run:
    """Play a plan; returns the run as read back from its folder. workers: processes that play it; 1 is this one alone.

    A model that cannot be used is skipped, and its stages say why. Raises InputError when the folder cannot be made,
    and when so many workers cannot play the plan; FolderError when it can no longer be written, which ends the run.
    Whatever was measured is on disk in every case.
    """
    progress, controls = progress or Silence(), controls or Controls()
    workers = staffed(plan, workers, cores=workers)
    sizing.provide(descriptors_of(plan, workers))
    started = utc_now()
    folder = run_folder.create(results, plan.scenario.name, started, digest(plan)[:8])
    async with contextlib.AsyncExitStack() as stack:
        facts = stack.enter_context(contextlib.closing(Log(folder / run_folder.STAGES)))
        client = controls.client = await stack.enter_async_context(Client())
        epoch_ns = SystemClock().now_ns()
        kernel_stamps = client.kernel and client.stamping
        first = first_manifest(plan, folder, started.isoformat(), kernel_stamps=kernel_stamps, workers=workers)
        book = ManifestWriter(folder, first)
        if workers == 1:
            log = stack.enter_context(contextlib.closing(Log(folder / run_folder.REQUESTS)))
            player = Player(plan, client, log, epoch_ns, controls.wish, progress.ended)
            perform = _alone(player, facts, progress.known)
        else:
            stack.callback(_join, folder)  # when the workers have gone
            heard = _heard(client, progress)
            crew = WorkerPool(workers, plan, folder, epoch_ns, heard=heard, note=progress.note, known=progress.known)
            controls.crew = await stack.enter_async_context(crew)
            perform = _with(crew, controls.wish, facts)
        try:
            for group in _groups(plan):
                await _play_group(group, RunContext(plan, client, perform, progress, controls), book)
        except FolderError:
            with contextlib.suppress(FolderError):  # perhaps it is only one of the logs that cannot grow
                book.end("interrupted")
            raise
        book.end("interrupted" if controls.wish.asked else "complete")
    return run_folder.read(folder)


def _join(folder: Path) -> None:
    with contextlib.suppress(OSError):  # without room for the whole, the parts stay, and are read as they are
        run_folder.join_parts(folder)


def _alone(player: Player, facts: Log, known: Callable[[str], None]) -> Perform:
    async def perform(stage: Stage, ready: dict[int, Served], watched: tuple[int, ...]) -> StreamAnswers:
        enough = StopSignal()
        sample, watch = samples_of(player.plan, stage), watch_over(player.plan, stage, enough.ask, known)

        def ended(record: Record) -> None:
            player.ended(record)
            if sample is not None and watch is not None:
                watch.take(sample(record))

        mine = msgspec.structs.replace(player, ended=ended, enough=enough)
        here = staged(stage, ready, mine, watched=watched)
        await warm_up(here)
        await measure(here, lambda seen: facts.append(msgspec.structs.replace(seen, settled=enough.asked)))
        return here.sampler.answers()

    return perform


def _with(crew: WorkerPool, wish: StopSignal, facts: Log) -> Perform:
    async def perform(stage: Stage, ready: dict[int, Served], watched: tuple[int, ...]) -> StreamAnswers:
        return await crew.play(stage, ready, wish, facts.append, watched=watched)

    return perform


def _heard(client: Client, progress: Progress) -> Callable[[int, int], None]:
    def heard(ended: int, failed: int) -> None:
        client.last_sent_ns = SystemClock().now_ns()  # others send, and a model that is asked needs no keeping warm
        progress.counts(ended, failed)

    return heard


def _groups(plan: Plan) -> list[tuple[Stage, ...]]:
    """Stages that share their models, in order: their servers stay up from the first to the last of them."""
    groups: dict[tuple[int, ...], list[Stage]] = {}
    for stage in plan.stages:
        groups.setdefault(stage.models, []).append(stage)
    return [tuple(group) for group in groups.values()]


async def _play_group(stages: tuple[Stage, ...], played: RunContext, book: ManifestWriter) -> None:
    """Serve the models of a group, play its stages, and let the servers go."""
    ready: dict[int, Served] = {}
    opened: list[Served] = []
    async with contextlib.AsyncExitStack() as stack:
        for index in stages[0].models:
            if played.controls.wish.asked:
                break
            served = await _opened(index, stack, played, book)
            if served is not None:
                ready[index] = served
                opened.append(served)
        begun, answers = dict(ready), list[StreamAnswers]()
        for stage in stages:
            usable = tuple(index for index in stage.models if index in ready)
            if usable:
                answers.append(await _play_stage(_only(stage, usable), ready, played))
                await _bury(stage, ready, played, book)
        shown = merged(answers)
        for index, served in begun.items():
            asked = await _probe(index, served, played) if index in ready else None
            book.add_probe(served, with_streams(asked, shown.get(index, ())))
    for served in opened:
        book.part(served)


async def _bury(stage: Stage, ready: dict[int, Served], played: RunContext, book: ManifestWriter) -> None:
    """Note which servers have ended of themselves during a stage; their models are not played any further."""
    for index in [index for index in stage.models if index in ready]:
        child = ready[index].child
        crash = None if child is None else await child.crash()
        if child is not None and crash is not None:
            why = f"{child.name} {crash}"
            model = played.plan.models[index]
            played.progress.note(f"{model.name} on {target_name(model)}: {why}")
            book.lost(target_name(model), model.name, stage.level.label, why)
            del ready[index]


async def unless_stopped(wish: StopSignal, work: Coroutine[Any, Any, T]) -> T | None:
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


async def _opened(
    index: int, stack: contextlib.AsyncExitStack, played: RunContext, book: ManifestWriter
) -> Served | None:
    """Serve one model and see that it answers; None when it cannot be used, which is noted and ends nothing else."""
    model = played.plan.models[index]
    target = target_name(model)
    mine = contextlib.AsyncExitStack()

    async def ready() -> tuple[Served, float]:
        served = await mine.enter_async_context(serve_model(model, played.progress.work))
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


async def _probe(index: int, served: Served, played: RunContext) -> Probe | None:
    """Ask a server what it does, where the scenario wants that. After its stages: streams at once leave a server with
    memory that it did not have (Foundry Local: a third more), and nothing of that is to be seen in a stage of one user.
    """
    scenario = played.plan.scenario
    wanted = scenario.probe and scenario.sampling.stream and served.adapter is None  # it is streams that are asked for
    if not wanted or played.controls.wish.asked:
        return None
    played.progress.note(f"probing what {served.card.alias} on {served.card.target} does")
    return await probe(played.plan, index, served, played.client)


def _only(stage: Stage, models: tuple[int, ...]) -> Stage:
    """A stage without the models that cannot be used: the others keep their requests, and their due times."""
    if models == stage.models:
        return stage
    kept = [position for position in range(stage.count or 0) if stage.models[position % len(stage.models)] in models]
    due = None if stage.due_ns is None else stage.due_ns[kept]
    return msgspec.structs.replace(stage, models=models, count=None if stage.count is None else len(kept), due_ns=due)


async def _play_stage(stage: Stage, ready: dict[int, Served], played: RunContext) -> StreamAnswers:
    title = f"{', '.join(played.plan.models[index].name for index in stage.models)} {stage.level.label}"
    pids = tuple(dict.fromkeys(pid for index in stage.models if (pid := ready[index].pid) is not None))
    played.progress.stage(title, stage.count, None if stage.duration_ns is None else stage.duration_ns / 1e9)
    return await played.perform(stage, ready, pids)
