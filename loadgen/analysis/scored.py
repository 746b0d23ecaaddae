"""Scores the answers of a run that kept their texts. Pure; each text of a prompt is scored once."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from msgspec import UNSET
from msgspec.structs import replace

from loadgen.analysis.quality_types import SCORER, ScoredAnswer
from loadgen.record import Record
from loadgen.store.run_folder import Run, SentPrompt

if TYPE_CHECKING:
    from loadgen.analysis.scorer.answer_score import AnswerScore, Rubric

LEFT_OUT: Final = frozenset(("cancelled", "shed"))
"""Outcomes that are our own doing, and say nothing about the model."""


class AnswerScorer:
    """Scores the answers of one run. Keeps what it has computed, because most texts come more than once."""

    def __init__(self, run: Run) -> None:
        self._system = run.manifest.scenario.system or ""
        self._prompts: dict[str, SentPrompt] = {prompt.id: prompt for prompt in run.prompts}
        self._rubrics: dict[str, Rubric] = {}
        self._scores: dict[tuple[str, str, str | None], AnswerScore] = {}

    def answers(self, records: Sequence[Record]) -> tuple[ScoredAnswer, ...]:
        """The quality of the answers of some requests, one for each."""
        return tuple(self._scored(record) for record in records if record.prompt_id in self._prompts)

    def key_points(self, prompt_id: str) -> tuple[str, ...]:
        """The key points of a prompt of the run."""
        return self._prompts[prompt_id].key_points

    def _scored(self, record: Record) -> ScoredAnswer:
        base = ScoredAnswer(
            scorer=SCORER,
            model=record.model,
            target=record.target,
            level=record.level,
            index=record.index,
            prompt_id=record.prompt_id,
            text_sha256=record.text_sha256,
            quality=None,
        )
        points = len(self._prompts[record.prompt_id].key_points)
        if record.outcome in LEFT_OUT:
            return replace(base, flags=(record.outcome,), text_sha256=None)
        if record.outcome != "ok":
            worst = 0.0 if points else None
            failed = replace(base, quality=worst, rouge_l=worst, flags=("failed",), text_sha256=None)
            return replace(failed, covered=(0.0,) * points, mentioned=(0.0,) * points, places=(None,) * points)
        text = "" if record.text is UNSET else record.text
        marks = self._score(record.prompt_id, text, record.finish_reason)
        return replace(base, **{name: getattr(marks, name) for name in marks.__struct_fields__})

    def _score(self, prompt_id: str, text: str, finish_reason: str | None) -> "AnswerScore":
        from loadgen.analysis.scorer.answer_score import score  # here, so that a run need not wait for it

        key = (prompt_id, text, finish_reason)
        if key not in self._scores:
            self._scores[key] = score(text, self._rubric(prompt_id), finish_reason)
        return self._scores[key]

    def _rubric(self, prompt_id: str) -> "Rubric":
        from loadgen.analysis.scorer.answer_score import rubric_of

        if prompt_id not in self._rubrics:
            prompt = self._prompts[prompt_id]
            source = f"{self._system}\n\n{prompt.text}" if self._system else prompt.text
            self._rubrics[prompt_id] = rubric_of(source, prompt.key_points)
        return self._rubrics[prompt_id]
