"""Which files are read as a run's records, in which order, and while somebody writes and splits them."""

import gzip
from pathlib import Path

import pytest

from loadgen.store import segments
from loadgen.store.log_reader import records_since
from loadgen.store.run_folder import REQUESTS, logs_of, read, records_in
from loadgen.store.segments import (
    Segment,
    cut_torn_line,
    log_of,
    open_files,
    segments_of,
    windows_in_words,
    windows_without_records,
)
from tests.records import planned, record, run_of, turn, write
from tests.soak_log import S, SoakLog, indices_in


@pytest.mark.parametrize(
    ("name", "log"),
    [
        ("requests.jsonl", "requests.jsonl"),
        ("requests-00001.jsonl", "requests.jsonl"),
        ("requests-00001.jsonl.gz", "requests.jsonl"),
        ("requests-123456.jsonl.gz", "requests.jsonl"),
        ("requests.w0.jsonl", "requests.w0.jsonl"),
        ("requests.w12-00003.jsonl.gz", "requests.w12.jsonl"),
        ("requests.jsonl.gz", None),
        ("requests.jsonl.1", None),
        ("requests-1.jsonl", None),
        (".requests-00001.jsonl.gz.part", None),
        ("requests-00001.jsonl.gz.part", None),
        ("stages.jsonl", None),
    ],
)
def test_a_file_belongs_to_the_log_of_which_its_name_is(name: str, log: str | None) -> None:
    assert log_of(name) == log


def test_segments_come_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    for end in ("-100000.jsonl.gz", "-99999.jsonl", "-00002.jsonl.gz", ".w0-00001.jsonl"):
        (tmp_path / f"requests{end}").touch()
    log = tmp_path / REQUESTS
    assert segments_of(log) == [Segment(log, 2), Segment(log, 99999), Segment(log, 100000)]
    assert segments_of(tmp_path / "gone" / REQUESTS) == []


def test_a_run_whose_records_lie_in_segments_is_read_as_any_other(tmp_path: Path) -> None:
    run = run_of([turn(0), turn(1), turn(2)], [planned(3)])
    folder = write(tmp_path, run)
    first, second, third = (folder / REQUESTS).read_bytes().splitlines(keepends=True)
    (folder / "requests-00001.jsonl.gz").write_bytes(gzip.compress(first))
    (folder / "requests-00002.jsonl").write_bytes(second)
    (folder / REQUESTS).write_bytes(third)
    assert read(folder).records == run.records
    (folder / REQUESTS).unlink()
    assert read(folder).records == run.records[:2]
    assert logs_of(folder) == [folder / REQUESTS]
    (folder / "requests-00001.jsonl.gz").unlink()
    assert read(folder).records == run.records[1:2]
    assert read(folder).torn == 0


def test_the_logs_of_workers_have_segments_of_their_own(tmp_path: Path) -> None:
    for name in ("requests.w1.jsonl", "requests.w0.jsonl"):
        soak = SoakLog(tmp_path, name=name, max_bytes=4000)
        soak.write(20)
        soak.log.close()
    assert [log.name for log in logs_of(tmp_path)] == ["requests.w0.jsonl", "requests.w1.jsonl"]
    assert indices_in(tmp_path) == [*range(20), *range(20)]
    (tmp_path / "requests.w0.jsonl").unlink()
    assert [log.name for log in logs_of(tmp_path)] == ["requests.w0.jsonl", "requests.w1.jsonl"]


def test_of_a_damaged_segment_the_lines_before_the_damage_are_read_and_the_rest_is_torn(tmp_path: Path) -> None:
    soak = SoakLog(tmp_path, max_bytes=8000)
    soak.write(60)
    soak.log.close()
    first, second, *_ = sorted(tmp_path.glob("*.gz"))
    whole = gzip.decompress(first.read_bytes()).count(b"\n")
    first.write_bytes(first.read_bytes()[:-30])
    second.write_bytes(b"no gzip at all")
    left = soak.indices
    assert left.count(-1) == 2
    assert left[0] == 0
    assert left[-1] == 59
    assert len(left) > 60 - 2 * whole


def test_a_log_that_is_split_while_it_is_read_is_read_once(tmp_path: Path) -> None:
    soak = SoakLog(tmp_path, max_bytes=4000)
    soak.write(20)
    reading = records_in(tmp_path)
    indices = [found.index for _ in range(3) if (found := next(reading)) is not None]
    soak.write(40)
    soak.log.close()
    indices += [found.index for found in reading if found is not None]
    assert indices[:20] == list(range(20))
    assert len(set(indices)) == len(indices)


def test_between_the_opening_and_the_listing_nothing_is_read_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    soak = SoakLog(tmp_path)
    soak.write(5)
    original, splits = segments.segments_of, list[int]()

    def split_first(log: Path, names: None = None) -> list[Segment]:
        if not splits:
            splits.append(1)
            soak.log.split()
            soak.log._closed._compressor.close()
        return original(log, names)

    monkeypatch.setattr(segments, "segments_of", split_first)
    lines = b"".join(file.read() for file in open_files(tmp_path / REQUESTS))
    soak.log.close()
    assert lines.count(b"\n") == 5


@pytest.mark.parametrize(
    ("content", "left"),
    [(b"", b""), (b"a\n", b"a\n"), (b"a\nb", b"a\n"), (b"ab", b""), (b"a\n" + b"b" * 200_000, b"a\n")],
)
def test_a_log_is_cut_after_its_last_complete_line(tmp_path: Path, content: bytes, left: bytes) -> None:
    log = tmp_path / REQUESTS
    cut_torn_line(log)
    assert not log.exists()
    log.write_bytes(content)
    cut_torn_line(log)
    assert log.read_bytes() == left


def test_windows_are_counted_from_the_words_of_events() -> None:
    words = [windows_in_words(0, 3), windows_in_words(3, 3), windows_in_words(8, 9)]
    assert words == ["windows 0 to 3", "window 3", "windows 8 to 9"]
    details = [f"{each}: removed" for each in words]
    assert windows_without_records(details, 20) == 6
    assert windows_without_records([*details, "from window 15 on: none"], 20) == 11
    assert windows_without_records([], 20) == 0
    assert windows_without_records(["from window 30 on: none"], 20) == 0


def test_a_record_is_read_from_a_folder_that_is_being_written(tmp_path: Path) -> None:
    soak = SoakLog(tmp_path)
    soak.log.record(record())
    assert indices_in(tmp_path) == [0]
    soak.log.close()


def test_the_recent_records_of_a_log_are_read_without_its_older_segments(tmp_path: Path) -> None:
    soak = SoakLog(tmp_path)
    for _ in range(3):
        soak.write(10)
        soak.log.split()
    soak.write(10)
    soak.log.close()
    log = tmp_path / REQUESTS
    for from_s in (0, 5, 10, 29, 30, 39, 40):
        assert [record.index for record in records_since(log, from_s * S)] == list(range(from_s, 40))
    assert len(list(open_files(log, 35 * S))) == 1
    assert len(list(open_files(log, 15 * S))) == 3
    log.unlink()
    assert [record.index for record in records_since(log, 25 * S)] == list(range(25, 30))
    log.write_bytes(b"torn")
    assert [record.index for record in records_since(log, 25 * S)] == list(range(25, 30))
