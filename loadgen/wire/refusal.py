"""Finds which keys of a request a server refuses, in the body of its answer. Pure.

OpenAI's servers put the key's name into `param`, FastAPI's into `loc`, others into a sentence. A name in a sentence is
only a guess, because the sentence may list what is allowed.
"""

import re
from collections.abc import Iterable, Iterator
from typing import Any, Final

from msgspec import Struct

from loadgen.wire.chat_json import error_of, parse_object, parse_value

REFUSED: Final = frozenset({400, 422})
"""Statuses with which a server refuses a request for its body."""
_NAME_FIELDS: Final = ("param", "loc", "field", "parameter", "additionalProperty")
_TEXT_FIELDS: Final = (
    *("message", "msg", "detail", "error", "errors", "title", "description", "reason", "body"),
    *("details", "params", "violations"),
)
_NO_NAMES: Final = ("", "none", "null", "nil", "undefined")
"""What stands in a field for names that has none: LiteLLM's `"param": "None"`."""
_CODE_FIELDS: Final = ("code", "type")
OTHER_LIMIT: Final = "max_completion_tokens"
"""The newer name of `max_tokens` in OpenAI's API."""
_ALIASES: Final = {
    "include_usage": "stream_options",
    OTHER_LIMIT: "max_tokens",
    "max_new_tokens": "max_tokens",
    "max_output_tokens": "max_tokens",
}
"""Names that a server may give in place of a key of the body: what is within it, or what it wants instead."""
_WORDS: Final = ("stop", "model", "messages", "stream")
"""Names that are words of any sentence: there they are meant only in quotes."""
_NEEDED: Final = frozenset(("max_tokens", OTHER_LIMIT, "stop"))
"""Where an answer ends: without them it is another one. Where their value is refused, they are not left out."""
_OF_VALUE: Final = re.compile(
    r"too (?:large|long|small|short|big|high|low|many|few)|context[ _](?:length|window|size)|exceed"
    r"|(?:below|above)[ _]m(?:in|ax)|m(?:in|ax)imum|at (?:least|most)|(?:less|greater|larger|more|fewer|smaller) than"
    r"|out of range|between|positive|must be (?:an?|in|\d)|<=|>=|[≤≥]",
    re.IGNORECASE,
)
"""How servers say that they take a key, and not its value: OpenAI, vLLM, TGI, pydantic."""
_OF_KEY: Final = re.compile(
    r"unsupported|not support|unknown|unrecogni[sz]ed|unexpected|extra[ _](?:input|field|forbidden)|not permitted",
    re.IGNORECASE,
)
_QUOTES: Final = frozenset("\"'`‘’“”")
_MAX_DEPTH: Final = 8
_MAX_BYTES: Final = 64 << 10


class NamedKeys(Struct, frozen=True):
    """The keys that a refusal names."""

    named: tuple[str, ...]
    """Keys in a field for names, such as `param`. All of them are refused."""
    mentioned: tuple[str, ...]
    """In a sentence, in its order, where no field names one."""
    values: tuple[str, ...] = ()
    """Of either, those that are taken with another value, and that an answer's length depends on: in neither of the
    others."""


def named_keys(body: bytes, keys: Iterable[str]) -> NamedKeys:
    """Which of these keys the body of a refusal names."""
    known, value = set(keys), parse_value(body)
    names, texts = list[_Statement](), list[_Statement]()
    if isinstance(value, dict | list):
        _gather(value, names, texts, _MAX_DEPTH)
    else:
        text = value if isinstance(value, str) else body.decode("utf-8", "replace")
        texts.append(_Statement(text, _is_of_value(text)))
    named = [(key, name.of_value) for name in names for key in _keys_of(name.text, known)]
    mentioned = [(key, text.of_value) for text in texts for key in _mentioned(text.text, known)]
    # A field says which it is, and where it is none of ours the sentence is not guessed at.
    has_field = any(name.text for name in names)
    refused = named if has_field else mentioned
    values = dict.fromkeys(key for key, of_value in refused if of_value and key in _NEEDED)
    left_out = tuple(dict.fromkeys(key for key, _ in refused if key not in values))
    return NamedKeys(left_out, (), tuple(values)) if has_field else NamedKeys((), left_out, tuple(values))


def error_in(body: bytes) -> bytes:
    """The error that the body of an answer with status 200 is, or that an event of it is, as JSON; empty without, or if
    the body is too long for one."""
    if len(body) > _MAX_BYTES:
        return b""
    for data in (body, *(line[len(b"data:") :] for line in body.splitlines() if line.startswith(b"data:"))):
        chunk = parse_object(data)
        if chunk is not None and error_of(chunk, "message") is not None:
            return data
    return b""


def mentions(body: bytes, key: str) -> bool:
    """Whether the body of a refusal has this name anywhere."""
    return re.search(rb"(?<!\w)%b(?!\w)" % key.encode(), body) is not None


class _Statement(Struct, frozen=True):
    """A name or a sentence of a refusal."""

    text: str
    of_value: bool
    """It is the value that is refused, and not the key."""


def _is_of_value(text: str) -> bool:
    return _OF_VALUE.search(text) is not None and _OF_KEY.search(text) is None


def _gather(value: Any, names: list[_Statement], texts: list[_Statement], depth: int) -> None:
    """Gather the texts that name something, and the sentences. What a refusal repeats of the request is neither."""
    if depth == 0:
        return
    if isinstance(value, list):
        for item in value:
            if isinstance(item, str):
                texts.append(_Statement(item, _is_of_value(item)))
            else:
                _gather(item, names, texts, depth - 1)
        return
    if not isinstance(value, dict):
        return
    said = (value.get(field) for field in (*_TEXT_FIELDS, *_CODE_FIELDS))
    of_value = _is_of_value(" ".join(text for text in said if isinstance(text, str)))
    for field, content in value.items():
        if field in _NAME_FIELDS:
            names += (_Statement(name, of_value) for name in _names_in(content))
        elif field in _TEXT_FIELDS:
            if isinstance(content, str):
                texts.append(_Statement(content, of_value))
            else:
                _gather(content, names, texts, depth - 1)


def _names_in(content: Any) -> Iterator[str]:
    if isinstance(content, str) and content.lower() not in _NO_NAMES:
        yield content
    elif isinstance(content, list):
        # FastAPI's path begins with "body", the place in the request. ["body"] alone names no key.
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
