"""Sends one chat request over aiohttp and brings back its bytes with their stamps. Knows no plan and no statistics.

Nothing is parsed while a stream runs: the connection stamps each read and stores its bytes as they came, and one
watchdog checks the deadlines of all requests. `loadgen.wire.reply` parses the bytes after the stream has ended.
"""

import asyncio
import contextlib
import functools
import socket
from typing import Final

import aiohttp
from aiohttp.http_exceptions import HttpProcessingError

from loadgen.clock import now_ns
from loadgen.record import StampSource
from loadgen.redact import redact_keys, redact_url
from loadgen.wire.deadlines import Watchdog
from loadgen.wire.direct_request import AiohttpAnswer, DirectRequest, Redirected, UnsendableRequest
from loadgen.wire.direct_response import DirectHandler
from loadgen.wire.exchange import ChatRequest, Exchange, Failure, media_type
from loadgen.wire.receiver import ANSWER_BYTES, ANSWER_READS, Receiver, receives
from loadgen.wire.redirects import can_be_kept, trace_redirects
from loadgen.wire.stamps import (
    CURRENT_STAMPS,
    HEAD_BYTES,
    StampedHandler,
    connector,
    keep_stamping,
    kernel_stamps_available,
    too_long_error,
    trace_connections,
    trace_writes,
)

BODY_BYTES: Final = ANSWER_BYTES // 2
"""aiohttp stops reading when it holds twice as many bytes that nobody has taken."""
LIST_BYTES: Final = 4 << 20
"""A list of models up to this size is read to its end, so that the connection can be reused. The connection of a longer
one is closed."""
STALE_NS: Final = 1_000_000_000
"""If a reused connection ends this soon after the write, the server closed it before it saw the request."""
REDIRECTS: Final = 5
"""How many redirects in a row we follow ourselves. Beyond that aiohttp's client sends the request, by its own rules."""
ERROR_BODY_BYTES: Final = 64 << 10


class Client:
    """Connections to servers, kept and reused. Use as `async with`."""

    def __init__(self, *, headers: dict[str, str] | None = None) -> None:
        self._headers = {"User-Agent": "loadgen", "Accept-Encoding": "identity", **(headers or {})}
        self.last_sent_ns = 0  # when the last request was dispatched
        self._watchdog = Watchdog()
        self._receiver: Receiver | None = None
        self._sessions: list[aiohttp.ClientSession] = []
        self._direct_requests: dict[str, DirectRequest | None] = {}  # by URL
        self._redirects: dict[str, str] = {}  # by URL, where its server redirects it to, if that can be kept
        self._stamping_socket: socket.socket | None = None
        self.kernel = False  # True where the kernel's receive stamps are available
        self.stamping = False  # True where the connections stamp; else the client stamps when it reads

    async def __aenter__(self) -> "Client":
        loop = asyncio.get_running_loop()
        self.kernel = kernel_stamps_available(loop)
        self._stamping_socket = keep_stamping() if self.kernel else None
        # From here on the event loop waits in `Receiver._select`, which reads what streams while it waits.
        self._receiver = Receiver(loop) if receives(loop) else None
        # aiohttp makes a handler for each connection, and calls it for everything that happens there.
        handler = functools.partial(DirectHandler, receiver=self._receiver) if self._receiver else StampedHandler
        # The second session never reuses a connection. It sends a request again whose idle connection the server had
        # just closed.
        for options in ({"keepalive_timeout": 60.0}, {"force_close": True}):
            source: StampSource = "kernel" if self.kernel else "user"
            pool, self.stamping = connector(loop, source=source, handler=handler, **options)
            session = aiohttp.ClientSession(
                connector=pool,
                timeout=aiohttp.ClientTimeout(total=None),
                read_bufsize=BODY_BYTES,
                max_line_size=HEAD_BYTES,
                max_field_size=HEAD_BYTES,
                trace_configs=[trace_redirects(), trace_connections(), *([] if self.stamping else [trace_writes()])],
                cookie_jar=aiohttp.DummyCookieJar(),
                headers=self._headers,
            )
            self._sessions.append(session)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._watchdog.close()
        for session in self._sessions:
            await session.close()
        if self._receiver is not None:
            self._receiver.close()
        if self._stamping_socket is not None:
            self._stamping_socket.close()

    @property
    def in_flight(self) -> int:
        """How many requests are in flight now."""
        return len(self._watchdog.watched)

    def exchange_of(self, task: "asyncio.Task[object] | None") -> Exchange | None:
        """The exchange of the request that a task is sending; None if it sends none."""
        return next((each for each in self._watchdog.watched if each.task is task), None)

    def abandon(self, why: str = "stopped by the user") -> None:
        """Give up every request in flight, as `cancelled`. The second Ctrl-C comes to this. why: its detail."""
        for exchange in list(self._watchdog.watched):
            exchange.give_up("cancelled", why)

    async def open_connections(self, url: str, count: int, headers: dict[str, str]) -> None:
        """Open about `count` idle connections to the server of `url`, so that the load does not begin with all users
        connecting at once."""

        async def touch() -> None:
            with contextlib.suppress(aiohttp.ClientError, OSError, TimeoutError):
                timeout = aiohttp.ClientTimeout(total=10)
                async with self._sessions[0].get(url, headers=headers, timeout=timeout) as response:
                    await beginning_of(response, LIST_BYTES)

        await asyncio.gather(*(touch() for _ in range(count)))

    async def send(self, request: ChatRequest, dispatched_ns: int) -> Exchange:
        """Send one request and wait for its end, whatever ends it. Never raises for what a server does."""
        exchange = Exchange(request, dispatched_ns)
        exchange.task = asyncio.current_task()
        self.last_sent_ns = dispatched_ns
        self._watchdog.watch(exchange)
        # Read only by the functions in stamps.py that aiohttp calls. Our own functions get the exchange or its stamps.
        restore = CURRENT_STAMPS.set(exchange.stamps)
        try:
            await self._send_once(exchange, self._sessions[0])
            if self._was_stale(exchange):
                exchange.failure = None
                await self._send_once(exchange, self._sessions[1])
        finally:
            exchange.ended_ns = now_ns()
            exchange.task = None  # before the next await, or the watchdog could cancel what the task does next
            CURRENT_STAMPS.reset(restore)
            self._watchdog.forget(exchange)
        self._keep_redirect(exchange)
        return exchange

    def _keep_redirect(self, exchange: Exchange) -> None:
        """From now on, send requests with this URL to where the server redirected this one, if an answer came there:
        only one request has the round trip in its latency, also without a preflight."""
        url, redirected_to = exchange.request.url, exchange.response.redirected_to
        if redirected_to is not None and exchange.response.status == 200 and can_be_kept(url, redirected_to):
            self._redirects[url] = redirected_to

    @staticmethod
    def _was_stale(exchange: Exchange) -> bool:
        """Whether the server closed a reused idle connection before it saw the request."""
        failure, stamps = exchange.failure, exchange.stamps
        return (
            failure is not None
            and failure.outcome == "truncated"
            and exchange.response.status is None
            and stamps.reused
            and stamps.last_read_ns is None
            # A server that closes later than this had begun to work on the request.
            and (stamps.written_ns is None or now_ns() - stamps.written_ns < STALE_NS)
        )

    async def _send_once(self, exchange: Exchange, session: aiohttp.ClientSession) -> None:
        """Send the request over one connection. A fault of the server becomes the exchange's `failure`; an exception
        that is a bug of ours propagates."""
        try:
            await self._send_over_connection(exchange, session)
        except asyncio.CancelledError:
            if exchange.failure is None:
                raise  # neither the watchdog nor `abandon` cancelled the task: the program is ending
            task = asyncio.current_task()
            if task is not None:
                task.uncancel()
        except (aiohttp.ClientError, HttpProcessingError, OSError, UnsendableRequest) as error:
            if exchange.failure is None:
                exchange.failure = failure_of(error, exchange.response.status)

    async def _send_over_connection(self, exchange: Exchange, session: aiohttp.ClientSession) -> None:
        request = exchange.request
        accept = "text/event-stream" if request.streams else "application/json"
        headers = {"Content-Type": "application/json", "Accept": accept, **request.headers}
        if session is not self._sessions[0] or not await self._send_directly(exchange, headers):
            await self._send_by_aiohttp(exchange, session, headers)

    async def _send_by_aiohttp(
        self, exchange: Exchange, session: aiohttp.ClientSession, headers: dict[str, str]
    ) -> None:
        request, response = exchange.request, exchange.response
        response.redirected_to = self._redirects.get(request.url)
        async with await _post(session, response.redirected_to or request.url, request.body, headers) as answer:
            if answer.history:
                response.redirected_to = str(answer.url)
            response.status = answer.status
            response.content_type = answer.content_type
            response.retry_after = answer.headers.get("Retry-After")
            response.content = answer.content
            try:
                await self._read(answer.content, exchange)
            finally:
                response.drain()  # before aiohttp releases the connection and drops what it buffered

    async def _send_directly(self, exchange: Exchange, headers: dict[str, str]) -> bool:
        """Send the request without aiohttp's client. False: aiohttp's client has to send it, and nothing was sent."""
        all_headers = (*self._headers.items(), *headers.items())
        exchange.response.redirected_to = self._redirects.get(exchange.request.url)
        url: str | None = exchange.response.redirected_to or exchange.request.url
        for _ in range(REDIRECTS):
            direct_request = self._direct_request(url) if url is not None else None
            head = direct_request.head(all_headers) if direct_request is not None else None
            if direct_request is None or head is None:
                return False
            body, on_head = exchange.request.body, exchange.response.take_head
            try:
                answer = await direct_request.send(head, body, exchange.stamps, on_head)
            except Redirected as redirect:
                url = exchange.response.redirected_to = redirect.url
                continue
            # A `DirectAnswer` is complete: `Response.take_head` got its head, `exchange.stamps` its body and stamps.
            if isinstance(answer, AiohttpAnswer):
                await self._receive(answer, exchange)
            answer.connection.release()
            return True
        return False

    def _direct_request(self, url: str) -> DirectRequest | None:
        if url not in self._direct_requests:
            session, pool = self._sessions[0], self._sessions[0].connector
            self._direct_requests[url] = None
            if self.stamping and isinstance(pool, aiohttp.TCPConnector):
                self._direct_requests[url] = DirectRequest.open(url, session, pool, BODY_BYTES)
        return self._direct_requests[url]

    async def _receive(self, answer: AiohttpAnswer, exchange: Exchange) -> None:
        response, headers = exchange.response, answer.head.headers
        try:
            response.status = answer.head.code
            response.content_type = media_type(headers.get("Content-Type", ""))
            response.retry_after = headers.get("Retry-After")
            response.content = answer.body
            try:
                await self._read(answer.body, exchange)
            finally:
                response.drain()
        except BaseException:
            answer.connection.close()
            raise

    async def _read(self, content: aiohttp.StreamReader, exchange: Exchange) -> None:
        if exchange.response.status != 200:
            left_bytes = ERROR_BODY_BYTES
            while left_bytes > 0 and (piece := await content.read(left_bytes)):
                exchange.response.append(piece)
                left_bytes -= len(piece)
        elif self.stamping:
            await wait_eof(content)
        else:
            await self._read_and_stamp(content, exchange)

    @staticmethod
    async def _read_and_stamp(content: aiohttp.StreamReader, exchange: Exchange) -> None:
        while piece := await content.readany():
            exchange.response.append(piece)
            exchange.stamps.record_read(content.total_bytes, now_ns(), 0)
            if content.total_bytes > ANSWER_BYTES or exchange.stamps.reads_so_far > ANSWER_READS:
                raise too_long_error()


async def _post(
    session: aiohttp.ClientSession, url: str, body: bytes, headers: dict[str, str]
) -> aiohttp.ClientResponse:
    """The answer to a request, as soon as its head has come. Raises UnsendableRequest, and aiohttp's errors."""
    try:
        return await session.post(url, data=body, headers=headers)
    except aiohttp.ClientError:
        raise  # some of aiohttp's own errors are ValueErrors as well
    except ValueError as error:
        raise UnsendableRequest from error


async def beginning_of(response: aiohttp.ClientResponse, max_bytes: int) -> bytes:
    """The body of an answer, or its first `max_bytes` bytes. Raises aiohttp's errors."""
    body = b""
    while len(body) < max_bytes and (piece := await response.content.read(max_bytes - len(body))):
        body += piece
    return body


async def wait_eof(content: aiohttp.StreamReader) -> None:
    """Wait until the body has ended. Raises what broke it."""
    failed = content.exception()
    if failed is not None:
        raise failed
    await content.wait_eof()


def failure_of(error: Exception, status: int | None) -> Failure:
    """The failure of a request on an exception of aiohttp or of the system, with its outcome from the closed set."""
    if isinstance(error, UnsendableRequest):
        reason = error.__cause__ or error
        no_such_host = isinstance(reason, UnicodeError)  # no resolver accepts the name
        return Failure("connect_error" if no_such_host else "malformed", describe(reason))
    if isinstance(error, aiohttp.TooManyRedirects):  # its own text is empty
        where = redact_url(str(error.request_info.real_url))
        return Failure("malformed", redact_keys(f"the server redirects without end, last from {where}"))
    detail = describe(error)
    if isinstance(error, aiohttp.ClientConnectorError | aiohttp.InvalidURL | aiohttp.ServerFingerprintMismatch):
        return Failure("connect_error", detail)
    if isinstance(error, HttpProcessingError):  # from aiohttp's parser in Python, which runs where its C parser cannot
        return Failure("malformed" if status is None else "truncated", detail)
    if isinstance(error, aiohttp.ClientResponseError | ValueError):  # aiohttp raises either for bytes it cannot parse
        return Failure("malformed", detail)
    return Failure("truncated", detail)


def describe(error: BaseException, limit: int = 300) -> str:
    """One line about an exception, at most `limit` characters long."""
    text = redact_keys(" ".join(str(error).split())) or type(error).__name__  # before it is cut
    return text if len(text) <= limit else text[: limit - 1] + "…"
