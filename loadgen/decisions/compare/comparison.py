"""A comparison as data, the shape of `comparison.json`, and making it of two sides. Reads nothing but earlier runs."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Literal

import numpy as np
from msgspec import Struct

from loadgen.decisions.compare.alike import Degraded, Difference, NotAlikeError, degraded_stages, differences
from loadgen.decisions.compare.figures import DEFAULT_METRICS, GOODPUT, FigureKey, FigureTable, Unit, table_of
from loadgen.decisions.compare.noise import Noise, noise_of_blocks, noise_of_runs, run_spread
from loadgen.decisions.compare.pairs import LeftOut, PairedModel, paired_models
from loadgen.decisions.compare.sides import Sides
from loadgen.decisions.compare.verdict import (
    Design,
    JudgedFigure,
    Limits,
    RunEvidence,
    Verdict,
    evidence_of_blocks,
    evidence_of_few,
    evidence_of_runs,
    judged_figures,
    overall,
)
from loadgen.decisions.compare.within import errors_within
from loadgen.plan.rng import generator
from loadgen.stats.exchange import MIN_EXCHANGES, exchanges_of_runs

SCHEMA: Final = "loadgen.comparison/1"
MIN_BLOCKS: Final = 2
"""A single block says nothing of how blocks differ: it is one run against one."""


class CompareSettings(Struct, frozen=True, kw_only=True):
    """What is asked of two sides, and by which limits it is judged."""

    limits: Limits = Limits()
    noise: float | None = None
    """How far one run's figures differ from the next one's, where too few runs are compared to tell; None: learned."""
    metrics: tuple[str, ...] = DEFAULT_METRICS
    levels: tuple[str, ...] = ()
    """The only ones to compare; none: all."""
    pairs: tuple[tuple[str, str], ...] = ()
    """Models that correspond though their names differ, BASE's and NEW's."""
    unlike: Literal["refuse", "accept"] = "refuse"
    """What becomes of sides that are not alike."""


class Figure(Struct, frozen=True, kw_only=True):
    """One metric of one model at one level, or over all levels."""

    model: tuple[str, str]
    """Its names in BASE and in NEW."""
    level: str | None
    """None: the mean over all levels."""
    metric: str
    unit: Unit
    base: float | None
    """Geometric mean over runs; of a share the mean; None over all levels of what has no mean."""
    new: float | None
    ratio: float | None
    """NEW over BASE; None of a share."""
    ratio_ci: tuple[float, float] | None
    """Its 95 % interval."""
    points: float | None
    """NEW less BASE of a share (0.01: 1 point); None of anything else."""
    points_ci: tuple[float, float] | None
    p_worse: float
    """That chance alone would make NEW so much worse in any of all figures."""
    p_better: float
    verdict: Verdict
    runs_needed: int | str | None
    """Where it is unknown: how many runs a side, or blocks, would show a difference as large as the margin."""
    base_runs: tuple[float, ...]
    """Each run's, in the order of the runs' ids; over all levels as ratios to the mean of BASE."""
    new_runs: tuple[float, ...]


class Comparison(Struct, frozen=True, kw_only=True):
    """Whether NEW is worse than BASE, and how that is known: `comparison.json`."""

    schema: str
    verdict: Verdict
    scenario: str
    base: tuple[str, ...]
    """Ids of the runs, in the order in which they were started."""
    new: tuple[str, ...]
    design: Design
    alpha: float
    margin: float
    min_effect: float
    noise: Noise
    differences: tuple[Difference, ...]
    figures: tuple[Figure, ...]
    worst_excluded: float | None
    """Nothing but shares is worse by more than this, 95 % sure; None without such a figure."""
    left_out: tuple[LeftOut, ...]
    degraded: tuple[Degraded, ...]

    @property
    def unlike(self) -> tuple[Difference, ...]:
        """What should have been alike."""
        return tuple(each for each in self.differences if not each.allowed)


def compare_sides(sides: Sides, settings: CompareSettings, *, results: Path) -> Comparison:
    """Compare NEW with BASE. results: where earlier runs are, from which noise is learned.

    Raises NotAlikeError where runs differ in what must be alike and the settings does not accept that; InputError where
    there is nothing to compare.
    """
    models, left_out = paired_models(sides, settings.pairs, settings.levels)
    unlike = differences(sides, models, with_goodput=GOODPUT in settings.metrics)
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
    """What each run shows; over all levels, its ratio to the mean of BASE."""
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
    """Six significant digits: more than anybody measures."""
    return float(f"{value:.6g}")
