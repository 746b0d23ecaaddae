"""The properties of the terminal, and the progress that is shown there.

The modules that draw are imported when there is something to draw, so that the first request does not wait for them.
"""

import contextlib
import os
import shutil
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, TextIO

from loadgen.cli.options import Output
from loadgen.cli.streams import NARROWEST, print_text, tell
from loadgen.live.lines import progress_lines
from loadgen.live.progress import Progress, Silence

if TYPE_CHECKING:
    from loadgen.report.text_table import Screen


def screen() -> "Screen":
    """Standard output as a screen, with the width of the terminal or of COLUMNS; unlimited in a file or a pipe."""
    from loadgen.report.text_table import Screen

    is_terminal = sys.stdout.isatty()
    width = shutil.get_terminal_size((0, 0)).columns if is_terminal or "COLUMNS" in os.environ else 0
    is_plain = not is_terminal or bool(os.environ.get("NO_COLOR")) or os.environ.get("TERM") == "dumb"
    return Screen(
        width=max(width, NARROWEST) if width else 80 if is_terminal else None,
        style="plain" if is_plain else "color",
        encoding=_encoding(sys.stdout),
    )


def show_json(value: Any) -> None:
    """Print a value as JSON on standard output."""
    from loadgen.report.console import json_text

    print_text(json_text(value, _encoding(sys.stdout)))


def _encoding(stream: TextIO) -> str:
    return getattr(stream, "encoding", None) or "utf-8"


@contextlib.contextmanager
def progress_on_terminal(output: Output) -> Iterator[Progress]:
    """A progress bar on standard error; one line per minute if it is not a terminal that can draw a bar."""
    if output != "text":
        yield Silence()
    elif sys.stderr.isatty() and os.environ.get("TERM") != "dumb":
        from loadgen.live.bar import Bar  # rich takes a while to import, and only a terminal needs it

        with Bar() as bar:
            yield bar
    else:
        with progress_lines(tell) as lines:
            yield lines
