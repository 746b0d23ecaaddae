"""Finds the target that serves a model. Only this module knows all targets; each is imported when it is needed."""

import asyncio
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import msgspec

from loadgen.scenario import FOUNDRY, LLAMACPP, PYTHON_PREFIX, FoundryLocal, Model
from loadgen.scenario.devices import target_on
from loadgen.scenario.urls import base_url, place_name

if TYPE_CHECKING:  # who only names targets imports no client
    from loadgen.targets.served import OnProgress, Served


def target_name(model: Model) -> str:
    """The name of a model's target in records and reports: `llamacpp`, `foundry`, with a device `foundry/gpu`, a URL's
    host, port and base path, or an adapter's class."""
    if model.url is not None:
        return place_name(model.url)
    if (model.target or "").startswith(PYTHON_PREFIX):
        from loadgen.targets.adapter.target import class_name

        return class_name(model.target or "")
    if model.target != FOUNDRY:
        return LLAMACPP
    return target_on(None if model.foundry is None else model.foundry.device)


def running_address(model: Model) -> str | None:
    """The base URL of a server that is already running; None if loadgen starts the model's server. Raises InputError if
    the environment names one that is no URL."""
    if model.url is not None:
        return base_url(model.url)
    if model.target != FOUNDRY:
        return None
    from loadgen.targets.foundry.target import endpoint_of

    return endpoint_of(model.foundry or FoundryLocal())


def serve_model(model: Model, on_progress: "OnProgress") -> "AbstractAsyncContextManager[Served]":
    """Serve a model for as long as the context lasts. Raises TargetError or InputError on entering."""
    if model.url is not None:
        from loadgen.targets.openai import serve_url

        return serve_url(model, target_name(model))
    if (model.target or "").startswith(PYTHON_PREFIX):
        from loadgen.targets.adapter.target import serve_adapter

        return serve_adapter(model, on_progress)
    if model.target == FOUNDRY:
        from loadgen.targets.foundry.target import serve_foundry

        return serve_foundry(model, target_name(model), on_progress)
    from loadgen.targets.llamacpp.target import serve_llamacpp

    return serve_llamacpp(model)


def serve_model_again(
    model: Model, served: "Served", on_progress: "OnProgress"
) -> "AbstractAsyncContextManager[Served]":
    """Serve a model whose server has ended, at the same address, so that its requests stay the same. served: what it
    served before. Raises TargetError or InputError on entering, and ValueError for a server that we did not start."""
    port = urlsplit(served.base_url).port
    if served.child is None or port is None:
        raise ValueError(f"{model.name} is served by a process that we did not start")
    if model.target == FOUNDRY:
        from loadgen.targets.foundry.target import serve_foundry

        options = msgspec.structs.replace(model.foundry or FoundryLocal(), port=port)
        return serve_foundry(msgspec.structs.replace(model, foundry=options), target_name(model), on_progress)
    from loadgen.targets.llamacpp.target import serve_llamacpp

    return serve_llamacpp(model, port=port)


async def serving_pid(model: Model, served: "Served") -> int | None:
    """The process that serves a model now; None if it is on another machine, or cannot be found."""
    if served.child is not None:
        return served.pid
    if model.url is None and model.target == FOUNDRY:
        from loadgen.targets.foundry.target import pid_of_service

        return await pid_of_service(served.base_url.removesuffix("/v1"))
    from loadgen.targets.openai import listening_pid

    # In a thread, because it reads all connections of the machine.
    return await asyncio.to_thread(listening_pid, served.base_url)


async def load_again(model: Model, served: "Served") -> float | None:
    """Have a service that somebody else started load a model that it has unloaded; returns how many seconds that took.
    None: the model was loaded, or the service does not say. Raises TargetError."""
    if model.url is not None or model.target != FOUNDRY or served.child is not None:
        return None
    from loadgen.targets.foundry.target import load_again as load_foundry_again

    return await load_foundry_again(model, served.base_url, served.card.id)
