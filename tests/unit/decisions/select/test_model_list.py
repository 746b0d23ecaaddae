"""`models.json` of a selection: cards by priority, as a router by capability reads them."""

import json
from pathlib import Path

from loadgen.decisions.select.facts import Facts, ModelFact
from loadgen.decisions.select.model_list import RankedModel, ranked_model_list
from loadgen.scenario.model_list import read_model_list
from loadgen.store.manifest import ServedModel


def model(alias: str, priority: int, target: str = "foundry", *capabilities: str) -> RankedModel:
    facts = Facts(
        disk_mib=ModelFact(12.34, "card"),
        capabilities=ModelFact(capabilities, "given") if capabilities else ModelFact(),
        memory_mib=ModelFact(501.26, "measured"),
        license=ModelFact("MIT", "given"),
    )
    card = ServedModel(alias=alias, id=f"{alias}-cpu", target=target, size_bytes=1, startup_s=3.0, cached=True)
    figures = {"quality": 41.26, "ttft_p50_ms": None}
    return RankedModel(card=card, facts=facts, priority=priority, figures=figures)


def test_each_card_has_its_priority_its_facts_and_its_figures() -> None:
    cards = json.loads(ranked_model_list([model("b", 2), model("a", 1, "foundry", "chat", "summarize")]))
    assert list(cards) == ["a", "b"]
    assert cards["a"] == {
        "capabilities": ["chat", "summarize"],
        "size_mb": 12.3,
        "priority": 1,
        "id": "a-cpu",
        "target": "foundry",
        "license": "MIT",
        "cached": True,
        "memory_mib": 501.3,
        "quality": 41.3,
    }
    assert (cards["b"]["capabilities"], cards["b"]["priority"]) == ([], 2)


def pick_model(intent: str, cards: dict[str, dict[str, object]]) -> str:
    """The choice of the workshop's router: capability first, then the lowest priority."""
    return min(cards, key=lambda name: (intent not in cards[name]["capabilities"], cards[name]["priority"]))  # type: ignore[operator]


def test_a_router_by_capability_and_priority_reads_it() -> None:
    listed = [model("first", 1, "t", "chat"), model("second", 2, "t", "summarize"), model("third", 3, "t", "summarize")]
    cards = json.loads(ranked_model_list(listed))
    assert pick_model("summarize", cards) == "second"
    assert pick_model("code", cards) == "first"


def test_of_two_candidates_with_one_alias_the_better_is_listed() -> None:
    cards = json.loads(ranked_model_list([model("a", 2, "llamacpp"), model("a", 1, "foundry")]))
    assert cards["a"]["target"] == "foundry"


def test_the_file_is_a_list_of_models_and_the_same_input_gives_the_same_bytes(tmp_path: Path) -> None:
    listed = [model("a", 1), model("b", 2)]
    (tmp_path / "models.json").write_bytes(ranked_model_list(listed))
    assert [entry.alias for entry in read_model_list(tmp_path / "models.json")] == ["a", "b"]
    assert ranked_model_list(listed) == ranked_model_list(listed[::-1])
