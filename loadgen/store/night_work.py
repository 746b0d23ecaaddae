"""What a night plays: the digest of a soak's part of it, and which of its keys differ between two nights. Pure."""

import hashlib
from collections.abc import Mapping
from typing import Final

import msgspec
from msgspec import UNSET, Raw

from loadgen.store.night_files import ManifestFile

WORK_KEYS: Final = ("system", "order", "sampling", "load", "warmup_requests", "retries", "seed", "prompts", "models")
"""The keys of a scenario that decide what is sent and when. Of a model, only its name."""
_LENGTH_KEYS: Final = ("duration_s", "requests", "min_requests")
"""The keys of a load that decide how long it lasts."""


def _work(scenario: Raw) -> dict[str, object]:
    """The part of a scenario that decides what is sent and when. Keys without a value are left out, so that a key that
    a later version adds changes nothing where it is not used."""
    data = msgspec.json.decode(scenario)
    if not isinstance(data, dict):
        return {}
    work = {key: data.get(key) for key in WORK_KEYS}
    models, retries = work["models"], work["retries"]
    if isinstance(models, list):
        work["models"] = [model.get("name") for model in models if isinstance(model, dict)]
    if isinstance(retries, dict) and not retries.get("attempts"):
        work["retries"] = None
    compact = _without_empty(work)
    assert isinstance(compact, dict)
    return compact


def _without_empty(value: object) -> object:
    if isinstance(value, dict):
        return {key: _without_empty(item) for key, item in value.items() if item not in (None, [], {}, "", False)}
    return value


def changed_work_keys(before: Raw, after: Raw) -> list[str]:
    """The dotted keys that differ between two scenarios, of those that decide what is sent and when."""
    first, second = _flat(_work(before)), _flat(_work(after))
    return [key for key in dict.fromkeys((*first, *second)) if first.get(key) != second.get(key)]


def soak_digest(manifest: ManifestFile) -> str:
    """The digest of a soak: what is sent and when, but not for how long."""
    work = _work(manifest.scenario)
    load = work.pop("load", None)
    if isinstance(load, dict):
        work["load"] = {key: value for key, value in load.items() if key not in _LENGTH_KEYS}
    if manifest.workload is not None:
        work["prompts"] = manifest.workload.prompts
    work["stages"] = [(stage.model, stage.level, stage.load, stage.warmup) for stage in manifest.stages]
    work["refused"] = [
        (card.alias, card.refused_keys) for card in manifest.models if card.refused_keys not in (UNSET, {})
    ]
    return hashlib.sha256(msgspec.json.encode(work, order="deterministic")).hexdigest()


def _flat(table: Mapping[str, object], prefix: str = "") -> dict[str, object]:
    flat: dict[str, object] = {}
    for key, value in table.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat
