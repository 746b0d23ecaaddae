"""Taking the chunked framing off: tables of bytes, and laws against aiohttp's own parser, which judges what is odd."""

import asyncio
from collections.abc import Iterator
from itertools import accumulate, pairwise

import pytest
from aiohttp import ClientPayloadError, StreamReader
from aiohttp.base_protocol import BaseProtocol
from aiohttp.http import HttpResponseParser
from aiohttp.http_exceptions import HttpProcessingError
from hypothesis import given, settings
from hypothesis import strategies as st

from loadgen.wire.chunked import MAX_LINE_BYTES, Dechunker

law = settings(derandomize=True, deadline=None, max_examples=120)
END = b"0\r\n\r\n"


def chunk(data: bytes, extension: bytes = b"") -> bytes:
    return f"{len(data):x}".encode() + extension + b"\r\n" + data + b"\r\n"


def cut(raw: bytes, cuts: list[int]) -> list[bytes]:
    """The bytes in reads, none of them empty."""
    edges = [0, *sorted(min(at, len(raw)) for at in cuts), len(raw)]
    return [raw[start:end] for start, end in pairwise(edges) if start < end]


def dechunked(reads: list[bytes], *, each: bool = False) -> Dechunker:
    """The reads, dechunked: all at once, or each as it comes."""
    dechunker = Dechunker()
    for some in [[read] for read in reads] if each else [reads]:
        dechunker.feed(some)
    return dechunker


@pytest.mark.parametrize("each", [False, True], ids=["at once", "each as it comes"])
def test_chunks_of_one_byte_take_no_piece_each(each: bool) -> None:
    reads = [chunk(b"x") * 1000] * 30
    assert dechunked(reads, each=each).pieces == [b"x" * 1000] * 30


@pytest.mark.parametrize("each", [False, True], ids=["at once", "each as it comes"])
@pytest.mark.parametrize(
    ("reads", "pieces", "ends"),
    [
        pytest.param([chunk(b"ab"), chunk(b"c"), END], [b"ab", b"c"], [2, 3, 3], id="a chunk a read"),
        pytest.param([b"", chunk(b"ab"), chunk(b"c"), END], [b"ab", b"c"], [0, 2, 3, 3], id="nothing with the head"),
        pytest.param([chunk(b"ab") + chunk(b"c") + END], [b"abc"], [3], id="all in one read"),
        pytest.param(
            [chunk(b"ab"), b"3", b"\r", b"\nc", b"de\r", b"\n", END], [b"ab", b"c", b"de"], None, id="in bits"
        ),
        pytest.param([chunk(b"a\r\nb"), chunk(b"c"), END], [b"a\r\nb", b"c"], [4, 5, 5], id="a line end in a chunk"),
        pytest.param(
            [chunk(b"0\r\n\r\n"), chunk(b"c"), END], [b"0\r\n\r\n", b"c"], [5, 6, 6], id="an end that is none"
        ),
        pytest.param([b"A\r\n0123456789\r\n", END], [b"0123456789"], [10, 10], id="an upper-case size"),
        pytest.param([b"0001\r\na\r\n", b"000\r\n\r\n"], [b"a"], [1, 1], id="zeros before a size"),
        pytest.param([chunk(b"ab", b";x;y=1"), b"0;z\r\n\r\n"], [b"ab"], [2, 2], id="extensions"),
        pytest.param([chunk(b"x" * 5000), END], [b"x" * 5000], [5000, 5000], id="a long chunk"),
    ],
)
def test_a_plain_body(reads: list[bytes], pieces: list[bytes], ends: list[int] | None, each: bool) -> None:
    dechunker = dechunked(reads, each=each)
    assert (dechunker.pieces, dechunker.over, dechunker.odd, dechunker.bytes_beyond) == (pieces, True, False, 0)
    assert ends is None or list(dechunker.ends) == ends


@pytest.mark.parametrize(
    "odd",
    [
        b"zz\r\nx\r\n",
        b"\r\n",
        b" 2\r\nab\r\n",
        b"2 \r\nab\r\n",
        b"0x2\r\nab\r\n",
        b"+2\r\nab\r\n",
        b"-2\r\nab\r\n",
        b"1_0\r\nab\r\n",
        b"2\nab\n",
        b"2\r\nabc\r\n",
        b"2\r\nab\rx",
        b'2;a="b"\r\nab\r\n',
        b"f" * 13 + b"\r\n",
        b"0\r\nTrailer: x\r\n\r\n",
        b"0\r\nx",
        b"1" * MAX_LINE_BYTES,
    ],
)
@pytest.mark.parametrize("before", [[], [chunk(b"ab")]], ids=["first", "after a chunk"])
def test_what_is_not_plain_is_odd_and_nothing_is_taken_from_there_on(before: list[bytes], odd: bytes) -> None:
    dechunker = dechunked([*before, odd])
    pieces = list(dechunker.pieces)
    assert (dechunker.odd, dechunker.over) == (True, False)
    dechunker.feed([chunk(b"more"), END])
    assert (dechunker.odd, dechunker.over, dechunker.pieces) == (True, False, pieces)


def test_an_empty_chunk_is_the_end_also_among_reads_of_a_chunk_each() -> None:
    dechunker = dechunked([chunk(b"ab"), END, chunk(b"c"), chunk(b"d")])
    assert (dechunker.over, dechunker.pieces, dechunker.bytes_beyond) == (True, [b"ab"], 12)


@pytest.mark.parametrize("each", [False, True])
def test_what_comes_behind_the_end_is_counted_and_not_read(each: bool) -> None:
    dechunker = dechunked([chunk(b"a") + END + b"HT", b"TP", b"/1.1"], each=each)
    assert (dechunker.over, dechunker.bytes_beyond, list(dechunker.ends)) == (True, 8, [1, 1, 1])


@pytest.mark.slow
def test_a_chunk_of_half_a_megabyte_in_reads_of_a_byte_costs_no_more_than_its_bytes() -> None:
    """Were each read to copy what came before it, this would not end: half a million times a quarter of a megabyte."""
    raw = chunk(b"x" * (1 << 19)) + END
    dechunker = dechunked([raw[at : at + 1] for at in range(len(raw))])
    assert (dechunker.over, dechunker.ends[-1]) == (True, 1 << 19)


# aiohttp as the judge


class Judge:
    """aiohttp's parser behind the head of a chunked answer: the body so far, whether it ended, and what was wrong."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.protocol = BaseProtocol(loop)
        self.parser = HttpResponseParser(
            self.protocol, loop, 1 << 20, payload_exception=ClientPayloadError, read_until_eof=True
        )
        self.protocol._parser = self.parser
        messages, _, _ = self.parser.feed_data(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        self.payload: StreamReader = messages[0][1]
        self.fault: Exception | None = None

    def read(self, data: bytes) -> int:
        """Feeds a read; returns the bytes of the body so far."""
        if self.fault is None:
            try:
                self.parser.feed_data(data)
            except HttpProcessingError as fault:
                self.fault = fault
        return self.payload.total_bytes

    @property
    def body(self) -> bytes:
        return b"".join(self.payload._buffer)


@pytest.fixture(scope="module")
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    made = asyncio.new_event_loop()
    yield made
    made.close()


PIECES = st.one_of(
    st.binary(min_size=1, max_size=20).map(chunk),
    st.sampled_from([b"data: a\n\n", b"data: a\r\n\r\n", b"\r\n", b"0\r\n\r\n", b"1\r\n"]).map(chunk),
    st.binary(min_size=1, max_size=4).map(lambda data: chunk(data, b";a=b;c")),
)
BODIES = st.lists(PIECES, max_size=8).map(lambda chunks: b"".join(chunks) + END)
FAULTS = st.tuples(
    st.integers(0, 200), st.integers(0, 3), st.binary(max_size=3) | st.sampled_from([b"\r\n", b"0", b";"])
)
MUTATED = st.tuples(BODIES, st.lists(FAULTS, max_size=2)).map(
    lambda given: bytes(_mutated(bytearray(given[0]), given[1]))
)
CUTS = st.lists(st.integers(0, 200), max_size=12)


def _mutated(raw: bytearray, faults: list[tuple[int, int, bytes]]) -> bytearray:
    for at, size, new in faults:
        raw[at : at + size] = new
    return raw


@pytest.mark.slow
@law
@given(raw=BODIES, cuts=CUTS)
def test_every_plain_body_is_taken_and_is_aiohttps(
    loop: asyncio.AbstractEventLoop, raw: bytes, cuts: list[int]
) -> None:
    judge, reads = Judge(loop), cut(raw, cuts)
    ends = [judge.read(read) for read in reads]
    dechunker = dechunked(reads)
    assert (dechunker.over, dechunker.odd, dechunker.bytes_beyond) == (True, False, 0)
    assert judge.payload.is_eof()
    assert b"".join(dechunker.pieces) == judge.body
    assert list(dechunker.ends) == ends


@pytest.mark.slow
@law
@given(raw=MUTATED, cuts=CUTS)
def test_what_is_taken_is_what_aiohttp_takes(loop: asyncio.AbstractEventLoop, raw: bytes, cuts: list[int]) -> None:
    """Whatever is wrong with the bytes: up to where the dechunker finds them odd, it says what aiohttp says."""
    judge, dechunker = Judge(loop), Dechunker()
    for read in cut(raw, cuts):
        told = judge.read(read)
        dechunker.feed([read])
        if dechunker.odd or dechunker.bytes_beyond:
            return
        assert dechunker.ends[-1] == told
        assert b"".join(dechunker.pieces) == judge.body
        if judge.fault is not None:  # which it may see a little earlier, inside a line
            assert not dechunker.over
        else:
            assert dechunker.over == judge.payload.is_eof()


@pytest.mark.slow
@law
@given(raw=MUTATED, cuts=CUTS, more=CUTS)
def test_no_split_of_the_bytes_changes_the_body(raw: bytes, cuts: list[int], more: list[int]) -> None:
    whole, split = dechunked([raw]), dechunked(cut(raw, cuts), each=bool(more))
    assert (split.over, split.odd, split.bytes_beyond) == (whole.over, whole.odd, whole.bytes_beyond)
    assert b"".join(split.pieces) == b"".join(whole.pieces)
    assert list(split.ends) == sorted(split.ends)
    lengths = list(accumulate(map(len, split.pieces), initial=0))
    assert not split.ends or split.ends[-1] == lengths[-1]
