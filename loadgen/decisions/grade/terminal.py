"""Grading in a terminal: shows the questions of a session, and reads what the grader types. Knows no file."""

from collections.abc import Callable, Iterator
from datetime import datetime

from loadgen.decisions.grade.notes import HIGHEST, LOWEST, Note
from loadgen.decisions.grade.session import KEYS, GradeQuestion, GradingSession
from loadgen.decisions.grade.sheet import Sheet
from loadgen.redact import printable
from loadgen.report.text_table import wrap

ReadLine = Callable[[str], str | None]
"""Shows a prompt, and returns what was typed; None at the end of the input."""


def grade_in_terminal(
    sheet: Sheet,
    session: GradingSession,
    *,
    read: ReadLine,
    write: Callable[[str], None],
    append: Callable[[Note], None],
    clock: Callable[[], datetime],
    width: int | None,
) -> None:
    """Ask the questions of a session until its end, or until the grader quits. Each note is handed to `append` at once,
    so that nothing is lost if the program is killed.

    width: of the lines; None: not wrapped.
    """
    shown: GradeQuestion | None = None
    while (question := session.question) is not None:
        write("".join(f"{line}\n" for line in _lines(sheet, session, question, shown, width)))
        shown = question
        typed = read(f"{question.aspect} ({sheet.aspects[question.aspect]}): ")
        match None if typed is None else typed.strip().lower():
            case None | "q":
                break
            case "b":
                if not session.go_back():
                    write("this is the first question\n")
            case "s":
                session.skip()
            case number if (
                number is not None and number.isascii() and number.isdigit() and (LOWEST <= int(number) <= HIGHEST)
            ):
                append(session.note(int(number), clock().isoformat(timespec="milliseconds")))
            case other:
                write(f"{printable(other or '')!r} is none of: {KEYS}\n")
    write(f"\n{session.graded} of {len(sheet.answers)} answers are graded\n")


def _lines(
    sheet: Sheet, session: GradingSession, question: GradeQuestion, shown: GradeQuestion | None, width: int | None
) -> Iterator[str]:
    """What is new to a grader who sees one question after another."""
    answer = question.answer
    if shown is not None and shown.answer == answer:
        return
    if shown is None:
        yield KEYS
    if shown is None or shown.answer.prompt != answer.prompt:
        yield ""
        yield f"=== {printable(answer.prompt.id)} ==="
        yield from _wrapped(answer.prompt.text, width)
        if answer.prompt.key_points:
            yield ""
            yield "A good answer says:"
            for point in answer.prompt.key_points:
                yield from wrap(f"- {printable(point)}", width, "  ")
    yield ""
    yield f"--- an answer ({session.graded} of {len(sheet.answers)} graded) ---"
    yield from _wrapped(answer.text, width)
    yield ""


def _wrapped(text: str, width: int | None) -> Iterator[str]:
    """A text of several lines, each wrapped. Its control characters are made visible."""
    for line in text.strip().splitlines():
        yield from wrap(printable(line.expandtabs(4)), width) or [""]
