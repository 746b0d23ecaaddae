"""The verb `scenarios`: lists the scenarios that can be played."""

from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from loadgen.cli.streams import print_text, tell
from loadgen.cli.terminal import screen, show_json
from loadgen.scenario.file import ScenarioEntry, list_scenarios

if TYPE_CHECKING:
    from loadgen.report.text_table import Screen

NARROWEST_TEXT = 20
"""The smallest width of a description, however narrow the terminal is."""
LONGEST_NAME = 32
"""A longer name gets its own line, so that it does not move all descriptions to the right."""


def scenarios(
    as_json: Annotated[bool, typer.Option("--json", help="Print name, file and description of each, as JSON.")] = False,
) -> None:
    """List the scenarios that you can run.

    These are the ones in the current folder's scenarios/ and the ones that come with loadgen. If two have the same
    name, the one in the current folder is used.
    """
    entries = list_scenarios()
    if as_json:
        show_json(msgspec.to_builtins(entries))
    elif entries:
        print_text(scenarios_text(entries, screen()))
    else:
        tell("there are no scenarios; `loadgen init NAME` writes one to start from")


def scenarios_text(entries: list[ScenarioEntry], screen: "Screen") -> str:
    """One line for each scenario, or several if its description does not fit the width of the screen."""
    indent = min(max(len(screen.spelled(entry.name)) for entry in entries), LONGEST_NAME) + 2
    return "".join(f"{line}\n" for entry in entries for line in _entry_lines(entry, indent, screen))


def _entry_lines(entry: ScenarioEntry, indent: int, screen: "Screen") -> list[str]:
    from loadgen.report.text_table import wrap

    name = screen.spelled(entry.name)
    width = None if screen.width is None else max(screen.width - indent, NARROWEST_TEXT)
    described = wrap(screen.spelled(entry.problem or entry.description), width)
    if len(name) + 2 <= indent:
        first, *rest = described
        return [f"{name:<{indent}}{first}".rstrip(), *(" " * indent + line for line in rest)]
    return [name, *(" " * indent + line for line in described if line)]
