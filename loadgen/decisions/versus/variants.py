"""Two variants of a scenario: how they differ, and what they must have in common. Pure."""

from collections.abc import Iterator, Mapping
from typing import Any, Final

import msgspec

from loadgen.errors import InputError
from loadgen.plan.plan import Plan
from loadgen.plan.workload import workload_of
from loadgen.redact import redact_url
from loadgen.scenario import Scenario
from loadgen.scenario.check import model_table

_FREE_KEYS: Final = ("models", "description", "probe", "strict", "keep_text", "headers", "preflight")
"""Keys in which variants may differ: they change neither the requests nor how answers are judged."""

_LONGEST_VALUE: Final = 60


def changed_keys(base: Scenario, new: Scenario) -> dict[str, Any]:
    """The values of `new` that differ from `base`, by dotted key (`models[0].url`); None: `new` does not have the
    key."""
    before, after = (_keys(scenario) for scenario in (base, new))
    keys = dict.fromkeys((*after, *before))
    return {key: _shown(after.get(key)) for key in keys if before.get(key) != after.get(key)}


def check_variants(base: Plan, new: Plan) -> None:
    """Raise InputError unless two variants do the same work and are judged by the same limits."""
    differing = [key for key in changed_keys(base.scenario, new.scenario) if not key.startswith(_FREE_KEYS)]
    if workload_of(base).digest == workload_of(new).digest and base.scenario.slo == new.scenario.slo:
        return
    before, after = (_keys(plan.scenario) for plan in (base, new))
    named = "; ".join(
        f"{key} is {value_text(before.get(key))} in A and {value_text(after.get(key))} in B" for key in differing
    )
    raise InputError(
        f"--versus: A and B must do the same work, and be judged by the same SLO: {named or 'their plans differ'}; "
        "leave that out, or compare them --anyway"
    )


def check_name(base: Scenario, new: Scenario) -> None:
    """Raise InputError unless the runs of both variants go into one folder."""
    if base.name != new.name:
        raise InputError(f"--versus name={new.name}: the runs of both variants go into one folder; leave it out")


def _keys(scenario: Scenario) -> dict[str, Any]:
    """The values of a scenario by their dotted keys."""
    table = msgspec.to_builtins(scenario)
    return dict(_leaves("", table | {"models": [model_table(model) for model in scenario.models]}))


def _leaves(path: str, value: object) -> Iterator[tuple[str, Any]]:
    """The values in nested tables and lists of tables, by dotted key, without keys that are not set."""
    match value:
        case Mapping():
            for key, inner in value.items():
                yield from _leaves(f"{path}.{key}" if path else str(key), inner)
        case [Mapping(), *_]:
            for i, inner in enumerate(value):
                yield from _leaves(f"{path}[{i}]", inner)
        case None | [] | ():
            pass
        case _:
            yield path, value


def _shown(value: Any) -> Any:
    return redact_url(value) if isinstance(value, str) else value


def value_text(value: Any) -> str:
    """A short text for the value of a scenario's key; None gives "not set"."""
    if value is None:
        return "not set"
    text = redact_url(value) if isinstance(value, str) else msgspec.json.encode(value).decode()
    return text if len(text) <= _LONGEST_VALUE else f"{text[: _LONGEST_VALUE - 1]}…"
