"""The windows of a soak on disk: `windows.jsonl` has a line for each window and model, and `histograms.hlog` the
histograms of the same windows. Both grow while the soak goes on, and what is written is final.

A window's histograms are written before its lines. So a window that has lines has its histograms, whatever ended the
process that wrote them; `repair_windows` removes histograms that have no line.
"""

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import msgspec
from msgspec import Struct

from loadgen.errors import InputError
from loadgen.record import Outcome
from loadgen.store.hlog import Interval, header, line, tag
from loadgen.store.run_folder import Log
from loadgen.telemetry.server_memory import MemoryKind

WINDOWS: Final = "windows.jsonl"
HISTOGRAMS: Final = "histograms.hlog"
WINDOW_METRICS: Final = ("ttft", "tpot", "itl", "e2e")
"""The metrics of which a window has histograms, of its ok requests."""


class WindowLine(Struct, frozen=True, kw_only=True):
    """One window of one model: a line of `windows.jsonl`.

    A request belongs to the window in which it ended, wholly. All `_ns` moments are on the run's clock. None: not
    known.
    """

    window: int
    """Its number within the run, from 0. Windows that several models share have one number."""
    start_ns: int
    end_ns: int
    start_utc: str
    """When it began by the wall clock. After the machine was suspended, only this says what time it is."""
    model: str
    target: str
    level: str
    ok: int
    by_outcome: dict[Outcome, int]
    output_tokens: int
    """Of its ok requests."""
    prompt_tokens: int
    """Of its ok requests."""
    stream_s: float
    """For how long its ok requests were under way, added up: each from its first token to its end."""
    slo_met: int | None
    """How many requests met the SLO; None without one."""
    ttft_p50_ms: float | None
    itl_p50_ms: float | None
    e2e_p50_ms: float | None
    extremes_ns: dict[str, tuple[int, int]]
    """The exact smallest and largest value of each metric, ns. A metric without a value has no entry."""
    server_memory_bytes: int | None
    """The memory of the server's processes at the end of the window; `server_memory_kind` says which."""
    server_memory_kind: MemoryKind | None = None
    server_rss_bytes: int | None
    own_rss_bytes: int | None
    """The resident memory of loadgen, with its workers."""
    server_life: int
    """How many processes of this server had ended before."""
    temperature_c: float | None
    """The highest that a sensor of the machine's processor shows."""
    throttled: bool | None
    """Not measured yet."""
    loop_lag_p99_ms: float | None
    """With several workers, here and in the next two: of the worst of them."""
    dispatch_slip_p99_ms: float | None
    collector_ms: float
    """How long the garbage collection took that followed the window before. Within a window there is none."""
    gap_s: float
    """For how much of it loadgen was not run, or the machine was suspended."""
    draining: bool
    """Whether it is after the deadline. No test has such a window."""
    valid: bool
    """Whether loadgen measured it well, by the rules of `loadgen.analysis.validity`. Time that was lost does not count
    here."""
    reasons: tuple[str, ...]
    """The codes of the reasons why it is not valid."""


def read_windows(folder: Path) -> tuple[WindowLine, ...]:
    """The windows of a run folder, in their order; none if it has no `windows.jsonl`.

    A torn last line is left out, because whoever wrote it may have been killed. Raises InputError for any other line
    that is not a window.
    """
    path = folder / WINDOWS
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        return ()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error}); fix that") from error
    return tuple(window for _, window in _windows_in(raw, path))


def _windows_in(raw: bytes, path: Path) -> Iterator[tuple[int, WindowLine]]:
    """Each whole line, and where it ends in the file."""
    decode, end = msgspec.json.Decoder(WindowLine).decode, 0
    for number, text in enumerate(raw.splitlines(keepends=True), start=1):
        end += len(text)
        is_last = end == len(raw)
        if is_last and not text.endswith(b"\n"):
            return
        try:
            yield end, decode(text)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            if is_last:
                return
            raise InputError(
                f"{path}: line {number} is not a window ({error}); restore the file as it was written"
            ) from error


class WindowLog:
    """Writes windows as they are closed. Each is handed to the system at once, and `histograms.hlog` is a complete log
    of HdrHistogram at every moment.

    Raises FolderError if the folder can no longer be written.
    """

    def __init__(self, folder: Path, started_epoch_s: float) -> None:
        """started_epoch_s: when the run began, seconds since 1970, UTC. Files that are there are continued."""
        is_new = not (folder / HISTOGRAMS).exists() or (folder / HISTOGRAMS).stat().st_size == 0
        self._windows = Log(folder / WINDOWS)
        self._histograms = Log(folder / HISTOGRAMS)
        if is_new:
            self._histograms.write(header(started_epoch_s).encode())

    def append(self, lines: Sequence[WindowLine], intervals: Sequence[Interval]) -> None:
        """Write one window: the histograms of all its models, then their lines."""
        if intervals:
            self._histograms.write("".join(map(line, intervals)).encode())
        self._windows.append(*lines)

    def close(self) -> None:
        self._windows.close()
        self._histograms.close()


def repair_windows(folder: Path) -> tuple[WindowLine, ...]:
    """Cut both files of a soak that was killed after their last whole window; returns the windows that remain.

    Raises InputError as `read_windows` does, and if a file cannot be written.
    """
    try:
        raw = (folder / WINDOWS).read_bytes() if (folder / WINDOWS).exists() else b""
        whole_lines = list(_windows_in(raw, folder / WINDOWS))
        _truncate(folder / WINDOWS, whole_lines[-1][0] if whole_lines else 0)
        windows = tuple(window for _, window in whole_lines)
        covered = {(tag(w.target, w.model, w.level, ""), f"{w.start_ns / 1e9:.6f}") for w in windows}
        if (folder / HISTOGRAMS).exists():
            _truncate(folder / HISTOGRAMS, _covered_size((folder / HISTOGRAMS).read_bytes(), covered))
    except OSError as error:
        raise InputError(f"{folder}: its windows cannot be repaired ({error.strerror or error}); fix that") from error
    return windows


def _covered_size(raw: bytes, covered: set[tuple[str, str]]) -> int:
    """How many bytes of a histogram log are whole lines of windows that have a line of their own."""
    size = 0
    for text in raw.splitlines(keepends=True):
        if not text.endswith(b"\n"):
            break
        if text.startswith(b"Tag="):
            name, start, *_ = text.decode("utf-8", "replace").removeprefix("Tag=").split(",")
            if (name.rpartition("/")[0] + "/", start) not in covered:
                break
        size += len(text)
    return size


def _truncate(path: Path, size: int) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.truncate(path, size)
