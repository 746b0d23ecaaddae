"""Reads and writes `models.json`: models by name, with the known facts about each. Knows no target and no network."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import msgspec
import orjson
from msgspec import Struct

from loadgen.errors import InputError
from loadgen.redact import escape_control
from loadgen.scenario.file import read_text
from loadgen.scenario.types import RawTable

_NAME_KEYS = ("alias", "name", "model", "id")
_EXAMPLE = '["qwen2.5-0.5b"] or {"qwen2.5-0.5b": {"capabilities": ["chat"], "size_mb": 822}}'


class ListedModel(Struct, frozen=True, omit_defaults=True):
    """One model of a list.

    capabilities: words, as the catalog gives them. size_mb: size on disk in MiB. more: all other keys of the card.
    """

    alias: str
    capabilities: tuple[str, ...] = ()
    size_mb: float | None = None
    more: RawTable = {}


def read_model_list(path: Path) -> tuple[ListedModel, ...]:
    """The models of a file, at least one. The file is a list of names or cards, or an object name -> card.

    Either may be under a key `models`. Raises InputError, one line, for anything else.
    """
    text = read_text(path)
    try:
        raw = msgspec.json.decode(text.encode())
    except (msgspec.DecodeError, RecursionError) as error:
        raise InputError(f"{path}: not JSON: {escape_control(str(error))}; write e.g. {_EXAMPLE}") from None
    if isinstance(raw, dict) and isinstance(raw.get("models"), list | dict):
        raw = raw["models"]
    if isinstance(raw, dict):
        entries = [_of_card(name, card, f"{path}: {escape_control(str(name))}") for name, card in raw.items()]
    elif isinstance(raw, list):
        entries = [_of_item(item, f"{path}: model {i}") for i, item in enumerate(raw, start=1)]
    else:
        entries = []
    if not entries:
        raise InputError(f"{path}: no models in it; write e.g. {_EXAMPLE}")
    names = [model.alias for model in entries]
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"{path}: {escape_control(name)} is listed twice; leave one out")
    return tuple(entries)


def model_list_text(models: Iterable[ListedModel]) -> bytes:
    """The text of the file: an object alias -> card, as `read_model_list` reads it."""
    cards = {model.alias: _card(model) for model in models}
    return orjson.dumps(cards, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)


def _card(model: ListedModel) -> RawTable:
    size = {} if model.size_mb is None else {"size_mb": model.size_mb}
    return {"capabilities": list(model.capabilities), **size, **model.more}


def _of_item(item: Any, place: str) -> ListedModel:
    if isinstance(item, dict):
        name = next((item[key] for key in _NAME_KEYS if isinstance(item.get(key), str)), None)
        if name is None:
            raise InputError(f'{place}: it has no name; write e.g. {{"alias": "qwen2.5-0.5b"}}')
        return _of_card(name, {key: value for key, value in item.items() if key != "alias"}, place)
    if not isinstance(item, str):
        raise InputError(f'{place}: neither a name nor a card; write e.g. "qwen2.5-0.5b"')
    return _of_card(item, {}, place)


def _of_card(name: str, card: Any, place: str) -> ListedModel:
    if not name.strip():
        raise InputError(f"{place}: an empty name; write the model's alias")
    if not isinstance(card, Mapping):
        raise InputError(f'{place}: its card is not an object; write e.g. {{"capabilities": ["chat"], "size_mb": 822}}')
    more = {
        "license" if key == "licence" else key: value for key, value in card.items()
    }  # older lists use the British spelling
    capabilities, size = more.pop("capabilities", None) or (), more.pop("size_mb", None)
    words = split_words(capabilities) if isinstance(capabilities, str) else capabilities
    if not isinstance(words, list | tuple) or not all(isinstance(word, str) for word in words):
        raise InputError(f'{place}: capabilities is not a list of texts; write e.g. ["chat", "tools"]')
    if size is not None and (isinstance(size, bool) or not isinstance(size, int | float)):
        raise InputError(f"{place}: size_mb is not a number; write e.g. 822")
    return ListedModel(name.strip(), tuple(words), None if size is None else float(size), more)


def split_words(text: str) -> tuple[str, ...]:
    """The words of "chat, tools", a form that a catalog entry may use."""
    return tuple(word for part in text.replace(";", ",").split(",") if (word := part.strip()))
