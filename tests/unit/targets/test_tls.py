"""Whether a server speaks TLS that says neither yes nor no; those that do: tests/integration/cli/test_tls.py."""

import asyncio
import socket

import pytest

from loadgen.targets import tls


def test_a_server_that_says_nothing_to_a_handshake_speaks_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tls, "_HANDSHAKE_S", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        assert not asyncio.run(tls.speaks_tls(f"http://127.0.0.1:{listener.getsockname()[1]}/v1"))
