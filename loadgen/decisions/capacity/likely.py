"""The likely share of requests that meet each objective, by level. It decides what is played; no claim rests on it.

At a level that was played, the share is that of the counted requests and of one more, which counts mostly as met.
Pooling adjacent violators makes the shares fall with the level (Ayer et al., Annals of Mathematical Statistics 26
(1955), 641–647). Between played levels the share lies on a line in log level and log odds. Beyond them it falls as
steeply as STEEP.
"""

from collections.abc import Sequence
from typing import Final

import numpy as np

from loadgen.decisions.capacity.e_values import Floats, ObjectiveCounts

STEEP: Final = 12.0
"""By how much the log odds of meeting an objective fall when the level grows e-fold, beyond the played levels."""


def likely_shares(
    played: Sequence[float], counts: Sequence[Sequence[ObjectiveCounts]], shares: Sequence[float], levels: Floats
) -> Floats:
    """The likely share at each of `levels`, levels × objectives.

    played: the levels that were played, ascending, at least one. counts: for each of them, the counts of each
    objective. shares: the shares that the objectives ask for.
    """
    at, x = np.log(np.asarray(played, float)), np.log(levels)
    likely = np.empty((len(levels), len(shares)))
    for j, share in enumerate(shares):
        fitted = _falling([(row[j].hits + (1 + share) / 2, row[j].hits + row[j].misses + 1) for row in counts])
        odds = np.interp(x, at, np.log(fitted / (1 - fitted)))
        odds -= STEEP * (np.maximum(x - at[-1], 0) + np.minimum(x - at[0], 0))
        likely[:, j] = 1 / (1 + np.exp(-odds))
    return likely


def _falling(counts: Sequence[tuple[float, float]]) -> Floats:
    """The shares closest to hits / all that never grow. counts: (hits, all)."""
    blocks: list[tuple[float, float, int]] = []
    for hits, total in counts:
        block = (hits, total, 1)
        while blocks and block[0] / block[1] >= blocks[-1][0] / blocks[-1][1]:
            earlier = blocks.pop()
            block = (block[0] + earlier[0], block[1] + earlier[1], block[2] + earlier[2])
        blocks.append(block)
    return np.repeat([hits / total for hits, total, _ in blocks], [length for *_, length in blocks])
