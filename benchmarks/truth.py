"""The scripted server and its own account: what really happened. Knows no client, and nothing of ours.

The server is `server.c`, compiled when it is first wanted. Where there is no C compiler or no Linux, the tests' server
in Python takes its place, whose lateness is larger; it is in the account all the same.
"""

import math
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from tests.integration.server import Served, ServerProcess, Ticking

HERE: Final = Path(__file__).parent
START_S: Final = 20.0

Ns = NDArray[np.int64]


class Load(Struct, frozen=True):
    """A closed loop: so many streams, each of which asks so many times; the answers' tokens come at these times.

    together: the tokens of all streams come at the same moments, multiples of itl_ms on the clock.
    """

    streams: int
    asks: int
    tokens: int
    ttft_ms: float
    itl_ms: float
    together: bool

    @property
    def requests(self) -> int:
        return self.streams * self.asks

    @property
    def pace(self) -> str:
        return "together" if self.together else "staggered"


class ServerAnswer(Struct, frozen=True):
    """One request by the server's account, ns of CLOCK_MONOTONIC."""

    number: int
    arrived_ns: int
    """Of the request's last byte."""
    tokens_ns: Ns
    """Just before each token's send."""
    width_ns: Ns
    """How long each send took: the token left in between."""
    late_ns: Ns | None
    """How much later each token's send began than the script says; None where that is not known."""

    @property
    def ttft_ns(self) -> int:
        return int(self.tokens_ns[0]) - self.arrived_ns


def quantile(values: NDArray[np.float64] | Ns, percent: float, *, linear: bool = False) -> float:
    """A percentile: the nearest rank, or between ranks as numpy does it by default."""
    if linear:
        return float(np.percentile(values, percent))
    return float(np.sort(values)[max(0, math.ceil(percent / 100 * len(values)) - 1)])


def compiled(folder: Path, name: str) -> Path | None:
    """The program of `<name>.c`, compiled into a folder; None where it cannot be."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None or sys.platform != "linux":
        return None
    program = folder / name
    if not program.exists():
        subprocess.run([compiler, "-O2", "-o", str(program), str(HERE / f"{name}.c")], check=True, timeout=60)
    return program


class Truth:
    """A server while a client runs: `with Truth(folder, load) as truth`, its `url`, and afterwards its `answers`."""

    def __init__(self, folder: Path, load: Load) -> None:
        self._load = load
        self._log = folder / "truth.log"
        self._program = compiled(folder, "server")
        self.url = ""
        self.answers: list[ServerAnswer] = []

    def __enter__(self) -> "Truth":
        if self._program is None:
            load = self._load
            streams = Ticking(load.tokens, load.ttft_ms / 1e3, load.itl_ms / 1e3, load.together)
            self._python = ServerProcess(streams).__enter__()
            self.url = self._python.url
            return self
        load = self._load
        given = [f"{load.ttft_ms:g}", f"{load.itl_ms:g}", str(load.tokens), load.pace, str(self._log)]
        self._process = subprocess.Popen(
            [str(self._program), *given], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self._process.stdout is not None
        self.url = self._process.stdout.readline().strip()
        return self

    def __exit__(self, *broken: object) -> None:
        if self._program is None:
            self._python.__exit__(*broken)
            self.answers = [_of_python(each) for each in self._python.chats]
            return
        try:
            self._process.communicate(timeout=START_S)
        except BaseException:
            self._process.kill()
            self._process.communicate()
            raise
        if self._process.returncode:
            raise SystemExit(f"the scripted server ended with {self._process.returncode}")
        self.answers = [_of_line(line) for line in self._log.read_text().splitlines()]

    def measured(self) -> list[ServerAnswer]:
        """The load's own requests: the last ones that were answered in full. A client may have asked others before."""
        full = [answer for answer in self.answers if len(answer.tokens_ns) == self._load.tokens]
        if len(full) < self._load.requests:
            raise SystemExit(f"{len(full)} requests were answered in full, {self._load.requests} were asked for")
        return full[-self._load.requests :]


def _of_line(line: str) -> ServerAnswer:
    number, _, arrived, *rest = map(int, line.split())
    due, before, after = np.array(rest, dtype=np.int64).reshape(-1, 3).T
    return ServerAnswer(number, arrived, before, after - before, before - due)


def _of_python(served: Served) -> ServerAnswer:
    before = np.array(served.tokens_ns[: len(served.sent_ns)], dtype=np.int64)
    return ServerAnswer(
        served.number, served.arrived_ns, before, np.array(served.sent_ns, dtype=np.int64) - before, None
    )
