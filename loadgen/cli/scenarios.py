"""The verb `scenarios`: what there is to play."""

import sys
import textwrap
from typing import Annotated

import msgspec
import typer

from loadgen.cli.terminal import terminal_width
from loadgen.redact import printable
from loadgen.scenario.file import ScenarioEntry, list_scenarios

NARROWEST = 20
"""A description is not set in fewer columns, however narrow the terminal is."""
LONGEST_NAME = 32
"""A longer name has a line to itself, so that one does not move the descriptions of all."""


def scenarios(
    as_json: Annotated[bool, typer.Option("--json", help="Print name, file and description of each, as JSON.")] = False,
) -> None:
    """List the scenarios that you can run.

    These are the ones in the current folder's scenarios/ and the ones that come with loadgen. If two have the same
    name, the one in the current folder is used.
    """
    entries = list_scenarios()
    if as_json:
        from loadgen.report.console import json_text

        sys.stdout.write(json_text(msgspec.to_builtins(entries)))
    elif entries:
        typer.echo(scenarios_text(entries, width=terminal_width(without=80)))
    else:
        typer.echo("there are none; `loadgen init NAME` writes one to begin with", err=True)


def scenarios_text(entries: list[ScenarioEntry], *, width: int) -> str:
    """A line for each scenario, or a few where its description is longer than the terminal is wide."""
    indent = min(max(len(printable(entry.name)) for entry in entries), LONGEST_NAME) + 2
    return "\n".join(_entry_text(entry, indent=indent, width=max(width, indent + NARROWEST)) for entry in entries)


def _entry_text(entry: ScenarioEntry, *, indent: int, width: int) -> str:
    name = printable(entry.name)
    text = printable(entry.problem or entry.description)
    fits = len(name) + 2 <= indent
    first = name.ljust(indent) if fits else " " * indent
    described = textwrap.fill(text, width=width, initial_indent=first, subsequent_indent=" " * indent)
    return "\n".join(line for line in ([described or name] if fits else [name, described]) if line)
