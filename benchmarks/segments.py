"""What compressing a soak's closed segments costs the requests beside it: loop lag and dispatch slip, with and without.

    python -m benchmarks.segments [--rounds 6] [--seconds 8] [--busy 0]

Each round plays the same open loop against the scripted server several times: while nothing is compressed; while as
much is compressed as a soak of 10⁸ tokens in a night closes in that time; and while segments are compressed all the
time, which such a soak does for two seconds an hour. The ways take turns, so that what else the machine does meets each
of them, and each way is compared with its own round.
--busy: so many processes that keep a core busy meanwhile, as a server does that uses all of a device.
It ends with exit code 1 if the p99 of a way is, in the median of the rounds, more than MOST_TIMES that without, more
than MOST_MS above it, and further above it than nothing is above nothing.
"""

import argparse
import asyncio
import contextlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final, Literal

import msgspec
import numpy as np
from msgspec import Struct

from benchmarks.tables import table
from loadgen import api
from loadgen.engine.soak.compressor import Compressor
from loadgen.mock import FixedTime, MockProcess, Script
from loadgen.record import Record, StageFacts
from loadgen.scenario import Constant, Model, Sampling, Scenario
from loadgen.scenario.file import LoadedScenario
from loadgen.store.run_folder import REQUESTS
from loadgen.store.segments import Segment, segments_of

RATE_PER_S: Final = 100.0
TOKENS: Final = 16
ITL_S: Final = 0.02
SEGMENT_BYTES: Final = 8 << 20
SOAK_BYTES_PER_S: Final = 60_000
"""Records of 10⁸ tokens in 8 h, at 16 bytes a token and what else a record has."""
MOST_TIMES: Final = 1.25
MOST_MS: Final = 0.25

Way = Literal["nothing", "nothing, again", "a soak's share", "all the time"]
WAYS: Final[tuple[Way, ...]] = ("nothing", "nothing, again", "a soak's share", "all the time")
"""The second shows the noise of this machine."""


class Lags(Struct, frozen=True):
    """p99 of a run, ms, and how much was compressed meanwhile."""

    loop: float
    slip: float
    mib: float


def lines(size: int) -> bytes:
    """Records as JSON lines, as many as `size` bytes hold, with stamps that nobody could guess."""
    rng = np.random.default_rng(1)
    encode = msgspec.json.Encoder().encode
    written, at_ns = bytearray(), 0
    while len(written) < size:
        at_ns += int(rng.integers(10**7, 10**9))
        stamps = tuple((at_ns + np.cumsum(rng.normal(2e7, 2e6, 256)).astype(np.int64)).tolist())
        record = Record(
            outcome="ok", status=200, dispatched_ns=at_ns, sent_ns=at_ns + 4_000, written_ns=at_ns + 61_000,
            end_ns=stamps[-1] + 9_000, last_byte_ns=stamps[-1] + 9_500, first_visible_ns=stamps[0], stamps_ns=stamps,
            stamp_source="kernel", prompt_tokens=40, output_tokens=256, token_source="usage", finish_reason="stop",
            model="m", target="t", level="c1", index=0, phase="measured", prompt_id="p1", intended_ns=at_ns,
        )  # fmt: skip
        written += encode(record) + b"\n"
    return bytes(written[:size])


class Compressing:
    """The sink that has segments compressed, on the event loop, as a soak's log has."""

    def __init__(self, way: Way, folder: Path, content: bytes, seconds: float) -> None:
        self._way = way
        self._folder = folder
        self._content = content if way == "all the time" else content[: int(seconds * SOAK_BYTES_PER_S)]
        self._compressor = Compressor()
        self._first = int(RATE_PER_S * seconds / 2) if way == "a soak's share" else 1
        """With which record the first segment is closed."""
        self._records = 0
        self._segments = 0
        (folder / "content").write_bytes(self._content)

    def start(self, stage: object) -> None: ...

    def record(self, record: Record) -> None:
        self._records += 1
        self._compressor.go_on()
        match self._way:
            case "a soak's share" if self._records == self._first:
                self._add()
            case "all the time" if not self._compressor.is_busy:
                self._add()

    def retry(self, record: Record) -> None: ...

    def stop(self, facts: StageFacts) -> None: ...

    def close(self) -> float:
        """End what goes on; returns how much has been compressed, MiB."""
        for segment in segments_of(self._folder / REQUESTS):
            self._compressor.withdraw(segment)
        return len(self._content) * len(list(self._folder.glob("*.gz"))) / 2**20

    def _add(self) -> None:
        self._segments += 1
        segment = Segment(self._folder / REQUESTS, self._segments)
        os.link(self._folder / "content", segment.plain)
        self._compressor.add(segment)


@contextlib.contextmanager
def busy(count: int) -> Iterator[None]:
    processes = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def play(url: str, way: Way, seconds: float, content: bytes) -> Lags:
    scenario = Scenario(
        name="segments",
        prompts=("Say hello.",),
        models=(Model(name="mock", url=url, target="openai"),),
        load=Constant((RATE_PER_S,), duration_s=seconds),
        sampling=Sampling(max_tokens=TOKENS),
        probe=False,
    )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        loaded = LoadedScenario(scenario, None, folder, "the benchmark")
        (folder / "segments").mkdir()
        compressing = Compressing(way, folder / "segments", content, seconds)
        run = asyncio.run(api.run(api.plan_of(loaded), results=folder, sinks=[compressing]))
        mib = compressing.close()
    (facts,) = run.facts
    slips = [record.dispatched_ns - record.intended_ns for record in run.records if record.dispatched_ns is not None]
    lag_ns = facts.loop_lag_p99_ns
    assert lag_ns is not None
    return Lags(lag_ns / 1e6, float(np.percentile(slips, 99)) / 1e6, mib)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--seconds", type=float, default=8.0, help="of each run")
    parser.add_argument("--busy", type=int, default=0, help="processes that keep a core busy")
    options = parser.parse_args()
    content = lines(SEGMENT_BYTES)
    lags: dict[Way, list[Lags]] = {way: [] for way in WAYS}
    with MockProcess(Script(itl_s=FixedTime(ITL_S), tokens=FixedTime(TOKENS))) as server, busy(options.busy):
        for number in range(options.rounds):
            for way in WAYS[:: 1 if number % 2 else -1]:  # what comes later in a round does not always come later
                lags[way].append(play(server.url, way, options.seconds, content))
    rows, is_slower = [], False
    noise = {name: compare(lags, "nothing, again", name)[1:] for name in ("loop", "slip")}
    for way in WAYS:
        cells = [f"{np.mean([lag.mib for lag in lags[way]]):.1f}"]
        for name in ("loop", "slip"):
            middle_ms, times, more_ms = compare(lags, way, name)
            cells += [f"{middle_ms:.3f}", f"{times:.2f}", f"{more_ms:+.3f}"]
            noise_times, noise_ms = noise[name]
            is_slower |= times > max(MOST_TIMES, noise_times) and more_ms > max(MOST_MS, noise_ms)
        rows.append((way, *cells))
    names = ("loop lag p99, ms", "×", "more, ms", "dispatch slip p99, ms", "×", "more, ms")
    print(table(("compressed", "MiB a run", *names), rows, texts=1))
    return int(is_slower)


def compare(lags: dict[Way, list[Lags]], way: Way, name: str) -> tuple[float, float, float]:
    """The median of a way, ms, and the medians of how many times, and by how many ms, it is above nothing in the same
    round."""
    values, base = (np.array([getattr(lag, name) for lag in lags[of]]) for of in (way, WAYS[0]))
    return float(np.median(values)), float(np.median(values / base)), float(np.median(values - base))


if __name__ == "__main__":
    sys.exit(main())
