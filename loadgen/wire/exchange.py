"""One request on its way: its stamps, what has arrived of its answer, and why it ended. Knows no session."""

import asyncio
import re
from typing import Final

import aiohttp
from msgspec import Struct

from loadgen.record import Outcome
from loadgen.wire.chat_stream import Completion, Decoder, decode
from loadgen.wire.stamps import ReadStamps

SHORTEST_SECRET_CHARS: Final = 16
"""Shorter keys are placeholders ("none", "ollama"), and words that an answer may well contain."""

_CONTENT_TYPE: Final = re.compile(rb"\r\ncontent-type:([^\r]*)", re.IGNORECASE)
_MEDIA_TYPE: Final = re.compile(r"[\w.+-]+/[\w.+-]+")


class Deadlines(Struct, frozen=True):
    """After how many ns a request is given up: request, headers, first_token from dispatch, next from the last."""

    request_ns: int
    headers_ns: int | None = None
    first_token_ns: int | None = None
    next_token_ns: int | None = None


class Failure(Struct, frozen=True):
    """Why an exchange ended before its body did."""

    outcome: Outcome
    detail: str


class Exchange:
    """One request and all that came back, as raw bytes. Written by the client; read when `ended_ns` is set.

    last_token_ns: when the watchdog knows the last token to have come. looked_into: how many reads there had been when
    it found the stream silent and looked what it had said.
    """

    __slots__ = (
        "_body",
        "_chunks",
        "_decoded_chunks",
        "_decoded_of",
        "_decoder",
        "_reads_seen",
        "_tokens_seen",
        "content",
        "content_type",
        "deadlines",
        "dispatched_ns",
        "ended_ns",
        "failure",
        "last_token_ns",
        "looked_into",
        "marks",
        "retry_after",
        "secret",
        "status",
        "streams",
        "task",
    )

    def __init__(self, dispatched_ns: int, deadlines: Deadlines, secret: bytes = b"", *, streams: bool = True) -> None:
        self.marks = ReadStamps()
        self.streams = streams
        self.secret = secret
        self.dispatched_ns = dispatched_ns
        self.deadlines = deadlines
        self.status: int | None = None
        self.content_type = ""
        self.retry_after: str | None = None
        self.failure: Failure | None = None
        self.ended_ns: int | None = None
        self.content: aiohttp.StreamReader | None = None
        self.task: asyncio.Task[object] | None = None
        self.last_token_ns: int | None = None
        self._chunks: list[bytes] = []
        self.looked_into = -1
        self._body: bytes | None = None
        self._decoder: Decoder | None = None
        self._decoded_of: list[bytes] | None = None
        self._decoded_chunks = 0
        self._reads_seen = 0
        self._tokens_seen = 0

    def body(self) -> bytes:
        """All of the body that has arrived. A key of ours that the server repeats is blotted out, byte for byte."""
        if self._body is None:
            body = b"".join(self._pieces())
            if self.secret:
                body = body.replace(self.secret, b"*" * len(self.secret))
            if self.ended_ns is None:
                return body
            self._body = body
        return self._body

    def keep(self, chunk: bytes) -> None:
        """Add to the body what was read past it."""
        self._chunks.append(chunk)

    def keep_all(self) -> None:
        """Take what aiohttp has buffered of the body: it is about to let go of it."""
        self._pieces()

    def give_up(self, outcome: Outcome, detail: str) -> None:
        """End the request from outside its own task; what has arrived is kept."""
        if self.failure is None and self.ended_ns is None and self.task is not None:
            self.failure = Failure(outcome, detail)
            self.task.cancel()

    def begun(self, head: bytes) -> None:
        """The head of an answer with status 200 has come, whose body is being taken in."""
        self.status = 200
        told = _CONTENT_TYPE.search(head)
        self.content_type = media_type(told[1].decode("latin-1") if told is not None else "")

    def look(self) -> bool:
        """Whether the body has ended after all, behind bytes that did not look like an end; then the task goes on."""
        intake = self.marks.intake
        if intake is not None:
            intake.turn()
            return self.marks.intake is not intake or intake.dechunked().over
        return self.content is not None and (self.content.is_eof() or self.content.exception() is not None)

    def progress(self) -> Decoder:
        """What has arrived, decoded. Parses what is new: for the watchdog, not for the hot path."""
        reads = self.marks.reads_so_far
        if self._decoder is not None and reads == self._reads_seen:
            return self._decoder
        self._reads_seen = reads
        pieces = self._pieces()
        if self._decoder is None or self._decoded_of is not pieces:  # a body that aiohttp got back begins again
            self._decoder, self._decoded_of, self._decoded_chunks = Decoder(), pieces, 0
        decoder = self._decoder
        if new := pieces[self._decoded_chunks :]:
            decoder.feed(new[0] if len(new) == 1 else b"".join(new))
        self._decoded_chunks = len(pieces)
        if decoder.tokens > self._tokens_seen:
            self._tokens_seen = decoder.tokens
            self.last_token_ns = self.silent_since_ns()
        return decoder

    def completion(self) -> Completion:
        """What the body says, once it has ended; of a status other than 200, nothing."""
        if self.status != 200:
            return decode(b"")
        if self._decoder is None or (self.secret and self.secret in b"".join(self._pieces())):
            return decode(self.body())
        return self.progress().result()  # most of it has been decoded already

    def silent_since_ns(self) -> int | None:
        """When the last read came; None before the first."""
        return self.marks.last_read_ns

    def _pieces(self) -> list[bytes]:
        """The body so far, in pieces; the list only grows, until there is another."""
        if self.marks.intake is not None:
            return self.marks.intake.dechunked().pieces
        content = self.content
        if content is not None:
            if content.exception() is not None:
                # A reset makes aiohttp refuse what it has already buffered; those bytes arrived, and have their stamps.
                content.set_exception(None)  # type: ignore[arg-type]
            chunk = content.read_nowait()
            if chunk:
                self._chunks.append(chunk)
        return self._chunks


def media_type(told: str) -> str:
    """A body's type without its parameters; octets, where the header tells none, or none that makes sense."""
    kind = told.partition(";")[0].strip().lower()
    return kind if _MEDIA_TYPE.fullmatch(kind) else "application/octet-stream"


def secret_of(headers: dict[str, str]) -> bytes:
    """The key that an `Authorization` header bears; empty where there is none, or nothing worth hiding."""
    key = headers.get("Authorization", "").rpartition(" ")[2]
    return key.encode() if len(key) >= SHORTEST_SECRET_CHARS else b""
