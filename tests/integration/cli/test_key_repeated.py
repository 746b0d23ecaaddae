"""Whatever a server does with the key that it was sent, in whatever form it sends it back: nothing that is written or
printed has it. Found by searching all of it."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.cli.test_security import KEY, _with_a_key, run
from tests.integration.server import (
    BEGIN,
    DONE,
    END,
    LAST_CHUNK,
    Fin,
    Script,
    Send,
    Served,
    Server,
    chunk,
    event,
    head,
    say,
    streamed,
    whole,
)

__all__ = ["_with_a_key"]

K = KEY.encode()
ESCAPED = "".join(f"\\u{ord(sign):04x}" for sign in KEY).encode()


def raw_event(data: bytes) -> Send:
    return Send(chunk(b"data: " + data + b"\n\n"), token=True)


def finished(**more: Any) -> Script:
    end = {"choices": [{"index": 0, "delta": {}, "finish_reason": more.pop("finish_reason", "stop")}], **more}
    return (BEGIN, *say("a"), Send(chunk(event(end)) + chunk(DONE) + LAST_CHUNK))


REPEATED: dict[str, Script] = {
    "error body": whole("401 Unauthorized", b'{"error":"bad key ' + K + b'"}'),
    "error body at the cut": whole("401 Unauthorized", b"x" * 290 + K),
    "error body, escaped": whole("401 Unauthorized", b'{"error":"' + ESCAPED + b'"}'),
    "retry-after": whole("429 Too Many", b"{}", f"Retry-After: {KEY}"),
    "reason": whole(f"500 {KEY}", b"{}"),
    "content type": whole("200 OK", b"{}", type=f"text/{KEY}"),
    "no status line": (Send(b"HTTP/x " + K + b"\r\n\r\n"), Fin()),
    "no header": (Send(b"HTTP/1.1 200 OK\r\nX " + K + b"\r\n: a\r\n\r\n"), Fin()),
    "no chunk": (Send(head() + K + b"\r\nabc"), Fin()),
    "no events": whole("200 OK", K, type="text/event-stream"),
    "html": whole("200 OK", b"<html>" + K, type="text/html"),
    "redirect": whole("307 Temporary Redirect", b"", f"Location: http://127.0.0.1:9/{KEY}"),
    "redirect nowhere": whole("307 Temporary Redirect", b"", f"Location: ftp://{KEY}"),
    "text": streamed(KEY),
    "text in pieces": streamed(KEY[:9], KEY[9:15], KEY[15:]),
    "text, escaped": (BEGIN, raw_event(b'{"choices":[{"index":0,"delta":{"content":"' + ESCAPED + b'"}}]}'), END),
    "error event": (BEGIN, Send(chunk(event({"error": {"message": f"key {KEY}"}})) + LAST_CHUNK)),
    "error event, escaped": (BEGIN, raw_event(b'{"error":{"message":"' + ESCAPED + b'"}}'), Send(LAST_CHUNK)),
    "finish reason": finished(finish_reason=KEY),
    "timings": finished(timings={KEY: 1, "prompt_ms": KEY}),
    "fingerprint": finished(system_fingerprint=KEY, model=KEY),
}


def written() -> Iterator[tuple[str, bytes]]:
    for path in Path("out").rglob("*"):
        if path.is_file():
            yield path.name, path.read_bytes()


def assert_unseen(printed: str) -> None:
    everything = dict(written())
    assert {"manifest.json", "report.html", "summary.json"} <= set(everything)
    everything["what was printed"] = printed.encode()
    in_one_line = {name: data.replace(b"\n", b"") for name, data in everything.items()}
    for part in (K, K.lower(), K[:-4]):
        assert [name for name, data in in_one_line.items() if part in data] == []
    texts = [json.loads(line) for line in everything.get("requests.jsonl", b"").splitlines()]
    assert KEY not in "".join(str(value) for record in texts for value in record.values())


@pytest.mark.parametrize("workers", ["1", "2"])
@pytest.mark.parametrize("name", ["text in pieces", "retry-after"])
def test_workers_write_no_key_either(name: str, workers: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with Server(after_the_first_chat(REPEATED[name])) as server:
        *_, printed, records = run(
            monkeypatch, server.url, "--set", "keep_text=true", "--workers", workers, "--concurrency", "2"
        )
    assert len(records) == 2
    assert_unseen(printed)


@pytest.mark.parametrize("name", REPEATED)
def test_a_key_that_a_request_gets_back_is_nowhere(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with Server(after_the_first_chat(REPEATED[name])) as server:
        _, printed, records = run(monkeypatch, server.url, "--set", "keep_text=true")
    assert len(records) == 2
    assert_unseen(printed)


@pytest.mark.parametrize("name", ["error body", "error event, escaped", "retry-after", "no status line"])
def test_a_key_that_comes_back_before_anything_is_timed_is_nowhere(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with Server(REPEATED[name]) as server:
        code, printed, _ = run(monkeypatch, server.url)
    assert code == 3
    assert_unseen(printed)


@pytest.mark.parametrize(
    "listed",
    [[{"id": "m"}, {"id": KEY}], [{"id": "m", "owned_by": KEY, "meta": {"ftype": KEY, KEY: 1}}], [{"id": KEY}]],
    ids=["another", "publisher", "the only one"],
)
def test_a_key_that_a_list_of_models_has_is_nowhere(listed: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    def models(_: Served) -> Script:
        return whole("200 OK", json.dumps({"data": listed}).encode())

    with Server(streamed("a"), get=models) as server:
        _, printed, _ = run(monkeypatch, server.url)
    assert_unseen(printed)


def test_a_probe_writes_no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    with Server(finished(system_fingerprint=KEY, model=KEY)) as server:
        _, printed, _ = run(monkeypatch, server.url, "--set", "probe=true")
    assert_unseen(printed)


def after_the_first_chat(script: Script) -> Any:
    """An orderly answer to the chat before a run, and then this."""
    told: list[int] = []

    def choose(request: Served) -> Script:
        told.append(request.number)
        return streamed("Hel", "lo") if len(told) == 1 else script

    return choose
