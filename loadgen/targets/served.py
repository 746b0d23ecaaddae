"""What a target hands over once it serves a model: where to send, and the model's card. Knows no measurement."""

from collections.abc import Callable
from typing import Any

import msgspec
from msgspec import Struct

from loadgen.child import Child
from loadgen.targets.adapter.in_process import InProcess

Tell = Callable[[str, float | None], None]
"""Told what a target is doing, and how much of it is done (0 to 1; None is not known)."""


class ModelCard(Struct, frozen=True, kw_only=True):
    """What is known of a model; None is not known, and not shown.

    alias: as the scenario names it. id: as the server does. size_bytes: on disk. context_tokens: of one request, as
    served. parameters: how many weights. task: what it is for. cached: on this device already. source: who said so.
    """

    alias: str
    id: str
    target: str
    size_bytes: int | None = None
    license: str | None = None
    context_tokens: int | None = None
    parameters: int | None = None
    quantization: str | None = None
    publisher: str | None = None
    device: str | None = None
    execution_provider: str | None = None
    task: str | None = None
    cached: bool | None = None
    capabilities: str | None = None
    source: str | None = None


class Served(Struct, frozen=True, kw_only=True):
    """A model that is being served.

    base_url: ends in /v1; empty where an adapter answers. adapter: in this process, instead of a server. extra: what
    every request's body needs here. pid: of the process that it runs in, where it is ours to look at. startup_s: from
    the start of the process until it served; load_s: the model's part of that. settings: how it was started. farewell:
    filled when it is over (unload_s: how long the model took to unload). child: the process, where we have started it.
    """

    base_url: str
    card: ModelCard
    adapter: InProcess | None = None
    headers: dict[str, str] = {}
    extra: dict[str, Any] = {}
    pid: int | None = None
    startup_s: float | None = None
    load_s: float | None = None
    keep_warm_s: float | None = None
    settings: dict[str, Any] = {}
    child: Child | None = None
    farewell: dict[str, Any] = msgspec.field(default_factory=dict)
