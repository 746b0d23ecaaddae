"""A sheet for somebody else: as CSV for a spreadsheet, as a page that works offline, and the notes that come back."""

import base64
import contextlib
import csv
import hashlib
import io
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta, Struct

from loadgen.decisions.grade.notes import HIGHEST, LONGEST_NAME, LOWEST, NAME_RULE, Note, is_grader
from loadgen.decisions.grade.session import note_of
from loadgen.decisions.grade.sheet import Sheet, SheetAnswer
from loadgen.errors import InputError
from loadgen.report.csv import csv_of

COLUMNS: Final = ("answer", "prompt_id", "key_points", "text", "aspect", "note", "by", "comment")
REQUIRED: Final = ("answer", "aspect", "note")
"""The columns that a sheet must have to be read."""
SCHEMA: Final = "loadgen.notes/1"
MAX_BYTES: Final = 64 << 20
MOST_FAULTS: Final = 3
"""How many faults of a sheet are named; the others are counted."""
_SHOWN_DIGITS: Final = 1e-5
"""How exactly a spreadsheet saves a large number, at least: 1.23457E+10."""
_NOTE: Final = re.compile(rf"([{LOWEST}-{HIGHEST}])(?:[.,]0+)?")
"""A note, also as spreadsheets write whole numbers: 4, 4.0 or 4,00."""


class PageNote(Struct, frozen=True):
    """A note as the page gives it back."""

    answer: str
    aspect: str
    note: Any
    comment: str = ""


class PageNotes(Struct, frozen=True, kw_only=True):
    """The file that the page gives back."""

    schema: str
    by: str = ""
    notes: Annotated[tuple[PageNote, ...], Meta(max_length=1_000_000)]


class _Row(Struct, frozen=True):
    """A note as it came in, unchecked, without spaces around its values."""

    place: str
    """Where it stands, for messages."""
    answer: str
    aspect: str
    note: str
    by: str
    comment: str


def sheet_csv(sheet: Sheet, by: str) -> str:
    """The sheet as CSV, in the grader's order: a row for each aspect of each answer, with `note` left blank."""
    return csv_of(
        [
            {
                "answer": answer.answer,
                "prompt_id": answer.prompt.id,
                "key_points": "\n".join(answer.prompt.key_points),
                "text": answer.text,
                "aspect": aspect,
                "note": "",
                "by": by,
                "comment": "",
            }
            for answer in sheet.order_for(by)
            for aspect in sheet.aspects
        ],
        line_breaks="kept",
    )


def sheet_page(sheet: Sheet, by: str) -> str:
    """The sheet as one HTML page that needs no network. It keeps the notes in the browser, and gives them back as a
    JSON file for `--import`."""
    from markupsafe import Markup

    from loadgen.report.page_template import page_template

    script, style = _resource("sheet.js"), _resource("sheet.css")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    rules = ("default-src 'none'", f"script-src 'sha256-{digest}'", "style-src 'unsafe-inline'", "base-uri 'none'")
    answers = sheet.order_for(by)
    return page_template(Path(__file__).with_name("sheet.html")).render(
        policy="; ".join((*rules, "form-action 'none'")),
        style=Markup(style),
        script=Markup(script),
        schema=SCHEMA,
        key=f"loadgen-notes-{'-'.join(sheet.run_ids)}-{by}",
        by=by,
        aspects=sheet.aspects,
        notes=range(LOWEST, HIGHEST + 1),
        groups=_by_prompt(answers),
        count=len(answers),
    )


def read_sheet(path: Path, sheet: Sheet, by: str | None, at: str) -> tuple[Note, ...]:
    """The notes of a CSV or JSON file. Rows without a note are left out.

    by: the grader of the rows that name none. at: the time of the notes, UTC. Raises InputError, which names each
    faulty row and column, for a file that cannot be read and for any faulty row; then no note of the file counts.
    """
    answers = {answer.answer: answer for answer in sheet.answers}
    is_page = path.suffix.lower() == ".json"
    rows = _json_rows(path) if is_page else [_with_id(row, answers) for row in _csv_rows(path)]
    given = [row for row in rows if row.note]
    if given and not any(row.answer in answers for row in given):
        raise InputError(f"{path}: none of its answers is in these runs; is it the sheet of another run?")
    faults = [fault for row in given if (fault := _fault(row, answers, sheet.aspects, by)) is not None]
    faults = faults or _contradictions(given, by)
    if faults:
        more = f"; and {len(faults) - MOST_FAULTS} more" if len(faults) > MOST_FAULTS else ""
        raise InputError(f"{path}: {'; '.join(faults[:MOST_FAULTS])}{more}; nothing was imported")
    return tuple(
        note_of(
            answers[row.answer],
            row.aspect,
            int(row.note[0]),
            by=row.by or by or "",
            at=at,
            reason=row.comment,
        )
        for row in given
    )


def _with_id(row: _Row, answers: Iterable[str]) -> _Row:
    """The row with the id of its answer as it was, if a spreadsheet took this for a number: 012345678901 comes back as
    1.23457E+10."""
    if row.answer in answers or (number := _number(row.answer)) is None:
        return row
    alike = [each for each in answers if (own := _number(each)) and math.isclose(own, number, rel_tol=_SHOWN_DIGITS)]
    return msgspec.structs.replace(row, answer=alike[0]) if len(alike) == 1 else row


def _number(text: str) -> float | None:
    with contextlib.suppress(ValueError):
        number = float(text.replace(",", "."))
        return number if math.isfinite(number) else None
    return None


def _fault(row: _Row, answers: Mapping[str, SheetAnswer], aspects: Mapping[str, str], by: str | None) -> str | None:
    if row.answer not in answers:
        return f"{row.place}, answer: {row.answer!r} is not an answer of this sheet"
    if row.aspect not in aspects:
        return f"{row.place}, aspect: {row.aspect!r} is not one of {', '.join(aspects)}"
    if _NOTE.fullmatch(row.note) is None:
        return f"{row.place}, note: {row.note!r} is not a whole number from {LOWEST} to {HIGHEST}"
    if not row.by and not by:
        return f"{row.place}, by: no grader is named; fill the column, or give --by NAME"
    if row.by and not is_grader(row.by):
        return f"{row.place}, by: {row.by[:LONGEST_NAME]!r} is no name; {NAME_RULE}"
    return None


def _contradictions(rows: Iterable[_Row], by: str | None) -> list[str]:
    """The rows that give another note than an earlier one of the same grader to the same question."""
    first: dict[tuple[str, str, str], _Row] = {}
    faults = []
    for row in rows:
        earlier = first.setdefault((row.answer, row.aspect, row.by or by or ""), row)
        if earlier.note[:1] != row.note[:1]:
            faults.append(f"{row.place}, note: {row.note!r}, but {earlier.place} has {earlier.note!r}")
    return faults


def _csv_rows(path: Path) -> list[_Row]:
    text = _read(path).removeprefix("\ufeff")
    first = text.partition("\n")[0]
    separator = max(",;\t", key=first.count)
    csv.field_size_limit(MAX_BYTES)
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=separator, restval="")
    try:
        missing = [column for column in REQUIRED if column not in (reader.fieldnames or ())]
        if missing:
            raise InputError(f"{path}: no column {missing[0]!r} in the first row; a sheet has {', '.join(COLUMNS)}")
        return [
            _Row(
                f"row {number}",
                *(str(row.get(column) or "").strip() for column in ("answer", "aspect", "note", "by", "comment")),
            )
            for number, row in enumerate(reader, 2)
        ]
    except csv.Error as error:
        raise InputError(f"{path}, line {reader.line_num}: not CSV ({error})") from error


def _json_rows(path: Path) -> list[_Row]:
    try:
        page = msgspec.json.decode(_read(path), type=PageNotes)
    except msgspec.MsgspecError as error:
        raise InputError(f"{path}: not the notes of a sheet ({error}); use the file that the page gave you") from error
    if page.schema != SCHEMA:
        raise InputError(f"{path}: schema is {page.schema!r}, this loadgen reads {SCHEMA!r}; use the other version")
    return [
        _Row(f"note {number}", each.answer, each.aspect, _text_of(each.note), page.by.strip(), each.comment.strip())
        for number, each in enumerate(page.notes, 1)
    ]


def _text_of(note: object) -> str:
    return "" if note is None else str(note).strip()


def _read(path: Path) -> str:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise InputError(f"{path}: larger than {MAX_BYTES >> 20} MiB, so it is no sheet")
        return path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 ({error.reason}); save it as CSV UTF-8") from error


def _by_prompt(answers: Iterable[SheetAnswer]) -> list[Sequence[SheetAnswer]]:
    """The answers in groups of one prompt, in their order."""
    groups: dict[str, list[SheetAnswer]] = {}
    for answer in answers:
        groups.setdefault(answer.prompt.id, []).append(answer)
    return list(groups.values())


def _resource(name: str) -> str:
    return (resources.files("loadgen.decisions.grade") / name).read_text(encoding="utf-8")
