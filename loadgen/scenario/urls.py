"""What is wrong with an address that a person wrote, and how it should be. Knows no network; repeats no credential."""

import re
from typing import Final, Literal
from urllib.parse import SplitResult, urlsplit

CREDENTIALS: Final = "credentials in an address end up in files"
EXAMPLE: Final = 'write e.g. "http://localhost:8080/v1"'
KEY_HINT: Final = "set LOADGEN_API_KEY"
Kind = Literal["endpoint", "address"]
"""An endpoint ends in /v1; an address need not."""


def mismatch_of_endpoint(url: str) -> tuple[str, str] | None:
    """(message, hint) where it is no OpenAI-compatible endpoint, http or https and ending in /v1; else None."""
    return _mismatch(url, "endpoint")


def mismatch_of_address(url: str) -> tuple[str, str] | None:
    """(message, hint) where it is no http or https address, or holds a password; else None."""
    return _mismatch(url, "address")


def _mismatch(url: str, kind: Kind) -> tuple[str, str] | None:
    no_address = (f'"{url}" is not an address', EXAMPLE)
    try:
        parts = urlsplit(url if "://" in url else re.sub(r"^(?:https?:)?/*", "http://", url))
        usable = bool(parts.hostname) and parts.port != 0 and url.isprintable() and not re.search(r"\s", url)
        right = _corrected(parts, kind)
    except ValueError:  # a port that is no number, or a bracket too few
        return no_address
    hint = f'write "{right}"'
    if "@" in parts.netloc or ("@" in url and "://" not in url):
        return CREDENTIALS, f"{hint}, and {KEY_HINT}"
    if parts.scheme not in ("http", "https"):
        return f'"{parts.scheme}" is neither http nor https', hint
    if not usable:
        return no_address
    if "://" not in url:
        return f'"{url}" does not say http or https', hint
    if kind == "endpoint" and (not parts.path.endswith("/v1") or "?" in url or "#" in url):
        return f'"{url}" does not end in /v1', hint
    return None


def _corrected(parts: SplitResult, kind: Kind) -> str:
    """The address as it should be: http or https, no credentials, and the path up to its /v1."""
    scheme = parts.scheme if parts.scheme in ("http", "https") else "http"
    host = parts.netloc.rpartition("@")[2] or "localhost:8080"
    if parts.port is None and host.endswith(":"):
        host = host[:-1]
    if kind == "address":
        return f"{scheme}://{host}{parts.path.rpartition('@')[2]}"
    before = re.split(r"/v1(?=/|$)", parts.path.rpartition("@")[2], maxsplit=1)[0].rstrip("/")
    return f"{scheme}://{host}{before}/v1"
