"""A server that we start as a child process, speak JSON lines with, and never leave behind. Knows no engine."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from typing import Any, Final

import msgspec

from loadgen.errors import TargetError

STOP_S: Final = 10.0
LINE_BYTES: Final = 4 << 20


class Child:
    """One child process. Closing its standard input is what tells it to end."""

    def __init__(self, process: asyncio.subprocess.Process, name: str) -> None:
        self._process = process
        self._name = name

    @classmethod
    async def start(cls, name: str, module: str, flags: dict[str, Any], environment: dict[str, str]) -> "Child":
        """Run `python -m module --flag value …`. A None leaves its flag out, a list repeats it, True gives no value."""
        # In a process group of its own: a Ctrl-C in the terminal is for us, and the server must live while we drain.
        group: dict[str, Any] = {"start_new_session": True}
        if sys.platform == "win32":
            group = {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP}
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            module,
            *arguments(flags),
            env={**os.environ, **environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            limit=LINE_BYTES,
            **group,
        )
        return cls(process, name)

    async def hear(self, within_s: float) -> dict[str, Any]:
        """The next thing that it says. Raises TargetError when it says nothing in time, nonsense, or has ended."""
        if self._process.stdout is None:
            raise TargetError(f"{self._name} has no output to read")
        try:
            line = await asyncio.wait_for(self._process.stdout.readline(), within_s)
        except TimeoutError:
            raise TargetError(f"{self._name} did not answer within {within_s:g} s") from None
        try:
            return msgspec.json.decode(line, type=dict[str, Any])
        except msgspec.MsgspecError:
            code = await self._ended(STOP_S)
            raise TargetError(f"{self._name} ended as it started ({_how_ended(code)})") from None

    def tell(self, word: str) -> None:
        """Say one line to it; a child that is gone hears nothing, which is no error here."""
        if self._process.stdin is not None:
            with contextlib.suppress(OSError):
                self._process.stdin.write(f"{word}\n".encode())

    async def stop(self) -> None:
        """End it: by closing its input, and when that takes too long, by force."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        if await self._ended(STOP_S) is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(signal.SIGTERM if sys.platform == "win32" else signal.SIGKILL)
            await self._process.wait()

    async def _ended(self, within_s: float) -> int | None:
        try:
            return await asyncio.wait_for(self._process.wait(), within_s)
        except TimeoutError:
            return None


def arguments(flags: dict[str, Any]) -> list[str]:
    """Flags as a command line."""
    words: list[str] = []
    for flag, value in flags.items():
        if value is True:
            words.append(flag)
            continue
        for one in value if isinstance(value, list | tuple) else [value]:
            words += [] if one is None else [flag, str(one)]
    return words


def _how_ended(code: int | None) -> str:
    if code is None:
        return "it had to be ended"
    return f"killed by signal {-code}" if code < 0 else f"exit code {code}"
