"""Flags change a scenario before it is typed; a complaint about what they wrote names the flag."""

import copy
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadgen.errors import InputError
from loadgen.scenario import Closed, Constant, Gamma, Poisson, Ramp, Scenario, Trace
from loadgen.scenario.file import load_scenario
from loadgen.scenario.overrides import Overrides, apply, parse_duration_s, parse_levels, parse_rates
from loadgen.scenario.variant_models import VariantFlags

HEAD = 'name = "x"\nprompts = ["Say hello."]\n'
MODELS = 'models = [{ name = "small" }, { name = "large", url = "http://h/v1" }]\n'
CLOSED = (
    f'{HEAD}{MODELS}load = {{ mode = "closed", concurrency = [1, 2], requests = 4, duration_s = 5, ramp_in_s = 0 }}'
)
GAMMA = (
    f'{HEAD}load = {{ mode = "gamma", rates_per_s = [1, 2], burstiness = 0.5, requests = 4, duration_s = 5, '
    "max_in_flight = 9 }"
)
RAMP = f'{HEAD}load = {{ mode = "ramp", from_per_s = 0, to_per_s = 2, duration_s = 5 }}'
LEAST = f'{HEAD}load = {{ mode = "closed", requests = 8, duration_s = 5, min_requests = 4 }}'
TRACE = f'{HEAD}load = {{ mode = "trace", file = "times.txt", requests = 4 }}'


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def play(text: str, **flags: Any) -> Scenario:
    Path("x.toml").write_text(text, encoding="utf-8")
    return load_scenario("x.toml", Overrides(**flags)).scenario


LOADS: list[tuple[str, dict[str, Any], Any]] = [
    # users
    (CLOSED, {"concurrency": (8,)}, Closed(concurrency=(8,), requests=4, duration_s=5, ramp_in_s=0)),
    (GAMMA, {"concurrency": (8,)}, Closed(concurrency=(8,), requests=4, duration_s=5)),
    (RAMP, {"concurrency": (8,)}, Closed(concurrency=(8,), duration_s=5)),
    (TRACE, {"concurrency": (8,)}, Closed(concurrency=(8,), requests=4)),
    # rates
    (CLOSED, {"rates_per_s": (3.0,)}, Poisson(rates_per_s=(3,), requests=4, duration_s=5)),
    (CLOSED, {"rates_per_s": (3.0,), "arrivals": "constant"}, Constant(rates_per_s=(3,), requests=4, duration_s=5)),
    (
        CLOSED,
        {"rates_per_s": (3.0,), "arrivals": "gamma:2"},
        Gamma(rates_per_s=(3,), burstiness=2, requests=4, duration_s=5),
    ),
    (
        GAMMA,
        {"rates_per_s": (3.0,)},
        Gamma(rates_per_s=(3,), burstiness=0.5, requests=4, duration_s=5, max_in_flight=9),
    ),
    (RAMP, {"rates_per_s": (3.0,)}, Poisson(rates_per_s=(3,), duration_s=5)),
    (TRACE, {"rates_per_s": (3.0,)}, Poisson(rates_per_s=(3,), requests=4)),
    # arrivals
    (GAMMA, {"arrivals": "poisson"}, Poisson(rates_per_s=(1, 2), requests=4, duration_s=5, max_in_flight=9)),
    (RAMP, {"arrivals": "poisson"}, Ramp(from_per_s=0, to_per_s=2, duration_s=5, arrivals="poisson")),
    # how long
    (CLOSED, {"requests": 7}, Closed(concurrency=(1, 2), requests=7, ramp_in_s=0)),
    (CLOSED, {"duration_s": 7.0}, Closed(concurrency=(1, 2), duration_s=7, ramp_in_s=0)),
    (CLOSED, {"requests": 7, "duration_s": 8.0}, Closed(concurrency=(1, 2), requests=7, duration_s=8, ramp_in_s=0)),
    (LEAST, {"requests": 3}, Closed(requests=3)),
    (LEAST, {"requests": 4}, Closed(requests=4, min_requests=4)),
    (LEAST, {"requests": 3, "concurrency": (2,)}, Closed(concurrency=(2,), requests=3)),
    (LEAST, {"set": ("load.requests=4",)}, Closed(requests=4, duration_s=5, min_requests=4)),
    (RAMP, {"duration_s": 7.0}, Ramp(from_per_s=0, to_per_s=2, duration_s=7)),
    (TRACE, {"requests": 7}, Trace(file="times.txt", requests=7)),
    (HEAD, {"requests": 7}, Closed(requests=7)),
    # by key
    (HEAD, {"set": ("load.concurrency=[3]",)}, Closed(concurrency=(3,))),
    (
        CLOSED,
        {"rates_per_s": (3.0,), "set": ("load.mode=constant",)},
        Constant(rates_per_s=(3,), requests=4, duration_s=5),
    ),
    (
        HEAD,
        {"set": ('load={ mode = "poisson", rates_per_s = [1] }', "load.requests=2")},
        Poisson(rates_per_s=(1,), requests=2),
    ),
]


@pytest.mark.parametrize(("text", "flags", "load"), LOADS)
def test_flags_change_the_load_and_keep_what_both_kinds_have(text: str, flags: dict[str, Any], load: object) -> None:
    assert play(text, **flags).load == load


NEEDS_RATE = "has no rate; add one, such as --rate 0.5,1"
WAITING = "users who wait for answers have no rate of arrivals; leave one of them out"

REFUSED: list[tuple[str, dict[str, Any], str]] = [
    # contradictions
    (CLOSED, {"concurrency": (1, 2), "rates_per_s": (0.5,)}, f"--concurrency 1,2 with --rate 0.5: {WAITING}"),
    (CLOSED, {"concurrency": (1,), "arrivals": "poisson"}, f"--concurrency 1 with --arrivals poisson: {WAITING}"),
    (CLOSED, {"arrivals": "poisson"}, f'--arrivals poisson: a "closed" load {NEEDS_RATE}'),
    (TRACE, {"arrivals": "poisson"}, f'--arrivals poisson: a "trace" load {NEEDS_RATE}'),
    (
        GAMMA,
        {"arrivals": "uniform"},
        "--arrivals uniform: unknown arrival process; write constant, poisson or gamma:B, such as gamma:0.5",
    ),
    (
        GAMMA,
        {"arrivals": "gamma"},
        "--arrivals gamma: gamma needs a burstiness above 0; write e.g. gamma:0.5",
    ),
    (
        GAMMA,
        {"arrivals": "gamma:0"},
        "--arrivals gamma:0: gamma needs a burstiness above 0; write e.g. gamma:0.5",
    ),
    (
        RAMP,
        {"arrivals": "gamma:2"},
        '--arrivals gamma:2: load.arrivals: "gamma" is not one of the choices; write "constant" or "poisson"',
    ),
    (
        RAMP,
        {"requests": 7},
        '--requests 7: load.requests: a "ramp" load ends after its duration; use --duration instead',
    ),
    (
        TRACE,
        {"duration_s": 7.0},
        '--duration 7s: load.duration_s: a "trace" load ends with its file; use --requests instead',
    ),
    # models
    (
        CLOSED,
        {"urls": ("http://h/v1",)},
        "--url http://h/v1: no model is named; add --model NAME, with the server's name for it",
    ),
    (
        CLOSED,
        {"urls": ("http://g/v1", "http://h/v1"), "models": ("a", "b", "c")},
        "--url: 2 addresses for 3 models; give one --model for each --url, or only one --url, or only one --model",
    ),
    (CLOSED, {"models": ("larg",)}, "--model larg: the scenario has no model of that name; did you mean large?"),
    (
        CLOSED,
        {"models": ("other",)},
        "--model other: the scenario has no model of that name; it has small, large; or give its address with --url",
    ),
    (
        CLOSED,
        {"models": ("small", "small")},
        "--model small: models[1]: the same model as models[0]; leave one out, or rename it",
    ),
    (
        CLOSED,
        {"urls": ("localhost",), "models": ("a",)},
        '--url localhost: models[0].url: "localhost" does not say http or https; write "http://localhost/v1"',
    ),
    (
        CLOSED,
        {"urls": ("http://h/v1",), "models": ("a\nb",)},
        '--model a\\nb: models[0].name: "a\\nb" has a character that is not allowed; use any text on one line that '
        'is not blank, e.g. name = "smollm2-135m"',
    ),
    # values
    (
        CLOSED,
        {"concurrency": (0,)},
        "--concurrency 0: load.concurrency[0]: 0 is not a whole number of 1 or more; "
        "write e.g. concurrency = [1, 2, 4, 8]",
    ),
    (CLOSED, {"concurrency": (2, 2)}, "--concurrency 2,2: load.concurrency[1]: 2 is listed twice; leave one out"),
    (
        CLOSED,
        {"rates_per_s": (-1.0,)},
        "--rate -1: load.rates_per_s[0]: -1.0 is not a number above 0; write e.g. rates_per_s = [0.5, 1.0, 2.0]",
    ),
    (HEAD, {"seed": -1}, "--seed -1: seed: -1 is not a whole number of 0 or more; write e.g. seed = 1"),
    (
        HEAD,
        {"warmup": -1},
        "--warmup -1: warmup_requests: -1 is not a whole number of 0 or more; write e.g. warmup_requests = 1",
    ),
    (
        HEAD,
        {"max_tokens": 0},
        "--max-tokens 0: sampling.max_tokens: 0 is not a whole number of 1 or more; write e.g. max_tokens = 48",
    ),
    (
        HEAD,
        {"timeout_s": 0.0},
        "--timeout 0s: timeouts.request_s: 0.0 is not a number above 0; write e.g. request_s = 60.0",
    ),
    # --set
    (
        GAMMA,
        {"set": ("load.rates_per_s=-1",)},
        "--set load.rates_per_s=-1: load.rates_per_s: -1 is a whole number, not a list; "
        "write e.g. rates_per_s = [0.5, 1.0, 2.0]",
    ),
    (
        GAMMA,
        {"rates_per_s": (1.0,), "set": ("load.rates_per_s=[-1]",)},
        "--set load.rates_per_s=[-1]: load.rates_per_s[0]: -1 is not a number above 0; "
        "write e.g. rates_per_s = [0.5, 1.0, 2.0]",
    ),
    (
        HEAD,
        {"set": ("description=true",)},
        '--set description=true: description: true is a boolean, not a text; write e.g. description = "Short chats"',
    ),
    (HEAD, {"set": ("sed=1",)}, "--set sed=1: sed: unknown key `sed`; did you mean `seed`?"),
    (
        HEAD,
        {"set": ("seed=one",)},
        '--set seed=one: seed: "one" is a text, not a whole number of 0 or more; write e.g. seed = 1',
    ),
    (
        CLOSED,
        {"set": ("load.mode=gamma",)},
        '--set load.mode=gamma: load.concurrency: unknown key `concurrency` in mode "gamma"; '
        'it belongs to mode "closed"',
    ),
    (
        HEAD,
        {"set": ("load={mode='gamma', rates_per_s=[1]}",)},
        "--set load={mode='gamma', rates_per_s=[1]}: load.burstiness: missing; add burstiness = 0.5",
    ),
    (HEAD, {"set": ("seed",)}, "--set seed: not a setting; write dotted.key=value, such as sampling.max_tokens=64"),
    (HEAD, {"set": ("a b=1",)}, '--set a b=1: "a b" is not a key; write dotted.key=value, such as models[0].name=NAME'),
    (
        CLOSED,
        {"set": ("models[2].name=c",)},
        "--set models[2].name=c: models has no [2] in this scenario; set the whole list",
    ),
    (
        HEAD,
        {"set": ("models[0].name=c",)},
        "--set models[0].name=c: models has no [0] in this scenario; set the whole list",
    ),
    (
        CLOSED,
        {"set": ("models.name=c",)},
        "--set models.name=c: models is a list; name one entry, as in models[0].name",
    ),
    (HEAD, {"set": ("name.x=1",)}, "--set name.x=1: name is not a table, so it has no name.x"),
    (HEAD, {"set": ("name=\udcff",)}, "--set name=\\udcff: name: a text that is not Unicode; write it in UTF-8"),
]


@pytest.mark.parametrize(("text", "flags", "line"), REFUSED, ids=[line[:40] for _, _, line in REFUSED])
def test_a_complaint_about_a_flag_names_the_flag(text: str, flags: dict[str, Any], line: str) -> None:
    with pytest.raises(InputError) as caught:
        play(text, **flags)
    assert str(caught.value) == line


@pytest.mark.parametrize(
    ("mistake", "line"),
    [
        ("sede = 1", "x.toml: sede: unknown key `sede`; did you mean `seed`?"),
        (
            "models = 3",
            'x.toml: models: 3 is a whole number, not a list; write e.g. models = [{ name = "smollm2-135m" }]',
        ),
        (
            "load = []",
            'x.toml: load: a list, not a table; write e.g. load = { mode = "closed", concurrency = [1, 2, 4, 8] }',
        ),
    ],
)
def test_a_mistake_in_the_file_stays_the_files_whatever_the_flags(mistake: str, line: str) -> None:
    with pytest.raises(InputError) as caught:
        play(HEAD + mistake, seed=2, models=("a",), requests=3, set=("load.mode=closed",))
    assert str(caught.value) == line


def test_a_complaint_names_the_last_flag_that_set_the_key() -> None:
    with pytest.raises(InputError) as caught:
        play(CLOSED, concurrency=(2,), set=("load={ mode = 'closed', concurrency = [0] }",))
    assert str(caught.value).startswith("--set load={ mode = 'closed', concurrency = [0] }: load.concurrency[0]: ")


@pytest.mark.parametrize(
    ("urls", "models", "pairs"),
    [
        (("http://g/v1",), ("a",), [("a", "http://g/v1")]),
        (("http://g/v1",), ("a", "b"), [("a", "http://g/v1"), ("b", "http://g/v1")]),
        (("http://g/v1", "http://h/v1"), ("a",), [("a", "http://g/v1"), ("a", "http://h/v1")]),
        (("http://g/v1", "http://h/v1"), ("a", "b"), [("a", "http://g/v1"), ("b", "http://h/v1")]),
        ((), ("large", "small"), [("large", "http://h/v1"), ("small", None)]),
    ],
)
def test_urls_and_models_pair_up_in_order(
    urls: tuple[str, ...], models: tuple[str, ...], pairs: list[tuple[str, str | None]]
) -> None:
    scenario = play(CLOSED, urls=urls, models=models)
    assert [(model.name, model.url) for model in scenario.models] == pairs
    assert [model.target for model in scenario.models] == ["openai" if url else "llamacpp" for _, url in pairs]


URL: dict[str, Any] = {"urls": ("http://g/v1",), "models": ("a",)}
FOUNDRY_LOCAL = f'{HEAD}models = [{{ name = "phi", target = "foundry", foundry = {{ device = "cpu" }} }}]'


@pytest.mark.parametrize(
    ("text", "flags", "variant", "models"),
    [
        (HEAD, URL, {"url": "http://h/v1"}, [("a", "openai", "http://h/v1")]),
        (HEAD, URL, {"model": "b"}, [("b", "openai", "http://g/v1")]),
        (HEAD, URL, {"model": "b", "url": "http://h/v1"}, [("b", "openai", "http://h/v1")]),
        (HEAD, URL, {"set": ("models[0].name=b",)}, [("b", "openai", "http://g/v1")]),
        (HEAD, {}, {"url": "http://h/v1"}, [("smollm2-135m", "openai", "http://h/v1")]),
        (HEAD, {}, {"set": ("models[0].llamacpp.threads=1",)}, [("smollm2-135m", "llamacpp", None)]),
        (HEAD, {}, {"set": ("models=[{name='c', url='http://h/v1'}]",)}, [("c", "openai", "http://h/v1")]),
        (CLOSED, {"models": ("small",)}, {"model": "large"}, [("large", "openai", "http://h/v1")]),
        (CLOSED, {"models": ("large",)}, {"model": "small"}, [("small", "llamacpp", None)]),
        (CLOSED, {"models": ("large",)}, {"model": "other"}, [("other", "openai", "http://h/v1")]),
        (
            CLOSED,
            {},
            {"url": "http://g/v1"},
            [("small", "openai", "http://g/v1"), ("large", "openai", "http://g/v1")],
        ),
        (FOUNDRY_LOCAL, {}, {"model": "qwen"}, [("qwen", "foundry", None)]),
    ],
)
def test_the_second_variant_has_another_address_another_model_or_any_key(
    text: str, flags: dict[str, Any], variant: dict[str, Any], models: list[tuple[str, str, str | None]]
) -> None:
    second = play(text, **flags, variant=VariantFlags(**variant))
    assert [(model.name, model.target, model.url) for model in second.models] == models
    first = play(text, **flags)
    assert {key: getattr(second, key) for key in second.__struct_fields__ if key != "models"} == {
        key: getattr(first, key) for key in first.__struct_fields__ if key != "models"
    }


@pytest.mark.parametrize("flag", ["--set", "--versus"])
@pytest.mark.parametrize("key", ["models[0].llamacpp.threads", "models[0].llamacpp"])
def test_where_a_flag_writes_a_table_that_the_model_cannot_have_the_message_names_the_flag(flag: str, key: str) -> None:
    setting = f"{key}=1" if key.endswith("threads") else f"{key}={{threads=1}}"
    with pytest.raises(InputError) as error:
        if flag == "--set":
            play(FOUNDRY_LOCAL, set=(setting,))
        else:
            play(FOUNDRY_LOCAL, variant=VariantFlags(set=(setting,)))
    assert str(error.value).startswith(f"{flag} {setting}: models[0].llamacpp: these are options of the embedded")


def test_a_model_at_another_address_keeps_its_headers() -> None:
    text = f'{HEAD}models = [{{ name = "a", url = "http://g/v1", headers = {{ x-team = "eval" }} }}]'
    (model,) = play(text, variant=VariantFlags(url="http://h/v1")).models
    assert (model.url, model.headers) == ("http://h/v1", {"x-team": "eval"})


@pytest.mark.parametrize(
    ("text", "variant", "line"),
    [
        (HEAD, {"set": ("speed",)}, "--versus speed: not a setting; write dotted.key=value, such as "),
        (HEAD, {"set": ("=1",)}, "--versus =1: not a setting; write dotted.key=value, such as "),
        (HEAD, {"set": ("a b=1",)}, '--versus a b=1: "a b" is not a key; '),
        (HEAD, {"set": ("sed=1",)}, "--versus sed=1: sed: unknown key `sed`; did you mean `seed`?"),
        (HEAD, {"set": ("models[1].name=b",)}, "--versus models[1].name=b: models has no [1] in this scenario; "),
        (HEAD, {"set": ("models[0].llamacpp.threads=x",)}, "--versus models[0].llamacpp.threads=x: "),
        (HEAD, {"set": ("models[0].llamacpp.gguf=no.gguf",)}, "--versus models[0].llamacpp.gguf=no.gguf: "),
        (HEAD, {"url": "nowhere at all"}, "--versus-url nowhere at all: models[0].url: "),
        (CLOSED, {"model": "other"}, "--versus-model other: 2 models are played; say which one it replaces, "),
        (HEAD, {"model": "other"}, "--versus-model other: the scenario has no model of that name, it has smollm2-135m"),
    ],
    ids=str,
)
def test_a_complaint_about_the_second_variant_names_its_flag(text: str, variant: dict[str, Any], line: str) -> None:
    with pytest.raises(InputError) as caught:
        play(text, variant=VariantFlags(**variant))
    assert str(caught.value).startswith(line)
    assert "\n" not in str(caught.value)


def test_a_model_that_several_targets_serve_is_picked_by_its_target() -> None:
    addresses = ("http://h/v1", "http://h:81/v2")
    tables = [f'{{ name = "same", url = "{url}" }}' for url in addresses]
    text = f'{HEAD}models = [{{ name = "a" }}, {", ".join(tables)}, {{ name = "same", target = "foundry" }}]'
    for target, url in (("h", addresses[0]), ("h:81/v2", addresses[1]), ("foundry", None)):
        (model,) = play(text, models=("a",), variant=VariantFlags(model=f"same@{target}")).models
        assert (model.name, model.url) == ("same", url)
    with pytest.raises(InputError) as caught:
        play(text, models=("a",), variant=VariantFlags(model="same"))
    line = "--versus-model same: 3 targets have a model of that name; write "
    choices = " or ".join(f"--versus-model same@{target}" for target in ("h", "h:81/v2", "foundry"))
    assert str(caught.value) == line + choices


def test_a_scenario_without_models_has_the_default_one_to_pick() -> None:
    assert play(HEAD, models=("smollm2-135m",)).models == play(HEAD).models


def test_urls_replace_the_models_and_nothing_else() -> None:
    plain, changed = play(CLOSED), play(CLOSED, urls=("http://g/v1",), models=("a",))
    assert {key: getattr(changed, key) for key in changed.__struct_fields__ if key != "models"} == {
        key: getattr(plain, key) for key in plain.__struct_fields__ if key != "models"
    }


def test_the_plain_flags_set_their_keys() -> None:
    scenario = play(HEAD, max_tokens=9, warmup=0, seed=5, timeout_s=2.5)
    assert scenario.sampling.max_tokens == 9
    assert scenario.sampling.seed == 1
    assert (scenario.warmup_requests, scenario.seed, scenario.timeouts.request_s) == (0, 5, 2.5)


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("description=hello", "hello"),
        ("description= hello there", " hello there"),
        ("description='hello'", "hello"),
        ('description="a=b"', "a=b"),
        ("description=[1, 2", "[1, 2"),
        ("description=1\nname = 2", "1\nname = 2"),
        ("description=", ""),
    ],
)
def test_a_set_value_is_toml_and_else_a_text(setting: str, value: str) -> None:
    assert play(HEAD, set=(setting,)).description == value


def test_set_reaches_into_lists_and_makes_tables() -> None:
    scenario = play(CLOSED, set=("models[0].llamacpp.slots=8", "sampling.extra.top_k=40", "slo.ttft_ms=5"))
    assert scenario.models[0].llamacpp is not None
    assert scenario.models[0].llamacpp.slots == 8
    assert scenario.sampling.extra == {"top_k": 40}
    assert scenario.slo.ttft_ms == 5.0


def test_flags_leave_the_raw_scenario_as_it_was() -> None:
    raw: dict[str, Any] = {"name": "x", "prompts": ["a"], "sampling": {"seed": 2}, "load": {"mode": "closed"}}
    before = copy.deepcopy(raw)
    changed, _ = apply(raw, Overrides(concurrency=(2,), max_tokens=3, set=("load.ramp_in_s=1", "prompts[0]=b")))
    assert changed == {
        "name": "x",
        "prompts": ["b"],
        "sampling": {"seed": 2, "max_tokens": 3},
        "load": {"mode": "closed", "concurrency": [2], "ramp_in_s": 1},
    }
    assert raw == before


def test_no_flags_change_nothing() -> None:
    raw: dict[str, Any] = {"name": "x", "prompts": ["a"]}
    assert apply(raw, Overrides()) == (raw, {})


@given(st.text(max_size=30))
def test_any_setting_is_taken_or_refused_in_one_line(setting: str) -> None:
    raw: dict[str, Any] = {"name": "x", "prompts": ["a"], "models": [{"name": "a"}]}
    try:
        changed, flags = apply(raw, Overrides(set=(setting,)))
    except InputError as error:
        assert str(error).startswith("--set")
    else:
        assert len(flags) == 1
        assert changed.keys() >= raw.keys()


# --- values of flags --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("30s", 30.0), ("2m", 120.0), ("1h", 3600.0), ("1.5", 1.5), ("500ms", 0.5), (" 1.5m ", 90.0), (".5s", 0.5)],
)
def test_a_duration_is_a_number_with_a_unit(text: str, seconds: float) -> None:
    assert parse_duration_s(text) == seconds


@pytest.mark.parametrize("text", ["", "s", "0", "0s", "-1s", "1d", "1 hour", "nan", "inf", "1e999", "1_0s", "٣s"])
def test_a_duration_that_is_none_names_its_flag(text: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_duration_s(text, "--timeout")
    assert str(caught.value) == " ".join(
        f"--timeout {text}: not a time above 0; write e.g. --timeout 30s, 2m, 1h or 500ms".split()
    )


def test_levels_and_rates_are_lists_with_commas() -> None:
    assert parse_levels("1, 2,4") == (1, 2, 4)
    assert parse_rates("0.5, 1,2e1") == (0.5, 1.0, 20.0)


@pytest.mark.parametrize(("text", "part"), [("1,x", "x"), ("1,,2", ""), ("0", "0"), ("1.5", "1.5"), ("-1", "-1")])
def test_a_level_that_is_none_is_named(text: str, part: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_levels(text)
    assert str(caught.value) == (
        f'--concurrency {text}: "{part}" is not a number of users; write e.g. --concurrency 1,2,4'
    )


@pytest.mark.parametrize(("text", "part"), [("1,x", "x"), ("", ""), ("0", "0"), ("nan", "nan"), ("1e999", "1e999")])
def test_a_rate_that_is_none_is_named(text: str, part: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_rates(text)
    assert str(caught.value) == " ".join(
        f'--rate {text}: "{part}" is not a rate above 0; write e.g. --rate 0.5,1'.split()
    )


@given(st.lists(st.integers(1, 999), min_size=1, max_size=5))
def test_levels_survive_being_written_down(levels: list[int]) -> None:
    assert parse_levels(",".join(map(str, levels))) == tuple(levels)


@given(st.floats(1e-9, 1e9))
def test_durations_survive_being_written_down(seconds: float) -> None:
    assert parse_duration_s(repr(seconds)) == seconds
