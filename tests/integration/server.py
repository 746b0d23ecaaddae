"""A scripted HTTP server for tests: any bytes at any moment over loopback, and its own account. Knows no loadgen.

A script is a tuple of steps, chosen for each request. The server is one event loop over plain sockets, in a thread of
the test (`Server`) or in a process of its own (`ServerProcess`), where it does not share the client's GIL. Its account
(`Served`) is the truth that stamps are compared with; `time.perf_counter_ns` is one clock for all processes.
"""

import asyncio
import contextlib
import itertools
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any, Final

import msgspec
from msgspec import Struct

if sys.platform == "linux":
    import fcntl
    import termios

_SO_TIMESTAMPNS: Final = 35
_START_S: Final = 20.0
_TLS_HANDSHAKE: Final = b"\x16"
"""How a client begins that speaks TLS."""


class Send(Struct, frozen=True):
    """Send bytes. token: they complete a token-bearing event, so the account keeps the moment."""

    data: bytes
    token: bool = False


class Wait(Struct, frozen=True):
    """Wait so long from where the last wait ended, the first from the request's last byte: lateness does not add up."""

    s: float


class Tick(Struct, frozen=True):
    """Wait for the next multiple of a period on the clock, which all connections have in common."""

    every_s: float


class Taken(Struct, frozen=True):
    """Wait until the client, whose event loop made this server, has read all that was sent. The next wait begins here.

    With it an event has a read of its own on any machine, however busy, and nobody waits longer than that takes.
    """


class Until(Struct, frozen=True):
    """Wait until this is over, which runs in the server's event loop. The next wait begins here."""

    over: Callable[[], Awaitable[None]]


class Hang(Struct, frozen=True):
    """Send nothing more, until the client goes."""


class Fin(Struct, frozen=True):
    """Close the connection."""


class Rst(Struct, frozen=True):
    """Reset the connection."""


Step = Send | Wait | Tick | Taken | Until | Hang | Fin | Rst
Script = tuple[Step, ...]


class Served(Struct, kw_only=True):
    """One request and what the server did with it. All `_ns` on `time.perf_counter_ns`.

    number: of the server's requests. connection: the number of its connection. nth: of the requests on it, from 0.
    arrived_ns: when the request's last byte had reached the machine (where the kernel says so, else read_ns). read_ns:
    when the server had it. tokens_ns: just before the send of each token event. sent_ns: just after. gone_ns: the
    client went before the script was over.
    """

    number: int
    connection: int
    nth: int
    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    arrived_ns: int
    read_ns: int
    tokens_ns: list[int] = []
    sent_ns: list[int] = []
    gone_ns: int | None = None

    @property
    def says(self) -> str:
        """The last message of a chat request."""
        return str(msgspec.json.decode(self.body)["messages"][-1]["content"])

    @property
    def model(self) -> str:
        """The model that a chat request asks for."""
        return str(msgspec.json.decode(self.body)["model"])


# What a server says


def head(status: str = "200 OK", *headers: str, type: str = "text/event-stream", length: int | None = None) -> bytes:  # noqa: A002
    """An answer's head. length: of its body; None when it comes in chunks."""
    framing = "Transfer-Encoding: chunked" if length is None else f"Content-Length: {length}"
    return "\r\n".join([f"HTTP/1.1 {status}", f"Content-Type: {type}", framing, *headers, "", ""]).encode()


def chunk(data: bytes) -> bytes:
    return f"{len(data):x}\r\n".encode() + data + b"\r\n"


def event(value: Any) -> bytes:
    return b"data: " + msgspec.json.encode(value) + b"\n\n"


def token(text: str) -> bytes:
    return event({"choices": [{"index": 0, "delta": {"content": text}}]})


def usage(prompt: int, output: int) -> bytes:
    return event({"choices": [], "usage": {"prompt_tokens": prompt, "completion_tokens": output}})


ROLE: Final = event({"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]})
FINISH: Final = event({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
DONE: Final = b"data: [DONE]\n\n"
COMMENT: Final = b": keep-alive\n\n"
LAST_CHUNK: Final = b"0\r\n\r\n"

BEGIN: Final = Send(head())
END: Final = Send(chunk(FINISH) + chunk(DONE) + LAST_CHUNK)


def say(*texts: str) -> tuple[Send, ...]:
    """A token event for each text, in a chunk and a send of its own."""
    return tuple(Send(chunk(token(text)), token=True) for text in texts)


def every(gap_s: float, steps: tuple[Step, ...]) -> Script:
    """The steps, each after a wait."""
    return tuple(itertools.chain.from_iterable((Wait(gap_s), step) for step in steps))


def singly(*steps: Step) -> Script:
    """The steps, each when the client has read what was sent before."""
    return tuple(itertools.chain.from_iterable((Taken(), step) for step in steps))


def streamed(*texts: str, gap_s: float = 0.0) -> Script:
    """A whole stream: its head, a token a text, its end."""
    return (BEGIN, *every(gap_s, say(*texts)), END)


def whole(status: str, body: bytes, *headers: str, type: str = "application/json") -> Script:  # noqa: A002
    """An answer that is no stream."""
    return (Send(head(status, *headers, type=type, length=len(body)) + body),)


def ticking(number: int, *, tokens: int, first_s: float, gap_s: float, together: bool = False) -> Script:
    """A stream at known times, whose text begins with the request's number.

    together: its tokens come when those of all other streams do.
    """
    pace: Step = Tick(gap_s) if together else Wait(gap_s)
    steps: list[Step] = [BEGIN, Wait(first_s)]
    for text, sent in zip((f"{number} ", *("t " for _ in range(1, tokens))), itertools.count()):
        if sent or together:
            steps.append(pace)
        steps.extend(say(text))
    return (*steps, END)


async def in_loop(loop: asyncio.AbstractEventLoop, do: Callable[[], None]) -> None:
    """Do it in the event loop of another thread, and wait until it is done."""
    here, done = asyncio.get_running_loop(), asyncio.Event()

    def call() -> None:
        do()
        with contextlib.suppress(RuntimeError):  # the server has ended meanwhile
            here.call_soon_threadsafe(done.set)

    loop.call_soon_threadsafe(call)
    await done.wait()


Choice = Callable[[Served], Script]


def no_models(_: Served) -> Script:
    """What every GET is answered with, unless a test says otherwise."""
    return whole("200 OK", b'{"object": "list", "data": []}')


# Serving


class Server:
    """The server, in a thread. Use as `with`; what went wrong in a script is raised at its end."""

    def __init__(self, choose: Choice | Script, *, get: Choice = no_models, port: int = 0) -> None:
        """port: 0 takes a free one."""
        self._choose: Choice = choose if callable(choose) else lambda _: choose
        self._get = get
        self._listener = socket.create_server(("127.0.0.1", port), backlog=1024)
        self._listener.setblocking(False)
        if sys.platform == "linux":
            self._listener.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)  # what it accepts inherits it
        self.port: int = self._listener.getsockname()[1]
        self.served: list[Served] = []
        self.connections = 0
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._started = threading.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._failures: list[BaseException] = []
        try:
            self._client_loop: asyncio.AbstractEventLoop | None = asyncio.get_running_loop()
        except RuntimeError:
            self._client_loop = None

    @property
    def url(self) -> str:
        """What an endpoint's URL is: it ends in /v1."""
        return f"http://127.0.0.1:{self.port}/v1"

    @property
    def chats(self) -> list[Served]:
        """The requests so far that ask for a chat."""
        return [request for request in self.served if request.method == "POST"]

    @property
    def open_connections(self) -> int:
        """How many of its connections it has not closed."""
        return len(self._tasks)

    def __enter__(self) -> "Server":
        self._thread.start()
        self._started.wait()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()
        self._listener.close()
        for failure in self._failures:
            raise failure

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:  # the only one that can watch a socket
            runner.run(self._main())

    async def _main(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        # Not `sock_accept`: if that is cancelled in the moment in which a connection comes, nobody ever closes it.
        self._loop.add_reader(self._listener, self._accept)
        self._started.set()
        await self._stop.wait()
        self._loop.remove_reader(self._listener)
        tasks = tuple(self._tasks)
        for task in tasks:
            task.cancel()
        ended = await asyncio.gather(*tasks, return_exceptions=True)
        self._failures += [error for error in ended if isinstance(error, Exception)]

    def _accept(self) -> None:
        try:
            accepted, _ = self._listener.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return
        peer = _Peer(fileno=accepted.detach())
        peer.setblocking(False)
        peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        task = self._loop.create_task(self._converse(peer, self.connections))
        self.connections += 1
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        # A task that is cancelled before its first step never gets to its `with`.
        task.add_done_callback(partial(_close, peer))

    def _ended(self, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._failures.append(error)

    async def _converse(self, peer: "_Peer", connection: int) -> None:
        with peer:
            pending = b""
            for nth in itertools.count():
                try:
                    request, pending = await self._read(peer, pending, connection, nth)
                except (EOFError, OSError):
                    return
                self.served.append(request)
                try:
                    choose = self._get if request.method == "GET" else self._choose
                    if not await self._play(choose(request), request, peer):
                        return
                except OSError:
                    request.gone_ns = time.perf_counter_ns()
                    return

    async def _read(self, peer: "_Peer", pending: bytes, connection: int, nth: int) -> tuple[Served, bytes]:
        """The next request, and what came behind it. Raises EOFError when the client has gone."""

        async def more() -> bytes:
            data = await self._loop.sock_recv(peer, 1 << 16)
            if not data:
                raise EOFError
            return data

        while b"\r\n\r\n" not in pending:
            pending += await more()
            if pending.startswith(_TLS_HANDSHAKE):
                raise EOFError  # as real servers do, which know at once that it is no HTTP
        top, _, rest = pending.partition(b"\r\n\r\n")
        first, *lines = top.decode("latin-1").split("\r\n")
        method, path, _ = first.split(" ", 2)
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        length = int(headers.get("content-length", "0"))
        while len(rest) < length:
            rest += await more()
        read_ns = time.perf_counter_ns()
        request = Served(
            number=len(self.served),
            connection=connection,
            nth=nth,
            method=method,
            path=path,
            headers=headers,
            body=rest[:length],
            arrived_ns=peer.arrived_ns or read_ns,
            read_ns=read_ns,
        )
        return request, rest[length:]

    async def _play(self, script: Script, request: Served, peer: "_Peer") -> bool:
        """Play a script; returns whether the connection may carry another request."""
        due_ns = request.read_ns
        for step in script:
            match step:
                case Send(data, is_token):
                    # The stamp and the send are one after the other, without a wait between them.
                    if is_token:
                        request.tokens_ns.append(time.perf_counter_ns())
                    await self._loop.sock_sendall(peer, data)
                    if is_token:
                        request.sent_ns.append(time.perf_counter_ns())
                case Wait(s):
                    due_ns += round(s * 1e9)
                    await asyncio.sleep(max(0, due_ns - time.perf_counter_ns()) / 1e9)
                case Tick(every_s):
                    period_ns = round(every_s * 1e9)
                    due_ns = (time.perf_counter_ns() // period_ns + 1) * period_ns
                    await asyncio.sleep(max(0, due_ns - time.perf_counter_ns()) / 1e9)
                case Taken() | Until():
                    await (self._taken(peer) if isinstance(step, Taken) else step.over())
                    due_ns = time.perf_counter_ns()
                case Hang():
                    while await self._loop.sock_recv(peer, 1 << 16):
                        pass
                    request.gone_ns = time.perf_counter_ns()
                    return False
                case Fin():
                    return False
                case Rst():
                    layout = "hh" if sys.platform == "win32" else "ii"
                    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack(layout, 1, 0))
                    return False
        return True

    async def _taken(self, peer: "_Peer") -> None:
        assert self._client_loop is not None, "a server that is made outside of an event loop cannot know it"
        while peer.unacknowledged_bytes:  # noqa: ASYNC110  the kernel tells no event loop
            await asyncio.sleep(0.001)
        # What is there when the client's loop looks at its files is read one iteration later at the latest.
        for _ in range(3):
            await in_loop(self._client_loop, lambda: None)


class _Peer(socket.socket):
    """An accepted connection that knows when the last byte it gave had reached the machine, where the kernel says."""

    arrived_ns = 0

    @property
    def unacknowledged_bytes(self) -> int:
        """Of what was sent, how much has not yet reached the other end's kernel; 0 where ours does not say."""
        if sys.platform != "linux":
            return 0
        return int.from_bytes(fcntl.ioctl(self, termios.TIOCOUTQ, bytes(4)), sys.byteorder)

    def recv(self, size: int, flags: int = 0) -> bytes:
        if sys.platform != "linux":
            return super().recv(size, flags)
        data, ancillary, _, _ = self.recvmsg(size, 64, flags)
        self.arrived_ns = 0
        if ancillary:
            seconds, nanos = struct.unpack_from("@ll", ancillary[0][2])
            self.arrived_ns = seconds * 1_000_000_000 + nanos - _wall_offset_ns()
        return data


def _close(peer: _Peer, _: object) -> None:
    peer.close()


def _wall_offset_ns() -> int:
    """CLOCK_REALTIME minus our clock: the narrowest of three brackets."""
    brackets = []
    for _ in range(3):
        before, wall, after = time.perf_counter_ns(), time.time_ns(), time.perf_counter_ns()
        brackets.append((after - before, wall - (before + after) // 2))
    return min(brackets)[1]


# A process of its own


class Ticking(Struct, frozen=True):
    """What a server process streams to everybody: see `ticking`."""

    tokens: int
    first_s: float
    gap_s: float
    together: bool = False
    port: int = 0


class ServerProcess:
    """A server of ticking streams in its own process. Use as `with`; `served` is its account, once it has ended."""

    def __init__(self, streams: Ticking) -> None:
        self._streams = streams
        self.url = ""
        self.served: list[Served] = []

    @property
    def chats(self) -> list[Served]:
        return [request for request in self.served if request.method == "POST"]

    @property
    def pid(self) -> int:
        return self._process.pid

    def kill(self) -> None:
        """End it as a crash does. It leaves no account."""
        self._process.kill()
        self._process.communicate()

    def __enter__(self) -> "ServerProcess":
        command = [sys.executable, "-m", "tests.integration.server", msgspec.json.encode(self._streams).decode()]
        self._process = subprocess.Popen(
            command, cwd=Path(__file__).parents[2], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert self._process.stdout is not None
        self.url = self._process.stdout.readline().decode().strip()
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.returncode is not None:
            return
        try:
            told, _nothing = self._process.communicate(timeout=_START_S)
        except BaseException:
            self._process.kill()
            self._process.communicate()
            raise
        self.served = msgspec.json.decode(told, type=list[Served])


def _serve_until_stdin_ends(streams: Ticking) -> None:
    def choose(request: Served) -> Script:
        tokens, first_s, gap_s, together = streams.tokens, streams.first_s, streams.gap_s, streams.together
        return ticking(request.number, tokens=tokens, first_s=first_s, gap_s=gap_s, together=together)

    with Server(choose, port=streams.port) as server:
        print(server.url, flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            sys.stdin.buffer.read()
    sys.stdout.buffer.write(msgspec.json.encode(server.served))


if __name__ == "__main__":
    _serve_until_stdin_ends(msgspec.json.decode(sys.argv[1], type=Ticking))
