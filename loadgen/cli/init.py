"""The verb `init`: a commented scenario to begin with."""

from typing import Annotated

import typer

from loadgen.scenario.starter import write_starter


def init(
    name: Annotated[str, typer.Argument(metavar="NAME", help="What to call it: letters, digits and . _ -")],
) -> None:
    """Write a commented scenario to begin with.

    It goes into the folder scenarios, or the current one where there is none; no file is written over.
    """
    path = write_starter(name)
    typer.echo(f"wrote {path}; `loadgen plan {name}` shows what it sends")
