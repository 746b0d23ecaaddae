"""Runs a client as a process of its own, and watches from outside what CPU it and its children use. Knows no load."""

import contextlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import numpy as np
import psutil
from msgspec import Struct

SAMPLE_S: Final = 0.02
LOOK_EVERY_SAMPLES: Final = 25
"""How often children are looked for: finding them reads every process of the machine."""
ENOUGH_OUTPUT_CHARS: Final = 600


class Ran(Struct, frozen=True):
    """A client that has ended. samples: (moment on CLOCK_MONOTONIC, CPU time of it and its children), ns."""

    output: str
    samples: list[tuple[int, int]]

    def cpu_ns(self, start_ns: int, end_ns: int) -> float | None:
        """CPU time between two moments, between samples in proportion; None where the system does not tell."""
        if len(self.samples) < 2:
            return None
        moments, used = np.array(self.samples, dtype=np.float64).T
        start, end = np.interp([start_ns, end_ns], moments, used)
        return float(end - start)


class _Watch:
    """CPU time of a process and all its children so far, by their own CPU clocks, to the ns. Linux."""

    def __init__(self, pid: int) -> None:
        self._root = psutil.Process(pid)
        self._used: dict[int, int] = {pid: 0}
        self._count = 0
        self.samples: list[tuple[int, int]] = []

    def look(self) -> None:
        if self._count % LOOK_EVERY_SAMPLES == 0:
            with contextlib.suppress(psutil.Error):
                for child in self._root.children(recursive=True):
                    self._used.setdefault(child.pid, 0)
        self._count += 1
        for pid in self._used:
            with contextlib.suppress(OSError):  # one that has ended keeps what it had used
                self._used[pid] = time.clock_gettime_ns((~pid << 3) | 2)  # its CLOCK_PROCESS_CPUTIME_ID
        self.samples.append((time.perf_counter_ns(), sum(self._used.values())))


def run(command: Sequence[str], *, folder: Path, timeout_s: float, environment: Mapping[str, str] | None = None) -> Ran:
    """Run a command to its end. Raises SystemExit with the end of its output when it fails or takes too long."""
    output = folder / "output.txt"
    with output.open("wb") as file:
        process = subprocess.Popen(
            list(command),
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            env={**os.environ, **(environment or {})},
            start_new_session=True,
        )
        watch, over = _Watch(process.pid), threading.Event()
        thread = threading.Thread(target=_watch, args=(watch, over), daemon=True)
        thread.start()
        try:
            process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            pass
        finally:
            over.set()
            thread.join()
            with contextlib.suppress(ProcessLookupError):  # what it has left behind, too
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    said = output.read_text(errors="replace")
    if process.returncode:
        why = f"took more than {timeout_s:g} s" if process.returncode < 0 else f"ended with {process.returncode}"
        raise SystemExit(f"{' '.join(command[:6])} … {why}:\n{said[-ENOUGH_OUTPUT_CHARS:]}")
    return Ran(said, watch.samples)


def _watch(watch: _Watch, over: threading.Event) -> None:
    if not hasattr(time, "clock_gettime_ns") or not Path("/proc/self/stat").exists():
        return
    while not over.wait(SAMPLE_S):
        watch.look()
