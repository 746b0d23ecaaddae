"""What says that a server is still loading, in the words of different servers, and what only looks so."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadgen.wire.loading import says_loading

LOADING: list[Any] = [
    {"error": {"message": "Loading model", "type": "unavailable_error", "code": 503}},
    {"error": {"message": "no", "code": "503"}},
    {"error": "Model mistralai/Mistral-7B is currently loading", "estimated_time": 20.0},
    {"error": {"code": 1, "message": "failed: Error code: 503 - {'error': {'message': 'Loading model'}}"}},
    {"error": {"message": "litellm.ServiceUnavailableError: Loading model"}},
    {"error": {"errors": [{"reason": "MODEL_LOADING"}]}},
    {"status": "loading"},
    {"status": {"state": "initializing"}},
    {"state": "warming_up", "ready": False},
    {"ready": False},
    {"model_loaded": False},
    {"detail": "Model is not ready"},
    {"detail": [{"msg": "The engine is still starting up"}]},
    {"message": "model m is not loaded yet, try again later"},
    {"object": "list", "data": [], "status": "starting"},
    "The server is still loading the model.",
    {"error": "llm server loading model"},
    {"message": "Model loading in progress"},
    "loading",
]
NOT_LOADING: list[Any] = [
    {},
    {"error": "Not Found"},
    {"detail": "Not Found"},
    {"error": {"message": "The model `loading` does not exist", "code": 404}},
    {"error": "m is not loaded, model missing"},
    {"error": "error loading model: /models/m.gguf: no such file"},
    {"error": "Error loading model architecture: unknown"},
    {"error": "the server stopped loading"},
    {"error": "cannot start: server loading failed"},
    {"error": "failed to load model with internal loader: grpc service not ready"},
    {"error": "model is loading but its weights are missing"},
    {"error": {"message": "Failed loading model", "code": 500}},
    {"status": "ok", "ready": True, "loading": False, "code": 200},
    {"data": [{"id": "m", "status": "loading"}], "status": "loading"},
    {"choices": [{"message": {"content": "The model is loading."}}]},
    {"id": "loading", "model": "loading", "error": {"message": "no", "param": "loading"}},
    [{"id": "m", "status": "loading"}],
    7,
]


@pytest.mark.parametrize("said", LOADING)
def test_a_server_that_loads_says_so_in_its_own_words(said: Any) -> None:
    body = json.dumps(said).encode()
    assert says_loading(body)
    assert says_loading(b"event: error\ndata: " + body + b"\n\n")


@pytest.mark.parametrize("said", NOT_LOADING)
def test_a_failure_to_load_and_all_else_is_none(said: Any) -> None:
    body = json.dumps(said).encode()
    assert not says_loading(body)
    assert not says_loading(b"data: " + body + b"\n\n")


@pytest.mark.parametrize(
    ("body", "loads"),
    [
        (b"Loading model", True),
        (b"503 Service Temporarily Unavailable", True),
        (b"  model is loading\n", True),
        (b"Not Found", False),
        (b"404 page not found", False),
        (b"<html><body>The app is loading...</body></html>", False),
        (b'{"status": "loading"', False),
        (b"", False),
        (b"[" * 5_000 + b"]" * 5_000, False),
        (b'{"error":' * 5_000 + b'"loading"' + b"}" * 5_000, False),
        (b"model is loading " + b"x" * 100_000, False),
    ],
)
def test_plain_text_is_read_and_web_pages_and_what_breaks_off_are_not(body: bytes, loads: bool) -> None:
    assert says_loading(body) is loads


@given(
    st.binary(max_size=200)
    | st.recursive(
        st.text(max_size=8),
        lambda inner: (
            st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["error", "status", "message"]), inner)
        ),
    ).map(lambda value: json.dumps(value).encode())
)
def test_no_bytes_make_it_fail(body: bytes) -> None:
    assert says_loading(body) in (True, False)
