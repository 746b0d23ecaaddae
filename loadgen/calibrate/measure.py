"""Plays the courses of a calibration: scripted servers in processes of their own, and our client as a run has it."""

import asyncio
import contextlib
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

import msgspec
import numpy as np
import psutil

from loadgen.calibrate.compare import PlayedStep, ReceivedAnswer, compared, outlined
from loadgen.calibrate.conclude import concluded, is_disturbed, is_too_much
from loadgen.calibrate.loads import LoadStep, within
from loadgen.clock import SYSTEM_CLOCK, utc_now
from loadgen.engine.stage import LocalStageRunner, RunContext
from loadgen.engine.stop import StopSignal
from loadgen.engine.workers.sizing import DESCRIPTORS_ASIDE, Descriptors, provide, usable_cores
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
from loadgen.wire.client import Ask, Client
from loadgen.wire.exchange import Exchange

PROMPT: Final = Prompt("calibrate", "Say what you always say.")
BUSY_S: Final = 0.5
"""For how long we look, before anything is played, how busy others keep the machine."""
SECOND_CHANCES: Final = 2
"""How many loads may be played again in one calibration."""

Progress = Callable[[str, int, int], None]
"""Told what is played now, how many loads have been, and of how many."""


def silent(what: str, done: int, of: int) -> None:
    """Progress that nobody looks at."""


def calibrated(courses: tuple[LoadStep, ...], progress: Progress = silent) -> Calibration:
    """Play all courses, and say what they come to. Blocks, and runs event loops of its own."""
    courses = within(courses, _most_streams(courses))
    of = sum(len(course.streams) for course in courses)
    steps: list[Step] = []
    busy_share = round(psutil.cpu_percent(BUSY_S) / 100, 3)
    before, chances = 0, iter(range(SECOND_CHANCES))
    for course in courses:

        def say(what: str, at: int, before: int = before) -> None:
            progress(what, before + at, of)

        steps += _course(course, chances, say)
        before += len(course.streams)
    return concluded(steps, this_machine(), utc_now().isoformat(), busy_share)


class Keeping(Client):
    """A client that keeps what it has brought: a run's records have one stamp a token, and not the other one."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: dict[int, Exchange] = {}

    async def send(self, ask: Ask, dispatched_ns: int) -> Exchange:
        exchange = self.kept[dispatched_ns] = await super().send(ask, dispatched_ns)
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


def _most_streams(courses: Sequence[LoadStep]) -> int:
    """How many streams, of those that are wanted, this process may hold open."""
    for streams in sorted({count for course in courses for count in course.streams}, reverse=True):
        needed = streams + DESCRIPTORS_ASIDE
        with contextlib.suppress(InputError):
            provide(Descriptors(streams, needed, needed))
            return streams
    return 0


def _course(course: LoadStep, chances: Iterator[int], progress: Callable[[str, int], None]) -> Iterator[Step]:
    """Play a course's loads until one of them is too much; compare them when the servers have told what they sent.

    chances: for loads that something else has disturbed.
    """
    played: list[PlayedStep] = []
    with contextlib.ExitStack() as stack:
        count = course.servers(usable_cores())
        servers = [stack.enter_context(MockProcess(course.script())) for _ in range(count)]
        for at, streams in enumerate(course.streams):
            rate = streams * 1e3 / course.itl_ms
            many = "1 stream" if streams == 1 else f"{streams:,} streams {course.pace}"
            progress(f"{many}, {rate:,.0f} tokens a second", at)
            played.append(asyncio.run(_play(course, streams, [server.url for server in servers])))
            if is_disturbed(outlined(played[-1])) and next(chances, None) is not None:
                played.append(asyncio.run(_play(course, streams, [server.url for server in servers])))
            if is_too_much(outlined(played[-1])):
                break
    truths = [{truth.number: truth for truth in server.truth} for server in servers]
    return (compared(one, truths) for one in played)


async def _play(course: LoadStep, streams: int, urls: Sequence[str]) -> PlayedStep:
    """One load, as the stage of a run that it would be, down to the log."""
    models = tuple(Model(name=f"mock-{number}", target="openai", url=url) for number, url in enumerate(urls))
    scenario = Scenario(
        name="calibrate", prompts=PROMPT.text, models=models, sampling=Sampling(max_tokens=course.tokens_of(streams))
    )
    stage = Stage(
        level=Level(label=f"c{streams}", mode="closed", concurrency=streams),
        models=tuple(range(len(models))),
        warmup=0,
        prompts=1,
        count=streams,
        duration_ns=None,
        ramp_in_ns=np.array(course.begins_ns(streams), dtype=np.int64),
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
        client, stop = Keeping(), StopSignal()
        async with client:
            context = RunContext(plan, client, SYSTEM_CLOCK, 0, stop)
            runner = LocalStageRunner(context, stage, ready, stop, Sinks((log, answers)))
            await runner.warm_up()
            await runner.measure()
    heard = tuple(
        tuple(
            _heard(record, client.kept.get(record.dispatched_ns or 0))
            for record in answers.records
            if record.model == model
        )
        for model in (model.name for model in models)
    )
    return PlayedStep(course, streams, heard, answers.facts[0])


def _heard(record: Record, exchange: Exchange | None) -> ReceivedAnswer:
    """A record, and what its exchange knows beside it."""
    heard = ReceivedAnswer(
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
        return heard
    completion = exchange.completion()
    offsets, user_ns, _ = np.array(exchange.stamps.reads, dtype=np.int64).reshape(-1, 3).T
    reads = np.minimum(np.searchsorted(offsets, completion.token_ends), len(offsets) - 1)
    first = completion.text.split(maxsplit=1)[:1]
    return msgspec.structs.replace(
        heard,
        number=int(first[0]) if first and first[0].isdecimal() else None,
        user_ns=user_ns[reads],
        reads=reads,
    )
