"""Which target serves a model: the one place that knows them all."""

from contextlib import AbstractAsyncContextManager
from urllib.parse import urlsplit

from loadgen.scenario import PYTHON_PREFIX, Model
from loadgen.targets.adapter.target import class_name, serving_adapter
from loadgen.targets.foundry.target import TARGET as FOUNDRY
from loadgen.targets.foundry.target import serving_foundry
from loadgen.targets.llamacpp.target import TARGET as LLAMACPP
from loadgen.targets.llamacpp.target import serving_llamacpp
from loadgen.targets.openai import serving_url
from loadgen.targets.served import Served, Tell


def target_name(model: Model) -> str:
    """How records and reports name where a model is served: `llamacpp`, `foundry`, a URL's host and port, or an
    adapter's class."""
    if model.url is not None:
        return urlsplit(model.url).netloc.rpartition("@")[2]
    if (model.target or "").startswith(PYTHON_PREFIX):
        return class_name(model.target or "")
    return FOUNDRY if model.target == "foundry" else LLAMACPP


def serving(model: Model, tell: Tell) -> AbstractAsyncContextManager[Served]:
    """Serve a model for as long as the context lasts. Raises TargetError or InputError on entering."""
    if model.url is not None:
        return serving_url(model, target_name(model))
    if (model.target or "").startswith(PYTHON_PREFIX):
        return serving_adapter(model, tell)
    return serving_foundry(model, tell) if model.target == "foundry" else serving_llamacpp(model)
