"""The command line: the verbs, and what becomes of an error. What a verb does is in the module of its name."""

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
from loadgen.errors import ExitCode, LoadgenError
from loadgen.redact import guard_tracebacks

VERBS: Final = {
    "run": "Play a scenario, write a run folder, print the table.",
    "plan": "Print every request and when it is due, and send nothing.",
    "scenarios": "List the scenarios that you can run.",
    "init": "Write a commented scenario to start from.",
    "report": "Make the reports of runs again, from their folders alone.",
    "compare": "Say whether NEW is worse than BASE, and how sure that is.",
    "capacity": "Search the most users, or the highest rate, within the SLO, and say how sure that is.",
    "models": "Print the model cards of the targets.",
    "calibrate": "Measure how far measurements on this machine can be trusted.",
    "mock": "Start a scripted server for testing clients.",
    "serve": "Start the embedded server, print its URL, stop on Ctrl-C.",
}
"""Each verb and what it does. `loadgen.cli.VERB` has a function of that name, whose docstring begins with that line; it
is imported when the verb is used, so that none waits for what the others need."""

_STYLE: Final[dict[str, Any]] = {"rich_markup_mode": None, "pretty_exceptions_enable": False}
_PARSER_NARROWEST: Final = 52
"""The parser sets help in no fewer columns by itself."""
_UsageError: Any = typer.BadParameter.__base__
"""What the parser raises for a wrong command line; typer exports only this descendant of it."""


class VerbCommands(Mapping[str, Any]):
    """The parser's command of each verb, made of the verb's module when it is asked for."""

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
    """All verbs: their help is a list that needs none of their modules."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.commands: Any = VerbCommands()

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(VERBS.items()))


def _function_of(verb: str) -> Callable[..., None]:
    """The function of a verb, of a module that is imported now."""
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
    """The entry point. Whatever a person must act on is one line on standard error."""
    # The interpreter looks for garbage once more before it ends, through all modules: as long as numpy takes to import.
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
    """Do what the command line says; the exit code."""
    try:
        with _hang_ups_interrupt():
            code = app(prog_name=_program_name(sys.argv[1:]), standalone_mode=False, **_narrow_help())
    except LoadgenError as error:
        tell(f"loadgen: {error}")
        return error.exit_code
    except _UsageError as error:
        if isinstance(error, typer.BadParameter) or not str(error).startswith("Usage"):
            hint = f"; see `{error.ctx.command_path} --help`" if getattr(error, "ctx", None) else ""
            tell(f"loadgen: {error.format_message().rstrip('.')}{hint}")
        else:
            print_text(f"{error.format_message()}\n")
        return ExitCode.BAD_INPUT
    except (KeyboardInterrupt, typer.Abort):
        return ExitCode.INTERRUPTED
    return code if isinstance(code, int) else ExitCode.DONE


@contextlib.contextmanager
def _hang_ups_interrupt() -> Iterator[None]:
    """While the context lasts, SIGTERM and SIGHUP end the command, and what it has started, as Ctrl-C does.

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
    """The width of help on a terminal that is narrower than the parser thinks possible."""
    columns = shutil.get_terminal_size().columns
    return {"terminal_width": max(columns, NARROWEST)} if columns < _PARSER_NARROWEST else {}


def _program_name(arguments: list[str]) -> str | None:
    """What a shell is to complete, also where the flag was given to `python -m loadgen`: a completion of those words
    would take the place of the one that the shell has for `python`. None: as the program was called."""
    completion = any(argument.startswith(("--install-completion", "--show-completion")) for argument in arguments)
    return "loadgen" if completion else None
