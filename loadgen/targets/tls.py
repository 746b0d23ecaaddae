"""Finds whether a server that was asked without TLS requires it. Sends only the beginning of a handshake."""

import asyncio
import ssl
from typing import Final
from urllib.parse import urlsplit

_HANDSHAKE_S: Final = 3.0


async def speaks_tls(url: str) -> bool:
    """Whether the server of an http URL answers a TLS handshake, with a trusted certificate or not."""
    parts = urlsplit(url)
    try:
        async with asyncio.timeout(_HANDSHAKE_S):
            context = ssl.create_default_context()
            _, writer = await asyncio.open_connection(parts.hostname, parts.port or 80, ssl=context)
    except ssl.SSLCertVerificationError:
        return True
    except (OSError, ValueError):
        return False
    writer.transport.abort()
    return True
