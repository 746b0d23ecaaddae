"""Whatever is wrong with what a person gives is one line with its place and its mend, and exit code 2: found from the
types of the format, and through the command line in this process. Nothing is sent, and no key repeated."""

import copy
import itertools
import json
import os
import socket
import sys
import tomllib
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any, NoReturn

import msgspec
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from msgspec import Struct, inspect

from loadgen import api
from loadgen.cli import app
from loadgen.errors import InputError, LoadgenError
from loadgen.plan.plan import digest
from loadgen.plan.prompts import load_prompts
from loadgen.redact import redact_url
from loadgen.scenario import Closed, PromptFiles, Scenario
from loadgen.scenario.check import first_conflict
from loadgen.scenario.file import LoadedScenario, load_scenario, read_text
from loadgen.scenario.limits import LIMITS
from loadgen.scenario.model_list import read_model_list
from loadgen.scenario.problem import Source, input_error
from loadgen.scenario.schema import EXAMPLES, example_value
from loadgen.scenario.validate import convert
from loadgen.store.manifest import SCHEMA
from loadgen.targets.request import deadlines_of, first_limit_ns
from tests.command_line import without_settings

SECRET = "sk-Xk3jQ9vTz8Lp2Wm7"
SMALLEST: dict[str, Any] = {"name": "x", "prompts": ["Say hello."]}
AT = ("--url", "http://127.0.0.1:9/v1", "--model", "m")


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    without_settings(monkeypatch)
    Path("x.toml").write_text('name = "x"\nprompts = ["Say hello."]\n', encoding="utf-8")


# --- the format, key by key -------------------------------------------------------------------------------------------


def raw_of(table: type[Struct], values: dict[str, Any]) -> tuple[dict[str, Any], str]:
    """A scenario whose table of a type has these values, and the dotted key of that table."""
    whole = copy.deepcopy(SMALLEST)
    places: dict[str, tuple[list[str | int], str]] = {
        "Scenario": ([], ""),
        "InlinePrompt": (["prompts", 0], "prompts[0]"),
        "PromptFiles": (["prompts"], "prompts"),
        "Sampling": (["sampling"], "sampling"),
        "ThinkTime": (["load", "think_time"], "load.think_time"),
        "LlamaCpp": (["models", 0, "llamacpp"], "models[0].llamacpp"),
        "FoundryLocal": (["models", 0, "foundry"], "models[0].foundry"),
        "Model": (["models", 0], "models[0]"),
        "HeaderFromEnvironment": (["models", 0, "headers", "x"], "models[0].headers.x"),
        "Timeouts": (["timeouts"], "timeouts"),
        "Retries": (["retries"], "retries"),
        "Slo": (["slo"], "slo"),
        "QualityTable": (["quality"], "quality"),
        "SelectTable": (["select"], "select"),
        "SoakTable": (["soak"], "soak"),
        "SelectWeights": (["select", "weights"], "select.weights"),
        "Requirements": (["select", "require"], "select.require"),
        "Enough": (["select", "enough"], "select.enough"),
        "CostSettings": (["select", "cost"], "select.cost"),
    }
    steps, path = places.get(table.__name__, (["load"], "load"))
    if steps[:1] == ["models"]:
        place = {"url": "http://h/v1", "headers": {}} if "headers" in steps else {}
        whole["models"] = [{"name": "a", **place}]
    if steps[:1] == ["select"]:
        whole["select"] = {}
    if steps == ["load", "think_time"]:
        whole["load"] = {"mode": "closed"}
    if not steps:
        return whole | values, path
    node: Any = whole
    for step in steps[:-1]:
        node = node[step]
    node[steps[-1]] = values
    return whole, path


type_of = cache(inspect.type_info)
"""What msgspec knows of a type; it takes milliseconds to tell."""


def required(table: type[Struct]) -> dict[str, Any]:
    kind = type_of(table)
    assert isinstance(kind, inspect.StructType)
    values = {field.name: example_value(table, field.name) for field in kind.fields if field.required}
    return {**({kind.tag_field: kind.tag} if kind.tag_field else {}), **values}


KEYS = [(table, key) for table, keys in EXAMPLES.items() for key in keys]
WRONG_TYPES: tuple[Any, ...] = (
    True,
    3,
    -1.5,
    "\x1b[31mtext",
    [],
    [[]],
    {},
    {"zzz": 1},
    tomllib.loads("d = 2024-05-01")["d"],
)


def kinds_of(kind: inspect.Type) -> set[type]:
    """The Python types of the raw values that a type takes."""
    match kind:
        case inspect.Metadata(type=inner):
            return kinds_of(inner)
        case inspect.UnionType(types=types):
            return set().union(*(kinds_of(member) for member in types))
        case inspect.BoolType():
            return {bool}
        case inspect.IntType():
            return {int}
        case inspect.FloatType():
            return {int, float}
        case inspect.StrType() | inspect.LiteralType():
            return {str}
        case inspect.VarTupleType():
            return {list}
        case inspect.StructType() | inspect.DictType():
            return {dict}
    return set()


def field_of(table: type[Struct], key: str) -> inspect.Field:
    kind = type_of(table)
    assert isinstance(kind, inspect.StructType)
    return next(field for field in kind.fields if field.name == key)


def complaint_of(raw: dict[str, Any]) -> str | None:
    """The line about a raw scenario; None where it can be played."""
    source = Source("x.toml")
    try:
        scenario = convert(raw, Scenario, source)
        if complaint := first_conflict(scenario):
            raise input_error(source, complaint)
    except InputError as error:
        return str(error)
    return None


def one_line(line: str, place: str) -> None:
    assert line.startswith(f"x.toml: {place}"), line
    assert line.isprintable()
    assert "; " in line, "there is no mend"


@pytest.mark.parametrize(("table", "key"), KEYS, ids=[f"{table.__name__}.{key}" for table, key in KEYS])
def test_a_value_of_a_wrong_type_is_named_by_its_key(table: type[Struct], key: str) -> None:
    takes = kinds_of(field_of(table, key).type)
    tried = 0
    for value in WRONG_TYPES:
        if type(value) in takes:
            continue
        raw, path = raw_of(table, required(table) | {key: value})
        line = complaint_of(raw)
        assert line is not None, (key, value)
        one_line(line, f"{path}.{key}" if path else key)
        tried += 1
    assert tried >= 4


@pytest.mark.parametrize(("table", "key"), KEYS, ids=[f"{table.__name__}.{key}" for table, key in KEYS])
def test_a_misspelled_key_gets_the_right_one_suggested(table: type[Struct], key: str) -> None:
    for wrong in (key.upper(), f"{key}s", key[:-1] + key[-1] * 2):
        if any(wrong in keys for keys in EXAMPLES.values()):  # right elsewhere: then that is suggested
            continue
        raw, path = raw_of(table, required(table) | {wrong: example_value(table, key)})
        line = complaint_of(raw)
        assert line is not None
        one_line(line, f"{path}.{wrong}: unknown key" if path else f"{wrong}: unknown key")
        assert f"`{key}`" in line, line


def numbers(kind: inspect.Type) -> list[inspect.IntType | inspect.FloatType]:
    match kind:
        case inspect.Metadata(type=inner) | inspect.VarTupleType(item_type=inner):
            return numbers(inner)
        case inspect.UnionType(types=types):
            return [number for member in types for number in numbers(member)]
        case inspect.IntType() | inspect.FloatType():
            return [kind]
    return []


NUMBERS = [(table, key) for table, key in KEYS if numbers(field_of(table, key).type)]


@pytest.mark.parametrize(("table", "key"), NUMBERS, ids=[f"{table.__name__}.{key}" for table, key in NUMBERS])
def test_a_number_outside_its_range_is_named_by_its_key(table: type[Struct], key: str) -> None:
    (kind,) = numbers(field_of(table, key).type)
    listed = list in kinds_of(field_of(table, key).type)
    low = kind.ge if kind.ge is not None else kind.gt
    beyond: list[Any] = [2**63, float("inf"), float("nan")] if isinstance(kind, inspect.FloatType) else [2**63]
    beyond += [low - 1] if low is not None else []
    beyond += [kind.gt] if kind.gt is not None else []
    beyond += [kind.le + 1] if kind.le is not None else []
    assert len(beyond) >= 2
    for value in beyond:
        raw, path = raw_of(table, required(table) | {key: [value] if listed else value})
        line = complaint_of(raw)
        assert line is not None, (key, value)
        one_line(line, f"{path}.{key}" if path else key)


@pytest.mark.parametrize("key", [*LIMITS, "request_s", "duration_s", "ramp_in_s", "mean_s", "keep_warm_s", "stall_s"])
def test_a_number_that_no_machine_could_hold_is_refused(key: str) -> None:
    table = next(table for table, keys in EXAMPLES.items() if key in keys)
    most = LIMITS.get(key, 366 * 86_400)
    values = required(table) | ({"target": "foundry"} if key in ("keep_warm_s", "stall_s") else {})
    values.pop("target", None)
    for value, fits in ((most, True), (most + 1, False)):
        raw, path = raw_of(table, values | {key: [value] if key == "concurrency" else value})
        if key == "context_tokens":
            raw["models"][0]["llamacpp"]["slots"] = 1
        line = complaint_of(raw)
        assert (line is None) == fits, line
        if line is not None:
            one_line(line, f"{path}.{key}" if path else key)
            assert line.endswith("; lower it")


def test_slots_and_their_context_together_must_be_countable() -> None:
    raw = SMALLEST | {"models": [{"name": "a", "llamacpp": {"slots": 256, "context_tokens": 10_000_000}}]}
    line = complaint_of(raw)
    assert line is not None
    one_line(line, "models[0].llamacpp.context_tokens: 256 slots of 10,000,000 tokens each")


def test_levels_that_would_have_one_name_are_one_too_many() -> None:
    line = complaint_of(SMALLEST | {"load": {"mode": "poisson", "rates_per_s": [1.0000001, 1.0000002]}})
    assert line == "x.toml: load.rates_per_s[1]: 1 is listed twice; leave one out"


# --- anything at all --------------------------------------------------------------------------------------------------

names = st.sampled_from(
    sorted({key for keys in EXAMPLES.values() for key in keys} | {"mode", "zzz", "", "a b", "Load"})
)
texts = st.sampled_from(
    ["", "x", "closed", "ramp", "poisson", "trace", "foundry", "openai", "http://h/v1", "a b", "\x1b]0;x\x07", "\u202e"]
) | st.text(max_size=8)
scalars = (
    st.none().map(lambda _: 0)
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.integers(-2, 40)
    | st.floats()
    | texts
    | st.datetimes()
)
values: st.SearchStrategy[Any] = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=4), max_leaves=8
)

FULL: dict[str, Any] = {
    "name": "x",
    "prompts": [{"text": "a", "id": "a", "key_points": ["k"]}, "b"],
    "description": "d",
    "system": "s",
    "seed": 3,
    "models": [
        {"name": "m", "url": "http://h/v1"},
        {"name": "e", "llamacpp": {"slots": 2, "context_tokens": 512, "threads": 1, "prefill_threads": 1}},
        {"name": "f", "foundry": {"device": "cpu", "port": 0, "stall_s": 3.0, "catalog": ["http://c/x"]}},
        {"name": "p", "target": "python:a.b:C", "options": {"k": 1}},
    ],
    "order": "interleaved",
    "load": {"mode": "closed", "concurrency": [1, 2], "requests": 4, "think_time": {"mean_s": 0.5}},
    "sampling": {"max_tokens": 5, "temperature": 0.5, "top_p": 0.5, "stop": ["x"], "extra": {"top_k": 3}},
    "warmup_requests": 0,
    "timeouts": {"request_s": 3.0, "headers_s": 1.0},
    "slo": {"ttft_ms": 3.0, "attainment": 0.5},
    "select": {"weights": {"quality": 0.5}, "require": {"license": "commercial", "ok_share": 0.9}, "level": "c1"},
    "keep_text": True,
    "probe": False,
}
LOADS: list[dict[str, Any]] = [
    FULL["load"],
    {"mode": "constant", "rates_per_s": [1, 2.5], "duration_s": 2, "max_in_flight": 3, "at_limit": "queue"},
    {"mode": "poisson", "rates_per_s": [1], "requests": 3},
    {"mode": "gamma", "rates_per_s": [1], "burstiness": 0.5, "requests": 3},
    {"mode": "ramp", "from_per_s": 0, "to_per_s": 2, "duration_s": 3, "arrivals": "poisson"},
]


def places_in(node: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of every value within a value."""
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, item in items:
        yield (*path, key)
        yield from places_in(item, (*path, key))


@st.composite
def nearly_right(draw: st.DrawFn) -> dict[str, Any]:
    """A whole scenario in which up to three things are changed, taken out, or put in."""
    raw = copy.deepcopy(FULL) | {"load": copy.deepcopy(draw(st.sampled_from(LOADS)))}
    for _ in range(draw(st.integers(0, 3))):
        *path, last = draw(st.sampled_from(list(places_in(raw))))
        node: Any = raw
        for step in path:
            node = node[step]
        match draw(st.sampled_from(["change", "take", "put"])):
            case "change":
                node[last] = draw(values)
            case "take":
                del node[last]
            case _ if isinstance(node, dict):
                node[draw(names)] = draw(values)
    return raw


def is_played_or_refused(raw: dict[str, Any]) -> None:
    """What the types let through makes a plan, with a digest and deadlines; all else is one line."""
    source = Source("x.toml")
    try:
        scenario = convert(raw, Scenario, source)
        if complaint := first_conflict(scenario):
            raise input_error(source, complaint)
        if isinstance(scenario.prompts, PromptFiles):
            load_prompts(scenario, Path(), "x.toml")
        loaded = LoadedScenario(scenario, None, Path(), "x.toml")
        made = api.plan_of(loaded)
    except InputError as error:
        assert str(error).isprintable()
        assert SECRET not in str(error)
        return
    assert len(digest(made)) == 64
    deadlines_of(scenario.timeouts, first_limit_ns(scenario))
    assert msgspec.json.encode(scenario)


@pytest.mark.slow
@given(nearly_right())
@settings(max_examples=300, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@example(FULL | {"load": {"mode": "closed", "duration_s": 1e308}})
@example(FULL | {"load": {"mode": "closed", "concurrency": [2**62]}})
@example(FULL | {"load": {"mode": "closed", "requests": 2**62, "think_time": {"mean_s": 1.0}}})
@example(FULL | {"timeouts": {"first_token_s": 1e308}})
def test_a_scenario_that_is_nearly_right_is_played_or_refused_in_one_line(raw: dict[str, Any]) -> None:
    is_played_or_refused(raw)


@pytest.mark.slow
@given(st.dictionaries(names, values, max_size=6))
@settings(max_examples=200)
def test_any_table_is_played_or_refused_in_one_line(raw: dict[str, Any]) -> None:
    is_played_or_refused(SMALLEST | raw)


@pytest.mark.slow
@given(
    st.lists(
        st.sampled_from(
            ["name", "=", '"x"', "[", "]", "{", "}", ",", "\n", "1e999", "'''", "\\", ".", "é", "\x00", "[[a]]"]
        )
    )
)
@settings(max_examples=200)
def test_any_text_is_a_scenario_or_refused_in_one_line(pieces: list[str]) -> None:
    Path("any.toml").write_text("".join(pieces), encoding="utf-8", newline="")
    with pytest.raises(InputError) as caught:  # none of these has both a name and a prompt
        load_scenario("any.toml")
    assert str(caught.value).isprintable()
    assert str(caught.value).startswith("any.toml: ")


@pytest.mark.slow
@given(st.binary(max_size=60))
@settings(max_examples=200)
def test_any_bytes_are_a_file_or_refused_in_one_line(data: bytes) -> None:
    for name, read in ANY_FILE.items():
        Path(name).write_bytes(data)
        try:
            read(Path(name))
        except InputError as error:
            assert str(error).isprintable()
            assert str(error).startswith(name)


def prompts_of(path: Path) -> object:
    return load_prompts(Scenario(name="x", prompts=PromptFiles(files=str(path))), Path(), "x.toml")


ANY_FILE: dict[str, Callable[[Path], object]] = {
    "any.toml": load_scenario,
    "a.txt": prompts_of,
    "a.jsonl": prompts_of,
    "a.json": prompts_of,
    "models.json": read_model_list,
}


# --- files ------------------------------------------------------------------------------------------------------------


def refusal_of(read: Callable[[Path], object], path: Path) -> str:
    with pytest.raises(InputError) as caught:
        read(path)
    assert str(caught.value).isprintable()
    return str(caught.value)


@pytest.mark.parametrize("suffix", [".txt", ".md", ".toml", ".jsonl", ".json", ".csv"])
def test_a_huge_file_that_is_not_text_is_refused_before_it_is_read(suffix: str) -> None:
    path = Path(f"huge{suffix}")
    with path.open("wb") as file:
        file.truncate(100 << 20)  # a hole: it takes no room, and reading it would take as much as any other
    assert refusal_of(prompts_of, path) == f"{path}: line 1: not UTF-8 text (a byte 0x00); save it as UTF-8"


@pytest.mark.parametrize("suffix", [".txt", ".md", ".toml"])
def test_a_huge_file_of_one_prompt_is_refused(suffix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("loadgen.plan.prompts.MAX_BYTES", 1 << 20)
    path = Path(f"huge{suffix}")
    path.write_bytes(b"long " * (1 << 18))
    assert refusal_of(prompts_of, path) == f"{path}: more than 1 MiB; split it, or name another file"


def test_a_file_that_grows_without_end_is_not_read_to_its_end() -> None:
    if not Path("/dev/zero").exists():
        pytest.skip("needs /dev/zero")
    with pytest.raises(InputError, match="more than 1 MiB"):
        read_text(Path("/dev/zero"), 1 << 20)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"one\ntw\x00o", "line 2: not UTF-8 text (a byte 0x00); save it as UTF-8"),
        ("one\ntwo".encode("utf-16"), "line 1: not UTF-8"),
        ("one\ntwo".encode("utf-16-le"), "line 1: not UTF-8"),
        (b"one\n\n\xc3\x28", "line 3: not UTF-8 (byte 0xc3); save it as UTF-8"),
        (b"\xed\xa0\x80", "line 1: not UTF-8 (byte 0xed); save it as UTF-8"),
        (b"", "empty; write a prompt into it, or leave it out"),
        (b"\xef\xbb\xbf", "empty; write a prompt into it, or leave it out"),
    ],
)
def test_a_file_that_is_no_text_is_named_with_its_line(data: bytes, said: str) -> None:
    Path("a.txt").write_bytes(data)
    assert refusal_of(prompts_of, Path("a.txt")).startswith(f"a.txt: {said}")


def test_a_line_that_is_malformed_is_named_by_its_number() -> None:
    lines = [json.dumps({"text": f"number {i}"}) for i in range(1, 101)]
    for number, broken in itertools.product((1, 50, 100), ('{"text": "a"', "[1]", "7", '{"text": 7}', '{"txt": "a"}')):
        Path("a.jsonl").write_text("\n".join([*lines[: number - 1], broken, *lines[number:]]), encoding="utf-8")
        assert refusal_of(prompts_of, Path("a.jsonl")).startswith(f"a.jsonl: line {number}: ")


def test_a_file_that_cannot_be_opened_is_named_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> NoReturn:
        raise PermissionError(13, "Permission denied")

    Path("a.txt").write_text("x", encoding="utf-8")
    monkeypatch.setattr(Path, "open", refuse)
    line = refusal_of(prompts_of, Path("a.txt"))
    assert line == "a.txt: cannot be read: Permission denied; fix that, or name another file"


@pytest.mark.skipif(not hasattr(os, "symlink") or sys.platform == "win32", reason="needs symbolic links")
def test_a_loop_of_links_is_no_file() -> None:
    Path("a.txt").symlink_to("b.txt")
    Path("b.txt").symlink_to("a.txt")
    Path("sub").mkdir()
    Path("sub/up").symlink_to("..")
    for pattern in ("a.txt", "*.txt", "**/*.txt", "sub/up/a.txt"):
        assert refusal_of(prompts_of, Path(pattern)).startswith("x.toml: prompts.files: no file matches ")


# --- the command line -------------------------------------------------------------------------------------------------


def said(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *words: str) -> str:
    """The one line that a command leaves on standard error, with exit code 2 and nothing else."""
    monkeypatch.setattr(sys, "argv", ["loadgen", *words])
    with pytest.raises(SystemExit) as ended:
        app.main()
    out, err = capsys.readouterr()
    assert ended.value.code == 2, err
    assert out == ""
    assert err.startswith("loadgen: ")
    assert err.count("\n") == 1
    assert err[:-1].isprintable()
    assert SECRET not in err
    assert not Path("results").exists()
    return err


ENDPOINTS = {
    "api.example.com/v1": 'write "http://api.example.com/v1"',
    "api.example.com:8080/v1": 'write "http://api.example.com:8080/v1"',
    "localhost": 'write "http://localhost/v1"',
    f"http://me:{SECRET}@h:8080/v1": 'write "http://h:8080/v1", and set LOADGEN_API_KEY',
    f"http://{SECRET}@h/v1": 'write "http://h/v1", and set LOADGEN_API_KEY',
    f"me:{SECRET}@h/v1": 'write "http://h/v1", and set LOADGEN_API_KEY',
    f"//me:{SECRET}@h/v1": 'write "http://h/v1", and set LOADGEN_API_KEY',
    f"http:/me:{SECRET}@h/v1": 'write "http://h/v1", and set LOADGEN_API_KEY',
    f"{SECRET}@h/v1": 'write "http://h/v1", and set LOADGEN_API_KEY',
    f"http://h/v1?api_key={SECRET}": 'write "http://h/v1", and set LOADGEN_API_KEY',
    f"http://h/v1?api-version=1&code={SECRET}": 'write "http://h/v1"',
    f"h:80/v1?subscription-key={SECRET}": 'write "http://h:80/v1"',
    "http://h/v1?x=Zm9vYmFyMTIzNDU2Nzg5MA": 'write "http://h/v1"',
    "http://a b/v1": "is not an address",
    "http://h:99999/v1": "is not an address",
    "http://h:0/v1": "is not an address",
    "http://h:-1/v1": "is not an address",
    "http://h\u202e/v1": "is not an address",
    "http://h\x1b/v1": "is not an address",
    "http:///v1": "is not an address",
    "http://h\\v1": "is not an address",
    "http://[::1/v1": "is not an address",
    "http://h]/v1": "is not an address",
    "123456": "is not an address",
    "0": "is not an address",
    "99999": "is not an address",
    "http://h/v1#a": 'write "http://h/v1"',
    "ftp://h/v1": 'write "http://h/v1"',
    "file:///etc/passwd": "is neither http nor https",
    "": "is not an address",
}


@pytest.mark.parametrize("url", ENDPOINTS)
def test_an_address_that_cannot_be_meant_is_refused_with_the_mend(
    url: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for words in (
        ("run", "--url", url, "--model", "m"),
        ("plan", "x.toml", "--set", f"models=[{{name='a',url={json.dumps(url)}}}]"),
        ("models", "--url", url),
    ):
        assert ENDPOINTS[url] in said(capsys, monkeypatch, *words)
    if url:  # an empty variable is not set
        monkeypatch.setenv("FOUNDRY_LOCAL_ENDPOINT", url)
        assert "FOUNDRY_LOCAL_ENDPOINT: " in said(capsys, monkeypatch, "run", "--model", "m")


COMMANDS: list[tuple[str, str]] = [
    # contradictions
    ("run x.toml --rate 1 --concurrency 2", "--concurrency 2 with --rate 1"),
    ("run x.toml --arrivals poisson", "--arrivals poisson: a"),
    ("run x.toml --arrivals poison --rate 1", "constant, poisson or gamma:B"),
    ("run x.toml --rate 1,1", "is listed twice"),
    ("run x.toml --concurrency 2,2", "is listed twice"),
    ("run x.toml --model a --models-file models.json", "two lists of models"),
    ("run x.toml --url http://h/v1", "no model is named"),
    ("run --url http://a/v1 --url http://b/v1 --model a --model b --model c", "2 addresses for 3 models"),
    ("run --url http://a/v1 --model a --model a", "leave one out"),
    ("run x.toml --baseline a/b", "--baseline a/b: not a name"),
    ("models x.toml --url http://h/v1", "leave one of them out"),
    ("mock --queue 1", "--queue 1"),
    # values
    ("run x.toml --requests 0", "--requests 0"),
    ("run x.toml --requests -1", "--requests -1"),
    ("run x.toml --requests 1.5", "'--requests'"),
    ("run x.toml --requests 99999999999999999999", "--requests"),
    ("run x.toml --duration -1s", "--duration -1s"),
    ("run x.toml --duration 0", "--duration 0"),
    ("run x.toml --duration nan", "--duration nan"),
    ("run x.toml --duration 1e400s", "--duration 1e400s"),
    ("run x.toml --duration 9999999999h", "more than a year"),
    ("run x.toml --timeout 0", "--timeout 0"),
    ("run x.toml --concurrency 999999999", "more than 100,000"),
    ("run x.toml --concurrency 0", "--concurrency 0"),
    ("run x.toml --concurrency 1,,2", "--concurrency 1,,2"),
    ("run x.toml --rate 0", "--rate 0"),
    ("run x.toml --rate inf", "--rate inf"),
    ("run x.toml --warmup -1", "--warmup -1"),
    ("run x.toml --seed -1", "--seed -1"),
    ("run x.toml --max-tokens 0", "--max-tokens 0"),
    ("run x.toml --workers 0", "--workers"),
    ("run x.toml --workers many", "--workers"),
    ("run x.toml --set seed", "--set seed"),
    ("run x.toml --set =1", "--set =1"),
    ("run x.toml --set sed=1", "did you mean `seed`?"),
    (f"run x.toml --set sampling.extra.api_key={SECRET}", "set LOADGEN_API_KEY"),
    (f"run x.toml --set sampling.extra={{headers={{Authorization='{SECRET}'}}}}", "set LOADGEN_API_KEY"),
    (f"run x.toml --set models=[{{name='a',target='python:a:B',options={{hf_token='{SECRET}'}}}}]", "environment"),
    ("serve --port 99999", "'--port'"),
    ("serve --slots 0", "'--slots'"),
    ("serve --slots 1000", "--slots 1000"),
    ("serve --gguf nowhere.gguf", "--gguf nowhere.gguf: no such model file"),
    ("serve --model \t", "--model \\t: "),
    ("mock --port -1", "'--port'"),
    ("mock --host 192.0.2.1", "--host 192.0.2.1: not an address of this machine"),
    ("mock --ttft soon", "--ttft soon"),
    ("mock --prefill-rate nan", "--prefill-rate nan"),
    ("mock --fault nonsense", "--fault nonsense"),
    ("mock --truth nowhere/x", "--truth nowhere/x"),
    # files and words
    ("run nowhere.toml", "no such scenario"),
    ("run .", "a folder, not a scenario"),
    ("run", "neither SCENARIO nor --url"),
    ("run x.toml y.toml", "y.toml"),
    ("run x.toml --bogus", "--bogus"),
    ("run x.toml --models-file nowhere", "nowhere: cannot be read"),
    ("run x.toml --prompts-file nowhere", "--prompts-file nowhere"),
    ("run x.toml --out x.toml", "--out"),
    ("report", "RUN..."),
    ("report nowhere", "nowhere: not a run folder"),
    ("report x.toml", "x.toml: not a run folder"),
    ("dance", "dance"),
    ("--bogus", "--bogus"),
]


@pytest.mark.parametrize(("command", "word"), COMMANDS, ids=[command for command, _ in COMMANDS])
def test_a_wrong_command_is_one_line_and_exit_code_2(
    command: str, word: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert word in said(capsys, monkeypatch, *command.split(" "))


@pytest.mark.parametrize("verb", ["mock", "serve"])
def test_a_port_that_is_taken_is_one_line_with_the_mend(
    verb: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    more: tuple[str, ...] = ()
    if verb == "serve":
        pytest.importorskip("xllamacpp")
        pytest.importorskip("gguf")
        from tests.e2e.tiny import make_tiny_model

        more = ("--gguf", str(make_tiny_model(Path("tiny.gguf"))))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        line = said(capsys, monkeypatch, verb, "--port", str(port), *more)
    assert f"--port {port}: " in line
    assert "choose another, or 0 for a free one" in line


RUN = {"schema": SCHEMA, "run_id": "r"}


@pytest.mark.parametrize(
    ("manifest", "word"),
    [
        (json.dumps(RUN | {"schema": "loadgen.manifest/99"}), "loadgen.manifest/99"),
        (json.dumps(RUN), "not a manifest"),
        (json.dumps(RUN)[:-5], "not a manifest"),
        ("", "not a manifest"),
        ("[]", "not a manifest"),
        ("\x1b[2J", "not a manifest"),
    ],
)
def test_a_run_folder_that_cannot_be_read_is_one_line(
    manifest: str, word: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("r").mkdir()
    Path("r/manifest.json").write_text(manifest, encoding="utf-8")
    line = said(capsys, monkeypatch, "report", "r")
    assert word in line
    assert "r/manifest.json" in line.replace("\\", "/")


def test_a_manifest_that_is_a_folder_is_no_run(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("r/manifest.json").mkdir(parents=True)
    assert "r: not a run folder" in said(capsys, monkeypatch, "report", "r")


# --- what is masked ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (f"--url http://a:{SECRET}@h/v1", "--url http://…@h/v1"),
        (f"url = a:{SECRET}@h", "url = …@h"),
        (f'"a:{SECRET}@h"', '"…@h"'),
        (f"--url h:80/v1?x={SECRET}: models[0].url: a?", "--url h:80/v1?…: models[0].url: a?"),
        (f"h/v1?{SECRET}", "h/v1?…"),
        ("a/b: is it there? a c/d?", "a/b: is it there? a c/d?"),
        ("--model meta/llama@main", "--model meta/llama@main"),
        ("http://h:80/v1 and x@y", "http://h:80/v1 and x@y"),
    ],
)
def test_of_what_looks_like_a_password_nothing_is_shown(text: str, shown: str) -> None:
    assert redact_url(text) == shown


def test_what_every_error_says_is_one_line() -> None:
    assert str(LoadgenError("a\nb\r\n  c")) == "a b c"
    assert isinstance(Scenario(name="x", prompts="a").load, Closed)
