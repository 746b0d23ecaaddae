"""The few steps that the command line and a program share: a scenario becomes a plan, a plan becomes a run."""

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import msgspec

from loadgen.analysis.summary import summary_from
from loadgen.clock import SYSTEM_CLOCK, Clock
from loadgen.engine.run import play_plan
from loadgen.engine.stop import StopSignal
from loadgen.engine.workers.sizing import STREAMS_PER_WORKER, Workers, usable_cores, worker_count
from loadgen.errors import InputError
from loadgen.live.progress import Progress, Silence
from loadgen.live.sink import Sink
from loadgen.plan.arrivals import trace_ns
from loadgen.plan.plan import Plan, make_plan
from loadgen.plan.prompts import LoadedPrompts, read_prompts
from loadgen.record import StageKey
from loadgen.scenario import Ramp, Scenario, Trace
from loadgen.scenario.file import LoadedScenario, is_file, read_text
from loadgen.store import run_folder
from loadgen.store.calibration import stored
from loadgen.store.manifest import Placement
from loadgen.store.run_folder import Run
from loadgen.wire.client import Client

if TYPE_CHECKING:
    from loadgen.analysis.summary import Summary
    from loadgen.decisions.capacity.files import Capacity
    from loadgen.decisions.capacity.request import CapacitySettings
    from loadgen.decisions.capacity.resume import EarlierSearch
    from loadgen.decisions.compare.comparison import CompareSettings, Comparison
    from loadgen.decisions.versus.play import PlayedBlocks

RESULTS = Path("results")


def plan_of(loaded: LoadedScenario, *, like: Plan | None = None) -> Plan:
    """The plan of a scenario: reads its prompts and its trace. Raises InputError when one of them is wrong.

    like: a plan whose prompts are taken if this scenario has the same, so that they are read once: a pipe gives them no
    second time.
    """
    scenario = loaded.scenario
    if like is not None and (like.scenario.prompts, like.scenario.seed) == (scenario.prompts, scenario.seed):
        read = LoadedPrompts(like.prompts, like.notes)
    else:
        read = read_prompts(scenario, loaded.folder, loaded.where)
    if loaded.rounds is not None:
        scenario = _with_requests(scenario, loaded.rounds * len(read.prompts))
    load = scenario.load
    offsets = None
    if isinstance(load, Trace):
        path = loaded.folder / load.file
        if not is_file(path):
            raise InputError(f"{loaded.where}: load.file: there is no {path}; it is relative to the scenario's folder")
        offsets = trace_ns(read_text(path), str(path), load.speed, load.requests)
    return msgspec.structs.replace(make_plan(scenario, read.prompts, offsets), notes=read.notes)


def _with_requests(scenario: Scenario, requests: int) -> Scenario:
    load = scenario.load
    if isinstance(load, Ramp):
        raise InputError('BENCH_ROUNDS: a "ramp" load ends after its duration; unset it, or play another load')
    changes = {"requests": requests} if isinstance(load, Trace) else {"requests": requests, "duration_s": None}
    return msgspec.structs.replace(scenario, load=msgspec.structs.replace(load, **changes))


def processes_of(plan: Plan, workers: Workers) -> int:
    """How many processes play a plan; "auto" trusts each with as many streams as this machine was calibrated for.

    Raises InputError where a number above 1 was asked for and a model is in this process.
    """
    calibration = stored().calibration
    calibrated = calibration.budget.streams if calibration is not None else 0
    return worker_count(plan, workers, usable_cores(), calibrated or STREAMS_PER_WORKER)


async def run(
    scenario: LoadedScenario | Plan,
    *,
    results: Path = RESULTS,
    workers: Workers = 1,
    progress: Progress | None = None,
    stop: StopSignal | None = None,
    sinks: Sequence[Sink] = (),
    clock: Clock = SYSTEM_CLOCK,
    client: Client | None = None,
) -> Run:
    """Play a scenario, or a plan that was made of one, and return its run folder with all records.

    results: where run folders go. workers: processes that play it, 1 being this one alone; "auto" takes as many as the
    plan's streams ask for and the machine has cores. stop: ends it before its time. sinks: hear of its records as they
    end. clock, client: those that this process plays with; by default the system's, and one that is made here. Raises
    InputError before anything is sent when something is wrong with the input.
    """
    plan = scenario if isinstance(scenario, Plan) else plan_of(scenario)
    size = processes_of(plan, workers)
    return await play_plan(
        plan, results, workers=size, progress=progress, stop=stop, sinks=sinks, clock=clock, client=client
    )


async def repeat(
    scenario: LoadedScenario | Plan,
    repeats: int,
    *,
    results: Path = RESULTS,
    workers: Workers = 1,
    progress: Progress | None = None,
    stop: StopSignal | None = None,
    sinks: Sequence[Sink] = (),
    rest_s: float = 0.0,
    ended: Callable[[Run], object] = lambda _: None,
) -> tuple[Run, ...]:
    """Play a scenario so many times, each a whole run of its own: servers are started anew, and nothing is shared.

    rest_s: how long to wait between two runs. ended: told of each run before the next one begins. When a stop is asked
    for, or no model could be used, there are fewer runs than asked, and at least one. The rest is as in `run`;
    `loadgen.analysis.summarize.merged` makes one summary of the runs.
    """
    plan = scenario if isinstance(scenario, Plan) else plan_of(scenario)
    stop = stop or StopSignal()
    progress = progress or Silence()
    runs: list[Run] = []
    for at in range(repeats):
        if at and rest_s:
            await stop.sleep_until_ns(SYSTEM_CLOCK, SYSTEM_CLOCK.now_ns() + round(rest_s * 1e9))
            if stop.requested:
                break
        if repeats > 1:
            progress.begin_run(f"run {at + 1} of {repeats}")
        played = await run(plan, results=results, workers=workers, progress=progress, stop=stop, sinks=sinks)
        runs.append(played)
        ended(played)
        await asyncio.sleep(0)  # an end that was asked for meanwhile is heard
        if stop.requested or all(stage.skipped for stage in played.manifest.stages):
            break
    return tuple(runs)


async def versus(
    base: LoadedScenario | Plan,
    new: LoadedScenario | Plan,
    blocks: int = 6,
    *,
    rest_s: float = 0.0,
    unlike: Literal["refuse", "accept"] = "refuse",
    results: Path = RESULTS,
    workers: Workers = 1,
    progress: Progress | None = None,
    stop: StopSignal | None = None,
    sinks: Sequence[Sink] = (),
    summarized: "Callable[[Run], Summary] | None" = None,
    clock: Clock = SYSTEM_CLOCK,
    client: Client | None = None,
) -> "PlayedBlocks":
    """Play two variants in alternation, so that a machine that drifts is not taken for a difference: blocks of two
    runs, one of each, in a balanced random order. Each run is one of its own, as in `run`.

    blocks: 2 or more; fewer than 5 cannot show a regression. rest_s: how long to wait between two runs. unlike: what
    becomes of variants that ask for different work, or are judged by different limits. summarized: makes the summary of
    a run that has ended; it may write the run's reports. The rest is as in `run`.

    A block with a run that cannot be compared is played again. `compare` compares what is in the folder that the result
    names. Raises InputError before anything is sent when something is wrong with the input.
    """
    from loadgen.analysis.summarize import summarize
    from loadgen.decisions.versus.play import play_blocks
    from loadgen.decisions.versus.variants import check_name, check_variants

    base, new = (each if isinstance(each, Plan) else plan_of(each) for each in (base, new))
    if blocks < 2:
        raise InputError(f"{blocks} blocks: with a single one, one variant is always first; play 5 or more")
    check_name(base.scenario, new.scenario)
    if unlike == "refuse":
        check_variants(base, new)
    # Both must be measured alike, and a model in this process asks for one process.
    size = min(processes_of(base, workers), processes_of(new, workers))
    progress, stop = progress or Silence(), stop or StopSignal()

    async def play(plan: Plan, placement: Placement) -> "tuple[Run, Summary]":
        played = await play_plan(
            plan,
            results,
            workers=size,
            progress=progress,
            stop=stop,
            sinks=sinks,
            clock=clock,
            client=client,
            placement=placement,
        )
        return played, (summarized or summarize)(played)

    return await play_blocks(base, new, blocks, play, rest_s=rest_s, clock=clock, stop=stop, progress=progress)


def last_pace(results: Path, scenario: str) -> dict[StageKey, float]:
    """Requests a second by stage in the newest run of a scenario; empty without one."""
    for folder in reversed(run_folder.runs_of(results / scenario)):
        try:
            summary = summary_from((folder / "summary.json").read_bytes())
        except (OSError, msgspec.MsgspecError):
            continue
        return {
            StageKey(stage.target, stage.model, stage.level): stage.throughput.requests_per_s
            for stage in summary.stages
            if stage.throughput is not msgspec.UNSET and stage.throughput.requests_per_s
        }
    return {}


def compare(
    base: str | Path | Sequence[str | Path],
    new: str | Path | Sequence[str | Path] = (),
    margin: float = 0.05,
    *,
    settings: "CompareSettings | None" = None,
    results: Path = RESULTS,
) -> "Comparison":
    """Whether the runs of `new` are worse than those of `base`, and how sure that is.

    base, new: a run folder, a merged folder, a scenario's folder (its newest run) or `baseline:NAME`; or several.
    Without `new`, `base` is the folder of two variants that `versus` has played. margin: what counts as the same, a
    share of one. settings: all else that can be asked, with its own margin. results: where baselines and earlier runs
    are. Writes no file. Raises InputError for what is no run, and NotAlikeError for runs that differ in what must be
    alike.
    """
    from loadgen.decisions.compare.comparison import (
        CompareSettings,
        compare_sides,
    )  # here: a run need not wait for them
    from loadgen.decisions.compare.verdict import Limits
    from loadgen.decisions.versus.sides import read_sides_of, with_pairs_of

    sides = read_sides_of(_paths(base), _paths(new), results=results)
    asked = settings or CompareSettings(limits=Limits(margin=margin))
    return compare_sides(sides, with_pairs_of(sides, asked), results=results)


def _paths(paths: str | Path | Sequence[str | Path]) -> Sequence[str | Path]:
    return [paths] if isinstance(paths, str | Path) else paths


async def capacity(
    scenario: LoadedScenario,
    objectives: Sequence[str] = (),
    budget_s: float = 600.0,
    *,
    settings: "CapacitySettings | None" = None,
    earlier: "EarlierSearch | None" = None,
    results: Path = RESULTS,
    workers: Workers = 1,
    progress: Progress | None = None,
    stop: StopSignal | None = None,
    sinks: Sequence[Sink] = (),
    clock: Clock = SYSTEM_CLOCK,
    client: Client | None = None,
) -> "Capacity":
    """Search the most users, or the highest rate, at which the objectives hold; the answer with its run folder, in
    which all reports are.

    objectives: such as "ttft_p95=2s"; empty: as the scenario says. budget_s: the most time played, for each model.
    settings: all that can be asked, these two included, which are then not looked at. earlier: a search to go on with
    (`loadgen.decisions.capacity.resume.read_earlier`). The rest is as in `run`. Raises InputError for what cannot be
    searched.
    """
    # Here: a run need not wait for them.
    from loadgen.decisions.capacity.files import make_search_reports
    from loadgen.decisions.capacity.play import play_search
    from loadgen.decisions.capacity.request import CapacitySettings, request_of, searchable

    asked = settings or CapacitySettings(objectives=tuple(objectives), budget_s=budget_s)
    plan = plan_of(searchable(scenario, asked))
    if earlier is not None:
        earlier.check_place(results / plan.scenario.name)
    request = request_of(plan, asked, where=scenario.where, earlier=earlier)
    folder = await play_search(
        request,
        results,
        workers=processes_of(request.plan, workers),
        progress=progress,
        stop=stop,
        sinks=sinks,
        clock=clock,
        client=client,
    )
    return make_search_reports(folder, request.forecasts)
