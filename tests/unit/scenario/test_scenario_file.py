"""Scenario files: found, read and typed; or one line that says what is wrong, where, and how to fix it."""

import re
import tomllib
from collections.abc import Iterator
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadgen.errors import ExitCode, InputError
from loadgen.scenario import Closed, Poisson, PromptFiles, Scenario
from loadgen.scenario.file import find_scenario, load_scenario, no_file_scenario, parse_toml, read_text, scenario_names
from loadgen.scenario.overrides import Overrides
from loadgen.scenario.problem import Source
from loadgen.scenario.schema import EXAMPLES, scenario_schema
from loadgen.scenario.urls import KEY_HINT
from loadgen.scenario.validate import convert, first_problem

ROOT = Path(__file__).parents[3]
SMALLEST = 'name = "x"\nprompts = ["Say hello."]\n'
MODES = '"closed", "constant", "poisson", "gamma", "ramp" or "trace"'
KEYS = (
    "name, prompts, description, build, system, seed, models, headers, order, load, sampling, warmup_requests, "
    "timeouts, retries, slo, quality, select, soak, keep_text, probe, preflight, strict, until"
)

# What stands below the two lines of SMALLEST, and the whole complaint after the file's name.
COMPLAINTS = {
    # unknown keys
    "zzz = 1": f"zzz: unknown key `zzz`; the keys here are {KEYS}",
    '"a b" = 1': f'"a b": unknown key `a b`; the keys here are {KEYS}',
    "warmup_request = 1": "warmup_request: unknown key `warmup_request`; did you mean `warmup_requests`?",
    "Seed = 1": "Seed: unknown key `Seed`; did you mean `seed`?",
    "max_tokens = 48": "max_tokens: unknown key `max_tokens`; did you mean `sampling.max_tokens`?",
    "[load]\nmode = 'closed'\nthink_time = { mean = 1 }": (
        "load.think_time.mean: unknown key `mean`; did you mean `mean_s`?"
    ),
    "[load]\nmode = 'poisson'\nrates_per_s = [1]\nburstiness = 2": (
        'load.burstiness: unknown key `burstiness` in mode "poisson"; it belongs to mode "gamma"'
    ),
    "[load]\nmode = 'poisson'\nrates_per_s = [1]\nburstines = 2": (
        'load.burstines: unknown key `burstines` in mode "poisson"; `burstiness` belongs to mode "gamma"'
    ),
    "[timeouts]\nzzz = 1": (
        "timeouts.zzz: unknown key `zzz`; the keys here are request_s, headers_s, first_token_s, next_token_s, ready_s"
    ),
    # wrong types
    "seed = '7'": 'seed: "7" is a text, not a whole number of 0 or more; write e.g. seed = 1',
    "seed = 1.5": "seed: 1.5 is a number, not a whole number of 0 or more; write e.g. seed = 1",
    "seed = true": "seed: true is a boolean, not a whole number of 0 or more; write e.g. seed = 1",
    "keep_text = 1": "keep_text: 1 is a whole number, not true or false; write e.g. keep_text = true",
    "system = 2024-05-01": (
        'system: 2024-05-01 is a date or a time, not a text; write e.g. system = "You answer briefly."'
    ),
    "models = 'smollm2'": ('models: "smollm2" is a text, not a list; write e.g. models = [{ name = "smollm2-135m" }]'),
    "[models]\nname = 'a'": 'models: a table, not a list; write e.g. models = [{ name = "smollm2-135m" }]',
    "models = [{ name = 'a' }, { name = 'b', url = 3 }]": (
        'models[1].url: 3 is a whole number, not a text; write e.g. url = "http://localhost:8080/v1"'
    ),
    "[load]\nmode = 'poisson'\nrates_per_s = 1.0": (
        "load.rates_per_s: 1.0 is a number, not a list; write e.g. rates_per_s = [0.5, 1.0, 2.0]"
    ),
    "load = 3": (
        'load: 3 is a whole number, not a table; write e.g. load = { mode = "closed", concurrency = [1, 2, 4, 8] }'
    ),
    # out of range
    "seed = -1": "seed: -1 is not a whole number of 0 or more; write e.g. seed = 1",
    "seed = 9223372036854775808": "seed: 9223372036854775808 is too large; use a 64-bit integer",
    "[sampling]\ntemperature = 3": "sampling.temperature: 3 is not a number from 0 to 2; write e.g. temperature = 0.7",
    "[sampling]\ntop_p = 0": "sampling.top_p: 0 is not a number above 0 and at most 1; write e.g. top_p = 0.95",
    "[load]\nmode = 'poisson'\nrates_per_s = [1, -1]": (
        "load.rates_per_s[1]: -1 is not a number above 0; write e.g. rates_per_s = [0.5, 1.0, 2.0]"
    ),
    "[load]\nmode = 'poisson'\nrates_per_s = [inf]": "load.rates_per_s[0]: inf is not a finite number; write a number",
    "[load]\nmode = 'closed'\nconcurrency = []": (
        "load.concurrency: an empty list; give at least one, such as concurrency = [1, 2, 4, 8]"
    ),
    'models = [{ name = "a\\tb" }]': (
        'models[0].name: "a\\tb" has a character that is not allowed; use any text on one line that is not blank, '
        'e.g. name = "smollm2-135m"'
    ),
    "models = [{ name = ' ' }]": (
        'models[0].name: " " has a character that is not allowed; use any text on one line that is not blank, '
        'e.g. name = "smollm2-135m"'
    ),
    # missing
    "models = [{}]": 'models[0].name: missing; add name = "smollm2-135m"',
    "[load]\nmode = 'gamma'\nrates_per_s = [1]": "load.burstiness: missing; add burstiness = 0.5",
    # choices
    "order = 'interleavd'": 'order: "interleavd" is not one of the choices; did you mean "interleaved"?',
    "order = 'x'": 'order: "x" is not one of the choices; write "interleaved" or "one_after_another"',
    "load = {}": f"load.mode: missing; add mode = {MODES}",
    "load = { mode = 'spike' }": f'load.mode: unknown mode "spike"; the modes are {MODES}',
    "load = { mode = 'poison' }": (f'load.mode: unknown mode "poison"; did you mean "poisson"? the modes are {MODES}'),
    "load = { mode = 3 }": f"load.mode: unknown mode 3; the modes are {MODES}",
    # keys that contradict each other
    "models = [{ name = 'a', target = 'openai' }]": (
        'models[0].url: missing, and the target is "openai"; add url = "http://localhost:8080/v1"'
    ),
    "models = [{ name = 'a', target = 'llamacpp', url = 'http://h/v1' }]": (
        'models[0].url: target "llamacpp" starts a server of its own; leave url out, or write target = "openai"'
    ),
    "models = [{ name = 'a', url = 'http://h/v1', llamacpp = {} }]": (
        "models[0].llamacpp: these are options of the embedded server, and the model is served elsewhere; "
        "leave them out, or set them for a model that it serves"
    ),
    "models = [{ name = 'a' }, { name = 'a', target = 'llamacpp' }]": (
        "models[1]: the same model as models[0]; leave one out, or rename it"
    ),
    "[load]\nmode = 'ramp'\nfrom_per_s = 0\nto_per_s = 0\nduration_s = 9": (
        "load.to_per_s: both rates are 0, so nothing would be sent; write e.g. to_per_s = 5.0"
    ),
    "[load]\nmode = 'closed'\nconcurrency = [1, 2, 1]": "load.concurrency[2]: 1 is listed twice; leave one out",
    "[load]\nmode = 'gamma'\nburstiness = 1\nrates_per_s = [2, 2.0]": (
        "load.rates_per_s[1]: 2 is listed twice; leave one out"
    ),
    "slo = { attainment = 0.9 }": (
        "slo.attainment: no limit is set that requests could meet; add e.g. ttft_ms = 2000.0 to slo"
    ),
    "slo = { objectives = ['ok=99%', 'ttft_p95=2'] }": (
        'slo.objectives[1]: "ttft_p95=2": the time has no unit; write ttft_p95=2s or ttft_p95=2ms'
    ),
    "slo = { objectives = ['ok=100%'] }": "slo.objectives[0]: ok=100% can be missed but never shown; use ok=99%",
    "slo = { objectives = ['goodput=95%'] }": (
        "slo.objectives[0]: goodput needs the limits of slo, and none is set; add e.g. ttft_ms = 2000.0 to slo"
    ),
    "slo = { objectives = ['ok=99%', 'ok=99%'] }": (
        "slo.objectives[1]: the same share of the same metric is asked for twice; leave one out"
    ),
    "sampling = { stream = false }\nslo = { objectives = ['itl_p95=50ms'] }": (
        "slo.objectives[0]: answers that are not streamed (stream = false) have no itl; use e2e, or set stream = true"
    ),
    "sampling = { extra = { model = 1 } }": "sampling.extra.model: every request has it already; leave it out",
    "sampling = { extra = { stream = false } }": (
        "sampling.extra.stream: sampling has its own key for it; write it as sampling.stream"
    ),
    "sampling = { stream = false }\nslo = { ttft_ms = 1, attainment = 0.9 }": (
        "slo.attainment: the gate needs TTFT or TPOT, which answers that are not streamed (stream = false) do not have"
        "; set only e2e_ms, leave the gate out, or set stream = true"
    ),
    "sampling = { extra = { seed = 2 } }": (
        "sampling.extra.seed: sampling has its own key for it; write it as sampling.seed"
    ),
    'sampling = { omit = ["sead"] }': 'sampling.omit[0]: "sead" is not one of the choices; did you mean "seed"?',
    'sampling = { omit = ["stream"] }': (
        "sampling.omit: without `stream`, a server does not stream, and the scenario expects streams; "
        "write stream = false as well"
    ),
    'sampling = { extra = { eos_token = "SECRET0123456789abc" } }': (
        f"sampling.extra.eos_token: a secret in a scenario would be written to files; leave it out, and {KEY_HINT}"
    ),
    'sampling = { extra = { access_token = "abcdefghijklmnop" } }': (
        f"sampling.extra.access_token: a secret in a scenario would be written to files; leave it out, and {KEY_HINT}"
    ),
    'sampling = { extra = { a = { api_token = "sk-proj-abcdefgh" } } }': (
        f"sampling.extra.a.api_token: a secret in a scenario would be written to files; leave it out, and {KEY_HINT}"
    ),
    'sampling = { extra = { password = "x" } }': (
        f"sampling.extra.password: a secret in a scenario would be written to files; leave it out, and {KEY_HINT}"
    ),
    'load = { mode = "closed", requests = 4, duration_s = 9, min_requests = 5 }': (
        "load.min_requests: 5 is more than load.requests, which is 4; lower it, or raise load.requests"
    ),
    "sampling = { extra = { a = [{ b = 2024-05-01 }] } }": (
        "sampling.extra.a[0].b: 2024-05-01 is a date or a time, which JSON does not have; put it in quotes"
    ),
    # not TOML
    "x = hello": "line 3, column 5: not TOML: not a value (put text in double quotes); fix `x = hello`",
    "just words": "line 3, column 6: not TOML: Expected '=' after a key in a key/value pair; fix `just words`",
    "name = 'y'": "line 3: not TOML: the key is given twice; fix `name = 'y'`",
    f"x = {'1' * 5000}": f"line 3: not TOML: a number too long; fix `x = {'1' * 56}`",
    f"x = {'[' * 5000}": "nested too deeply; use fewer brackets",
}

URLS = {
    "localhost/v1": ('"localhost/v1" does not say http or https', "http://localhost/v1"),
    "h.example:8080": ('"h.example:8080" does not say http or https', "http://h.example:8080/v1"),
    "ftp://h/v1": ('"ftp" is neither http nor https', "http://h/v1"),
    "ftp://h:1": ('"ftp" is neither http nor https', "http://h:1/v1"),
    "https://h/api/v1#top": ('"https://h/api/v1#top" has a #, which is never sent to a server', "https://h/api/v1"),
}


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def write(text: str, name: str = "x.toml") -> Path:
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def complaint_about(text: str) -> str:
    with pytest.raises(InputError) as caught:
        load_scenario(write(text))
    assert caught.value.exit_code == ExitCode.BAD_INPUT
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(("text", "line"), COMPLAINTS.items(), ids=[text[:40] for text in COMPLAINTS])
def test_a_mistake_is_one_line_with_file_key_and_mend(text: str, line: str) -> None:
    assert complaint_about(SMALLEST + text) == f"x.toml: {line}"


@pytest.mark.parametrize(
    ("head", "line"),
    [
        ("", 'name: missing; add name = "my-scenario"'),
        ('name = "x"', 'prompts: missing; add prompts = ["Say hello."]'),
        ('name = "x"\npromts = ["hi"]', "promts: unknown key `promts`; did you mean `prompts`?"),
        ('name = "x"\nprompts = []', 'prompts: an empty list; give at least one, such as prompts = ["Say hello."]'),
        ('name = "x"\nprompts = ""', 'prompts: an empty text; write e.g. prompts = ["Say hello."]'),
        (
            'name = "x"\nprompts = 3',
            'prompts: 3 is a whole number, not a text or a list or a table; write e.g. prompts = ["Say hello."]',
        ),
        (
            'name = "x"\nprompts = ["a", 3]',
            'prompts[1]: 3 is a whole number, not a text or a table; write e.g. prompts = ["Say hello."]',
        ),
        ('name = "x"\nprompts = [{ txt = "a" }]', "prompts[0].txt: unknown key `txt`; did you mean `text`?"),
        (
            'name = "x"\nprompts = { files = "a", tempate = "b" }',
            "prompts.tempate: unknown key `tempate`; did you mean `template`?",
        ),
        (
            'name = "a b"\nprompts = "x"',
            'name: "a b" has a character that is not allowed; use letters, digits and . _ -, beginning with a '
            'letter or a digit, e.g. name = "my-scenario"',
        ),
        ('name = "nul"\nprompts = "x"', 'name: "nul" is not a valid folder name on every system; choose another'),
        (f'name = "{"x" * 81}"\nprompts = "x"', "name: a text of 81 characters; use 80 at most"),
    ],
)
def test_a_mistake_in_name_or_prompts_is_one_line_with_file_key_and_mend(head: str, line: str) -> None:
    assert complaint_about(head) == f"x.toml: {line}"


def test_a_line_break_cannot_hide_at_the_end_of_a_name() -> None:
    assert complaint_about('name = "a\\n"\nprompts = "x"').startswith('x.toml: name: "a\\n" has a character')


def test_a_text_that_ends_too_soon_is_mended_in_its_last_line() -> None:
    line = complaint_about(SMALLEST + "x = [1,")
    assert line.startswith("x.toml: line 3: not TOML: ")
    assert line.endswith("; fix `x = [1,`")


@pytest.mark.parametrize(("url", "said"), URLS.items(), ids=list(URLS))
def test_an_address_that_cannot_be_used_is_mended(url: str, said: tuple[str, str]) -> None:
    what, right = said
    line = complaint_about(f"{SMALLEST}models = [{{ name = 'a', url = '{url}' }}]")
    assert line == f'x.toml: models[0].url: {what}; write "{right}"'
    mended = write(f"{SMALLEST}models = [{{ name = 'a', url = '{right}' }}]")
    assert load_scenario(mended).scenario.models[0].url == right


@pytest.mark.parametrize("url", ["http://h:port/v1", "http:///v1", "http://[::1/v1", "http://a b/v1"])
def test_an_address_beyond_mending_gets_an_example(url: str) -> None:
    line = complaint_about(f"{SMALLEST}models = [{{ name = 'a', url = '{url}' }}]")
    assert line == f'x.toml: models[0].url: "{url}" is not an address; write e.g. "http://localhost:8080/v1"'


@pytest.mark.parametrize("url", ["http://me:SECRET@h:80/v1", "http://me:SE/CRET@h/v1", "http://h/v1?api_key=SECRET"])
def test_a_complaint_never_repeats_a_credential(url: str) -> None:
    in_file = complaint_about(f"{SMALLEST}models = [{{ name = 'a', url = '{url}' }}]")
    flags = Overrides(urls=(url,), models=("a",))
    with pytest.raises(InputError) as in_flag:
        load_scenario(write(SMALLEST), flags)
    for line in (in_file, str(in_flag.value)):
        assert "SECRET" not in line
        assert "CRET" not in line


def test_credentials_belong_in_the_environment() -> None:
    line = complaint_about(f"{SMALLEST}models = [{{ name = 'a', url = 'http://me:pw@h:80/v1' }}]")
    what = "credentials in an address would be written to files"
    assert line == f'x.toml: models[0].url: {what}; write "http://h:80/v1", and set LOADGEN_API_KEY'


def test_bytes_that_are_not_utf8_are_named_by_line() -> None:
    Path("x.toml").write_bytes(b'name = "x"\n\nprompts = "caf\xe9"\n')
    with pytest.raises(InputError) as caught:
        load_scenario("x.toml")
    assert str(caught.value) == "x.toml: line 3: not UTF-8 (byte 0xe9); save it as UTF-8"


def test_a_byte_order_mark_and_windows_line_ends_are_accepted() -> None:
    Path("x.toml").write_bytes(b'\xef\xbb\xbfname = "x"\r\nprompts = ["Say hello."]\r\n')
    assert load_scenario("x.toml").scenario == load_scenario(write(SMALLEST, "y.toml")).scenario


def test_the_smallest_file_is_a_name_and_a_prompt() -> None:
    loaded = load_scenario(write(SMALLEST))
    assert loaded.scenario.load == Closed()
    assert [(model.name, model.target) for model in loaded.scenario.models] == [("smollm2-135m", "llamacpp")]


def test_the_target_follows_from_the_url() -> None:
    models = "models = [{ name = 'a', url = 'http://h/v1' }, { name = 'b' }]"
    loaded = load_scenario(write(SMALLEST + models))
    assert [model.target for model in loaded.scenario.models] == ["openai", "llamacpp"]


@pytest.mark.parametrize(
    "key", ["eos_token", "stop_token", "pad-token", "token", "api_token", "access-token", "bearer_token", "authtoken"]
)
def test_a_body_may_have_a_text_of_any_name_that_ends_in_token(key: str) -> None:
    loaded = load_scenario(write(SMALLEST + f'sampling = {{ extra = {{ {key} = "<|im_end|>" }} }}'))
    assert loaded.scenario.sampling.extra == {key: "<|im_end|>"}


def test_what_is_omitted_can_be_set_by_a_flag_and_given_anew_under_its_own_name() -> None:
    overrides = Overrides(set=('sampling.omit=["seed","model"]', "sampling.extra.seed=auto", "sampling.extra.model=x"))
    sampling = load_scenario(write(SMALLEST), overrides).scenario.sampling
    assert (sampling.omit, sampling.extra) == (("seed", "model"), {"seed": "auto", "model": "x"})


def test_whole_numbers_stand_for_floats() -> None:
    loaded = load_scenario(write(SMALLEST + "[load]\nmode = 'poisson'\nrates_per_s = [1, 2]"))
    assert isinstance(loaded.scenario.load, Poisson)
    assert [(rate, type(rate)) for rate in loaded.scenario.load.rates_per_s] == [(1.0, float), (2.0, float)]


def test_the_ends_of_a_range_belong_to_it() -> None:
    ends = "seed = 0\nsampling = { temperature = 2, top_p = 1 }\nslo = { ttft_ms = 1, attainment = 1 }"
    scenario = load_scenario(write(SMALLEST + ends)).scenario
    assert (scenario.seed, scenario.sampling.temperature, scenario.sampling.top_p) == (0, 2.0, 1.0)
    assert scenario.slo.attainment == 1.0


def test_weights_are_relative_to_the_scenario_file() -> None:
    write("", "s/m.gguf")
    path = write(SMALLEST + "models = [{ name = 'a', llamacpp = { gguf = 'm.gguf' } }]", "s/x.toml")
    llamacpp = load_scenario(path).scenario.models[0].llamacpp
    assert llamacpp is not None
    assert llamacpp.gguf == str(Path("s/m.gguf").absolute())


def test_missing_weights_are_named_with_the_place_that_was_tried() -> None:
    line = complaint_about(SMALLEST + "models = [{ name = 'a', llamacpp = { gguf = 'm.gguf' } }]")
    tried = Path("m.gguf").absolute()
    assert line == (
        f'x.toml: models[0].llamacpp.gguf: no file "m.gguf" at {tried}; give a .gguf file, relative to the scenario, '
        "or leave gguf out for the default weights"
    )


def test_a_loaded_scenario_knows_its_file_and_folder() -> None:
    loaded = load_scenario(write(SMALLEST, "s/x.toml"))
    assert (loaded.path, loaded.folder, loaded.where) == (Path("s/x.toml"), Path("s"), str(Path("s/x.toml")))


def test_a_bare_name_is_looked_up_under_scenarios() -> None:
    here = write(SMALLEST, "scenarios/mine.toml")
    assert find_scenario("mine") == here
    assert find_scenario("mine.toml") == here


def test_a_path_wins_over_a_name() -> None:
    write(SMALLEST, "scenarios/mine.toml")
    assert find_scenario(write(SMALLEST, "mine.toml").name) == Path("mine.toml")


def test_a_folder_of_the_same_name_does_not_hide_a_scenario() -> None:
    here = write(SMALLEST, "scenarios/mine.toml")
    Path("mine").mkdir()
    assert find_scenario("mine") == here


@pytest.mark.parametrize("name", ["min", "nowhere/min.toml"])
def test_a_name_that_is_not_there_is_guessed_among_those_that_are(name: str) -> None:
    for there in ("mine", "other"):
        write(SMALLEST, f"scenarios/{there}.toml")
    with pytest.raises(InputError) as caught:
        find_scenario(name)
    assert str(caught.value) == f"{name}: no such scenario; did you mean mine? `loadgen scenarios` lists all scenarios"
    assert {"mine", "other"} <= set(scenario_names())


def test_a_folder_is_no_scenario() -> None:
    Path("somewhere").mkdir()
    with pytest.raises(InputError, match=r"^somewhere: a folder, not a scenario; name a \.toml file in it$"):
        find_scenario("somewhere")


@pytest.mark.parametrize("name", ["x" * 5000, "a\0b", ""])
def test_an_impossible_path_is_an_input_error(name: str) -> None:
    with pytest.raises(InputError):
        load_scenario(name)


def test_without_a_file_the_builtin_scenario_asks_what_the_flags_name() -> None:
    loaded = no_file_scenario(Overrides(urls=("http://h/v1",), models=("m",)))
    assert loaded.path is None
    assert loaded.scenario.name == "adhoc"
    assert loaded.scenario.load == Closed(requests=16)
    assert [(model.name, model.url, model.target) for model in loaded.scenario.models] == [
        ("m", "http://h/v1", "openai")
    ]


# --- laws -------------------------------------------------------------------------------------------------------------


def documents() -> Iterator[dict[str, Any]]:
    """For each mode and each shape of prompts, a scenario with every key that there is."""
    tables = {
        table.__name__: tomllib.loads("\n".join(f"{k} = {v}" for k, v in rows.items()))
        for table, rows in EXAMPLES.items()
    }
    for mode in ("closed", "constant", "poisson", "gamma", "ramp", "trace"):
        for prompts in (["a", tables["InlinePrompt"]], tables["PromptFiles"]):
            load = {"mode": mode, **tables[mode.capitalize()]}
            if mode == "closed":
                load["think_time"] = tables["ThinkTime"]
            model = {**tables["Model"], "llamacpp": tables["LlamaCpp"]}
            parts = {"sampling": tables["Sampling"], "timeouts": tables["Timeouts"], "slo": tables["Slo"]}
            yield deepcopy({**tables["Scenario"], **parts, "prompts": prompts, "load": load, "models": [model]})


def paths(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    if path:
        yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield from paths(item, (*path, key))


def dotted(path: tuple[str | int, ...]) -> str:
    return "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path).removeprefix(".")


def replaced(document: dict[str, Any], path: tuple[str | int, ...], value: Any) -> dict[str, Any]:
    changed: Any = deepcopy(document)
    node = changed
    for step in path[:-1]:
        node = node[step]
    node[path[-1]] = value
    return dict(changed)


DOCUMENTS = list(documents())
KEYS_AT = [(document, path) for document in DOCUMENTS for path in paths(document)]
SCALARS: st.SearchStrategy[Any] = st.one_of(
    st.text(max_size=4), st.integers(-3, 300), st.booleans(), st.sampled_from([0.5, -0.5, 1.5, 2.5])
)
VALUES = SCALARS | st.lists(SCALARS, max_size=2) | st.dictionaries(st.sampled_from(["mode", "name", "x"]), SCALARS)


@cache
def schema() -> Any:
    """What judges a document as an editor does: made when it is needed, as every worker imports every test file."""
    import jsonschema

    return jsonschema.Draft7Validator(scenario_schema())


def test_a_scenario_with_every_key_is_right() -> None:
    for document in DOCUMENTS:
        assert first_problem(document, Scenario) is None
        assert isinstance(convert(document, Scenario, Source("x.toml")), Scenario)


@given(st.sampled_from(KEYS_AT), VALUES)
def test_any_value_at_any_key_is_taken_or_refused_by_that_key(
    at: tuple[dict[str, Any], tuple[str | int, ...]], value: Any
) -> None:
    document, path = at
    changed = replaced(document, path, value)
    problem = first_problem(changed, Scenario)
    try:
        msgspec.convert(changed, Scenario, strict=True)
        fits = True
    except msgspec.ValidationError:
        fits = False
    assert (problem is None) == fits
    if problem:
        around = dotted(path[:-1]) if path[-1] == "mode" else dotted(path)
        assert problem.key.startswith(around)
        assert problem.message
        assert problem.hint


@pytest.mark.slow
@given(st.sampled_from(KEYS_AT), VALUES)
def test_the_editors_schema_takes_what_the_program_takes(
    at: tuple[dict[str, Any], tuple[str | int, ...]], value: Any
) -> None:
    changed = replaced(*at, value)
    assert schema().is_valid(changed) == (first_problem(changed, Scenario) is None)


@given(st.sampled_from(KEYS_AT), st.data())
def test_a_misspelled_key_is_named_and_never_a_traceback(
    at: tuple[dict[str, Any], tuple[str | int, ...]], data: st.DataObject
) -> None:
    document, path = at
    if not isinstance(path[-1], str) or "extra" in path or {"options", "headers"} & {*path[:-1]}:
        return
    where = data.draw(st.integers(0, len(path[-1]) - 1))
    misspelled = path[-1][:where] + "q" + path[-1][where:]
    problem = first_problem(replaced(document, (*path[:-1], misspelled), 1), Scenario)
    assert problem is not None
    assert problem.key == dotted((*path[:-1], misspelled))
    if len(path[-1]) > 3:
        assert f"`{path[-1]}`" in problem.hint or f".{path[-1]}`" in problem.hint


@given(st.text(alphabet="namepro =[]{}\"'.\n#1-:\\ué", max_size=60) | st.text(max_size=20))
def test_any_text_is_a_table_or_an_input_error(text: str) -> None:
    try:
        raw = parse_toml(text, "x.toml")
    except InputError as error:
        assert re.match(r"x\.toml: line \d+(, column \d+)?: not TOML: \S", str(error))
    else:
        assert raw == tomllib.loads(text)


# --- the page ---------------------------------------------------------------------------------------------------------


def page() -> str:
    return (ROOT / "docs" / "scenarios.md").read_text(encoding="utf-8")


def test_the_pages_example_is_a_scenario() -> None:
    example = re.findall(r"```toml\n(.*?)```", page(), re.DOTALL)[0]
    loaded = load_scenario(write(example, "my-meetings.toml"))
    assert isinstance(loaded.scenario.prompts, PromptFiles)


def test_every_message_on_the_page_is_one_that_occurs() -> None:
    block = re.findall(r"```text\n(.*?)```", page(), re.DOTALL)[-1]
    real = {f"x.toml: {line}" for line in COMPLAINTS.values()}
    assert block.splitlines()
    assert set(block.splitlines()) <= real


def test_every_key_is_on_the_page() -> None:
    text = page()
    missing = [
        f"{table.__name__}.{key}" for table in EXAMPLES for key in table.__struct_fields__ if f"`{key}`" not in text
    ]
    assert missing == []


def test_a_file_that_cannot_be_read_is_an_input_error() -> None:
    Path("folder.toml").mkdir()
    with pytest.raises(InputError, match=r"^folder\.toml: cannot be read: "):
        read_text(Path("folder.toml"))


@pytest.mark.parametrize("name", ["", " "])
def test_an_empty_name_is_said_to_be_one(name: str) -> None:
    with pytest.raises(InputError, match="the name is empty; `loadgen scenarios` lists"):
        load_scenario(name)
