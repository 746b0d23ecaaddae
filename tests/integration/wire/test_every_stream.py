"""Every stream that a server may send, over real sockets, in every framing and cut anywhere: what becomes of it.

The tables are what `docs/outcomes.md` says, row by row: the outcome, how many events bear tokens, how many tokens there
are and who says so, the text, and the finish reason.
"""

import asyncio
import hashlib
from collections.abc import Callable

import pytest

from loadgen.clock import now_ns
from loadgen.record import Reply
from loadgen.wire.client import Client
from loadgen.wire.exchange import ChatRequest, Deadlines
from loadgen.wire.reply import read_reply
from tests.integration.leaping import LeapingClock
from tests.integration.server import COMMENT, Hang, Script, Send, Served, Server, chunk, head, singly, streamed, token
from tests.integration.server import whole as whole_answer
from tests.integration.stream_answers import ANSWERS, OK
from tests.integration.stream_bodies import BODIES
from tests.integration.streams import (
    FRAMINGS,
    PATIENT,
    Answer,
    Framing,
    Says,
    ask,
    at_random,
    before_the_body,
    body_byte_by_byte,
    byte_by_byte,
    exchanged,
    hear,
    in_one_chunk,
    in_plain_chunks,
    in_small_chunks,
    playing,
    whole,
)

LONG_BYTES = 5000  # too many to be sent one by one


def assert_says(reply: Reply, expected: Says, told: str) -> None:
    """The reply is what was expected. told: which of the ways of sending it this was."""
    source = "events" if expected.output is None else "usage"
    counted = expected.tokens if expected.output is None else expected.output
    output = counted if reply.status == 200 else None
    heard = (reply.outcome, len(reply.stamps_ns), reply.finish_reason, reply.output_tokens, reply.token_source)
    assert heard == (expected.outcome, expected.tokens, expected.finish, output, source), (told, reply.detail)
    text = expected.text if expected.tokens else None
    assert reply.text_sha256 == (None if text is None else hashlib.sha256(text.encode()).hexdigest()), told
    assert reply.text == expected.text or not expected.tokens, told
    assert expected.detail in (reply.detail or ""), (told, reply.detail)
    assert (reply.detail is None) == (expected.outcome == "ok"), (told, reply.detail)
    assert list(reply.stamps_ns) == sorted(reply.stamps_ns), told


@pytest.mark.asyncio
@pytest.mark.parametrize("name", BODIES)
async def test_a_body_says_the_same_in_every_framing_and_cut_anywhere(name: str) -> None:
    body, expected = BODIES[name]
    async with playing() as (player, client):
        for number, framing in enumerate(FRAMINGS):
            answer = framing(body)
            cuts = {"whole": whole(answer.raw)}
            cuts |= {f"seed {seed}": at_random(answer.raw, seed) for seed in (number, number + 100)}
            if framing in (in_one_chunk, in_plain_chunks, in_small_chunks) and len(answer.raw) < LONG_BYTES:
                cuts["byte by byte"] = body_byte_by_byte(answer.raw)  # all bodies have the same heads
            for cut, pieces in cuts.items():
                reply = await hear(player, client, answer, pieces)
                assert_says(reply, expected, f"{framing.__name__}, {cut}")


@pytest.mark.asyncio
@pytest.mark.parametrize("framing", FRAMINGS)
async def test_each_piece_of_a_body_is_a_read_of_its_own(framing: Framing) -> None:
    body, expected = BODIES["lines: LF"]
    answer = framing(body)
    head_bytes = answer.raw.index(b"\r\n\r\n") + 4
    async with playing() as (player, client):
        player.pieces, player.closes = byte_by_byte(answer.raw), answer.closes
        exchange = await exchanged(client, player.url)
    assert len(answer.raw) - head_bytes <= exchange.stamps.reads_so_far <= len(answer.raw) + 1
    reply, _ = read_reply(exchange, epoch_ns=0, wall_offset_ns=0, keep_text=True)
    assert_says(reply, expected, framing.__name__)


@pytest.mark.asyncio
@pytest.mark.parametrize("name", ANSWERS)
async def test_an_answer_out_of_the_ordinary_is_taken_for_what_it_is_and_spoils_no_later_one(name: str) -> None:
    answer, expected = ANSWERS[name]
    cuts = {"whole": whole(answer.raw)} | {f"seed {seed}": at_random(answer.raw, seed) for seed in range(4)}
    if b"\r\n\r\n" in answer.raw:
        cuts |= {f"{size} before the body": before_the_body(answer.raw, size) for size in range(4)}
    if len(answer.raw) < LONG_BYTES:
        cuts["byte by byte"] = byte_by_byte(answer.raw)
    for cut, pieces in cuts.items():
        async with playing() as (player, client):
            reply = await hear(player, client, answer, pieces)
            assert reply.status == answer.status, (cut, reply.detail)
            assert_says(reply, expected, cut)
            if answer.excess and cut != "whole":
                continue
            after = await hear(player, client, Answer(OK), [OK])
            assert (after.outcome, after.text, len(player.heard)) == ("ok", "ab", 2), (cut, after.detail)
            if reply.outcome == "ok":
                assert player.connections == 1 + (answer.closes or answer.excess), cut


@pytest.mark.asyncio
@pytest.mark.parametrize("framing", FRAMINGS)
async def test_a_server_may_answer_before_it_has_read_the_request(framing: Framing) -> None:
    body, expected = BODIES["lines: LF"]

    async def at_once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(framing(body).raw)
        await reader.readuntil(b"}")
        writer.close()

    async with await asyncio.start_server(at_once, "127.0.0.1", 0) as server, Client() as client:
        reply = await ask(client, f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1")
    assert_says(reply, expected, "at once")


@pytest.mark.asyncio
async def test_an_error_that_the_server_leaves_unfinished_is_not_waited_for_until_the_deadline() -> None:
    unfinished = Send(head("503 Busy", "Retry-After: 4", length=99) + b"busy")
    began_ns = now_ns()
    with Server((unfinished, Hang())) as server:
        reply = await ask_with_a_key(server.url)
    assert (reply.outcome, reply.status, reply.detail) == ("http_error", 503, "Retry-After: 4; busy")
    assert now_ns() - began_ns < PATIENT.request_ns // 2


# Redirects


AB = streamed("a", "b")


def redirecting(status: str, *ways: str, then: Script = AB) -> Callable[[Served], Script]:
    """From /v1/chat/completions along these ways; the last one leads to an answer."""
    places = dict(zip(("/v1/chat/completions", *ways), ways, strict=False))

    def choose(request: Served) -> Script:
        to = places.get(request.path)
        return then if to is None else whole_answer(status, b"gone", f"Location: {to}")

    return choose


async def ask_with_a_key(url: str) -> Reply:
    async with Client() as client:
        headers = {"Authorization": "Bearer secret"}
        exchange = await client.send(ChatRequest(f"{url}/chat/completions", b'{"a":1}', headers, PATIENT), now_ns())
    return read_reply(exchange, epoch_ns=0, wall_offset_ns=0, keep_text=True)[0]


@pytest.mark.asyncio
@pytest.mark.parametrize(
    "status", ["301 Moved Permanently", "302 Found", "307 Temporary Redirect", "308 Permanent Redirect"]
)
@pytest.mark.parametrize("ways", [("/moved",), ("/v1/a", "/b", "/v2/c")], ids=["one", "three"])
async def test_within_the_host_the_same_request_goes_where_it_is_sent(status: str, ways: tuple[str, ...]) -> None:
    with Server(redirecting(status, *ways)) as server:
        reply = await ask_with_a_key(server.url)
    assert (reply.outcome, reply.text, reply.status) == ("ok", "ab", 200), reply.detail
    assert [request.path for request in server.served] == ["/v1/chat/completions", *ways]
    assert {(r.method, r.body, r.headers["authorization"]) for r in server.served} == {
        ("POST", b'{"a":1}', "Bearer secret")
    }


@pytest.mark.asyncio
@pytest.mark.parametrize("direct", [True, False])
async def test_a_redirect_on_the_same_server_is_kept_for_the_requests_that_follow(
    direct: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not direct:
        monkeypatch.setattr("loadgen.wire.stamps.hasattr", lambda *_: False, raising=False)
    with Server(redirecting("307 Temporary Redirect", "/moved")) as server:
        async with Client() as client:
            replies = [await ask(client, server.url) for _ in range(3)]
    assert [reply.text for reply in replies] == ["ab"] * 3
    assert [request.path for request in server.chats] == ["/v1/chat/completions", "/moved", "/moved", "/moved"]


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("way", "then"),
    [("/moved?once=1", AB), ("/moved", whole_answer("503 Busy", b"busy"))],
    ids=["of one request alone", "without an answer"],
)
async def test_other_redirects_are_followed_each_time(way: str, then: Script) -> None:
    with Server(redirecting("307 Temporary Redirect", way, then=then)) as server:
        async with Client() as client:
            for _ in range(2):
                await ask(client, server.url)
    assert [request.path for request in server.chats] == ["/v1/chat/completions", way] * 2


@pytest.mark.asyncio
@pytest.mark.parametrize("status", ["302 Found", "307 Temporary Redirect"])
async def test_a_circle_of_redirects_ends(status: str) -> None:
    circle = whole_answer(status, b"", "Location: /v1/chat/completions")
    with Server(circle, get=lambda _: circle) as server:
        reply = await ask_with_a_key(server.url)
    assert (reply.outcome, reply.stamps_ns) == ("malformed", ()), reply.detail
    assert len(server.served) < 20


@pytest.mark.asyncio
async def test_what_comes_of_a_redirect_is_the_answer_whatever_it_is() -> None:
    busy = whole_answer("503 Busy", b"busy", "Retry-After: 4")
    with Server(redirecting("307 Temporary Redirect", "/moved", then=busy)) as server:
        reply = await ask_with_a_key(server.url)
    assert (reply.outcome, reply.status, reply.detail) == ("http_error", 503, "Retry-After: 4; busy")


@pytest.mark.asyncio
async def test_a_redirect_to_another_host_does_not_bring_the_key_there() -> None:
    with Server(streamed("x")) as other:
        away = whole_answer("307 Temporary Redirect", b"", f"Location: {other.url}/chat/completions")
        with Server(away) as server:
            await ask_with_a_key(server.url)
    assert all("authorization" not in request.headers for request in other.served)


# What never ends


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("piece", "waited_for"),
    [
        (chunk(token("a")), "next token"),
        (chunk(COMMENT), "first token"),
        (b"HTTP/1.1 102 Processing\r\n\r\n", "headers"),
    ],
    ids=["tokens", "comments", "heads"],
)
async def test_an_endless_stream_ends_at_its_deadline(
    piece: bytes, waited_for: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    leap = LeapingClock(monkeypatch).leap(25)
    begin = () if waited_for == "headers" else (Send(head()),)
    some = (Send(piece),) * 20
    with Server((*begin, *some, *singly(leap, *some, leap, *some, leap), *some, Hang())) as server:
        async with Client() as client:
            reply = await ask(client, server.url, Deadlines(request_ns=60_000_000_000))
    assert (reply.outcome, reply.detail) == ("timeout", f"waiting for {waited_for}, request deadline 60 s")
    assert (len(reply.stamps_ns) > 1) == (waited_for == "next token")
