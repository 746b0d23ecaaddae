"""The exit code of a whole command, and what standard error says of it."""

import json
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
