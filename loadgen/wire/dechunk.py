"""Takes the chunked framing off a body: raw bytes in, body bytes out. Knows no socket, no clock and no events.

It takes plain framing only (RFC 9112, 7.1): sizes in hex, chunk extensions of plain words, no trailers. Whatever is
not that, malformed or merely unusual, makes it `odd`, and from there on it says nothing: a whole HTTP parser is to
judge the raw bytes. What it does accept, such a parser accepts too, and reads as the same body.
"""

import re
from array import array
from typing import Final

MAX_LINE_BYTES: Final = 256
"""The longest line of a chunk's size, with its extensions, that is still taken for plain."""

_CRLF: Final = b"\r\n"
_SIZES: Final = {f"{size:x}".encode(): size for size in range(1024)}  # those of most chunks of a stream of tokens
_SIZE_LINE: Final = re.compile(rb"([0-9A-Fa-f]{1,12})(?:;[0-9A-Za-z_-]+(?:=[0-9A-Za-z_-]+)?)*")


class Dechunker:
    """Dechunks one body, fed read by read. Time and memory are linear in the bytes fed.

    pieces: the body so far. ends: how many bytes of the body there were after each read. over: the last chunk has come,
    and the blank line behind it. behind: raw bytes fed beyond that. odd: see the module.
    """

    __slots__ = ("_left", "_pending", "behind", "ends", "odd", "over", "pieces")

    def __init__(self) -> None:
        self.pieces: list[bytes] = []
        self.ends = array("q")
        self.over = False
        self.behind = 0
        self.odd = False
        self._pending = b""  # the beginning of a size line, or of the last chunk
        self._left = 0  # of a chunk that has begun: its bytes to come, and the two behind them

    def feed(self, reads: list[bytes]) -> None:
        """Take in what the next reads brought."""
        pieces, ends = self.pieces, self.ends
        body_bytes = ends[-1] if ends else 0
        between = self._is_between_chunks()
        for data in reads:
            if between:  # one whole chunk a read is how a token comes
                line_end = data.find(_CRLF, 0, 8)
                size = _SIZES.get(data[:line_end], 0) if line_end > 0 else 0
                if size and len(data) == line_end + size + 4 and data[-2:] == _CRLF:
                    pieces.append(data[line_end + 2 : -2])
                    body_bytes += size
                    ends.append(body_bytes)
                    continue
            before = len(pieces)
            self._feed(data)
            body_bytes += sum(map(len, pieces[before:]))
            ends.append(body_bytes)
            between = self._is_between_chunks()

    def _is_between_chunks(self) -> bool:
        return not (self._pending or self._left or self.over or self.odd)

    def _feed(self, raw: bytes) -> None:
        if self.over:
            self.behind += len(raw)
            return
        if self.odd:
            return
        data = self._pending + raw if self._pending else raw
        at = self._finish_chunk(data, 0) if self._left else 0
        while not self._left and not self.odd and (begun := self._begin_chunk(data, at)) is not None:
            size, at = begun
            if not size:
                self.over, self.behind = True, len(data) - at
                break
            self._left = size + 2
            at = self._finish_chunk(data, at)
        self._pending = data[at:] if not self.over else b""

    def _begin_chunk(self, data: bytes, at: int) -> tuple[int, int] | None:
        """The size of the chunk that begins at `at`, and where its data does; of the last one, where all ends.

        None when that is not all there, or odd.
        """
        line_end = data.find(_CRLF, at, at + MAX_LINE_BYTES)
        if line_end < 0:
            self.odd = len(data) - at >= MAX_LINE_BYTES
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
        behind = data[start : start + 2]
        if behind == _CRLF:
            return 0, start + 2
        self.odd = not _CRLF.startswith(behind)  # a trailer, or a fault
        return None

    def _finish_chunk(self, data: bytes, at: int) -> int:
        """Takes what there is of a chunk that has begun; returns where in `data` the next thing begins."""
        take = min(self._left - 2, len(data) - at)
        if take > 0:
            self.pieces.append(data[at : at + take])
            self._left -= take
            at += take
        if self._left <= 2:
            behind = data[at : at + self._left]
            if not _CRLF[2 - self._left :].startswith(behind):
                self.odd = True
                return at
            self._left -= len(behind)
            at += len(behind)
        return at
