"""How often `loadgen compare` is wrong, and what it finds, on runs whose truth is known. Beside two other ways.

`python benchmarks/compare.py [--quick]` simulates and prints the tables of docs/compare.md; it ends with 1 when a rate
is outside its line. A run's figures are 6 metrics at 4 levels and the mean of each metric: 30 figures. Runs differ by
their noise, half of whose variance is common to a whole run and the rest to a metric, a level, or both; each figure
differs by 2 % more, from the requests within.

The two other ways are what people do: a Mann–Whitney U test of each figure at 5 %, and medians more than 5 % apart.
"""

import argparse
import math
import sys
from collections.abc import Callable, Iterator
from typing import Final

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray
from scipy.stats import binom, mannwhitneyu

from loadgen.stats import permutation
from loadgen.stats.permutation import Figures

LEVELS: Final = 4
METRICS: Final = 6
WITHIN: Final = 0.02
ALPHA: Final = 0.05
MIN_EFFECT: Final = math.log(1.02)
WAYS: Final = ("compare", "U test", "5 % apart")
Draw = Callable[..., Figures]


class Cell(Struct, frozen=True):
    """One world: how far runs differ, how many there are of each side, and by how much NEW is slower."""

    noise: float
    runs: int
    effect: float = 0.0
    only_figure: bool = False
    """Whether one metric at one level alone is slower."""
    heavy_tails: bool = False
    line: float | None = None
    """The share that must not be exceeded, where NEW equals BASE; else the share that must be reached."""


CELLS: Final = (
    *(Cell(noise, runs, line=ALPHA) for noise in (0.01, 0.03, 0.08) for runs in (3, 5, 8)),
    *(Cell(noise, runs, heavy_tails=True, line=ALPHA) for noise in (0.03, 0.08) for runs in (3, 5)),
    Cell(0.02, 3, 0.10, line=0.80),
    Cell(0.02, 5, 0.05, line=0.95),
    Cell(0.03, 3, 0.10, line=0.90),
    Cell(0.03, 5, 0.05, line=0.75),
    Cell(0.03, 8, 0.05, line=0.90),
    Cell(0.03, 5, 0.15, only_figure=True, line=0.85),
)
DRIFTS: Final = (0.0, 0.03, 0.1)
BLOCKS: Final = 6
LIMIT_OF_BLOCKS: Final = 0.06
QUICK_TRIALS: Final = 150


def runs_of(count: int, noise: float, rng: np.random.Generator, *, heavy_tails: bool) -> Figures:
    """Figures of so many runs: runs × 30."""

    def draw(*shape: int) -> Figures:
        values = rng.standard_t(4, shape) / math.sqrt(2) if heavy_tails else rng.standard_normal(shape)
        return np.asarray(values, dtype=np.float64)

    common, by_metric, by_level = draw(count, 1, 1), draw(count, 1, METRICS), draw(count, LEVELS, 1)
    own = draw(count, LEVELS, METRICS)
    spread = math.sqrt(0.5) * common + math.sqrt(0.2) * by_metric + math.sqrt(0.1) * by_level + math.sqrt(0.2) * own
    return noise * spread + WITHIN * rng.standard_normal((count, LEVELS, METRICS))


def figures_of(runs: Figures) -> Figures:
    return np.hstack([runs.reshape(len(runs), -1), runs.mean(1)])


def slower(cell: Cell) -> Figures:
    """By how much each figure of NEW is truly higher: levels × metrics."""
    effect = np.full((LEVELS, METRICS), 0.0 if cell.only_figure else math.log1p(cell.effect))
    if cell.only_figure:
        effect[-1, 0] = math.log1p(cell.effect)
    return effect


def is_worse(p: Figures, effect: Figures) -> bool:
    """As `loadgen.decisions.compare.verdict` calls a comparison worse."""
    return bool(((p <= ALPHA) & (effect >= MIN_EFFECT)).any())


def one_comparison(cell: Cell, rng: np.random.Generator) -> tuple[tuple[bool, bool, bool], NDArray[np.bool_]]:
    """Whether each way calls NEW worse, and which intervals hold the truth."""
    truth = slower(cell)
    base = figures_of(runs_of(cell.runs, cell.noise, rng, heavy_tails=cell.heavy_tails))
    new = figures_of(runs_of(cell.runs, cell.noise, rng, heavy_tails=cell.heavy_tails) + truth)
    effects = permutation.effects_of_runs(base, new)
    true_effect = figures_of(truth[None])[0]
    covered = np.abs(effects.mean - true_effect) <= effects.reach(0.95)
    p_of_u = mannwhitneyu(new, base, axis=0, alternative="two-sided", method="exact").pvalue
    higher = np.median(new, 0) > np.median(base, 0)
    verdicts = (
        is_worse(permutation.p_higher_of_runs(base, new, rng), effects.mean),
        bool(((p_of_u < ALPHA) & higher).any()),
        bool((np.median(new, 0) - np.median(base, 0) > math.log(1.05)).any()),
    )
    return verdicts, covered


def highest_chance(line: float, trials: int) -> float:
    """The share of trials up to which a true rate on its line would come in 99.9 of 100 simulations."""
    return float(binom.ppf(0.999, trials, line)) / trials


def lowest_chance(line: float, trials: int) -> float:
    return float(binom.ppf(0.001, trials, line)) / trials


def trials_of(trials: int, effect: float) -> int:
    """How many of a row: where something is to be shown, a quarter tells as much."""
    return max(trials // 4, min(trials, QUICK_TRIALS)) if effect else trials


def table_of_runs(trials: int) -> Iterator[tuple[str, bool]]:
    """Lines of the first table, and whether each is within its line."""
    yield f"| noise | runs a side | NEW is | {' | '.join(WAYS)} | intervals cover |", True
    yield "|---:|---:|:---|---:|---:|---:|---:|", True
    for number, cell in enumerate(CELLS):
        rng = np.random.default_rng([1, number])
        count = trials_of(trials, cell.effect)
        results = [one_comparison(cell, rng) for _ in range(count)]
        shares = np.mean([verdicts for verdicts, _ in results], axis=0)
        coverage = float(np.mean([covered for _, covered in results]))
        line = cell.line or 0.0
        is_within = (
            shares[0] <= highest_chance(line, count) if not cell.effect else shares[0] >= lowest_chance(line, count)
        ) and 0.93 <= coverage <= 0.97
        what_it_is = "equal" if not cell.effect else f"+{cell.effect:.0%} {'in one figure' if cell.only_figure else ''}"
        tails = ", heavy tails" if cell.heavy_tails else ""
        cells = [f"{cell.noise:.0%}{tails}", str(cell.runs), what_it_is.strip(), *(f"{share:.1%}" for share in shares)]
        yield f"| {' | '.join(cells)} | {coverage:.1%} |", bool(is_within)


def table_of_drift(trials: int) -> Iterator[tuple[str, bool]]:
    """Six runs of each side, noise 3 %, on a machine that drifts by a line and a walk while it measures."""
    yield "| drift | NEW is | BASE first, then NEW | blocks in random order |", True
    yield "|---:|:---|---:|---:|", True
    for drift in DRIFTS:
        for effect in (0.0, 0.05):
            rng = np.random.default_rng([2, round(100 * drift), round(100 * effect)])
            results = [_on_a_drifting_machine(drift, effect, rng) for _ in range(trials_of(trials, effect))]
            after, blocks = np.mean(results, axis=0)
            is_within = bool(effect) or blocks <= highest_chance(LIMIT_OF_BLOCKS, trials)
            name = f"+{effect:.0%}" if effect else "equal"
            yield f"| {drift:.0%} | {name} | {after:.1%} | {blocks:.1%} |", bool(is_within)


def _on_a_drifting_machine(drift: float, effect: float, rng: np.random.Generator) -> tuple[bool, bool]:
    count = 2 * BLOCKS
    steps = rng.standard_normal(count) * drift / math.sqrt(count)
    level = np.cumsum(steps) + np.linspace(0, drift, count)
    runs = figures_of(runs_of(count, 0.03, rng, heavy_tails=False)) + level[:, None]
    base, new = runs[:BLOCKS], runs[BLOCKS:] + math.log1p(effect)
    after = is_worse(permutation.p_higher_of_runs(base, new, rng), new.mean(0) - base.mean(0))
    turned = np.where(rng.permutation(BLOCKS) % 2, 1, -1)[:, None]
    differences = (runs[1::2] - runs[::2]) * turned + math.log1p(effect)
    return after, is_worse(permutation.p_higher_of_blocks(differences, rng), differences.mean(0))


def table_of_single_runs(trials: int) -> Iterator[tuple[str, bool]]:
    """One run against one, whose noise is assumed to be 5 %."""
    yield "| runs truly differ by | equal | +10 % | +25 % |", True
    yield "|---:|---:|---:|---:|", True
    for noise in (0.01, 0.03, 0.05, 0.08):
        rng = np.random.default_rng([3, round(100 * noise)])
        shares = []
        for effect in (0.0, 0.10, 0.25):
            results = [_one_against_one(noise, effect, rng) for _ in range(trials_of(trials, effect))]
            shares.append(float(np.mean(results)))
        is_within = noise > 0.05 or shares[0] <= highest_chance(ALPHA, trials)
        yield f"| {noise:.0%} | {' | '.join(f'{share:.1%}' for share in shares)} |", is_within


def _one_against_one(noise: float, effect: float, rng: np.random.Generator) -> bool:
    base, new = (figures_of(runs_of(1, noise, rng, heavy_tails=False))[0] for _ in range(2))
    difference = new + math.log1p(effect) - base
    error = np.full(difference.shape, math.sqrt(2 * (WITHIN**2 + 0.05**2)))
    return is_worse(permutation.p_higher_of_errors(difference, error, math.inf), difference)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--quick", action="store_true", help="under a minute")
    size.add_argument("--trials", type=int, default=2000, help="comparisons a row of equal sides (default: 2000)")
    arguments = parser.parse_args()
    trials = QUICK_TRIALS if arguments.quick else arguments.trials
    print(
        f"Share of comparisons of 30 figures that call NEW worse: of {trials} where it equals BASE, else a quarter.\n"
    )
    failed = []
    for table in (table_of_runs, table_of_drift, table_of_single_runs):
        for line, is_within in table(trials):
            print(line, flush=True)
            if not is_within:
                failed.append(line)
        print(flush=True)
    for line in failed:
        print(f"outside its line: {line}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
