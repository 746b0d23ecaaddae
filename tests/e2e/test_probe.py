"""A probe of the real engine, on a tiny model."""

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

pytestmark = pytest.mark.e2e


async def _probe(gguf: Path, slots: int) -> Probe:
    model = Model(name="tiny", target="llamacpp", llamacpp=LlamaCpp(gguf=str(gguf), slots=slots))
    made = Scenario(name="probed", prompts="Say hello.", models=(model,))
    plan = make_plan(made, load_prompts(made, Path(), "the test"))
    async with Client() as client, serve_llamacpp(model) as served:
        return await probe(plan, 0, served, client)


def test_the_embedded_server_does_what_it_is_asked_for_and_runs_as_many_streams_as_it_has_slots(
    tiny_model: Path,
) -> None:
    found = asyncio.run(_probe(tiny_model, slots=2))
    assert (found.usage_in_stream, found.role_event) == (True, True)
    assert (found.honors_max_tokens, found.honors_seed) == (True, True)
    assert found.tokens_per_event is not None
    assert found.tokens_per_event == pytest.approx(1.0, abs=0.1)
    assert found.hidden_tokens == 0
    assert found.parallel_streams == 2
    assert (found.stops_on_close, found.stops_on_close_by) == (True, "/slots")
