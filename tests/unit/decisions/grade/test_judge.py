"""A judging without a server: what becomes of the votes, of pairs, and of what a judge answered before."""

import asyncio
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from loadgen.decisions.candidates.runs import read_runs
from loadgen.decisions.grade.judge import AT_ONCE, Judge, JudgedSheet, JudgeError, PairMode, judge_sheet
from loadgen.decisions.grade.judge_cache import JudgeCache, cache_of
from loadgen.decisions.grade.judge_exam import known_pairs
from loadgen.decisions.grade.judge_question import JudgeQuestion
from loadgen.decisions.grade.sheet import Sheet, prompts_of, sheet_of
from loadgen.errors import TargetError
from tests.selected_runs import SelectedModel, write_run

Answer = Callable[[JudgeQuestion, int], str]

MODELS = (SelectedModel(name="a", points=(4, 3)), SelectedModel(name="b", points=(1, 2)))


def text_of(question: JudgeQuestion) -> str:
    return str(question.messages[-1]["content"])


def said(note: int, question: JudgeQuestion) -> str:
    """A note of 1 to 5, on the scale that the question shows."""
    return json.dumps(
        {"reason": f"vote {question.vote}", "note": 6 - note if "1 = very good" in text_of(question) else note}
    )


def is_of_the_test(question: JudgeQuestion) -> bool:
    """Summaries of the test are the key points, one a line."""
    return re.search(r"<answer>\n[^\n<]+\n[^\n<]+\n", text_of(question)) is not None


def right_in_the_test(question: JudgeQuestion) -> str:
    text = text_of(question)
    expected = re.findall(r"^- (.+)$", text, re.MULTILINE)
    answer = text.partition("<answer>")[2]
    return said(1 + round(4 * sum(point in answer for point in expected) / len(expected)), question)


def judged(
    folder: Path,
    answer: Answer,
    *,
    models: Sequence[SelectedModel] = MODELS,
    votes: int = 1,
    pairs: PairMode = "no_pairs",
    cache: JudgeCache | None = None,
    sample: int = 2,
) -> tuple[Sheet, JudgedSheet]:
    """The judging of a run by a judge that passes its test, and then answers so."""
    runs = read_runs([write_run(folder / "run", models)])
    sheet = sheet_of(runs, sample)
    known = known_pairs(prompts_of(runs), sheet.run_ids)
    assert known is not None

    async def ask(question: JudgeQuestion, asked_before: int) -> str:
        await asyncio.sleep(0)
        return right_in_the_test(question) if is_of_the_test(question) else answer(question, asked_before)

    judge = Judge(ask, JudgeCache(None) if cache is None else cache, lambda title, share: None)
    return sheet, asyncio.run(judge_sheet(judge, sheet, known, votes=votes, pairs=pairs))


@pytest.mark.parametrize(
    ("notes", "median"), [((1, 5, 4), 4), ((5, 5, 1), 5), ((2, 3, 3), 3), ((1, 1, 1), 1), ((2, 5, 3), 3)]
)
def test_a_note_is_the_median_of_its_votes_with_the_reason_of_one_that_said_so(
    tmp_path: Path, notes: tuple[int, ...], median: int
) -> None:
    _, result = judged(tmp_path, lambda question, _: said(notes[question.vote], question), votes=3)
    assert {note.note for note in result.notes} == {median}
    assert {note.reason for note in result.notes} == {f"vote {notes.index(median)}"}


def test_a_vote_without_a_verdict_is_left_out_of_the_median(tmp_path: Path) -> None:
    """The first vote on `clear` is silent: 4 of 48 votes. Of the two others, the lower one counts."""

    def answer(question: JudgeQuestion, _: int) -> str:
        if "only: clear" in text_of(question):
            return ("Hm.", said(5, question), said(2, question))[question.vote]
        return said(4, question)

    sheet, result = judged(tmp_path, answer, votes=3)
    assert {note.note for note in result.notes if note.aspect == "clear"} == {2}
    assert (result.asked, result.without_verdict) == (12 * len(sheet.answers), len(sheet.answers))
    assert len(result.notes) == 4 * len(sheet.answers)


def test_a_note_takes_a_verdict_in_more_than_half_of_its_votes(tmp_path: Path) -> None:
    seen: list[str] = []

    def answer(question: JudgeQuestion, _: int) -> str:
        key = text_of(question).partition("\nThe scale")[0]
        if "only: clear" in key:
            seen[:] = seen or [key]
            if key in seen and question.vote < 2:
                return "Hm."
        return said(4, question)

    sheet, result = judged(tmp_path, answer, votes=3)
    assert len(result.notes) == 4 * len(sheet.answers) - 1
    assert result.without_verdict == 2


def test_an_answer_without_a_verdict_is_asked_for_three_times(tmp_path: Path) -> None:
    asked: list[int] = []

    def answer(question: JudgeQuestion, asked_before: int) -> str:
        asked.append(asked_before)
        return said(4, question) if asked_before == 2 else "The note is 4."

    sheet, result = judged(tmp_path, answer)
    assert result.without_verdict == 0
    assert sorted(asked) == sorted([0, 1, 2] * 4 * len(sheet.answers))


@pytest.mark.parametrize(("silent", "passes"), [(1, True), (2, False)])
def test_a_tenth_of_the_questions_may_be_without_a_verdict(tmp_path: Path, silent: int, passes: bool) -> None:
    """Of 16 votes, 1 is less than a tenth, and 2 are more."""
    chosen: list[str] = []

    def answer(question: JudgeQuestion, _: int) -> str:
        if question.digest not in chosen and len(chosen) < silent:
            chosen.append(question.digest)
        return "Hm." if question.digest in chosen else said(4, question)

    if passes:
        assert judged(tmp_path, answer)[1].without_verdict == silent
    else:
        with pytest.raises(JudgeError, match="no verdict on 2 of 16 questions"):
            judged(tmp_path, answer)


def pairs_of(tmp_path: Path, answer: Answer, models: Sequence[SelectedModel]) -> JudgedSheet:
    return judged(
        tmp_path,
        lambda question, n: answer(question, n) if "<first>" in text_of(question) else said(3, question),
        models=models,
        pairs="both_orders",
        sample=8,
    )[1]


def longer(question: JudgeQuestion, _: int) -> str:
    first, second = (
        re.findall(rf"<{tag}>\n(.*?)\n</{tag}>", text_of(question), re.DOTALL)[0] for tag in ("first", "second")
    )
    return json.dumps({"reason": "longer", "better": "first" if len(first) > len(second) else "second"})


def test_a_win_is_that_of_its_candidate_whichever_of_the_texts_comes_first(tmp_path: Path) -> None:
    models = (SelectedModel(name="a", points=(1, 4)), SelectedModel(name="b", points=(3,)))
    result = pairs_of(tmp_path, longer, models).pairs
    assert result is not None
    (score,) = result.scores
    assert score.first_better + score.second_better == 8
    assert score.first_better > 0 and score.second_better > 0
    assert (result.pairs, result.position_consistency, result.first_place_share) == (8, 1.0, 0.5)


def test_equal_texts_are_a_tie_and_are_not_asked_about(tmp_path: Path) -> None:
    models = (SelectedModel(name="a"), SelectedModel(name="b"))
    result = pairs_of(tmp_path, lambda question, _: pytest.fail(), models)
    assert result.pairs is not None
    assert (result.pairs.scores[0].ties, result.pairs.pairs, result.pairs.position_consistency) == (8, 0, None)


def test_who_fails_to_answer_loses_against_who_does(tmp_path: Path) -> None:
    models = (SelectedModel(name="a"), SelectedModel(name="b", outcomes=("ok", "timeout")))
    result = pairs_of(tmp_path, longer, models).pairs
    assert result is not None
    (score,) = result.scores
    assert score.second_better == 0
    assert score.first_better + score.ties == 8
    assert 0 < score.first_better < 8


def test_a_pair_without_a_verdict_is_counted_and_is_no_tie(tmp_path: Path) -> None:
    silent: list[str] = []

    def answer(question: JudgeQuestion, n: int) -> str:
        silent[:] = silent or [question.digest]
        return "Both are fine." if question.digest in silent else longer(question, n)

    result = pairs_of(tmp_path, answer, MODELS)
    assert result.pairs is not None
    assert (result.pairs.scores[0].without_verdict, result.pairs.scores[0].ties, result.pairs.pairs) == (1, 0, 7)
    assert result.without_verdict == 1


def test_three_candidates_are_compared_two_by_two_and_equal_pairs_are_asked_once(tmp_path: Path) -> None:
    asked: list[str] = []

    def answer(question: JudgeQuestion, n: int) -> str:
        asked.append(question.digest)
        return longer(question, n)

    models = (*MODELS, SelectedModel(name="c", points=(1, 2)))
    result = pairs_of(tmp_path, answer, models).pairs
    assert result is not None
    assert [(score.first, score.second) for score in result.scores] == [
        ("a@url", "b@url"),
        ("a@url", "c@url"),
        ("b@url", "c@url"),
    ]
    assert (len(asked), len(set(asked)), result.pairs) == (16, 16, 8)


def test_only_a_few_questions_are_with_the_judge_at_once(tmp_path: Path) -> None:
    runs = read_runs([write_run(tmp_path / "run", MODELS)])
    known = known_pairs(prompts_of(runs), ("run",))
    assert known is not None
    now, most = 0, 0

    async def ask(question: JudgeQuestion, _: int) -> str:
        nonlocal now, most
        now += 1
        most = max(most, now)
        await asyncio.sleep(0)
        now -= 1
        return right_in_the_test(question)

    shares: list[float] = []
    judge = Judge(ask, JudgeCache(None), lambda title, share: shares.append(share))
    asyncio.run(judge_sheet(judge, sheet_of(runs, 1), known, votes=1, pairs="no_pairs"))
    assert most == AT_ONCE
    assert shares.count(1.0) == 2  # the test, then the notes


def test_an_error_of_the_judge_is_raised_by_itself(tmp_path: Path) -> None:
    def answer(question: JudgeQuestion, _: int) -> str:
        raise TargetError("gone")

    with pytest.raises(TargetError, match="gone"):
        judged(tmp_path, answer)


# --- the cache --------------------------------------------------------------------------------------------------------


def test_what_was_answered_is_not_asked_again(tmp_path: Path) -> None:
    path = tmp_path / "judges" / "j.jsonl"
    first = judged(tmp_path / "a", lambda question, _: said(4, question), cache=JudgeCache(path))[1]
    again = judged(tmp_path / "b", lambda question, _: pytest.fail(), cache=JudgeCache(path))[1]
    assert [note.note for note in first.notes] == [note.note for note in again.notes]
    assert path.stat().st_mode & 0o077 == 0


def test_lines_that_were_cut_off_and_answers_without_a_verdict_are_asked_again(tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    JudgeCache(path).keep("a" * 64, "4")
    with path.open("ab") as file:
        file.write(b'{"question": "b", "te')
    cache = JudgeCache(path)
    assert (cache.text("a" * 64), cache.text("b")) == ("4", None)
    assert judged(tmp_path, lambda question, _: said(4, question), cache=cache)[1].without_verdict == 0


def test_a_cache_that_cannot_be_written_keeps_nothing_and_says_why(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", "utf-8")
    cache = JudgeCache(tmp_path / "file" / "j.jsonl")
    assert judged(tmp_path, lambda question, _: said(4, question), cache=cache)[1].notes
    assert cache.why_not_written is not None
    assert "j.jsonl" in cache.why_not_written


def test_each_judge_has_a_cache_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOADGEN_CACHE_DIR", str(tmp_path))
    cache_of("http://a/v1", "m").keep("q", "text")
    assert cache_of("http://a/v1", "m").text("q") == "text"
    assert cache_of("http://b/v1", "m").text("q") is None
    assert cache_of("http://a/v1", "n").text("q") is None
