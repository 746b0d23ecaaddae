"""Reads many sockets at the least cost there is in Python: one read and one note an event. Knows no HTTP and no chat.

Operations. `add` a socket, which calls back when it is readable; `fill` a `RawBody` from it, which only calls back when
the body may have ended; `stop_filling`; `remove`.

Goals. A token of a stream costs one `recvmsg`, one clock reading and three appends, and no turn of the event loop. Its
stamp is taken before anything else is done about it. Timers and files of the loop are served as if we were not there.

Plan. An event loop spends more on telling that a socket is readable than the read itself costs: a selector key, a
handle, a context, the transport, its protocol, a parser. Here one epoll of our own has all sockets whose bodies are
streaming, and one call of it tells all that are readable. The loop's own epoll is one more file of ours, so that one
wait serves both. What is read is stored as it came, with the stamp of the kernel and our own; everything else is done
when the stream has ended.

Warning. We replace `select` of the loop's selector, which asyncio calls and does not document. A callback that we make
runs inside that call: it may add and remove sockets, ours too, while we walk over those that were readable.

It is Linux's, and for plain sockets: over TLS there is a layer between.
"""

import asyncio
import select
import selectors
import struct
import sys
from array import array
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

from loadgen.clock import now_ns
from loadgen.wire.chunked import Dechunker

READ_BYTES: Final = 65536
"""The most that one read takes: 256 KiB at a time, asyncio's way, costs an mmap and an munmap a read; this does not."""
ANSWER_BYTES: Final = 16 << 20
"""What one answer may hold in memory: a longer one is cut off."""
ANSWER_READS: Final = 1 << 18
"""In how many reads one answer may come: each of them holds stamps, of however few bytes it is."""
ANCILLARY_BYTES: Final = 64
"""Room for the kernel's stamp, with its header."""
MAX_READS_PER_POLL: Final = 512
"""Sockets that are read before the event loop has a turn."""

_TIMESPEC: Final = struct.Struct("@ll")
_NO_STAMP: Final = bytes(_TIMESPEC.size)
_NEVER_NS: Final = 1 << 62
_BLANK_LINE: Final = b"\r\n\r\n"

Receive = Callable[[int, int], tuple[bytes, list[tuple[int, int, bytes]], int, Any]]
"""What a socket's `recvmsg` is."""


class Columns(NamedTuple):
    """The reads of one body, in columns: one number of each for every read."""

    body_bytes: Sequence[int]
    """Bytes of the body so far."""
    user_ns: Sequence[int]
    """Our stamp, on the monotonic clock."""
    wall_ns: Sequence[int]
    """The kernel's stamp, on the wall clock; 0 where it gave none."""


def columns_of(reads: Sequence[tuple[int, int, int]]) -> Columns:
    """Reads that were noted one by one."""
    return Columns(*zip(*reads, strict=True)) if reads else Columns((), (), ())


class RawBody:
    """What has arrived of one chunked body, as it came, and the two stamps of each read."""

    __slots__ = ("_dechunker", "on_error", "on_read", "raw_bytes", "reads", "receive", "user_ns", "wall_timespecs")

    def __init__(self, receive: Receive, on_read: Callable[[], None], on_error: Callable[[OSError], None]) -> None:
        self.receive = receive  # reads the socket
        # Called after a read that may have ended the body, that was empty (the other end has closed), or that made it
        # too long. Not after every read: most bring one more token, and nobody wants to know yet.
        self.on_read = on_read
        self.on_error = on_error  # called with a read's error
        self.reads: list[bytes] = []
        self.user_ns = array("q")
        self.wall_timespecs = bytearray()  # as the kernel gives them, to be unpacked later; zeros where it gave none
        self.raw_bytes = 0
        self._dechunker = Dechunker()

    def begin(self, data: bytes, user_ns: int, wall_ns: int) -> None:
        """What came in one read with the head of the answer; it may be nothing."""
        self.reads.append(data)
        self.user_ns.append(user_ns)
        self.wall_timespecs += _TIMESPEC.pack(*divmod(wall_ns, 1_000_000_000))
        self.raw_bytes = len(data)

    @property
    def is_too_long(self) -> bool:
        """It is more than one answer may hold."""
        return self.raw_bytes > ANSWER_BYTES or len(self.reads) > ANSWER_READS

    @property
    def closed(self) -> bool:
        """The other end has closed: the last read had nothing."""
        return len(self.reads) > 1 and not self.reads[-1]

    def dechunked(self) -> Dechunker:
        """The body and where its framing stands, all reads so far taken in."""
        dechunker, reads = self._dechunker, self.reads
        fed = len(dechunker.ends)
        if fed < len(reads):
            dechunker.feed(reads[fed:] if fed else reads)
        return dechunker

    def columns(self) -> Columns:
        """Its reads."""
        return Columns(self.dechunked().ends, self.user_ns, self._walls_ns())

    def arrivals(self) -> list[tuple[bytes, int, int]]:
        """Every read as it came: its bytes, our stamp, the kernel's or 0."""
        return list(zip(self.reads, self.user_ns, self._walls_ns(), strict=True))

    def _walls_ns(self) -> list[int]:
        return [seconds * 1_000_000_000 + nanos for seconds, nanos in _TIMESPEC.iter_unpack(self.wall_timespecs)]


class Receiver:
    """Reads sockets while the event loop waits: those with a body coming into its `RawBody`, the others by a call.

    The loop's selector waits where this lets it: in one call for our sockets and, as one file, for all of the loop's.
    An event of ours is then served without a round of the loop. Where the selector is not to be had, or another
    receiver has it, our epoll is a file of the loop's like any other.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._readers: dict[int, Callable[[], None]] = {}
        self._bodies: dict[int, RawBody] = {}
        self._loop = loop
        self._epoll = select.epoll()
        # Set by a pass over what is readable: we called somebody; a file of the loop's own is ready.
        self._called = self._others_ready = False
        selector = getattr(loop, "_selector", None)
        self._selector = selector if isinstance(selector, selectors.EpollSelector) and _is_free(selector) else None
        if self._selector is not None:
            self._others_select = self._selector.select
            self._epoll.register(self._selector.fileno(), select.EPOLLIN)
            self._selector.select = self._select  # type: ignore[method-assign]
        else:
            loop.add_reader(self._epoll.fileno(), self._serve)

    def close(self) -> None:
        self._readers.clear()
        self._bodies.clear()
        if self._epoll.closed:
            return
        if self._selector is not None:
            del self._selector.select  # ours shadows the one of the class
        else:
            self._loop.remove_reader(self._epoll.fileno())
        self._epoll.close()

    def add(self, fd: int, reader: Callable[[], None]) -> None:
        """Call `reader` whenever the socket is readable and fills no body."""
        self._readers[fd] = reader
        self._epoll.register(fd, select.EPOLLIN)

    def fill(self, fd: int, body: RawBody) -> None:
        """From now on read the socket, which has been added, into a body."""
        self._bodies[fd] = body

    def stop_filling(self, fd: int) -> None:
        """From now on call its reader again."""
        self._bodies.pop(fd, None)

    def remove(self, fd: int) -> None:
        """Forget the socket. Call it before it is closed; it may have been removed already."""
        self._bodies.pop(fd, None)
        if self._readers.pop(fd, None) is not None and not self._epoll.closed:
            self._epoll.unregister(fd)

    def _select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """The selector's `select`: what is ready of the loop's own files, with ours read meanwhile.

        It returns as soon as the loop may have something to do: a file, a timer, or what a call has set off.
        """
        if not self._readers:
            return self._others_select(timeout)
        until_ns = _NEVER_NS if timeout is None else now_ns() + int(timeout * 1e9)
        while True:
            self._called = self._others_ready = False
            read_ns = self._serve(timeout)
            if self._others_ready:
                return self._others_select(0)
            # Somebody who was called may have scheduled a callback; with nothing read, or at the time that the loop
            # gave us, a timer is due. Else only tokens came, of which the loop need not know, and we wait on.
            if self._called or read_ns == 0 or read_ns >= until_ns:
                return []
            if until_ns is not _NEVER_NS:
                timeout = (until_ns - read_ns) / 1e9

    def _serve(self, timeout: float | None = 0) -> int:
        """Read every socket that is readable, once; the stamp of the last read, or 0 when nothing was."""
        bodies, read_ns = self._bodies, 0
        for fd, _ in self._epoll.poll(timeout, MAX_READS_PER_POLL):
            try:
                # Asked anew for each, as a call for the one before may have removed it.
                body = bodies[fd]
                data, ancillary, _, _ = body.receive(READ_BYTES, ANCILLARY_BYTES)
            except KeyError:
                self._read_other(fd)
                continue
            except (BlockingIOError, InterruptedError):
                continue
            except OSError as error:
                self._call(fd, body.on_error, error)
                continue
            body.user_ns.append(read_ns := now_ns())  # first, before anything that costs
            body.wall_timespecs += ancillary[0][2] if ancillary else _NO_STAMP
            body.reads.append(data)
            body.raw_bytes = total = body.raw_bytes + len(data)
            # A body ends in a blank line behind a line of its own (events may end in two), unless a read has only a
            # part of that.
            may_have_ended = (data[-4:] == _BLANK_LINE and data[-5:-4] != b"\n") or len(data) < 4
            if may_have_ended or total > ANSWER_BYTES or len(body.reads) > ANSWER_READS:
                self._call(fd, body.on_read)
        return read_ns

    def _read_other(self, fd: int) -> None:
        reader = self._readers.get(fd)
        if reader is not None:
            self._call(fd, reader)
        else:
            # The loop's own selector. Or a socket that a call for another one has removed in this very pass: then the
            # loop looks once for nothing, which is cheaper than to tell the two apart.
            self._others_ready = True

    def _call(self, fd: int, callback: Callable[..., None], *args: object) -> None:
        """A callback may schedule others, and is as little trusted not to raise as they are."""
        self._called = True
        try:
            callback(*args)
        except Exception as error:  # noqa: BLE001 - whatever it is, it must not end the event loop
            self.remove(fd)
            self._loop.call_exception_handler({"message": "a receiver's call raised", "exception": error})


def _is_free(selector: selectors.EpollSelector) -> bool:
    return "select" not in vars(selector)


def receives(loop: asyncio.AbstractEventLoop) -> bool:
    """Whether a Receiver works on this platform and with this loop."""
    return sys.platform == "linux" and isinstance(loop, asyncio.SelectorEventLoop)
