"""How sure `busy_machine` is: the embedded server alone and beside neighbors of a known load, by turns.

    .venv/bin/python -m benchmarks.neighbors --minutes 10

Plays the embedded server in short stages, every other one with nobody beside it, the others beside one to four
processes that are busy for a known share of the time. What is true is how much longer answers took than in the quiet
stages around it, without what the host of the virtual machine did to each of them: it makes quiet stages differ by a
quarter, and is known from those by the steal that they had. Prints, for each kind of neighbor, that and what the
verdict said of it; how many of the stages that were slowed by 5 % or more were named; and how many quiet ones were. The
machine must be quiet; Linux.
Options: --model small (SmolLM2) or tiny (random weights), --log FILE for a line of JSON a stage.
"""

import argparse
import asyncio
import contextlib
import itertools
import os
import signal
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
from numpy.typing import NDArray

from loadgen import api
from loadgen.analysis.busy_machine import BUSY_HOST
from loadgen.analysis.summarize import summarize
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
QUIET_CPU: Final = 0.05
"""Of a core: whoever uses less is nobody."""
NEAR: Final = 6
"""So many stages away, a quiet one still tells how fast the machine is now."""
STEALS: Final = (0.0, 0.005, 0.015, 0.04, 0.1, 0.3)
"""Of a core: between these, what a host costs grows in proportion to what it takes."""
RIDGE: Final = 0.05
TOKENS: Final = 64
REQUESTS: Final = 2
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
    """One stage. duty: percent of the time for which each of so many neighbors is busy; token_ms, answer_ms: means."""

    count: int
    duty: int
    token_ms: float
    answer_ms: float
    machine: MachineFacts
    reasons: tuple[str, ...]


@contextlib.contextmanager
def neighbors(count: int, duty: int) -> Iterator[None]:
    """So many busy processes for as long as the context lasts, none of them a child of ours."""
    pids = [start_stranger(duty) for _ in range(count)]
    try:
        time.sleep(SETTLE_S if pids else 0.0)
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGKILL)


def start_stranger(duty: int) -> int:
    """Start a busy process whose parent ends at once, so that it is nobody's child; its id."""
    command = [sys.executable, "-c", BUSY_LOOP, str(duty / 100), str(PERIOD_S)]
    nowhere = "stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL"
    starter = f"import subprocess; print(subprocess.Popen({command!r}, {nowhere}).pid)"
    return int(subprocess.run([sys.executable, "-c", starter], capture_output=True, check=True).stdout)


def scenario_of(url: str, users: int) -> Scenario:
    return Scenario(
        name="neighbors",
        prompts=("Tell me about lakes, rivers and the sea.",),
        models=(Model(name="small", url=url, target="openai"),),
        load=Closed(concurrency=(users,), requests=REQUESTS * users),
        sampling=Sampling(max_tokens=TOKENS, extra={"ignore_eos": True, "cache_prompt": False}),
        probe=False,
    )


def times_of(run: Run) -> tuple[float, float]:
    """The mean time of a token, and of an answer, ms."""
    records = [r for r in run.records if r.phase == "measured" and r.outcome == "ok" and len(r.stamps_ns) > 1]
    spent_ns = sum(record.stamps_ns[-1] - record.stamps_ns[0] for record in records)
    answers_ns = sum((record.end_ns or 0) - (record.sent_ns or 0) for record in records)
    tokens = sum(len(record.stamps_ns) - 1 for record in records)
    return spent_ns / 1e6 / tokens, answers_ns / 1e6 / len(records)


async def play(url: str, users: int, folder: Path) -> tuple[float, float, MachineFacts, tuple[str, ...]]:
    loaded = LoadedScenario(scenario_of(url, users), None, folder, "the benchmark")
    run = await api.run(api.plan_of(loaded), results=folder)
    (stage,) = summarize(run).stages
    assert run.facts[0].machine is not None
    assert not isinstance(stage.validity, msgspec.UnsetType)
    return *times_of(run), run.facts[0].machine, tuple(reason.code for reason in stage.validity.reasons)


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


class Slowed(Struct, frozen=True):
    """A trial with the true slow-down of its tokens and answers: against the quiet ones around it."""

    trial: Trial
    token: float
    answer: float

    @property
    def claimed(self) -> float:
        """The slow-down in the verdict: for the embedded server, that of threads which share their work."""
        machine = self.trial.machine
        return self.by_waits if machine.shared_slowdown is None else machine.shared_slowdown

    @property
    def by_waits(self) -> float:
        """The slow-down as if each waiting thread held up all."""
        return self.trial.machine.slowdown or 0.0

    @property
    def is_named(self) -> bool:
        return "busy_machine" in self.trial.reasons


def is_quiet(trial: Trial) -> bool:
    """Whether nobody was beside it: neither a neighbor of ours, nor somebody who happened to be there."""
    return not trial.count and (trial.machine.neighbors_cpu_share or 0.0) < QUIET_CPU


def slowed(trials: Sequence[Trial]) -> list[Slowed]:
    """Each trial that has two quiet ones near by."""
    quiet = [at for at, trial in enumerate(trials) if is_quiet(trial)]
    host = np.array([host_of(trial) for trial in trials])
    logs = {name: np.log([getattr(trial, name) for trial in trials]) for name in ("token_ms", "answer_ms")}
    alone = {name: values - host @ host_costs(host[quiet], values[quiet]) for name, values in logs.items()}
    result = []
    for at, trial in enumerate(trials):
        beside = [other for other in quiet if 0 < abs(other - at) <= NEAR]
        if len(beside) > 1:
            weights = [1 / (1 + abs(other - at) / 2) for other in beside]
            longer = {
                name: float(np.exp(values[at] - np.average(values[beside], weights=weights)) - 1)
                for name, values in alone.items()
            }
            result.append(Slowed(trial, longer["token_ms"], longer["answer_ms"]))
    return result


def host_of(trial: Trial) -> list[float]:
    """How much the host took, as shares of the two STEALS that it lies between: the first stands for nothing."""
    return [float(np.interp(trial.machine.steal_share or 0.0, STEALS, row)) for row in np.eye(len(STEALS))[1:]]


def host_costs(host: NDArray[np.float64], logs: NDArray[np.float64]) -> NDArray[np.float64]:
    """By how much quiet stages took longer at each of STEALS, as logarithms: least squares, and 0 where none was so."""
    columns = np.hstack([host, np.ones((len(host), 1))])
    held = np.hstack([RIDGE * np.eye(len(STEALS) - 1), np.zeros((len(STEALS) - 1, 1))])
    costs = np.linalg.lstsq(np.vstack([columns, held]), np.concatenate([logs, np.zeros(len(held))]), rcond=None)[0]
    of_steals: NDArray[np.float64] = costs[:-1]
    return of_steals


def report(trials: Sequence[Trial]) -> str:
    known = slowed(trials)
    known = [each for each in known if each.trial.count or is_quiet(each.trial)]
    heads = "neighbors | stages | tokens took longer by | answers took longer by | estimated slow-down | by `run_delay`"
    lines = [f"| {heads} | share of stages degraded |", "|---|---:|---:|---:|---:|---:|---:|"]
    for kind in sorted({(each.trial.count, each.trial.duty) for each in known}):
        of_kind = [each for each in known if (each.trial.count, each.trial.duty) == kind]
        who = f"{kind[0]} × {kind[1]} %" if kind[0] else "none"
        shares = [
            np.median([getattr(each, name) for each in of_kind]) for name in ("token", "answer", "claimed", "by_waits")
        ]
        named = np.mean([each.is_named for each in of_kind])
        lines.append(f"| {who} | {len(of_kind)} | {' | '.join(f'{share:.1%}' for share in shares)} | {named:.0%} |")
    quiet = [each for each in known if not each.trial.count]
    beside = [each for each in known if each.trial.count]
    calm = [each.is_named for each in quiet if (each.trial.machine.host_slowdown or 0.0) <= BUSY_HOST]
    slow = [each.is_named for each in beside if each.answer >= SLOWED]
    lines += [
        f"\nquiet stages that were named: {sum(each.is_named for each in quiet)} of {len(quiet)}",
        f"of them where the host took less than a tenth: {sum(calm)} of {len(calm)}",
        f"quiet stages differ from each other by (standard deviation): {np.std([each.answer for each in quiet]):.1%}",
        f"stages beside neighbors whose answers took 5 % longer or more that were named: {sum(slow)} of {len(slow)}",
    ]
    errors = [each.claimed - each.answer for each in beside]
    if errors:
        typical = f"{np.median(np.abs(errors)):.1%}, of either sign {np.median(errors):+.1%}"
        lines.append(f"beside neighbors the estimate was off by (median): {typical}")
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
