"""Decoding chat streams: a test for each way in which servers differ, two captures, and laws over any bytes."""

import hashlib
import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loadgen.record import JsonObject, ServerTimings
from loadgen.wire.chat_json import parse_object
from loadgen.wire.chat_stream import Completion, Decoder, decode

DATA = Path(__file__).parents[2] / "data"
law = settings(derandomize=True, deadline=None, max_examples=100)
DONE = b"data: [DONE]\n\n"


def event(chunk: object, kind: str | None = None) -> bytes:
    head = b"" if kind is None else f"event: {kind}\n".encode()
    return head + b"data: " + json.dumps(chunk).encode() + b"\n\n"


def chunk(delta: object = None, finish: object = None, **more: object) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": delta, "finish_reason": finish}], **more}


def says(content: object, finish: object = None, **more: object) -> bytes:
    return event(chunk({"content": content}, finish, **more))


def usage(prompt: object, output: object) -> dict[str, object]:
    return {"prompt_tokens": prompt, "completion_tokens": output}


FINISH = event(chunk({}, "stop"))


def ends(*events: bytes) -> list[int]:
    """Where each event ends in the body that they make."""
    at, offsets = 0, []
    for each in events:
        at += len(each)
        offsets.append(at)
    return offsets


def decode_in(body: bytes, cuts: list[int]) -> Completion:
    decoder = Decoder()
    edges = [0, *sorted(min(cut, len(body)) for cut in cuts), len(body)]
    for start, end in pairwise(edges):
        decoder.feed(body[start:end])
    return decoder.result()


# Captures


@pytest.mark.parametrize("capture", ["foundry_v1.sse", "foundry_v2.sse"])
def test_both_foundry_local_versions_give_the_same_answer(capture: str) -> None:
    body = (DATA / capture).read_bytes()
    completion = decode(body)
    assert completion.text == "The capital of France is Paris."
    assert completion.text_sha256 == hashlib.sha256(b"The capital of France is Paris.").hexdigest()
    assert len(completion.token_ends) == 7
    assert completion.first_visible == 0
    assert (completion.prompt_tokens, completion.output_tokens) == (37, 7)
    assert (completion.finish_reason, completion.done) == ("stop", True)
    assert completion.end_offset == body.index(b"\n\n", body.index(b'"finish_reason":"stop"')) + 2
    assert (completion.error, completion.malformed, completion.timings) == (None, None, None)


def test_foundry_local_1_tells_tokens_by_event_and_2_does_not() -> None:
    first, second = (decode((DATA / name).read_bytes()) for name in ("foundry_v1.sse", "foundry_v2.sse"))
    assert first.tokens_per_event == [1] * 7
    assert second.tokens_per_event is None
    assert (first.events, second.events) == (10, 11)


@pytest.mark.parametrize("capture", ["foundry_v1.sse", "foundry_v2.sse"])
def test_a_captured_stream_one_byte_at_a_time_gives_the_same(capture: str) -> None:
    body = (DATA / capture).read_bytes()
    assert decode_in(body, list(range(len(body)))) == decode(body)


# What is a token


def test_a_role_null_or_empty_content_is_no_token() -> None:
    role = event(chunk({"role": "assistant"}))
    body = role + says(None) + says("") + says("a") + FINISH + DONE
    assert decode(body).token_ends == [ends(role, says(None), says(""), says("a"))[-1]]


@pytest.mark.parametrize(
    "odd",
    [
        {"choices": []},
        {"choices": None},
        {},
        {"choices": "x"},
        {"choices": [None]},
        {"choices": [[]]},
        {"choices": [{}]},
        chunk(None),
        chunk("x"),
        chunk([]),
        chunk({"content": 7}),
        chunk({"content": {"text": "x"}}),
        chunk({"content": [7, None, {"text": 7}, {"type": "image"}]}),
        chunk({"reasoning": {"effort": 1}, "reasoning_content": ""}),
        chunk({"tool_calls": []}),
        chunk({"tool_calls": {"function": {"name": "x"}}}),
        chunk({"tool_calls": [None, {}, {"function": None}, {"function": {"name": "", "arguments": ""}}]}),
        chunk({"tool_calls": [{"index": 0, "id": "call_1", "function": {"name": "weather", "arguments": ""}}]}),
        chunk({"function_call": None}),
        chunk({"content": [{"type": "thinking", "thinking": [{"type": "text", "text": ""}]}]}),
        chunk({"content": [{"type": "thinking"}, {"type": "thinking", "thinking": 7}]}),
        chunk({"content": "", "refusal": None, "audio": None}),
        chunk({"refusal": "", "audio": {"id": "audio_1", "expires_at": 7}}),
        chunk({"refusal": ["no"], "audio": "x"}),
        chunk({"reasoning_details": [{"type": "reasoning.encrypted", "data": "gAAA"}], "thinking": ""}),
        chunk({"thinking_blocks": [{"type": "thinking", "signature": "x", "thinking": ""}]}),
        chunk({"tool_calls": [{"type": "custom", "custom": {"name": "x", "input": ""}}]}),
    ],
)
def test_a_chunk_without_generated_text_is_passed_over(odd: object) -> None:
    completion = decode(says("a") + event(odd) + says("b") + FINISH)
    assert completion.token_ends == [ends(says("a"))[0], ends(says("a"), event(odd), says("b"))[2]]
    assert (completion.text, completion.malformed) == ("ab", None)


def test_content_in_the_finish_event_counts() -> None:
    completion = decode(says("a") + says("b", "length") + DONE)
    assert completion.text == "ab"
    assert completion.token_ends == ends(says("a"), says("b", "length"))
    assert completion.end_offset == completion.token_ends[-1]


def thinks(*parts: object) -> dict[str, object]:
    """Reasoning as a part of the content, as Mistral sends it."""
    return {"type": "thinking", "thinking": list(parts)}


@pytest.mark.parametrize(
    "reasoning",
    [
        {"reasoning_content": "hm"},
        {"reasoning": "hm"},
        {"thinking": "hm"},
        {"reasoning": [{"type": "text", "text": "hm"}]},
        {"reasoning_details": [{"type": "reasoning.text", "text": "hm", "signature": None}]},
        {"reasoning_details": [{"type": "reasoning.summary", "summary": "hm"}]},
        {"reasoning": "hm", "reasoning_details": [{"type": "reasoning.text", "text": "hm"}]},
        {"thinking_blocks": [{"type": "thinking", "thinking": "hm"}]},
        {"content": [thinks({"type": "text", "text": "hm"})]},
        {"content": [thinks("hm")]},
        {"content": [{"type": "thinking", "thinking": "hm"}]},
        {"content": [{"type": "reasoning", "text": "hm"}]},
        {"content": [{"type": "reasoning", "summary": [{"type": "summary_text", "text": "hm"}]}]},
    ],
)
def test_reasoning_is_a_token_but_not_visible(reasoning: dict[str, object]) -> None:
    completion = decode(event(chunk({"content": None, **reasoning})) + says("a") + FINISH)
    assert len(completion.token_ends) == 2
    assert completion.first_visible == 1
    assert completion.text == "a"


def test_a_content_of_parts_is_visible_without_its_reasoning() -> None:
    parts = [thinks({"type": "text", "text": "hm"}), {"type": "text", "text": "a"}]
    completion = decode(says(parts[:1]) + says(parts) + says(parts[1:]) + FINISH)
    assert (completion.text, completion.first_visible, len(completion.token_ends)) == ("aa", 1, 3)


@pytest.mark.parametrize("delta", [{"refusal": "no"}, {"content": [{"type": "refusal", "refusal": "no"}]}])
def test_a_refusal_is_what_the_user_reads(delta: dict[str, object]) -> None:
    completion = decode(event(chunk({"content": None, **delta})) * 2 + FINISH)
    assert (completion.text, completion.first_visible, len(completion.token_ends)) == ("nono", 0, 2)


@pytest.mark.parametrize("audio", [{"id": "audio_1", "transcript": "a"}, {"data": "UklGRg=="}])
def test_speech_is_a_token_but_no_text(audio: dict[str, object]) -> None:
    completion = decode(event(chunk({"audio": audio})) + FINISH)
    assert (completion.text, completion.first_visible, len(completion.token_ends)) == ("", None, 1)


def test_reasoning_in_parts_that_are_nested_without_end_has_no_text_and_raises_nothing() -> None:
    nested = b"[" * 900 + b'"hm"' + b"]" * 900
    completion = decode(b'data: {"choices":[{"delta":{"reasoning":' + nested + b"}}]}\n\n" + says("a") + FINISH)
    assert (completion.text, len(completion.token_ends), completion.malformed) == ("a", 1, None)


@pytest.mark.parametrize(
    "delta",
    [
        {"tool_calls": [{"index": 0, "function": {"arguments": "{"}}]},
        {"tool_calls": [{"function": {"name": "", "arguments": {"a": 1}}}]},
        {"content": "", "tool_calls": [None, {"function": {"arguments": "{"}}]},
        {"tool_calls": [{"type": "custom", "custom": {"input": "print"}}]},
        {"function_call": {"arguments": "{"}},
    ],
)
def test_a_tool_call_is_a_token_but_not_visible(delta: object) -> None:
    completion = decode(event(chunk(delta)) + event(chunk({}, "tool_calls")))
    assert completion.token_ends == ends(event(chunk(delta)))
    assert (completion.first_visible, completion.text) == (None, "")
    assert completion.finish_reason == "tool_calls"


def test_an_event_with_content_and_reasoning_counts_once() -> None:
    completion = decode(event(chunk({"content": "a", "reasoning": "b"})) + FINISH)
    assert (len(completion.token_ends), completion.first_visible, completion.text) == (1, 0, "a")


def test_the_text_of_content_parts_is_joined() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}, "c", {"type": "image_url", "text": None}]
    assert decode(says(parts) + FINISH).text == "abc"


def test_delta_and_message_in_one_chunk_count_once() -> None:
    both = {"choices": [{"delta": {"content": "a"}, "message": {"content": "a"}}]}
    assert decode(event(both) + FINISH).text == "a"


def test_an_empty_delta_is_not_replaced_by_its_message() -> None:
    last = {"choices": [{"delta": {}, "message": {"content": "ab"}, "finish_reason": "stop"}]}
    assert decode(says("a") + says("b") + event(last)).text == "ab"


@pytest.mark.parametrize("choice", [{}, {"delta": None}])
def test_message_counts_where_there_is_no_delta(choice: dict[str, object]) -> None:
    completion = decode(event({"choices": [choice | {"message": {"content": "a"}}]}) * 2 + DONE)
    assert (completion.text, len(completion.token_ends)) == ("aa", 2)


@pytest.mark.parametrize("choice", [{}, {"delta": None}, {"message": None}])
def test_text_of_a_completion_counts_where_there_is_no_delta_and_no_message(choice: dict[str, object]) -> None:
    texts = ("a", '"', "\\", "\U0001f600", "text", "", "b")
    body = b"".join(
        event({"choices": [choice | {"index": 0, "text": text}], "object": "text_completion"}) for text in texts
    )
    end = event({"choices": [{"index": 0, "text": "", "finish_reason": "length"}]}) + DONE
    completion = decode(body + end)
    assert (completion.text, len(completion.token_ends)) == ("".join(texts), 6)
    assert (completion.first_visible, completion.finish_reason) == (0, "length")


def test_a_run_of_completion_texts_is_read_without_parsing_each() -> None:
    body = b"".join(event({"choices": [{"index": 0, "text": f"w{at} "}]}) for at in range(2000)) + DONE
    parsed: list[bytes] = []

    def parse(data: bytes) -> JsonObject | None:
        parsed.append(data)
        return parse_object(data)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("loadgen.wire.chat_stream.parse_object", parse)
        assert decode(body).text == "".join(f"w{at} " for at in range(2000))
    assert len(parsed) < 10


def test_a_message_after_deltas_repeats_the_answer_and_does_not_count() -> None:
    last = {"choices": [{"message": {"content": "ab"}, "finish_reason": "stop"}]}
    completion = decode(says("a") + says("b") + event(last))
    assert (completion.text, completion.finish_reason) == ("ab", "stop")


def test_of_several_choices_the_one_with_index_0_counts() -> None:
    other = {"index": 1, "delta": {"content": "x"}, "finish_reason": "stop"}
    ours = {"index": 0, "delta": {"content": "a"}, "finish_reason": None}
    body = event({"choices": [other]}) + event({"choices": [other, ours]})
    completion = decode(body + FINISH)
    assert (completion.text, completion.token_ends) == ("a", [len(body)])
    assert completion.end_offset == len(body + FINISH)


# Usage


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        ([], (None, None)),
        ([None], (None, None)),
        ([usage(3, 2)], (3, 2)),
        ([usage(3, 1), usage(3, 2)], (3, 2)),
        ([usage(3, 2), usage(3, 2)], (3, 2)),
        ([usage(3, 2), None], (3, 2)),
        ([usage(3, 2), {}], (3, 2)),
        ([usage(3, 2), usage(None, None)], (3, 2)),
        ([usage(3, None), usage(None, 2)], (3, 2)),
        ([usage(3, 2), usage("9", 9.5), usage(True, -1), usage(2**63, 2**80), [9], "9"], (3, 2)),
        ([usage(0, 0)], (0, 0)),
        ([usage(3.0, 2.0)], (3, 2)),
        ([usage(3, 2), usage(9.5, 1e300)], (3, 2)),
    ],
)
def test_the_last_usage_that_tells_a_count_wins(told: list[object], expected: tuple[object, object]) -> None:
    body = b"".join(event({"choices": [], "usage": each}) for each in told)
    completion = decode(says("a") + FINISH + body + DONE)
    assert (completion.prompt_tokens, completion.output_tokens) == expected
    assert completion.malformed is None


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        ([1, 2, 3], [1, 1, 1]),
        ([2, 2, 5], [2, 0, 3]),
        ([7], [7]),
        ([1, None, 3], None),
        ([2, 1], None),
        ([0, 0, 0], None),
        ([], None),
    ],
)
def test_tokens_by_event_are_differences_of_usage(counts: list[int | None], expected: list[int] | None) -> None:
    tokens = b"".join(says("a", usage=None if count is None else usage(3, count)) for count in counts)
    assert decode(tokens + FINISH + DONE).tokens_per_event == expected


def test_tokens_of_events_without_text_are_those_of_the_next_with_text() -> None:
    silent = event(chunk({"content": ""}, usage=usage(3, 2)))
    completion = decode(says("a", usage=usage(3, 1)) + silent + says("b", usage=usage(3, 3)) + FINISH)
    assert completion.tokens_per_event == [1, 2]


def test_timings_of_llama_cpp_come_with_the_last_event() -> None:
    told = {"prompt_n": 12, "prompt_ms": 30.5, "predicted_n": 2, "predicted_ms": 40, "predicted_per_second": 50.0}
    last = event({"choices": [], "usage": usage(12, 2), "timings": told})
    assert decode(says("a") + FINISH + last + DONE).timings == ServerTimings(12, 30.5, 2, 40.0)


@pytest.mark.parametrize(
    "told",
    [None, [], {}, "x", "\ud83d", {"prompt_n": 1}]
    + [
        {"prompt_n": 1, "prompt_ms": 1.0, "predicted_n": 1, "predicted_ms": 1.0} | bad
        for bad in (
            {"prompt_n": 1.5},
            {"prompt_ms": "1"},
            {"prompt_ms": True},
            {"predicted_n": True},
            {"predicted_ms": -1},
            {"prompt_n": 2**70},
        )
    ],
)
def test_timings_that_are_not_all_there_are_none(told: object) -> None:
    completion = decode(says("a", timings=told) + FINISH)
    assert (completion.timings, completion.malformed, completion.text) == (None, None, "a")


def test_the_last_timings_that_are_sound_win() -> None:
    told = [{"prompt_n": 1, "prompt_ms": 1.0, "predicted_n": n, "predicted_ms": 1.0} for n in (1, 2, "x")]
    body = b"".join(says("a", timings=each) for each in told)
    assert decode(body).timings == ServerTimings(1, 1.0, 2, 1.0)


# The end


def test_the_end_is_the_finish_reason_and_not_what_comes_after() -> None:
    completion = decode(says("a") + FINISH + event({"choices": []}) + FINISH + DONE)
    assert completion.end_offset == len(says("a") + FINISH)
    assert completion.done


def test_a_finish_reason_alone_is_an_orderly_end() -> None:
    completion = decode(says("a") + FINISH)
    assert (completion.finish_reason, completion.done) == ("stop", False)
    assert completion.end_offset == len(says("a") + FINISH)


def test_done_alone_is_an_orderly_end() -> None:
    completion = decode(says("a") + DONE)
    assert (completion.finish_reason, completion.done) == (None, True)
    assert completion.end_offset == len(says("a") + DONE)


def test_without_either_there_is_no_orderly_end() -> None:
    completion = decode(says("a"))
    assert (completion.end_offset, completion.malformed, completion.error) == (None, None, None)


@pytest.mark.parametrize("reason", ["eos_token", "abort", "stop_sequence", "error"])
def test_any_word_is_a_finish_reason(reason: str) -> None:
    assert decode(says("a", reason)).finish_reason == reason


@pytest.mark.parametrize("reason", [None, "", 0, 1, True, {}, ["stop"]])
def test_what_is_no_word_is_no_finish_reason(reason: object) -> None:
    completion = decode(says("a", reason) + says("b"))
    assert (completion.finish_reason, completion.end_offset, completion.text) == (None, None, "ab")


@pytest.mark.parametrize("orderly_end", [FINISH, DONE])
@pytest.mark.parametrize(
    "late",
    [
        says("b"),
        b"data: {\n\n",
        b": \xff\n\n",
        event({"error": "x"}),
        b"event: error\ndata: x\n\n",
        b"data: {",
        b"\xff",
    ],
)
def test_nothing_after_the_orderly_end_counts(orderly_end: bytes, late: bytes) -> None:
    completion = decode(says("a") + orderly_end + late)
    assert (completion.text, completion.error, completion.malformed) == ("a", None, None)
    assert completion.end_offset == len(says("a") + orderly_end)
    assert completion.token_ends == ends(says("a"))


def test_after_done_not_even_usage_counts() -> None:
    assert decode(says("a") + DONE + event({"choices": [], "usage": usage(3, 2)})).output_tokens is None


@pytest.mark.parametrize("tail", [b"data: [DONE]", b"data: [DONE]\n", b"data:[DONE]\r\n"])
def test_a_last_done_needs_no_blank_line(tail: bytes) -> None:
    completion = decode(says("a") + tail)
    assert (completion.done, completion.end_offset) == (True, len(says("a") + tail))


def test_a_last_event_that_is_whole_needs_no_blank_line() -> None:
    body = says("a") + FINISH.rstrip()
    completion = decode(body)
    assert (completion.finish_reason, completion.end_offset) == ("stop", len(body))


@pytest.mark.parametrize("cut", range(1, len(FINISH) - 2))
def test_a_last_event_that_was_cut_is_nothing_and_not_malformed(cut: int) -> None:
    completion = decode(says("a") + FINISH[:cut])
    assert (completion.end_offset, completion.malformed, completion.text, completion.events) == (None, None, "a", 1)


def test_a_stream_cut_inside_a_character_is_not_malformed() -> None:
    body = says("a") + 'data: {"choices": "é'.encode()[:-1]
    assert decode(body).malformed is None


# Errors


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (event({"error": {"message": "too long", "code": 400}}), "too long"),
        (event({"error": "too long"}), "too long"),
        (event({"error": {"code": 400}}), '{"code":400}'),
        (event({"error": {"message": None}}), '{"message":null}'),
        (event({"error": {"message": {"a": 1}}}), '{"message":{"a":1}}'),
        (event({"error": 7}), "7"),
        (event({"object": "error", "message": "too long"}), "too long"),
        (event({"message": "too long"}, "error"), "too long"),
        (event({"error": {"message": "too long"}}, "error"), "too long"),
        (b"event: error\ndata: too long\n\n", "too long"),
        (b"event: error\ndata:\n\n", "an error event"),
        (b'event: error\ndata: {"error": {"m": "\\ud83d"}}\n\n', "an error event"),
        (event({"error": "first"}) + event({"error": "second"}), "first"),
        (b"event: error\ndata: first\n\nevent: error\ndata: second\n\n", "first"),
        (event({"error": " two\n lines\x1b[2J\u2028"}), "two lines [2J"),
        (event({"error": "x" * 1000}), "x" * 300),
        (event({"error": {"message": "refused"}, "choices": [{"finish_reason": "error"}]}), "refused"),
    ],
)
def test_an_error_event_tells_its_message_in_one_line(body: bytes, message: str) -> None:
    completion = decode(says("a") + body + DONE)
    assert completion.error == message
    assert (completion.text, completion.malformed) == ("a", None)  # what came before it is kept


@pytest.mark.parametrize("nothing", [None, {}, "", False])
def test_an_error_key_that_says_nothing_is_no_error(nothing: object) -> None:
    completion = decode(says("a", error=nothing) + FINISH)
    assert (completion.error, completion.text) == (None, "a")


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b"data: {\n\n", "event 2: not a JSON object"),
        (b"data: hello\n\n", "event 2: not a JSON object"),
        (b"data: [1]\n\n", "event 2: not a JSON object"),
        (b"data: 7\n\n", "event 2: not a JSON object"),
        (b"data: null\n\n", "event 2: not a JSON object"),
        (b'data: {"a": NaN}\n\n', "event 2: not a JSON object"),
        (b'data: {"a": NaN, "b": "\\ud83d"}\n\n', "event 2: not a JSON object"),
        (b'data: {"b": "\\ud83d"\n\n', "event 2: not a JSON object"),
        (b"data: " + b"[" * 100_000 + b'"\\ud83d"\n\n', "event 2: not a JSON object"),
        (b'data: {"a":"\xff"}\n\n', f"event 2: not UTF-8 at byte {len(says('a')) + 12}"),
        (b'data: {"a":"\xed\xa0\xbd"}\n\n', f"event 2: not UTF-8 at byte {len(says('a')) + 12}"),
        (b": \xff\n\ndata: {}\n\n", f"event 2: not UTF-8 at byte {len(says('a')) + 2}"),
        (b": \xff\n\n", f"event 2: not UTF-8 at byte {len(says('a')) + 2}"),
        (b"data: {\n\ndata: \xff\n\n", "event 2: not a JSON object"),
    ],
)
def test_bytes_that_are_not_json_or_utf8_are_malformed(body: bytes, why: str) -> None:
    assert decode(says("a") + body).malformed == why
    after = decode(says("a") + body + says("b") + FINISH + DONE)
    assert (after.malformed, after.text, after.finish_reason) == (why, "ab", "stop")  # the rest is still read


def test_an_event_that_is_too_long_is_malformed() -> None:
    decoder = Decoder(max_event_bytes=100)
    decoder.feed(says("a") + says("b" * 100))
    decoder.feed(says("c") + FINISH)
    completion = decoder.result()
    assert completion.malformed == f"event 2: an event at byte {len(says('a'))} is longer than 100 bytes"
    assert (completion.text, completion.end_offset) == ("a", None)


@pytest.mark.parametrize(
    "kept_alive", [b": keep-alive\n\n", b"data:\n\n", b"event: ping\ndata: 12:00\n\n", b"retry: 5\n\n"]
)
def test_what_keeps_a_stream_alive_is_passed_over(kept_alive: bytes) -> None:
    completion = decode(kept_alive * 3 + says("a") + kept_alive + FINISH + DONE)
    assert (completion.text, len(completion.token_ends), completion.malformed) == ("a", 1, None)


@pytest.mark.parametrize("body", [b"", b'{"choices": []}', b"<html>\n\n\xe9\n\n</html>", b"\x1f\x8b\x08\xff"])
def test_a_body_that_is_no_event_stream_has_no_events(body: bytes) -> None:
    completion = decode(body)
    assert (completion.events, completion.token_ends, completion.end_offset) == (0, [], None)
    assert (completion.text, completion.malformed) == ("", None)


# Text


def test_a_character_in_halves_of_utf16_is_put_together() -> None:
    body = b'data: {"choices":[{"delta":{"content":"%s"}}]}\n\n'
    completion = decode(body % rb"\ud83d" + body % rb"\ude00" + FINISH)
    assert (completion.text, len(completion.token_ends), completion.malformed) == ("😀", 2, None)


def test_a_lone_surrogate_becomes_the_replacement_character() -> None:
    body = rb'data: {"choices":[{"delta":{"content":"a\ud83d"},"finish_reason":"\ude00"}]}' + b"\n\n"
    completion = decode(body)
    assert (completion.text, completion.finish_reason) == ("a\ufffd", "\ufffd")
    assert completion.text_sha256 == hashlib.sha256("a\ufffd".encode()).hexdigest()


def test_crlf_ends_are_those_of_the_carriage_return() -> None:
    body = (says("é") + FINISH + DONE).replace(b"\n", b"\r\n")
    completion = decode(body)
    assert completion.text == "é"
    assert completion.token_ends == [body.index(b"\r\n\r\n") + 3]


# The watchdog's view


def test_tokens_and_the_orderly_end_can_be_watched_while_they_arrive() -> None:
    decoder = Decoder()
    seen = []
    for piece in (says("a")[:-1], b"\n" + says("b"), FINISH[:-2], b"\n\n", DONE):
        decoder.feed(piece)
        seen.append((decoder.tokens, decoder.orderly))
    assert seen == [(0, False), (2, False), (2, False), (2, True), (2, True)]


def test_a_result_is_final() -> None:
    decoder = Decoder()
    decoder.feed(says("a") + b"data: [DONE]")
    assert decoder.result() == decoder.result()
    with pytest.raises(RuntimeError, match="the body has ended"):
        decoder.feed(b"\n\n")


# Laws

KEYS = [
    *("choices", "delta", "message", "content", "reasoning", "tool_calls", "function", "name", "arguments", "index"),
    *("type", "text", "thinking", "refusal", "audio", "reasoning_details"),
]
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=4)
    | st.sampled_from(["a", "\ud83d", "stop", "error", 10**30, 10**400, [], {}]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(KEYS),
            inner,
        )
    ),
    max_leaves=6,
)
PARTS = st.sampled_from(
    [[thinks({"type": "text", "text": "hm"})], [{"type": "text", "text": "a"}], [thinks("hm"), {"text": "a"}], []]
)
TEXTS = st.sampled_from(["", "a", "é", "😀", "\ud83d"]) | JSON | PARTS
CHUNKS = st.one_of(
    st.builds(says, TEXTS, st.sampled_from([None, None, None, "stop"]) | JSON),
    st.builds(says, TEXTS, st.none(), usage=st.builds(usage, st.integers(0, 9), st.integers(0, 9)) | JSON),
    st.builds(event, st.builds(chunk, JSON, JSON, timings=JSON, usage=JSON) | JSON, st.none() | st.just("error")),
    st.fixed_dictionaries({"error": JSON}).map(event),
    st.fixed_dictionaries(dict.fromkeys(["prompt_n", "prompt_ms", "predicted_n", "predicted_ms"], JSON)).map(
        lambda told: event({"timings": told, "x": "\ud83d"})
    ),
    st.sampled_from(
        [
            b": c\n\n",
            DONE,
            FINISH,
            b"data: {\n\n",
            b"data: x",
            b"\xff",
            b"\r\n",
            b"event: e\n",
            b'data: {"a":1e999}\n\n',
        ]
    ),
    st.binary(max_size=8),
)
BODIES = st.one_of(
    st.lists(CHUNKS, max_size=8).map(b"".join),
    st.lists(CHUNKS, max_size=8).map(lambda chunks: b"".join(chunks).replace(b"\n", b"\r\n")),
    st.binary(max_size=80),
)


@pytest.mark.slow
@law
@given(BODIES, st.lists(st.integers(0, 1000), max_size=12))
def test_any_bytes_decode_to_a_completion_that_is_in_order_and_no_split_of_them_changes_it(
    body: bytes, cuts: list[int]
) -> None:
    completion = decode(body)
    assert decode_in(body, cuts) == completion
    assert completion.token_ends == sorted(set(completion.token_ends))
    offsets = [*completion.token_ends, *([] if completion.end_offset is None else [completion.end_offset])]
    assert offsets == sorted(offsets)
    assert all(0 < offset <= len(body) for offset in offsets)
    assert completion.text_sha256 == hashlib.sha256(completion.text.encode()).hexdigest()
    assert (completion.first_visible is None) == (completion.text == "")
    assert (completion.end_offset is None) == (completion.finish_reason is None and not completion.done)
    told = completion.tokens_per_event
    assert told is None or (len(told) == len(completion.token_ends) and min(told) >= 0)
    for line in (completion.error, completion.malformed):
        assert line is None or (line.isprintable() and 0 < len(line) <= 300)


@pytest.mark.slow
@law
@given(BODIES, st.binary(max_size=40))
def test_after_an_orderly_end_no_bytes_change_the_answer(body: bytes, late: bytes) -> None:
    decoder = Decoder()
    decoder.feed(body + FINISH)
    if not decoder.orderly:  # the body ended within an event
        return
    before, after = decode(body + FINISH), decode(body + FINISH + late)
    for name in ("token_ends", "text", "finish_reason", "end_offset", "error", "malformed"):
        assert getattr(before, name) == getattr(after, name)


# The fast way through plain events


def slowly(body: bytes, cuts: list[int]) -> Completion:
    """The body decoded without the fast way, event by event."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Decoder, "_take_plain", lambda *_: 0)
        return decode_in(body, cuts)


def bare(text: str, key: str = "content", beside: dict[str, object] | None = None, **more: object) -> bytes:
    """An event as most servers write it. beside: what else its delta has."""
    told = json.dumps(chunk({**(beside or {}), key: text}, **more), separators=(",", ":"), ensure_ascii=False)
    return b"data: " + told.encode("utf-8", "surrogatepass") + b"\n\n"


RUNS = st.builds(
    lambda texts, key, more, beside: b"".join(bare(text, key, beside, **more) for text in texts),
    st.lists(st.sampled_from([" a", "b", "é", '"', "\n", "\\", "", "\x7f"]) | st.text(max_size=3), max_size=8),
    st.sampled_from(["content", "content", "reasoning_content", "reasoning", "refusal", "thinking"]),
    st.sampled_from([{}, {"usage": None}, {"usage": usage(3, 2)}, {"error": "x"}, {"id": "content"}, {"created": 1}]),
    st.sampled_from([{}, {}, {"content": [{"text": "a"}]}, {"refusal": "no"}, {"reasoning_details": [{"text": "hm"}]}]),
)
STREAMS = st.lists(RUNS | CHUNKS, max_size=6).map(b"".join)
FAULTS = st.lists(
    st.tuples(
        st.integers(0, 900),
        st.integers(0, 2),
        st.binary(max_size=2) | st.sampled_from([b'"', b"\\", b"\n", b"\r", b"\xff", b'"content"', b"\\u12", b"\n\n"]),
    ),
    max_size=2,
)


@pytest.mark.slow
@settings(law, max_examples=250)
@given(STREAMS, FAULTS, st.lists(st.integers(0, 1000), max_size=6))
def test_the_fast_way_finds_what_parsing_each_event_finds(
    body: bytes, faults: list[tuple[int, int, bytes]], cuts: list[int]
) -> None:
    mutated = bytearray(body)
    for at, size, new in faults:
        mutated[at : at + size] = new
    assert decode_in(bytes(mutated), cuts) == slowly(bytes(mutated), [])


@pytest.mark.parametrize("capture", ["foundry_v1.sse", "foundry_v2.sse"])
def test_the_fast_way_finds_the_same_in_captures(capture: str) -> None:
    body = (DATA / capture).read_bytes().replace(b"\r\n", b"\n")
    assert decode(body) == slowly(body, [])


def test_events_that_are_alike_but_for_their_text_are_parsed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    parsed: list[bytes] = []

    def parse(data: bytes) -> dict[str, Any] | None:
        parsed.append(data)
        return parse_object(data)

    monkeypatch.setattr("loadgen.wire.chat_stream.parse_object", parse)
    body = b"".join(bare(f"{n} ") for n in range(100)) + FINISH + DONE
    assert decode(body).text == "".join(f"{n} " for n in range(100))
    assert len(parsed) == 2


def test_where_each_event_has_its_own_number_each_is_parsed() -> None:
    body = b"".join(bare(f"{n} ", created=n) for n in range(50)) + FINISH
    completion = decode(body)
    assert (completion.text, len(completion.token_ends)) == ("".join(f"{n} " for n in range(50)), 50)


def test_an_event_with_a_text_and_a_part_list_is_no_example_for_the_next() -> None:
    first = event(chunk({"content": ["a"], "reasoning": "r"}))
    completion = decode(first + first.replace(b'"r"', b'"s"') + FINISH)
    assert (completion.text, len(completion.token_ends)) == ("aa", 2)
