"""Stages that are chosen while the run goes, through worker processes."""

from pathlib import Path

import pytest

from loadgen import api
from loadgen.engine.run import play_plan
from tests.integration.engine.test_session import closed, scenario
from tests.integration.engine.test_until import slow
from tests.integration.server import Server
from tests.unit.engine.test_stage_source import Choices


@pytest.mark.asyncio
async def test_workers_play_stages_that_are_chosen_and_end_them_when_they_are_told(tmp_path: Path) -> None:
    made: list[Choices] = []

    def choose(context: object, _: Path) -> list[Choices]:
        made.append(Choices(context, [4, 2, 4], 12))  # type: ignore[arg-type]
        return made

    with Server(slow(0.02)) as server:
        plan = api.plan_of(scenario(tmp_path, {"m": server.url}, closed(4, 8)))
        run = await play_plan(plan, tmp_path, workers=2, choose=choose)
    assert [facts.level for facts in run.facts] == ["c4", "c2", "c4.2"]
    assert all(facts.rule_met and len(facts.workers) == 2 for facts in run.facts)
    for facts in run.facts:
        measured = [r for r in run.records if (r.level, r.phase) == (facts.level, "measured")]
        assert len(measured) >= 12
        assert len({record.index for record in measured}) == len(measured)
    assert run.manifest.state == "complete"
