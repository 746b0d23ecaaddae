"""The windows of a soak on disk: what is written is read back, and HdrHistogram's own reader opens its log at every
moment."""

import re
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hdrh.histogram import HdrHistogram
from hdrh.log import HistogramLogReader

from loadgen.errors import FolderError, InputError
from loadgen.stats.histogram import DIGITS, HIGHEST_NS, LOWEST_NS, Histogram
from loadgen.store.hlog import Interval, read_interval_log, tag
from loadgen.store.windows import (
    HISTOGRAMS,
    WINDOWS,
    WindowLine,
    WindowLog,
    read_windows,
    repair_windows,
)
from tests.records import MS, S

STARTED_EPOCH_S = 1_767_322_800.0


def window(number: int, **changes: Any) -> WindowLine:
    blank = WindowLine(
        window=number,
        start_ns=number * S,
        end_ns=(number + 1) * S,
        start_utc="2026-01-02T03:00:00.000+00:00",
        model="org/m, v2",
        target="t",
        level="c1",
        ok=2,
        by_outcome={"ok": 2, "timeout": 1},
        output_tokens=20,
        prompt_tokens=10,
        stream_s=0.5,
        slo_met=1,
        ttft_p50_ms=212.4,
        itl_p50_ms=49.8,
        e2e_p50_ms=6410.0,
        extremes_ns={"ttft": (1 * MS, 9 * MS)},
        server_memory_bytes=483_729_408,
        server_memory_kind="private",
        server_rss_bytes=611_000_320,
        own_rss_bytes=98_566_144,
        server_life=0,
        temperature_c=71.0,
        throttled=None,
        loop_lag_p99_ms=1.0,
        dispatch_slip_p99_ms=None,
        collector_ms=0.8,
        gap_s=0.0,
        draining=False,
        valid=False,
        reasons=("own_cpu",),
    )
    return msgspec.structs.replace(blank, **changes)


def intervals_of(line: WindowLine) -> list[Interval]:
    histogram = Histogram()
    histogram.record(np.full(line.ok, 5 * MS))
    return [
        Interval(tag(line.target, line.model, line.level, metric), line.start_ns / 1e9, 1.0, histogram)
        for metric in ("ttft", "e2e")
    ]


def write(folder: Path, lines: list[WindowLine]) -> None:
    log = WindowLog(folder, STARTED_EPOCH_S)
    for line in lines:
        log.append([line], intervals_of(line))
    log.close()


def read_by_hdrh(path: Path) -> list[tuple[str, float, int]]:
    """Tag, start and count of each interval, as the package's reader finds them."""
    reader = HistogramLogReader(str(path), HdrHistogram(LOWEST_NS, HIGHEST_NS, DIGITS))
    intervals = []
    while (interval := reader.get_next_interval_histogram()) is not None:
        intervals.append((interval.get_tag(), interval.get_start_time_stamp(), interval.get_total_count()))
    reader.close()
    return intervals


def test_windows_are_read_as_they_were_written(tmp_path: Path) -> None:
    lines = [window(0), window(1, reasons=(), valid=True, temperature_c=None, slo_met=None)]
    write(tmp_path, lines)
    assert read_windows(tmp_path) == tuple(lines)
    assert read_windows(tmp_path / "elsewhere") == ()


def test_the_histograms_open_in_hdrhistograms_own_reader_after_every_window(tmp_path: Path) -> None:
    log = WindowLog(tmp_path, STARTED_EPOCH_S)
    assert read_by_hdrh(tmp_path / HISTOGRAMS) == []
    expected = []
    for number in range(3):
        line = window(number)
        log.append([line], intervals_of(line))
        expected += [(i.tag, (STARTED_EPOCH_S + i.start_s) * 1_000, line.ok) for i in intervals_of(line)]
        assert read_by_hdrh(tmp_path / HISTOGRAMS) == expected
        assert read_windows(tmp_path)[-1] == line
    log.append([window(3, ok=0)], [])
    assert read_by_hdrh(tmp_path / HISTOGRAMS) == expected
    log.close()


def test_a_log_that_is_opened_again_goes_on(tmp_path: Path) -> None:
    write(tmp_path, [window(0)])
    write(tmp_path, [window(1)])
    assert [line.window for line in read_windows(tmp_path)] == [0, 1]
    assert len(read_by_hdrh(tmp_path / HISTOGRAMS)) == 4
    assert (tmp_path / HISTOGRAMS).read_text().count("#[StartTime") == 1


def test_a_torn_last_line_is_left_out_and_a_damaged_one_before_it_is_named(tmp_path: Path) -> None:
    write(tmp_path, [window(0), window(1)])
    path = tmp_path / WINDOWS
    whole = path.read_bytes()
    for size in (len(whole) - 1, len(whole) - 100):
        path.write_bytes(whole[:size])
        assert [line.window for line in read_windows(tmp_path)] == [0]
    path.write_bytes(b"{}\n" + whole)
    with pytest.raises(InputError, match=r"windows\.jsonl: line 1 is not a window"):
        read_windows(tmp_path)


@pytest.mark.parametrize("lost", ["line", "half a line", "half a histogram", "nothing"])
def test_a_killed_soak_is_cut_to_its_last_window_in_both_files(tmp_path: Path, lost: str) -> None:
    write(tmp_path, [window(0)])
    sizes = {name: (tmp_path / name).stat().st_size for name in (WINDOWS, HISTOGRAMS)}
    write(tmp_path, [window(1)])
    left = {"line": 0, "half a line": 30, "half a histogram": 0}
    if lost in left:
        with (tmp_path / WINDOWS).open("r+b") as file:
            file.truncate(sizes[WINDOWS] + left[lost])
    if lost == "half a histogram":
        with (tmp_path / HISTOGRAMS).open("r+b") as file:
            file.truncate(sizes[HISTOGRAMS] + 90)
    remaining = repair_windows(tmp_path)
    assert remaining == read_windows(tmp_path)
    assert [line.window for line in remaining] == ([0, 1] if lost == "nothing" else [0])
    assert len(read_by_hdrh(tmp_path / HISTOGRAMS)) == 2 * len(remaining)
    assert {interval.start_s for interval in read_interval_log((tmp_path / HISTOGRAMS).read_text())} == {
        line.start_ns / 1e9 for line in remaining
    }
    assert repair_windows(tmp_path) == remaining


def test_the_docs_explain_every_key_of_a_window() -> None:
    page = (Path(__file__).parents[3] / "docs" / "soak.md").read_text("utf-8")
    section = page.partition("### windows.jsonl")[2].partition("\n## ")[0]
    keys = {key for cell in re.findall(r"^\| (.*?) \|", section, re.MULTILINE) for key in re.findall(r"`(\w+)`", cell)}
    assert keys == set(WindowLine.__struct_fields__)


def test_a_soak_that_was_killed_before_its_first_window_has_none(tmp_path: Path) -> None:
    assert repair_windows(tmp_path) == ()
    WindowLog(tmp_path, STARTED_EPOCH_S).close()
    assert repair_windows(tmp_path) == ()
    assert read_by_hdrh(tmp_path / HISTOGRAMS) == []


def test_windows_that_cannot_be_written_end_the_run_as_a_full_disk_does(tmp_path: Path) -> None:
    log = WindowLog(tmp_path, STARTED_EPOCH_S)
    (tmp_path / WINDOWS).unlink()
    with pytest.raises(FolderError, match="was removed or moved"):
        log.append([window(0)], [])
    log.close()
