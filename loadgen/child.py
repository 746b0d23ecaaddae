"""A server that we start as a child process, speak JSON lines with, and never leave behind. Knows no engine."""

import asyncio
import contextlib
import os
import re
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import msgspec

from loadgen.errors import TargetError

STOP_S: Final = 10.0
LOG_S: Final = 2.0
LINE_BYTES: Final = 4 << 20
LOG_BYTES: Final = 64 << 10
"""What is kept of a server's standard error: the end of it."""
LOOK_S: Final = 0.05
GONE_S: Final = 2.0
"""A process that has closed what it had open is gone within this."""


class Child:
    """One child process. Closing its standard input is what tells it to end."""

    def __init__(self, process: asyncio.subprocess.Process, name: str) -> None:
        self._process = process
        self._name = name
        self._log = b""
        self._reading = asyncio.create_task(self._read_log())
        self._killed_for_memory = _killed_for_memory()

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
            stderr=subprocess.PIPE,
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
            reason = await self.reason()
            problem = problem_of(reason)
            if code == -9 and _killed_for_memory() > self._killed_for_memory:
                problem, reason = OUT_OF_MEMORY, "the system had no memory left"
            how = "it had to be ended" if code is None else describe_exit(code)
            said = f"{how}: {reason}" if reason else how
            raise TargetError(f"{self._name} ended as it started ({said})", problem=problem) from None

    def tell(self, word: str) -> None:
        """Say one line to it; a child that is gone hears nothing, which is no error here."""
        if self._process.stdin is not None:
            with contextlib.suppress(OSError):
                self._process.stdin.write(f"{word}\n".encode())

    async def reason(self) -> str | None:
        """Why it failed, as far as its standard error says so; of one that has ended, or is about to."""
        await asyncio.wait({self._reading}, timeout=LOG_S)
        return crash_reason(self._log.decode("utf-8", "replace"))

    async def died(self) -> str | None:
        """A line about its end, if it has ended by itself; None while it lives, which is known within 50 ms."""
        # Its standard error is closed as its connections are: who has seen one break off waits here for the other.
        await asyncio.wait({self._reading}, timeout=LOOK_S)
        if self._process.returncode is None and not self._reading.done():
            return None
        code = await self._ended(GONE_S)
        if code is None:
            return None
        await asyncio.wait({self._reading}, timeout=LOG_S)
        log = self._log.decode("utf-8", "replace")
        more = _killed_for_memory() > self._killed_for_memory
        return crash_summary(self._name, code, log, killed_for_memory=more)

    async def stop(self) -> None:
        """End it: by closing its input, and when that takes too long, by force."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        if await self._ended(STOP_S) is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(signal.SIGTERM if sys.platform == "win32" else signal.SIGKILL)
            await self._process.wait()
        self._reading.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._reading

    async def _ended(self, within_s: float) -> int | None:
        try:
            return await asyncio.wait_for(self._process.wait(), within_s)
        except TimeoutError:
            return None

    async def _read_log(self) -> None:
        """Keep the end of what it writes to its standard error, which must be read lest it waits for us."""
        assert self._process.stderr is not None
        while chunk := await self._process.stderr.read(LOG_BYTES):
            self._log = (self._log + chunk)[-LOG_BYTES:]


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


def _killed_for_memory() -> int:
    """How many processes of this machine Linux has ended for want of memory; 0 where it does not say."""
    with contextlib.suppress(OSError, ValueError):
        for line in Path("/proc/vmstat").read_text(encoding="ascii").splitlines():
            if line.startswith("oom_kill "):
                return int(line.split()[1])
    return 0


# Why a server of ours failed, from what it had written to its standard error and from how it ended. Pure.
#
# Knows llama.cpp's log (`0.00.034.896 E llama_model_load: error loading model: …`), a C++ exception's last line, and a
# Python traceback's.

OUT_OF_MEMORY: Final = "out_of_memory"
_MEMORY: Final = re.compile(
    r"(?:insufficient memory|failed to allocate|cannot allocate memory|out of memory|memoryerror).*|[\w:]*bad_alloc\b",
    re.IGNORECASE,
)
_LOGGED: Final = re.compile(r"^[\d.]+ E (.*)$")
_SPEAKER: Final = re.compile(r"^(?:\w+ +)?\w+: (?:error loading model: )?")
_RAISED: Final = re.compile(r"^\s*(?:what\(\):\s*(.+)|(\w+(?:Error|Exception): .+))$")
_MOST_CHARS: Final = 300
_MOST_LINE_CHARS: Final = 1000


def crash_reason(log: str) -> str | None:
    """The line that says why, of a log that ends where its process did; None where none does."""
    lines = [line[:_MOST_LINE_CHARS].rstrip() for line in log.splitlines()]
    for line in lines:
        if (told := _MEMORY.search(line)) is not None:
            return told[0].strip()[:_MOST_CHARS]
    for line in lines:  # the first error is the cause; those behind it are of who had called
        if (told := _LOGGED.match(line)) is not None:
            return _SPEAKER.sub("", told[1].strip())[:_MOST_CHARS]
    for line in reversed(lines):
        if (told := _RAISED.match(line)) is not None:
            return (told[1] or told[2]).strip()[:_MOST_CHARS]
    return None


def problem_of(reason: str | None) -> str:
    """What a reason comes to, in one word."""
    if reason is None:
        return "runtime"
    if _MEMORY.search(reason) or "Resource temporarily unavailable" in reason:  # there was none for a thread's stack
        return OUT_OF_MEMORY
    return "port" if "couldn't bind" in reason else "load_failed"


def describe_exit(code: int) -> str:
    """How a process ended, by its return code: below 0, by that signal."""
    if code >= 0:
        return f"exit code {code}"
    with suppress(ValueError):
        return f"ended by {signal.Signals(-code).name}"
    return f"ended by signal {-code}"


def crash_summary(name: str, code: int | None, log: str, *, killed_for_memory: bool) -> str:
    """A line about a server that ended while it should have served. code: None is not known. killed_for_memory: the
    system has ended some process for want of memory since it started."""
    how = "it is gone" if code is None else describe_exit(code)
    reason = crash_reason(log)
    if problem_of(reason) == OUT_OF_MEMORY:
        return f"{name} ran out of memory ({how}: {reason})"
    if killed_for_memory and code == -9:
        return f"{name} ran out of memory (the system ended it)"
    hint = ", as the system does when memory runs out" if code == -9 else f": {reason}" if reason else ""
    return f"{name} has died ({how}{hint})"
