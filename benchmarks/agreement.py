"""How often the interval of Krippendorff's alpha has the true value in it, on graders whose agreement is known.

`python benchmarks/agreement.py [--quick]` simulates and prints the table of docs/grade.md; it ends with 1 when the
coverage of the jackknife is outside its line. Each answer has a quality of its own, each of its four aspects differs
from that a little, and each grader sees it with an error of their own, which in part is the same for all aspects of an
answer. The notes are 1 to 5, in unequal shares. The true alpha is that of 40,000 answers. Beside it: a percentile
bootstrap over answers.
"""

import argparse
import sys
from collections.abc import Iterator
from typing import Final

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray
from scipy.stats import binom

from loadgen.stats.agreement import GradedUnit, ordinal_alpha

ASPECTS: Final = 4
MANY: Final = 40_000
RESAMPLES: Final = 300
CUTS: Final = np.array([-1.6, -0.7, 0.1, 1.0])
"""Between the notes: fewer poor answers than good ones."""
LINE: Final = (0.91, 0.985)
"""Within which the coverage of the jackknife must be."""

Notes = NDArray[np.int64]
"""Answers × aspects × graders, from 1 to 5."""


class Cell(Struct, frozen=True):
    """One world."""

    answers: int
    graders: int
    error: float
    """The standard deviation of a grader's error; that of the quality is 1."""


CELLS: Final = tuple(
    Cell(answers, graders, error) for graders in (2, 3) for error in (0.8, 0.4) for answers in (12, 24, 48)
)


def notes_of(cell: Cell, answers: int, rng: np.random.Generator) -> Notes:
    quality = rng.standard_normal((answers, 1, 1)) + 0.4 * rng.standard_normal((answers, ASPECTS, 1))
    shared = rng.standard_normal((answers, 1, cell.graders))
    own = rng.standard_normal((answers, ASPECTS, cell.graders))
    return np.asarray(1 + np.searchsorted(CUTS, quality + cell.error * (shared + own) / np.sqrt(2)), dtype=np.int64)


def units_of(notes: Notes) -> list[GradedUnit]:
    names = [f"grader {grader}" for grader in range(notes.shape[2])]
    return [
        GradedUnit(answer, dict(zip(names, map(int, aspect), strict=True)))
        for answer, aspects in enumerate(notes)
        for aspect in aspects
    ]


def pairs_of(notes: Notes) -> NDArray[np.float64]:
    """The ordered pairs of notes within the units of each answer: answers × 5 × 5."""
    counts = np.stack([(notes == note).sum(2) for note in range(1, 6)], axis=2).astype(float)
    pairs = counts[..., :, None] * counts[..., None, :] - counts[..., :, None] * np.eye(5)
    return np.asarray(pairs.sum(1) / (notes.shape[2] - 1), dtype=np.float64)


def alphas_of(pairs: NDArray[np.float64]) -> NDArray[np.float64]:
    """Alpha of each table of pairs; not a number where all notes are equal. pairs: … × 5 × 5."""
    counts = pairs.sum(-1)
    number = counts.sum(-1)
    middle = counts.cumsum(-1) - counts / 2
    distances = (middle[..., :, None] - middle[..., None, :]) ** 2
    observed = (pairs * distances).sum((-2, -1))
    by_chance = (counts[..., :, None] * counts[..., None, :] * distances).sum((-2, -1)) / (number - 1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(1 - observed / by_chance, dtype=np.float64)


def bootstrap(notes: Notes, rng: np.random.Generator) -> tuple[float, float]:
    """The 95 % percentile interval of alpha, with answers drawn again."""
    pairs = pairs_of(notes)
    weights = rng.multinomial(len(notes), np.full(len(notes), 1 / len(notes)), size=RESAMPLES)
    low, high = np.nanpercentile(alphas_of(np.tensordot(weights, pairs, 1)), [2.5, 97.5])
    return float(low), float(high)


def rows(trials: int) -> Iterator[tuple[str, bool]]:
    """The lines of the table, and whether each is within its line."""
    yield "| graders | alpha | answers | jackknife: holds it | width | bootstrap: holds it | width |", True
    yield "|---:|---:|---:|---:|---:|---:|---:|", True
    for number, cell in enumerate(CELLS):
        true = float(alphas_of(pairs_of(notes_of(cell, MANY, np.random.default_rng([9, number]))).sum(0)))
        rng = np.random.default_rng([10, number])
        intervals: list[tuple[tuple[float, float], tuple[float, float]]] = []
        for _ in range(trials):
            notes = notes_of(cell, cell.answers, rng)
            alpha = ordinal_alpha(units_of(notes))
            if alpha is not None and alpha.ci is not None:
                intervals.append((alpha.ci, bootstrap(notes, rng)))
        ends = np.array(intervals)
        held = ((ends[..., 0] <= true) & (true <= ends[..., 1])).mean(0)
        width = (ends[..., 1] - ends[..., 0]).mean(0)
        cells = [str(cell.graders), f"{true:.2f}", str(cell.answers)]
        cells += [text for way in (0, 1) for text in (f"{held[way]:.0%}", f"{width[way]:.2f}")]
        low, high = (
            float(binom.ppf(tail, trials, line)) / trials for tail, line in zip((0.001, 0.999), LINE, strict=True)
        )
        yield f"| {' | '.join(cells)} |", low <= held[0] <= high


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a fifth of the trials")
    trials = 80 if parser.parse_args().quick else 400
    outside = 0
    for line, is_within in rows(trials):
        print(line if is_within else f"{line} outside its line")
        outside += not is_within
    return 1 if outside else 0


if __name__ == "__main__":
    sys.exit(main())
