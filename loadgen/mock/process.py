"""The scripted server in a process of its own, so that it shares no lock and no garbage with whom it is to test.

The child is `python -m loadgen.mock`: it reads one line with what to serve, prints one line with its URL (or what was
wrong), serves until its standard input ends, and then writes its account to its standard output.
"""

import contextlib
import gc
import os
import subprocess
import sys
import threading
from typing import Any, Final

import msgspec
from msgspec import Struct

from loadgen.errors import InputError, LoadgenError
from loadgen.mock.script import Script
from loadgen.mock.sockets import ServerStop, serve
from loadgen.mock.truth import Account, Truth

_STOP_S: Final = 30.0
_PR_SET_TIMERSLACK: Final = 29


class _Wish(Struct, frozen=True):
    script: Script
    host: str
    port: int


class _Word(Struct, frozen=True):
    url: str = ""
    error: str | None = None


class MockProcess:
    """A scripted server in a child process. Use as `with`; `truth` and `account` are there once it has ended.

    Raises InputError when the address cannot be had, RuntimeError when the child has died.
    """

    def __init__(self, script: Script, host: str = "127.0.0.1", port: int = 0) -> None:
        self._wish = _Wish(script, host, port)
        self.url = ""
        self.account = Account()

    @property
    def truth(self) -> list[Truth]:
        """What became of each chat request, in the order in which they ended."""
        return self.account.requests

    @property
    def pid(self) -> int:
        return self._process.pid

    def __enter__(self) -> "MockProcess":
        # In a process group of its own: a Ctrl-C in the terminal is for us, and the truth must be told at the end.
        group: dict[str, Any] = {"start_new_session": True}
        if sys.platform == "win32":
            group = {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP}
        command = [sys.executable, "-m", "loadgen.mock"]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, **group)
        try:
            self._begin()
        except BaseException:
            self._kill()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        try:
            told, _errors = self._process.communicate(timeout=_STOP_S)
        except BaseException:
            self._kill()
            raise
        if self._process.returncode != 0:
            raise RuntimeError(f"the scripted server has died (exit code {self._process.returncode})")
        self.account = msgspec.msgpack.decode(told, type=Account)

    def _begin(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(msgspec.json.encode(self._wish) + b"\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError("the scripted server has died as it started")
        word = msgspec.json.decode(line, type=_Word)
        if word.error is not None:
            raise InputError(word.error)
        self.url = word.url

    def _kill(self) -> None:
        self._process.kill()
        self._process.communicate()


def serve_parent() -> int:
    """The child's side. Returns its exit code."""
    wish = msgspec.json.decode(sys.stdin.buffer.readline(), type=_Wish)
    settle()
    with ServerStop() as stop:

        def until_input_ends() -> None:
            sys.stdin.buffer.read()
            stop.ask()

        def say(word: _Word) -> None:
            sys.stdout.buffer.write(msgspec.json.encode(word) + b"\n")
            sys.stdout.buffer.flush()

        # Waits in the kernel and takes no lock until the very end.
        threading.Thread(target=until_input_ends, daemon=True).start()
        try:
            account = serve(wish.script, wish.host, wish.port, stop=stop, started=lambda url: say(_Word(url)))
        except LoadgenError as error:
            say(_Word(error=str(error)))
            return 2
    sys.stdout.buffer.write(msgspec.msgpack.encode(account))
    sys.stdout.buffer.flush()
    os._exit(0)  # a million stamps need not be freed one by one


def settle() -> None:
    """Make a process fit to keep a schedule: no collector's pauses, fine timers, as many files as are allowed."""
    gc.collect()
    gc.freeze()
    gc.disable()  # answers and connections let go of each other as they end
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            import ctypes

            ctypes.CDLL(None).prctl(_PR_SET_TIMERSLACK, 1, 0, 0, 0)  # else a wait may take 50 µs more than was asked
