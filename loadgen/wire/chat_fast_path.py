"""Reads runs of events that differ in one string only, without parsing each. Knows no socket, no clock and no choices.

Servers stream a token an event, and nearly always an event is the one before it but for its text. So once one has been
parsed, those behind it are compared with it byte for byte: where all but the text is the same, all but the text means
the same. What is found here is exactly what parsing each event would find; where that is not certain, a run ends.
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

    before: bytes
    behind: bytes


class ShapeRun(Struct, frozen=True, gc=False):
    """The events that follow one: their strings joined, and where each ends in the data that they were found in."""

    text: str
    ends: list[int]


def pattern_of(event: bytes, key: str, text: str) -> Pattern | None:
    """The pattern of an event, whole, in which the string of `key` is `text`.

    None when it is not certain which bytes are that string: the event has escapes, or the key stands in it twice.
    """
    name = f'"{key}"'.encode()
    if _BACKSLASH in event or event.count(name) != 1:
        return None
    colon = event.index(name) + len(name)
    for between in _TO_STRING:
        if event.startswith(between, colon):
            start = colon + len(between)
            break
    else:
        return None
    stop = event.index(_QUOTE, start)
    if event[start:stop] != text.encode():
        return None
    return Pattern(event[:start], event[stop:])


def run_of(pattern: Pattern, data: bytes, at: int) -> ShapeRun:
    """The events from `at` on that have the pattern. data: valid UTF-8. Their strings are not empty."""
    before, behind = pattern.before, pattern.behind
    between, size = behind + before, len(before) + len(behind)
    texts: list[bytes] = []
    ends: list[int] = []
    window = _WINDOW_BYTES
    while data.startswith(before, at):
        start = at + len(before)
        found = data[start : start + window].split(between)
        sound = _how_many_are_sound(found, len(found) - 1)  # the last one may be cut short
        texts += found[:sound]
        ends += [at := at + len(text) + size for text in found[:sound]]
        start = at + len(before)
        stop = _end_of_string(data, start)
        if stop <= start or not data.startswith(behind, stop):
            break
        texts.append(data[start:stop])
        at = stop + len(behind)
        ends.append(at)
        if sound < len(found) - 1:
            break
        window *= 2
    return ShapeRun(_unquoted(b"".join(texts)), ends)


def _how_many_are_sound(texts: list[bytes], most: int) -> int:
    """How many of the first are the insides of strings, each by itself, and not empty."""
    if b"" not in texts and _is_plain(b"".join(texts[:most])):
        return most
    for index in range(most):
        if _INSIDE.fullmatch(texts[index]) is None:
            return index
    return most


def _is_plain(inside: bytes) -> bool:
    return len(inside.translate(None, _NOT_PLAIN)) == len(inside)


def _end_of_string(data: bytes, start: int) -> int:
    """Where the quote is behind a string's inside that begins at `start`; -1 when it is no sound one."""
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
