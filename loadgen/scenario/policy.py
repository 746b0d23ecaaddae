"""The tables `[quality]` and `[select]` of a scenario: how answers are judged, and how `loadgen select` chooses a
model. A policy file holds a `[select]` table alone."""

from typing import Annotated, Final, Literal

from msgspec import Meta, Struct

from loadgen.scenario.cost import CostSettings
from loadgen.scenario.fields import (
    Aspect,
    NonNegativeFloat,
    Points,
    PositiveFloat,
    PositiveInt,
    Share,
    Text,
)

QualityBy = Literal["key_points", "hand", "judge"]
"""Whose quality counts: that of the key points, notes of people, or notes of a second model."""


ASPECTS: Final = {
    "complete": "names what was decided, who does it, by when",
    "correct": "nothing wrong or invented",
    "brief": "no filler",
    "clear": "reads well",
}
"""The aspects by which an answer is graded, and what each asks, unless a scenario has its own."""


class QualityTable(Struct, frozen=True, forbid_unknown_fields=True):
    """How the answers are judged."""

    score: bool = True
    """Compare the answers with the key points of their prompts, if the run keeps texts."""
    aspects: Annotated[dict[Aspect, Text], Meta(min_length=1, max_length=9)] | None = None
    """The aspects that `loadgen grade` asks for, each with what it asks (default: complete, correct, brief, clear)."""

    @property
    def asked_aspects(self) -> dict[str, str]:
        """The aspects by which an answer is graded, each with what it asks."""
        return dict(ASPECTS if self.aspects is None else self.aspects)


class SelectWeights(Struct, frozen=True, forbid_unknown_fields=True):
    """How much each criterion weighs. The weights are brought to the sum 1; those not given keep their default; 0
    leaves a criterion out."""

    quality: NonNegativeFloat | None = None
    """The quality of the answers; 10 of its 100 points are one step (default: 0.40)."""
    latency: NonNegativeFloat | None = None
    """The E2E of the answers; half of it is one step (default: 0.20)."""
    memory: NonNegativeFloat | None = None
    """The peak memory of the server; half of it is one step (default: 0.15)."""
    throughput: NonNegativeFloat | None = None
    """Answers per second at the highest level; twice as many are one step (default: 0.10)."""
    cost: NonNegativeFloat | None = None
    """The cost of a request; half of it is one step (default: 0.10)."""
    disk: NonNegativeFloat | None = None
    """The size of the model on disk; half of it is one step (default: 0.05)."""


class Requirements(Struct, frozen=True, forbid_unknown_fields=True):
    """What a model must meet before it is compared. What is not known does not meet a requirement."""

    license: Text | None = None
    """"commercial" (the license allows commercial use), or the SPDX id of the only license that is accepted."""
    accept_licenses: tuple[Text, ...] = ()
    """Licenses that allow commercial use on conditions, and whose conditions you accept."""
    memory_mib: PositiveFloat | None = None
    """The most memory that the server may take, MiB."""
    disk_mib: PositiveFloat | None = None
    """The most space that the model may take on disk, MiB."""
    quality: Points | None = None
    """The least mean quality, 0 to 100."""
    slo_share: Share | None = None
    """The least share of requests that meet the limits of the SLO."""
    ok_share: Share | None = None
    """The least share of requests that are answered."""
    latency_ms: PositiveFloat | None = None
    """The highest median (p50) of E2E, ms."""
    context_tokens: PositiveInt | None = None
    """The least context length, tokens."""
    capabilities: tuple[Text, ...] = ()
    """What the model's card must say that it can do."""
    device: Text | None = None
    """The device that runs the model: cpu, gpu or npu."""
    cost: PositiveFloat | None = None
    """The highest cost of 1,000 requests."""


class Enough(Struct, frozen=True, forbid_unknown_fields=True):
    """Values that are good enough: better than that counts as that."""

    quality: Points | None = None
    """Points of 100."""
    latency_ms: PositiveFloat | None = None
    """The geometric mean of E2E, ms."""
    memory_mib: PositiveFloat | None = None
    """The peak memory of the server, MiB."""
    requests_per_s: PositiveFloat | None = None
    """Answers per second at the highest level."""
    cost: PositiveFloat | None = None
    """The cost of 1,000 requests."""
    disk_mib: PositiveFloat | None = None
    """The size on disk, MiB."""


class SelectTable(Struct, frozen=True, forbid_unknown_fields=True):
    """How `loadgen select` chooses a model."""

    weights: SelectWeights = SelectWeights()
    """How much each criterion weighs."""
    require: Requirements = Requirements()
    """What a model must meet before it is compared."""
    cost: CostSettings = CostSettings()
    """What energy and the device cost."""
    enough: Enough = Enough()
    """Values that are good enough."""
    level: Text | None = None
    """The level that speaks for quality and latency (default: the lowest that every model played validly)."""
    quality_by: QualityBy | None = None
    """Whose quality counts: "key_points", notes by "hand", or those of a "judge" (default: "key_points")."""


WEIGHTED: Final = SelectWeights.__struct_fields__
"""The criteria, in the order of their default weights."""
