"""The embedded server, and the gateways that users have before such servers: each a process, each on a free port."""

import contextlib
import importlib.util
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.e2e.conftest import environment
from tests.e2e.conftest import loadgen_process as loadgen_process

LITELLM: Final = Path(os.environ.get("LITELLM", ".venv-gateways/bin/litellm")).absolute()
MODEL: Final = "smollm2-135m"
KEY: Final = "sk-for-these-tests-only"
NGINX: Final = """
daemon off; master_process off; pid nginx.pid; error_log stderr;
events {{}}
http {{
  access_log off; client_body_temp_path body; proxy_temp_path proxy;
  fastcgi_temp_path fastcgi; uwsgi_temp_path uwsgi; scgi_temp_path scgi;
  server {{
    listen 127.0.0.1:{port};
    location /through/ {{ proxy_pass {backend}/; proxy_buffering off; proxy_http_version 1.1; }}
    location /held/    {{ proxy_pass http://127.0.0.1:{port}/through/; proxy_buffers 8 64k; proxy_buffer_size 64k;
                         proxy_http_version 1.0; }}
  }}
}}
"""
"""One path passes on what has come. The other asks for it over HTTP/1.0, as nginx long did unless told otherwise: an
answer without chunks is kept until a buffer is full."""
LITELLM_CONFIG: Final = """
model_list:
  - model_name: smol
    litellm_params: {{model: openai/{model}, api_base: "{backend}/v1", api_key: none}}
"""


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


@contextlib.contextmanager
def process(command: list[str], folder: Path, **variables: str) -> Iterator["subprocess.Popen[str]"]:
    """A process in a folder of its own, which is ended with the block."""
    folder.mkdir()
    with (
        (folder / "log.txt").open("w", encoding="utf-8") as log,
        subprocess.Popen(
            command, cwd=folder, env=environment() | variables, stdout=subprocess.PIPE, stderr=log, text=True
        ) as child,
    ):
        try:
            yield child
        finally:
            child.terminate()


@pytest.fixture(scope="session")
def backend(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of the embedded server, without a path."""
    if importlib.util.find_spec("xllamacpp") is None:
        pytest.skip("the embedded server is not installed (make setup)")
    command = [sys.executable, "-m", "loadgen", "serve", "--model", MODEL]
    with process(command, tmp_path_factory.mktemp("backend") / "run") as server:
        assert server.stdout is not None
        yield server.stdout.readline().strip().removesuffix("/v1")


@pytest.fixture(scope="session")
def nginx(backend: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of an nginx before the embedded server."""
    program = shutil.which("nginx", path=os.environ.get("PATH", "") + os.pathsep + "/usr/sbin")
    if program is None:
        pytest.skip("nginx is not installed")
    folder, port = tmp_path_factory.mktemp("nginx"), free_port()
    config = folder / "nginx.conf"
    config.write_text(NGINX.format(port=port, backend=backend), encoding="utf-8")
    with process([program, "-p", f"{folder}/run/", "-c", str(config)], folder / "run"):
        yield f"http://127.0.0.1:{port}"


@pytest.fixture(scope="session")
def litellm(backend: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of LiteLLM's proxy before the embedded server, at once: it loads for many seconds more."""
    if not LITELLM.exists():
        pytest.skip(f"{LITELLM} is not there (make gateways installs it)")
    folder, port = tmp_path_factory.mktemp("litellm"), free_port()
    config = folder / "litellm.yaml"
    config.write_text(LITELLM_CONFIG.format(model=MODEL, backend=backend), encoding="utf-8")
    command = [str(LITELLM), "--config", str(config), "--host", "127.0.0.1", "--port", str(port)]
    with process(command, folder / "run", LITELLM_MASTER_KEY=KEY, LITELLM_LOCAL_MODEL_COST_MAP="True"):
        yield f"http://127.0.0.1:{port}"
