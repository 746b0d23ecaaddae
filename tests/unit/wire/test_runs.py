"""Reading runs of like events: what ends a run, and the law that nothing is found that parsing each would not find."""

from itertools import accumulate

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loadgen.wire.chat_fast_path import Pattern, pattern_of, run_of

law = settings(derandomize=True, deadline=None, max_examples=300)

BEFORE = b'data: {"choices":[{"delta":{"content":"'
BEHIND = b'"}}]}\n\n'
PATTERN = Pattern(BEFORE, BEHIND)


def like(*texts: bytes) -> bytes:
    return b"".join(BEFORE + text + BEHIND for text in texts)


@pytest.mark.parametrize(
    "event",
    [
        like(b"a"),
        b'data: {"content": "a", "x": 1}\n\n',
        'data: {"model":"é","content":"a"}\n\n'.encode(),
    ],
)
def test_the_pattern_of_an_event_is_all_of_it_but_the_text(event: bytes) -> None:
    pattern = pattern_of(event, "content", "a")
    assert pattern is not None
    assert pattern.prefix + b"a" + pattern.suffix == event
    assert pattern.prefix.endswith(b'"')
    assert pattern.suffix.startswith(b'"')


@pytest.mark.parametrize(
    ("event", "why"),
    [
        (b'data: {"content":"a","x":"\\n"}\n\n', "an escape anywhere"),
        (b'data: {"content":"a","content":"a"}\n\n', "the key twice"),
        (b'data: {"content":"a","type":"content"}\n\n', "the key's word as a value"),
        (b'data: {"content":["a"]}\n\n', "no string"),
        (b'data: {"content" :"a"}\n\n', "a way to write it that nobody uses"),
        (b'data: {"content":"b"}\n\n', "another text"),
        (b'data: {"text":"a"}\n\n', "no such key"),
    ],
)
def test_where_it_is_not_certain_which_bytes_are_the_text_there_is_no_pattern(event: bytes, why: str) -> None:
    assert pattern_of(event, "content", "a") is None, why


@pytest.mark.parametrize(
    ("texts", "read"),
    [
        ((b"a", b"b", b"c"), "abc"),
        ((b"\\n", b"x", b'\\"', b"\\\\"), '\nx"\\'),
        ((b"\\u00e9", "é".encode()), "éé"),
        ((b"a" * 9000, b"b", b"c" * 20_000), "a" * 9000 + "b" + "c" * 20_000),
        ((b"x",) * 5000, "x" * 5000),
        ((b"\\ud83d", b"\\ude00"), "😀"),
        ((b"\\ud83d",), "\ud83d"),
    ],
    ids=["plain", "escapes", "not ASCII", "longer than a window", "many", "two halves", "one half"],
)
def test_a_run_is_read_to_its_end(texts: tuple[bytes, ...], read: str) -> None:
    data = like(*texts)
    for behind in (b"", b"data: [DONE]\n\n", BEFORE, BEFORE + b"half"):
        run = run_of(PATTERN, data + behind, 0)
        assert run.text == read
        assert run.ends == list(accumulate(len(like(text)) for text in texts))


@pytest.mark.parametrize("last", [0, 1, 2])
@pytest.mark.parametrize(
    "other",
    [
        like(b""),
        like(b"a\x00b"),
        like(b"a\nb"),
        like(b"\\x"),
        like(b"\\u12"),
        BEFORE + b'a","x":"b' + BEHIND,
        BEFORE + b"a\\" + BEHIND,
        BEFORE + b'a"}}]}\n',
        b"data: {}\n\n",
        b"\n",
        b": c\n\n",
    ],
)
def test_what_is_not_like_the_others_ends_a_run(other: bytes, last: int) -> None:
    data = like(b"a", b"b")
    run = run_of(PATTERN, data + other + like(*[b"c"] * last), 0)
    assert (run.text, run.ends) == ("ab", [len(like(b"a")), len(data)])


def test_an_escape_cut_in_two_is_none() -> None:
    assert run_of(PATTERN, like(b"a", b"\\u12", b"34"), 0).text == "a"


TEXTS = st.one_of(
    st.text(min_size=1, max_size=6).map(lambda text: orjson.dumps(text, default=str)[1:-1]),
    st.binary(max_size=6).filter(lambda data: data.isascii()),
    st.sampled_from([b'"', b"\\", b"\\u12", b"34", b'"}}]}', BEHIND, BEFORE, BEHIND + BEFORE, b'\\"' + BEHIND[1:]]),
)


@pytest.mark.slow
@law
@given(st.lists(TEXTS, max_size=12), st.integers(0, 12))
def test_each_event_of_a_run_parses_to_its_part_of_the_text(texts: list[bytes], cut: int) -> None:
    data = like(*texts)
    data = data[: len(data) - cut]
    run = run_of(PATTERN, data, 0)
    found, start = "", 0
    for end in run.ends:
        event = data[start:end]
        assert event.startswith(b"data: ")
        assert event.endswith(b"\n\n")
        parsed = orjson.loads(event[6:])
        text = parsed["choices"][0]["delta"].pop("content")
        assert text
        assert parsed == {"choices": [{"delta": {}}]}
        found, start = found + text, end
    assert run.text == found
