"""To whom a key goes, and what comes of it: only to the server that is named, over TLS that is checked, and into no
file, whatever a server does with it."""

import io
import json
import os
import shutil
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from loadgen.cli import app
from tests.command_line import without_settings
from tests.integration.server import Script, Served, Server, streamed, whole

KEY = "sk-Xk3jQ9vTz8Lp2Wm7Ab"


@pytest.fixture(autouse=True)
def _with_a_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    without_settings(monkeypatch)
    monkeypatch.setenv("LOADGEN_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("LOADGEN_API_KEY", KEY)


def run(monkeypatch: pytest.MonkeyPatch, url: str, *more: str) -> tuple[int, str, list[dict[str, Any]]]:
    """A run by the command line in this process: its exit code, all that it printed, and its records."""
    flags = ("--requests", "2", "--warmup", "0", "--set", "probe=false", "--out", "out", *more)
    monkeypatch.setattr(sys, "argv", ["loadgen", "run", "--url", url, "--model", "m", *flags])
    printed = io.StringIO()
    with redirect_stdout(printed), redirect_stderr(printed), pytest.raises(SystemExit) as ended:
        app.main()
    logs = [log.read_text(encoding="utf-8") for log in Path("out").rglob("requests.jsonl")]
    assert isinstance(ended.value.code, int)
    return ended.value.code, printed.getvalue(), [json.loads(line) for log in logs for line in log.splitlines()]


def keys_sent_to(server: Server) -> set[str | None]:
    return {request.headers.get("authorization") for request in server.served}


def test_a_key_in_a_file_is_sent_and_neither_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LOADGEN_API_KEY")
    (tmp_path / "key").write_text(f"{KEY}\n", encoding="utf-8")
    monkeypatch.setenv("LOADGEN_API_KEY_FILE", str(tmp_path / "key"))
    with Server(streamed("a", "b")) as server:
        _, printed, records = run(monkeypatch, server.url)
    assert keys_sent_to(server) == {f"Bearer {KEY}"}
    assert [record["outcome"] for record in records] == ["ok", "ok"]
    assert KEY not in printed
    assert [path for path in Path("out").rglob("*") if path.is_file() and KEY.encode() in path.read_bytes()] == []


def test_a_key_does_not_go_where_a_server_points(monkeypatch: pytest.MonkeyPatch) -> None:
    with Server(streamed("a")) as other, Server(streamed("a")) as named:

        def elsewhere(request: Served) -> Script:
            return whole("307 Temporary Redirect", b"", f"Location: {other.url}/chat/completions")

        named._choose = elsewhere
        run(monkeypatch, named.url)
    assert keys_sent_to(named) == {f"Bearer {KEY}"}
    assert other.served
    assert keys_sent_to(other) == {None}


def test_a_proxy_of_the_environment_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy would be measured, and would be told the key."""
    with Server(streamed("a")) as server, Server(streamed("a")) as proxy:
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, proxy.url.removesuffix("/v1"))
        for name in ("no_proxy", "NO_PROXY"):
            monkeypatch.delenv(name, raising=False)
        _, _, records = run(monkeypatch, server.url)
    assert [record["outcome"] for record in records] == ["ok", "ok"]
    assert proxy.served == []


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate for 127.0.0.1 that nobody has signed but itself."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("needs openssl")
    path = tmp_path_factory.mktemp("tls") / "self.pem"
    command = [openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=127.0.0.1"]
    command += ["-addext", "subjectAltName=IP:127.0.0.1", "-out", str(path), "-keyout", str(path.with_suffix(".key"))]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    return path


def answering(heard: list[str]) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            heard.append(str(self.headers))
            self.send_error(404)

        do_POST = do_GET  # noqa: N815

        def log_message(self, *_: Any) -> None: ...

    return Handler


@pytest.fixture
def tls_server(certificate: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, list[str]]]:
    """The URL of a server with that certificate, and the headers of each request that it is sent."""
    heard: list[str] = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), answering(heard))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, certificate.with_suffix(".key"))
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    monkeypatch.setattr(server, "handle_error", lambda *_: None)  # the client goes away in the middle, as it should
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    try:
        yield f"https://127.0.0.1:{server.server_port}/v1", heard
    finally:
        server.shutdown()
        server.server_close()


def test_a_server_that_nobody_vouches_for_is_no_server(
    tls_server: tuple[str, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    url, heard = tls_server
    code, printed, records = run(monkeypatch, url)
    assert code == 3
    assert records == []
    assert heard == []
    told = " ".join(printed.split())
    assert "connect_error" in told
    assert "certificate verify failed" in told


@pytest.mark.parametrize("trusted", [True, False])
def test_the_command_checks_certificates_though_it_reads_them_late(
    trusted: bool, certificate: Path, tls_server: tuple[str, list[str]]
) -> None:
    """In a process of its own: the certificates are put off when aiohttp is imported."""
    url, heard = tls_server
    environment = {**os.environ, **({"SSL_CERT_FILE": str(certificate)} if trusted else {})}
    command = [sys.executable, "-m", "loadgen", "models", "--url", url]
    subprocess.run(command, env=environment, check=False, capture_output=True, timeout=60)
    assert bool(heard) == trusted
