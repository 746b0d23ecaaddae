"""Devices of Foundry Local: in the names of targets, and what `--devices` changes. Pure."""

import re
from collections.abc import Mapping, Sequence
from typing import Final

from loadgen.errors import InputError
from loadgen.scenario.problem import suggestion, toml_text
from loadgen.scenario.types import FOUNDRY, RawTable

DEVICES: Final = ("cpu", "gpu", "npu")
"""The devices for which Foundry Local's catalog has variants, as `foundry.device` takes them."""


def target_on(device: str | None) -> str:
    """The name of Foundry Local as a target: `foundry/gpu`, or `foundry` if no device is asked for."""
    return FOUNDRY if device is None else f"{FOUNDRY}/{device}"


def device_of_target(target: str) -> str | None:
    """The device in a target's name: gpu of `foundry/gpu`; None if there is none."""
    place, _, device = target.partition("/")
    return device if place == FOUNDRY and device in DEVICES else None


def parse_devices(text: str, flag: str = "--devices") -> tuple[str, ...]:
    """Devices of "cpu,gpu,npu", each once, in any case of letters. Raises InputError that names the flag."""
    devices = tuple(part.strip().lower() for part in text.split(","))
    for i, device in enumerate(devices):
        if device not in DEVICES:
            guess = suggestion(device, DEVICES)
            hint = f"did you mean {guess}?" if guess else f"write e.g. {flag} {','.join(DEVICES)}"
            raise InputError(f"{flag} {text}: {toml_text(device)} is not a device; {hint}")
        if device in devices[:i]:
            raise InputError(f"{flag} {text}: {device} is listed twice; leave one out")
    return devices


def models_on_devices(
    models: Sequence[RawTable], devices: Sequence[str], flags: Mapping[str, str]
) -> tuple[list[RawTable], dict[str, str]]:
    """The models, those of Foundry Local once for each device, and which flag set which key of them.

    flags: the same of the models given. Raises InputError if none is served by Foundry Local.
    """
    flag = f"--devices {','.join(devices)}"
    if not any(map(_is_foundry, models)):
        hint = 'name one with target = "foundry", or leave the flag out'
        raise InputError(f"{flag}: no model here is served by Foundry Local; {hint}")
    played: list[RawTable] = []
    changed = {key: other for key, other in flags.items() if not key.startswith("models[")}
    for i, model in enumerate(models):
        for variant in _variants(model, devices):
            if variant in played:  # two variants that the scenario lists itself
                continue
            for key, other in flags.items():
                if re.match(rf"models\[{i}\]", key):
                    changed[key.replace(f"models[{i}]", f"models[{len(played)}]", 1)] = other
            if variant is not model:
                changed[f"models[{len(played)}].foundry.device"] = flag
            played.append(variant)
    return played, changed


def _variants(model: RawTable, devices: Sequence[str]) -> list[RawTable]:
    if not _is_foundry(model):
        return [model]
    return [{**model, "foundry": {**(model.get("foundry") or {}), "device": device}} for device in devices]


def _is_foundry(model: RawTable) -> bool:
    if model.get("target") is not None:
        return bool(model["target"] == FOUNDRY)
    return model.get("url") is None and model.get("foundry") is not None
