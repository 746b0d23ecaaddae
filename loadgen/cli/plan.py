"""The verb `plan`: prints what `run` would send."""

from typing import Annotated

import typer

from loadgen import api
from loadgen.cli.options import RESULTS, Out, Output, RepeatOptions, ScenarioOptions, expand_options
from loadgen.cli.streams import print_text, tell
from loadgen.cli.terminal import screen, show_json
from loadgen.cli.versus_plans import plans_of_variants
from loadgen.decisions.versus.order import BLOCKS
from loadgen.decisions.versus.words import variant_data, variant_lines
from loadgen.report.console import lines_text
from loadgen.report.plan_text import plan_data, plan_table


@expand_options
def plan(
    *,
    options: ScenarioOptions,
    repetition: RepeatOptions,
    out: Out = RESULTS,
    as_json: Annotated[bool, typer.Option("--json", help="Print every request with its due time, as JSON.")] = False,
) -> None:
    """Print every request and when it is due, and send nothing."""
    output: Output = "json" if as_json else "text"
    variant = repetition.variant
    if variant is None:
        planned = api.plan_of(options.load(output))
        repeats = repetition.repeats or 1
        lines, more = ([f"all of it {repeats} times"] if repeats > 1 else []), {}
    else:
        planned, new = plans_of_variants(options, variant, repetition, output)
        blocks = repetition.repeats or BLOCKS
        lines = list(variant_lines(planned, new, blocks))
        more = {"versus": variant_data(planned, new, blocks)}
    if as_json:
        show_json(plan_data(planned) | more)
    else:
        for remark in planned.remarks:
            tell(f"loadgen: {remark}")
        pace = api.last_pace(out, planned.scenario.name)
        print_text(plan_table(planned, pace, screen()) + lines_text(lines, screen()))
