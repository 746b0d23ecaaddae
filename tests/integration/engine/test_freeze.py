"""A server that stands still for 1 s of 10, at 40 requests a second: the tail shows it, at any in-flight limit.

Here is what holds however fast the machine is. `tests/unit/engine/test_freeze.py` plays the same load in virtual time,
and has the exact numbers.
"""

import asyncio
from typing import Any

import msgspec
import numpy as np
import pytest

from loadgen import api
from loadgen.analysis.metrics import of_requests
from loadgen.analysis.summarize import summarize
from loadgen.analysis.summary import StageSummary
from loadgen.mock import FixedTime, Freeze, MockProcess, Script
from loadgen.record import Record
from loadgen.scenario import Constant as ConstantRate
from loadgen.scenario import Model, Scenario
from loadgen.scenario.file import LoadedScenario
from loadgen.stats.quantile import nearest_rank
from loadgen.store.run_folder import Run

SCRIPT = Script(ttft_s=FixedTime(0.03), itl_s=FixedTime(0.005), tokens=FixedTime(4), freezes=(Freeze(at_s=4, for_s=1),))
LIMITS: dict[str, dict[str, Any]] = {
    "none": {},
    "shed": {"max_in_flight": 20},
    "queue": {"max_in_flight": 4, "at_limit": "queue"},
}


def stage_of(run: Run) -> StageSummary:
    (stage,) = summarize(run).stages
    return stage


def answered(run: Run) -> list[Record]:
    return [record for record in run.records if record.outcome == "ok"]


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Run]:
    """The same load on three servers that stand still alike, at once: without a limit, and with either kind of it."""

    async def play(limit: str) -> Run:
        folder = tmp_path_factory.mktemp(limit)
        # The freeze counts from the first chat, which is the first measured one, however long it takes to get there.
        with MockProcess(SCRIPT) as server:
            scenario = Scenario(
                name="freeze",
                prompts=("Say something.",),
                models=(Model(name="mock", url=f"{server.url}", target="openai"),),
                load=ConstantRate(rates_per_s=(40.0,), duration_s=10.0, **LIMITS[limit]),
                warmup_requests=0,
                preflight=False,
                probe=False,
            )
            return await api.run(api.plan_of(LoadedScenario(scenario, None, folder, "the test")), results=folder)

    async def main() -> list[Run]:
        return await asyncio.gather(*(play(limit) for limit in LIMITS))

    return dict(zip(LIMITS, asyncio.run(main()), strict=True))


@pytest.mark.parametrize("limit", LIMITS)
def test_a_freeze_shows_in_the_p99_of_the_ttft(played: dict[str, Run], limit: str) -> None:
    stage = stage_of(played[limit])
    assert stage.metrics is not msgspec.UNSET
    p99 = stage.metrics["ttft_ms"].percentile("p99")
    # A slow machine sheds more, and leaves too few answers for more than a bound.
    assert (p99.value or p99.low or 0) >= 750


def test_counted_from_the_send_a_queue_at_the_limit_hides_the_wait(played: dict[str, Run]) -> None:
    records = answered(played["queue"])
    held = [record for record in records if record.held_ns]
    assert len(held) >= 30, "most of the forty that came due meanwhile waited for their turn"
    for record in held:
        ttft, from_send = (of_requests([record], origin="intended")[name][0] for name in ("ttft", "ttft_from_send"))
        assert from_send <= ttft - record.held_ns
    stage = stage_of(played["queue"])
    assert stage.metrics is not msgspec.UNSET
    assert stage.metrics["ttft_from_send_ms"].count == stage.metrics["ttft_ms"].count == 400


def test_the_wait_at_the_limit_is_not_held_against_us(played: dict[str, Run]) -> None:
    stage = stage_of(played["queue"])
    assert stage.validity is not msgspec.UNSET
    slip = stage.validity.self.dispatch_slip_p99_ms
    late = np.sort(
        [(record.dispatched_ns or 0) - record.intended_ns - record.held_ns for record in answered(played["queue"])]
    )
    assert slip == pytest.approx(nearest_rank(late, 99) / 1e6, abs=0.01)


def test_what_was_shed_is_counted_and_said(played: dict[str, Run]) -> None:
    stage = stage_of(played["shed"])
    assert stage.requests is not msgspec.UNSET
    assert stage.requests.planned == 400
    assert stage.requests.by_outcome["shed"] >= 10
    assert stage.requests.by_outcome["ok"] + stage.requests.by_outcome["shed"] == 400
    assert stage.validity is not msgspec.UNSET
    assert "shed" in [reason.code for reason in stage.validity.reasons]
