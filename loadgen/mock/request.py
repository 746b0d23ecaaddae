"""Splits what a client sends into HTTP/1 requests: bytes in, requests out. Knows no socket, no clock and no chat."""

import re
from typing import Final

from msgspec import Struct

HEAD_BYTES: Final = 64 << 10
BODY_BYTES: Final = 16 << 20

_TOKEN: Final = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_SIZE: Final = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(?:;[^\r\n]*)?")


class Request(Struct, frozen=True):
    """One request."""

    method: str
    path: str
    """Without its query."""
    headers: dict[str, str]
    """By name in lower case."""
    body: bytes
    keep_alive: bool
    """The connection may carry another request."""
    chunked: bool
    """The client understands an answer in chunks (HTTP/1.1)."""


class Refusal(Exception):  # noqa: N818 - what the client got wrong, not an error of ours
    """What came is no request that can be served: the status to answer with, and the reason. The connection has to
    end."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status, self.reason = status, reason


class RequestReader:
    """The requests of one connection, fed in pieces of any size."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._head: tuple[str, str, dict[str, str], bool] | None = None
        self._length: int | None = None  # of the body; None: it comes in chunks
        self._body = bytearray()  # as far as its chunks have come
        self._in_trailer = False
        self._expects_continue = False

    @property
    def buffered_bytes(self) -> int:
        """How much has come that is part of no request yet."""
        return len(self._buffer)

    def feed(self, data: bytes) -> None:
        self._buffer += data

    def expects_continue(self) -> bool:
        """Whether the client waits for `100 Continue` before it sends the body; True once a request."""
        expected, self._expects_continue = self._expects_continue, False
        return expected

    def next_request(self) -> Request | None:
        """The next request, when all of it is there. Raises Refusal."""
        if self._head is None and not self._take_head():
            return None
        assert self._head is not None
        body = self._take_body()
        if body is None:
            return None
        method, target, headers, is_http_11 = self._head
        self._head = None
        connection = headers.get("connection", "").lower()
        keep_alive = "close" not in connection if is_http_11 else "keep-alive" in connection
        return Request(method, target.partition("?")[0], headers, body, keep_alive, is_http_11)

    def _take_head(self) -> bool:
        while self._buffer.startswith(b"\r\n"):  # some clients end a body with one too many
            del self._buffer[:2]
        end = self._buffer.find(b"\r\n\r\n")
        if (end if end >= 0 else len(self._buffer)) > HEAD_BYTES:
            raise Refusal(431, f"the headers are longer than {HEAD_BYTES} bytes")
        if end < 0:
            return False
        first, *lines = bytes(self._buffer[:end]).split(b"\r\n")
        del self._buffer[: end + 4]
        method, target, is_http_11 = _request_line(first)
        headers: dict[str, str] = {}
        for line in lines:
            name, colon, value = line.partition(b":")
            if not colon or not _TOKEN.fullmatch(name):
                raise Refusal(400, "a header line is not NAME: VALUE")
            key, text = name.decode().lower(), value.decode("latin-1").strip()
            if key == "content-length" and headers.get(key, text) != text:
                raise Refusal(400, "two lengths that differ")
            headers[key] = text
        self._length = _body_length(method, headers)
        self._head = method, target, headers, is_http_11
        self._expects_continue = is_http_11 and headers.get("expect", "").lower() == "100-continue" and not self._buffer
        return True

    def _take_body(self) -> bytes | None:
        if self._length is None:
            return self._take_chunks()
        if len(self._buffer) < self._length:
            return None
        body = bytes(self._buffer[: self._length])
        del self._buffer[: self._length]
        return body

    def _take_chunks(self) -> bytes | None:
        while True:
            end = self._buffer.find(b"\r\n")
            if end < 0:
                if len(self._buffer) > HEAD_BYTES:
                    raise Refusal(400, "a chunk's size line has no end")
                return None
            if self._in_trailer:
                del self._buffer[: end + 2]
                if end == 0:
                    body = bytes(self._body)
                    self._in_trailer, self._body = False, bytearray()
                    return body
                continue
            match = _SIZE.fullmatch(bytes(self._buffer[:end]))
            if match is None:
                raise Refusal(400, "a chunk does not begin with its size")
            size = int(match[1], 16)
            if len(self._body) + size > BODY_BYTES:
                raise Refusal(413, f"the body is longer than {BODY_BYTES} bytes")
            if size == 0:
                del self._buffer[: end + 2]
                self._in_trailer = True
                continue
            if len(self._buffer) < end + size + 4:
                return None
            if self._buffer[end + 2 + size : end + size + 4] != b"\r\n":
                raise Refusal(400, "a chunk is longer than its size says")
            self._body += self._buffer[end + 2 : end + 2 + size]
            del self._buffer[: end + size + 4]


def _request_line(line: bytes) -> tuple[str, str, bool]:
    """(method, target, whether it is HTTP/1.1 or later)."""
    parts = line.decode("latin-1").split(" ")
    if len(parts) != 3 or not _TOKEN.fullmatch(parts[0].encode("latin-1")) or not parts[1]:
        raise Refusal(400, "the first line is not METHOD PATH HTTP/1.1")
    if not re.fullmatch(r"HTTP/1\.[0-9]", parts[2]):
        raise Refusal(505 if parts[2].startswith("HTTP/") else 400, "only HTTP/1.1 and HTTP/1.0 are spoken here")
    return parts[0], parts[1], parts[2] != "HTTP/1.0"


def _body_length(method: str, headers: dict[str, str]) -> int | None:
    length, coding = headers.get("content-length"), headers.get("transfer-encoding")
    if coding is not None:
        if length is not None or coding.lower() != "chunked":
            raise Refusal(400, "a body comes with Content-Length, or with Transfer-Encoding: chunked")
        return None
    if length is None:
        if method in ("POST", "PUT", "PATCH"):
            raise Refusal(411, "a body needs its Content-Length")
        return 0
    if not re.fullmatch(r"[0-9]{1,18}", length):
        raise Refusal(400, "Content-Length is not a number")
    if int(length) > BODY_BYTES:
        raise Refusal(413, f"the body is longer than {BODY_BYTES} bytes")
    return int(length)
