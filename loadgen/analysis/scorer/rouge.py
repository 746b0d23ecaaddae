"""ROUGE-L: the longest common subsequence of two texts' words. Pure.

Source: Lin, ROUGE: a package for automatic evaluation of summaries, ACL workshop (2004), section 3. The length of the
subsequence by bit-parallel dynamic programming: Hyyrö, Bit-parallel LCS-length computation revisited, AWOCA (2004).
"""

import re
from typing import Final

_WORD: Final = re.compile(r"[a-z0-9]+|[^\W_]+")


def rouge_l(answer: str, reference: str) -> float:
    """The F1 of two texts' words in order, 0 to 1, in lower case and without stemming; 0 if one has no words."""
    words, wanted = _WORD.findall(answer.lower()), _WORD.findall(reference.lower())
    common = common_length(words, wanted)
    return 2 * common / (len(words) + len(wanted)) if common else 0.0


def common_length(first: list[str], second: list[str]) -> int:
    """The length of the longest common subsequence."""
    places: dict[str, int] = {}
    for at, word in enumerate(second):
        places[word] = places.get(word, 0) | 1 << at
    full = (1 << len(second)) - 1
    rest = full
    for word in first:
        matching = rest & places.get(word, 0)
        rest = ((rest + matching) | (rest - matching)) & full
    return len(second) - rest.bit_count()
