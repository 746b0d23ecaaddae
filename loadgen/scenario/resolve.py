"""Joins the scenario file, the flags, the list files and the environment variables into one scenario. Sends nothing."""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

import msgspec

from loadgen.errors import InputError
from loadgen.redact import api_key, redact_url
from loadgen.scenario import Model, Scenario
from loadgen.scenario.check import first_conflict
from loadgen.scenario.environment import MODELS, with_environment
from loadgen.scenario.file import STANDARD_INPUT, LoadedScenario, is_file, is_pipe, load_scenario, no_file_scenario
from loadgen.scenario.headers import header_values
from loadgen.scenario.model_list import read_model_list
from loadgen.scenario.overrides import Overrides
from loadgen.scenario.problem import Source, input_error
from loadgen.scenario.urls import mismatch_of_endpoint
from loadgen.scenario.validate import convert

ENDPOINT: Final = "FOUNDRY_LOCAL_ENDPOINT"


def resolve_scenario(
    name: str | None,
    flags: Overrides,
    *,
    models_file: Path | None = None,
    prompts_file: Path | None = None,
    variables: Mapping[str, str] | None = None,
) -> tuple[LoadedScenario, tuple[str, ...]]:
    """The scenario to play, and a line for the user about each environment variable that changed it.

    name: the name of a scenario, or None for the built-in one, which needs --url, or a model for Foundry Local.
    variables: those of the environment. Raises InputError, one line, if anything is wrong.
    """
    variables = os.environ if variables is None else variables
    given = _with_files(flags, models_file, prompts_file)
    given, remarks = with_environment(given, variables)
    endpoint = variables.get(ENDPOINT, "").strip()
    loaded = load_scenario(name, given) if name is not None else _without_scenario(given, endpoint)
    check_secrets(loaded.scenario.models, variables)
    if endpoint and any(model.target == "foundry" for model in loaded.scenario.models):
        if wrong := mismatch_of_endpoint(endpoint):
            raise InputError(redact_url(f"{ENDPOINT}: {wrong[0]}; {wrong[1]}"))
        remarks = (*remarks, f"{ENDPOINT} is set: uses the Foundry Local at {redact_url(endpoint)}")
    return loaded, remarks


def check_secrets(models: Iterable[Model], variables: Mapping[str, str]) -> None:
    """Raise InputError if a key or a secret that an endpoint needs is missing. variables: those of the environment."""
    for model in models:
        if model.url is not None:
            api_key(variables)
            header_values(model.headers, variables)


def resolve_model(name: str, gguf: Path | None, slots: int) -> Model:
    """The model that `loadgen serve` serves. Raises InputError that names the flag."""
    options = {"slots": slots, **({} if gguf is None else {"gguf": str(gguf)})}
    raw = {"name": "serve", "prompts": "-", "models": [{"name": name, "target": "llamacpp", "llamacpp": options}]}
    flags = {"models[0].name": f"--model {name}", "models[0].llamacpp.slots": f"--slots {slots}"}
    source = Source("serve", flags)
    scenario = convert(raw, Scenario, source)
    if problem := first_conflict(scenario):
        raise input_error(source, problem)
    if gguf is not None and not is_file(gguf):
        raise InputError(f"--gguf {gguf}: no such model file; name a GGUF file, or leave it out for SmolLM2-135M")
    return scenario.models[0]


def _with_files(flags: Overrides, models_file: Path | None, prompts_file: Path | None) -> Overrides:
    if models_file is not None:
        flag = f"--models-file {models_file}"
        if flags.models:
            raise InputError(f"{flag} with --model {flags.models[0]}: two lists of models; leave one of them out")
        names = tuple(model.alias for model in read_model_list(models_file))
        changes = {"models": names} if flags.urls else {"listed": names, "listed_by": flag}
        flags = msgspec.structs.replace(flags, **changes)
    if prompts_file is not None:
        is_piped = str(prompts_file) == STANDARD_INPUT
        if not is_piped and not is_file(prompts_file) and not is_pipe(prompts_file):
            raise InputError(f"--prompts-file {prompts_file}: no such file; it is relative to the current folder")
        flags = msgspec.structs.replace(flags, prompts_file=str(prompts_file if is_piped else prompts_file.absolute()))
    return flags


def _without_scenario(given: Overrides, endpoint: str) -> LoadedScenario:
    if given.urls or given.listed:
        return no_file_scenario(given)
    if not endpoint:
        raise InputError("neither SCENARIO nor --url was given; name a scenario, or --url URL --model NAME")
    if not given.models:
        hint = f"add --model NAME, or set {MODELS} (`loadgen models` lists the models)"
        raise InputError(f"{ENDPOINT} is set, but no model is named; {hint}")
    label = " ".join(f"--model {name}" for name in given.models)
    return no_file_scenario(msgspec.structs.replace(given, models=(), listed=given.models, listed_by=label))
