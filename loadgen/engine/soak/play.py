"""Plays a soak: each stage for hours, until its deadline on a clock that also counts a suspended machine.

The records go to disk and to the sinks as they end; nothing reads the run back whole.
"""

import contextlib
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path

import msgspec

from loadgen.clock import SYSTEM_BOOT_CLOCK, SYSTEM_CLOCK, Clock, utc_now
from loadgen.engine.manifest_writer import ManifestWriter, first_manifest
from loadgen.engine.run import opened_run
from loadgen.engine.soak.in_flight import IN_FLIGHT, InFlightLog, remove_in_flight
from loadgen.engine.soak.lock import folder_lock
from loadgen.engine.soak.resume import Unfinished, recover, rest_of, unwritten_of
from loadgen.engine.soak.server_numbers import lives_of
from loadgen.engine.soak.session import Beginning, SoakMachine, SoakSession
from loadgen.engine.stop import StopSignal
from loadgen.engine.workers.sizing import prepare_workers
from loadgen.live.progress import Progress, Silence
from loadgen.live.sink import Sink
from loadgen.plan.plan import Plan, digest
from loadgen.plan.soak import SoakSettings
from loadgen.record import StampSource
from loadgen.store import run_folder
from loadgen.store.events import EventLog
from loadgen.store.folder_size import keep_measured_bytes
from loadgen.store.manifest import Manifest, SoakFacts
from loadgen.store.windows import WindowLog, repair_windows
from loadgen.wire.client import Client


async def play_soak(
    plan: Plan,
    settings: SoakSettings,
    results: Path,
    *,
    scenario_folder: str = ".",
    unfinished: Unfinished | None = None,
    workers: int = 1,
    progress: Progress | None = None,
    stop: StopSignal | None = None,
    sinks: Sequence[Sink] = (),
    machine: SoakMachine | None = None,
    client: Client | None = None,
) -> Path:
    """Play a soak and return its run folder, which has no reports yet.

    plan: as `loadgen.plan.soak.soak_stages` makes it. scenario_folder: what paths in the scenario are relative to; an
    absolute path. unfinished: the soak to go on with, of the same plan and settings. machine: None: the one that we are
    on. The other arguments, and the errors, are those of `loadgen.engine.run.play_plan`.
    """
    progress, stop = progress or Silence(), stop or StopSignal()
    machine = machine or SoakMachine(SYSTEM_CLOCK, SYSTEM_BOOT_CLOCK)
    clock, workers = machine.clock, prepare_workers(plan, workers)
    started = utc_now()
    if unfinished is None:
        folder = run_folder.create(results, plan.scenario.name, started, digest(plan)[:8])
    else:
        folder = unfinished.folder
    async with contextlib.AsyncExitStack() as stack:
        stack.enter_context(folder_lock(folder))
        if unfinished is None:
            soak = SoakFacts(
                **msgspec.structs.asdict(settings), epoch_utc=started.isoformat(), scenario_folder=scenario_folder
            )
            beginning = _beginning(plan, folder, clock, workers, soak, stack)
        else:
            beginning = _going_on(plan, unfinished, clock, started, stack)
        events = EventLog(folder, clock, beginning.epoch_ns, on_event=lambda event: progress.warn(event.line))
        session = SoakSession(plan, settings, beginning, machine, events)
        if not beginning.stages:
            ManifestWriter(folder, beginning.make_manifest("user")).end("complete")
            return folder
        in_flight = stack.enter_context(contextlib.closing(InFlightLog(folder / IN_FLIGHT)))
        opened = await stack.enter_async_context(
            opened_run(
                plan,
                folder,
                beginning.make_manifest,
                workers=workers,
                progress=progress,
                stop=stop,
                sinks=(in_flight, *sinks),
                clock=clock,
                client=client or Client(),
                epoch_ns=beginning.epoch_ns,
                make_log=session.open_log,
                worker_logs=session.worker_logs(workers),
                window_writer=session.window_writer,
                when_gone="wait",
                heartbeat=session.heartbeat,
            )
        )
        await session.play_stages(opened, progress)
        if not stop.requested:
            remove_in_flight(folder)
    keep_measured_bytes(folder)
    return folder


def _beginning(
    plan: Plan, folder: Path, clock: Clock, workers: int, soak: SoakFacts, stack: contextlib.AsyncExitStack
) -> Beginning:
    """Where a new soak begins. stack: closes what is opened."""

    def make_manifest(stamp_source: StampSource) -> Manifest:
        return first_manifest(plan, folder, soak.epoch_utc, stamp_source=stamp_source, workers=workers, soak=soak)

    return Beginning(clock.now_ns(), make_manifest, plan.stages, _window_log(folder, soak, stack))


def _going_on(
    plan: Plan, unfinished: Unfinished, clock: Clock, now: datetime, stack: contextlib.AsyncExitStack
) -> Beginning:
    """Where an unfinished soak goes on. Its lock is held. stack: closes what is opened."""
    soak = unfinished.soak
    windows = repair_windows(unfinished.folder)
    recovered = recover(unfinished, windows)
    # The clock of the process that was killed is gone, and so may be that of the machine.
    since_epoch = now - datetime.fromisoformat(soak.epoch_utc)
    elapsed_ns = max(since_epoch // timedelta(microseconds=1) * 1_000, recovered.last_ns + 1)
    epoch_ns = clock.now_ns() - elapsed_ns
    gap_ns = elapsed_ns - recovered.last_ns
    detail = f"loadgen had ended; it went on after {gap_ns / 1e9:.1f} s"
    events = EventLog(unfinished.folder, clock, epoch_ns)
    events.record("resumed", detail, at_ns=epoch_ns + recovered.last_ns, for_s=round(gap_ns / 1e9, 3))

    def make_manifest(stamp_source: StampSource) -> Manifest:
        facts = msgspec.structs.replace(soak, resumed=soak.resumed + 1, run_folder_bytes=None)
        changes = {"state": "running", "ended_utc": None, "stamp_source": stamp_source, "soak": facts}
        return msgspec.structs.replace(unfinished.manifest, **changes)

    left_ns = None
    if soak.deadline_utc is not None:
        left_ns = (datetime.fromisoformat(soak.deadline_utc) - now) // timedelta(microseconds=1) * 1_000
    return Beginning(
        epoch_ns=epoch_ns,
        make_manifest=make_manifest,
        stages=rest_of(plan, unfinished, recovered.next_index, now),
        window_log=_window_log(unfinished.folder, soak, stack),
        left_ns=left_ns,
        next_window=max((window.window for window in windows), default=-1) + 1,
        server_lives=lives_of(windows),
        unwritten=unwritten_of(plan, unfinished, recovered, windows),
    )


def _window_log(folder: Path, soak: SoakFacts, stack: contextlib.AsyncExitStack) -> WindowLog:
    began_s = datetime.fromisoformat(soak.epoch_utc).timestamp()
    return stack.enter_context(contextlib.closing(WindowLog(folder, began_s)))
