"""`notes.jsonl`: the notes that people and judges gave to the answers of a run. Its data, its writer and its reader."""

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Final, Literal

from msgspec import Meta, Struct

from loadgen.decisions.grade.data_lines import append_lines, read_lines

NOTES: Final = "notes.jsonl"
LOWEST: Final = 1
HIGHEST: Final = 5
LONGEST_NAME: Final = 80
NAME_RULE: Final = f"a name has 1 to {LONGEST_NAME} printable characters; give another"

Kind = Literal["hand", "judge"]
"""Who gives notes: a person, or a second model."""


class Note(Struct, frozen=True, kw_only=True):
    """One note: a line of `notes.jsonl`, which reports never rewrite. A later note of the same grader on the same
    aspect of the same answer replaces an earlier one."""

    answer: str
    """The id of the answer: see `answer_id`."""
    prompt_id: str
    text_sha256: str
    """As in `requests.jsonl`."""
    aspect: str
    note: Annotated[int, Meta(ge=LOWEST, le=HIGHEST)]
    by: str
    """The grader: a person's name; of a judge, its model and the version of its question."""
    kind: Kind
    at: str
    """When the note was given, UTC."""
    reason: str = ""
    """What the grader says about it."""

    @property
    def place(self) -> tuple[str, str, str, str]:
        """What a later note replaces."""
        return (self.answer, self.aspect, self.kind, self.by)


def is_grader(name: str) -> bool:
    """Whether a text can be the name of a grader, who is shown in terminals and reports."""
    return bool(name.strip()) and name.isprintable() and len(name) <= LONGEST_NAME


def answer_id(prompt_id: str, text_sha256: str) -> str:
    """The id of an answer: 12 hexadecimal digits. Equal texts to one prompt are one answer, whoever gave them."""
    return hashlib.sha256(f"{prompt_id}\0{text_sha256}".encode()).hexdigest()[:12]


def read_notes(folders: Iterable[Path]) -> tuple[Note, ...]:
    """The notes in some run folders that count, in the order of the answers. A last line that was cut off, since the
    program was killed, is left out.

    Raises InputError for any other line that is no note.
    """
    latest: dict[tuple[str, str, str, str], Note] = {}
    for folder in folders:
        for note in read_lines(folder / NOTES, Note, "a note", "remove the line, or give the notes again"):
            known = latest.get(note.place)
            if known is None or known.at <= note.at:
                latest[note.place] = note
    return tuple(note for _, note in sorted(latest.items()))


def append_notes(notes: Sequence[Note], folders: Iterable[Path]) -> None:
    """Write notes to run folders; each note goes to every folder. Raises FolderError if a file cannot be written."""
    for folder in folders:
        append_lines(folder / NOTES, notes)
