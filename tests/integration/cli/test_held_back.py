"""A proxy that buffers, before a whole command: what its run says, and how it ends."""

import json
from pathlib import Path

from tests.command_line import run_command
from tests.integration.server import DONE, FINISH, Send, Server, Wait, chunk, head, token, usage, whole

MODELS = whole("200 OK", json.dumps({"data": [{"id": "m", "object": "model"}]}).encode())
TOKENS = 400
"""So many that no lateness of ours explains how they came."""
EVENTS = b"".join(token(f"{number} ") for number in range(TOKENS)) + FINISH + usage(9, TOKENS) + DONE
AT_ONCE = (Send(head()), Wait(0.15), Send(chunk(EVENTS) + chunk(b"")))


def test_a_stream_that_a_proxy_held_back_has_no_pace_and_fails_a_gate_on_it(tmp_path: Path) -> None:
    with Server(AT_ONCE, get=lambda _: MODELS) as server:
        done = run_command(
            *("run", "--url", server.url, "--model", "m", "--requests", 6, "--warmup", 0, "--out", tmp_path),
            *("--set", "probe=false", "--set", "slo.tpot_ms=50", "--set", "slo.attainment=0.5"),
        )
    (path,) = tmp_path.rglob("summary.json")
    (stage,) = json.loads(path.read_text("utf-8"))["stages"]
    assert stage["requests"]["ok"] == 6 and stage["tokens"]["output"] == 6 * TOKENS
    assert {"ttft_ms", "tpot_ms", "itl_ms", "per_user_tokens_per_s", "slo"} <= set(stage["not_valid"])
    assert stage["throughput"]["per_user_tokens_per_s"] is None and stage["metrics"]["tpot_ms"]["p50"] is None
    assert "held_back" in [reason["code"] for reason in stage["validity"]["reasons"]]
    assert done.returncode == 1
    assert "TPOT is not judged: tokens were held back in 6 of 6 answers" in done.stderr
    assert "proxy_buffering off" in " ".join(done.stdout.split())
