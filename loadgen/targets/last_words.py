"""Why a server of ours failed, from what it had written to its standard error and from how it ended. Pure.

Knows llama.cpp's log (`0.00.034.896 E llama_model_load: error loading model: …`), a C++ exception's last line, and a
Python traceback's.
"""

import re
import signal
from contextlib import suppress
from typing import Final

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


def why(log: str) -> str | None:
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


def how_ended(code: int) -> str:
    """How a process ended, by its return code: below 0, by that signal."""
    if code >= 0:
        return f"exit code {code}"
    with suppress(ValueError):
        return f"ended by {signal.Signals(-code).name}"
    return f"ended by signal {-code}"


def obituary(name: str, code: int | None, log: str, *, killed_for_memory: bool) -> str:
    """A line about a server that ended while it should have served. code: None is not known. killed_for_memory: the
    system has ended some process for want of memory since it started."""
    how = "it is gone" if code is None else how_ended(code)
    reason = why(log)
    if problem_of(reason) == OUT_OF_MEMORY:
        return f"{name} ran out of memory ({how}: {reason})"
    if killed_for_memory and code == -9:
        return f"{name} ran out of memory (the system ended it)"
    hint = ", as the system does when memory runs out" if code == -9 else f": {reason}" if reason else ""
    return f"{name} has died ({how}{hint})"
