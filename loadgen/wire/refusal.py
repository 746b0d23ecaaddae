"""Which keys of a request a server names as it refuses it: by the body of its answer. Pure.

OpenAI's servers put the name into `param`, FastAPI's into `loc`, others into a sentence. A name in a sentence is only a
guess, as the sentence may list what is allowed.
"""

import re
from collections.abc import Iterable, Iterator
from typing import Any, Final

import msgspec
from msgspec import Struct

REFUSED: Final = frozenset({400, 422})
"""Statuses by which a server refuses what a body says."""
_NAME_FIELDS: Final = ("param", "loc", "field", "parameter")
_TEXT_FIELDS: Final = ("message", "msg", "detail", "error", "errors", "title", "description", "reason", "body")
OTHER_LIMIT: Final = "max_completion_tokens"
"""The newer name of `max_tokens` in OpenAI's API."""
_ALIASES: Final = {"include_usage": "stream_options", OTHER_LIMIT: "max_tokens"}
"""Names that a server may give in place of a key of the body: what is within it, or what it wants instead."""
_WORDS: Final = ("stop", "model", "messages", "stream")
"""Names that are words of any sentence: there they are meant only in quotes."""
_QUOTES: Final = frozenset("\"'`‘’“”")
_MAX_DEPTH: Final = 8


class NamedKeys(Struct, frozen=True):
    """What a refusal names."""

    named: tuple[str, ...]
    """In a field that is there for names: all of them are refused."""
    mentioned: tuple[str, ...]
    """In a sentence, in its order, where no field names one."""


def named_keys(body: bytes, keys: Iterable[str]) -> NamedKeys:
    """Which of these keys the body of a refusal names."""
    known = set(keys)
    try:
        value = msgspec.json.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        value = None
    names, texts = list[str](), list[str]()
    if isinstance(value, dict | list):
        _gather(value, names, texts, _MAX_DEPTH)
    else:
        texts.append(value if isinstance(value, str) else body.decode("utf-8", "replace"))
    named = [key for name in names for key in _keys_of(name, known)]
    if any(names):  # the server says which it is, and where it is none of ours its sentence is not guessed at
        return NamedKeys(tuple(dict.fromkeys(named)), ())
    return NamedKeys((), tuple(dict.fromkeys(key for text in texts for key in _mentioned(text, known))))


def mentions(body: bytes, key: str) -> bool:
    """Whether a refusal has this name in it anywhere."""
    return re.search(rb"(?<!\w)%b(?!\w)" % key.encode(), body) is not None


def _gather(value: Any, names: list[str], texts: list[str], depth: int) -> None:
    """Gather the texts that name something, and the sentences. What a refusal repeats of the request is neither."""
    if depth == 0:
        return
    if isinstance(value, list):
        for item in value:
            if isinstance(item, str):
                texts.append(item)
            else:
                _gather(item, names, texts, depth - 1)
        return
    if not isinstance(value, dict):
        return
    for field, content in value.items():
        if field in _NAME_FIELDS:
            names += _names_in(content)
        elif field in _TEXT_FIELDS:
            if isinstance(content, str):
                texts.append(content)
            else:
                _gather(content, names, texts, depth - 1)


def _names_in(content: Any) -> Iterator[str]:
    if isinstance(content, str) and content:
        yield content
    elif isinstance(content, list):
        # FastAPI's path begins with where it looked; ["body"] alone is the whole body, and names nothing.
        yield from (part for part in content if isinstance(part, str) and part != "body")


def _keys_of(name: str, known: set[str]) -> Iterator[str]:
    for word in re.findall(r"\w+", name):
        if (key := _key_of(word, known)) is not None:
            yield key


def _key_of(word: str, known: set[str]) -> str | None:
    key = word if word in known else _ALIASES.get(word)
    return key if key in known else None


def _mentioned(text: str, known: set[str]) -> Iterator[str]:
    for match in re.finditer(r"(?<!\w)[a-z_]+(?!\w)", text):
        key = _key_of(match[0], known)
        around = text[max(0, match.start() - 1) : match.start()] + text[match.end() : match.end() + 1]
        if key is not None and (key not in _WORDS or (len(around) == 2 and set(around) <= _QUOTES)):
            yield key
