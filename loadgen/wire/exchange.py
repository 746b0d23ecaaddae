"""One request on its way: what was asked, what has arrived of the answer, and why it ended. Knows no session.

An `Exchange` has three parts. `request` is what the caller wants, and never changes. `response` is what has arrived,
and is written by whoever reads the connection. `progress` is what the watchdog has decoded of a stream that is still
coming; a stream that nobody worries about never has any, and is decoded once, when it has ended.
"""

import asyncio
import re
from typing import Final

import aiohttp
from msgspec import Struct

from loadgen.record import Outcome
from loadgen.redact import redact_keys
from loadgen.wire.chat_stream import Completion, Decoder, decode
from loadgen.wire.stamps import ReadStamps

SHORTEST_SECRET_CHARS: Final = 16
"""Shorter keys are placeholders ("none", "ollama"), and words that an answer may well contain."""

_CONTENT_TYPE: Final = b"\r\ncontent-type:"
_MEDIA_TYPE: Final = re.compile(r"[\w.+-]+/[\w.+-]+")


class Deadlines(Struct, frozen=True):
    """After how many ns a request is given up; None where there is no such deadline."""

    request_ns: int
    """From dispatch to the end of the answer."""
    headers_ns: int | None = None
    """From dispatch to the answer's head."""
    first_token_ns: int | None = None
    """From dispatch to the first token."""
    next_token_ns: int | None = None
    """From a token to the next."""


class ChatRequest(Struct, frozen=True):
    """One request, ready to send."""

    url: str
    body: bytes
    """JSON."""
    headers: dict[str, str]
    """Those beside the content's own."""
    deadlines: Deadlines
    streams: bool = True
    """Whether the body asks for a stream; else for the whole answer at once."""


class Failure(Struct, frozen=True):
    """Why an exchange ended before its body did."""

    outcome: Outcome
    detail: str


class Response:
    """What has arrived of one answer, as raw bytes."""

    __slots__ = ("_pieces", "content", "content_type", "retry_after", "stamps", "status")

    def __init__(self, stamps: ReadStamps) -> None:
        self.stamps = stamps
        self.status: int | None = None  # None until the head has come
        self.content_type = ""
        self.retry_after: str | None = None
        self.content: aiohttp.StreamReader | None = None  # aiohttp's buffer, where aiohttp reads the body
        self._pieces: list[bytes] = []  # of the body, as far as they were taken from aiohttp

    def begin_raw_body(self, head: bytes) -> None:
        """The head of an answer with status 200 has come, whose body a `RawBody` takes in."""
        self.status = 200
        at = head.lower().find(_CONTENT_TYPE)  # on every request's way: a regular expression costs ten times as much
        start = at + len(_CONTENT_TYPE)
        self.content_type = media_type(head[start : head.index(b"\r", start)].decode("latin-1") if at >= 0 else "")

    def append(self, piece: bytes) -> None:
        """Add what was read of the body from aiohttp."""
        self._pieces.append(piece)

    def drain(self) -> None:
        """Take what aiohttp has buffered of the body, before it lets go of it."""
        self.pieces()

    def has_ended(self) -> bool:
        """Whether the body has ended after all, behind bytes that did not look like an end; then the task goes on."""
        raw_body = self.stamps.raw_body
        if raw_body is not None:
            raw_body.on_read()  # may give the body back to aiohttp: then it has ended, or failed, as a raw one
            return self.stamps.raw_body is not raw_body or raw_body.dechunked().over
        return self.content is not None and (self.content.is_eof() or self.content.exception() is not None)

    def pieces(self) -> list[bytes]:
        """The body so far, in pieces; the list only grows, until aiohttp gets a raw body back and there is another."""
        if self.stamps.raw_body is not None:
            return self.stamps.raw_body.dechunked().pieces
        content = self.content
        if content is not None:
            if content.exception() is not None:
                # A reset makes aiohttp refuse what it has already buffered; those bytes arrived, and have their stamps.
                content.set_exception(None)  # type: ignore[arg-type]
            piece = content.read_nowait()
            if piece:
                self._pieces.append(piece)
        return self._pieces


class DecodingProgress:
    """What has been decoded of a stream that is still coming. For the watchdog, not for the hot path."""

    __slots__ = (
        "_decoded_from",
        "_decoded_pieces",
        "_decoded_reads",
        "_tokens",
        "decoder",
        "last_token_ns",
        "silence_checked_at",
    )

    def __init__(self) -> None:
        self.decoder: Decoder | None = None  # None until the watchdog has looked into the stream
        self.last_token_ns: int | None = None  # when the last token came, as far as the watchdog knows
        self.silence_checked_at = -1  # how many reads there were when a silent stream was last looked into
        self._decoded_from: list[bytes] | None = None  # whose pieces they are: another list means another body
        self._decoded_pieces = 0
        self._decoded_reads = 0
        self._tokens = 0

    def update(self, response: Response) -> Decoder:
        """Decode what is new."""
        reads = response.stamps.reads_so_far
        if self.decoder is not None and reads == self._decoded_reads:
            return self.decoder
        self._decoded_reads = reads
        pieces = response.pieces()
        if self.decoder is None or self._decoded_from is not pieces:  # a body that aiohttp got back begins again
            self.decoder, self._decoded_from, self._decoded_pieces = Decoder(), pieces, 0
        decoder = self.decoder
        if new := pieces[self._decoded_pieces :]:
            decoder.feed(new[0] if len(new) == 1 else b"".join(new))
        self._decoded_pieces = len(pieces)
        if decoder.tokens > self._tokens:
            self._tokens = decoder.tokens
            self.last_token_ns = response.stamps.last_read_ns
        return decoder


class Exchange:
    """One request and all that came back. Written by the client; read when `ended_ns` is set."""

    __slots__ = ("_body", "dispatched_ns", "ended_ns", "failure", "progress", "request", "response", "stamps", "task")

    def __init__(self, request: ChatRequest, dispatched_ns: int) -> None:
        self.request = request
        self.dispatched_ns = dispatched_ns
        self.stamps = ReadStamps()
        self.response = Response(self.stamps)
        self.progress = DecodingProgress()
        self.failure: Failure | None = None
        self.ended_ns: int | None = None
        self.task: asyncio.Task[object] | None = None  # the one that sends it, while it does
        self._body: bytes | None = None

    def body(self) -> bytes:
        """All of the body that has arrived. A key of ours that the server repeats is blotted out, byte for byte."""
        if self._body is None:
            body = b"".join(self.response.pieces())
            for secret in secrets_of(self.request.headers):
                body = body.replace(secret, b"*" * len(secret))
            if self.ended_ns is None:
                return body
            self._body = body
        return self._body

    def completion(self) -> Completion:
        """What the body says, once it has ended; of a status other than 200, nothing."""
        if self.response.status != 200:
            return decode(b"")
        if self.progress.decoder is None or self._repeats_the_key():
            return decode(self.body())
        return self.progress.update(self.response).result()  # most of it has been decoded already

    def _repeats_the_key(self) -> bool:
        secrets = secrets_of(self.request.headers)
        body = b"".join(self.response.pieces()) if secrets else b""
        return any(secret in body for secret in secrets)

    def give_up(self, outcome: Outcome, detail: str) -> None:
        """End the request from outside its own task; what has arrived is kept."""
        if self.failure is None and self.ended_ns is None and self.task is not None:
            self.failure = Failure(outcome, detail)
            self.task.cancel()


def media_type(header: str) -> str:
    """A body's type without its parameters; octets, where the header names none, or none that makes sense."""
    name = header.partition(";")[0].strip().lower()
    return name if _MEDIA_TYPE.fullmatch(name) else "application/octet-stream"


def secrets_of(headers: dict[str, str]) -> list[bytes]:
    """The keys that headers bear: that of `Authorization`, and whatever else is taken from the environment; only what
    is worth hiding."""
    keys = []
    for name, value in headers.items():
        key = value.rpartition(" ")[2]
        if (name == "Authorization" and len(key) >= SHORTEST_SECRET_CHARS) or redact_keys(key) != key:
            keys.append(key.encode())
    return keys
