"""What notes say: points by prompt for each candidate, and whether the graders agree."""

import pytest

from loadgen.decisions.grade.marks import agreement_of, points_by_prompt, points_of, rank_correlation
from loadgen.decisions.grade.notes import Note

ASPECTS = ("complete", "clear")


def notes_of(*given: tuple[str, str, str, int]) -> list[Note]:
    """Notes of (answer, aspect, grader, note)."""
    return [
        Note(answer=answer, prompt_id="p", text_sha256="0", aspect=aspect, note=note, by=by, kind="hand", at="1")
        for answer, aspect, by, note in given
    ]


def test_aspects_count_equally_and_so_do_graders() -> None:
    given = notes_of(("x", "complete", "ana", 5), ("x", "complete", "ben", 3), ("x", "clear", "ana", 1))
    assert points_of(given, ASPECTS) == {"x": 25 * ((4 + 1) / 2 - 1)}


def test_an_answer_without_a_note_on_each_aspect_has_no_points() -> None:
    assert points_of(notes_of(("x", "complete", "ana", 5)), ASPECTS) == {}


@pytest.mark.parametrize(("note", "points"), [(1, 0.0), (3, 50.0), (5, 100.0)])
def test_notes_become_points(note: int, points: float) -> None:
    assert points_of(notes_of(("x", "complete", "ana", note), ("x", "clear", "ana", note)), ASPECTS) == {"x": points}


def test_only_prompts_that_every_candidate_has_points_for_count() -> None:
    points = {"a1": 80.0, "b1": 40.0, "a2": 90.0}
    answers = {"a": {"p1": ("a1",), "p2": ("a2",)}, "b": {"p1": ("b1",), "p2": ("b2",)}}
    assert points_by_prompt(points, answers) == {"a": {"p1": 80.0}, "b": {"p1": 40.0}}


def test_a_request_that_failed_has_no_points_for_its_candidate_and_counts() -> None:
    answers: dict[str, dict[str, tuple[str | None, ...]]] = {"a": {"p1": ("a1",)}, "b": {"p1": (None,)}}
    assert points_by_prompt({"a1": 80.0}, answers) == {"a": {"p1": 80.0}, "b": {"p1": 0.0}}


def test_a_prompt_that_failed_for_everybody_was_not_graded() -> None:
    assert points_by_prompt({}, {"a": {"p1": (None,)}, "b": {"p1": (None,)}}) == {"a": {}, "b": {}}


def test_one_grader_has_nobody_to_agree_with() -> None:
    assert agreement_of(notes_of(("x", "clear", "ana", 3), ("y", "clear", "ana", 4))) is None


def test_graders_of_different_answers_have_no_alpha() -> None:
    agreement = agreement_of(notes_of(("x", "clear", "ana", 3), ("y", "clear", "ben", 4)))
    assert agreement is not None
    assert (agreement.alpha, agreement.units, agreement.disagrees) == (None, 0, False)


def test_graders_who_disagree_decide_nothing() -> None:
    rows = [("x", 1, 5), ("y", 5, 1), ("z", 2, 4), ("w", 4, 2)]
    opposed = agreement_of(
        notes_of(*((answer, "clear", by, note) for answer, *both in rows for by, note in zip("ab", both, strict=True)))
    )
    assert opposed is not None
    assert opposed.disagrees
    assert opposed.kappa is not None
    assert opposed.kappa < 0
    agreed = agreement_of(notes_of(*((answer, "clear", by, note) for answer, note, _ in rows for by in "ab")))
    assert agreed is not None
    assert (agreed.alpha, agreed.kappa, agreed.disagrees) == (1.0, 1.0, False)


def test_three_graders_have_an_alpha_and_no_kappa() -> None:
    agreement = agreement_of(
        notes_of(*((answer, "clear", by, note) for answer, note in (("x", 1), ("y", 4)) for by in ("a", "b", "c")))
    )
    assert agreement is not None
    assert agreement.kappa is None
    assert agreement.alpha == 1.0


def test_rank_correlation() -> None:
    first = {"a": 1.0, "b": 2.0, "c": 3.0, "d": 9.0}
    assert rank_correlation(first, {"a": 10.0, "b": 20.0, "c": 21.0}) == pytest.approx(1.0)
    assert rank_correlation(first, {"a": 3.0, "b": 2.0, "c": 1.0}) == pytest.approx(-1.0)
    assert rank_correlation(first, {"a": 3.0, "b": 2.0}) is None
    assert rank_correlation(first, {"a": 3.0, "b": 3.0, "c": 3.0}) is None
