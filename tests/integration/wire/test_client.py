"""Every outcome of the closed set on a real socket, and the stamps that a request keeps whatever becomes of it.

Stamps are compared with the server's own account: an event's stamp lies between the send that completed it and the
next send, which comes when the client has read it. Deadlines pass when the server has said all that it says before.
"""

import asyncio
import socket
import sys
from collections.abc import Callable

import pytest
from msgspec import UNSET

from loadgen.clock import now_ns, wall_offset_ns
from loadgen.record import Outcome, Reply
from loadgen.wire.client import Client
from loadgen.wire.deadlines import LINGER_NS
from loadgen.wire.exchange import ChatRequest, Deadlines
from loadgen.wire.reply import read_reply
from tests.integration.leaping import LeapingClock
from tests.integration.server import (
    BEGIN,
    COMMENT,
    DONE,
    END,
    FINISH,
    LAST_CHUNK,
    ROLE,
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
    usage,
    whole,
)

MS = 1_000_000
S = 1_000 * MS
PATIENT = Deadlines(request_ns=200 * S)
TOLERANCE_NS = 1 * MS  # of the conversion between the kernel's clock and ours


async def ask(client: Client, url: str, deadlines: Deadlines = PATIENT) -> Reply:
    """One chat; stamps are on the machine's clock."""
    exchange = await client.send(ChatRequest(f"{url}/chat/completions", b"{}", {}, deadlines), now_ns())
    return read_reply(exchange, epoch_ns=0, wall_offset_ns=wall_offset_ns(), keep_text=True)[0]


def answer(script: Script, deadlines: Deadlines = PATIENT) -> tuple[Reply, Served]:
    """What comes of one request that is answered so, and the server's account of it."""

    async def main() -> tuple[Reply, Served]:
        with Server(script) as server:
            async with Client() as client:
                reply = await ask(client, server.url, deadlines)
        return reply, server.chats[0]

    return asyncio.run(main())


def assert_stamped(reply: Reply, request: Served, tokens: int) -> None:
    """Each token's stamp is that of the read that brought it: not before its send, and before the next one."""
    assert len(reply.stamps_ns) == len(request.tokens_ns) == tokens
    for index, stamp in enumerate(reply.stamps_ns):
        assert stamp >= request.tokens_ns[index] - TOLERANCE_NS
        if index + 1 < tokens:
            assert stamp < request.tokens_ns[index + 1]


async def eventually(is_so: Callable[[], bool], within_s: float = 60.0) -> bool:
    """Whether it becomes so in time."""
    until_ns = now_ns() + round(within_s * 1e9)
    while not is_so() and now_ns() < until_ns:  # noqa: ASYNC110  the server tells no event loop but its own
        await asyncio.sleep(0.005)
    return is_so()


# ok


def test_a_whole_stream_is_ok_with_a_stamp_a_token() -> None:
    script = (BEGIN, Send(chunk(ROLE)), *singly(*say("a", "b", "c")), Taken(), Send(chunk(FINISH + usage(7, 3))), END)
    reply, request = answer(script)
    assert (reply.outcome, reply.detail, reply.status) == ("ok", None, 200)
    assert (reply.text, reply.finish_reason) == ("abc", "stop")
    assert (reply.prompt_tokens, reply.output_tokens, reply.token_source) == (7, 3, "usage")
    assert_stamped(reply, request, 3)


def test_the_stamps_of_a_request_are_in_order_and_frame_what_the_server_saw() -> None:
    def on_the_way_ns() -> int:
        """From the stamp of the write to the arrival."""
        reply, request = answer((BEGIN, *singly(*say("a", "b")), END))
        assert reply.dispatched_ns is not None
        assert reply.sent_ns is not None
        assert reply.written_ns is not None
        assert reply.end_ns is not None
        assert reply.last_byte_ns is not None
        assert reply.dispatched_ns <= reply.sent_ns <= reply.written_ns <= reply.stamps_ns[0]
        assert reply.stamps_ns[-1] <= reply.end_ns <= reply.last_byte_ns
        assert reply.sent_ns <= request.arrived_ns + TOLERANCE_NS
        return request.arrived_ns - reply.written_ns

    # Others who run between the stamp and the write do so now and then, not each time.
    assert any(on_the_way_ns() < 50 * MS for _ in range(50))


def test_without_done_a_finish_reason_is_an_orderly_end() -> None:
    reply, _ = answer((BEGIN, *say("a"), Send(chunk(FINISH) + LAST_CHUNK)))
    assert (reply.outcome, reply.detail) == ("ok", None)


def test_without_a_finish_reason_done_is_an_orderly_end() -> None:
    reply, _ = answer((BEGIN, *say("a"), Send(chunk(DONE) + LAST_CHUNK)))
    assert (reply.outcome, reply.finish_reason) == ("ok", None)


def test_a_body_that_only_the_closed_connection_ends_is_ok() -> None:
    begin = Send(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n")
    reply, request = answer((begin, Taken(), Send(token("a"), token=True), Taken(), Send(FINISH), Fin()))
    assert reply.outcome == "ok"
    assert_stamped(reply, request, 1)


AFTER_THE_END: dict[str, tuple[Step, ...]] = {
    "FIN": (Fin(),),
    "RST": (Taken(), Rst()),
    "a broken chunk": (Send(b"zz\r\n"), Fin()),
    "bytes that are not UTF-8": (Send(chunk(b"data: \xff\xfe\n\n")), Fin()),
    "an error event": (Send(chunk(event({"error": {"message": "late"}}))), Fin()),
    "half an event": (Send(chunk(b"data: {")), Fin()),
}


@pytest.mark.parametrize("then", AFTER_THE_END.values(), ids=AFTER_THE_END)
@pytest.mark.parametrize("end", [FINISH, DONE], ids=["finish reason", "[DONE]"])
def test_after_the_orderly_end_nothing_spoils_an_ok(end: bytes, then: tuple[Step, ...]) -> None:
    reply, request = answer((BEGIN, *singly(*say("a", "b")), Send(chunk(end)), *then))
    assert (reply.outcome, reply.detail) == ("ok", None)
    assert_stamped(reply, request, 2)


@pytest.mark.asyncio
@pytest.mark.parametrize("end", [FINISH, DONE], ids=["finish reason", "[DONE]"])
async def test_a_connection_held_open_after_the_end_is_given_up_soon_and_ok(end: bytes) -> None:
    began_ns = now_ns()
    with Server((BEGIN, *singly(*say("a"), Send(chunk(end), token=True), Hang()))) as server:
        async with Client() as client:
            reply = await ask(client, server.url)
            request = server.chats[0]
            assert await eventually(lambda: request.gone_ns is not None)
    assert (reply.outcome, reply.detail) == ("ok", None)
    assert reply.stamps_ns[0] < request.tokens_ns[1]
    assert now_ns() - began_ns < PATIENT.request_ns // 2, "ended only at the deadline"
    assert reply.end_ns is not None
    assert reply.end_ns >= request.tokens_ns[1] - TOLERANCE_NS
    assert request.gone_ns is not None
    assert request.gone_ns - reply.end_ns >= LINGER_NS, "the end is when it arrived, not when it was given up"


def test_a_silent_stream_that_has_not_ended_is_not_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    leap = LeapingClock(monkeypatch).leap(60)
    reply, request = answer((BEGIN, *singly(*say("a"), leap, *say("b"), END)))
    assert reply.outcome == "ok"
    assert_stamped(reply, request, 2)


# reads


def test_the_last_token_of_a_closing_connection_has_the_stamp_of_its_own_read() -> None:
    last = chunk(token("c")) + chunk(FINISH) + chunk(DONE) + LAST_CHUNK
    begin = Send(head("200 OK", "Connection: close"))
    reply, request = answer((begin, *singly(*say("a", "b")), Taken(), Send(last, token=True), Fin()))
    assert (reply.outcome, reply.text) == ("ok", "abc")
    assert_stamped(reply, request, 3)
    assert reply.end_ns == reply.stamps_ns[-1]


@pytest.mark.parametrize("headers", [(), ("Connection: close",)], ids=["kept alive", "closed"])
@pytest.mark.parametrize("framing", ["chunked", "length"])
def test_headers_and_body_in_one_read_have_that_reads_stamp(headers: tuple[str, ...], framing: str) -> None:
    body = token("a") + token("b") + FINISH + DONE
    answer_bytes = (
        head("200 OK", *headers) + chunk(body) + LAST_CHUNK
        if framing == "chunked"
        else head("200 OK", *headers, length=len(body)) + body
    )
    end = (Fin(),) if headers else ()
    reply, request = answer((Taken(), Send(answer_bytes, token=True), *end))
    assert (reply.outcome, reply.text) == ("ok", "ab")
    assert reply.stamps_ns == (reply.end_ns, reply.end_ns)
    assert reply.stamps_ns[0] >= request.tokens_ns[0] - TOLERANCE_NS
    assert reply.shared_reads == 1


def test_events_that_share_a_read_share_its_stamp_and_are_counted() -> None:
    three = Send(chunk(token("b")) + chunk(token("c") + token("d")), token=True)
    reply, request = answer((BEGIN, *singly(*say("a"), three, *say("e")), Taken(), END))
    assert reply.shared_reads == 2
    first, *shared, last = reply.stamps_ns
    assert len(set(shared)) == 1
    for stamp, sent in zip((first, shared[0], last), request.tokens_ns, strict=True):
        assert stamp >= sent - TOLERANCE_NS
    assert first < request.tokens_ns[1] < shared[0] + TOLERANCE_NS
    assert shared[0] < request.tokens_ns[2]


def test_an_event_over_several_reads_has_the_stamp_of_its_last_byte() -> None:
    first, second = token("a"), token("é")
    cut = second.index(b"\xc3") + 1  # inside a character
    steps = (
        Send(chunk(first + second[:cut]), token=True),
        Send(chunk(second[cut:-1])),
        Send(chunk(b"\n"), token=True),
        Send(chunk(FINISH)),
    )
    reply, request = answer((BEGIN, *singly(*steps), END))
    assert (reply.outcome, reply.text, reply.shared_reads) == ("ok", "aé", 0)
    assert_stamped(reply, request, 2)


def test_a_chunk_over_several_reads_has_the_stamp_of_the_events_last_byte_not_of_the_chunks() -> None:
    framed = chunk(token("a"))
    first, second, third, last = framed[:1], framed[1:20], framed[20:-2], framed[-2:]
    steps = (Send(first), Send(second), Send(third, token=True), Send(last, token=True), *say("b"))
    reply, request = answer((BEGIN, *singly(*steps), END))
    assert (reply.outcome, reply.text, len(reply.stamps_ns)) == ("ok", "ab", 2)
    event_ns, chunk_ns, other_ns = request.tokens_ns
    assert event_ns - TOLERANCE_NS <= reply.stamps_ns[0] < chunk_ns
    assert reply.stamps_ns[1] >= other_ns - TOLERANCE_NS


def test_a_long_answer_is_read_whole() -> None:
    texts = ["x" * 30_000] * 40
    reply, _ = answer(streamed(*texts))
    assert (reply.outcome, reply.text, len(reply.stamps_ns)) == ("ok", "".join(texts), 40)


# http_error


@pytest.mark.parametrize(
    ("status", "headers", "told"),
    [
        ("400 Bad Request", (), '{"error": "no such thing"}'),
        ("404 Not Found", (), '{"error": "no such thing"}'),
        ("429 Too Many Requests", ("Retry-After: 7",), 'Retry-After: 7; {"error": "no such thing"}'),
        ("503 Service Unavailable", ("Retry-After: 2",), 'Retry-After: 2; {"error": "no such thing"}'),
    ],
)
def test_a_status_of_400_or_more_is_an_http_error(status: str, headers: tuple[str, ...], told: str) -> None:
    reply, _ = answer(whole(status, b'{"error": "no such thing"}', *headers))
    assert (reply.outcome, reply.status, reply.detail) == ("http_error", int(status[:3]), told)
    assert (reply.stamps_ns, reply.output_tokens) == ((), None)
    assert reply.end_ns is not None


def test_an_http_error_whose_body_never_ends_is_one_at_the_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    leap = LeapingClock(monkeypatch).leap(60)
    oops = Send(head("500 Internal Server Error", length=99) + b"oops")
    reply, _ = answer((oops, Taken(), leap, Hang()), Deadlines(60 * S))
    assert (reply.outcome, reply.status) == ("http_error", 500)


def test_an_event_stream_with_an_error_status_is_an_http_error() -> None:
    reply, _ = answer((Send(head("500 Internal Server Error")), *say("a"), END))
    assert (reply.outcome, reply.status, reply.stamps_ns) == ("http_error", 500, ())


# Every other way to fail: outcome, what the detail says, tokens that came before. After BEGIN where not said otherwise.

FAILURES: dict[str, tuple[Outcome, str, int, Script]] = {
    "an error event": (
        "stream_error",
        "the context is too long",
        1,
        (
            BEGIN,
            Taken(),
            *say("a"),
            Taken(),
            Send(chunk(event({"error": {"message": "the context is too long"}})) + LAST_CHUNK),
        ),
    ),
    "an error event first": ("stream_error", "boom", 0, (BEGIN, Send(chunk(event({"error": "boom"})) + LAST_CHUNK))),
    "FIN in a chunked stream": ("truncated", "not completed", 2, (BEGIN, *singly(*say("a", "b")), Fin())),
    "FIN before the promised length": (
        "truncated",
        "not completed",
        1,
        (Send(head(length=5000)), Taken(), Send(token("a"), token=True), Fin()),
    ),
    "RST in a stream": ("truncated", "reset", 2, (BEGIN, *singly(*say("a", "b")), Taken(), Rst())),
    "a broken chunk": ("truncated", "", 2, (BEGIN, *singly(*say("a", "b")), Taken(), Send(b"zz\r\nx\r\n"), Fin())),
    "the last chunk before the end": (
        "truncated",
        "after 1 token, without an orderly end",
        1,
        (BEGIN, *say("a"), Taken(), Send(LAST_CHUNK)),
    ),
    "FIN ends a body without a length": (
        "truncated",
        "after 1 token, without an orderly end",
        1,
        (Send(b"HTTP/1.1 200 OK\r\n\r\n"), Taken(), Send(token("a"), token=True), Taken(), Fin()),
    ),
    "the stream ends before a token": (
        "truncated",
        "before the first token",
        0,
        (BEGIN, Send(chunk(ROLE) + LAST_CHUNK)),
    ),
    "a stream with nothing in it": ("truncated", "empty", 0, (BEGIN, Send(LAST_CHUNK))),
    "FIN before the headers": ("truncated", "disconnected", 0, (Taken(), Fin())),
    "RST before the headers": ("truncated", "", 0, (Taken(), Rst())),
    "FIN inside the headers": ("truncated", "", 0, (Send(b"HTTP/1.1 200 OK\r\nContent-Ty"), Taken(), Fin())),
    "what is not HTTP": ("malformed", "", 0, (Send(b"SSH-2.0-OpenSSH_9.6\r\n\r\n"), Taken(), Fin())),
    "headers that are none": ("malformed", "", 0, (Send(b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n"), Taken(), Fin())),
    "what is not SSE": (
        "malformed",
        "not server-sent events: hello there",
        0,
        (BEGIN, Send(chunk(b"hello there\n\n") + LAST_CHUNK)),
    ),
    "bytes that are not UTF-8": (
        "malformed",
        "event 2: not UTF-8",
        1,
        (BEGIN, Taken(), *say("a"), Taken(), Send(chunk(token("b").replace(b"b", b"\xff"))), END),
    ),
    "JSON that is broken": (
        "malformed",
        "event 2: not a JSON object",
        1,
        (BEGIN, Taken(), *say("a"), Taken(), Send(chunk(b"data: {'a': 1}\n\n")), END),
    ),
    "a whole JSON body": (
        "not_streamed",
        'a whole application/json body: {"choices"',
        0,
        whole("200 OK", b'{"choices": [{"message": {"content": "hi"}}]}'),
    ),
    "an HTML page": (
        "not_streamed",
        "a whole text/html body: <!doctype html>",
        0,
        whole("200 OK", b"<!doctype html><p>hi", type="text/html"),
    ),
    "no content": ("not_streamed", "status 204", 0, (Send(b"HTTP/1.1 204 No Content\r\n\r\n"),)),
    "an end without a token": ("empty", "no token", 0, (BEGIN, Send(chunk(ROLE)), END)),
    "nothing but [DONE]": ("empty", "no token", 0, (BEGIN, Send(chunk(DONE) + LAST_CHUNK))),
}


@pytest.mark.parametrize("name", FAILURES)
def test_a_failure_has_its_outcome_and_keeps_the_stamps_that_it_got(name: str) -> None:
    outcome, detail, tokens, script = FAILURES[name]
    reply, request = answer(script)
    assert reply.outcome == outcome, reply.detail
    assert reply.detail
    assert detail in reply.detail.lower() if detail.islower() else detail in reply.detail
    assert len(reply.detail) <= 300
    assert "\n" not in reply.detail
    assert_stamped(reply, request, tokens)
    assert reply.written_ns is not None
    assert reply.end_ns is not None


def test_an_error_event_is_a_stream_error_though_the_connection_stays_open(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    leap = LeapingClock(monkeypatch).leap(60)
    boom = Send(chunk(event({"error": {"message": "boom"}})))
    reply, request = answer((BEGIN, *singly(*say("a"), boom, leap), Hang()), Deadlines(60 * S))
    assert (reply.outcome, reply.detail) == ("stream_error", "boom")
    assert_stamped(reply, request, 1)


# connect_error


def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@pytest.mark.parametrize(
    "url",
    [
        f"http://127.0.0.1:{closed_port()}/v1",
        "http://nowhere.invalid:80/v1",
        f"http://{'a' * 64}.invalid/v1",
    ],
    ids=["refused", "no such host", "no possible host"],
)
def test_where_no_connection_can_be_made_it_is_a_connect_error(url: str) -> None:
    async def main() -> Reply:
        async with Client() as client:
            return await ask(client, url)

    reply = asyncio.run(main())
    assert reply.outcome == "connect_error", reply.detail
    assert reply.detail
    assert (reply.status, reply.written_ns, reply.stamps_ns) == (None, None, ())


def test_tls_with_a_server_that_has_none_is_a_connect_error() -> None:
    async def main(url: str) -> Reply:
        async with Client() as client:
            return await ask(client, url.replace("http:", "https:"))

    listener = socket.create_server(("127.0.0.1", 0))

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(100)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await writer.drain()
        writer.close()

    async def both() -> Reply:
        async with await asyncio.start_server(refuse, sock=listener):
            return await main(f"http://127.0.0.1:{listener.getsockname()[1]}/v1")

    reply = asyncio.run(both())
    assert (reply.outcome, reply.written_ns) == ("connect_error", None)


# timeout

COMMENTS = tuple(Send(chunk(COMMENT)) for _ in range(3))
Leap = Callable[[float], Step]
LATE: dict[str, tuple[Deadlines, str, int, Callable[[Leap], Script]]] = {
    "headers": (
        Deadlines(200 * S, headers_ns=60 * S),
        "waiting for headers, 60 s",
        0,
        lambda leap: (leap(60), Hang()),
    ),
    "headers, by the request's deadline": (
        Deadlines(60 * S),
        "waiting for headers, request deadline 60 s",
        0,
        lambda leap: (leap(60), Hang()),
    ),
    "first token, though comments keep coming": (
        Deadlines(200 * S, first_token_ns=60 * S),
        "waiting for first token, 60 s",
        0,
        lambda leap: (BEGIN, *singly(Send(chunk(ROLE)), leap(25), *COMMENTS, leap(25), *COMMENTS, leap(25), Hang())),
    ),
    "first token, by the request's deadline": (
        Deadlines(60 * S),
        "waiting for first token, request deadline 60 s",
        0,
        lambda leap: (BEGIN, *singly(Send(chunk(ROLE)), leap(60), Hang())),
    ),
    "next token": (
        Deadlines(200 * S, next_token_ns=60 * S),
        "waiting for next token, 60 s",
        2,
        lambda leap: (BEGIN, *singly(*say("a", "b"), leap(61), Hang())),
    ),
    "next token, though comments keep coming": (
        Deadlines(200 * S, next_token_ns=60 * S),
        "waiting for next token, 60 s",
        2,
        lambda leap: (BEGIN, *singly(*say("a", "b"), leap(25), *COMMENTS, leap(25), *COMMENTS, leap(25), Hang())),
    ),
    "the end, though tokens keep coming": (
        Deadlines(60 * S),
        "waiting for next token, request deadline 60 s",
        3,
        lambda leap: (BEGIN, *singly(*say("a"), leap(25), *say("b"), leap(25), *say("c"), leap(25), Hang())),
    ),
}


@pytest.mark.parametrize("name", LATE)
def test_what_is_late_is_a_timeout_that_says_what_was_waited_for(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    deadlines, detail, tokens, script = LATE[name]
    began_ns = now_ns()
    reply, request = answer(script(LeapingClock(monkeypatch).leap), deadlines)
    assert (reply.outcome, reply.detail) == ("timeout", detail)
    assert_stamped(reply, request, tokens)
    assert now_ns() - began_ns < 60 * S, "by the clock of the machine, nothing was late"


def test_steady_tokens_do_not_pass_the_deadlines_of_one_token(monkeypatch: pytest.MonkeyPatch) -> None:
    leap = LeapingClock(monkeypatch, stamps=True).leap(40)
    deadlines = Deadlines(2_000 * S, headers_ns=60 * S, first_token_ns=60 * S, next_token_ns=60 * S)
    tokens: list[Step] = []
    for each in say(*"abcdefgh"):
        tokens += [leap, each]
    reply, request = answer((BEGIN, *singly(*tokens), Taken(), END), deadlines)
    assert (reply.outcome, reply.text) == ("ok", "abcdefgh"), reply.detail
    sent_ns = [sent + 40 * S * (place + 1) for place, sent in enumerate(request.tokens_ns)]
    for place, stamp in enumerate(reply.stamps_ns):
        assert sent_ns[place] <= stamp < (*sent_ns, stamp + 1)[place + 1]


@pytest.mark.asyncio
async def test_who_is_late_is_hung_up_on(monkeypatch: pytest.MonkeyPatch) -> None:
    with Server((BEGIN, LeapingClock(monkeypatch).leap(60), Hang())) as server:
        async with Client() as client:
            await ask(client, server.url, Deadlines(60 * S))
            assert await eventually(lambda: server.chats[0].gone_ns is not None)


# cancelled


@pytest.mark.asyncio
async def test_abandon_cancels_what_is_in_flight_and_keeps_its_stamps() -> None:
    came: list[int] = []

    async def both_came() -> None:
        came.append(2)

    with Server((BEGIN, *singly(*say("a", "b"), Until(both_came), Hang()))) as server:
        async with Client() as client:
            asked = [asyncio.create_task(ask(client, server.url)) for _ in range(3)]
            assert await eventually(lambda: came == [2, 2, 2])
            assert client.in_flight == 3
            client.abandon()
            replies = await asyncio.gather(*asked)
            assert client.in_flight == 0
            assert await eventually(lambda: all(request.gone_ns for request in server.chats))
    for reply in replies:
        assert (reply.outcome, reply.detail) == ("cancelled", "stopped by the user")
        assert (len(reply.stamps_ns), reply.text) == (2, "ab")


@pytest.mark.asyncio
async def test_cancelling_the_task_itself_is_no_outcome_but_goes_through() -> None:
    with Server((BEGIN, Hang())) as server:
        async with Client() as client:
            asked = asyncio.create_task(ask(client, server.url))
            assert await eventually(lambda: bool(server.chats))
            asked.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asked
            assert client.in_flight == 0


# connections


@pytest.mark.asyncio
async def test_a_connection_is_used_again_and_its_stamps_are_the_new_requests() -> None:
    with Server((BEGIN, *singly(*say("a", "b")), END)) as server:
        async with Client() as client:
            replies = [await ask(client, server.url) for _ in range(3)]
    assert server.connections == 1
    assert [request.nth for request in server.chats] == [0, 1, 2]
    assert replies[0].connect_ns is not None
    assert [reply.connect_ns for reply in replies[1:]] == [None, None]
    for reply, request in zip(replies, server.chats, strict=True):
        assert reply.outcome == "ok"
        assert reply.sent_ns is not None
        assert reply.written_ns is not None
        assert reply.dispatched_ns is not None
        assert reply.dispatched_ns <= reply.sent_ns <= reply.written_ns
        assert_stamped(reply, request, 2)


@pytest.mark.asyncio
async def test_after_a_failed_stream_the_connection_is_not_used_again(monkeypatch: pytest.MonkeyPatch) -> None:
    leap = LeapingClock(monkeypatch).leap(60)

    def choose(request: Served) -> Script:
        return streamed("a") if request.number else (BEGIN, *say("x"), leap, Hang())

    with Server(choose) as server:
        async with Client() as client:
            first = await ask(client, server.url, Deadlines(60 * S))
            second = await ask(client, server.url)
    assert (first.outcome, second.outcome, second.text) == ("timeout", "ok", "a")
    assert server.connections == 2


@pytest.mark.asyncio
async def test_opened_connections_are_used_by_the_requests_that_follow() -> None:
    with Server((BEGIN, Taken(), *say("a"), END)) as server:
        async with Client() as client:
            await client.open_connections(f"{server.url}/models", 4, {})
            replies = await asyncio.gather(*(ask(client, server.url) for _ in range(4)))
    assert server.connections == 4
    assert [reply.connect_ns for reply in replies] == [None] * 4


@pytest.mark.asyncio
@pytest.mark.parametrize("close", [Fin(), Rst()], ids=["FIN", "RST"])
async def test_a_reused_connection_that_the_server_closed_is_tried_once_more_on_a_new_one(close: Fin | Rst) -> None:
    def choose(request: Served) -> Script:
        return (close,) if request.nth else (BEGIN, *singly(*say("a", "b")), END)

    with Server(choose) as server:
        async with Client() as client:
            first, second = [await ask(client, server.url) for _ in range(2)]
    assert (first.outcome, second.outcome, second.detail) == ("ok", "ok", None)
    assert [(request.connection, request.nth) for request in server.chats] == [(0, 0), (0, 1), (1, 0)]
    assert_stamped(second, server.chats[2], 2)
    assert second.connect_ns is not None
    assert second.sent_ns is not None
    assert second.written_ns is not None
    assert second.sent_ns <= server.chats[1].arrived_ns + TOLERANCE_NS, "the wait counts from the first try"
    assert second.written_ns >= server.chats[1].read_ns, "the server's part counts from the second"


@pytest.mark.asyncio
async def test_an_idle_connection_that_was_closed_long_ago_is_not_even_tried() -> None:
    def choose(request: Served) -> Script:
        return (*streamed("a"), Fin())

    with Server(choose) as server:
        async with Client() as client:
            first = await ask(client, server.url)
            assert await eventually(lambda: server.open_connections == 0)
            for _ in range(3):
                await asyncio.sleep(0.01)  # until the client has been told
            second = await ask(client, server.url)
    assert (first.outcome, second.outcome) == ("ok", "ok")
    assert [(request.connection, request.nth) for request in server.chats] == [(0, 0), (1, 0)]


@pytest.mark.asyncio
async def test_it_is_tried_once_more_and_not_twice() -> None:
    def choose(request: Served) -> Script:
        return (Fin(),) if request.number else streamed("a")

    with Server(choose) as server:
        async with Client() as client:
            first, second = [await ask(client, server.url) for _ in range(2)]
    assert (first.outcome, second.outcome, second.stamps_ns) == ("ok", "truncated", ())
    assert len(server.chats) == 3


@pytest.mark.asyncio
async def test_a_new_connection_that_the_server_closes_is_not_tried_again() -> None:
    with Server((Fin(),)) as server:
        async with Client() as client:
            reply = await ask(client, server.url)
    assert reply.outcome == "truncated"
    assert len(server.chats) == 1


@pytest.mark.asyncio
@pytest.mark.parametrize("begin", [BEGIN, Send(b"HTTP/1.1 200 OK\r\nContent-Ty")], ids=["headers", "half of them"])
async def test_a_reused_connection_that_breaks_after_the_answer_began_is_not_tried_again(begin: Send) -> None:
    def choose(request: Served) -> Script:
        return (begin, Taken(), Fin()) if request.nth else streamed("a")

    with Server(choose) as server:
        async with Client() as client:
            first, second = [await ask(client, server.url) for _ in range(2)]
    assert (first.outcome, second.outcome, len(server.chats)) == ("ok", "truncated", 2)


def test_after_a_redirect_the_stamps_are_those_of_the_answer_that_counts() -> None:
    def choose(request: Served) -> Script:
        if request.path == "/v1/moved":
            return (BEGIN, *singly(*say("a", "b")), END)
        return whole("307 Temporary Redirect", b"x" * 5000, "Location: /v1/moved")

    async def main() -> tuple[Reply, Server]:
        with Server(choose) as server:
            async with Client() as client:
                return await ask(client, server.url), server

    reply, server = asyncio.run(main())
    assert (reply.outcome, reply.text, len(server.chats)) == ("ok", "ab", 2)
    assert_stamped(reply, server.chats[1], 2)


@pytest.mark.asyncio
async def test_headers_of_the_ask_and_of_the_client_are_sent() -> None:
    with Server(streamed("a")) as server:
        async with Client(headers={"X-Client": "c"}) as client:
            asked = ChatRequest(f"{server.url}/chat/completions", b'{"a": 1}', {"Authorization": "Bearer k"}, PATIENT)
            await client.send(asked, now_ns())
    request = server.chats[0]
    assert (request.headers["authorization"], request.headers["x-client"]) == ("Bearer k", "c")
    assert request.headers["content-type"] == "application/json"
    assert (request.path, request.body) == ("/v1/chat/completions", b'{"a": 1}')


# Whose fault a ValueError is


class OurError(ValueError):
    pass


OUR_CODE = {
    "the head of a raw body": "loadgen.wire.exchange.Response.take_head",
    "what an answer is expected with": "loadgen.wire.direct_response.DirectHandler.expect",
    "the type of a body": "loadgen.wire.client.media_type",
    "the wait for a body": "loadgen.wire.client.wait_eof",
    "what aiohttp has buffered": "loadgen.wire.exchange.Response.drain",
}


@pytest.mark.parametrize("place", OUR_CODE)
def test_a_value_error_of_our_own_propagates(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is on the way of one of these answers: a chunked one is read past aiohttp, one with a length is not."""

    def fail(*_: object, **__: object) -> None:
        raise OurError(place)

    monkeypatch.setattr(OUR_CODE[place], fail)
    leap = LeapingClock(monkeypatch).leap(60)
    raw = place == "the head of a raw body"
    errors: list[BaseException] = []

    async def main() -> None:
        # What a receiver calls is called by the event loop, and an error in it is the loop's to report.
        asyncio.get_running_loop().set_exception_handler(lambda _, context: errors.append(context["exception"]))
        with Server(script) as server:
            async with Client() as client:
                # Only an error that the loop reports leaves the request to its deadline.
                await ask(client, server.url, Deadlines(60 * S))

    body = token("a") + FINISH + DONE
    script = (*streamed("a"), Taken(), leap) if raw else (Send(head("200 OK", length=len(body)) + body),)
    if raw and sys.platform == "linux":
        asyncio.run(main())
        assert [type(error) for error in errors] == [OurError]
    else:
        with pytest.raises(OurError, match=place):
            asyncio.run(main())


NONSENSE: dict[str, bytes] = {
    "no HTTP": b"220 smtp.example.org ESMTP\r\n\r\n",
    "a status that is no number": b"HTTP/1.1 2OO OK\r\n\r\n",
    "a version that is none": b"HTTP/x.y 200 OK\r\n\r\n",
    "a length that is no number": b"HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\n",
    "a length below 0": b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
    "two lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
    "bytes in a header's name": b"HTTP/1.1 200 OK\r\n\xff\xfe: 1\r\n\r\n",
    "a NUL": b"HTTP/1.1 200 OK\r\nX: a\x00b\r\n\r\n",
}


@pytest.mark.parametrize("way", ["direct", "aiohttp's client"])
@pytest.mark.parametrize("name", NONSENSE)
def test_a_servers_nonsense_is_malformed_and_raises_nothing(
    name: str, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if way != "direct":
        monkeypatch.setattr("loadgen.wire.client.DirectRequest.open", lambda *_: None)
    reply, _ = answer((Send(NONSENSE[name]), Taken(), Fin()))
    assert (reply.outcome, reply.status, reply.text) == ("malformed", None, UNSET)


@pytest.mark.parametrize("way", ["direct", "aiohttp's client"])
@pytest.mark.parametrize("location", ["http://[", "http://a:b:c/", "http://\ud800/", "ftp://127.0.0.1/", "//"])
def test_a_redirect_to_nowhere_is_a_failed_request_and_raises_nothing(
    location: str, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if way != "direct":
        monkeypatch.setattr("loadgen.wire.client.DirectRequest.open", lambda *_: None)
    head = b"HTTP/1.1 307 Temporary Redirect\r\nContent-Length: 0\r\nLocation: "
    reply, _ = answer((Send(head + location.encode(errors="surrogatepass") + b"\r\n\r\n"), Taken()))
    assert reply.outcome in ("malformed", "connect_error", "truncated", "not_streamed")


@pytest.mark.parametrize("way", ["direct", "aiohttp's client"])
def test_a_redirect_in_a_circle_is_a_failure_that_says_so(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if way != "direct":
        monkeypatch.setattr("loadgen.wire.client.DirectRequest.open", lambda *_: None)
    head = b"HTTP/1.1 307 Temporary Redirect\r\nContent-Length: 0\r\nLocation: /v1/chat/completions\r\n\r\n"
    reply, _ = answer((Send(head),))
    assert reply.outcome == "malformed"
    assert (reply.detail or "").startswith("the server redirects without end, last from http://127.0.0.1:")


@pytest.mark.parametrize("way", ["direct", "aiohttp's client"])
def test_a_host_name_that_no_resolver_can_take_is_a_connect_error(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if way != "direct":
        monkeypatch.setattr("loadgen.wire.client.DirectRequest.open", lambda *_: None)

    async def main() -> Reply:
        async with Client() as client:
            return await ask(client, f"http://{'a' * 64}.example:80/v1")

    reply = asyncio.run(main())
    assert (reply.outcome, reply.status) == ("connect_error", None)
    assert "idna" in (reply.detail or "") or "label" in (reply.detail or "")
