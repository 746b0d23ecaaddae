"""Has a second model grade the answers of runs: tests it first, then asks for notes, and for the better of pairs."""

import asyncio
import itertools
import statistics
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Final, Literal

from msgspec import Struct

from loadgen.decisions.grade import judge_exam
from loadgen.decisions.grade.judge_cache import JudgeCache
from loadgen.decisions.grade.judge_exam import JudgeTest, KnownPair
from loadgen.decisions.grade.judge_question import (
    JudgeQuestion,
    JudgeVerdict,
    Scale,
    Winner,
    note_question,
    pair_question,
    scale_of,
    verdict_in,
    winner_in,
)
from loadgen.decisions.grade.judges_file import PairResults, PairScore
from loadgen.decisions.grade.sheet import Sheet, SheetAnswer
from loadgen.errors import ExitCode, LoadgenError
from loadgen.scenario.policy import ASPECTS

AT_ONCE: Final = 4
"""How many questions are with the judge at once."""
MAX_ASKS: Final = 3
"""How often a question is asked until its answer has a verdict."""
MOST_WITHOUT: Final = 0.1
"""The share of questions that may be without a verdict."""

AskJudge = Callable[[JudgeQuestion, int], Awaitable[str]]
"""Asks a judge a question, and returns its answer. The number says how often it answered without a verdict."""
OnShare = Callable[[str, float], None]
"""Called with what is being asked, and which share of it is answered."""
PairMode = Literal["no_pairs", "both_orders"]
"""Whether pairs of answers are compared."""


class JudgeError(LoadgenError):
    """A judge whose notes do not count: it failed its test, or gave too few verdicts."""

    exit_code = ExitCode.GATE_FAILED


class JudgeNote(Struct, frozen=True):
    """The note of a judge on one aspect of an answer: the median of its votes."""

    answer: SheetAnswer
    aspect: str
    note: int
    reason: str


class JudgedSheet(Struct, frozen=True, kw_only=True):
    """What a judge said about the answers of a sheet."""

    test: JudgeTest
    notes: tuple[JudgeNote, ...]
    pairs: PairResults | None
    asked: int
    """How many questions, without those of the test."""
    without_verdict: int


class _Vote(Struct, frozen=True):
    """A question for a note, and the scale that it shows."""

    question: JudgeQuestion
    scale: Scale


class Judge:
    """Questions to one judge, a few at once. Equal questions are asked once, and those in the cache not at all."""

    def __init__(self, ask: AskJudge, cache: JudgeCache, on_share: OnShare) -> None:
        self.asked = 0
        """How many questions were put since the last reset; equal ones count once."""
        self.without_verdict = 0
        self._ask = ask
        self._cache = cache
        self._on_share = on_share

    def reset(self) -> None:
        """Count from here on."""
        self.asked = self.without_verdict = 0

    async def notes(self, title: str, votes: Sequence[_Vote]) -> list[JudgeVerdict | None]:
        """The verdict of each vote; None: it has none."""
        readers = [(vote.question, partial(verdict_in, scale=vote.scale)) for vote in votes]
        texts = await self._texts(title, readers)
        return [read(texts[question.digest]) for question, read in readers]

    async def winners(self, title: str, questions: Sequence[JudgeQuestion]) -> list[Winner | None]:
        """The better of each pair; None: no verdict."""
        texts = await self._texts(title, [(question, winner_in) for question in questions])
        return [winner_in(texts[question.digest]) for question in questions]

    async def _texts(
        self, title: str, questions: Sequence[tuple[JudgeQuestion, Callable[[str], object | None]]]
    ) -> dict[str, str]:
        """The answers to some questions, by digest; empty of one without a verdict. Each question comes with what reads
        its answer. Raises TargetError."""
        waiting = list({question.digest: (question, read) for question, read in questions}.values())
        total, texts = len(waiting), dict[str, str]()
        waiting.reverse()

        async def work() -> None:
            while waiting:
                question, read = waiting.pop()
                texts[question.digest] = await self._text(question, read)
                self._on_share(title, len(texts) / total)

        await _together(work, min(AT_ONCE, total))
        self.asked += total
        self.without_verdict += sum(not text for text in texts.values())
        return texts

    async def _text(self, question: JudgeQuestion, read: Callable[[str], object | None]) -> str:
        """The answer to a question. An answer without a verdict is asked for again; in the end it is empty."""
        cached = self._cache.text(question.digest)
        if cached is not None and read(cached) is not None:
            return cached
        for asked_before in range(MAX_ASKS):
            text = await self._ask(question, asked_before)
            if read(text) is not None:
                self._cache.keep(question.digest, text)
                return text
        return ""


async def judge_sheet(
    judge: Judge, sheet: Sheet, known_pairs: Sequence[KnownPair], *, votes: int, pairs: PairMode
) -> JudgedSheet:
    """Test a judge, and have it grade the answers of a sheet.

    votes: for each note; odd. Raises JudgeError if the judge fails its test, or gives too few verdicts, and TargetError
    if it cannot be reached any more.
    """
    test = await _tested(judge, known_pairs)
    judge.reset()
    notes = await _notes(judge, sheet, votes)
    results = await _pair_results(judge, sheet) if pairs == "both_orders" else None
    if judge.without_verdict > MOST_WITHOUT * judge.asked:
        raise JudgeError(
            f"this judge gave no verdict on {judge.without_verdict} of {judge.asked} questions, which is more than a "
            "tenth; none of its notes is used; take another judge"
        )
    return JudgedSheet(test=test, notes=notes, pairs=results, asked=judge.asked, without_verdict=judge.without_verdict)


async def _tested(judge: Judge, pairs: Sequence[KnownPair]) -> JudgeTest:
    """The result of the test. Raises JudgeError if the judge does not pass it."""
    votes = [
        _vote(pair, text, aspect, place // len(judge_exam.FAULTS))
        for place, pair in enumerate(pairs)
        for text in (pair.better, pair.worse)
        for aspect in judge_exam.ASPECTS
    ]
    verdicts = iter(await judge.notes("testing the judge", votes))
    above = []
    for _ in pairs:
        better, worse = (
            judge_exam.sum_of_notes({aspect: _note_in(next(verdicts)) for aspect in judge_exam.ASPECTS})
            for _ in ("better", "worse")
        )
        above.append(better is not None and worse is not None and better > worse)
    result = judge_exam.result_of(pairs, above)
    if not result.passed:
        silent = (
            f" ({judge.without_verdict} of {judge.asked} questions had no verdict)" if judge.without_verdict else ""
        )
        raise JudgeError(f"{judge_exam.failed_test_text(result)}{silent}; no note was written; take another judge")
    return result


def _vote(pair: KnownPair, text: str, aspect: str, place: int) -> _Vote:
    """A vote of the test. Both answers of a pair have the same scale, and half of the pairs the turned one."""
    scale: Scale = "turned" if place % 2 else "plain"
    return _Vote(note_question(pair.prompt, text, aspect, ASPECTS[aspect], scale), scale)


async def _notes(judge: Judge, sheet: Sheet, votes: int) -> tuple[JudgeNote, ...]:
    """The notes on the answers of a sheet. A note takes verdicts in more than half of its votes."""
    units = [(answer, aspect) for answer in sheet.answers for aspect in sheet.aspects]
    asked = []
    for answer, aspect in units:
        for vote in range(votes):
            scale = scale_of(answer.answer, vote)
            question = note_question(answer.prompt, answer.text, aspect, sheet.aspects[aspect], scale, vote)
            asked.append(_Vote(question, scale))
    verdicts = await judge.notes("asking for notes", asked)
    notes = []
    for place, (answer, aspect) in enumerate(units):
        own = [verdict for verdict in verdicts[place * votes : (place + 1) * votes] if verdict is not None]
        if len(own) > votes / 2:
            median = statistics.median_low(verdict.note for verdict in own)
            reason = next(verdict.reason for verdict in own if verdict.note == median)
            notes.append(JudgeNote(answer, aspect, median, reason))
    return tuple(notes)


async def _pair_results(judge: Judge, sheet: Sheet) -> PairResults:
    """Each candidate against each other, by its first answer to each prompt, in both orders."""
    by_id = {answer.answer: answer for answer in sheet.answers}
    questions: list[JudgeQuestion] = []
    for first, second in _differing(sheet):
        a, b = by_id[first], by_id[second]
        questions += [pair_question(a.prompt, a.text, b.text), pair_question(a.prompt, b.text, a.text)]
    winners = await judge.winners("asking for the better of pairs", questions)
    both = {pair: (winners[2 * at], winners[2 * at + 1]) for at, pair in enumerate(_differing(sheet))}
    decided = [each for each in both.values() if None not in each]
    picks = [winner for each in both.values() for winner in each if winner in ("first", "second")]
    return PairResults(
        scores=tuple(_score(sheet, first, second, both) for first, second in itertools.combinations(_names(sheet), 2)),
        pairs=len(decided),
        position_consistency=_share([_in_order(each) is not None for each in decided]),
        first_place_share=_share([winner == "first" for winner in picks]),
    )


def _names(sheet: Sheet) -> list[str]:
    return sorted(sheet.by_candidate)


def _differing(sheet: Sheet) -> list[tuple[str, str]]:
    """The pairs of answers of two candidates to one prompt, each once, by id."""
    pairs = {
        (first, second)
        for a, b in itertools.combinations(_names(sheet), 2)
        for prompt in sheet.prompts
        if (first := _first_answer(sheet, a, prompt.id)) is not None
        and (second := _first_answer(sheet, b, prompt.id)) is not None
        and first != second
    }
    return sorted({(min(pair), max(pair)) for pair in pairs})


def _first_answer(sheet: Sheet, candidate: str, prompt: str) -> str | None:
    ids = sheet.by_candidate[candidate].get(prompt, ())
    return ids[0] if ids else None


def _in_order(winners: tuple[Winner | None, Winner | None]) -> Winner | None:
    """The result of a pair that was shown in both orders, as in the first of them; None: the orders do not agree."""
    forward, backward = winners
    turned: dict[Winner | None, Winner | None] = {"first": "second", "second": "first", "tie": "tie"}
    return forward if forward == turned.get(backward) else None


def _score(
    sheet: Sheet,
    first: str,
    second: str,
    both: Mapping[tuple[str, str], tuple[Winner | None, Winner | None]],
) -> PairScore:
    """How two candidates did. Who failed to answer loses against who did."""
    counts = {"first": 0, "second": 0, "tie": 0, "none": 0}
    for prompt in sheet.prompts:
        a, b = (_first_answer(sheet, name, prompt.id) for name in (first, second))
        if a is None or b is None or a == b:
            counts["tie" if a == b else "second" if a is None else "first"] += 1
            continue
        winners = both[min(a, b), max(a, b)]
        if None in winners:
            counts["none"] += 1
            continue
        result = _in_order(winners)
        if result in ("first", "second") and a > b:
            result = "second" if result == "first" else "first"
        counts[result or "tie"] += 1
    return PairScore(
        first=first,
        second=second,
        first_better=counts["first"],
        second_better=counts["second"],
        ties=counts["tie"],
        without_verdict=counts["none"],
    )


def _share(flags: Sequence[bool]) -> float | None:
    return sum(flags) / len(flags) if flags else None


def _note_in(verdict: JudgeVerdict | None) -> int | None:
    return None if verdict is None else verdict.note


async def _together(work: Callable[[], Awaitable[None]], workers: int) -> None:
    """Do work several times at once. The first error ends all of it, and is raised by itself and not in a group."""

    async def worker() -> None:
        await work()

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(workers):
                group.create_task(worker())
    except BaseExceptionGroup as errors:
        first: BaseException = errors
        while isinstance(first, BaseExceptionGroup):
            first = first.exceptions[0]
        raise first from None
