"""Bodies of streams, as servers differ in them, each with what it says. Knows no socket and no decoder."""

from typing import Any, Final

from tests.integration.server import COMMENT, DONE, FINISH, ROLE, event, token, usage
from tests.integration.streams import Says

AB: Final = Says("ok", 2, "ab", "stop")
END: Final = FINISH + DONE
HI: Final = token("a") + token("b")
EMOJI: Final = "\U0001f600"


def delta(finish: Any = None, **fields: Any) -> bytes:
    return event({"choices": [{"index": 0, "delta": fields, "finish_reason": finish}]})


def choices(*told: Any, **more: Any) -> bytes:
    return event({"choices": list(told), **more})


def says(text: str, **more: Any) -> bytes:
    return choices({"index": 0, "delta": {"content": text}}, **more)


def counts(prompt: Any, output: Any) -> dict[str, Any]:
    return {"usage": {"prompt_tokens": prompt, "completion_tokens": output}}


def raw(json: bytes) -> bytes:
    return b"data: " + json + b"\n\n"


def calls(**function: Any) -> bytes:
    return delta(tool_calls=[{"index": 0, "function": function}])


LINES: Final[dict[str, tuple[bytes, Says]]] = {
    "LF": (ROLE + HI + END, AB),
    "CRLF": ((ROLE + HI + END).replace(b"\n", b"\r\n"), AB),
    "CR": ((ROLE + HI + END).replace(b"\n", b"\r"), AB),
    "each line its own end": (
        b"data: {}\r\n\r" + token("a").rstrip() + b"\n\r\n" + token("b").rstrip() + b"\r\r\n" + END,
        AB,
    ),
    "CR, then a line of LF": (token("a").rstrip() + b"\r\n\n" + token("b").rstrip() + b"\n\r" + END, AB),
    "a byte-order mark": (b"\xef\xbb\xbf" + HI + END, AB),
    "comments everywhere": (COMMENT * 2 + token("a") + COMMENT + b": x\n" + token("b") + COMMENT + END + COMMENT, AB),
    "a comment between the lines of an event": (b"event: message\n: x\n" + token("a") + token("b") + END, AB),
    "an empty comment, many times": (b":\n\n" * 50 + HI + b":\n\n" * 50 + END, AB),
    "id, retry and unknown fields": (
        b"id: 1\nretry: 10\nfoo: bar\nbaz\n" + token("a") + b"id: 2\n" + token("b") + END,
        AB,
    ),
    "events with an id only": (b"id: 1\n\n" + token("a") + b"id: 2\n\nretry: 5\n\n" + token("b") + END, AB),
    "an event with a type only": (b"event: ping\n\n" + HI + END, AB),
    "event: message": (b"".join(b"event: message\n" + each for each in (token("a"), token("b"), FINISH, DONE)), AB),
    "a type of its own for every event": (
        b"".join(b"event: chat.completion.chunk\n" + each for each in (token("a"), token("b"), FINISH)) + DONE,
        AB,
    ),
    "the type behind the data": (token("a").rstrip() + b"\nevent: chunk\n\n" + token("b") + END, AB),
    "events that keep alive, with data": (
        b"event: ping\ndata: 12:00\n\n" + HI + b"event: ping\ndata: {}\n\n" + END,
        AB,
    ),
    "data without a colon": (b"data\n\n" + HI + END, AB),
    "empty data": (b"data:\n\ndata: \n\n" + HI + END, AB),
    "no space after the colon": ((HI + END).replace(b"data: ", b"data:"), AB),
    "two spaces and a tab after the colon": (
        token("a").replace(b": ", b":  ", 1) + token("b").replace(b": ", b":\t", 1) + END,
        AB,
    ),
    "spaces around [DONE]": (HI + b"data:   [DONE]  \n\n", Says("ok", 2, "ab")),
    "no space before [DONE]": (HI + b"data:[DONE]\n\n", Says("ok", 2, "ab")),
    "DATA is no data": (HI + b"DATA: x\n\nData: {\n\n" + END, AB),
    "a space before data": (HI + b" data: x\n\n" + END, AB),
    "JSON over several lines": (
        b'data: {"choices":\ndata: [{"index": 0,\ndata:\ndata:  "delta": {"content": "a"}}]\ndata: }\n\n'
        + token("b")
        + END,
        AB,
    ),
    "blank lines everywhere": (b"\n\n\n" + token("a") + b"\n\n" + token("b") + b"\n" + END + b"\n\n", AB),
    "a field name that begins like data": (HI + b"data2: x\n\ndatum: {\n\n" + END, AB),
    "NUL between events": (token("a") + b"\x00\n\n\x00data: {\n\n" + token("b") + END, AB),
    "no line end behind the last [DONE]": (HI + b"data: [DONE]", Says("ok", 2, "ab")),
    "one line end behind the last [DONE]": (HI + b"data: [DONE]\n", Says("ok", 2, "ab")),
    "one CRLF behind the last [DONE]": (HI + b"data: [DONE]\r\n", Says("ok", 2, "ab")),
    "no line end behind the finish": (HI + FINISH.rstrip(), AB),
    "a last token without a line end": (token("a") + delta("stop", content="b").rstrip(), AB),
    "a last event that is cut": (HI + FINISH[:-9], Says("truncated", 2, "ab", detail="after 2 tokens")),
    "a last event cut inside a character": (
        HI + token("é")[: token("é").index(b"\xc3") + 1],
        Says("truncated", 2, "ab", detail="after 2 tokens"),
    ),
    "[DONE] cut short": (HI + b"data: [DON", Says("truncated", 2, "ab")),
    "nothing but comments": (COMMENT * 3, Says("malformed", detail="not server-sent events")),
    "many events in one": (
        b"".join(token(str(n % 10)) for n in range(300)) + END,
        Says("ok", 300, "0123456789" * 30, "stop"),
    ),
}

TEXT: Final[dict[str, tuple[bytes, Says]]] = {
    "characters of two, three and four bytes": (
        token("é") + token("猫") + token(EMOJI) + END,
        Says("ok", 3, f"é猫{EMOJI}", "stop"),
    ),
    "line separators of Unicode": (token("a\u2028b\u2029c\x85d") + END, Says("ok", 1, "a\u2028b\u2029c\x85d", "stop")),
    "line feeds in the text": (token("a\n\nb\r\n") + END, Says("ok", 1, "a\n\nb\r\n", "stop")),
    "text that looks like the protocol": (
        token("data: [DONE]\n\ndata: x") + token("[DONE]") + END,
        Says("ok", 2, "data: [DONE]\n\ndata: x[DONE]", "stop"),
    ),
    "NUL in the text": (raw(b'{"choices":[{"delta":{"content":"a\\u0000b"}}]}') + END, Says("ok", 1, "a\0b", "stop")),
    "a bare NUL": (
        token("a") + raw(b'{"choices":[{"delta":{"content":"\x00"}}]}') + END,
        Says("malformed", 1, "a", "stop", detail="event 2: not a JSON object"),
    ),
    "a byte-order mark in the text": (token("a\ufeffb") + END, Says("ok", 1, "a\ufeffb", "stop")),
    "a pair of surrogates in escapes": (
        raw(rb'{"choices":[{"delta":{"content":"\ud83d\ude00"}}]}') + END,
        Says("ok", 1, EMOJI, "stop"),
    ),
    "a pair of surrogates over two events": (
        raw(rb'{"choices":[{"delta":{"content":"\ud83d"}}]}')
        + raw(rb'{"choices":[{"delta":{"content":"\ude00"}}]}')
        + END,
        Says("ok", 2, EMOJI, "stop"),
    ),
    "a lone surrogate": (
        raw(rb'{"choices":[{"delta":{"content":"a\ude00b"}}]}') + END,
        Says("ok", 1, "a\ufffdb", "stop"),
    ),
    "escapes of every kind": (
        raw(rb'{"choices":[{"delta":{"content":"\"\\\/\b\f\n\r\t\u00e9"}}]}') + END,
        Says("ok", 1, '"\\/\b\f\n\r\té', "stop"),
    ),
    "escapes in every event": (
        b"".join(raw(rb'{"choices":[{"delta":{"content":"\n%d\u00e9"}}]}' % n) for n in range(9)) + END,
        Says("ok", 9, "".join(f"\n{n}é" for n in range(9)), "stop"),
    ),
    "bytes that are not UTF-8": (
        token("a") + raw(b'{"choices":[{"delta":{"content":"\xff"}}]}') + END,
        Says("malformed", 1, "a", "stop", detail="event 2: not UTF-8"),
    ),
    "an overlong encoding": (
        token("a") + raw(b'{"choices":[{"delta":{"content":"\xc0\xaf"}}]}') + END,
        Says("malformed", 1, "a", "stop", detail="event 2: not UTF-8"),
    ),
    "half a character in an event": (
        token("a") + raw(b'{"choices":[{"delta":{"content":"\xc3"}}]}') + token("b") + END,
        Says("malformed", 2, "ab", "stop", detail="event 2: not UTF-8"),
    ),
    "Latin-1 in a comment": (b": caf\xe9\n\n" + HI + END, Says("malformed", 2, "ab", "stop", detail="not UTF-8")),
    "an event of 2 MB": (token("x" * 2_000_000) + token("é") + END, Says("ok", 2, "x" * 2_000_000 + "é", "stop")),
    "white space is text": (token(" ") + token("\n") + token("\t") + END, Says("ok", 3, " \n\t", "stop")),
}

CHUNKS: Final[dict[str, tuple[bytes, Says]]] = {
    "role-only, null and empty deltas": (
        ROLE + delta() + delta(content=None) + delta(content="") + HI + delta() + END,
        AB,
    ),
    "the role in every event": (delta(role="assistant", content="a") + delta(role="assistant", content="b") + END, AB),
    "no delta": (choices({"index": 0}) + choices({"index": 0, "delta": None}) + HI + END, AB),
    "content in the finish event": (token("a") + delta("length", content="b") + DONE, Says("ok", 2, "ab", "length")),
    "a finish reason that is empty or null": (delta("", content="a") + delta(None, content="b") + END, AB),
    "a finish reason that is nobody's": (HI + delta("eos_token") + DONE, Says("ok", 2, "ab", "eos_token")),
    "no [DONE]": (HI + FINISH, AB),
    "[DONE] without a finish reason": (HI + DONE, Says("ok", 2, "ab")),
    "[DONE] twice": (HI + DONE + DONE, Says("ok", 2, "ab")),
    "neither": (HI, Says("truncated", 2, "ab", detail="after 2 tokens")),
    "tokens behind the finish": (HI + FINISH + token("c") + DONE, AB),
    "tokens behind [DONE]": (HI + DONE + token("c") + FINISH, Says("ok", 2, "ab")),
    "two finish reasons": (HI + FINISH + delta("length") + DONE, AB),
    "an end and no token": (ROLE + END, Says("empty", 0, "", "stop", detail="no token")),
    "[DONE] alone": (DONE, Says("empty", detail="no token")),
    "a role and no end": (ROLE, Says("truncated", detail="before the first token")),
    "reasoning_content": (
        delta(reasoning_content="h") + delta(reasoning_content="m", content=None) + HI + END,
        Says("ok", 4, "ab", "stop"),
    ),
    "reasoning": (delta(reasoning="hm", content="") + HI + END, Says("ok", 3, "ab", "stop")),
    "reasoning under both names": (
        delta(reasoning="hm", reasoning_content="hm") + HI + END,
        Says("ok", 3, "ab", "stop"),
    ),
    "reasoning and content in one event": (delta(reasoning="hm", content="a") + token("b") + END, AB),
    "reasoning alone": (delta(reasoning_content="hm") + END, Says("ok", 1, "", "stop")),
    "reasoning that is null or empty": (delta(reasoning=None, reasoning_content="") + HI + END, AB),
    "reasoning as a part of the content": (
        delta(content=[{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}])
        + delta(content=[{"type": "text", "text": "a"}])
        + token("b")
        + END,
        Says("ok", 3, "ab", "stop"),
    ),
    "reasoning in details": (
        delta(reasoning_details=[{"type": "reasoning.text", "text": "hm"}], content="") + HI + END,
        Says("ok", 3, "ab", "stop"),
    ),
    "a refusal": (delta(refusal="a") + delta(refusal="b") + END, AB),
    "speech": (delta(audio={"id": "audio_1", "data": "UklGRg=="}) + END, Says("ok", 1, "", "stop")),
    "arguments of a tool call": (
        calls(arguments='{"a"') + calls(arguments=": 1}") + delta("tool_calls") + DONE,
        Says("ok", 2, "", "tool_calls"),
    ),
    "empty arguments of a tool call": (
        calls(arguments="") + calls(arguments="{}") + delta("tool_calls"),
        Says("ok", 1, "", "tool_calls"),
    ),
    "two tool calls in one event": (
        delta(tool_calls=[{"index": 0, "function": {"arguments": "{}"}}, {"index": 1, "function": {"arguments": "{}"}}])
        + delta("tool_calls"),
        Says("ok", 1, "", "tool_calls"),
    ),
    "function_call of old": (
        delta(function_call={"arguments": "{}"}) + delta("function_call"),
        Says("ok", 1, "", "function_call"),
    ),
    "a refusal is no content": (delta(refusal=None, content="a") + token("b") + END, AB),
    "content in parts": (
        delta(content=[{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]) + delta(content=["c"]) + END,
        Says("ok", 2, "abc", "stop"),
    ),
    "content that is no text": (delta(content=7) + delta(content={"a": 1}) + delta(content=True) + HI + END, AB),
    "choices: [] first": (choices(prompt_filter_results=[]) + HI + END, AB),
    "choices that are null or no list": (event({"choices": None}) + event({"choices": {}}) + event({}) + HI + END, AB),
    "no index": (choices({"delta": {"content": "a"}}) + choices({"index": None, "delta": {"content": "b"}}) + END, AB),
    "two choices, one event each": (
        b"".join(choices({"index": n % 2, "delta": {"content": text}}) for n, text in enumerate("axby"))
        + choices({"index": 1, "delta": {}, "finish_reason": "length"})
        + choices({"index": 0, "delta": {}, "finish_reason": "stop"})
        + DONE,
        AB,
    ),
    "two choices in one event, the second first": (
        b"".join(choices(*({"index": n, "delta": {"content": t}} for n, t in ((1, "x"), (0, text)))) for text in "ab")
        + END,
        AB,
    ),
    "delta and message": (
        choices({"index": 0, "delta": {"content": "a"}, "message": {"content": "a"}})
        + choices({"index": 0, "delta": {"content": "b"}, "message": {"content": "ab"}})
        + choices({"index": 0, "delta": {"content": ""}, "message": {"content": "ab"}, "finish_reason": "stop"})
        + DONE,
        AB,
    ),
    "message only": (
        choices({"index": 0, "message": {"content": "a"}}) + choices({"index": 0, "message": {"content": "b"}}) + END,
        AB,
    ),
    "a last message with all of it": (
        HI + choices({"index": 0, "message": {"role": "assistant", "content": "ab"}, "finish_reason": "stop"}) + DONE,
        AB,
    ),
    "text of the older completions": (
        b"".join(choices({"index": 0, "text": text, "finish_reason": None}) for text in "ab") + END,
        AB,
    ),
    "text of the older completions, then deltas": (
        choices({"index": 0, "text": "x"}) + HI + END,
        Says("ok", 3, "xab", "stop"),
    ),
    "deltas, then text of the older completions": (HI + choices({"index": 0, "text": "x"}) + END, AB),
    "delta and text of the older completions": (
        b"".join(choices({"index": 0, "delta": {"content": text}, "text": text}) for text in "ab") + END,
        AB,
    ),
    "a key that stands there twice": (
        raw(b'{"choices":[{"delta":{"content":"x","content":"a"}}]}') + token("b") + END,
        AB,
    ),
    "keys in another order, and more of them": (
        raw(
            b'{"usage":null,"x":{"content":"no"},"choices":[{"logprobs":null,"delta":{"z":[1],"content":"a"},"index":0}]}'
        )
        + token("b")
        + END,
        AB,
    ),
    "events that begin alike and differ behind the text": (
        choices({"index": 0, "delta": {"content": "a"}, "n": 1})
        + choices({"index": 0, "delta": {"content": "b"}, "n": 2})
        + choices({"index": 0, "delta": {"content": "c"}, "n": 2, "finish_reason": "stop"})
        + DONE,
        Says("ok", 3, "abc", "stop"),
    ),
    "a name that stands elsewhere too, with the same text at first": (
        choices({"index": 0, "delta": {"content": "a"}}, x={"content": "a"})
        + b"".join(
            raw(b'{"x":{"content":"%b"},"choices":[{"delta":{"content":"a"}}]}' % text) for text in (b"a", b"b", b"c")
        )
        + END,
        Says("ok", 4, "aaaa", "stop"),
    ),
    "JSON that is deep": (event({"x": [[[[[[[[[[1]]]]]]]]]], "choices": []}) + HI + END, AB),
    "a number too long for most": (raw(b'{"created":%d,"choices":[]}' % 10**40) + HI + END, AB),
    "JSON that is no object": (HI + raw(b"[1]") + END, Says("malformed", 2, "ab", "stop", detail="event 3")),
    "JSON null": (HI + raw(b"null") + END, Says("malformed", 2, "ab", "stop", detail="event 3")),
    "JSON that breaks off": (
        token("a") + raw(b'{"choices": [') + token("b") + END,
        Says("malformed", 2, "ab", "stop", detail="event 2"),
    ),
    "two objects in one event": (
        token("a") + raw(b"{}{}") + token("b") + END,
        Says("malformed", 2, "ab", "stop", detail="event 2"),
    ),
    "two lines that are an object each": (
        token("a") + b"data: {}\ndata: {}\n\n" + END,
        Says("malformed", 1, "a", "stop", detail="event 2"),
    ),
    "single quotes": (raw(b"{'choices': []}") + HI + END, Says("malformed", 2, "ab", "stop", detail="event 1")),
    "NaN": (raw(b'{"x": NaN}') + HI + END, Says("malformed", 2, "ab", "stop", detail="event 1")),
    "[done] is no [DONE]": (HI + raw(b"[done]"), Says("malformed", 2, "ab", detail="event 3")),
    "words where JSON should be, behind the end": (HI + FINISH + raw(b"bye") + DONE, AB),
}

USAGE: Final[dict[str, tuple[bytes, Says]]] = {
    "absent": (HI + END, AB),
    "null": (says("a", usage=None) + says("b", usage=None) + END, AB),
    "in an event of its own": (HI + FINISH + usage(7, 5) + DONE, Says("ok", 2, "ab", "stop", 5)),
    "in the finish event": (
        HI + choices({"index": 0, "delta": {}, "finish_reason": "stop"}, **counts(7, 5)) + DONE,
        Says("ok", 2, "ab", "stop", 5),
    ),
    "before the finish": (HI + usage(7, 5) + END, Says("ok", 2, "ab", "stop", 5)),
    "doubled": (HI + FINISH + usage(7, 5) + usage(7, 5) + DONE, Says("ok", 2, "ab", "stop", 5)),
    "cumulative in every event": (
        says("a", **counts(7, 3)) + says("b", **counts(7, 5)) + FINISH + DONE,
        Says("ok", 2, "ab", "stop", 5),
    ),
    "the same in every event": (
        says("a", **counts(7, 5)) + says("b", **counts(7, 5)) + END,
        Says("ok", 2, "ab", "stop", 5),
    ),
    "then null": (
        says("a", **counts(7, 1)) + says("b", usage=None) + usage(7, 5) + event({"usage": None}) + END,
        Says("ok", 2, "ab", "stop", 5),
    ),
    "behind [DONE]": (HI + END + usage(7, 5), AB),
    "zero": (HI + FINISH + usage(0, 0) + DONE, Says("ok", 2, "ab", "stop", 0)),
    "words for numbers": (HI + FINISH + event(counts("7", "5")) + DONE, AB),
    "fractions, signs and truth": (
        HI + event(counts(1.5, 2.5)) + event(counts(-1, -5)) + event(counts(True, True)) + END,
        AB,
    ),
    "a list": (HI + event({"usage": [5]}) + END, AB),
    "details beside": (
        HI + event({"usage": {"completion_tokens": 5, "completion_tokens_details": {"reasoning_tokens": 3}}}) + END,
        Says("ok", 2, "ab", "stop", 5),
    ),
    "without text": (usage(7, 0) + FINISH + DONE, Says("empty", 0, "", "stop", 0)),
    "when the stream is cut": (
        says("a", **counts(7, 1)) + says("b", **counts(7, 2)),
        Says("truncated", 2, "ab", None, 2),
    ),
}

BOOM: Final = Says("stream_error", 1, "a", None, detail="boom")

ERRORS: Final[dict[str, tuple[bytes, Says]]] = {
    "an object": (token("a") + event({"error": {"message": "boom", "type": "server_error", "code": 500}}), BOOM),
    "a text": (token("a") + event({"error": "boom"}), BOOM),
    "event: error, with an object": (token("a") + b"event: error\n" + event({"error": {"message": "boom"}}), BOOM),
    "event: error, with a message": (token("a") + b"event: error\n" + event({"message": "boom"}), BOOM),
    "event: error, with words": (token("a") + b"event: error\ndata: boom\n\n", BOOM),
    "object: error": (token("a") + event({"object": "error", "message": "boom", "code": 400}), BOOM),
    "in a chunk": (
        token("a") + choices({"index": 0, "delta": {}, "finish_reason": "error"}, error={"message": "boom"}),
        Says("stream_error", 1, "a", "error", detail="boom"),
    ),
    "with a code only": (
        token("a") + event({"error": {"code": 503}}),
        Says("stream_error", 1, "a", None, detail="503"),
    ),
    "then [DONE]": (token("a") + event({"error": "boom"}) + DONE, BOOM),
    "first of all": (event({"error": {"message": "boom"}}), Says("stream_error", 0, "", None, detail="boom")),
    "behind the finish": (HI + FINISH + event({"error": "boom"}) + DONE, AB),
    "behind [DONE]": (HI + END + event({"error": "boom"}), AB),
    "null or empty": (event({"error": None, "choices": []}) + HI + event({"error": {}, "choices": []}) + END, AB),
    "at the end of the file, without a blank line": (token("a") + event({"error": "boom"}).rstrip(), BOOM),
}

BODIES: Final = {
    f"{group}: {name}": row
    for group, rows in (("lines", LINES), ("text", TEXT), ("chunks", CHUNKS), ("usage", USAGE), ("error", ERRORS))
    for name, row in rows.items()
}
