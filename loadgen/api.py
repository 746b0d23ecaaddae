"""The steps that the command line and other programs share: from a scenario to a plan, and from a plan to a run."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from loadgen.analysis.summary import summary_from
from loadgen.clock import SYSTEM_CLOCK, Clock
from loadgen.engine.run import play_plan
from loadgen.engine.stop import StopSignal
from loadgen.engine.workers.sizing import STREAMS_PER_WORKER, Workers, worker_count
from loadgen.errors import InputError
from loadgen.live.progress import Progress, Silence
from loadgen.live.sink import Sink
from loadgen.plan.arrivals import trace_ns
from loadgen.plan.plan import Plan, make_plan
from loadgen.plan.prompts import LoadedPrompts, read_prompts
from loadgen.plan.soak import SoakPlan, soak_of, soak_stages
from loadgen.record import StageKey
from loadgen.scenario import Closed, Ramp, Scenario, Trace
from loadgen.scenario.file import LoadedScenario, is_file, read_text
from loadgen.store import run_folder
from loadgen.store.calibration import stored
from loadgen.store.manifest import Placement
from loadgen.store.run_folder import Run
from loadgen.telemetry.machine_source import usable_cores
from loadgen.wire.client import Client

if TYPE_CHECKING:
    from loadgen.analysis.summary import Summary
    from loadgen.decisions.capacity.files import Capacity
    from loadgen.decisions.capacity.resume import EarlierSearch
    from loadgen.decisions.capacity.search_comparison import SearchComparison
    from loadgen.decisions.capacity.search_request import CapacitySettings
    from loadgen.decisions.compare.comparison import CompareSettings, Comparison
    from loadgen.decisions.drift.files import Soak
    from loadgen.decisions.history.read import HistoryRequest
    from loadgen.decisions.history.verdict import HistoryAnswer
    from loadgen.decisions.select.selection import Selection
    from loadgen.decisions.versus.play import PlayedBlocks
    from loadgen.engine.soak.resume import Unfinished
    from loadgen.engine.soak.session import SoakMachine
    from loadgen.scenario import SelectTable

RESULTS = Path("results")


def plan_of(loaded: LoadedScenario, *, like: Plan | None = None) -> Plan:
    """The plan of a scenario. Reads its prompts and its trace, and raises InputError if one of them is wrong.

    like: a plan whose prompts are used again if this scenario has the same prompts. A pipe can be read only once.
    """
    scenario = loaded.scenario
    if like is not None and (like.scenario.prompts, like.scenario.seed) == (scenario.prompts, scenario.seed):
        read = LoadedPrompts(like.prompts, like.remarks)
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
    return msgspec.structs.replace(make_plan(scenario, read.prompts, offsets), remarks=read.remarks)


def _with_requests(scenario: Scenario, requests: int) -> Scenario:
    load = scenario.load
    if isinstance(load, Ramp):
        raise InputError('BENCH_ROUNDS: a "ramp" load ends after its duration; unset it, or play another load')
    changes: dict[str, int | None] = {"requests": requests}
    if not isinstance(load, Trace):
        changes["duration_s"] = None
    if isinstance(load, Closed) and load.min_requests is not None and load.min_requests > requests:
        changes["min_requests"] = None
    return msgspec.structs.replace(scenario, load=msgspec.structs.replace(load, **changes))


def processes_of(plan: Plan, workers: Workers) -> int:
    """How many processes play a plan. With "auto", each gets at most the streams for which this machine was calibrated.

    Raises InputError if more than 1 was asked for and a model runs in this process.
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
    """Play a scenario, or a plan that was made from one, and return its run folder with all records.

    results: the folder for run folders. workers: the processes that play it. 1 means this process alone; "auto" takes
    as many as the plan's streams need, at most the number of cores. stop: ends the run early. sinks: receive records as
    requests end. clock, client: those of this process; by default the system's clock and a new client. Raises
    InputError, before anything is sent, if the input is wrong.
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
    """Play a scenario `repeats` times. Each is a separate run, for which the servers are started again.

    rest_s: the pause between two runs. ended: called with each run before the next begins. If a stop is asked for, or
    no model can be used, there are fewer runs, but at least one. The other arguments are those of `run`.
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
        await asyncio.sleep(0)  # so that a stop asked for meanwhile takes effect
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
    """Play two variants in alternation, so that a drift of the machine does not look like a difference.

    Each block has two runs, one of each variant, in a balanced random order. Each run is separate, as in `run`.

    blocks: 2 or more; fewer than 5 cannot show a regression. rest_s: the pause between two runs. unlike: whether
    variants may ask for different work or be judged by different limits. summarized: makes the summary of a run that
    has ended; it may write the run's reports. The other arguments are those of `run`.

    A block with a run that cannot be compared is played again. `compare` compares the runs in the folder that the
    result names. Raises InputError, before anything is sent, if the input is wrong.
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

    async def play_variant(plan: Plan, placement: Placement) -> "tuple[Run, Summary]":
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

    return await play_blocks(base, new, blocks, play_variant, rest_s=rest_s, clock=clock, stop=stop, progress=progress)


def last_pace(results: Path, scenario: str) -> dict[StageKey, float]:
    """Requests per second by stage in the newest run of a scenario; empty if there is none."""
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
) -> "Comparison | SearchComparison":
    """Whether the runs of `new` are worse than those of `base`, and how sure that is.

    base, new: one or several of these: a run folder, a merged folder, a scenario's folder (its newest run), or
    `baseline:NAME`. Without `new`, `base` is the folder of two variants that `versus` has played. Two folders of
    `capacity` are compared as searches. margin: the largest difference that counts as none, as a share. settings: all
    settings, including a margin. results: the folder of baselines and earlier runs. Writes no file. Raises InputError
    if a path is not a run, and NotAlikeError if the runs differ in something that must be equal.
    """
    # Imported here, so that a run does not wait for it.
    from loadgen.decisions.capacity.resume import two_searches
    from loadgen.decisions.capacity.search_comparison import compare_searches
    from loadgen.decisions.compare.comparison import CompareSettings, compare_sides
    from loadgen.decisions.compare.verdict import Limits
    from loadgen.decisions.versus.block_sides import read_sides_of, with_pairs_of

    asked = settings or CompareSettings(limits=Limits(margin=margin))
    if (searches := two_searches(_paths(base), _paths(new))) is not None:
        return compare_searches(*searches, asked.unlike)
    sides = read_sides_of(_paths(base), _paths(new), results=results)
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
    """Search the most users, or the highest rate, at which the objectives hold. Return the answer and its run folder,
    which has all reports.

    objectives: such as "ttft_p95=2s"; empty: those of the scenario. budget_s: the most time played for each model.
    settings: all settings; the two arguments before are then ignored. earlier: the search to resume
    (`loadgen.decisions.capacity.resume.read_earlier`). The other arguments are those of `run`. Raises InputError if the
    search is not possible.
    """
    # Imported here, so that a run does not wait for it.
    from loadgen.decisions.capacity.files import make_search_reports
    from loadgen.decisions.capacity.play import play_search
    from loadgen.decisions.capacity.search_request import CapacitySettings, request_of, searchable

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


def soak_plan_of(planned: SoakPlan) -> Plan:
    """The plan of a soak. Reads its prompts, and raises InputError if one of them is wrong."""
    return soak_stages(plan_of(planned.loaded))


def soak_to_resume(path: Path) -> tuple["Unfinished", SoakPlan, Plan]:
    """The unfinished soak at a path, what it plays, and its plan: all that `soak` needs to go on with it. Raises
    InputError if there is none, if a living process plays it, or if its prompts have changed."""
    from loadgen.engine.soak.resume import check_prompts, scenario_of, unfinished_at

    unfinished = unfinished_at(path)
    planned = soak_of(scenario_of(unfinished), unfinished.soak.give_up_s)
    plan = soak_plan_of(planned)
    check_prompts(unfinished, plan)
    return unfinished, planned, plan


async def soak(
    planned: "LoadedScenario | SoakPlan",
    *,
    plan: Plan | None = None,
    unfinished: "Unfinished | None" = None,
    results: Path = RESULTS,
    workers: Workers = 1,
    progress: Progress | None = None,
    stop: StopSignal | None = None,
    sinks: Sequence[Sink] = (),
    machine: "SoakMachine | None" = None,
    client: Client | None = None,
) -> "Soak":
    """Play one level of a scenario for hours. Return the verdict and its run folder, which has all reports.

    planned: a scenario whose table `[soak]` says for how long, or what `loadgen.plan.soak.soak_of` makes of it. plan:
    of `soak_plan_of`, if the prompts were read already. unfinished: the soak to go on with, of `soak_to_resume`.
    machine: None: the one that we are on. The other arguments are those of `run`.
    """
    # Imported here, so that a run does not wait for it.
    from loadgen.decisions.drift.files import make_soak_reports
    from loadgen.engine.soak.play import play_soak

    planned = soak_of(planned) if isinstance(planned, LoadedScenario) else planned
    plan = soak_plan_of(planned) if plan is None else plan
    folder = await play_soak(
        plan,
        planned.settings,
        results,
        scenario_folder=str(planned.loaded.folder.absolute()),
        unfinished=unfinished,
        workers=processes_of(plan, workers),
        progress=progress,
        stop=stop,
        sinks=sinks,
        machine=machine,
        client=client,
    )
    return make_soak_reports(folder)


def select(
    runs: str | Path | Sequence[str | Path], policy: "str | Path | SelectTable | Mapping[str, Any] | None" = None
) -> "Selection":
    """The choice of a model from runs: what `selection.json` of `loadgen select` holds. Writes no file, sends nothing.

    runs: run folders, or scenarios' folders (the newest run of each). policy: the path of a TOML file with a table
    [select], that table, or its keys, as in {"weights": {"quality": 1}}; None: the table of the newest run's scenario.
    Raises InputError if a path is not a run, if runs do not compare, or if the policy is wrong.
    """
    # Imported here, so that a run does not wait for it.
    from loadgen.decisions.candidates.runs import read_runs
    from loadgen.decisions.select.decide import decide
    from loadgen.decisions.select.policy import policy_from, policy_of

    read = read_runs(_paths(runs))
    return decide(read, policy_of(read[-1].manifest.scenario.select, policy_from(policy))).selection


def history(
    scenario: str | Path, *, request: "HistoryRequest | None" = None, results: Path = RESULTS
) -> "HistoryAnswer":
    """What changed over the nights of a scenario, since when, and between which builds. Plays nothing, writes no file.

    scenario: a scenario's file or name, or the name of its folder in `results`. request: which series are asked for,
    and from which moment on a change is new; None: those of this machine, and what its newest night showed. Raises
    InputError if there is no night of what is asked for.
    """
    # Imported here, so that a run does not wait for it.
    from loadgen.decisions.history.read import HistoryRequest, read_answer

    return read_answer(scenario, request or HistoryRequest(), results).answer
