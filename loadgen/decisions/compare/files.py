"""Writes a comparison into a folder: `comparison.json`, `comparison.md` and `comparison.html`."""

from collections.abc import Callable
from pathlib import Path

from msgspec import Struct

from loadgen.decisions.compare.comparison import Comparison
from loadgen.decisions.compare.document import comparison_document
from loadgen.decisions.compare.markdown import comparison_markdown
from loadgen.decisions.compare.sides import Sides
from loadgen.report.html import html
from loadgen.store import files


class WrittenFiles(Struct, frozen=True):
    """The folder with the files of a comparison, and which of them could not be written."""

    folder: Path
    unwritten: tuple[str, ...] = ()
    reason: str = ""


def write_comparison(comparison: Comparison, sides: Sides, folder: Path, command: str) -> WrittenFiles:
    """Write a comparison into a folder: that of NEW's first run, or that of both variants. command: the command line
    that made the comparison."""
    contents: dict[str, Callable[[], bytes]] = {
        "comparison.json": lambda: files.json_document(comparison),
        "comparison.md": lambda: comparison_markdown(comparison, command).encode(),
        "comparison.html": lambda: html(comparison_document(comparison, sides)),
    }
    unwritten, reason = files.write_all(folder, contents)
    return WrittenFiles(folder, unwritten, reason)
