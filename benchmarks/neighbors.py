"""How sure `busy_machine` is: the embedded server alone and beside neighbors of a known load, by turns.

    .venv/bin/python -m benchmarks.neighbors --minutes 10

Plays the embedded server in short stages, every other one with nobody beside it, the others beside one to four
processes that are busy for a known share of the time. What is true is how much longer a token took than in the quiet
stages before and after it. Prints, for each kind of neighbor, that and what the verdict said of it; how many of the
stages that were slowed by 5 % or more were named; and how many quiet ones were. The machine must be quiet; Linux.
Options: --model small (SmolLM2) or tiny (random weights), --log FILE for a line of JSON a stage.
"""

import argparse
import asyncio
import contextlib
import itertools
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import msgspec
import numpy as np
from msgspec import Struct

from loadgen import api
from loadgen.analysis.summarize import summarize
from loadgen.analysis.validity import BUSY, BUSY_INVALID
from loadgen.record import MachineFacts
from loadgen.scenario import Closed, LlamaCpp, Model, Sampling, Scenario
from loadgen.scenario.file import LoadedScenario
from loadgen.store.run_folder import Run
from loadgen.targets.llamacpp.target import serve_llamacpp

DUTIES: Final = (5, 10, 20, 50, 100)
COUNTS: Final = (1, 2, 3, 4)
PERIOD_S: Final = 0.02
SETTLE_S: Final = 0.3
SLOWED: Final = 0.05
TOKENS: Final = 64
REQUESTS: Final = 3
BUSY_LOOP: Final = """
import sys, time
busy = float(sys.argv[1]) * float(sys.argv[2])
while True:
    begin = time.perf_counter()
    while time.perf_counter() - begin < busy:
        pass
    time.sleep(max(0.0, float(sys.argv[2]) - (time.perf_counter() - begin)))
"""


class Trial(Struct, frozen=True):
    """One stage. duty: percent of the time for which each of so many neighbors is busy; token_ms: a token's mean."""

    count: int
    duty: int
    token_ms: float
    machine: MachineFacts
    reasons: tuple[str, ...]


@contextlib.contextmanager
def neighbors(count: int, duty: int) -> Iterator[None]:
    """So many busy processes for as long as the context lasts."""
    command = [sys.executable, "-c", BUSY_LOOP, str(duty / 100), str(PERIOD_S)]
    processes = [subprocess.Popen(command) for _ in range(count)]
    try:
        time.sleep(SETTLE_S if processes else 0.0)
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def scenario_of(url: str, users: int) -> Scenario:
    return Scenario(
        name="neighbors",
        prompts=("Tell me about lakes, rivers and the sea.",),
        models=(Model(name="small", url=url, target="openai"),),
        load=Closed(concurrency=(users,), requests=REQUESTS * users),
        sampling=Sampling(max_tokens=TOKENS, extra={"ignore_eos": True, "cache_prompt": False}),
        probe=False,
    )


def token_ms_of(run: Run) -> float:
    records = [r for r in run.records if r.phase == "measured" and r.outcome == "ok" and len(r.stamps_ns) > 1]
    spent_ns = sum(record.stamps_ns[-1] - record.stamps_ns[0] for record in records)
    return spent_ns / 1e6 / sum(len(record.stamps_ns) - 1 for record in records)


async def play(url: str, users: int, folder: Path) -> tuple[float, MachineFacts, tuple[str, ...]]:
    loaded = LoadedScenario(scenario_of(url, users), None, folder, "the benchmark")
    run = await api.run(api.plan_of(loaded), results=folder)
    (stage,) = summarize(run).stages
    assert run.facts[0].machine is not None
    assert not isinstance(stage.validity, msgspec.UnsetType)
    return token_ms_of(run), run.facts[0].machine, tuple(reason.code for reason in stage.validity.reasons)


async def measure(
    model: Model, users: int, minutes: float, kinds: Sequence[tuple[int, int]], log: Path | None
) -> list[Trial]:
    trials = []
    until = time.monotonic() + 60 * minutes
    async with serve_llamacpp(model) as served:
        with tempfile.TemporaryDirectory() as folder:
            for kind in itertools.cycle(kinds):
                if time.monotonic() > until:
                    break
                for count, duty in ((0, 0), kind):
                    with neighbors(count, duty):
                        trial = Trial(count, duty, *await play(served.base_url, users, Path(folder)))
                    trials.append(trial)
                    if log is not None:
                        with log.open("ab") as file:
                            file.write(msgspec.json.encode(trial) + b"\n")
    return trials


def slowed(trials: Sequence[Trial]) -> list[tuple[Trial, float]]:
    """Each trial with the true slow-down: against the quiet ones beside it."""
    result = []
    for at, trial in enumerate(trials):
        beside = [other.token_ms for other in trials[max(0, at - 2) : at + 3] if not other.count and other is not trial]
        if beside:
            result.append((trial, trial.token_ms / float(np.median(beside)) - 1))
    return result


def report(trials: Sequence[Trial]) -> str:
    known = slowed(trials)
    lines = ["neighbors | stages | token | slowed, true | slowed, said | named", "---|---|---|---|---|---"]
    for kind in sorted({(trial.count, trial.duty) for trial, _ in known}):
        of_kind = [(trial, true) for trial, true in known if (trial.count, trial.duty) == kind]
        said = [trial.machine.slowdown or 0.0 for trial, _ in of_kind]
        named = np.mean([value > BUSY for value in said])
        true = np.median([true for _, true in of_kind])
        token = np.median([trial.token_ms for trial, _ in of_kind])
        who = f"{kind[0]} × {kind[1]} %" if kind[0] else "nobody"
        lines.append(f"{who} | {len(of_kind)} | {token:.2f} ms | {true:.1%} | {np.median(said):.1%} | {named:.0%}")
    quiet = [(trial.machine.slowdown or 0.0) > BUSY for trial, _ in known if not trial.count]
    slow = [(trial.machine.slowdown or 0.0) > BUSY for trial, true in known if trial.count and true >= SLOWED]
    gross = [(trial.machine.slowdown or 0.0) > BUSY_INVALID for trial, true in known if trial.count and true >= 0.5]
    lines.append(f"quiet stages that were named: {sum(quiet)} of {len(quiet)}")
    lines.append(f"stages slowed by {SLOWED:.0%} or more that were named: {sum(slow)} of {len(slow)}")
    lines.append(f"stages slowed by half or more that were invalid: {sum(gross)} of {len(gross)}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--model", choices=("small", "tiny"), default="small")
    parser.add_argument("--users", type=int, default=1)
    parser.add_argument("--counts", type=int, nargs="*", default=COUNTS)
    parser.add_argument("--duties", type=int, nargs="*", default=DUTIES)
    parser.add_argument("--log", type=Path)
    parser.add_argument("--again", type=Path, help="no stages: the table of a log")
    arguments = parser.parse_args()
    if arguments.again:
        print(report([msgspec.json.decode(line, type=Trial) for line in arguments.again.read_bytes().splitlines()]))
        return
    with tempfile.TemporaryDirectory() as folder:
        gguf = None
        if arguments.model == "tiny":
            from tests.e2e.tiny import MANY_LAYERS, make_tiny_model

            gguf = str(make_tiny_model(Path(folder) / "tiny.gguf", MANY_LAYERS))
        model = Model(name="small", llamacpp=LlamaCpp(gguf=gguf, slots=max(2, arguments.users)))
        kinds = [(count, duty) for duty in arguments.duties for count in arguments.counts]
        trials = asyncio.run(measure(model, arguments.users, arguments.minutes, kinds, arguments.log))
    print(report(trials))


if __name__ == "__main__":
    main()
