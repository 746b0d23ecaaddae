"""Plays a plan against its targets and leaves a run folder: serves the models, and has each stage played. Knows neither
HTTP nor which processes play."""

import contextlib
import functools
from collections.abc import Sequence
from pathlib import Path

import msgspec

from loadgen.clock import SYSTEM_CLOCK, Clock, utc_now
from loadgen.engine.ask_server import ask_or_recall
from loadgen.engine.keep_warm import keep_warm
from loadgen.engine.manifest_writer import ManifestWriter, first_manifest
from loadgen.engine.preflight import Checked, Preflight
from loadgen.engine.request_limits import WarmUpTimes
from loadgen.engine.stage import LocalStageRunner, MakeStageRunner, RunContext
from loadgen.engine.stop import StopSignal
from loadgen.engine.stop_rule import stop_rule_sinks
from loadgen.engine.workers import sizing
from loadgen.engine.workers.pool import PooledStageRunner, WorkerPool
from loadgen.engine.workers.sizing import descriptors_of, worker_count
from loadgen.errors import FolderError, LoadgenError
from loadgen.live.progress import Progress, Silence
from loadgen.live.sink import Sink, Sinks
from loadgen.plan.plan import Plan, RefusedKeys, Stage, digest
from loadgen.record import StampSource
from loadgen.store import run_folder
from loadgen.store.run_folder import RequestLog, Run, StageLog
from loadgen.targets.probe.answers import StreamAnswers, merge_answers
from loadgen.targets.probe.findings import with_streams
from loadgen.targets.registry import target_name
from loadgen.targets.served import Served
from loadgen.telemetry.before_run import BusyCheck, power_warning
from loadgen.telemetry.machine_source import machine_source
from loadgen.wire.client import Client


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
) -> Run:
    """Play a plan; returns the run as read back from its folder.

    workers: processes that play it; 1 is this one alone. sinks: hear of the run beside its log and `progress`. client:
    sends the requests of this process, and is opened and closed here.

    A model that cannot be used is skipped, and its stages say why. Raises InputError when the folder cannot be made,
    and when so many workers cannot play the plan; FolderError when it can no longer be written, which ends the run.
    Whatever was measured is on disk in every case.
    """
    progress, stop = progress or Silence(), stop or StopSignal()
    workers = worker_count(plan, workers, cores=workers)
    # Before the folder is made: a plan that this machine cannot hold open leaves nothing behind. And before workers
    # are started, as they inherit the limit.
    sizing.allow_open_files(descriptors_of(plan, workers))
    started = utc_now()
    folder = run_folder.create(results, plan.scenario.name, started, digest(plan)[:8])
    async with contextlib.AsyncExitStack() as stack:
        # The logs before the connections: a folder that cannot be written is known before anything is opened.
        stages = stack.enter_context(contextlib.closing(StageLog(folder / run_folder.STAGES)))
        client = await stack.enter_async_context(client or Client())
        # Behind the client on the stack: by the time that it closes, nobody can ask it to give anything up.
        stack.enter_context(stop.cancelling(client.abandon))
        context = RunContext(plan, client, clock, clock.now_ns(), stop, machine_source())
        stamp_source: StampSource = "kernel" if client.kernel and client.stamping else "user"
        first = first_manifest(plan, folder, started.isoformat(), stamp_source=stamp_source, workers=workers)
        manifest = ManifestWriter(folder, first)
        if (warning := power_warning(first.host)) is not None:
            progress.warn(warning)
        # The logs come first: what any other sink is given is on disk already.
        run_sinks: tuple[Sink, ...] = (stages, progress, *sinks)
        make_runner: MakeStageRunner
        if workers == 1:
            requests = stack.enter_context(contextlib.closing(RequestLog(folder / run_folder.REQUESTS)))
            make_runner, run_sinks = functools.partial(LocalStageRunner, context), (requests, *run_sinks)
        else:
            stack.callback(_join_parts, folder)  # when the workers have gone
            pool = await stack.enter_async_context(WorkerPool(workers, context, folder, progress.warn))
            make_runner = functools.partial(PooledStageRunner, pool)
        try:
            await _PlanRunner(context, make_runner, manifest, progress, run_sinks).play()
        except BaseException:  # also of a sink, and a task that is canceled: the folder is not that of a run that is on
            with contextlib.suppress(FolderError):  # perhaps it is only one of the logs that cannot grow
                manifest.end("interrupted")
            raise
        manifest.end("interrupted" if stop.requested else "complete")
    return run_folder.read(folder)


def _join_parts(folder: Path) -> None:
    with contextlib.suppress(OSError):  # without room for the whole, the parts stay, and are read as they are
        run_folder.join_parts(folder)


class _PlanRunner:
    """Plays a plan group by group: serves the models of each, has its stages played, and lets the servers go."""

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
        self._refused: dict[int, RefusedKeys] = {}
        """By the model's index in the plan."""
        self._preflight = Preflight(context, progress.warn, progress.work)
        # Looking reads every process of the machine: not where nobody hears of it.
        is_heard = not isinstance(progress, Silence)
        self._busy_check = BusyCheck(context.machine, context.clock) if context.machine and is_heard else None

    async def play(self) -> None:
        for stages in groups_of(self._context.plan):
            await self._play_group(stages)

    async def _play_group(self, stages: tuple[Stage, ...]) -> None:
        """Stages that share their models, which are served from the first of them to the last."""
        ready: dict[int, Served] = {}
        opened: list[Served] = []
        async with contextlib.AsyncExitStack() as stack:
            for index in stages[0].models:
                if self._context.stop.requested:  # a model takes minutes to load, and would not be asked anything
                    break
                served = await self._open(index, stack)
                if served is not None:
                    ready[index] = served
                    opened.append(served)
            # A model whose server ends on the way leaves `ready`; what its answers showed until then still counts.
            begun, stage_answers = dict(ready), list[StreamAnswers]()
            for stage in stages:
                usable = tuple(index for index in stage.models if index in ready)
                if usable:
                    stage_answers.append(await self._play_stage(_only(stage, usable), ready))
                    await self._drop_dead_models(stage, ready)
            # When all stages are over: what is asked now leaves traces in a server that no stage is to show.
            answers = merge_answers(stage_answers)
            for index, served in begun.items():
                probe = None
                if index in ready and not self._context.stop.requested:
                    probe = await ask_or_recall(self._context, index, served, self._progress.note)
                self._manifest.add_probe(served, with_streams(probe, answers.get(index, ())))
        # Outside of the stack: what there is to say of an unload is known when it is done.
        for served in opened:
            self._manifest.record_unload(served)

    async def _play_stage(self, stage: Stage, ready: dict[int, Served]) -> StreamAnswers:
        """Have a stage played; returns what its first answers showed of their servers."""
        context = self._context
        # Several models may be served by one process, which is to be counted once.
        pids = tuple(dict.fromkeys(pid for index in stage.models if (pid := ready[index].pid) is not None))
        # A signal of its own: the stop rule ends this stage, and the next one is played.
        with context.stop.of_stage() as stop:
            stop_rule = stop_rule_sinks(context.plan, stage, stop, self._progress)
            warm_up_times = WarmUpTimes()
            sinks = Sinks((*self._sinks, warm_up_times, *stop_rule))
            runner = self._make_runner(stage, ready, stop, sinks, pids)
            await runner.warm_up()
            self._warn_if_busy(pids)
            limits_ns = warm_up_times.limits(context.plan, stage, ready)
            self._manifest.record_limits(context.plan, stage, limits_ns)
            await runner.measure(limits_ns)
        return runner.answers()

    async def _open(self, index: int, stack: contextlib.AsyncExitStack) -> Served | None:
        """Serve one model and see that it answers; None when it cannot be used, which is noted and ends nothing."""
        model = self._context.plan.models[index]
        target = target_name(model)
        # A stack of its own, which joins the group's when the model serves: until then it can be undone by itself.
        model_stack = contextlib.AsyncExitStack()
        try:
            self._progress.note(f"starting {model.name} on {target}")
            # A start may be a download of hours: unlike an answer, it is not waited for once somebody wants an end.
            opened = await self._context.stop.unless_requested(self._serve(index, model_stack))
            if opened is None:
                await model_stack.aclose()
                return None
        except LoadgenError as error:
            self._progress.warn(f"skipped {model.name} on {target}: {error}")
            self._manifest.record_skip(target, model.name, error)
            await model_stack.aclose()  # what was started for it does not wait for the others to end
            return None
        except BaseException:
            await model_stack.aclose()
            raise
        await stack.enter_async_context(model_stack)
        served = opened.served
        self._manifest.add_card(served, opened.cold_start_ms)
        # What is sent is then not what was planned, and runs that sent the same are to be known by it.
        self._refused[index] = served.refused_keys
        self._manifest.set_digest(digest(self._context.plan, self._refused))
        self._warn_if_busy(() if served.pid is None else (served.pid,))
        return served

    async def _serve(self, index: int, stack: contextlib.AsyncExitStack) -> Checked:
        """A model that serves and answers."""
        # The first chat loads what a server loads lazily, and its time is the cold start; keeping warm begins after it.
        checked = await self._preflight.open(index, stack)
        # Only now, as a ping beside the first chat would be in the cold start that it times.
        await stack.enter_async_context(keep_warm(self._context, index, checked.served))
        return checked

    def _warn_if_busy(self, server_pids: tuple[int, ...]) -> None:
        """Say once whether others were busy while the first model was started, or else during its warm-up."""
        warning = None if self._busy_check is None else self._busy_check.warning(server_pids)
        if warning is not None:
            self._progress.warn(warning)

    async def _drop_dead_models(self, stage: Stage, ready: dict[int, Served]) -> None:
        """Note which servers have ended of themselves during a stage; their models are not played any further."""
        for index in [index for index in stage.models if index in ready]:
            child = ready[index].child
            crash = None if child is None else await child.crash()
            if child is not None and crash is not None:
                reason = f"{child.name} {crash}"
                model = self._context.plan.models[index]
                self._progress.warn(f"{model.name} on {target_name(model)}: {reason}")
                self._manifest.record_server_exit(target_name(model), model.name, stage.level.label, reason)
                del ready[index]


def groups_of(plan: Plan) -> list[tuple[Stage, ...]]:
    """Stages that share their models, in order: their servers stay up from the first to the last of them."""
    groups: dict[tuple[int, ...], list[Stage]] = {}
    for stage in plan.stages:
        groups.setdefault(stage.models, []).append(stage)
    return [tuple(group) for group in groups.values()]


def _only(stage: Stage, models: tuple[int, ...]) -> Stage:
    """A stage without the models that cannot be used: the others keep their requests, and their due times."""
    if models == stage.models:
        return stage
    # Not counted anew: the requests that are left keep their prompts and their moments, so that runs can be compared.
    positions = [at for at in range(stage.count or 0) if stage.models[at % len(stage.models)] in models]
    due = None if stage.due_ns is None else stage.due_ns[positions]
    count = None if stage.count is None else len(positions)
    return msgspec.structs.replace(stage, models=models, count=count, due_ns=due)
