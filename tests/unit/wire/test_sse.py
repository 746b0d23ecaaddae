"""Splitting server-sent events: tables of bytes, a second parser written straight from the standard, and laws."""

import sys
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loadgen.wire.sse import EventTooLong, Splitter, SseEvent

DATA = Path(__file__).parents[2] / "data"
law = settings(derandomize=True, deadline=None, max_examples=100)

TABLE = [
    pytest.param(b"data: a\n\n", [SseEvent(b"a", 9)], id="lf"),
    pytest.param(b"data: a\r\n\r\n", [SseEvent(b"a", 10)], id="crlf ends at the CR of the blank line"),
    pytest.param(b"data: a\r\r", [SseEvent(b"a", 9)], id="cr"),
    pytest.param(b"data: a\r\n\n", [SseEvent(b"a", 10)], id="crlf, then lf"),
    pytest.param(b"data: a\n\r\n", [SseEvent(b"a", 9)], id="lf, then crlf"),
    pytest.param(b"data: a\r\n\rdata: b\n\n", [SseEvent(b"a", 10), SseEvent(b"b", 19)], id="crlf, then cr"),
    pytest.param(b"data: a\r\n", [], id="one crlf is one line end"),
    pytest.param(b"data: a\r\n\r\ndata: b\r\n\r\n", [SseEvent(b"a", 10), SseEvent(b"b", 21)], id="two with crlf"),
    pytest.param(b"\xef\xbb\xbfdata: a\n\n", [SseEvent(b"a", 12)], id="a leading byte-order mark"),
    pytest.param(b"\xef\xbb\xbf\xef\xbb\xbfdata: a\n\n", [], id="only one byte-order mark"),
    pytest.param(b"\n\xef\xbb\xbfdata: a\n\n", [], id="a byte-order mark that does not lead"),
    pytest.param(
        b"data: a\n\n\xef\xbb\xbfdata: b\n\n", [SseEvent(b"a", 9)], id="a byte-order mark before a later event"
    ),
    pytest.param(b"data: a\r\rdata: b\n\n", [SseEvent(b"a", 9), SseEvent(b"b", 18)], id="cr, then lf"),
    pytest.param(b": keep-alive\n\n: keep-alive\n\ndata: a\n\n", [SseEvent(b"a", 37)], id="comments"),
    pytest.param(b"data: a\n: aside\ndata: b\n\n", [SseEvent(b"a\nb", 25)], id="a comment inside"),
    pytest.param(b"data:a\n\n", [SseEvent(b"a", 8)], id="no space"),
    pytest.param(b"data:  a \n\n", [SseEvent(b" a ", 11)], id="exactly one space goes"),
    pytest.param(b"data:\ta\n\n", [SseEvent(b"\ta", 9)], id="a tab stays"),
    pytest.param(b"data: a\ndata: b\ndata\n\n", [SseEvent(b"a\nb\n", 22)], id="lines are joined"),
    pytest.param(b"data\n\n", [SseEvent(b"", 6)], id="no colon"),
    pytest.param(b"data:\n\n", [SseEvent(b"", 7)], id="empty data is dispatched"),
    pytest.param(b"event: error\ndata: a\n\n", [SseEvent(b"a", 22, "error")], id="a type"),
    pytest.param(b"data: a\nevent:x\nevent: y\n\n", [SseEvent(b"a", 26, "y")], id="the last type"),
    pytest.param(b"event:\ndata: a\n\n", [SseEvent(b"a", 16)], id="an empty type is message"),
    pytest.param(b"event: x\n\ndata: a\n\n", [SseEvent(b"a", 19)], id="a type without data is forgotten"),
    pytest.param(b"event: \xff\ndata: a\n\n", [SseEvent(b"a", 18, "\ufffd")], id="a type that is not UTF-8"),
    pytest.param(b"id: 1\nretry: 5\nfoo: x\nDATA: x\n data: x\ndata: a\n\n", [SseEvent(b"a", 48)], id="other fields"),
    pytest.param(b"data: a: b\n\n", [SseEvent(b"a: b", 12)], id="a colon in the value"),
    pytest.param(b"\n\n\n\ndata: a\n\n\n\n\n", [SseEvent(b"a", 13)], id="blank lines around"),
    pytest.param(b"\r\n\r\n\ndata: a\r\n\r\n", [SseEvent(b"a", 15)], id="blank lines of every kind before"),
    pytest.param(b"data: \xff\xfe\n\n", [SseEvent(b"\xff\xfe", 10)], id="data is bytes"),
    pytest.param(b"data: a\n", [], id="no blank line, no event"),
    pytest.param(b"", [], id="nothing"),
    pytest.param(
        b"data\n\ndata\ndata\n\ndata:", [SseEvent(b"", 6), SseEvent(b"\n", 17)], id="an example of the standard"
    ),
]


def read_by_the_standard(body: bytes) -> list[SseEvent]:
    """The standard's steps, one byte at a time. Knows all of the body, so it has no state across feeds."""
    at = 3 if body.startswith(b"\xef\xbb\xbf") else 0
    events, line, data, kind = [], b"", b"", b""
    while at < len(body):
        byte = body[at : at + 1]
        at += 1
        if byte not in (b"\r", b"\n"):
            line += byte
            continue
        end = at
        if byte == b"\r" and body[at : at + 1] == b"\n":
            at += 1
        if not line:
            if data:
                events.append(SseEvent(data[:-1], end, kind.decode("utf-8", "replace") or "message"))
            data, kind = b"", b""
        elif not line.startswith(b":"):
            name, value = line, b""
            if b":" in line:
                name, value = line.split(b":", 1)
                if value.startswith(b" "):
                    value = value[1:]
            if name == b"data":
                data += value + b"\n"
            elif name == b"event":
                kind = value
        line = b""
    return events


def split_at(body: bytes, cuts: list[int]) -> list[bytes]:
    edges = [0, *sorted(min(cut, len(body)) for cut in cuts), len(body)]
    return [body[a:b] for a, b in pairwise(edges)]


def feed_all(splitter: Splitter, pieces: list[bytes]) -> list[SseEvent]:
    return [event for piece in pieces for event in splitter.feed(piece)]


def outcome(pieces: list[bytes], max_event_bytes: int) -> tuple[list[SseEvent], int | None]:
    """The events, and where the one that was too long began."""
    splitter = Splitter(max_event_bytes=max_event_bytes)
    events: list[SseEvent] = []
    for piece in pieces:
        try:
            events += splitter.feed(piece)
        except EventTooLong as error:
            return events + error.events, error.start
    return events, None


# Bodies that look like event streams, with every line end, and the odd mark, comment and field.
PIECES = [b"data: x", b"data:y", b"data", b"event: e", b": c", b"id: 1", b"\xef\xbb\xbf", b"a", b":", b" ", b"\xe2\x82"]
ENDS = [b"\n", b"\r", b"\r\n", b"\n\n", b"\r\n\r\n", b"\r\r"]
BODIES = st.one_of(
    st.lists(st.sampled_from(PIECES + ENDS * 2), max_size=24).map(b"".join),
    st.lists(st.sampled_from(PIECES), max_size=12).map(b"\n\n".join),
    st.lists(st.sampled_from(PIECES), max_size=12).map(b"\r\n\r\n".join),
    st.binary(max_size=64),
)
CUTS = st.lists(st.integers(0, 200), max_size=12)


@pytest.mark.parametrize(("body", "events"), TABLE)
def test_a_body_splits_into_its_events(body: bytes, events: list[SseEvent]) -> None:
    assert Splitter().feed(body) == events


@pytest.mark.parametrize(("body", "events"), TABLE)
def test_one_byte_at_a_time_gives_the_same_events(body: bytes, events: list[SseEvent]) -> None:
    assert feed_all(Splitter(), [body[i : i + 1] for i in range(len(body))]) == events


@law
@given(BODIES)
def test_every_body_is_read_as_the_standard_says(body: bytes) -> None:
    assert Splitter().feed(body) == read_by_the_standard(body)


def agree_on(body: bytes, pieces: list[bytes]) -> None:
    whole, pieced = Splitter(), Splitter()
    assert feed_all(pieced, pieces) == whole.feed(body)
    assert pieced.pending == whole.pending
    assert pieced.finish() == whole.finish()
    assert pieced.not_utf8_at == whole.not_utf8_at


@pytest.mark.slow
@law
@given(BODIES, CUTS)
def test_no_split_of_a_body_changes_its_events_or_their_ends(body: bytes, cuts: list[int]) -> None:
    agree_on(body, split_at(body, cuts))


@pytest.mark.slow
@law
@given(BODIES)
def test_no_cut_in_two_changes_the_events_or_their_ends(body: bytes) -> None:
    for cut in range(len(body) + 1):
        agree_on(body, [body[:cut], body[cut:]])


@law
@given(BODIES)
def test_an_event_is_there_at_its_end_and_not_a_byte_before(body: bytes) -> None:
    for index, event in enumerate(Splitter().feed(body)):
        assert len(Splitter().feed(body[: event.end])) == index + 1
        assert len(Splitter().feed(body[: event.end - 1])) == index


@pytest.mark.slow
@law
@given(BODIES, CUTS, st.integers(4, 16))
def test_no_split_of_a_body_changes_which_event_is_too_long(body: bytes, cuts: list[int], limit: int) -> None:
    assert outcome(split_at(body, cuts), limit) == outcome([body], limit)


@law
@given(BODIES)
def test_the_first_byte_that_is_not_utf8_is_found(body: bytes) -> None:
    splitter = Splitter()
    splitter.feed(body + b"\n")  # a cut character is no fault; one that something else follows is
    try:
        (body + b"\n").decode()
    except UnicodeDecodeError as error:
        assert splitter.not_utf8_at == error.start
    else:
        assert splitter.not_utf8_at is None


def test_an_lf_in_the_next_read_belongs_to_the_cr_before() -> None:
    splitter = Splitter()
    assert splitter.feed(b"data: a\r\n\r") == [SseEvent(b"a", 10)]
    assert splitter.pending == b""
    assert splitter.feed(b"\ndata: b\n\n") == [SseEvent(b"b", 20)]


def test_an_empty_read_between_a_cr_and_its_lf_changes_nothing() -> None:
    splitter = Splitter()
    splitter.feed(b"data: a\r\r")
    assert splitter.feed(b"") == []
    assert splitter.feed(b"\ndata: b\n\n") == [SseEvent(b"b", 19)]


def test_an_unfinished_last_event_is_not_dispatched_but_can_be_asked_for() -> None:
    splitter = Splitter()
    assert splitter.feed(b"data: a\n\nevent: x\ndata: [DONE]") == [SseEvent(b"a", 9)]
    assert splitter.pending == b"event: x\ndata: [DONE]"
    assert splitter.finish() == SseEvent(b"[DONE]", 30, "x")
    assert splitter.feed(b"\n\n") == [SseEvent(b"[DONE]", 32, "x")]  # asking changed nothing
    assert splitter.finish() is None


def test_an_unfinished_comment_is_no_event() -> None:
    splitter = Splitter()
    splitter.feed(b": keep-alive\n")
    assert splitter.finish() is None


@pytest.mark.parametrize("line_end", [b"\n", b"\r\n", b"\r"])
def test_an_event_may_take_its_limit_and_no_byte_more(line_end: bytes) -> None:
    body = b"data: 345678" + line_end * 2
    size = len(line_end) + 13
    assert Splitter(max_event_bytes=size).feed(body) == [SseEvent(b"345678", size)]
    with pytest.raises(EventTooLong, match=f"at byte 0 is longer than {size - 1} bytes"):
        Splitter(max_event_bytes=size - 1).feed(body)


def test_an_event_that_never_ends_is_given_up_with_those_before_it_kept() -> None:
    splitter = Splitter(max_event_bytes=20)
    with pytest.raises(EventTooLong) as caught:
        splitter.feed(b"data: a\n\ndata: " + b"b" * 20)
    assert caught.value.events == [SseEvent(b"a", 9)]
    assert caught.value.start == 9
    assert splitter.finish() is None
    with pytest.raises(EventTooLong):
        splitter.feed(b"\n\ndata: c\n\n")


def test_a_comment_that_never_ends_is_given_up_too() -> None:
    splitter = Splitter(max_event_bytes=1000)
    with pytest.raises(EventTooLong):
        feed_all(splitter, [b": and so on"] * 100)


def test_a_large_event_arrives_whole_from_many_small_reads() -> None:
    content = bytes(range(97, 123)) * 40_000
    body = b"data: " + content + b"\r\n\r\n"
    pieces = [body[i : i + 64] for i in range(0, len(body), 64)]
    assert feed_all(Splitter(), pieces) == [SseEvent(content, len(body) - 1)]


@pytest.mark.parametrize("capture", ["foundry_v1.sse", "foundry_v2.sse"])
@pytest.mark.parametrize("line_end", [b"\n", b"\r\n", b"\r"])
def test_captured_streams_have_the_same_data_with_any_line_end(capture: str, line_end: bytes) -> None:
    body = (DATA / capture).read_bytes()
    expected = [block.removeprefix(b"data: ") for block in body.split(b"\n\n")[:-1]]
    assert [event.data for event in Splitter().feed(body.replace(b"\n", line_end))] == expected


@pytest.mark.parametrize("unit", [b"\n", b"\r", b"\r\n", b"\n\r", b"\r\n\r", b"\n\n\r\n"])
def test_line_ends_without_an_event_are_not_taken_one_by_one(unit: bytes) -> None:
    body, splitter, calls = unit * 5_000, Splitter(), 0

    def count(*_: object) -> None:
        nonlocal calls
        calls += 1

    before = sys.getprofile()
    sys.setprofile(count)
    try:
        events = splitter.feed(body)
    finally:
        sys.setprofile(before)
    assert events == []
    assert splitter.offset + len(splitter.pending) == len(body)
    assert calls < 100
