"""Stages that are chosen while the run goes, through worker processes."""

import itertools
from pathlib import Path

import pytest

from loadgen import api
from loadgen.engine.run import play_plan
from loadgen.engine.stage import RunContext
from loadgen.engine.stop import StopSignal
from loadgen.record import Record
from tests.integration.engine.test_session import closed, scenario
from tests.integration.engine.test_until import slow
from tests.integration.server import BEGIN, Hang, Script, Served, Server, say, streamed
from tests.unit.engine.test_late import Late, LateChoices
from tests.unit.engine.test_stage_source import Choices
from tests.virtual_client import MS


@pytest.mark.asyncio
async def test_workers_play_stages_that_are_chosen_and_end_them_when_they_are_told(tmp_path: Path) -> None:
    made: list[Choices] = []

    def make_sources(context: object, _: Path) -> list[Choices]:
        made.append(Choices(context, [4, 2, 4], 12))  # type: ignore[arg-type]
        return made

    with Server(slow(0.02)) as server:
        plan = api.plan_of(scenario(tmp_path, {"m": server.url}, closed(4, 8)))
        run = await play_plan(plan, tmp_path, workers=2, make_sources=make_sources)
    assert [facts.level for facts in run.facts] == ["c4", "c2", "c4.2"]
    assert all(facts.ended_early and len(facts.workers) == 2 for facts in run.facts)
    for facts in run.facts:
        measured = [r for r in run.records if (r.level, r.phase) == (facts.level, "measured")]
        assert len(measured) >= 12
        assert len({record.index for record in measured}) == len(measured)
    assert run.manifest.state == "complete"


@pytest.mark.asyncio
@pytest.mark.parametrize("workers", [1, 2])
async def test_requests_that_are_open_for_long_are_heard_of_while_they_are_open(workers: int, tmp_path: Path) -> None:
    stop, chats = StopSignal(), itertools.count()
    latest: dict[int, Record] = {}

    class UntilTokens(Late):
        """Ends the run when all four requests are open, and two of them have their first token."""

        def late(self, record: Record) -> None:
            super().late(record)
            latest[record.index] = record
            if len(latest) == 4 and sum(bool(each.stamps_ns) for each in latest.values()) == 2:
                stop.drain()
                stop.cancel()

    def answer(served: Served) -> Script:
        number = next(chats) if served.path.endswith("completions") else 0
        if number == 0:  # the warm-up
            return streamed("a")
        return (BEGIN, Hang()) if number % 2 else (BEGIN, *say("a"), Hang())

    late = UntilTokens()

    def make_sources(context: RunContext, _: Path) -> list[LateChoices]:
        return [LateChoices(late, tuple(50 * MS * k for k in range(1, 400)), context, [4], 12)]

    with Server(answer) as server:
        asked = scenario(tmp_path, {"m": server.url}, closed(4, 8), warmup_requests=0, preflight=False)
        run = await play_plan(api.plan_of(asked), tmp_path, workers=workers, make_sources=make_sources, stop=stop)
    assert sorted(latest) == [0, 1, 2, 3]
    assert {(record.outcome, record.phase) for record in late.open} == {("cancelled", "measured")}
    measured = [record.index for record in run.records if record.phase == "measured"]
    assert sorted(measured) == [0, 1, 2, 3], "each has one record, at its end"
