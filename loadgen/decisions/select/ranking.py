"""Compares the candidates that meet the requirements: their values in steps, weights, and who is first. Pure."""

from collections.abc import Sequence
from typing import Final

import numpy as np
from msgspec import Struct

from loadgen.decisions.select.candidate_values import CandidateValues, common_prompts, e2e_matrix, quality_matrix
from loadgen.decisions.select.cost import Cost, not_comparable
from loadgen.decisions.select.criteria import CRITERIA, Criterion, Values, shares_of, steps_of
from loadgen.decisions.select.known import KnownCandidate, why_no_quality
from loadgen.decisions.select.leader import Leader, StepTable, Utilities, chance_of_first, leader_of, utilities_of
from loadgen.decisions.select.policy import Policy
from loadgen.decisions.select.sensitivity import (
    Band,
    acceptability,
    bands_of,
    pareto_front,
    recommended_between,
)
from loadgen.errors import InputError

ENOUGH_KEYS: Final[dict[Criterion, str]] = {
    "quality": "quality",
    "latency": "latency_ms",
    "memory": "memory_mib",
    "throughput": "requests_per_s",
    "cost": "cost",
    "disk": "disk_mib",
}
"""The key of each criterion in the table `enough`."""
ON_THE_CHART: Final[tuple[Criterion, ...]] = ("quality", "latency")


class Ranking(Struct, frozen=True, kw_only=True):
    """The comparison of some candidates, which are numbered in the order of `names`."""

    names: tuple[str, ...]
    prompts: tuple[str, ...]
    values: dict[Criterion, Values]
    """By criterion, in its own unit: candidates × prompts for quality and latency, else one for each candidate."""
    table: StepTable
    shares: dict[Criterion, float]
    utilities: Utilities
    leader: Leader
    chances: tuple[float, ...] | None
    acceptability: tuple[float, ...]
    front: tuple[int, ...]
    """Those on the Pareto front of quality and latency."""
    front_of_all: tuple[int, ...]
    """Those on the Pareto front of all criteria that are known."""
    bands: dict[Criterion, tuple[Band, ...]]
    recommended: dict[Criterion, tuple[float, float] | None]
    """By criterion, its shares for which the first is recommended (`recommended_between`)."""
    left_out: dict[str, str]
    """The criteria that would weigh, and are not known of all candidates, with the reason."""


def ranking_of(compared: Sequence[KnownCandidate], policy: Policy) -> Ranking:
    """The comparison of one candidate or more. Raises InputError if nothing that weighs is known of all of them."""
    own = [each.values for each in compared if each.values is not None]
    prompts = common_prompts(own)
    values, unknown = _values(compared, own, prompts, policy)
    steps = {name: steps_of(name, each, getattr(policy.enough, ENOUGH_KEYS[name])) for name, each in values.items()}
    table = StepTable(
        by_prompt={name: each for name, each in steps.items() if each.ndim == 2},
        of_candidate={name: each for name, each in steps.items() if each.ndim == 1},
        runs=np.array([float(each.runs) for each in own]),
    )
    left_out: dict[str, str] = {name: reason for name, reason in unknown.items() if policy.weights[name] > 0}
    means = table.means
    shares = shares_of(policy.weights, means)
    if not shares:
        reasons = "; ".join(f"{name} {reason}" for name, reason in left_out.items())
        raise InputError(f"nothing that has a weight can be compared: {reasons}; give another criterion a weight")
    utilities = utilities_of(table, shares)
    chart = [means[name] for name in ON_THE_CHART if name in means]
    return Ranking(
        names=tuple(each.name for each in compared),
        prompts=prompts,
        values=values,
        table=table,
        shares=shares,
        utilities=utilities,
        leader=leader_of(utilities),
        chances=chance_of_first(utilities),
        acceptability=acceptability(means, list(shares)),
        front=pareto_front(np.array(chart).T),
        front_of_all=pareto_front(np.array([means[name] for name in CRITERIA if name in means]).T),
        bands={name: bands_of(means, shares, name) for name in shares},
        recommended={name: recommended_between(table, shares, name) for name in shares},
        left_out=left_out,
    )


def _values(
    compared: Sequence[KnownCandidate], own: Sequence[CandidateValues], prompts: Sequence[str], policy: Policy
) -> tuple[dict[Criterion, Values], dict[Criterion, str]]:
    """The values of each criterion that is known of all candidates; and why the others are not."""
    values: dict[Criterion, Values] = {"latency": e2e_matrix(own, prompts)}
    unknown: dict[Criterion, str] = {}
    unmarked = [each for each in compared if each.values is None or not set(prompts) <= set(each.values.quality)]
    if unmarked:
        stages = [stage for each in unmarked for stage in each.stages]
        unknown["quality"] = f"{_unknown_for(unmarked, compared)}: {why_no_quality(stages, policy)}"
    else:
        values["quality"] = quality_matrix(own, prompts)
    amounts: dict[Criterion, tuple[list[float | None], str]] = {
        "memory": ([each.facts.memory_mib.value for each in compared], "give it with --facts"),
        "throughput": ([each.requests_per_s for each in own], "no steady window; play more requests"),
        "disk": ([each.facts.disk_mib.value for each in compared], "give it with --facts"),
    }
    for name, (column, remedy) in amounts.items():
        lacking = [each for each, value in zip(compared, column, strict=True) if not value]
        if lacking:
            unknown[name] = f"{_unknown_for(lacking, compared)}: {remedy}"
        else:
            values[name] = np.array([value or 0.0 for value in column])
    costs = {each.name: each.cost for each in compared if each.cost is not None}
    if (why := _why_no_cost(costs)) is not None:
        unknown["cost"] = why
    else:
        values["cost"] = np.array([cost.per_1000 for cost in costs.values()], dtype=np.float64)
    return values, unknown


def _why_no_cost(costs: dict[str, Cost]) -> str | None:
    reasons = {cost.unknown for cost in costs.values()}
    if len(reasons) == 1 and None not in reasons and len(costs) > 1:
        return f"unknown for all: {reasons.pop()}"
    if (why := not_comparable(costs)) is not None:
        return why
    free = [name for name, cost in costs.items() if not cost.per_1000]
    return f"is 0 for {', '.join(free)}" if free else None


def _unknown_for(lacking: Sequence[KnownCandidate], compared: Sequence[KnownCandidate]) -> str:
    if len(lacking) == len(compared) > 1:
        return "unknown for all"
    return f"unknown for {', '.join(each.name for each in lacking)}"
