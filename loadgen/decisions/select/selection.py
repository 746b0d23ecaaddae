"""A selection as data, in the form of `selection.json`. Data only; `loadgen.decisions.select.decide` makes it."""

from typing import Final, Literal

from msgspec import Struct, field

from loadgen.decisions.grade.notes import Kind
from loadgen.decisions.grade.points import Agreement, PeopleAgreement
from loadgen.decisions.select.cost import Cost
from loadgen.decisions.select.facts import Facts
from loadgen.decisions.select.policy import Bound, Origin
from loadgen.scenario.cost import CostSettings
from loadgen.scenario.policy import QualityBy

SCHEMA: Final = "loadgen.selection/1"

SelectionVerdict = Literal["recommended", "tied", "none"]


class PolicyUsed(Struct, frozen=True, kw_only=True):
    """What was asked. weights: as asked; shares: of the criteria that are compared, with the sum 1."""

    weights: dict[str, float]
    weights_by: Origin
    shares: dict[str, float]
    require: dict[str, object]
    enough: dict[str, float]
    cost: CostSettings
    bound: Bound


class RequirementRow(Struct, frozen=True, kw_only=True):
    """One requirement of one candidate. seen: null if it is not known. why: where the value comes from, or "unknown".
    text: in words, with what can be done."""

    key: str
    asked: object
    observed: object = field(name="seen")
    holds: bool
    why: str
    text: str


class CriterionRow(Struct, frozen=True, kw_only=True):
    """One criterion of one candidate. value: in `unit`. ci: its own 95 % interval, null if it has none. n: over how
    many prompts. steps: the value in steps; only differences mean anything."""

    value: float
    unit: str
    ci: tuple[float, float] | None
    n: int | None
    source: str
    steps: float


class LeadRow(Struct, frozen=True):
    """The lead of the first over a candidate, with an interval that holds for all pairs of those that were still
    compared; ci is null if there are too few prompts."""

    steps: float
    ci: tuple[float, float] | None


class CandidateRow(Struct, frozen=True, kw_only=True):
    """One candidate. out: why it is not compared; null if it is. pareto: on the front of quality and latency;
    pareto_all: on that of all criteria. utility: its weighted sum of steps. lead: null for the first, and for who is
    out."""

    name: str
    model: str
    target: str
    device: str | None
    runs: tuple[str, ...]
    eligible: bool
    out: str | None
    verdict: Literal["valid", "degraded", "invalid"]
    incomplete: bool
    requirements: tuple[RequirementRow, ...]
    criteria: dict[str, CriterionRow]
    pareto: bool = False
    pareto_all: bool = False
    utility: float | None = None
    lead: LeadRow | None = None
    chance_of_first: float | None = None
    acceptability: float | None = None
    flags: dict[str, int]
    e2e_ms: dict[str, float | None]
    """Its mean, p50 and p95 at the level; null if there are too few requests. p95_at_least: where p95 is null, it is at
    or above this."""
    ttft_p50_ms: float | None
    tokens_per_s: float | None
    """Output tokens per second of one user, the median over requests."""
    slo_share: float | None
    ok_share: float | None
    cost: Cost | None
    facts: Facts


class Decision(Struct, frozen=True, kw_only=True):
    """recommended: null unless one candidate stands alone. first: the first by estimate. not_told_apart: the first and
    those that cannot be told apart from it; empty unless `tied`. nearest: if nobody meets the requirements, who misses
    by least."""

    verdict: SelectionVerdict
    recommended: str | None
    first: str | None
    not_told_apart: tuple[str, ...]
    needed_prompts: int | None
    nearest: str | None
    text: str


class SensitivityRow(Struct, frozen=True):
    """Who is first for each share of one criterion, the others kept in proportion. first: from which share on, and who.
    text: in words. recommended: for which shares the first is recommended; None if it is tied now."""

    weight: float
    first: tuple[tuple[float, str], ...]
    text: str
    recommended: tuple[float, float] | None = None


class GradedQuality(Struct, frozen=True, kw_only=True):
    """The quality of one candidate by notes, 0 to 100. n: over how many prompts. key_points: its quality by the key
    points on the same prompts."""

    value: float
    ci: tuple[float, float] | None
    n: int
    key_points: float | None


class GradedRow(Struct, frozen=True, kw_only=True):
    """What the notes of one kind say. decides: whether the choice is by them. prompts: for which every candidate has
    notes. with_people: by judge; null if nobody graded the same answers by hand. quality: by candidate."""

    kind: Kind
    decides: bool
    graders: tuple[str, ...]
    prompts: int
    agreement: Agreement | None
    """Of these graders; null for fewer than two."""
    with_people: dict[str, PeopleAgreement | None]
    quality: dict[str, GradedQuality]


class Selection(Struct, frozen=True, kw_only=True):
    """A selection. prompts: how many prompts all compared candidates were asked. left_out: criteria that are not
    compared, with the reason."""

    schema: str
    scenario: str
    runs: tuple[str, ...]
    level: str | None
    throughput_level: str | None
    quality_by: QualityBy
    prompts: int
    policy: PolicyUsed
    candidates: tuple[CandidateRow, ...]
    """In the order of the decision: by utility, then those that are out, by name."""
    decision: Decision
    sensitivity: dict[str, SensitivityRow]
    left_out: dict[str, str]
    graded: tuple[GradedRow, ...]
    """What people and judges say; empty without notes."""
    remarks: tuple[str, ...] = field(name="notes")
