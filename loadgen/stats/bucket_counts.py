"""Histograms of many windows at once, as the counts that are not zero; knows no metric and no file."""

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from loadgen.stats.quantile import Ids


class BucketCounts(Struct, frozen=True):
    """How many values fell into each bucket, window by window: one entry of three equally long arrays for each bucket
    of a window that has values, ordered by window and then by bucket."""

    window_count: int
    """How many windows there are, with those that have no values."""
    window: Ids
    """The place of the window, 0 to windows − 1."""
    bucket: Ids
    """As `loadgen.stats.histogram.buckets_of` numbers them."""
    count: Ids

    @property
    def totals(self) -> Ids:
        """How many values each window has."""
        totals: Ids = np.bincount(self.window, self.count, self.window_count).astype(np.int64)
        return totals

    def of_windows(self, chosen: NDArray[np.bool_]) -> "BucketCounts":
        """Those of the chosen windows alone, which are numbered anew."""
        number = np.cumsum(chosen) - 1
        inside = chosen[self.window]
        return BucketCounts(int(chosen.sum()), number[self.window[inside]], self.bucket[inside], self.count[inside])

    def in_groups(self, size: int) -> "BucketCounts":
        """The sums of each `size` neighboring windows; the last group may have fewer."""
        buckets = int(self.bucket.max(initial=0)) + 1
        keys, place = np.unique((self.window // size) * buckets + self.bucket, return_inverse=True)
        count = np.bincount(place.reshape(-1), self.count, keys.size).astype(np.int64)
        return BucketCounts(-(-self.window_count // size), keys // buckets, keys % buckets, count)
