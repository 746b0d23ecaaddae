"""Asks a running server for its version, where servers of its kind tell it. Measures nothing."""

import asyncio
import contextlib
from typing import Final

import msgspec

from loadgen.redact import printable
from loadgen.scenario.urls import route_url
from loadgen.targets.openai import json_of
from loadgen.targets.served import Served

_ROUTES: Final = (("props", "build_info"), ("version", "version"), ("api/version", "version"))
"""Where a version is, and under which key: llama.cpp, vLLM, Ollama."""
_TIMEOUT_S: Final = 3.0
"""For all routes together. A version is worth no long wait."""
_MAX_CHARACTERS: Final = 100


async def with_version(served: Served) -> Served:
    """The served model with its server's version. Only a server that has answered before is asked for it."""
    if served.child is not None or served.adapter is not None or served.models.status is None:
        return served
    return msgspec.structs.replace(served, server_version=await server_version(served.base_url, served.headers))


async def server_version(base_url: str, headers: dict[str, str]) -> str | None:
    """The version of the server at a base URL; None if it tells none. Never raises for what a server does."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_TIMEOUT_S):
            for route, key in _ROUTES:
                version = (await json_of(route_url(_root(base_url), route), headers)).get(key)
                if isinstance(version, str) and version.strip():
                    return printable(version.strip())[:_MAX_CHARACTERS]
    return None


def _root(base_url: str) -> str:
    """The URL of the server itself, for the base URL of its API. A query of the base stays."""
    place, mark, query = base_url.partition("?")
    return f"{place.removesuffix('/').removesuffix('/v1')}{mark}{query}"
