"""Foundry Local as a target: loadgen starts and stops it, or uses a service that is already running.

The runtime that loadgen starts runs in a child process (`loadgen.targets.foundry.service`). With
`FOUNDRY_LOCAL_ENDPOINT`, or an `endpoint` in the scenario, nothing is started or stopped, and no SDK is needed.
"""

import asyncio
import contextlib
import importlib
import importlib.metadata
import importlib.util
import os
from collections.abc import AsyncIterator, Iterable, Mapping
from typing import Any, Final
from urllib.parse import quote, urlsplit

import aiohttp
import msgspec
from msgspec import Struct

from loadgen.child import Child
from loadgen.clock import now_ns
from loadgen.errors import InputError, TargetError
from loadgen.record import JsonObject
from loadgen.redact import redact_url
from loadgen.scenario import FoundryLocal, Model
from loadgen.scenario.devices import DEVICES
from loadgen.scenario.urls import mismatch_of_endpoint, service_url
from loadgen.store.manifest import ModelCard
from loadgen.store.paths import user_cache_folder
from loadgen.targets.diagnosis import models_error
from loadgen.targets.foundry.events import (
    CatalogListed,
    DownloadFailed,
    DownloadProgress,
    LoadingModel,
    ModelUnloaded,
    ProcessEnds,
    ServiceEvent,
    ServingModel,
    StartFailed,
    VariantCard,
)
from loadgen.targets.foundry.model.cache import ensure_model
from loadgen.targets.openai import any_json_of, ask_models, card_of, json_of
from loadgen.targets.served import OnProgress, Served, UnloadInfo

TARGET: Final = "foundry"
ENDPOINT_VARIABLE: Final = "FOUNDRY_LOCAL_ENDPOINT"
START_S: Final = 120.0
UNLOAD_S: Final = 30.0
_EVENTS: Final[msgspec.json.Decoder[ServiceEvent]] = msgspec.json.Decoder(ServiceEvent)
_MAX_ERROR_CHARS: Final = 300
INSTALL: Final = "run `pip install 'loadgen[foundry]'`, or set FOUNDRY_LOCAL_ENDPOINT to a service that runs"


def endpoint_of(options: FoundryLocal) -> str | None:
    """The base URL of a running service, ending in /v1; None if loadgen has to start one. Raises InputError if it is no
    URL."""
    from_environment = os.environ.get(ENDPOINT_VARIABLE, "").strip()
    address = from_environment or options.endpoint
    if not address:
        return None
    if mismatch := mismatch_of_endpoint(address):
        key = ENDPOINT_VARIABLE if from_environment else "foundry.endpoint"
        raise InputError(redact_url(f"{key}: {mismatch[0]}; {mismatch[1]}"))
    return service_url(address)


@contextlib.asynccontextmanager
async def serve_foundry(model: Model, target: str, on_progress: OnProgress) -> AsyncIterator[Served]:
    """A model on Foundry Local for as long as the context lasts. Raises TargetError or InputError on entering.

    target: the target's name in records.
    """
    options = model.foundry or FoundryLocal()
    endpoint = endpoint_of(options) or _old_sdk_endpoint()
    if endpoint is not None:
        async with _attach(model, target, endpoint) as served:
            yield served
    else:
        async with _start(model, target, options, on_progress) as served:
            yield served


def sdk_major() -> int | None:
    """The major version of the installed SDK; None without one."""
    with contextlib.suppress(importlib.metadata.PackageNotFoundError, ValueError):
        return int(importlib.metadata.version("foundry-local-sdk").partition(".")[0])
    return None


def _old_sdk_endpoint() -> str | None:
    """The URL of the service of a 0.x SDK, which wraps the `foundry` command. That command starts and stops it."""
    if (sdk_major() is not None and sdk_major() != 0) or importlib.util.find_spec("foundry_local") is None:
        return None
    module = importlib.import_module("foundry_local")
    try:
        return str(module.FoundryLocalManager().endpoint)
    except Exception as error:
        text = " ".join(str(error).split())
        remedy = "run `foundry service start`"
        raise TargetError(f"the `foundry` command cannot start its service: {text}", remedy=remedy) from error


@contextlib.asynccontextmanager
async def _attach(model: Model, target: str, url: str) -> AsyncIterator[Served]:
    """A model of a running service, which is neither started nor stopped."""
    entries = await _entries_of(url)
    options = model.foundry or FoundryLocal()
    entry = find_entry(model.name, entries, options.device)
    if entry is None or (options.device is not None and device_in(str(entry.get("id"))) != options.device):
        raise _not_listed(model.name, url, entries, options.device)
    root = url.removesuffix("/v1")
    loaded = await _load_model(root, model.name, str(entry["id"]), options.device)
    device = device_in(loaded.identifier)
    card = msgspec.structs.replace(
        card_of(loaded.identifier, target, entry),
        id=loaded.identifier,
        alias=model.name,
        device=None if device is None else device.upper(),
    )
    unload_info = UnloadInfo()
    try:
        yield Served(
            base_url=url,
            card=card,
            weights=card.id,
            pid=await pid_of_service(root),
            load_s=loaded.load_s,
            keep_warm_s=options.keep_warm_s,
            unload_info=unload_info,
        )
    finally:
        if loaded.loaded_as is not None:
            with contextlib.suppress(TargetError):
                unload_info.unload_s = await _time_get(f"{root}/models/unload/{quote(loaded.loaded_as)}", UNLOAD_S)


async def load_again(model: Model, url: str, identifier: str) -> float | None:
    """Have the running service at a base URL load a model unless it is loaded; returns how many seconds that took.
    None: it was loaded, or the service does not say. Raises TargetError."""
    device = None if model.foundry is None else model.foundry.device
    return (await _load_model(url.removesuffix("/v1"), model.name, identifier, device)).load_s


def _not_listed(name: str, url: str, entries: list[JsonObject], device: str | None) -> TargetError:
    """That a service does not list a model, or not for this device."""
    known = ", ".join(str(entry.get("id")) for entry in entries)
    problem = f"{name} is not among the models of {url}"
    if device is not None and find_entry(name, entries) is not None:
        remedy = "use a device for which it is there, or leave `device` out"
        return TargetError(f"{problem} for {device.upper()}; it has {known}", problem="no_device", remedy=remedy)
    remedy = f"load it there first, e.g. `foundry model load {name}`"
    return TargetError(f"{problem}, which has {known}", problem="not_in_catalog", remedy=remedy)


async def _entries_of(url: str) -> list[JsonObject]:
    """The models that a service lists, at least one. Raises TargetError."""
    listed = await ask_models(url, {})
    if not listed.entries:
        error = await models_error(url, {}, listed)
        remedy = "check that Foundry Local is running there with `foundry service status`"
        raise TargetError(error.message, problem=error.problem, remedy=remedy)
    return list(listed.entries)


class _LoadedModel(Struct, frozen=True):
    """A model that a service has loaded."""

    identifier: str
    load_s: float | None = None
    loaded_as: str | None = None
    """The name by which loadgen had it loaded; None if it was loaded before."""


async def _load_model(root: str, alias: str, identifier: str, device: str | None) -> _LoadedModel:
    """Have a running service load a model, unless it is loaded, or the service cannot do so. Raises TargetError.

    device: raises TargetError if the service loads a variant for another one.
    """
    before = await _loaded_ids(root)
    if before is None or identifier in before:
        return _LoadedModel(identifier)
    # 2.x knows only the alias, 1.x the id. An alias may stand for a variant for another device.
    names = (alias, identifier) if device is None else (identifier, alias)
    loaded = await _load_by_name(root, dict.fromkeys(names), alias, identifier, before)
    if device is None or device_in(loaded.identifier) == device:
        return loaded
    if loaded.loaded_as is not None and loaded.identifier not in before:
        with contextlib.suppress(TargetError):
            await _time_get(f"{root}/models/unload/{quote(loaded.loaded_as)}", UNLOAD_S)
    remedy = f"load it there first, e.g. `foundry model load {identifier}`"
    message = f"for {alias}, {root} loads {loaded.identifier}, which is not for {device.upper()}"
    raise TargetError(message, problem="no_device", remedy=remedy)


async def _load_by_name(
    root: str, names: Iterable[str], alias: str, identifier: str, before: list[str]
) -> _LoadedModel:
    """Have a service load a model by the first of these names that it knows. before: the ids that it has loaded."""
    first_error = ""
    for name in names:
        try:
            load_s = await _time_get(f"{root}/models/load/{quote(name)}", START_S)
        except TargetError as error:
            first_error = first_error or str(error)
            continue
        # The service may load another variant than the first that it lists, and that one may have been loaded before.
        after = await _loaded_ids(root) or []
        new = [loaded_id for loaded_id in after if loaded_id not in before]
        if new or identifier in after:
            return _LoadedModel(identifier if identifier in after else new[0], load_s, name)
        entry = find_entry(alias, [{"id": loaded_id} for loaded_id in after])
        return _LoadedModel(identifier, load_s, name) if entry is None else _LoadedModel(str(entry["id"]))
    remedy = f"load it there first, e.g. `foundry model load {alias}`"
    raise TargetError(f"{alias} cannot be loaded by {root}: {first_error}", problem="load_failed", remedy=remedy)


async def _loaded_ids(root: str) -> list[str] | None:
    """The ids of the models that a service has loaded; None if it does not say."""
    ids = await any_json_of(f"{root}/models/loaded")
    return [str(loaded_id) for loaded_id in ids] if isinstance(ids, list) else None


async def _time_get(url: str, within_s: float) -> float:
    """Send a GET that may take long; returns how many seconds it took. Raises TargetError."""
    began_ns = now_ns()
    timeout = aiohttp.ClientTimeout(total=within_s)
    try:
        async with aiohttp.ClientSession(timeout=timeout) as session, session.get(url) as response:
            if response.status < 400:
                return (now_ns() - began_ns) / 1e9
            raise TargetError(f"status {response.status}: {(await response.text(errors='replace'))[:_MAX_ERROR_CHARS]}")
    except TimeoutError:
        raise TargetError(f"it did not answer within {within_s:g} s") from None
    except (aiohttp.ClientError, OSError) as error:
        raise TargetError(f"{type(error).__name__}: {error}") from error


def find_entry(name: str, entries: list[JsonObject], device: str | None = None) -> JsonObject | None:
    """The entry of `/v1/models` for a name: an id, an id without its version, or an alias with which an id begins.

    device: an alias then matches only variants for this device. If several match, the one with the shortest id counts:
    phi-4 is not phi-4-mini, not even on a device for which only phi-4-mini has a variant.
    """
    wanted = name.lower()
    by_id = [(str(entry.get("id", "")).lower(), entry) for entry in entries]
    exact = [entry for entry_id, entry in by_id if entry_id == wanted]
    unversioned = [entry for entry_id, entry in by_id if _without_version(entry_id) == wanted]
    variants = [(_without_version(entry_id), entry) for entry_id, entry in by_id if entry_id.startswith(f"{wanted}-")]
    variants.sort(key=lambda variant: len(variant[0]))
    if device is not None:
        own = [_family(variant_id, wanted) for variant_id, _ in variants[:1]]
        variants = [each for each in variants if device_in(each[0]) == device and _family(each[0], wanted) in own]
    by_alias = [entry for _, entry in variants]
    return next(iter((*exact, *unversioned, *by_alias)), None)


def _family(variant_id: str, alias: str) -> str:
    """What the variants of one model have in common: phi-4-mini-instruct of `phi-4-mini-instruct-cuda-gpu`."""
    device = device_in(variant_id)
    if device is None:
        return variant_id
    name = variant_id.removesuffix(f"-{device}")
    return name if name == alias else name.rpartition("-")[0]


def device_in(identifier: str) -> str | None:
    """The device for which a variant is, by its id: `qwen2.5-0.5b-instruct-cuda-gpu:3` is for the GPU; None if the id
    does not say."""
    last = _without_version(identifier.lower()).rpartition("-")[2]
    return last if last in DEVICES else None


def _without_version(identifier: str) -> str:
    return identifier.partition(":")[0]


async def pid_of_service(root: str) -> int | None:
    """The service's process; None if the service does not say which it is, or is on another machine."""
    pid = (await json_of(f"{root}/status")).get("pid")
    return pid if isinstance(pid, int) and urlsplit(root).hostname in {"127.0.0.1", "localhost", "::1"} else None


@contextlib.asynccontextmanager
async def _start(model: Model, target: str, options: FoundryLocal, on_progress: OnProgress) -> AsyncIterator[Served]:
    if importlib.util.find_spec("foundry_local_sdk") is None:
        raise TargetError(f"foundry-local-sdk is not installed; {INSTALL}")
    began_ns = now_ns()
    cache = await _cache_of(options, on_progress)
    child = await Child.start("Foundry Local", "loadgen.targets.foundry.service", _flags(model, options, cache))
    unload_info = UnloadInfo()
    try:
        serving = await _wait_until_serving(child, model.name, START_S + options.stall_s, on_progress)
        yield Served(
            base_url=f"{serving.url}/v1",
            card=_card(model.name, target, serving.card),
            pid=serving.pid,
            startup_s=(now_ns() - began_ns) / 1e9,
            load_s=serving.load_s,
            keep_warm_s=options.keep_warm_s,
            child=child,
            server_version=f"foundry-local-sdk {serving.version}",
            weights=serving.card.id,
            settings={"version": f"foundry-local-sdk {serving.version}"},
            unload_info=unload_info,
        )
        unload_info.unload_s = await _unload(child)
    finally:
        await child.stop()


async def _cache_of(options: FoundryLocal, on_progress: OnProgress) -> str | None:
    """The folder of models, with the bundled model in it if the scenario asks for that. None: the runtime's own
    folder."""
    if not options.embedded:
        return options.cache
    on_progress("preparing the embedded model for Foundry Local", None)
    return str((await asyncio.to_thread(ensure_model, on_progress)).folder)


def _flags(model: Model, options: FoundryLocal, cache: str | None) -> Mapping[str, Any]:
    home = user_cache_folder() / "foundry-local"
    return {
        "--model": model.name,
        "--device": options.device,
        "--port": options.port,
        "--cache": cache,
        "--app-data": home / "app",
        "--logs": home / "logs",
        "--catalog": list(options.catalog),
        "--no-catalog": True if options.embedded else None,
        "--stall-s": options.stall_s,
    }


async def _wait_until_serving(child: Child, name: str, within_s: float, on_progress: OnProgress) -> ServingModel:
    """Wait for the child's event that it serves. If it cannot serve, raises TargetError with the remedy.

    within_s: the longest time between two of its events; it must exceed the time for which a download may stall.
    """
    while True:
        match await child.receive(_EVENTS, within_s):
            case ServingModel() as serving:
                return serving
            case DownloadProgress(percent):
                on_progress(f"downloading {name}", percent / 100)
            case DownloadFailed(number, tries, problem):
                on_progress(f"download of {name} failed ({problem}), try {number} of {tries}", None)
            case LoadingModel():
                on_progress(f"loading {name}", None)
            case StartFailed() as failure:
                raise _error_of(failure)


def _error_of(failure: StartFailed) -> TargetError:
    return TargetError(failure.message, problem=failure.kind, remedy=failure.remedy)


async def _unload(child: Child) -> float | None:
    """Have the model unloaded; returns how many seconds it took, or None if the child did not say."""
    child.send(b"unload\n")
    with contextlib.suppress(TargetError):
        while True:
            match await child.receive(_EVENTS, UNLOAD_S):
                case ModelUnloaded(seconds):
                    return seconds
                case ProcessEnds():
                    return None
    return None


def _card(alias: str, target: str, card: VariantCard) -> ModelCard:
    fields = msgspec.structs.asdict(card) | {"alias": alias}
    return ModelCard(target=target, source="foundry-local-sdk", **fields)


async def list_foundry_cards(options: FoundryLocal, on_progress: OnProgress) -> list[ModelCard]:
    """The cards of all models that Foundry Local offers for this machine. Raises TargetError."""
    endpoint = endpoint_of(options) or _old_sdk_endpoint()
    if endpoint is not None:
        return [card_of(str(entry.get("id")), TARGET, entry) for entry in await _entries_of(endpoint)]
    if importlib.util.find_spec("foundry_local_sdk") is None:
        raise TargetError(f"foundry-local-sdk is not installed; {INSTALL}")
    flags = {**_flags(Model(name="-"), options, await _cache_of(options, on_progress)), "--list": True}
    child = await Child.start("Foundry Local", "loadgen.targets.foundry.service", flags)
    try:
        event = await child.receive(_EVENTS, START_S)
    finally:
        await child.stop()
    if isinstance(event, StartFailed):
        raise _error_of(event)
    if not isinstance(event, CatalogListed) or not event.models:
        remedy = "check the network, which its catalog needs"
        raise TargetError("Foundry Local offers no model here", problem="not_in_catalog", remedy=remedy)
    return [_card(card.alias, TARGET, card) for card in event.models]
