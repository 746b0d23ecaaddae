"""One request in flight: the request, what has arrived of its answer, and why it ended. Knows no session.

An `Exchange` has three parts. `request` is what the caller wants, and never changes. `response` is what has arrived;
the code that reads the connection writes it. `progress` is what the watchdog has decoded of a stream that is still
arriving. The watchdog decodes only streams that may be late or over; every other stream is decoded once, after its end.
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
"""A shorter key is a placeholder ("none", "ollama"): an ordinary word, which an answer may contain by chance."""

_CONTENT_TYPE: Final = b"\r\ncontent-type:"
_MEDIA_TYPE: Final = re.compile(r"[\w.+-]+/[\w.+-]+")


class Deadlines(Struct, frozen=True):
    """After how many ns a request is given up; None: there is no such deadline."""

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
    """Beside `Content-Type` and `Accept`, which the client adds."""
    deadlines: Deadlines
    streams: bool = True
    """True if the body asks for a stream, False if it asks for the whole answer at once."""


class Failure(Struct, frozen=True):
    """Why an exchange ended before its body did."""

    outcome: Outcome
    detail: str


class Response:
    """What has arrived of one answer, as raw bytes."""

    __slots__ = ("_pieces", "content", "content_type", "redirected_to", "retry_after", "stamps", "status")

    def __init__(self, stamps: ReadStamps) -> None:
        self.stamps = stamps
        self.status: int | None = None  # None until the head has come
        self.content_type = ""
        self.retry_after: str | None = None
        self.redirected_to: str | None = None  # the address that answered, if it is another than the request's
        self.content: aiohttp.StreamReader | None = None  # aiohttp's buffer; None while a `Receiver` reads the body
        self._pieces: list[bytes] = []  # what was taken from aiohttp's buffer so far

    def take_head(self, head: bytes) -> None:
        """Store status and content type of an answer whose body goes into a `RawBody`. Its status is always 200.

        It is the `on_head` of `DirectHandler.expect`: called as soon as the head has come, before the body.
        """
        self.status = 200
        at = head.lower().find(_CONTENT_TYPE)  # every request pays for this; a regular expression costs ten times more
        start = at + len(_CONTENT_TYPE)
        self.content_type = media_type(head[start : head.index(b"\r", start)].decode("latin-1") if at >= 0 else "")

    def append(self, piece: bytes) -> None:
        """Add bytes of the body that were read from aiohttp's buffer."""
        self._pieces.append(piece)

    def drain(self) -> None:
        """Take over what aiohttp has buffered of the body, before aiohttp drops it."""
        self.pieces()

    def settle_if_ended(self) -> bool:
        """Check whether the body has ended, and if so let the connection act on it, which wakes the sending task.

        A receiver only checks after reads that look like an end, so a body may have ended unnoticed.
        """
        raw_body = self.stamps.raw_body
        if raw_body is not None:
            raw_body.on_read()  # may release the connection, or hand the body to aiohttp, which ends it as a raw body
            return self.stamps.raw_body is not raw_body or raw_body.dechunked().over
        return self.content is not None and (self.content.is_eof() or self.content.exception() is not None)

    def pieces(self) -> list[bytes]:
        """The body so far, in pieces. The same list, which only grows, until aiohttp takes over a raw body: from then
        on another list, which begins anew."""
        if self.stamps.raw_body is not None:
            return self.stamps.raw_body.dechunked().pieces
        content = self.content
        if content is not None:
            if content.exception() is not None:
                # After a reset aiohttp no longer gives out what it has buffered. Those bytes arrived and were stamped.
                content.set_exception(None)  # type: ignore[arg-type]
            piece = content.read_nowait()
            if piece:
                self._pieces.append(piece)
        return self._pieces

    def release(self) -> None:
        """Drop the bytes of a body that has ended and was joined. Its stamps stay."""
        self._pieces = []
        if self.stamps.raw_body is not None:
            self.stamps.raw_body.release()


class DecodingProgress:
    """What the watchdog has decoded of a stream that is still arriving. Not on the hot path."""

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
        self.last_token_ns: int | None = None  # when the last token came, as far as it is decoded
        self.silence_checked_at = -1  # how many reads there were when a silent stream was last decoded
        self._decoded_from: list[bytes] | None = None  # the list of pieces; another list means that the body is another
        self._decoded_pieces = 0
        self._decoded_reads = 0
        self._tokens = 0

    def update(self, response: Response) -> Decoder:
        """Decode what has arrived since the last call."""
        reads = response.stamps.reads_so_far
        if self.decoder is not None and reads == self._decoded_reads:
            return self.decoder
        self._decoded_reads = reads
        pieces = response.pieces()
        if self.decoder is None or self._decoded_from is not pieces:  # aiohttp took over the body: it begins anew
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
    """One request and all that came back. The client writes it; it is read once `ended_ns` is set."""

    __slots__ = ("_body", "dispatched_ns", "ended_ns", "failure", "progress", "request", "response", "stamps", "task")

    def __init__(self, request: ChatRequest, dispatched_ns: int) -> None:
        self.request = request
        self.dispatched_ns = dispatched_ns
        self.stamps = ReadStamps()
        self.response = Response(self.stamps)
        self.progress = DecodingProgress()
        self.failure: Failure | None = None
        self.ended_ns: int | None = None
        self.task: asyncio.Task[object] | None = None  # the task that sends it; None before and after
        self._body: bytes | None = None

    def body(self) -> bytes:
        """The body as far as it has arrived. Where the server repeats an API key of ours, asterisks replace it."""
        if self._body is None:
            body = as_received = b"".join(self.response.pieces())
            for secret in secrets_of(self.request.headers):
                body = body.replace(secret, b"*" * len(secret))
            if self.ended_ns is None:
                return body
            self._body = body
            if body != as_received:
                self.progress.decoder = None  # it has decoded the key
            elif self.progress.decoder is not None:
                self.progress.update(self.response)
            self.response.release()
        return self._body

    def completion(self) -> Completion:
        """The decoded body, once it has ended; an empty completion if the status is not 200."""
        if self.response.status != 200:
            return decode(b"")
        body, decoder = self.body(), self.progress.decoder
        return decode(body) if decoder is None else decoder.result()  # it has decoded all of it

    def give_up(self, outcome: Outcome, detail: str) -> None:
        """End the request from outside its own task. What has arrived stays in the exchange."""
        if self.failure is None and self.ended_ns is None and self.task is not None:
            self.failure = Failure(outcome, detail)
            self.task.cancel()


def media_type(header: str) -> str:
    """A body's media type without its parameters; `application/octet-stream` if the header names no valid one."""
    name = header.partition(";")[0].strip().lower()
    return name if _MEDIA_TYPE.fullmatch(name) else "application/octet-stream"


def secrets_of(headers: dict[str, str]) -> list[bytes]:
    """The API keys in the headers: that of `Authorization`, and any value that `redact_keys` removes. Keys that are too
    short to be secrets are left out."""
    keys = []
    for name, value in headers.items():
        key = value.rpartition(" ")[2]
        if (name == "Authorization" and len(key) >= SHORTEST_SECRET_CHARS) or redact_keys(key) != key:
            keys.append(key.encode())
    return keys
