"""The bytes that the server sends: heads, chunks, events, bodies, and the words of an answer. Knows no time."""

import hashlib
from http import HTTPStatus
from itertools import cycle, islice
from typing import Any, Final

import msgspec
from msgspec import Struct

from loadgen.record import JsonObject

WORDS: Final = (
    *("alpha", "bravo", "charlie", "delta", "echo", "foxtrot", "golf", "hotel", "india", "juliett", "kilo", "lima"),
    *("mike", "naïve", "oscar", "papa", "quebec", "romeo", "sierra", "tango", "uniform", "victor", "whisky", "x-ray"),
    *("yankee", "zulu", "café", "日本", "ελληνικά", "🙂", "1,024", "stop."),
)
"""Some have characters of several bytes, so that a frame can be cut inside one. None needs escaping in JSON."""

PIECES: Final = tuple(f" {word}".encode() for word in WORDS)
DONE: Final = b"data: [DONE]\n\n"
COMMENT: Final = b": keep-alive\n\n"
LAST_CHUNK: Final = b"0\r\n\r\n"
CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
PAGE: Final = b"<!doctype html><title>Bad gateway</title><h1>Something in between has answered</h1>\n"


class Framing(Struct, frozen=True):
    """How an answer ends, and whether its connection stays open."""

    chunked: bool
    """The body ends with its last chunk; otherwise with its length, or with the connection."""
    keep_alive: bool
    """The connection stays open."""

    def frame(self, data: bytes) -> bytes:
        return chunk(data) if self.chunked else data

    @property
    def end(self) -> bytes:
        return LAST_CHUNK if self.chunked else b""


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def stream_head(framing: Framing) -> bytes:
    """The head of an event stream."""
    lines = ["HTTP/1.1 200 OK", "Content-Type: text/event-stream; charset=utf-8", "Cache-Control: no-cache"]
    lines += ["Transfer-Encoding: chunked"] if framing.chunked else []
    lines += [] if framing.keep_alive and framing.chunked else ["Connection: close"]
    return "\r\n".join([*lines, "", ""]).encode()


def response(
    status: int,
    body: bytes,
    framing: Framing,
    *headers: str,
    method: str = "GET",
    content_type: str = "application/json",
) -> bytes:
    """An answer that is not streamed, head and body. method: that of the request; a HEAD gets only the head."""
    try:
        phrase = HTTPStatus(status).phrase
    except ValueError:
        phrase = "Scripted"
    close = () if framing.keep_alive else ("Connection: close",)
    lines = (
        f"HTTP/1.1 {status} {phrase}",
        f"Content-Type: {content_type}",
        f"Content-Length: {len(body)}",
        *headers,
        *close,
    )
    return "\r\n".join([*lines, "", ""]).encode() + (b"" if method == "HEAD" else body)


def json_bytes(value: Any) -> bytes:
    return msgspec.json.encode(value)


def event(value: Any) -> bytes:
    return b"data: %b\n\n" % msgspec.json.encode(value)


def error_body(message: str, kind: str, code: str | None = None) -> JsonObject:
    """An error as OpenAI's API words it."""
    return {"error": {"message": message, "type": kind, "param": None, "code": code}}


def model_list(models: tuple[str, ...], created: int) -> bytes:
    return json_bytes(
        {
            "object": "list",
            "data": [{"id": m, "object": "model", "created": created, "owned_by": "loadgen mock"} for m in models],
        }
    )


# The words of an answer: the request's number, then words of the list, from a place that depends on the number.


def pieces_of(number: int, start: int, count: int) -> bytes:
    """The text of tokens `start` to `start + count` of the answer to a request, in UTF-8."""
    if not count:
        return b""
    first = b"%d" % number if start == 0 else PIECES[(number + start) % len(PIECES)]
    return first + b"".join(PIECES[(number + at) % len(PIECES)] for at in range(start + 1, start + count))


def text_sha256(number: int, tokens: int) -> str:
    """The SHA-256 of the text of an answer's first `tokens` tokens."""
    if not tokens:
        return hashlib.sha256().hexdigest()
    rest = islice(cycle(PIECES), (number + 1) % len(PIECES), (number + 1) % len(PIECES) + tokens - 1)
    return hashlib.sha256(b"".join((b"%d" % number, *rest))).hexdigest()


class StreamEvents(Struct, frozen=True, gc=False):
    """The events of one streamed answer."""

    base: JsonObject
    """The keys of every event: id, object, created, model."""
    before: bytes
    """The bytes of a token event before its text."""
    after: bytes
    """The bytes of a token event after its text."""

    def role(self) -> bytes:
        return self._event({"role": "assistant", "content": ""}, None)

    def token(self, text: bytes) -> bytes:
        return b"%b%b%b" % (self.before, text, self.after)

    def truncated_token(self, text: bytes) -> bytes:
        """A token event whose JSON is cut off."""
        return b"%b%b\n\n" % (self.before, text)

    def finish(self, reason: str) -> bytes:
        return self._event({}, reason)

    def usage(self, prompt: int, output: int) -> bytes:
        return event({**self.base, "choices": [], "usage": usage(prompt, output)})

    def _event(self, delta: dict[str, str], reason: str | None) -> bytes:
        return event({**self.base, "choices": [{"index": 0, "delta": delta, "finish_reason": reason}]})


def stream_events(number: int, model: str, created: int) -> StreamEvents:
    """The events of the answer to a request. created: the creation time in the answer, in seconds since 1970."""
    base = {"id": f"chatcmpl-{number}", "object": "chat.completion.chunk", "created": created, "model": model}
    mark = "\0"
    choice = {"index": 0, "delta": {"content": mark}, "finish_reason": None}
    before, _, after = event({**base, "choices": [choice]}).rpartition(b"\\u0000")
    return StreamEvents(base, before, after)


def completion(number: int, model: str, created: int, text: bytes, reason: str, prompt: int, output: int) -> bytes:
    """The body of an answer that is not streamed."""
    message = {"role": "assistant", "content": text.decode()}
    return json_bytes(
        {
            "id": f"chatcmpl-{number}",
            "object": "chat.completion",
            "created": created,
            "model": model,
            "choices": [{"index": 0, "message": message, "finish_reason": reason}],
            "usage": usage(prompt, output),
        }
    )


def usage(prompt: int, output: int) -> dict[str, int]:
    return {"prompt_tokens": prompt, "completion_tokens": output, "total_tokens": prompt + output}
