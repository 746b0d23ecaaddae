"""Reads the parts of a chat completion's JSON: choices, text, counts, errors. Knows no stream and no body."""

import json
from typing import Any, Final, TypeGuard

import orjson

from loadgen.record import JsonObject, ServerTimings

_ERROR_CHARS: Final = 300
_MAX_COUNT: Final = 2**63 - 1
_MAX_MS: Final = 1e15  # neither infinity nor NaN passes


def parse_object(data: bytes) -> JsonObject | None:
    """`data` parsed as a JSON object; None if it is none."""
    try:
        chunk = orjson.loads(data)
    except orjson.JSONDecodeError:
        chunk = _parse_surrogates(data) if b"\\u" in data else None
    return chunk if isinstance(chunk, dict) else None


def _parse_surrogates(data: bytes) -> Any:
    """Parse JSON with lone surrogates, which orjson rejects.

    Servers that keep text in UTF-16 cut an emoji in two: `\\ud83d` ends an event, `\\ude00` begins the next.
    """
    try:
        return json.loads(data, parse_constant=_reject_constant)
    except (ValueError, RecursionError):
        return None


def _reject_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def mend(text: str) -> str:
    """`text` with each surrogate pair as one character, and lone surrogates as U+FFFD, so that it can be encoded."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text


def first_choice(choices: object) -> JsonObject | None:
    if isinstance(choices, list):
        for choice in choices:
            if isinstance(choice, dict) and choice.get("index") in (0, None):
                return choice
    return None


def joined_parts(content: object) -> str:
    """The text of a content that is a list of parts, `{"type": "text", "text": …}` or plain strings; empty for
    others."""
    if not isinstance(content, list):
        return ""
    texts = (part.get("text") if isinstance(part, dict) else part for part in content)
    return "".join(text for text in texts if isinstance(text, str))


def has_hidden_text(delta: JsonObject) -> bool:
    """Whether a delta or message has reasoning, or the arguments of a tool call."""
    for key in ("reasoning_content", "reasoning"):
        reasoning = delta.get(key)
        if reasoning and isinstance(reasoning, str):
            return True
    calls = delta.get("tool_calls")
    functions = [call.get("function") for call in calls if isinstance(call, dict)] if isinstance(calls, list) else []
    functions.append(delta.get("function_call"))  # the older form
    return any(isinstance(each, dict) and bool(each.get("arguments")) for each in functions)


def is_count(value: object) -> TypeGuard[int]:
    return type(value) is int and 0 <= value <= _MAX_COUNT


def cached_tokens_of(usage: object, timings: object) -> int | None:
    """How many of the prompt's tokens came out of the server's cache; None if it does not say.

    From `usage`: `prompt_tokens_details.cached_tokens` (OpenAI, vLLM, SGLang, llama.cpp), `prompt_cache_hit_tokens`
    (DeepSeek) or `cached_tokens` (Moonshot); else from llama.cpp's `timings`: `cache_n`.
    """
    usage, timings = (part if isinstance(part, dict) else {} for part in (usage, timings))
    details = usage.get("prompt_tokens_details")
    counts = (
        details.get("cached_tokens") if isinstance(details, dict) else None,
        usage.get("prompt_cache_hit_tokens"),
        usage.get("cached_tokens"),
        timings.get("cache_n"),
    )
    return next((count for count in counts if is_count(count)), None)


def timings_of(timings: object) -> ServerTimings | None:
    """llama.cpp's timings; None if one of the four is missing or invalid."""
    if not isinstance(timings, dict):
        return None
    prompt_n, prompt_ms = timings.get("prompt_n"), timings.get("prompt_ms")
    predicted_n, predicted_ms = timings.get("predicted_n"), timings.get("predicted_ms")
    if is_count(prompt_n) and _is_duration(prompt_ms) and is_count(predicted_n) and _is_duration(predicted_ms):
        return ServerTimings(prompt_n, float(prompt_ms), predicted_n, float(predicted_ms))
    return None


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
