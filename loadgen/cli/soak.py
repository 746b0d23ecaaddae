"""The verb `soak`: plays one level for hours, and says whether the device drifted."""

import asyncio
import contextlib
import os
import shlex
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, Literal, get_args

import typer
from msgspec import Struct

from loadgen import api
from loadgen.analysis.soak_types import DriftVerdict
from loadgen.analysis.summary import summary_data
from loadgen.cli.before_run import warn_before_run
from loadgen.cli.compare import parse_percent
from loadgen.cli.interrupt import interruptible
from loadgen.cli.options import (
    RESULTS,
    LeaveOut,
    Out,
    Output,
    OutputOptions,
    ScenarioOptions,
    expand_options,
    flags_given,
)
from loadgen.cli.streams import tell
from loadgen.cli.terminal import progress_on_terminal, show_json
from loadgen.cli.units import print_recipe, soak_arguments
from loadgen.engine.soak.resume import Unfinished
from loadgen.engine.stop import StopSignal
from loadgen.engine.workers.sizing import Workers, parse_workers
from loadgen.errors import ExitCode, FolderError, InputError
from loadgen.plan.plan import Plan
from loadgen.plan.soak import GIVE_UP_S, SoakPlan, soak_of
from loadgen.scenario.file import LoadedScenario
from loadgen.scenario.overrides import parse_duration_s
from loadgen.scenario.resolve import check_secrets
from loadgen.scenario.soak import SoakFlags

if TYPE_CHECKING:
    from loadgen.decisions.drift.files import Soak

FailOn = Literal["degrading", "unsure", "never"]
"""Which verdict makes the exit code 1: degrading; degrading or not enough data; none."""
FAIL_ON: Final[tuple[FailOn, ...]] = get_args(FailOn)
FAILING_WORDS: Final[dict[FailOn, tuple[DriftVerdict, ...]]] = {
    "degrading": ("degrading",),
    "unsure": ("degrading", "not enough data"),
    "never": (),
}
"""The verdicts that each value of --fail-on makes fail."""


class SoakOptions(Struct, frozen=True):
    """The options of a soak, but for those of its scenario."""

    duration: Annotated[
        str | None,
        typer.Option("--duration", metavar="8h", help="How long requests may start, of all models together."),
    ] = None
    window: Annotated[str | None, typer.Option("--window", metavar="60s", help="Length of a window, 1s to 10m.")] = None
    disk: Annotated[
        str | None, typer.Option("--disk", metavar="2GiB", help="The most space that the run folder may take.")
    ] = None
    matters: Annotated[
        str | None,
        typer.Option("--matters", metavar="5%", help="The smallest change that counts (tails: three times)."),
    ] = None
    give_up: Annotated[
        str | None,
        typer.Option(
            "--give-up", metavar="30m", help="End when a server has answered nothing for so long (default: 30m)."
        ),
    ] = None
    fail_on: Annotated[
        str, typer.Option("--fail-on", metavar="WORD", help="Exit 1 if the verdict is: degrading, unsure or never.")
    ] = "degrading"
    allow_outages: Annotated[
        int, typer.Option("--allow-outages", metavar="N", min=0, help="So many outages do not make the exit code 1.")
    ] = 0
    requests: Annotated[int | None, typer.Option("--requests", hidden=True)] = None
    until: Annotated[str | None, typer.Option("--until", hidden=True)] = None
    repeats: Annotated[str | None, typer.Option("--repeats", hidden=True)] = None
    baseline: Annotated[str | None, typer.Option("--baseline", hidden=True)] = None

    def flags(self) -> SoakFlags:
        """The changes to the table `[soak]`. Raises InputError, which names the flag, if a value cannot be parsed."""
        return SoakFlags(
            duration_s=None if self.duration is None else parse_duration_s(self.duration),
            window_s=None if self.window is None else parse_duration_s(self.window, "--window"),
            disk=self.disk,
            matters=None if self.matters is None else parse_percent(self.matters, "--matters"),
        )

    def give_up_s(self) -> float:
        return GIVE_UP_S if self.give_up is None else parse_duration_s(self.give_up, "--give-up")

    def fails_on(self) -> FailOn:
        """The verdict that makes the exit code 1. Raises InputError."""
        word = next((word for word in FAIL_ON if word == self.fail_on), None)
        if word is None:
            raise InputError(f"--fail-on {self.fail_on}: not one of the words; write degrading, unsure or never")
        return word

    def check(self) -> None:
        """Raise InputError for a flag that a soak does not have, although `run` has it."""
        for flag, value, why in (
            ("--requests", self.requests, "a soak ends after its time; leave it out, and set --duration"),
            ("--until", self.until, "a soak ends after its time; leave it out, and set --duration"),
            (
                "--repeats",
                self.repeats,
                "a soak is played once; leave it out, and compare nights with `loadgen history`",
            ),
            (
                "--baseline",
                self.baseline,
                "a soak is no baseline; leave it out, and compare nights with `loadgen history`",
            ),
        ):
            if value is not None:
                raise InputError(f"{flag} {value}: {why}")


@expand_options
def soak(
    *,
    options: Annotated[ScenarioOptions, LeaveOut("requests", "duration", "until")],
    soaking: SoakOptions,
    resume: Annotated[
        Path | None, typer.Option("--resume", metavar="RUN", help="Go on with an unfinished soak, in its folder.")
    ] = None,
    out: Out = RESULTS,
    workers: Annotated[
        str,
        typer.Option("--workers", metavar="N|auto", help="Processes that play the soak; auto chooses the number."),
    ] = "1",
    print_units: Annotated[
        str | None,
        typer.Option("--print-units", metavar="KIND", help="Print a nightly recipe: systemd, cron, schtasks, launchd."),
    ] = None,
    printing: OutputOptions,
) -> None:
    """Play one level for hours, and say whether the device drifted."""
    output = printing.output
    soaking.check()
    fails_on = soaking.fails_on()
    processes = parse_workers(workers)
    if print_units is not None:
        if resume is not None:
            raise InputError("--print-units with --resume: every night is a new soak; leave one of them out")
        if soak_arguments(sys.argv):  # a mistake is told now, and not at night
            soak_of(_load(options, soaking.flags(), "nothing"), soaking.give_up_s())
        print_recipe(print_units, options.scenario, None if out == RESULTS else out)
        raise typer.Exit
    unfinished: Unfinished | None = None
    if resume is None:
        planned = soak_of(_load(options, soaking.flags(), output), soaking.give_up_s())
        plan = api.soak_plan_of(planned)
    else:
        _check_resume(resume, options, soaking, out)
        unfinished, planned, plan = api.soak_to_resume(resume)
        check_secrets(plan.models, os.environ)
    if output == "text":
        for remark in planned.remarks:
            tell(f"loadgen: {remark}")
        warn_before_run(plan, processes)
    soak_run = SoakRun(planned, plan, unfinished)
    played = asyncio.run(_play_soak(soak_run, processes, out, output))
    raise typer.Exit(_report(played, fails_on, soaking.allow_outages, output))


class PlayedSoak(Struct, frozen=True):
    """A soak that was played, and how playing ended."""

    soaked: "Soak | None"
    """None if the run folder can no longer be read."""
    interrupted: bool
    """Whether the user asked to stop."""
    failure: FolderError | None = None
    """Why the run folder could no longer be written."""


class SoakRun(Struct, frozen=True):
    """A soak that will be played."""

    planned: SoakPlan
    plan: Plan
    unfinished: Unfinished | None
    """The soak to go on with; None: a new one."""


def _check_resume(path: Path, options: ScenarioOptions, soaking: SoakOptions, out: Path) -> None:
    """Raise InputError for a flag that changes what is played or where: the folder of the soak says all of that."""
    allowed = ("--fail-on", "--allow-outages")
    flags = [*flags_given(options), *(flag for flag in flags_given(soaking) if flag not in allowed)]
    flags += ["--out"] if out != RESULTS else []
    if flags:
        why = "what is played is in the folder of the soak"
        raise InputError(f"--resume {path} with {flags[0]}: {why}; leave {flags[0]} out, or begin a new soak")


def _load(options: ScenarioOptions, flags: SoakFlags, output: Output) -> LoadedScenario:
    for flag, text in (("--concurrency", options.concurrency), ("--rate", options.rate)):
        if text is not None and "," in text:
            raise InputError(f"{flag} {text}: a soak plays one level; give one of them")
    return options.load(output, soak=flags)


async def _play_soak(run: SoakRun, workers: Workers, out: Path, output: Output) -> PlayedSoak:
    stop = StopSignal()
    with progress_on_terminal(output) as progress, interruptible(stop, output, (signal.SIGTERM,)):
        try:
            soaked = await api.soak(
                run.planned,
                plan=run.plan,
                unfinished=run.unfinished,
                results=out,
                workers=workers,
                progress=progress,
                stop=stop,
            )
        except FolderError as error:
            from loadgen.decisions.drift.files import make_soak_reports

            with contextlib.suppress(InputError):  # where nothing is left to read
                return PlayedSoak(make_soak_reports(error.folder), stop.requested, error)
            return PlayedSoak(None, stop.requested, error)
    return PlayedSoak(soaked, stop.requested)


def _report(played: PlayedSoak, fails_on: FailOn, allowed_outages: int, output: Output) -> ExitCode:
    """Print the report of what was played; returns the exit code. Raises the failure that ended it."""
    from loadgen.cli.report import print_soak
    from loadgen.cli.run import exit_code

    soaked = played.soaked
    if soaked is not None:
        if output == "json":
            show_json(summary_data(soaked.summary))
        print_soak(soaked, output)
    if played.failure is not None:
        raise played.failure
    assert soaked is not None
    if played.interrupted:
        tell(f"loadgen: to go on with it: loadgen soak --resume {shlex.quote(str(soaked.folder))}")
        return ExitCode.INTERRUPTED
    lines = soak_failures(soaked, fails_on, allowed_outages)
    for line in lines:
        tell(f"loadgen: exit {ExitCode.GATE_FAILED:d}: {line}")
    code = exit_code(soaked.summary)
    if code == ExitCode.DONE and lines:
        return ExitCode.GATE_FAILED
    return ExitCode.BAD_INPUT if code == ExitCode.DONE and soaked.reports.unwritten else code


def soak_failures(soaked: "Soak", fails_on: FailOn, allowed_outages: int) -> list[str]:
    """The reasons for exit code 1, one line each."""
    from loadgen.cli.run import failures

    lines = failures(soaked.summary)
    if soaked.word in FAILING_WORDS[fails_on]:
        lines.append(f"the verdict is {soaked.word} (--fail-on {fails_on})")
    if soaked.gave_up is not None:
        lines.append(f"it ended early: {soaked.gave_up} (--give-up)")
    outages = sum(event.kind == "server_gone" for event in soaked.events)
    if outages > allowed_outages:
        count = "1 outage" if outages == 1 else f"{outages} outages"
        lines.append(f"{count} (--allow-outages {allowed_outages})")
    return lines
