"""The script and the language of a text, as far as a paragraph tells. Pure."""

import re
from collections import Counter
from typing import Final

from msgspec import Struct

from loadgen.analysis.scorer.vocabulary import FUNCTION_WORDS

MIN_WORDS: Final = 12
"""With fewer words, nothing is said about the language."""
MIN_LETTERS: Final = 12
"""With fewer letters, nothing is said about the script."""
_MIN_SHARE: Final = 0.12
_MIN_LEAD: Final = 1.3
_MIN_DISTINCT: Final = 3
"""Different function words that a language takes: a single one may be another word elsewhere, such as a `van`."""
_WORD: Final = re.compile(r"[^\W\d_]+")

_SCRIPTS: Final = (
    (0x0000, 0x024F, "latin"),
    (0x1E00, 0x1EFF, "latin"),
    (0x0370, 0x03FF, "greek"),
    (0x0400, 0x052F, "cyrillic"),
    (0x0590, 0x05FF, "hebrew"),
    (0x0600, 0x077F, "arabic"),
    (0x0900, 0x0DFF, "indic"),
    (0x0E00, 0x0E7F, "thai"),
    (0x0E80, 0x0EFF, "lao"),
    (0x0F00, 0x0FFF, "tibetan"),
    (0x1000, 0x109F, "burmese"),
    (0x1780, 0x17FF, "khmer"),
    (0x3040, 0x30FF, "japanese"),
    (0x3400, 0x4DBF, "chinese"),
    (0x4E00, 0x9FFF, "chinese"),
    (0x20000, 0x3FFFF, "chinese"),
    (0xAC00, 0xD7AF, "korean"),
)
UNSPACED: Final = frozenset(("thai", "lao", "tibetan", "burmese", "khmer", "japanese", "chinese"))
"""Scripts that put no space between words, so that the scorer cannot find them."""


def script_of(text: str) -> str | None:
    """The script of most letters of a text; None if it has too few. Chinese characters beside kana are Japanese."""
    letters = {sign: count for sign, count in Counter(text).items() if sign.isalpha()}
    total = sum(letters.values())
    if total < MIN_LETTERS:
        return None
    counts = Counter[str]()
    for sign, count in letters.items():
        counts[_script(ord(sign))] += count
    if counts["japanese"] >= 0.1 * total:
        return "japanese"
    script, count = counts.most_common(1)[0]
    return script if count > total / 2 else None


def _script(code: int) -> str:
    return next((script for first, last, script in _SCRIPTS if first <= code <= last), "other")


def language_of(text: str) -> str | None:
    """The language of a text by its function words, out of eight; None if there are too few to tell."""
    words = _WORD.findall(text.lower())
    if len(words) < MIN_WORDS:
        return None
    counts = Counter(words)
    shares = {
        language: sum(counts.get(word, 0) for word in known) / len(words) for language, known in FUNCTION_WORDS.items()
    }
    second, best = sorted(shares.values())[-2:]
    language = max(shares, key=lambda each: shares[each])
    if best < _MIN_SHARE or best <= _MIN_LEAD * second or len(FUNCTION_WORDS[language] & counts.keys()) < _MIN_DISTINCT:
        return None
    return language


class ScriptAndLanguage(Struct, frozen=True):
    """The script and the language of a text, as far as they are known."""

    script: str | None
    language: str | None

    def is_other_than(self, asked: "ScriptAndLanguage") -> bool:
        """Whether both are known, and differ in the script or the language."""
        return any(
            own is not None and other is not None and own != other
            for own, other in ((self.script, asked.script), (self.language, asked.language))
        )


def script_and_language_of(text: str) -> ScriptAndLanguage:
    return ScriptAndLanguage(script_of(text), language_of(text))
