"""The facts about one candidate of a selection, each with its source. Pure; an unknown fact stays unknown."""

import math
from collections.abc import Iterable, Sequence
from typing import Final, Generic, Literal, TypeVar

import msgspec
from msgspec import Struct

from loadgen.analysis.summary import StageSummary
from loadgen.decisions.select.given import GivenFacts
from loadgen.scenario.model_list import split_words
from loadgen.store.manifest import ServedModel
from loadgen.targets.licenses import Commercial, license_named, license_of

Source = Literal["measured", "card", "given", "unknown"]
"""Where a fact comes from: we measured it; the server, the catalog or the model file says it; a person says it; from
nowhere."""

Value = TypeVar("Value")

MUCH_COLDER: Final = 10.0
"""A cold start of more than this many times the warm TTFT gets a remark."""
SAME: Final = 0.01
"""Two numbers that differ by at most this share are the same: catalogs and lists round."""


class ModelFact(Struct, Generic[Value], frozen=True):
    """One fact. The value is None exactly if the source is "unknown"."""

    value: Value | None = None
    source: Source = "unknown"


class Facts(Struct, frozen=True, kw_only=True):
    """What is known about one candidate."""

    memory_mib: ModelFact[float] = ModelFact()
    """The highest resident memory of the server's processes at the highest level that was played."""
    disk_mib: ModelFact[float] = ModelFact()
    """The size of the model on disk."""
    context_tokens: ModelFact[int] = ModelFact()
    """The longest prompt and answer together, as served."""
    device: ModelFact[str] = ModelFact()
    """CPU, GPU or NPU."""
    execution_provider: ModelFact[str] = ModelFact()
    """ONNX Runtime's name for the code that runs the model on that device."""
    capabilities: ModelFact[tuple[str, ...]] = ModelFact()
    """Words for what the model is made for, such as `summarize`."""
    startup_s: ModelFact[float] = ModelFact()
    """From the start of the server's process until it served."""
    load_s: ModelFact[float] = ModelFact()
    """The part of `startup_s` in which the model was loaded."""
    cold_start_ms: ModelFact[float] = ModelFact()
    """From the start of the loading to the first token."""
    license: ModelFact[str] = ModelFact()
    """The id of the license in `loadgen.targets.licenses`; the source's own spelling if that table does not have it."""
    commercial: ModelFact[Commercial] = ModelFact()
    """Whether the license allows commercial use: yes, no or conditions."""
    remarks: tuple[str, ...] = ()
    """Sources that disagree, and what a reader should know about a fact, each in one line."""


def facts_of(runs: Sequence[Sequence[StageSummary]], given: GivenFacts | None = None) -> Facts:
    """The facts about one candidate.

    runs: its stages in each run. Measured facts are means over the runs that have them. A fact of the card that differs
    between runs is unknown. given: what a person says of it, which fills unknown facts and overrides none.
    """
    cards = [card for stages in runs if (card := _card_of(stages)) is not None]
    sources = _Sources(given or GivenFacts(name=""))
    license_fact = sources.from_cards("license", [license_named(card.license) for card in cards])
    facts = Facts(
        memory_mib=sources.measured("memory_mib", [_peak_mib(stages) for stages in runs]),
        disk_mib=sources.from_cards("disk_mib", [_size_mib(card) for card in cards]),
        context_tokens=sources.from_cards("context_tokens", [card.context_tokens for card in cards]),
        device=sources.from_cards("device", [card.device for card in cards]),
        execution_provider=sources.from_cards("execution_provider", [card.execution_provider for card in cards]),
        capabilities=sources.from_cards("capabilities", [_capabilities_of(card) for card in cards]),
        startup_s=sources.measured("startup_s", [card.startup_s for card in cards]),
        load_s=sources.measured("load_s", [card.load_s for card in cards]),
        cold_start_ms=sources.measured("cold_start_ms", [card.cold_start_ms for card in cards]),
        license=license_fact,
        commercial=sources.commercial(license_fact),
    )
    return msgspec.structs.replace(facts, remarks=(*sources.remarks, *_cold_start_remarks(facts, runs)))


class _Sources:
    """Chooses the source of each fact, and remarks where two sources disagree."""

    def __init__(self, given: GivenFacts) -> None:
        self._given = given
        self.remarks: list[str] = []

    def measured(self, name: str, values: Sequence[float | None]) -> ModelFact[float]:
        """The mean of what was measured in each run; None: not in that run."""
        mean = _mean(values)
        return self._filled(name, ModelFact() if mean is None else ModelFact(mean, "measured"))

    def from_cards(self, name: str, values: Sequence[Value | None]) -> ModelFact[Value]:
        """What the cards of the runs say; None: nothing."""
        known = list(dict.fromkeys(value for value in values if value is not None))
        if len(known) > 1:
            self.remarks.append(f"{name}: the runs differ ({', '.join(map(_shown, known))}), so it is unknown")
        return self._filled(name, ModelFact(known[0], "card") if len(known) == 1 else ModelFact())

    def commercial(self, license_fact: ModelFact[str]) -> ModelFact[Commercial]:
        """Whether a license allows commercial use, by the table of licenses."""
        row = license_of(license_fact.value)
        fact: ModelFact[Commercial] = ModelFact()
        if row is not None and row.commercial != "unknown":
            fact = ModelFact(row.commercial, license_fact.source)
        return self._filled("commercial", fact)

    def _filled(self, name: str, fact: ModelFact[Value]) -> ModelFact[Value]:
        """The fact, from the person if no other source has it."""
        given = getattr(self._given, name)
        if given is None:
            return fact
        if fact.value is None:
            return ModelFact(given, "given")
        if not _same(fact.value, given):
            says = "measured" if fact.source == "measured" else "the card says"
            self.remarks.append(f"{name}: {says} {_shown(fact.value)}, given {_shown(given)}; the first counts")
        return fact


def _card_of(stages: Sequence[StageSummary]) -> ServedModel | None:
    """The card of the model; None if it was not served."""
    return next((stage.card for stage in stages if stage.card is not None), None)


def _size_mib(card: ServedModel) -> float | None:
    return None if card.size_bytes is None else card.size_bytes / 2**20


def _capabilities_of(card: ServedModel) -> tuple[str, ...] | None:
    return split_words(card.capabilities or "") or None


def _peak_mib(stages: Sequence[StageSummary]) -> float | None:
    """The server's peak memory at the highest level that was played; None if it is not known there."""
    played = [stage for stage in stages if stage.status == "played"]
    return max(played, key=_height).peak_mib if played else None


def _height(stage: StageSummary) -> float:
    """How much load a stage is: its users, or its rate."""
    load = stage.load
    return max(load.concurrency or 0, load.rate_per_s or 0, load.from_per_s or 0, load.to_per_s or 0)


def _cold_start_remarks(facts: Facts, runs: Sequence[Sequence[StageSummary]]) -> tuple[str, ...]:
    cold_ms, warm_ms = facts.cold_start_ms.value, _mean([_warm_ttft_ms(stages) for stages in runs])
    if cold_ms is None or warm_ms is None or warm_ms <= 0 or cold_ms <= MUCH_COLDER * warm_ms:
        return ()
    times = cold_ms / warm_ms
    return (f"the cold start takes {cold_ms / 1000:.3g} s, {times:.0f} × the warm TTFT: keep the model loaded",)


def _warm_ttft_ms(stages: Sequence[StageSummary]) -> float | None:
    """The median TTFT at the lowest level that was played; None if it is not known there."""
    played = [stage for stage in stages if stage.status == "played"]
    metric = min(played, key=_height).metric("ttft") if played else None
    return None if metric is None else metric.percentile("p50").value


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return math.fsum(known) / len(known) if known else None


def _same(a: object, b: object) -> bool:
    match a, b:
        case int() | float(), int() | float():
            return math.isclose(a, b, rel_tol=SAME)
        case str(), str():
            return a.casefold() == b.casefold()
        case tuple(), tuple():
            return {str(word).casefold() for word in a} == {str(word).casefold() for word in b}
    return a == b


def _shown(value: object) -> str:
    match value:
        case float():
            return f"{value:.4g}"
        case tuple():
            return "+".join(map(str, value))
    return str(value)
