"""Grading in a terminal, as a dialog that knows no terminal: what to show next, and what an input means."""

from collections.abc import Iterable
from typing import Final

from msgspec import Struct

from loadgen.decisions.grade.notes import HIGHEST, LOWEST, Note
from loadgen.decisions.grade.sheet import Sheet, SheetAnswer

KEYS: Final = "1-5, b: back, s: skip this answer, q: quit (what you have given is saved)"


class GradeQuestion(Struct, frozen=True):
    """One aspect of one answer."""

    answer: SheetAnswer
    aspect: str


class GradingSession:
    """The questions to one grader in order, and the grader's place among them. Questions that have a note are not asked
    again, unless the grader goes back to them."""

    def __init__(self, sheet: Sheet, by: str, notes: Iterable[Note]) -> None:
        self.by = by
        self._sheet = sheet
        self._questions = [GradeQuestion(answer, aspect) for answer in sheet.order_for(by) for aspect in sheet.aspects]
        self._noted = {(note.answer, note.aspect) for note in notes if note.by == by and note.kind == "hand"}
        self._skipped: set[str] = set()
        self._place = -1
        self._advance()

    @property
    def question(self) -> GradeQuestion | None:
        """What is asked now; None at the end."""
        return self._questions[self._place] if self._place < len(self._questions) else None

    @property
    def graded(self) -> int:
        """How many answers have a note on each aspect."""
        return sum(self._is_graded(answer) for answer in self._sheet.answers)

    def note(self, number: int, at: str) -> Note:
        """Take a note of the question, go on to the next, and return the note. at: the time, UTC."""
        question = self.question
        assert question is not None and LOWEST <= number <= HIGHEST
        self._noted.add((question.answer.answer, question.aspect))
        self._advance()
        return note_of(question.answer, question.aspect, number, by=self.by, at=at)

    def go_back(self) -> bool:
        """Go to the question before this one, also if it has a note; False at the first."""
        if self._place == 0:
            return False
        self._place -= 1
        self._skipped.discard(self._questions[self._place].answer.answer)
        return True

    def skip(self) -> None:
        """Go to the next answer. The questions about this one are asked again in another session."""
        question = self.question
        assert question is not None
        self._skipped.add(question.answer.answer)
        self._advance()

    def _advance(self) -> None:
        self._place += 1
        while (question := self.question) is not None and (
            question.answer.answer in self._skipped or (question.answer.answer, question.aspect) in self._noted
        ):
            self._place += 1

    def _is_graded(self, answer: SheetAnswer) -> bool:
        return all((answer.answer, aspect) in self._noted for aspect in self._sheet.aspects)


def note_of(answer: SheetAnswer, aspect: str, number: int, *, by: str, at: str, reason: str = "") -> Note:
    """A note of a person on one aspect of an answer."""
    return Note(
        answer=answer.answer,
        prompt_id=answer.prompt.id,
        text_sha256=answer.text_sha256,
        aspect=aspect,
        note=number,
        by=by,
        kind="hand",
        at=at,
        reason=reason,
    )
