"""What a verb needs to know of the terminal, and the progress that it shows there."""

import contextlib
import os
import shutil
import sys
from collections.abc import Iterator
from typing import Final

from loadgen.cli.options import Output
from loadgen.live.progress import Progress, Silence

UNBOUND: Final = 400
"""The width where nothing is to be cut off: of a list that goes to a file or another program."""


def terminal_width(without: int = 150) -> int:
    """Columns of the terminal; where there is none `without`, which is wide enough for every column of the table."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else without


@contextlib.contextmanager
def progress_on_terminal(output: Output) -> Iterator[Progress]:
    """A progress bar on standard error, for people who look at it; else a progress that says nothing."""
    if output != "text" or not (sys.stderr.isatty() or os.environ.get("FORCE_COLOR")):
        yield Silence()
        return
    from loadgen.live.bar import Bar  # rich takes a while to import, and only a terminal needs it

    with Bar() as bar:
        yield bar
