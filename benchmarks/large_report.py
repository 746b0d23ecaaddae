"""What the reports of a large run cost: `loadgen report` on a run folder of 200,000 requests and 10 million tokens.

    python benchmarks/large_report.py [--requests 200000] [--tokens 50] [--prompts 500] [--folder DIR]

The run is synthetic, and the same every time: two models, each at two levels of a closed loop, a few requests of which
fail. It is written into a temporary folder; then `loadgen report` runs on it in a process of its own, on one core,
where it can be held there. The same is done with half as many requests: where the second costs little more than half of
the first, the cost grows with the number of requests and no faster. Exit code 1 when a limit is crossed.
"""

import argparse
import heapq
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
import orjson
from numpy.typing import NDArray

from loadgen.plan.rng import generator
from loadgen.record import Record, ServerFacts, StageFacts

MAX_WALL_S: Final = 60.0
MAX_RSS_MIB: Final = 1024.0
MAX_GROWTH: Final = 2.3
"""CPU time of the whole run over that of the half: 2 where it is linear and a start costs nothing."""

MODELS: Final = ("small", "large")
USERS: Final = (16, 64)
FAILED_SHARE: Final = 0.01
TIMEOUT_NS: Final = 5_000_000_000
BLOCK: Final = 1000
"""Requests whose times are drawn together."""
MS: Final = 1_000_000
SEED: Final = 1


class Cost(msgspec.Struct, frozen=True):
    """Of one `loadgen report`."""

    requests: int
    tokens: int
    log_mib: float
    """The size of requests.jsonl."""
    wall_s: float
    cpu_s: float
    rss_mib: float
    """The most memory that the process held at once."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--requests", type=int, default=200_000)
    parser.add_argument("--tokens", type=int, default=50, help="of an answer, on average")
    parser.add_argument("--prompts", type=int, default=500)
    parser.add_argument("--folder", type=Path, help="where to make the runs; kept there (default: a temporary folder)")
    asked = parser.parse_args()
    folder = asked.folder or Path(tempfile.mkdtemp(prefix="large-report-"))
    try:
        costs = [
            measure(folder / f"{count}-requests", count, asked.tokens, asked.prompts)
            for count in (asked.requests // 2, asked.requests)
        ]
    finally:
        if asked.folder is None:
            shutil.rmtree(folder)
    print(table(costs))
    crossed = limits_crossed(*costs)
    for line in crossed:
        print(line)
    return 1 if crossed else 0


def table(costs: list[Cost]) -> str:
    lines = ["| requests | tokens | requests.jsonl | wall | CPU | peak memory |", "|---:|---:|---:|---:|---:|---:|"]
    for cost in costs:
        cells = (f"{cost.log_mib:.0f} MiB", f"{cost.wall_s:.1f} s", f"{cost.cpu_s:.1f} s", f"{cost.rss_mib:.0f} MiB")
        lines.append(f"| {cost.requests:,} | {cost.tokens:,} | {' | '.join(cells)} |")
    return "\n".join(lines)


def limits_crossed(half: Cost, full: Cost) -> list[str]:
    growth = full.cpu_s / half.cpu_s
    print(f"growth of the CPU time from half of the requests to all: × {growth:.2f}")
    measured = (
        ("wall time, s", full.wall_s, MAX_WALL_S),
        ("peak memory, MiB", full.rss_mib, MAX_RSS_MIB),
        ("growth", growth, MAX_GROWTH),
    )
    return [f"{name}: {value:.2f}, at most {limit:g}" for name, value, limit in measured if value > limit]


def measure(folder: Path, requests: int, tokens: int, prompts: int) -> Cost:
    """Write a run and make its reports in a process of its own."""
    written = write_run(folder, requests, tokens, prompts)
    before = time.perf_counter()
    pid = os.posix_spawn(
        sys.executable,
        [sys.executable, "-c", _ON_ONE_CORE, str(folder)],
        os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
    )
    _, status, usage = os.wait4(pid, 0)
    wall_s = time.perf_counter() - before
    if code := os.waitstatus_to_exitcode(status):
        raise SystemExit(f"loadgen report ended with {code}")
    kib = usage.ru_maxrss / 1024 if sys.platform == "darwin" else usage.ru_maxrss
    log_mib = (folder / "requests.jsonl").stat().st_size / 2**20
    return Cost(requests, written, log_mib, wall_s, usage.ru_utime + usage.ru_stime, kib / 1024)


# Where a system lets a process choose its core, the last one is taken; the table goes nowhere.
_ON_ONE_CORE: Final = """
import os, sys
if hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
sys.argv = ["loadgen", "report", sys.argv[1]]
sys.stdout = open(os.devnull, "w")
from loadgen.cli.app import main
main()
"""


# The run.


def write_run(folder: Path, requests: int, tokens: int, prompts: int) -> int:
    """A run folder of so many requests; returns how many tokens they have."""
    folder.mkdir(parents=True)
    stages = [(model, users) for model in MODELS for users in USERS]
    each = requests // len(stages)
    (folder / "manifest.json").write_bytes(orjson.dumps(manifest(stages, each, prompts)))
    encoder = msgspec.json.Encoder()
    written, start_ns = 0, 0
    with (folder / "requests.jsonl").open("wb") as log, (folder / "stages.jsonl").open("wb") as facts:
        for model, users in stages:
            end_ns = start_ns
            for record in records(model, users, start_ns, each, tokens, prompts):
                log.write(encoder.encode(record) + b"\n")
                written += record.output_tokens or 0
                end_ns = max(end_ns, record.end_ns or 0)
            facts.write(encoder.encode(stage_facts(model, users, start_ns, end_ns)) + b"\n")
            start_ns = end_ns + 1_000 * MS
    return written


def records(model: str, users: int, start_ns: int, count: int, tokens: int, prompts: int) -> Iterator[Record]:
    """A closed loop: whoever has had an answer first asks next."""
    rng = generator(SEED, f"{model} {users}")
    free_ns = [start_ns + user * MS for user in range(users)]
    for first in range(0, count, BLOCK):
        size = min(BLOCK, count - first)
        wait_ns = (150 * MS * users / USERS[0] * rng.lognormal(0, 0.3, size)).astype(np.int64)
        offsets_ns = (20 * MS * rng.gamma(8, 1 / 8, (size, 2 * tokens))).astype(np.int64)
        offsets_ns[:, 0] = wait_ns
        np.cumsum(offsets_ns, axis=1, out=offsets_ns)
        lengths = rng.integers(tokens // 2, tokens + tokens // 2 + 1, size)
        lengths[rng.random(size) < FAILED_SHARE] = 0
        for place in range(size):
            begin_ns = heapq.heappop(free_ns)
            stamps_ns = begin_ns + offsets_ns[place, : lengths[place]]
            record = request(model, users, first + place, begin_ns, stamps_ns, prompts)
            heapq.heappush(free_ns, (record.end_ns or 0) + 100_000)
            yield record


def request(model: str, users: int, index: int, start_ns: int, stamps_ns: NDArray[np.int64], prompts: int) -> Record:
    """One that was answered; or, without a stamp, one that waited for its first token in vain."""
    stamps = tuple(stamps_ns.tolist())
    return Record(
        outcome="ok" if stamps else "timeout",
        status=200 if stamps else None,
        detail=None if stamps else "waiting for the first token",
        dispatched_ns=start_ns + 40_000,
        sent_ns=start_ns + 60_000,
        written_ns=start_ns + 90_000,
        end_ns=stamps[-1] + 50_000 if stamps else start_ns + TIMEOUT_NS,
        last_byte_ns=stamps[-1] + 60_000 if stamps else None,
        first_visible_ns=stamps[0] if stamps else None,
        stamps_ns=stamps,
        stamp_source="kernel",
        prompt_tokens=200 if stamps else None,
        output_tokens=len(stamps) or None,
        token_source="usage",
        finish_reason="stop" if stamps else None,
        text_sha256="0" * 64 if stamps else None,
        model=model,
        target="url",
        level=f"c{users}",
        index=index,
        phase="measured",
        prompt_id=f"p{index % prompts}",
        intended_ns=start_ns,
    )


def stage_facts(model: str, users: int, start_ns: int, end_ns: int) -> StageFacts:
    moments = range(start_ns, end_ns, 1_000 * MS)
    return StageFacts(
        models=(model,),
        targets=("url",),
        level=f"c{users}",
        start_ns=start_ns,
        end_ns=end_ns,
        complete=True,
        cpu_share=0.2,
        loop_lag_p50_ns=100_000,
        loop_lag_p99_ns=MS,
        loop_lag_max_ns=2 * MS,
        stamp_lag_p50_ns=50_000,
        stamp_lag_p99_ns=200_000,
        stamp_lag_max_ns=300_000,
        stamped_reads=1,
        in_flight_samples=tuple((moment, users) for moment in moments),
        servers=(ServerFacts(pid=1, cpu_share=1.5, rss_start_bytes=2**28, rss_peak_bytes=2**29),),
    )


def manifest(stages: list[tuple[str, int]], each: int, prompts: int) -> dict[str, Any]:
    models = [{"name": name, "target": "openai", "url": "http://127.0.0.1:1/v1"} for name in MODELS]
    return {
        "schema": "loadgen.manifest/1",
        "run_id": "20260102T030405Z-0123abcd",
        "scenario": {
            "name": "large",
            "seed": SEED,
            "prompts": ["Say hello."],
            "models": models,
            "load": {"mode": "closed", "concurrency": list(USERS), "requests": each},
            "slo": {"ttft_ms": 500.0, "tpot_ms": 40.0},
        },
        "started_utc": "2026-01-02T03:04:05+00:00",
        "ended_utc": "2026-01-02T08:04:05+00:00",
        "state": "complete",
        "plan_digest": "0123abcd" * 8,
        "stages": [
            {
                "model": model,
                "target": "url",
                "level": f"c{users}",
                "load": {"mode": "closed", "concurrency": users},
                "planned": each,
                "warmup": 0,
            }
            for model, users in stages
        ],
        "prompts": [{"id": f"p{number}", "characters": 10, "key_points": []} for number in range(prompts)],
        "stamp_source": "kernel",
        "clock": {"implementation": "clock_gettime(CLOCK_MONOTONIC)", "resolution_ns": 1.0},
        "models": [{"alias": name, "id": name, "target": "url"} for name in MODELS],
        "versions": {"loadgen": "0.1.0"},
        "host": {"cpu": "a CPU", "cores": 2, "cores_usable": 2, "memory_mib": 4096, "system": "Linux", "kernel": "6.1"},
    }


if __name__ == "__main__":
    sys.exit(main())
