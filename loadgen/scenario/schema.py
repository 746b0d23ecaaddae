"""The documentation of the scenario's types: the help and an example for each key, and the JSON Schema for editors.

Opens no file except the schema itself.
"""

import ast
import inspect
import json
import textwrap
import tomllib
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from loadgen.scenario import (
    Closed,
    Constant,
    Enough,
    FoundryLocal,
    Gamma,
    HeaderFromEnvironment,
    InlinePrompt,
    LlamaCpp,
    Model,
    Poisson,
    PromptFiles,
    QualityTable,
    Ramp,
    Requirements,
    Retries,
    Sampling,
    Scenario,
    SelectTable,
    SelectWeights,
    Slo,
    SoakTable,
    ThinkTime,
    Timeouts,
    Trace,
)
from loadgen.scenario.cost import CostSettings

_LIMIT = {"max_in_flight": "64", "at_limit": '"queue"'}
_RATED = {"rates_per_s": "[0.5, 1.0, 2.0]", "requests": "20", "duration_s": "30.0", **_LIMIT}

EXAMPLES: dict[type[Struct], dict[str, str]] = {
    Scenario: {
        "name": '"my-scenario"',
        "prompts": '["Say hello."]',
        "description": '"Short chats"',
        "build": '"b10711"',
        "system": '"You answer briefly."',
        "seed": "1",
        "models": '[{ name = "smollm2-135m" }]',
        "headers": '{ "api-key" = { env = "GATEWAY_KEY" } }',
        "order": '"one_after_another"',
        "load": '{ mode = "closed", concurrency = [1, 2, 4, 8] }',
        "sampling": "{ max_tokens = 48 }",
        "warmup_requests": "1",
        "timeouts": "{ request_s = 60.0 }",
        "retries": "{ attempts = 2 }",
        "slo": "{ ttft_ms = 2000.0 }",
        "quality": "{ score = false }",
        "select": "{ weights = { quality = 0.6 } }",
        "soak": "{ concurrency = 2, duration_s = 28800.0 }",
        "keep_text": "true",
        "probe": "true",
        "preflight": "false",
        "strict": "true",
        "until": '"ttft_p99:5%"',
    },
    InlinePrompt: {"text": '"Say hello."', "id": '"hello"', "key_points": '["a greeting"]'},
    PromptFiles: {
        "files": '"prompts/*.txt"',
        "template": '"Summarize: {text}"',
        "order": '"shuffled"',
        "text_files": '"one_per_line"',
    },
    Sampling: {
        "max_tokens": "48",
        "temperature": "0.7",
        "seed": "1",
        "top_p": "0.95",
        "stop": '["###"]',
        "stream": "true",
        "extra": "{ top_k = 40 }",
        "omit": '["seed"]',
    },
    ThinkTime: {"mean_s": "2.0", "distribution": '"exponential"'},
    Closed: {
        "concurrency": "[1, 2, 4, 8]",
        "requests": "16",
        "duration_s": "30.0",
        "min_requests": "6",
        "think_time": "{ mean_s = 2.0 }",
        "ramp_in_s": "1.0",
        "max_requests_per_s": "5",
    },
    Constant: _RATED,
    Poisson: _RATED,
    Gamma: {**_RATED, "burstiness": "0.5"},
    Ramp: {
        "from_per_s": "0.0",
        "to_per_s": "5.0",
        "duration_s": "60.0",
        "arrivals": '"poisson"',
        **_LIMIT,
    },
    Trace: {"file": '"arrivals.txt"', "speed": "2.0", "requests": "100", **_LIMIT},
    LlamaCpp: {
        "gguf": '"models/my-model.gguf"',
        "slots": "4",
        "context_tokens": "2048",
        "threads": "4",
        "prefill_threads": "4",
    },
    FoundryLocal: {
        "device": '"gpu"',
        "embedded": "true",
        "cache": '"models"',
        "port": "5273",
        "endpoint": '"http://127.0.0.1:5273/v1"',
        "keep_warm_s": "20.0",
        "stall_s": "60.0",
        "catalog": '["https://example.com/asset-gallery/v1.0/models"]',
    },
    Model: {
        "name": '"smollm2-135m"',
        "target": '"openai"',
        "url": '"http://localhost:8080/v1"',
        "headers": '{ "x-tenant" = "team-a" }',
        "llamacpp": "{ slots = 4 }",
        "foundry": '{ device = "gpu" }',
        "options": '{ device = "cpu" }',
        "python_path": '"adapters"',
    },
    HeaderFromEnvironment: {"env": '"GATEWAY_KEY"', "prefix": '"Bearer "'},
    Timeouts: {
        "request_s": "60.0",
        "headers_s": "10.0",
        "first_token_s": "20.0",
        "next_token_s": "5.0",
        "ready_s": "300.0",
    },
    Retries: {
        "attempts": "2",
        "on": '["connect_error", "http_429", "http_503"]',
        "backoff_s": "0.5",
        "max_backoff_s": "30.0",
        "jitter": "0.2",
    },
    Slo: {
        "ttft_ms": "2000.0",
        "tpot_ms": "150.0",
        "e2e_ms": "10000.0",
        "attainment": "0.95",
        "objectives": '["ttft_p95=2s", "ok=99%"]',
    },
    QualityTable: {"score": "true", "aspects": '{ complete = "names every decision" }'},
    SelectTable: {
        "weights": "{ quality = 0.6, latency = 0.4 }",
        "require": '{ license = "commercial", memory_mib = 2048.0 }',
        "cost": "{ watts = 15.0, price_per_kwh = 0.30 }",
        "enough": "{ latency_ms = 1000.0 }",
        "level": '"c1"',
        "quality_by": '"hand"',
    },
    SoakTable: {
        "concurrency": "2",
        "rate_per_s": "0.5",
        "duration_s": "28800.0",
        "window_s": "60.0",
        "disk": '"2GiB"',
        "matters": "0.05",
    },
    SelectWeights: {
        "quality": "0.4",
        "latency": "0.2",
        "memory": "0.15",
        "throughput": "0.1",
        "cost": "0.1",
        "disk": "0.05",
    },
    Requirements: {
        "license": '"commercial"',
        "accept_licenses": '["llama3.2"]',
        "memory_mib": "2048.0",
        "disk_mib": "1024.0",
        "quality": "30.0",
        "slo_share": "0.9",
        "ok_share": "0.99",
        "latency_ms": "5000.0",
        "context_tokens": "2048",
        "capabilities": '["summarize"]',
        "device": '"cpu"',
        "cost": "0.5",
    },
    CostSettings: {
        "watts": "15.0",
        "price_per_kwh": "0.30",
        "device_price": "600.0",
        "lifetime_years": "4.0",
        "utilization": "0.1",
        "currency": '"EUR"',
        "energy_factor": "1.0",
    },
    Enough: {
        "quality": "80.0",
        "latency_ms": "1000.0",
        "memory_mib": "512.0",
        "requests_per_s": "2.0",
        "cost": "0.1",
        "disk_mib": "256.0",
    },
}
"""For every table of the format, an example value of each key, as TOML."""


def table_description_of(table: type[Struct]) -> str:
    """The description of a table: the first paragraph of its docstring, on one line."""
    return " ".join((inspect.getdoc(table) or "").split("\n\n")[0].split())


@cache
def help_of(table: type[Struct]) -> dict[str, str]:
    """The help for each key of a table: the docstring of its field; if a kind of load has none, that of `Constant`."""
    (definition,) = ast.parse(textwrap.dedent(inspect.getsource(table))).body
    assert isinstance(definition, ast.ClassDef)
    texts = {}
    for field, below in pairwise(definition.body):
        match field, below:
            case ast.AnnAssign(target=ast.Name(id=key)), ast.Expr(value=ast.Constant(value=str(text))):
                texts[key] = " ".join(text.split()).removesuffix(".")
    shared = {} if table is Constant else help_of(Constant)
    return {key: texts[key] if key in texts else shared[key] for key in table.__struct_fields__}


def example_value(table: type[Struct], key: str) -> object:
    """The example of a key as a value."""
    return tomllib.loads(f"v = {EXAMPLES[table][key]}")["v"]


def scenario_schema() -> dict[str, Any]:
    """The JSON Schema of a scenario file, with help and an example for every key.

    It is draft 7, the draft that editors support for TOML. Draft 7 needs `definitions`, and ignores the keys beside a
    `$ref`, so each `$ref` is wrapped in an `allOf`.
    """
    _, tables = msgspec.json.schema_components((Scenario,), ref_template="#/definitions/{name}")
    for table, examples in EXAMPLES.items():
        body = tables[table.__name__]
        body["description"] = table_description_of(table)
        texts = help_of(table)
        for key, schema in body["properties"].items():
            if key in examples:
                body["properties"][key] = _described(schema, texts[key], example_value(table, key))
            else:  # the tag of a kind of load
                schema["description"] = f"The kind of load. {body['description']}"
    root = tables.pop("Scenario")
    head = {"$schema": "http://json-schema.org/draft-07/schema#", "title": "loadgen scenario"}
    return {**head, **{key: value for key, value in root.items() if key != "title"}, "definitions": tables}


def schema_text() -> str:
    """The text of scenarios/scenario.schema.json."""
    return json.dumps(scenario_schema(), indent=2, ensure_ascii=False) + "\n"


def write_schema(path: str | Path) -> None:
    """Writes the schema to a file. A test compares the committed file with `schema_text`."""
    Path(path).write_text(schema_text(), encoding="utf-8", newline="\n")


def _described(schema: dict[str, Any], text: str, example: object) -> dict[str, Any]:
    tidy: dict[str, Any] = _for_toml(schema)
    allowed = tidy.pop("description", "")
    if "$ref" in tidy:
        tidy = {"allOf": [{"$ref": tidy.pop("$ref")}], **tidy}
    words = f"{text[0].upper()}{text[1:]}. {allowed}".strip()
    return {"description": words, **tidy, "examples": [example]}


def _for_toml(schema: Any) -> Any:
    """The schema without null (TOML has none), without unknown keys, and with patterns as JSON Schema writes them."""
    if isinstance(schema, list | tuple):  # defaults come as tuples
        return [_for_toml(item) for item in schema if item != {"type": "null"}]
    if not isinstance(schema, dict):
        return schema
    if len(either := [item for item in schema.get("anyOf", []) if item != {"type": "null"}]) == 1:
        schema = {**{key: value for key, value in schema.items() if key != "anyOf"}, **either[0]}
    tidy = {key: _for_toml(value) for key, value in schema.items() if value is not None and key != "discriminator"}
    if "pattern" in tidy:
        tidy["pattern"] = tidy["pattern"].replace(r"\Z", "$")
    return tidy
