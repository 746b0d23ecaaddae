"""Our texts for an output whose encoding lacks some of our signs: cp1252 on Windows, ASCII on a bare console. Pure."""

from typing import Final

_SPELLINGS: Final = {
    "≥": ">=",
    "≤": "<=",
    "≠": "!=",
    "±": "+/-",
    "→": "->",
    "×": "x",
    "−": "-",
    "–": "-",
    "—": "-",
    "…": "...",
    "·": "*",
    "✗": "x",
    "†": "+",
    "▲": "^",
    "µ": "u",
    "“": '"',
    "”": '"',
    "‘": "'",
    "’": "'",
    "\u00a0": " ",
}
"""What our own texts hold beyond ASCII."""


def spell(text: str, encoding: str) -> str:
    """The text with every sign that the encoding lacks written in ASCII; one that is not ours as `\\u4f60`."""
    if encoding.lower().startswith("utf") or text.isascii():
        return text
    return "".join(sign if _has(encoding, sign) else spelling(sign) for sign in text)


def spelling(sign: str) -> str:
    """One sign in ASCII."""
    return _SPELLINGS.get(sign) or sign.encode("ascii", "backslashreplace").decode()


def _has(encoding: str, sign: str) -> bool:
    try:
        sign.encode(encoding)
    except UnicodeEncodeError:
        return False
    return True
