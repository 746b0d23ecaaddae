"""The verb `calibrate`: plays known schedules, prints how far this machine can be trusted, and stores the result."""

from typing import Annotated

import msgspec
import typer

from loadgen.calibrate.loads import QUICK, USUAL, LoadStep
from loadgen.calibrate.measure import calibrate as calibrate_machine
from loadgen.calibrate.text import calibration_text
from loadgen.cli.options import Output, OutputOptions, expand_options
from loadgen.cli.streams import print_text, tell
from loadgen.cli.terminal import progress_on_terminal, screen, show_json
from loadgen.errors import InputError
from loadgen.store.calibration import Calibration, keep, stored, usual_place


@expand_options
def calibrate(
    *,
    quick: Annotated[bool, typer.Option("--quick", help="Fewer and shorter loads: 20 s instead of a minute.")] = False,
    show: Annotated[bool, typer.Option("--show", help="Print the stored result, and measure nothing.")] = False,
    printing: OutputOptions,
) -> None:
    """Measure how far measurements on this machine can be trusted.

    The result is stored, and later runs quote it.
    """
    if show:
        if quick:
            raise InputError("--show: it measures nothing, so --quick does not apply; leave one of them out")
        _print(_stored(), printing.output)
        return
    calibration = _measure(QUICK if quick else USUAL, printing.output)
    _print(calibration, printing.output)  # first: it may be that it cannot be kept
    place = usual_place()
    keep(calibration, place)
    if printing.output != "json":
        print_text(f"stored in {place}\n")


def _stored() -> Calibration:
    stored_one = stored()
    if stored_one.calibration is None:
        raise InputError(stored_one.remark or f"{usual_place()}: no calibration is stored; run `loadgen calibrate`")
    return stored_one.calibration


def _measure(loads: tuple[LoadStep, ...], output: Output) -> Calibration:
    try:
        with progress_on_terminal(output) as bar:

            def progress(title: str, done: int, of: int) -> None:
                bar.begin(f"calibrating: {title}", done, of)

            return calibrate_machine(loads, progress)
    except KeyboardInterrupt:
        tell("loadgen: stopped; the stored calibration is unchanged")
        raise


def _print(calibration: Calibration, output: Output) -> None:
    if output == "json":
        show_json(msgspec.to_builtins(calibration))
    elif output == "text":
        print_text(calibration_text(calibration, screen()))
