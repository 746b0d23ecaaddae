"""The verb `select`: chooses a model from runs, and says why, how sure that is, and what would change it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from loadgen.cli.options import RESULTS, Out, Output, OutputOptions, expand_options
from loadgen.cli.streams import print_text, tell
from loadgen.cli.terminal import screen, show_json
from loadgen.clock import utc_now
from loadgen.decisions.candidates.runs import read_runs
from loadgen.decisions.select.decide import SelectionData, decide
from loadgen.decisions.select.document import selection_text
from loadgen.decisions.select.files import write_selection
from loadgen.decisions.select.given import read_given
from loadgen.decisions.select.policy import (
    Policy,
    PolicyFlags,
    parse_cost,
    parse_quality_by,
    parse_requirements,
    parse_weights,
    policy_of,
    read_policy,
)
from loadgen.errors import ExitCode, InputError
from loadgen.plan.plan import Plan
from loadgen.scenario import Requirements, SelectTable, SelectWeights
from loadgen.scenario.cost import CostSettings


class SelectOptions(msgspec.Struct, frozen=True):
    """What is asked of a selection. A flag is one field here and one line in `flags`."""

    level: Annotated[
        str | None,
        typer.Option("--level", metavar="LEVEL", help="The level that speaks for quality and latency, e.g. c1."),
    ] = None
    weights: Annotated[
        str | None, typer.Option("--weights", metavar="NAME=W,…", help="E.g. quality=0.5,latency=0.3.")
    ] = None
    require: Annotated[
        str | None,
        typer.Option("--require", metavar="NAME=V,…", help="E.g. license=commercial,memory_mib=2048; NAME=none drops."),
    ] = None
    quality: Annotated[
        str | None, typer.Option("--quality", metavar="BY", help="Whose quality counts: key_points, hand or judge.")
    ] = None
    cost: Annotated[
        str | None, typer.Option("--cost", metavar="NAME=V,…", help="E.g. watts=15,price_per_kwh=0.30.")
    ] = None
    policy: Annotated[
        Path | None,
        typer.Option("--policy", metavar="FILE", help="A TOML file whose [select] replaces that of the scenario."),
    ] = None
    facts: Annotated[
        Path | None,
        typer.Option("--facts", metavar="FILE", help="A models.json with facts that are not known otherwise."),
    ] = None
    strict: Annotated[
        bool, typer.Option("--strict", help="A requirement must hold with the 95 % interval, not only as estimated.")
    ] = False

    force: Annotated[bool, typer.Option("--force", help="Use the notes of graders who disagree all the same.")] = False

    def flags(self) -> PolicyFlags:
        """What the flags ask. Raises InputError, which names the flag, for a value that cannot be read."""
        require, dropped = parse_requirements(self.require) if self.require is not None else (Requirements(), ())
        return PolicyFlags(
            table=SelectTable(
                weights=parse_weights(self.weights) if self.weights is not None else SelectWeights(),
                require=require,
                cost=parse_cost(self.cost) if self.cost is not None else CostSettings(),
                level=self.level,
                quality_by=parse_quality_by(self.quality) if self.quality is not None else None,
            ),
            dropped=dropped,
            bound="interval" if self.strict else "estimate",
            disagreement="accept" if self.force else "refuse",
            given=read_given(self.facts) if self.facts is not None else (),
        )


@expand_options
def select(
    *,
    runs: Annotated[
        list[Path],
        typer.Argument(metavar="RUN...", help="Run folders, or a scenario's folder (its newest run)."),
    ],
    options: SelectOptions,
    require_clear: Annotated[
        bool, typer.Option("--require-clear", help="Exit with 1 unless one candidate stands alone.")
    ] = False,
    out: Out = RESULTS,
    printing: OutputOptions,
) -> None:
    """Choose a model from runs, and say why, how sure that is, and what would change it.

    Sends nothing. The exit code is 1 if no candidate meets the requirements.
    """
    flags = options.flags()
    file = None if options.policy is None else read_policy(options.policy)
    read = read_runs(runs)
    data = decide(read, policy_of(read[-1].manifest.scenario.select, file, flags))
    show_selection(data, out, printing.output)
    verdict = data.selection.decision.verdict
    failed = verdict == "none" or (require_clear and verdict != "recommended")
    raise typer.Exit(ExitCode.GATE_FAILED if failed else ExitCode.DONE)


def policy_before_run(plan: Plan, output: Output) -> Policy:
    """The policy of the scenario, by which `run --select` chooses. Raises InputError, before anything is sent, if no
    run of the plan can be judged by it."""
    scenario = plan.scenario
    level, played = scenario.select.level, dict.fromkeys(stage.level.label for stage in plan.stages)
    if level is not None and level not in played:
        raise InputError(f"--select: select.level: {level} is not played; choose from {', '.join(played)}")
    policy = policy_of(scenario.select)
    if not scenario.keep_text and output == "text":
        tell("loadgen: keep_text is off, so the choice leaves quality out; --set keep_text=true keeps the answers")
    return policy


def select_after_run(folders: Sequence[Path], policy: Policy, results: Path, output: Output) -> ExitCode:
    """Choose one of the models of runs that were just played; returns how that ends."""
    data = decide(read_runs(folders), policy)
    show_selection(data, results, output)
    return ExitCode.GATE_FAILED if data.selection.decision.verdict == "none" else ExitCode.DONE


def show_selection(data: SelectionData, results: Path, output: Output) -> None:
    """Print a selection, and keep its files in a new folder under results/selections."""
    match output:
        case "json":
            show_json(msgspec.to_builtins(data.selection))
        case "text":
            print_text(selection_text(data.selection, screen()))
        case "nothing":
            pass
    written = write_selection(data, results, utc_now())
    if written.unwritten:
        tell(f"loadgen: {written.folder}: not written: {', '.join(written.unwritten)} ({written.reason})")
    elif output == "text":
        print_text(f"selection: {written.folder / 'selection.html'} (and benchmark_report.md, selection.json)\n")
