"""`judges.jsonl`: which judges gave notes to the answers of a run, and how they did in their test. Its data, its writer
and its reader."""

from collections.abc import Iterable
from pathlib import Path
from typing import Final, Literal

from msgspec import Struct

from loadgen.decisions.grade.data_lines import append_lines, read_lines
from loadgen.decisions.grade.judge_exam import JudgeTest, result_text
from loadgen.report.format import format_count, format_percent

JUDGES: Final = "judges.jsonl"

ResponseFormat = Literal["json_schema", "json_object", "none"]
"""What a judge's server holds its answers to: a JSON schema, any JSON object, or nothing."""


class PairScore(Struct, frozen=True, kw_only=True):
    """How two candidates did against each other: over how many prompts the judge preferred which."""

    first: str
    second: str
    first_better: int
    second_better: int
    ties: int
    """Also where the two orders did not agree, and where the texts are equal."""
    without_verdict: int


class PairResults(Struct, frozen=True, kw_only=True):
    """What a judge said about pairs of answers, each in both orders."""

    scores: tuple[PairScore, ...]
    pairs: int
    """How many pairs of answers have a verdict in both orders."""
    position_consistency: float | None
    """The share of these pairs in which both orders have the same result; None without pairs, as the next field."""
    first_place_share: float | None
    """Of the verdicts that are no tie, the share that prefers the answer in the first place: 0.5 without a bias."""


class Judging(Struct, frozen=True, kw_only=True):
    """What a judge did: a line of `judges.jsonl`. A later line of the same judge replaces an earlier one."""

    by: str
    """The grader of its notes."""
    model: str
    url: str
    """The base URL of its API, without secrets."""
    response_format: ResponseFormat
    version: str
    """Of the questions."""
    votes: int
    """For each note."""
    test: JudgeTest
    asked: int
    """How many questions about the answers of the runs."""
    without_verdict: int
    """How many of them had no verdict, although they were asked three times."""
    answers: int
    """How many answers it graded."""
    notes: int
    pairs: PairResults | None
    self_judged: bool
    """Whether the judge is one of the candidates."""
    at: str
    """When it was done, UTC."""


def judging_lines(judging: Judging) -> list[str]:
    """A judging in words."""
    format_text = {"json_schema": "JSON schema", "json_object": "JSON object", "none": "JSON in text"}
    votes = f"the median of {judging.votes} votes" if judging.votes > 1 else "one vote"
    lines = [
        f"{judging.by} at {judging.url}: {judging.notes} notes on {judging.answers} answers, each {votes} "
        f"({format_text[judging.response_format]})",
        f"its test: {result_text(judging.test)}",
        f"without a verdict: {judging.without_verdict} of {judging.asked} questions",
    ]
    if judging.self_judged:
        lines.append("it is one of the candidates: loadgen select does not use its notes")
    return [*lines, *(() if judging.pairs is None else _pair_lines(judging.pairs))]


def _pair_lines(results: PairResults) -> Iterable[str]:
    for score in results.scores:
        silent = f", {score.without_verdict} without a verdict" if score.without_verdict else ""
        yield (
            f"{score.first} against {score.second}: better on {format_count(score.first_better, 'prompt')}, worse on "
            f"{score.second_better}, {format_count(score.ties, 'tie')}{silent}"
        )
    if results.position_consistency is None:
        yield "no pair of different answers has a verdict in both orders"
        return
    line = f"both orders agree in {format_percent(results.position_consistency)} of {results.pairs} pairs"
    if results.first_place_share is not None:
        share = format_percent(results.first_place_share)
        line += f"; the answer in the first place is preferred in {share} (50 % without a bias)"
    yield line


def append_judging(judging: Judging, folders: Iterable[Path]) -> None:
    """Write a judging to run folders. Raises FolderError if a file cannot be written."""
    for folder in folders:
        append_lines(folder / JUDGES, [judging])


def read_judgings(folders: Iterable[Path]) -> dict[str, Judging]:
    """By grader, the latest judging in some run folders. A last line that was cut off is left out.

    Raises InputError for any other line that is no judging.
    """
    latest: dict[str, Judging] = {}
    for folder in folders:
        for judging in read_lines(folder / JUDGES, Judging, "a judging", "remove the line, or ask the judge again"):
            if judging.by not in latest or latest[judging.by].at <= judging.at:
                latest[judging.by] = judging
    return dict(sorted(latest.items()))


def judge_of(by: str) -> str:
    """The model in the name of a grader that is a judge."""
    return by.rpartition(" (")[0] or by
