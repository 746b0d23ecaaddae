"""Sends requests to one URL over aiohttp's connections, but without aiohttp's client. Parses no answers.

aiohttp's client spends more on a request than all tokens of a short answer cost: for each request it merges headers,
parses the URL, and makes a request, a writer, a task and a response. Here the head of a request is made once for a URL
and a set of headers. The connector, its pool, the protocol and the parser are still aiohttp's, so failures are too.

aiohttp's client sends what is out of the ordinary, such as credentials in the URL or a header that concerns framing:
`DirectRequest.open` then returns None. A redirect raises `Redirected`.
"""

import asyncio
import re
from collections.abc import Callable
from typing import Any, Final

import aiohttp
from aiohttp import StreamReader
from aiohttp.connector import Connection
from aiohttp.http import RawResponseMessage
from aiohttp.http_exceptions import HttpProcessingError
from msgspec import Struct
from yarl import URL

from loadgen.wire.direct_response import DirectHandler, ReadBy
from loadgen.wire.stamps import HEAD_BYTES, ReadStamps

_NOT_OURS: Final = frozenset(
    ("host", "content-length", "transfer-encoding", "connection", "expect", "cookie", "content-encoding", "trailer")
)
_HEADER: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+: [^\x00\r\n]*")
_REDIRECTS: Final = frozenset((301, 302, 303, 307, 308))
_MAX_HEADS: Final = 256
_NO_TIMEOUT: Final = aiohttp.ClientTimeout(total=None)


class DirectAnswer(Struct, frozen=True):
    """An ordinary answer, complete: a `Receiver` has read its body into `ReadStamps.raw_body`."""

    connection: Connection
    """Ready for the next request. The caller releases it."""


class AiohttpAnswer(Struct, frozen=True):
    """An answer out of the ordinary, which aiohttp parses."""

    connection: Connection
    """The caller releases it when it has read the body, and closes it if that fails."""
    head: RawResponseMessage
    body: StreamReader
    """Still arriving."""


class Redirected(Exception):  # noqa: N818 - a fact about the answer, not an error
    """The answer sends the request somewhere else."""

    def __init__(self, url: str | None) -> None:
        super().__init__(url)
        self.url = url  # where to send the same request to the same server; None: aiohttp's client has to follow


class UnsendableRequest(Exception):  # noqa: N818 - a fact about the request, not an error of ours
    """aiohttp cannot send such a request: it raised a bare ValueError, the `__cause__`, before anything was sent.

    The host name is one that no resolver accepts, for instance, or a header has a line end in it. The ValueError is
    translated where aiohttp is called, so that any other ValueError is known to be a bug of ours.
    """


class DirectRequest:
    """Sends requests to one URL."""

    def __init__(self, connector: aiohttp.TCPConnector, request: aiohttp.ClientRequest, buffer_bytes: int) -> None:
        self._connector = connector
        self._request = request  # never sent: aiohttp's connector reads the address and the TLS settings from it
        # For aiohttp's parser, in case it is needed. The same for every request.
        self._parser_params: dict[str, Any] = {
            "read_until_eof": True,
            "read_bufsize": buffer_bytes,
            "max_line_size": HEAD_BYTES,
            "max_field_size": HEAD_BYTES,
        }
        self._heads: dict[tuple[tuple[str, str], ...], bytes | None] = {}

    @classmethod
    def open(
        cls, url: str, session: aiohttp.ClientSession, connector: aiohttp.TCPConnector, buffer_bytes: int
    ) -> "DirectRequest | None":
        """A `DirectRequest` to `url`; None if aiohttp's client has to send requests there."""
        try:
            target = URL(url)
            if target.scheme not in ("http", "https") or not target.raw_host or target.raw_user or target.raw_password:
                return None
            request = aiohttp.ClientRequest(
                "POST", target, headers={}, loop=connector._loop, session=session, ssl=True, skip_auto_headers=()
            )
            return (
                cls(connector, request, buffer_bytes) if hasattr(aiohttp.TCPConnector, "_create_connection") else None
            )
        except (ValueError, TypeError, AttributeError):  # no URL; or another aiohttp
            return None

    def head(self, headers: tuple[tuple[str, str], ...]) -> bytes | None:
        """A request's head, up to the number of its `Content-Length`. A later header replaces an earlier one of the
        same name. None if aiohttp's client has to send a request with these headers."""
        if headers not in self._heads:
            if len(self._heads) >= _MAX_HEADS:
                self._heads.clear()
            self._heads[headers] = self._head_of(headers)
        return self._heads[headers]

    def _head_of(self, headers: tuple[tuple[str, str], ...]) -> bytes | None:
        by_name = {name.lower(): f"{name}: {value}" for name, value in headers}
        if not _NOT_OURS.isdisjoint(by_name) or not all(map(_HEADER.fullmatch, by_name.values())):
            return None
        host = self._request.headers.get("Host", "")
        lines = [f"POST {self._request.url.raw_path_qs} HTTP/1.1", f"Host: {host}", *by_name.values()]
        return "\r\n".join([*lines, "Content-Length: "]).encode()

    async def send(
        self, head: bytes, body: bytes, stamps: ReadStamps, on_head: Callable[[bytes], None]
    ) -> DirectAnswer | AiohttpAnswer:
        """Send a request, and wait until an ordinary answer is complete, or until the head of any other has come.

        stamps, on_head: see `DirectHandler.expect`. Raises Redirected, UnsendableRequest, and what aiohttp's client
        would raise.
        """
        try:
            connection = await self._connector.connect(self._request, [], _NO_TIMEOUT)
        except UnicodeError as error:
            raise UnsendableRequest from error
        try:
            protocol, transport = connection.protocol, connection.transport
            # If the connection is new, `StampedConnector._create_connection` has just stamped how long that took.
            stamps.reused = stamps.connect_end_ns is None
            if transport is None or transport.is_closing():
                raise aiohttp.ServerDisconnectedError
            read_by: asyncio.Future[ReadBy] | None = None
            if isinstance(protocol, DirectHandler):
                read_by = protocol.expect(stamps, on_head, **self._parser_params)
            elif protocol is not None:
                protocol.set_response_params(**self._parser_params)
            # One write, so that head and body leave in one packet if they fit. It ends in `StampedSocket.send`
            # (stamps.py), which stamps it: `expect` and `set_response_params` have told the socket on which stamps.
            transport.write(b"%b%d\r\n\r\n%b" % (head, len(body), body))
            # While this task waits, the event loop waits in `Receiver._select` (receiver.py). That calls
            # `DirectHandler._read` for the answer's head, reads the body into a `RawBody`, and at its end calls
            # `DirectHandler._on_read` (direct_response.py), which sets the future.
            if read_by is not None and await read_by == "receiver":
                return DirectAnswer(connection)
            return await self._aiohttp_answer(connection)
        except BaseException:  # cancellation too: the rest of this answer must not be read as the next request's
            connection.close()
            # An error that came through the future has this frame in its traceback, and the frame has the future:
            # together they would hold the answer until the garbage collector comes.
            read_by = None
            raise

    def _redirect_to_same_server(self, status: int, location: str) -> str | None:
        """Where a redirect leads; None if the request must not be repeated there with its method, body and headers.

        After a 301 or 302 a browser would send GET. We send POST again, as a GET is no chat; RFC 9110, 15.4 allows
        both.
        """
        try:
            target = self._request.url.join(URL(location))
            return str(target) if status != 303 and target.origin() == self._request.url.origin() else None
        except ValueError:
            return None

    async def _aiohttp_answer(self, connection: Connection) -> AiohttpAnswer:
        """The answer, as aiohttp's parser gives it. Raises `Redirected` for a redirect."""
        protocol: Any = connection.protocol
        while True:
            try:
                message, payload = await protocol.read()
            except HttpProcessingError as error:
                raise aiohttp.ClientResponseError(
                    self._request.request_info, (), status=error.code, message=error.message, headers=error.headers
                ) from error
            if message.code in _REDIRECTS and "Location" in message.headers:
                raise Redirected(self._redirect_to_same_server(message.code, message.headers["Location"]))
            if not 100 <= message.code <= 199 or message.code == 101:  # another 1xx only precedes the answer
                return AiohttpAnswer(connection, message, payload)
