"""Which target serves a model: the one place that knows them all."""

from contextlib import AbstractAsyncContextManager
from urllib.parse import urlsplit

from loadgen.scenario import PYTHON_PREFIX, Model
from loadgen.targets.adapter.target import class_name, serve_adapter
from loadgen.targets.foundry.target import TARGET as FOUNDRY
from loadgen.targets.foundry.target import serve_foundry
from loadgen.targets.llamacpp.target import TARGET as LLAMACPP
from loadgen.targets.llamacpp.target import serve_llamacpp
from loadgen.targets.openai import serve_url
from loadgen.targets.served import OnProgress, Served


def target_name(model: Model) -> str:
    """How records and reports name where a model is served: `llamacpp`, `foundry`, a URL's host and port, or an
    adapter's class."""
    if model.url is not None:
        return urlsplit(model.url).netloc.rpartition("@")[2]
    if (model.target or "").startswith(PYTHON_PREFIX):
        return class_name(model.target or "")
    return FOUNDRY if model.target == "foundry" else LLAMACPP


def serve_model(model: Model, on_progress: OnProgress) -> AbstractAsyncContextManager[Served]:
    """Serve a model for as long as the context lasts. Raises TargetError or InputError on entering."""
    if model.url is not None:
        return serve_url(model, target_name(model))
    if (model.target or "").startswith(PYTHON_PREFIX):
        return serve_adapter(model, on_progress)
    return serve_foundry(model, on_progress) if model.target == "foundry" else serve_llamacpp(model)
