"""The exit code of a whole command, and what standard error says of it."""

import json
import os
import signal
import socket
import subprocess
import sys
from itertools import count
from pathlib import Path

import pytest

from tests.command_line import run_command
from tests.integration.server import Script, Served, Server, streamed, whole

MODELS = whole("200 OK", json.dumps({"data": [{"id": "m", "object": "model"}]}).encode())
BROKEN = whole("500 Internal Server Error", b"broken")


@pytest.mark.parametrize("output", ["--quiet", "--json"])
def test_a_run_most_of_whose_requests_failed_ends_with_one_and_says_so(output: str, tmp_path: Path) -> None:
    numbers = count()

    def choose(_: Served) -> Script:
        return streamed("x") if next(numbers) < 2 else BROKEN  # the test chat and one request

    with Server(choose, get=lambda _: MODELS) as server:
        done = run_command(
            *("run", "--url", server.url, "--model", "m", "--requests", 3, "--warmup", 0),
            *("--set", "probe=false", "--out", tmp_path, output),
        )
    assert done.returncode == 1
    where = server.url.removeprefix("http://").removesuffix("/v1")
    assert f"loadgen: exit 1: m on {where}, 1 user: 2 of 3 requests failed (2 http_error)" in done.stderr


@pytest.mark.skipif(os.name == "nt", reason="there are no such signals")
@pytest.mark.parametrize("shell", ["exec", "trap '' INT; exec"], ids=["as a person does", "with Ctrl-C ignored"])
@pytest.mark.parametrize("flags", [("models", "--probe"), ("models",)], ids=["models --probe", "models"])
def test_sigterm_ends_a_command_as_ctrl_c_does(flags: tuple[str, ...], shell: str, tmp_path: Path) -> None:
    """While it waits for an answer that does not come."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
        words = (*flags, "--url", url, *(("--model", "m") if "--probe" in flags else ()))
        command = ["/bin/sh", "-c", f'{shell} "$@"', "sh", sys.executable, "-m", "loadgen", *words]
        process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
        connection, _ = listener.accept()
        with connection:
            connection.recv(1)
            process.send_signal(signal.SIGTERM)
            _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in said
