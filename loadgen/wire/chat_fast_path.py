"""Reads runs of events that differ in one string only, without parsing each. Knows no socket, no clock and no choices.

Operations. `pattern_of` an event that was parsed; `run_of` the events after it that have this pattern.

Goals. What comes out is exactly what parsing each event would give; where that is not certain, a run ends, and nothing
is lost but time. A token costs a fraction of a microsecond: no Python code runs for each.

Plan. Servers stream a token an event, and nearly always an event is the one before it but for its text. So once one has
been parsed, the next ones are compared with it byte for byte: where all but the text is the same, all but the text
means the same. A window of data is split at what stands between two texts, all at once, and looked through for what
cannot be inside a JSON string; a larger window follows for as long as all of it was of the run.

Warning. A text may contain what looks like the end of an event. It cannot contain a bare quote: so a part is taken only
when it is the inside of one string from end to end, and the last one of a window, which may be cut short, is read by
itself.
"""

import json
import re
from typing import Final

import orjson
from msgspec import Struct

_QUOTE: Final = b'"'
_BACKSLASH: Final = b"\\"
_TO_STRING: Final = (b':"', b': "')  # what is between a name and its string, as everybody writes it
_NOT_PLAIN: Final = b'"\\' + bytes(range(32))  # bytes that a string has only in an escape, or not at all
_INSIDE: Final = re.compile(rb'(?:[^"\\\x00-\x1f]|\\["\\/bfnrt]|\\u[0-9A-Fa-f]{4})+')  # of a string that is not empty
_WINDOW_BYTES: Final = 8192  # looked through at first; twice as many each time that all of it was of the run


class Pattern(Struct, frozen=True, gc=False):
    """An event, with its field name and its blank line, without the one string in which those of its run differ."""

    prefix: bytes
    """Up to the string, with its opening quote."""
    suffix: bytes
    """From the string's closing quote on."""


class ShapeRun(Struct, frozen=True, gc=False):
    """The events that follow one."""

    text: str
    """Their strings, joined."""
    ends: list[int]
    """Where each of them ends in the data."""


def pattern_of(event: bytes, key: str, text: str) -> Pattern | None:
    """The pattern of an event, whole, in which the string of `key` is `text`.

    None when it is not certain which bytes are that string: the event has escapes, or the key stands in it twice.
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
    """The events from `at` on that have the pattern. data: valid UTF-8. Their strings are not empty."""
    prefix, suffix = pattern.prefix, pattern.suffix
    separator, size = suffix + prefix, len(prefix) + len(suffix)
    texts: list[bytes] = []
    ends: list[int] = []
    window = _WINDOW_BYTES
    while data.startswith(prefix, at):
        start = at + len(prefix)
        parts = data[start : start + window].split(separator)
        sound = _how_many_are_sound(parts, len(parts) - 1)  # the last one may be cut short
        texts += parts[:sound]
        ends += [at := at + len(text) + size for text in parts[:sound]]
        # One more, by itself: the window's last, or one whose text has the separator in it, and so was cut apart.
        start = at + len(prefix)
        stop = _end_of_string(data, start)
        if stop <= start or not data.startswith(suffix, stop):
            break
        texts.append(data[start:stop])
        at = stop + len(suffix)
        ends.append(at)
        if sound < len(parts) - 1:  # the parts no longer begin where events do
            break
        window *= 2
    return ShapeRun(_unquoted(b"".join(texts)), ends)


def _how_many_are_sound(texts: list[bytes], most: int) -> int:
    """How many of the first are the insides of strings, each by itself, and not empty."""
    # Plain bytes need no look at each: joined, they are plain exactly when all of them are. Escapes are not so, as one
    # may be cut in two by a border.
    if b"" not in texts and _is_plain(b"".join(texts[:most])):
        return most
    for index in range(most):
        if _INSIDE.fullmatch(texts[index]) is None:
            return index
    return most


def _is_plain(inside: bytes) -> bool:
    return len(inside.translate(None, _NOT_PLAIN)) == len(inside)


def _end_of_string(data: bytes, start: int) -> int:
    """Where the closing quote is of a string whose inside begins at `start`; -1 when it is no sound one."""
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
