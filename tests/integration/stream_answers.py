"""Answers whose HTTP is out of the ordinary, each with what the client makes of it. Knows no socket and no client."""

import gzip
import zlib
from typing import Final

from tests.integration.server import DONE, FINISH, LAST_CHUNK, chunk, event, token
from tests.integration.streams import EVENT_STREAM, Answer, Says, head

AB: Final = Says("ok", 2, "ab", "stop")
HI: Final = token("a") + token("b")
BODY: Final = HI + FINISH + DONE
CUT: Final = Says("truncated", 2, "ab")
MALFORMED: Final = Says("malformed")
CHUNKED: Final = "Transfer-Encoding: chunked"
BEGIN: Final = head(EVENT_STREAM, CHUNKED)
OK: Final = BEGIN + chunk(BODY) + LAST_CHUNK
GZIP: Final = "Content-Encoding: gzip"


def closing(*headers: str, body: bytes = BODY, status: str = "200 OK", version: str = "1.1") -> Answer:
    told = int(status[:3])
    return Answer(head(*headers, status=status, version=version) + body, closes=True, status=told)


def chunks(*framed: bytes, closes: bool = True) -> Answer:
    """Two tokens in sound chunks, then these bytes."""
    return Answer(BEGIN + chunk(token("a")) + chunk(token("b")) + b"".join(framed), closes=closes)


def refused(raw: bytes) -> Answer:
    """What is no HTTP answer."""
    return Answer(raw, closes=True, status=None)


CHUNKING: Final[dict[str, tuple[Answer, Says]]] = {
    "a chunk a byte": (Answer(BEGIN + b"".join(chunk(bytes([byte])) for byte in BODY) + LAST_CHUNK), AB),
    "sizes in capitals": (Answer(BEGIN + b"%X\r\n%b\r\n" % (len(BODY), BODY) + LAST_CHUNK), AB),
    "sizes with zeros before": (Answer(BEGIN + b"0000%x\r\n%b\r\n000\r\n\r\n" % (len(BODY), BODY)), AB),
    "an extension": (Answer(BEGIN + b"%x;a=b\r\n%b\r\n0;c\r\n\r\n" % (len(BODY), BODY)), AB),
    "an extension in quotes": (Answer(BEGIN + b'%x;a="b;c"\r\n%b\r\n' % (len(BODY), BODY) + LAST_CHUNK), AB),
    "trailers": (Answer(BEGIN + chunk(BODY) + b"0\r\nX-A: 1\r\nX-B: 2\r\n\r\n"), AB),
    "a chunk that ends inside a character": (
        Answer(BEGIN + chunk(HI + token("é")[:-8]) + chunk(token("é")[-8:] + FINISH) + LAST_CHUNK),
        Says("ok", 3, "abé", "stop"),
    ),
    "no last chunk": (chunks(chunk(FINISH + DONE)), AB),
    "no last chunk, and no end": (chunks(), CUT),
    "half a last chunk": (chunks(b"0\r\n"), CUT),
    "half a chunk": (chunks(chunk(FINISH)[:20]), CUT),
    "a last chunk before the end": (
        chunks(LAST_CHUNK, closes=False),
        Says("truncated", 2, "ab", detail="after 2 tokens"),
    ),
    "a size that is no number": (chunks(b"xyz\r\n", chunk(FINISH), LAST_CHUNK), CUT),
    "a size below nothing": (chunks(b"-5\r\nhello\r\n", chunk(FINISH), LAST_CHUNK), CUT),
    "a size with 0x": (chunks(b"0x5\r\nhello\r\n", chunk(FINISH), LAST_CHUNK), CUT),
    "an empty size": (chunks(b"\r\n", chunk(FINISH), LAST_CHUNK), CUT),
    "a size beyond any": (chunks(b"f" * 40 + b"\r\n", FINISH), CUT),
    "a size that never ends": (chunks(b"1" * 100_000), CUT),
    "a size of 15 digits, and its first bytes": (chunks(b"f" * 15 + b"\r\n", FINISH + DONE), AB),
    "a chunk longer than it says": (chunks(b"3\r\nabcdef\r\n", chunk(FINISH), LAST_CHUNK), CUT),
    "a fault behind the end": (chunks(chunk(FINISH + DONE), b"zz\r\n"), AB),
    "more than the body": (Answer(OK + b"HTTP/1.1 500 Oops\r\n\r\n", excess=True), AB),
}

LENGTHS: Final[dict[str, tuple[Answer, Says]]] = {
    "right": (Answer(head(EVENT_STREAM, f"Content-Length: {len(BODY)}") + BODY), AB),
    "zeros before": (Answer(head(EVENT_STREAM, f"Content-Length: 000{len(BODY)}") + BODY), AB),
    "too long": (closing(EVENT_STREAM, "Content-Length: 9999", body=HI), CUT),
    "too long, with the end there": (closing(EVENT_STREAM, "Content-Length: 9999"), AB),
    "too short": (
        Answer(head(EVENT_STREAM, f"Content-Length: {len(HI)}") + BODY, closes=True, excess=True),
        Says("truncated", 2, "ab", detail="after 2 tokens"),
    ),
    "too short by the blank line": (
        Answer(head(EVENT_STREAM, f"Content-Length: {len(HI + FINISH) - 2}") + BODY, closes=True, excess=True),
        AB,
    ),
    "none, and an empty body": (closing(EVENT_STREAM, body=b""), Says("truncated", detail="empty")),
    "nothing": (Answer(head(EVENT_STREAM, "Content-Length: 0")), Says("truncated", detail="empty")),
    "an empty chunked body": (Answer(BEGIN + LAST_CHUNK), Says("truncated", detail="empty")),
    "below nothing": (refused(head(EVENT_STREAM, "Content-Length: -5") + BODY), MALFORMED),
    "words": (refused(head(EVENT_STREAM, "Content-Length: many") + BODY), MALFORMED),
    "a size beyond any": (refused(head(EVENT_STREAM, "Content-Length: " + "9" * 40) + BODY), MALFORMED),
    "two that differ": (refused(head(EVENT_STREAM, "Content-Length: 5", "Content-Length: 6") + BODY), MALFORMED),
}

CODINGS: Final[dict[str, tuple[Answer, Says]]] = {
    "gzip, whole": (closing(EVENT_STREAM, GZIP, body=gzip.compress(BODY)), AB),
    "gzip in capitals": (closing(EVENT_STREAM, "Content-Encoding: GZIP", body=gzip.compress(BODY)), AB),
    "gzip, cut off in the middle": (closing(EVENT_STREAM, GZIP, body=gzip.compress(BODY)[:30]), Says("truncated", 0)),
    "gzip, cut off in its last bytes": (closing(EVENT_STREAM, GZIP, body=gzip.compress(BODY)[:-4]), AB),
    "gzip that is none": (closing(EVENT_STREAM, GZIP), Says("truncated", 0)),
    "deflate, with a zlib header": (closing(EVENT_STREAM, "Content-Encoding: deflate", body=zlib.compress(BODY)), AB),
    "identity": (closing(EVENT_STREAM, "Content-Encoding: identity"), AB),
}

HEADS: Final[dict[str, tuple[Answer, Says]]] = {
    "names in lower case": (Answer(BEGIN.lower().replace(b"http", b"HTTP") + chunk(BODY) + LAST_CHUNK), AB),
    "NAMES IN CAPITALS": (Answer(head("TRANSFER-ENCODING: CHUNKED") + chunk(BODY) + LAST_CHUNK), AB),
    "no space behind the colon": (Answer(head("Transfer-Encoding:chunked") + chunk(BODY) + LAST_CHUNK), AB),
    "spaces and tabs around the value": (
        Answer(head("Transfer-Encoding: \t chunked \t") + chunk(BODY) + LAST_CHUNK),
        AB,
    ),
    "charset": (closing("Content-Type: text/event-stream; charset=utf-8"), AB),
    "application/json": (closing("Content-Type: application/json"), AB),
    "text/html": (closing("Content-Type: text/html"), AB),
    "no type": (closing(), AB),
    "no reason": (Answer(BEGIN.replace(b"200 OK", b"200 ") + chunk(BODY) + LAST_CHUNK), AB),
    "no space for a reason": (Answer(BEGIN.replace(b"200 OK", b"200") + chunk(BODY) + LAST_CHUNK), AB),
    "another reason": (Answer(BEGIN.replace(b"200 OK", b"200 Fine, then") + chunk(BODY) + LAST_CHUNK), AB),
    "HTTP/1.0": (closing(EVENT_STREAM, version="1.0"), AB),
    "HTTP/1.0, kept alive": (
        Answer(head(EVENT_STREAM, "Connection: keep-alive", f"Content-Length: {len(BODY)}", version="1.0") + BODY),
        AB,
    ),
    "Connection: close": (closing(EVENT_STREAM, "Connection: close", f"Content-Length: {len(BODY)}"), AB),
    "Connection: close, in chunks": (
        Answer(head(EVENT_STREAM, CHUNKED, "Connection: close") + chunk(BODY) + LAST_CHUNK, closes=True),
        AB,
    ),
    "Connection: keep-alive, and Keep-Alive": (
        Answer(head(CHUNKED, "Connection: keep-alive", "Keep-Alive: timeout=5, max=100") + chunk(BODY) + LAST_CHUNK),
        AB,
    ),
    "cookies, dates, unknown names, Latin-1": (
        Answer(
            head("Set-Cookie: a=b", "Set-Cookie: c=d", "Date: now", "X-Empty:", CHUNKED, "X-Name: é")
            .decode()
            .encode("latin-1")
            + chunk(BODY)
            + LAST_CHUNK
        ),
        AB,
    ),
    "many headers": (Answer(head(CHUNKED, *(f"X-{n}: {'v' * 90}" for n in range(60))) + chunk(BODY) + LAST_CHUNK), AB),
    "a line of 20 kB": (closing(EVENT_STREAM, "X-Long: " + "v" * 20_000), AB),
    "a line of 20 kB, in chunks": (Answer(head(CHUNKED, "X-Long: " + "v" * 20_000) + chunk(BODY) + LAST_CHUNK), AB),
    "a line of 70 kB": (refused(head(CHUNKED, "X-Long: " + "v" * 70_000) + chunk(BODY) + LAST_CHUNK), MALFORMED),
    "70 kB of lines, and no end of them": (
        refused(head(CHUNKED, *(f"X-{n}: {'v' * 90}" for n in range(700)))[:-2]),
        MALFORMED,
    ),
    "100 Continue": (Answer(b"HTTP/1.1 100 Continue\r\n\r\n" + OK), AB),
    "103 Early Hints, twice": (Answer(b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" * 2 + OK), AB),
    "102, then an error": (
        Answer(
            b"HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 503 Busy\r\nRetry-After: 3\r\nContent-Length: 4\r\n\r\nwait",
            status=503,
        ),
        Says("http_error", detail="Retry-After: 3; wait"),
    ),
    "blank lines before": (Answer(b"\r\n" + OK), AB),
    "what is not HTTP": (refused(b"SSH-2.0-OpenSSH_9.6\r\n"), MALFORMED),
    "the body without a head": (refused(BODY), MALFORMED),
    "a header without a colon": (refused(head("no colon") + BODY), MALFORMED),
    "a version of its own": (refused(b"HTTP/9.9 200 OK\r\n\r\n" + BODY), MALFORMED),
    "a status that is no number": (refused(b"HTTP/1.1 abc OK\r\n\r\n" + BODY), MALFORMED),
}

JSON: Final = "Content-Type: application/json"
STATUSES: Final[dict[str, tuple[Answer, Says]]] = {
    "204": (Answer(head(status="204 No Content"), status=204), Says("not_streamed", detail="status 204")),
    "304": (Answer(head(status="304 Not Modified"), status=304), Says("not_streamed", detail="status 304")),
    "302 to nowhere": (closing(body=b"", status="302 Found"), Says("not_streamed", detail="status 302")),
    "400": (
        closing(JSON, body=b'{"error":{"message":"no"}}', status="400 Bad Request"),
        Says("http_error", detail="no"),
    ),
    "401": (closing(body=b"", status="401 Unauthorized"), Says("http_error")),
    "429": (
        closing("retry-after: 7", body=b"slow down", status="429 Too Many Requests"),
        Says("http_error", detail="Retry-After: 7; slow down"),
    ),
    "429, with a date": (
        closing("Retry-After: Wed, 21 Oct 2026 07:28:00 GMT", body=b"x", status="429 Too Many Requests"),
        Says("http_error", detail="Retry-After: Wed, 21 Oct 2026 07:28:00 GMT; x"),
    ),
    "500 with a stream": (closing(EVENT_STREAM, status="500 Internal Server Error"), Says("http_error")),
    "500, gzipped": (
        closing(GZIP, body=gzip.compress(b"out of memory"), status="500 Internal Server Error"),
        Says("http_error", detail="out of memory"),
    ),
    "503, cut off": (
        closing("Retry-After: 2", "Content-Length: 500", body=b"busy", status="503 Service Unavailable"),
        Says("http_error", detail="Retry-After: 2; busy"),
    ),
    "529": (closing(body=b"overloaded", status="529 Overloaded"), Says("http_error", detail="overloaded")),
    "a whole completion": (
        closing(JSON, body=b'{"choices":[{"message":{"content":"ab"},"finish_reason":"stop"}]}'),
        Says("not_streamed", detail="a whole application/json body"),
    ),
    "a whole error": (closing(JSON, body=b' \n{"error":{"message":"no"}}'), Says("not_streamed", detail='"no"')),
    "lines of JSON": (
        closing("Content-Type: application/x-ndjson", body=b'{"message":{"content":"a"}}\n{"done":true}\n'),
        Says("not_streamed", detail="a whole application/x-ndjson body"),
    ),
    "a page": (closing("Content-Type: text/html", body=b"<html>\n\nhello"), Says("not_streamed", detail="text/html")),
    "words": (closing("Content-Type: text/plain", body=b"hello"), Says("malformed", detail="not server-sent events")),
    "an event alone is a stream": (closing(JSON, body=event({"error": "no"})), Says("stream_error", detail="no")),
}

ANSWERS: Final = {
    f"{group}: {name}": row
    for group, rows in (
        ("chunks", CHUNKING),
        ("length", LENGTHS),
        ("coding", CODINGS),
        ("head", HEADS),
        ("status", STATUSES),
    )
    for name, row in rows.items()
}
