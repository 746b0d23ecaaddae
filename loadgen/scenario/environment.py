"""The environment variables that change a scenario. Those of BENCH have the names that Foundry Local's workshop uses.

They override the scenario file, and a flag for the same key overrides them. Opens no file; `loadgen.scenario.overrides`
applies the values.
"""

import re
from collections.abc import Mapping
from typing import Final

import msgspec

from loadgen.errors import InputError
from loadgen.scenario.overrides import Overrides
from loadgen.scenario.problem import toml_text

MODELS: Final = "BENCH_MODELS"
ROUNDS: Final = "BENCH_ROUNDS"
PROMPT: Final = "BENCH_PROMPT"
STREAM: Final = "BENCH_STREAM"
BUILD: Final = "LOADGEN_BUILD"
_SETTINGS: Final = {
    MODELS: ("models",),
    ROUNDS: ("load", "load.requests", "load.duration_s"),
    PROMPT: ("prompts",),
    STREAM: ("sampling", "sampling.stream"),
    BUILD: ("build",),
}
"""By variable, the keys for which a flag or a `--set` overrides it."""
_TRUE: Final = ("1", "true", "yes", "on")
_FALSE: Final = ("0", "false", "no", "off")


def with_environment(given: Overrides, variables: Mapping[str, str]) -> tuple[Overrides, tuple[str, ...]]:
    """The flags, completed by the variables; and a line for the user about each variable that had an effect.

    An empty variable counts as not set. Raises InputError, one line that names the variable, for an invalid value.
    """
    values = {name: "" if _is_set(given, keys) else variables.get(name, "").strip() for name, keys in _SETTINGS.items()}
    remarks = []
    changes: dict[str, object] = {}
    if values[MODELS]:
        names = _names(values[MODELS])
        if given.urls and not given.models and not given.listed:
            changes["models"] = names
            remarks.append(f"{MODELS} is set: plays {', '.join(names)} there")
        elif not given.models and not given.listed:
            changes |= {"listed": names, "listed_by": f"{MODELS}={values[MODELS]}"}
            remarks.append(f"{MODELS} is set: plays {', '.join(names)}")
    if values[ROUNDS]:
        rounds = _rounds(values[ROUNDS])
        if given.requests is None and given.duration_s is None:
            changes["rounds"] = rounds
            remarks.append(f"{ROUNDS} is set: sends each prompt {rounds} times to each model at each level")
    if values[PROMPT] and given.prompts_file is None:
        changes["prompt"] = values[PROMPT]
        remarks.append(f"{PROMPT} is set: sends only {toml_text(values[PROMPT])}")
    if values[STREAM]:
        changes["stream"] = _truth(values[STREAM])
        remarks.append(f"{STREAM} is set: answers {'are streamed' if changes['stream'] else 'are not streamed'}")
    if values[BUILD] and given.build is None:
        changes |= {"build": values[BUILD], "build_by": f"{BUILD}={values[BUILD]}"}
        remarks.append(f"{BUILD} is set: the build is {toml_text(values[BUILD])}")
    return msgspec.structs.replace(given, **changes), tuple(remarks)


def _is_set(given: Overrides, keys: tuple[str, ...]) -> bool:
    return any(setting.partition("=")[0].strip() in keys for setting in given.set)


def _names(text: str) -> tuple[str, ...]:
    names = tuple(name for part in text.split(",") if (name := part.strip()))
    if not names:
        raise InputError(f"{MODELS}={text}: no model in it; write e.g. {MODELS}=phi-4-mini,qwen2.5-0.5b")
    return names


def _rounds(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,9}", text) or int(text) < 1:
        raise InputError(f"{ROUNDS}={text}: not a number of rounds of 1 or more; write e.g. {ROUNDS}=3")
    return int(text)


def _truth(text: str) -> bool:
    if text.lower() not in (*_TRUE, *_FALSE):
        raise InputError(f"{STREAM}={text}: neither yes nor no; write {STREAM}=1 or {STREAM}=0")
    return text.lower() in _TRUE
