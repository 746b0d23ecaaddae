"""Foundry Local as a target: started here and stopped again, or attached to where it runs already.

The runtime lives in a process of its own (`loadgen.targets.foundry.service`). With `FOUNDRY_LOCAL_ENDPOINT`, or an
`endpoint` in the scenario, nothing is started and no SDK is needed: that service is used as it is and left alone.
"""

import asyncio
import contextlib
import importlib
import importlib.metadata
import importlib.util
import os
from collections.abc import AsyncIterator
from typing import Any, Final
from urllib.parse import quote, urlsplit

import aiohttp
import msgspec
from msgspec import Struct

from loadgen.child import Child
from loadgen.clock import SystemClock
from loadgen.errors import InputError, TargetError
from loadgen.redact import redact_url
from loadgen.scenario import FoundryLocal, Model
from loadgen.scenario.urls import mismatch_of_address
from loadgen.store.paths import user_cache_folder
from loadgen.targets.foundry.model.cache import ensure_model
from loadgen.targets.openai import any_json_of, card_of, json_of, models_of
from loadgen.targets.served import ModelCard, Served, Tell

TARGET: Final = "foundry"
ENDPOINT_VARIABLE: Final = "FOUNDRY_LOCAL_ENDPOINT"
START_S: Final = 120.0
UNLOAD_S: Final = 30.0
_TEXT: Final = 300
INSTALL: Final = "run `pip install 'loadgen[foundry]'`, or set FOUNDRY_LOCAL_ENDPOINT to a service that runs"


def endpoint_of(options: FoundryLocal) -> str | None:
    """Where a service runs already, ending in /v1; None when one is to be started. Raises InputError for no URL."""
    from_environment = os.environ.get(ENDPOINT_VARIABLE, "").strip()
    told = from_environment or options.endpoint
    if not told:
        return None
    url = told.rstrip("/")
    if wrong := mismatch_of_address(url):
        where = ENDPOINT_VARIABLE if from_environment else "foundry.endpoint"
        raise InputError(redact_url(f"{where}: {wrong[0]}; {wrong[1]}"))
    return url if url.endswith("/v1") else f"{url}/v1"


@contextlib.asynccontextmanager
async def serving_foundry(model: Model, tell: Tell) -> AsyncIterator[Served]:
    """A model on Foundry Local for as long as the context lasts. Raises TargetError or InputError on entering."""
    options = model.foundry or FoundryLocal()
    endpoint = endpoint_of(options) or _old_sdk_endpoint()
    if endpoint is not None:
        async with _attached(model, endpoint) as served:
            yield served
    else:
        async with _started(model, options, tell) as served:
            yield served


def sdk_major() -> int | None:
    """The major version of the installed SDK; None without one."""
    with contextlib.suppress(importlib.metadata.PackageNotFoundError, ValueError):
        return int(importlib.metadata.version("foundry-local-sdk").partition(".")[0])
    return None


def _old_sdk_endpoint() -> str | None:
    """The service of a 0.x SDK, which wraps the `foundry` command: used as a URL, its life is that command's."""
    if (sdk_major() is not None and sdk_major() != 0) or importlib.util.find_spec("foundry_local") is None:
        return None
    module = importlib.import_module("foundry_local")
    try:
        return str(module.FoundryLocalManager().endpoint)
    except Exception as error:
        told = " ".join(str(error).split())
        remedy = "run `foundry service start`"
        raise TargetError(f"the `foundry` command cannot start its service: {told}", remedy=remedy) from error


@contextlib.asynccontextmanager
async def _attached(model: Model, url: str) -> AsyncIterator[Served]:
    """A service that runs already: nothing of it is started, and nothing stopped."""
    told = await models_of(url, {})
    if not told:
        remedy = "is Foundry Local running there? try `foundry service status`"
        raise TargetError(f"{url} does not list any model", problem="no_service", remedy=remedy)
    options = model.foundry or FoundryLocal()
    entry = resolve(model.name, told, options.device)
    if entry is None:
        known = ", ".join(str(found.get("id")) for found in told)
        remedy = f"load it there first, e.g. `foundry model load {model.name}`"
        raise TargetError(
            f"{model.name} is not among the models of {url}, which has {known}", problem="not_in_catalog", remedy=remedy
        )
    root = url.removesuffix("/v1")
    loaded = await _load_there(root, model.name, str(entry["id"]))
    card = msgspec.structs.replace(card_of(loaded.identifier, TARGET, entry), id=loaded.identifier, alias=model.name)
    farewell: dict[str, Any] = {}
    try:
        yield Served(
            base_url=url,
            card=card,
            pid=await _pid_of(root),
            load_s=loaded.load_s,
            keep_warm_s=options.keep_warm_s,
            farewell=farewell,
        )
    finally:
        if loaded.by is not None:
            with contextlib.suppress(TargetError):
                farewell["unload_s"] = await _ask_there(f"{root}/models/unload/{quote(loaded.by)}", UNLOAD_S)


class _Loaded(Struct, frozen=True):
    """A model that a service has loaded. by: the name that we had it loaded by; None where it was there before."""

    identifier: str
    load_s: float | None = None
    by: str | None = None


async def _load_there(root: str, alias: str, identifier: str) -> _Loaded:
    """Have a service that runs already load a model, unless it has, or cannot be asked to. Raises TargetError."""
    before = await _loaded_there(root)
    if before is None or identifier in before:
        return _Loaded(identifier)
    refused = ""
    for name in dict.fromkeys((alias, identifier)):  # 2.x goes by the alias alone, 1.x by the id
        try:
            load_s = await _ask_there(f"{root}/models/load/{quote(name)}", START_S)
        except TargetError as error:
            refused = refused or str(error)
            continue
        # The service may take another variant than the first that it lists, and that one may have been there before.
        after = await _loaded_there(root) or []
        new = [found for found in after if found not in before]
        if new or identifier in after:
            return _Loaded(identifier if identifier in after else new[0], load_s, name)
        kept = resolve(alias, [{"id": found} for found in after])
        return _Loaded(identifier, load_s, name) if kept is None else _Loaded(str(kept["id"]))
    remedy = f"load it there first, e.g. `foundry model load {alias}`"
    raise TargetError(f"{alias} cannot be loaded by {root}: {refused}", problem="load_failed", remedy=remedy)


async def _loaded_there(root: str) -> list[str] | None:
    """The ids that a service has loaded; None where it does not say."""
    told = await any_json_of(f"{root}/models/loaded")
    return [str(found) for found in told] if isinstance(told, list) else None


async def _ask_there(url: str, within_s: float) -> float:
    """Ask a service for something that takes a while; seconds until it was done. Raises TargetError."""
    clock = SystemClock()
    began_ns = clock.now_ns()
    timeout = aiohttp.ClientTimeout(total=within_s)
    try:
        async with aiohttp.ClientSession(timeout=timeout) as session, session.get(url) as response:
            if response.status < 400:
                return (clock.now_ns() - began_ns) / 1e9
            raise TargetError(f"status {response.status}: {(await response.text(errors='replace'))[:_TEXT]}")
    except TimeoutError:
        raise TargetError(f"it did not answer within {within_s:g} s") from None
    except (aiohttp.ClientError, OSError) as error:
        raise TargetError(f"{type(error).__name__}: {error}") from error


def resolve(name: str, entries: list[dict[str, Any]], device: str | None = None) -> dict[str, Any] | None:
    """The entry of `/v1/models` that a name means: its id, its id without the version, or an alias that begins it.

    device: an alias means only what is for it. The shortest id is meant: phi-4 is not phi-4-mini.
    """
    wanted = name.lower()
    ids = [(str(entry.get("id", "")).lower(), entry) for entry in entries]
    exact = [entry for told, entry in ids if told == wanted]
    unversioned = [entry for told, entry in ids if _stem(told) == wanted]
    begun = sorted((told for told in ids if told[0].startswith(f"{wanted}-")), key=lambda told: len(_stem(told[0])))
    by_alias = [entry for told, entry in begun if device is None or _stem(told).endswith(f"-{device}")]
    return next(iter((*exact, *unversioned, *by_alias)), None)


def _stem(identifier: str) -> str:
    """An id without its version."""
    return identifier.partition(":")[0]


async def _pid_of(root: str) -> int | None:
    """The service's process, where the service tells it and it is on this machine."""
    pid = (await json_of(f"{root}/status")).get("pid")
    return pid if isinstance(pid, int) and urlsplit(root).hostname in {"127.0.0.1", "localhost", "::1"} else None


@contextlib.asynccontextmanager
async def _started(model: Model, options: FoundryLocal, tell: Tell) -> AsyncIterator[Served]:
    if importlib.util.find_spec("foundry_local_sdk") is None:
        raise TargetError(f"foundry-local-sdk is not installed; {INSTALL}")
    clock = SystemClock()
    began_ns = clock.now_ns()
    cache = await _cache_of(options, tell)
    child = await Child.start("Foundry Local", "loadgen.targets.foundry.service", _flags(model, options, cache))
    farewell: dict[str, Any] = {}
    try:
        hello = await _until_serving(child, model.name, START_S + options.stall_s, tell)
        yield Served(
            base_url=f"{hello['url']}/v1",
            card=_card(model, hello["card"]),
            pid=hello["pid"],
            startup_s=(clock.now_ns() - began_ns) / 1e9,
            load_s=hello["load_s"],
            keep_warm_s=options.keep_warm_s,
            child=child,
            settings={"version": f"foundry-local-sdk {hello['version']}"},
            farewell=farewell,
        )
        farewell["unload_s"] = await _unload(child)
    finally:
        await child.stop()


async def _cache_of(options: FoundryLocal, tell: Tell) -> str | None:
    """The folder of models, with the embedded one in it where that is asked for; None is the runtime's own."""
    if not options.embedded:
        return options.cache
    tell("preparing the embedded model for Foundry Local", None)
    return str((await asyncio.to_thread(ensure_model, tell)).folder)


def _flags(model: Model, options: FoundryLocal, cache: str | None) -> dict[str, Any]:
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


async def _until_serving(child: Child, name: str, within_s: float, tell: Tell) -> dict[str, Any]:
    """Hear the child out until it serves; what it cannot do becomes a TargetError with its remedy.

    within_s: between two things that it says: longer than a download may stand still.
    """
    while True:
        told = await child.receive(within_s)
        match told["event"]:
            case "serving":
                return told
            case "download":
                tell(f"downloading {name}", told["percent"] / 100)
            case "retry":
                tell(f"download of {name} failed ({told['problem']}), try {told['attempt']} of {told['of']}", None)
            case "loading":
                tell(f"loading {name}", None)
            case "error":
                raise TargetError(told["message"], problem=told["kind"], remedy=told["remedy"])


async def _unload(child: Child) -> float | None:
    """Have the model unloaded; seconds, or None when the child did not say."""
    child.send(b"unload\n")
    with contextlib.suppress(TargetError):
        while True:
            told = await child.receive(UNLOAD_S)
            if told["event"] in {"unloaded", "ended"}:
                return told.get("seconds")
    return None


def _card(model: Model, told: dict[str, Any]) -> ModelCard:
    return msgspec.convert({**told, "alias": model.name, "target": TARGET, "source": "foundry-local-sdk"}, ModelCard)


async def foundry_models(options: FoundryLocal, tell: Tell) -> list[ModelCard]:
    """The cards of all models that Foundry Local offers here. Raises TargetError."""
    endpoint = endpoint_of(options) or _old_sdk_endpoint()
    if endpoint is not None:
        return [card_of(str(entry.get("id")), TARGET, entry) for entry in await models_of(endpoint, {})]
    if importlib.util.find_spec("foundry_local_sdk") is None:
        raise TargetError(f"foundry-local-sdk is not installed; {INSTALL}")
    flags = _flags(Model(name="-"), options, await _cache_of(options, tell)) | {"--list": True}
    child = await Child.start("Foundry Local", "loadgen.targets.foundry.service", flags)
    try:
        told = await child.receive(START_S)
    finally:
        await child.stop()
    if told["event"] == "error":
        raise TargetError(told["message"], problem=told["kind"], remedy=told["remedy"])
    if not told["models"]:
        remedy = "is there a network for its catalog, or a model in its cache?"
        raise TargetError("Foundry Local offers no model here", problem="not_in_catalog", remedy=remedy)
    return [_card(Model(name=card["alias"]), card) for card in told["models"]]
