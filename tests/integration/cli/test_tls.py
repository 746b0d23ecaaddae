"""Certificates that are not trusted, and TLS where there is none: each is said in one line with what to do."""

import os
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.command_line import run_command, without_settings


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    without_settings(monkeypatch)
    monkeypatch.setenv("LOADGEN_CACHE_DIR", str(tmp_path / "cache"))


def certificate(folder: Path, name: str, *more: str) -> Path:
    path = folder / f"{name}.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=a", *more]
    command += ["-out", str(path), "-keyout", str(path.with_suffix(".key"))]
    try:
        subprocess.run(command, check=True, capture_output=True, timeout=60)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("needs openssl, and one that can make such a certificate")
    return path


@contextmanager
def serving(path: Path | None) -> Iterator[str]:
    """A server with a certificate, or without TLS: its host and port."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_error(404)

        do_POST = do_GET  # noqa: N815

        def log_message(self, *_: Any) -> None: ...

    class Quiet(ThreadingHTTPServer):
        def handle_error(self, *_: Any) -> None:
            """Nothing: the client goes away in the middle, as it should."""

    server = Quiet(("127.0.0.1", 0), Handler)
    if path is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(path, path.with_suffix(".key"))
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    try:
        yield f"127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def said_of(url: str) -> list[str]:
    """What each verb that sends says of a server that cannot be used, on one line."""
    at = ("--url", url, "--model", "m")
    verbs = (("run", *at, "--out", "out"), ("models", "--url", url), ("models", "--probe", *at))
    ended = [run_command(*words) for words in verbs]
    assert [each.returncode for each in ended] == [3, 3, 3]
    return [" ".join((each.stdout + each.stderr).split()) for each in ended]


def test_a_certificate_that_is_not_trusted_says_where_to_name_its_issuer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = certificate(tmp_path, "own", "-days", "2", "-addext", "subjectAltName=IP:127.0.0.1")
    with serving(own) as place:
        for said in said_of(f"https://{place}/v1"):
            assert f"the certificate of https://{place} is not trusted" in said
            assert "name the file with its issuer's certificate: SSL_CERT_FILE=ca.pem" in said
            assert "check that the server is running" not in said
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "gone.pem"))
        assert "gone.pem, which is not a file; name the file with" in said_of(f"https://{place}/v1")[1]


def test_a_certificate_for_another_name_says_so(tmp_path: Path) -> None:
    other = certificate(tmp_path, "other", "-days", "2", "-addext", "subjectAltName=DNS:other.example")
    with serving(other) as place:
        # Trusted by a process of its own: what is trusted is read when a process begins.
        command = [sys.executable, "-m", "loadgen", "models", "--url", f"https://{place}/v1"]
        variables = {**os.environ, "SSL_CERT_FILE": str(other)}
        ended = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 3
    assert f"the certificate of https://{place} is for another name than 127.0.0.1" in ended.stderr


def test_tls_is_not_asked_of_a_server_that_speaks_none() -> None:
    with serving(None) as place:
        for said in said_of(f"https://{place}/v1"):
            assert f"{place} does not speak TLS" in said
            assert f"write http://{place}/v1" in said


def test_a_server_that_wants_tls_is_not_waited_for(tmp_path: Path) -> None:
    own = certificate(tmp_path, "own", "-days", "2", "-addext", "subjectAltName=IP:127.0.0.1")
    with serving(own) as place:
        for said in said_of(f"http://{place}/v1"):
            assert f"{place} speaks TLS, but the address says http" in said
            assert f"write https://{place}/v1" in said
