"""The verdict on each figure: worse, better, the same, or unknown, and how many runs would decide. Pure."""

import math
from collections.abc import Sequence
from typing import Final, Literal

import numpy as np
from msgspec import Struct

from loadgen.decisions.compare.figures import FigureTable
from loadgen.decisions.compare.noise import RunSpread
from loadgen.plan.rng import generator
from loadgen.stats import permutation
from loadgen.stats.permutation import Effects, Figures

ComparisonVerdict = Literal["worse", "better", "same", "unknown"]
Design = Literal["runs", "blocks", "few"]
"""How chance is judged: by exchanging runs, by swapping the two runs of each block, or by given standard errors."""

MIN_POINTS: Final = 0.01
"""A smaller difference of shares never fails the gate."""
BEYOND: Final = f"more than {permutation.MAX_RUNS}"
_ENDLESS: Final = 1_000_000_000
"""Degrees of freedom at which Student's t is practically the normal distribution."""


class Limits(Struct, frozen=True, kw_only=True):
    """The limits by which differences are judged; all are shares of one."""

    margin: float = 0.05
    """Changes up to this size count as the same; also the effect for which the number of needed runs is computed."""
    min_effect: float = 0.02
    """A smaller regression never fails the gate, however certain."""
    alpha: float = 0.05
    """How often a comparison of equal sides may call something worse."""


class RunEvidence(Struct, frozen=True):
    """The evidence of the runs about all figures."""

    design: Design
    effects: Effects
    """The effects on the scale of `FigureTable.scaled`; above 0 is worse."""
    p_worse: Figures
    p_better: Figures
    spread: Figures
    """Standard deviation of each figure over runs."""


class JudgedFigure(Struct, frozen=True):
    """The result for one figure."""

    verdict: ComparisonVerdict
    effect: float
    """NEW relative to BASE: a ratio; for a share, the difference as a share of one."""
    interval: tuple[float, float]
    """The 95 % interval of the effect."""
    p_worse: float
    p_better: float
    runs_needed: int | str | None
    """Runs a side, or blocks, that would probably show a difference as large as the margin; None unless it is
    unknown."""
    worst: float
    """The largest amount by which it may be worse, with 95 % confidence, as a share of one."""


def evidence_of_runs(table: FigureTable, base: int) -> RunEvidence:
    """The evidence from exchanging runs between the sides. base: the number of BASE's runs, which come first."""
    of_base, of_new = table.scaled[:base], table.scaled[base:]
    effects = permutation.effects_of_runs(of_base, of_new)
    return RunEvidence(
        "runs",
        effects,
        permutation.p_higher_of_runs(of_base, of_new, generator(1, "compare")),
        permutation.p_higher_of_runs(-of_base, -of_new, generator(1, "compare")),
        effects.error / math.sqrt(1 / len(of_base) + 1 / len(of_new)),
    )


def evidence_of_blocks(table: FigureTable, base: int) -> RunEvidence:
    """The evidence from swapping the two runs of each block. base: the number of blocks; block i has run i of BASE and
    run i of NEW."""
    differences = table.scaled[base:] - table.scaled[:base]
    return RunEvidence(
        "blocks",
        permutation.effects_of_blocks(differences),
        permutation.p_higher_of_blocks(differences, generator(1, "compare")),
        permutation.p_higher_of_blocks(-differences, generator(1, "compare")),
        permutation.spread_in_blocks(differences),
    )


def evidence_of_few(table: FigureTable, base: int, within: Figures, spread: RunSpread) -> RunEvidence:
    """The evidence from standard errors within runs, and from the noise between runs. within: runs × figures."""
    new = len(table.scaled) - base
    effect = table.scaled[base:].mean(0) - table.scaled[:base].mean(0)
    own = (within[:base] ** 2).sum(0) / base**2 + (within[base:] ** 2).sum(0) / new**2
    error = np.sqrt(own + spread.sd**2 * (1 / base + 1 / new))
    degrees = _ENDLESS if math.isinf(spread.degrees) else int(spread.degrees)
    return RunEvidence(
        "few",
        Effects(effect, error, degrees),
        permutation.p_higher_of_errors(effect, error, spread.degrees),
        permutation.p_higher_of_errors(-effect, error, spread.degrees),
        np.sqrt((within**2).mean(0) + spread.sd**2),
    )


def judged_figures(table: FigureTable, base: int, evidence: RunEvidence, limits: Limits) -> tuple[JudgedFigure, ...]:
    """The result for each figure of the table."""
    reach95, reach90 = evidence.effects.reach(0.95), evidence.effects.reach(0.90)
    return tuple(
        _judged(table, base, evidence, limits, i, float(reach95[i]), float(reach90[i])) for i in range(len(table.keys))
    )


def _judged(
    table: FigureTable, base: int, evidence: RunEvidence, limits: Limits, i: int, reach95: float, reach90: float
) -> JudgedFigure:
    mean = float(evidence.effects.mean[i])
    p_worse, p_better = float(evidence.p_worse[i]), float(evidence.p_better[i])
    scale = _Scale(table, base, i)
    worse_by, least = scale.worse_by(mean), scale.least_effect(limits.min_effect)
    ends90 = sorted((scale.shown(mean - reach90), scale.shown(mean + reach90)))
    verdict: ComparisonVerdict
    if p_worse <= limits.alpha and worse_by >= least:
        verdict = "worse"
    elif p_better <= limits.alpha and -worse_by >= least:
        verdict = "better"
    else:
        verdict = "same" if scale.lies_within(ends90, limits.margin) else "unknown"
    low, high = sorted((scale.shown(mean - reach95), scale.shown(mean + reach95)))
    return JudgedFigure(
        verdict=verdict,
        effect=scale.effect(mean),
        interval=(low, high),
        p_worse=p_worse,
        p_better=p_better,
        runs_needed=_runs_needed(table, evidence, limits, i) if verdict == "unknown" else None,
        worst=scale.worst(mean + reach90),
    )


class _Scale:
    """Converts a difference on the scale of a figure: to a ratio, or for shares to points."""

    def __init__(self, table: FigureTable, base: int, i: int) -> None:
        self._key = table.keys[i]
        self._is_share = self._key.unit == "share"
        values = table.values[:, i]
        self._points = float(values[base:].mean() - values[:base].mean()) if self._is_share else 0.0
        self._base = self._key.sign * float(table.scaled[:base, i].mean())

    def shown(self, difference: float) -> float:
        """A difference of NEW relative to BASE: a ratio, or points."""
        turned = self._key.sign * difference
        return _expit(self._base + turned) - _expit(self._base) if self._is_share else _exp(turned)

    def effect(self, difference: float) -> float:
        return self._points if self._is_share else self.shown(difference)

    def worse_by(self, difference: float) -> float:
        """The logarithm of a ratio, or points; above 0 is worse."""
        return -self._points if self._is_share else difference

    def least_effect(self, min_effect: float) -> float:
        return MIN_POINTS if self._is_share else math.log1p(min_effect)

    def lies_within(self, ends: Sequence[float], margin: float) -> bool:
        if self._is_share:
            return -margin <= ends[0] and ends[1] <= margin
        return 1 / (1 + margin) <= ends[0] and ends[1] <= 1 + margin

    def worst(self, difference: float) -> float:
        return -self.shown(difference) if self._is_share else _exp(difference) - 1


def _runs_needed(table: FigureTable, evidence: RunEvidence, limits: Limits, i: int) -> int | str | None:
    if table.keys[i].unit == "share":
        return None
    needed = permutation.blocks_needed if evidence.design == "blocks" else permutation.runs_needed
    spread, margin = float(evidence.spread[i]), math.log1p(limits.margin)
    return needed(spread, margin, len(table.keys), alpha=limits.alpha) or BEYOND


def overall(verdicts: Sequence[ComparisonVerdict]) -> ComparisonVerdict:
    """The verdict on all figures: worse if any is worse; otherwise better if any is better; the same if all are."""
    if "worse" in verdicts:
        return "worse"
    if "better" in verdicts:
        return "better"
    return "same" if all(verdict == "same" for verdict in verdicts) else "unknown"


def _exp(value: float) -> float:
    return math.exp(min(value, 700.0))


def _expit(value: float) -> float:
    return 1 / (1 + _exp(-value))
