"""The prompts in JSON: rows as this program and others write them. Opens no file.

A row is a text, or an object with a text (`text`, `prompt`), a recorded chat (`messages`), or a conversation as
ShareGPT has it (`conversations`), whose first human turn is asked. What else it holds is for other programs.
"""

from collections.abc import Iterator
from typing import Any, Final

import msgspec
from msgspec import Struct

from loadgen.errors import InputError
from loadgen.record import JsonObject
from loadgen.redact import escape_control
from loadgen.scenario import InlinePrompt
from loadgen.scenario.problem import Source
from loadgen.scenario.validate import convert

_TEXT_KEYS: Final = ("text", "prompt")
_CHAT_KEYS: Final = ("messages",)
_CONVERSATION_KEYS: Final = ("conversations", "conversation")
_ROW_KEYS: Final = (_CHAT_KEYS, _CONVERSATION_KEYS, _TEXT_KEYS)
"""What says most first: data sets have a recorded chat and, beside it, its first question."""
_POINTS_KEYS: Final = ("key_points", "expected_aspects", "expected_facets", "aspects", "facets")
_CONTENT_KEYS: Final = frozenset(("content", "tool_calls", "function_call"))
"""A message has one of these at least; the last is the older form of a call."""
_HUMANS: Final = frozenset(("human", "user"))
_EXAMPLE: Final = '{"text": "Say hello."}'
_MESSAGE: Final = '{"role": "user", "content": "Say hello."}'


class RowOfFile(Struct, frozen=True):
    """One prompt of a file, before it has an id of its own."""

    text: str
    """What the user says; of a recorded chat, the text of its last turn of the user."""
    id: str | None = None
    key_points: tuple[str, ...] = ()
    messages: tuple[JsonObject, ...] = ()
    """A recorded chat; empty where there is only a text."""
    tools: tuple[JsonObject, ...] = ()
    """The tools that were offered in it."""


def rows_of_lines(text: str, where: str) -> Iterator[tuple[RowOfFile, str, int]]:
    """The rows of a text with a JSON value a line, each with its place and its number. Raises InputError."""
    # Split at line feeds alone: JSON may hold the other separators that Python knows.
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            place = f"{where}: line {number}"
            yield _row_of(_decoded(line, place), place, "not an object; write one a line, such as"), place, number


def rows_of_document(text: str, where: str) -> Iterator[tuple[RowOfFile, str, int]]:
    """The rows of a JSON document: a list, an object with one under `prompts`, or a single row. Raises InputError."""
    hint = 'write a list, such as ["Say hello."]'
    try:
        raw = msgspec.json.decode(text.encode())
    except (msgspec.DecodeError, RecursionError) as error:
        raise InputError(f"{where}: not JSON: {escape_control(str(error))}; {hint}") from None
    listed = raw.get("prompts") if isinstance(raw, dict) else raw
    if listed is None and any(key in raw for keys in _ROW_KEYS for key in keys):
        listed = [raw]
    if not isinstance(listed, list) or not listed:
        raise InputError(f"{where}: no list of prompts in it; {hint}")
    for number, item in enumerate(listed, start=1):
        place = f"{where}: prompt {number}"
        yield _row_of(item, place, "neither a text nor an object; write e.g."), place, number


def _decoded(line: str, place: str) -> Any:
    try:
        return msgspec.json.decode(line.encode())
    except (msgspec.DecodeError, RecursionError) as error:
        problem = f"{place}: not JSON: {escape_control(str(error))}"
        raise InputError(f"{problem}; write one object a line, such as {_EXAMPLE}") from None


def _row_of(item: Any, place: str, otherwise: str) -> RowOfFile:
    if isinstance(item, str):
        return RowOfFile(item)
    if not isinstance(item, dict):
        raise InputError(f"{place}: {otherwise} {_EXAMPLE}")
    key = next(filter(None, (_only_key(item, keys, place) for keys in _ROW_KEYS)), None)
    if key is None:
        raise InputError(f"{place}: text: missing; write it as text, prompt, messages or conversations")
    value = item[key]
    points_key = _only_key(item, _POINTS_KEYS, place)
    points: Any = [] if points_key is None else item[points_key]
    points = [points] if isinstance(points, str) else points
    row = RowOfFile("")
    if key in _CONVERSATION_KEYS:
        value = _first_human_turn(value, key, place)
    elif key in _CHAT_KEYS or isinstance(value, list):
        row = _chat_of(value, key, item.get("tools"), place)
        value = row.text
    # By way of the prompt's own type, for its complaints: about a text that is none, or points that are no list.
    entry = convert({"text": value, "key_points": points}, InlinePrompt, Source(place))
    return msgspec.structs.replace(row, text=entry.text, id=_id_of(item), key_points=entry.key_points)


def _only_key(item: JsonObject, keys: tuple[str, ...], place: str) -> str | None:
    """The key of a row that is given; None without any. Raises InputError where two say different things."""
    given = [key for key in keys if item.get(key) is not None]
    if len(given) > 1 and item[given[0]] != item[given[1]]:
        raise InputError(f"{place}: {given[0]} and {given[1]} are both given; leave one out")
    return given[0] if given else None


def _id_of(item: JsonObject) -> str | None:
    number = item.get("id")
    is_id = isinstance(number, str | int) and not isinstance(number, bool) and str(number).strip()
    return str(number) if is_id else None


def _chat_of(messages: Any, key: str, tools: Any, place: str) -> RowOfFile:
    if not isinstance(messages, list) or not messages:
        raise InputError(f"{place}: {key}: no list of messages; write e.g. [{_MESSAGE}]")
    for i, message in enumerate(messages):
        if not isinstance(message, dict) or not isinstance(message.get("role"), str) or not message["role"]:
            raise InputError(f"{place}: {key}[{i}]: no message with a role; write e.g. {_MESSAGE}")
        if not _CONTENT_KEYS & message.keys():
            raise InputError(f"{place}: {key}[{i}]: neither content nor tool_calls in it; write e.g. {_MESSAGE}")
        content = message.get("content")
        if not isinstance(content, str | list | None):
            raise InputError(f"{place}: {key}[{i}].content: neither a text nor a list of parts; write e.g. {_MESSAGE}")
    if tools is not None and not (isinstance(tools, list) and all(isinstance(tool, dict) for tool in tools)):
        raise InputError(f"{place}: tools: no list of objects; write them as the API has them, or leave them out")
    texts = [_text_of(message.get("content")) for message in messages if message["role"] == "user"]
    text = next((text for text in reversed(texts) if text.strip()), "")
    return RowOfFile(text or "(a recorded chat)", messages=tuple(messages), tools=tuple(tools or ()))


def _text_of(content: Any) -> str:
    """The text of a message's content: itself, or that of its parts."""
    if isinstance(content, str):
        return content
    parts = [part.get("text") for part in content or () if isinstance(part, dict)]
    return "\n".join(part for part in parts if isinstance(part, str))


def _first_human_turn(turns: Any, key: str, place: str) -> Any:
    if not isinstance(turns, list) or not all(isinstance(turn, dict) for turn in turns):
        raise InputError(f'{place}: {key}: no list of turns; write e.g. [{{"from": "human", "value": "Say hello."}}]')
    for turn in turns:
        if str(turn.get("from", turn.get("role", ""))).lower() in _HUMANS:
            return turn.get("value", turn.get("content"))
    raise InputError(f"{place}: {key}: no turn of a human in it; leave this row out")
