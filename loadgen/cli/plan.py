"""The verb `plan`: prints what `run` would send."""

import sys
from typing import Annotated

import typer

from loadgen import api
from loadgen.cli.options import RESULTS, Out, ScenarioOptions, expand_options
from loadgen.cli.terminal import terminal_width
from loadgen.report.console import json_text
from loadgen.report.plan_text import plan_data, plan_table


@expand_options
def plan(
    *,
    options: ScenarioOptions,
    out: Out = RESULTS,
    as_json: Annotated[bool, typer.Option("--json", help="Print every request with its due time, as JSON.")] = False,
) -> None:
    """Print what would be sent and when, and send nothing."""
    planned = api.plan_of(options.load("json" if as_json else "text"))
    if as_json:
        sys.stdout.write(json_text(plan_data(planned)))
    else:
        pace = api.last_pace(out, planned.scenario.name)
        typer.echo(plan_table(planned, pace, width=terminal_width()), nl=False)
