"""The target that is only a URL: any OpenAI-compatible server. Starts and stops nothing, and knows no measurement."""

import contextlib
import os
from collections.abc import AsyncIterator
from typing import Any, Final
from urllib.parse import urlsplit

import aiohttp
import msgspec
import psutil
from msgspec import Struct

from loadgen.record import JsonObject
from loadgen.redact import api_key, redact_keys
from loadgen.scenario import Model
from loadgen.scenario.headers import header_values
from loadgen.scenario.urls import base_url, route_url
from loadgen.store.manifest import ModelCard
from loadgen.targets.listing import is_listed
from loadgen.targets.served import ModelList, Served
from loadgen.wire.chat_json import parse_value
from loadgen.wire.client import beginning_of, describe
from loadgen.wire.redirects import trace_redirects

_THIS_MACHINE: Final = {"127.0.0.1", "localhost", "::1"}
_FORWARDERS: Final = ("docker", "com.docker", "rootlessport", "wslrelay", "ssh", "kubectl", "gvproxy")
"""Processes that only forward bytes, so their memory is not that of a model."""
_TIMEOUT_S: Final = 10.0
_MAX_BYTES: Final = 4 << 20
_ERROR_CHARS: Final = 200


def authorization() -> dict[str, str]:
    """The header with the key from the environment, if there is one. It is sent, and never written anywhere.

    Raises InputError as `loadgen.redact.api_key` does.
    """
    key = api_key(os.environ)
    return {} if key is None else {"Authorization": f"Bearer {key}"}


def headers_of(model: Model) -> dict[str, str]:
    """The headers for a model's endpoint: the API key from the environment, and the user's own headers, which override
    it. None of them goes to a server without a URL.

    Raises InputError if the environment lacks a variable that they need.
    """
    if model.url is None:
        return {}
    own = header_values(model.headers, os.environ)
    has_key = any(name.lower() == "authorization" for name in own)
    return own if has_key else {**authorization(), **own}


@contextlib.asynccontextmanager
async def serve_url(model: Model, target: str) -> AsyncIterator[Served]:
    """A model behind a URL. Its card comes from `/v1/models`; if the server answers nothing there, that is no error."""
    url = base_url(model.url or "")
    headers = headers_of(model)
    models = await ask_models(url, headers)
    card = card_in(models, model.name, target)
    yield Served(base_url=url, headers=headers, card=card, models=models, pid=listening_pid(url))


def card_in(models: ModelList, name: str, target: str) -> ModelCard:
    """The card of a model, from its server's list."""
    entry = next((entry for entry in models.entries if entry.get("id") == name), {})
    card = card_of(name, target, entry)
    return msgspec.structs.replace(card, listed=is_listed(name, models.names)) if models.entries else card


def listening_pid(url: str) -> int | None:
    """The process that serves a URL of this machine, so that its memory and CPU can be sampled. None if it is on
    another machine, or cannot be found."""
    parts = urlsplit(url)
    if parts.hostname not in _THIS_MACHINE:
        return None
    port = parts.port or (443 if parts.scheme == "https" else 80)
    with contextlib.suppress(psutil.Error, OSError, RuntimeError):
        for connection in psutil.net_connections(kind="tcp"):
            if connection.status == psutil.CONN_LISTEN and connection.laddr and connection.laddr.port == port:
                return _serving_pid(connection.pid)
    return None


def _serving_pid(pid: int | None) -> int | None:
    if pid is None or pid == os.getpid() or psutil.Process(pid).name().lower().startswith(_FORWARDERS):
        return None
    return pid


class _JsonAnswer(Struct, frozen=True):
    """The result of a GET. value: the JSON, or None."""

    value: Any = None
    status: int | None = None
    error: str | None = None


async def ask_models(base: str, headers: dict[str, str]) -> ModelList:
    """The answer of the server at a base URL to a request for its models. Never raises for what a server does."""
    answer = await _json_at(route_url(base, "models"), headers)
    if answer.error is not None:
        return ModelList(status=answer.status, error=answer.error)
    # Some gateways send a plain list (Together, GitHub Models).
    data = answer.value.get("data") if isinstance(answer.value, dict) else answer.value
    if not isinstance(data, list):
        return ModelList(status=answer.status, error="it answers with JSON that is no list of models")
    entries = tuple(entry for entry in data if isinstance(entry, dict))
    return ModelList(entries, answer.status, None if entries else "its list of models is empty")


async def models_of(base: str, headers: dict[str, str]) -> list[JsonObject]:
    """The entries of `/v1/models`; empty if the server lists none."""
    return list((await ask_models(base, headers)).entries)


async def json_of(url: str, headers: dict[str, str] | None = None) -> JsonObject:
    """The JSON object behind a URL; empty if there is none within a few seconds."""
    value = await any_json_of(url, headers)
    return value if isinstance(value, dict) else {}


async def any_json_of(url: str, headers: dict[str, str] | None = None) -> Any:
    """The JSON value behind a URL, of any type; None if there is none within a few seconds."""
    return (await _json_at(url, headers)).value


async def _json_at(url: str, headers: dict[str, str] | None) -> _JsonAnswer:
    timeout = aiohttp.ClientTimeout(total=_TIMEOUT_S)
    status: int | None = None
    try:
        async with (
            aiohttp.ClientSession(timeout=timeout, trace_configs=[trace_redirects()]) as session,
            session.get(url, headers=headers) as response,
        ):
            status = response.status
            body = await beginning_of(response, _MAX_BYTES)
    except TimeoutError:
        return _JsonAnswer(status=status, error=f"no answer within {_TIMEOUT_S:g} s")
    except (aiohttp.ClientError, OSError, ValueError) as error:
        return _JsonAnswer(status=status, error=describe(error))
    text = " ".join(redact_keys(body.decode("utf-8", "replace")).split())
    if status >= 400:
        return _JsonAnswer(status=status, error=f"status {status}: {text[:_ERROR_CHARS]}".rstrip(": "))
    if len(body) == _MAX_BYTES:
        return _JsonAnswer(status=status, error=f"it answers with {_MAX_BYTES >> 20} MiB or more, which is not read")
    value = parse_value(body)
    if value is not None:
        with contextlib.suppress(RecursionError):
            return _JsonAnswer(_redact(value), status)
    kind = "a web page" if text.startswith("<") else "no JSON"
    return _JsonAnswer(status=status, error=f"it answers with {kind}: {text[:_ERROR_CHARS]}".rstrip(": "))


def _redact(value: Any) -> Any:
    """A JSON value without our key, which a server might repeat, and which would then get into reports."""
    match value:
        case str():
            return redact_keys(value)
        case list():
            return [_redact(item) for item in value]
        case dict():
            return {redact_keys(name): _redact(item) for name, item in value.items()}
    return value


def card_of(alias: str, target: str, entry: JsonObject) -> ModelCard:
    """A card from one entry of `/v1/models`. Fields that are missing, or not of the expected type, are left out."""
    meta = entry.get("meta")
    meta = meta if isinstance(meta, dict) else {}

    def number(*names: str) -> int | None:
        values = (source.get(name) for name in names for source in (meta, entry))
        return next((value for value in values if isinstance(value, int) and not isinstance(value, bool)), None)

    def text(value: object) -> str | None:
        return value if isinstance(value, str) and value else None

    def words(value: object) -> str | None:
        """A list of texts, or one text with commas."""
        parts = value if isinstance(value, list) else [value]
        return ",".join(part for part in parts if isinstance(part, str) and part) or None

    return ModelCard(
        alias=alias,
        id=text(entry.get("id")) or alias,
        target=target,
        size_bytes=number("size"),
        context_tokens=number("n_ctx", "max_model_len", "context_length"),
        parameters=number("n_params"),
        quantization=text(meta.get("ftype")),
        license=text(entry.get("license")),
        publisher=text(entry.get("owned_by")),
        capabilities=words(entry.get("capabilities")),
        source="/v1/models" if entry else None,
    )
