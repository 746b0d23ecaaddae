"""Spells our texts for an output whose encoding lacks some characters, such as cp1252 on Windows, or ASCII. Pure."""

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
    "✓": "v",
    "✕": "x",
    "▼": "v",
    "△": "^",
    "←": "<-",
    "❌": "x",
    "✅": "=",
    "🎉": "+",
    "❔": "?",
    "\ufffd": "?",
    "\u00a0": " ",
}
"""The ASCII spelling of each non-ASCII character in our own texts."""


def spell(text: str, encoding: str) -> str:
    """The text with every character that the encoding lacks written in ASCII; characters of others as `\\u4f60`."""
    if encoding.lower().startswith("utf") or text.isascii():
        return text
    return "".join(sign if _has(encoding, sign) else spelling(sign) for sign in text)


def spelling(sign: str) -> str:
    """One character in ASCII."""
    return _SPELLINGS.get(sign) or sign.encode("ascii", "backslashreplace").decode()


def _has(encoding: str, sign: str) -> bool:
    try:
        sign.encode(encoding)
    except UnicodeEncodeError:
        return False
    return True
