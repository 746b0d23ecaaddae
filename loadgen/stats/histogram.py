"""Counts of durations in HdrHistogram's buckets, recorded in batches; knows no record, no clock and no file.

The layout and the V2 codec are those of the `hdrhistogram` package, so that every HdrHistogram tool can read the
output. Recording and quantiles are implemented here, because the package records one value at a time, and its
percentile is not the nearest rank.
"""

import binascii
import zlib
from collections.abc import Mapping, Sequence
from typing import Self

import numpy as np
from hdrh.codec import HdrCookieException, HdrHistogramEncoder, HdrLengthException
from hdrh.histogram import HdrHistogram
from numpy.typing import NDArray

from loadgen.errors import InputError
from loadgen.stats.quantile import rank

LOWEST_NS = 1_000
HIGHEST_NS = 3_600_000_000_000
DIGITS = 3

_LAYOUT = HdrHistogram(LOWEST_NS, HIGHEST_NS, DIGITS)
_UNIT: int = _LAYOUT.unit_magnitude
_HALF: int = _LAYOUT.sub_bucket_half_count_magnitude
_MASK: int = _LAYOUT.sub_bucket_mask
_LENGTH: int = _LAYOUT.counts_len
# Keeps the temporaries of a batch in cache, and a batch's int64 sum of values up to HIGHEST_NS far from overflow.
_BATCH = 16_384


def _lower_edges() -> NDArray[np.int64]:
    """The lowest value of each bucket, and one more edge at the end; shape (_LENGTH + 1,)."""
    index = np.arange(_LENGTH + 1, dtype=np.int64)
    bucket = np.maximum((index >> _HALF) - 1, 0)
    edges: NDArray[np.int64] = (index - (bucket << _HALF)) << (bucket + _UNIT)
    return edges


EDGES_NS = _lower_edges()
"""The lowest value of each bucket, and one more edge at the end, ns."""
EDGES_NS.flags.writeable = False


class Histogram:
    """How many durations fell into each bucket, and the exact count, sum, minimum and maximum.

    Buckets are 512 ns wide up to 1.05 ms, and narrower than 1e-3 of their value above. Guards: `counts` is an int64
    array that only grows, in step with the exact figures; `over_range` counts the values that fit in no bucket.
    """

    __slots__ = ("_count", "_counts", "_max_ns", "_min_ns", "_over_range", "_sum_ns")
    __hash__ = None  # type: ignore[assignment]  # mutable, and equal by content

    def __init__(self) -> None:
        self._counts = np.zeros(_LENGTH, dtype=np.int64)
        self._count = 0
        self._over_range = 0
        self._sum_ns = 0
        self._min_ns: int | None = None
        self._max_ns: int | None = None

    @property
    def count(self) -> int:
        """How many values were recorded, without those over range."""
        return self._count

    @property
    def over_range(self) -> int:
        """How many values were negative or above HIGHEST_NS; no other figure includes them."""
        return self._over_range

    @property
    def sum_ns(self) -> int:
        """The exact sum of the recorded values; for a decoded histogram, the sum of its buckets' midpoints."""
        return self._sum_ns

    @property
    def min_ns(self) -> int | None:
        """The exact smallest recorded value; for a decoded histogram, the lowest of its bucket; None if empty."""
        return self._min_ns

    @property
    def max_ns(self) -> int | None:
        """The exact largest recorded value; for a decoded histogram, the highest of its bucket; None if empty."""
        return self._max_ns

    @property
    def counts(self) -> NDArray[np.int64]:
        """A read-only view of the counts, in HdrHistogram's order of buckets."""
        view = self._counts.view()
        view.flags.writeable = False
        return view

    def __eq__(self, other: object) -> bool:
        """Whether the counts of all buckets are equal. The exact figures do not count, because no encoding keeps
        them."""
        return bool(np.array_equal(self._counts, other._counts)) if isinstance(other, Histogram) else NotImplemented

    def __repr__(self) -> str:
        return f"Histogram(count={self._count}, min_ns={self._min_ns}, max_ns={self._max_ns})"

    def record(self, values_ns: NDArray[np.int64]) -> int:
        """Add durations in ns; returns how many were negative or above HIGHEST_NS and are only in `over_range`.

        values_ns: any shape, may be empty. TypeError if they are not signed integers (a NaN must not become a number).
        """
        flat = np.asarray(values_ns).reshape(-1).astype(np.int64, casting="safe", copy=False)
        over = sum(self._record_batch(flat[start : start + _BATCH]) for start in range(0, flat.size, _BATCH))
        self._over_range += over
        return over

    def _record_batch(self, values: NDArray[np.int64]) -> int:
        low, high = int(values.min()), int(values.max())
        over = 0
        if low < 0 or high > HIGHEST_NS:
            kept = values[(values >= 0) & (values <= HIGHEST_NS)]
            over = values.size - kept.size
            if not kept.size:
                return over
            values, low, high = kept, int(kept.min()), int(kept.max())
        np.add.at(self._counts, buckets_of(values), 1)
        self._count += values.size
        self._sum_ns += int(values.sum())
        self._widen(low, high)
        return over

    def _widen(self, low: int | None, high: int | None) -> None:
        if low is not None:
            self._min_ns = low if self._min_ns is None else min(self._min_ns, low)
        if high is not None:
            self._max_ns = high if self._max_ns is None else max(self._max_ns, high)

    def merge(self, other: "Histogram") -> None:
        """Add all counts of `other`, including `over_range`, exactly as if its values had been recorded here."""
        self._counts += other._counts
        self._count += other._count
        self._over_range += other._over_range
        self._sum_ns += other._sum_ns
        self._widen(other._min_ns, other._max_ns)

    def quantile_ns(self, p: float) -> int:
        """The nearest-rank percentile: the smallest value with at least p percent of the samples at or below it.

        p: 0 (the exact minimum) to 100 (the exact maximum). Never below the exact percentile, and above it by less
        than 1e-3 of it or 512 ns, whichever is more: it is the highest value of its bucket, as HdrHistogram's own tools
        show it, clamped into [min_ns, max_ns]. ValueError when empty or p is out of range.
        """
        return self.quantiles_ns([p])[0]

    def quantiles_ns(self, ps: Sequence[float]) -> tuple[int, ...]:
        """`quantile_ns` of each p, in one pass over the counts."""
        if self._min_ns is None or self._max_ns is None:
            raise ValueError("an empty histogram has no quantiles")
        ranks = [rank(p, self._count) for p in ps]
        buckets = np.searchsorted(np.cumsum(self._counts), ranks)
        tops = (EDGES_NS[buckets + 1] - 1).tolist()
        # The first of the sorted samples is known exactly. The last is too, because of the clamp.
        return tuple(
            self._min_ns if r == 1 else min(max(top, self._min_ns), self._max_ns)
            for r, top in zip(ranks, tops, strict=True)
        )

    def encode(self) -> str:
        """HdrHistogram's V2 compressed encoding in base64 (HISTFAAA…). Keeps counts, not the exact figures."""
        carrier = HdrHistogram(LOWEST_NS, HIGHEST_NS, DIGITS)
        np.ctypeslib.as_array(carrier.counts)[:] = self._counts
        carrier.total_count = self._count
        carrier.max_value = self._max_ns or 0
        text: bytes = carrier.encode()
        return text.decode("ascii")

    @classmethod
    def decode(cls, text: str) -> Self:
        """The histogram that `encode` wrote, with equal counts; min, max and sum are those of the buckets.

        InputError if the text is not a V2 compressed histogram, or has another range or precision than ours.
        """
        histogram = cls()
        histogram._counts[:] = _decode_counts(text)
        histogram._set_figures()
        return histogram

    @classmethod
    def of_buckets(cls, counts: Mapping[int, int], extremes_ns: tuple[int, int] | None = None) -> Self:
        """The histogram with these counts by bucket (`buckets_of`).

        extremes_ns: the exact smallest and largest value; None: they are those of the buckets, as the sum always is."""
        histogram = cls()
        histogram._counts[list(counts)] = list(counts.values())
        histogram._set_figures()
        if extremes_ns is not None:
            histogram._min_ns, histogram._max_ns = extremes_ns
        return histogram

    def _set_figures(self) -> None:
        """Set the count, the sum and the extremes, by the counts of the buckets."""
        used = used_buckets(self._counts)
        if used.size:
            counts = self._counts[used]
            lows, tops = EDGES_NS[used], EDGES_NS[used + 1] - 1
            self._count = sum(counts.tolist())
            middles = (lows + tops + 1) // 2
            if self._count * int(tops[-1]) < 1 << 63:
                self._sum_ns = int(counts @ middles)
            else:  # too much for an int64
                self._sum_ns = sum(c * m for c, m in zip(counts.tolist(), middles.tolist(), strict=True))
            self._widen(int(lows[0]), int(tops[-1]))


def used_buckets(counts_by_bucket: NDArray[np.int64]) -> NDArray[np.int64]:
    """The buckets that have a count, in order."""
    return np.flatnonzero(counts_by_bucket != 0)  # numpy skips over the zeros of truth values, not those of integers


def buckets_of(values: NDArray[np.int64]) -> NDArray[np.int64]:
    """The bucket of each value in 0..HIGHEST_NS, in HdrHistogram's order."""
    # Below 2⁵³ a float64 is exact, so its exponent is the bit length.
    bits = np.frexp((values | _MASK).astype(np.float64))[1]
    bucket = bits.astype(np.int64) - (_UNIT + _HALF + 1)
    # (bucket + 1) · half + (sub-bucket − half), with the halves cancelled.
    return (bucket << _HALF) + (values >> (bucket + _UNIT))


def _decode_counts(text: str) -> NDArray[np.int64]:
    try:
        payload = HdrHistogramEncoder.decode(text)
        header = payload.payload
        layout = (header.lowest_trackable_value, header.highest_trackable_value, header.significant_figures)
        # Check the header before reading the counts, so that it cannot make us allocate a huge array.
        if layout != (LOWEST_NS, HIGHEST_NS, DIGITS) or header.normalizing_index_offset:
            raise InputError(
                f"a histogram of {layout[0]}..{layout[1]} with {layout[2]} digits cannot be read: "
                f"only {LOWEST_NS}..{HIGHEST_NS} ns with {DIGITS} digits can; record it again with loadgen"
            )
        payload.init_counts(_LENGTH)
    except (HdrCookieException, HdrLengthException, binascii.Error, zlib.error, ValueError, IndexError) as error:
        raise InputError(f"not a V2 compressed HdrHistogram ({error}); restore the text as it was written") from error
    return np.ctypeslib.as_array(payload.counts).astype(np.int64)
