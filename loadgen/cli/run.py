"""The verb `run`: plays a scenario, writes the run folder and its reports, prints the table.

What makes and prints the reports is imported when there is something to report: the first request does not wait for it.
"""

import asyncio
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from loadgen import api
from loadgen.analysis.stop_rule import reason_unreachable
from loadgen.analysis.summary import Summary
from loadgen.cli.interrupt import interruptible
from loadgen.cli.options import RESULTS, Out, Output, OutputOptions, ScenarioOptions, Strict, expand_options
from loadgen.cli.streams import tell
from loadgen.cli.terminal import progress_on_terminal
from loadgen.decisions.baseline import baseline_folder, keep_baseline, why_not_kept
from loadgen.engine.stop import StopSignal
from loadgen.engine.workers.sizing import Workers, parse_workers
from loadgen.errors import ExitCode, InputError
from loadgen.plan.plan import Plan
from loadgen.store.calibration import stored, warnings_for
from loadgen.store.run_folder import Run


@expand_options
def run(
    *,
    options: ScenarioOptions,
    out: Out = RESULTS,
    workers: Annotated[
        str,
        typer.Option("--workers", metavar="N|auto", help="Processes that play the plan; auto: as many as it needs."),
    ] = "1",
    repeats: Annotated[
        int, typer.Option("--repeats", metavar="N", min=1, help="Play the plan N times, and merge the runs.")
    ] = 1,
    strict: Strict = False,
    baseline: Annotated[
        str | None, typer.Option("--baseline", metavar="NAME", help="Keep the results in DIR/baselines/NAME.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing baseline.")] = False,
    printing: OutputOptions,
) -> None:
    """Play a scenario, write a run folder, print the table."""
    output = printing.output
    if baseline is not None and repeats > 1:
        raise InputError(
            f"--baseline {baseline} with --repeats {repeats}: a baseline is one run; leave one of them out"
        )
    baseline_place = None if baseline is None else baseline_folder(out, baseline, force=force)
    processes = parse_workers(workers)
    plan = api.plan_of((options.with_setting("strict=true") if strict else options).load(output))
    if output == "text":
        _warn(plan, processes)
    played, interrupted = asyncio.run(_play(plan, out, processes, repeats, output))
    from loadgen.cli.report import print_summary
    from loadgen.report.files import write_merged

    summary, folder = played[0] if len(played) == 1 else write_merged([folder for _, folder in played])
    print_summary(summary, folder, output)
    if baseline_place is not None:
        _keep_baseline(*played[0], baseline_place)
    raise typer.Exit(ExitCode.INTERRUPTED if interrupted else exit_code(summary))


def _warn(plan: Plan, workers: Workers) -> None:
    """Say where a plan goes beyond what this machine was calibrated for, and where it cannot come to what it is for."""
    calibration = stored()
    notes = [line for line in (calibration.note, reason_unreachable(plan)) if line]
    for line in (*notes, *warnings_for(plan, calibration.calibration, api.processes_of(plan, workers))):
        tell(f"loadgen: {line}")


async def _play(
    plan: Plan, out: Path, workers: Workers, repeats: int, output: Output
) -> tuple[list[tuple[Summary, Path]], bool]:
    """The summary and the folder of each run, and whether somebody wanted an end."""
    stop = StopSignal()
    played: list[tuple[Summary, Path]] = []

    def ended(run: Run) -> None:
        from loadgen.report.files import write_reports

        played.append((write_reports(run.folder), run.folder))

    with progress_on_terminal(output) as progress, interruptible(stop, output):
        await api.repeat(plan, repeats, results=out, workers=workers, progress=progress, stop=stop, ended=ended)
    return played, stop.requested


def _keep_baseline(summary: Summary, folder: Path, place: Path) -> None:
    why_not = why_not_kept(summary)
    if why_not is None:
        keep_baseline(folder, place)
    tell(f"baseline: {place}" if why_not is None else f"no baseline was kept: {why_not}")


def exit_code(summary: Summary) -> ExitCode:
    """3 when no model could be used; 1 when a gate failed or a stage is invalid; else 0."""
    played = [stage for stage in summary.stages if stage.status == "played"]
    if not played:
        return ExitCode.NO_TARGET
    failed = any(stage.slo is not None and stage.slo.passed is False for stage in played)
    invalid = any(stage.validity is not msgspec.UNSET and stage.validity.verdict == "invalid" for stage in played)
    return ExitCode.GATE_FAILED if failed or invalid else ExitCode.DONE
