"""Has a receiver read the answer to a request, past the event loop's transport and aiohttp's parser.

Operations. A connection is handed a request with `expect`, and reads until the answer is over or is aiohttp's to read.
What it may do when is a table, `TRANSITIONS`.

Goals. An ordinary answer, a chunked body with status 200, costs one read and one note a token. Whatever else a server
sends comes out as aiohttp would have had it: same outcome, same words, same stamps, same fate of the connection.

Plan. aiohttp's protocol is told of an answer only if it is out of the ordinary. A plain one goes raw into a `RawBody`;
when it has ended, the connection is as fit for the next request as aiohttp would have left it. Anything else, and
whatever goes wrong, is for aiohttp: its parser is made then, and gets every read as it came, with the stamps that it
had. So it is aiohttp that judges what is malformed, broken off or reset, and says it in its own words.

Warning. Falling back runs aiohttp's parser, and that may close the connection beneath us: whoever calls a method that
may fall back must look at the state again before going on.
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
    """Who has the connection, and what is due on it. An IntEnum: its members hash at the speed of numbers."""

    AIOHTTP = auto()
    """aiohttp: it is told of all that comes, as if we were not there."""
    HEAD = auto()
    """We: a request is out, and its answer's head has not come in full."""
    BODY = auto()
    """We: a raw body is being taken in."""
    IDLE = auto()
    """Nobody: the last answer was over without aiohttp, and no request has followed."""
    CLOSED = auto()
    """Nobody: it is closed, or about to be."""


class Event(IntEnum):
    """What happens to a connection."""

    EXPECT = auto()
    """A request is about to be written whose answer we are to read."""
    ASSIGN = auto()
    """A request is about to be written whose answer aiohttp is to read."""
    PLAIN_HEAD = auto()
    """The head of an ordinary answer has come."""
    END_OF_BODY = auto()
    """The raw body is complete, with nothing behind it."""
    FALL_BACK = auto()
    """The answer is out of the ordinary, or something went wrong."""
    STRAY_BYTES = auto()
    """Bytes came that nobody had asked for."""
    CLOSE = auto()
    """It was closed, by us, by aiohttp or by the other end."""


TRANSITIONS: Final[Mapping[State, Mapping[Event, State]]] = {
    State.AIOHTTP: {Event.EXPECT: State.HEAD, Event.ASSIGN: State.AIOHTTP, Event.CLOSE: State.CLOSED},
    State.HEAD: {Event.PLAIN_HEAD: State.BODY, Event.FALL_BACK: State.AIOHTTP, Event.CLOSE: State.CLOSED},
    State.BODY: {Event.END_OF_BODY: State.IDLE, Event.FALL_BACK: State.AIOHTTP, Event.CLOSE: State.CLOSED},
    State.IDLE: {
        Event.EXPECT: State.HEAD,
        Event.ASSIGN: State.AIOHTTP,
        Event.STRAY_BYTES: State.CLOSED,
        Event.CLOSE: State.CLOSED,
    },
    # aiohttp may assign a connection that the other end closed a moment ago: the write then fails, and says so.
    State.CLOSED: {Event.ASSIGN: State.CLOSED, Event.CLOSE: State.CLOSED},
}
"""State → event → next state. What is not here is a bug of ours."""

# Those that every request meets, bound once: to look a member up in its enum costs three times what a step does.
_HEAD, _BODY = State.HEAD, State.BODY
_EXPECT, _PLAIN_HEAD, _END_OF_BODY = Event.EXPECT, Event.PLAIN_HEAD, Event.END_OF_BODY


class IllegalTransition(RuntimeError):  # noqa: N818 - a fact about our own code
    """An event came in a state that has no transition for it: a bug of ours, and no fault of the server's."""

    def __init__(self, state: State, event: Event) -> None:
        super().__init__(f"a connection in state {state.name} cannot take {event.name}")


ReadBy = Literal["receiver", "aiohttp"]
"""Who has read an answer to its end, or is to."""


class _ExpectedResponse:
    """An answer that aiohttp has not been told of."""

    __slots__ = ("closes", "head_reads", "on_head", "params", "raw_body", "read_by")

    def __init__(
        self, on_head: Callable[[bytes], None], read_by: asyncio.Future[ReadBy], params: dict[str, Any]
    ) -> None:
        self.on_head = on_head  # called with its head
        self.read_by = read_by  # done when the answer is over, or is aiohttp's
        self.params = params  # of aiohttp's parser, should one be needed
        self.head_reads: list[tuple[bytes, int, int]] = []  # bytes, our stamp, the kernel's
        self.raw_body: RawBody | None = None  # it begins with what the last of `head_reads` has of it
        self.closes = False  # its head says that the connection closes behind it


class DirectHandler(StampedHandler):
    """aiohttp's protocol of one connection, which can do without aiohttp's parser."""

    def __init__(self, loop: asyncio.AbstractEventLoop, receiver: Receiver) -> None:
        super().__init__(loop)
        self._receiver = receiver
        # The receiver reads this file, in place of the transport. Not part of the state: it goes on to read while the
        # connection is aiohttp's, until that pauses it or the other end closes.
        self._received_fd: int | None = None
        self._state = State.AIOHTTP
        self._expected: _ExpectedResponse | None = None  # in the states HEAD and BODY only

    def _move(self, event: Event) -> None:
        try:
            self._state = TRANSITIONS[self._state][event]
        except KeyError:
            raise IllegalTransition(self._state, event) from None

    def expect(self, stamps: ReadStamps, on_head: Callable[[bytes], None], **params: Any) -> asyncio.Future[ReadBy]:
        """A request is about to be written; to be called in place of `set_response_params`, with its parameters.

        stamps: of the request. on_head: called with the head when the body is being taken in (`ReadStamps.raw_body`).
        The future: "receiver" when the answer is over so; "aiohttp" when it is to be read from aiohttp, as usual.
        """
        read_by: asyncio.Future[ReadBy] = self._loop.create_future()
        if self._received_fd is None:
            self._start_receiving()
        if self._received_fd is None:
            self.set_response_params(**params)
            read_by.set_result("aiohttp")
        else:
            self._move(_EXPECT)
            self._begin(stamps)
            self._expected = _ExpectedResponse(on_head, read_by, params)
        return read_by

    def set_response_params(self, **params: Any) -> None:
        self._move(Event.ASSIGN)
        super().set_response_params(**params)

    # Who reads

    def _start_receiving(self) -> None:
        """Let the receiver read in place of the transport, if there is no TLS between."""
        transport, socket = self.transport, self._socket
        if transport is None or socket is None or transport.get_extra_info("sslcontext") is not None:
            return
        transport.pause_reading()
        self._received_fd = socket.fileno()
        self._receiver.add(self._received_fd, self._read)

    def _stop_receiving(self) -> None:
        """The transport may read again, or is about to close: a number of a closed file is soon another's."""
        if self._received_fd is not None:
            self._receiver.remove(self._received_fd)
            self._received_fd = None

    def _return_to_transport(self) -> None:
        self._stop_receiving()
        if self.transport is not None:
            self.transport.resume_reading()

    def _read(self) -> None:
        """What the transport does when its socket is readable; an end or an error is for it to meet."""
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
            self._socket.error = error  # the system says it once: the transport's next read is to hear it too
        self._fall_back_to_aiohttp()
        self._return_to_transport()

    def pause_reading(self) -> None:
        """aiohttp has more than it wants to hold: from here on it is between it and the transport."""
        if self._received_fd is not None:
            self._return_to_transport()
        super().pause_reading()

    def resume_reading(self, *args: Any, **named: Any) -> None:
        # While the receiver reads, the transport is paused by us; both would read if aiohttp woke it.
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
            self._move(Event.STRAY_BYTES)  # a body's bytes do not come this way: a bug of ours, in the state BODY
            self.force_close()
            if self.transport is not None:
                self.transport.close()

    def _read_head(self, data: bytes) -> None:
        user_ns = now_ns()  # first, before anything that costs
        wall_ns = self._socket.last_rx_wall_ns if self._socket is not None else 0
        expected = self._expected
        assert expected is not None
        expected.head_reads.append((data, user_ns, wall_ns))
        # Nearly always the head is one read; else its reads are joined anew each time, which `HEAD_BYTES` bounds.
        head = data if len(expected.head_reads) == 1 else b"".join(read for read, _, _ in expected.head_reads)
        end = head.find(_HEAD_END) + len(_HEAD_END)
        if end < len(_HEAD_END):
            if len(head) >= HEAD_BYTES or not (head.startswith(_HEAD_START) or _HEAD_START.startswith(head)):
                self._fall_back_to_aiohttp()
        elif end <= HEAD_BYTES and is_plain_head(head[:end]):
            self._begin_raw_body(expected, head[:end], head[end:])
        else:
            self._fall_back_to_aiohttp()

    def _begin_raw_body(self, expected: _ExpectedResponse, head: bytes, rest: bytes) -> None:
        assert self._socket is not None
        assert self._stamps is not None
        self._move(_PLAIN_HEAD)
        raw_body = expected.raw_body = self._stamps.raw_body = RawBody(
            self._socket.recvmsg, self._on_read, self._on_error
        )
        raw_body.begin(rest, *expected.head_reads[-1][1:])
        lines = head.lower()
        expected.closes = b"close" in lines and _CLOSES.search(lines) is not None
        expected.on_head(head)
        if rest:
            self._on_read()
        # The body may have been in this read to its end, or be aiohttp's after all.
        if self._state is _BODY and self._received_fd is not None:
            self._receiver.fill(self._received_fd, raw_body)

    def _on_read(self) -> None:
        """Let go of the body if it has ended, or if it is not ours to judge."""
        expected = self._expected
        if expected is None or expected.raw_body is None:
            return  # the watchdog may ask once more, after it has been given up
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
        """End an answer that is too long, and its connection; what came of it is kept."""
        if not expected.read_by.done():  # who waited may have been cancelled
            expected.read_by.set_exception(too_long_error())
        self.abort()

    def _stop_filling(self) -> None:
        if self._received_fd is not None:
            self._receiver.stop_filling(self._received_fd)

    def _fall_back_to_aiohttp(self) -> None:
        """aiohttp gets what has been read as if it had been handed every read, and all that follows.

        Nothing happens where no answer is due to us: what met an end or an error did so between two answers.
        """
        expected, self._expected = self._expected, None
        if expected is None or self._stamps is None:
            return
        # First of all: what follows calls aiohttp's parser, which may call us, and must find the connection its own.
        self._move(Event.FALL_BACK)
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
                self._return_to_transport()  # and meet the end
            elif was_closing or not (self.transport is None or self.transport.is_closing()):
                self._pass_on(data, user_ns, wall_ns)  # else it has closed at a fault, and would have read no further
        _resolve(expected.read_by, "aiohttp")

    # Its end

    def close(self) -> None:
        self._move(Event.CLOSE)
        self._expected = None
        self._stop_receiving()
        super().close()

    def abort(self) -> None:
        self._move(Event.CLOSE)
        self._expected = None
        self._stop_receiving()
        super().abort()

    def connection_lost(self, exc: BaseException | None) -> None:
        self._fall_back_to_aiohttp()  # while it still is open, as aiohttp is to find an answer that breaks off
        self._move(Event.CLOSE)
        self._stop_receiving()
        super().connection_lost(exc)


def _resolve(read_by: asyncio.Future[ReadBy], reader: ReadBy) -> None:
    if not read_by.done():  # who waited may have been cancelled
        read_by.set_result(reader)


def is_plain_head(head: bytes) -> bool:
    """Whether an answer's head, with its blank line, is that of a chunked body that nothing else encodes."""
    lines = head.lower()
    return (
        head.startswith(_HEAD_START)
        and head.count(b"\n") == head.count(b"\r\n")  # other line ends leave a doubt about where it ends
        and _CHUNKED.search(lines) is not None
        and lines.count(b"transfer-encoding") == 1
        and b"content-encoding" not in lines
        and b"content-length" not in lines
        and b"\nupgrade" not in lines
    )
