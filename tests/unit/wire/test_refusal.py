"""Which keys of a request a server's refusal names."""

import json

import pytest

from loadgen.wire.refusal import NamedKeys, mentions, named_keys

KEYS = ("max_tokens", "temperature", "seed", "stop", "stream_options", "top_p")


def in_field(*keys: str) -> NamedKeys:
    return NamedKeys(keys, ())


def in_words(*keys: str) -> NamedKeys:
    return NamedKeys((), keys)


NOTHING = NamedKeys((), ())
REFUSALS: dict[str, tuple[object, NamedKeys]] = {
    "OpenAI's param": ({"error": {"message": "no", "param": "max_tokens", "code": "x"}}, in_field("max_tokens")),
    "a path in it": ({"error": {"message": "no", "param": "stream_options.include_usage"}}, in_field("stream_options")),
    "at the top, as old vLLM": ({"object": "error", "message": "no", "param": "seed"}, in_field("seed")),
    "none in it, and words": ({"error": {"message": "Unknown field: seed", "param": None}}, in_words("seed")),
    "another in it, and words": ({"error": {"message": "max_tokens and messages", "param": "messages"}}, NOTHING),
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
    "too deep": (json.loads('{"error":' * 20 + '{"param": "seed"}' + "}" * 20), NOTHING),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSALS)
def test_a_refusal_names_keys_in_a_field_or_in_words(what: str) -> None:
    body, expected = REFUSALS[what]
    assert named_keys(body if isinstance(body, bytes) else json.dumps(body).encode(), KEYS) == expected


def test_the_wanted_name_is_a_key_of_its_own_where_it_is_sent() -> None:
    keys = ("max_completion_tokens", "seed")
    assert named_keys(b'{"error": {"param": "max_completion_tokens"}}', keys) == in_field("max_completion_tokens")


def test_a_name_is_mentioned_as_a_whole_word() -> None:
    assert mentions(b'use "max_completion_tokens"', "max_completion_tokens")
    assert not mentions(b"max_completion_tokens_total", "max_completion_tokens")
