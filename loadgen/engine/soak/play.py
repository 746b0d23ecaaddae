"""Plays a soak: each stage for hours, until its deadline on a clock that also counts a suspended machine.

The records go to disk and to the sinks as they end; nothing reads the run back whole.
"""

import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Final

import msgspec

from loadgen.clock import SYSTEM_CLOCK, Clock, utc_now
from loadgen.engine.background import Background
from loadgen.engine.manifest_writer import first_manifest
from loadgen.engine.run import OpenRun, StagePlay, opened_run, prepare_workers
from loadgen.engine.soak.deadline import SoakDeadline
from loadgen.engine.soak.in_flight import IN_FLIGHT, InFlightLog
from loadgen.engine.soak.lock import held_lock
from loadgen.engine.stage import stage_start
from loadgen.engine.stage_source import planned_sources
from loadgen.engine.stop import StopSignal
from loadgen.live.progress import Progress, Silence
from loadgen.live.sink import MeasuringStart, NullSink, Sink
from loadgen.plan.plan import Plan, Stage, digest
from loadgen.plan.soak import SoakSettings
from loadgen.record import StageFacts, StampSource
from loadgen.store import run_folder
from loadgen.store.manifest import Manifest, SoakFacts, SoakStage
from loadgen.wire.client import Client

LOOK_NS: Final = 1_000_000_000
"""How often the soak is looked after."""


async def play_soak(
    plan: Plan,
    settings: SoakSettings,
    results: Path,
    *,
    scenario_folder: str = ".",
    workers: int = 1,
    progress: Progress | None = None,
    stop: StopSignal | None = None,
    sinks: Sequence[Sink] = (),
    clock: Clock = SYSTEM_CLOCK,
    client: Client | None = None,
    boot_ns: Callable[[], int] | None = None,
) -> Path:
    """Play a soak and return its run folder, which has no reports yet.

    plan: as `loadgen.plan.soak.soak_stages` makes it. scenario_folder: what paths in the scenario are relative to; an
    absolute path. boot_ns: reads a clock that also counts a suspended machine. The other arguments, and the errors, are
    those of `loadgen.engine.run.play_plan`.
    """
    progress, stop = progress or Silence(), stop or StopSignal()
    workers = prepare_workers(plan, workers)
    started, epoch_ns = utc_now(), clock.now_ns()
    folder = run_folder.create(results, plan.scenario.name, started, digest(plan)[:8])
    facts = SoakFacts(
        **msgspec.structs.asdict(settings),
        epoch_utc=started.isoformat(),
        scenario_folder=scenario_folder,
    )

    def make_manifest(stamp_source: StampSource) -> Manifest:
        began = started.isoformat()
        return first_manifest(plan, folder, began, stamp_source=stamp_source, workers=workers, soak=facts)

    async with contextlib.AsyncExitStack() as stack:
        stack.enter_context(held_lock(folder))
        in_flight = stack.enter_context(contextlib.closing(InFlightLog(folder / IN_FLIGHT)))
        opened = await stack.enter_async_context(
            opened_run(
                plan,
                folder,
                make_manifest,
                workers=workers,
                progress=progress,
                stop=stop,
                sinks=(in_flight, *sinks),
                clock=clock,
                client=client or Client(),
                epoch_ns=epoch_ns,
            )
        )
        session = SoakSession(opened, settings, boot_ns or clock.now_ns)
        async with Background(session.look_after()):
            await opened.play(planned_sources(plan, progress), session.beside)
    return folder


class SoakSession:
    """A soak in progress: what begins and ends with each of its stages, and what must happen once a second."""

    def __init__(self, opened: OpenRun, settings: SoakSettings, boot_ns: Callable[[], int]) -> None:
        self.deadlines = SoakDeadline(boot_ns, round(settings.duration_s * 1e9))
        self._opened = opened
        self._stop: StopSignal | None = None
        """The signal of the stage that is played."""

    @contextlib.asynccontextmanager
    async def beside(self, play: StagePlay) -> AsyncIterator[tuple[Sink, ...]]:
        """What a soak does beside a stage."""
        yield (StageSpan(self, play),)

    async def look_after(self) -> None:
        """Look after the soak once a second, and at its deadlines; never ends by itself."""
        context = self._opened.context
        try:
            while True:
                left_ns = self.deadlines.left_ns
                wait_ns = LOOK_NS if left_ns is None or left_ns <= 0 else min(LOOK_NS, left_ns)
                await context.clock.sleep_until_ns(context.clock.now_ns() + wait_ns)
                self._look()
        except Exception:
            # Whoever waits for the soak hears of it when the soak has ended, so it must end.
            context.stop_signal.cancel()
            raise

    def _look(self) -> None:
        left_ns = self.deadlines.left_ns
        if self._stop is not None and left_ns is not None and left_ns <= 0:
            self._stop.meet_rule()

    def begin_stage(self, stage: Stage, stop: StopSignal, start_ns: int) -> None:
        """The measured requests of a stage begin. start_ns: since the beginning of the run."""
        assert stage.duration_ns is not None
        left_ns = self.deadlines.begin_stage(stage.duration_ns)
        self._stop = stop
        manifest, now = self._opened.manifest, utc_now()
        facts = manifest.manifest.soak
        assert facts is not None
        start = stage_start(self._opened.context.plan, stage)
        begun = SoakStage(
            level=start.level,
            models=start.models,
            targets=start.targets,
            start_ns=start_ns,
            deadline_utc=(now + timedelta(microseconds=left_ns // 1000)).isoformat(),
        )
        end = now + timedelta(microseconds=self.deadlines.soak_left_ns // 1000)
        manifest.set_soak(msgspec.structs.replace(facts, stages=(*facts.stages, begun), deadline_utc=end.isoformat()))

    def end_stage(self) -> None:
        """The last request of a stage has ended."""
        self._stop = None
        self.deadlines.end_stage()


class StageSpan(NullSink):
    """Tells the session when a stage begins to be measured, and when it has ended."""

    def __init__(self, session: SoakSession, play: StagePlay) -> None:
        self._session = session
        self._play = play

    def measure(self, beginning: MeasuringStart) -> None:
        self._session.begin_stage(self._play.stage, self._play.stop, beginning.start_ns)

    def stop(self, facts: StageFacts) -> None:
        self._session.end_stage()
