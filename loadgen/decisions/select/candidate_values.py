"""The values by which candidates are compared, by prompt, and their means. Pure."""

import math
from collections.abc import Sequence
from typing import Final

import numpy as np
from msgspec import Struct

from loadgen.decisions.candidates.candidate import Candidate, Levels
from loadgen.decisions.select.criteria import Values
from loadgen.stats.mean import mean_interval

LEAST_PROMPTS: Final = 0.5
"""A candidate that has fewer of the prompts than this share is not compared with the others."""


class CandidateValues(Struct, frozen=True, kw_only=True):
    """The measured values of one candidate, each the mean over the runs that have it."""

    runs: int
    """How many runs have a valid stage at the level of the answers."""
    quality: dict[str, float]
    """By prompt, 0 to 100; empty if it is not known."""
    e2e_ms: dict[str, float]
    """By prompt, the geometric mean."""
    prompts: frozenset[str]
    """The prompts that it was asked."""
    requests_per_s: float | None
    """At the level of throughput: the geometric mean."""


def values_of(candidate: Candidate, levels: Levels) -> CandidateValues:
    """The values of a candidate that has a valid stage at the level of the answers."""
    stages = candidate.at(levels.of_answers)
    rates = [stage.requests_per_s for stage in candidate.at(levels.of_throughput)]
    known = [rate for rate in rates if rate]
    return CandidateValues(
        runs=len(stages),
        quality=_mean_by_prompt([stage.quality for stage in stages]),
        e2e_ms=_geometric_by_prompt([stage.e2e_ms for stage in stages]),
        prompts=frozenset().union(*(stage.prompts for stage in stages)),
        requests_per_s=math.exp(math.fsum(map(math.log, known)) / len(known)) if known else None,
    )


def _mean_by_prompt(runs: Sequence[dict[str, float]]) -> dict[str, float]:
    """By prompt, the mean over the runs that have it."""
    collected: dict[str, list[float]] = {}
    for run in runs:
        for prompt, value in run.items():
            collected.setdefault(prompt, []).append(value)
    return {prompt: math.fsum(values) / len(values) for prompt, values in sorted(collected.items())}


def _geometric_by_prompt(runs: Sequence[dict[str, float]]) -> dict[str, float]:
    logarithms = _mean_by_prompt([{prompt: math.log(value) for prompt, value in run.items()} for run in runs])
    return {prompt: math.exp(value) for prompt, value in logarithms.items()}


def too_few_prompts(values: Sequence[CandidateValues]) -> dict[int, str]:
    """The candidates that were asked less than half of the prompts of the others, with the reason: they would leave too
    few prompts to compare all by."""
    most = max((len(each.prompts) for each in values), default=0)
    return {
        at: f"was asked {len(each.prompts)} of {most} prompts"
        for at, each in enumerate(values)
        if len(each.prompts) < LEAST_PROMPTS * most
    }


def common_prompts(values: Sequence[CandidateValues]) -> tuple[str, ...]:
    """The prompts that all candidates were asked; those with a quality alone, if all candidates have some."""
    prompts = frozenset.intersection(*(each.prompts for each in values)) if values else frozenset()
    marked = prompts.intersection(*(each.quality for each in values))
    return tuple(sorted(marked or prompts))


def quality_matrix(values: Sequence[CandidateValues], prompts: Sequence[str]) -> Values:
    """The quality of each candidate for each prompt."""
    return np.array([[each.quality[prompt] for prompt in prompts] for each in values])


def e2e_matrix(values: Sequence[CandidateValues], prompts: Sequence[str]) -> Values:
    """The E2E of each candidate for each prompt, ms. A prompt that a candidate never answered has its geometric mean,
    which leaves that as it is: what the failure costs is in its quality."""
    rows = []
    for each in values:
        own = [math.log(each.e2e_ms[prompt]) for prompt in prompts if prompt in each.e2e_ms]
        middle = math.exp(math.fsum(own or map(math.log, each.e2e_ms.values())) / len(own or each.e2e_ms))
        rows.append([each.e2e_ms.get(prompt, middle) for prompt in prompts])
    return np.array(rows)


def mean_with_interval(values: Values) -> tuple[float, tuple[float, float] | None]:
    """The mean of some values and its 95 % interval by Student's t; no interval for fewer than two."""
    return float(values.mean()), mean_interval(values.tolist())


def quality_with_interval(values: Values) -> tuple[float, tuple[float, float] | None]:
    """As `mean_with_interval`, for values from 0 to 100, which an interval does not leave."""
    mean, interval = mean_with_interval(values)
    return mean, None if interval is None else (max(0.0, interval[0]), min(100.0, interval[1]))
