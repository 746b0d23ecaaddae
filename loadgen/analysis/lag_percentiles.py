"""The p99 of a lag of ours with its interval, from the percentiles that a stage's facts keep of it. Pure.

What one stall of the event loop held up is one misfortune, however many ticks or reads it made late: they are a
cluster, as the gaps of a request are.
"""

from collections.abc import Sequence
from typing import Final

import numpy as np

from loadgen.analysis.late_stamps import TICK_NS
from loadgen.record import LAG_PERCENTILES
from loadgen.stats.quantile import Quantile, Values, estimate, estimate_clustered

MOST: Final = 100_000
"""More samples make no interval narrower that is worth the time."""


def lag_p99(lags_ns: Sequence[int], longest_ns: int, count: int, stalls_ns: Sequence[int]) -> Quantile:
    """The p99 of so many lags, ns.

    lags_ns: the lag at each of LAG_PERCENTILES. longest_ns: the longest lag. stalls_ns: how long the loop stood still,
    each time: all that was late by a tick or more was late because of one of these.
    """
    count = min(count, MOST)
    shares = (np.arange(count) + 0.5) / max(1, count)
    known_ns = [0, *lags_ns, max(longest_ns, lags_ns[-1])]
    values: Values = np.interp(100 * shares, [0.0, *LAG_PERCENTILES, 100.0], known_ns).astype(np.int64)
    late = int(np.count_nonzero(values >= TICK_NS))
    if not late or not stalls_ns:
        return estimate(values, (99.0,))[0]
    ids = np.arange(count)
    ids[count - late :] = count + _stall_of_each(late, stalls_ns)
    return estimate_clustered(values, ids, (99.0,))[0]


def _stall_of_each(late: int, stalls_ns: Sequence[int]) -> Values:
    """Which stall made each of so many late samples late, the least late first: one that is twice as long has twice as
    many, evenly late up to its length."""
    lengths = np.array(stalls_ns, dtype=np.float64)
    ends = np.cumsum(lengths)
    at = (np.arange(late) + 0.5) / late * ends[-1]
    stalls = np.minimum(np.searchsorted(ends, at), len(lengths) - 1)
    lateness = at - (ends - lengths)[stalls]
    ordered: Values = stalls[np.argsort(lateness, kind="stable")]
    return ordered
