"""The verb `init`: writes a commented scenario to start from."""

from typing import Annotated

import typer

from loadgen.cli.streams import print_text
from loadgen.scenario.starter import write_starter


def init(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of the scenario: letters, digits and . _ -")],
) -> None:
    """Write a commented scenario to start from.

    The file goes into the folder scenarios/, or into the current folder if there is none. An existing file is never
    overwritten.
    """
    path = write_starter(name)
    print_text(f"wrote {path}; `loadgen plan {path.stem}` shows what it sends\n")
