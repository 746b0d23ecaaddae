"""The windows in which moments of a run lie, by what is in `windows.jsonl`."""

import bisect
import contextlib
from pathlib import Path

import msgspec
from msgspec import Struct

from loadgen.store.windows import WINDOWS


class _WindowSpan(Struct, frozen=True):
    """A line of `windows.jsonl`, read only for when its window was."""

    window: int
    start_ns: int
    end_ns: int


class WindowNumbers:
    """Reads what the file has more each time."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / WINDOWS
        self._decode = msgspec.json.Decoder(_WindowSpan).decode
        self._read_bytes = 0
        self._windows: list[_WindowSpan] = []
        """In the order of their times."""

    def number_at(self, moment_ns: int) -> int:
        """The window in which a moment since the run began lies. Windows that are not written yet are taken to be as
        long as the last one. A moment before the first window, such as one of the warm-up, counts to it."""
        self._read()
        if not self._windows:
            return 0
        last = self._windows[-1]
        if moment_ns >= last.end_ns and last.end_ns > last.start_ns:
            return last.window + 1 + (moment_ns - last.end_ns) // (last.end_ns - last.start_ns)
        place = bisect.bisect_right(self._windows, moment_ns, key=lambda window: window.start_ns)
        return self._windows[max(0, place - 1)].window

    def _read(self) -> None:
        with contextlib.suppress(OSError), self._path.open("rb") as file:
            file.seek(self._read_bytes)
            for line in file:
                if not line.endswith(b"\n"):  # it is being written
                    return
                self._read_bytes += len(line)
                with contextlib.suppress(msgspec.MsgspecError, UnicodeDecodeError):
                    self._add(self._decode(line))

    def _add(self, window: _WindowSpan) -> None:
        # Each model has a line of its own.
        if not self._windows or window.window > self._windows[-1].window:
            self._windows.append(window)
