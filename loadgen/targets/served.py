"""What a target hands over once it serves a model: where to send, and the model's card. Knows no measurement."""

from typing import Any

from msgspec import Struct


class Card(Struct, frozen=True, kw_only=True):
    """What is known of a model; None is not known, and not shown.

    alias: as the scenario names it. id: as the server does. size_bytes: on disk. context_tokens: of one request, as
    served. parameters: how many weights. source: who said so.
    """

    alias: str
    id: str
    target: str
    size_bytes: int | None = None
    licence: str | None = None
    context_tokens: int | None = None
    parameters: int | None = None
    quantization: str | None = None
    publisher: str | None = None
    device: str | None = None
    source: str | None = None


class Served(Struct, frozen=True, kw_only=True):
    """A model that is being served. base_url: ends in /v1. extra: what every request's body needs here. pid: of the
    server's process, where it is ours to look at. startup_s: from the start of the process to its first answer."""

    base_url: str
    card: Card
    headers: dict[str, str] = {}
    extra: dict[str, Any] = {}
    pid: int | None = None
    startup_s: float | None = None
    settings: dict[str, Any] = {}
