"""The short way to one address: requests over aiohttp's connections, without its client. Knows no answers.

aiohttp's client spends more on a request than all of a short answer's tokens cost: it merges headers, parses the URL,
makes a request, a writer, a task and a response, each time anew. Here a request's head is made once for an address and
a set of headers. The connector, its pool, the protocol and the parser are aiohttp's still, and so are all failures.

What is out of the ordinary, such as a redirect, credentials in the URL, or a header that has to do with framing, is
for aiohttp's client: `DirectRequest.open` says so with None, or `Redirected` is raised.
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
    """An ordinary answer, which is over: a `Receiver` has read its body into `ReadStamps.raw_body`."""

    connection: Connection
    """Fit for the next request, and to be released."""


class AiohttpAnswer(Struct, frozen=True):
    """An answer out of the ordinary, as aiohttp's parser gives it."""

    connection: Connection
    """To be released when the body has been read, or closed if that fails."""
    head: RawResponseMessage
    body: StreamReader
    """As it comes."""


class Redirected(Exception):  # noqa: N818 - a fact about the answer, not an error
    """The answer sends the request somewhere else."""

    def __init__(self, url: str | None) -> None:
        super().__init__(url)
        self.url = url  # where, if it is the same request to the same server; else None


class RequestRefused(Exception):  # noqa: N818 - a fact about the request, not an error of ours
    """aiohttp raised a bare ValueError before anything was sent, as `__cause__`: it cannot send such a request.

    A host name that no resolver can take, a header with a line end. Translated where aiohttp is called, so that any
    other ValueError is a bug of ours, and is seen as one.
    """


class DirectRequest:
    """Sends requests to one URL."""

    def __init__(self, connector: aiohttp.TCPConnector, request: aiohttp.ClientRequest, buffer_bytes: int) -> None:
        self._connector = connector
        self._request = request  # never sent: aiohttp's connector takes the address from it, and the TLS settings
        # Of aiohttp's parser, should it be needed: the same for every request.
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
        """The short way to `url`; None where aiohttp's client is to go the long one."""
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
        """A request's head, up to its length; a later header replaces an earlier one. None when it is not for us."""
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
        """Send a request, and wait for its answer: for all of an ordinary one, for the head of any other.

        stamps, on_head: see `DirectHandler.expect`. Raises what aiohttp's client would, and RequestRefused.
        """
        try:
            connection = await self._connector.connect(self._request, [], _NO_TIMEOUT)
        except UnicodeError as error:
            raise RequestRefused from error
        try:
            protocol, transport = connection.protocol, connection.transport
            # Where the connection is new, `StampedConnector._create_connection` has just stamped how long that took.
            stamps.reused = stamps.connect_end_ns is None
            if transport is None or transport.is_closing():
                raise aiohttp.ServerDisconnectedError
            read_by: asyncio.Future[ReadBy] | None = None
            if isinstance(protocol, DirectHandler):
                read_by = protocol.expect(stamps, on_head, **self._parser_params)
            elif protocol is not None:
                protocol.set_response_params(**self._parser_params)
            # One write: head and body leave in one packet where they fit, and have one stamp.
            transport.write(b"%b%d\r\n\r\n%b" % (head, len(body), body))
            # While this task waits, the event loop waits in `Receiver._select` (loadgen/wire/receiver.py). It calls
            # `DirectHandler._read` for the answer's head, then reads its body into a `RawBody`, and in the end calls
            # `DirectHandler._on_read`, which sets the future.
            if read_by is not None and await read_by == "receiver":
                return DirectAnswer(connection)
            return await self._aiohttp_answer(connection)
        except BaseException:  # cancelled too: half an answer is on its way, which the next request must not get
            connection.close()
            raise

    def _redirect_to_same_server(self, status: int, location: str) -> str | None:
        """Where a redirect leads, if it is one of the whole request, and our headers may go there too.

        Behind a 301 or 302 a browser would get a page; a chat that is asked for with GET is none (RFC 9110, 15.4
        allows both).
        """
        try:
            target = self._request.url.join(URL(location))
            return str(target) if status != 303 and target.origin() == self._request.url.origin() else None
        except ValueError:
            return None

    async def _aiohttp_answer(self, connection: Connection) -> AiohttpAnswer:
        """aiohttp's answer. Raises `Redirected` for a redirect."""
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
            if not 100 <= message.code <= 199 or message.code == 101:  # the others come before the answer
                return AiohttpAnswer(connection, message, payload)
