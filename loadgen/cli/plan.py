"""The verb `plan`: prints what `run` would send."""

from typing import Annotated

import typer

from loadgen import api
from loadgen.cli.options import RESULTS, Out, ScenarioOptions, expand_options
from loadgen.cli.streams import print_text, tell
from loadgen.cli.terminal import screen, show_json
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
        show_json(plan_data(planned))
    else:
        for note in planned.notes:
            tell(f"loadgen: {note}")
        pace = api.last_pace(out, planned.scenario.name)
        print_text(plan_table(planned, pace, screen()))
