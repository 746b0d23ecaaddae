"""Plays a plan against its targets and leaves a run folder: serves the models, and has a runner play each stage.

Knows no HTTP, and not which processes play.
"""

import contextlib
import functools
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import msgspec

from loadgen.clock import SYSTEM_CLOCK, Clock, utc_now
from loadgen.engine.heartbeat import Heartbeat
from loadgen.engine.keep_warm import keep_warm
from loadgen.engine.manifest_writer import ManifestWriter, first_manifest
from loadgen.engine.preflight import Checked, Preflight
from loadgen.engine.request_limits import WarmUpTimes
from loadgen.engine.server_probe import ask_or_recall
from loadgen.engine.servers import WhenGone
from loadgen.engine.stage import LocalStageRunner, MakeStageRunner, RunContext
from loadgen.engine.stage_source import BesideStage, MakeStageSources, StagePlay, StageSource, only, planned_sources
from loadgen.engine.stop import StopSignal
from loadgen.engine.workers.pool import PooledStageRunner, WorkerPool
from loadgen.engine.workers.sizing import prepare_workers
from loadgen.errors import FolderError, LoadgenError
from loadgen.live.progress import Progress, Silence
from loadgen.live.sink import Sink, Sinks
from loadgen.plan.plan import Plan, RefusedKeys, Stage, digest
from loadgen.plan.prompts import text_of
from loadgen.record import StampSource
from loadgen.store import run_folder
from loadgen.store.manifest import Manifest, Placement
from loadgen.store.run_folder import RequestLog, Run, SentPrompt, StageLog
from loadgen.targets.probe.answers import StreamAnswers, merge_answers
from loadgen.targets.probe.findings import with_streams
from loadgen.targets.registry import serve_model_again, target_name
from loadgen.targets.served import Served
from loadgen.telemetry.before_run import BusyCheck, power_warning
from loadgen.telemetry.machine_source import machine_source
from loadgen.wire.client import Client

if TYPE_CHECKING:
    from loadgen.engine.soak.segments import WorkerLogs
    from loadgen.engine.soak.window_writer import WindowWriter


class RecordLog(Sink, Protocol):
    """The first of a run's sinks, which writes its records to disk."""

    def close(self) -> None: ...


MakeRecordLog = Callable[[Path], RecordLog]
"""Opens the log of a run's records in its folder."""


MakeManifest = Callable[[StampSource], Manifest]
"""Makes the manifest with which a run begins."""


async def play_plan(
    plan: Plan,
    results: Path,
    *,
    workers: int = 1,
    progress: Progress | None = None,
    stop: StopSignal | None = None,
    sinks: Sequence[Sink] = (),
    clock: Clock = SYSTEM_CLOCK,
    client: Client | None = None,
    make_sources: MakeStageSources | None = None,
    folder_prefix: str = "",
    placement: Placement | None = None,
) -> Run:
    """Play a plan; returns the run as read back from its folder.

    workers: how many processes play it; 1 is this process alone. sinks: receive the records beside the log and
    `progress`. client: sends the requests of this process; it is opened and closed here. make_sources: makes the
    sources of stages that are chosen while the run goes, of which none may need more streams than the plan's; the
    plan's own stages are then not played. folder_prefix: begins the name of the run folder. placement: of the run, if
    it is one of two variants'.

    A model that cannot be used is skipped, and its stages say why. Raises InputError if the folder cannot be made, or
    if this number of workers cannot play the plan. Raises FolderError if the folder can no longer be written, which
    ends the run. Whatever was measured is on disk in every case.
    """
    progress, stop = progress or Silence(), stop or StopSignal()
    workers = prepare_workers(plan, workers)
    started = utc_now()
    if make_sources is not None:
        plan = msgspec.structs.replace(plan, stages=())
    folder = run_folder.create(results, plan.scenario.name, started, digest(plan)[:8], folder_prefix)

    def make_manifest(stamp_source: StampSource) -> Manifest:
        began = started.isoformat()
        return first_manifest(plan, folder, began, stamp_source=stamp_source, workers=workers, placement=placement)

    async with opened_run(
        plan,
        folder,
        make_manifest,
        workers=workers,
        progress=progress,
        stop=stop,
        sinks=sinks,
        clock=clock,
        client=client or Client(),
    ) as opened:
        sources = planned_sources(plan, progress) if make_sources is None else make_sources(opened.context, folder)
        await opened.play_sources(sources)
    return run_folder.read(folder)


class OpenRun:
    """A run whose logs and whose client are open."""

    def __init__(
        self,
        context: RunContext,
        manifest: ManifestWriter,
        make_runner: MakeStageRunner,
        progress: Progress,
        sinks: Sequence[Sink],
        workers: int,
        split_logs: Callable[[], None] | None,
    ) -> None:
        """split_logs: has workers begin the next segment of their logs; None: there are no workers."""
        self.context = context
        self.workers = workers
        """How many processes play it."""
        self.manifest = manifest
        self.split_logs = split_logs
        self._sources_play = _SourcesPlay(context, make_runner, manifest, progress, sinks)

    async def play_sources(self, sources: Iterable[StageSource], beside: BesideStage | None = None) -> None:
        """Play the stages of all sources. Whatever ends them, the manifest says afterwards that the run has ended."""
        try:
            await self._sources_play.play_all(sources, beside or _nothing_beside)
        except BaseException:  # cancellation too: the manifest must not go on to say that the run is in progress
            with contextlib.suppress(FolderError):  # it may be writable, although one of the logs is not
                self.manifest.end("interrupted")
            raise
        self.manifest.end("interrupted" if self.context.stop_signal.requested else "complete")


@contextlib.asynccontextmanager
async def opened_run(
    plan: Plan,
    folder: Path,
    make_manifest: MakeManifest,
    *,
    workers: int,
    progress: Progress,
    stop: StopSignal,
    sinks: Sequence[Sink],
    clock: Clock,
    client: Client,
    make_log: MakeRecordLog | None = None,
    worker_logs: "WorkerLogs | None" = None,
    epoch_ns: int | None = None,
    when_gone: WhenGone = "cancel",
    heartbeat: Heartbeat | None = None,
    window_writer: "WindowWriter | None" = None,
) -> AsyncIterator[OpenRun]:
    """Open the logs and the client of a run, and start its workers; at the end of the context, close and end them.

    folder: the run folder, which is there. make_log: opens the log that records go to in place of `requests.jsonl`, if
    this process plays. worker_logs: how workers split their logs, which are then not joined. epoch_ns: the beginning of
    the run on the clock; None: now. when_gone, heartbeat: as in `RunContext`. window_writer: as in `WorkerPool`. The
    other arguments are those of `play_plan`.
    """
    async with contextlib.AsyncExitStack() as stack:
        # The logs come before the connections, so that a folder that cannot be written fails before anything is opened.
        stage_log = stack.enter_context(contextlib.closing(StageLog(folder / run_folder.STAGES)))
        client = await stack.enter_async_context(client)
        # Entered after the client and so left before it: nothing calls `abandon` on a client that is closed.
        stack.enter_context(stop.cancelling(client.abandon))
        context = RunContext(
            plan,
            client,
            clock,
            clock.now_ns() if epoch_ns is None else epoch_ns,
            stop,
            machine_source(),
            when_gone=when_gone,
            heartbeat=heartbeat,
        )
        first = make_manifest("kernel" if client.kernel and client.stamping else "user")
        manifest = ManifestWriter(folder, first)
        if plan.scenario.keep_text and not (folder / run_folder.PROMPTS).exists():
            prompts = (SentPrompt(prompt.id, text_of(prompt), prompt.key_points) for prompt in plan.prompts)
            run_folder.write_prompts(folder, prompts)
        if (warning := power_warning(first.host)) is not None:
            progress.warn(warning)
        # The logs come first, so that every record is on disk before another sink receives it.
        run_sinks: tuple[Sink, ...] = (stage_log, progress, *sinks)
        make_runner: MakeStageRunner
        split_logs: Callable[[], None] | None = None
        if workers == 1:
            log: RecordLog = make_log(folder) if make_log is not None else RequestLog(folder / run_folder.REQUESTS)
            run_sinks = (stack.enter_context(contextlib.closing(log)), *run_sinks)
            make_runner = functools.partial(LocalStageRunner, context)
        else:
            if worker_logs is None:
                stack.callback(_join_parts, folder)  # called when the workers have ended
            pool = await stack.enter_async_context(
                WorkerPool(workers, context, folder, progress.warn, window_writer=window_writer, logs=worker_logs)
            )
            make_runner, split_logs = functools.partial(PooledStageRunner, pool), pool.split_logs
        yield OpenRun(context, manifest, make_runner, progress, run_sinks, workers, split_logs)


def _nothing_beside(_: StagePlay) -> contextlib.AbstractAsyncContextManager[Sequence[Sink]]:
    return contextlib.nullcontext(())


def _join_parts(folder: Path) -> None:
    with contextlib.suppress(OSError):  # if the disk has no room for it, the logs of the workers stay, and are read
        run_folder.join_parts(folder)


class _SourcesPlay:
    """Plays the stages of one source after another: serves its models, has its stages played, and ends the servers."""

    def __init__(
        self,
        context: RunContext,
        make_runner: MakeStageRunner,
        manifest: ManifestWriter,
        progress: Progress,
        sinks: Sequence[Sink],
    ) -> None:
        self._context = context
        self._make_runner = make_runner
        self._manifest = manifest
        self._progress = progress
        self._sinks = tuple(sinks)
        self._beside: BesideStage = _nothing_beside
        self._stages = context.plan.stages
        """Those that are known so far."""
        self._refused: dict[int, RefusedKeys] = {}
        """By the model's index in the plan."""
        self._preflight = Preflight(context, progress.warn, progress.work)
        # The check reads every process of the machine, so it is left out if nobody would read the warning.
        is_heard = not isinstance(progress, Silence)
        self._busy_check = BusyCheck(context.machine, context.clock) if context.machine and is_heard else None

    async def play_all(self, sources: Iterable[StageSource], beside: BesideStage) -> None:
        self._beside = beside
        for source in sources:
            await self._play_source(source)

    async def _play_source(self, source: StageSource) -> None:
        """Play stages that share their models, which are served from the first of these stages to the last."""
        ready: dict[int, Served] = {}
        opened: list[Served] = []
        async with contextlib.AsyncExitStack() as stack:
            for index in source.models:
                if self._context.stop_signal.requested:  # a model may take minutes to load, and nothing would be sent
                    break
                served = await self._open(index, stack, source)
                if served is not None:
                    ready[index] = served
                    opened.append(served)
            # A model whose server ends leaves `ready`. What its answers had shown until then still counts.
            begun, stage_answers = dict(ready), list[StreamAnswers]()
            warm_up_times = WarmUpTimes()
            while (stage := source.next_stage()) is not None:
                usable = tuple(index for index in stage.models if index in ready)
                if usable:
                    self._add_stage(stage)
                    played = self._play_stage(only(stage, usable), ready, source, warm_up_times, stack)
                    stage_answers.append(await played)
                    await self._drop_dead_models(stage, ready, source)
            # Probed after all stages, because a probe leaves traces in a server, which no stage may show.
            answers = merge_answers(stage_answers)
            for index, served in begun.items():
                probe = None
                if index in ready and not self._context.stop_signal.requested:
                    probe = await ask_or_recall(self._context, index, served, self._progress.announce)
                self._manifest.add_probe(served, with_streams(probe, answers.get(index, ())))
        # After the stack has closed, because the facts of an unload are known when it is done.
        for served in opened:
            self._manifest.record_unload(served)

    def _add_stage(self, stage: Stage) -> None:
        """Add a stage that was chosen while the run goes to what is known of the run."""
        # The rest of a stage that was begun by an earlier process is no new one.
        if not any((stage.level.label, stage.models) == (known.level.label, known.models) for known in self._stages):
            self._stages += (stage,)
            self._manifest.add_stage(msgspec.structs.replace(self._context.plan, stages=self._stages), self._refused)

    async def _play_stage(
        self,
        stage: Stage,
        ready: dict[int, Served],
        source: StageSource,
        warm_up_times: WarmUpTimes,
        servers: contextlib.AsyncExitStack,
    ) -> StreamAnswers:
        """Have a stage played; returns what its first answers showed about their servers. servers: of the source's
        models, for as long as these are served."""
        context = self._context
        # One process may serve several models; it counts once.
        pids = tuple(dict.fromkeys(pid for index in stage.models if (pid := ready[index].pid) is not None))
        # The stage has a signal of its own, so that its stop rule ends this stage only.
        async with contextlib.AsyncExitStack() as stack:
            stop = stack.enter_context(context.stop_signal.of_stage())
            restart = functools.partial(self._restart, ready, servers)
            own_sinks = await stack.enter_async_context(self._beside(StagePlay(stage, ready, stop, restart)))
            sinks = Sinks((*self._sinks, warm_up_times, *source.sinks(stage, stop), *own_sinks))
            runner = self._make_runner(stage, ready, stop, sinks, pids)
            await runner.warm_up()
            self._warn_if_busy(pids)
            limits_ns = warm_up_times.limits(context.plan, stage, ready)
            self._manifest.record_limits(context.plan, stage, limits_ns)
            await runner.measure(limits_ns)
        return runner.answers()

    async def _open(self, index: int, stack: contextlib.AsyncExitStack, source: StageSource) -> Served | None:
        """Serve one model and check that it answers. None if it cannot be used, which is recorded; the run goes on."""
        model = self._context.plan.models[index]
        target = target_name(model)
        # A stack of its own, so that a start that fails can be undone alone. It joins the group's when the model
        # serves.
        model_stack = contextlib.AsyncExitStack()
        try:
            self._progress.announce(f"starting {model.name} on {target}")
            # A start may be a download of hours. A stop interrupts it, while it lets answers in flight end.
            opened = await self._context.stop_signal.unless_requested(self._serve(index, model_stack))
            if opened is None:
                await model_stack.aclose()
                return None
        except LoadgenError as error:
            self._progress.warn(f"skipped {model.name} on {target}: {error}")
            self._manifest.record_skip(target, model.name, error)
            source.lose_model(index, str(error))
            await model_stack.aclose()  # at once, not at the end of the group
            return None
        except BaseException:
            await model_stack.aclose()
            raise
        await stack.enter_async_context(model_stack)
        served = opened.served
        self._context.lives.begin(index, served.pid)
        self._manifest.add_card(served, opened.cold_start_ms)
        # Without the refused keys other bodies are sent than planned. The digest is of what is sent, so that it is
        # equal for runs that send the same.
        self._refused[index] = served.refused_keys
        self._manifest.set_digest(
            digest(msgspec.structs.replace(self._context.plan, stages=self._stages), self._refused)
        )
        self._warn_if_busy(() if served.pid is None else (served.pid,))
        return served

    async def _serve(self, index: int, stack: contextlib.AsyncExitStack) -> Checked:
        """Serve a model, check that it answers, and keep it warm."""
        checked = await self._preflight.open(index, stack)
        # Only after the first chat: its time is the cold start, which a ping beside it would lengthen.
        await stack.enter_async_context(keep_warm(self._context, index, checked.served))
        return checked

    async def _restart(self, ready: dict[int, Served], servers: contextlib.AsyncExitStack, index: int) -> Served:
        """Start the server of a model again that has ended. Raises LoadgenError."""
        model = self._context.plan.models[index]
        self._progress.announce(f"starting {model.name} on {target_name(model)} again")
        again = await servers.enter_async_context(serve_model_again(model, ready[index], self._progress.work))
        # What was found out about the model stays: the same server serves it, at the same address.
        ready[index] = msgspec.structs.replace(ready[index], child=again.child, pid=again.pid)
        return ready[index]

    def _warn_if_busy(self, server_pids: tuple[int, ...]) -> None:
        """Warn once if other programs were busy while the first model was started, or else during its warm-up."""
        warning = None if self._busy_check is None else self._busy_check.warning(server_pids)
        if warning is not None:
            self._progress.warn(warning)

    async def _drop_dead_models(self, stage: Stage, ready: dict[int, Served], source: StageSource) -> None:
        """Record which servers ended by themselves during a stage. Their models are not played any further."""
        for index in [index for index in stage.models if index in ready]:
            child = ready[index].child
            crash = None if child is None else await child.crash()
            if child is not None and crash is not None:
                reason = f"{child.name} {crash}"
                model = self._context.plan.models[index]
                self._progress.warn(f"{model.name} on {target_name(model)}: {reason}")
                self._manifest.record_server_exit(target_name(model), model.name, stage.level.label, reason)
                source.lose_model(index, reason)
                del ready[index]
