"""The JSON Schema for editors: made from the types, committed, and true of the scenarios that come along."""

import json
import tomllib
from pathlib import Path
from typing import Any

import jsonschema
import msgspec
import pytest
from msgspec import Struct, inspect

from loadgen.plan.prompts import load_prompts
from loadgen.scenario import Closed, Constant, Gamma, Poisson, Ramp, Sampling, Scenario
from loadgen.scenario.file import load_scenario
from loadgen.scenario.schema import (
    EXAMPLES,
    example_value,
    help_of,
    scenario_schema,
    table_description_of,
    write_schema,
)

SCENARIOS = Path(__file__).parents[3] / "scenarios"
FILES = sorted(SCENARIOS.glob("*.toml"))
KEYS = [(table, key) for table in EXAMPLES for key in table.__struct_fields__]


@pytest.fixture(scope="module")
def schema() -> dict[str, Any]:
    """Made once, as it takes a quarter of a second. No test changes it."""
    return scenario_schema()


def test_the_committed_schema_is_the_one_that_the_types_give(tmp_path: Path) -> None:
    write_schema(tmp_path / "made.json")
    committed = (SCENARIOS / "scenario.schema.json").read_text(encoding="utf-8")
    assert committed == (tmp_path / "made.json").read_text(encoding="utf-8"), (
        'make it anew: python -c "from loadgen.scenario.schema import write_schema as w; '
        "w('scenarios/scenario.schema.json')\""
    )


def test_the_schema_is_a_schema(schema: dict[str, Any]) -> None:
    jsonschema.Draft7Validator.check_schema(schema)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_scenario_that_comes_along_names_the_schema_fits_it_and_loads(path: Path, schema: dict[str, Any]) -> None:
    text = path.read_text(encoding="utf-8")
    assert text.startswith("#:schema ./scenario.schema.json\n")
    jsonschema.Draft7Validator(schema).validate(tomllib.loads(text))
    loaded = load_scenario(path)
    assert loaded.scenario.name == path.stem
    assert load_prompts(loaded.scenario, loaded.folder, loaded.where)


def test_the_scenarios_that_come_along_are_these() -> None:
    assert {path.stem for path in FILES} >= {"chat-poisson", "smoke", "summarizer", "summarizer-full"}


def test_the_full_summarizer_differs_only_in_its_levels_and_how_long_they_are() -> None:
    short, full = (load_scenario(SCENARIOS / f"{name}.toml").scenario for name in ("summarizer", "summarizer-full"))
    assert isinstance(full.load, Closed) and isinstance(short.load, Closed)
    assert full.load.concurrency == (*short.load.concurrency, 8)
    load = msgspec.structs.replace(
        full.load, concurrency=short.load.concurrency, requests=12, duration_s=10.0, min_requests=6
    )
    assert msgspec.structs.replace(full, name=short.name, description=short.description, load=load) == short


def test_every_table_of_the_format_has_examples_of_every_key() -> None:
    tables: dict[type[Struct], tuple[str, ...]] = {}

    def walk(kind: inspect.Type) -> None:
        match kind:
            case inspect.Metadata(type=inner) | inspect.VarTupleType(item_type=inner):
                walk(inner)
            case inspect.DictType(value_type=inner):
                walk(inner)
            case inspect.UnionType(types=types):
                for member in types:
                    walk(member)
            case inspect.StructType(cls=cls, fields=fields):
                tables[cls] = tuple(field.name for field in fields)
                for field in fields:
                    walk(field.type)

    walk(inspect.type_info(Scenario))
    assert {table: set(keys) for table, keys in tables.items()} == {
        table: set(keys) for table, keys in EXAMPLES.items()
    }


@pytest.mark.parametrize(("table", "key"), KEYS, ids=[f"{table.__name__}.{key}" for table, key in KEYS])
def test_every_key_has_its_help_and_its_example_fits(table: type[Struct], key: str, schema: dict[str, Any]) -> None:
    body = schema if table is Scenario else schema["definitions"][table.__name__]
    of_key = body["properties"][key]
    words = help_of(table)[key]
    assert of_key["description"].startswith(words[0].upper() + words[1:])
    assert of_key["examples"] == [example_value(table, key)]
    rules = {**of_key, "definitions": schema["definitions"]}
    jsonschema.Draft7Validator(rules).validate(example_value(table, key))


def test_help_is_the_text_under_the_field() -> None:
    assert help_of(Ramp)["duration_s"] == "Seconds from the first rate to the last"
    assert help_of(Ramp)["from_per_s"] == "The first rate in requests per second; one of the two rates is above 0"
    assert help_of(Sampling)["temperature"] == "The sampling temperature; 0 is greedy"


def test_keys_as_in_constant_have_its_help() -> None:
    assert help_of(Poisson) == help_of(Constant)
    assert help_of(Ramp)["max_in_flight"] == help_of(Gamma)["max_in_flight"] == help_of(Constant)["max_in_flight"]


def test_a_table_is_described_by_its_first_paragraph() -> None:
    assert table_description_of(Sampling) == (
        "How the model generates. The defaults are repeatable: greedy, with a seed."
    )


def test_nothing_in_the_schema_is_null_since_toml_has_none(schema: dict[str, Any]) -> None:
    assert "null" not in json.dumps(schema)
