"""A probe of the real engine, on a tiny model of many layers."""

import asyncio
from pathlib import Path

import pytest

from loadgen.plan.plan import make_plan
from loadgen.plan.prompts import load_prompts
from loadgen.scenario import LlamaCpp, Model, Scenario
from loadgen.store.manifest import Probe
from loadgen.targets.llamacpp.target import serve_llamacpp
from loadgen.targets.probe.probe import probe
from loadgen.wire.client import Client
from tests.e2e.tiny import MANY_LAYERS, make_tiny_model

pytestmark = pytest.mark.e2e


async def _probe(gguf: Path, slots: int) -> Probe:
    model = Model(name="tiny", target="llamacpp", llamacpp=LlamaCpp(gguf=str(gguf), slots=slots))
    scenario = Scenario(name="probed", prompts="Say hello.", models=(model,))
    plan = make_plan(scenario, load_prompts(scenario, Path(), "the test"))
    async with Client() as client, serve_llamacpp(model) as served:
        return await probe(plan, 0, served, client)


def test_the_embedded_server_does_what_it_is_asked_for_and_runs_as_many_streams_as_it_has_slots(
    tmp_path: Path,
) -> None:
    answers = asyncio.run(_probe(make_tiny_model(tmp_path / "tiny.gguf", MANY_LAYERS), slots=2))
    assert (answers.usage_in_stream, answers.role_event) == (True, True)
    assert (answers.honors_max_tokens, answers.honors_seed) == (True, True)
    assert answers.tokens_per_event is not None
    assert answers.tokens_per_event == pytest.approx(1.0, abs=0.1)
    assert answers.hidden_tokens == 0
    assert answers.parallel_streams == 2
    assert (answers.stops_on_close, answers.stops_on_close_by) == (True, "/slots")
