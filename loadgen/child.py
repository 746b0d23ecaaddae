"""Child processes, which exchange lines with us or work by themselves, and never outlive us; and the reason why a child
ended. Knows no engine.

Servers, the scripted server and workers are each a `Child`; a `BackgroundProcess` compresses files. Each ends as soon
as its standard input is closed. When we end, in whatever way, the system closes it, so no process of ours outlives us.
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
"""How long a child may take to end after its input was closed; then it is killed."""
LINE_BYTES: Final = 64 << 20
"""The longest line that is read from a child."""
LOG_BYTES: Final = 64 << 10
"""How many of the last bytes of a child's standard error are kept."""
LOG_S: Final = 2.0
"""How long to wait for the end of the standard error of a child that has ended."""
CRASH_S: Final = 0.05
"""The longest time between the end of a dying child's connections and the end of its standard error."""
EXIT_S: Final = 2.0
"""How long to wait for the exit of a process that has closed its files."""
_WINDOWS_BACKGROUND: Final[int] = sum(
    getattr(subprocess, name, 0) for name in ("CREATE_NEW_PROCESS_GROUP", "IDLE_PRIORITY_CLASS")
)
"""Only Windows has these names."""


class Child:
    """One child process. It ends when its standard input is closed."""

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

        name: its name in messages, such as "the embedded server". flags: as for `arguments`. environment: variables in
        addition to those of this process.
        """
        # In its own process group: Ctrl-C in the terminal reaches only us, and the child lives while we drain.
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
        """Write one line, with its end, to its standard input. Does nothing if the child is gone."""
        with contextlib.suppress(OSError):
            self._input.write(line)

    async def read_line(self, within_s: float) -> bytes:
        """The next line of its standard output, with its end; empty after the end of the output. Raises
        TimeoutError."""
        async with asyncio.timeout(within_s):
            return await self._output.readline()

    async def receive(self, decoder: msgspec.json.Decoder[T], within_s: float) -> T:
        """The next line of its standard output, decoded. Raises TargetError if no line comes in time, if it cannot be
        decoded, or if the child has ended, because a child that cannot start ends."""
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
            raise TargetError(f"{self.name} ended during its start ({details})", problem=problem) from None

    async def read_rest(self, within_s: float) -> bytes:
        """Close its standard input, so that it ends, and return everything that it still writes. Raises
        TimeoutError."""
        self._input.close()
        async with asyncio.timeout(within_s):
            return await self._output.read()

    async def exit_code(self, within_s: float) -> int | None:
        """Its return code, below 0 for a signal; None if it has not ended in time."""
        try:
            async with asyncio.timeout(within_s):
                return await self._process.wait()
        except TimeoutError:
            return None

    async def crash_reason(self) -> str | None:
        """Why a child failed that has ended or is about to, from its standard error; None if that does not say."""
        await asyncio.wait({self._log_reader}, timeout=LOG_S)
        return crash_reason(self._log.decode("utf-8", "replace"))

    async def crash(self) -> str | None:
        """How and why it ended by itself: "has died (exit code 3)"; None if it is alive. Takes up to 50 ms."""
        # A dying child's connections and its standard error close at about the same time, so wait for the latter.
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
        """End it by closing its input; kill it if that takes too long."""
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
        """Keep the last bytes of its standard error. It must be read, because the child would block otherwise."""
        assert self._process.stderr is not None
        while chunk := await self._process.stderr.read(LOG_BYTES):
            self._log = (self._log + chunk)[-LOG_BYTES:]


class BackgroundProcess:
    """A process that runs a program of ours while nothing else needs the machine, and exchanges nothing with us."""

    def __init__(self, program: Path, *words: str | os.PathLike[str]) -> None:
        """program: a file that imports only the standard library, lowers its own priority, except on Windows, and ends
        when its standard input is closed. words: its arguments. Raises OSError."""
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-S", program, *words],  # without what is installed: it starts in half the time
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            creationflags=_WINDOWS_BACKGROUND,
        )

    @property
    def exit_code(self) -> int | None:
        """Its return code, below 0 for a signal; None while it runs."""
        return self._process.poll()

    def wait(self) -> None:
        """Wait for its end."""
        self._process.wait()

    def end(self) -> None:
        """End it by force if it still runs."""
        self._process.kill()
        self._process.communicate()  # which closes its input too


def arguments(flags: Mapping[str, Any]) -> list[str]:
    """Flags as a command line. None leaves a flag out, a list repeats it, and True gives it no value. A value that
    looks like a flag is joined to its flag with `=`."""
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
    """How many processes Linux has killed on this machine because memory was short; 0 if it does not say."""
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
    """The line of a log that says why its process ended; None if there is no such line.

    Knows llama.cpp's log (`0.00.034.896 E llama_model_load: error loading model: …`), a C++ exception's last line, and
    a Python traceback's.
    """
    lines = [line[:_MAX_LINE_CHARS].rstrip() for line in log.splitlines()]
    for line in lines:
        if (match := _MEMORY.search(line)) is not None:
            return match[0].strip()[:_MAX_CHARS]
    for line in lines:  # the first error is the cause; later ones come from its callers
        if (match := _LOGGED_ERROR.match(line)) is not None:
            return _LOGGER_NAME.sub("", match[1].strip())[:_MAX_CHARS]
    for line in reversed(lines):
        if (match := _EXCEPTION.match(line)) is not None:
            return (match[1] or match[2]).strip()[:_MAX_CHARS]
    return None


def problem_of(reason: str | None) -> str:
    """The kind of problem for a reason, in one word."""
    if reason is None:
        return "runtime"
    if _MEMORY.search(reason) or "Resource temporarily unavailable" in reason:  # no memory for a thread's stack
        return OUT_OF_MEMORY
    return "port" if "couldn't bind" in reason else "load_failed"


def describe_exit(code: int) -> str:
    """How a process ended, by its return code; a code below 0 means a signal."""
    if code >= 0:
        return f"exit code {code}"
    with contextlib.suppress(ValueError):
        return f"ended by {signal.Signals(-code).name}"
    return f"ended by signal {-code}"


def crash_summary(code: int, log: str, oom_kills: int) -> str:
    """How a child ended that should not have ended, without its name: "has died (exit code 3)".

    oom_kills: how many processes the system has killed since the child started, because memory was short.
    """
    exit_text = describe_exit(code)
    reason = crash_reason(log)
    if problem_of(reason) == OUT_OF_MEMORY:
        return f"ran out of memory ({exit_text}: {reason})"
    if oom_kills and code == -9:
        return "ran out of memory (the system ended it)"
    hint = ", as the system does when memory runs out" if code == -9 else f": {reason}" if reason else ""
    return f"has died ({exit_text}{hint})"
