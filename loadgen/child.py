"""A child process that we start, exchange lines with, and never leave behind; and why one has ended. Knows no engine.

Every process that the program starts is a `Child`: servers, the scripted server, and workers. A child ends as soon as
its standard input is closed. The system closes it when we end, however that comes about, so none outlives us.
"""

import asyncio
import contextlib
import os
import re
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec

from loadgen.errors import TargetError

T = TypeVar("T")

STOP_S: Final = 10.0
"""A child whose input has been closed is killed after so long."""
LINE_BYTES: Final = 64 << 20
"""The longest line that is read from a child."""
LOG_BYTES: Final = 64 << 10
"""How much is kept of a child's standard error: the end of it."""
LOG_S: Final = 2.0
"""How long the end of the standard error of a child that has ended is waited for."""
CRASH_S: Final = 0.05
"""The standard error of a child that dies is closed within this, once its connections are."""
EXIT_S: Final = 2.0
"""A process that has closed what it had open is gone within this."""


class Child:
    """One child process. Closing its standard input is what tells it to end."""

    def __init__(self, process: asyncio.subprocess.Process, name: str) -> None:
        self.name = name
        self._process = process
        self._log = b""
        self._log_reader = asyncio.create_task(self._read_log())
        self._oom_kills_at_start = _oom_kills()

    @classmethod
    async def start(
        cls,
        name: str,
        module: str,
        flags: Mapping[str, Any] | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> "Child":
        """Run `python -m module --flag value …`.

        name: what to call it in messages, "the embedded server". flags: as `arguments` takes them. environment:
        variables beside those of this process.
        """
        # In a process group of its own: a Ctrl-C in the terminal is for us, and the child must live while we drain.
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            module,
            *arguments(flags or {}),
            env={**os.environ, **(environment or {})},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            limit=LINE_BYTES,
            start_new_session=True,
            creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),  # its name for that on Windows
        )
        return cls(process, name)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def output_ended(self) -> bool:
        """Whether it has closed its standard output, and all that it had written has been read."""
        return self._output.at_eof()

    def send(self, line: bytes) -> None:
        """Write one line, with its end, to its standard input. A child that is gone takes none, which is no error."""
        with contextlib.suppress(OSError):
            self._input.write(line)

    async def read_line(self, within_s: float) -> bytes:
        """The next line of its standard output, with its end; empty once the output has ended. Raises TimeoutError."""
        async with asyncio.timeout(within_s):
            return await self._output.readline()

    async def receive(self, decoder: msgspec.json.Decoder[T], within_s: float) -> T:
        """The next line of its standard output, decoded. Raises TargetError when none comes in time, when it cannot be
        decoded, or when the child has ended: a child that cannot start says so by ending."""
        try:
            line = await self.read_line(within_s)
        except TimeoutError:
            raise TargetError(f"{self.name} did not answer within {within_s:g} s") from None
        try:
            return decoder.decode(line)
        except msgspec.MsgspecError:
            code = await self.exit_code(STOP_S)
            reason = await self.crash_reason()
            problem = problem_of(reason)
            if code == -9 and _oom_kills() > self._oom_kills_at_start:
                problem, reason = OUT_OF_MEMORY, "the system had no memory left"
            exit_text = "it had to be ended" if code is None else describe_exit(code)
            details = f"{exit_text}: {reason}" if reason else exit_text
            raise TargetError(f"{self.name} ended as it started ({details})", problem=problem) from None

    async def read_rest(self, within_s: float) -> bytes:
        """Close its standard input, so that it ends, and return all that it still writes. Raises TimeoutError."""
        self._input.close()
        async with asyncio.timeout(within_s):
            return await self._output.read()

    async def exit_code(self, within_s: float) -> int | None:
        """Its return code, below 0 for a signal; None when it has not ended in time."""
        try:
            async with asyncio.timeout(within_s):
                return await self._process.wait()
        except TimeoutError:
            return None

    async def crash_reason(self) -> str | None:
        """Why it failed, as far as its standard error says so; of one that has ended, or is about to."""
        await asyncio.wait({self._log_reader}, timeout=LOG_S)
        return crash_reason(self._log.decode("utf-8", "replace"))

    async def crash(self) -> str | None:
        """How it ended, and why, where it has ended by itself: "has died (exit code 3)". None while it lives, which is
        known within 50 ms."""
        # Its standard error is closed as its connections are: who has seen one break off waits here for the other.
        await asyncio.wait({self._log_reader}, timeout=CRASH_S)
        if self._process.returncode is None and not self._log_reader.done():
            return None
        code = await self.exit_code(EXIT_S)
        if code is None:
            return None
        await asyncio.wait({self._log_reader}, timeout=LOG_S)
        log = self._log.decode("utf-8", "replace")
        return crash_summary(code, log, oom_kills=_oom_kills() - self._oom_kills_at_start)

    def kill(self) -> None:
        """End it by force, at once."""
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()

    async def stop(self) -> None:
        """End it: by closing its input, and when that takes too long, by force."""
        self._input.close()
        if await self.exit_code(STOP_S) is None:
            self.kill()
            await self._process.wait()
        self._log_reader.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._log_reader

    @property
    def _input(self) -> asyncio.StreamWriter:
        assert self._process.stdin is not None
        return self._process.stdin

    @property
    def _output(self) -> asyncio.StreamReader:
        assert self._process.stdout is not None
        return self._process.stdout

    async def _read_log(self) -> None:
        """Keep the end of what it writes to its standard error, which must be read lest it waits for us."""
        assert self._process.stderr is not None
        while chunk := await self._process.stderr.read(LOG_BYTES):
            self._log = (self._log + chunk)[-LOG_BYTES:]


def arguments(flags: Mapping[str, Any]) -> list[str]:
    """Flags as a command line. A None leaves its flag out, a list repeats it, True gives it no value; a value
    that looks like a flag is tied to its own."""
    words: list[str] = []
    for flag, value in flags.items():
        if value is True:
            words.append(flag)
            continue
        for item in value if isinstance(value, list | tuple) else [value]:
            text = str(item)
            words += [] if item is None else [f"{flag}={text}"] if text.startswith("-") else [flag, text]
    return words


def _oom_kills() -> int:
    """How many processes of this machine Linux has killed for want of memory since it started; 0 where it does not
    say."""
    with contextlib.suppress(OSError, ValueError):
        for line in Path("/proc/vmstat").read_text(encoding="ascii").splitlines():
            if line.startswith("oom_kill "):
                return int(line.split()[1])
    return 0


OUT_OF_MEMORY: Final = "out_of_memory"
_MEMORY: Final = re.compile(
    r"(?:insufficient memory|failed to allocate|cannot allocate memory|out of memory|memoryerror).*|[\w:]*bad_alloc\b",
    re.IGNORECASE,
)
_LOGGED_ERROR: Final = re.compile(r"^[\d.]+ E (.*)$")
_LOGGER_NAME: Final = re.compile(r"^(?:\w+ +)?\w+: (?:error loading model: )?")
_EXCEPTION: Final = re.compile(r"^\s*(?:what\(\):\s*(.+)|(\w+(?:Error|Exception): .+))$")
_MAX_CHARS: Final = 300
_MAX_LINE_CHARS: Final = 1000


def crash_reason(log: str) -> str | None:
    """The line that says why, of a log that ends where its process did; None where none does.

    Knows llama.cpp's log (`0.00.034.896 E llama_model_load: error loading model: …`), a C++ exception's last line, and
    a Python traceback's.
    """
    lines = [line[:_MAX_LINE_CHARS].rstrip() for line in log.splitlines()]
    for line in lines:
        if (match := _MEMORY.search(line)) is not None:
            return match[0].strip()[:_MAX_CHARS]
    for line in lines:  # the first error is the cause; those that follow it are of the callers
        if (match := _LOGGED_ERROR.match(line)) is not None:
            return _LOGGER_NAME.sub("", match[1].strip())[:_MAX_CHARS]
    for line in reversed(lines):
        if (match := _EXCEPTION.match(line)) is not None:
            return (match[1] or match[2]).strip()[:_MAX_CHARS]
    return None


def problem_of(reason: str | None) -> str:
    """The kind of problem that a reason stands for, in one word."""
    if reason is None:
        return "runtime"
    if _MEMORY.search(reason) or "Resource temporarily unavailable" in reason:  # there was none for a thread's stack
        return OUT_OF_MEMORY
    return "port" if "couldn't bind" in reason else "load_failed"


def describe_exit(code: int) -> str:
    """How a process ended, by its return code: below 0, by that signal."""
    if code >= 0:
        return f"exit code {code}"
    with contextlib.suppress(ValueError):
        return f"ended by {signal.Signals(-code).name}"
    return f"ended by signal {-code}"


def crash_summary(code: int, log: str, oom_kills: int) -> str:
    """How a child ended that should have gone on, without its name: "has died (exit code 3)".

    oom_kills: how many processes the system has killed for want of memory since it started.
    """
    exit_text = describe_exit(code)
    reason = crash_reason(log)
    if problem_of(reason) == OUT_OF_MEMORY:
        return f"ran out of memory ({exit_text}: {reason})"
    if oom_kills and code == -9:
        return "ran out of memory (the system ended it)"
    hint = ", as the system does when memory runs out" if code == -9 else f": {reason}" if reason else ""
    return f"has died ({exit_text}{hint})"
