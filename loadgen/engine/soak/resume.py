"""Goes on with a soak that was not played to its end: its process was killed, or somebody stopped it.

What is on disk decides everything. The requests that had begun and have no record get one, those whose windows were not
written get theirs, and the plan goes on at the next request. All of this may be interrupted and done again.
"""

import contextlib
import itertools
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Final

import msgspec
from msgspec import Struct

from loadgen.engine.retry import is_last
from loadgen.engine.soak.in_flight import FILES, read_in_flight, remove_in_flight
from loadgen.engine.soak.lock import check_lock
from loadgen.engine.soak.unwritten import Unwritten
from loadgen.errors import InputError
from loadgen.plan.plan import Plan, Stage
from loadgen.plan.soak import stage_from
from loadgen.plan.workload import workload_of
from loadgen.record import BegunRequest, Record
from loadgen.scenario import PromptFiles, Retries
from loadgen.scenario.file import LoadedScenario, is_pipe_name
from loadgen.store import run_folder
from loadgen.store.log_reader import recent_records
from loadgen.store.manifest import Manifest, SoakFacts, SoakStage
from loadgen.store.run_folder import REQUESTS, Log
from loadgen.store.segments import cut_torn_line, logs_in
from loadgen.store.windows import WindowLine
from loadgen.targets.registry import target_name

LOST: Final = "lost when the harness died"
"""The detail of a request that was in flight when the process was killed."""

_Key = tuple[str, str, str, int]


class Unfinished(Struct, frozen=True):
    """A soak that was not played to its end."""

    folder: Path
    manifest: Manifest
    soak: SoakFacts

    @property
    def stage(self) -> SoakStage | None:
        """The stage that was played last; None if no request was measured."""
        return self.soak.stages[-1] if self.soak.stages else None


class Recovered(Struct, frozen=True):
    """What an unfinished soak had come to."""

    next_index: int
    """The index of the next request of each model in the stage that was played last."""
    last_ns: int
    """The last moment since the run began of which anything is known."""
    unfolded: tuple[Record, ...]
    """The requests of the stage that are in no window, as their last attempts have them."""


def unfinished_at(path: Path) -> Unfinished:
    """The unfinished soak at a path. Raises InputError if there is none, or if a living process plays it."""
    folder = run_folder.run_folder_at(path)
    manifest = run_folder.read_manifest(folder)
    if manifest.soak is None:
        raise InputError(f"--resume {path}: not a soak; give the run folder of a `loadgen soak` that was cut short")
    if manifest.state == "complete":
        raise InputError(f"--resume {path}: this soak is complete; `loadgen report {folder}` makes its reports again")
    check_lock(folder)
    return Unfinished(folder, manifest, manifest.soak)


def scenario_of(unfinished: Unfinished) -> LoadedScenario:
    """The scenario of an unfinished soak. Raises InputError if its prompts cannot be read again."""
    scenario, manifest = unfinished.manifest.scenario, unfinished.folder / run_folder.MANIFEST
    if isinstance(scenario.prompts, PromptFiles) and is_pipe_name(scenario.prompts.files):
        why = f"its prompts came from a pipe ({scenario.prompts.files}), which cannot be read again"
        raise InputError(f"--resume {unfinished.folder}: {why}; begin a new soak, with a file of prompts")
    return LoadedScenario(scenario, None, Path(unfinished.soak.scenario_folder), str(manifest))


def check_prompts(unfinished: Unfinished, plan: Plan) -> None:
    """Raise InputError if the prompts are not those with which the soak began."""
    before = unfinished.manifest.workload
    now = workload_of(msgspec.structs.replace(plan, stages=()))
    if before is not None and before.prompts != now.prompts:
        why = "its prompts are not what they were when it began"
        raise InputError(f"--resume {unfinished.folder}: {why}; restore their files, or begin a new soak")


def recover(unfinished: Unfinished, windows: Sequence[WindowLine]) -> Recovered:
    """Give each request that had begun and never ended its record; returns what the soak had come to.

    windows: those that are whole. Call it while holding the lock. Raises FolderError if the folder cannot be written.
    """
    folder, stage = unfinished.folder, unfinished.stage
    folded_ns = max((window.end_ns for window in windows), default=0)
    if stage is None:
        return Recovered(0, folded_ns, ())
    begun = read_in_flight(sorted(folder.glob(FILES)), stage.level)
    last_index, last_ns = begun.last_index, max([folded_ns, *(each.intended_ns for each in begun.in_flight)])
    begun_keys = {_key(each) for each in begun.in_flight}
    # A request in flight may have had attempts that are in windows long written.
    first_ns = min([max(folded_ns, stage.start_ns), *(each.intended_ns for each in begun.in_flight)])
    ended: dict[_Key, Record] = {}
    attempts: dict[_Key, Record] = {}
    for record in itertools.chain.from_iterable(recent_records(log, first_ns) for log in logs_in(folder)):
        last_ns = max(last_ns, record.ended_ns)
        if record.phase == "measured" and record.level == stage.level and _is_of(record, stage):
            last_index = max(last_index, record.index)
            if _key(record) in begun_keys:
                attempts[_key(record)] = record
            if record.ended_ns >= folded_ns:
                ended[_key(record)] = record  # a later attempt of the same request comes later
    retries = unfinished.manifest.scenario.retries
    ends = (_lost(each, attempts.get(_key(each)), retries, last_ns) for each in begun.in_flight)
    lost = [end for end in ends if end is not None]
    if lost:
        _append(folder, lost)
    # Only when the records are on disk: whoever is interrupted before finds the requests in flight again.
    remove_in_flight(folder)
    ended |= {_key(record): record for record in lost}
    return Recovered(last_index + 1, last_ns, tuple(ended.values()))


def rest_of(plan: Plan, unfinished: Unfinished, next_index: int, now: datetime) -> tuple[Stage, ...]:
    """The stages that are still to be played, the first of them from the next request on; none after the deadline."""
    begun, deadline_utc = unfinished.stage, unfinished.soak.deadline_utc
    if begun is None or deadline_utc is None:
        return plan.stages
    if datetime.fromisoformat(deadline_utc) <= now:
        return ()
    at = _place_of(plan, begun)
    left_s = (datetime.fromisoformat(begun.deadline_utc) - now).total_seconds()
    current = (stage_from(plan.stages[at], next_index, round(left_s * 1e9)),) if left_s > 0 else ()
    return (*current, *plan.stages[at + 1 :])


def _keys_of(plan: Plan, stage: Stage) -> set[tuple[str, str]]:
    return {(target_name(plan.models[index]), plan.models[index].name) for index in stage.models}


def _is_of(record: Record, stage: SoakStage) -> bool:
    return (record.target, record.model) in zip(stage.targets, stage.models, strict=True)


def _lost(request: BegunRequest, last: Record | None, retries: Retries, at_ns: int) -> Record | None:
    """The record of a request that had begun; None if it had ended. last: its last attempt that ended."""
    if last is not None and is_last(retries, last):
        return None
    return Record(
        outcome="cancelled",
        detail=LOST,
        end_ns=at_ns,
        attempt=0 if last is None else last.attempt + 1,
        phase="measured",
        **msgspec.structs.asdict(request),
    )


def _append(folder: Path, records: Sequence[Record]) -> None:
    """Append records to the log of a run, or to that of one of its workers."""
    path = next(iter(run_folder.logs_of(folder)), folder / REQUESTS)
    cut_torn_line(path)
    with contextlib.closing(Log(path)) as log:
        log.append(*records)


def _key(request: BegunRequest | Record) -> _Key:
    return request.target, request.model, request.level, request.index


def unwritten_of(
    plan: Plan, unfinished: Unfinished, recovered: Recovered, windows: Sequence[WindowLine]
) -> Unwritten | None:
    """The time of the stage that was played last of which no window was written; None if there is none."""
    begun = unfinished.stage
    if begun is None:
        return None
    start_ns = max([begun.start_ns, *(window.end_ns for window in windows)])
    if recovered.last_ns < start_ns:
        return None
    return Unwritten(plan.stages[_place_of(plan, begun)], recovered.unfolded, start_ns, recovered.last_ns)


def _place_of(plan: Plan, begun: SoakStage) -> int:
    keys = set(zip(begun.targets, begun.models, strict=True))
    return next(at for at, stage in enumerate(plan.stages) if keys & _keys_of(plan, stage))
