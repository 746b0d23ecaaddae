"""Variables of the environment that change what is played, as Foundry Local's workshop names them.

They go below the flags and above the scenario file: a flag that says the same thing has the last word. Knows no file;
`loadgen.scenario.overrides` applies what is found here.
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
_SETTINGS: Final = {
    MODELS: ("models",),
    ROUNDS: ("load", "load.requests", "load.duration_s"),
    PROMPT: ("prompts",),
    STREAM: ("sampling", "sampling.stream"),
}
"""What a `--set` of that key says instead."""
_TRUE: Final = ("1", "true", "yes", "on")
_FALSE: Final = ("0", "false", "no", "off")


def with_environment(given: Overrides, variables: Mapping[str, str]) -> tuple[Overrides, tuple[str, ...]]:
    """The flags, and below them what the variables say; and a line for a person about each that has its way.

    An empty variable is not set. Raises InputError, one line that names the variable, for a value that is none.
    """
    values = {name: "" if _is_set(given, keys) else variables.get(name, "").strip() for name, keys in _SETTINGS.items()}
    notes = []
    changes: dict[str, object] = {}
    if values[MODELS]:
        names = _names(values[MODELS])
        if given.urls and not given.models and not given.listed:
            changes["models"] = names
            notes.append(f"{MODELS} is set: plays {', '.join(names)} there")
        elif not given.models and not given.listed:
            changes |= {"listed": names, "listed_by": f"{MODELS}={values[MODELS]}"}
            notes.append(f"{MODELS} is set: plays {', '.join(names)}")
    if values[ROUNDS]:
        rounds = _rounds(values[ROUNDS])
        if given.requests is None and given.duration_s is None:
            changes["rounds"] = rounds
            notes.append(f"{ROUNDS} is set: asks each prompt {rounds} times, of each model at each level")
    if values[PROMPT] and given.prompts_file is None:
        changes["prompt"] = values[PROMPT]
        notes.append(f"{PROMPT} is set: asks {toml_text(values[PROMPT])} and nothing else")
    if values[STREAM]:
        changes["stream"] = _truth(values[STREAM])
        notes.append(f"{STREAM} is set: answers {'stream' if changes['stream'] else 'come whole'}")
    return msgspec.structs.replace(given, **changes), tuple(notes)


def _is_set(given: Overrides, keys: tuple[str, ...]) -> bool:
    return any(setting.partition("=")[0].strip() in keys for setting in given.set)


def _names(text: str) -> tuple[str, ...]:
    names = tuple(name for part in text.split(",") if (name := part.strip()))
    if not names:
        raise InputError(f"{MODELS}={text}: no model in it; write e.g. {MODELS}=phi-4-mini,qwen2.5-0.5b")
    return names


def _rounds(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,9}", text) or int(text) < 1:
        raise InputError(f"{ROUNDS}={text}: not a number of rounds, 1 or more; write e.g. {ROUNDS}=3")
    return int(text)


def _truth(text: str) -> bool:
    if text.lower() not in (*_TRUE, *_FALSE):
        raise InputError(f"{STREAM}={text}: neither yes nor no; write {STREAM}=1 or {STREAM}=0")
    return text.lower() in _TRUE
