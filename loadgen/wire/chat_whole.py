"""Decodes one chat completion that was not streamed: a JSON body. Knows no socket and no clock.

- The first choice with index 0, or without an index, counts, as in a stream; its `message` has the text, or
  else its own `text`, as in a completion.
- A complete JSON object with choices is the orderly end: what the connection does afterwards changes no outcome.
- An `error` in an object without choices is an error, whatever the status.
- Without `usage`, the number of tokens is not known.
"""

import hashlib

import orjson
from msgspec import Struct

from loadgen.record import ServerTimings
from loadgen.wire.chat_json import (
    TOO_MANY_VALUES,
    cached_tokens_of,
    count_of,
    error_of,
    first_choice,
    has_hidden_text,
    has_too_many_values,
    mend,
    message_of,
    parse_object,
    timings_of,
    visible_text,
)


class WholeAnswer(Struct, frozen=True, kw_only=True):
    """The content of one body."""

    answers: bool = False
    """Whether it is a complete chat completion."""
    speaks: bool = False
    """Whether anything was generated: content, a refusal, reasoning, speech or a tool call."""
    text: str = ""
    """The visible content; lone surrogates become U+FFFD."""
    text_sha256: str | None = None
    """The hash of the text's UTF-8, in hex."""
    prompt_tokens: int | None = None
    """From `usage`; None without it."""
    cached_tokens: int | None = None
    """How many tokens of the prompt were cached, from `usage` or `timings`; None without them."""
    output_tokens: int | None = None
    """From `usage`; None without it."""
    finish_reason: str | None = None
    """As the server spells it; None without it."""
    timings: ServerTimings | None = None
    """The timings of llama.cpp; None from other servers."""
    error: str | None = None
    """The server's own message, one line of at most 300 characters."""
    cut: bool = False
    """Whether the JSON breaks off."""
    malformed: str | None = None
    """What else is wrong with the bytes."""


def decode_whole(body: bytes) -> WholeAnswer:
    """Decode a whole body. Never raises: the answer says what is wrong with the bytes."""
    data = body.removeprefix(b"\xef\xbb\xbf").strip()
    if has_too_many_values(data):
        return WholeAnswer(malformed=TOO_MANY_VALUES)
    completion = parse_object(data)
    if completion is None:
        return _broken(data)
    if not isinstance(completion.get("choices"), list):
        error = error_of(completion, "message")
        return WholeAnswer(error=error) if error else WholeAnswer(malformed="a JSON object without choices")
    choice = first_choice(completion["choices"]) or {}
    message = message_of(choice) or {}
    visible = visible_text(message)
    text = mend(visible)
    speaks = bool(visible) or has_hidden_text(message)
    usage = completion.get("usage")
    usage = usage if isinstance(usage, dict) else {}
    reason = choice.get("finish_reason")
    return WholeAnswer(
        answers=True,
        speaks=speaks,
        text=text,
        text_sha256=hashlib.sha256(text.encode()).hexdigest() if speaks else None,
        prompt_tokens=count_of(usage.get("prompt_tokens")),
        cached_tokens=cached_tokens_of(usage, completion.get("timings")),
        output_tokens=count_of(usage.get("completion_tokens")),
        finish_reason=mend(reason) if isinstance(reason, str) and reason else None,
        timings=timings_of(completion.get("timings")),
    )


def _broken(data: bytes) -> WholeAnswer:
    """The answer of a body that is no JSON object: it breaks off, or is malformed."""
    if not data:
        return WholeAnswer(cut=True)
    try:
        data.decode()
    except UnicodeDecodeError as error:
        # If the body ends within a character, it breaks off; its bytes are not malformed.
        if error.end < len(data) or error.reason != "unexpected end of data":
            return WholeAnswer(malformed=f"not UTF-8 at byte {error.start}")
        return WholeAnswer(cut=data.startswith(b"{"), malformed=None if data.startswith(b"{") else "not JSON")
    if data.startswith((b"data:", b"event:", b"id:", b":")):
        return WholeAnswer(malformed="server-sent events where a whole answer was asked for")
    try:
        orjson.loads(data)
    except orjson.JSONDecodeError as error:
        if data.startswith(b"{") and str(error).startswith("unexpected end of data"):
            return WholeAnswer(cut=True)
        return WholeAnswer(malformed="not JSON")
    return WholeAnswer(malformed="not a JSON object")
