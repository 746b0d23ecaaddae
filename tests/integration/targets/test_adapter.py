"""Whole runs against adapters in this process: stamps are the adapter's own moments, whatever the event loop does."""

import asyncio
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from loadgen import api
from loadgen.analysis.summary import StageSummary
from loadgen.clock import SystemClock
from loadgen.engine.stop import StopSignal
from loadgen.record import Record
from loadgen.report.files import write_reports
from loadgen.scenario import Closed, Constant, Load, Model, Scenario, Timeouts
from loadgen.scenario.file import LoadedScenario
from loadgen.store.run_folder import Run
from loadgen.targets.adapter import in_process, target
from loadgen.targets.adapter.threads import WorkerThreads

pytestmark = pytest.mark.asyncio
HERE = __name__
FIRST_S, GAP_S, TOKENS = 0.02, 0.005, 8
PREFLIGHT = "Say hello."


class Scripted:
    """Yields tokens at moments of its own, and keeps an account of them: the truth that stamps are compared with."""

    said: ClassVar[list[list[int]]] = []
    asked: ClassVar[list[int]] = []
    did: ClassVar[list[object]] = []

    def load(self, model: str, **options: Any) -> None:
        self.did.append(("load", model, options))
        time.sleep(0.02)

    def generate(self, messages: list[dict[str, str]], *, max_tokens: int, **sampling: object) -> Iterator[Any]:
        moments: list[int] = []
        self.said.append(moments)
        self.asked.append(time.perf_counter_ns())
        due_s = time.perf_counter() + FIRST_S
        for i in range(TOKENS):
            time.sleep(max(0.0, due_s + i * GAP_S - time.perf_counter()))
            moments.append(time.perf_counter_ns())
            yield f"{i} "
        yield {"usage": {"prompt_tokens": 3, "completion_tokens": TOKENS}, "finish_reason": "stop"}

    def unload(self) -> None:
        self.did.append("unload")

    def card(self) -> dict[str, Any]:
        return {"license": "mit", "context_tokens": 64}


class Asynchronous(Scripted):
    """The same in the event loop."""

    async def generate(  # type: ignore[override]
        self, messages: list[dict[str, str]], **sampling: object
    ) -> AsyncIterator[str]:
        moments: list[int] = []
        self.said.append(moments)
        self.asked.append(time.perf_counter_ns())
        clock = SystemClock()
        due_ns = clock.now_ns() + round(FIRST_S * 1e9)
        for i in range(TOKENS):
            await clock.sleep_until_ns(due_ns + i * round(GAP_S * 1e9))
            moments.append(time.perf_counter_ns())
            yield f"{i} "


class Stuck:
    """Answers the preflight; then yields one token, and no other before it is let go."""

    go: ClassVar[threading.Event] = threading.Event()
    did: ClassVar[list[object]] = []
    asked: ClassVar[list[str]] = []

    def generate(self, messages: list[dict[str, str]], **sampling: object) -> Iterator[str]:
        yield "a"
        if messages[-1]["content"] != PREFLIGHT:
            self.asked.append(messages[-1]["content"])
            self.go.wait(60)

    def unload(self) -> None:
        self.did.append("unload")


class Busy:
    """Computes in Python: 20 ms of a core for each token, however long that takes."""

    def generate(self, messages: list[dict[str, str]], **sampling: object) -> Iterator[str]:
        for _ in range(4):
            until_s = time.thread_time() + 0.02
            while time.thread_time() < until_s:
                pass
            yield "a"


class Unloadable:
    """Cannot be loaded here."""

    def load(self, model: str) -> None:
        raise OSError(f"no weights of {model}")

    def generate(self, messages: list[dict[str, str]], **sampling: object) -> Iterator[str]:
        yield "a"


@pytest.fixture(autouse=True)
def fresh() -> None:
    Scripted.said.clear()
    Scripted.asked.clear()
    Scripted.did.clear()
    Stuck.did.clear()
    Stuck.asked.clear()
    Stuck.go.clear()


def scenario(folder: Path, load: Load, *adapters: type, **rest: Any) -> LoadedScenario:
    made = Scenario(
        name="adapter",
        prompts=("First question.", "Second question."),
        models=tuple(Model(name="m", target=f"python:{HERE}:{adapter.__name__}") for adapter in adapters),
        load=load,
        **{"warmup_requests": 1, "timeouts": Timeouts(request_s=20.0), **rest},
    )
    return LoadedScenario(made, None, folder, "the test")


def measured(run: Run) -> list[Record]:
    records = [record for record in run.records if record.phase == "measured"]
    return sorted(records, key=lambda record: record.sent_ns or 0)


def epoch_ns(run: Run) -> int:
    """The run's beginning on the adapter's clock, at the earliest: by the token that was stamped soonest."""
    return int((truth(run) - stamps(run)).max())


def stamps(run: Run) -> NDArray[np.int64]:
    return np.sort([stamp for record in run.records for stamp in record.stamps_ns])


def truth(run: Run) -> NDArray[np.int64]:
    """The adapter's own moment of each token, without those of the test chat, which is no record."""
    return np.sort([moment for moments in Scripted.said[-len(run.records) :] for moment in moments])


def lags_ms(run: Run) -> NDArray[np.float64]:
    """How much later than the adapter's own moment each token was stamped, compared with the one stamped soonest."""
    lags: NDArray[np.float64] = (stamps(run) + epoch_ns(run) - truth(run)) / 1e6
    return lags


async def test_the_card_of_an_older_adapter_is_read_as_it_is_spelled_now() -> None:
    class Older(Scripted):
        def card(self) -> dict[str, Any]:
            return {"licence": "mit"}

    workers = WorkerThreads("adapter-Older")
    try:
        card = await target._card(Older(), Model(name="m", target="python:x:Older"), workers)
    finally:
        workers.close()
    assert (card.id, card.license, card.source) == ("m", "mit", "python:x:Older")


async def test_an_adapter_is_loaded_asked_told_of_and_unloaded(tmp_path: Path) -> None:
    made = scenario(tmp_path, Closed(requests=6), Scripted, keep_text=True)
    model = msgspec.structs.replace(made.scenario.models[0], options={"a": 1})
    made = msgspec.structs.replace(made, scenario=msgspec.structs.replace(made.scenario, models=(model,)))
    run = await api.run(made, results=tmp_path)
    assert Scripted.did == [("load", "m", {"a": 1}), "unload"]
    card = run.manifest.models[0]
    assert (card.target, card.alias, card.license, card.context_tokens) == ("Scripted", "m", "mit", 64)
    assert card.load_s is not None
    assert card.load_s >= 0.02
    assert isinstance(card.unload_s, float)
    assert card.unload_s >= 0
    records = measured(run)
    assert [(r.outcome, r.output_tokens, r.token_source, r.finish_reason) for r in records] == [
        ("ok", TOKENS, "usage", "stop")
    ] * 6
    assert {r.text for r in records} == {"".join(f"{i} " for i in range(TOKENS))}
    assert {r.target for r in records} == {"Scripted"}


@pytest.mark.parametrize("adapter", [Scripted, Asynchronous])
async def test_ttft_and_itl_are_those_of_the_adapter(tmp_path: Path, adapter: type) -> None:
    load = Closed(concurrency=(2,), requests=10, ramp_in_s=0.02)
    run = await api.run(scenario(tmp_path, load, adapter), results=tmp_path)
    records = measured(run)
    assert len(records) == 10
    for record in records:
        assert record.outcome == "ok"
        assert record.sent_ns is not None
        assert record.stamps_ns[0] - record.sent_ns >= FIRST_S * 1e9
        assert record.stamps_ns[-1] - record.sent_ns >= (FIRST_S + (TOKENS - 1) * GAP_S) * 1e9
    # What the machine adds is in the adapter's own moments as well: each token is stamped when it came.
    assert np.median(lags_ms(run)) < 0.5
    asked = np.sort(Scripted.asked[-len(run.records) :])
    sent = np.sort([record.sent_ns or 0 for record in run.records]) + epoch_ns(run)
    assert all(sent <= asked + 1_000_000), "TTFT begins before the adapter is called"


async def test_an_event_loop_that_is_blocked_does_not_move_the_stamps_of_a_thread(tmp_path: Path) -> None:
    blocked = 0

    async def block() -> None:
        nonlocal blocked
        while True:
            time.sleep(0.03)  # noqa: ASYNC251  this is what is tested: longer than several tokens take
            blocked += 1
            await asyncio.sleep(0.001)

    blocker = asyncio.create_task(block())
    try:
        run = await api.run(scenario(tmp_path, Closed(requests=10), Scripted), results=tmp_path)
    finally:
        blocker.cancel()
    assert blocked >= 10
    lags = lags_ms(run)
    assert len(lags) == 11 * TOKENS
    # Stamps in the loop would be up to 30 ms late, 15 on average, and several tokens would share one.
    assert np.percentile(lags, 90) < 3
    assert all(len(set(record.stamps_ns)) == TOKENS for record in run.records)


async def test_what_a_model_computes_in_this_process_is_not_taken_for_the_harness(tmp_path: Path) -> None:
    run = await api.run(scenario(tmp_path, Closed(requests=8), Busy), results=tmp_path)
    stage = write_reports(run.folder).stages[0]
    validity = stage.validity
    assert validity is not msgspec.UNSET
    assert validity.self.cpu_share is not None
    assert validity.self.cpu_share < 0.5
    assert "own_cpu" not in {reason.code for reason in validity.reasons}
    facts = run.facts[0]
    assert facts.servers[0].cpu_share is not None
    # Held against our own share, since other tests leave the model more or less of a core.
    assert facts.servers[0].cpu_share > 4 * validity.self.cpu_share, "it is the process's"


async def test_in_flight_by_the_sampler_and_by_the_records_agree(tmp_path: Path) -> None:
    run = await api.run(
        scenario(tmp_path, Closed(concurrency=(3,), requests=60, ramp_in_s=0.02), Scripted), results=tmp_path
    )
    spans = [(record.dispatched_ns or 0, record.end_ns or 0) for record in measured(run)]
    samples = run.facts[0].in_flight_samples
    by_records = [sum(began < moment < ended for began, ended in spans) for moment, _ in samples]
    # A request whose end the event loop has not seen yet counts as in flight, until its user sends the next one.
    assert all(known <= count <= 3 for known, (_, count) in zip(by_records, samples, strict=True))
    assert max(by_records) == 3


async def eventually(is_so: Callable[[], bool]) -> None:
    until_s = time.perf_counter() + 60
    while not is_so():
        assert time.perf_counter() < until_s
        await asyncio.sleep(0.01)


def counted(stage: StageSummary) -> dict[str, int]:
    assert stage.requests is not msgspec.UNSET
    return stage.requests.by_outcome


async def test_a_stuck_generator_times_out_the_run_goes_on_and_nothing_is_unloaded_beneath_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(in_process, "SHUTDOWN_TIMEOUT_S", 0.1)
    # All three are stuck at once, so that a deadline that suffices for the other adapter on any machine passes once.
    load, timeouts = Closed(concurrency=(3,), requests=3, ramp_in_s=0.0), Timeouts(request_s=3.0)
    made = scenario(tmp_path, load, Stuck, Scripted, warmup_requests=0, timeouts=timeouts)
    run = await api.run(made, results=tmp_path)
    Stuck.go.set()
    summary = write_reports(run.folder)
    assert [counted(stage) for stage in summary.stages] == [{"timeout": 3}, {"ok": 3}]
    stuck = [record for record in run.records if record.outcome == "timeout"]
    assert {r.detail for r in stuck} == {"waiting for next token, request deadline 3 s"}
    assert [len(r.stamps_ns) for r in stuck] == [1, 1, 1]
    assert run.manifest.models[0].abandoned_calls == 3
    assert (Stuck.did, Scripted.did[-1]) == ([], "unload")


async def test_stopped_twice_what_is_in_flight_is_given_up_with_its_stamps(tmp_path: Path) -> None:
    stop = StopSignal()
    made = scenario(tmp_path, Constant(rates_per_s=(100.0,), requests=3), Stuck, warmup_requests=0)
    playing = asyncio.create_task(api.run(made, results=tmp_path, stop=stop))
    await eventually(lambda: len(Stuck.asked) == 3)
    await asyncio.sleep(0.1)
    assert stop.escalate() == "drain"
    await asyncio.sleep(0.05)
    assert not playing.done()
    assert stop.escalate() == "cancel"
    await asyncio.sleep(0.05)
    Stuck.go.set()
    run = await asyncio.wait_for(playing, timeout=60)
    assert [(r.outcome, r.detail, len(r.stamps_ns)) for r in run.records] == [
        ("cancelled", "stopped by the user", 1)
    ] * 3


async def test_a_model_that_cannot_be_loaded_is_skipped_and_the_other_plays(tmp_path: Path) -> None:
    before = (list(sys.path), sys.getswitchinterval())
    run = await api.run(scenario(tmp_path, Closed(requests=2), Unloadable, Scripted), results=tmp_path)
    stages = write_reports(run.folder).stages
    assert [stage.status for stage in stages] == ["skipped", "played"]
    assert stages[0].reason == "Unloadable.load: OSError: no weights of m; check what Unloadable.load('m') needs"
    assert (list(sys.path), sys.getswitchinterval()) == before
