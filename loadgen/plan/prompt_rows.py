"""The rows of a file of prompts, as this program and others write them. Opens no file.

A row is a text, or an object with a text, a recorded chat or a conversation under one of `KEYS`. Its other keys are
ignored. A row may have such a key but no question, such as an empty cell or a conversation in which only the model
speaks. That is not a mistake of the user of a data set, so the row gets an empty text here and is skipped.
"""

import contextlib
import itertools
import json
import re
from collections.abc import Iterable, Iterator
from typing import Any, Final

import msgspec
from msgspec import Struct

from loadgen.errors import InputError
from loadgen.record import JsonObject
from loadgen.redact import escape_control
from loadgen.scenario import InlinePrompt
from loadgen.scenario.problem import Problem, Source, input_error
from loadgen.scenario.validate import convert

JSON_LINES: Final = (".jsonl", ".ndjson", ".jsonlines")
"""How the names of files end that have a JSON value on each line."""
TEXT_KEYS: Final = ("prompt", "instruction", "question", "text", "content", "query", "input")
KEYS: Final = ("messages", "conversations", "conversation", TEXT_KEYS[0], "turns", *TEXT_KEYS[1:])
"""The first key that is present counts. The order matters, because some data sets have a recorded chat and also its
first question, or an instruction and also a `text` of the whole exchange for training."""
_OTHER_NAMES: Final = {"prompt": "text", "conversations": "conversation"}
"""Keys with a second name. If a row has both, their values must be equal."""
_ADDITIONS: Final = {"instruction": ("input", "context"), "question": ("context",)}
"""Columns with the subject of an instruction or a question (Alpaca, Dolly, SQuAD)."""
_REQUEST: Final = "body"
"""The key of the request in a file for OpenAI's batches."""
_LISTS: Final = ("data", "rows", "examples", "items", "questions", "instances", "dataset")
"""Keys of an object under which other programs have a list of rows."""
_POINTS_KEYS: Final = ("key_points", "expected_aspects", "expected_facets", "aspects", "facets")
_CONTENT_KEYS: Final = frozenset(("content", "tool_calls", "function_call"))
"""A message has at least one of these keys; the last is the older form of a tool call."""
_HUMANS: Final = frozenset(("human", "user", "prompter"))
_BETWEEN: Final = re.compile(r"[\s,]*")
"""What stands between two values of a JSON list."""
_SURROGATE: Final = re.compile(r"\\u[dD][89a-fA-F]")
"""The escape of one half of a character, which may or may not have its other half beside it."""
_PIECE_CHARS: Final = 1 << 20
LONGEST_ROW: Final = 32 << 20
"""The longest row of a long file, in characters."""
_LIST: Final = '["Say hello."]'
_OTHERWISE: Final = "neither a text nor an object; write e.g."
_EXAMPLE: Final = '{"text": "Say hello."}'
_MESSAGE: Final = '{"role": "user", "content": "Say hello."}'
_TURN: Final = '{"from": "human", "value": "Say hello."}'


class RowOfFile(Struct, frozen=True):
    """One prompt of a file, before it gets its unique id."""

    text: str
    """The user's text; in a recorded chat, that of the user's last turn. Empty if the row has no question."""
    id: str | None = None
    key_points: tuple[str, ...] = ()
    messages: tuple[JsonObject, ...] = ()
    """A recorded chat; empty if there is only a text."""
    tools: tuple[JsonObject, ...] = ()
    """The tools that were offered in the recorded chat."""


PlacedRow = tuple[RowOfFile, str, int]
"""A row, its place for messages, and its number in the file."""


def rows_of_lines(lines: Iterable[str], where: str) -> Iterator[PlacedRow]:
    """The rows of lines with a JSON value on each, or nothing. Raises InputError.

    lines: split at line feeds alone, because JSON may hold the other separators that Python knows.
    """
    for number, line in enumerate(lines, start=1):
        if line.strip():
            place = f"{where}: line {number}"
            yield _row_of(_decoded(line, place), place, "not an object; write one per line, such as"), place, number


def rows_of_document(text: str, where: str) -> Iterator[PlacedRow]:
    """The rows of a JSON document: a list, a single row, or an object with a list of rows. Raises InputError."""
    hint = f"write a list, such as {_LIST}"
    try:
        raw = json_value_of(text)
    except (msgspec.DecodeError, RecursionError) as error:
        raise InputError(f"{where}: not JSON: {escape_control(str(error))}; {hint}") from None
    listed = _list_in(raw) if isinstance(raw, dict) else raw
    if not isinstance(listed, list) or not listed:
        raise InputError(f"{where}: it has no list of prompts; {hint}")
    for number, item in enumerate(listed, start=1):
        place = f"{where}: prompt {number}"
        yield _row_of(item, place, _OTHERWISE), place, number


def rows_of_pieces(pieces: Iterator[str], where: str) -> Iterator[PlacedRow]:
    """The rows of a JSON list that comes in pieces of any size, and is not held in memory. Raises InputError."""
    decoder, number = json.JSONDecoder(), 1
    text, at = next(pieces, "").lstrip().removeprefix("["), 0
    while True:
        begin = _BETWEEN.match(text, at).end()  # type: ignore[union-attr]  # it matches everywhere
        if text.startswith("]", begin):
            return
        place = f"{where}: prompt {number}"
        try:
            item, at = decoder.raw_decode(text, begin)
        except (json.JSONDecodeError, RecursionError) as error:
            # The value may go on in the next pieces. They double the text, so that a long value is not parsed often.
            more = "".join(itertools.islice(pieces, 1 + (len(text) - begin) // _PIECE_CHARS))
            if not more or len(text) - begin > LONGEST_ROW:
                reason = error.msg if isinstance(error, json.JSONDecodeError) else "nested too deeply"
                raise InputError(f"{place}: not JSON, or too long: {reason}; write a list, such as {_LIST}") from None
            text, at = text[begin:] + more, 0
            continue
        if _SURROGATE.search(text, begin, at):
            item = _encodable(item)
        yield _row_of(item, place, _OTHERWISE), place, number
        number += 1


def has_list(document: JsonObject) -> bool:
    """Whether an object is not itself a row, but has a list of rows."""
    return "prompts" in document or _list_in(document) not in (None, [document])


def _list_in(document: JsonObject) -> Any:
    """The list of rows in an object: under `prompts`, or under the only key of `_LISTS` that has one. An object that is
    itself a row is a list of one. None if there is no list."""
    if document.get("prompts") is not None:
        return document["prompts"]
    if any(key in document for key in (*KEYS, _REQUEST)):
        return [document]
    lists = [document[key] for key in _LISTS if isinstance(document.get(key), list)]
    if len(lists) != 1:
        return None
    # The dataset viewer of Hugging Face puts each row under a key of its own.
    return [row["row"] if isinstance(row, dict) and isinstance(row.get("row"), dict) else row for row in lists[0]]


def _decoded(line: str, place: str) -> Any:
    try:
        return json_value_of(line)
    except (msgspec.DecodeError, RecursionError) as error:
        problem = f"{place}: not JSON: {escape_control(str(error))}"
        raise InputError(f"{problem}; write one object per line, such as {_EXAMPLE}") from None


def json_value_of(text: str) -> Any:
    """The value of a JSON text, also where it has what Python's `json` writes beside JSON: NaN, Infinity, and halves of
    characters as `\\ud83d`, which become U+FFFD. Raises msgspec.DecodeError or RecursionError.
    """
    try:
        return msgspec.json.decode(text.encode())
    except msgspec.DecodeError:
        with contextlib.suppress(ValueError):
            return _encodable(json.loads(text))
        raise


def _encodable(value: Any) -> Any:
    text = json.dumps(value, ensure_ascii=False)
    try:
        text.encode()
    except UnicodeEncodeError:
        return json.loads(text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace"))
    return value


def _row_of(item: Any, place: str, otherwise: str) -> RowOfFile:
    if isinstance(item, str):
        return RowOfFile(item.strip())
    if not isinstance(item, dict):
        raise InputError(f"{place}: {otherwise} {_EXAMPLE}")
    return row_of_object(item, place)


def row_of_object(item: JsonObject, place: str) -> RowOfFile:
    """The prompt of an object. place: its place in the file, for messages. Raises InputError."""
    request = item.get(_REQUEST)
    if isinstance(request, dict) and not any(key in item for key in KEYS):
        id_of_request = _text_id(item.get("custom_id")) or _text_id(item.get("id"))
        return msgspec.structs.replace(_row_of_columns(request, place), id=id_of_request)
    return _row_of_columns(item, place)


def _row_of_columns(item: JsonObject, place: str) -> RowOfFile:
    key = next((key for key in KEYS if item.get(key) is not None), None)
    if key is None and not any(key in item for key in KEYS):
        raise InputError(f"{place}: text: missing; write it as text, prompt, messages or conversations")
    other = _OTHER_NAMES.get(key or "")
    if key is not None and other is not None and item.get(other) not in (None, item[key]):
        raise InputError(f"{place}: {other} and {key} are both given; leave one out")
    row = RowOfFile("") if key is None else _row_under(key, item, place)
    if not row.text.strip():
        return RowOfFile("")
    own_id = _text_id(item.get("id")) or (_text_id(item.get("question_id")) if key == "turns" else None)
    return msgspec.structs.replace(row, id=own_id, key_points=_key_points_of(item, row.text, place))


def _row_under(key: str, item: JsonObject, place: str) -> RowOfFile:
    """The row that the value of one of the keys gives."""
    value = item[key]
    match key:
        case "messages":
            return _chat_of(value, key, item.get("tools"), place)
        case "conversations" | "conversation":
            return _asked(_first_human_turn(value, key, place), place)
        case "turns":
            is_texts = isinstance(value, list) and value and all(isinstance(turn, str) for turn in value)
            return _asked(value[0] if is_texts else _first_human_turn(value, key, place), place)
        case "content" if str(item.get("role", "user")).lower() not in _HUMANS:
            return RowOfFile("")
        case "content" if isinstance(value, list):
            return _chat_of([{"role": "user", "content": value}], key, item.get("tools"), place)
        case _ if isinstance(value, list):
            return _chat_of(value, key, item.get("tools"), place)
        case _:
            added = (item.get(column) for column in _ADDITIONS.get(key, ()))
            texts = [text.strip() for text in added if isinstance(text, str) and text.strip()]
            return _asked("\n\n".join((value.strip(), *texts)) if isinstance(value, str) else value, place)


def _asked(text: Any, place: str) -> RowOfFile:
    """The row of a text. The prompt's own type checks the text, so that the messages are the same."""
    is_blank = isinstance(text, str) and not text.strip()
    return RowOfFile("" if is_blank else convert({"text": text}, InlinePrompt, Source(place)).text.strip())


def _key_points_of(item: JsonObject, text: str, place: str) -> tuple[str, ...]:
    given = [key for key in _POINTS_KEYS if item.get(key) is not None]
    if len(given) > 1 and item[given[0]] != item[given[1]]:
        raise InputError(f"{place}: {given[0]} and {given[1]} are both given; leave one out")
    points = item[given[0]] if given else []
    if isinstance(points, str):  # a cell, which may be blank
        points = [points] if points.strip() else []
    source = Source(place)
    return checked_points(
        convert({"text": text, "key_points": points}, InlinePrompt, source).key_points,
        given[0] if given else "key_points",
        source,
    )


def checked_points(points: tuple[str, ...], key: str, source: Source) -> tuple[str, ...]:
    """The key points of a prompt, which stand under a key. Raises InputError for a blank one, which no answer says."""
    for place, point in enumerate(points):
        if not point.strip():
            raise input_error(source, Problem(f"{key}[{place}]", "no text in it", "write a point, or leave it out"))
    return points


def _text_id(value: object) -> str | None:
    is_id = isinstance(value, str | int) and not isinstance(value, bool) and str(value).strip()
    return str(value) if is_id else None


def _chat_of(messages: Any, key: str, tools: Any, place: str) -> RowOfFile:
    if messages == []:
        return RowOfFile("")
    if not isinstance(messages, list):
        raise InputError(f"{place}: {key}: not a list of messages; write e.g. [{_MESSAGE}]")
    for i, message in enumerate(messages):
        if not isinstance(message, dict) or not isinstance(message.get("role"), str) or not message["role"]:
            raise InputError(f"{place}: {key}[{i}]: not a message with a role; write e.g. {_MESSAGE}")
        if not _CONTENT_KEYS & message.keys():
            raise InputError(f"{place}: {key}[{i}]: neither content nor tool_calls in it; write e.g. {_MESSAGE}")
        content = message.get("content")
        if not isinstance(content, str | list | None):
            raise InputError(f"{place}: {key}[{i}].content: neither a text nor a list of parts; write e.g. {_MESSAGE}")
    if tools is not None and not (isinstance(tools, list) and all(isinstance(tool, dict) for tool in tools)):
        raise InputError(f"{place}: tools: not a list of objects; write them as the API has them, or leave them out")
    texts = [message_text(message) for message in messages if message["role"] == "user"]
    text = next((text for text in reversed(texts) if text.strip()), "")
    return RowOfFile(text.strip() or "(a recorded chat)", messages=tuple(messages), tools=tuple(tools or ()))


def message_text(message: JsonObject) -> str:
    """The text of a message: its content, or the text of the parts of it."""
    content = message.get("content")
    if isinstance(content, str):
        return content
    parts = [part.get("text") for part in content or () if isinstance(part, dict)]
    return "\n".join(part for part in parts if isinstance(part, str))


def _first_human_turn(turns: Any, key: str, place: str) -> Any:
    """The first turn of a person; empty if only the model speaks."""
    if not isinstance(turns, list) or not all(isinstance(turn, dict) for turn in turns):
        raise InputError(f"{place}: {key}: not a list of turns; write e.g. [{_TURN}]")
    for turn in turns:
        if str(turn.get("from", turn.get("role", ""))).lower() in _HUMANS:
            text = turn.get("value", turn.get("content"))
            if not isinstance(text, str) or text.strip():
                return text
    return ""
