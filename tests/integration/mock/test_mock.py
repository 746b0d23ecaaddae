"""The scripted server on real sockets: what a client gets of each fault, and a truth that is what was received."""

import asyncio
import hashlib
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import pytest

from loadgen.clock import now_ns, wall_offset_ns
from loadgen.errors import InputError
from loadgen.mock import Account, FixedTime, Freeze, MockProcess, Script, ServerStop, Truth, parse_fault, serve
from loadgen.record import Reply
from loadgen.wire.chat_stream import decode
from loadgen.wire.client import Client
from loadgen.wire.exchange import ChatRequest, Deadlines
from loadgen.wire.reply import read_reply

MS = 1_000_000
TOLERANCE_NS = 1 * MS  # of the conversion between the kernel's clock and ours
PATIENT = Deadlines(request_ns=20_000 * MS)
QUICK = Script(ttft_s=FixedTime(0.02), itl_s=FixedTime(0.01), tokens=FixedTime(5))


class Served:
    """A server in a thread of the test; its account is there once the context has ended."""

    url = ""
    account = Account()

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2].partition("/")[0])

    @property
    def truth(self) -> list[Truth]:
        return self.account.requests


@contextmanager
def serving(script: Script, **options: Any) -> Iterator[Served]:
    served, ready, failures = Served(), threading.Event(), list[Exception]()

    def started(url: str) -> None:
        served.url = url
        ready.set()

    def run() -> None:
        try:
            served.account = serve(script, stop=stop, on_start=started, **options)
        except Exception as error:  # noqa: BLE001  the test's own thread is to raise it
            failures.append(error)
            ready.set()

    with ServerStop() as stop:
        thread = threading.Thread(target=run)
        thread.start()
        try:
            ready.wait()
            if not failures:
                yield served
        finally:
            stop.request()
            thread.join()
    if failures:
        raise failures[0]


def chat(**changes: Any) -> bytes:
    return msgspec.json.encode(
        {
            "model": "m",
            "stream": True,
            "messages": [{"role": "user", "content": "one two"}],
            "stream_options": {"include_usage": True},
            **changes,
        }
    )


def request(body: bytes, headers: str = "") -> bytes:
    return (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\n{headers}Content-Length: {len(body)}\r\n\r\n".encode() + body
    )


async def ask(client: Client, url: str, deadlines: Deadlines = PATIENT, **changes: Any) -> Reply:
    asked = ChatRequest(f"{url}/chat/completions", chat(**changes), {}, deadlines)
    exchange = await client.send(asked, now_ns())
    return read_reply(exchange, epoch_ns=0, wall_offset_ns=wall_offset_ns(), keep_text=True)[0]


def answers(script: Script, requests: int = 1, deadlines: Deadlines = PATIENT) -> tuple[list[Reply], Served]:
    """What loadgen's own client gets of so many requests at once, and the server's account."""

    async def main(url: str) -> list[Reply]:
        async with Client() as client:
            return await asyncio.gather(*(ask(client, url, deadlines) for _ in range(requests)))

    with serving(script) as served:
        replies = asyncio.run(main(served.url))
    return replies, served


@contextmanager
def connected(served: Served) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", served.port), timeout=20) as made:
        yield made


def received(made: socket.socket, until: bytes = b"\r\n0\r\n\r\n") -> bytes:
    """All that comes, up to and with these bytes, or to the end."""
    got = bytearray()
    while not got.endswith(until):
        more = made.recv(65536)
        if not more:
            break
        got += more
    return bytes(got)


def body_of(data: bytes) -> bytes:
    """The body of a chunked answer."""
    at, body = data.index(b"\r\n\r\n") + 4, bytearray()
    while at < len(data):
        start = data.index(b"\r\n", at) + 2
        end = start + int(data[at : start - 2], 16)
        body += data[start:end]
        at = end + 2
    return bytes(body)


# The truth


def test_the_truth_is_what_a_client_received() -> None:
    with serving(QUICK) as served, connected(served) as made:
        before_ns = now_ns()
        made.sendall(request(chat()))
        first = received(made)
        after_ns = now_ns()
        made.sendall(request(chat(max_tokens=3)))
        second = received(made)
    said = [decode(body_of(data)) for data in (first, second)]
    assert [s.text_sha256 for s in said] == [t.text_sha256 for t in served.truth]
    assert [s.output_tokens for s in said] == [t.output_tokens for t in served.truth] == [5, 3]
    assert [s.finish_reason for s in said] == [t.finish_reason for t in served.truth] == ["stop", "length"]
    assert [(t.connection, t.nth) for t in served.truth] == [(0, 0), (0, 1)]
    truth = served.truth[0]
    moments = [before_ns, truth.arrived_ns + TOLERANCE_NS, *truth.stamps_ns, after_ns]
    assert moments == sorted(moments)
    assert truth.arrived_ns <= truth.read_ns
    assert all(sent >= due for sent, due in zip(truth.stamps_ns, truth.planned_ns, strict=True))
    assert served.account.tokens == sum(served.account.slips.values()) == 8


def test_loadgens_client_and_the_server_agree_on_every_token() -> None:
    replies, served = answers(QUICK, requests=8)
    truths = {t.text_sha256: t for t in served.truth}
    assert len(truths) == 8
    for reply in replies:
        assert (reply.outcome, reply.detail) == ("ok", None)
        truth = truths[reply.text_sha256]
        assert reply.output_tokens == truth.output_tokens == 5
        for arrived, sent in zip(reply.stamps_ns, truth.stamps_ns, strict=True):
            assert arrived >= sent - TOLERANCE_NS


FAULTS: dict[str, tuple[str, str | None, int]] = {
    "status:500": ("http_error", "scripted fault status:500", 0),
    "status:429": ("http_error", "Retry-After: 1", 0),
    "html": ("not_streamed", None, 0),
    "slow-headers:100ms": ("ok", None, 5),
    "reset:0": ("truncated", None, 0),
    "reset:2": ("truncated", None, 2),
    "fin:0": ("truncated", None, 0),
    "fin:2": ("truncated", None, 2),
    "cut-chunk:2": ("truncated", None, 2),
    "malformed:2": ("malformed", None, 5),
    "error-event:2": ("stream_error", "scripted fault error-event", 2),
    "split": ("ok", None, 5),
    "split:3": ("ok", None, 5),
    "no-done": ("ok", None, 5),
    "no-end": ("truncated", None, 5),
    "empty": ("empty", None, 0),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_has_its_outcome(fault: str) -> None:
    outcome, detail, stamps = FAULTS[fault]
    (reply,), served = answers(msgspec.structs.replace(QUICK, faults=(parse_fault(fault),)))
    assert (reply.outcome, len(reply.stamps_ns)) == (outcome, stamps)
    assert detail is None or detail in (reply.detail or "")
    assert {t.fault for t in served.truth} == {parse_fault(fault).label}


@pytest.mark.parametrize(
    ("fault", "waiting", "deadlines"),
    [
        ("stall:0", "headers", Deadlines(request_ns=20_000 * MS, headers_ns=300 * MS)),
        ("stall:2", "next token", Deadlines(request_ns=20_000 * MS, next_token_ns=500 * MS)),
        ("slow-headers:60s", "headers", Deadlines(request_ns=20_000 * MS, headers_ns=300 * MS)),
    ],
)
def test_who_waits_in_vain_gives_up_and_the_server_knows_when(fault: str, waiting: str, deadlines: Deadlines) -> None:
    (reply,), served = answers(msgspec.structs.replace(QUICK, faults=(parse_fault(fault),)), deadlines=deadlines)
    assert reply.outcome == "timeout"
    assert waiting in (reply.detail or "")
    (truth,) = served.truth
    assert truth.end_ns is None
    assert truth.output_tokens == len(reply.stamps_ns)


def test_an_endless_stream_ends_with_its_client() -> None:
    with serving(msgspec.structs.replace(QUICK, faults=(parse_fault("endless"),))) as served:
        with connected(served) as made:
            made.sendall(request(chat(max_tokens=2)))
            got = b""
            while got.count(b"data: ") < 20:
                got += made.recv(65536)
        wait_until_gone(served)
    (truth,) = served.truth
    assert truth.gone_ns is not None
    assert truth.output_tokens >= 19
    assert (served.account.clients_left, truth.fault) == (1, "endless")


def wait_until_gone(served: Served) -> None:
    """The server has noticed what was done before: it takes connections in the order in which things come."""
    with connected(served) as made:
        made.sendall(b"GET /health HTTP/1.1\r\nConnection: close\r\n\r\n")
        received(made)


def test_a_fault_by_position_falls_on_that_request_alone() -> None:
    script = msgspec.structs.replace(QUICK, faults=(parse_fault("status:503@#2"),))
    statuses: list[bytes] = []
    with serving(script) as served, connected(served) as made:
        for end in (b"\r\n0\r\n\r\n", b"}}", b"\r\n0\r\n\r\n"):
            made.sendall(request(chat()))
            statuses.append(received(made, end).split(b" ")[1])
    assert statuses == [b"200", b"503", b"200"]


def test_slots_make_a_queue_that_the_truth_knows() -> None:
    replies, served = answers(msgspec.structs.replace(QUICK, slots=1), requests=3)
    assert [reply.outcome for reply in replies] == ["ok"] * 3
    first, second, third = served.truth
    assert first.sent_ns is not None
    assert second.began_ns is not None
    assert third.began_ns is not None
    assert second.sent_ns is not None
    assert first.sent_ns <= second.began_ns
    assert second.sent_ns <= third.began_ns


def test_a_full_queue_refuses() -> None:
    replies, served = answers(msgspec.structs.replace(QUICK, slots=1, queue=1), requests=4)
    assert sorted(reply.outcome for reply in replies) == ["http_error", "http_error", "ok", "ok"]
    assert {reply.status for reply in replies} == {200, 503}
    assert served.account.queue_full == 2


def test_in_a_freeze_nothing_is_sent_and_nothing_accepted() -> None:
    script = msgspec.structs.replace(QUICK, tokens=FixedTime(40), freezes=(Freeze(0.1, 0.2),))
    with serving(script) as served, connected(served) as made:
        made.sendall(request(chat()))
        received(made)
    (truth,) = served.truth
    gaps = [later - earlier for earlier, later in pairwise(truth.stamps_ns)]
    assert max(gaps) >= 200 * MS
    assert max(later - earlier for earlier, later in pairwise(truth.planned_ns)) >= 200 * MS


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the kernel does not say when bytes came")
def test_a_request_that_comes_while_the_server_stands_still_has_arrived_when_it_came() -> None:
    script = msgspec.structs.replace(QUICK, freezes=(Freeze(0, 0.8),))
    with serving(script) as served, connected(served) as first, connected(served) as second:
        first.sendall(request(chat()))
        first.recv(1)  # the head goes out, and then it freezes
        before_ns = now_ns()
        second.sendall(request(chat()))
        received(second)
    truth = served.truth[-1]
    assert before_ns - TOLERANCE_NS <= truth.arrived_ns <= truth.read_ns - 100 * MS


# Connections


def test_a_client_that_does_not_read_is_waited_for_and_misses_nothing() -> None:
    script = msgspec.structs.replace(QUICK, itl_s=FixedTime(0), tokens=FixedTime(60_000))
    with serving(script) as served, socket.socket() as made:
        made.settimeout(20)
        made.connect(("127.0.0.1", served.port))
        made.sendall(request(chat()))
        with connected(served) as other:  # what was due before its token has been sent, or is held, when that comes
            other.sendall(request(chat(max_tokens=1)))
            received(other)
        data = received(made)
    quick, truth = served.truth
    assert (quick.output_tokens, quick.held) == (1, 0)
    assert truth.held >= 1
    assert decode(body_of(data)).text_sha256 == truth.text_sha256
    assert truth.output_tokens == 60_000


def test_answers_that_are_held_back_stay_in_order() -> None:
    script = msgspec.structs.replace(QUICK, itl_s=FixedTime(0), tokens=FixedTime(800_000))
    with serving(script) as served, socket.socket() as made:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        made.settimeout(20)
        made.connect(("127.0.0.1", served.port))
        made.sendall(request(chat(stream=False)) + request(chat(stream=False), "Connection: close\r\n"))
        data = received(made, b"never")
    first, second = (answer.partition(b"\r\n\r\n")[2] for answer in data.split(b"HTTP/1.1 200 OK")[1:])
    for body, truth in zip((first, second), served.truth, strict=True):
        text = msgspec.json.decode(body)["choices"][0]["message"]["content"]
        assert hashlib.sha256(text.encode()).hexdigest() == truth.text_sha256
        assert truth.output_tokens == 800_000


@pytest.mark.parametrize(("fault", "resets"), [("reset:1", True), ("fin:1", False), ("cut-chunk:1", False)])
def test_a_reset_is_a_reset_and_a_fin_is_none(fault: str, resets: bool) -> None:
    script = msgspec.structs.replace(QUICK, faults=(parse_fault(fault),))
    with serving(script) as served, connected(served) as made:
        made.sendall(request(chat()))
        try:
            received(made, b"never")
            was_reset = False
        except ConnectionResetError:
            was_reset = True
    assert was_reset is resets


def test_a_request_may_come_byte_by_byte() -> None:
    with serving(QUICK) as served, connected(served) as made:
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in request(chat()):
            made.sendall(bytes([byte]))
        data = received(made)
    assert decode(body_of(data)).output_tokens == 5


def test_an_answer_that_is_asked_to_close_does_and_is_not_reset() -> None:
    with serving(QUICK) as served, connected(served) as made:
        made.sendall(request(chat(), "Connection: close\r\n") + b"GET /never/read HTTP/1.1\r\n\r\n")
        data = received(made)
        assert made.recv(1) == b""
    assert decode(body_of(data)).done
    assert served.account.others == 0


def test_a_refused_connection_is_closed_in_order() -> None:
    with serving(QUICK) as served, connected(served) as made:
        made.sendall(b"nonsense\r\n\r\n" + b"x" * 100_000)
        assert received(made, b"never").startswith(b"HTTP/1.1 400 ")


def test_a_port_that_is_taken_is_refused_in_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(InputError, match=f"--port {port}: in use already"), serving(QUICK, port=port):
            pass


def test_an_address_of_elsewhere_is_refused_in_one_line() -> None:
    said = r"--host 192\.0\.2\.1: not an address of this machine"
    with pytest.raises(InputError, match=said), serving(QUICK, host="192.0.2.1"):
        pass


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has all of 127/8 without being told")
def test_it_binds_to_loopback_unless_told_otherwise() -> None:
    with serving(QUICK) as served:
        assert served.url == f"http://127.0.0.1:{served.port}/v1"
        # Another address of this machine: one that binds to all of them would answer there.
        with pytest.raises(ConnectionRefusedError), socket.create_connection(("127.0.0.2", served.port), timeout=20):
            pass


# In a process of its own


@pytest.mark.usefixtures("new_interpreters")
def test_a_server_process_tells_the_truth_at_its_end() -> None:
    script = msgspec.structs.replace(QUICK, itl_s=FixedTime(0), tokens=FixedTime(25_000), models=("a", "b"))

    async def main(url: str) -> list[Reply]:
        async with Client() as client:
            return await asyncio.gather(*(ask(client, url) for _ in range(4)))

    with MockProcess(script) as server:
        replies = asyncio.run(main(server.url))
        assert server.truth == []
    assert server.account.tokens == sum(t.output_tokens for t in server.truth) == 100_000
    assert {t.text_sha256 for t in server.truth} == {reply.text_sha256 for reply in replies}
    assert all(len(t.stamps_ns) == len(t.planned_ns) == 25_000 for t in server.truth)


def test_a_server_process_says_why_it_cannot_serve() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        server = MockProcess(QUICK, port=taken.getsockname()[1])
        with pytest.raises(InputError, match="in use already"):
            server.__enter__()


def test_a_server_process_that_was_killed_is_missed() -> None:
    with pytest.raises(RuntimeError, match="has died"), MockProcess(QUICK) as server:
        os.kill(server.pid, signal.SIGTERM)


# The command


class Command:
    """`loadgen mock`, running."""

    def __init__(self, *arguments: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "loadgen", "mock", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        self.url = self._process.stdout.readline().strip()

    def end(
        self, by: Callable[[subprocess.Popen[str]], None] = lambda p: p.send_signal(signal.SIGINT)
    ) -> tuple[int, str]:
        """(exit code, standard error)."""
        by(self._process)
        _, told = self._process.communicate(timeout=30)
        return self._process.returncode, told


def nothing(_: object) -> None:
    pass


@pytest.mark.usefixtures("new_interpreters")
def test_the_command_serves_until_ctrl_c_and_leaves_the_truth(tmp_path: Path) -> None:
    log = tmp_path / "truth.jsonl"
    command = Command("--ttft", "20ms", "--itl", "uniform:1ms:2ms", "--fault", "fin:2@#2", "--truth", str(log))

    async def main() -> list[Reply]:
        async with Client() as client:
            return [await ask(client, command.url, max_tokens=5) for _ in range(2)]

    replies = asyncio.run(main())
    while_it_ran = log.read_bytes().splitlines()
    code, told = command.end()
    assert code == 0, told
    assert [reply.outcome for reply in replies] == ["ok", "truncated"]
    lines = [msgspec.json.decode(line, type=Truth) for line in log.read_bytes().splitlines()]
    assert while_it_ran[0] == log.read_bytes().splitlines()[0]  # written as it ended, before the second was read
    assert [(t.number, t.output_tokens, t.fault) for t in lines] == [(1, 5, None), (2, 2, "fin:2")]
    assert "2 chats, 7 tokens" in told
    assert "faults: fin:2 ×1" in told
    assert "late relative to its own schedule: p50 " in told


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--fault", "fin@sometimes"), "loadgen: --fault fin@sometimes: 'sometimes' does not say which requests"),
        (("--itl", "50"), "loadgen: --itl 50: '50' is not a time"),
        (("--freeze", "8s"), "loadgen: --freeze 8s: it needs a start and a length; write e.g. --freeze 8s:2s"),
        (("--queue", "3"), "loadgen: --queue 3: no request waits unless --slots is given"),
        (("--truth", "."), "loadgen: --truth .: it already exists; choose another name"),
        (("--slots", "0"), "loadgen: Invalid value for '--slots'"),
        (("--prefill-rate", "0"), "loadgen: --prefill-rate 0: not above 0"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(
    arguments: tuple[str, ...], says: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from loadgen.cli.app import main

    monkeypatch.setattr(sys, "argv", ["loadgen", "mock", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    told = capsys.readouterr()
    assert ended.value.code == 2
    assert told.err.startswith(says)
    assert told.err.count("\n") == 1
    assert told.out == ""


def test_the_command_refuses_a_port_that_is_taken_and_writes_no_file(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        command = Command("--port", str(taken.getsockname()[1]), "--truth", str(tmp_path / "truth"))
        code, told = command.end(nothing)
    assert code == 2
    assert told.startswith("loadgen: --port ")
    assert told.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_the_text_of_an_answer_is_known_from_its_number() -> None:
    (reply,), _ = answers(QUICK)
    assert reply.text == "1 charlie delta echo foxtrot"
    assert reply.text_sha256 == hashlib.sha256(b"1 charlie delta echo foxtrot").hexdigest()
