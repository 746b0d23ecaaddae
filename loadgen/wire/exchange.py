"""One request on its way: its stamps, what has arrived of its answer, and why it ended. Knows no session."""

import asyncio
from typing import Final

import aiohttp
from msgspec import Struct

from loadgen.measure.record import Outcome
from loadgen.wire.chat import Decoder
from loadgen.wire.stamps import Marks

SHORTEST_SECRET_CHARS: Final = 16
"""Shorter keys are placeholders ("none", "ollama"), and words that an answer may well contain."""


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
    """One request and all that came back, as raw bytes. Written by the client; read when `ended_ns` is set."""

    __slots__ = (
        "_chunks",
        "_decoded_chunks",
        "_decoder",
        "_reads_seen",
        "content",
        "content_type",
        "deadlines",
        "dispatched_ns",
        "ended_ns",
        "failure",
        "last_token_ns",
        "marks",
        "retry_after",
        "secret",
        "status",
        "streams",
        "task",
    )

    def __init__(self, dispatched_ns: int, deadlines: Deadlines, secret: bytes = b"", *, streams: bool = True) -> None:
        self.marks = Marks()
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
        self._decoder: Decoder | None = None
        self._decoded_chunks = 0
        self._reads_seen = 0

    def body(self) -> bytes:
        """All of the body that has arrived. A key of ours that the server repeats is blotted out, byte for byte."""
        self._take()
        body = b"".join(self._chunks)
        return body.replace(self.secret, b"*" * len(self.secret)) if self.secret else body

    def keep(self, chunk: bytes) -> None:
        """Add to the body what was read past it."""
        self._chunks.append(chunk)

    def give_up(self, outcome: Outcome, detail: str) -> None:
        """End the request from outside its own task; what has arrived is kept."""
        if self.failure is None and self.ended_ns is None and self.task is not None:
            self.failure = Failure(outcome, detail)
            self.task.cancel()

    def tokens_so_far(self) -> int:
        """Token-bearing events that have arrived. Parses what is new: for the watchdog, not for the hot path."""
        return self._progress().tokens

    def is_orderly(self) -> bool:
        """Whether a finish reason or `[DONE]` has arrived. Parses what is new."""
        return self._progress().orderly

    def silent_since_ns(self) -> int | None:
        """When the last read came; None before the first."""
        return self.marks.reads[-1][1] if self.marks.reads else None

    def _take(self) -> None:
        content = self.content
        if content is None:
            return
        if content.exception() is not None:
            # A reset makes aiohttp refuse what it has already buffered; those bytes arrived, and have their stamps.
            content.set_exception(None)  # type: ignore[arg-type]
        chunk = content.read_nowait()
        if chunk:
            self._chunks.append(chunk)

    def _progress(self) -> Decoder:
        decoder = self._decoder = self._decoder or Decoder()
        reads = len(self.marks.reads)
        if reads == self._reads_seen:
            return decoder
        self._reads_seen = reads
        self._take()
        before = decoder.tokens
        for chunk in self._chunks[self._decoded_chunks :]:
            decoder.feed(chunk)
        self._decoded_chunks = len(self._chunks)
        if decoder.tokens > before:
            self.last_token_ns = self.silent_since_ns()
        return decoder


def secret_of(headers: dict[str, str]) -> bytes:
    """The key that an `Authorization` header bears; empty where there is none, or nothing worth hiding."""
    key = headers.get("Authorization", "").rpartition(" ")[2]
    return key.encode() if len(key) >= SHORTEST_SECRET_CHARS else b""
