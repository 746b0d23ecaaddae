"""Answers that a receiver reads past aiohttp: taken whole when they are plain, and aiohttp's when they are not."""

import asyncio
import itertools
import selectors
import sys
from collections.abc import Callable
from typing import Any, Final

import aiohttp
import pytest
from aiohttp.client_proto import ResponseHandler

from loadgen.clock import now_ns, wall_offset_ns
from loadgen.record import Reply
from loadgen.wire.chunked import Dechunker
from loadgen.wire.client import Client
from loadgen.wire.exchange import ChatRequest, Deadlines, Exchange
from loadgen.wire.receiver import READ_BYTES, RawBody
from loadgen.wire.reply import read_reply
from tests.integration.leaping import LeapingClock
from tests.integration.server import (
    BEGIN,
    COMMENT,
    DONE,
    END,
    FINISH,
    LAST_CHUNK,
    Fin,
    Hang,
    Rst,
    Script,
    Send,
    Served,
    Server,
    Step,
    Taken,
    Until,
    chunk,
    event,
    head,
    say,
    singly,
    streamed,
    token,
    whole,
)

MS = 1_000_000
S = 1_000 * MS
PATIENT = Deadlines(request_ns=200 * S)
BODY = token("a") + token("b") + FINISH + DONE
pytestmark = [
    pytest.mark.asyncio,
    pytest.mark.skipif(sys.platform != "linux", reason="epoll is Linux's"),
]


async def ask(client: Client, url: str, deadlines: Deadlines = PATIENT) -> Exchange:
    return await client.send(ChatRequest(f"{url}/chat/completions", b"{}", {}, deadlines), now_ns())


def reply_of(exchange: Exchange) -> Reply:
    return read_reply(exchange, epoch_ns=0, wall_offset_ns=wall_offset_ns(), keep_text=True)[0]


async def answers(script: Script, count: int = 1, deadlines: Deadlines = PATIENT) -> tuple[list[Exchange], Server]:
    """So many requests one after the other, all answered so."""
    with Server(script) as server:
        async with Client() as client:
            exchanges = [await ask(client, server.url, deadlines) for _ in range(count)]
    return exchanges, server


def assert_in_order(exchange: Exchange) -> None:
    """Offsets and stamps never decrease, and every read has the kernel's stamp."""
    for before, after in itertools.pairwise(exchange.stamps.reads):
        assert before[0] <= after[0]
        assert before[1] <= after[1]
        assert 0 < before[2] <= after[2]


async def eventually(is_so: Callable[[], bool], within_s: float = 60.0) -> bool:
    """Whether it becomes so in time."""
    until_ns = now_ns() + round(within_s * 1e9)
    while not is_so() and now_ns() < until_ns:  # noqa: ASYNC110  the server tells no event loop but its own
        await asyncio.sleep(0.005)
    return is_so()


def is_taken(exchange: Exchange) -> bool:
    return exchange.stamps.raw_body is not None


# Plain answers


async def test_a_plain_stream_is_taken_and_its_connection_used_again() -> None:
    exchanges, server = await answers(streamed(*"abc", gap_s=0.02), 4)
    assert server.connections == 1
    for exchange in exchanges:
        reply = reply_of(exchange)
        assert (reply.outcome, reply.text, reply.status, reply.stamp_source) == ("ok", "abc", 200, "kernel")
        assert is_taken(exchange)
        assert exchange.response.content_type == "text/event-stream"
        assert_in_order(exchange)


@pytest.mark.parametrize(
    "raw",
    [
        head() + chunk(BODY) + LAST_CHUNK,
        head() + b"".join(chunk(BODY[at : at + 7]) for at in range(0, len(BODY), 7)) + LAST_CHUNK,
        head("200 OK", "X-Long: " + "x" * 300) + chunk(BODY) + LAST_CHUNK,
        head() + f"{len(BODY):X};name=value\r\n".encode() + BODY + b"\r\n000;x\r\n\r\n",
    ],
    ids=["one chunk", "many", "a long head", "extensions"],
)
@pytest.mark.parametrize("size", [1, 2, 3, 5, 64, 100_000])
async def test_however_the_bytes_are_split_it_is_the_same_answer(raw: bytes, size: int) -> None:
    script = tuple(Send(raw[at : at + size]) for at in range(0, len(raw), size))
    (first, second), server = await answers(script, 2)
    for exchange in (first, second):
        reply = reply_of(exchange)
        assert (reply.outcome, reply.text, exchange.body()) == ("ok", "ab", BODY)
        assert is_taken(exchange)
        assert_in_order(exchange)
    assert server.connections == 1


async def test_events_with_crlf_are_taken_without_a_look_at_each(monkeypatch: pytest.MonkeyPatch) -> None:
    looks, dechunked = [], RawBody.dechunked

    def look(raw_body: RawBody) -> Dechunker:
        looks.append(raw_body)
        return dechunked(raw_body)

    monkeypatch.setattr(RawBody, "dechunked", look)
    crlf = tuple(Send(chunk(token(text).replace(b"\n", b"\r\n")), token=True) for text in "abcdef")
    with Server((BEGIN, *singly(*crlf), Send(chunk(DONE.replace(b"\n", b"\r\n"))), Send(LAST_CHUNK))) as server:
        async with Client() as client:
            exchange = await ask(client, server.url)
            during = len(looks)
    assert (reply_of(exchange).outcome, reply_of(exchange).text, reply_of(exchange).shared_reads) == ("ok", "abcdef", 0)
    assert is_taken(exchange)
    assert during <= 2


async def test_events_that_share_a_read_are_counted_and_share_a_stamp() -> None:
    many = Send(b"".join(chunk(token(text)) for text in "bcdefg"), token=True)
    (exchange,), _ = await answers((BEGIN, *singly(*say("a"), many, *say("h"), END)))
    reply = reply_of(exchange)
    assert (reply.outcome, reply.text, reply.shared_reads) == ("ok", "abcdefgh", 5)
    assert is_taken(exchange)
    assert len(set(reply.stamps_ns)) == 3


async def test_an_event_of_two_megabytes_is_taken_whole() -> None:
    text = "x" * (2 << 20)
    (exchange,), _ = await answers(streamed("a", text, "b"))
    reply = reply_of(exchange)
    assert (reply.outcome, reply.text, len(reply.stamps_ns)) == ("ok", "a" + text + "b", 3)
    assert is_taken(exchange)
    assert_in_order(exchange)


async def test_an_answer_in_the_read_of_its_head_is_taken() -> None:
    (first, second), server = await answers((Send(head() + chunk(BODY) + LAST_CHUNK),), 2)
    assert [reply_of(each).text for each in (first, second)] == ["ab", "ab"]
    assert is_taken(second)
    assert len(second.stamps.reads) == 1
    assert server.connections == 1


async def test_a_connection_that_is_to_close_is_not_used_again() -> None:
    script = (Send(head("200 OK", "Connection: close")), *say("a"), END)
    exchanges, server = await answers(script, 2)
    assert [reply_of(each).outcome for each in exchanges] == ["ok", "ok"]
    assert all(map(is_taken, exchanges))
    assert server.connections == 2


async def test_many_streams_at_once_are_each_their_own() -> None:
    with Server(lambda request: streamed(*(f"{request.number}.{n} " for n in range(5)), gap_s=0.02)) as server:
        async with Client() as client:
            exchanges = await asyncio.gather(*(ask(client, server.url) for _ in range(100)))
    texts = sorted(reply_of(exchange).text for exchange in exchanges)  # type: ignore[type-var]
    assert texts == sorted("".join(f"{number}.{n} " for n in range(5)) for number in range(100))
    assert all(map(is_taken, exchanges))


# What aiohttp is to judge


ODD: dict[str, Script] = {
    "a trailer": (BEGIN, *say("a"), Send(chunk(FINISH) + b"0\r\nX-Trailer: 1\r\n\r\n")),
    "a length": (Send(head("200 OK", length=len(BODY)) + BODY),),
    "100 first": (Send(b"HTTP/1.1 100 Continue\r\n\r\n" + head()), *say("a"), END),
    "HTTP/1.0": (Send(head().replace(b"1.1", b"1.0")), *say("a"), END, Fin()),
    "LF in the head": (Send(head().replace(b"\r\n", b"\n")), *say("a"), END),
    "LF in the framing": (BEGIN, Send(chunk(BODY).replace(b"\r\n", b"\n") + b"0\n\n"), Fin()),
    "a size that is none": (BEGIN, *singly(*say("a")), Send(b" 0001 \r\n\r\n"), Fin()),
    "no size": (BEGIN, *singly(*say("a")), Send(b"\r\n\r\n"), Fin()),
    "two encodings": (Send(head("200 OK", "Transfer-Encoding: gzip")), *say("a"), END, Fin()),
    "nothing": (Fin(),),
    "half a head": (Send(head()[:30]), Taken(), Fin()),
    "no HTTP": (Send(b"SSH-2.0-OpenSSH_9.6\r\n\r\n"), Taken(), Fin()),
    "a page": whole("200 OK", b"<!doctype html>", type="text/html"),
    "an error": whole("500 Internal Server Error", b"{}"),
}


@pytest.mark.parametrize("name", ODD)
async def test_what_is_out_of_the_ordinary_is_aiohttps_and_told_as_without_a_receiver(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (ours,), our_server = await answers(ODD[name])
    monkeypatch.setattr("loadgen.wire.client.receives", lambda _: False)
    (theirs,), their_server = await answers(ODD[name])
    first, second = reply_of(ours), reply_of(theirs)
    assert not is_taken(ours)
    assert (first.outcome, first.text) == (second.outcome, second.text)
    assert str(first.detail).replace(str(our_server.port), "") == str(second.detail).replace(str(their_server.port), "")
    assert (first.status, len(first.stamps_ns)) == (second.status, len(second.stamps_ns))
    assert ours.body() == theirs.body()


async def test_after_a_trailer_the_connection_is_used_again() -> None:
    exchanges, server = await answers((BEGIN, *say("a"), Send(chunk(FINISH) + b"0\r\nX-Trailer: 1\r\n\r\n")), 2)
    assert [reply_of(each).outcome for each in exchanges] == ["ok", "ok"]
    assert server.connections == 1


@pytest.mark.parametrize("then", [(), (Hang(),)], ids=["waits", "hangs"])
async def test_bytes_behind_the_end_are_not_the_next_answers(then: Script) -> None:
    def choose(request: Served) -> Script:
        stray = Send(chunk(FINISH) + LAST_CHUNK + b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        return streamed("b") if request.number else (BEGIN, *say("a"), stray, *then)

    with Server(choose) as server:
        async with Client() as client:
            replies = [reply_of(await ask(client, server.url)) for _ in range(2)]
    assert [(reply.outcome, reply.text) for reply in replies] == [("ok", "a"), ("ok", "b")]
    assert server.connections == 2


async def test_bytes_between_two_answers_close_the_connection() -> None:
    came: list[bool] = []

    async def stray_came() -> None:
        came.append(True)

    with Server((*streamed("a"), *singly(Send(b"stray"), Until(stray_came)))) as server:
        async with Client() as client:
            first = reply_of(await ask(client, server.url))
            assert await eventually(lambda: bool(came))
            second = reply_of(await ask(client, server.url))
    assert (first.outcome, second.outcome) == ("ok", "ok")
    assert server.connections == 2


BROKEN: dict[str, tuple[Script, str]] = {
    "FIN": ((Fin(),), "not completed"),
    "RST": ((Rst(),), ""),
    "FIN inside a chunk": ((Send(chunk(token("c"))[:20]), Fin()), "not completed"),
    "a broken chunk": ((Send(b"zz\r\nx\r\n"), Fin()), "not completed"),
}


@pytest.mark.parametrize("name", BROKEN)
async def test_what_breaks_a_stream_is_told_as_aiohttp_tells_it(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the receiver and without it: the same outcome, in the same words, with the same tokens."""
    then, words = BROKEN[name]
    script = (BEGIN, *singly(*say("a", "b")), Taken(), *then)
    (ours,), _ = await answers(script)
    monkeypatch.setattr("loadgen.wire.client.receives", lambda _: False)
    (theirs,), _ = await answers(script)
    first, second = reply_of(ours), reply_of(theirs)
    assert (first.outcome, first.text, len(first.stamps_ns)) == ("truncated", "ab", 2)
    assert (second.outcome, second.detail, second.text) == (first.outcome, first.detail, first.text)
    assert first.detail is not None
    assert words in first.detail
    assert [size for size, *_ in ours.stamps.reads] == [size for size, *_ in theirs.stamps.reads]


async def test_a_broken_chunk_ends_the_request_though_the_connection_stays_open() -> None:
    began_ns = now_ns()
    (exchange,), _ = await answers((BEGIN, *singly(*say("a")), Send(b"zz\r\n"), Hang()))
    assert reply_of(exchange).outcome == "truncated"
    assert now_ns() - began_ns < PATIENT.request_ns // 2, "ended only at the deadline"


async def test_an_error_event_ends_the_request_though_the_connection_stays_open() -> None:
    began_ns = now_ns()
    boom = Send(chunk(event({"error": {"message": "boom"}})))
    with Server((BEGIN, *singly(*say("a")), boom, Hang())) as server:
        async with Client() as client:
            reply = reply_of(await ask(client, server.url))
            assert await eventually(lambda: server.chats[0].gone_ns is not None)
    assert (reply.outcome, reply.detail, reply.text) == ("stream_error", "boom", "a")
    assert now_ns() - began_ns < PATIENT.request_ns // 2, "ended only at the deadline"


async def test_tokens_that_still_come_behind_an_error_event_keep_the_request_going(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("loadgen.wire.deadlines.LINGER_NS", 60 * S)
    leap = LeapingClock(monkeypatch, stamps=True).leap(20)
    boom = Send(chunk(event({"error": {"message": "boom"}})))
    tokens: list[Step] = []
    for each in say(*"bcdefgh"):
        tokens += [leap, each]
    (exchange,), server = await answers((BEGIN, *singly(*say("a"), boom, *tokens, END)))
    assert reply_of(exchange).outcome == "stream_error"
    assert len(server.chats[0].tokens_ns) == 8
    assert server.chats[0].gone_ns is None


# Being given up


async def test_a_cancelled_stream_keeps_what_has_come_and_its_connection_closes() -> None:
    came: list[bool] = []

    async def both_came() -> None:
        came.append(True)

    with Server((BEGIN, *singly(*say("a", "b"), Until(both_came), Hang()))) as server:
        async with Client() as client:
            asked = asyncio.create_task(ask(client, server.url))
            assert await eventually(lambda: bool(came))
            client.abandon()
            exchange = await asked
            assert client.in_flight == 0
            assert await eventually(lambda: server.chats[0].gone_ns is not None)
    reply = reply_of(exchange)
    assert (reply.outcome, reply.text, len(reply.stamps_ns)) == ("cancelled", "ab", 2)


async def test_deadlines_are_kept_by_what_is_held(monkeypatch: pytest.MonkeyPatch) -> None:
    late, leap = Deadlines(200 * S, next_token_ns=60 * S), LeapingClock(monkeypatch).leap(25)
    comments = tuple(Send(chunk(COMMENT)) for _ in range(3))
    script = (BEGIN, *singly(*say("a", "b"), leap, *comments, leap, *comments, leap, *comments, Hang()))
    (exchange,), _ = await answers(script, deadlines=late)
    reply = reply_of(exchange)
    assert (reply.outcome, reply.detail, reply.text) == ("timeout", "waiting for next token, 60 s", "ab")
    assert is_taken(exchange)


async def test_what_the_watchdog_has_decoded_is_not_decoded_again_and_is_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    watched, leap = Deadlines(200 * S, next_token_ns=60 * S), LeapingClock(monkeypatch).leap(1)
    script = (BEGIN, *singly(*say(*"abcd"), leap, *say(*"efgh"), leap, END))
    (exchange,), _ = await answers(script, deadlines=watched)
    reply = reply_of(exchange)
    assert (reply.outcome, reply.text, len(reply.stamps_ns)) == ("ok", "abcdefgh", 8)
    assert exchange.progress.last_token_ns is not None


async def test_a_stream_without_end_ends_at_its_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    flood, leap = (Send(chunk(b"data: {}\n\n" * 600)),) * 50, LeapingClock(monkeypatch).leap(60)
    (exchange,), _ = await answers((BEGIN, *say("a"), *flood, leap, *flood, Hang()), deadlines=Deadlines(60 * S))
    assert reply_of(exchange).outcome == "timeout"
    assert is_taken(exchange)


def limit(monkeypatch: pytest.MonkeyPatch, *, answer_bytes: int = 16 << 20, reads: int = 1 << 18) -> None:
    for module in ("receiver", "stamps"):
        monkeypatch.setattr(f"loadgen.wire.{module}.ANSWER_BYTES", answer_bytes)
        monkeypatch.setattr(f"loadgen.wire.{module}.ANSWER_READS", reads)


def odd(data: bytes) -> bytes:
    """A chunk that only a whole parser of HTTP takes."""
    return b'%x;name="a b"\r\n%b\r\n' % (len(data), data)


TOO_LONG: Final[dict[str, tuple[dict[str, Any], Script]]] = {
    "its bytes": ({"answer_bytes": 100_000}, tuple(Send(chunk(token("x" * 30_000))) for _ in range(20))),
    "its reads": ({"reads": 50}, singly(*say(*"x" * 80))),
    "its bytes, read by aiohttp": (
        {"answer_bytes": 100_000},
        (Send(odd(token("x"))), *(Send(chunk(token("x" * 30_000))) for _ in range(20))),
    ),
    "its reads, read by aiohttp": ({"reads": 50}, (Send(odd(token("x"))), *singly(*say(*"x" * 80)))),
    "a line without end": ({"answer_bytes": 100_000}, (Send(b"fffffff\r\ndata: "), *[Send(b"x" * 30_000)] * 20)),
}


@pytest.mark.parametrize("what", TOO_LONG)
async def test_an_answer_that_is_too_long_is_cut_off_and_the_next_one_has_a_connection_of_its_own(
    monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    limits, flood = TOO_LONG[what]
    limit(monkeypatch, **limits)
    scripts = iter([(BEGIN, *say("a", "b"), *flood, Hang()), streamed("c")])
    with Server(lambda _: next(scripts)) as server:
        async with Client() as client:
            asked = ChatRequest(f"{server.url}/chat/completions", b"{}", {}, PATIENT)
            exchanges = [await client.send(asked, now_ns()) for _ in range(2)]
    long, after = map(reply_of, exchanges)
    assert long.outcome == "truncated"
    assert "the answer was cut off" in (long.detail or "")
    assert len(exchanges[0].body()) <= limits.get("answer_bytes", 1 << 20) + READ_BYTES
    assert exchanges[0].stamps.reads_so_far <= limits.get("reads", 1 << 18) + 1
    if what != "a line without end":
        assert (long.text or "").startswith("ab"), "what came is kept"
    assert (after.outcome, after.text) == ("ok", "c")
    assert server.connections == 2


async def test_an_answer_that_has_ended_in_order_before_it_is_too_long_is_ok(monkeypatch: pytest.MonkeyPatch) -> None:
    limit(monkeypatch, answer_bytes=100_000)
    flood = tuple(Send(chunk(COMMENT * 2000)) for _ in range(20))
    (exchange,), _ = await answers((BEGIN, *say("a"), Send(chunk(FINISH) + chunk(DONE)), *flood, Hang()))
    assert (reply_of(exchange).outcome, reply_of(exchange).text) == ("ok", "a")


async def test_what_was_decoded_of_an_answer_that_aiohttp_gets_back_is_not_counted_twice(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    texts, watched = ["x" * 30_000] * 20, Deadlines(200 * S, next_token_ns=60 * S)
    tokens, leap = say(*texts), LeapingClock(monkeypatch).leap(1)
    script = (BEGIN, *singly(*tokens[:10], leap, Send(odd(COMMENT)), *tokens[10:], leap, END))
    (exchange,), _ = await answers(script, deadlines=watched)
    reply = reply_of(exchange)
    assert (reply.outcome, reply.text, len(reply.stamps_ns)) == ("ok", "".join(texts), 20)
    assert exchange.progress.last_token_ns is not None
    assert not is_taken(exchange)


# Requests


async def test_the_short_way_and_aiohttps_client_send_the_same_request(monkeypatch: pytest.MonkeyPatch) -> None:
    async def served() -> Served:
        with Server(streamed("a")) as server:
            async with Client(headers={"X-Client": "é"}) as client:
                asked = ChatRequest(
                    f"{server.url}/chat/completions?a=b%20c", b'{"a": 1}', {"Authorization": "k"}, PATIENT
                )
                assert reply_of(await client.send(asked, now_ns())).outcome == "ok"
        return server.chats[0]

    direct = await served()
    monkeypatch.setattr("loadgen.wire.client.DirectRequest.open", lambda *_: None)
    usual = await served()
    for request in (direct, usual):
        host = request.headers.pop("host")
        assert host.startswith("127.0.0.1:")
    assert (direct.method, direct.path, direct.body) == (usual.method, usual.path, usual.body)
    assert direct.headers == usual.headers


@pytest.mark.parametrize(
    ("url", "headers"),
    [
        ("http://user:word@{}/v1/x", {}),
        ("http://{}/v1/x", {"Content-Length": "2"}),
        ("http://{}/v1/x", {"Connection": "close"}),
        ("http://{}/v1/x", {"host": "elsewhere"}),
    ],
    ids=["a user", "a length", "a connection", "a host"],
)
async def test_a_request_out_of_the_ordinary_is_aiohttps(url: str, headers: dict[str, str]) -> None:
    with Server(streamed("a")) as server:
        async with Client() as client:
            address = url.format(f"127.0.0.1:{server.port}")
            exchange = await client.send(ChatRequest(address, b"{}", headers, PATIENT), now_ns())
    assert reply_of(exchange).outcome == "ok"
    assert not is_taken(exchange)


@pytest.mark.parametrize("value", ["a\r\nX-Smuggled: 1", "a\nb", "a\x00b"])
async def test_a_header_with_a_line_end_is_never_sent(value: str) -> None:
    with Server(streamed("a")) as server:
        async with Client() as client:
            exchange = await client.send(ChatRequest(f"{server.url}/x", b"{}", {"X-A": value}, PATIENT), now_ns())
            assert await eventually(lambda: server.connections == 1)  # aiohttp connects before it looks
    assert reply_of(exchange).outcome == "malformed"
    assert server.chats == []


async def test_a_redirect_to_another_server_goes_without_the_key() -> None:
    with Server(streamed("a")) as other:

        def choose(_: Served) -> Script:
            return whole("307 Temporary Redirect", b"", f"Location: {other.url}/moved")

        with Server(choose) as server:
            async with Client() as client:
                asked = ChatRequest(f"{server.url}/x", b"{}", {"Authorization": "Bearer k"}, PATIENT)
                exchange = await client.send(asked, now_ns())
    assert reply_of(exchange).outcome == "ok"
    assert "authorization" not in other.chats[0].headers


# What it is built on


async def test_the_loops_selector_is_as_it_was_when_the_client_has_closed() -> None:
    selector = asyncio.get_running_loop()._selector  # type: ignore[attr-defined]
    async with Client():
        assert "select" in vars(selector)
    assert "select" not in vars(selector)
    assert isinstance(selector, selectors.BaseSelector)


async def test_a_second_client_on_the_same_loop_and_one_that_outlives_the_first() -> None:
    with Server(streamed("a", "b", gap_s=0.05)) as server:
        async with Client() as second:
            first = await Client().__aenter__()
            both = await asyncio.gather(ask(first, server.url), ask(second, server.url))
            await first.__aexit__()
            exchanges = [*both, await ask(second, server.url)]
    assert [reply_of(exchange).text for exchange in exchanges] == ["ab"] * 3
    assert all(map(is_taken, exchanges))


async def test_where_the_selector_is_not_to_be_had_the_receiver_is_a_file_of_the_loop(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("loadgen.wire.receiver._is_free", lambda _: False)
    exchanges, server = await answers(streamed("a", "b", gap_s=0.05), 2)
    assert [reply_of(exchange).text for exchange in exchanges] == ["ab", "ab"]
    assert all(map(is_taken, exchanges))
    assert server.connections == 1


async def test_timers_and_files_of_the_loop_are_not_kept_waiting_by_a_stream() -> None:
    late_ns: list[int] = []
    loop = asyncio.get_running_loop()

    def tick(due_ns: int) -> None:
        late_ns.append(now_ns() - due_ns)
        if len(late_ns) < 20:
            loop.call_later(0.01, tick, now_ns() + 10 * MS)

    tick(now_ns())
    with Server(streamed(*["x"] * 200, gap_s=0.002)) as server:
        async with Client() as client:
            streaming = asyncio.create_task(ask(client, server.url))
            others = await asyncio.gather(*(asyncio.to_thread(int, n) for n in range(20)))
            exchange = await streaming
    assert reply_of(exchange).outcome == "ok"
    assert others == list(range(20))
    assert len(late_ns) == 20
    assert min(late_ns[1:]) > -2 * MS


async def test_an_error_of_ours_in_a_call_does_not_end_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[dict[str, object]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))
    monkeypatch.setattr("loadgen.wire.direct_response.is_plain_head", lambda _: 1 // 0)
    leap = LeapingClock(monkeypatch).leap(60)
    (exchange,), _ = await answers((*streamed("a"), Taken(), leap), deadlines=Deadlines(60 * S))
    assert reply_of(exchange).outcome == "timeout"
    assert isinstance(told[0]["exception"], ZeroDivisionError)


@pytest.mark.parametrize("gone", ["_create_connection", "_payload"])
async def test_where_aiohttp_has_lost_what_this_takes_requests_go_the_long_way(
    gone: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = hasattr
    for module in ("stamps", "direct_request"):
        monkeypatch.setattr(
            f"loadgen.wire.{module}.hasattr", lambda of, name: name != gone and there(of, name), raising=False
        )
    exchanges, server = await answers(streamed("a", "b", gap_s=0.05), 2)
    assert [reply_of(exchange).text for exchange in exchanges] == ["ab", "ab"]
    assert not any(map(is_taken, exchanges))
    assert server.connections == 1


async def test_what_is_relied_on_in_aiohttp_is_there() -> None:
    assert hasattr(aiohttp.TCPConnector, "_create_connection")
    assert hasattr(ResponseHandler(asyncio.get_running_loop()), "_payload")
