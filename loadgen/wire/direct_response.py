"""Has a receiver read the answer to a request, past the event loop's transport and aiohttp's parser.

aiohttp's protocol is told of an answer only if it is out of the ordinary. A plain one, a chunked body with status 200,
goes raw into an `RawBody`; when it has ended, the connection is as fit for the next request as aiohttp would have left
it. Anything else, and whatever goes wrong, is for aiohttp: its parser is made then, and gets every read as it came.
So it is aiohttp that judges what is malformed, broken off or reset, and says it in its own words.
"""

import asyncio
import re
from collections.abc import Callable
from typing import Any, Final

from aiohttp.client_proto import ResponseHandler

from loadgen.clock import now_ns
from loadgen.wire.receiver import HELD_BYTES, READ_BYTES, RawBody, Receiver
from loadgen.wire.stamps import CURRENT, HEAD_BYTES, StampedHandler

_HEAD_START: Final = b"HTTP/1.1 200 "
_HEAD_END: Final = b"\r\n\r\n"
_CHUNKED: Final = re.compile(rb"\r\ntransfer-encoding:[ \t]*chunked[ \t]*\r\n")
_CLOSES: Final = re.compile(rb"\r\nconnection:[^\r]*close")


class _Awaited:
    """An answer that aiohttp has not been told of. begun: called with its head. ended: whether it never has to be."""

    __slots__ = ("begun", "closes", "ended", "intake", "params", "reads")

    def __init__(self, begun: Callable[[bytes], None], ended: asyncio.Future[bool], params: dict[str, Any]) -> None:
        self.begun = begun
        self.ended = ended
        self.params = params
        self.reads: list[tuple[bytes, int, int]] = []  # those of the head: bytes, our stamp, the kernel's
        self.intake: RawBody | None = None  # of the body; it begins with what the last of `reads` has of it
        self.closes = False


class DirectHandler(StampedHandler):
    """aiohttp's protocol of one connection, which can do without aiohttp's parser."""

    def __init__(self, loop: asyncio.AbstractEventLoop, receiver: Receiver) -> None:
        super().__init__(loop)
        self._receiver = receiver
        self._received_fd: int | None = None  # the receiver reads this file, in place of the transport
        self._awaited: _Awaited | None = None
        self._idle = False  # between an answer that aiohttp was never told of, and the next request

    def expect(self, begun: Callable[[bytes], None], **params: Any) -> asyncio.Future[bool]:
        """A request is about to be written; to be called in place of `set_response_params`, with its parameters.

        begun: called with the head when the body is being taken in (`Marks.intake`). The future: True when the answer
        has ended so; False when it is to be read from aiohttp, as usual.
        """
        ended: asyncio.Future[bool] = self._loop.create_future()
        marks = CURRENT.get()
        if marks is not None and self._received_fd is None:
            self._have_received()
        if marks is None or self._received_fd is None:
            self.set_response_params(**params)
            ended.set_result(False)
        else:
            self._begin(marks)
            self._idle = False
            self._awaited = _Awaited(begun, ended, params)
        return ended

    def set_response_params(self, **params: Any) -> None:
        self._awaited, self._idle = None, False
        super().set_response_params(**params)

    # Who reads

    def _have_received(self) -> None:
        """Let the receiver read in place of the transport, if there is no TLS between."""
        transport, socket = self.transport, self._socket
        if transport is None or socket is None or transport.get_extra_info("sslcontext") is not None:
            return
        transport.pause_reading()
        self._received_fd = socket.fileno()
        self._receiver.add(self._received_fd, self._read)

    def _no_longer(self) -> None:
        """The transport may read again, or is about to close."""
        if self._received_fd is not None:
            self._receiver.remove(self._received_fd)
            self._received_fd = None

    def _read_yourself(self) -> None:
        self._no_longer()
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
            self._broke(error)
            return
        if data:
            self.data_received(data)
        else:
            self._resort()
            self._read_yourself()

    def _broke(self, error: OSError) -> None:
        if self._socket is not None:
            self._socket.error = error
        self._resort()
        self._read_yourself()

    def pause_reading(self) -> None:
        """aiohttp has more than it wants to hold: from here on it is between it and the transport."""
        if self._received_fd is not None:
            self._read_yourself()
        super().pause_reading()

    def resume_reading(self, *args: Any, **named: Any) -> None:
        if self._received_fd is None:
            super().resume_reading(*args, **named)

    # What is read

    def data_received(self, data: bytes) -> None:
        awaited = self._awaited
        if awaited is None:
            if self._idle:  # nobody has asked for anything
                self.force_close()
                if self.transport is not None:
                    self.transport.close()
            else:
                super().data_received(data)
            return
        user_ns = now_ns()  # first, before anything that costs
        wall_ns = self._socket.last_rx_wall_ns if self._socket is not None else 0
        awaited.reads.append((data, user_ns, wall_ns))
        head = data if len(awaited.reads) == 1 else b"".join(read for read, _, _ in awaited.reads)
        end = head.find(_HEAD_END) + len(_HEAD_END)
        if end < len(_HEAD_END):
            if len(head) >= HEAD_BYTES or not (head.startswith(_HEAD_START) or _HEAD_START.startswith(head)):
                self._resort()
        elif end <= HEAD_BYTES and may_be_taken(head[:end]):
            self._take(awaited, head[:end], head[end:])
        else:
            self._resort()

    def _take(self, awaited: _Awaited, head: bytes, rest: bytes) -> None:
        assert self._socket is not None
        assert self._marks is not None
        intake = awaited.intake = self._marks.intake = RawBody(self._socket.recvmsg, self._turn, self._broke)
        intake.begin(rest, *awaited.reads[-1][1:])
        awaited.closes = _CLOSES.search(head.lower()) is not None
        awaited.begun(head)
        if rest:
            self._turn()
        if self._awaited is not None and self._received_fd is not None:
            self._receiver.fill(self._received_fd, intake)

    def _turn(self) -> None:
        """Let go of the body if it has ended, or if it is not ours to judge."""
        awaited = self._awaited
        if awaited is None or awaited.intake is None:
            return
        intake = awaited.intake
        framing = intake.dechunked()
        if framing.over and not framing.behind:
            self._awaited, self._idle = None, True
            self._filled()
            if awaited.closes:
                self.force_close()
            _tell(awaited.ended, has_ended=True)
        elif framing.over or framing.odd or intake.closed or intake.raw_bytes > HELD_BYTES:
            self._resort()

    def _filled(self) -> None:
        if self._received_fd is not None:
            self._receiver.filled(self._received_fd)

    def _resort(self) -> None:
        """Resort to aiohttp: it gets what has been read as if it had been handed every read, and all that follows."""
        awaited, self._awaited = self._awaited, None
        if awaited is None or self._marks is None:
            return
        self._filled()
        self._marks.intake = None
        ResponseHandler.set_response_params(self, **awaited.params)
        reads = awaited.reads if awaited.intake is None else awaited.reads + awaited.intake.arrivals()[1:]
        transport = self.transport
        was_closing = transport is None or transport.is_closing()
        for data, user_ns, wall_ns in reads:
            if not data:
                self._read_yourself()  # and meet the end
            elif was_closing or not (self.transport is None or self.transport.is_closing()):
                self._pass_on(data, user_ns, wall_ns)  # else it has closed at a fault, and would have read no further
        _tell(awaited.ended, has_ended=False)

    # Its end

    def close(self) -> None:
        self._awaited = None
        self._no_longer()
        super().close()

    def abort(self) -> None:
        self._awaited = None
        self._no_longer()
        super().abort()

    def connection_lost(self, exc: BaseException | None) -> None:
        self._resort()
        self._no_longer()
        super().connection_lost(exc)


def _tell(ended: asyncio.Future[bool], *, has_ended: bool) -> None:
    if not ended.done():  # who waited may have been cancelled
        ended.set_result(has_ended)


def may_be_taken(head: bytes) -> bool:
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
