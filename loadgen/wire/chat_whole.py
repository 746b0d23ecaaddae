"""Reads one chat completion that came whole, as a JSON body. Knows no socket, no clock and no stream.

- The first choice with index 0, or with none, counts, as in a stream; its `message` bears the text.
- A complete JSON object with choices is the orderly end: nothing that the connection does afterwards spoils it.
- An `error` in an object without choices is an error, whatever the status says.
- Without `usage`, nobody has counted the tokens: they are not known.
"""

import hashlib
from typing import Any

import orjson
from msgspec import Struct

from loadgen.record import ServerTimings
from loadgen.wire.chat_json import (
    cached_tokens_of,
    error_of,
    first_choice,
    has_hidden_text,
    is_count,
    joined_parts,
    mend,
    parse_object,
    timings_of,
)


class WholeAnswer(Struct, frozen=True, kw_only=True):
    """What one body says."""

    answers: bool = False
    """It is a chat completion, complete."""
    speaks: bool = False
    """Some of it was generated: content, reasoning or a tool call."""
    text: str = ""
    """The visible content; lone surrogates become U+FFFD."""
    text_sha256: str | None = None
    """Of the text's UTF-8, in hex."""
    prompt_tokens: int | None = None
    """By usage; None without."""
    cached_tokens: int | None = None
    """Of the prompt, by usage or timings; None without."""
    output_tokens: int | None = None
    """By usage; None without."""
    finish_reason: str | None = None
    """In the server's word; None without."""
    timings: ServerTimings | None = None
    """llama.cpp's."""
    error: str | None = None
    """The server's own message, one line of at most 300 characters."""
    cut: bool = False
    """The JSON breaks off."""
    malformed: str | None = None
    """What is wrong with the bytes otherwise."""


def decode_whole(body: bytes) -> WholeAnswer:
    """Reads a whole body. Never raises: whatever is wrong with the bytes is in the answer."""
    data = body.removeprefix(b"\xef\xbb\xbf").strip()
    completion = parse_object(data)
    if completion is None:
        return _broken(data)
    if not isinstance(completion.get("choices"), list):
        error = error_of(completion, "message")
        return WholeAnswer(error=error) if error else WholeAnswer(malformed="a JSON object without choices")
    choice = first_choice(completion["choices"]) or {}
    message = choice.get("message")
    message = message if isinstance(message, dict) else {}
    content = message.get("content")
    visible = content if isinstance(content, str) else joined_parts(content)
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
        prompt_tokens=_count(usage.get("prompt_tokens")),
        cached_tokens=cached_tokens_of(usage, completion.get("timings")),
        output_tokens=_count(usage.get("completion_tokens")),
        finish_reason=mend(reason) if isinstance(reason, str) and reason else None,
        timings=timings_of(completion.get("timings")),
    )


def _count(value: Any) -> int | None:
    return value if is_count(value) else None


def _broken(data: bytes) -> WholeAnswer:
    """A body that is no JSON object: broken off, or something else."""
    if not data:
        return WholeAnswer(cut=True)
    try:
        data.decode()
    except UnicodeDecodeError as error:
        # A character that the end of the body cuts is no fault of the bytes: the body breaks off.
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
