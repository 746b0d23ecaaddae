"""Sends one chat request over aiohttp and brings back its bytes with their stamps. Knows no plan and no statistics.

While a stream runs, nothing of it is looked at: the connection appends one mark a read, aiohttp buffers the body, and
one watchdog for all requests looks at deadlines. Parsing is `loadgen.wire.reply`, after the stream.
"""

import asyncio
import contextlib
import functools
import socket
from typing import Final

import aiohttp
from aiohttp.connector import Connection
from aiohttp.http_exceptions import HttpProcessingError
from msgspec import Struct

from loadgen.clock import now_ns
from loadgen.redact import redact_keys
from loadgen.wire.deadlines import Watchdog
from loadgen.wire.direct_request import Answer, DirectRequest, Redirected
from loadgen.wire.direct_response import DirectHandler
from loadgen.wire.exchange import Deadlines, Exchange, Failure, media_type, secret_of
from loadgen.wire.receiver import Receiver, receives
from loadgen.wire.stamps import (
    CURRENT,
    HEAD_BYTES,
    StampedHandler,
    connector,
    keep_stamping,
    kernel_stamps_available,
    tracing,
)

BODY_BYTES: Final = 8 << 20
"""aiohttp stops reading at twice this: what one answer may hold in memory."""
STALE_NS: Final = 1_000_000_000
"""A reused connection that ends within this of the write was closed before the server saw the request."""
REDIRECTS: Final = 5
"""So many in a row are followed without aiohttp's client, which has rules of its own for more."""
ERROR_BODY_BYTES: Final = 64 << 10


class Ask(Struct, frozen=True):
    """One request, ready to send. body: JSON. headers: beside the content's own. streams: what its body asks for."""

    url: str
    body: bytes
    headers: dict[str, str]
    deadlines: Deadlines
    streams: bool = True


class Client:
    """Connections to servers, kept and reused. Use as `async with`."""

    def __init__(self, *, headers: dict[str, str] | None = None) -> None:
        self._headers = {"User-Agent": "loadgen", "Accept-Encoding": "identity", **(headers or {})}
        self.last_sent_ns = 0
        self._watchdog = Watchdog()
        self._receiver: Receiver | None = None
        self._sessions: list[aiohttp.ClientSession] = []
        self._connectors: list[aiohttp.TCPConnector] = []
        self._lanes: dict[str, DirectRequest | None] = {}
        self._keeper: socket.socket | None = None
        self.kernel = False
        self.stamping = False

    async def __aenter__(self) -> "Client":
        loop = asyncio.get_running_loop()
        self.kernel = kernel_stamps_available(loop)
        self._keeper = keep_stamping() if self.kernel else None
        self._receiver = Receiver(loop) if receives(loop) else None
        handler = functools.partial(DirectHandler, receiver=self._receiver) if self._receiver else StampedHandler
        # The second session never reuses a connection: where the server has just closed an idle one, we go there.
        for options in ({"keepalive_timeout": 60.0}, {"force_close": True}):
            made, self.stamping = connector(loop, kernel=self.kernel, handler=handler, **options)
            session = aiohttp.ClientSession(
                connector=made,
                timeout=aiohttp.ClientTimeout(total=None),
                read_bufsize=BODY_BYTES,
                max_line_size=HEAD_BYTES,
                max_field_size=HEAD_BYTES,
                trace_configs=[tracing(stamping=self.stamping)],
                cookie_jar=aiohttp.DummyCookieJar(),
                headers=self._headers,
            )
            self._sessions.append(session)
            self._connectors.append(made)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._watchdog.close()
        for session in self._sessions:
            await session.close()
        if self._receiver is not None:
            self._receiver.close()
        if self._keeper is not None:
            self._keeper.close()

    @property
    def in_flight(self) -> int:
        """Requests that are on their way now."""
        return len(self._watchdog.watched)

    def abandon(self) -> None:
        """Give up everything in flight, as `cancelled`."""
        for exchange in list(self._watchdog.watched):
            exchange.give_up("cancelled", "stopped by the person")

    async def open_connections(self, url: str, count: int, headers: dict[str, str]) -> None:
        """Have about `count` idle connections to the server of `url`, so that a herd of our own is not measured."""

        async def touch() -> None:
            with contextlib.suppress(aiohttp.ClientError, OSError, TimeoutError):
                timeout = aiohttp.ClientTimeout(total=10)
                async with self._sessions[0].get(url, headers=headers, timeout=timeout) as response:
                    await response.read()

        await asyncio.gather(*(touch() for _ in range(count)))

    async def send(self, ask: Ask, dispatched_ns: int) -> Exchange:
        """Send one request and wait for its end, whatever that is. Never raises for what a server does."""
        exchange = Exchange(dispatched_ns, ask.deadlines, secret_of(ask.headers), streams=ask.streams)
        exchange.task = asyncio.current_task()
        self.last_sent_ns = dispatched_ns
        self._watchdog.watch(exchange)
        restore = CURRENT.set(exchange.marks)
        try:
            await self._converse(exchange, ask, self._sessions[0])
            if self._was_stale(exchange):
                exchange.failure = None
                await self._converse(exchange, ask, self._sessions[1])
        finally:
            exchange.ended_ns = now_ns()
            exchange.task = None
            CURRENT.reset(restore)
            self._watchdog.forget(exchange)
        return exchange

    @staticmethod
    def _was_stale(exchange: Exchange) -> bool:
        """Whether a reused idle connection was closed by the server before it saw the request."""
        failure, written_ns = exchange.failure, exchange.marks.written_ns
        return (
            failure is not None
            and failure.outcome == "truncated"
            and exchange.status is None
            and exchange.marks.reused
            and exchange.marks.last_read_ns is None
            and (written_ns is None or now_ns() - written_ns < STALE_NS)  # later, it had begun to work on it
        )

    async def _converse(self, exchange: Exchange, ask: Ask, session: aiohttp.ClientSession) -> None:
        try:
            await self._exchange(exchange, ask, session)
        except asyncio.CancelledError:
            if exchange.failure is None:
                raise  # not ours: the program is going down
            task = asyncio.current_task()
            if task is not None:
                task.uncancel()
        except (aiohttp.ClientError, HttpProcessingError, OSError, ValueError) as error:
            if exchange.failure is None:
                exchange.failure = failure_of(error, exchange.status)

    async def _exchange(self, exchange: Exchange, ask: Ask, session: aiohttp.ClientSession) -> None:
        accept = "text/event-stream" if ask.streams else "application/json"
        headers = {"Content-Type": "application/json", "Accept": accept, **ask.headers}
        if session is self._sessions[0] and await self._exchange_directly(exchange, ask, headers):
            return
        async with session.post(ask.url, data=ask.body, headers=headers) as response:
            exchange.status = response.status
            exchange.content_type = response.content_type
            exchange.retry_after = response.headers.get("Retry-After")
            exchange.content = response.content
            try:
                await self._read(response.content, exchange)
            finally:
                exchange.keep_all()  # before aiohttp lets go of the connection, and of what it buffered

    async def _exchange_directly(self, exchange: Exchange, ask: Ask, headers: dict[str, str]) -> bool:
        """Exchange without aiohttp's client; says whether that could be done."""
        all_headers = (*self._headers.items(), *headers.items())
        url: str | None = ask.url
        for _ in range(REDIRECTS):
            lane = self._lane(url) if url is not None else None
            head = lane.head(all_headers) if lane is not None else None
            if lane is None or head is None:
                return False
            try:
                connection, answer = await lane.send(head, ask.body, exchange.begun)
            except Redirected as redirect:
                url = redirect.to
                continue
            if answer is not None:
                await self._receive(connection, answer, exchange)
            connection.release()
            return True
        return False

    def _lane(self, url: str) -> DirectRequest | None:
        if url not in self._lanes:
            lane = (
                DirectRequest.open(url, self._sessions[0], self._connectors[0], BODY_BYTES) if self.stamping else None
            )
            self._lanes[url] = lane
        return self._lanes[url]

    async def _receive(self, connection: Connection, answer: Answer, exchange: Exchange) -> None:
        message, content = answer
        try:
            exchange.status = message.code
            exchange.content_type = media_type(message.headers.get("Content-Type", ""))
            exchange.retry_after = message.headers.get("Retry-After")
            exchange.content = content
            try:
                await self._read(content, exchange)
            finally:
                exchange.keep_all()
        except BaseException:
            connection.close()
            raise

    async def _read(self, content: aiohttp.StreamReader, exchange: Exchange) -> None:
        if exchange.status != 200:
            left_bytes = ERROR_BODY_BYTES
            while left_bytes > 0 and (piece := await content.read(left_bytes)):
                exchange.keep(piece)
                left_bytes -= len(piece)
        elif self.stamping:
            await wait_eof(content)
        else:
            await self._read_and_stamp(content, exchange)

    @staticmethod
    async def _read_and_stamp(content: aiohttp.StreamReader, exchange: Exchange) -> None:
        while chunk := await content.readany():
            exchange.keep(chunk)
            exchange.marks.took(content.total_bytes, now_ns(), 0)


async def wait_eof(content: aiohttp.StreamReader) -> None:
    """Wait until the body has ended. Raises what broke it."""
    failed = content.exception()
    if failed is not None:
        raise failed
    await content.wait_eof()


def failure_of(error: Exception, status: int | None) -> Failure:
    """What an exception of aiohttp or of the system means for the request: the closed set of outcomes."""
    detail = describe(error)
    if isinstance(error, aiohttp.ClientConnectorError | aiohttp.InvalidURL | aiohttp.ServerFingerprintMismatch):
        return Failure("connect_error", detail)
    if isinstance(error, UnicodeError) and status is None:  # a host's name that no resolver can take
        return Failure("connect_error", detail)
    if isinstance(error, HttpProcessingError):  # of aiohttp's parser in Python, where there is none in C
        return Failure("malformed" if status is None else "truncated", detail)
    if isinstance(error, aiohttp.ClientResponseError | ValueError):
        return Failure("malformed", detail)
    return Failure("truncated", detail)


def describe(error: BaseException, limit: int = 300) -> str:
    """One line about an exception, bounded."""
    text = redact_keys(" ".join(str(error).split())) or type(error).__name__  # before it is cut
    return text if len(text) <= limit else text[: limit - 1] + "…"
