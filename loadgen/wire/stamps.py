"""Receive and send stamps inside aiohttp: when bytes reached this machine, not when Python looked. Knows no chat.

Operations. `connector` makes a pool whose connections stamp; `CURRENT_STAMPS` says on which stamps, for the task that
sends.

Goals. Each read of a body has the moment at which its last byte had arrived, and each request the moment at which it
was handed to the kernel, on whatever platform, and however aiohttp carries it.

Plan. On Linux with plain asyncio the kernel stamps every read (`SO_TIMESTAMPNS`, read with `recvmsg`; no privilege is
needed): the stamp is that of the last byte the read returned. Elsewhere, and over TLS, the stamp is taken as the first
thing when the event loop hands us the bytes. Sends are stamped just before the call that gives the bytes to the kernel.
A socket of ours reads and writes, a protocol of ours notes, and between them aiohttp does what it always does. Bodies
that stream on Linux are read and stamped by `loadgen.wire.receiver` instead.

Warning. Relied on are `TCPConnector(socket_factory=…)`, public, and two private attributes: the connector's `_factory`,
which makes the protocol of a connection, and the protocol's `_payload`, the body that it receives.
`tests/integration/wire/test_stamps.py` pins them; should a private one be gone in some aiohttp, `connector` says so and
the client stamps what it reads itself, later and in user space.
"""

import asyncio
import functools
import socket
import struct
import sys
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any, Final

import aiohttp
from aiohttp import StreamReader
from aiohttp.client_proto import ResponseHandler
from aiohttp.streams import EMPTY_PAYLOAD

from loadgen.clock import now_ns
from loadgen.record import StampSource
from loadgen.wire.receiver import ANSWER_BYTES, ANSWER_READS, READ_BYTES, Columns, RawBody, columns_of

_unpack_timespec = struct.Struct("@ll").unpack_from

WHOLE_BODY: Final = 1 << 62
"""Body bytes after a read that brought headers and body at once, on a connection that was closed with it."""
HEAD_BYTES: Final = 65536
"""The longest head of an answer that is taken, and the longest line in it."""
_SO_TIMESTAMPNS: Final = 35
_HEAD_END: Final = b"\r\n\r\n"
_ENCODING: Final = b"\ncontent-encoding:"
_ENCODED_BYTES: Final = 1024
"""What aiohttp is given at once of a compressed body: deflate makes a MiB of it at most."""


def too_long_error() -> aiohttp.ClientPayloadError:
    """What ends an answer that is more than may be held."""
    return aiohttp.ClientPayloadError(
        f"longer than {ANSWER_BYTES >> 20} MiB or {ANSWER_READS:,} reads: the answer was cut off"
    )


class ReadStamps:
    """The stamps of one request on its way: written by the connection that carries it, read when it has ended.

    All `_ns` are on the monotonic clock, and None until they have happened.
    """

    __slots__ = ("_reads", "connect_end_ns", "connect_start_ns", "first_write_ns", "raw_body", "reused", "written_ns")

    def __init__(self) -> None:
        self._reads: list[tuple[int, int, int]] = []
        self.raw_body: RawBody | None = None  # the reads of a body that a `Receiver` reads; None while aiohttp does
        self.reused = False  # the connection had carried a request before
        self.connect_start_ns: int | None = None
        self.connect_end_ns: int | None = None
        self.first_write_ns: int | None = None
        self.written_ns: int | None = None  # the last write

    def begin_response(self) -> None:
        """A connection was assigned and is about to be written to (again, after a redirect)."""
        self._reads.clear()
        self.raw_body = None

    @property
    def reads(self) -> list[tuple[int, int, int]]:
        """(body bytes so far, user stamp ns, kernel wall-clock stamp ns or 0) a read."""
        return self._reads if self.raw_body is None else list(zip(*self.raw_body.columns(), strict=True))

    @property
    def columns(self) -> Columns:
        """`reads`, in columns."""
        return columns_of(self._reads) if self.raw_body is None else self.raw_body.columns()

    @property
    def reads_so_far(self) -> int:
        """How many reads there have been of the answer, its head included."""
        return len(self._reads) if self.raw_body is None else len(self.raw_body.reads)

    @property
    def last_read_ns(self) -> int | None:
        """When the last read came, by our stamp; None before the first."""
        if self.raw_body is not None:
            return self.raw_body.user_ns[-1]
        return self._reads[-1][1] if self._reads else None

    def record_read(self, body_bytes: int, user_ns: int, wall_ns: int) -> None:
        """A read of aiohttp's. body_bytes: of the body, up to its end."""
        self._reads.append((body_bytes, user_ns, wall_ns))

    def record_write(self, at_ns: int) -> None:
        """Bytes are handed to the kernel now: the stamp is from before the call.

        On loopback the call delivers them as well, and wakes the server; on a busy machine it returns when the server
        has had its turn, milliseconds after the request had arrived there.
        """
        if self.first_write_ns is None:
            self.first_write_ns = at_ns
        self.written_ns = at_ns


CURRENT_STAMPS: ContextVar[ReadStamps | None] = ContextVar("loadgen_stamps", default=None)
"""The stamps of the request that this task is sending; `Client.send` sets it. Only what aiohttp calls reads it, as it
hands on nothing of ours: `StampedConnector._create_connection`, `StampedHandler.set_response_params`, the hooks below.
"""


class StampedSocket(socket.socket):
    """A socket whose reads keep the kernel's stamp, and whose sends are stamped."""

    last_rx_wall_ns = 0
    stamps: ReadStamps | None = None
    error: OSError | None = None
    """What a read past `recv` has met: the system says it once, so `recv` is to raise it the next time."""

    def recv(self, bufsize: int, flags: int = 0) -> bytes:
        if self.error is not None:
            error, self.error = self.error, None
            raise error
        data, ancillary, _, _ = self.recvmsg(bufsize if bufsize < READ_BYTES else READ_BYTES, 64, flags)
        if ancillary:
            seconds, nanos = _unpack_timespec(ancillary[0][2])
            self.last_rx_wall_ns = seconds * 1_000_000_000 + nanos
        else:
            self.last_rx_wall_ns = 0  # never the stamp of an earlier read
        return data

    def send(self, data: Any, flags: int = 0) -> int:
        if self.stamps is not None:
            self.stamps.record_write(now_ns())
        return super().send(data, flags)

    def sendmsg(self, buffers: Any, *rest: Any) -> int:
        if self.stamps is not None:
            self.stamps.record_write(now_ns())
        return super().sendmsg(buffers, *rest)


class StampedHandler(ResponseHandler):
    """aiohttp's protocol of one connection, which also records every read."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop)
        self._stamps: ReadStamps | None = None
        self._socket: StampedSocket | None = None
        self._previous: object = None  # the body of the answer before
        self._current: StreamReader | None = None  # the body of this one, once it has begun
        self._head_tail = b""  # the last bytes of a head that is still coming
        self._name_tail = b""  # the same, so many that the name of a header may begin in them
        self._is_encoded = False  # a head says that the body is compressed

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        if hasattr(transport, "max_size"):
            transport.max_size = READ_BYTES
        wrapped = transport.get_extra_info("socket")
        raw = getattr(wrapped, "_sock", wrapped)
        self._socket = raw if isinstance(raw, StampedSocket) else None

    def set_response_params(self, **params: Any) -> None:
        """aiohttp calls it in the sending task, when the connection is ours and nothing is written yet."""
        super().set_response_params(**params)
        self._begin(CURRENT_STAMPS.get())

    def _begin(self, stamps: ReadStamps | None) -> None:
        """What is read from now on belongs to these stamps."""
        self._stamps = stamps
        self._previous, self._current = self._payload, None  # what is there now is an earlier answer's
        self._head_tail, self._name_tail, self._is_encoded = b"", b"", False
        if stamps is None:
            return
        stamps.begin_response()
        if self._socket is not None:
            self._socket.stamps = stamps
            self._socket.last_rx_wall_ns = 0
        else:
            stamps.record_write(now_ns())

    def data_received(self, data: bytes) -> None:
        user_ns = now_ns()  # first, before anything that costs
        self._pass_on(data, user_ns, self._socket.last_rx_wall_ns if self._socket is not None else 0)

    def _pass_on(self, data: bytes, user_ns: int, wall_ns: int) -> None:
        """Give a read to aiohttp, and record it.

        A head goes by itself: where the same read has a fault in the body, aiohttp would raise before it told of the
        head, and the status would be lost.
        """
        while self._payload is None or self._payload is self._previous or self._payload is EMPTY_PAYLOAD:
            # The blank line may begin in the read before: the last three bytes of that are looked at again.
            lines = (self._name_tail + data).lower()
            self._is_encoded = self._is_encoded or _ENCODING in lines
            self._name_tail = lines[1 - len(_ENCODING) :]
            earlier, head = len(self._head_tail), self._head_tail + data
            self._head_tail = head[1 - len(_HEAD_END) :]
            cut = head.find(_HEAD_END) + len(_HEAD_END) - earlier
            if cut + earlier < len(_HEAD_END) or cut >= len(data):
                break
            self._head_tail = b""
            self._give(data[:cut], user_ns, wall_ns)
            data = data[cut:]
            if self.exception() is not None:
                return
        self._give(data, user_ns, wall_ns)

    def _give(self, data: bytes, user_ns: int, wall_ns: int) -> None:
        if self._is_encoded:
            self._give_encoded(data)
        else:
            super().data_received(data)
        stamps = self._stamps
        if stamps is None or not data:  # without data, aiohttp only resumes its parser
            return
        payload = self._payload
        if payload is None or payload is self._previous:
            # Not begun: the headers are still coming. Or over, and so at once that aiohttp has let go of it already.
            payload = self._current
            body_bytes = payload.total_bytes if payload is not None else WHOLE_BODY if self.transport is None else 0
        else:
            self._current = payload
            body_bytes = payload.total_bytes
        stamps.record_read(body_bytes, user_ns, wall_ns)
        if payload is not None and (body_bytes > ANSWER_BYTES or stamps.reads_so_far > ANSWER_READS):
            self._cut_off_body(payload)

    def _give_encoded(self, data: bytes) -> None:
        """Give aiohttp a read of a body that it decompresses: bit by bit, as a few bytes may become very many."""
        for start in range(0, len(data), _ENCODED_BYTES):
            super().data_received(data[start : start + _ENCODED_BYTES])
            payload = self._payload
            if payload is not None and payload is not self._previous and payload.total_bytes > ANSWER_BYTES:
                break  # it is cut off
        if not data:
            super().data_received(data)

    def _cut_off_body(self, payload: StreamReader) -> None:
        """End an answer that is too long, and its connection. aiohttp alone would only stop reading, until somebody
        looks into what it holds."""
        if not payload.is_eof() and payload.exception() is None:
            payload.set_exception(too_long_error())
            self.abort()

    def set_exception(self, exc: BaseException, *cause: BaseException) -> None:
        """aiohttp calls it for a broken chunk too, and then tells only who waits for headers: the body would hang."""
        super().set_exception(exc, *cause)
        payload = self._payload
        if payload is not None and not payload.is_eof() and payload.exception() is None:
            payload.set_exception(aiohttp.ClientPayloadError(f"Response payload is not completed: {exc}"), exc)


def kernel_stamps_available(loop: asyncio.AbstractEventLoop) -> bool:
    """Whether this platform and this loop let the kernel's receive stamps be read."""
    return sys.platform == "linux" and isinstance(loop, asyncio.SelectorEventLoop)


def keep_stamping() -> socket.socket | None:
    """A socket that asks for stamps and is never used; hold it while others come and go. None where there are none.

    The kernel stamps packets only while some socket wants it, and takes up again a little late: without this, the first
    packets of a connection that follows a closed one may bear no stamp.
    """
    if sys.platform != "linux":
        return None
    unused = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    unused.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
    return unused


def _stamped_socket(source: StampSource, address: tuple[Any, ...]) -> socket.socket:
    family, kind, protocol = address[:3]
    stamped = StampedSocket(family, kind, protocol)
    stamped.setblocking(False)
    if source == "kernel":
        stamped.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
    return stamped


class StampedConnector(aiohttp.TCPConnector):
    """aiohttp's pool of connections, which stamps how long a new one took."""

    async def _create_connection(self, *request: Any, **named: Any) -> ResponseHandler:
        stamps = CURRENT_STAMPS.get()
        if stamps is not None:
            stamps.connect_start_ns = now_ns()
        protocol = await super()._create_connection(*request, **named)
        if stamps is not None:
            stamps.connect_end_ns = now_ns()
        return protocol


def connector(
    loop: asyncio.AbstractEventLoop,
    *,
    source: StampSource,
    handler: Callable[..., StampedHandler] = StampedHandler,
    **options: Any,
) -> tuple[aiohttp.TCPConnector, bool]:
    """An aiohttp connector whose connections stamp, and whether they do.

    They do not when aiohttp has lost an attribute that this takes. source: "kernel" asks for the kernel's stamps too.
    handler: makes the protocol of a connection. options: of aiohttp's connector.
    """
    # aiohttp calls `socket_factory` for the socket of each new connection, and `_factory` for its protocol.
    # A proactor loop never calls the socket's own methods; there, sends are stamped when the connection is assigned.
    factory = functools.partial(_stamped_socket, source) if isinstance(loop, asyncio.SelectorEventLoop) else None
    pool = StampedConnector(limit=0, socket_factory=factory, **options)
    if not hasattr(pool, "_factory") or not hasattr(ResponseHandler(loop), "_payload"):
        return pool, False
    pool._factory = functools.partial(handler, loop=loop)  # type: ignore[assignment]
    return pool, True


def trace_connections() -> aiohttp.TraceConfig:
    """aiohttp's own hooks for what happens before a connection is ours: whether it was new, and how long that took."""
    config = aiohttp.TraceConfig()

    async def create_start(*_: object) -> None:
        if (stamps := CURRENT_STAMPS.get()) is not None:
            stamps.connect_start_ns = now_ns()

    async def create_end(*_: object) -> None:
        if (stamps := CURRENT_STAMPS.get()) is not None:
            stamps.connect_end_ns = now_ns()

    async def reuse(*_: object) -> None:
        if (stamps := CURRENT_STAMPS.get()) is not None:
            stamps.reused = True

    config.on_connection_create_start.append(create_start)
    config.on_connection_create_end.append(create_end)
    config.on_connection_reuseconn.append(reuse)
    return config


def trace_writes() -> aiohttp.TraceConfig:
    """Hooks that stamp the writes of connections that do not, as well as aiohttp tells of them."""
    config = aiohttp.TraceConfig()

    async def write(*_: object) -> None:
        if (stamps := CURRENT_STAMPS.get()) is not None:
            stamps.record_write(now_ns())

    config.on_request_headers_sent.append(write)
    config.on_request_chunk_sent.append(write)
    return config
