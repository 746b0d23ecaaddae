"""Reading a soak back: windows and histograms, by model."""

from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace

from benchmarks.soak_nights import Truth, night_of
from loadgen.decisions.drift.stage_windows import StageWindows, read_stage_windows
from loadgen.decisions.drift.verdict import drifts_of
from loadgen.errors import InputError
from loadgen.stats.bucket_counts import BucketCounts
from loadgen.stats.histogram import Histogram
from loadgen.store.hlog import Interval, tag
from loadgen.store.windows import HISTOGRAMS, WindowLog

WINDOWS = 60
SIMULATED = night_of(Truth("none from minute to minute"), np.random.default_rng(1))


def short_night(model: str) -> StageWindows:
    chosen = np.arange(len(SIMULATED.windows)) < WINDOWS
    counts = {name: counts.of_windows(chosen) for name, counts in SIMULATED.counts.items()}
    lines = tuple(replace(window, model=model) for window in SIMULATED.windows[:WINDOWS])
    return StageWindows(model, "simulated", "c2", lines, counts)


def intervals_of(night: StageWindows, window: int) -> list[Interval]:
    intervals = []
    for name, counts in night.counts.items():
        inside = counts.window == window
        if inside.any():
            of_window = dict(zip(counts.bucket[inside].tolist(), counts.count[inside].tolist(), strict=True))
            start_s = night.windows[window].start_ns / 1e9
            name_tag = tag(night.target, night.model, night.level, name)
            intervals.append(Interval(name_tag, start_s, 60.0, Histogram.of_buckets(of_window)))
    return intervals


def write(folder: Path, *nights: StageWindows) -> Path:
    log = WindowLog(folder, 1_800_000_000.0)
    for window in range(WINDOWS):
        log.append([night.windows[window] for night in nights], [i for n in nights for i in intervals_of(n, window)])
    log.close()
    return folder


def same(counts: BucketCounts, other: BucketCounts) -> bool:
    arrays = ("window", "bucket", "count")
    return counts.window_count == other.window_count and all(
        np.array_equal(getattr(counts, name), getattr(other, name)) for name in arrays
    )


def test_a_soak_is_read_as_it_was_written_model_by_model(tmp_path: Path) -> None:
    nights = short_night("org/m, one"), short_night("other")
    read = read_stage_windows(write(tmp_path, *nights))
    assert [night.model for night in read] == ["org/m, one", "other"]
    for night, original in zip(read, nights, strict=True):
        assert night.windows == original.windows
        assert night.counts.keys() == original.counts.keys()
        assert all(same(night.counts[name], original.counts[name]) for name in original.counts)
    assert drifts_of(read, 0.05) == drifts_of(nights, 0.05)


def test_a_window_without_values_has_none_and_the_others_keep_their_places(tmp_path: Path) -> None:
    night = short_night("m")
    emptied = {}
    for name, counts in night.counts.items():
        inside = counts.window != 7
        emptied[name] = BucketCounts(WINDOWS, counts.window[inside], counts.bucket[inside], counts.count[inside])
    (read,) = read_stage_windows(write(tmp_path, replace(night, counts=emptied)))
    assert read.counts["ttft"].totals[7] == 0
    assert all(same(read.counts[name], emptied[name]) for name in emptied)


def test_histograms_without_a_window_and_a_torn_line_are_left_out(tmp_path: Path) -> None:
    night = short_night("m")
    write(tmp_path, night)
    (read,) = read_stage_windows(tmp_path)
    with (tmp_path / HISTOGRAMS).open("a") as file:
        last = (tmp_path / HISTOGRAMS).read_text().splitlines()[-1]
        file.write(last.replace(f",{night.windows[-1].start_ns / 1e9:.6f},", ",999999.000000,") + "\n" + last[:50])
    (again,) = read_stage_windows(tmp_path)
    assert all(same(read.counts[name], again.counts[name]) for name in read.counts)


def test_a_folder_without_windows_has_no_nights(tmp_path: Path) -> None:
    assert read_stage_windows(tmp_path) == ()


def test_histograms_that_cannot_be_read_are_bad_input_that_names_the_file(tmp_path: Path) -> None:
    write(tmp_path, short_night("m"))
    (tmp_path / HISTOGRAMS).write_text("nonsense\n")
    with pytest.raises(InputError, match=r"histograms\.hlog: line 1"):
        read_stage_windows(tmp_path)
    (tmp_path / HISTOGRAMS).unlink()
    with pytest.raises(InputError, match=r"histograms\.hlog: cannot be read"):
        read_stage_windows(tmp_path)
