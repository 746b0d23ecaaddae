"""The compiled templates of pages. They escape every text, and remove control characters.

Compiling it takes longer than the rest of a short run's report, so the compiled form is stored like a compiled Python
module: beside its source, unless PYTHONPYCACHEPREFIX and PYTHONDONTWRITEBYTECODE say otherwise.
"""

import contextlib
import importlib.util
import marshal
import sys
from pathlib import Path
from typing import Final

import jinja2.compiler
from jinja2 import BytecodeCache, Environment, FileSystemLoader, StrictUndefined, Template
from jinja2.bccache import Bucket

from loadgen.redact import printable
from loadgen.store.files import write_whole

REPORT: Final = Path(__file__).with_name("page.html")
"""The template of a report's page."""
REMARKS_SHOWN: Final = 6
"""How many remarks are shown under a table; the others are folded away."""
MARKS: Final = {
    "valid": "✓",
    "degraded": "!",
    "invalid": "✕",
    "skipped": "–",
    "worse": "▲",
    "better": "▼",
    "same": "=",
    "unknown": "?",
    "degrading": "▲",
    "improving": "▼",
    "stable": "=",
    "not enough data": "?",
}
"""The symbol for each verdict on a stage, a figure or a series, for readers who do not see its color."""


def page_template(path: Path = REPORT) -> Template:
    """The template of a page, ready to be rendered."""
    environment = Environment(
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        finalize=_without_controls,
        loader=FileSystemLoader(path.parent),
        bytecode_cache=CompiledTemplate(path),
    )
    environment.globals.update(REMARKS_SHOWN=REMARKS_SHOWN, MARKS=MARKS, verdict_of=_verdict_of)
    return environment.get_template(path.name)


class CompiledTemplate(BytecodeCache):
    """Reads and writes the compiled template. If neither is possible, the template is compiled each time."""

    def __init__(self, template: Path) -> None:
        self.path = Path(importlib.util.cache_from_source(str(template)))

    def get_source_checksum(self, source: str) -> str:
        """A checksum of everything that the compiled template depends on: source, settings and compiler."""
        made_by = [Path(path).stat().st_mtime_ns for path in (__file__, jinja2.compiler.__file__)]
        return super().get_source_checksum(f"{source}{made_by}")

    def load_bytecode(self, bucket: Bucket) -> None:
        with contextlib.suppress(OSError, EOFError, ValueError, TypeError):
            checksum, _, code = self.path.read_bytes().partition(b"\n")
            if checksum == bucket.checksum.encode():
                bucket.code = marshal.loads(code)

    def dump_bytecode(self, bucket: Bucket) -> None:
        if not sys.dont_write_bytecode:
            with contextlib.suppress(OSError):
                write_whole(self.path, b"%s\n%s" % (bucket.checksum.encode(), marshal.dumps(bucket.code)))


def _without_controls(value: object) -> object:
    """A value without invisible control characters. Our own markup is unchanged."""
    return printable(value) if type(value) is str else value


def _verdict_of(cell: str) -> str:
    """The verdict at the start of a cell, up to a comma."""
    word = cell.partition(",")[0]
    return word if word in MARKS else "skipped"
