"""What a person asked for: flags go before the environment, the environment before the file."""

import json
from pathlib import Path
from typing import Any

import pytest

from loadgen import api
from loadgen.errors import InputError
from loadgen.plan.plan import Plan, digest
from loadgen.scenario import Closed, FoundryLocal, PromptFiles, Trace
from loadgen.scenario.environment import with_environment
from loadgen.scenario.overrides import Overrides
from loadgen.scenario.resolve import resolve_scenario

FILE = """
name = "x"
prompts = ["One?", "Two?", "Three?"]
models = [{ name = "small", url = "http://h/v1" }, { name = "large", url = "http://h/v1" }]
load = { mode = "closed", concurrency = [1, 2], requests = 4, duration_s = 30 }
"""


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("x.toml").write_text(FILE, encoding="utf-8")


def asked(variables: dict[str, str], name: str | None = "x.toml", **rest: Any) -> tuple[Plan, tuple[str, ...]]:
    files = {key: Path(rest.pop(key)) for key in ("models_file", "prompts_file") if key in rest}
    loaded, notes = resolve_scenario(name, Overrides(**rest), variables=variables, **files)
    return api.plan_of(loaded), notes


def plan(variables: dict[str, str], name: str | None = "x.toml", **rest: Any) -> Plan:
    return asked(variables, name, **rest)[0]


def refusal(variables: dict[str, str], name: str | None = "x.toml", **rest: Any) -> str:
    with pytest.raises(InputError) as caught:
        asked(variables, name, **rest)
    return str(caught.value)


def places(made: Plan) -> list[tuple[str, str | None, str | None]]:
    return [(model.name, model.target, model.url) for model in made.models]


# --- the workshop's variables -----------------------------------------------------------------------------------------


def test_without_variables_nothing_changes_and_nothing_is_said() -> None:
    given_ = Overrides(requests=3)
    blank = dict.fromkeys(("BENCH_MODELS", "BENCH_ROUNDS", "BENCH_PROMPT", "BENCH_STREAM"), "  ")
    assert with_environment(given_, {}) == with_environment(given_, blank) == (given_, ())


def test_bench_models_are_the_models() -> None:
    made, notes = asked({"BENCH_MODELS": " large, phi-4-mini ,"})
    assert places(made) == [("large", "openai", "http://h/v1"), ("phi-4-mini", "openai", "http://h/v1")]
    assert notes == ("BENCH_MODELS is set: plays large, phi-4-mini",)


def test_bench_models_may_be_those_of_an_address() -> None:
    made = plan({"BENCH_MODELS": "a,b"}, urls=("http://i/v1",))
    assert places(made) == [("a", "openai", "http://i/v1"), ("b", "openai", "http://i/v1")]


def test_bench_rounds_ask_each_prompt_so_often_of_each_model_at_each_level() -> None:
    made, notes = asked({"BENCH_ROUNDS": "5"})
    assert made.scenario.load == Closed(concurrency=(1, 2), requests=15)
    asked_of = [made.stages[0].request(position).prompt for position in range(15)]
    assert [asked_of.count(prompt) for prompt in range(3)] == [5, 5, 5]
    assert notes == ("BENCH_ROUNDS is set: sends each prompt 5 times to each model at each level",)


def test_fewer_rounds_than_the_fewest_requests_remove_that_key() -> None:
    least = ("load.min_requests=4",)
    assert asked({"BENCH_ROUNDS": "1"}, set=least)[0].scenario.load == Closed(concurrency=(1, 2), requests=3)
    assert asked({"BENCH_ROUNDS": "2"}, set=least)[0].scenario.load == Closed((1, 2), requests=6, min_requests=4)


def test_bench_prompt_is_the_only_prompt() -> None:
    made, notes = asked({"BENCH_PROMPT": "Why local?", "BENCH_ROUNDS": "5"})
    assert [prompt.text for prompt in made.prompts] == ["Why local?"]
    assert made.scenario.load == Closed(concurrency=(1, 2), requests=5)
    assert notes[1] == 'BENCH_PROMPT is set: sends only "Why local?"'


@pytest.mark.parametrize(("text", "stream"), [("0", False), ("1", True), ("False", False), ("TRUE", True)])
def test_bench_stream_says_whether_answers_stream(text: str, stream: bool) -> None:
    made, notes = asked({"BENCH_STREAM": text}, set=(f"sampling.temperature={0.5}",))
    assert made.scenario.sampling.stream is stream
    assert notes == (f"BENCH_STREAM is set: answers {'are streamed' if stream else 'are not streamed'}",)


def test_a_build_has_the_label_of_its_flag_else_of_its_variable() -> None:
    made, notes = asked({"LOADGEN_BUILD": " b10711 "})
    assert (made.scenario.build, notes) == ("b10711", ('LOADGEN_BUILD is set: the build is "b10711"',))
    assert asked({"LOADGEN_BUILD": "b1"}, build="b2", build_by="--build b2")[0].scenario.build == "b2"
    assert asked({"LOADGEN_BUILD": "b1"}, set=('build="b3"',))[0].scenario.build == "b3"
    assert digest(made) == digest(plan({})), "what is sent does not depend on it"


@pytest.mark.parametrize(
    ("variable", "flags"),
    [
        ({"BENCH_MODELS": "other"}, {"models": ("small", "large")}),
        ({"BENCH_MODELS": "other"}, {"urls": ("http://h/v1",), "models": ("small", "large")}),
        ({"BENCH_ROUNDS": "9"}, {"requests": 4, "duration_s": 30.0}),
        ({"BENCH_ROUNDS": "9"}, {"set": ("load.requests=4",)}),
        ({"BENCH_ROUNDS": "9"}, {"set": ('load={ mode="closed", concurrency=[1, 2], requests=4, duration_s=30 }',)}),
        ({"BENCH_PROMPT": "other"}, {"set": ('prompts=["One?", "Two?", "Three?"]',)}),
        ({"BENCH_STREAM": "0"}, {"set": ("sampling.stream=true",)}),
    ],
)
def test_a_flag_goes_before_its_variable(variable: dict[str, str], flags: dict[str, Any]) -> None:
    made, notes = asked(variable, **flags)
    assert (digest(made), made.scenario, notes) == (digest(plan({})), plan({}).scenario, ())


@pytest.mark.parametrize(
    ("variables", "line"),
    [
        ({"BENCH_MODELS": ","}, "BENCH_MODELS=,: no model in it; write e.g. BENCH_MODELS=phi-4-mini,qwen2.5-0.5b"),
        ({"BENCH_MODELS": "a,a"}, 'BENCH_MODELS=a,a: "a" is listed twice; leave one out'),
        (
            {"BENCH_MODELS": "a\tb"},
            r'BENCH_MODELS=a\tb: models[0].name: "a\tb" has a character that is not allowed',
        ),
        ({"BENCH_ROUNDS": "0"}, "BENCH_ROUNDS=0: not a number of rounds of 1 or more; write e.g. BENCH_ROUNDS=3"),
        ({"BENCH_ROUNDS": "two"}, "BENCH_ROUNDS=two: not a number of rounds"),
        ({"LOADGEN_BUILD": "b\n1"}, r'LOADGEN_BUILD=b\n1: build: "b\n1" has a character that is not allowed'),
        ({"LOADGEN_BUILD": "b" * 101}, f"LOADGEN_BUILD={'b' * 101}: build: "),
        ({"BENCH_STREAM": "maybe"}, "BENCH_STREAM=maybe: neither yes nor no; write BENCH_STREAM=1 or BENCH_STREAM=0"),
    ],
)
def test_a_value_that_is_none_is_one_line_that_names_the_variable(variables: dict[str, str], line: str) -> None:
    told = refusal(variables)
    assert told.startswith(line)
    assert "\n" not in told


def test_rounds_have_no_meaning_for_a_ramp_and_bound_a_trace() -> None:
    ramp = ('load={ mode="ramp", from_per_s=0, to_per_s=1, duration_s=5 }',)
    Path("ramp.toml").write_text(f'name = "x"\nprompts = ["a"]\n{ramp[0].replace("=", " = ", 1)}', encoding="utf-8")
    assert refusal({"BENCH_ROUNDS": "2"}, "ramp.toml").startswith('BENCH_ROUNDS: a "ramp" load ends after its duration')
    Path("times.txt").write_text("0\n1\n2\n3\n", encoding="utf-8")
    Path("trace.toml").write_text(
        'name = "x"\nprompts = ["a"]\nload = { mode = "trace", file = "times.txt" }', encoding="utf-8"
    )
    made = plan({"BENCH_ROUNDS": "2"}, "trace.toml")
    assert (made.scenario.load, made.stages[0].count) == (Trace(file="times.txt", requests=2), 2)


# --- list files -------------------------------------------------------------------------------------------------------


def test_a_models_file_picks_and_adds_models() -> None:
    Path("m.json").write_text(json.dumps({"large": {"size_mb": 1}, "new": {}}), encoding="utf-8")
    expected = [("large", "openai", "http://h/v1"), ("new", "openai", "http://h/v1")]
    assert places(plan({"BENCH_MODELS": "other"}, models_file="m.json")) == expected


def test_a_models_file_and_model_flags_contradict_each_other() -> None:
    Path("m.json").write_text('["a"]', encoding="utf-8")
    told = refusal({}, models_file="m.json", models=("b",))
    assert told == "--models-file m.json with --model b: two lists of models; leave one of them out"


def test_a_name_in_a_models_file_that_cannot_be_one_names_the_flag() -> None:
    Path("m.json").write_text(r'["a\tb"]', encoding="utf-8")
    assert refusal({}, models_file="m.json").startswith("--models-file m.json: models[0].name: ")


def test_a_prompts_file_replaces_the_scenario_s_prompts_and_bench_prompt(tmp_path: Path) -> None:
    Path("p").mkdir()
    Path("p/prompts.json").write_text('["Four?", {"prompt": "Five?", "facets": ["k"]}]', encoding="utf-8")
    made = plan({"BENCH_PROMPT": "other"}, prompts_file="p/prompts.json")
    assert [(prompt.text, prompt.key_points) for prompt in made.prompts] == [("Four?", ()), ("Five?", ("k",))]
    assert made.scenario.prompts == PromptFiles(files=str(tmp_path / "p" / "prompts.json"), order="listed")
    assert refusal({}, prompts_file="q.json").startswith("--prompts-file q.json: no such file")


# --- Foundry Local without a scenario ---------------------------------------------------------------------------------

ENDPOINT = {"FOUNDRY_LOCAL_ENDPOINT": "http://host:5273/v1"}


@pytest.mark.parametrize(
    ("variables", "flags"),
    [
        (ENDPOINT | {"BENCH_MODELS": "phi-4-mini,smollm2-135m"}, {}),
        (ENDPOINT, {"models": ("phi-4-mini", "smollm2-135m")}),
        (ENDPOINT | {"BENCH_MODELS": "other"}, {"models": ("phi-4-mini", "smollm2-135m")}),
    ],
)
def test_with_an_endpoint_and_models_no_scenario_is_needed(variables: dict[str, str], flags: dict[str, Any]) -> None:
    made, notes = asked(variables, None, **flags)
    assert places(made) == [("phi-4-mini", "foundry", None), ("smollm2-135m", "foundry", None)]
    assert made.scenario.name == "adhoc"
    assert notes[-1] == "FOUNDRY_LOCAL_ENDPOINT is set: uses the Foundry Local at http://host:5273/v1"


def test_a_models_file_is_enough_too() -> None:
    Path("m.json").write_text('["phi-4-mini"]', encoding="utf-8")
    assert places(plan({}, None, models_file="m.json")) == [("phi-4-mini", "foundry", None)]


def test_an_endpoint_without_a_model_asks_for_one() -> None:
    assert refusal(ENDPOINT, None).startswith(
        "FOUNDRY_LOCAL_ENDPOINT is set, but no model is named; add --model NAME, or set"
    )
    assert refusal({}, None).startswith("neither SCENARIO nor --url was given")


def test_an_endpoint_is_not_mentioned_where_nobody_uses_it() -> None:
    assert asked(ENDPOINT)[1] == ()


def test_what_an_address_hides_is_refused_and_not_said() -> None:
    with pytest.raises(InputError) as caught:
        asked({"FOUNDRY_LOCAL_ENDPOINT": "http://me:secret@host/v1", "BENCH_MODELS": "a"}, None)
    said = "credentials in an address would be written to files"
    assert str(caught.value) == f'FOUNDRY_LOCAL_ENDPOINT: {said}; write "http://host/v1", and set LOADGEN_API_KEY'


def test_a_key_that_cannot_be_had_is_known_before_anything_is_played(tmp_path: Path) -> None:
    flags = Overrides(urls=("http://h/v1",), models=("m",))
    gone = {"LOADGEN_API_KEY_FILE": str(tmp_path / "gone")}
    with pytest.raises(InputError, match=r"LOADGEN_API_KEY_FILE=.*gone: cannot be read"):
        resolve_scenario(None, flags, variables=gone)


def test_the_options_of_foundry_local_hold_for_the_names_of_a_list() -> None:
    text = 'name = "x"\nprompts = ["a"]\nmodels = [{ name = "m", foundry = { device = "gpu" } }]'
    Path("f.toml").write_text(text, encoding="utf-8")
    (model,) = plan({"BENCH_MODELS": "other"}, "f.toml").models
    assert (model.name, model.target, model.foundry) == ("other", "foundry", FoundryLocal(device="gpu"))
