"""How sure `busy_machine` is: the embedded server alone and beside neighbors of a known load, by turns.

    .venv/bin/python -m benchmarks.neighbors --minutes 10

Plays the embedded server in short stages, every other one with nobody beside it, the others beside one to four
processes that are busy for a known share of the time. What is true is how much longer tokens took than in the quiet
stages before and after it. Prints, for each kind of neighbor, that and what the verdict said of it; how many of the
stages that were slowed by 5 % or more were named; and how many quiet ones were. The machine must be quiet; Linux.
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

from loadgen import api
from loadgen.analysis.summarize import summarize
from loadgen.analysis.validity import BUSY_HOST, slowdown_of
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
    """A trial with the true slow-down of its tokens and answers: against the quiet ones beside it."""

    trial: Trial
    token: float
    answer: float

    @property
    def claimed(self) -> float:
        return slowdown_of(self.trial.machine)

    @property
    def is_named(self) -> bool:
        return "busy_machine" in self.trial.reasons


def slowed(trials: Sequence[Trial]) -> list[Slowed]:
    result = []
    for at, trial in enumerate(trials):
        beside = [other for other in trials[max(0, at - 2) : at + 3] if not other.count and other is not trial]
        if beside:
            token_ms, answer_ms = (
                float(np.median([getattr(o, name) for o in beside])) for name in ("token_ms", "answer_ms")
            )
            result.append(Slowed(trial, trial.token_ms / token_ms - 1, trial.answer_ms / answer_ms - 1))
    return result


def report(trials: Sequence[Trial]) -> str:
    known = slowed(trials)
    heads = "neighbors | stages | tokens took longer by | answers took longer by | estimated slow-down"
    lines = [f"| {heads} | share of stages degraded |", "|---|---:|---:|---:|---:|---:|"]
    for kind in sorted({(each.trial.count, each.trial.duty) for each in known}):
        of_kind = [each for each in known if (each.trial.count, each.trial.duty) == kind]
        who = f"{kind[0]} × {kind[1]} %" if kind[0] else "none"
        shares = [np.median([getattr(each, name) for each in of_kind]) for name in ("token", "answer", "claimed")]
        named = np.mean([each.is_named for each in of_kind])
        lines.append(f"| {who} | {len(of_kind)} | {' | '.join(f'{share:.1%}' for share in shares)} | {named:.0%} |")
    quiet = [each.is_named for each in known if not each.trial.count]
    slow = [each.is_named for each in known if each.trial.count and each.token >= SLOWED]
    lines.append(f"\nquiet stages that were named: {sum(quiet)} of {len(quiet)}")
    calm = [e.is_named for e in known if not e.trial.count and (e.trial.machine.host_slowdown or 0.0) <= BUSY_HOST]
    lines.append(f"of them where the host took less than a tenth: {sum(calm)} of {len(calm)}")
    lines.append(
        f"stages beside neighbors whose tokens took 5 % longer or more that were named: {sum(slow)} of {len(slow)}"
    )
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
