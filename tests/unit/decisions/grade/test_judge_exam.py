"""The test of a judge: pairs whose order is known, and how many of them it must get right."""

import re

import pytest

from loadgen.decisions.grade.judge_exam import (
    NEEDED,
    PROMPTS,
    failed_test_text,
    good_answer_of,
    known_pairs,
    mixed_up,
    result_of,
    sum_of_notes,
)
from loadgen.store.run_folder import SentPrompt
from tests.selected_runs import prompt

SENT = [prompt(number) for number in range(16)]


def test_eight_prompts_and_two_kinds_are_drawn_by_the_runs() -> None:
    pairs = known_pairs(SENT, ("run",))
    assert pairs is not None
    assert [pair.fault for pair in pairs] == ["other", "figures"] * PROMPTS
    assert len({pair.prompt.id for pair in pairs}) == PROMPTS
    assert pairs == known_pairs(SENT, ("run",))
    assert pairs != known_pairs(SENT, ("another",))


def test_the_worse_answer_is_another_and_has_the_figures_of_the_better_one_in_other_places() -> None:
    pairs = known_pairs(SENT, ("run",))
    assert pairs is not None
    for pair in pairs:
        assert pair.better == good_answer_of(pair.prompt)
        assert pair.worse != pair.better
        if pair.fault == "figures":
            assert re.sub(r"\d+", "0", pair.worse) == re.sub(r"\d+", "0", pair.better)
            assert sorted(re.findall(r"\d+", pair.worse)) == sorted(re.findall(r"\d+", pair.better))


def test_too_few_prompts_whose_figures_can_be_mixed_up_are_no_test() -> None:
    without = [SentPrompt(f"p{at}", "A talk.", ("Anna brings 12 lamps", "Boris brings 12 chairs")) for at in range(20)]
    assert known_pairs(without, ("run",)) is None
    assert known_pairs([*SENT[:7], *without], ("run",)) is None
    assert known_pairs(SENT[:8], ("run",)) is not None
    assert known_pairs([SentPrompt(each.id, each.text) for each in SENT], ("run",)) is None


def test_prompts_with_the_same_points_are_drawn_once() -> None:
    copies = [SentPrompt(f"copy-{at}", "x", SENT[0].key_points) for at in range(20)]
    assert known_pairs([*SENT[:7], *copies], ("run",)) is None


@pytest.mark.parametrize(
    ("text", "mixed"),
    [
        ("Owen prints 24 scores by 7 pm on 3 April.", "Owen prints 7 scores by 3 pm on 24 April."),
        ("At 7:30 or 19.5, 1,340 people.", "At 19.5 or 1,340, 7:30 people."),
        ("5 of 5 and 6.", "5 of 6 and 5."),
        ("12 lamps, 12 chairs.", None),
        ("One figure: 3.", None),
        ("None at all.", None),
    ],
)
def test_figures_are_mixed_up(text: str, mixed: str | None) -> None:
    assert mixed_up(text) == mixed


@pytest.mark.parametrize(
    ("wrong_other", "wrong_figures", "passed"), [(0, 0, True), (1, 1, True), (2, 0, False), (0, 2, False)]
)
def test_seven_of_eight_of_each_kind_are_needed(wrong_other: int, wrong_figures: int, passed: bool) -> None:
    pairs = known_pairs(SENT, ("run",))
    assert pairs is not None
    left = {"other": wrong_other, "figures": wrong_figures}
    above = []
    for pair in pairs:
        above.append(left[pair.fault] <= 0)
        left[pair.fault] -= 1
    result = result_of(pairs, above)
    assert result.passed == passed
    assert result.right == {"other": PROMPTS - wrong_other, "figures": PROMPTS - wrong_figures}
    assert f"in {PROMPTS - wrong_figures} of 8; {NEEDED} are needed" in failed_test_text(result)


def test_an_answer_without_one_of_its_notes_has_no_sum() -> None:
    assert sum_of_notes({"complete": 4, "correct": 5}) == 9
    assert sum_of_notes({"complete": 4, "correct": None}) is None
