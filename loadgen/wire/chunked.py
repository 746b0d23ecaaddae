"""Removes the chunked framing of a body: raw bytes in, body bytes out. Knows no socket, no clock and no events.

It reads plain framing only (RFC 9112, 7.1): sizes in hex, chunk extensions of plain words, no trailers. Any other
framing, malformed or only unusual, makes it `odd`. It reads nothing after that, and a complete HTTP parser has to judge
the raw bytes. Such a parser accepts all that this accepts, and reads the same body.
"""

import re
from array import array
from typing import Final

MAX_LINE_BYTES: Final = 256
"""The longest line with a chunk's size and its extensions that counts as plain."""

_CRLF: Final = b"\r\n"
# The sizes of most chunks in a stream of tokens.
_SIZES: Final = {f"{size:x}".encode(): size for size in range(1, 1024)}
_SIZE_LINE: Final = re.compile(rb"([0-9A-Fa-f]{1,12})(?:;[0-9A-Za-z_-]+(?:=[0-9A-Za-z_-]+)?)*")


_AT_ONCE: Final = 256
"""How many reads are tried together. If one of them is not plain, these are read one by one."""


def _one_chunk_each(reads: list[bytes]) -> list[bytes] | None:
    """The bodies of reads that are one whole chunk each, with no line end in it that could be the framing's."""
    lines = b"".join(reads).split(_CRLF, 2 * len(reads))  # and no further: what has more is not plain
    sizes, pieces = lines[0:-1:2], lines[1:-1:2]
    if lines[-1] or len(sizes) != len(reads) or len(pieces) != len(reads):
        return None
    lengths = list(map(len, pieces))
    framed = [len(read) - 4 for read in reads]
    # If the data of a chunk has a CRLF, the pieces of different reads may still add up. So each read is compared with
    # its own size line and its own length.
    plain = lengths == list(map(_SIZES.get, sizes)) and framed == list(map(int.__add__, lengths, map(len, sizes)))
    return pieces if plain else None


class Dechunker:
    """Removes the framing of one body, which is fed read by read. Time and memory are linear in the bytes fed."""

    __slots__ = ("_left", "_pending", "bytes_beyond", "ends", "odd", "over", "pieces")

    def __init__(self) -> None:
        self.pieces: list[bytes] = []  # the body so far
        self.ends = array("q")  # how many bytes of the body there were after each read
        self.over = False  # True once the last chunk has come, with the blank line that ends it
        self.bytes_beyond = 0  # how many raw bytes came after that
        self.odd = False  # True once the framing is not plain: see the module
        self._pending = b""  # the beginning of a size line, or of the last chunk
        self._left = 0  # how many bytes of the present chunk are still to come, with the two of its line end

    def feed(self, reads: list[bytes]) -> None:
        """Add the next reads."""
        if reads and not reads[0]:  # an empty read: the head came alone, or the other end has closed
            self.ends.append(self.ends[-1] if self.ends else 0)
            reads = reads[1:]
        for start in range(0, len(reads), _AT_ONCE):
            some = reads[start : start + _AT_ONCE]
            # A token usually comes as one complete chunk in one read. The last read of a body also has its end.
            plain = _one_chunk_each(some[:-1]) if len(some) > 1 and self._is_between_chunks() else None
            if plain is None:
                self._feed_each(some)
            else:
                body_bytes = self.ends[-1] if self.ends else 0
                self.pieces += plain
                self.ends.extend([body_bytes := body_bytes + len(piece) for piece in plain])
                self._feed_each(some[-1:])

    def _feed_each(self, reads: list[bytes]) -> None:
        body_bytes = self.ends[-1] if self.ends else 0
        for data in reads:
            before = len(self.pieces)
            self._feed(data)
            if len(self.pieces) > before + 1:  # a piece a read: of one byte each, they would take many times its size
                self.pieces[before:] = [b"".join(self.pieces[before:])]
            body_bytes += sum(map(len, self.pieces[before:]))
            self.ends.append(body_bytes)

    def _is_between_chunks(self) -> bool:
        return not (self._pending or self._left or self.over or self.odd)

    def _feed(self, raw: bytes) -> None:
        if self.over:
            self.bytes_beyond += len(raw)
            return
        if self.odd:
            return
        data = self._pending + raw if self._pending else raw
        at = self._finish_chunk(data, 0) if self._left else 0
        while not self._left and not self.odd and (begun := self._begin_chunk(data, at)) is not None:
            size, at = begun
            if not size:
                self.over, self.bytes_beyond = True, len(data) - at
                break
            self._left = size + 2
            at = self._finish_chunk(data, at)
        self._pending = data[at:] if not self.over else b""

    def _begin_chunk(self, data: bytes, at: int) -> tuple[int, int] | None:
        """The size of the chunk that begins at `at`, and where its data begins. For the last chunk: 0, and where the
        body ends. None if the bytes so far are incomplete, or odd.
        """
        line_end = data.find(_CRLF, at, at + MAX_LINE_BYTES)
        if line_end < 0:
            self.odd = len(data) - at >= MAX_LINE_BYTES or b"\n" in data[at:]
            return None
        line = data[at:line_end]
        size = _SIZES.get(line)
        if size is None:
            match = _SIZE_LINE.fullmatch(line)
            if match is None:
                self.odd = True
                return None
            size = int(match[1], 16)
        start = line_end + 2
        if size:
            return size, start
        line = data[start : start + 2]
        if line == _CRLF:
            return 0, start + 2
        self.odd = not _CRLF.startswith(line)  # a trailer, or a fault
        return None

    def _finish_chunk(self, data: bytes, at: int) -> int:
        """Take the bytes of the present chunk that are in `data`; returns where in `data` they end."""
        take = min(self._left - 2, len(data) - at)
        if take > 0:
            self.pieces.append(data[at : at + take])
            self._left -= take
            at += take
        if self._left <= 2:
            line_end = data[at : at + self._left]
            if not _CRLF[2 - self._left :].startswith(line_end):
                self.odd = True
                return at
            self._left -= len(line_end)
            at += len(line_end)
        return at
