"""The plan as people and programs read it, before anything is sent."""

import re
from typing import Any

import msgspec
import orjson
import pytest

from loadgen.plan.plan import Plan, digest, make_plan
from loadgen.plan.prompts import Prompt
from loadgen.record import StageKey
from loadgen.report.plan_text import plan_data, plan_table
from loadgen.report.text_table import Screen
from loadgen.scenario import (
    Closed,
    Constant,
    FoundryLocal,
    Load,
    Model,
    Ramp,
    Retries,
    Sampling,
    Scenario,
    Slo,
    Timeouts,
)

PROMPTS = (Prompt("a", "Say hello."), Prompt("b", "Name a colour."))
LIMIT = "10 times the longest answer of the level's warm-up, or of the test chat without one; 60 s at least"


def plan_of(load: Load, **changes: Any) -> Plan:
    scenario = Scenario(name="x", prompts="p", load=load, models=(Model(name="m", target="llamacpp"),))
    return make_plan(msgspec.structs.replace(scenario, **changes), PROMPTS)


def planned_rows(plan: Plan, pace: dict[StageKey, float] | None = None) -> list[str]:
    return [re.sub(r"\s{2,}", " | ", line.strip()) for line in plan_table(plan, pace or {}, Screen(150)).splitlines()]


def test_a_plan_is_told_by_stage_with_its_digest() -> None:
    plan = plan_of(Constant((2.0,), requests=5))
    assert planned_rows(plan) == [
        "model | served by | load | requests | warm-up | tokens at most | due | expected length",
        "m | llamacpp | 2 /s constant | 5 | 1 | 640 | 0.00, 0.50, 1.00, … 2.00 s | about 2 s",
        "5 requests in 1 stage, 2 prompts, seed 1",
        f"a request may take {LIMIT}",
        "before the stages: 1 test chat",
        f"digest {digest(plan)}",
    ]


def test_a_limit_of_the_scenarios_own_is_told_as_it_is() -> None:
    plan = plan_of(Constant((2.0,), requests=5), timeouts=Timeouts(request_s=7.5))
    assert "a request may take 7.5 s" in planned_rows(plan)


def test_a_limit_that_the_slo_raises_says_so() -> None:
    plan = plan_of(Constant((2.0,), requests=5), slo=Slo(objectives=("ttft_p95=90s",)))
    raised = LIMIT.replace("60 s at least", "180 s at least, twice the longest limit of [slo]")
    assert plan_data(plan)["request_limit"] == raised
    assert f"a request may take {raised}" in " ".join(planned_rows(plan))


@pytest.mark.parametrize(
    ("load", "told"),
    [
        (Closed(requests=5), "1 user | 5 | 1 | 640 | when the last answer has ended | as long as the answers take"),
        (
            Closed(duration_s=90.0),
            "1 user | as many as start in time | 1 | 128 each | when the last answer has ended | at most about 2 min",
        ),
        (
            Closed(duration_s=90.0, requests=5),
            "1 user | at most 5, as many as start in time | 1 | 128 each | when the last answer has ended "
            "| at most about 2 min",
        ),
        (
            Closed((4,), duration_s=6.0, requests=12, min_requests=6),
            "4 users | 8 to 12, as many as start in time | 1 | 128 each "
            "| when the last answer has ended | at least about 6 s",
        ),
        (Constant((0.5,), requests=2), "0.5 /s constant | 2 | 1 | 256 | 0.00, 2.00 s | about 2 s"),
        (Ramp(0.0, 2.0, 3.0), "0 → 2 /s | 3 | 1 | 384 | 0.00, 1.73, 2.45 s | about 3 s"),
    ],
)
def test_a_stage_says_how_many_when_and_for_how_long(load: Load, told: str) -> None:
    assert planned_rows(plan_of(load))[1] == f"m | llamacpp | {told}"


def test_the_length_of_a_closed_loop_is_that_of_the_last_run_if_there_was_one() -> None:
    pace = {StageKey("llamacpp", "m", "c1"): 0.1}
    assert planned_rows(plan_of(Closed(requests=60)), pace)[1].endswith("| about 10 min (as last time)")
    assert planned_rows(plan_of(Closed(requests=60, duration_s=30.0)), pace)[1].endswith("| about 30 s (as last time)")


@pytest.mark.parametrize(
    ("load", "line"),
    [
        (Closed(duration_s=5.0), "1 stage, 2 prompts, seed 1"),
        (Closed((4,), duration_s=5.0, min_requests=6), "at least 8 requests in 1 stage, 2 prompts, seed 1"),
        (Closed((1, 4), duration_s=5.0, requests=12), "at most 24 requests in 2 stages, 2 prompts, seed 1"),
        (Closed((1,), requests=1), "1 request in 1 stage, 2 prompts, seed 1"),
    ],
)
def test_how_many_in_all_is_exact_or_a_bound(load: Load, line: str) -> None:
    assert line in planned_rows(plan_of(load))


def test_a_plan_as_data_has_every_request_and_its_due_time() -> None:
    plan = plan_of(Constant((4.0,), requests=3), warmup_requests=2)
    assert plan_data(plan) == {
        "scenario": "x",
        "seed": 1,
        "digest": digest(plan),
        "request_limit": LIMIT,
        "stages": [
            {
                "load": {"mode": "constant", "rate_per_s": 4.0},
                "level": "r4",
                "models": ["m"],
                "warmup": 2,
                "requests": 3,
                "min_requests": 0,
                "duration_s": None,
                "until": None,
                "tokens_at_most": 384,
                "planned": [
                    {"model": "m", "index": 0, "prompt_id": "a", "due_s": 0.0, "think_s": 0.0},
                    {"model": "m", "index": 1, "prompt_id": "b", "due_s": 0.25, "think_s": 0.0},
                    {"model": "m", "index": 2, "prompt_id": "a", "due_s": 0.5, "think_s": 0.0},
                ],
            }
        ],
        "extra_chats": [
            {
                "model": "m",
                "served_by": "llamacpp",
                "when": "before its stages",
                "chats": 1,
                "asks": "test chat: Say hello.",
            }
        ],
        "notes": [],
    }
    orjson.dumps(plan_data(plan))


def test_a_closed_loop_as_data_knows_no_due_times() -> None:
    (stage,) = plan_data(plan_of(Closed(requests=2)))["stages"]
    assert [request["due_s"] for request in stage["planned"]] == [None, None]
    (timed,) = plan_data(plan_of(Closed(duration_s=1.5)))["stages"]
    assert (timed["requests"], timed["duration_s"], timed["planned"], timed["tokens_at_most"]) == (None, 1.5, [], None)


TWO = (
    Model(name="m", target="llamacpp"),
    Model(name="w", target="foundry", foundry=FoundryLocal(keep_warm_s=20.0)),
    Model(name="p", target="python:adapter:Adapter"),
)


def test_what_is_sent_beside_the_stages_is_said_by_its_reason() -> None:
    plan = plan_of(Closed(requests=2), models=TWO, probe=True, retries=Retries(attempts=2))
    lines = planned_rows(plan)
    begin = lines.index("a failed request is sent again up to 2 times")
    assert lines[begin + 1 : -1] == [
        "before the stages: 3 test chats, one per model",
        "while w on foundry is idle: keep-warm: one token after every 20 s without a request",
        "after the stages of each model: up to 16 chats that test its server (m on llamacpp, w on foundry)",
        "1 max_tokens: does an answer end at the limit?",
        "1 stop: does the same answer end at a word of it?",
        "3 seed: does one seed give the same answer twice, and another seed another?",
        "8 parallel streams: how many of eight run at once?",
        "3 closing a stream: does the server stop generating? One chat where it says how many it works on",
    ]


def test_as_data_every_chat_beside_the_stages_is_counted_by_model() -> None:
    listed = plan_data(plan_of(Closed(requests=2), models=TWO, probe=True))["extra_chats"]
    chats: dict[tuple[str, str], list[int | None]] = {(extra["model"], extra["when"]): [] for extra in listed}
    for extra in listed:
        chats[extra["model"], extra["when"]].append(extra["chats"])
    assert chats == {
        ("m", "before its stages"): [1],
        ("m", "after its stages"): [1, 1, 3, 8, 3],
        ("w", "before its stages"): [1],
        ("w", "while it is idle"): [None],
        ("w", "after its stages"): [1, 1, 3, 8, 3],
        ("p", "before its stages"): [1],
    }


@pytest.mark.parametrize("changes", [{"probe": False}, {"probe": True, "sampling": Sampling(stream=False)}])
def test_a_server_is_asked_nothing_unless_the_scenario_says_so_and_where_there_are_no_streams(
    changes: dict[str, Any],
) -> None:
    plan = plan_of(Closed(requests=2), **changes)
    assert {extra["when"] for extra in plan_data(plan)["extra_chats"]} == {"before its stages"}
    assert not any("after the stages" in line for line in planned_rows(plan))
