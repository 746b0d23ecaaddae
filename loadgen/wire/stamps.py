"""Stamps what is read and written inside aiohttp: when bytes reached this machine, not when Python saw them. Knows no
chat.

Operations. `connector` makes a pool whose connections stamp. `CURRENT_STAMPS` has the `ReadStamps` of the request that
the current task sends.

Goals. Each read of a body is stamped with the arrival of its last byte, and each request with the moment at which it
was handed to the kernel, on every platform and in whatever way aiohttp carries it.

Plan. On Linux with plain asyncio the kernel stamps every read (`SO_TIMESTAMPNS`, read with `recvmsg`, needs no
privilege): the stamp is that of the last byte that the read returned. On other platforms, and over TLS, we take the
stamp first thing when the event loop hands us the bytes. A write is stamped just before the call that hands it to the
kernel. Our socket class reads and writes, our protocol class records, and aiohttp works as usual between them. Bodies
that stream on Linux are read and stamped by `loadgen.wire.receiver` instead.

Warning. We rely on `TCPConnector(socket_factory=…)`, which is public, and on two private attributes: the connector's
`_factory`, which makes the protocol of a connection, and the protocol's `_payload`, the body that it receives.
`tests/integration/wire/test_stamps.py` pins them. If an aiohttp lacks a private one, `connector` returns False, and the
client itself stamps what it reads, later and in user space.
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
"""The body bytes of a read that brought the head and the whole body, and after which the connection closed."""
HEAD_BYTES: Final = 65536
"""The longest head of an answer that is accepted, and the longest line in it."""
_SO_TIMESTAMPNS: Final = 35
_HEAD_END: Final = b"\r\n\r\n"
_ENCODING: Final = b"\ncontent-encoding:"
_ENCODED_BYTES: Final = 1024
"""How much of a compressed body aiohttp gets at once. Deflate expands it to a MiB at most."""


def too_long_error() -> aiohttp.ClientPayloadError:
    """The error that ends an answer that is too long to be kept in memory."""
    return aiohttp.ClientPayloadError(
        f"longer than {ANSWER_BYTES >> 20} MiB or {ANSWER_READS:,} reads: the answer was cut off"
    )


class ReadStamps:
    """The stamps of one request and its answer. The connection that carries it writes them; they are read after its
    end.

    All `_ns` are on the monotonic clock; each is None until its moment has come.
    """

    __slots__ = ("_reads", "connect_end_ns", "connect_start_ns", "first_write_ns", "raw_body", "reused", "written_ns")

    def __init__(self) -> None:
        self._reads: list[tuple[int, int, int]] = []
        self.raw_body: RawBody | None = None  # the reads of a body that a `Receiver` reads; None while aiohttp does
        self.reused = False  # True if the connection had carried a request before
        self.connect_start_ns: int | None = None
        self.connect_end_ns: int | None = None
        self.first_write_ns: int | None = None
        self.written_ns: int | None = None  # the last write

    def clear_reads(self) -> None:
        """Forget all reads: the request is about to be written, or written again after a redirect."""
        self._reads.clear()
        self.raw_body = None

    @property
    def reads(self) -> list[tuple[int, int, int]]:
        """(body bytes so far, user stamp ns, kernel wall-clock stamp ns or 0) for each read."""
        return self._reads if self.raw_body is None else list(zip(*self.raw_body.columns(), strict=True))

    @property
    def columns(self) -> Columns:
        """`reads` as columns."""
        return columns_of(self._reads) if self.raw_body is None else self.raw_body.columns()

    @property
    def reads_so_far(self) -> int:
        """How many reads of the answer there were so far, those of its head included."""
        return len(self._reads) if self.raw_body is None else len(self.raw_body.reads)

    @property
    def last_read_ns(self) -> int | None:
        """When the last read came, by our stamp; None before the first."""
        if self.raw_body is not None:
            return self.raw_body.user_ns[-1]
        return self._reads[-1][1] if self._reads else None

    def record_read(self, body_bytes: int, user_ns: int, wall_ns: int) -> None:
        """Record a read whose bytes went to aiohttp. body_bytes: how many of the body had arrived with it."""
        self._reads.append((body_bytes, user_ns, wall_ns))

    def record_write(self, at_ns: int) -> None:
        """Record that bytes are handed to the kernel. at_ns: a moment just before that call.

        Not after it: on loopback the call also delivers the bytes and wakes the server, and on a busy machine it
        returns only after the server has run, milliseconds after the request arrived there.
        """
        if self.first_write_ns is None:
            self.first_write_ns = at_ns
        self.written_ns = at_ns


CURRENT_STAMPS: ContextVar[ReadStamps | None] = ContextVar("loadgen_stamps", default=None)
"""The stamps of the request that this task is sending; `Client.send` sets it.

A context variable, because aiohttp passes on no argument of ours to the functions that it calls. Only those read it:
`StampedConnector._create_connection`, `StampedHandler.set_response_params`, and the trace hooks below.
"""


class StampedSocket(socket.socket):
    """A socket whose reads keep the kernel's stamp, and whose sends are stamped."""

    last_rx_wall_ns = 0
    stamps: ReadStamps | None = None
    error: OSError | None = None
    """The error of a read that did not go through `recv`. The system reports it once, so the next `recv` raises it."""

    def recv(self, bufsize: int, flags: int = 0) -> bytes:
        if self.error is not None:
            error, self.error = self.error, None
            raise error
        data, ancillary, _, _ = self.recvmsg(bufsize if bufsize < READ_BYTES else READ_BYTES, 64, flags)
        if ancillary:
            seconds, nanos = _unpack_timespec(ancillary[0][2])
            self.last_rx_wall_ns = seconds * 1_000_000_000 + nanos
        else:
            self.last_rx_wall_ns = 0  # else an earlier read's stamp would stay
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
        self._previous: object = None  # the body of the previous answer
        self._current: StreamReader | None = None  # the body of this answer, once it has begun
        self._head_tail = b""  # the last bytes of a head that is still arriving: its blank line may begin in them
        self._name_tail = b""  # the same, longer: the name of a header may begin in them
        self._is_encoded = False  # True if the head says that the body is compressed

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        if hasattr(transport, "max_size"):
            transport.max_size = READ_BYTES
        wrapped = transport.get_extra_info("socket")
        raw = getattr(wrapped, "_sock", wrapped)
        self._socket = raw if isinstance(raw, StampedSocket) else None

    def set_response_params(self, **params: Any) -> None:
        """aiohttp calls it in the sending task, after it assigned the connection and before it writes."""
        super().set_response_params(**params)
        self._attach_stamps(CURRENT_STAMPS.get())

    def _attach_stamps(self, stamps: ReadStamps | None) -> None:
        """Stamp what is written and read from now on into `stamps`; the socket's `send` does so as well."""
        self._stamps = stamps
        self._previous, self._current = self._payload, None  # the body that is there now is an earlier answer's
        self._head_tail, self._name_tail, self._is_encoded = b"", b"", False
        if stamps is None:
            return
        stamps.clear_reads()
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

        The head goes to aiohttp in a call of its own. If the same read had a fault in the body, aiohttp would raise
        before it reported the head, and the status would be lost.
        """
        while self._payload is None or self._payload is self._previous or self._payload is EMPTY_PAYLOAD:
            # The blank line may begin in the previous read, so the last three bytes of that are searched again.
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
            # Either the head is still arriving, or the body ended in this read and aiohttp has dropped it already.
            payload = self._current
            body_bytes = payload.total_bytes if payload is not None else WHOLE_BODY if self.transport is None else 0
        else:
            self._current = payload
            body_bytes = payload.total_bytes
        stamps.record_read(body_bytes, user_ns, wall_ns)
        if payload is not None and (
            body_bytes > ANSWER_BYTES or stamps.reads_so_far > ANSWER_READS or _chunks_of(payload) > ANSWER_READS
        ):
            self._cut_off_body(payload)

    def _give_encoded(self, data: bytes) -> None:
        """Give aiohttp a read of a compressed body in small parts, because a few bytes may expand to very many."""
        for start in range(0, len(data), _ENCODED_BYTES):
            super().data_received(data[start : start + _ENCODED_BYTES])
            payload = self._payload
            if payload is not None and payload is not self._previous and payload.total_bytes > ANSWER_BYTES:
                break  # `_give` cuts it off
        if not data:
            super().data_received(data)

    def _cut_off_body(self, payload: StreamReader) -> None:
        """End an answer that is too long, and close its connection. aiohttp by itself would only stop reading, until
        somebody takes what it has buffered."""
        if not payload.is_eof() and payload.exception() is None:
            payload.set_exception(too_long_error())
            self.abort()

    def set_exception(self, exc: BaseException, *cause: BaseException) -> None:
        """Pass the error on to the body. For a broken chunk aiohttp tells only a task that waits for the head, and the
        body would never end."""
        super().set_exception(exc, *cause)
        payload = self._payload
        if payload is not None and not payload.is_eof() and payload.exception() is None:
            payload.set_exception(aiohttp.ClientPayloadError(f"Response payload is not completed: {exc}"), exc)


def _chunks_of(payload: StreamReader) -> int:
    """How many chunks of a body aiohttp has buffered, each as an object of its own, however few its bytes."""
    return len(getattr(payload, "_http_chunk_splits", None) or ())


def kernel_stamps_available(loop: asyncio.AbstractEventLoop) -> bool:
    """Whether this platform and this loop let the kernel's receive stamps be read."""
    return sys.platform == "linux" and isinstance(loop, asyncio.SelectorEventLoop)


def keep_stamping() -> socket.socket | None:
    """A socket that asks for stamps and is never used. Keep it open as long as connections come and go. None where the
    kernel gives no stamps.

    The kernel stamps packets only while some socket asks for it, and resumes a little late. Without this socket, the
    first packets of a connection that follows the last closed one may have no stamp.
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
    """An aiohttp connector whose connections stamp, and True; False, and they do not, if aiohttp lacks an attribute
    that this relies on.

    source: "kernel" asks for the kernel's stamps too. handler: makes the protocol of a connection. options: of
    aiohttp's connector.
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
    """Hooks of aiohttp that stamp how long a new connection took to set up, or that the connection is not new."""
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
    """Hooks of aiohttp that stamp writes, for connections that do not stamp. They are less precise than the socket."""
    config = aiohttp.TraceConfig()

    async def write(*_: object) -> None:
        if (stamps := CURRENT_STAMPS.get()) is not None:
            stamps.record_write(now_ns())

    config.on_request_headers_sent.append(write)
    config.on_request_chunk_sent.append(write)
    return config
