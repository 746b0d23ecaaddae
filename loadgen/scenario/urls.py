"""Finds the API that an address means, and what is wrong with an address. Knows no network, repeats no password."""

import ipaddress
import re
import string
from typing import Final, Literal
from urllib.parse import SplitResult, parse_qsl, quote, urlsplit

from loadgen.redact import is_secret_name, looks_secret

CREDENTIALS: Final = "credentials in an address would be written to files"
EXAMPLE: Final = 'write e.g. "http://localhost:8080/v1"'
KEY_HINT: Final = "set LOADGEN_API_KEY"
DEFAULT_PATH: Final = "/v1"
"""The base path for an address without one."""
Kind = Literal["endpoint", "address"]
"""An endpoint is the base of an API, and may be abbreviated; an address is a complete URL."""

_ROUTE: Final = re.compile(r"/(?:chat/completions|completions|responses|embeddings|models)/*\Z")
_FOUNDRY_ROUTE: Final = re.compile(r"/(?:openai/(?:status|models|loadedmodels)|status|models/loaded)/*\Z")
"""The paths that Foundry Local's own tools print for its service; the API is at /v1 of the same server."""
_NOT_IN_HOST: Final = re.compile(r"[\s\\<>\"{}|^`]")
_PORT: Final = re.compile(r":?([0-9]+)/*")


def base_url(address: str) -> str:
    """The base URL of the API that a usable address means; `route_url` adds routes to it.

    The path stays as it is written; if there is none, it becomes /v1. The address of a route, `…/chat/completions` or
    `…/models`, means the base above it, and the address that Foundry Local prints (`…/openai/status`) means its API. A
    port, or a nearby host with a port, is enough, and means http.
    """
    parts = _split(address)
    path = quote(parts.path, safe=string.punctuation)
    if _FOUNDRY_ROUTE.search(path):
        path = _FOUNDRY_ROUTE.sub(DEFAULT_PATH, path)
    elif _ROUTE.search(path):
        path = _ROUTE.sub("", path)
    else:
        path = path.rstrip("/") or DEFAULT_PATH
    query = f"?{quote(parts.query, safe=string.punctuation)}" if parts.query else ""
    return f"{parts.scheme}://{parts.netloc.removesuffix(':')}{path}{query}"


def address_of(base: str) -> str:
    """The address that `base_url` takes for this base URL: a base at the root of a server is named by one of its
    routes, because the root itself means /v1."""
    return base if urlsplit(base).path.rstrip("/") else route_url(base, "chat/completions")


def service_url(address: str) -> str:
    """The base URL of the API of a Foundry Local service, which is always at /v1."""
    base = base_url(address).partition("?")[0]
    return base if base.endswith(DEFAULT_PATH) else f"{base}{DEFAULT_PATH}"


def place_name(address: str) -> str:
    """The name of a server in records and reports: its host and port, and its base path unless that is /v1."""
    parts = urlsplit(base_url(address))
    return f"{parts.netloc.rpartition('@')[2]}{parts.path.removesuffix(DEFAULT_PATH) and parts.path}"


def route_url(base: str, route: str) -> str:
    """The URL of a route of an API. A query of the base (Azure's `?api-version=`) is part of each route's URL."""
    place, mark, query = base.partition("?")
    return f"{place}/{route}{mark}{query}"


def mismatch_of_endpoint(url: str) -> tuple[str, str] | None:
    """(message, hint) if `base_url` cannot use the address, or if it contains a credential; otherwise None."""
    return _mismatch(url, "endpoint")


def mismatch_of_address(url: str) -> tuple[str, str] | None:
    """(message, hint) if it is not an http or https address, or contains a password; otherwise None."""
    return _mismatch(url, "address")


def _split(address: str) -> SplitResult:
    """The parts of an address, with its scheme filled in. Raises ValueError for an invalid port and the like."""
    address = address.strip(" ")
    if port := _PORT.fullmatch(address):
        return urlsplit(f"http://127.0.0.1:{port[1]}")
    if "://" in address:
        return urlsplit(address)
    parts = urlsplit(re.sub(r"^(?:https?:)?/*", "http://", address))
    return parts._replace(scheme="https") if parts.port == 443 else parts


def _mismatch(url: str, kind: Kind) -> tuple[str, str] | None:
    no_address = (f'"{url}" is not an address', EXAMPLE)
    try:
        parts = _split(url)
        usable = (
            bool(parts.hostname) and parts.port != 0 and url.isprintable() and not _NOT_IN_HOST.search(parts.netloc)
        )
        usable = usable and (kind == "endpoint" or " " not in url)
        right = _corrected(parts, kind)
        is_near = _is_near(parts)
    except ValueError:  # an invalid port, or a missing bracket
        return no_address
    hint = f'write "{right}"'
    if "@" in parts.netloc or ("@" in url and "://" not in url):
        return CREDENTIALS, f"{hint}, and {KEY_HINT}"
    if parts.scheme not in ("http", "https"):
        return f'"{parts.scheme}" is neither http nor https', hint
    if not usable:
        return no_address
    if "://" not in url and not (kind == "endpoint" and is_near):
        return f'"{url}" does not say http or https', hint
    if kind == "endpoint" and "#" in url:
        return f'"{url}" has a #, which is never sent to a server', hint
    if kind == "endpoint" and _holds_secret(parts.query):
        return CREDENTIALS, f"{hint}, and {KEY_HINT}"
    return None


def _is_near(parts: SplitResult) -> bool:
    """Whether it names a port of this machine or of a nearby one; such an address without a scheme means http."""
    host = parts.hostname or ""
    if parts.port is None:
        return False
    try:
        return ipaddress.ip_address(host.partition("%")[0]).is_private
    except ValueError:
        return "." not in host or host.endswith((".local", ".lan", ".internal", ".home.arpa"))


def _holds_secret(query: str) -> bool:
    parameters = parse_qsl(query, keep_blank_values=True)
    return any(is_secret_name(name) or looks_secret(value) for name, value in parameters)


def _corrected(parts: SplitResult, kind: Kind) -> str:
    """The address in its right form: http or https, without credentials and query."""
    scheme = parts.scheme if parts.scheme in ("http", "https") else "http"
    host = parts.netloc.rpartition("@")[2] or "localhost:8080"
    if parts.port is None and host.endswith(":"):
        host = host[:-1]
    path = parts.path.rpartition("@")[2]
    return f"{scheme}://{host}{path.rstrip('/') or DEFAULT_PATH if kind == 'endpoint' else path}"
