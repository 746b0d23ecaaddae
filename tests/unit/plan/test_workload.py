"""The workload of a plan: equal for equal work whoever serves it, another for whatever changes what is asked."""

from typing import Any

import msgspec
import pytest

from loadgen.plan.plan import Plan, make_plan
from loadgen.plan.prompts import Prompt
from loadgen.plan.workload import workload_of
from loadgen.scenario import Closed, Model, Poisson, Retries, Sampling, Scenario, Timeouts
from loadgen.scenario.types import LlamaCpp, Slo

PROMPTS = (Prompt("p1", "Hello."), Prompt("p2", "Name a color."))
SCENARIO = Scenario(name="s", prompts="Hello.", load=Closed(concurrency=(1, 4), requests=8))


def plan_with(prompts: tuple[Prompt, ...] = PROMPTS, **changes: Any) -> Plan:
    return make_plan(msgspec.structs.replace(SCENARIO, **changes), prompts)


@pytest.mark.parametrize(
    "changes",
    [
        {"models": (Model(name="another", url="http://127.0.0.1:1/v1"),)},
        {"models": (Model(name="m", target="llamacpp", llamacpp=LlamaCpp(threads=1)),)},
        {"models": (Model(name="a", url="http://x/v1"), Model(name="b", url="http://x/v1"))},
        {"name": "t", "description": "d", "keep_text": True, "probe": True, "strict": True, "preflight": False},
        {"slo": Slo(ttft_ms=100.0)},
        {"timeouts": Timeouts(ready_s=0.0)},
        {"retries": Retries(backoff_s=3.0)},
        {"order": "interleaved"},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_who_serves_it_and_what_is_kept_of_it_are_none_of_the_work(changes: dict[str, Any]) -> None:
    if len(changes.get("models", ())) == 2:  # two models bring the key that says how they take turns
        assert workload_of(plan_with(**changes)).levels == workload_of(plan_with()).levels
    else:
        assert workload_of(plan_with(**changes)) == workload_of(plan_with())


@pytest.mark.parametrize(
    "changes",
    [
        {"system": "Be brief."},
        {"sampling": Sampling(max_tokens=7)},
        {"sampling": Sampling(stream=False)},
        {"warmup_requests": 3},
        {"timeouts": Timeouts(request_s=5.0)},
        {"retries": Retries(attempts=1)},
        {"until": "ttft_p50:5%"},
        {"load": Closed(concurrency=(1, 4), requests=9)},
        {"load": Closed(concurrency=(1, 4), requests=8, max_requests_per_s=5)},
        {"load": Closed(concurrency=(1, 4), requests=8, min_requests=5)},
        {"load": Closed(concurrency=(1, 4), requests=8, ramp_in_s=3.0)},
        {"load": Poisson(rates_per_s=(1.0,), requests=8)},
        {"prompts": (Prompt("p1", "Hello."), Prompt("p2", "Name a flower."))},
        {"prompts": PROMPTS[::-1]},
    ],
    ids=str,
)
def test_whatever_changes_a_request_or_its_moment_is_other_work(changes: dict[str, Any]) -> None:
    assert workload_of(plan_with(**changes)).digest != workload_of(plan_with()).digest


CHAT = Prompt(
    "p1", "Hello.", messages=({"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello."})
)


@pytest.mark.parametrize(
    "other",
    [
        msgspec.structs.replace(CHAT, messages=CHAT.messages[1:]),
        msgspec.structs.replace(CHAT, messages=({"role": "system", "content": "Rhyme."}, *CHAT.messages[1:])),
        msgspec.structs.replace(CHAT, tools=({"type": "function", "function": {"name": "f"}},)),
        Prompt("p1", "Hello."),
    ],
    ids=["fewer messages", "another message", "tools", "the text alone"],
)
def test_recorded_chats_are_other_work_though_their_last_text_is_the_same(other: Prompt) -> None:
    kept, changed = (workload_of(plan_with(prompts=(prompt,))) for prompt in (CHAT, other))
    assert kept.prompts != changed.prompts
    assert kept.digest != changed.digest
    assert kept.levels == changed.levels


def test_the_digest_of_plain_texts_is_what_it_was_before_chats_were_part_of_it() -> None:
    assert workload_of(plan_with()).prompts == "cc49220bb96150ec7df29adc44965a6a7010bdc6d3bfebbd1838093788cbaef1"


def test_a_level_has_the_same_digest_whichever_others_are_played() -> None:
    more = workload_of(plan_with(load=Closed(concurrency=(1, 2, 4), requests=8)))
    few = workload_of(plan_with())
    assert few.levels == {level: more.levels[level] for level in ("c1", "c4")}
    assert few.digest != more.digest


def test_the_seed_matters_where_it_decides_a_schedule() -> None:
    poisson = Poisson(rates_per_s=(2.0,), requests=8)
    assert workload_of(plan_with(seed=2)) == workload_of(plan_with())
    assert workload_of(plan_with(seed=2, load=poisson)) != workload_of(plan_with(load=poisson))


def test_models_that_take_turns_share_a_level_and_change_it() -> None:
    two = (Model(name="a", url="http://x/v1"), Model(name="b", url="http://x/v1"))
    interleaved = workload_of(plan_with(models=two, order="interleaved"))
    assert interleaved.levels != workload_of(plan_with(models=two)).levels
