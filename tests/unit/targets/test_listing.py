"""Whether a model is among those that a server lists, and which one an answer says it is of."""

import json

import pytest

from loadgen.targets.listing import is_listed, substitute_for


@pytest.mark.parametrize(
    ("wanted", "listed", "there"),
    [
        ("phi-4-mini-cpu:5", {"phi-4-mini-cpu:5"}, True),
        ("phi-4-mini-cpu:5", {"phi-4-mini-cpu"}, True),  # Foundry Local 1.x
        ("llama3", {"llama3:latest"}, True),  # Ollama
        ("llama3:8b", {"llama3:70b"}, False),
        ("phi-4", {"phi-4-mini-cpu:5"}, False),
        ("other", {"phi-4-mini-cpu:5", "other-model"}, False),
        ("C:/models/other", {"C:/models/phi"}, False),
        (r"C:\models\phi", {r"C:\models\phi"}, True),
    ],
)
def test_a_version_may_be_left_out_on_one_side_only(wanted: str, listed: set[str], there: bool) -> None:
    assert is_listed(wanted, listed) is there


@pytest.mark.parametrize(
    ("wanted", "listed", "there"),
    [
        ("openai/gpt-4o-mini", {"openai/*", "local/phi"}, True),
        ("openai/", {"openai/*"}, True),
        ("openai", {"openai/*"}, False),
        ("anthropic/claude", {"openai/*", "local/phi"}, False),
        ("a/openai/b", {"openai/*"}, False),
        ("anything at all", {"*"}, True),
        ("eu/x/large", {"eu/*/large"}, True),
        ("eu/x/small", {"eu/*/large"}, False),
        ("a", {"[a-z]*"}, False),  # only a star stands for something
        ("openaiX/a", {"openai./*"}, False),
        ("openai/*", {"openai/*"}, True),
    ],
)
def test_a_wildcard_covers_what_it_covers(wanted: str, listed: set[str], there: bool) -> None:
    assert is_listed(wanted, listed) is there


@pytest.mark.parametrize(
    ("answer", "other"),
    [
        (b'data: {"model":"phi","choices":[]}', "phi"),
        (b'data: {"model" : "mine","choices":[]}', None),
        (b'data: {"model":"mine:latest","choices":[]}', None),  # the same one, under a longer name
        (b'data: {"model":"mine-2024-08-06","choices":[]}', None),  # no other of those that are listed
        (b'data: {"choices":[]}', None),
        (b"", None),
        (b'data: {"model":null}', None),
        (b'data: {"model":"\xff"}', None),
    ],
)
def test_an_answer_of_another_listed_model_stands_in_for_none(answer: bytes, other: str | None) -> None:
    assert substitute_for("mine", ("phi", "mine:latest", "*") if "latest" in str(answer) else ("phi",), answer) == other


@pytest.mark.parametrize(
    ("wanted", "named"),
    [
        ("Phi-4", "phi-4"),
        ("phi-4", "microsoft/Phi-4"),
        ("microsoft/phi-4", "phi-4"),
        ("phi-4", r"C:\models\phi-4.gguf"),
        ("/models/phi-4/", "/models/phi-4"),
        ("gpt-4o", "gpt-4o-2024-08-06"),
        ("gpt-4", "gpt-4-0613"),
        ("claude-sonnet-latest", "claude-sonnet-20241022"),
        ("模型", "模型:latest"),
    ],
)
def test_another_form_of_the_name_is_no_other_model(wanted: str, named: str) -> None:
    answer = b'data: {"model":%b,"choices":[]}' % json.dumps(named).encode()
    assert substitute_for(wanted, (named, "another"), answer) is None


@pytest.mark.parametrize(
    ("wanted", "named"),
    [
        ("phi-3", "phi-4"),
        ("phi", "phi-4"),
        ("phi-4", "phi-4-mini"),
        ("a/phi", "b/phi"),
        ("qwen:7b", "qwen:72b"),
        ("gpt-4-0314", "gpt-4-0613"),
        ("phi", "模型"),
        ("phi", r"C:\models\qwen.gguf"),
    ],
)
def test_a_listed_model_of_another_name_is_another_model(wanted: str, named: str) -> None:
    answer = b'data: {"model":%b,"choices":[]}' % json.dumps(named).encode()
    assert substitute_for(wanted, (named, "another"), answer) == named
