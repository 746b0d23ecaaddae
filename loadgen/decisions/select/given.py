"""The facts about models that a person gives in a file, with `--facts`. Its form is that of `models.json`."""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta, Struct

from loadgen.errors import InputError
from loadgen.redact import escape_control
from loadgen.scenario.model_list import ListedModel, read_model_list
from loadgen.targets.licenses import license_named, license_text

Text = Annotated[str, Meta(min_length=1)]
Amount = Annotated[float, Meta(ge=0)]

_EXAMPLES: Final = {
    "commercial": '"yes", "no" or "conditions"',
    "context_tokens": "4096",
    "memory_mib": "1100",
    "startup_s": "2.5",
    "load_s": "2.5",
    "cold_start_ms": "2600",
}
_PLACE: Final = re.compile(r"(.*) - at `\$\.(\w+)`")


class _Card(Struct, frozen=True):
    """The keys of a card that are facts; a card may have others."""

    memory_mib: Amount | None = None
    context_tokens: Annotated[int, Meta(gt=0)] | None = None
    device: Text | None = None
    execution_provider: Text | None = None
    license: Text | None = None
    license_name: Text | None = None
    license_link: Text | None = None
    commercial: Literal["yes", "no", "conditions"] | None = None
    startup_s: Amount | None = None
    load_s: Amount | None = None
    cold_start_ms: Amount | None = None


class GivenFacts(Struct, frozen=True, kw_only=True):
    """What a person says of one model. None: nothing."""

    name: str
    """The name that the file has for it: a model, `model@target` or `model@target/device`."""
    memory_mib: float | None = None
    disk_mib: float | None = None
    context_tokens: int | None = None
    device: str | None = None
    execution_provider: str | None = None
    capabilities: tuple[str, ...] | None = None
    startup_s: float | None = None
    load_s: float | None = None
    cold_start_ms: float | None = None
    license: str | None = None
    commercial: Literal["yes", "no", "conditions"] | None = None


def read_given(path: Path) -> tuple[GivenFacts, ...]:
    """The facts that a file gives, by model. Raises InputError, in one line, for a file that is no list of models, and
    for a fact of the wrong type."""
    return tuple(_given_of(model, path) for model in read_model_list(path))


def given_for(given: Iterable[GivenFacts], model: str, target: str, device: str | None = None) -> GivenFacts | None:
    """What a file says of one candidate: under `model@target/device`, else `model@target`, else the model's name."""
    by_name = {facts.name: facts for facts in given}
    names = names_of(model, target, device)
    return next((by_name[name] for name in names if name in by_name), None)


def names_of(model: str, target: str, device: str | None = None) -> tuple[str, ...]:
    """The names under which a file may have facts about a candidate, the most exact one first.

    A target that plays a model on several devices may have the device in its own name: `foundry/gpu`.
    """
    suffix = "" if device is None else f"/{device.lower()}"
    served_by = target.removesuffix(suffix)
    return tuple(dict.fromkeys((f"{model}@{served_by}{suffix}", f"{model}@{target}", f"{model}@{served_by}", model)))


def without_candidate(
    given: Iterable[GivenFacts], candidates: Iterable[tuple[str, str, str | None]]
) -> tuple[str, ...]:
    """The names in a file that no candidate has. candidates: model, target and device of each."""
    known = {name for candidate in candidates for name in names_of(*candidate)}
    return tuple(facts.name for facts in given if facts.name not in known)


def _given_of(model: ListedModel, path: Path) -> GivenFacts:
    try:
        card = msgspec.convert(model.more, _Card)
    except msgspec.ValidationError as error:
        raise InputError(_message(path, model, str(error))) from None
    return GivenFacts(
        name=model.alias,
        memory_mib=card.memory_mib,
        disk_mib=model.size_mb,
        context_tokens=card.context_tokens,
        device=card.device,
        execution_provider=card.execution_provider,
        capabilities=model.capabilities or None,
        startup_s=card.startup_s,
        load_s=card.load_s,
        cold_start_ms=card.cold_start_ms,
        license=license_named(license_text(card.license, card.license_name, card.license_link)),
        commercial=card.commercial,
    )


def _message(path: Path, model: ListedModel, error: str) -> str:
    match = _PLACE.fullmatch(error)
    if match is None:
        return f"{path}: {escape_control(model.alias)}: {error}"
    problem, key = match[1], match[2]
    value = escape_control(msgspec.json.encode(model.more[key]).decode())
    place = f"{path}: {escape_control(model.alias)}: {key}"
    return f"{place}: {value} is wrong ({problem.lower()}); write e.g. {_EXAMPLES.get(key, 'a text')}"
