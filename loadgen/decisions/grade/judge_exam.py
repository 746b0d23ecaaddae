"""The test that a judge must pass before its notes count: pairs of answers whose order is known. Pure."""

import re
from collections.abc import Mapping, Sequence
from typing import Final, Literal

from msgspec import Struct

from loadgen.plan import rng
from loadgen.store.run_folder import SentPrompt

PROMPTS: Final = 8
NEEDED: Final = 7
"""Of each kind. A coin that puts the better answer above in half of the pairs passes both kinds in 0.1 % of tests."""
ASPECTS: Final = ("complete", "correct")
"""What the test asks for, in the words of the default aspects."""

Fault = Literal["other", "figures"]
FAULTS: Final[dict[Fault, str]] = {
    "other": "one to another prompt",
    "figures": "the same with its figures mixed up",
}

_FIGURE: Final = re.compile(r"(?<![\w.,:])\d+(?:[.,:]\d+)*(?![\w])")


class KnownPair(Struct, frozen=True):
    """Two answers to a prompt, of which one is better."""

    prompt: SentPrompt
    fault: Fault
    better: str
    worse: str


class JudgeTest(Struct, frozen=True, kw_only=True):
    """How a judge did in the test."""

    passed: bool
    right: dict[Fault, int]
    """By the fault of the worse answer, in how many pairs the judge put the better one above."""
    pairs: int
    """Of each kind."""


def known_pairs(prompts: Sequence[SentPrompt], run_ids: Sequence[str]) -> tuple[KnownPair, ...] | None:
    """The pairs of the test: eight prompts, two kinds. None: too few prompts have key points with figures.

    run_ids: they draw the prompts, so that the test of the same runs is the same.
    """
    by_summary = {good_answer_of(prompt): prompt for prompt in prompts if prompt.key_points}
    fitting = [prompt for summary, prompt in by_summary.items() if mixed_up(summary) is not None]
    if len(fitting) < PROMPTS:
        return None
    drawn = rng.generator(0, "judge-test", *run_ids).permutation(len(fitting))[:PROMPTS]
    chosen = [fitting[place] for place in drawn]
    pairs = []
    for prompt, other in zip(chosen, [*chosen[1:], chosen[0]], strict=True):
        better, worse = good_answer_of(prompt), mixed_up(good_answer_of(prompt))
        assert worse is not None
        pairs += [
            KnownPair(prompt, "other", better, good_answer_of(other)),
            KnownPair(prompt, "figures", better, worse),
        ]
    return tuple(pairs)


def result_of(pairs: Sequence[KnownPair], better_is_above: Sequence[bool]) -> JudgeTest:
    """The result of a test. better_is_above: for each pair, whether the judge gave the better answer the higher notes;
    equal notes, and an answer without a verdict, are not above."""
    right: dict[Fault, int] = dict.fromkeys(FAULTS, 0)
    for pair, is_above in zip(pairs, better_is_above, strict=True):
        right[pair.fault] += is_above
    return JudgeTest(passed=all(count >= NEEDED for count in right.values()), right=right, pairs=PROMPTS)


def result_text(test: JudgeTest) -> str:
    """How a judge did, in words."""
    counts = ", and above ".join(f"{FAULTS[fault]} in {count} of {test.pairs}" for fault, count in test.right.items())
    return f"it put the good answer above {counts}"


def failed_test_text(test: JudgeTest) -> str:
    """Why a judge did not pass, in words."""
    return f"this judge cannot tell good from bad: {result_text(test)}; {NEEDED} are needed of each"


def sum_of_notes(notes: Mapping[str, int | None]) -> int | None:
    """The notes of one answer together. None: one of them is missing."""
    known = [note for note in notes.values() if note is not None]
    return sum(known) if len(known) == len(notes) else None


def good_answer_of(prompt: SentPrompt) -> str:
    """A good answer: the key points, one a line."""
    return "".join(f"{point.rstrip('.')}.\n" for point in prompt.key_points)


def mixed_up(text: str) -> str | None:
    """A text with its figures in other places. None: it has no two different figures."""
    figures = _FIGURE.findall(text)
    if len(set(figures)) < 2:
        return None
    for shift in range(1, len(figures)):
        moved = figures[shift:] + figures[:shift]
        if all(before != after for before, after in zip(figures, moved, strict=True)):
            break
    else:
        moved = figures[1:] + figures[:1]
    rest = iter(moved)
    return _FIGURE.sub(lambda _: next(rest), text)
