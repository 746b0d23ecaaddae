"""The sockets of the scripted server: one thread with one loop. Knows no chat and no fault.

Tokens are small and many, so the path from a due time to the kernel is kept short. Waits are as precise as those of
`select`: an epoll counts whole milliseconds, but `select` can wait for the epoll itself.
"""

import contextlib
import errno
import select
import selectors
import socket
import struct
import sys
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Final

from loadgen.clock import now_ns, utc_now, wall_offset_ns
from loadgen.errors import InputError
from loadgen.mock.answer import BROKEN, HELD, SENT, Peer
from loadgen.mock.core import Core
from loadgen.mock.script import Script
from loadgen.mock.truth import Account, Truth

_READ_BYTES: Final = 65536
_SO_TIMESTAMPNS: Final = 35
_LINGER_NS: Final = 2_000_000_000
"""How long a client may take to close a connection that we have closed; closing it with unread bytes would reset it."""
_IDLE_S: Final = 3600.0
_SELECTABLE: Final = 1024
_RESET: Final = struct.pack("hh" if sys.platform == "win32" else "ii", 1, 0)
_timespec: Final = struct.Struct("@ll").unpack_from


class ServerStop:
    """Asks a server to stop, from any thread or signal handler. Use it in a `with` statement."""

    def __init__(self) -> None:
        self.requested = False
        self._receiver, self._sender = socket.socketpair()
        self._sender.setblocking(False)

    def __enter__(self) -> "ServerStop":
        return self

    def __exit__(self, *_: object) -> None:
        self._receiver.close()
        self._sender.close()

    def fileno(self) -> int:
        """Readable once a stop has been requested."""
        return self._receiver.fileno()

    def request(self) -> None:
        self.requested = True
        with contextlib.suppress(OSError):
            self._sender.send(b"!")


def serve(
    script: Script,
    host: str = "127.0.0.1",
    port: int = 0,
    *,
    stop: ServerStop,
    on_start: Callable[[str], None] = lambda _: None,
    on_end: Callable[[Truth], None] | None = None,
) -> Account:
    """Serve in this thread until `stop` is requested; returns the account.

    port: 0 takes a free one. on_start: called with the URL, which ends in /v1, when the server can be reached. on_end:
    called with the truth of each chat request when it is over; without it, the account's `requests` has them. Raises
    InputError if the address is not available.
    """
    truths: list[Truth] = []
    core = Core(script, now_ns, int(utc_now().timestamp()), on_end or truths.append)
    with contextlib.closing(_listener(host, port)) as listener:
        loop = _Loop(core, listener, stop)
        address = f"[{host}]" if ":" in host else host
        on_start(f"http://{address}:{listener.getsockname()[1]}/v1")
        try:
            loop.run()
        finally:
            loop.close()
    account = core.account_so_far()
    account.requests = truths
    return account


def _listener(host: str, port: int) -> socket.socket:
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0][0]
        listener = socket.create_server((host, port), family=family, backlog=4096)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise InputError(f"--port {port}: in use already on {host}; choose another, or 0 for a free one") from None
        if error.errno == errno.EACCES:
            raise InputError(f"--port {port}: not allowed; choose one above 1023, or 0 for a free one") from None
        raise InputError(f"--host {host}: not an address of this machine ({error.strerror or error})") from None
    listener.setblocking(False)
    if sys.platform == "linux":
        listener.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)  # what it accepts inherits it
    return listener


class _Connection:
    """One connection. The core sends through it, and it holds the bytes that the client has not read yet."""

    __slots__ = ("_closing", "_held", "_loop", "_send", "peer", "socket")

    def __init__(self, loop: "_Loop", accepted: socket.socket) -> None:
        self._loop, self.socket = loop, accepted
        self._send = accepted.send
        self._held = bytearray()
        self._closing = False
        self.peer: Peer | None = None

    def send(self, data: bytes) -> int:
        if self._held:
            self._held += data
            return HELD
        try:
            sent = self._send(data)
        except BlockingIOError:
            sent = 0
        except OSError:
            self._loop.broken.append(self)
            return BROKEN
        if sent == len(data):
            return SENT
        self._held += data[sent:]
        self._loop.await_writable(self)
        return HELD

    def close(self) -> None:
        self._closing = True
        if not self._held:
            self._loop.linger(self)

    def reset(self) -> None:
        with contextlib.suppress(OSError):
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self._loop.discard(self)

    def drain(self) -> bool:
        """Send held bytes, as many as possible; returns whether all of them were sent."""
        try:
            del self._held[: self._send(self._held)]
        except BlockingIOError:
            return False
        except OSError:
            self._loop.broken.append(self)
            return False
        if self._held:
            return False
        if self._closing:
            self._loop.linger(self)
        return True

    def receive(self) -> tuple[bytes, int]:
        """The bytes that have arrived, and when the last of them reached this machine; raises OSError. No bytes means
        that the client is gone."""
        if sys.platform != "linux":
            return self.socket.recv(_READ_BYTES), now_ns()
        data, ancillary, _, _ = self.socket.recvmsg(_READ_BYTES, 64)
        at_ns = now_ns()
        if ancillary:
            seconds, nanos = _timespec(ancillary[0][2])
            at_ns = min(at_ns, seconds * 1_000_000_000 + nanos - wall_offset_ns())
        return data, at_ns


class _Loop:
    """Waits for connections, bytes, room to send and due times, and calls the core for each."""

    def __init__(self, core: Core, listener: socket.socket, stop: ServerStop) -> None:
        self._core, self._listener, self._stop = core, listener, stop
        self.broken: list[_Connection] = []
        self._connections: set[_Connection] = set()
        self._lingering: deque[tuple[int, _Connection]] = deque()
        self._selector = selectors.DefaultSelector()
        self._selector.register(listener, selectors.EVENT_READ, self._accept)
        self._selector.register(stop, selectors.EVENT_READ, lambda _: None)
        self._accepting = True
        number = self._selector.fileno() if hasattr(self._selector, "fileno") else _SELECTABLE
        self._inner = [number] if number < _SELECTABLE else []

    def run(self) -> None:
        core = self._core
        while not self._stop.requested:
            freeze_end_ns = core.begin_freeze()
            if freeze_end_ns is not None:
                self._freeze(freeze_end_ns)
                continue
            next_ns = core.run_due()
            self._drop_connections()
            self._wait_and_dispatch(self._wait_s(next_ns))

    def close(self) -> None:
        """Close the server, and cut off all remaining clients."""
        for connection in list(self._connections):
            if connection.peer is not None:
                self._core.cut_off(connection.peer)
            self.discard(connection)
        self._selector.close()

    # What connections ask for

    def await_writable(self, connection: _Connection) -> None:
        self._selector.modify(
            connection.socket, selectors.EVENT_READ | selectors.EVENT_WRITE, partial(self._on_ready, connection)
        )

    def linger(self, connection: _Connection) -> None:
        with contextlib.suppress(OSError):
            connection.socket.shutdown(socket.SHUT_WR)
        self._lingering.append((now_ns() + _LINGER_NS, connection))

    def discard(self, connection: _Connection) -> None:
        if connection in self._connections:
            self._connections.discard(connection)
            self._selector.unregister(connection.socket)
            connection.socket.close()
            if not self._accepting:  # a file descriptor is free again
                self._accepting = True
                self._selector.register(self._listener, selectors.EVENT_READ, self._accept)

    # Turns of the loop

    def _wait_s(self, next_ns: int | None) -> float:
        moments = [next_ns, self._core.next_freeze_ns(), self._lingering[0][0] if self._lingering else None]
        waits = [moment for moment in moments if moment is not None]
        return max(0.0, (min(waits) - now_ns()) / 1e9) if waits else _IDLE_S

    def _wait_and_dispatch(self, wait_s: float) -> None:
        if wait_s > 0 and self._inner:
            if not select.select(self._inner, (), (), wait_s)[0]:
                return
            wait_s = 0
        for key, mask in self._selector.select(wait_s):
            key.data(mask)

    def _freeze(self, until_ns: int) -> None:
        while (left_ns := until_ns - now_ns()) > 0 and not self._stop.requested:
            select.select([self._stop], (), (), left_ns / 1e9)

    def _drop_connections(self) -> None:
        """Drop connections that broke during a send, and those that the client does not close."""
        while self.broken:
            self._drop(self.broken.pop())
        while self._lingering and self._lingering[0][0] <= now_ns():
            self.discard(self._lingering.popleft()[1])

    def _drop(self, connection: _Connection) -> None:
        peer, connection.peer = connection.peer, None
        self.discard(connection)
        if peer is not None:
            self._core.on_disconnect(peer)

    def _accept(self, _: int) -> None:
        for _try in range(64):
            try:
                accepted, _address = self._listener.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in (errno.EMFILE, errno.ENFILE):
                    self._selector.unregister(self._listener)  # otherwise it would be ready again at once, forever
                    self._accepting = False
                return
            accepted.setblocking(False)
            with contextlib.suppress(OSError):
                accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection = _Connection(self, accepted)
            connection.peer = self._core.on_connect(connection)
            self._connections.add(connection)
            self._selector.register(accepted, selectors.EVENT_READ, partial(self._on_ready, connection))

    def _on_ready(self, connection: _Connection, mask: int) -> None:
        """The client has sent something, or is reading again."""
        if mask & selectors.EVENT_WRITE and connection in self._connections and connection.drain():
            self._selector.modify(connection.socket, selectors.EVENT_READ, partial(self._on_ready, connection))
            if connection.peer is not None:
                self._core.on_writable(connection.peer)
        if mask & selectors.EVENT_READ and connection in self._connections:
            self._receive(connection)

    def _receive(self, connection: _Connection) -> None:
        try:
            data, at_ns = connection.receive()
        except BlockingIOError:
            return
        except OSError:
            data, at_ns = b"", 0
        if not data:
            self._drop(connection)
        elif connection.peer is not None:
            self._core.on_data(connection.peer, data, at_ns)
