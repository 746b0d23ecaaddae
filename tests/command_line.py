"""The command line played in this process: what `python -m loadgen` does, without the CPU time of a new interpreter.

A test takes a process of its own instead where the process is what it tests: its signals, its death, its streams, its
limits, or what it imports.
"""

import io
import os
import sys
from contextlib import redirect_stderr, redirect_stdout
from subprocess import CompletedProcess

import pytest

from loadgen.cli import app


def run_command(*arguments: object) -> CompletedProcess[str]:
    """Play `loadgen ARGUMENTS` to its end. Where it runs and with which variables is what this process has."""
    words = ["loadgen", *map(str, arguments)]
    out, err = io.StringIO(), io.StringIO()
    with (
        pytest.MonkeyPatch.context() as patch,
        redirect_stdout(out),
        redirect_stderr(err),
        pytest.raises(SystemExit) as ended,
    ):
        patch.setattr(sys, "argv", words)
        app.main()
    assert isinstance(ended.value.code, int)
    return CompletedProcess(words, int(ended.value.code), out.getvalue(), err.getvalue())


SETTINGS = ("LOADGEN_", "OPENAI_", "BENCH_", "FOUNDRY_", "SSL_")
"""What the variables begin with that change what the command does."""


def without_settings(patch: pytest.MonkeyPatch) -> None:
    """Take away what the person who runs the tests has set."""
    for name in [name for name in os.environ if name.startswith(SETTINGS)]:
        patch.delenv(name)
