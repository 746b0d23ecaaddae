"""The protocol of a connection that lets a receiver read ordinary answers, past aiohttp's parser and asyncio's
transport.

Operations. `expect` announces a request. The connection then reads until the answer is complete, or until aiohttp has
to read it. The table `TRANSITIONS` has every state and what may happen in it.

Goals. An ordinary answer, a chunked body with status 200, costs one read and three appends a token. Any other answer
has the same outcome, message, stamps and effect on the connection as if aiohttp had read it alone.

Plan. aiohttp's protocol hears of an answer only if that is out of the ordinary. The body of an ordinary one goes
unparsed into a `RawBody`; after its end the connection is as ready for the next request as aiohttp would have left it.
For anything else, and for every error, we fall back to aiohttp: its parser is made then, and gets every read as it
came, with its stamps. So aiohttp decides what is malformed, broken off or reset, and words the message.

Warning. Falling back runs aiohttp's parser, which may close the connection. Code that calls a method that may fall back
must check the state again before it goes on.
"""

import asyncio
import re
from collections.abc import Callable, Mapping
from enum import IntEnum, auto
from typing import Any, Final, Literal

from aiohttp.client_proto import ResponseHandler

from loadgen.clock import now_ns
from loadgen.wire.receiver import READ_BYTES, RawBody, Receiver
from loadgen.wire.stamps import HEAD_BYTES, ReadStamps, StampedHandler, too_long_error

_HEAD_START: Final = b"HTTP/1.1 200 "
_HEAD_END: Final = b"\r\n\r\n"
_CHUNKED: Final = re.compile(rb"\r\ntransfer-encoding:[ \t]*chunked[ \t]*\r\n")
_CLOSES: Final = re.compile(rb"\r\nconnection:[^\r]*close")


class State(IntEnum):
    """Who reads the connection, and what is due on it. An IntEnum, because its members hash as fast as numbers."""

    AIOHTTP = auto()
    """aiohttp reads: it gets every byte, as if this class did nothing."""
    HEAD = auto()
    """We read: a request was written, and the head of its answer is not complete."""
    BODY = auto()
    """We read: the body goes into a `RawBody`."""
    IDLE = auto()
    """Nothing is due: the last answer ended without aiohttp, and no request has followed."""
    CLOSED = auto()
    """The connection is closed, or about to be."""


class ConnectionEvent(IntEnum):
    """What happens to a connection."""

    EXPECT = auto()
    """A request is about to be written; we read its answer."""
    ASSIGN = auto()
    """A request is about to be written; aiohttp reads its answer."""
    PLAIN_HEAD = auto()
    """The head of an ordinary answer has come."""
    END_OF_BODY = auto()
    """The raw body is complete, and no byte came after it."""
    FALL_BACK = auto()
    """The answer is out of the ordinary, or an error came: aiohttp reads from here on."""
    STRAY_BYTES = auto()
    """Bytes came while no answer was due."""
    CLOSE = auto()
    """The connection was closed, by us, by aiohttp or by the other end."""


TRANSITIONS: Final[Mapping[State, Mapping[ConnectionEvent, State]]] = {
    State.AIOHTTP: {
        ConnectionEvent.EXPECT: State.HEAD,
        ConnectionEvent.ASSIGN: State.AIOHTTP,
        ConnectionEvent.CLOSE: State.CLOSED,
    },
    State.HEAD: {
        ConnectionEvent.PLAIN_HEAD: State.BODY,
        ConnectionEvent.FALL_BACK: State.AIOHTTP,
        ConnectionEvent.CLOSE: State.CLOSED,
    },
    State.BODY: {
        ConnectionEvent.END_OF_BODY: State.IDLE,
        ConnectionEvent.FALL_BACK: State.AIOHTTP,
        ConnectionEvent.CLOSE: State.CLOSED,
    },
    State.IDLE: {
        ConnectionEvent.EXPECT: State.HEAD,
        ConnectionEvent.ASSIGN: State.AIOHTTP,
        ConnectionEvent.STRAY_BYTES: State.CLOSED,
        ConnectionEvent.CLOSE: State.CLOSED,
    },
    # aiohttp may assign a connection that the other end closed a moment ago; the write then fails.
    State.CLOSED: {ConnectionEvent.ASSIGN: State.CLOSED, ConnectionEvent.CLOSE: State.CLOSED},
}
"""State → event → next state. An event that has no entry here in its state is a bug of ours."""

# The members that every request needs, looked up once: a look-up in the enum takes three times as long as a transition.
_HEAD, _BODY = State.HEAD, State.BODY
_EXPECT, _PLAIN_HEAD, _END_OF_BODY = ConnectionEvent.EXPECT, ConnectionEvent.PLAIN_HEAD, ConnectionEvent.END_OF_BODY


class IllegalTransition(RuntimeError):  # noqa: N818 - a fact about our own code
    """An event came in a state that has no transition for it. It is a bug of ours, never a fault of the server."""

    def __init__(self, state: State, event: ConnectionEvent) -> None:
        super().__init__(f"a connection in state {state.name} cannot take {event.name}")


ReadBy = Literal["receiver", "aiohttp"]
"""Who reads an answer to its end."""


class _ExpectedResponse:
    """An answer that is due and that aiohttp does not know of."""

    __slots__ = ("closes", "head_reads", "on_head", "params", "raw_body", "read_by")

    def __init__(
        self, on_head: Callable[[bytes], None], read_by: asyncio.Future[ReadBy], params: dict[str, Any]
    ) -> None:
        self.on_head = on_head
        self.read_by = read_by  # done when the answer is complete, or when aiohttp takes it over
        self.params = params  # for aiohttp's parser, in case it is needed
        self.head_reads: list[tuple[bytes, int, int]] = []  # bytes, our stamp, the kernel's
        self.raw_body: RawBody | None = None  # begins with the part of the body that came in the last of `head_reads`
        self.closes = False  # True if its head says that the connection closes after it


class DirectHandler(StampedHandler):
    """aiohttp's protocol of one connection, which needs aiohttp's parser only for answers out of the ordinary."""

    def __init__(self, loop: asyncio.AbstractEventLoop, receiver: Receiver) -> None:
        super().__init__(loop)
        self._receiver = receiver
        # The file that the receiver reads in place of the transport; None while the transport reads. It is no part of
        # the state: the receiver still reads after aiohttp took over, until aiohttp pauses it or the other end closes.
        self._received_fd: int | None = None
        self._state = State.AIOHTTP
        self._expected: _ExpectedResponse | None = None  # in the states HEAD and BODY only

    def _move(self, event: ConnectionEvent) -> None:
        try:
            self._state = TRANSITIONS[self._state][event]
        except KeyError:
            raise IllegalTransition(self._state, event) from None

    def expect(self, stamps: ReadStamps, on_head: Callable[[bytes], None], **params: Any) -> asyncio.Future[ReadBy]:
        """Announce that a request is about to be written. Called in place of `set_response_params`, with its
        parameters.

        stamps: of the request. on_head: called with the head of an ordinary answer, before its body goes into
        `ReadStamps.raw_body`; the client passes `Response.take_head` (exchange.py). The future becomes "receiver" when
        the answer is complete, or "aiohttp" if the caller has to read it from aiohttp.
        """
        read_by: asyncio.Future[ReadBy] = self._loop.create_future()
        if self._received_fd is None:
            self._start_receiving()
        if self._received_fd is None:
            self.set_response_params(**params)
            read_by.set_result("aiohttp")
        else:
            self._move(_EXPECT)
            self._attach_stamps(stamps)
            self._expected = _ExpectedResponse(on_head, read_by, params)
        return read_by

    def set_response_params(self, **params: Any) -> None:
        self._move(ConnectionEvent.ASSIGN)
        super().set_response_params(**params)

    # Who reads

    def _start_receiving(self) -> None:
        """Have the receiver read in place of the transport, unless the connection has TLS."""
        transport, socket = self.transport, self._socket
        if transport is None or socket is None or transport.get_extra_info("sslcontext") is not None:
            return
        transport.pause_reading()
        self._received_fd = socket.fileno()
        self._receiver.add(self._received_fd, self._read)

    def _stop_receiving(self) -> None:
        """End the receiver's reading: the transport is to read again, or the file is about to be closed, whose number
        the system then gives to another file."""
        if self._received_fd is not None:
            self._receiver.remove(self._received_fd)
            self._received_fd = None

    def _return_to_transport(self) -> None:
        self._stop_receiving()
        if self.transport is not None:
            self.transport.resume_reading()

    def _read(self) -> None:
        """Read the socket once, as the transport would. The transport itself handles the end and errors."""
        assert self._socket is not None
        try:
            data = self._socket.recv(READ_BYTES)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self._on_error(error)
            return
        if data:
            self.data_received(data)
        else:
            self._fall_back_to_aiohttp()
            self._return_to_transport()

    def _on_error(self, error: OSError) -> None:
        if self._socket is not None:
            self._socket.error = error  # the system reports it once, so the transport's next read raises it again
        self._fall_back_to_aiohttp()
        self._return_to_transport()

    def pause_reading(self) -> None:
        """aiohttp has buffered enough, and pauses the connection: the transport reads from here on, not the
        receiver."""
        if self._received_fd is not None:
            self._return_to_transport()
        super().pause_reading()

    def resume_reading(self, *args: Any, **named: Any) -> None:
        # While the receiver reads, we have paused the transport. If aiohttp resumed it, both would read.
        if self._received_fd is None:
            super().resume_reading(*args, **named)

    # What is read

    def data_received(self, data: bytes) -> None:
        state = self._state
        if state is _HEAD:
            self._read_head(data)
        elif state is State.AIOHTTP or state is State.CLOSED:
            super().data_received(data)
        else:
            # Raises in the state BODY: the receiver reads a body itself, so its bytes never come through this method.
            self._move(ConnectionEvent.STRAY_BYTES)
            self.force_close()
            if self.transport is not None:
                self.transport.close()

    def _read_head(self, data: bytes) -> None:
        user_ns = now_ns()  # first, before anything that costs
        wall_ns = self._socket.last_rx_wall_ns if self._socket is not None else 0
        expected = self._expected
        assert expected is not None
        expected.head_reads.append((data, user_ns, wall_ns))
        # The head nearly always comes in one read. If not, its reads are joined again each time, `HEAD_BYTES` at most.
        head = data if len(expected.head_reads) == 1 else b"".join(read for read, _, _ in expected.head_reads)
        end = head.find(_HEAD_END) + len(_HEAD_END)
        if end < len(_HEAD_END):
            if len(head) >= HEAD_BYTES or not (head.startswith(_HEAD_START) or _HEAD_START.startswith(head)):
                self._fall_back_to_aiohttp()
        elif end <= HEAD_BYTES and is_plain_head(head[:end]):
            self._start_raw_body(expected, head[:end], head[end:])
        else:
            self._fall_back_to_aiohttp()

    def _start_raw_body(self, expected: _ExpectedResponse, head: bytes, rest: bytes) -> None:
        assert self._socket is not None
        assert self._stamps is not None
        self._move(_PLAIN_HEAD)
        raw_body = expected.raw_body = self._stamps.raw_body = RawBody(
            self._socket.recvmsg, self._on_read, self._on_error
        )
        raw_body.add_first_read(rest, *expected.head_reads[-1][1:])
        lines = head.lower()
        expected.closes = b"close" in lines and _CLOSES.search(lines) is not None
        expected.on_head(head)  # `Response.take_head`
        if rest:
            self._on_read()
        # Checked again, because `_on_read` may have found the whole body in this read, or fallen back to aiohttp.
        if self._state is _BODY and self._received_fd is not None:
            self._receiver.fill(self._received_fd, raw_body)

    def _on_read(self) -> None:
        """End the answer if its body is complete or too long; fall back to aiohttp if its framing is odd or it broke
        off.

        Called after a read that may have ended the body, and by the watchdog (`Response.settle_if_ended`).
        """
        expected = self._expected
        if expected is None or expected.raw_body is None:
            return  # the watchdog may call once more after the answer was given up
        raw_body = expected.raw_body
        framing = raw_body.dechunked()
        if framing.over and not framing.bytes_beyond:
            self._move(_END_OF_BODY)
            self._expected = None
            self._stop_filling()
            if expected.closes:
                self.force_close()
            _resolve(expected.read_by, "receiver")
        elif framing.over or framing.odd or raw_body.closed:
            self._fall_back_to_aiohttp()
        elif raw_body.is_too_long:
            self._cut_off(expected)

    def _cut_off(self, expected: _ExpectedResponse) -> None:
        """End an answer that is too long, and close its connection. What has arrived stays in the `RawBody`."""
        if not expected.read_by.done():  # the waiting task may have been cancelled
            expected.read_by.set_exception(too_long_error())
        self.abort()

    def _stop_filling(self) -> None:
        if self._received_fd is not None:
            self._receiver.stop_filling(self._received_fd)

    def _fall_back_to_aiohttp(self) -> None:
        """Give aiohttp every read so far as if it had received each, and everything that follows.

        Does nothing if we do not expect an answer: an end or an error then came between two answers.
        """
        expected, self._expected = self._expected, None
        if expected is None or self._stamps is None:
            return
        # The state first: what follows runs aiohttp's parser, which may call this object and needs to find it in
        # AIOHTTP.
        self._move(ConnectionEvent.FALL_BACK)
        self._stop_filling()
        self._stamps.raw_body = None
        ResponseHandler.set_response_params(self, **expected.params)
        reads = expected.head_reads
        if expected.raw_body is not None:
            reads = reads + expected.raw_body.arrivals()[1:]  # its first read was the head's last
        transport = self.transport
        was_closing = transport is None or transport.is_closing()
        for data, user_ns, wall_ns in reads:
            if not data:
                self._return_to_transport()  # whose next read finds the end
            elif was_closing or not (self.transport is None or self.transport.is_closing()):
                self._pass_on(data, user_ns, wall_ns)  # else aiohttp has just closed at a fault, and reads no further
        _resolve(expected.read_by, "aiohttp")

    # Its end

    def close(self) -> None:
        self._move(ConnectionEvent.CLOSE)
        self._expected = None
        self._stop_receiving()
        super().close()

    def abort(self) -> None:
        self._move(ConnectionEvent.CLOSE)
        self._expected = None
        self._stop_receiving()
        super().abort()

    def connection_lost(self, exc: BaseException | None) -> None:
        self._fall_back_to_aiohttp()  # before the state is CLOSED, so that aiohttp sees that the answer broke off
        self._move(ConnectionEvent.CLOSE)
        self._stop_receiving()
        super().connection_lost(exc)


def _resolve(read_by: asyncio.Future[ReadBy], reader: ReadBy) -> None:
    if not read_by.done():  # the waiting task may have been cancelled
        read_by.set_result(reader)


def is_plain_head(head: bytes) -> bool:
    """Whether a head, given with its blank line, has status 200 and a body that is chunked and not encoded
    otherwise."""
    lines = head.lower()
    return (
        head.startswith(_HEAD_START)
        and head.count(b"\n") == head.count(b"\r\n")  # with other line ends it is unclear where the head ends
        and _CHUNKED.search(lines) is not None
        and lines.count(b"transfer-encoding") == 1
        and b"content-encoding" not in lines
        and b"content-length" not in lines
        and b"\nupgrade" not in lines
    )
