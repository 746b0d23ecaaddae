"""Dotted keys of a scenario, such as `models[1].url`: parses them, and sets values in a raw table. Opens no file."""

import re
import tomllib
from typing import Any

from loadgen.errors import InputError
from loadgen.redact import redact_url
from loadgen.scenario.problem import toml_text
from loadgen.scenario.types import RawTable


def parse_setting(setting: str, flag: str) -> tuple[str, Any]:
    """(key, value) of `key=value`: the value read as TOML, or otherwise the text itself. flag: for a message."""
    key, equals, text = setting.partition("=")
    if not equals or not key.strip():
        raise InputError(f"{redact_url(flag)}: not a setting; write dotted.key=value, such as sampling.max_tokens=64")
    try:
        parsed = tomllib.loads(f"value = {text}")
    except (ValueError, RecursionError):
        return key.strip(), text
    return key.strip(), parsed["value"] if len(parsed) == 1 else text


def key_steps(key: str, flag: str) -> list[str | int]:
    """`models[1].url` as ["models", 1, "url"]."""
    if not re.fullmatch(r"[\w-]+(?:\.[\w-]+|\[[0-9]{1,4}\])*", key):
        raise InputError(
            f"{redact_url(flag)}: {toml_text(key)} is not a key; write dotted.key=value, such as models[0].name=NAME"
        )
    return [int(step[1:-1]) if step[0] == "[" else step for step in re.findall(r"[\w-]+|\[[0-9]+\]", key)]


def assign(raw: RawTable, steps: list[str] | list[str | int], value: Any, flag: str) -> None:
    """Sets the value in place. Creates missing tables, but not missing lists."""
    node: Any = raw
    done = ""
    for i, step in enumerate(steps):
        last = i == len(steps) - 1
        if isinstance(step, int):
            if not isinstance(node, list) or step >= len(node):
                raise InputError(f"{redact_url(flag)}: {done} has no [{step}] in this scenario; set the whole list")
        elif not isinstance(node, dict):
            kind = "a list; name one entry, as in" if isinstance(node, list) else "not a table, so it has no"
            raise InputError(
                f"{redact_url(flag)}: {done} is {kind} {done}{'[0]' if isinstance(node, list) else ''}.{step}"
            )
        if last:
            node[step] = value
        elif isinstance(step, int):
            node = node[step]
        else:
            # A scenario without a load has a closed one, and a flag may change part of it.
            empty: Any = [] if isinstance(steps[i + 1], int) else {"mode": "closed"} if step == "load" else {}
            node = node.setdefault(step, empty)
        done += f"[{step}]" if isinstance(step, int) else f".{step}" if done else step
