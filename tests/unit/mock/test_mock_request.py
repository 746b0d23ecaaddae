"""Facts about how the scripted server reads requests: however the bytes are cut, and whatever is wrong with them."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadgen.mock.request import BODY_BYTES, HEAD_BYTES, Refusal, Request, RequestReader

POST = b"POST /v1/chat/completions?x=1 HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello"
CHUNKED = (
    b"POST /a HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"5\r\nhello\r\n6;name=value\r\n world\r\n0\r\nTrailer: x\r\n\r\n"
)
GET = b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"


def taken(requests: RequestReader) -> list[Request]:
    got = []
    while (request := requests.next_request()) is not None:
        got.append(request)
    return got


def read(*pieces: bytes) -> list[Request]:
    requests, got = RequestReader(), []
    for piece in pieces:
        requests.feed(piece)
        got += taken(requests)
    return got


def refused(data: bytes) -> int:
    with pytest.raises(Refusal) as refusal:
        read(data)
    return refusal.value.status


def test_a_request_has_its_path_without_the_query_its_headers_and_its_body() -> None:
    (request,) = read(POST)
    assert (request.method, request.path, request.body) == ("POST", "/v1/chat/completions", b"hello")
    assert request.headers == {"host": "x", "content-length": "5"}
    assert request.keep_alive
    assert request.chunked


@given(st.lists(st.integers(0, len(POST + 2 * CHUNKED + GET)), max_size=30))
def test_however_the_bytes_are_cut_the_requests_are_the_same(places: list[int]) -> None:
    data = POST + CHUNKED + CHUNKED + GET
    cuts = [0, *sorted(places), len(data)]
    pieces = [data[start:end] for start, end in pairwise(cuts)]
    assert read(*pieces) == read(POST, CHUNKED, CHUNKED, GET)
    assert [request.body for request in read(*pieces)] == [b"hello", b"hello world", b"hello world", b""]


@pytest.mark.parametrize(
    ("version", "connection", "lasts"),
    [
        ("1.1", "", True),
        ("1.1", "Connection: close\r\n", False),
        ("1.0", "", False),
        ("1.0", "Connection: Keep-Alive\r\n", True),
    ],
)
def test_whether_a_connection_lasts_is_for_the_version_and_the_header_to_say(
    version: str, connection: str, lasts: bool
) -> None:
    (request,) = read(f"GET / HTTP/{version}\r\n{connection}\r\n".encode())
    assert request.keep_alive is lasts
    assert request.chunked is (version == "1.1")


def test_a_client_that_waits_to_be_told_to_go_on_is_known_once() -> None:
    requests = RequestReader()
    head, body = POST.replace(b"\r\n\r\n", b"\r\nExpect: 100-continue\r\n\r\n").split(b"hello")[0], b"hello"
    requests.feed(head)
    assert requests.next_request() is None
    assert requests.expects_continue()
    assert not requests.expects_continue()
    requests.feed(body)
    assert requests.next_request() is not None


def test_a_client_that_sends_its_body_at_once_need_not_be_told() -> None:
    requests = RequestReader()
    requests.feed(POST.replace(b"\r\n\r\n", b"\r\nExpect: 100-continue\r\n\r\n"))
    assert requests.next_request() is not None
    assert not requests.expects_continue()


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"nonsense\r\n\r\n", 400),
        (b"GET / HTTP/2.0\r\n\r\n", 505),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
        (b"GET / HTTP/1.1\r\nno colon\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nspaced : x\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\n\r\n", 411),
        (b"POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: gzip\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", 400),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nabcd\r\n", 400),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n" % (BODY_BYTES + 1), 413),
        (b"POST / HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % (BODY_BYTES + 1), 413),
        (b"GET / HTTP/1.1\r\nX: " + b"x" * HEAD_BYTES, 431),
    ],
)
def test_what_is_no_request_is_refused_with_its_status(data: bytes, status: int) -> None:
    assert refused(data) == status
