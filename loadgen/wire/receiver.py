"""Reads many sockets as cheaply as Python can: one read and three appends an event. Knows no HTTP and no chat.

Operations. `add` a socket: its callback is called when the socket is readable. `fill` a `RawBody` from it: the callback
of the body is called only when the body may have ended. `stop_filling` and `remove` undo these.

Goals. A token of a stream costs one `recvmsg`, one clock reading and three appends, and no iteration of the event loop.
Its stamp is taken before anything else is done with it. The loop's timers and files are served as without a receiver.

Plan. To pass on that a socket is readable costs an event loop more than the read itself: a selector key, a handle, a
context, the transport, its protocol, a parser. Here one epoll of our own has all sockets whose bodies are streaming,
and one call of it returns all that are readable. The loop's own epoll is one of its files, so that one wait serves
both. Each read is stored as it came, with the kernel's stamp and ours; everything else is done after the stream has
ended.

Warning. We replace `select` of the loop's selector, which asyncio calls and does not document. Our callbacks run inside
that call. They may add and remove sockets, this receiver's too, while it iterates over those that were readable.

It works on Linux, for sockets without TLS.
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
"""The most that one read takes. asyncio's 256 KiB cost an mmap and an munmap for each read; this size costs neither."""
ANSWER_BYTES: Final = 16 << 20
"""How much memory one answer may take. A longer one is cut off."""
ANSWER_READS: Final = 1 << 18
"""In how many reads one answer may come. Every read adds stamps, however few bytes it has."""
ANCILLARY_BYTES: Final = 64
"""Room for the kernel's stamp, with its header."""
MAX_READS_PER_POLL: Final = 512
"""How many sockets are read before the event loop gets control again."""

_TIMESPEC: Final = struct.Struct("@ll")
_NO_STAMP: Final = bytes(_TIMESPEC.size)
_NEVER_NS: Final = 1 << 62
_BLANK_LINE: Final = b"\r\n\r\n"

Receive = Callable[[int, int], tuple[bytes, list[tuple[int, int, bytes]], int, Any]]
"""The type of a socket's `recvmsg`."""


class Columns(NamedTuple):
    """The reads of one body as columns: each has one number for every read."""

    body_bytes: Sequence[int]
    """Bytes of the body so far."""
    user_ns: Sequence[int]
    """Our stamp, on the monotonic clock."""
    wall_ns: Sequence[int]
    """The kernel's stamp, on the wall clock; 0 if it gave none."""


def columns_of(reads: Sequence[tuple[int, int, int]]) -> Columns:
    """The columns of reads that are (body bytes, user ns, wall ns) each."""
    return Columns(*zip(*reads, strict=True)) if reads else Columns((), (), ())


class RawBody:
    """The bytes of one chunked body as they arrived, chunk framing included, and the two stamps of each read."""

    __slots__ = ("_dechunker", "on_error", "on_read", "raw_bytes", "reads", "receive", "user_ns", "wall_timespecs")

    def __init__(self, receive: Receive, on_read: Callable[[], None], on_error: Callable[[OSError], None]) -> None:
        self.receive = receive  # reads the socket
        # Called after a read that may have ended the body, that was empty because the other end has closed, or that
        # made the body too long. Not called after every read: most bring one more token, which nobody needs yet.
        self.on_read = on_read
        self.on_error = on_error  # called with the OSError of a read
        self.reads: list[bytes] = []
        self.user_ns = array("q")
        self.wall_timespecs = bytearray()  # as the kernel gives them, unpacked later; zeros if it gave none
        self.raw_bytes = 0
        self._dechunker = Dechunker()

    def add_first_read(self, data: bytes, user_ns: int, wall_ns: int) -> None:
        """Add the part of the body that came in the same read as the end of the head. It may be empty."""
        self.reads.append(data)
        self.user_ns.append(user_ns)
        self.wall_timespecs += _TIMESPEC.pack(*divmod(wall_ns, 1_000_000_000))
        self.raw_bytes = len(data)

    @property
    def is_too_long(self) -> bool:
        """Whether it has more bytes or reads than one answer may have."""
        return self.raw_bytes > ANSWER_BYTES or len(self.reads) > ANSWER_READS

    @property
    def closed(self) -> bool:
        """Whether the other end has closed: the last read was empty."""
        return len(self.reads) > 1 and not self.reads[-1]

    def dechunked(self) -> Dechunker:
        """The dechunker of this body, fed with all reads so far."""
        dechunker, reads = self._dechunker, self.reads
        fed = len(dechunker.ends)
        if fed < len(reads):
            dechunker.feed(reads[fed:] if fed else reads)
        return dechunker

    def release(self) -> None:
        """Drop the bytes of the body, which has ended. The stamps of its reads stay."""
        self.dechunked().pieces = []
        self.reads = []

    def columns(self) -> Columns:
        """The reads of the body without its framing."""
        return Columns(self.dechunked().ends, self.user_ns, self._walls_ns())

    def arrivals(self) -> list[tuple[bytes, int, int]]:
        """Every read as it came: its bytes, our stamp, and the kernel's stamp or 0."""
        return list(zip(self.reads, self.user_ns, self._walls_ns(), strict=True))

    def _walls_ns(self) -> list[int]:
        return [seconds * 1_000_000_000 + nanos for seconds, nanos in _TIMESPEC.iter_unpack(self.wall_timespecs)]


class Receiver:
    """Reads sockets while the event loop waits: a streaming body into its `RawBody`, any other socket by its callback.

    It replaces the `select` of the loop's selector. One call then waits for our sockets and, as one file, for all files
    of the loop, and a read of ours costs no iteration of the loop. If the loop has no such selector, or another
    receiver has replaced its `select`, our epoll is one of the loop's files like any other.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._readers: dict[int, Callable[[], None]] = {}
        self._bodies: dict[int, RawBody] = {}
        self._loop = loop
        self._epoll = select.epoll()
        # Set while the readable sockets are read: a callback was called; a file of the loop's own is ready.
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
            del self._selector.select  # the instance's attribute, which shadowed the method of the class
        else:
            self._loop.remove_reader(self._epoll.fileno())
        self._epoll.close()

    def add(self, fd: int, reader: Callable[[], None]) -> None:
        """Call `reader` whenever the socket is readable and fills no body."""
        self._readers[fd] = reader
        self._epoll.register(fd, select.EPOLLIN)

    def fill(self, fd: int, body: RawBody) -> None:
        """From now on read the socket, which was added before, into a body."""
        self._bodies[fd] = body

    def stop_filling(self, fd: int) -> None:
        """From now on call the socket's reader again."""
        self._bodies.pop(fd, None)

    def remove(self, fd: int) -> None:
        """Forget the socket. Call it before it is closed; it may have been removed already."""
        self._bodies.pop(fd, None)
        if self._readers.pop(fd, None) is not None and not self._epoll.closed:
            self._epoll.unregister(fd)

    def _select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Replaces the selector's `select`: returns which of the loop's files are ready, and reads our sockets
        meanwhile.

        It returns as soon as the loop may have something to do: a ready file, a due timer, or a callback that one of
        our calls has scheduled.
        """
        if not self._readers:
            return self._others_select(timeout)
        until_ns = _NEVER_NS if timeout is None else now_ns() + int(timeout * 1e9)
        while True:
            self._called = self._others_ready = False
            read_ns = self._serve(timeout)
            if self._others_ready:
                return self._others_select(0)
            if self._called:  # what we called may have scheduled a callback
                return []
            if read_ns == 0 or read_ns >= until_ns:  # the time that the loop gave us is over: a timer is due
                return []
            # Only tokens came. The loop has nothing to do for those, so we wait on, for the rest of its time.
            if until_ns is not _NEVER_NS:
                timeout = (until_ns - read_ns) / 1e9

    def _serve(self, timeout: float | None = 0) -> int:
        """Read every readable socket once. Returns the stamp of the last read, or 0 if no body was read."""
        bodies, read_ns = self._bodies, 0
        for fd, _ in self._epoll.poll(timeout, MAX_READS_PER_POLL):
            try:
                # Looked up for each socket, because the callback of an earlier one may have removed it.
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
            # A chunked body ends in `0\r\n\r\n`: a line, then one blank line. An event ends in `\n\n\r\n`, or in
            # `\r\n\r\n\r\n`. A read of fewer than four bytes may have only the last part of such an end.
            may_have_ended = (data[-4:] == _BLANK_LINE and data[-5:-4] != b"\n") or len(data) < 4
            if may_have_ended or total > ANSWER_BYTES or len(body.reads) > ANSWER_READS:
                self._call(fd, body.on_read)
        return read_ns

    def _read_other(self, fd: int) -> None:
        reader = self._readers.get(fd)
        if reader is not None:
            self._call(fd, reader)
        else:
            # It is the loop's own selector, or a socket that the callback of another one has just removed. Then the
            # loop checks its files once in vain, which is cheaper than to tell the two apart.
            self._others_ready = True

    def _call(self, fd: int, callback: Callable[..., None], *args: object) -> None:
        """Call a callback. It may schedule others, and what it raises goes to the loop's exception handler."""
        self._called = True
        try:
            callback(*args)
        except Exception as error:  # noqa: BLE001 - no exception of a callback may end the event loop
            self.remove(fd)
            self._loop.call_exception_handler({"message": "a receiver's call raised", "exception": error})


def _is_free(selector: selectors.EpollSelector) -> bool:
    return "select" not in vars(selector)


def receives(loop: asyncio.AbstractEventLoop) -> bool:
    """Whether a Receiver works on this platform and with this loop."""
    return sys.platform == "linux" and isinstance(loop, asyncio.SelectorEventLoop)
