"""Whether a series changed in a step rather than along a line, and where; how much of it is warm-up. Knows no unit."""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from loadgen.stats.median import median
from loadgen.stats.steady import mser_cut, rank_shares

Floats = NDArray[np.float64]

STEP_IS_CLEAR: Final = 2.0
"""From which `step_gain` on a series changed in a step rather than along a line."""


def warm_up_of(values: Floats) -> int:
    """How many values at the start are warm-up: those that MSER-5 cuts off (`loadgen.stats.steady`), if they are larger
    than the rest, and a step there fits clearly better than a straight line. Otherwise a series that grows would be cut
    until little of its growth remains.

    values: such that less is better, in order."""
    cut = mser_cut(values)
    if cut == 0 or median(values[:cut]) <= median(values[cut:]) or step_gain(values, cut) < STEP_IS_CLEAR:
        return 0
    return cut


def step_gain(values: Floats, split: int) -> float:
    """By how much a step before value `split` fits the ranks of a series better than a straight line does, as a
    logarithm of likelihoods; below 0 if it fits worse. Values that resemble the one before count as fewer.

    values: at least 3; split: 1 to values.size − 1."""
    scores = rank_shares(values) - 0.5
    n, at = scores.size, np.arange(scores.size) - (scores.size - 1) / 2
    beside_line = float(scores @ scores) - float(at @ scores) ** 2 / float(at @ at)
    rest = scores - np.where(np.arange(n) < split, scores[:split].mean(), scores[split:].mean())
    beside_step = float(rest @ rest)
    phi = max(0.0, float(rest[1:] @ rest[:-1]) / beside_step) if beside_step > 0 else 0.0
    effective = n * (1 - phi) / (1 + phi)
    return effective / 2 * float(np.log(max(beside_line, 1e-9) / max(beside_step, 1e-9)))


def best_split(values: Floats) -> int:
    """Where a step fits the ranks of a series best: the index of the new level's first value. At least 2 values."""
    scores = rank_shares(values) - 0.5
    splits = np.arange(1, scores.size)
    sums = np.cumsum(scores)[:-1]
    return int(splits[np.argmax(sums**2 / (splits * (scores.size - splits)))])


def blocks_of(values: Floats) -> tuple[Floats, int]:
    """The means of neighboring values, of as many that they hardly resemble the next ones, and how many those are: at
    most a sixteenth of all. What resembles is measured beside the step that fits best."""
    scores = rank_shares(values)
    split = best_split(values)
    rest = scores - np.where(np.arange(scores.size) < split, scores[:split].mean(), scores[split:].mean())
    power = float(rest @ rest)
    phi = min(max(0.0, float(rest[1:] @ rest[:-1]) / power), 0.99) if power > 0 else 0.0
    size = int(min(max(1, values.size // 16), np.ceil((1 + phi) / (1 - phi))))
    parts = values.size // size
    means: Floats = values[: parts * size].reshape(parts, size).mean(axis=1)
    return means, size
