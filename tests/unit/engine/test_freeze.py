"""A server that stands still for 1 s of 10, at 40 requests a second, in virtual time: what it does to each number."""

from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import pytest
from msgspec import UNSET

from loadgen import api
from loadgen.analysis.metrics import of_requests
from loadgen.analysis.summarize import summarize
from loadgen.analysis.summary import StageSummary
from loadgen.scenario import Constant, Model, Scenario
from loadgen.scenario.file import LoadedScenario
from loadgen.stats.quantile import nearest_rank
from loadgen.store.run_folder import Run
from tests.virtual import run
from tests.virtual_client import CLOCK, MS, ScriptedClient, stream

GAP_MS: Final = 10
LIMITS: Final[dict[str, dict[str, Any]]] = {
    "none": {},
    "shed": {"max_in_flight": 20},
    "queue": {"max_in_flight": 4, "at_limit": "queue"},
}


class Freeze:
    """No answer begins in the fifth second after the first chat."""

    def __init__(self) -> None:
        self._begin_ns: int | None = None

    async def __aenter__(self) -> None:
        if self._begin_ns is None:
            self._begin_ns = CLOCK.now_ns() + 4_000 * MS
        if self._begin_ns <= CLOCK.now_ns():
            await CLOCK.sleep_until_ns(self._begin_ns + 1_000 * MS)

    async def __aexit__(self, *_: object) -> None:
        pass


@cache
def played(limit: str) -> tuple[Run, StageSummary]:
    client = ScriptedClient(lambda _body, _number: stream(*"abcd", gap_ns=GAP_MS * MS))
    client.turn = Freeze()
    scenario = Scenario(
        name="freeze",
        prompts=("Say something.",),
        models=(Model(name="m", url="http://m.invalid/v1", target="openai"),),
        load=Constant(rates_per_s=(40.0,), duration_s=10.0, **LIMITS[limit]),
        warmup_requests=0,
        preflight=False,
    )
    with TemporaryDirectory() as name:
        folder = Path(name)
        loaded = LoadedScenario(scenario, None, folder, "the test")
        ended = run(api.run(loaded, results=folder, clock=CLOCK, client=client))
        (stage,) = summarize(ended).stages
    return ended, stage


def ttft_ms(limit: str, percentile: str) -> float:
    stage = played(limit)[1]
    assert stage.metrics is not UNSET
    value = stage.metrics["ttft_ms"].percentile(percentile).value
    assert value is not None
    return value


@pytest.mark.parametrize("limit", LIMITS)
def test_a_freeze_is_in_the_p99_of_the_ttft_and_not_in_its_median(limit: str) -> None:
    assert ttft_ms(limit, "p50") == pytest.approx(GAP_MS, abs=0.01)
    assert 900 <= ttft_ms(limit, "p99") <= 1000 + GAP_MS


def test_counted_from_the_send_a_queue_at_the_limit_hides_it() -> None:
    records = [record for record in played("queue")[0].records if record.phase == "measured"]
    assert len([record for record in records if record.held_ns]) >= 30
    sent = of_requests(records, origin="intended")["ttft_from_send"]
    sent.sort()
    assert nearest_rank(sent, 98) == pytest.approx(GAP_MS * MS, abs=0.01 * MS)


@pytest.mark.parametrize("limit", LIMITS)
def test_the_wait_at_the_limit_is_no_slip_of_ours(limit: str) -> None:
    stage = played(limit)[1]
    assert stage.validity is not UNSET
    assert stage.validity.self.dispatch_slip_p99_ms == pytest.approx(0, abs=0.01)


def test_as_many_are_shed_as_come_due_while_the_limit_is_reached() -> None:
    stage = played("shed")[1]
    assert stage.requests is not UNSET
    assert stage.requests.by_outcome == {"ok": 378, "shed": 22}, "until the first of twenty had ended"
