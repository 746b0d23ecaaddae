"""The verb `calibrate`: plays known schedules, prints how far this machine is to be trusted, and keeps it."""

import sys
from typing import Annotated, Final

import msgspec
import orjson
import typer

from loadgen.calibrate.loads import QUICK, USUAL
from loadgen.calibrate.measure import calibrated
from loadgen.calibrate.text import calibration_text
from loadgen.errors import InputError
from loadgen.live.bar import Bar
from loadgen.redact import printable
from loadgen.report.console import terminal_width
from loadgen.store.calibration import Calibration, keep, stored, usual_place

WIDEST: Final = 400
"""Where there is no terminal, nothing is cut off."""


def calibrate(
    quick: Annotated[bool, typer.Option("--quick", help="Fewer and shorter loads: 20 s in place of a minute.")] = False,
    show: Annotated[bool, typer.Option("--show", help="Print what is stored, and measure nothing.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress and no table.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="The result as JSON on standard output.")] = False,
) -> None:
    """Measure how far this machine's own measurements can be trusted, and keep the result for later runs."""
    if show:
        if quick:
            raise InputError("--show: measures nothing, so it cannot be quick; leave one of --show and --quick out")
        found = stored()
        if found.calibration is None:
            note = found.note or f"{usual_place()}: no calibration is stored; run `loadgen calibrate`"
            raise InputError(note)
        _print(found.calibration, quiet=quiet, as_json=as_json)
        return
    calibration = _measured(quick=quick, quiet=quiet or as_json)
    place = usual_place()
    keep(calibration, place)
    _print(calibration, quiet=quiet, as_json=as_json)
    if not as_json:
        typer.echo(f"kept in {place}")


def _measured(*, quick: bool, quiet: bool) -> Calibration:
    try:
        with Bar(quiet=quiet) as bar:

            def progress(what: str, done: int, of: int) -> None:
                bar.stage(f"calibrating: {what}", of, None)
                bar.counts(done, 0)

            return calibrated(QUICK if quick else USUAL, progress)
    except KeyboardInterrupt:
        typer.echo("loadgen: stopped; what was stored before is as it was", err=True)
        raise


def _print(calibration: Calibration, *, quiet: bool, as_json: bool) -> None:
    if as_json:
        told = msgspec.to_builtins(calibration)
        sys.stdout.write(orjson.dumps(told, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE).decode())
    elif not quiet:
        width = terminal_width() if sys.stdout.isatty() else WIDEST
        typer.echo("\n".join(map(printable, calibration_text(calibration, width=width).split("\n"))), nl=False)
