"""Converts raw TOML or JSON to typed values, or reports the exact key of a wrong value and an example of a right one.

Knows the types of a scenario, but not their meaning; opens no file.
"""

import math
import re
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any, TypeVar

import msgspec
from msgspec import inspect

from loadgen.scenario import InlinePrompt, Scenario
from loadgen.scenario.problem import Problem, Source, any_of, input_error, key_path, suggestion, toml_text
from loadgen.scenario.schema import EXAMPLES
from loadgen.scenario.types import RawTable

T = TypeVar("T")


def convert(raw: Any, table: type[T], source: Source) -> T:
    """The raw value as a `table` (a struct's type). A whole number is accepted for a float; no other type is converted.

    Raises InputError with the first problem.
    """
    if problem := first_problem(raw, table):
        raise input_error(source, problem)
    try:
        return msgspec.convert(raw, table, strict=True)
    except msgspec.ValidationError as error:  # our own walk missed it, so show msgspec's message
        raise input_error(source, Problem("", str(error), "fix the value")) from None


def first_problem(raw: Any, table: type[Any]) -> Problem | None:
    """The first thing wrong with `raw` as a value of the type `table`, or None.

    Stricter than msgspec, because all values are later written as JSON: no infinities, no dates, only 64-bit integers,
    and only texts that UTF-8 can encode.
    """
    kind = _type_info(table)  # type: ignore[arg-type]  # to mypy, a class is not hashable
    return next(_problems(raw, kind, "", ""), None)


@cache
def _type_info(table: type[Any]) -> inspect.Type:
    """msgspec's description of a type. Cached, because msgspec visits every nested type, which is slow."""
    return inspect.type_info(table)


def _problems(value: Any, kind: inspect.Type, path: str, example: str) -> Iterator[Problem]:
    """Everything wrong with a value. example: a complete `key = value` that would be right, or empty."""
    match kind:
        case inspect.UnionType():
            yield from _problems_of_union(value, kind, path, example)
        case inspect.StructType() if isinstance(value, dict):
            yield from _problems_of_table(value, kind, path)
        case inspect.VarTupleType() if isinstance(value, list):
            if kind.min_length and not value:
                yield Problem(path, "an empty list", f"give at least one, such as {example}")
            for i, item in enumerate(value):
                yield from _problems(item, kind.item_type, f"{path}[{i}]", example)
        case inspect.DictType() if isinstance(value, dict):
            for key, item in value.items():
                yield from _problems(item, kind.value_type, key_path(path, key), example)
        case inspect.AnyType():
            yield from _problems_for_json(value, path)
        case _:
            yield from _problems_of_scalar(value, kind, path, example)


def _problems_of_table(value: RawTable, kind: inspect.StructType, path: str) -> Iterator[Problem]:
    """Unknown keys come first, because a misspelled key is often why another is missing."""
    fields = {field.name: field for field in kind.fields}
    for key in value:
        if key not in fields and key != kind.tag_field:
            yield Problem(key_path(path, key), *_unknown(key, kind))
    for name, field in fields.items():
        example = f"{name} = {EXAMPLES[kind.cls][name]}"
        if name in value:
            yield from _problems(value[name], field.type, key_path(path, name), example)
        elif field.required:
            yield Problem(key_path(path, name), "missing", f"add {example}")


def _problems_of_union(value: Any, kind: inspect.UnionType, path: str, example: str) -> Iterator[Problem]:
    """Compares the value with one member of the union: the one of its mode, or of its kind."""
    members = [member for member in kind.types if not isinstance(member, inspect.NoneType)]
    modes = {str(member.tag): member for member in members if isinstance(member, inspect.StructType) and member.tag}
    if modes and isinstance(value, dict):
        mode = value.get("mode")
        if isinstance(mode, str) and mode in modes:
            yield from _problems_of_table(value, modes[mode], path)
        else:
            yield Problem(key_path(path, "mode"), *_wrong_mode(value, list(modes)))
        return
    fitting = [member for member in members if isinstance(value, _PYTHON_TYPES[type(_bare(member))])]
    if fitting or len(members) == 1:
        yield from _problems(value, (fitting or members)[0], path, example)
    else:
        yield _mismatch(value, kind, path, example)


def _problems_of_scalar(value: Any, kind: inspect.Type, path: str, example: str) -> Iterator[Problem]:
    bare = _bare(kind)
    # In Python a boolean is an integer; in TOML it is not.
    if not isinstance(value, _PYTHON_TYPES[type(bare)]) or (isinstance(value, bool) and bare != inspect.BoolType()):
        yield _mismatch(value, kind, path, example)
        return
    yield from _problems_for_json(value, path)
    if isinstance(bare, inspect.LiteralType):
        if value not in bare.values:
            known = [str(word) for word in bare.values]
            guess = suggestion(str(value), known)
            hint = f'did you mean "{guess}"?' if guess else f"write {any_of(known)}"
            yield Problem(path, f"{toml_text(value)} is not one of the choices", hint)
    elif isinstance(bare, inspect.StrType):
        yield from _problems_of_text(value, kind, path, example)
    elif not _accepts(kind, value):
        yield Problem(path, f"{toml_text(value)} is not {_wanted(kind)}", f"write e.g. {example}")


def _problems_of_text(value: str, kind: inspect.Type, path: str, example: str) -> Iterator[Problem]:
    bare = _bare(kind)
    assert isinstance(bare, inspect.StrType)
    if not value and (bare.min_length or bare.pattern):
        yield Problem(path, "an empty text", f"write e.g. {example}")
    elif bare.max_length is not None and len(value) > bare.max_length:
        yield Problem(path, f"a text of {len(value)} characters", f"use {bare.max_length} at most")
    elif not _accepts(kind, value):
        allowed = (kind.extra_json_schema or {}).get("description", "") if isinstance(kind, inspect.Metadata) else ""
        if allowed.startswith("One of "):
            yield _none_of(value, allowed.removeprefix("One of ").rstrip("."), path)
            return
        rule = f"use {allowed[:1].lower()}{allowed[1:].rstrip('.')}, e.g. {example}"
        yield Problem(path, f"{toml_text(value)} has a character that is not allowed", rule)


def _none_of(value: str, known: str, path: str) -> Problem:
    """A text that is not one of the listed words. A word with a colon is a form to fill in, such as python:MODULE."""
    words = re.split(r", (?:or )?", known)
    form = next((word for word in words if ":" in word and value.startswith(word[: word.index(":") + 1])), None)
    guess = form or suggestion(value, words)
    hint = f'write "{form}"' if form else f'did you mean "{guess}"?' if guess else "write one of them"
    return Problem(path, f"{toml_text(value)} is not one of {known}", hint)


def _problems_for_json(value: Any, path: str) -> Iterator[Problem]:
    """Everything that JSON cannot represent, at any depth."""
    match value:
        case dict():
            for key, item in value.items():
                yield from _problems_for_json(key, key_path(path, "a key"))
                yield from _problems_for_json(item, key_path(path, key))
        case list():
            for i, item in enumerate(value):
                yield from _problems_for_json(item, f"{path}[{i}]")
        case str():
            if not value.isascii() and any("\ud800" <= char <= "\udfff" for char in value):
                yield Problem(path, "a text that is not Unicode", "write it in UTF-8")
        case int():  # and booleans
            if not -(2**63) <= value < 2**63:
                yield Problem(path, f"{toml_text(value)} is too large", "use a 64-bit integer")
        case float():
            if not math.isfinite(value):
                yield Problem(path, f"{toml_text(value)} is not a finite number", "write a number")
        case _:
            yield Problem(
                path, f"{toml_text(value)} is {_kind_of(value)}, which JSON does not have", "put it in quotes"
            )


def _mismatch(value: Any, kind: inspect.Type, path: str, example: str) -> Problem:
    given = _kind_of(value) if isinstance(value, dict | list) else f"{toml_text(value)} is {_kind_of(value)}"
    return Problem(path, f"{given}, not {_wanted(kind)}", f"write e.g. {example}")


def _wrong_mode(load: RawTable, modes: Sequence[str]) -> tuple[str, str]:
    if "mode" not in load:
        return "missing", f"add mode = {any_of(modes)}"
    mode = load["mode"]
    guess = suggestion(mode, modes) if isinstance(mode, str) else None
    hint = f'did you mean "{guess}"? ' if guess else ""
    return f"unknown mode {toml_text(mode)}", f"{hint}the modes are {any_of(modes)}"


def _unknown(key: str, kind: inspect.StructType) -> tuple[str, str]:
    """The message and hint for a key that the table does not have: where it may belong, or how it may be spelled."""
    here = [*([kind.tag_field] if kind.tag_field else []), *(field.name for field in kind.fields)]
    message = f"unknown key `{key}`" + (f' in mode "{kind.tag}"' if kind.tag else "")
    # A key that exists elsewhere is out of place. Any other is misspelled, most likely for a key of this table.
    anywhere = _places() if kind.cls is not InlinePrompt else {}
    guess = None if key in anywhere else suggestion(key, here)
    if guess:
        return message, f"did you mean `{guess}`?"
    places = anywhere.get(suggestion(key, list(anywhere)) or key, [])
    if modes := [mode for mode, _ in places if mode and kind.tag]:
        meant = places[0][1].rpartition(".")[2]
        return message, f"{'it' if meant == key else f'`{meant}`'} belongs to mode {any_of(modes)}"
    if places:
        return message, f"did you mean {' or '.join(dict.fromkeys(f'`{path}`' for _, path in places))}?"
    return message, f"the keys here are {', '.join(here)}"


def _bare(kind: inspect.Type) -> inspect.Type:
    return kind.type if isinstance(kind, inspect.Metadata) else kind


def _accepts(kind: inspect.Type, value: int | float | str) -> bool:
    bare = _bare(kind)
    match bare:
        case inspect.IntType() | inspect.FloatType():
            assert isinstance(value, int | float)
            return (
                (bare.ge is None or value >= bare.ge)
                and (bare.gt is None or value > bare.gt)
                and (bare.le is None or value <= bare.le)
            )
        case inspect.StrType():
            return bare.pattern is None or re.search(bare.pattern, str(value)) is not None
    return True


def _kind_of(value: object) -> str:
    names = {
        bool: "a boolean",
        str: "a text",
        int: "a whole number",
        float: "a number",
        list: "a list",
        dict: "a table",
    }
    return names.get(type(value), "a date or a time")


def _wanted(kind: inspect.Type) -> str:
    """The values that would be right, in words."""
    bare = _bare(kind)
    match bare:
        case inspect.UnionType():
            return " or ".join(dict.fromkeys(_wanted(m) for m in bare.types if not isinstance(m, inspect.NoneType)))
        case inspect.IntType():
            return f"a whole number{_bounds(bare)}"
        case inspect.FloatType():
            return f"a number{_bounds(bare)}"
        case inspect.LiteralType():
            return any_of([str(word) for word in bare.values])
        case inspect.VarTupleType():
            return "a list"
        case inspect.BoolType():
            return "true or false"
        case inspect.StrType():
            return "a text"
    return "a table"


def _bounds(kind: inspect.IntType | inspect.FloatType) -> str:
    if kind.ge is not None:
        return f" of {kind.ge} or more" if kind.le is None else f" from {kind.ge} to {kind.le}"
    if kind.gt is not None:
        return f" above {kind.gt}" + ("" if kind.le is None else f" and at most {kind.le}")
    return ""


@cache
def _places() -> dict[str, list[tuple[str, str]]]:
    """By the name of a key, all places of a scenario that have it, as (mode or "", dotted key)."""
    places: dict[str, list[tuple[str, str]]] = {}
    for name, mode, path in _keys(_type_info(Scenario), ""):
        places.setdefault(name, []).append((mode, path))
    return places


def _keys(kind: inspect.Type, path: str) -> Iterator[tuple[str, str, str]]:
    match _bare(kind):
        case inspect.UnionType(types=types):
            for member in types:
                yield from _keys(member, path)
        case inspect.VarTupleType(item_type=item):
            yield from _keys(item, f"{path}[]")
        case inspect.StructType(fields=fields, tag=tag, tag_field=tag_field):
            if tag_field:
                yield tag_field, "", key_path(path, tag_field)
            for field in fields:
                yield field.name, str(tag or ""), key_path(path, field.name)
                yield from _keys(field.type, key_path(path, field.name))


_PYTHON_TYPES: dict[type[inspect.Type], Any] = {
    inspect.BoolType: bool,
    inspect.IntType: int,
    inspect.FloatType: int | float,
    inspect.StrType: str,
    inspect.LiteralType: str,
    inspect.VarTupleType: list,
    inspect.StructType: dict,
    inspect.DictType: dict,
    inspect.UnionType: object,
}
