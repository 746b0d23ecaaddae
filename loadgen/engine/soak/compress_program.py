"""The program that compresses one file: `python compress_program.py SOURCE TARGET`.

It is a process of its own, because a thread of low priority takes the interpreter's lock like any other thread, and the
event loop then waits for the lock until the system lets the thread run again: on a busy machine for milliseconds.

It imports little, and only from the standard library, so that it starts at once. It ends as soon as its standard input
is closed.
"""

import os
import sys
import threading
import zlib

LEVEL = 6
CHUNK_BYTES = 1 << 18
NICENESS = 19
DARWIN_PROCESS = 4
DARWIN_BACKGROUND = 0x1000
"""PRIO_DARWIN_PROCESS and PRIO_DARWIN_BG of `sys/resource.h`."""
GZIP = 31
"""zlib's number for the format of gzip. Its header then has no time, so that equal lines make equal files."""


def main() -> int:
    lower_priority()
    threading.Thread(target=end_with_parent, daemon=True).start()
    try:
        compress_file(*sys.argv[1:])
    except OSError:
        return 1
    return 0


def lower_priority() -> None:
    """Let every other process of this machine run first. On Windows, whoever starts this program says so."""
    if sys.platform == "win32":
        return
    os.nice(NICENESS)
    if sys.platform == "darwin":
        os.setpriority(DARWIN_PROCESS, 0, DARWIN_BACKGROUND)
    if sys.platform == "linux":
        # Whoever wakes up then takes the core at once, which the lowest niceness alone does not promise: sched(7).
        try:
            os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
        except OSError:  # not allowed in some sandboxes
            return


def end_with_parent() -> None:
    """End when standard input is closed, which the system does when the process ends that started this one."""
    while os.read(0, 1):
        pass
    os._exit(1)


def compress_file(source: str, target: str) -> None:
    """Write the compressed form of a file. Raises OSError; the target may then be incomplete."""
    stream = zlib.compressobj(LEVEL, zlib.DEFLATED, GZIP)
    with open(source, "rb", buffering=0) as plain, open(target, "wb") as compressed:  # noqa: PTH123  imports little
        while chunk := plain.read(CHUNK_BYTES):
            compressed.write(stream.compress(chunk))
        compressed.write(stream.flush())
        compressed.flush()
        # Before the plain form is removed, so that a loss of power leaves one of the two.
        os.fsync(compressed.fileno())


if __name__ == "__main__":
    sys.exit(main())
