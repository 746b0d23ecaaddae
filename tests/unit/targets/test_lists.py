"""`prompts.json` and `models.json`: what the workshop's scripts read and write."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadgen.errors import InputError
from loadgen.plan.prompts import Prompt, load_prompts
from loadgen.scenario import PromptFiles, Scenario
from loadgen.scenario.model_list import ListedModel, model_list_text, read_model_list
from loadgen.scenario.overrides import models_named
from loadgen.store.manifest import ModelCard
from loadgen.targets.catalog import model_list_of


def prompts_of(folder: Path, value: Any) -> tuple[Prompt, ...]:
    (folder / "prompts.json").write_text(value if isinstance(value, str) else json.dumps(value), encoding="utf-8")
    files = PromptFiles(files="prompts.json", order="listed")
    return load_prompts(Scenario(name="x", prompts=files), folder, "x.toml")


def models_of(folder: Path, value: Any) -> tuple[ListedModel, ...]:
    path = folder / "models.json"
    path.write_text(value if isinstance(value, str) else json.dumps(value), encoding="utf-8")
    return read_model_list(path)


# --- prompts.json -----------------------------------------------------------------------------------------------------


def test_a_plain_list_is_its_prompts_in_its_order(tmp_path: Path) -> None:
    assert prompts_of(tmp_path, ["One?", " Two? "]) == (Prompt("prompts-1", "One?"), Prompt("prompts-2", "Two?"))


@pytest.mark.parametrize("key", ["key_points", "expected_aspects", "expected_facets", "aspects", "facets"])
@pytest.mark.parametrize("text", ["text", "prompt"])
def test_objects_bring_what_a_good_answer_names(tmp_path: Path, text: str, key: str) -> None:
    value = [{text: "Why local?", key: ["privacy", "latency"], "category": "x", "score": 3}, "Two?"]
    assert prompts_of(tmp_path, value)[0] == Prompt("prompts-1", "Why local?", ("privacy", "latency"))


def test_one_aspect_may_stand_without_a_list_and_an_id_be_a_number_or_a_phrase(tmp_path: Path) -> None:
    value = {"prompts": [{"prompt": "a", "aspects": "short", "id": 7}, {"prompt": "b", "id": "RAG basics!"}]}
    assert prompts_of(tmp_path, value) == (Prompt("7", "a", ("short",)), Prompt("RAG-basics", "b"))


@pytest.mark.parametrize(
    ("value", "line"),
    [
        ("[", "prompts.json: not JSON: "),
        ({"a": 1}, 'prompts.json: it has no list of prompts; write a list, such as ["Say hello."]'),
        ([], "prompts.json: it has no list of prompts"),
        (["a", 3], 'prompts.json: prompt 2: neither a text nor an object; write e.g. {"text": '),
        ([{"id": "a"}], "prompts.json: prompt 1: text: missing; write it as text, prompt, messages or "),
        ([{"text": "a", "prompt": "b"}], "prompts.json: prompt 1: text and prompt are both given; leave one out"),
        ([{"text": "a", "aspects": [1]}], "prompts.json: prompt 1: key_points[0]: 1 is a whole number, not a text"),
        ([" "], "prompts.json: there is no question in its only row; write a text into it"),
        ([{"text": "a", "id": "x"}, {"text": "b", "id": "x"}], 'prompt 2: the id "x" is also that of '),
    ],
)
def test_a_mistake_in_the_prompts_names_the_prompt(tmp_path: Path, value: Any, line: str) -> None:
    with pytest.raises(InputError) as caught:
        prompts_of(tmp_path, value)
    assert line in str(caught.value)


# --- models.json ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value",
    [
        ["a", "b"],
        {"a": {}, "b": {}},
        [{"alias": "a"}, {"name": "b"}],
        {"models": ["a", "b"]},
        {"models": {"a": {}, "b": {}}},
    ],
)
def test_models_are_listed_by_name_or_by_card(tmp_path: Path, value: Any) -> None:
    assert [model.alias for model in models_of(tmp_path, value)] == ["a", "b"]


def test_a_card_tells_capabilities_size_and_what_else_it_says(tmp_path: Path) -> None:
    value: dict[str, dict[str, Any]]
    value = {"phi-4-mini": {"capabilities": ["chat", "tools"], "size_mb": 3700, "license": "MIT"}}
    assert models_of(tmp_path, value) == (ListedModel("phi-4-mini", ("chat", "tools"), 3700.0, {"license": "MIT"}),)
    value["phi-4-mini"]["licence"] = value["phi-4-mini"].pop("license")
    assert models_of(tmp_path, value)[0].more == {"license": "MIT"}  # as older lists spell it
    (words,) = models_of(tmp_path, {"a": {"capabilities": "chat, tools"}})
    assert words.capabilities == ("chat", "tools")


@pytest.mark.parametrize(
    ("value", "line"),
    [
        ("{", "models.json: not JSON: "),
        ("3", "models.json: no models in it; write e.g. "),
        ([], "models.json: no models in it"),
        ({"a": 3}, "models.json: a: its card is not an object"),
        ([3], "models.json: model 1: neither a name nor a card"),
        ([{}], "models.json: model 1: it has no name"),
        (["a", "a"], "models.json: a is listed twice; leave one out"),
        ([" "], "models.json: model 1: an empty name"),
        ({"a": {"capabilities": [1]}}, "models.json: a: capabilities is not a list of texts"),
        ({"a": {"size_mb": "big"}}, "models.json: a: size_mb is not a number"),
        ({"a": {"size_mb": True}}, "models.json: a: size_mb is not a number"),
    ],
)
def test_a_mistake_in_the_models_is_one_line(tmp_path: Path, value: Any, line: str) -> None:
    with pytest.raises(InputError) as caught:
        models_of(tmp_path, value)
    assert line in str(caught.value)
    assert "\n" not in str(caught.value)


words = st.text(st.characters(categories=("L", "N")), min_size=1, max_size=8)
cards = st.builds(
    ListedModel,
    alias=words,
    capabilities=st.lists(words, max_size=3).map(tuple),
    size_mb=st.none() | st.floats(1, 1e5),
    more=st.dictionaries(st.sampled_from(["id", "device", "license"]), words, max_size=2),
)


@pytest.mark.slow
@given(st.lists(cards, min_size=1, max_size=4, unique_by=lambda card: card.alias))
def test_what_is_written_is_read_back(tmp_path_factory: pytest.TempPathFactory, models: list[ListedModel]) -> None:
    path = tmp_path_factory.mktemp("lists") / "models.json"
    path.write_bytes(model_list_text(models))
    assert read_model_list(path) == tuple(models)


def test_a_card_that_a_target_gave_becomes_an_entry() -> None:
    card = ModelCard(
        alias="a", id="a-cpu:2", target="foundry", size_bytes=3 << 20, capabilities="chat; tools", license="MIT"
    )
    first, *others = model_list_of([card, ModelCard(alias="a", id="other", target="t")])
    assert others == []
    assert (first.alias, first.capabilities, first.size_mb) == ("a", ("chat", "tools"), 3.0)
    assert first.more == {"id": "a-cpu:2", "target": "foundry", "license": "MIT"}


# --- which model a name means -----------------------------------------------------------------------------------------

OWN = {"name": "small", "target": "llamacpp", "llamacpp": {"slots": 2}}
AT = {"target": "openai", "url": "http://h/v1"}


@pytest.mark.parametrize(
    ("own", "meant"),
    [
        ([OWN], {"target": "foundry"}),
        ([{"name": "x", **AT}], AT),
        ([{"name": "x", "url": "http://h/v1"}], {"url": "http://h/v1"}),
        ([{"name": "x", **AT}, {"name": "y", **AT, "url": "http://i/v1"}], {"target": "foundry"}),
        ([{"name": "x", "target": "foundry", "foundry": {"device": "gpu", "embedded": True}}], None),
        ([{"name": "x", "target": "python:a.b:C", "options": {"k": 1}}], {"target": "foundry"}),
    ],
)
def test_a_name_of_nobody_s_is_served_where_the_others_are_or_by_foundry_local(
    own: list[dict[str, Any]], meant: dict[str, Any] | None
) -> None:
    expected = {"target": "foundry", "foundry": {"device": "gpu"}} if meant is None else meant
    assert models_named(own, ["new"], "--x") == [{"name": "new", **expected}]


def test_a_name_that_the_scenario_has_is_that_model_in_the_order_of_the_list() -> None:
    assert models_named([OWN], ["new", "small"], "--x") == [{"name": "new", "target": "foundry"}, OWN]


def test_a_name_that_is_listed_twice_is_a_mistake_of_the_list() -> None:
    with pytest.raises(InputError, match='--x: "a" is listed twice'):
        models_named([OWN], ["a", "a"], "--x")
