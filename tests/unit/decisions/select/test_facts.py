"""The facts about a candidate: each has a source, an unknown one stays unknown, and no source overrides another."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from loadgen.analysis.summary import Metric, Percentile, ServerSummary, StageSummary
from loadgen.decisions.select.facts import Facts, ModelFact, facts_of
from loadgen.decisions.select.given import GivenFacts, given_for, read_given, without_candidate
from loadgen.errors import InputError
from loadgen.plan.plan import StageLoad
from loadgen.store.manifest import ServedModel
from loadgen.targets.licenses import License, licenses

CARD = ServedModel(
    alias="m",
    id="m-cpu:1",
    target="foundry",
    size_bytes=100 << 20,
    license="apache-2.0",
    context_tokens=4096,
    device="CPU",
    execution_provider="CPUExecutionProvider",
    capabilities="chat, summarize",
    startup_s=3.0,
    load_s=2.0,
    cold_start_ms=2500.0,
)
BARE = ServedModel(alias="m", id="m", target="openai")


def stage(users: int, peak_mib: float | None = None, ttft_ms: float = 300.0, card: ServedModel = CARD) -> StageSummary:
    return StageSummary(
        model="m",
        target=card.target,
        load=StageLoad("closed", concurrency=users),
        level=f"c{users}",
        card=card,
        server=ServerSummary(rss_peak_mib=peak_mib),
        metrics={"ttft": Metric(count=9, percentiles={"p50": Percentile(ttft_ms, 1.0, 999.0)})},
    )


def facts(*runs: Sequence[StageSummary], **given: object) -> Facts:
    return facts_of(runs, GivenFacts(name="m", **given) if given else None)  # type: ignore[arg-type]


def test_what_was_measured_and_what_the_card_says_have_their_sources() -> None:
    known = facts([stage(1, 500.0), stage(4, 600.0)])
    assert known.memory_mib == ModelFact(600.0, "measured")
    assert (known.startup_s, known.load_s) == (ModelFact(3.0, "measured"), ModelFact(2.0, "measured"))
    assert known.cold_start_ms == ModelFact(2500.0, "measured")
    assert known.disk_mib == ModelFact(100.0, "card")
    assert (known.context_tokens, known.device) == (ModelFact(4096, "card"), ModelFact("CPU", "card"))
    assert known.execution_provider == ModelFact("CPUExecutionProvider", "card")
    assert known.capabilities == ModelFact(("chat", "summarize"), "card")
    assert (known.license, known.commercial) == (ModelFact("Apache-2.0", "card"), ModelFact("yes", "card"))
    assert known.remarks == ()


def test_what_nothing_says_is_unknown() -> None:
    nothing = facts([stage(1, card=BARE)])
    assert nothing == Facts()
    assert facts([]) == Facts()
    assert all(
        getattr(nothing, name) == ModelFact(None, "unknown") for name in Facts.__struct_fields__ if name != "remarks"
    )


def test_the_peak_is_that_of_the_highest_level_and_of_no_lower_one() -> None:
    assert facts([stage(4, 600.0), stage(1, 900.0)]).memory_mib == ModelFact(600.0, "measured")
    assert facts([stage(1, 900.0), stage(8, None)]).memory_mib == ModelFact()


def test_a_level_that_was_skipped_is_not_the_highest() -> None:
    skipped = StageSummary(
        model="m", target="foundry", load=StageLoad("closed", concurrency=8), level="c8", status="skipped"
    )
    assert facts([stage(1, 500.0), skipped]).memory_mib == ModelFact(500.0, "measured")


def test_measured_facts_are_means_over_the_runs_that_know_them() -> None:
    assert facts([stage(1, 500.0)], [stage(1, 700.0)], [stage(1)]).memory_mib == ModelFact(600.0, "measured")


def test_a_fact_of_the_card_in_which_runs_differ_is_unknown_and_says_so() -> None:
    other = ServedModel(alias="m", id="m", target="foundry", license="mit", context_tokens=4096)
    known = facts([stage(1)], [stage(1, card=other)])
    assert (known.license, known.commercial) == (ModelFact(), ModelFact())
    assert known.context_tokens == ModelFact(4096, "card")
    assert known.remarks == ("license: the runs differ (Apache-2.0, MIT), so it is unknown",)


def test_what_is_given_fills_what_is_unknown_and_is_marked() -> None:
    known = facts([stage(1, card=BARE)], memory_mib=900.0, license="mit", capabilities=("summarize",), device="GPU")
    assert known.memory_mib == ModelFact(900.0, "given")
    assert (known.license, known.commercial) == (ModelFact("mit", "given"), ModelFact("yes", "given"))
    assert (known.capabilities, known.device) == (ModelFact(("summarize",), "given"), ModelFact("GPU", "given"))
    assert known.remarks == ()


def test_what_is_given_overrides_nothing_and_a_conflict_is_named() -> None:
    known = facts([stage(1, 500.0)], memory_mib=300.0, license="MIT", context_tokens=4100, disk_mib=100.4)
    assert known.memory_mib == ModelFact(500.0, "measured")
    assert known.license == ModelFact("Apache-2.0", "card")
    assert known.remarks == (
        "license: the card says Apache-2.0, given MIT; the first counts",
        "memory_mib: measured 500, given 300; the first counts",
    )


def test_the_same_words_in_another_case_and_order_are_no_conflict() -> None:
    assert facts([stage(1)], device="cpu", capabilities=("Summarize", "chat")).remarks == ()


def test_whether_an_unknown_license_allows_commercial_use_can_be_given() -> None:
    card = ServedModel(alias="m", id="m", target="openai", license="acme-eula")
    known = facts([stage(1, card=card)], commercial="yes")
    assert (known.license, known.commercial) == (ModelFact("acme-eula", "card"), ModelFact("yes", "given"))


@pytest.mark.parametrize("row", licenses(), ids=[row.id for row in licenses()])
def test_the_table_says_whether_a_license_allows_commercial_use(row: License) -> None:
    known = facts([stage(1, card=ServedModel(alias="m", id="m", target="openai", license=row.name))])
    expected = row.commercial
    assert known.commercial == (ModelFact() if expected == "unknown" else ModelFact(expected, "card"))


def test_a_cold_start_of_more_than_ten_warm_first_tokens_is_noted() -> None:
    assert facts([stage(1, ttft_ms=250.0)]).remarks == ()
    (note,) = facts([stage(1, ttft_ms=249.0), stage(4, ttft_ms=9000.0)]).remarks
    assert note == "the cold start takes 2.5 s, 10 × the warm TTFT: keep the model loaded"


# What a person gives


def test_a_file_of_facts_is_a_models_json(tmp_path: Path) -> None:
    path = tmp_path / "facts.json"
    path.write_text(
        '{"a": {"capabilities": ["chat"], "size_mb": 12.5, "license": "other", "license_name": "qwen-research",'
        ' "context_tokens": 2048, "memory_mib": 900, "priority": 1, "anything": null}, "b@foundry/gpu": {}}'
    )
    a, b = read_given(path)
    assert a == GivenFacts(
        name="a", capabilities=("chat",), disk_mib=12.5, license="qwen-research", context_tokens=2048, memory_mib=900.0
    )
    assert b == GivenFacts(name="b@foundry/gpu")


@pytest.mark.parametrize(
    ("card", "said"),
    [
        (
            '{"context_tokens": "4k"}',
            'context_tokens: "4k" is wrong (expected `int | null`, got `str`); write e.g. 4096',
        ),
        ('{"context_tokens": 0}', "context_tokens: 0 is wrong (expected `int` >= 1); write e.g. 4096"),
        ('{"memory_mib": -1}', "memory_mib: -1 is wrong (expected `float` >= 0.0); write e.g. 1100"),
        ('{"license": ""}', 'license: "" is wrong (expected `str` of length >= 1); write e.g. a text'),
        (
            '{"commercial": "maybe"}',
            'commercial: "maybe" is wrong (invalid enum value \'maybe\'); write e.g. "yes", "no" or "conditions"',
        ),
    ],
)
def test_a_fact_of_the_wrong_type_is_one_line(tmp_path: Path, card: str, said: str) -> None:
    path = tmp_path / "facts.json"
    path.write_text(f'{{"m": {card}}}')
    with pytest.raises(InputError) as caught:
        read_given(path)
    assert str(caught.value) == f"{path}: m: {said}"


def test_the_nearest_name_of_a_candidate_counts() -> None:
    given = [GivenFacts(name=name) for name in ("m", "m@foundry", "m@foundry/gpu")]
    assert given_for(given, "m", "foundry", "GPU") == given[2]
    assert given_for(given, "m", "foundry", "CPU") == given[1]
    assert given_for(given, "m", "llamacpp") == given[0]
    assert given_for(given, "other", "llamacpp") is None


def test_a_target_that_has_the_device_in_its_name_is_the_same_target() -> None:
    given = [GivenFacts(name=name) for name in ("m", "m@foundry", "m@foundry/gpu")]
    assert given_for(given, "m", "foundry/gpu", "GPU") == given[2]
    assert given_for(given, "m", "foundry/cpu", "CPU") == given[1]
    assert given_for(given, "m", "foundry/cpu") == given[0]


def test_a_name_that_no_candidate_has_is_found() -> None:
    given = [GivenFacts(name=name) for name in ("m", "m@foundry", "m@foundy", "n")]
    assert without_candidate(given, [("m", "foundry/gpu", "GPU"), ("m", "llamacpp", None)]) == ("m@foundy", "n")
    assert without_candidate([], []) == ()
