"""What compressing a soak's closed segments costs the requests beside it: loop lag and dispatch slip, with and without.

    python -m benchmarks.segments [--rounds 5] [--seconds 8] [--busy 0]

Each round plays the same open loop against the scripted server several times: while nothing is compressed, and while
the thread of `loadgen.engine.soak.compressor` compresses all the time, which in a soak it does for two seconds an hour.
--busy: so many processes that keep a core busy meanwhile, as a server does that uses all of a device.
It ends with exit code 1 if the median p99 with compression is more than MOST_TIMES that without, and more than
MOST_MS above it. On a machine that is busy with other work, the rows differ by that alone.
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
from unittest import mock

import msgspec
import numpy as np
from msgspec import Struct

from benchmarks.tables import table
from loadgen import api
from loadgen.engine.soak import compressor
from loadgen.engine.soak.compressor import Compressor
from loadgen.mock import FixedTime, MockProcess, Script
from loadgen.record import Record
from loadgen.scenario import Constant, Model, Sampling, Scenario
from loadgen.scenario.file import LoadedScenario
from loadgen.store.run_folder import REQUESTS
from loadgen.store.segments import Segment

RATE_PER_S: Final = 40.0
TOKENS: Final = 64
ITL_S: Final = 0.02
SEGMENT_BYTES: Final = 8 << 20
MOST_TIMES: Final = 1.25
MOST_MS: Final = 0.25

Way = Literal["nothing", "nothing, again", "low priority", "own priority"]
WAYS: Final[tuple[Way, ...]] = ("nothing", "nothing, again", "low priority", "own priority")
"""The second shows the noise of this machine, the third is what a soak does, the fourth what it would do otherwise."""


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


@contextlib.contextmanager
def compressing(way: Way, folder: Path, content: bytes) -> Iterator[list[int]]:
    """Compress segments, one after the other, for as long as the context lasts; yields the size of each."""
    sizes: list[int] = []
    if way in {"nothing", "nothing, again"}:
        yield sizes
        return
    first = folder / "content"
    first.write_bytes(content)
    thread = Compressor()
    with mock.patch.object(compressor, "lower_priority") if way == "own priority" else contextlib.nullcontext():
        for number in range(1, 400):
            segment = Segment(folder / REQUESTS, number)
            os.link(first, segment.plain)
            thread.add(segment)
        yield sizes
    sizes += [len(content)] * len(list(folder.glob("*.gz")))
    for path in folder.glob("requests-*.jsonl"):  # those that it has not begun
        thread.withdraw(Segment(folder / REQUESTS, int(path.stem.rpartition("-")[2])))
    thread.close()


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
        with compressing(way, folder / "segments", content) as sizes:
            run = asyncio.run(api.run(api.plan_of(loaded), results=folder))
    (facts,) = run.facts
    slips = [record.dispatched_ns - record.intended_ns for record in run.records if record.dispatched_ns is not None]
    lag_ns = facts.loop_lag_p99_ns
    assert lag_ns is not None
    return Lags(lag_ns / 1e6, float(np.percentile(slips, 99)) / 1e6, sum(sizes) / 2**20)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=8.0, help="of each run")
    parser.add_argument("--busy", type=int, default=0, help="processes that keep a core busy")
    options = parser.parse_args()
    content = lines(SEGMENT_BYTES)
    lags: dict[Way, list[Lags]] = {way: [] for way in WAYS}
    with MockProcess(Script(itl_s=FixedTime(ITL_S), tokens=FixedTime(TOKENS))) as server, busy(options.busy):
        for _ in range(options.rounds):
            for way in WAYS:
                lags[way].append(play(server.url, way, options.seconds, content))
    rows, middles = [], {}
    for way, each in lags.items():
        loop, slip = (np.array([getattr(lag, name) for lag in each]) for name in ("loop", "slip"))
        middles[way] = float(np.median(loop)), float(np.median(slip))
        times = [
            f"{mine / base:.2f}" if base else "–" for mine, base in zip(middles[way], middles["nothing"], strict=True)
        ]
        mib = f"{sum(lag.mib for lag in each) / options.rounds:.0f}"
        rows.append((way, mib, f"{middles[way][0]:.3f}", times[0], f"{middles[way][1]:.3f}", times[1]))
    print(table(("compressed by", "MiB a run", "loop lag p99, ms", "×", "dispatch slip p99, ms", "×"), rows, texts=1))
    pairs = zip(middles["low priority"], middles["nothing"], strict=True)
    return int(any(mine > base * MOST_TIMES and mine > base + MOST_MS for mine, base in pairs))


if __name__ == "__main__":
    sys.exit(main())
