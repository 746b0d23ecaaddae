"""What is known of each candidate by itself: facts, cost, values, and whether it meets what is required. Pure."""

import math
from collections.abc import Sequence

import msgspec
import numpy as np
from msgspec import Struct

from loadgen.decisions.candidates.candidate import Candidate, Levels
from loadgen.decisions.candidates.runs import StageResult
from loadgen.decisions.select.candidate_values import CandidateValues, quality_with_interval, too_few_prompts, values_of
from loadgen.decisions.select.cost import GIVEN, Cost, cost_of
from loadgen.decisions.select.facts import Facts, ModelFact, facts_of
from loadgen.decisions.select.given import given_for
from loadgen.decisions.select.policy import Policy
from loadgen.decisions.select.requirements import (
    Check,
    MeasuredValue,
    RequirementEvidence,
    checks_of,
    evidence_counts,
    missed_requirements,
)


class KnownCandidate(Struct, frozen=True, kw_only=True):
    """One candidate before it is compared with others."""

    candidate: Candidate
    stages: tuple[StageResult, ...]
    """Its valid stages at the level of the answers, one for each run; empty if it has none."""
    facts: Facts
    cost: Cost | None
    """None without such a stage, as the next field."""
    values: CandidateValues | None
    checks: tuple[Check, ...] = ()
    out: str | None = None
    """Why it is not compared; None if it is."""

    @property
    def name(self) -> str:
        return self.candidate.name


def known_candidates(
    candidates: Sequence[Candidate], levels: Levels | None, policy: Policy
) -> tuple[KnownCandidate, ...]:
    """What is known of each candidate, in their order."""
    known = [_known(candidate, levels, policy) for candidate in candidates]
    places = [at for at, each in enumerate(known) if each.out is None]
    few = too_few_prompts([values for at in places if (values := known[at].values) is not None])
    for number, reason in few.items():
        known[places[number]] = msgspec.structs.replace(known[places[number]], out=reason)
    return tuple(known)


def _known(candidate: Candidate, levels: Levels | None, policy: Policy) -> KnownCandidate:
    given = given_for(policy.given, candidate.model, candidate.target, candidate.device)
    facts = facts_of([[stage.summary for stage in stages] for stages in candidate.runs], given)
    stages = () if levels is None else candidate.at(levels.of_answers)
    if levels is None or not stages:
        out = candidate.why_not_at(policy.level if levels is None else levels.of_answers)
        return KnownCandidate(candidate=candidate, stages=(), facts=facts, cost=None, values=None, out=out)
    values = values_of(candidate, levels)
    cost = cost_of([stage.summary for stage in stages], [stage.power for stage in stages], policy.cost)
    checks = checks_of(policy.require, _evidence(stages, values, facts, cost, policy), policy.bound)
    failed = "; ".join(check.text for check in missed_requirements(checks))
    return KnownCandidate(
        candidate=candidate, stages=stages, facts=facts, cost=cost, values=values, checks=checks, out=failed or None
    )


def _evidence(
    stages: Sequence[StageResult], values: CandidateValues, facts: Facts, cost: Cost, policy: Policy
) -> RequirementEvidence:
    slo, answered = evidence_counts(stages)
    quality = MeasuredValue(None)
    if values.quality:
        mean, interval = quality_with_interval(np.array(list(values.quality.values())))
        quality = MeasuredValue(mean, *(interval or (None, None)))
    return RequirementEvidence(
        facts=facts,
        quality=quality,
        quality_unknown=why_no_quality(stages, policy),
        latency_ms=_median_e2e(stages),
        slo=slo,
        answered=answered,
        cost=ModelFact()
        if cost.per_1000 is None
        else ModelFact(cost.per_1000, "given" if cost.source == GIVEN else "measured"),
        cost_unknown=cost.unknown or "",
    )


def _median_e2e(stages: Sequence[StageResult]) -> MeasuredValue:
    """The p50 of E2E: the mean over runs, with the outer ends of their intervals."""
    metrics = [metric for stage in stages if (metric := stage.summary.metric("e2e_ms")) is not None]
    medians = [median for metric in metrics if (median := metric.percentile("p50")).value is not None]
    if not medians:
        return MeasuredValue(None)
    values = [median.value for median in medians if median.value is not None]
    lows = [median.low for median in medians if median.low is not None]
    highs = [median.high for median in medians if median.high is not None]
    return MeasuredValue(math.fsum(values) / len(values), min(lows, default=None), max(highs, default=None))


def why_no_quality(stages: Sequence[StageResult], policy: Policy) -> str:
    """How to get a quality where it is not known."""
    match policy.quality_by:
        case "hand":
            return "no prompt has notes for every candidate; write some with loadgen grade RUN --by NAME"
        case "judge":
            hint = "ask a judge with loadgen grade RUN --judge URL --judge-model NAME"
            return f"no prompt has verdicts for every candidate; {hint}"
    if not any(answer.scored is not None for stage in stages for answer in stage.answers):
        if any(answer.text is not None for stage in stages for answer in stage.answers):
            return "the run folder has no prompts.jsonl that can be read, so its answers cannot be scored"
        return "the texts were not kept; play with --set keep_text=true"
    return "the prompts have no key points; add key_points to them"
