"""Run folders for comparisons: closed levels whose latencies are a factor of their true ones, in each run another."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np

from loadgen import api
from loadgen.decisions.compare.comparison import Comparison
from loadgen.decisions.versus.order import block_orders
from loadgen.decisions.versus.pairs_file import PAIRS, Block, Pairs
from loadgen.plan.plan import make_plan
from loadgen.plan.prompts import Prompt
from loadgen.plan.workload import workload_of
from loadgen.record import Record
from loadgen.store import files
from loadgen.store.manifest import MEASUREMENT_EPOCH, Manifest
from loadgen.store.run_folder import Run
from tests import records, report_runs
from tests.records import MS

LEVELS: Final = (1, 4)
ROUNDS: Final = 12
SLO: Final = {"ttft_ms": 150.0}


def write_run(
    folder: Path, number: int, factor: float = 1.0, *, levels: Sequence[int] = LEVELS, **changes: Any
) -> Path:
    """A run of so many rounds at each level, each latency `factor` times what it truly is.

    number: of the run, which makes its id, its start and the noise of its requests. changes: of the manifest's fields,
    or of the scenario's with `scenario`; model: the name of its model; own_cpu: what the harness used of a core.
    """
    model, scenario = changes.pop("model", "tiny"), changes.pop("scenario", {})
    rounds, own_cpu = changes.pop("rounds", ROUNDS), changes.pop("own_cpu", 0.02)
    rng = np.random.default_rng(number)
    requests = [record for users in levels for record in _level(users, rounds, factor, model, rng)]
    load = {
        "mode": "closed",
        "concurrency": list(levels),
        "requests": 4 * rounds,
        "think_time": {"mean_s": 1},
    }
    keys = {"load": load, "slo": SLO, "models": [{"name": model, "url": "http://127.0.0.1:1/v1"}]} | scenario
    stages = [report_runs.stage(f"c{n}", report_runs.closed(n), rounds * n, model=model) for n in levels]
    facts = [report_runs.facts(f"c{users}", model=model, cpu_share=own_cpu) for users in levels]
    run = records.run_of(requests, stages, seen=facts, scenario=keys)
    return records.write(folder, msgspec.structs.replace(run, manifest=_manifest(run, number, changes)))


def write_side(folder: Path, factors: Sequence[float], *, first: int, **changes: Any) -> list[Path]:
    """A run of each factor; returns their folders. first: number of the first run."""
    return [write_run(folder / f"run{first + i}", first + i, f, **changes) for i, f in enumerate(factors)]


def compare_runs(base: str | Path | Sequence[Path], new: Path | Sequence[Path] = (), **asked: Any) -> Comparison:
    """`loadgen.compare` of runs, which are no searches."""
    comparison = api.compare(base, new, **asked)
    assert isinstance(comparison, Comparison)
    return comparison


def write_blocks(folder: Path, base: Sequence[float], new: Sequence[float], **changes: Any) -> Path:
    """Two variants in blocks, a run of each factor; returns the folder that has both. changes: of the runs of B."""
    blocks = []
    for i, (a, b) in enumerate(zip(base, new, strict=True)):
        ids = [f"20260102T03{number:02d}05Z-0123abcd" for number in (2 * i, 2 * i + 1)]
        write_run(folder / ids[0], 2 * i, a)
        write_run(folder / ids[1], 2 * i + 1, b, **changes)
        blocks.append(Block(*ids))
    both = folder / f"{blocks[0].a}-ab{len(blocks)}"
    both.mkdir()
    orders = block_orders(len(blocks), 1)
    files.write_json(both / PAIRS, Pairs(order=orders, blocks=tuple(blocks), versus={"models[0].name": "b"}))
    return both


def _level(users: int, rounds: int, factor: float, model: str, rng: np.random.Generator) -> list[Record]:
    asked = []
    for user in range(users):
        at = user * MS
        for turn in range(rounds):
            jitter = float(rng.uniform(0.95, 1.05)) * factor
            wait_ns, gap_ns = round(100 * users**0.5 * MS * jitter), round(10 * MS * jitter)
            index = turn * users + user
            asked.append(report_runs.record(index, at, level=f"c{users}", model=model, wait_ns=wait_ns, gap_ns=gap_ns))
            at = (asked[-1].end_ns or at) + MS
    return asked


def _manifest(run: Run, number: int, changes: dict[str, Any]) -> Manifest:
    plan = make_plan(run.manifest.scenario, (Prompt("p1", "Hello."),))
    start = f"2026-01-02T03:{number:02d}:05+00:00"
    own = {
        "run_id": f"20260102T03{number:02d}05Z-0123abcd",
        "started_utc": start,
        "workload": workload_of(plan),
        "plan_digest": workload_of(plan).digest,
        "measurement_epoch": MEASUREMENT_EPOCH,
    }
    return msgspec.structs.replace(run.manifest, **(own | changes))
