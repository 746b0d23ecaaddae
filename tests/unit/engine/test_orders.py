"""What parent process and workers send to one another arrives as it was sent, arrays and all."""

import msgspec
import numpy as np
import pytest

from loadgen.engine.workers.messages import (
    CancelInFlight,
    Command,
    Done,
    Drain,
    Go,
    Prepare,
    Ready,
    StartWorker,
    StopRuleMet,
    Update,
    WorkerEvent,
    decode_command,
    decode_event,
    line_of,
)
from loadgen.plan.plan import Plan, Stage, make_plan, parts
from loadgen.plan.prompts import Prompt
from loadgen.record import WorkerFacts
from loadgen.scenario import Closed, InlinePrompt, Load, Model, Poisson, Sampling, Scenario, ThinkTime
from loadgen.store.manifest import ModelCard
from loadgen.targets.served import Served
from tests.records import facts

ARRAYS = ("due_ns", "think_ns", "ramp_in_ns")


def plan(load: Load) -> Plan:
    scenario = Scenario(
        name="x",
        prompts=(InlinePrompt("Grüße \u2028", key_points=("a", "b")), "Name a colour."),
        models=(Model(name="m", url="http://h/v1"), Model(name="n", target="llamacpp")),
        load=load,
        sampling=Sampling(stop=("\n",), extra={"min_p": 0.1}),
    )
    return make_plan(scenario, (Prompt("a", "Grüße \u2028", ("a", "b")), Prompt("b", "Name a colour.")))


@pytest.mark.parametrize(
    "load", [Closed(concurrency=(5,), requests=9, think_time=ThinkTime(0.1)), Poisson((5.0,), requests=9)]
)
def test_a_part_of_a_stage_arrives_as_it_was_planned(load: Load) -> None:
    made = plan(load)
    for part in parts(made.stages[0], 2):
        served = {0: Served(base_url="http://h/v1", card=ModelCard(alias="m", id="m", target="h"), headers={"A": "b"})}
        heard = decode_command(line_of(Prepare(part, served)))
        assert isinstance(heard, Prepare)
        assert heard.served == served
        assert bare(heard.stage) == bare(part)
        for name in ARRAYS:
            sent, got = getattr(part, name), getattr(heard.stage, name)
            assert (sent is None) == (got is None)
            assert sent is None or (sent.tolist() == got.tolist() and got.dtype == np.int64)
        count = part.count or 0
        assert [heard.stage.request(p) for p in range(count)] == [part.request(p) for p in range(count)]


def bare(stage: Stage) -> Stage:
    return msgspec.structs.replace(stage, **dict.fromkeys(ARRAYS))


def test_a_worker_learns_the_scenario_and_the_prompts_as_they_are() -> None:
    bare_plan = msgspec.structs.replace(plan(Closed()), stages=())
    heard = decode_command(line_of(StartWorker(bare_plan, 5, "requests.w0.jsonl")))
    assert heard == StartWorker(bare_plan, 5, "requests.w0.jsonl")


@pytest.mark.parametrize("order", [Go(1 << 60, {0: 1 << 40}), Drain(), StopRuleMet(), CancelInFlight()])
def test_an_order_is_one_line(order: Command) -> None:
    line = line_of(order)
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    assert decode_command(line) == order


@pytest.mark.parametrize(
    "word",
    [
        Ready(),
        Update(1 << 60, (0, 5)),
        Done(facts(in_flight_samples=((1, 2),), workers=())),
    ],
)
def test_a_word_is_one_line(word: WorkerEvent) -> None:
    line = line_of(word)
    assert line.count(b"\n") == 1
    assert decode_event(line) == word


def test_what_is_no_part_of_a_plan_is_not_sent() -> None:
    with pytest.raises(NotImplementedError):
        line_of(Done(facts(workers=(WorkerFacts(pid=1, requests=0, lost=object()),))))  # type: ignore[arg-type]
