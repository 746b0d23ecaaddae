"""Splits a body into server-sent events: bytes in, events out. Knows no socket, no clock and no JSON.

The rules are the WHATWG EventSource ones (HTML standard, "Parsing an event stream"): lines end in LF, CRLF or CR; one
leading byte-order mark is skipped; a line that begins with a colon is a comment; a blank line dispatches the event if
it had a `data` line. `id` and `retry` are ignored like unknown fields, because nothing here reconnects.

**Where an event ends.** `SseEvent.end` is the offset just after the first byte of the line end that makes the blank
line. The event is complete at that byte, and a receiver need not wait for more. For LF that byte is the LF. For CRLF it
is the CR, since the LF after it may come in a later read, or never (a lone CR is a line end too). So `end` does not
depend on how the body is split.

This is the general splitter. `chat_stream.Decoder` and `chat_fast_path` read events that are all alike faster.
"""

import codecs
import re
from collections.abc import Iterator
from typing import Final

from msgspec import Struct

MAX_EVENT_BYTES: Final = 64 << 20
"""More than one answer may have, so that the client cuts off an endless event as it does any endless answer."""

_PIECE_BYTES: Final = 1 << 18
_BOM: Final = b"\xef\xbb\xbf"
_LINE_END: Final = re.compile(rb"\r\n|\n|\r")
# A line end, the first byte of the next one (group 1: the event is complete here), and the LF that may belong to it.
# The group is atomic, so that the CR of a CRLF never counts as one line end and its LF as a second.
_BLANK_LINE: Final = re.compile(rb"(?>\r\n|\n|\r)([\r\n])(?:(?<=\r)\n)?")
# Blank lines with nothing before them, cut into line ends as above, two to a match of _BLANK_LINE.
_EMPTY_EVENTS: Final = re.compile(rb"(?:(?>\r\n|\n|\r)(?>\r\n|\n|\r))+")
_SEAM_BYTES: Final = 2  # the longest beginning of a blank line that does not complete it: CRLF


class SseEvent(Struct, frozen=True, gc=False):
    """One dispatched event."""

    data: bytes
    """Its `data` lines joined by LF; not checked to be UTF-8."""
    end: int
    """The offset in the body, 0-based and exclusive, of the byte that completed it (see the module)."""
    event: str = "message"
    """The event's type; "message" if it has none."""


class EventTooLong(Exception):  # noqa: N818 - a fact about the body, not an error of the caller's
    """An event has more than the allowed bytes, complete or not. The splitter reads no further."""

    def __init__(self, start: int, max_event_bytes: int, events: list[SseEvent]) -> None:
        super().__init__(f"an event at byte {start} is longer than {max_event_bytes} bytes")
        self.start = start  # the offset of its first byte
        self.events = events  # the events before it that this feed completed


class Splitter:
    """Splits one body, fed in pieces of any size. Time and memory are linear in the bytes fed.

    max_event_bytes: the most that one event, with its comments, may take from its first byte to its `end`.
    """

    __slots__ = ("_after_cr", "_failed", "_fed", "_max_event_bytes", "_not_utf8_at", "_pending", "_start", "_utf8")

    def __init__(self, *, max_event_bytes: int = MAX_EVENT_BYTES) -> None:
        self._max_event_bytes = max_event_bytes
        self._pending = bytearray()  # the unfinished event
        self._start = 0  # the offset in the body of its first byte
        self._after_cr = False  # the last byte fed was a blank line's CR, so an LF now is the rest of that line end
        self._failed = False
        self._utf8: codecs.IncrementalDecoder | None = None  # made when it is first needed
        self._fed = 0
        self._not_utf8_at: int | None = None

    @property
    def not_utf8_at(self) -> int | None:
        """The offset of the first byte that is not UTF-8, even in a comment; None if there is none.

        The standard replaces such bytes, so the splitter goes on. A character that is cut by the end of the body does
        not count.
        """
        return self._not_utf8_at

    @property
    def between_events(self) -> bool:
        """Whether the next byte fed begins an event, and is not the rest of a line end or of a character."""
        in_character = self._utf8 is not None and bool(self._utf8.getstate()[0])
        return not (self._pending or self._after_cr or self._failed or in_character)

    @property
    def offset(self) -> int:
        """The offset in the body at which the unfinished event, or the next one, begins."""
        return self._start

    def skip(self, size: int) -> None:
        """Skip bytes that were read elsewhere. They must be complete events in UTF-8, and come between events."""
        self._start += size
        self._fed += size

    @property
    def pending(self) -> bytes:
        """The bytes that no blank line has completed yet; empty between events."""
        return bytes(self._pending)

    def feed(self, data: bytes) -> list[SseEvent]:
        """The events that `data` completes, in order. Raises EventTooLong, and from then on at every call."""
        events: list[SseEvent] = []
        if self._failed:
            raise EventTooLong(self._start, self._max_event_bytes, events)
        self._check_utf8(data)
        if self._after_cr and data:
            self._after_cr = False
            if data.startswith(b"\n"):
                data = data[1:]
                self._start += 1
        if self._pending:
            # A blank line may lie over the seam between two feeds; what is before it has been searched already, and to
            # search it again at every feed would make a long event cost the square of its length.
            seam = max(0, len(self._pending) - _SEAM_BYTES)
            self._pending += data
            match = _BLANK_LINE.search(self._pending, seam)
            if match is None:
                self._check_length(len(self._pending), events)
                return events
            data = bytes(self._pending[match.end() :])
            block = bytes(self._pending[: match.start()])
            self._pending = bytearray()
            self._complete(block, match, events)
        self._split(data, events)
        return events

    def finish(self) -> SseEvent | None:
        """The unfinished event as it would be if the body ended here, its `end` at the last byte fed; changes nothing.

        None when there is none, or it has no `data` line. The standard discards it; but servers do close right after
        a last `data: [DONE]`, so the caller may judge: the data may be cut anywhere.
        """
        if self._failed:
            return None
        return _read_block(bytes(self._pending), self._start, self._start + len(self._pending))

    def _split(self, data: bytes, events: list[SseEvent]) -> None:
        """Splits `data`, which begins where an event begins, and keeps what is left unfinished."""
        # Each way is only for data in which no other line end can be, so that it cannot miss a blank line.
        if b"\r" not in data:
            tail = self._split_uniform(data, b"\n", events)
        elif data.count(b"\r\n") == data.count(b"\r") == data.count(b"\n"):
            tail = self._split_uniform(data, b"\r\n", events)
        else:
            tail = self._split_mixed(data, events)
        self._pending += tail
        self._check_length(len(tail), events)

    def _split_uniform(self, data: bytes, line_end: bytes, events: list[SseEvent]) -> bytes:
        """The fast way, for data all of whose lines end in `line_end`. Returns what is left."""
        blank_line = line_end + line_end
        for_end = len(line_end) + 1  # an event ends with the first byte of the blank line's own line end
        for_blank = len(blank_line)
        blocks = data.split(blank_line)
        tail = blocks.pop()
        for block in blocks:
            if not block:  # of a body of line ends there are millions
                self._start += for_blank
                continue
            start = self._start
            end = start + len(block) + for_end
            self._check_length(end - start, events)
            self._start = start + len(block) + for_blank
            if block.startswith(b"data: ") and b"\n" not in block:  # nearly all are one line, and need no table
                events.append(SseEvent(block[6:], end))
            elif b"data" in block and (event := _read_block(block, start, end)) is not None:
                events.append(event)
        return tail

    def _split_mixed(self, data: bytes, events: list[SseEvent]) -> bytes:
        """The general way. Returns what is left."""
        at = 0
        while match := _BLANK_LINE.search(data, at):
            if match.start() == at:  # nothing is before it; of a body of line ends there are millions
                match = _EMPTY_EVENTS.match(data, at) or match
                self._start += match.end() - at
                self._after_cr = match.end() == len(data) and data.endswith(b"\r")
            else:
                self._complete(data[at : match.start()], match, events)
            at = match.end()
        return data[at:]

    def _complete(self, block: bytes, match: re.Match[bytes], events: list[SseEvent]) -> None:
        """Dispatches `block`, the bytes before the blank line `match`."""
        size = len(block) + match.end(1) - match.start()
        self._check_length(size, events)
        if b"data" in block and (event := _read_block(block, self._start, self._start + size)) is not None:
            events.append(event)
        self._start += len(block) + match.end() - match.start()
        self._after_cr = match.end() == match.endpos and match.end() == match.end(1) and match[1] == b"\r"

    def _check_utf8(self, data: bytes) -> None:
        if self._not_utf8_at is not None:
            return
        if self._utf8 is None:
            self._utf8 = codecs.getincrementaldecoder("utf-8")()
        held = len(self._utf8.getstate()[0])  # the beginning of a character, from the feeds before
        try:
            self._utf8.decode(data)
        except UnicodeDecodeError as error:
            self._not_utf8_at = self._fed - held + error.start
        self._fed += len(data)

    def _check_length(self, size: int, events: list[SseEvent]) -> None:
        if size > self._max_event_bytes:
            self._failed = True
            self._pending = bytearray()
            raise EventTooLong(self._start, self._max_event_bytes, events)


def cut_at_events(data: bytes) -> Iterator[bytes]:
    """Cut data into pieces, so that not all of its events, which take many times their bytes, are in memory at once.

    A piece ends where an event does, if there is such a place in it: the fast ways of reading begin only there.
    """
    start = 0
    while len(data) - start > _PIECE_BYTES:
        end = data.rfind(b"\n\n", start, start + _PIECE_BYTES) + 2
        end = end if end > 1 else start + _PIECE_BYTES
        yield data[start:end]
        start = end
    yield data[start:]


def _read_block(block: bytes, start: int, end: int) -> SseEvent | None:
    """The event that the lines of `block` make; None when none of them is a `data` line."""
    if start == 0 and block.startswith(_BOM):
        block = block[len(_BOM) :]
    data: bytearray | None = None  # and no list of lines: a long event of short lines would take many times its bytes
    event = b""
    for line in _lines_of(block):
        name, _, value = line.partition(b":")
        if name == b"data":
            if data is None:
                data = bytearray()
            else:
                data += b"\n"
            data += value.removeprefix(b" ")
        elif name == b"event":
            event = value.removeprefix(b" ")
    if data is None:
        return None
    return SseEvent(bytes(data), end, event.decode("utf-8", "replace") or "message")


def _lines_of(block: bytes) -> Iterator[bytes]:
    start = 0
    for match in _LINE_END.finditer(block):
        yield block[start : match.start()]
        start = match.end()
    yield block[start:]
