"""Reads many sockets at the least cost there is in Python: one read and one note an event. Knows no HTTP and no chat.

An event loop spends more on telling that a socket is readable than the read itself costs: a selector key, a handle, a
context, the transport, its protocol, a parser. Here one epoll of our own has all sockets whose bodies are streaming,
and is itself one file of the event loop; a call of it tells all that are readable. What is read is kept as it is, with
the stamp of the kernel and our own; everything else is for when the stream has ended.

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
HELD_BYTES: Final = 16 << 20
"""What one answer may hold in memory before it is handed back."""
ANCILLARY_BYTES: Final = 64
MOST_A_PASS: Final = 512
"""Sockets that are read before the event loop has a turn."""

_TIMESPEC: Final = struct.Struct("@ll")
_NO_STAMP: Final = bytes(_TIMESPEC.size)
_NEVER_NS: Final = 1 << 62
_BLANK_LINE: Final = b"\r\n\r\n"

Receive = Callable[[int, int], tuple[bytes, list[tuple[int, int, bytes]], int, Any]]
"""What a socket's `recvmsg` is."""


class Columns(NamedTuple):
    """The reads of one body, a number of each a read: body bytes so far, our stamp, the kernel's wall-clock stamp or 0;
    ns."""

    body_bytes: Sequence[int]
    user_ns: Sequence[int]
    wall_ns: Sequence[int]


def columns_of(reads: Sequence[tuple[int, int, int]]) -> Columns:
    """Reads that were noted one by one."""
    return Columns(*zip(*reads, strict=True)) if reads else Columns((), (), ())


class RawBody:
    """What has arrived of one chunked body, as it came, and the two stamps of each read.

    receive: reads the socket. turn: what to call after a read that may have ended the body, that was empty (the other
    end has closed), or that made it too much to hold. broke: what to call with a read's error.
    """

    __slots__ = ("_dechunker", "broke", "raw_bytes", "reads", "receive", "turn", "user", "wall")

    def __init__(self, receive: Receive, turn: Callable[[], None], broke: Callable[[OSError], None]) -> None:
        self.receive = receive
        self.turn = turn
        self.broke = broke
        self.reads: list[bytes] = []
        self.user = array("q")  # ns
        self.wall = bytearray()  # timespecs, as the kernel gives them; zeros where it gave none
        self.raw_bytes = 0
        self._dechunker = Dechunker()

    def begin(self, data: bytes, user_ns: int, wall_ns: int) -> None:
        """What came in one read with the head of the answer; it may be nothing."""
        self.reads.append(data)
        self.user.append(user_ns)
        self.wall += _TIMESPEC.pack(*divmod(wall_ns, 1_000_000_000))
        self.raw_bytes = len(data)

    @property
    def closed(self) -> bool:
        """The other end has closed: the last read had nothing."""
        return len(self.reads) > 1 and not self.reads[-1]

    def dechunked(self) -> Dechunker:
        """The body and where its framing stands, all reads so far taken in."""
        dechunker, reads = self._dechunker, self.reads
        seen = len(dechunker.ends)
        if seen < len(reads):
            dechunker.feed(reads[seen:] if seen else reads)
        return dechunker

    def columns(self) -> Columns:
        """Its reads."""
        return Columns(self.dechunked().ends, self.user, self._walls())

    def arrivals(self) -> list[tuple[bytes, int, int]]:
        """Every read as it came: its bytes, our stamp, the kernel's or 0."""
        return list(zip(self.reads, self.user, self._walls(), strict=True))

    def _walls(self) -> list[int]:
        return [seconds * 1_000_000_000 + nanos for seconds, nanos in _TIMESPEC.iter_unpack(self.wall)]


class Receiver:
    """Reads sockets while the event loop waits: those with a body coming into its intake, the others by a call.

    The loop's selector waits where this lets it: in one call for our sockets and, as one file, for all of the loop's.
    An event of ours is then served without a round of the loop. Where the selector is not to be had, or another
    receiver has it, our epoll is a file of the loop's like any other.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._readers: dict[int, Callable[[], None]] = {}
        self._intakes: dict[int, RawBody] = {}
        self._loop = loop
        self._epoll = select.epoll()
        self._turned = self._others_ready = False
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
        self._intakes.clear()
        if self._epoll.closed:
            return
        if self._selector is not None:
            del self._selector.select  # the class's own is behind it
        else:
            self._loop.remove_reader(self._epoll.fileno())
        self._epoll.close()

    def add(self, fd: int, reader: Callable[[], None]) -> None:
        """Call `reader` whenever the socket is readable and has no intake."""
        self._readers[fd] = reader
        self._epoll.register(fd, select.EPOLLIN)

    def fill(self, fd: int, intake: RawBody) -> None:
        """Read the socket, which has been added, into an intake."""
        self._intakes[fd] = intake

    def filled(self, fd: int) -> None:
        """Read it so no more."""
        self._intakes.pop(fd, None)

    def remove(self, fd: int) -> None:
        """Forget the socket. Call it before it is closed; it may have been removed already."""
        self._intakes.pop(fd, None)
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
            self._turned = self._others_ready = False
            read_ns = self._serve(timeout)
            if self._others_ready:
                return self._others_select(0)
            if self._turned or read_ns == 0 or read_ns >= until_ns:
                return []
            if until_ns is not _NEVER_NS:
                timeout = (until_ns - read_ns) / 1e9

    def _serve(self, timeout: float | None = 0) -> int:
        """Read every socket that is readable, once; the stamp of the last read, or 0 when nothing was."""
        intakes, read_ns = self._intakes, 0
        for fd, _ in self._epoll.poll(timeout, MOST_A_PASS):
            try:
                intake = intakes[fd]
                data, ancillary, _, _ = intake.receive(READ_BYTES, ANCILLARY_BYTES)
            except KeyError:
                self._read_other(fd)
                continue
            except (BlockingIOError, InterruptedError):
                continue
            except OSError as error:
                self._call(fd, intake.broke, error)
                continue
            intake.user.append(read_ns := now_ns())
            intake.wall += ancillary[0][2] if ancillary else _NO_STAMP
            intake.reads.append(data)
            intake.raw_bytes = total = intake.raw_bytes + len(data)
            # A body ends in a blank line behind a line of its own (events may end in two), unless a read has only a
            # part of that.
            if (data[-4:] == _BLANK_LINE and data[-5:-4] != b"\n") or len(data) < 4 or total > HELD_BYTES:
                self._call(fd, intake.turn)
        return read_ns

    def _read_other(self, fd: int) -> None:
        reader = self._readers.get(fd)
        if reader is not None:
            self._call(fd, reader)
        else:
            self._others_ready = True  # or it is a socket that what another one said has removed

    def _call(self, fd: int, what: Callable[..., None], *args: object) -> None:
        """What is called may set off callbacks, and is as little trusted not to raise as they are."""
        self._turned = True
        try:
            what(*args)
        except Exception as error:  # noqa: BLE001 - whatever it is, it must not end the event loop
            self.remove(fd)
            self._loop.call_exception_handler({"message": "a receiver's call raised", "exception": error})


def _is_free(selector: selectors.EpollSelector) -> bool:
    return "select" not in vars(selector)


def receives(loop: asyncio.AbstractEventLoop) -> bool:
    """Whether a Receiver works on this platform and with this loop."""
    return sys.platform == "linux" and isinstance(loop, asyncio.SelectorEventLoop)
