"""Checks that types cannot express: keys that must agree with each other, and addresses that must be usable.

Opens no file; every problem names one key.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import msgspec

from loadgen.scenario import (
    ADAPTER,
    PYTHON_PREFIX,
    Closed,
    FoundryLocal,
    LlamaCpp,
    Load,
    Model,
    Ramp,
    Sampling,
    Scenario,
    Slo,
    SoakTable,
    Trace,
)
from loadgen.scenario.headers import conflicts_of_headers
from loadgen.scenario.limits import over_limit
from loadgen.scenario.objective import (
    STREAMED_LATENCIES,
    first_repeated,
    limits_ms,
    mismatch_of_objective,
    objective_of,
)
from loadgen.scenario.problem import Problem, key_path, toml_text
from loadgen.scenario.soak import parse_bytes
from loadgen.scenario.stop_rule import STREAMED, mismatch, stop_rule_of
from loadgen.scenario.types import RawTable
from loadgen.scenario.urls import CREDENTIALS, KEY_HINT, mismatch_of_address, mismatch_of_endpoint, place_name

_OWN_KEYS = ("model", "messages")
_SAMPLING_KEYS = ("max_tokens", "temperature", "seed", "top_p", "stop", "stream")
_KEY_NAMES = re.compile(
    r"(?:.*[_-])?(?:api[_-]?key|authorization|auth|bearer|password|passwd|secret|(?:access|auth|api|bearer)[_-]?token|token)",
    re.IGNORECASE,
)
_API_TOKEN = re.compile(r"(?:.*[_-])?(?:access|auth|api|bearer)[_-]?token", re.IGNORECASE)
"""Names that suggest a token of an API, and not one of the model (`eos_token`)."""
_CREDENTIAL = re.compile(r"(?=.*[0-9])[A-Za-z0-9_.=+/~-]{16,}")
_LONG_WORD = re.compile(r"\S{16,}")
_WINDOWS_DEVICES = re.compile(r"(?:con|prn|aux|nul|com[0-9]|lpt[0-9])(?:\..*)?", re.IGNORECASE)


def first_conflict(scenario: Scenario) -> Problem | None:
    """The first problem in a scenario whose types are right, or None."""
    return next(_conflicts(scenario), None)


def target_of(model: Model) -> str:
    """The model's target. The default is "openai" with a url, "foundry" with its options, and otherwise "llamacpp"."""
    return model.target or ("openai" if model.url is not None else "foundry" if model.foundry else "llamacpp")


def model_table(model: Model) -> RawTable:
    """A model as a table, without the options that are at their defaults, whether they were written or not."""
    table: RawTable = msgspec.to_builtins(model)
    for key, options in (("llamacpp", LlamaCpp()), ("foundry", FoundryLocal())):
        if table[key] is not None:
            defaults = msgspec.to_builtins(options)
            table[key] = {name: value for name, value in table[key].items() if value != defaults[name]}
    return table


def _conflicts(scenario: Scenario) -> Iterator[Problem]:
    if scenario.name.endswith(".") or _WINDOWS_DEVICES.fullmatch(scenario.name):
        yield Problem("name", f'"{scenario.name}" is not a valid folder name on every system', "choose another")
    yield from over_limit(scenario)
    for i, model in enumerate(scenario.models):
        yield from _conflicts_of_model(model, f"models[{i}]")
        for j, other in enumerate(scenario.models[:i]):
            if _identity(model) == _identity(other):
                yield Problem(f"models[{i}]", f"the same model as models[{j}]", "leave one out, or rename it")
    if scenario.headers and all(model.url is None for model in scenario.models):
        yield Problem("headers", "only endpoints get headers, and no model has a url", "leave them out, or add a url")
    yield from conflicts_of_headers(scenario.headers, "headers")
    yield from _conflicts_of_load(scenario.load)
    yield from _conflicts_of_sampling(scenario.sampling)
    yield from _conflicts_of_slo(scenario.slo, stream=scenario.sampling.stream)
    yield from _conflicts_of_soak(scenario.soak)
    if scenario.until is not None:
        yield from _conflicts_of_until(scenario.until, stream=scenario.sampling.stream)


def _conflicts_of_sampling(sampling: Sampling) -> Iterator[Problem]:
    yield from _keys_within(sampling.extra, "sampling.extra", f"leave it out, and {KEY_HINT}", _is_secret_of_body)
    for key in sampling.extra:
        if key in sampling.omit:  # the scenario replaces our key with its own
            continue
        if key in _OWN_KEYS:
            yield Problem(f"sampling.extra.{key}", "every request has it already", "leave it out")
        elif key in _SAMPLING_KEYS:
            yield Problem(f"sampling.extra.{key}", "sampling has its own key for it", f"write it as sampling.{key}")
    if "stream" in sampling.omit and sampling.stream and "stream" not in sampling.extra:
        message = "without `stream`, a server does not stream, and the scenario expects streams"
        yield Problem("sampling.omit", message, "write stream = false as well")


def is_adapter(model: Model) -> bool:
    """Whether an adapter in this process answers."""
    return target_of(model).startswith(PYTHON_PREFIX)


def _identity(model: Model) -> tuple[str, str | None, str | None, str]:
    """The values that distinguish a model's records from those of another; an adapter counts by its class."""
    device = None if model.foundry is None else model.foundry.device
    return target_of(model).rpartition(":")[2], model.url and place_name(model.url), device, model.name


def _conflicts_of_adapter(model: Model, key: str) -> Iterator[Problem]:
    for name in ("options", "python_path"):
        if getattr(model, name) and not is_adapter(model):
            message = "only an adapter uses it, and the model is served elsewhere"
            yield Problem(f"{key}.{name}", message, f'leave it out, or write target = "{ADAPTER}"')
    yield from _keys_within(
        model.options, f"{key}.options", "leave it out; the adapter can read it from the environment", _is_secret
    )


def _conflicts_of_model(model: Model, key: str) -> Iterator[Problem]:
    target = target_of(model)
    yield from _conflicts_of_adapter(model, key)
    if target != "openai" and model.url is not None:
        where = "calls an adapter in this process" if is_adapter(model) else "starts a server of its own"
        message = f'target "{target}" {where}'
        yield Problem(f"{key}.url", message, 'leave url out, or write target = "openai"')
    if target == "openai" and model.url is None:
        yield Problem(f"{key}.url", 'missing, and the target is "openai"', 'add url = "http://localhost:8080/v1"')
    elif target == "openai" and model.url is not None and (wrong := mismatch_of_endpoint(model.url)):
        yield _of_address(f"{key}.url", *wrong)
    if model.headers and target != "openai":
        message = "only an endpoint gets headers, and the model is served elsewhere"
        yield Problem(f"{key}.headers", message, "leave them out")
    yield from conflicts_of_headers(model.headers, f"{key}.headers")
    if model.llamacpp is not None and target != "llamacpp":
        message = "these are options of the embedded server, and the model is served elsewhere"
        yield Problem(f"{key}.llamacpp", message, "leave them out, or set them for a model that it serves")
    if model.foundry is not None:
        yield from _conflicts_of_foundry(model.foundry, target, f"{key}.foundry")


def _of_address(key: str, message: str, hint: str) -> Problem:
    return Problem(key, message, hint, is_secret=message == CREDENTIALS)


def _conflicts_of_foundry(options: FoundryLocal, target: str, key: str) -> Iterator[Problem]:
    if target != "foundry":
        message = "these are options of Foundry Local, and the model is served elsewhere"
        yield Problem(key, message, 'leave them out, or write target = "foundry"')
    if options.embedded and (options.cache is not None or options.catalog):
        yield Problem(f"{key}.embedded", "the embedded model comes from no catalog and no other cache", "leave it out")
    if options.endpoint is not None and (wrong := mismatch_of_endpoint(options.endpoint)):
        yield _of_address(f"{key}.endpoint", *wrong)
    for i, catalog in enumerate(options.catalog):
        if wrong := mismatch_of_address(catalog):
            yield _of_address(f"{key}.catalog[{i}]", *wrong)


def _conflicts_of_load(load: Load) -> Iterator[Problem]:
    match load:
        case Closed(concurrency=levels, requests=most, min_requests=least):
            yield from _twice(levels, "load.concurrency")
            if most is not None and least is not None and least > most:
                problem = f"{least} is more than load.requests, which is {most}"
                yield Problem("load.min_requests", problem, "lower it, or raise load.requests")
        case Ramp(from_per_s=0, to_per_s=0):
            yield Problem("load.to_per_s", "both rates are 0, so nothing would be sent", "write e.g. to_per_s = 5.0")
        case Ramp() | Trace():
            pass
        case rated:
            yield from _twice(rated.rates_per_s, "load.rates_per_s")


def _twice(levels: Sequence[float], key: str) -> Iterator[Problem]:
    labels = [f"{level:g}" for level in levels]  # the labels of stages: levels with equal labels are one level
    for i, label in enumerate(labels):
        if label in labels[:i]:
            yield Problem(f"{key}[{i}]", f"{label} is listed twice", "leave one out")


def _keys_within(
    table: Mapping[str, Any], path: str, hint: str, is_secret: Callable[[str, str], bool]
) -> Iterator[Problem]:
    """Values that look like API keys: everything in a scenario is written into every run folder."""
    for name, value in table.items():
        where = key_path(path, name)
        if isinstance(value, str) and value and is_secret(name, value):
            yield Problem(where, "a secret in a scenario would be written to files", hint, is_secret=True)
        elif isinstance(value, Mapping):
            yield from _keys_within(value, where, hint, is_secret)


def _is_secret(name: str, _: str) -> bool:
    return _KEY_NAMES.fullmatch(name) is not None


def _is_secret_of_body(name: str, value: str) -> bool:
    """As `_is_secret`, but under a name that ends in `token` the value decides: it may be a token of the model, or the
    name of one."""
    if not _is_secret(name, value) or not name.lower().endswith("token"):
        return _is_secret(name, value)
    pattern = _LONG_WORD if _API_TOKEN.fullmatch(name) else _CREDENTIAL
    return pattern.fullmatch(value) is not None


def _conflicts_of_slo(slo: Slo, *, stream: bool) -> Iterator[Problem]:
    if slo.attainment is not None and (slo.ttft_ms, slo.tpot_ms, slo.e2e_ms) == (None, None, None):
        yield Problem("slo.attainment", "no limit is set that requests could meet", "add e.g. ttft_ms = 2000.0 to slo")
    elif slo.attainment is not None and not stream and (slo.ttft_ms, slo.tpot_ms) != (None, None):
        message = "the gate needs TTFT or TPOT, which answers that are not streamed (stream = false) do not have"
        yield Problem("slo.attainment", message, "set only e2e_ms, leave the gate out, or set stream = true")
    yield from _conflicts_of_objectives(slo, stream=stream)


def _conflicts_of_objectives(slo: Slo, *, stream: bool) -> Iterator[Problem]:
    for i, text in enumerate(slo.objectives):
        key = f"slo.objectives[{i}]"
        if (wrong := mismatch_of_objective(text)) is not None:
            yield Problem(key, *wrong)
            continue
        objective = objective_of(text)
        if objective.metric == "goodput" and not limits_ms(slo):
            yield Problem(key, "goodput needs the limits of slo, and none is set", "add e.g. ttft_ms = 2000.0 to slo")
        elif objective.metric in STREAMED_LATENCIES and not stream:
            message = f"answers that are not streamed (stream = false) have no {objective.metric}"
            yield Problem(key, message, "use e2e, or set stream = true")
        elif first_repeated([objective_of(other) for other in slo.objectives[: i + 1]]) is not None:
            yield Problem(key, "the same share of the same metric is asked for twice", "leave one out")


def _conflicts_of_soak(soak: SoakTable) -> Iterator[Problem]:
    if soak.concurrency is not None and soak.rate_per_s is not None:
        message = "a soak plays users or a rate, and concurrency is set as well"
        yield Problem("soak.rate_per_s", message, "leave one of them out")
    if parse_bytes(soak.disk) is None:
        yield Problem(
            "soak.disk", f"{toml_text(soak.disk)} is not a size", 'write e.g. disk = "2GiB", or use KiB or MiB'
        )


def _conflicts_of_until(until: str, *, stream: bool) -> Iterator[Problem]:
    wrong = mismatch(until)
    if wrong is not None:
        yield Problem("until", *wrong)
    elif not stream and (rule := stop_rule_of(until)).metric in STREAMED:
        message = f"answers that are not streamed (stream = false) have no {rule.metric}"
        yield Problem("until", message, "use e2e, or set stream = true")
