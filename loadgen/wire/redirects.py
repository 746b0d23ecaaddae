"""What goes along when a server sends a request somewhere else: nothing that was meant for the server alone."""

from types import SimpleNamespace
from typing import Final

import aiohttp
from yarl import URL

_FOR_ANYBODY: Final = frozenset(("accept", "accept-encoding", "content-type", "content-length", "user-agent"))


def trace_redirects() -> aiohttp.TraceConfig:
    """Has aiohttp leave a person's own headers behind at the border of a server; by itself it knows `Authorization`."""
    config = aiohttp.TraceConfig()

    async def redirect(
        _: aiohttp.ClientSession, __: SimpleNamespace, params: aiohttp.TraceRequestRedirectParams
    ) -> None:
        location = params.response.headers.get("Location") or params.response.headers.get("URI") or ""
        try:
            same_server = params.url.join(URL(location)).origin() == params.url.origin()
        except ValueError:  # aiohttp will not go there
            same_server = False
        if not same_server:
            for name in {*params.headers}:
                if name.lower() not in _FOR_ANYBODY:
                    params.headers.popall(name, None)

    config.on_request_redirect.append(redirect)
    return config


def single_session(timeout_s: float) -> aiohttp.ClientSession:
    """A session for a question or two outside of what is measured, each to be answered within so long."""
    return aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=timeout_s), trace_configs=[trace_redirects()])
