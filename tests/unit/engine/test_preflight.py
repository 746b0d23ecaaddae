"""Whether a model is among those that a server lists."""

import pytest

from loadgen.engine.preflight import is_listed


@pytest.mark.parametrize(
    ("wanted", "listed", "there"),
    [
        ("phi-4-mini-cpu:5", {"phi-4-mini-cpu:5"}, True),
        ("phi-4-mini-cpu:5", {"phi-4-mini-cpu"}, True),  # Foundry Local 1.x
        ("llama3", {"llama3:latest"}, True),  # Ollama
        ("llama3:8b", {"llama3:70b"}, False),
        ("phi-4", {"phi-4-mini-cpu:5"}, False),
        ("other", {"phi-4-mini-cpu:5", "other-model"}, False),
    ],
)
def test_a_version_may_be_left_out_on_one_side_only(wanted: str, listed: set[str], there: bool) -> None:
    assert is_listed(wanted, listed) is there
