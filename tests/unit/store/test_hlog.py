"""The interval log as text, and as the hdrhistogram package's reader reads it."""

import re
from pathlib import Path

import numpy as np
import pytest
from hdrh.histogram import HdrHistogram
from hdrh.log import HistogramLogReader
from hypothesis import given, settings
from hypothesis import strategies as st

from loadgen.errors import InputError
from loadgen.stats.histogram import DIGITS, HIGHEST_NS, LOWEST_NS, Histogram
from loadgen.store.hlog import Interval, header, interval_log, line, read_interval_log, tag

STARTED_EPOCH_S = 1_700_000_000.25


def recorded(*values: int) -> Histogram:
    histogram = Histogram()
    histogram.record(np.array(values, dtype=np.int64))
    return histogram


INTERVALS = [
    Interval("llamacpp/smollm2-135m/c4/ttft", 60.5, 41.2, recorded(212_345_678, 198_000_000, 1_500_000_000)),
    Interval("llamacpp/smollm2-135m/c1/itl", 0.0, 60.0, recorded(5_000, 48_000_000, 48_100_000, HIGHEST_NS)),
    Interval("llamacpp/smollm2-135m/c1/connect", 0.0, 60.0, recorded()),
]


def test_the_log_reads_as_the_format_says() -> None:
    lines = interval_log(STARTED_EPOCH_S, INTERVALS).split("\n")
    assert lines[:5] == [
        "#[Logged with loadgen: values in ns, Interval_Max in ms]",
        "#[Histogram log format version 1.3]",
        "#[StartTime: 1700000000.250000 (seconds since epoch), 2023-11-14T22:13:20.250+00:00]",
        "#[BaseTime: 1700000000.250000 (seconds since epoch)]",
        '"StartTimestamp","Interval_Length","Interval_Max","Interval_Compressed_Histogram"',
    ]
    pattern = re.compile(
        r"Tag=llamacpp/smollm2-135m/c4/ttft,60\.500000,41\.200000,1500\.000000,HISTFAAA[A-Za-z0-9+/=]+"
    )
    assert pattern.fullmatch(lines[7])
    assert lines[8:] == [""]


def test_intervals_are_sorted_by_start_and_equal_starts_keep_their_order() -> None:
    tags = [interval.tag.rpartition("/")[2] for interval in read_interval_log(interval_log(0, INTERVALS))]
    assert tags == ["itl", "connect", "ttft"]


def test_the_maximum_is_exact_in_milliseconds() -> None:
    assert line(Interval("a", 0, 1, recorded(1, 3_599_999_999_999))).split(",")[3] == "3599999.999999"
    assert line(Interval("a", 0, 1, recorded())).split(",")[3] == "0.000000"


def test_a_log_that_grows_line_by_line_is_the_log_written_at_once() -> None:
    ordered = sorted(INTERVALS, key=lambda interval: interval.start_s)
    assert header(5.0) + "".join(line(interval) for interval in ordered) == interval_log(5.0, INTERVALS)


def test_our_reader_gives_back_tags_times_and_counts() -> None:
    assert read_interval_log(interval_log(STARTED_EPOCH_S, INTERVALS)) == sorted(INTERVALS, key=lambda i: i.start_s)


def test_a_log_with_windows_line_ends_or_without_tags_is_read() -> None:
    text = interval_log(STARTED_EPOCH_S, [Interval("", 1.5, 2.0, recorded(9_000))]).replace("\n", "\r\n")
    assert read_interval_log(text) == [Interval("", 1.5, 2.0, recorded(9_000))]


@pytest.mark.parametrize("started_epoch_s", [STARTED_EPOCH_S, 1.0])
def test_hdrh_reads_the_same_tags_times_and_counts(tmp_path: Path, started_epoch_s: float) -> None:
    path = tmp_path / "histograms.hlog"
    path.write_text(interval_log(started_epoch_s, INTERVALS), encoding="utf-8", newline="\n")
    reader = HistogramLogReader(str(path), HdrHistogram(LOWEST_NS, HIGHEST_NS, DIGITS))
    found = []
    while (theirs := reader.get_next_interval_histogram()) is not None:
        found.append(theirs)
    reader.close()
    expected = sorted(INTERVALS, key=lambda interval: interval.start_s)
    assert [theirs.get_tag() for theirs in found] == [interval.tag for interval in expected]
    for theirs, interval in zip(found, expected, strict=True):
        counts = np.ctypeslib.as_array(theirs.counts).astype(np.int64)
        assert np.array_equal(counts, interval.histogram.counts)
        assert theirs.get_start_time_stamp() == pytest.approx((started_epoch_s + interval.start_s) * 1_000)
        assert theirs.get_end_time_stamp() - theirs.get_start_time_stamp() == pytest.approx(interval.length_s * 1_000)


def test_a_tag_names_target_model_level_and_metric() -> None:
    assert tag("llamacpp", "smollm2-135m", "c4", "ttft") == "llamacpp/smollm2-135m/c4/ttft"
    assert tag("url", "org/my model, v2\n", "poisson\u20285", "e2e") == (
        "url/org/my%20model%2C%20v2%0A/poisson%E2%80%A85/e2e"
    )


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (("h", "a b"), ("h", "a_b")),
        (("h", "a,b"), ("h", "a b")),
        (("h", "a%20b"), ("h", "a b")),
        (("h:80/v3", "m"), ("h:80", "v3/m")),
    ],
)
def test_different_names_have_different_tags(one: tuple[str, str], other: tuple[str, str]) -> None:
    assert tag(*one, "c1", "ttft") != tag(*other, "c1", "ttft")


@settings(max_examples=50, deadline=None)
@given(st.lists(st.text(max_size=8), min_size=4, max_size=4))
def test_any_name_becomes_a_tag_that_survives_the_log(names: list[str]) -> None:
    safe = tag(*names)
    (found,) = read_interval_log(interval_log(0, [Interval(safe, 0, 1, recorded(5))]))
    assert found.tag == safe


@pytest.mark.parametrize("bad", ["a,b", "a b", "a\nb", "a\u2028b"])
def test_a_tag_that_would_split_the_line_is_refused(bad: str) -> None:
    with pytest.raises(ValueError, match="a tag holds no comma"):
        interval_log(0, [Interval(bad, 0, 1, recorded())])


@pytest.mark.parametrize(("start_s", "length_s"), [(-1, 1), (0, -1), (float("nan"), 1), (0, float("inf"))])
def test_a_time_that_readers_would_skip_is_refused(start_s: float, length_s: float) -> None:
    with pytest.raises(ValueError, match="finite number of seconds from 0"):
        interval_log(0, [Interval("a", start_s, length_s, recorded())])


@pytest.mark.parametrize("bad", ["Tag=a,0,1", "Tag=a,0,1,2,", "Tag=a,-1,1,2,HISTFAAA", "words", "Tag=a,0,1,2,HISTFAAA"])
def test_a_line_that_is_no_interval_is_named_by_its_number(bad: str) -> None:
    with pytest.raises(InputError, match="line 6 of the histogram log"):
        read_interval_log(header(0) + bad + "\n")
