"""However long an answer is, the client holds at most so much of it: by the peak memory of a process, in bytes."""

import gzip
import subprocess
import sys

import msgspec
import pytest

from tests.integration.server import BEGIN, COMMENT, Script, Send, Served, Server, chunk, head, token

MIB = 1 << 20
FLOOD_MIB = 192
MOST_MIB = 150
"""The body, what the connection holds of it, and its text: twice what these answers take, and less than was sent."""


def flood(data: bytes) -> tuple[Send, ...]:
    """So many bytes of it that a client which holds them all is found out."""
    return (Send(data),) * (FLOOD_MIB * MIB // len(data))


EVENTS = token("x" * 4000) * 15
ANSWERS: dict[str, Script] = {
    "events": (BEGIN, *flood(chunk(EVENTS))),
    "small events": (BEGIN, *flood(chunk(token("x")) * 800)),
    "comments": (BEGIN, *flood(chunk(COMMENT * 5000))),
    "a line": (BEGIN, Send(b"fffffffff\r\ndata: "), *flood(b"x" * 65536)),
    "one chunk": (BEGIN, Send(b"fffffffff\r\n"), *flood(EVENTS)),
    "no chunks": (Send(head(length=FLOOD_MIB * MIB)), *flood(EVENTS)),
    "whole": (Send(head(type="application/json", length=FLOOD_MIB * MIB) + b'{"choices": ["'), *flood(b"x" * 65536)),
    "an error": (Send(head("500 Broken", type="text/plain", length=FLOOD_MIB * MIB)), *flood(b"x" * 65536)),
}
CUT_OFF = {"events", "small events", "comments", "one chunk", "no chunks", "whole", "gzip"}


def gzip_bomb() -> Script:
    """As much, compressed to a hundredth. Made in the test: every worker imports this file."""
    bomb = gzip.compress(token("x" * 4000) * (FLOOD_MIB * MIB // 4000), compresslevel=1)
    return (Send(head("200 OK", "Content-Encoding: gzip", length=len(bomb)) + bomb),)


@pytest.mark.skipif(sys.platform == "win32", reason="the peak is told by getrusage")
def test_an_answer_without_end_takes_a_bounded_amount_of_memory_and_is_cut_off() -> None:
    answers = {**ANSWERS, "gzip": gzip_bomb()}

    def choose(request: Served) -> Script:
        return answers[request.says]

    with Server(choose) as server:
        command = [sys.executable, "-m", "tests.integration.wire.peak_memory", server.url, *answers]
        done = subprocess.run(command, capture_output=True, timeout=120, check=True)
    rows = dict(zip(answers, msgspec.json.decode(done.stdout), strict=True))
    assert {words: growth for words, (_, _, growth) in rows.items() if growth > MOST_MIB} == {}
    assert {words for words, (outcome, _, _) in rows.items() if outcome == "truncated"} == CUT_OFF
    assert all("longer than 16 MiB" in rows[words][1] for words in CUT_OFF)
    assert (rows["a line"][0], rows["an error"][0]) == ("malformed", "http_error")
