"""Whether a model is among those that a server lists, and which one an answer says it is of."""

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
