"""The verb `run`: plays a scenario, writes the run folder and its reports, prints the table.

The modules that make and print reports are imported when there is something to report, so that the first request does
not wait for them.
"""

import asyncio
import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, Literal

import typer
from msgspec import UNSET, Struct

from loadgen import api
from loadgen.analysis.summary import StageSummary, Summary
from loadgen.cli.before_run import warn_before_run
from loadgen.cli.interrupt import interruptible
from loadgen.cli.options import (
    RESULTS,
    Out,
    Output,
    OutputOptions,
    RepeatOptions,
    ScenarioOptions,
    Strict,
    expand_options,
)
from loadgen.cli.streams import tell
from loadgen.cli.terminal import progress_on_terminal
from loadgen.decisions.baseline import baseline_folder, keep_baseline, why_not_kept
from loadgen.engine.stop import StopSignal
from loadgen.engine.workers.sizing import Workers, parse_workers
from loadgen.errors import ExitCode, FolderError, InputError, LoadgenError
from loadgen.plan.plan import Plan
from loadgen.record import StageKey
from loadgen.store import run_folder
from loadgen.store.run_folder import Run

if TYPE_CHECKING:
    from loadgen.decisions.select.policy import Policy
    from loadgen.report.files import Reports

MOST_FAILED: Final = 0.5
"""If a larger share of a stage's requests failed, the exit code is 1, with or without a gate."""


@expand_options
def run(
    *,
    options: ScenarioOptions,
    out: Out = RESULTS,
    workers: Annotated[
        str,
        typer.Option("--workers", metavar="N|auto", help="Processes that play the plan; auto chooses the number."),
    ] = "1",
    repetition: RepeatOptions,
    strict: Strict = False,
    baseline: Annotated[
        str | None, typer.Option("--baseline", metavar="NAME", help="Keep the results in DIR/baselines/NAME.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing baseline.")] = False,
    select: Annotated[bool, typer.Option("--select", help="Afterwards, choose one of the models.")] = False,
    printing: OutputOptions,
) -> None:
    """Play a scenario, write a run folder, print the table."""
    output = printing.output
    variant = repetition.variant
    if baseline is not None and (variant is not None or (repetition.repeats or 1) > 1):
        other = "--versus" if variant is not None else f"--repeats {repetition.repeats}"
        raise InputError(f"--baseline {baseline} with {other}: a baseline is one run; leave one of them out")
    if select and variant is not None:
        hint = "leave one of them out, or choose with `loadgen select` afterwards"
        raise InputError(f"--select with --versus: two variants of a scenario are compared; {hint}")
    if strict:
        options = options.with_setting("strict=true")
    if variant is not None:
        from loadgen.cli.run_versus import run_versus

        raise typer.Exit(run_versus(options, variant, repetition, out, parse_workers(workers), output))
    baseline_place = None if baseline is None else baseline_folder(out, baseline, force=force)
    processes = parse_workers(workers)
    plan = api.plan_of(options.load(output))
    policy = _policy_of(plan, output) if select else None
    if output == "text":
        warn_before_run(plan, processes)
    played = asyncio.run(_play_repeats(plan, out, processes, repetition, output))
    chooses = policy is not None and played.is_complete
    reports = _print(played, output, "selection" if chooses else "summary")
    if baseline_place is not None:
        _keep_baseline(reports, baseline_place)
    if played.failure is not None:
        raise played.failure
    code = _code_of(played, reports)
    if policy is not None and chooses:
        from loadgen.cli.select import select_after_run

        code = max(code, select_after_run([run.folder for run in played.runs], policy, out, output))
    elif policy is not None and played.interrupted:
        tell("loadgen: nothing was chosen, because the run was stopped; `loadgen select` chooses from what it has")
    raise typer.Exit(code)


def _code_of(played: "_Played", reports: "Reports") -> ExitCode:
    """How the command ends, without a choice; says why, if with exit code 1."""
    lines = [*failures(reports.summary), *failures_in_runs(reports.summary, [each.summary for each in played.reports])]
    code = ExitCode.INTERRUPTED if played.interrupted else exit_code(reports.summary)
    if code == ExitCode.DONE and lines:
        code = ExitCode.GATE_FAILED
    if code == ExitCode.GATE_FAILED:
        for line in lines:
            tell(f"loadgen: exit {code:d}: {line}")
    return ExitCode.BAD_INPUT if code == ExitCode.DONE and reports.unwritten else code


def _policy_of(plan: Plan, output: Output) -> "Policy":
    from loadgen.cli.select import policy_before_run

    return policy_before_run(plan, output)


class _Played(Struct, frozen=True):
    """The runs that were played, and how playing ended."""

    runs: tuple[Run, ...]
    """The runs that have measured something."""
    reports: tuple["Reports", ...]
    """The reports of each run, and which files could not be written."""
    interrupted: bool
    """Whether the user asked to stop."""
    failure: LoadgenError | None
    """Why a run folder could not be written, or the next run could not begin; None if neither happened."""

    @property
    def is_complete(self) -> bool:
        """Whether all runs were played to their end, and measured something."""
        measured = any(record.phase == "measured" for run in self.runs for record in run.records)
        return measured and not self.interrupted and self.failure is None


def _print(played: _Played, output: Output, result: Literal["summary", "selection"]) -> "Reports":
    """Print and return the results of everything that was played, even a part of a run. Raises the failure if nothing
    was measured.

    result: what the command prints as JSON; a selection follows later.
    """
    from loadgen.cli.report import print_summary, tell_place
    from loadgen.report.files import merged_reports_of

    if not played.runs and played.failure is not None:
        raise played.failure
    reports = played.reports[0] if len(played.runs) == 1 else merged_reports_of(played.runs)
    if output != "json" or result == "summary":
        print_summary(reports.summary, output)
    if played.failure is None or not reports.unwritten:  # else the failure says it all
        tell_place(reports, output)
    if output == "nothing":
        for line in skipped_lines(reports.summary):
            tell(f"loadgen: {line}")
    return reports


async def _play_repeats(plan: Plan, out: Path, workers: Workers, repetition: RepeatOptions, output: Output) -> _Played:
    """Play the plan `repeats` times, or until a run fails or the user stops."""
    stop = StopSignal()
    runs: list[Run] = []
    reports: list[Reports] = []
    failure: LoadgenError | None = None

    def ended(run: Run) -> None:
        from loadgen.report.files import reports_of

        runs.append(run)
        reports.append(reports_of(run))

    with progress_on_terminal(output) as progress, interruptible(stop, output):
        try:
            await api.repeat(
                plan,
                repetition.repeats or 1,
                results=out,
                workers=workers,
                progress=progress,
                stop=stop,
                rest_s=repetition.rest_s,
                ended=ended,
            )
        except FolderError as error:
            failure = error
            with contextlib.suppress(InputError):  # where nothing is left to read
                run = run_folder.read(error.folder)
                if any(record.phase == "measured" for record in run.records):
                    ended(run)
        except LoadgenError as error:
            failure = error
    return _Played(tuple(runs), tuple(reports), stop.requested, failure)


def _keep_baseline(reports: "Reports", place: Path) -> None:
    why_not = "its reports could not be written" if reports.unwritten else why_not_kept(reports.summary)
    if why_not is None:
        keep_baseline(reports.folder, place)
    tell(f"baseline: {place}" if why_not is None else f"no baseline was kept: {why_not}")


def exit_code(summary: Summary) -> ExitCode:
    """3 if no model could be used; 1 if a gate failed, a stage is invalid, or most of its requests failed; otherwise
    0."""
    if not any(stage.status == "played" for stage in summary.stages):
        return ExitCode.NO_TARGET
    return ExitCode.GATE_FAILED if failures(summary) else ExitCode.DONE


def failures(summary: Summary) -> list[str]:
    """One line for each stage that makes the exit code 1, with the reasons."""
    from loadgen.report.section import stage_name

    reasons = ((stage, _failures_of(stage)) for stage in summary.stages if stage.status == "played")
    return [f"{stage_name(stage)}: {'; '.join(why)}" for stage, why in reasons if why]


def failures_in_runs(merged: Summary, runs: Sequence[Summary]) -> list[str]:
    """One line for each stage most of whose requests failed in one of several runs, unless they did in all together."""
    from loadgen.report.section import stage_name

    if len(runs) == 1:
        return []
    said = {_key_of(stage) for stage in merged.stages if _most_failed(stage)}
    return [
        f"{run.run_id}: {stage_name(stage)}: {why}"
        for run in runs
        for stage in run.stages
        if _key_of(stage) not in said and (why := _most_failed(stage))
    ]


def _key_of(stage: StageSummary) -> StageKey:
    return StageKey(stage.target, stage.model, stage.level)


def _most_failed(stage: StageSummary) -> str:
    """That more than half of a stage's requests failed; empty if they did not."""
    requests = stage.requests
    if stage.status != "played" or requests is UNSET:
        return ""
    # What a soak cancels lay in a gap, or was in flight when loadgen ended: no failure of the server's.
    excused = {"ok"} if stage.soak is UNSET else {"ok", "cancelled"}
    failed = sum(count for name, count in requests.by_outcome.items() if name not in excused)
    asked = requests.planned - requests.failed + failed
    if failed <= MOST_FAILED * asked:
        return ""
    outcomes = ", ".join(f"{count} {name}" for name, count in requests.by_outcome.items() if name not in excused)
    return f"{failed} of {asked} requests failed ({outcomes})"


def _failures_of(stage: StageSummary) -> list[str]:
    reasons = [why] if (why := _most_failed(stage)) else []
    slo = stage.slo
    if slo is not None and slo.passed is False:
        share = "it was not judged" if slo.share is None else f"{slo.share:.1%} of them did"
        why = f" ({stage.not_valid['slo']})" if "slo" in stage.not_valid else ""
        reasons.append(f"{slo.attainment:.1%} of the requests must meet the SLO, and {share}{why}")
    if stage.validity is not UNSET and stage.validity.verdict == "invalid":
        fatal = [reason for reason in stage.validity.reasons if reason.fatal]
        advice = "; ".join(dict.fromkeys(reason.advice for reason in fatal))
        reasons.append(f"invalid: {', '.join(reason.observed for reason in fatal)}; {advice}")
    return reasons


def skipped_lines(summary: Summary) -> list[str]:
    """One line for each model that was not played, with the reason."""
    skipped = (stage for stage in summary.stages if stage.status == "skipped")
    return list(dict.fromkeys(f"skipped {stage.model} on {stage.target}: {stage.reason}" for stage in skipped))
