"""Whether a candidate meets what is required, and why. What is not known does not meet a requirement. Pure."""

import math
from collections.abc import Sequence
from typing import Final, Literal

import msgspec
from msgspec import UNSET, Struct

from loadgen.decisions.candidates.runs import StageResult
from loadgen.decisions.select.facts import Facts, ModelFact
from loadgen.decisions.select.policy import COMMERCIAL, Bound
from loadgen.scenario import Requirements
from loadgen.targets.licenses import license_named

GIVE_FACTS: Final = "give it with --facts"


class MeasuredValue(Struct, frozen=True):
    """A measured value that has an interval. A missing end is the value itself."""

    value: float | None
    low: float | None = None
    high: float | None = None


class Check(Struct, frozen=True, kw_only=True):
    """One requirement of one candidate."""

    key: str
    asked: object
    observed: object
    """None: not known."""
    holds: bool
    why: str
    """Where the value comes from: `measured`, `card`, `given` or `unknown`."""
    text: str
    """The requirement and the value in words; for one that does not hold, also what can be done."""
    distance: float
    """By how much it fails: 0 if it holds, then in halvings or doublings; infinite if it is not known, or not a
    number."""


class RequirementEvidence(Struct, frozen=True, kw_only=True):
    """What is known of a candidate."""

    facts: Facts
    quality: MeasuredValue
    quality_unknown: str
    """How to get a quality, if it is not known."""
    latency_ms: MeasuredValue
    slo: tuple[int, int] | None
    """How many requests met the SLO, of how many; None without an SLO that can be judged."""
    answered: tuple[int, int]
    """How many requests were answered, of how many."""
    cost: ModelFact[float]
    """Of 1,000 requests; `given` if the power is."""
    cost_unknown: str


def evidence_counts(stages: Sequence[StageResult]) -> tuple[tuple[int, int] | None, tuple[int, int]]:
    """How many requests met the SLO, and how many were answered, each of how many, over all runs."""
    planned = [stage.summary.requests for stage in stages if stage.summary.requests is not UNSET]
    answered = (sum(each.ok for each in planned), sum(each.planned for each in planned))
    judged = [stage.summary.slo for stage in stages if stage.summary.slo is not None]
    if not judged or any(each.share is None for each in judged):
        return None, answered
    return (sum(each.met for each in judged), answered[1]), answered


class Quantity(Struct, frozen=True):
    """A number that is required, in words. remedy: how to get it where it is not known. shown_end: of which end of its
    interval it is."""

    name: str
    unit: str
    remedy: str
    shown_end: str = ""


def checks_of(require: Requirements, evidence: RequirementEvidence, bound: Bound) -> tuple[Check, ...]:
    """Each requirement that is asked, in the order of the keys."""
    checks = []
    for key in Requirements.__struct_fields__:
        asked = getattr(require, key)
        if asked not in (None, ()) and key != "accept_licenses":
            checks.append(_check(key, asked, require, evidence, bound))
    return tuple(checks)


def _check(key: str, asked: object, require: Requirements, evidence: RequirementEvidence, bound: Bound) -> Check:
    facts = evidence.facts
    match key:
        case "license":
            return _license(str(asked), require.accept_licenses, facts)
        case "memory_mib":
            return _most(key, asked, facts.memory_mib, Quantity("memory", " MiB", GIVE_FACTS))
        case "disk_mib":
            return _most(key, asked, facts.disk_mib, Quantity("disk", " MiB", GIVE_FACTS))
        case "context_tokens":
            return _least(key, asked, facts.context_tokens, Quantity("context", " tokens", GIVE_FACTS))
        case "quality":
            value = _measured(_end(evidence.quality, "low", bound))
            return _least(
                key, asked, value, Quantity("quality", "", evidence.quality_unknown, _shown_end("lower", bound))
            )
        case "latency_ms":
            value = _measured(_end(evidence.latency_ms, "high", bound))
            median = Quantity("median E2E", " ms", "play more requests", _shown_end("upper", bound))
            return _most(key, asked, value, median)
        case "slo_share":
            within = Quantity("within the SLO", " %", "set limits in the scenario's [slo]", _shown_end("lower", bound))
            return _least(key, asked, _measured(_share(evidence.slo, bound)), within)
        case "ok_share":
            answered = Quantity("answered", " %", "", _shown_end("lower", bound))
            return _least(key, asked, _measured(_share(evidence.answered, bound)), answered)
        case "cost":
            return _most(key, asked, evidence.cost, Quantity("cost", " per 1,000", evidence.cost_unknown))
        case "device":
            return _device(str(asked), facts)
        case _:
            return _capabilities(tuple(require.capabilities), facts)


def _measured(value: float | None) -> ModelFact[float]:
    return ModelFact() if value is None else ModelFact(value, "measured")


def _end(measured: MeasuredValue, end: str, bound: Bound) -> float | None:
    if bound == "estimate":
        return measured.value
    known: float | None = getattr(measured, end)
    return measured.value if known is None else known


def _shown_end(end: Literal["lower", "upper"], bound: Bound) -> str:
    """What is said of a number that may be an end of its interval and not the estimate."""
    return "" if bound == "estimate" else f" ({end} end of its interval)"


def _share(counts: tuple[int, int] | None, bound: Bound) -> float | None:
    """A share of requests; or the lower end of its 95 % interval (Clopper & Pearson, Biometrika 26 (1934), 404–413)."""
    if counts is None or not counts[1]:
        return None
    met, planned = counts
    if bound == "estimate":
        return met / planned
    if met == 0:
        return 0.0
    from scipy.special import betaincinv  # imported here, because no other command needs it

    return float(betaincinv(met, planned - met + 1, 0.025))


def _least(key: str, asked: object, fact: ModelFact[float] | ModelFact[int], quantity: Quantity) -> Check:
    return _numeric(key, asked, fact, quantity, 1)


def _most(key: str, asked: object, fact: ModelFact[float] | ModelFact[int], quantity: Quantity) -> Check:
    return _numeric(key, asked, fact, quantity, -1)


def _numeric(
    key: str,
    asked: object,
    fact: ModelFact[float] | ModelFact[int],
    quantity: Quantity,
    direction: Literal[1, -1],
) -> Check:
    """direction: 1 for a floor, −1 for a ceiling."""
    assert isinstance(asked, int | float)
    if fact.value is None:
        text = f"{quantity.name} unknown: {quantity.remedy}"
        return Check(key=key, asked=asked, observed=None, holds=False, why="unknown", text=text, distance=math.inf)
    value = float(fact.value)
    holds = direction * value >= direction * asked
    distance = 0.0 if holds else math.inf if min(value, asked) <= 0 else abs(math.log2(value / asked))
    limit = f"{_number(quantity, asked)} {'or more' if direction > 0 else 'at most'}"
    text = f"{quantity.name} {_number(quantity, value)}{quantity.unit}{quantity.shown_end}, {limit}"
    return Check(
        key=key, asked=asked, observed=_rounded(value), holds=holds, why=fact.source, text=text, distance=distance
    )


def _number(quantity: Quantity, value: float) -> str:
    if quantity.unit == " %":
        return f"{100 * value:.3g}"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _rounded(value: float) -> float | int:
    return int(value) if value == int(value) else float(f"{value:.6g}")


def _license(asked: str, accepted: Sequence[str], facts: Facts) -> Check:
    known, commercial = facts.license, facts.commercial

    def check(holds: object, text: str, why: str) -> Check:
        known_value = known.value
        distance = 0.0 if holds else math.inf
        return Check(
            key="license", asked=asked, observed=known_value, holds=bool(holds), why=why, text=text, distance=distance
        )

    if known.value is None and commercial.value is None:
        return check(False, f"license unknown: {GIVE_FACTS}", "unknown")
    name = known.value or "license"
    if asked.casefold() != COMMERCIAL:
        same = (license_named(asked) or asked).casefold() == (known.value or "").casefold()
        return check(same, f"license {name}, {asked} asked", known.source)
    accepts = {(license_named(each) or each).casefold() for each in accepted}
    match commercial.value:
        case "yes":
            return check(True, f"{name} allows commercial use", commercial.source)
        case "no":
            return check(False, f"{name} does not allow commercial use", commercial.source)
        case "conditions" if name.casefold() in accepts:
            return check(True, f"{name} allows commercial use on conditions, which are accepted", commercial.source)
        case "conditions":
            remedy = f"accept them with --require license=commercial,accept_licenses={name}"
            return check(False, f"{name} allows commercial use on conditions: {remedy}", commercial.source)
    return check(False, f"whether {name} allows commercial use is unknown: {GIVE_FACTS}", "unknown")


def _device(asked: str, facts: Facts) -> Check:
    known_value = facts.device.value
    holds = known_value is not None and known_value.casefold() == asked.casefold()
    text = f"device unknown: {GIVE_FACTS}" if known_value is None else f"device {known_value.lower()}, {asked} asked"
    return Check(
        key="device",
        asked=asked,
        observed=known_value,
        holds=holds,
        why=facts.device.source,
        text=text,
        distance=0.0 if holds else math.inf,
    )


def _capabilities(asked: tuple[str, ...], facts: Facts) -> Check:
    known_value = facts.capabilities.value
    have = {word.casefold() for word in known_value or ()}
    lacking = [word for word in asked if word.casefold() not in have]
    if known_value is None:
        text = f"capabilities unknown: {GIVE_FACTS}"
    else:
        text = f"lacks {', '.join(lacking)}" if lacking else f"can {', '.join(asked)}"
    return Check(
        key="capabilities",
        asked=list(asked),
        observed=None if known_value is None else list(known_value),
        holds=not lacking,
        why=facts.capabilities.source,
        text=text,
        distance=math.inf if lacking else 0.0,
    )


def missed_requirements(checks: Sequence[Check]) -> tuple[Check, ...]:
    """The requirements that do not hold."""
    return tuple(check for check in checks if not check.holds)


def require_data(require: Requirements) -> dict[str, object]:
    """The requirements that are asked, as plain values."""
    data = msgspec.to_builtins(require)
    return {key: value for key, value in data.items() if value not in (None, [], ())}
