"""Redirects: removes headers from a request that is sent on to another server, which were meant for the first one
alone, and finds where a server redirects to."""

from types import SimpleNamespace
from typing import Final

import aiohttp
from yarl import URL

_TIMEOUT_S: Final = 10.0
_FOR_ANYBODY: Final = frozenset(("accept", "accept-encoding", "content-type", "content-length", "user-agent"))


def trace_redirects() -> aiohttp.TraceConfig:
    """Hooks that remove the user's own headers when a redirect leads to another server. aiohttp by itself removes only
    `Authorization`."""
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
    """A session for single requests that are not measured. timeout_s: how long each of them may take."""
    return aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=timeout_s), trace_configs=[trace_redirects()])


def can_be_kept(url: str, redirected_to: str) -> bool:
    """Whether all requests to a URL may be sent to where one of them was redirected: it is on the same server, and its
    query has nothing that may be of that request alone."""
    asked, answered = URL(url), URL(redirected_to)
    return asked.origin() == answered.origin() and asked.raw_query_string == answered.raw_query_string


async def redirect_of(url: str, headers: dict[str, str]) -> str | None:
    """Where whoever asks for an address is sent to, as a whole address; None where nobody is sent anywhere."""
    try:
        async with (
            single_session(_TIMEOUT_S) as session,
            session.get(url, headers=headers, allow_redirects=False) as response,
        ):
            location = response.headers.get("Location")
            return str(response.url.join(URL(location))) if location and 300 <= response.status < 400 else None
    except (aiohttp.ClientError, OSError, ValueError, TimeoutError):
        return None
