"""What `--versus-url` and `--versus-model` change: the models of the second of two variants. Pure."""

from msgspec import Struct

from loadgen.errors import InputError
from loadgen.scenario.types import FOUNDRY, LLAMACPP, RawTable
from loadgen.scenario.urls import place_name


class VariantFlags(Struct, frozen=True):
    """What makes a scenario the second of two variants."""

    set: tuple[str, ...] = ()
    """Each "dotted.key=value", applied after all flags but `--devices`."""
    url: str | None = None
    """Where its models are served."""
    model: str | None = None
    """The model that is played in place of the only one."""


def variant_models(
    models: list[RawTable], own: list[RawTable], variant: VariantFlags
) -> tuple[list[RawTable], dict[str, str]]:
    """The models of the second variant, and which flag set which key.

    models: those of the first. own: the scenario's, one of which may be named. Raises InputError where it is not clear
    which model is meant.
    """
    flags: dict[str, str] = {}
    if variant.model is not None:
        models = [_other_model(models, own, variant.model, variant.url)]
        flags |= {f"models[0]{key}": f"--versus-model {variant.model}" for key in ("", ".name")}
    if variant.url is not None:
        # A model that has an address keeps its headers and all else; another one is no longer started here.
        models = [{**(model if "url" in model else {"name": model["name"]}), "url": variant.url} for model in models]
        flags |= {f"models[{i}].url": f"--versus-url {variant.url}" for i in range(len(models))}
    return models, flags


def _other_model(models: list[RawTable], own: list[RawTable], name: str, url: str | None) -> RawTable:
    """The scenario's model of that name, or NAME@TARGET; else one of that name where the only model is served. Raises
    InputError if several targets have it."""
    flag = f"--versus-model {name}"
    if len(models) > 1:
        hint = f"say which one it replaces, as in --versus 'models[0].name={name}'"
        raise InputError(f"{flag}: {len(models)} models are played; {hint}")
    (model,) = models
    named: list[RawTable] = [
        other for other in own if name in (other.get("name"), f"{other.get('name')}@{_target_of(other)}")
    ]
    if len(named) > 1:
        choices = " or ".join(f"{flag}@{_target_of(other)}" for other in named)
        raise InputError(f"{flag}: {len(named)} targets have a model of that name; write {choices}")
    if named:
        return named[0]
    if "url" in model:
        return {**model, "name": name}
    if url is not None:
        return {"name": name}
    if model.get("target") == FOUNDRY or "foundry" in model:
        options = {key: value for key, value in model.get("foundry", {}).items() if key != "embedded"}
        return {"name": name, "target": FOUNDRY, **({"foundry": options} if options else {})}
    known = ", ".join(str(other.get("name")) for other in own)
    hint = "say where it is with --versus-url, or name other weights: --versus 'models[0].llamacpp.gguf=PATH'"
    raise InputError(f"{flag}: the scenario has no model of that name, it has {known}; {hint}")


def _target_of(model: RawTable) -> str:
    """The name of a model's target, as reports have it."""
    if "url" in model:
        return place_name(str(model["url"]))
    target = str(model.get("target") or (FOUNDRY if "foundry" in model else LLAMACPP))
    return target.rpartition(":")[2]  # an adapter's class
