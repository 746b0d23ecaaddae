"""The built-in questions: as many as a stage needs, so that a server's cache answers none of them."""

from pathlib import Path
from typing import Any

import pytest

from loadgen.api import plan_of
from loadgen.plan.plan import Plan, Stage, parts
from loadgen.scenario import PromptFiles
from loadgen.scenario.file import load_scenario, no_file_scenario
from loadgen.scenario.overrides import Overrides
from loadgen.scenario.questions import FIRST, QUESTIONS
from loadgen.scenario.starter import starter_text


def plan(*, models: tuple[str, ...] = ("m",), **flags: Any) -> Plan:
    return plan_of(no_file_scenario(Overrides(urls=("http://h/v1",), models=models, **flags)))


def asked(made: Plan, stage: Stage, model: int = 0) -> list[str]:
    """The prompts of a stage's warm-up and measured requests to one of its models."""
    requests = [stage.warmup_request(at) for at in range(stage.warmup_count)]
    requests += [stage.request(at) for at in range(stage.count or 0)]
    return [made.prompts[request.prompt].text for request in requests if request.model == model]


def test_there_are_many_all_different_and_none_is_long() -> None:
    assert len(set(QUESTIONS)) == len(QUESTIONS) == 1_038
    assert QUESTIONS[: len(FIRST)] == FIRST
    assert all(10 <= len(question) <= 60 and question[-1] in ".?" for question in QUESTIONS)


@pytest.mark.parametrize("flags", [{}, {"requests": 1}, {"requests": 36}, {"requests": 200, "warmup": 50}])
def test_no_request_of_a_stage_or_its_warm_up_asks_what_another_asked(flags: dict[str, Any]) -> None:
    made = plan(concurrency=(1, 4), **flags)
    for stage in made.stages:
        texts = asked(made, stage)
        assert len(texts) == flags.get("requests", 16) + flags.get("warmup", 1) == len(set(texts))


def test_a_plan_has_no_more_questions_than_it_asks() -> None:
    assert len(plan(requests=36, warmup=2).prompts) == 38
    assert [prompt.text for prompt in plan(requests=3).prompts] == list(FIRST)


def test_nobody_knows_how_many_a_stage_asks_that_time_ends() -> None:
    assert len(plan(duration_s=10.0).prompts) == len(QUESTIONS)


def test_more_requests_than_there_are_questions_ask_each_about_as_often() -> None:
    made = plan(requests=2_000)
    texts = asked(made, made.stages[0])
    assert {texts.count(text) for text in set(texts)} <= {1, 2}


def test_models_that_take_turns_are_asked_the_same_each_once() -> None:
    made = plan(models=("a", "b"), requests=20, set=("order=interleaved",))
    (stage,) = made.stages
    assert sorted(asked(made, stage, 0)) == sorted(asked(made, stage, 1))
    assert len(set(asked(made, stage, 0))) == 21


def test_processes_that_share_a_stage_ask_nothing_twice() -> None:
    made = plan(requests=40, warmup=4, concurrency=(4,))
    texts = [text for part in parts(made.stages[0], 3) for text in asked(made, part)]
    assert len(texts) == len(set(texts)) == 44


SCENARIOS = Path(__file__).parents[3] / "scenarios"
OURS = sorted(SCENARIOS.glob("*.toml"))


@pytest.mark.parametrize("path", OURS, ids=lambda path: path.stem)
def test_no_stage_of_a_scenario_that_comes_along_asks_twice_what_it_need_not(path: Path) -> None:
    made = plan_of(load_scenario(str(path)))
    for stage in made.stages:
        texts = asked(made, stage, stage.models[0])
        if isinstance(made.scenario.prompts, PromptFiles):  # each transcript takes its turn
            counts = [texts.count(prompt.text) for prompt in made.prompts]
            assert max(counts) - min(counts) <= 1
        else:
            assert len(set(texts)) == len(texts)


def test_the_scenario_that_chooses_a_summarizer_asks_each_of_32_meetings_once_at_each_level() -> None:
    plan = plan_of(load_scenario(str(SCENARIOS / "choose-summarizer.toml")))
    assert len(plan.prompts) == 32
    assert all(prompt.key_points for prompt in plan.prompts)
    assert [(stage.level.label, stage.models) for stage in plan.stages] == [
        ("c1", (0,)),
        ("c4", (0,)),
        ("c1", (1,)),
        ("c4", (1,)),
    ]
    for stage in plan.stages:
        assert sorted(stage.request(i).prompt for i in range(stage.count or 0)) == list(range(32))
    assert {model.target for model in plan.models} == {"foundry", "llamacpp"}
    assert plan.scenario.sampling.max_tokens == 128
    assert plan.scenario.keep_text
    assert plan.scenario.select.require.license == "commercial"
    assert plan.scenario.select.require.quality is None, "the embedded model is too small to reach any"


def test_the_scenario_to_start_from_asks_nothing_twice(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text(starter_text("mine"), encoding="utf-8")
    made = plan_of(load_scenario(str(tmp_path / "mine.toml")))
    for stage in made.stages:
        texts = asked(made, stage)
        assert len(set(texts)) == len(texts) == 13


def test_prompts_of_one_s_own_take_their_place() -> None:
    assert [prompt.text for prompt in plan(set=('prompts=["One?"]',)).prompts] == ["One?"]


def test_rounds_ask_each_of_the_first_questions_so_often() -> None:
    made = plan(rounds=3)
    assert len(made.prompts) == len(FIRST) and made.stages[0].count == 3 * len(FIRST)
