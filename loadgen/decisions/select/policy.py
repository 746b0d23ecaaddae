"""What is asked of a selection: the tables of a scenario, of a policy file and of the flags, in one. Pure, but for
reading a policy file."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal, TypeVar

import msgspec
from msgspec import Struct

from loadgen.decisions.select.criteria import CRITERIA, DEFAULT_WEIGHTS, Criterion
from loadgen.decisions.select.given import GivenFacts
from loadgen.errors import InputError
from loadgen.scenario import Enough, Requirements, Scenario, SelectTable, SelectWeights
from loadgen.scenario.cost import CostSettings, cost_mismatch
from loadgen.scenario.devices import DEVICES
from loadgen.scenario.file import parse_toml, read_text
from loadgen.scenario.policy import QualityBy
from loadgen.scenario.problem import Problem, Source, input_error, suggestion
from loadgen.scenario.schema import example_value
from loadgen.scenario.validate import convert

Origin = Literal["default", "scenario", "policy", "flags"]
"""Where the weights come from; of several, the one that counts most."""

Bound = Literal["estimate", "interval"]
"""What must meet a requirement: the estimate, or the worse end of its 95 % interval."""

Disagreement = Literal["refuse", "accept"]
"""What to do with the notes of graders who disagree."""

Table = TypeVar("Table", bound=Struct)

COMMERCIAL: Final = "commercial"
"""The requirement of a license that allows commercial use, whichever it is."""
LIST_MARK: Final = "+"
"""Between the words of a list in a flag."""
NOT_REQUIRED: Final = "none"
"""The value in a flag that takes a requirement of the scenario back."""


class Policy(Struct, frozen=True, kw_only=True):
    """What is asked of a selection."""

    weights: dict[Criterion, float]
    """As asked, before they are brought to the sum 1."""
    weights_by: Origin
    require: Requirements
    enough: Enough
    cost: CostSettings
    level: str | None
    """None: the lowest that every candidate played validly."""
    quality_by: QualityBy
    bound: Bound = "estimate"
    disagreement: Disagreement = "refuse"
    given: tuple[GivenFacts, ...] = ()
    """What a person says of the candidates."""


class PolicyFlags(Struct, frozen=True, kw_only=True):
    """What the flags ask."""

    table: SelectTable = SelectTable()
    dropped: tuple[str, ...] = ()
    """Requirements of the scenario or of the policy file that do not count."""
    bound: Bound = "estimate"
    disagreement: Disagreement = "refuse"
    given: tuple[GivenFacts, ...] = ()


def policy_of(scenario: SelectTable, file: SelectTable | None = None, flags: PolicyFlags | None = None) -> Policy:
    """The policy in which flags count before a policy file, which replaces the table of the scenario. Raises InputError
    if no weight is above 0."""
    flags = flags or PolicyFlags()
    below = scenario if file is None else file
    weights = dict(DEFAULT_WEIGHTS)
    weights_by: Origin = "default"
    layers: tuple[tuple[Origin, SelectTable], ...] = (
        ("scenario" if file is None else "policy", below),
        ("flags", flags.table),
    )
    for origin, table in layers:
        given = {name: value for name in CRITERIA if (value := getattr(table.weights, name)) is not None}
        weights |= given
        weights_by = origin if given else weights_by
    if not any(weights.values()):
        raise InputError("weights: none is above 0; give one that is, such as --weights quality=1")
    require = _over(below.require, flags.table.require)
    defaults = Requirements()
    require = msgspec.structs.replace(require, **{name: getattr(defaults, name) for name in flags.dropped})
    _check_words(require)
    cost = _over(below.cost, flags.table.cost)
    if (wrong := cost_mismatch(cost)) is not None:
        raise input_error(Source("cost"), Problem(*wrong))
    return Policy(
        weights=weights,
        weights_by=weights_by,
        require=require,
        enough=_over(below.enough, flags.table.enough),
        cost=cost,
        level=flags.table.level or below.level,
        quality_by=flags.table.quality_by or below.quality_by or "key_points",
        bound=flags.bound,
        disagreement=flags.disagreement,
        given=flags.given,
    )


def _check_words(require: Requirements) -> None:
    """Raise InputError for a word that is hardly what was meant, since no candidate would meet it."""
    choices = {"license": (COMMERCIAL,), "device": DEVICES}
    for key, words in choices.items():
        asked = getattr(require, key)
        if asked is None or asked.casefold() in words:
            continue
        if (guess := suggestion(asked, words)) is not None:
            raise input_error(Source("require"), Problem(key, f"“{asked}” is unknown", f"did you mean {guess}?"))


def _over(below: Table, above: Table) -> Table:
    """A table with what another sets."""
    defaults = type(above)()
    names = above.__struct_fields__
    changes = {name: value for name in names if (value := getattr(above, name)) != getattr(defaults, name)}
    return msgspec.structs.replace(below, **changes)


def read_policy(path: Path) -> SelectTable:
    """The table `[select]` of a policy file, or of a scenario. Raises InputError with the key that is wrong."""
    raw = parse_toml(read_text(path), str(path))
    if "select" not in raw:
        guess = next((f"did you mean [{key}] to be [select]? " for key in raw if suggestion(key, ["select"])), "")
        raise InputError(f"{path}: there is no table [select]; {guess}write one, as docs/select.md shows")
    return _table_of(raw["select"], Source(str(path)))


def policy_from(value: object) -> SelectTable | None:
    """The table of a policy that a program gives: a table, a mapping with its keys, or the path of a policy file."""
    match value:
        case None | SelectTable():
            return value
        case str() | Path():
            return read_policy(Path(value))
        case Mapping():
            own = value.get("select", value) if set(value) == {"select"} else value
            return _table_of(_plain(own), Source("policy"))
    raise InputError(f"policy: {type(value).__name__} is no policy; give a table, or the path of a policy file")


def _plain(value: object) -> object:
    """A value with the types that TOML has."""
    match value:
        case Mapping():
            return {str(key): _plain(item) for key, item in value.items()}
        case list() | tuple():
            return [_plain(item) for item in value]
    return value


def _table_of(raw: Any, source: Source) -> SelectTable:
    """The table, checked as that of a scenario, so that messages have the key with its path."""
    return convert({"name": "x", "prompts": "x", "select": raw}, Scenario, source).select


def parse_weights(text: str) -> SelectWeights:
    """Weights, as in quality=0.5,latency=0.3. Raises InputError."""
    return _parsed(text, "--weights", "weight", SelectWeights)[0]


def parse_cost(text: str) -> CostSettings:
    """The settings of the cost, as in watts=15,price_per_kwh=0.30. Raises InputError."""
    return _parsed(text, "--cost", "key of the cost", CostSettings)[0]


def parse_requirements(text: str) -> tuple[Requirements, tuple[str, ...]]:
    """Requirements, as in license=commercial,memory_mib=2048, and those that are taken back (quality=none). Words of a
    list have a + between them. Raises InputError."""
    return _parsed(text, "--require", "requirement", Requirements)


def parse_quality_by(text: str) -> QualityBy:
    """Whose quality counts. Raises InputError."""
    known: tuple[QualityBy, ...] = QualityBy.__args__  # type: ignore[attr-defined]
    for name in known:
        if text == name:
            return name
    guess = suggestion(text, known)
    hint = f"did you mean {guess}?" if guess else f"choose from {', '.join(known)}"
    raise InputError(f"--quality {text}: unknown; {hint}")


def _parsed(text: str, flag: str, noun: str, table: type[Table]) -> tuple[Table, tuple[str, ...]]:
    raw: dict[str, object] = {}
    dropped: list[str] = []
    for piece in text.split(","):
        name, equals, value = (part.strip() for part in piece.partition("="))
        example = f"{flag} {_example(table)}"
        if not (name and equals and value):
            raise InputError(f"{flag} {text}: “{piece.strip()}” is not NAME=VALUE; write e.g. {example}")
        if name not in table.__struct_fields__:
            guess = suggestion(name, table.__struct_fields__)
            hint = f"did you mean {guess}?" if guess else f"choose from {', '.join(table.__struct_fields__)}"
            raise InputError(f"{flag} {name}: unknown {noun}; {hint}")
        if name in raw or name in dropped:
            raise InputError(f"{flag} {name}: given twice; give it once")
        if value == NOT_REQUIRED and table is Requirements:
            dropped.append(name)
        else:
            raw[name] = _value(value, example_value(table, name))
    return convert(raw, table, Source(flag)), tuple(dropped)


def _value(text: str, example: object) -> object:
    """A value of a flag, of the type that its key has."""
    if isinstance(example, list):
        return [word.strip() for word in text.split(LIST_MARK)]
    if isinstance(example, str):
        return text
    if re.fullmatch(r"[+-]?[0-9]{1,15}", text):
        return int(text)
    try:
        return float(text)
    except ValueError:
        return text


def _example(table: type[Struct]) -> str:
    names: Sequence[str] = table.__struct_fields__[:1]
    return ",".join(f"{name}={example_value(table, name)}" for name in names)
