"""A comparison as data, in the form of `comparison.json`, and the function that makes it. Reads only earlier runs."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Literal

import numpy as np
from msgspec import Struct

from loadgen.decisions.compare.differences import Degraded, Difference, NotAlikeError, degraded_stages, differences_of
from loadgen.decisions.compare.figures import DEFAULT_METRICS, GOODPUT, FigureKey, FigureTable, Unit, table_of
from loadgen.decisions.compare.noise import Noise, noise_of_blocks, noise_of_runs, run_spread
from loadgen.decisions.compare.paired_models import LeftOut, PairedModel, paired_models
from loadgen.decisions.compare.sides import Sides
from loadgen.decisions.compare.verdict import (
    ComparisonVerdict,
    Design,
    JudgedFigure,
    Limits,
    RunEvidence,
    evidence_of_blocks,
    evidence_of_few,
    evidence_of_runs,
    judged_figures,
    overall,
)
from loadgen.decisions.compare.within import errors_within
from loadgen.plan.rng import generator
from loadgen.stats.permutation import MIN_EXCHANGES, exchanges_of_runs

SCHEMA: Final = "loadgen.comparison/1"
MIN_BLOCKS: Final = 2
"""A single block is one run against one, and does not show how blocks differ."""


class CompareSettings(Struct, frozen=True, kw_only=True):
    """The settings of a comparison: what to compare, and the limits."""

    limits: Limits = Limits()
    noise: float | None = None
    """The run-to-run noise, for too few runs to measure it; None: learned."""
    metrics: tuple[str, ...] = DEFAULT_METRICS
    levels: tuple[str, ...] = ()
    """The levels to compare; empty: all."""
    pairs: tuple[tuple[str, str], ...] = ()
    """Pairs of different names that correspond, in BASE and NEW."""
    unlike: Literal["refuse", "accept"] = "refuse"
    """What to do with sides that are not alike."""


class Figure(Struct, frozen=True, kw_only=True):
    """One metric of one model at one level, or over all levels."""

    model: tuple[str, str]
    """Its names in BASE and in NEW."""
    level: str | None
    """None: the mean over all levels."""
    metric: str
    unit: Unit
    base: float | None
    """Geometric mean over runs; for a share, the mean; None over all levels."""
    new: float | None
    ratio: float | None
    """NEW divided by BASE; None for a share."""
    ratio_ci: tuple[float, float] | None
    """Its 95 % interval."""
    points: float | None
    """NEW minus BASE for a share (0.01: 1 point); None for all other figures."""
    points_ci: tuple[float, float] | None
    p_worse: float
    """The probability that chance alone makes NEW this much worse in any of all figures."""
    p_better: float
    verdict: ComparisonVerdict
    runs_needed: int | str | None
    """If the verdict is unknown: how many runs a side, or blocks, would show a difference as large as the margin."""
    base_runs: tuple[float, ...]
    """The value of each run, in the order of the runs' ids; over all levels, its ratio to the mean of BASE."""
    new_runs: tuple[float, ...]


class Comparison(Struct, frozen=True, kw_only=True):
    """Whether NEW is worse than BASE, and how that is known: `comparison.json`."""

    schema: str
    verdict: ComparisonVerdict
    scenario: str
    base: tuple[str, ...]
    """The ids of the runs, in the order in which they were started."""
    new: tuple[str, ...]
    design: Design
    alpha: float
    margin: float
    min_effect: float
    noise: Noise
    differences: tuple[Difference, ...]
    figures: tuple[Figure, ...]
    worst_excluded: float | None
    """No figure other than a share is worse by more than this, with 95 % confidence; None without such a figure."""
    left_out: tuple[LeftOut, ...]
    degraded: tuple[Degraded, ...]

    @property
    def unlike(self) -> tuple[Difference, ...]:
        """The differences that must not be."""
        return tuple(each for each in self.differences if not each.allowed)


def compare_sides(sides: Sides, settings: CompareSettings, *, results: Path) -> Comparison:
    """Compare NEW with BASE. results: the folder with earlier runs, from which noise is learned.

    Raises NotAlikeError if runs have differences that must not be and the settings do not accept them, and InputError
    if there is nothing to compare.
    """
    models, left_out = paired_models(sides, settings.pairs, settings.levels)
    unlike = differences_of(sides, models, with_goodput=GOODPUT in settings.metrics)
    must = [each for each in unlike if not each.allowed]
    if must and settings.unlike == "refuse":
        raise NotAlikeError(must)
    table = table_of(sides, models, settings.metrics)
    evidence, noise = _evidence(table, sides, models, settings.noise, results)
    judged = judged_figures(table, len(sides.base), evidence, settings.limits)
    figures = tuple(_figure(table, i, judged_figure, sides, models) for i, judged_figure in enumerate(judged))
    worst = [each.worst for each, key in zip(judged, table.keys, strict=True) if key.unit != "share"]
    return Comparison(
        schema=SCHEMA,
        verdict=overall([each.verdict for each in judged]),
        scenario=sides.new[0].manifest.scenario.name,
        base=tuple(run.run_id for run in sides.base),
        new=tuple(run.run_id for run in sides.new),
        design=evidence.design,
        alpha=settings.limits.alpha,
        margin=settings.limits.margin,
        min_effect=settings.limits.min_effect,
        noise=noise,
        differences=unlike,
        figures=figures,
        worst_excluded=_rounded(max(worst)) if worst else None,
        left_out=left_out,
        degraded=degraded_stages(sides, models),
    )


def _evidence(
    table: FigureTable, sides: Sides, models: Sequence[PairedModel], noise: float | None, results: Path
) -> tuple[RunEvidence, Noise]:
    base, new = len(sides.base), len(sides.new)
    if sides.arrangement == "blocks" and base >= MIN_BLOCKS:
        return evidence_of_blocks(table, base), noise_of_blocks(table, base)
    are_runs = all(run.stages is not None for run in sides.runs)
    if are_runs and exchanges_of_runs(base, new) >= MIN_EXCHANGES:
        return evidence_of_runs(table, base), noise_of_runs(table, base)
    spread = run_spread(table, sides, models, noise, results)
    within = errors_within(table, sides, models, generator(1, "bootstrap"))
    return evidence_of_few(table, base, within, spread), spread.noise


def _figure(table: FigureTable, i: int, judged: JudgedFigure, sides: Sides, models: Sequence[PairedModel]) -> Figure:
    key, base = table.keys[i], len(sides.base)
    model = models[key.model]
    is_share, runs = key.unit == "share", _runs(table, i, base)
    interval = (_rounded(judged.interval[0]), _rounded(judged.interval[1]))
    has_mean = key.level is not None or is_share
    return Figure(
        model=(model.base, model.new),
        level=key.level,
        metric=key.metric,
        unit=key.unit,
        base=_mean(runs[:base], key) if has_mean else None,
        new=_mean(runs[base:], key) if has_mean else None,
        ratio=None if is_share else _rounded(judged.effect),
        ratio_ci=None if is_share else interval,
        points=_rounded(judged.effect) if is_share else None,
        points_ci=interval if is_share else None,
        p_worse=_rounded(judged.p_worse),
        p_better=_rounded(judged.p_better),
        verdict=judged.verdict,
        runs_needed=judged.runs_needed,
        base_runs=tuple(_rounded(value) for value in runs[:base]),
        new_runs=tuple(_rounded(value) for value in runs[base:]),
    )


def _runs(table: FigureTable, i: int, base: int) -> list[float]:
    """The value of each run; over all levels, its ratio to the mean of BASE."""
    key = table.keys[i]
    if key.level is not None or key.unit == "share":
        return [float(value) for value in table.values[:, i]]
    column = key.sign * table.scaled[:, i]
    return [float(value) for value in np.exp(column - column[:base].mean())]


def _mean(values: Sequence[float], key: FigureKey) -> float:
    if key.unit == "share":
        return _rounded(sum(values) / len(values))
    return _rounded(math.exp(sum(map(math.log, values)) / len(values)))


def _rounded(value: float) -> float:
    """The value rounded to six significant digits, which is more than any measurement has."""
    return float(f"{value:.6g}")
