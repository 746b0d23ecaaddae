"""What notes say: points by prompt for each candidate, and whether the graders agree."""

import pytest

from loadgen.decisions.grade.notes import Note
from loadgen.decisions.grade.points import (
    agreement_of,
    agreement_with_people,
    points_by_prompt,
    points_of,
    rank_correlation,
)

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


def with_judge(people: dict[str, dict[str, int]], judge: dict[str, int]) -> list[Note]:
    """Notes on `complete` and `clear`: of people by answer, and of a judge."""
    given = [
        (answer, aspect, by, note, "hand")
        for by, notes in people.items()
        for answer, note in notes.items()
        for aspect in ASPECTS
    ]
    given += [(answer, aspect, "j", note, "judge") for answer, note in judge.items() for aspect in ASPECTS]
    return [
        Note(answer=answer, prompt_id="p", text_sha256="0", aspect=aspect, note=note, by=by, kind=kind, at="1")  # type: ignore[arg-type]
        for answer, aspect, by, note, kind in given
    ]


def test_a_judge_is_compared_with_the_median_of_the_people_on_the_answers_that_both_graded() -> None:
    people = {"ana": {"a": 1, "b": 3, "c": 5, "d": 2}, "ben": {"a": 1, "b": 4, "c": 5}, "eva": {"b": 3}}
    agreement = agreement_with_people(with_judge(people, {"a": 1, "b": 3, "c": 5, "e": 4}), "j", ASPECTS)
    assert agreement is not None
    assert (agreement.alpha, agreement.units, agreement.answers) == (1.0, 6, 3)
    assert agreement.spearman == pytest.approx(1.0)


def test_a_judge_that_says_the_opposite_of_people_has_a_negative_agreement() -> None:
    people = {"ana": {"a": 1, "b": 3, "c": 5}}
    agreement = agreement_with_people(with_judge(people, {"a": 5, "b": 3, "c": 1}), "j", ASPECTS)
    assert agreement is not None
    assert agreement.alpha is not None and agreement.alpha < 0
    assert agreement.spearman == pytest.approx(-1.0)


def test_a_judge_whose_answers_nobody_graded_is_not_compared_with_people() -> None:
    assert agreement_with_people(with_judge({}, {"a": 1}), "j", ASPECTS) is None
    assert agreement_with_people(with_judge({"ana": {"b": 1}}, {"a": 1}), "j", ASPECTS) is None
    assert agreement_with_people(with_judge({"ana": {"a": 1}}, {"a": 1}), "another", ASPECTS) is None


def test_one_note_throughout_has_no_agreement_that_is_known() -> None:
    agreement = agreement_with_people(
        with_judge({"ana": {"a": 3, "b": 3, "c": 3}}, {"a": 3, "b": 3, "c": 3}), "j", ASPECTS
    )
    assert agreement is not None
    assert (agreement.alpha, agreement.spearman, agreement.units) == (None, None, 6)


@pytest.mark.parametrize(
    ("pairs", "disagrees", "may_agree", "may_disagree"),
    [
        ([(1, 5), (5, 1), (2, 4), (4, 2), (1, 4), (5, 2)], True, False, True),
        ([(1, 1), (5, 5), (2, 5), (4, 4), (3, 1), (5, 4)], True, True, True),
        ([(1, 1), (5, 5), (2, 2), (4, 4), (3, 1), (4, 5)], False, True, True),
        ([(1, 1), (5, 5), (2, 2), (4, 4), (3, 3), (5, 5)], False, True, False),
        ([(1, 5), (4, 1)], True, True, True),
    ],
    ids=["opposed", "may agree", "may disagree", "agreed", "two answers, of which nothing is sure"],
)
def test_the_interval_says_whether_more_notes_may_turn_the_verdict(
    pairs: list[tuple[int, int]], disagrees: bool, may_agree: bool, may_disagree: bool
) -> None:
    agreement = agreement_of(
        notes_of(
            *(
                (str(at), "clear", by, note)
                for at, both in enumerate(pairs)
                for by, note in zip("ab", both, strict=True)
            )
        )
    )
    assert agreement is not None
    assert agreement.answers == len(pairs)
    assert (agreement.disagrees, agreement.may_agree, agreement.may_disagree) == (disagrees, may_agree, may_disagree)
    assert (agreement.ci is None) == (len(pairs) < 3)
