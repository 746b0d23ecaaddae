"""Which target serves a model: the one place that knows them all."""

from contextlib import AbstractAsyncContextManager
from urllib.parse import urlsplit

from loadgen.scenario import Model
from loadgen.targets.llamacpp import TARGET as LLAMACPP
from loadgen.targets.llamacpp import serving_llamacpp
from loadgen.targets.openai import serving_url
from loadgen.targets.served import Served


def target_name(model: Model) -> str:
    """How records and reports name where a model is served: `llamacpp`, or a URL's host and port."""
    return LLAMACPP if model.url is None else urlsplit(model.url).netloc.rpartition("@")[2]


def serving(model: Model) -> AbstractAsyncContextManager[Served]:
    """Serve a model for as long as the context lasts. Raises TargetError or InputError on entering."""
    if model.url is not None:
        return serving_url(model, target_name(model))
    return serving_llamacpp(model)
