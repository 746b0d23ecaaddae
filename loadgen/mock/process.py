"""The scripted server in a separate process, so that it shares no lock and no garbage collector with the client.

The child is `python -m loadgen.mock`. It reads one line with the script, prints one line with its URL (or an error),
serves until its standard input ends, and then writes its account to its standard output.
"""

import asyncio
import contextlib
import gc
import os
import sys
import threading
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, TypeVar

import msgspec
from msgspec import Struct

from loadgen.child import Child
from loadgen.errors import InputError, LoadgenError
from loadgen.mock.script import Script
from loadgen.mock.sockets import ServerStop, serve
from loadgen.mock.truth import Account, Truth

START_S: Final = 60.0
STOP_S: Final = 30.0
"""The time limit for writing and reading the account of the server, which suffices for a million tokens."""
_PR_SET_TIMERSLACK: Final = 29

T = TypeVar("T")


class ServeScript(Struct, frozen=True):
    """The line that the child reads: the script, and the address to serve it at."""

    script: Script
    host: str
    port: int


class Serving(Struct, frozen=True):
    """The line that the child writes: its URL, or the error that prevents it from serving."""

    url: str = ""
    error: str | None = None


class MockProcess:
    """A scripted server in a child process. Use it in a `with` statement; `truth` and `account` exist after it.

    Raises InputError if the address is not available, and RuntimeError if the child has died.
    """

    def __init__(self, script: Script, host: str = "127.0.0.1", port: int = 0) -> None:
        self._order = ServeScript(script, host, port)
        self._child: Child
        self.url = ""
        self.account = Account()

    @property
    def truth(self) -> list[Truth]:
        """The truth of each chat request, in the order in which they ended."""
        return self.account.requests

    @property
    def pid(self) -> int:
        return self._child.pid

    def __enter__(self) -> "MockProcess":
        # A thread with its own event loop talks to the child, because the caller may have no event loop, a running one,
        # or several in turn.
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="mock")
        self._runner = asyncio.Runner()
        try:
            self._run(self._start())
        except BaseException:
            self._close_loop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._run(self._read_account())
        finally:
            self._child.kill()
            self._run(self._child.stop())
            self._close_loop()

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        return self._thread.submit(self._runner.run, work).result()

    def _close_loop(self) -> None:
        self._thread.submit(self._runner.close).result()
        self._thread.shutdown()

    async def _start(self) -> None:
        self._child = await Child.start("the scripted server", "loadgen.mock")
        try:
            self.url = await self._read_url()
        except BaseException:
            self._child.kill()
            await self._child.stop()
            raise

    async def _read_url(self) -> str:
        self._child.send(msgspec.json.encode(self._order) + b"\n")
        line = await self._child.read_line(START_S)
        if not line:
            raise await self._crash()
        serving = msgspec.json.decode(line, type=Serving)
        if serving.error is not None:
            raise InputError(serving.error)
        return serving.url

    async def _read_account(self) -> None:
        account = await self._child.read_rest(STOP_S)
        if await self._child.exit_code(STOP_S) != 0:
            raise await self._crash()
        self.account = msgspec.msgpack.decode(account, type=Account)

    async def _crash(self) -> RuntimeError:
        await self._child.exit_code(STOP_S)
        return RuntimeError(f"{self._child.name} {await self._child.crash() or 'has not ended'}")


def serve_parent() -> int:
    """The main function of the child. Returns its exit code."""
    order = msgspec.json.decode(sys.stdin.buffer.readline(), type=ServeScript)
    tune_process()
    with ServerStop() as stop:

        def wait_for_input_end() -> None:
            sys.stdin.buffer.read()
            stop.request()

        def send(serving: Serving) -> None:
            sys.stdout.buffer.write(msgspec.json.encode(serving) + b"\n")
            sys.stdout.buffer.flush()

        # Waits in the kernel and takes no lock until the very end.
        threading.Thread(target=wait_for_input_end, daemon=True).start()
        try:
            account = serve(order.script, order.host, order.port, stop=stop, on_start=lambda url: send(Serving(url)))
        except LoadgenError as error:
            send(Serving(error=str(error)))
            return 2
    sys.stdout.buffer.write(msgspec.msgpack.encode(account))
    sys.stdout.buffer.flush()
    os._exit(0)  # a million stamps need not be freed one by one


def tune_process() -> None:
    """Prepare a process for keeping a schedule: no garbage collection, fine timers, as many files as allowed."""
    gc.collect()
    gc.freeze()
    gc.disable()  # answers and connections release each other when they end
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            import ctypes

            ctypes.CDLL(None).prctl(_PR_SET_TIMERSLACK, 1, 0, 0, 0)  # otherwise a wait may take 50 µs longer
