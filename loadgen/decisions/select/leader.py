"""Who is first, who cannot be told apart from the first, and how many prompts would tell. Pure; knows no names.

The utility of a candidate is a mean over prompts, and all candidates answered the same prompts. So the difference of
two candidates has a paired interval (Student's t over prompts). It also contains the noise between runs, which more
prompts do not reduce: half-widths of independent parts add like the legs of a right triangle (Zou & Donner, Statistics
in Medicine 27 (2008), 1693–1702).

The intervals hold for all pairs at once (Bonferroni). The k − 1 comparisons with the first are not enough, because the
same data chose who is first. Candidates that the first leads for sure leave, and the others are compared again, which
takes fewer pairs: a model confidence set (Hansen, Lunde & Nason, Econometrica 79 (2011), 453–497). It holds all of the
best in 95 % of selections. `benchmarks/choice.py` measures how often each way is wrong.
"""

import math
from collections.abc import Mapping
from typing import Final

import numpy as np
from msgspec import Struct

from loadgen.decisions.select.criteria import Criterion, Values, run_noise
from loadgen.plan.rng import generator
from loadgen.stats.mean import student_quantile

CONFIDENCE: Final = 0.95
POWER: Final = 0.8
"""How often as many prompts as `needed_prompts` show the difference."""
DRAWS: Final = 4_000
MOST_PROMPTS: Final = 10_000
"""If it takes more prompts than this to tell two candidates apart, they are as good as equal."""
_ROUNDING: Final = 1e-9
"""The largest difference in steps that is only rounding."""


class StepTable(Struct, frozen=True):
    """The values of k candidates in steps; more is better."""

    by_prompt: dict[Criterion, Values]
    """The criteria that have a value for each of n prompts: k × n."""
    of_candidate: dict[Criterion, Values]
    """The criteria that have one value for each candidate: k."""
    runs: Values
    """How many runs of each candidate were averaged: k."""

    @property
    def means(self) -> dict[Criterion, Values]:
        """The mean of each criterion: k."""
        return {name: values.mean(1) for name, values in self.by_prompt.items()} | self.of_candidate

    def take(self, rows: list[int]) -> "StepTable":
        """The table of some of the candidates."""
        by_prompt = {name: values[rows] for name, values in self.by_prompt.items()}
        of_candidate = {name: values[rows] for name, values in self.of_candidate.items()}
        return StepTable(by_prompt, of_candidate, self.runs[rows])


class Utilities(Struct, frozen=True):
    """The weighted sums of a table, in steps."""

    by_prompt: Values | None
    """k × n; None if no criterion that has a value for each prompt weighs anything."""
    mean: Values
    """k."""
    noise: Values
    """The standard deviation between runs: k."""


class Lead(Struct, frozen=True):
    """The lead of the first candidate over another, in steps, with its interval for all pairs of those that were still
    compared. The interval is None if there are too few prompts for one."""

    steps: float
    ci: tuple[float, float] | None


class Leader(Struct, frozen=True):
    """Who is first among candidates that are numbered from 0."""

    first: int
    """The first by estimate; of equals, the one with the lowest number."""
    leads: tuple[Lead | None, ...]
    """The lead of the first over each candidate; None for the first itself."""
    not_told_apart: tuple[int, ...]
    """The first, then those over which its lead may be 0, by estimate. If it is alone, it is shown to be the first."""
    needed_prompts: int | None
    """About how many prompts would show that the first leads all of them. None if it is alone, or if no number up to
    `MOST_PROMPTS` would."""


def utilities_of(table: StepTable, shares: Mapping[Criterion, float]) -> Utilities:
    """The utilities of a table. shares: with the sum 1, and only of criteria of the table."""
    fixed = np.zeros(len(table.runs))
    for name, values in table.of_candidate.items():
        fixed = fixed + shares.get(name, 0.0) * values
    noise = run_noise(shares, table.runs)
    weighed = {name: values for name, values in table.by_prompt.items() if shares.get(name, 0.0) > 0}
    if not weighed:
        return Utilities(None, fixed, noise)
    by_prompt = fixed[:, None] + sum(shares[name] * values for name, values in weighed.items())
    return Utilities(by_prompt, by_prompt.mean(1), noise)


def leader_of(utilities: Utilities, confidence: float = CONFIDENCE) -> Leader:
    """Who is first, and how sure that is."""
    mean, count = utilities.mean, len(utilities.mean)
    first = int(np.flatnonzero(mean >= mean.max() - _ROUNDING)[0])
    leads: list[Lead | None] = [None] * count
    alike = sorted(range(count), key=lambda other: (other != first, -mean[other], other))
    compared = 0
    while len(alike) != compared:
        compared = len(alike)
        tail = (1 - confidence) / max(2, compared * (compared - 1))
        for other in alike[1:]:
            leads[other] = _lead(utilities, first, other, tail)
        alike = [other for other in alike if (lead := leads[other]) is None or _may_be_equal(lead)]
    needed = [_needed_prompts(utilities, first, other, tail) for other in alike[1:]]
    known = [number for number in needed if number is not None]
    return Leader(
        first=first,
        leads=tuple(leads),
        not_told_apart=tuple(alike),
        needed_prompts=max(known) if known and len(known) == len(needed) else None,
    )


def _may_be_equal(lead: Lead) -> bool:
    return lead.ci is None or lead.ci[0] <= _ROUNDING


def _lead(utilities: Utilities, first: int, other: int, tail: float) -> Lead:
    steps = float(utilities.mean[first] - utilities.mean[other])
    noise = _normal_quantile(1 - tail) * math.hypot(utilities.noise[first], utilities.noise[other])
    if utilities.by_prompt is None:
        return Lead(steps, (steps - noise, steps + noise))
    differences = utilities.by_prompt[first] - utilities.by_prompt[other]
    if len(differences) < 2:
        return Lead(steps, None)
    half = student_quantile(1 - tail, len(differences) - 1) * standard_error(differences)
    reach = math.hypot(half, noise)
    return Lead(steps, (steps - reach, steps + reach))


def _needed_prompts(utilities: Utilities, first: int, other: int, tail: float) -> int | None:
    """About how many prompts give an interval above 0 in `POWER` of all cases; None if more than `MOST_PROMPTS`."""
    if utilities.by_prompt is None or utilities.by_prompt.shape[1] < 2:
        return None
    differences = utilities.by_prompt[first] - utilities.by_prompt[other]
    lead, spread = float(differences.mean()), float(differences.std(ddof=1))
    noise = math.hypot(utilities.noise[first], utilities.noise[other])
    prompts = int(differences.size)
    for _ in range(8):  # the quantile depends on the number of prompts, and settles at once
        quantile = student_quantile(1 - tail, prompts - 1) + _normal_quantile(POWER)
        left = (lead / quantile) ** 2 - noise**2 if lead > 0 else 0.0
        if left <= 0 or spread**2 / left > MOST_PROMPTS:
            return None
        prompts = max(2, math.ceil(spread**2 / left))
    return max(prompts, int(differences.size) + 1)


def chance_of_first(utilities: Utilities) -> tuple[float, ...] | None:
    """How often each candidate is first when the prompts are drawn again; None if there are too few prompts.

    The draws are spread as widely as Student's t is with so many prompts, because plain draws are too sure. Equals
    share a draw.
    """
    rng = generator(1, "select", "chance of first")
    count = len(utilities.mean)
    drawn = utilities.mean[:, None] + utilities.noise[:, None] * rng.standard_normal((count, DRAWS))
    if utilities.by_prompt is not None:
        prompts = utilities.by_prompt.shape[1]
        if prompts < 2:
            return (1.0,) if count == 1 else None
        weights = rng.multinomial(prompts, np.full(prompts, 1 / prompts), size=DRAWS) / prompts
        width = math.sqrt(prompts / (prompts - 1)) * student_quantile(0.975, prompts - 1) / _normal_quantile(0.975)
        drawn += (utilities.by_prompt @ weights.T - utilities.mean[:, None]) * width
    best = drawn >= drawn.max(0) - _ROUNDING
    return tuple(float(chance) for chance in (best / best.sum(0)).mean(1))


def _normal_quantile(p: float) -> float:
    from scipy.special import ndtri

    return float(ndtri(p))


def standard_error(values: Values) -> float:
    """The standard error of the mean of two or more values."""
    return float(values.std(ddof=1)) / math.sqrt(values.size)
