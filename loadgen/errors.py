"""Errors that the user must act on. Each is one line: what is wrong, where, and how to fix it.

    LoadgenError            exit code
    ├── InputError          2   a file, a key, a flag or an environment variable is wrong; nothing was sent
    ├── FolderError         2   a run folder can no longer be written; what was measured until then is kept
    └── TargetError         3   no target could be used

A failed request is data (`loadgen.record.Outcome`) and never one of these errors. A `SinkError` is a bug in a sink. Any
other exception is a bug in loadgen.
"""

from enum import IntEnum
from pathlib import Path


class ExitCode(IntEnum):
    """The exit codes of the command line; there are no others."""

    DONE = 0
    GATE_FAILED = 1
    BAD_INPUT = 2
    NO_TARGET = 3
    INTERRUPTED = 130


class LoadgenError(Exception):
    """The user must act. `str(error)` is one line without a trailing newline."""

    exit_code: ExitCode = ExitCode.BAD_INPUT

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))


class InputError(LoadgenError):
    """A file, a key, a flag or an environment variable is wrong. Nothing was sent."""

    exit_code = ExitCode.BAD_INPUT


class FolderError(LoadgenError):
    """A run folder can no longer be written: a full disk, or the folder is gone. What is in it is kept."""

    exit_code = ExitCode.BAD_INPUT

    def __init__(self, message: str, folder: Path) -> None:
        super().__init__(message)
        self.folder = folder


class SinkError(Exception):
    """A sink that a program passed in has raised; `__cause__` is what it raised. The run has ended; what was measured
    is in its folder."""

    def __init__(self, sink: object, method: str, error: Exception) -> None:
        super().__init__(f"{type(sink).__name__}.{method} raised {type(error).__name__}: {error}")


class TargetError(LoadgenError):
    """A server or a model cannot be used. problem: one word of a closed set; remedy: how to fix it."""

    exit_code = ExitCode.NO_TARGET

    def __init__(self, message: str, *, problem: str = "unusable", remedy: str | None = None) -> None:
        super().__init__(message if remedy is None else f"{message}; {remedy}")
        self.message, self.problem, self.remedy = message, problem, remedy
