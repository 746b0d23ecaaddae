"""Foundry Local as a target: started here and stopped again, or attached to where it runs already.

The runtime lives in a process of its own (`loadgen.targets.foundry_service`). With `FOUNDRY_LOCAL_ENDPOINT`, or an
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
from urllib.parse import urlsplit

import msgspec

from loadgen.clock import SystemClock
from loadgen.errors import InputError, TargetError
from loadgen.foundry_model.cache import ensure_model, user_cache_folder
from loadgen.scenario import FoundryLocal, Model
from loadgen.targets.child import Child
from loadgen.targets.openai import card_of, json_of, models_of
from loadgen.targets.served import Card, Served, Tell

TARGET: Final = "foundry"
ENDPOINT_VARIABLE: Final = "FOUNDRY_LOCAL_ENDPOINT"
START_S: Final = 120.0
UNLOAD_S: Final = 30.0
INSTALL: Final = "run `pip install 'loadgen[foundry]'`, or set FOUNDRY_LOCAL_ENDPOINT to a service that runs"


def endpoint_of(options: FoundryLocal) -> str | None:
    """Where a service runs already, ending in /v1; None when one is to be started. Raises InputError for no URL."""
    told = os.environ.get(ENDPOINT_VARIABLE, "").strip() or options.endpoint
    if not told:
        return None
    url = told.rstrip("/")
    if not url.startswith(("http://", "https://")):
        raise InputError(f"{ENDPOINT_VARIABLE}: {told!r} is no URL; write e.g. http://127.0.0.1:5273/v1")
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
    entry = resolve(model.name, told)
    if entry is None:
        known = ", ".join(str(found.get("id")) for found in told)
        remedy = f"load it there first, e.g. `foundry model load {model.name}`"
        raise TargetError(
            f"{model.name} is not among the models of {url}, which has {known}", problem="not_in_catalog", remedy=remedy
        )
    card = card_of(str(entry["id"]), TARGET, entry)
    yield Served(base_url=url, card=msgspec.structs.replace(card, alias=model.name), pid=await _pid_of(url))


def resolve(name: str, entries: list[dict[str, Any]]) -> dict[str, Any] | None:
    """The entry of `/v1/models` that a name means: its id, its id without the version, or an alias that begins it."""
    wanted = name.lower()
    ids = [(str(entry.get("id", "")).lower(), entry) for entry in entries]
    exact = [entry for told, entry in ids if told == wanted]
    unversioned = [entry for told, entry in ids if told.partition(":")[0] == wanted]
    by_alias = [entry for told, entry in ids if told.startswith(f"{wanted}-")]
    return next(iter((*exact, *unversioned, *by_alias)), None)


async def _pid_of(url: str) -> int | None:
    """The service's process, where the service tells it and it is on this machine."""
    status = await json_of(f"{url.removesuffix('/v1')}/status")
    pid = status.get("pid")
    return pid if isinstance(pid, int) and urlsplit(url).hostname in {"127.0.0.1", "localhost", "::1"} else None


@contextlib.asynccontextmanager
async def _started(model: Model, options: FoundryLocal, tell: Tell) -> AsyncIterator[Served]:
    if importlib.util.find_spec("foundry_local_sdk") is None:
        raise TargetError(f"foundry-local-sdk is not installed; {INSTALL}")
    clock = SystemClock()
    began_ns = clock.now_ns()
    cache = options.cache
    if options.embedded:
        tell("preparing the embedded model for Foundry Local", None)
        cache = str((await asyncio.to_thread(ensure_model, tell)).folder)
    child = await Child.start("Foundry Local", "loadgen.targets.foundry_service", _flags(model, options, cache), {})
    farewell: dict[str, Any] = {}
    try:
        hello = await _until_serving(child, model.name, tell)
        yield Served(
            base_url=f"{hello['url']}/v1",
            card=_card(model, hello["card"]),
            pid=hello["pid"],
            startup_s=(clock.now_ns() - began_ns) / 1e9,
            load_s=hello["load_s"],
            settings={"version": f"foundry-local-sdk {hello['version']}"},
            farewell=farewell,
        )
        farewell["unload_s"] = await _unload(child)
    finally:
        await child.stop()


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


async def _until_serving(child: Child, name: str, tell: Tell) -> dict[str, Any]:
    """Hear the child out until it serves; what it cannot do becomes a TargetError with its remedy."""
    while True:
        told = await child.hear(START_S)
        match told["event"]:
            case "serving":
                return told
            case "download":
                tell(f"downloading {name}", told["percent"] / 100)
            case "retry":
                tell(f"download of {name} failed ({told['problem']}), try {told['attempt']} of {told['of']}", None)
            case "error":
                raise TargetError(told["message"], problem=told["kind"], remedy=told["remedy"])


async def _unload(child: Child) -> float | None:
    """Have the model unloaded; seconds, or None when the child did not say."""
    child.tell("unload")
    with contextlib.suppress(TargetError):
        while True:
            told = await child.hear(UNLOAD_S)
            if told["event"] in {"unloaded", "ended"}:
                return told.get("seconds")
    return None


def _card(model: Model, told: dict[str, Any]) -> Card:
    return msgspec.convert({**told, "alias": model.name, "target": TARGET, "source": "foundry-local-sdk"}, Card)


async def foundry_models(options: FoundryLocal, tell: Tell) -> list[Card]:
    """The cards of all models that Foundry Local offers here. Raises TargetError."""
    endpoint = endpoint_of(options) or _old_sdk_endpoint()
    if endpoint is not None:
        return [card_of(str(entry.get("id")), TARGET, entry) for entry in await models_of(endpoint, {})]
    if importlib.util.find_spec("foundry_local_sdk") is None:
        raise TargetError(f"foundry-local-sdk is not installed; {INSTALL}")
    flags = _flags(Model(name="-"), options, options.cache) | {"--list": True}
    child = await Child.start("Foundry Local", "loadgen.targets.foundry_service", flags, {})
    try:
        told = await child.hear(START_S)
    finally:
        await child.stop()
    if told["event"] == "error":
        raise TargetError(told["message"], problem=told["kind"], remedy=told["remedy"])
    return [_card(Model(name=card["alias"]), card) for card in told["models"]]
