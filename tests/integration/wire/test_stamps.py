"""What we rely on in aiohttp, and what stamps are worth on each way to them.

aiohttp may change what is private. These tests say so on the day it does; the fallback keeps runs going until then.
"""

import asyncio
import itertools
import socket
import sys
import threading
import time

import aiohttp
import pytest
from aiohttp.client_proto import ResponseHandler

from loadgen.clock import now_ns, wall_offset_ns
from loadgen.record import Reply
from loadgen.wire.client import Client
from loadgen.wire.exchange import ChatRequest, Deadlines, Exchange
from loadgen.wire.receiver import READ_BYTES
from loadgen.wire.reply import read_reply
from loadgen.wire.stamps import CURRENT_STAMPS, ReadStamps, StampedHandler, StampedSocket, connector
from tests.integration.server import (
    BEGIN,
    DONE,
    END,
    FINISH,
    LAST_CHUNK,
    Fin,
    Send,
    Served,
    Server,
    ServerProcess,
    Taken,
    Ticking,
    Until,
    Wait,
    chunk,
    every,
    say,
    singly,
    streamed,
    token,
)

MS = 1_000_000
PATIENT = Deadlines(request_ns=200_000 * MS)
TOLERANCE_NS = MS // 10
kernel_only = pytest.mark.skipif(sys.platform != "linux", reason="the kernel's receive stamps are Linux's")
pytestmark = pytest.mark.asyncio


async def exchange_with(client: Client, url: str) -> Exchange:
    return await client.send(ChatRequest(f"{url}/chat/completions", b"{}", {}, PATIENT), now_ns())


def reply_of(exchange: Exchange) -> Reply:
    return read_reply(exchange, epoch_ns=0, wall_offset_ns=wall_offset_ns(), keep_text=True)[0]


# What we rely on


async def test_a_connector_makes_the_protocol_of_a_connection_with_its_factory() -> None:
    made, stamping = connector(asyncio.get_running_loop(), source="user")
    assert stamping
    async with aiohttp.ClientSession(connector=made) as session:
        with Server(streamed("a", gap_s=0.1)) as server:
            async with session.post(f"{server.url}/x", data=b"{}") as response:
                connection = response.connection
                assert connection is not None
                assert isinstance(connection.protocol, StampedHandler)
                transport = connection.transport
                assert transport is not None
                if isinstance(asyncio.get_running_loop(), asyncio.SelectorEventLoop):
                    assert isinstance(transport.get_extra_info("socket")._sock, StampedSocket)
                    assert vars(transport).get("max_size", READ_BYTES) == READ_BYTES
                await response.read()


async def test_response_params_are_set_in_the_sending_task_before_anything_is_written() -> None:
    """For a new connection and for one that is used again; the stamps are found by the task's context."""
    happened: list[tuple[str, int]] = []

    class Watched(ResponseHandler):
        def set_response_params(self, **params: object) -> None:
            stamps = CURRENT_STAMPS.get()
            assert stamps is not None
            happened.append(("params", id(stamps)))
            super().set_response_params(**params)  # type: ignore[arg-type]

        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            super().connection_made(transport)
            assert isinstance(transport, asyncio.Transport)
            write, writelines = transport.write, transport.writelines

            def noted_write(data: bytes) -> None:
                happened.append(("write", 0))
                write(data)

            def noted_writelines(data: list[bytes]) -> None:
                happened.append(("write", 0))
                writelines(data)

            transport.write = noted_write  # type: ignore[method-assign, assignment]
            transport.writelines = noted_writelines  # type: ignore[method-assign, assignment]

    loop = asyncio.get_running_loop()
    made = aiohttp.TCPConnector()
    made._factory = lambda: Watched(loop)  # type: ignore[assignment]
    async with aiohttp.ClientSession(connector=made) as session:
        with Server(streamed("a")) as server:
            stamps = [ReadStamps(), ReadStamps()]
            for each in stamps:
                restore = CURRENT_STAMPS.set(each)
                async with session.post(f"{server.url}/x", data=b"{}") as response:
                    await response.read()
                CURRENT_STAMPS.reset(restore)
    assert server.connections == 1
    writes = [index for index, (what, _) in enumerate(happened) if what == "params"]
    assert [happened[index][1] for index in writes] == [id(each) for each in stamps]
    assert writes[0] == 0
    for index in writes:
        assert happened[index + 1][0] == "write"


async def test_the_write_of_each_request_is_stamped_on_its_own_marks() -> None:
    with Server(streamed("a")) as server:
        async with Client() as client:
            exchanges = [await exchange_with(client, server.url) for _ in range(2)]
    for exchange, request in zip(exchanges, server.chats, strict=True):
        stamps = exchange.stamps
        assert stamps.first_write_ns is not None
        assert stamps.written_ns is not None
        assert exchange.dispatched_ns <= stamps.first_write_ns <= stamps.written_ns
        assert stamps.first_write_ns <= request.arrived_ns + TOLERANCE_NS <= request.read_ns + TOLERANCE_NS


@kernel_only
async def test_a_request_is_written_before_it_arrives() -> None:
    """The stamp is from before the call: on loopback the call itself delivers, and may return much later."""
    with ServerProcess(Ticking(tokens=1, first_s=0.0, gap_s=0.0)) as server:
        async with Client() as client:
            exchanges = [await exchange_with(client, server.url) for _ in range(20)]
    for exchange, request in zip(exchanges, server.chats, strict=True):
        assert exchange.stamps.written_ns is not None
        assert exchange.stamps.written_ns <= request.arrived_ns + 20_000


async def test_a_broken_chunk_breaks_the_body() -> None:
    """aiohttp tells it only to who waits for the headers; ours passes it on."""
    with Server((BEGIN, *singly(*say("a"), Send(b"zz\r\n")), Fin())) as server:
        async with Client() as client:
            exchange = await exchange_with(client, server.url)
    assert exchange.failure is not None
    assert exchange.failure.outcome == "truncated"
    assert exchange.failure.detail != "Server disconnected"


# Kernel stamps


@kernel_only
async def test_on_linux_every_read_has_a_kernel_stamp_not_later_than_ours() -> None:
    with Server((BEGIN, *singly(*say(*"abcdefgh"), END))) as server:
        async with Client() as client:
            exchanges = [await exchange_with(client, server.url) for _ in range(3)]
            assert client.kernel
    offset = wall_offset_ns()
    for exchange in exchanges:
        assert reply_of(exchange).stamp_source == "kernel"
        assert len(exchange.stamps.reads) >= 9
        for _, user_ns, wall_ns in exchange.stamps.reads:
            assert wall_ns > 0
            assert wall_ns - offset <= user_ns + TOLERANCE_NS


@kernel_only
async def test_a_connection_that_follows_a_closed_one_has_stamps_from_its_first_read() -> None:
    with Server((*streamed("a"), Fin())) as server:
        async with Client() as client:
            for _ in range(5):
                reply = reply_of(await exchange_with(client, server.url))
                assert (reply.outcome, reply.stamp_source) == ("ok", "kernel")
                await asyncio.sleep(0.02)  # so that the next one finds no other socket that wants stamps
    assert server.connections == 5


BLOCKED_S = 0.2


async def stream_while_blocked(before: str, meanwhile: str, after: str) -> tuple[Reply, float, Served]:
    """A reply whose client's loop was blocked while some of its tokens came, its greatest lag (ms), and the server's
    account."""
    loop, released = asyncio.get_running_loop(), threading.Event()

    async def block() -> None:
        blocked = asyncio.Event()
        here = asyncio.get_running_loop()

        def call() -> None:
            here.call_soon_threadsafe(blocked.set)
            assert released.wait(60)

        loop.call_soon_threadsafe(call)
        await blocked.wait()

    async def release() -> None:
        released.set()

    tokens = (*singly(*say(*before), Until(block)), *say(*meanwhile), Wait(BLOCKED_S), Until(release))
    with Server((BEGIN, *tokens, *singly(*say(*after), END))) as server:
        async with Client() as client:
            exchange = await exchange_with(client, server.url)
    reply, lags_ns = read_reply(exchange, epoch_ns=0, wall_offset_ns=wall_offset_ns())
    count = len(before + meanwhile + after)
    assert (reply.outcome, reply.stamp_source, len(reply.stamps_ns)) == ("ok", "kernel", count)
    return reply, float(lags_ns.max()) / MS, server.chats[0]


def right_stamps(reply: Reply, request: Served) -> list[bool]:
    """For each token, whether its stamp lies within its send."""
    sends = zip(reply.stamps_ns, request.tokens_ns, request.sent_ns, strict=True)
    return [begin - MS <= stamp <= end + MS for stamp, begin, end in sends]


@kernel_only
async def test_a_blocked_event_loop_delays_user_stamps_and_not_the_kernels() -> None:
    reply, lag_ms, request = await stream_while_blocked("a", "b", "cd")
    assert reply.shared_reads == 0
    assert lag_ms > BLOCKED_S * 1000 - 1
    assert lag_ms < (request.tokens_ns[2] - request.tokens_ns[1]) / MS, "it was read before the next one was sent"
    assert right_stamps(reply, request) == [True] * 4


@kernel_only
async def test_tokens_that_came_while_the_loop_was_blocked_share_a_read_and_are_counted() -> None:
    """No stamp tells them apart: they have the last one's, and only that one's is right."""
    reply, _, request = await stream_while_blocked("abc", "defg", "hijkl")
    assert reply.shared_reads == 3
    assert len(set(reply.stamps_ns[3:7])) == 1
    right = right_stamps(reply, request)
    assert right[:3] + right[6:] == [True] * 9


# User stamps


async def test_without_kernel_stamps_records_say_user_and_are_as_good_as_the_event_loop(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("loadgen.wire.client.kernel_stamps_available", lambda _: False)
    with Server((BEGIN, *singly(*say("a", "b", "c"), END))) as server:
        async with Client() as client:
            assert not client.kernel
            exchange = await exchange_with(client, server.url)
    reply, lags_ns = read_reply(exchange, epoch_ns=0, wall_offset_ns=wall_offset_ns())
    assert (reply.outcome, reply.stamp_source, len(lags_ns)) == ("ok", "user", 0)
    assert [wall_ns for _, _, wall_ns in exchange.stamps.reads] == [0] * len(exchange.stamps.reads)
    tokens_ns = server.chats[0].tokens_ns
    for index, stamp in enumerate(reply.stamps_ns):
        assert stamp >= tokens_ns[index]
        if index + 1 < len(tokens_ns):
            assert stamp < tokens_ns[index + 1]


async def test_a_wall_clock_that_was_stepped_makes_the_stamps_user_ones() -> None:
    with Server(streamed("a", gap_s=0.02)) as server:
        async with Client() as client:
            exchange = await exchange_with(client, server.url)
    offset = wall_offset_ns()
    for stepped_ns in (-3600 * 1000 * MS, 3600 * 1000 * MS):
        reply, _ = read_reply(exchange, epoch_ns=0, wall_offset_ns=offset + stepped_ns)
        assert (reply.outcome, reply.stamp_source) == ("ok", "user")
        assert reply.stamps_ns[0] >= server.chats[0].tokens_ns[0]


# The fallback


@pytest.fixture
def _no_factory(monkeypatch: pytest.MonkeyPatch) -> None:
    """aiohttp as if it had no `_factory`: what `loadgen.wire.stamps` looks for is not there."""
    monkeypatch.setattr("loadgen.wire.stamps.hasattr", lambda *_: False, raising=False)


@pytest.mark.usefixtures("_no_factory")
async def test_without_the_factory_there_still_are_stamps_and_outcomes() -> None:
    with Server((BEGIN, *singly(*say("a", "b", "c"), END))) as server:
        async with Client() as client:
            assert not client.stamping
            exchanges = [await exchange_with(client, server.url) for _ in range(2)]
    assert server.connections == 1
    for exchange, request in zip(exchanges, server.chats, strict=True):
        reply = reply_of(exchange)
        assert (reply.outcome, reply.text, reply.stamp_source) == ("ok", "abc", "user")
        assert reply.sent_ns is not None
        assert reply.written_ns is not None
        assert reply.dispatched_ns is not None
        assert reply.dispatched_ns <= reply.sent_ns <= reply.written_ns < request.tokens_ns[0]
        for index, stamp in enumerate(reply.stamps_ns):
            assert stamp >= request.tokens_ns[index]
            if index + 1 < 3:
                assert stamp < request.tokens_ns[index + 1]


@pytest.mark.usefixtures("_no_factory")
async def test_without_the_factory_a_stream_that_breaks_keeps_its_stamps() -> None:
    with Server((BEGIN, *singly(*say("a", "b"), Fin()))) as server:
        async with Client() as client:
            reply = reply_of(await exchange_with(client, server.url))
    assert (reply.outcome, reply.text, len(reply.stamps_ns)) == ("truncated", "ab", 2)


@pytest.mark.usefixtures("_no_factory")
async def test_without_the_factory_a_reused_connection_that_was_closed_is_tried_once_more() -> None:
    with Server(lambda request: (Fin(),) if request.nth else streamed("a")) as server:
        async with Client() as client:
            replies = [reply_of(await exchange_with(client, server.url)) for _ in range(2)]
    assert [reply.outcome for reply in replies] == ["ok", "ok"]


# One read, one stamp


async def test_a_read_ends_at_64_kib_so_a_long_event_takes_several_and_its_stamp_is_the_last_ones() -> None:
    body = chunk(token("x" * 300_000)) + chunk(FINISH) + chunk(DONE) + LAST_CHUNK
    with Server((BEGIN, Taken(), Send(body, token=True))) as server:
        async with Client() as client:
            exchange = await exchange_with(client, server.url)
    reply = reply_of(exchange)
    assert (reply.outcome, len(reply.stamps_ns)) == ("ok", 1)
    offsets = [offset for offset, _, _ in exchange.stamps.reads]
    assert offsets == sorted(offsets)
    if isinstance(asyncio.get_running_loop(), asyncio.SelectorEventLoop):
        assert max(after - before for before, after in itertools.pairwise(offsets)) <= READ_BYTES


async def test_the_server_that_these_tests_believe_stamps_a_token_before_a_plain_socket_reads_it() -> None:
    """The truth itself, against a client that is nothing but a socket."""
    with Server((BEGIN, *every(0.05, say("a")), END)) as server:

        def read() -> list[tuple[int, bytes]]:
            with socket.create_connection(("127.0.0.1", server.port)) as plain:
                plain.sendall(b"POST /v1/x HTTP/1.1\r\nContent-Length: 2\r\n\r\n{}")
                reads: list[tuple[int, bytes]] = []
                while not reads or LAST_CHUNK not in reads[-1][1]:
                    reads.append((time.perf_counter_ns(), plain.recv(65536)))
                return [(time.perf_counter_ns(), b""), *reads]

        reads = await asyncio.to_thread(read)
    request = server.chats[0]
    asked_ns, ended_ns = reads[1][0], reads[0][0]
    assert asked_ns - 1000 * MS < request.arrived_ns <= request.read_ns < request.tokens_ns[0] < ended_ns
    assert request.tokens_ns[0] - request.read_ns >= 50 * MS
