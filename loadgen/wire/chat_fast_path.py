"""Reads runs of events that differ only in one string, without parsing each. Knows no socket, no clock and no choices.

Operations. `pattern_of` gives the pattern of an event that was parsed. `run_of` reads the events after it that have
this pattern.

Goals. The result is exactly what parsing each event would give. Where that is not certain, the run ends, which costs
only time. A token costs a fraction of a microsecond, because no Python code runs for each token.

Plan. Servers stream one token in an event, and nearly every event differs from the one before it only in its text. So
once an event has been parsed, the next ones are compared with it byte for byte. If all bytes but those of the text are
equal, they mean the same. A piece of data is split, in one call, at the bytes that stand between two texts, and
checked for bytes that cannot be inside a JSON string. If all of the piece belonged to the run, a larger piece
follows.

Warning. A text may contain bytes that look like the end of an event, but it cannot contain a bare quote. So a part is
accepted only if it is the inside of one string from end to end. The last part of a piece, which may be cut short, is
read separately.
"""

import json
import re
from typing import Final

import orjson
from msgspec import Struct

_QUOTE: Final = b'"'
_BACKSLASH: Final = b"\\"
_TO_STRING: Final = (b':"', b': "')  # the bytes between a name and its string, in the two usual spellings
_NOT_PLAIN: Final = b'"\\' + bytes(range(32))  # bytes that a string has only in an escape, or not at all
_INSIDE: Final = re.compile(rb'(?:[^"\\\x00-\x1f]|\\["\\/bfnrt]|\\u[0-9A-Fa-f]{4})+')  # a string that is not empty
_PIECE_BYTES: Final = 8192  # the first piece; each next one is twice as large


class Pattern(Struct, frozen=True, gc=False):
    """The bytes of an event, from its field name to its blank line, without the one string that differs."""

    prefix: bytes
    """The bytes up to the string, with its opening quote."""
    suffix: bytes
    """The bytes from the string's closing quote on."""


class ShapeRun(Struct, frozen=True, gc=False):
    """Events with the same pattern that follow one another."""

    text: str
    """Their strings, joined."""
    ends: list[int]
    """Where each of them ends in the data."""


def pattern_of(event: bytes, key: str, text: str) -> Pattern | None:
    """The pattern of a complete event in which the string of `key` is `text`.

    None if it is not certain which bytes are that string: the event has escapes, or has the key twice.
    """
    name = f'"{key}"'.encode()
    if _BACKSLASH in event or event.count(name) != 1:
        return None
    colon = event.index(name) + len(name)
    for colon_and_quote in _TO_STRING:
        if event.startswith(colon_and_quote, colon):
            start = colon + len(colon_and_quote)
            break
    else:
        return None
    stop = event.index(_QUOTE, start)
    if event[start:stop] != text.encode():
        return None
    return Pattern(event[:start], event[stop:])


def run_of(pattern: Pattern, data: bytes, at: int) -> ShapeRun:
    """The events from `at` on that have the pattern and a string that is not empty. data: valid UTF-8."""
    prefix, suffix = pattern.prefix, pattern.suffix
    separator, size = suffix + prefix, len(prefix) + len(suffix)
    texts: list[bytes] = []
    ends: list[int] = []
    piece_bytes = _PIECE_BYTES
    while data.startswith(prefix, at):
        start = at + len(prefix)
        parts = data[start : start + piece_bytes].split(separator)
        sound = _count_sound(parts, len(parts) - 1)  # without the last one, which may be cut short
        texts += parts[:sound]
        ends += [at := at + len(text) + size for text in parts[:sound]]
        # One more event is read separately: the piece's last, or one that was split because its text has the
        # separator.
        start = at + len(prefix)
        stop = _end_of_string(data, start)
        if stop <= start or not data.startswith(suffix, stop):
            break
        texts.append(data[start:stop])
        at = stop + len(suffix)
        ends.append(at)
        if sound < len(parts) - 1:  # the remaining parts do not begin where events do
            break
        piece_bytes *= 2
    return ShapeRun(_unquoted(b"".join(texts)), ends)


def _count_sound(texts: list[bytes], most: int) -> int:
    """How many of the first `most` texts, up to the first that is not, are each the inside of a JSON string and not
    empty."""
    # Plain texts can be checked together: joined they are plain exactly if each is. Texts with escapes cannot, because
    # a border between two texts may cut an escape.
    if b"" not in texts and _is_plain(b"".join(texts[:most])):
        return most
    for index in range(most):
        if _INSIDE.fullmatch(texts[index]) is None:
            return index
    return most


def _is_plain(inside: bytes) -> bool:
    return len(inside.translate(None, _NOT_PLAIN)) == len(inside)


def _end_of_string(data: bytes, start: int) -> int:
    """Where the closing quote of a string is whose inside begins at `start`; -1 if it is no valid string."""
    stop = data.find(_QUOTE, start)
    if stop < 0 or _is_plain(data[start:stop]):
        return stop
    inside = _INSIDE.match(data, start)
    return inside.end() if inside is not None else -1


def _unquoted(inside: bytes) -> str:
    if _BACKSLASH not in inside:
        return inside.decode()
    quoted = _QUOTE + inside + _QUOTE
    try:
        return str(orjson.loads(quoted))
    except orjson.JSONDecodeError:  # a lone surrogate
        return str(json.loads(quoted))
