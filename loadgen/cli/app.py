"""The command line: the verbs, and the handling of errors. Each verb has a module of its name."""

import atexit
import contextlib
import gc
import importlib
import shutil
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any, Final, NoReturn

import typer
from typer.core import TyperGroup

from loadgen.cli.signals import handled_by, hang_ups
from loadgen.cli.streams import NARROWEST, guarded_streams, print_text, tell
from loadgen.cli.usage import usage_text
from loadgen.errors import ExitCode, LoadgenError
from loadgen.redact import guard_tracebacks

VERBS: Final = {
    "run": "Play a scenario, write a run folder, print the table.",
    "plan": "Print every request and when it is due, and send nothing.",
    "scenarios": "List the scenarios that you can run.",
    "init": "Write a commented scenario to start from.",
    "report": "Make the reports of runs again, from their folders alone.",
    "grade": "Give notes from 1 to 5 to the answers of runs, blind to the model.",
    "compare": "Say whether NEW is worse than BASE, and how sure that is.",
    "capacity": "Search the most users, or the highest rate, within the SLO, and say how sure that is.",
    "soak": "Play one level for hours, and say whether the device drifted.",
    "select": "Choose a model from runs, and say why, how sure that is, and what would change it.",
    "history": "Say what changed over the nights of a scenario, since when, and between which builds.",
    "models": "Print the model cards of the targets.",
    "calibrate": "Measure how far measurements on this machine can be trusted.",
    "mock": "Start a scripted server for testing clients.",
    "serve": "Start the embedded server, print its URL, stop on Ctrl-C.",
}
"""Each verb and its description. `loadgen.cli.VERB` has a function of that name, whose docstring begins with the
description. The module is imported when the verb is used, so that no verb waits for the imports of another."""

_STYLE: Final[dict[str, Any]] = {"rich_markup_mode": None, "pretty_exceptions_enable": False}
_PARSER_NARROWEST: Final = 52
"""The smallest width that the parser uses for help by itself."""
_UsageError: Any = typer.BadParameter.__base__
"""The parser's exception for a wrong command line; typer exports only a subclass of it."""


class VerbCommands(Mapping[str, Any]):
    """The parser's command of each verb, made from the verb's module on first use."""

    def __getitem__(self, name: str) -> Any:
        if name not in VERBS:
            raise KeyError(name)
        alone = typer.Typer(add_completion=False, **_STYLE)
        alone.command(name)(_function_of(name))
        return typer.main.get_command(alone)

    def __contains__(self, name: object) -> bool:
        return name in VERBS

    def __iter__(self) -> Iterator[str]:
        return iter(VERBS)

    def __len__(self) -> int:
        return len(VERBS)


class VerbGroup(TyperGroup):
    """The group of all verbs. Its help is a list that imports no verb's module."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.commands: Any = VerbCommands()

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(VERBS.items()))


def _function_of(verb: str) -> Callable[..., None]:
    """The function of a verb; imports its module."""
    from loadgen.wire.fast_imports import fast_imports  # `ssl` is more than help needs

    with fast_imports():
        return getattr(importlib.import_module(f"loadgen.cli.{verb}"), verb)  # type: ignore[no-any-return]


app = typer.Typer(name="loadgen", cls=VerbGroup, no_args_is_help=True, **_STYLE)


def _print_version(wanted: bool) -> None:
    if wanted:
        import importlib.metadata

        print_text(f"loadgen {importlib.metadata.version('loadgen')}\n")
        raise typer.Exit


@app.callback()
def loadgen(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Load-testing for language models on local and edge devices."""


def main() -> NoReturn:
    """The entry point. An error that the user must act on is one line on standard error."""
    # Before it ends, the interpreter collects garbage in all modules, which takes as long as importing numpy.
    atexit.register(gc.freeze)
    with guarded_streams() as streams:
        guard_tracebacks()
        code = _run_verb()
        failure = streams.output_failure()
        if failure is not None:
            tell(f"loadgen: the output is incomplete ({failure}); the measurements of a run are in its folder")
            code = code or ExitCode.BAD_INPUT
    sys.exit(code)


def _run_verb() -> int:
    """Run the command line; returns the exit code."""
    try:
        with _hang_ups_interrupt():
            code = app(prog_name=_program_name(sys.argv[1:]), standalone_mode=False, **_narrow_help())
    except LoadgenError as error:
        tell(f"loadgen: {error}")
        return error.exit_code
    except _UsageError as error:
        if isinstance(error, typer.BadParameter) or not str(error).startswith("Usage"):
            hint = f"; see `{error.ctx.command_path} --help`" if getattr(error, "ctx", None) else ""
            tell(f"loadgen: {usage_text(error, sys.argv[1:])}{hint}")
        else:
            print_text(f"{error.format_message()}\n")
        return ExitCode.BAD_INPUT
    except (KeyboardInterrupt, typer.Abort):
        return ExitCode.INTERRUPTED
    return code if isinstance(code, int) else ExitCode.DONE


@contextlib.contextmanager
def _hang_ups_interrupt() -> Iterator[None]:
    """While the context lasts, SIGTERM and SIGHUP end the command and its child processes, as Ctrl-C does.

    A verb that has something to finish takes all of them over (`loadgen.cli.interrupt`).
    """

    def interrupt(*_: object) -> None:
        # asyncio's own handler cancels the tasks; there is none where Ctrl-C is ignored, as it is behind a shell's `&`.
        if not callable(signal.getsignal(signal.SIGINT)):
            raise KeyboardInterrupt
        signal.raise_signal(signal.SIGINT)

    if threading.current_thread() is not threading.main_thread():  # where no handler can be set
        yield
        return
    with handled_by(interrupt, hang_ups()):
        yield


def _narrow_help() -> dict[str, int]:
    """The width of help on a terminal that is narrower than the parser's minimum."""
    columns = shutil.get_terminal_size().columns
    return {"terminal_width": max(columns, NARROWEST)} if columns < _PARSER_NARROWEST else {}


def _program_name(arguments: list[str]) -> str | None:
    """The program name for shell completion. For `python -m loadgen`, a completion of the called name would replace the
    shell's completion for `python`. None: the name by which the program was called."""
    completion = any(argument.startswith(("--install-completion", "--show-completion")) for argument in arguments)
    return "loadgen" if completion else None
