"""Which keys of a request a server's refusal names."""

import json

import pytest

from loadgen.wire.refusal import NamedKeys, error_in, mentions, named_keys

KEYS = ("max_tokens", "temperature", "seed", "stop", "stream_options", "top_p")


def in_field(*keys: str) -> NamedKeys:
    return NamedKeys(keys, ())


def in_words(*keys: str) -> NamedKeys:
    return NamedKeys((), keys)


def by_value(*keys: str) -> NamedKeys:
    return NamedKeys((), (), keys)


def openai(message: str, param: str | None, code: str | None = None) -> object:
    return {"error": {"message": message, "type": "invalid_request_error", "param": param, "code": code}}


NOTHING = NamedKeys((), ())
REFUSALS: dict[str, tuple[object, NamedKeys]] = {
    "OpenAI's param": ({"error": {"message": "no", "param": "max_tokens", "code": "x"}}, in_field("max_tokens")),
    "a path in it": ({"error": {"message": "no", "param": "stream_options.include_usage"}}, in_field("stream_options")),
    "at the top, as old vLLM": ({"object": "error", "message": "no", "param": "seed"}, in_field("seed")),
    "none in it, and words": ({"error": {"message": "Unknown field: seed", "param": None}}, in_words("seed")),
    "another in it, and words": ({"error": {"message": "max_tokens and messages", "param": "messages"}}, NOTHING),
    "LiteLLM, which writes None": (
        {"error": {"message": "x does not support parameters: ['seed'], for model=m", "type": "None", "param": "None"}},
        in_words("seed"),
    ),
    "Ajv's additional property": (
        {"error": "must NOT have additional properties", "params": {"additionalProperty": "seed"}},
        in_field("seed"),
    ),
    "a list of details": ({"message": "no", "details": [{"field": "top_p", "issue": "unknown"}]}, in_field("top_p")),
    "FastAPI's loc": ({"detail": [{"loc": ["body", "stream_options"], "msg": "no"}]}, in_field("stream_options")),
    "several of them": (
        {"detail": [{"loc": ["body", "seed"], "msg": "no"}, {"loc": ["body", "top_p"], "msg": "no"}]},
        in_field("seed", "top_p"),
    ),
    "a part of a key": (
        {"detail": [{"loc": ["body", "stream_options", "include_usage"], "msg": "no"}]},
        in_field("stream_options"),
    ),
    "the whole body, repeated": (
        {"detail": [{"loc": ["body"], "msg": "seed is not permitted", "input": {"temperature": 0, "max_tokens": 1}}]},
        in_words("seed"),
    ),
    "a text as error": ({"error": "unknown field `stream_options`"}, in_words("stream_options")),
    "a text as detail": ({"detail": "stop: 'stop' and temperature"}, in_words("stop", "temperature")),
    "no JSON": (b"json: unknown field \"seed\"\n", in_words("seed")),
    "a JSON text": ("include_usage is not known", in_words("stream_options")),
    "only what is wanted in its place": ({"error": {"message": "use max_completion_tokens"}}, in_words("max_tokens")),
    "several in their order": ({"message": "top_p, then temperature, then top_p"}, in_words("top_p", "temperature")),
    "a word of a sentence": ({"message": "Please stop sending this"}, NOTHING),
    "a part of a word": ({"message": "seeds, max_tokens_total and x_seed"}, NOTHING),
    "nothing": ({}, NOTHING),
    "an empty body": (b"", NOTHING),
    "no UTF-8": (b"\xff\xfe seed \xff", in_words("seed")),
    "a limit that is too large, by vLLM": (
        openai("'max_tokens' or 'max_completion_tokens' is too large: 4000. This model's maximum context length is "
               "2048 tokens and your request has 10 input tokens (4000 > 2048 - 10).", "max_tokens"),
        by_value("max_tokens"),
    ),
    "a limit that is too large, by OpenAI": (
        openai("max_tokens is too large: 4000. This model supports at most 2048 completion tokens, whereas you "
               "provided 4000.", None),
        by_value("max_tokens"),
    ),
    "a limit that is too small": (openai("no", "max_tokens", "integer_below_min_value"), by_value("max_tokens")),
    "a limit that is too small, under another name": (
        openai("Invalid 'max_output_tokens': integer below minimum value. Expected a value >= 16, but got 8 instead.",
               "max_output_tokens"),
        by_value("max_tokens"),
    ),
    "a limit of inputs and outputs, by TGI": (
        {"error": "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 2048. Given: 4000"},
        by_value("max_tokens"),
    ),
    "a number of texts": (openai("array too long", "stop", "array_above_max_length"), by_value("stop")),
    "a limit by pydantic": (
        {"detail": [{"type": "greater_than_equal", "loc": ["body", "max_tokens"], "msg": "must be at least 16"}]},
        by_value("max_tokens"),
    ),
    "a limit that is not taken": (
        openai("Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' "
               "instead.", "max_tokens", "unsupported_parameter"),
        in_field("max_tokens"),
    ),
    "a value of what may be left out": (
        openai("Unsupported value: 'temperature' does not support 0 with this model. Only the default (1) value is "
               "supported.", "temperature", "unsupported_value"),
        in_field("temperature"),
    ),
    "a temperature out of range": ({"error": "`temperature` must be strictly positive"}, in_words("temperature")),
    "a value and a key": (
        {"detail": [{"loc": ["body", "max_tokens"], "msg": "Input should be less than or equal to 2048"},
                    {"loc": ["body", "seed"], "msg": "Extra inputs are not permitted"}]},
        NamedKeys(("seed",), (), ("max_tokens",)),
    ),
    "too deep": (json.loads('{"error":' * 20 + '{"param": "seed"}' + "}" * 20), NOTHING),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSALS)
def test_a_refusal_names_keys_in_a_field_or_in_words(what: str) -> None:
    body, expected = REFUSALS[what]
    assert named_keys(body if isinstance(body, bytes) else json.dumps(body).encode(), KEYS) == expected


def test_a_refusal_that_is_nested_without_end_names_none_and_raises_nothing() -> None:
    assert named_keys(b'{"error":' * 5_000 + b'"x"' + b"}" * 5_000, KEYS) == NOTHING


def test_the_wanted_name_is_a_key_of_its_own_where_it_is_sent() -> None:
    keys = ("max_completion_tokens", "seed")
    assert named_keys(b'{"error": {"param": "max_completion_tokens"}}', keys) == in_field("max_completion_tokens")


def test_a_name_is_mentioned_as_a_whole_word() -> None:
    assert mentions(b'use "max_completion_tokens"', "max_completion_tokens")
    assert not mentions(b"max_completion_tokens_total", "max_completion_tokens")


@pytest.mark.parametrize(
    ("body", "error"),
    [
        (b'data: {"error": {"param": "seed"}}\n\ndata: [DONE]\n\n', b' {"error": {"param": "seed"}}'),
        (
            b'event: error\r\ndata:{"object": "error", "message": "seed"}\r\n\r\n',
            b'{"object": "error", "message": "seed"}',
        ),
        (b'{"error": "unknown field seed"}', b'{"error": "unknown field seed"}'),
        (b'data: {"error": null, "choices": []}\n\n', b""),
        (b'{"choices": []}', b""),
        (b"<html>error</html>", b""),
        (b"data: \xff\n\n", b""),
        (b"", b""),
    ],
)
def test_an_error_in_place_of_an_answer_is_read_as_a_refusal(body: bytes, error: bytes) -> None:
    assert error_in(body) == error
