"""The memory of a server's processes.

Model weights that are mapped from a file come and go in the resident memory, and leaked pages that were swapped out
leave it. So the pages that are a process's own are counted, wherever they are.
"""

import ctypes
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Literal

import psutil
from msgspec import Struct

from loadgen.clock import Clock

MemoryKind = Literal["private", "footprint", "rss"]
"""What the memory of a process means: the pages that are its own, resident or swapped out (Linux, Windows); what macOS
charges it for; or, where the system tells neither, its resident pages, those of mapped files too."""

FAMILY_NS: Final = 30_000_000_000
"""How long the list of a server's processes is used. To make it anew, every process of the machine is read."""
OWN_PAGES: Final = ("RssAnon:", "VmSwap:")


class ServerMemory(Struct, frozen=True):
    """The memory of all processes of one server at one moment. None: not known."""

    memory_bytes: int | None = None
    kind: MemoryKind | None = None
    """What `memory_bytes` is."""
    rss_bytes: int | None = None


class ServerMemoryWatch:
    """Samples the memory of one server, whatever process it is."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._family: Sequence[psutil.Process] = ()
        """The server's process, and its descendants."""
        self._listed_ns = 0
        """When the descendants were listed."""

    def sample(self, pid: int | None) -> ServerMemory:
        """pid: the server's process now; None if it is not known, or not on this machine."""
        self._refresh(pid)
        kinds, own, rss = set[MemoryKind](), 0, 0
        for process in self._family:
            try:
                rss_bytes = int(process.memory_info().rss)
                own_bytes, kind = memory_of(process)
            except psutil.Error:  # it has ended, or is none of ours
                continue
            if own_bytes or rss_bytes:  # one that has ended, and waits for its parent to take note, has none
                kinds.add(kind)
                own, rss = own + own_bytes, rss + rss_bytes
        if not kinds:
            return ServerMemory()
        return ServerMemory(own, kinds.pop() if len(kinds) == 1 else "rss", rss)

    def _refresh(self, pid: int | None) -> None:
        """List the server's processes if it is another one, and its descendants now and then."""
        now_ns, root = self._clock.now_ns(), self._family[0] if self._family else None
        if root is None or root.pid != pid:
            root = None if pid is None else _process_of(pid)
        elif now_ns - self._listed_ns < FAMILY_NS:
            return
        self._listed_ns = now_ns
        self._family = () if root is None else (root, *_descendants_of(root))


def _process_of(pid: int) -> psutil.Process | None:
    try:
        return psutil.Process(pid)
    except psutil.Error:
        return None


def _descendants_of(process: psutil.Process) -> list[psutil.Process]:
    try:
        return list(process.children(recursive=True))
    except psutil.Error:
        return []


def memory_of(process: psutil.Process) -> tuple[int, MemoryKind]:
    """The memory of a process that is its own, bytes, and what that is. Raises psutil.Error."""
    own_bytes: int | None = None
    match sys.platform:
        case "linux":
            own_bytes = own_pages_of(process.pid)
        case "darwin":
            own_bytes = footprint_of(process.pid)
        case "win32":
            own_bytes = getattr(process.memory_info(), "private", None)
    if own_bytes is None:
        return int(process.memory_info().rss), "rss"
    return own_bytes, "footprint" if sys.platform == "darwin" else "private"


def own_pages_of(pid: int, proc: Path = Path("/proc")) -> int | None:
    """RssAnon + VmSwap of a process, bytes: what it has allocated, resident or swapped out. None if the kernel does not
    say."""
    try:
        lines = (proc / str(pid) / "status").read_text("ascii", "replace").splitlines()
    except OSError:
        return None
    sizes = [int(fields[1]) * 1024 for line in lines if (fields := line.split())[:1] and fields[0] in OWN_PAGES]
    return sum(sizes) if len(sizes) == len(OWN_PAGES) else None


class _ResourceUsage(ctypes.Structure):
    """`rusage_info_v0` of <sys/resource.h> on macOS."""

    _fields_ = (
        ("uuid", ctypes.c_uint8 * 16),
        ("before_footprint", ctypes.c_uint64 * 7),
        ("phys_footprint", ctypes.c_uint64),
        ("start_and_exit", ctypes.c_uint64 * 2),
    )


def footprint_of(pid: int) -> int | None:
    """What macOS charges a process for, compressed pages too, bytes; None if it does not say."""
    usage = _ResourceUsage()
    try:
        failed = ctypes.CDLL("/usr/lib/libproc.dylib").proc_pid_rusage(pid, 0, ctypes.byref(usage))
    except (OSError, AttributeError):
        return None
    return None if failed else int(usage.phys_footprint)
