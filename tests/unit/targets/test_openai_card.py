"""The card that an entry of `/v1/models` gives: fields of the expected type, and nothing else."""

import pytest

from loadgen.record import JsonObject
from loadgen.store.manifest import ModelCard
from loadgen.targets.openai import card_of


def test_an_entry_gives_license_and_capabilities_if_it_has_them() -> None:
    entry = {"id": "m:1", "owned_by": "Nobody", "license": "apache-2.0", "capabilities": ["chat", 3, "", "summarize"]}
    card = card_of("m", "t", entry)
    assert (card.id, card.publisher, card.license, card.capabilities) == (
        "m:1",
        "Nobody",
        "apache-2.0",
        "chat,summarize",
    )
    assert card_of("m", "t", {"capabilities": "chat, tools"}).capabilities == "chat, tools"


@pytest.mark.parametrize("value", [None, 3, {}, {"chat": True}, [], [3], ""])
def test_what_has_another_type_is_left_out(value: object) -> None:
    entry: JsonObject = {"id": value, "license": value, "capabilities": value, "owned_by": value, "size": str(value)}
    assert card_of("m", "t", entry) == ModelCard(alias="m", id="m", target="t", source="/v1/models")
