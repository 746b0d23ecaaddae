"""Plays one answer over loopback, cut into reads wherever a test wants them, to the real client. Knows no expectations.

The server shares the client's event loop and lets it have a turn after every piece, so that a piece is a read.
"""

import asyncio
import zlib
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from itertools import pairwise
from random import Random
from typing import Final

from msgspec import Struct

from loadgen.clock import now_ns, wall_offset_ns
from loadgen.record import Outcome, Reply
from loadgen.wire.client import Client
from loadgen.wire.exchange import ChatRequest, Deadlines, Exchange
from loadgen.wire.reply import read_reply
from tests.integration.server import LAST_CHUNK, chunk

PATIENT: Final = Deadlines(request_ns=200_000_000_000)
EVENT_STREAM: Final = "Content-Type: text/event-stream"


class Says(Struct, frozen=True):
    """What is expected of an answer.

    tokens: token-bearing events. output: the tokens that `usage` tells; None where it tells none. detail: what the
    record's detail says among other things.
    """

    outcome: Outcome
    tokens: int = 0
    text: str = ""
    finish: str | None = None
    output: int | None = None
    detail: str = ""


class Answer(Struct, frozen=True):
    """The raw bytes of an answer.

    closes: the connection ends behind it. status: as the record has it. excess: it has more than its framing says,
    which, where it comes later, is taken for the next answer.
    """

    raw: bytes
    closes: bool = False
    status: int | None = 200
    excess: bool = False


# Framings of one body


def head(*headers: str, version: str = "1.1", status: str = "200 OK") -> bytes:
    return "\r\n".join([f"HTTP/{version} {status}", *headers, "", ""]).encode()


def in_one_chunk(body: bytes) -> Answer:
    return Answer(head(EVENT_STREAM, "Transfer-Encoding: chunked") + (chunk(body) if body else b"") + LAST_CHUNK)


def _chunk_size(body: bytes, least: int) -> int:
    """Small, but no more than a few thousand chunks to a body."""
    return max(least, len(body) // 4000)


def in_small_chunks(body: bytes) -> Answer:
    """Chunks that end anywhere, with sizes as some servers write them, extensions, and trailers behind the last."""
    size = _chunk_size(body, 7)
    forms = ("{:x}", "{:X}", "{:06x}", "{:x};a=b", '{:x};a="b c"', "{:x};a")
    framed = b"".join(
        forms[at // size % len(forms)].format(len(piece)).encode() + b"\r\n" + piece + b"\r\n"
        for at in range(0, len(body), size)
        if (piece := body[at : at + size])
    )
    begin = head("content-type:text/event-stream; charset=utf-8", "transfer-encoding:chunked", "Trailer: X-Sum")
    return Answer(begin + framed + b"0\r\nX-Sum: 1\r\nX-More: 2\r\n\r\n")


def in_plain_chunks(body: bytes) -> Answer:
    size = _chunk_size(body, 5)
    framed = b"".join(chunk(body[at : at + size]) for at in range(0, len(body), size))
    return Answer(head(EVENT_STREAM, "Transfer-Encoding: chunked") + framed + LAST_CHUNK)


def with_length(body: bytes) -> Answer:
    return Answer(head(EVENT_STREAM, f"content-length: {len(body)}") + body)


def until_closed(body: bytes) -> Answer:
    return Answer(head(EVENT_STREAM, "Connection: close") + body, closes=True)


def http_1_0(body: bytes) -> Answer:
    return Answer(head(EVENT_STREAM, version="1.0") + body, closes=True)


def gzipped(body: bytes) -> Answer:
    squeezed = _squeezed(body, 31)
    begin = head(EVENT_STREAM, "Content-Encoding: gzip", "Transfer-Encoding: chunked")
    return Answer(begin + b"".join(chunk(squeezed[at : at + 11]) for at in range(0, len(squeezed), 11)) + LAST_CHUNK)


def deflated(body: bytes) -> Answer:
    squeezed = _squeezed(body, 15)
    return Answer(head(EVENT_STREAM, "Content-Encoding: deflate", f"Content-Length: {len(squeezed)}") + squeezed)


def deflated_without_a_header(body: bytes) -> Answer:
    squeezed = _squeezed(body, -15)
    return Answer(head(EVENT_STREAM, "Content-Encoding: deflate", "Connection: close") + squeezed, closes=True)


def _squeezed(body: bytes, window_bits: int) -> bytes:
    """Compressed, and flushed after each event, as a server that streams has to."""
    press = zlib.compressobj(wbits=window_bits)
    events = body.split(b"\n\n")
    return b"".join(press.compress(each) + press.flush(zlib.Z_SYNC_FLUSH) for each in _again(events)) + press.flush()


def _again(events: list[bytes]) -> Iterable[bytes]:
    yield from (each + b"\n\n" for each in events[:-1])
    yield events[-1]


Framing = Callable[[bytes], Answer]
FRAMINGS: Final[tuple[Framing, ...]] = (
    in_one_chunk,
    in_plain_chunks,
    in_small_chunks,
    with_length,
    until_closed,
    http_1_0,
    gzipped,
    deflated,
    deflated_without_a_header,
)


# Cuts of the raw bytes


def whole(raw: bytes) -> list[bytes]:
    return [raw]


def byte_by_byte(raw: bytes) -> list[bytes]:
    return [raw[at : at + 1] for at in range(len(raw))]


def body_byte_by_byte(raw: bytes) -> list[bytes]:
    begin = raw.index(b"\r\n\r\n") + 4
    return [raw[:begin], *byte_by_byte(raw[begin:])]


def before_the_body(raw: bytes, size: int) -> list[bytes]:
    """Two pieces: the head without its last bytes, so many, and all the rest."""
    at = raw.find(b"\r\n\r\n") + 4 - size
    return [raw[:at], raw[at:]]


def at_random(raw: bytes, seed: int) -> list[bytes]:
    """Up to a dozen pieces, most of them of a few bytes."""
    random = Random(seed)
    at = random.randrange(len(raw))
    cuts = {at, *(at + random.randrange(40) for _ in range(6)), *(random.randrange(len(raw)) for _ in range(5))}
    edges = [0, *sorted(cut for cut in cuts if 0 < cut < len(raw)), len(raw)]
    return [raw[a:b] for a, b in pairwise(edges)]


# The server and the client


class Player:
    """Serves whatever `pieces` is at the moment. heard: the heads of the requests, with their bodies.

    connections: how many there have been.
    """

    def __init__(self) -> None:
        self.pieces: list[bytes] = []
        self.closes = False
        self.heard: list[bytes] = []
        self.connections = 0
        self.url = ""

    async def converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while True:
                top = await reader.readuntil(b"\r\n\r\n")
                _, _, told = top.lower().partition(b"content-length: ")
                body = await reader.readexactly(int(told.partition(b"\r")[0] or 0))
                self.heard.append(top + body)
                closes = self.closes
                for piece in self.pieces:
                    writer.write(piece)
                    await asyncio.sleep(0)  # a test sees to it that this is enough for a read
                if closes:
                    break
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


@asynccontextmanager
async def playing() -> AsyncIterator[tuple[Player, Client]]:
    """A server and a client."""
    player = Player()
    server = await asyncio.start_server(player.converse, "127.0.0.1", 0)
    player.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    async with server, Client() as client:
        yield player, client


async def exchanged(client: Client, url: str, deadlines: Deadlines = PATIENT) -> Exchange:
    return await client.send(ChatRequest(f"{url}/chat/completions", b'{"stream":true}', {}, deadlines), now_ns())


async def ask(client: Client, url: str, deadlines: Deadlines = PATIENT) -> Reply:
    exchange = await exchanged(client, url, deadlines)
    return read_reply(exchange, epoch_ns=0, wall_offset_ns=wall_offset_ns(), keep_text=True)[0]


async def hear(player: Player, client: Client, answer: Answer, pieces: list[bytes]) -> Reply:
    """What the client makes of an answer that comes in these pieces."""
    player.pieces, player.closes = pieces, answer.closes
    return await ask(client, player.url)
