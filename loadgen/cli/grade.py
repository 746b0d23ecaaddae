"""The verb `grade`: notes from 1 to 5 on the answers of runs, blind to the model."""

import contextlib
import sys
from pathlib import Path
from typing import Annotated, Final

import msgspec
import typer

from loadgen.cli.grade_judge import JudgeOptions, ask_judge
from loadgen.cli.options import expand_options
from loadgen.cli.streams import print_text, tell
from loadgen.cli.terminal import screen, show_json
from loadgen.clock import utc_now
from loadgen.decisions.candidates.runs import SelectRun, read_runs
from loadgen.decisions.grade.judges_file import read_judgings
from loadgen.decisions.grade.notes import NAME_RULE, Note, append_notes, is_grader, read_notes
from loadgen.decisions.grade.session import GradingSession
from loadgen.decisions.grade.sheet import SAMPLE, Sheet, sheet_of
from loadgen.decisions.grade.sheet_files import read_sheet, sheet_csv, sheet_page
from loadgen.decisions.grade.status import GradingStatus, status_lines, status_of
from loadgen.decisions.grade.terminal import grade_in_terminal
from loadgen.errors import InputError
from loadgen.report.console import lines_text
from loadgen.store import files

PAGES: Final = (".html", ".htm")


@expand_options
def grade(
    *,
    runs: Annotated[
        list[Path], typer.Argument(metavar="RUN...", help="A run folder, or a scenario's folder (its newest run).")
    ],
    by: Annotated[str | None, typer.Option("--by", metavar="NAME", help="The name of the grader.")] = None,
    sample: Annotated[
        int, typer.Option("--sample", metavar="N", min=1, help="How many prompts are graded, of every model.")
    ] = SAMPLE,
    export: Annotated[
        Path | None,
        typer.Option("--export", metavar="FILE", help="Write the sheet for somebody else: FILE.csv or FILE.html."),
    ] = None,
    import_: Annotated[
        Path | None, typer.Option("--import", metavar="FILE", help="Read the notes of a sheet: FILE.csv or FILE.json.")
    ] = None,
    status: Annotated[bool, typer.Option("--status", help="Show who graded how much, and how far they agree.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="With --status: print it as JSON.")] = False,
    judging: JudgeOptions,
) -> None:
    """Give notes from 1 to 5 to the answers of runs, blind to the model.

    Without --export, --import, --status or --judge, it asks in the terminal. Each note is saved at once, and a grader
    who comes back goes on where they stopped. A judge is tested first; the exit code is 1 if it cannot tell good
    answers from bad, or gives no verdict on more than a tenth, and 3 if it cannot be reached.
    """
    judge = judging.address
    asked = {
        "--export": export is not None,
        "--import": import_ is not None,
        "--status": status,
        "--judge": judge is not None,
    }
    _check_flags(by, export, [flag for flag, is_asked in asked.items() if is_asked], as_json=as_json)
    read = read_runs(runs)
    sheet = sheet_of(read, sample)
    if status:
        _show_status(read, sheet, as_json=as_json)
    elif export is not None:
        _export(sheet, export, by or "")
    elif import_ is not None:
        _import(read, sheet, import_, by)
    elif judge is not None:
        ask_judge(read, sheet, judging, judge)
        print_text(lines_text(status_lines(_status_of(read, sheet)), screen()))
    else:
        assert by is not None
        _ask(read, sheet, by)


def _check_flags(by: str | None, export: Path | None, actions: list[str], *, as_json: bool) -> None:
    """actions: the flags that say what is done instead of grading in the terminal."""
    if len(actions) > 1:
        raise InputError(f"{' and '.join(actions)}: give one of them at a time")
    if not actions and by is None:
        raise InputError(
            "who grades? give --by NAME to grade in the terminal, or --export, --import, --status or --judge"
        )
    if by is not None and not is_grader(by):
        raise InputError(f"--by {by!r}: {NAME_RULE}")
    if as_json and "--status" not in actions:
        raise InputError("--json goes with --status; add it, or leave --json out")
    if by is not None and "--judge" in actions:
        raise InputError("--by names a person, and --judge a model; leave one of them out")
    if export is not None and export.suffix.lower() not in (".csv", *PAGES):
        raise InputError(f"--export {export}: a sheet is FILE.csv or FILE.html; give one of these endings")


def _show_status(runs: tuple[SelectRun, ...], sheet: Sheet, *, as_json: bool) -> None:
    state = _status_of(runs, sheet)
    if as_json:
        show_json(msgspec.to_builtins(state))
    else:
        print_text(lines_text(status_lines(state), screen()))


def _status_of(runs: tuple[SelectRun, ...], sheet: Sheet) -> GradingStatus:
    folders = [run.folder for run in runs]
    return status_of(sheet, read_notes(folders), read_judgings(folders))


def _export(sheet: Sheet, path: Path, by: str) -> None:
    if path.is_file():
        raise InputError(f"--export {path}: is already there, perhaps with notes; give another name, or remove it")
    if path.suffix.lower() in PAGES:
        content = sheet_page(sheet, by).encode()
    else:
        content = sheet_csv(sheet, by).encode("utf-8-sig")  # without its mark, Excel takes UTF-8 for a local code page
    try:
        files.write_to(path, content)
    except OSError as error:
        raise InputError(f"--export {path}: cannot be written ({error.strerror}); give another place") from error
    print_text(f"{path}: {len(sheet.answers)} answers to {len(sheet.prompts)} prompts\n")


def _import(runs: tuple[SelectRun, ...], sheet: Sheet, path: Path, by: str | None) -> None:
    notes = read_sheet(path, sheet, by, utc_now().isoformat(timespec="milliseconds"))
    _append(sheet, notes)
    print_text(f"{path}: {len(notes)} notes imported\n")
    print_text(lines_text(status_lines(_status_of(runs, sheet)), screen()))


def _ask(runs: tuple[SelectRun, ...], sheet: Sheet, by: str) -> None:
    session = GradingSession(sheet, by, read_notes(run.folder for run in runs))
    with contextlib.suppress(KeyboardInterrupt):
        grade_in_terminal(
            sheet,
            session,
            read=_read_line,
            write=print_text,
            append=lambda note: _append(sheet, (note,)),
            clock=utc_now,
            width=screen().width,
        )
    print_text(lines_text(status_lines(_status_of(runs, sheet)), screen()))


def _append(sheet: Sheet, notes: tuple[Note, ...]) -> None:
    """Write notes to the folders of the runs in which their answers were given."""
    folders = {answer.answer: answer.folders for answer in sheet.answers}
    for folder in sorted({folder for note in notes for folder in folders[note.answer]}):
        append_notes([note for note in notes if folder in folders[note.answer]], [folder])


def _read_line(prompt: str) -> str | None:
    print_text(prompt)
    sys.stdout.flush()
    if sys.stdin is None:
        tell("loadgen: there is no standard input; grade in a terminal, or with --export and --import")
        return None
    return sys.stdin.readline() or None
