"""Requests that are asked again of a server that refuses them at first: each attempt is a record, the last counts."""

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from loadgen import api
from loadgen.analysis.summary import StageSummary
from loadgen.engine.stop import StopSignal
from loadgen.live.progress import Silence
from loadgen.mock.distribution import FixedTime as Fixed
from loadgen.mock.process import MockProcess
from loadgen.mock.script import Script as Mock
from loadgen.record import Record
from loadgen.report.files import write_reports
from loadgen.scenario import Constant, Retries
from loadgen.store.run_folder import Run
from tests.integration.engine.test_havoc import lasting_port
from tests.integration.engine.test_session import PREFLIGHT, closed, counted, eventually, measured, scenario
from tests.integration.server import Script, Served, Server, streamed, whole

pytestmark = pytest.mark.asyncio

BUSY: Script = whole("429 Too Many Requests", b"{}", "Retry-After: 0.4")


def attempts(run: Run, index: int = 0) -> list[Record]:
    """Those of a measured request, in the order in which they ended."""
    return [record for record in measured(run) if record.index == index]


def written(results: Path) -> bytes:
    """What stands in the log of the run so far."""
    return b"".join(log.read_bytes() for log in results.glob("session/*/requests.jsonl"))


def first_and_only(run: Run) -> StageSummary:
    (stage,) = write_reports(run.folder).stages
    return stage


def refusing(scripts: dict[int, Script]) -> Callable[[Served], Script]:
    """A server that answers its n-th measured chat by a script of its own, and all others as they should be."""
    seen: list[int] = []

    def choose(request: Served) -> Script:
        if request.says == PREFLIGHT:
            return streamed("hi")
        seen.append(request.number)
        return scripts.get(len(seen) - 1, streamed("a", "b"))

    return choose


@pytest.mark.parametrize("workers", [1, 2])
async def test_who_is_told_to_come_back_later_does_so_and_the_wait_is_in_the_latencies(
    workers: int, tmp_path: Path
) -> None:
    with Server(refusing({0: BUSY, 1: BUSY})) as server:
        asked = scenario(
            tmp_path,
            {"m": server.url},
            closed(2, 6),
            warmup_requests=0,
            retries=Retries(attempts=3, backoff_s=0.01, jitter=0.0),
        )
        run = await api.run(asked, results=tmp_path, workers=workers)
        chats = server.chats[1:]
    stage = first_and_only(run)
    assert counted(stage) == {"ok": 6}
    assert not stage.incomplete
    assert not isinstance(stage.requests, msgspec.UnsetType)
    assert stage.requests.attempts == len(chats) == len(measured(run)) == 8
    assert stage.requests.retried in {1, 2}, "whose turn it was when the server was busy, is the server's choice"
    for last in (record for record in measured(run) if record.attempt and record.outcome == "ok"):
        before = attempts(run, last.index)[:-1]
        assert [record.attempt for record in before] == list(range(last.attempt))
        assert {(record.outcome, record.status) for record in before} == {("http_error", 429)}
        assert last.dispatched_ns == before[0].dispatched_ns
        assert last.sent_ns == before[0].sent_ns
        assert (last.attempt_ns or 0) - (before[-1].end_ns or 0) >= 400_000_000
        assert (last.written_ns or 0) >= (last.attempt_ns or 0), "by which the server's own share of TTFT counts"
        assert last.stamps_ns[0] - (last.sent_ns or 0) >= 400_000_000 * last.attempt
    assert not isinstance(stage.metrics, msgspec.UnsetType)
    assert stage.metrics["e2e_ms"].count == 6
    assert (stage.metrics["e2e_ms"].max or 0) >= 400


async def test_in_an_open_loop_the_wait_counts_from_when_the_request_was_due_and_holds_up_no_other(
    tmp_path: Path,
) -> None:
    with Server(refusing({0: whole("429 Too Many Requests", b"{}", "Retry-After: 1")})) as server:
        load = Constant(rates_per_s=(20.0,), requests=4)
        retries = Retries(attempts=1, jitter=0.0)
        asked = scenario(tmp_path, {"m": server.url}, load, warmup_requests=0, retries=retries)
        run = await api.run(asked, results=tmp_path)
    assert counted(first_and_only(run)) == {"ok": 4}
    refused, answered = attempts(run, 0)
    assert refused.intended_ns == answered.intended_ns
    assert (answered.end_ns or 0) - answered.intended_ns >= 1_000_000_000
    assert [record.index for record in measured(run)][-1] == 0, "the others did not wait for it"
    assert all(len(attempts(run, index)) == 1 for index in (1, 2, 3))
    between = range((refused.end_ns or 0) + 50_000_000, (answered.attempt_ns or 0) - 50_000_000)
    waiting = [count for moment, count in run.facts[0].in_flight_samples if moment in between]
    assert waiting
    assert min(waiting) >= 1, "who waits is in flight: else the sampler and the records would not agree"


async def test_a_body_that_begins_like_a_retry_after_asks_for_no_wait(tmp_path: Path) -> None:
    body = b"Retry-After: 3000; full"
    with Server(refusing({0: whole("503 Service Unavailable", body)})) as server:
        retries = Retries(attempts=1, backoff_s=0.01, max_backoff_s=3600.0, jitter=0.0)
        asked = scenario(tmp_path, {"m": server.url}, closed(1, 1), warmup_requests=0, retries=retries)
        run = await asyncio.wait_for(api.run(asked, results=tmp_path), 60)
    refused, answered = attempts(run, 0)
    assert (refused.outcome, refused.detail, answered.outcome) == ("http_error", body.decode(), "ok")
    assert "retry_after_s" not in (run.folder / "requests.jsonl").read_text()


async def test_a_request_that_is_refused_to_the_end_failed_and_only_the_last_attempt_counts(tmp_path: Path) -> None:
    def choose(request: Served) -> Script:
        return streamed("hi") if request.says == PREFLIGHT else whole("503 Service Unavailable", b"full")

    with Server(choose) as server:
        retries = Retries(attempts=2, backoff_s=0.01)
        asked = scenario(tmp_path, {"m": server.url}, closed(2, 4), warmup_requests=1, retries=retries)
        run = await api.run(asked, results=tmp_path)
    stage = first_and_only(run)
    assert counted(stage) == {"http_error": 4}
    assert not isinstance(stage.requests, msgspec.UnsetType)
    assert (stage.requests.retried, stage.requests.attempts, stage.requests.warmup) == (4, 12, 1)
    assert len(run.records) == 15, "the warm-up request was asked again as well"


async def test_without_a_policy_nothing_is_asked_again(tmp_path: Path) -> None:
    with Server(refusing({0: BUSY, 1: BUSY})) as server:
        asked = scenario(tmp_path, {"m": server.url}, closed(1, 4), warmup_requests=0)
        run = await api.run(asked, results=tmp_path)
    assert counted(first_and_only(run)) == {"http_error": 2, "ok": 2}
    assert {record.attempt for record in run.records} == {0}


async def test_a_server_that_died_is_asked_until_it_is_there_again(tmp_path: Path) -> None:
    asked = Mock(ttft_s=Fixed(0.01), itl_s=Fixed(0.01), tokens=Fixed(4))
    with contextlib.ExitStack() as stack:
        port = lasting_port()
        first = MockProcess(asked, port=port)
        stack.enter_context(contextlib.suppress(RuntimeError))  # by which it tells that it has died
        url = stack.enter_context(first).url

        class KillIt(Silence):
            def record(self, record: Record) -> None:
                if record.index == 0:
                    os.kill(first.pid, signal.SIGKILL)

        retries = Retries(attempts=100, on=("connect_error", "truncated"), backoff_s=0.05, max_backoff_s=0.2)
        made = scenario(tmp_path, {"mock": url}, closed(1, 3), warmup_requests=0, retries=retries)
        playing = asyncio.create_task(api.run(made, results=tmp_path, progress=KillIt()))
        await eventually(lambda: b'"connect_error"' in written(tmp_path))
        with MockProcess(asked, port=port):
            run = await playing
    assert counted(first_and_only(run)) == {"ok": 3}
    before = [record.outcome for record in attempts(run, 1)[:-1]]
    assert before
    assert set(before) <= {"connect_error", "truncated"}
    assert attempts(run, 2)[0].outcome == "ok"


async def test_a_stop_does_not_wait_for_another_attempt(tmp_path: Path) -> None:
    stop = StopSignal()
    with Server(refusing({0: whole("503 Service Unavailable", b"{}", "Retry-After: 3000")})) as server:
        retries = Retries(attempts=1, max_backoff_s=3000.0)
        asked = scenario(tmp_path, {"m": server.url}, closed(1, 3), warmup_requests=0, retries=retries)
        playing = asyncio.create_task(api.run(asked, results=tmp_path, stop=stop))
        await eventually(lambda: b'"http_error"' in written(tmp_path))
        assert stop.escalate() == "drain"
        run = await asyncio.wait_for(playing, timeout=30)
    stage = first_and_only(run)
    assert counted(stage) == {"cancelled": 3}
    assert [record.outcome for record in attempts(run)] == ["http_error", "cancelled"]
    assert not isinstance(stage.requests, msgspec.UnsetType)
    assert (stage.requests.retried, stage.requests.attempts) == (0, 1)
    assert run.manifest.state == "interrupted"
