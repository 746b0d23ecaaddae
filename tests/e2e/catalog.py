"""What Foundry Local's runtime asks of the network, on loopback: a catalog, the registry that says where a model is,
and the store that keeps it. Knows no loadgen.

The runtime takes the catalog's address, but asks a registry of its own choice over TLS, at a fixed public name. So this
server is its HTTPS proxy as well, and answers in the registry's name with a certificate that only this test believes.
"""

import contextlib
import json
import os
import shutil
import ssl
import subprocess
import threading
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qs, unquote, urlsplit

REGISTRY: Final = ".api.azureml.ms"
_CHUNK: Final = 1 << 16
_HELD_S: Final = 20.0
_WHEN: Final = "Tue, 24 Nov 2026 08:00:00 GMT"
_STORED: Final = {
    "Last-Modified": _WHEN,
    "ETag": '"0x1"',
    "x-ms-blob-type": "BlockBlob",
    "x-ms-creation-time": _WHEN,
    "x-ms-request-id": "1",
    "x-ms-version": "2024-08-04",
    "x-ms-server-encrypted": "true",
    "Accept-Ranges": "bytes",
}
"""What the store says of everything; its client takes none of it for granted, and nothing without it."""


def model_entry(alias: str, *, version: int = 1, size_bytes: int = 1 << 20, device: str = "cpu") -> dict[str, Any]:
    """A model as the catalog lists it, with what the runtime reads of it."""
    name = f"{alias}-generic-{device}"
    asset = f"azureml://registries/azureml/models/{name}/versions/{version}"
    return {
        "entityId": asset,
        "assetId": asset,
        "kind": "Versioned",
        "annotations": {
            "tags": {"alias": alias},
            "systemCatalogData": {
                "publisher": "Nobody",
                "displayName": alias,
                "license": "MIT",
                "inferenceTasks": ["chat-completion"],
                "textContextWindow": 2048,
                "maxOutputTokens": 512,
            },
        },
        "properties": {
            "id": f"{name}:{version}",
            "name": name,
            "version": version,
            "variantInfo": {
                "parents": [{"assetId": f"azureml://registries/azureml/models/{alias}/versions/1"}],
                "variantMetadata": {
                    "modelType": "ONNX",
                    "device": device,
                    "executionProvider": "CPUExecutionProvider",
                    "fileSizeBytes": size_bytes,
                },
            },
        },
    }


class Catalog:
    """The three, as one server. Use as `with`.

    models: what is listed. files: what each model is kept as, bytes or a file, by name. stall_after_bytes: of a file
    the store sends so much and nothing behind it, without closing; `stalled` is set as soon as more is asked for.
    hold_after_bytes: it sends so much, and the rest when `go_on`
    is set. certificate: of the registry; without one nobody is there.
    """

    def __init__(
        self,
        models: list[dict[str, Any]],
        files: Mapping[str, bytes | Path] | None = None,
        *,
        stall_after_bytes: int | None = None,
        hold_after_bytes: int | None = None,
        certificate: Path | None = None,
    ) -> None:
        self.models, self.files, self.certificate = models, dict(files or {}), certificate
        self.asked: list[str] = []
        self.sent_bytes = 0
        self._stall_after_bytes, self.stalled = stall_after_bytes, threading.Event()
        self._hold_after_bytes, self.go_on = hold_after_bytes, threading.Event()
        self._lock, self.over = threading.Lock(), threading.Event()
        catalog = self

        class Handler(_Handler):
            of = catalog

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True

    @property
    def root(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    @property
    def url(self) -> str:
        return f"{self.root}/asset-gallery/v1.0/models"

    @property
    def environment(self) -> dict[str, str]:
        """What has the runtime find all three here."""
        given = {"HTTPS_PROXY": self.root, "https_proxy": self.root, "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}
        return given if self.certificate is None else {**given, "SSL_CERT_FILE": str(self.certificate)}

    def allowed(self, begin: int, wanted_bytes: int) -> int:
        """How many of so many bytes from a place of a file may be sent; waits where the rest is held."""
        if self._hold_after_bytes is not None and self.sent_bytes >= self._hold_after_bytes:
            self.go_on.wait(_HELD_S)
        end = begin + wanted_bytes
        if self._stall_after_bytes is not None and end > self._stall_after_bytes:
            end = max(begin, self._stall_after_bytes)
            self.stalled.set()
        with self._lock:
            self.sent_bytes += end - begin
        return end - begin

    def __enter__(self) -> "Catalog":
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self.go_on.set()
        self._server.shutdown()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    of: Catalog

    def log_message(self, *_: Any) -> None: ...

    def handle(self) -> None:
        with contextlib.suppress(OSError):  # whoever asked has gone
            super().handle()

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", "0")))
        self.of.asked.append(f"POST {self.path}")
        self._answer(json.dumps({"totalCount": len(self.of.models), "value": self.of.models}).encode())

    def do_CONNECT(self) -> None:
        self.of.asked.append(f"CONNECT {self.path}")
        self.close_connection = True
        if self.of.certificate is None or REGISTRY not in self.path:
            self.send_error(403)
            return
        self.send_response(200)
        self.end_headers()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.of.certificate, self.of.certificate.with_suffix(".key"))
        with context.wrap_socket(self.connection, server_side=True) as secured:
            self.of.asked.append(secured.recv(_CHUNK).split(b"?")[0].decode())
            where = json.dumps({"blobSasUri": f"{self.of.root}/kept?sig=none"}).encode()
            head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(where)}\r\n"
            secured.sendall(head.encode() + b"Connection: close\r\n\r\n" + where)

    def do_HEAD(self) -> None:
        self.of.asked.append(f"HEAD {self.path}")
        self._answer(b"", length=self._size(self._name()))

    def do_GET(self) -> None:
        self.of.asked.append(f"GET {self.path}")
        if parse_qs(urlsplit(self.path).query).get("comp") == ["list"]:
            self._answer(self._listed(), type="application/xml")
            return
        name = self._name()
        size = self._size(name)
        asked = self.headers.get("x-ms-range") or self.headers.get("Range") or f"bytes=0-{size - 1}"
        first, _, last = asked.removeprefix("bytes=").partition("-")
        begin, end = int(first), min(int(last or size - 1), size - 1)
        self._head(206, end - begin + 1, {"Content-Range": f"bytes {begin}-{end}/{size}"})
        kept = self.of.files[name]
        if isinstance(kept, bytes):
            self._send(begin, kept[begin : end + 1])
            return
        with kept.open("rb") as file:
            file.seek(begin)
            self._send(begin, file.read(end - begin + 1))

    def _send(self, begin: int, body: bytes) -> None:
        given = self.of.allowed(begin, len(body))
        self.wfile.write(body[:given])
        if given < len(body):
            self.of.over.wait()
            self.close_connection = True

    def _name(self) -> str:
        return unquote(urlsplit(self.path).path).removeprefix("/kept/")

    def _size(self, name: str) -> int:
        kept = self.of.files[name]
        return len(kept) if isinstance(kept, bytes) else kept.stat().st_size

    def _listed(self) -> bytes:
        blob = (
            f"<Blob><Name>{{name}}</Name><Properties><Last-Modified>{_WHEN}</Last-Modified>"
            "<Etag>0x1</Etag><Content-Length>{size}</Content-Length><BlobType>BlockBlob</BlobType></Properties></Blob>"
        )
        blobs = "".join(blob.format(name=name, size=self._size(name)) for name in self.of.files)
        return (
            '<?xml version="1.0" encoding="utf-8"?>'
            f'<EnumerationResults ServiceEndpoint="{self.of.root}/" ContainerName="kept">'
            f"<Blobs>{blobs}</Blobs><NextMarker/></EnumerationResults>"
        ).encode()

    def _answer(self, body: bytes, *, type: str = "application/json", length: int | None = None) -> None:  # noqa: A002
        self._head(200, len(body) if length is None else length, {"Content-Type": type})
        self.wfile.write(body)

    def _head(self, status: int, length: int, more: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**_STORED, **more}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(length))
        self.end_headers()


def make_certificate(folder: Path) -> Path | None:
    """A certificate for the registry's name and, beside it, its key; None where there is no openssl to make it."""
    openssl = shutil.which("openssl")
    if openssl is None or os.name == "nt":
        return None
    path = folder / "registry.pem"
    command = [openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=stub"]
    command += ["-addext", f"subjectAltName=DNS:*{REGISTRY}", "-out", str(path)]
    subprocess.run([*command, "-keyout", str(path.with_suffix(".key"))], check=True, capture_output=True, timeout=30)
    return path
