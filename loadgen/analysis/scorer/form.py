"""The form of an answer: whether it says anything, repeats itself, or copies what it should summarize. Pure."""

import re
from collections.abc import Sequence
from typing import Final

from msgspec import Struct

_WORD: Final = re.compile(r"\w+")
_THINKING: Final = re.compile(r"<think(?:ing)?>.*?(?:</think(?:ing)?>|\Z)", re.DOTALL | re.IGNORECASE)
_REFUSAL: Final = re.compile(
    r"\W*(?:(?:i['’]m|i am|we['’]re|we are) (?:very |so |really )?(?:sorry|unable|not able)\b"
    r"|i (?:apologi[sz]e|can['’]?t|can ?not|could ?n['’]t|do ?n['’]t (?:have|see)|won['’]t|will not)\b"
    r"|sorry\b|my apologies\b|unfortunately,? i\b|as an? (?:ai|artificial|large|language)\b)",
    re.IGNORECASE,
)
COPIED_RUN: Final = 8
"""A run of so many words of the source, in order, counts as copied."""
REPEATED_BELOW: Final = 0.7
"""With a smaller share of distinct runs of four words, an answer repeats itself."""
DISTINCT_ENOUGH: Final = 0.9
COPIED_ABOVE: Final = 0.5
"""With a larger share of its words in copied runs, an answer is no summary but a copy."""
SHORT: Final = 80
"""Words that an answer may have however short the source is, up to four fifths of it."""


class Form(Struct, frozen=True):
    """The form of an answer."""

    words: int
    distinct: float
    """The share of its runs of four words that are the first of their kind; 1 below four words."""
    copied: float
    """The share of its words in runs of 8 that the source has, too."""
    brevity: float
    """1 up to half of the words of the source, and 0 at all of them."""

    @property
    def kept(self) -> float:
        """The factor by which repetition, copying and length lower the quality: 1 if there is nothing of the kind."""
        copying = max(0.0, self.copied - COPIED_ABOVE) / (1 - COPIED_ABOVE)
        return min(1.0, self.distinct / DISTINCT_ENOUGH) * self.brevity * (1 - copying)


def words_of(text: str) -> list[str]:
    """All words and numbers of a text, in lower case."""
    return _WORD.findall(text.lower())


def word_runs_of(words: Sequence[str], length: int) -> list[tuple[str, ...]]:
    """All runs of so many words, each beginning one word later."""
    return [tuple(words[at : at + length]) for at in range(len(words) - length + 1)]


def form_of(words: Sequence[str], source_words: int | None, source_runs: frozenset[tuple[str, ...]]) -> Form:
    """The form of an answer. source_words: how many words the source has; None if an answer may have any length.
    source_runs: all runs of 8 words of the source."""
    fours = word_runs_of(words, 4)
    copied = [False] * len(words)
    for at, run in enumerate(word_runs_of(words, COPIED_RUN)):
        if run in source_runs:
            copied[at : at + COPIED_RUN] = [True] * COPIED_RUN
    return Form(
        words=len(words),
        distinct=len(set(fours)) / len(fours) if fours else 1.0,
        copied=sum(copied) / len(words) if words else 0.0,
        brevity=_brevity(len(words), source_words),
    )


def _brevity(words: int, source: int | None) -> float:
    if not source:
        return 1.0
    enough = max(source / 2, min(SHORT, 0.8 * source))
    return min(1.0, max(0.0, (source - words) / (source - enough)))


def without_thinking(text: str) -> str:
    """A text whose reasoning between `<think>` and `</think>` is blank, so that all other places stay the same."""
    return _THINKING.sub(lambda match: " " * len(match[0]), text) if "<think" in text.lower() else text


def is_refusal(text: str) -> bool:
    """Whether a text begins as models do that decline to answer."""
    return _REFUSAL.match(text) is not None
