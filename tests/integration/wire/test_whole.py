"""Answers that come whole, on a real socket: their outcomes, their one stamp, and a run of them."""

import asyncio
from pathlib import Path
from typing import Any

import msgspec
import pytest

from loadgen import api
from loadgen.clock import now_ns, wall_offset_ns
from loadgen.record import Reply
from loadgen.report.files import write_reports
from loadgen.scenario import Closed, Model, Sampling, Scenario
from loadgen.scenario.file import LoadedScenario
from loadgen.wire.client import Client
from loadgen.wire.exchange import ChatRequest, Deadlines
from loadgen.wire.reply import read_reply
from tests.integration.leaping import LeapingClock
from tests.integration.server import Fin, Hang, Rst, Script, Send, Served, Server, Taken, Wait, head, streamed, whole

MS = 1_000_000
S = 1_000 * MS
PATIENT = Deadlines(request_ns=200 * S)


def completion(text: str = "Hello.", **changes: Any) -> bytes:
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    usage = {"prompt_tokens": 9, "completion_tokens": 3}
    return msgspec.json.encode({"object": "chat.completion", "choices": [choice], "usage": usage, **changes})


def answer(script: Script, deadlines: Deadlines = PATIENT) -> tuple[Reply, Served]:
    async def main() -> tuple[Reply, Served]:
        with Server(script) as server:
            async with Client() as client:
                asked = ChatRequest(f"{server.url}/chat/completions", b"{}", {}, deadlines, streams=False)
                exchange = await client.send(asked, now_ns())
        reply, _ = read_reply(exchange, epoch_ns=0, wall_offset_ns=wall_offset_ns(), keep_text=True)
        return reply, server.chats[0]

    return asyncio.run(main())


def test_a_whole_answer_ends_with_its_last_byte_and_has_no_other_stamp() -> None:
    body = completion()
    slow = (Send(head(type="application/json", length=len(body)) + body[:20]), Taken(), Send(body[20:], token=True))
    reply, request = answer(slow)
    assert (reply.outcome, reply.status, reply.text, reply.finish_reason) == ("ok", 200, "Hello.", "stop")
    assert (reply.output_tokens, reply.token_source, reply.stamps_ns) == (3, "usage", ())
    assert reply.end_ns == reply.last_byte_ns
    assert reply.end_ns is not None
    assert reply.end_ns >= request.tokens_ns[0] - MS
    assert request.headers["accept"] == "application/json"


HALF = completion()[:40]
OUTCOMES: dict[str, tuple[str, str, Script]] = {
    "nothing said": ("empty", "nothing in it", whole("200 OK", completion(""))),
    "an error under 200": ("stream_error", "too long", whole("200 OK", b'{"error": {"message": "too long"}}')),
    "a status": ("http_error", "Retry-After: 1; busy", whole("503 Busy", b"busy", "Retry-After: 1")),
    "a page": ("malformed", "not JSON: <p>hi", whole("200 OK", b"<p>hi", type="text/html")),
    "a stream": ("malformed", "server-sent events where a whole answer was asked for", streamed("a")),
    "no content": ("malformed", "status 204", (Send(b"HTTP/1.1 204 No Content\r\n\r\n"),)),
    "half of it, then the end": ("truncated", "", (Send(head(type="application/json", length=400) + HALF), Fin())),
    "half of it, then a reset": (
        "truncated",
        "",
        (Send(head(type="application/json", length=400) + HALF), Taken(), Rst()),
    ),
    "half of it, and the end is the connection's": (
        "truncated",
        "breaks off after 40 bytes",
        (Send(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n" + HALF), Fin()),
    ),
    "an empty body": ("truncated", "the body was empty", whole("200 OK", b"")),
}


@pytest.mark.parametrize("name", OUTCOMES)
def test_each_outcome_of_a_whole_answer(name: str) -> None:
    outcome, detail, script = OUTCOMES[name]
    reply, _ = answer(script)
    assert reply.outcome == outcome
    assert detail in str(reply.detail)
    assert reply.stamps_ns == ()
    assert reply.output_tokens is None or outcome == "empty"


def test_a_whole_answer_that_takes_too_long_is_a_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    leap = LeapingClock(monkeypatch).leap(60)
    half = (Send(head(type="application/json", length=400) + HALF), Taken(), leap, Hang())
    reply, _ = answer(half, Deadlines(request_ns=60 * S))
    assert (reply.outcome, reply.end_ns is not None) == ("timeout", True)


async def _play(folder: Path, url: str) -> tuple[Any, Any]:
    made = Scenario(
        name="whole",
        prompts=("First.", "Second."),
        models=(Model(name="m", url=url, target="openai"),),
        load=Closed(concurrency=(2,), requests=10, ramp_in_s=0.0),
        sampling=Sampling(stream=False),
    )
    run = await api.run(LoadedScenario(made, None, folder, "the test"), results=folder)
    return run, write_reports(run.folder)


def test_a_run_without_streaming_measures_latency_and_rate_and_claims_no_more(tmp_path: Path) -> None:
    with Server((Wait(0.03), *whole("200 OK", completion()))) as server:
        _, summary = asyncio.run(_play(tmp_path, server.url))
        asked = [msgspec.json.decode(request.body) for request in server.chats]
    assert {body["stream"] for body in asked} == {False}
    assert not any("stream_options" in body for body in asked)
    (stage,) = summary.stages
    assert stage.requests.by_outcome == {"ok": 10}
    assert stage.metrics["e2e_ms"].min >= 29
    assert (stage.metrics["ttft_ms"].count, stage.metrics["itl_ms"].count) == (0, 0)
    assert 0 < stage.throughput.e2e_tokens_per_s <= 3 / 0.029
    assert stage.throughput.output_tokens_per_s > 0
    assert (stage.throughput.per_user_tokens_per_s, summary.streamed) == (None, False)
    assert stage.tokens.output == 30
