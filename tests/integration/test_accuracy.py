"""What a run reports, against what the server did: 64 streams at known times, on kernel stamps.

The server is a process of its own, and its lateness is in its account as it is in ours, so it cancels out. What does
not cancel is where the two accounts touch: a request's arrival is therefore the kernel's stamp on the server's side
too, and not when the server got round to reading it.
"""

import asyncio
import math
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest

from loadgen import api
from loadgen.record import Record
from loadgen.report.files import write_reports
from loadgen.scenario import Closed, Model, Scenario
from loadgen.scenario.file import LoadedScenario
from loadgen.store.run_folder import Run
from tests.integration.server import Served, ServerProcess, Ticking

STREAMS, ROUNDS, TOKENS = 64, 2, 20
PERCENTILES = (50, 90, 95, 99)
BOUND_MS = {50: 1.0, 90: 3.0, 95: 3.0, 99: 3.0}

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the kernel's receive stamps are Linux's")


def nearest_rank(values: Sequence[int], percent: int) -> float:
    """The smallest value with at least so many percent of the samples at or below it, in ms."""
    return sorted(values)[math.ceil(percent / 100 * len(values)) - 1] / 1e6


def played(results: Path) -> tuple[Run, dict[int, Served]]:
    """A run in a closed loop, and the server's account by request number."""
    with ServerProcess(Ticking(tokens=TOKENS, first_s=0.2, gap_s=0.05)) as server:
        scenario = Scenario(
            name="accuracy",
            prompts="Tick.",
            models=(Model(name="m", url=server.url, target="openai"),),
            load=Closed(concurrency=(STREAMS,), requests=STREAMS * ROUNDS),
            warmup_requests=0,
            keep_text=True,
            probe=False,
        )
        run = asyncio.run(api.run(LoadedScenario(scenario, None, results, "the test"), results=results))
    return run, {request.number: request for request in server.chats}


def number_of(record: Record) -> int:
    """Which of the server's requests it was: the answer begins with it."""
    assert isinstance(record.text, str)
    return int(record.text.split()[0])


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[Record, Served]]:
    """Every measured record, and the server's account of the same request."""
    run, told = played(tmp_path_factory.mktemp("accuracy"))
    assert [record.outcome for record in run.records] == ["ok"] * STREAMS * ROUNDS
    assert {record.stamp_source for record in run.records} == {"kernel"}
    assert all(len(record.stamps_ns) == TOKENS for record in run.records)
    stage = write_reports(run.folder).stages[0]
    assert stage.metrics is not msgspec.UNSET
    return [(record, told[number_of(record)]) for record in run.records]


def assert_close(name: str, reported: Sequence[int], truth: Sequence[int]) -> None:
    assert len(reported) == len(truth) > 0
    errors = {percent: nearest_rank(reported, percent) - nearest_rank(truth, percent) for percent in PERCENTILES}
    assert all(abs(error) <= BOUND_MS[percent] for percent, error in errors.items()), f"{name}: {errors} ms"


def true_ttfts(pairs: list[tuple[Record, Served]]) -> list[int]:
    return [request.tokens_ns[0] - request.arrived_ns for _, request in pairs]


def test_service_ttft_is_the_servers_own(pairs: list[tuple[Record, Served]]) -> None:
    reported = [record.stamps_ns[0] - (record.written_ns or 0) for record, _ in pairs]
    assert_close("service TTFT", reported, true_ttfts(pairs))


def test_closed_loop_ttft_is_the_servers_own_and_the_time_it_took_to_send(pairs: list[tuple[Record, Served]]) -> None:
    reported = [record.stamps_ns[0] - (record.sent_ns or 0) for record, _ in pairs]
    sending = [(record.written_ns or 0) - (record.sent_ns or 0) for record, _ in pairs]
    truth = [ttft + took for ttft, took in zip(true_ttfts(pairs), sending, strict=True)]
    assert_close("TTFT", reported, truth)


def test_gaps_between_tokens_are_the_servers_own(pairs: list[tuple[Record, Served]]) -> None:
    reported, truth = [], []
    for record, request in pairs:
        reported += [after - before for before, after in zip(record.stamps_ns, record.stamps_ns[1:], strict=False)]
        truth += [after - before for before, after in zip(request.tokens_ns, request.tokens_ns[1:], strict=False)]
    assert_close("ITL", reported, truth)
