"""The histogram against sorted samples and against the hdrhistogram package's own recorder and codec."""

from typing import Any

import numpy as np
import pytest
from hdrh.histogram import HdrHistogram
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from loadgen.errors import InputError
from loadgen.stats.histogram import DIGITS, HIGHEST_NS, LOWEST_NS, Histogram
from loadgen.stats.quantile import nearest_rank

PS = [0, 1, 50, 90, 95, 99, 99.9, 99.99, 100]

# Durations of every magnitude, and those beside a power of two, where a bucket ends.
durations = st.one_of(
    st.integers(0, HIGHEST_NS),
    st.integers(0, 5_000_000),
    st.builds(lambda e, d: min(max(2**e + d, 0), HIGHEST_NS), st.integers(0, 41), st.integers(-2, 2)),
)
batches = st.lists(durations, max_size=200)


def ints(values: list[int]) -> NDArray[np.int64]:
    return np.array(values, dtype=np.int64)


def recorded(values: list[int]) -> Histogram:
    histogram = Histogram()
    histogram.record(ints(values))
    return histogram


def hdrh_counts(histogram: Any) -> NDArray[np.int64]:
    return np.ctypeslib.as_array(histogram.counts).astype(np.int64)


def figures(histogram: Histogram) -> tuple[int | None, ...]:
    return (histogram.count, histogram.over_range, histogram.sum_ns, histogram.min_ns, histogram.max_ns)


@pytest.mark.slow
@settings(deadline=None)
@given(batches)
def test_a_batch_fills_the_buckets_that_hdrh_fills_value_by_value(values: list[int]) -> None:
    theirs = HdrHistogram(LOWEST_NS, HIGHEST_NS, DIGITS)
    assert all(theirs.record_value(v) for v in values)
    ours = recorded(values)
    assert np.array_equal(ours.counts, hdrh_counts(theirs))
    assert ours.count == theirs.total_count


@pytest.mark.slow
@given(batches)
def test_count_sum_and_ends_are_exact(values: list[int]) -> None:
    ends = (min(values), max(values)) if values else (None, None)
    assert figures(recorded(values)) == (len(values), 0, sum(values), *ends)


def test_the_sum_does_not_overflow_64_bits() -> None:
    histogram = Histogram()
    histogram.record(np.full(3_000_000, HIGHEST_NS, dtype=np.int64))
    assert histogram.sum_ns == 3_000_000 * HIGHEST_NS > 2**63


@pytest.mark.slow
@given(st.lists(durations, min_size=1, max_size=400))
def test_a_quantile_is_at_most_a_thousandth_or_a_unit_above_the_exact_one(values: list[int]) -> None:
    histogram = recorded(values)
    ordered = np.sort(ints(values))
    for p, found in zip(PS, histogram.quantiles_ns(PS), strict=True):
        exact = nearest_rank(ordered, p)
        assert exact <= found <= exact + max(exact / 1_000, 511)
        assert histogram.quantile_ns(p) == found


@pytest.mark.parametrize("n", [1, 2, 99, 100, 101, 999, 1_000, 1_001, 1_999, 2_000])
def test_a_quantile_takes_the_nearest_rank_where_buckets_tell_neighbors_apart(n: int) -> None:
    values = np.arange(1, n + 1, dtype=np.int64) * 1_024 - 1  # 1 µs to 2 ms, where buckets are no wider than 1,024
    histogram = Histogram()
    histogram.record(values[::-1])
    ordered = values.tolist()
    for p, centi in [(50, 5_000), (90, 9_000), (95, 9_500), (99, 9_900), (99.9, 9_990), (99.99, 9_999)]:
        smallest_rank = next(r for r in range(1, n + 1) if 10_000 * r >= centi * n)
        assert histogram.quantile_ns(p) in range(ordered[smallest_rank - 1], ordered[smallest_rank - 1] + 1_024)


@pytest.mark.slow
@given(st.lists(durations, min_size=1, max_size=50))
def test_the_ends_are_the_exact_minimum_and_maximum(values: list[int]) -> None:
    assert recorded(values).quantiles_ns([0, 100]) == (min(values), max(values))


@pytest.mark.slow
@given(
    st.lists(durations, max_size=50),
    st.lists(st.one_of(st.integers(HIGHEST_NS + 1, 2**63 - 1), st.integers(-(2**63), -1)), max_size=50),
    st.randoms(use_true_random=False),
)
def test_values_over_range_are_counted_and_leave_no_other_trace(
    values: list[int], strays: list[int], order: Any
) -> None:
    mixed = values + strays
    order.shuffle(mixed)
    histogram = Histogram()
    assert histogram.record(ints(mixed)) == len(strays)
    assert histogram == recorded(values)
    assert figures(histogram) == (len(values), len(strays), *figures(recorded(values))[2:])


def test_the_highest_trackable_value_is_in_range_and_the_next_is_not() -> None:
    histogram = recorded([-1, 0, HIGHEST_NS, HIGHEST_NS + 1])
    assert figures(histogram) == (2, 2, HIGHEST_NS, 0, HIGHEST_NS)


@pytest.mark.slow
@given(batches, batches)
def test_merging_is_recording_the_concatenation(one: list[int], other: list[int]) -> None:
    merged = recorded(one)
    merged.merge(recorded(other))
    assert merged == recorded(one + other)
    assert figures(merged) == figures(recorded(one + other))


def test_merging_adds_what_was_over_range() -> None:
    one, other = recorded([-1, 5_000]), recorded([HIGHEST_NS + 1])
    one.merge(other)
    assert figures(one) == (1, 2, 5_000, 5_000, 5_000)


def test_batches_of_any_size_and_shape_record_the_same() -> None:
    values = np.random.Generator(np.random.PCG64(1)).integers(0, HIGHEST_NS, 40_000)
    whole, pieces = Histogram(), Histogram()
    whole.record(values.reshape(200, 200))
    for start in range(0, values.size, 7_001):
        pieces.record(values[start : start + 7_001])
    assert whole == pieces
    assert figures(whole) == figures(pieces)


def test_one_count_more_is_a_different_histogram() -> None:
    assert recorded([5_000, 5_000]) != recorded([5_000])
    assert recorded([5_000]) != recorded([6_000])
    assert recorded([5_000]) != "HISTFAAA"


def test_an_empty_histogram_has_no_ends_and_no_quantiles() -> None:
    histogram = recorded([])
    assert figures(histogram) == (0, 0, 0, None, None)
    with pytest.raises(ValueError, match="empty"):
        histogram.quantile_ns(50)


def test_floats_are_refused_lest_a_nan_become_a_duration() -> None:
    values: Any = np.array([1.0, np.nan])
    with pytest.raises(TypeError):
        Histogram().record(values)


def test_counts_cannot_be_written_from_outside() -> None:
    with pytest.raises(ValueError, match="read-only"):
        recorded([5]).counts[0] = 7


@settings(deadline=None)
@given(batches)
def test_hdrh_decodes_what_we_encode(values: list[int]) -> None:
    ours = recorded(values)
    text = ours.encode()
    theirs = HdrHistogram.decode(text)
    assert text.startswith("HISTFAAA")
    assert np.array_equal(ours.counts, hdrh_counts(theirs))
    assert theirs.total_count == len(values)


@pytest.mark.slow
@settings(deadline=None)
@given(batches)
def test_we_decode_what_hdrh_encodes(values: list[int]) -> None:
    theirs = HdrHistogram(LOWEST_NS, HIGHEST_NS, DIGITS)
    for value in values:
        theirs.record_value(value)
    assert Histogram.decode(theirs.encode().decode()) == recorded(values)


@settings(deadline=None)
@given(st.lists(durations, min_size=1, max_size=50))
def test_a_decoded_histogram_has_the_ends_of_its_buckets(values: list[int]) -> None:
    text = recorded(values).encode()
    ours, theirs = Histogram.decode(text), HdrHistogram.decode(text)
    assert ours == recorded(values)
    assert ours.count == len(values)
    assert (ours.min_ns, ours.max_ns) == (theirs.get_min_value(), theirs.get_max_value())
    assert ours.min_ns is not None
    assert ours.max_ns is not None
    assert ours.min_ns <= min(values)
    assert max(values) <= ours.max_ns
    # Each value is taken for the middle of its bucket, which is at most max(512 ns, value / 1024) wide.
    assert abs(ours.sum_ns - sum(values)) <= 256 * len(values) + sum(values) / 2048


def test_large_counts_survive_the_codec() -> None:
    histogram = recorded([5_000, 7_000_000])
    for _ in range(40):
        histogram.merge(histogram)
    assert histogram.count == 2**41
    assert Histogram.decode(histogram.encode()) == histogram


@pytest.mark.parametrize(
    "text",
    ["", "HISTFAAA", "HISTFAAAABx42pNp", "not base64 at all", "ünïcode", recorded([5_000]).encode()[:-8] + "AAAAAAAA"],
)
def test_a_text_that_is_no_histogram_is_an_input_error(text: str) -> None:
    with pytest.raises(InputError, match="not a V2 compressed HdrHistogram"):
        Histogram.decode(text)


@pytest.mark.parametrize("layout", [(1, HIGHEST_NS, 3), (LOWEST_NS, 2 * HIGHEST_NS, 3), (LOWEST_NS, HIGHEST_NS, 2)])
def test_a_histogram_of_another_layout_is_an_input_error(layout: tuple[int, int, int]) -> None:
    foreign = HdrHistogram(*layout)
    foreign.record_value(5_000)
    with pytest.raises(InputError, match=f"{layout[0]}\\.\\.{layout[1]} with {layout[2]} digits"):
        Histogram.decode(foreign.encode().decode())


def test_a_histogram_shows_how_many_values_it_has_and_their_ends() -> None:
    assert repr(recorded([3, 5])) == "Histogram(count=2, min_ns=3, max_ns=5)"
