"""Which API an address means, in all the ways in which people write one."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadgen.scenario.urls import address_of, base_url, mismatch_of_endpoint, place_name, route_url, service_url

BASES = {
    # as it is written
    "http://h/v1": "http://h/v1",
    "http://h:8000/v3": "http://h:8000/v3",
    "https://gateway.example.com/team/llm/v1": "https://gateway.example.com/team/llm/v1",
    "HTTP://h/v1": "http://h/v1",
    "http://h/v1/": "http://h/v1",
    "http://h/v3//": "http://h/v3",
    "http://h//v1": "http://h//v1",
    "  http://h/v1 ": "http://h/v1",
    "http://h:/v1": "http://h/v1",
    "http://h/v1?": "http://h/v1",
    # no path
    "http://h": "http://h/v1",
    "http://h/": "http://h/v1",
    "http://h:8080": "http://h:8080/v1",
    # no scheme
    "127.0.0.1:5273": "http://127.0.0.1:5273/v1",
    "localhost:8080/v3": "http://localhost:8080/v3",
    "//localhost:8080/v1": "http://localhost:8080/v1",
    "192.168.1.20:11434": "http://192.168.1.20:11434/v1",
    "gpu-box:8000/v1": "http://gpu-box:8000/v1",
    "gpu-box:443/v1": "https://gpu-box:443/v1",
    "nas.local:8000": "http://nas.local:8000/v1",
    "5273": "http://127.0.0.1:5273/v1",
    ":5273": "http://127.0.0.1:5273/v1",
    "5273/": "http://127.0.0.1:5273/v1",
    # a route stands for its base
    "http://h/v1/chat/completions": "http://h/v1",
    "http://h/v1/chat/completions/": "http://h/v1",
    "http://h/v1/models": "http://h/v1",
    "http://h/v1/completions": "http://h/v1",
    "http://h/v1/embeddings": "http://h/v1",
    "http://h/v1/responses": "http://h/v1",
    "http://h/v3/models/": "http://h/v3",
    "http://h/chat/completions": "http://h",
    "http://h/models/chat/completions": "http://h/models",  # Azure AI: the base is called models
    "localhost:8000/v3/models": "http://localhost:8000/v3",
    # what Foundry Local prints
    "http://127.0.0.1:5273/openai/status": "http://127.0.0.1:5273/v1",
    "http://127.0.0.1:5273/status": "http://127.0.0.1:5273/v1",
    "http://127.0.0.1:5273/models/loaded": "http://127.0.0.1:5273/v1",
    "127.0.0.1:5273/openai/status": "http://127.0.0.1:5273/v1",
    # other OpenAI-like paths are left alone
    "https://api.groq.com/openai/v1": "https://api.groq.com/openai/v1",
    "http://h/openai": "http://h/openai",
    # a query belongs to every route
    "https://x.openai.azure.com/openai/deployments/gpt?api-version=2024-05-01-preview": (
        "https://x.openai.azure.com/openai/deployments/gpt?api-version=2024-05-01-preview"
    ),
    "https://x.openai.azure.com/openai/deployments/gpt/chat/completions?api-version=2024-06-01": (
        "https://x.openai.azure.com/openai/deployments/gpt?api-version=2024-06-01"
    ),
    "http://h?a=1": "http://h/v1?a=1",
    # IPv6
    "http://[::1]:8080": "http://[::1]:8080/v1",
    "http://[::1]/v3": "http://[::1]/v3",
    "[::1]:8080/v1": "http://[::1]:8080/v1",
    # what a path may hold
    "http://h/my models/v1": "http://h/my%20models/v1",
    "http://h/my%20models/v1": "http://h/my%20models/v1",
    "http://h/a%2Fb/v1": "http://h/a%2Fb/v1",
    "http://h/模型/v1": "http://h/%E6%A8%A1%E5%9E%8B/v1",
    "http://h/~me/(x);y=1/v1": "http://h/~me/(x);y=1/v1",
}


@pytest.mark.parametrize("address", BASES)
def test_an_address_means_one_base_however_it_is_written(address: str) -> None:
    assert mismatch_of_endpoint(address) is None
    assert base_url(address) == BASES[address]


def test_a_route_stands_before_the_query() -> None:
    assert route_url("http://h/v3", "chat/completions") == "http://h/v3/chat/completions"
    assert route_url("http://h/x?api-version=1", "models") == "http://h/x/models?api-version=1"
    assert route_url(base_url("http://h/chat/completions"), "models") == "http://h/models"


def test_a_foundry_local_service_has_its_api_at_v1() -> None:
    assert service_url("http://h:5273/openai/status") == "http://h:5273/v1"
    assert service_url("http://h:5273/proxy") == "http://h:5273/proxy/v1"
    assert service_url("http://h:5273?x=1") == "http://h:5273/v1"


@pytest.mark.parametrize(
    ("address", "name"),
    [
        ("http://h:8000/v1", "h:8000"),
        ("8000", "127.0.0.1:8000"),
        ("http://h:8000/v3", "h:8000/v3"),
        ("http://h/a/v1/chat/completions", "h/a/v1"),
        ("http://h/b/v1?api-version=1", "h/b/v1"),
        ("http://[::1]:80", "[::1]:80"),
    ],
)
def test_two_apis_of_one_server_have_names_of_their_own(address: str, name: str) -> None:
    assert place_name(address) == name


@given(st.text())
def test_whatever_is_not_refused_has_a_base_with_a_host(address: str) -> None:
    if mismatch_of_endpoint(address) is None:
        base = base_url(address)
        assert base.startswith(("http://", "https://"))
        assert base.isascii() or not address.isascii()
        assert " " not in base
        assert place_name(address)


@pytest.mark.parametrize(
    "base", ["http://h:1", "http://h:1?v=1", "http://h:1/v1", "http://h:1/v3?v=1", "http://h/models"]
)
def test_each_base_has_an_address_that_means_it(base: str) -> None:
    address = address_of(base)
    assert base_url(address) == (base if base != "http://h/models" else "http://h")
