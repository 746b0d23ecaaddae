"""Plays the loads of a calibration, with scripted servers in separate processes and the client of a real run."""

import asyncio
import contextlib
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

import msgspec
import numpy as np
import psutil

from loadgen.calibrate.conclude import conclude, is_disturbed, is_too_much
from loadgen.calibrate.loads import LoadStep, at_most
from loadgen.calibrate.observation import PlayedStep, ReceivedAnswer, compare, observe
from loadgen.clock import SYSTEM_CLOCK, utc_now
from loadgen.engine.stage import LocalStageRunner, RunContext
from loadgen.engine.stop import StopSignal
from loadgen.engine.workers.sizing import RESERVED_DESCRIPTORS, Descriptors, allow_open_files
from loadgen.errors import InputError
from loadgen.live.sink import NullSink, Sinks
from loadgen.mock import MockProcess
from loadgen.plan.plan import Level, Plan, Stage
from loadgen.plan.prompts import Prompt
from loadgen.record import Record, StageFacts
from loadgen.scenario import Model, Sampling, Scenario
from loadgen.store.calibration import Calibration, Step, this_machine
from loadgen.store.manifest import ModelCard
from loadgen.store.run_folder import RequestLog
from loadgen.targets.served import Served
from loadgen.telemetry.machine_source import usable_cores
from loadgen.wire.client import Client
from loadgen.wire.exchange import ChatRequest, Exchange

PROMPT: Final = Prompt("calibrate", "Say what you always say.")
LIMIT_NS: Final = 60_000_000_000
"""The time limit of an answer, which is many times its scheduled length."""
BUSY_S: Final = 0.5
"""How long the CPU use of other programs is measured before anything is played."""
SECOND_CHANCES: Final = 2
"""How many loads may be played again in one calibration."""

Progress = Callable[[str, int, int], None]
"""Called with the current load in words, the number of loads that have been played, and the number of all loads."""


def silent(load: str, done: int, of: int) -> None:
    """Progress that shows nothing."""


def calibrate(load_steps: tuple[LoadStep, ...], progress: Progress = silent) -> Calibration:
    """Play all loads and derive the result. Blocks, and runs its own event loops."""
    load_steps = at_most(load_steps, _max_streams(load_steps))
    count = sum(len(step.streams) for step in load_steps)
    steps: list[Step] = []
    # Measured before anything of ours runs, so that it covers only other programs.
    busy_share = round(psutil.cpu_percent(BUSY_S) / 100, 3)
    before, chances = 0, iter(range(SECOND_CHANCES))
    for step in load_steps:

        def report(load: str, at: int, before: int = before) -> None:
            progress(load, before + at, count)

        steps += _play_step(step, chances, report)
        before += len(step.streams)
    return conclude(steps, this_machine(), utc_now().isoformat(), busy_share)


class ExchangeRecorder(Client):
    """A client that keeps every exchange, because a record has only one of the two stamps of a token."""

    def __init__(self) -> None:
        super().__init__()
        self.exchanges: dict[int, Exchange] = {}  # by the time of dispatch, which a record has too

    async def send(self, request: ChatRequest, dispatched_ns: int) -> Exchange:
        exchange = self.exchanges[dispatched_ns] = await super().send(request, dispatched_ns)
        return exchange


class Answers(NullSink):
    """The sink that keeps a load's records, and the facts of its stage."""

    def __init__(self) -> None:
        self.records: list[Record] = []
        self.facts: list[StageFacts] = []

    def record(self, record: Record) -> None:
        self.records.append(record)

    def stop(self, facts: StageFacts) -> None:
        self.facts.append(facts)


def _max_streams(load_steps: Sequence[LoadStep]) -> int:
    """How many of the requested streams this process may keep open."""
    for streams in sorted({count for step in load_steps for count in step.streams}, reverse=True):
        needed = streams + RESERVED_DESCRIPTORS
        with contextlib.suppress(InputError):
            allow_open_files(Descriptors(streams, needed, needed))
            return streams
    return 0


def _play_step(step: LoadStep, chances: Iterator[int], progress: Callable[[str, int], None]) -> Iterator[Step]:
    """Play the loads of a step until one of them is too much, and compare them with the servers' logs.

    chances: how many loads may be played again because something else disturbed them.
    """
    played: list[PlayedStep] = []
    with contextlib.ExitStack() as stack:
        count = step.servers(usable_cores())
        servers = [stack.enter_context(MockProcess(step.script())) for _ in range(count)]
        for at, streams in enumerate(step.streams):
            rate = streams * 1e3 / step.itl_ms
            many = "1 stream" if streams == 1 else f"{streams:,} streams {step.pace}"
            progress(f"{many}, {rate:,.0f} tokens a second", at)
            played.append(asyncio.run(_play_load(step, streams, [server.url for server in servers])))
            if is_disturbed(observe(played[-1])) and next(chances, None) is not None:
                played.append(asyncio.run(_play_load(step, streams, [server.url for server in servers])))
            if is_too_much(observe(played[-1])):
                break
    truths = [{truth.number: truth for truth in server.truth} for server in servers]
    return (compare(load, truths) for load in played)


async def _play_load(step: LoadStep, streams: int, urls: Sequence[str]) -> PlayedStep:
    """Play one load in the same way as a stage of a run, including the log."""
    models = tuple(Model(name=f"mock-{number}", target="openai", url=url) for number, url in enumerate(urls))
    scenario = Scenario(
        name="calibrate", prompts=PROMPT.text, models=models, sampling=Sampling(max_tokens=step.tokens_of(streams))
    )
    stage = Stage(
        level=Level(label=f"c{streams}", mode="closed", concurrency=streams),
        models=tuple(range(len(models))),
        warmup=0,
        prompts=1,
        count=streams,
        duration_ns=None,
        ramp_in_ns=np.array(step.begins_ns(streams), dtype=np.int64),
    )
    plan = Plan(scenario=scenario, prompts=(PROMPT,), stages=(stage,))
    ready = {
        index: Served(base_url=url, card=ModelCard(alias=models[index].name, id="mock", target="openai"))
        for index, url in enumerate(urls)
    }
    answers = Answers()
    with (
        tempfile.TemporaryDirectory(prefix="loadgen-calibrate-") as folder,
        contextlib.closing(RequestLog(Path(folder) / "requests.jsonl")) as log,
    ):
        client, stop = ExchangeRecorder(), StopSignal()
        async with client:
            context = RunContext(plan, client, SYSTEM_CLOCK, 0, stop)
            runner = LocalStageRunner(context, stage, ready, stop, Sinks((log, answers)))
            await runner.warm_up()
            await runner.measure(dict.fromkeys(stage.models, LIMIT_NS))
    by_server = tuple(
        tuple(
            _received(record, client.exchanges.get(record.dispatched_ns or 0))
            for record in answers.records
            if record.model == model
        )
        for model in (model.name for model in models)
    )
    return PlayedStep(step, streams, by_server, answers.facts[0])


def _received(record: Record, exchange: Exchange | None) -> ReceivedAnswer:
    """A record, together with the stamps of its exchange."""
    answer = ReceivedAnswer(
        number=None,
        ok=record.outcome == "ok",
        source=record.stamp_source,
        stamps_ns=np.array(record.stamps_ns, dtype=np.int64),
        user_ns=np.empty(0, dtype=np.int64),
        reads=np.empty(0, dtype=np.intp),
        written_ns=record.written_ns or 0,
        text_sha256=record.text_sha256,
    )
    if exchange is None or not record.stamps_ns:
        return answer
    completion = exchange.completion()
    offsets, user_ns, _ = np.array(exchange.stamps.reads, dtype=np.int64).reshape(-1, 3).T
    reads = np.minimum(np.searchsorted(offsets, completion.token_ends), len(offsets) - 1)
    # The scripted server begins each answer with the request's number, so that its log entry can be found.
    first = completion.text.split(maxsplit=1)[:1]
    return msgspec.structs.replace(
        answer,
        number=int(first[0]) if first and first[0].isdecimal() else None,
        user_ns=user_ns[reads],
        reads=reads,
    )
