"""What is fuzzed: each of our readers of foreign bytes, with the law that it must keep. Knows no mutation.

A target takes bytes, gives them to its reader, and raises AssertionError where the law is broken; any exception but the
one that the reader names is a fault as well.
"""

import asyncio
import contextlib
import json
import re
import tempfile
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import msgspec
import numpy as np
from aiohttp.base_protocol import BaseProtocol
from aiohttp.http import HttpResponseParser
from msgspec import Struct

from loadgen import record
from loadgen.decisions.grade import data_lines, judge_question, notes
from loadgen.decisions.versus import block_sides, pairs_file
from loadgen.errors import InputError
from loadgen.mock import request as mock_request
from loadgen.plan.plan import StageLoad
from loadgen.scenario import Scenario, check, file, model_list, problem, validate
from loadgen.scenario.problem import Source
from loadgen.stats import histogram
from loadgen.store import hlog, manifest, run_folder
from loadgen.targets.llamacpp import gguf_header
from loadgen.targets.probe import traits
from loadgen.telemetry.host import ClockFacts, Host
from loadgen.wire import chat_fast_path, chat_json, chat_stream, chat_whole, chunked, sse
from tests.integration.stream_answers import ANSWERS
from tests.integration.stream_bodies import BODIES

LONG_BYTES: Final = 4000
"""Of the tables' bodies, those that are longer teach nothing."""


class Target(Struct, frozen=True):
    """A reader under fuzzing.

    check: gives it bytes. modules: whose lines count as coverage. seeds: what to begin with. words: what a mutation may
    put in. read: what is watched, where watching all of the check would take too long; None for the check itself.
    """

    check: Callable[[bytes], None]
    modules: tuple[ModuleType, ...]
    seeds: tuple[bytes, ...]
    words: tuple[bytes, ...]
    read: Callable[[bytes], object] | None = None


def pieces_of(data: bytes) -> list[bytes]:
    """The data in pieces of 1 to 31 bytes, which the data itself decides: any case can be played again."""
    edges = [0]
    while edges[-1] < len(data):
        at = edges[-1]
        edges.append(min(len(data), at + 1 + (data[at] * 7 + at) % 31))
    return [data[a:b] for a, b in pairwise(edges)]


# The wire


def check_splitter(data: bytes) -> None:
    """No split changes the events, where they end, or what is left over."""
    found = [_events_of(pieces) for pieces in ([data], pieces_of(data), [data[at : at + 1] for at in range(len(data))])]
    assert found[0] == found[1] == found[2], f"{found}"
    ends = [event.end for event in found[0][0]]
    assert ends == sorted(set(ends))
    assert not ends or 0 < ends[0] <= ends[-1] <= len(data)


def _events_of(pieces: list[bytes]) -> tuple[list[sse.SseEvent], bytes, object, object]:
    splitter = sse.Splitter()
    events = [event for piece in pieces for event in splitter.feed(piece)]
    return events, splitter.pending, splitter.finish(), splitter.not_utf8_at


def check_decoder(data: bytes) -> None:
    """No split changes the answer, and what it says is in order. Byte by byte, the shorter ways are never taken."""
    told = chat_stream.decode(data)
    for pieces in (pieces_of(data), [data[at : at + 1] for at in range(len(data))]):
        decoder = chat_stream.Decoder()
        for piece in pieces:
            decoder.feed(piece)
        assert decoder.result() == told, pieces
    assert told.token_ends == sorted(set(told.token_ends))
    assert all(0 < end <= len(data) for end in (*told.token_ends, *([told.end_offset] if told.end_offset else [])))
    assert (told.end_offset is None) == (told.finish_reason is None and not told.done)
    assert (told.first_visible is None) == (not told.text)
    for line in (told.error, told.malformed):
        assert line is None or (line.isprintable() and 0 < len(line) <= 300)
    traits.traits_of(data, told.token_ends[0] if told.token_ends else None)


def check_whole(data: bytes) -> None:
    told = chat_whole.decode_whole(data)
    told.text.encode()
    assert told.answers or not told.speaks
    assert told.error is None or (told.error.isprintable() and 0 < len(told.error) <= 300)


def check_dechunker(data: bytes) -> None:
    """No split changes the body, nor whether it is over; and what it takes, aiohttp reads as the same body."""
    found = []
    for pieces in ([data], pieces_of(data), [data[at : at + 1] for at in range(len(data))]):
        dechunker = chunked.Dechunker()
        dechunker.feed(pieces)
        body = b"".join(dechunker.pieces)
        assert not pieces or dechunker.ends[-1] == len(body)
        assert list(dechunker.ends) == sorted(dechunker.ends)
        found.append((dechunker.odd, dechunker.over, dechunker.bytes_beyond, body))
    odd, over, behind, body = found[0]
    assert [each[:3] for each in found] == [(odd, over, behind)] * 3, f"{found}"
    if not odd:
        assert found[0] == found[1] == found[2], f"{found}"
    if over and not odd:
        assert _as_aiohttp_reads(data[: len(data) - behind]) == body


def _as_aiohttp_reads(chunked: bytes) -> bytes:
    loop = asyncio.new_event_loop()
    try:
        parser = HttpResponseParser(BaseProtocol(loop), loop, 1 << 20)
        messages, _, _ = parser.feed_data(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked)
        ((_, payload),) = messages
        assert payload.is_eof()
        return bytes(payload.read_nowait())
    finally:
        loop.close()


def check_requests(data: bytes) -> None:
    """The mock's reader of requests: no split changes them, or why one is refused."""
    found = [_requests_of(pieces) for pieces in ([data], pieces_of(data))]
    assert found[0] == found[1], f"{found}"


def _requests_of(pieces: list[bytes]) -> list[Any]:
    requests = mock_request.RequestReader()
    taken: list[Any] = []
    try:
        for piece in pieces:
            requests.feed(piece)
            while (request := requests.next_request()) is not None:
                taken.append(request)
    except mock_request.Refusal as refusal:
        taken.append(refusal.status)
    return taken


# Files


def check_scenario(data: bytes) -> None:
    """A scenario, or one line that says what is wrong."""
    with _named_error(), _file(data) as path:
        found = validate.convert(file.parse_toml(file.read_text(path), "x.toml"), Scenario, Source("x.toml"))
        check.first_conflict(found)
        msgspec.json.encode(found)


def check_model_list(data: bytes) -> None:
    with _named_error(), _file(data) as path:
        model_list.model_list_text(model_list.read_model_list(path))


def check_records(data: bytes) -> None:
    """The log of a run: every line is a record, or is counted as torn."""
    with _file(data) as path:
        found, torn = run_folder._read_lines(path, record.Record)
    lines = data.count(b"\n") + (not data.endswith(b"\n") and data != b"")
    assert len(found) + torn == lines
    for each in found:
        again = msgspec.json.decode(msgspec.json.encode(each), type=record.Record)
        assert again == each or b"NaN" in data


def check_manifest(data: bytes) -> None:
    with _named_error(), tempfile.TemporaryDirectory() as folder:
        (Path(folder) / run_folder.MANIFEST).write_bytes(data)
        run_folder.read(Path(folder))


def check_hlog(data: bytes) -> None:
    with _named_error():
        hlog.read_interval_log(data.decode("utf-8", "replace"))


def check_gguf(data: bytes) -> None:
    with _file(data) as path:
        gguf_header.read_header(path)


@contextlib.contextmanager
def _named_error() -> Any:
    try:
        yield
    except InputError as error:
        assert str(error)
        assert "\n" not in str(error)


@contextlib.contextmanager
def _file(data: bytes) -> Any:
    with tempfile.NamedTemporaryFile(suffix=".toml") as made:
        made.write(data)
        made.flush()
        yield Path(made.name)


# Seeds


def _scenarios() -> tuple[bytes, ...]:
    folder = Path(__file__).parents[2] / "scenarios"
    return tuple(path.read_bytes() for path in sorted(folder.glob("*.toml")))


def _records() -> tuple[bytes, ...]:
    line = record.Record(
        outcome="ok", model="m", target="openai", level="c1", index=0, phase="measured", prompt_id="p", intended_ns=1,
        stamps_ns=(1, 2), tokens_per_event=(1, 1), text="a", timings=record.ServerTimings(1, 1.0, 1, 1.0),
    )  # fmt: skip
    return (msgspec.json.encode(line) + b"\n", (msgspec.json.encode(line) + b"\n") * 2, b"{}\n")


def check_pairs(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / pairs_file.PAIRS).write_bytes(data)
        with contextlib.suppress(InputError):
            block_sides.read_block_sides(folder)


def check_judge(data: bytes) -> None:
    """What counts as a note is a JSON object, alone or in a fence, with a whole number from 1 to 5."""
    text = data.decode("utf-8", "replace")
    plain, turned = (judge_question.verdict_in(text, scale) for scale in SCALES)
    assert (plain is None) == (turned is None)
    if plain is not None and turned is not None:
        assert plain.note + turned.note == notes.LOWEST + notes.HIGHEST
        assert notes.LOWEST <= plain.note <= notes.HIGHEST
    if plain is not None or judge_question.winner_in(text) is not None:
        answer = re.sub(r"\A\s*<think>.*?</think>", "", text, count=1, flags=re.DOTALL).strip()
        assert isinstance(json.loads(answer.removeprefix("```json").strip("`").strip()), dict)


def check_notes(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / notes.NOTES).write_bytes(data)
        with contextlib.suppress(InputError):
            notes.read_notes([folder])
        notes.append_notes([_NOTE], [folder])
        with contextlib.suppress(InputError):
            assert any(note.place == _NOTE.place for note in notes.read_notes([folder]))


_NOTE: Final = notes.Note(
    answer="0" * 12, prompt_id="p", text_sha256="0", aspect="clear", note=3, by="ana", kind="hand", at="9999"
)
SCALES: Final[tuple[judge_question.Scale, ...]] = ("plain", "turned")
_VERDICTS: Final = (
    b'{"reason": "x", "note": 4}',
    b'```json\n{"note": 4.0, "reason": "x"}\n```',
    b'<think>4</think>\n{"reason": "x", "better": "first"}',
)


def _pairs() -> bytes:
    blocks = (pairs_file.Block("a", "b"),)
    return msgspec.json.encode(pairs_file.Pairs(order=("AB", "BA"), blocks=blocks, versus={"models[0].url": None}))


def _manifest() -> bytes:
    made = manifest.Manifest(
        schema=manifest.SCHEMA, run_id="r", scenario=Scenario(name="r", prompts="p"), plan_digest="",
        started_utc="2026-01-02", prompts=(manifest.PromptFacts("p"),), versions={}, stamp_source="user",
        clock=ClockFacts(), host=Host(),
        stages=(manifest.PlannedStage("m", "openai", "c1", StageLoad("closed", 1), 1, 0),),
        models=(manifest.ServedModel(alias="m", id="m", target="openai", probe=manifest.Probe(scaling=1.0)),),
    )  # fmt: skip
    return msgspec.json.encode(made)


def _hlog() -> bytes:
    filled = histogram.Histogram()
    filled.record(np.array([1_000_000, 2_000_000]))
    return hlog.interval_log(0.0, [hlog.Interval("a/b/c1/ttft", 0.0, 1.0, filled)]).encode()


_BODIES: Final = tuple(body for body, _ in BODIES.values() if len(body) < LONG_BYTES)
_RAW: Final = tuple(answer.raw for answer, _ in ANSWERS.values() if len(answer.raw) < LONG_BYTES)
_SSE: Final = (b"\n\n", b"\r\n", b"\r", b"\n", b"data: ", b"data:", b"data", b"event: error\n", b": x\n", b"id: 1\n",
               b"\xef\xbb\xbf", b"\xff", b"\xc3", b"\xa9", b"data: [DONE]\n\n")  # fmt: skip
_JSON: Final = (b"{", b"}", b"[", b"]", b'"', b",", b":", b"null", b"true", b"0", b"-1", b"1e999", b"\\ud83d", b"\\n",
                b'"choices"', b'"delta"', b'"message"', b'"content"', b'"index":1', b'"usage"', b'"completion_tokens"',
                b'"finish_reason":"stop"', b'"error"', b'"tool_calls"', b'"reasoning"', b'"timings"')  # fmt: skip
_HTTP: Final = (b"\r\n", b"0\r\n\r\n", b"5\r\nhello\r\n", b"f", b"A", b";a=b", b"\r", b"\n", b"Content-Length: 3\r\n",
                b"Transfer-Encoding: chunked\r\n", b"Expect: 100-continue\r\n", b"POST / HTTP/1.1\r\n")  # fmt: skip
_TOML: Final = (b"[load]\n", b"[[models]]\n", b"name = ", b'"x"', b"1", b"-1", b"1e400", b"inf", b"nan", b"[]", b"{}",
                b"mode = ", b'"closed"', b'"poisson"', b"=", b".", b"'''", b"\\u0000", b"1979-05-27")  # fmt: skip
_CHAT_REQUEST: Final = (
    b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}GET / HTTP/1.0\r\n\r\n",
    b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\nA: b\r\n\r\n",
)

TARGETS: Final[dict[str, Target]] = {
    "splitter": Target(check_splitter, (sse,), _BODIES, _SSE, lambda data: _events_of(pieces_of(data))),
    "decoder": Target(
        check_decoder, (chat_stream, sse, chat_fast_path, chat_json, traits), _BODIES, _SSE + _JSON, chat_stream.decode
    ),
    "whole": Target(check_whole, (chat_whole, chat_json), (b'{"choices":[{"message":{"content":"a"}}]}',), _JSON),
    "dechunker": Target(
        check_dechunker,
        (chunked,),
        tuple(raw.partition(b"\r\n\r\n")[2] for raw in _RAW if b"chunked" in raw),
        _HTTP,
        lambda data: chunked.Dechunker().feed(pieces_of(data)),
    ),
    "requests": Target(check_requests, (mock_request,), _CHAT_REQUEST, _HTTP),
    "scenario": Target(check_scenario, (file, validate, check, problem), _scenarios(), _TOML),
    "model list": Target(check_model_list, (model_list,), (b'["a"]', b'{"a":{"capabilities":["chat"]}}'), _JSON),
    "records": Target(check_records, (run_folder,), _records(), _JSON),
    "pairs": Target(check_pairs, (pairs_file, block_sides), (_pairs(),), _JSON),
    "judge": Target(check_judge, (judge_question,), _VERDICTS, (*_JSON, b"```", b"<think>", b"</think>", b"NaN", b"5")),
    "notes": Target(check_notes, (notes, data_lines), (msgspec.json.encode(_NOTE) + b"\n",), _JSON),
    "manifest": Target(check_manifest, (run_folder,), (_manifest(),), _JSON),
    "histograms": Target(check_hlog, (hlog, histogram), (_hlog(),), (b",", b"\n", b"#", b"Tag=", b"HISTFAAA", b"=")),
    "gguf": Target(
        check_gguf,
        (gguf_header,),
        (b"GGUF\x03\0\0\0" + b"\0" * 8 + b"\x01" + b"\0" * 7 + b"\x01" + b"\0" * 7 + b"a\x04\0\0\0\x07\0\0\0",),
        (
            b"\x09\0\0\0" + b"\x01" + b"\0" * 7,
            b"\x09\0\0\0",
            b"\x08\0\0\0",
            b"\xff" * 8,
            b"\x01" + b"\0" * 7,
            b"\0" * 8,
        ),
    ),
}
