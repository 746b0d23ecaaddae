"""Reads the parts of a chat completion's JSON: choices, text, counts, errors. Knows no stream and no body."""

import json
import re
from typing import Any, Final, TypeGuard

import orjson

from loadgen.record import JsonObject, ServerTimings

_SURROGATES: Final = re.compile("[\ud800-\udbff][\udc00-\udfff]|[\ud800-\udfff]")
_LONE_SURROGATE: Final = re.compile(
    rb"\\\\|\\u[dD][89aAbB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|(\\u[dD][89a-fA-F][0-9a-fA-F]{2})"
)
"""In JSON: a lone surrogate (group 1). What could be taken for one, an escaped backslash or a pair, has no group."""
_ERROR_CHARS: Final = 300
_MAX_COUNT: Final = 2**63 - 1
_MAX_MS: Final = 1e15  # neither infinity nor NaN passes
_LONG_BYTES: Final = 1 << 20
_MAX_VALUES: Final = 1 << 19
"""The most values in JSON that is longer than a MiB. An empty object in three bytes takes seventy."""
TOO_MANY_VALUES: Final = f"JSON with more than {_MAX_VALUES:,} values"
VISIBLE_KEYS: Final = ("content", "refusal")
"""The keys of a delta under which a text for the user may be."""
COMPLETION_KEY: Final = "text"
"""The key of a choice under which the text of a completion is."""
_REASONING_KEYS: Final = ("reasoning_content", "reasoning", "reasoning_details", "thinking", "thinking_blocks")
"""The keys of a delta under which reasoning may be: as a text (DeepSeek, vLLM, Ollama), or in parts (OpenRouter,
LiteLLM)."""
_TEXT_KEYS: Final = (*VISIBLE_KEYS, *_REASONING_KEYS)
"""The keys of a delta that make its event a token if they have a text."""
_TEXT_FIELDS: Final = ("text", "thinking", "reasoning", "summary", "content")
"""The keys of a part of reasoning under which its text may be."""
_MAX_DEPTH: Final = 6
"""Reasoning that is nested deeper is not looked into. Mistral's text is in the third list or object."""
_CACHED_TOKENS: Final = (
    ("usage", "prompt_tokens_details", "cached_tokens"),  # OpenAI, vLLM, SGLang, llama.cpp
    ("usage", "input_tokens_details", "cached_tokens"),  # OpenAI's Responses
    ("usage", "prompt_cache_hit_tokens"),  # DeepSeek
    ("usage", "cached_tokens"),  # Moonshot
    ("usage", "cache_read_input_tokens"),  # Anthropic
    ("timings", "cache_n"),  # llama.cpp
)
"""Where servers say how many of a prompt's tokens came out of their cache; the first that has a count is believed."""


def has_too_many_values(data: bytes) -> bool:
    """Whether JSON has so many values that, parsed, it would take many times its bytes."""
    return len(data) > _LONG_BYTES and data.count(b",") + data.count(b"[") + data.count(b"{") > _MAX_VALUES


def parse_object(data: bytes) -> JsonObject | None:
    """`data` parsed as a JSON object; None if it is none, or has too many values."""
    value = parse_value(data)
    return value if isinstance(value, dict) else None


def parse_value(data: bytes) -> Any:
    """`data` parsed as JSON of any type; None if it is none, has too many values, or is nested too deeply."""
    if has_too_many_values(data):
        return None
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError:
        pass  # and what follows comes after it, because the error holds all of the data as a text
    return _parse_surrogates(data) if b"\\u" in data else None


def _parse_surrogates(data: bytes) -> Any:
    """Parse JSON with lone surrogates, which orjson rejects.

    Servers that keep text in UTF-16 cut an emoji in two: `\\ud83d` ends an event, `\\ude00` begins the next. In long
    JSON they become U+FFFD at once, because parsing it by `json` would take several times its memory.
    """
    try:
        if len(data) > _LONG_BYTES:
            return orjson.loads(_without_lone_surrogates(data))
        return json.loads(data, parse_constant=_reject_constant)
    except (ValueError, RecursionError):
        return None


def _without_lone_surrogates(data: bytes) -> bytearray:
    replaced = bytearray(data)
    for match in _LONE_SURROGATE.finditer(data):
        if match[1] is not None:
            replaced[match.start(1) : match.end(1)] = rb"\ufffd"
    return replaced


def _reject_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def mend(text: str) -> str:
    """`text` with each surrogate pair as one character, and lone surrogates as U+FFFD, so that it can be encoded."""
    try:
        text.encode()
    except UnicodeEncodeError:
        # One by one, and not by way of UTF-16: a long text would take several times its memory.
        return _SURROGATES.sub(lambda match: _character_of(match[0]), text)
    return text


def _character_of(surrogates: str) -> str:
    if len(surrogates) == 1:
        return "\ufffd"
    high, low = map(ord, surrogates)
    return chr(0x10000 + ((high - 0xD800) << 10) + (low - 0xDC00))


def first_choice(choices: object) -> JsonObject | None:
    if isinstance(choices, list):
        for choice in choices:
            if isinstance(choice, dict) and choice.get("index") in (0, None):
                return choice
    return None


def message_of(choice: JsonObject) -> JsonObject | None:
    """The message of a choice without a delta: its `message`, or its `text` as the content; None without either.

    Some servers answer a chat as if it was a completion, whose choices have a `text`.
    """
    message, text = choice.get("message"), choice.get(COMPLETION_KEY)
    if isinstance(message, dict):
        return message
    return {"content": text} if isinstance(text, str) else None


def visible_text(message: JsonObject) -> str:
    """The text of a delta or message that a user reads: its content, as a text or as a list of parts, and its
    refusal."""
    content, refusal = message.get("content"), message.get("refusal")
    text = content if isinstance(content, str) else _joined_parts(content)
    return text + refusal if refusal and isinstance(refusal, str) else text


def _joined_parts(content: object) -> str:
    """The text of a content that is a list of parts, `{"type": "text", "text": …}` or plain strings, without those of
    reasoning; empty for others."""
    if not isinstance(content, list):
        return ""
    texts: list[object] = []
    for part in content:
        if not isinstance(part, dict):
            texts.append(part)
        elif not _is_reasoning(part):
            texts += (part.get("text"), part.get("refusal"))
    return "".join(text for text in texts if isinstance(text, str))


def only_text_of(delta: JsonObject, visible: str) -> tuple[str, str] | None:
    """The text of a delta that has only one, behind its key. None if it has several, or if its visible text, which is
    given, is in parts."""
    texts = [(key, text) for key in _TEXT_KEYS if isinstance(text := delta.get(key), str) and text]
    if len(texts) != 1:
        return None
    key, text = texts[0]
    return (key, text) if visible == (text if key in VISIBLE_KEYS else "") else None


def has_hidden_text(message: JsonObject) -> bool:
    """Whether a delta or message has generated something that is no text for the user: reasoning, speech, or the
    arguments of a tool call."""
    if has_reasoning(message):
        return True
    audio = message.get("audio")
    if isinstance(audio, dict) and any(
        isinstance(audio.get(key), str) and audio[key] for key in ("data", "transcript")
    ):
        return True
    tool_calls = message.get("tool_calls")
    calls = [call for call in tool_calls if isinstance(call, dict)] if isinstance(tool_calls, list) else []
    functions = [message.get("function_call")]  # the older form
    functions += (call.get(kind) for call in calls for kind in ("function", "custom"))
    return any(isinstance(each, dict) and bool(each.get("arguments") or each.get("input")) for each in functions)


def has_reasoning(message: JsonObject) -> bool:
    """Whether a delta or message shows reasoning: under a key of its own, or as a part of the content."""
    if any(_has_text(message[key], _MAX_DEPTH) for key in _REASONING_KEYS if key in message):
        return True
    content = message.get("content")
    parts = content if isinstance(content, list) else ()
    return any(isinstance(part, dict) and _is_reasoning(part) and _has_text(part, _MAX_DEPTH) for part in parts)


def _is_reasoning(part: JsonObject) -> bool:
    """Whether a part of a content is of reasoning: Mistral's `thinking`, others' `reasoning`."""
    kind = part.get("type")
    return isinstance(kind, str) and kind.startswith(("thinking", "reasoning"))


def _has_text(value: object, depth: int) -> bool:
    """Whether a reasoning has any text: it is one, or has one in its parts. Encrypted reasoning has none."""
    if isinstance(value, str):
        return bool(value)
    if depth == 0:
        return False
    if isinstance(value, list):
        return any(_has_text(item, depth - 1) for item in value)
    return isinstance(value, dict) and any(_has_text(value[key], depth - 1) for key in _TEXT_FIELDS if key in value)


def count_of(value: object) -> int | None:
    """A count, also where it is written as a float (`12.0`); None if it is none."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return value if type(value) is int and 0 <= value <= _MAX_COUNT else None


def cached_tokens_of(usage: object, timings: object) -> int | None:
    """How many of the prompt's tokens came out of the server's cache, from the first of the known names that has a
    count; None if the server does not say."""
    said = {"usage": usage, "timings": timings}
    return next((count for path in _CACHED_TOKENS if (count := count_of(_value_at(said, path))) is not None), None)


def _value_at(value: object, path: tuple[str, ...]) -> object:
    for key in path:
        value = value.get(key) if isinstance(value, dict) else None
    return value


def timings_of(timings: object) -> ServerTimings | None:
    """llama.cpp's timings; None if one of the four is missing or invalid."""
    if not isinstance(timings, dict):
        return None
    prompt_n, predicted_n = count_of(timings.get("prompt_n")), count_of(timings.get("predicted_n"))
    prompt_ms, predicted_ms = timings.get("prompt_ms"), timings.get("predicted_ms")
    if prompt_n is None or predicted_n is None or not _is_duration(prompt_ms) or not _is_duration(predicted_ms):
        return None
    return ServerTimings(prompt_n, float(prompt_ms), predicted_n, float(predicted_ms))


def _is_duration(value: object) -> TypeGuard[float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= _MAX_MS


def error_of(chunk: JsonObject, event: str) -> str | None:
    """The error message of a chunk; None if it is no error (`"error": null`)."""
    error = chunk.get("error")
    if not error:
        if event != "error" and chunk.get("object") != "error":
            return None
        error = chunk
    message = error.get("message") if isinstance(error, dict) else error
    if not isinstance(message, str) or not message.strip():
        try:
            message = orjson.dumps(error).decode()
        except orjson.JSONEncodeError:  # too deep, or lone surrogates
            message = ""
    return one_line(message) or "an error event"


def one_line(text: str) -> str:
    """At most 300 characters of `text`, in one line, without control characters."""
    printable = "".join(char if char.isprintable() else " " for char in text[: 4 * _ERROR_CHARS])
    return " ".join(printable.split())[:_ERROR_CHARS].rstrip()
