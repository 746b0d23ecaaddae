"""However long an answer is, the client holds at most so much of it: by the peak memory of a process, in bytes."""

import gzip
import os
import subprocess
import sys
from collections.abc import Mapping

import msgspec
import pytest

from tests.integration.server import BEGIN, COMMENT, Script, Send, Served, Server, chunk, head, token

MIB = 1 << 20
FLOOD_MIB = 96
ANSWER_MIB = 8
MOST_MIB = 80
"""Of memory, for an answer of so many MiB: little more than any of these takes, and less than was sent."""

LARGE_BLOCKS_ARE_RETURNED = {"MALLOC_MMAP_THRESHOLD_": "131072"}
"""For glibc: a block of more bytes goes back to the system when it is freed. By default the first large block that is
freed raises this limit, and the peak then depends on where later blocks fall in the heap: by 20 MiB either way."""

Row = tuple[str, str, float]
"""Outcome, detail, and growth of the peak in MiB."""


def flood(data: bytes) -> tuple[Send, ...]:
    """So many bytes of it that a client which holds them all is found out."""
    return (Send(data),) * (FLOOD_MIB * MIB // len(data))


def one_event(inside: bytes) -> Script:
    """A complete event of nearly all that an answer may have, and what makes it too long."""
    data = b'data: {"choices":[{"index":0,"delta":{"content":' + inside + b"}}]}\n\n"
    return (BEGIN, Send(chunk(data)), *flood(chunk(COMMENT * 5000)))


EVENTS = token("x" * 4000) * 15
NOT_PLAIN = Send(head("200 OK", "Content-Encoding: identity"))
"""The head of an answer that aiohttp reads, chunk by chunk."""
EMOJI = "\U0001f600".encode()
LONG = b"x" * 7_500_000
ANSWERS: dict[str, Script] = {
    "events": (BEGIN, *flood(chunk(EVENTS))),
    "small events": (BEGIN, *flood(chunk(token("x")) * 800)),
    "short comments": (BEGIN, *flood(chunk(b": keep\n\n" * 8000))),
    "a line": (BEGIN, Send(b"fffffffff\r\ndata: "), *flood(b"x" * 65536)),
    "small chunks for aiohttp": (NOT_PLAIN, *flood(chunk(b"xx") * 9000)),
    "one chunk": (BEGIN, Send(b"fffffffff\r\n"), *flood(EVENTS)),
    "no chunks": (Send(head(length=FLOOD_MIB * MIB)), *flood(EVENTS)),
    "whole": (
        Send(head(type="application/json", length=FLOOD_MIB * MIB) + b'{"choices": ["' + EMOJI),
        *flood(b"x" * 65536),
    ),
    "an error": (Send(head("500 Broken", type="text/plain", length=FLOOD_MIB * MIB)), *flood(b"x" * 65536)),
}
LONG_EVENTS: dict[str, Script] = {
    "values": one_event(b"[" + b"{}," * 2_500_000 + b"0]"),
    "a text of wide characters": one_event(b'"' + EMOJI + LONG + b'"'),
    "a text with half a character": one_event(b'"\\ud83d' + LONG + EMOJI + b'"'),
}
SMALL: dict[str, Script] = {
    "comments": (BEGIN, *flood(chunk(COMMENT * 5000))),
    "short comments, a chunk each": (BEGIN, *flood(chunk(b": keep\n\n") * 5000)),
    "empty events": (BEGIN, *flood(chunk(b"data:\n\n" * 9000))),
    "line ends": (BEGIN, *flood(chunk(b"\n" * 65536))),
    "short lines": (BEGIN, *flood(chunk(b"data:x\n" * 9000))),
    "short lines, ended otherwise": (BEGIN, *flood(chunk(b"data:x\r" * 9000))),
}
"""Bytes that take long to read, because there are so many things in them. Sent to a client that takes a quarter."""


def gzip_bomb() -> Script:
    """As much, compressed to a hundredth. Made in the test: every worker imports this file."""
    bomb = gzip.compress(token("x" * 4000) * (FLOOD_MIB * MIB // 4000), compresslevel=1)
    return (Send(head("200 OK", "Content-Encoding: gzip", length=len(bomb)) + bomb),)


def taken(answers: Mapping[str, Script], answer_mib: int, at_once: int = 1) -> dict[str, Row]:
    """What comes of each answer, and how much memory it takes."""

    def choose(request: Served) -> Script:
        return answers[request.says]

    with Server(choose) as server:
        numbers = (str(answer_mib), str(at_once))
        command = [sys.executable, "-m", "tests.integration.wire.peak_memory", server.url, *numbers, *answers]
        environment = {**os.environ, **LARGE_BLOCKS_ARE_RETURNED}
        done = subprocess.run(command, capture_output=True, timeout=120, check=True, env=environment)
    return dict(zip(answers, msgspec.json.decode(done.stdout, type=list[Row]), strict=True))


@pytest.mark.skipif(sys.platform == "win32", reason="the peak is told by getrusage")
def test_an_answer_without_end_takes_a_bounded_amount_of_memory_and_is_cut_off() -> None:
    rows = taken({**ANSWERS, "gzip": gzip_bomb()}, ANSWER_MIB)
    assert {words: growth for words, (_, _, growth) in rows.items() if growth > MOST_MIB} == {}
    # Of an error so much is read.
    assert {words: outcome for words, (outcome, _, _) in rows.items() if outcome != "truncated"} == {
        "an error": "http_error"
    }
    assert all("longer than 8 MiB" in detail for outcome, detail, _ in rows.values() if outcome == "truncated")


@pytest.mark.skipif(sys.platform == "win32", reason="the peak is told by getrusage")
@pytest.mark.parametrize("event", LONG_EVENTS)
def test_an_event_as_long_as_an_answer_takes_no_more(event: str) -> None:
    outcome, detail, growth = taken({event: LONG_EVENTS[event]}, ANSWER_MIB)[event]
    assert growth <= MOST_MIB
    # JSON of so many values would take many times its bytes, and is not parsed.
    assert (outcome, "524,288 values" in detail) == (("malformed", True) if event == "values" else ("truncated", False))


@pytest.mark.skipif(sys.platform == "win32", reason="the peak is told by getrusage")
def test_however_the_bytes_are_cut_the_memory_is_in_proportion() -> None:
    rows = taken(SMALL, ANSWER_MIB // 4)
    assert {words: growth for words, (_, _, growth) in rows.items() if growth > MOST_MIB / 4} == {}
    assert {outcome for outcome, _, _ in rows.values()} == {"truncated"}


@pytest.mark.skipif(sys.platform == "win32", reason="the peak is told by getrusage")
def test_endless_answers_at_once_take_as_much_each_at_most_and_all_end() -> None:
    rows = taken({words: ANSWERS[words] for words in ("events", "short comments")}, 1, at_once=20)
    assert {words: growth for words, (_, _, growth) in rows.items() if growth > 20 * MOST_MIB / ANSWER_MIB} == {}
    assert {outcome for outcome, _, _ in rows.values()} == {"truncated"}
