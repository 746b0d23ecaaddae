"""The log of a soak in segments: what is written is read back once, whatever happens to it, and the folder stays within
its budget."""

import contextlib
import errno
import gzip
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from loadgen.engine.soak.closed_segments import Span
from loadgen.engine.soak.compressor import Compressor
from loadgen.engine.soak.disk import LOW_BYTES, Space, space_of
from loadgen.engine.soak.segments import OpenFile
from loadgen.errors import FolderError
from loadgen.store.run_folder import REQUESTS
from loadgen.store.segments import Segment, windows_without_records
from tests.soak_log import MIB, S, SoakLog, bytes_in, compress_segment, indices_in, soak_record, windows_of

pytestmark = pytest.mark.slow  # hours of virtual time


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Segments are compressed when they are closed, and not some time later."""

    def compress(_: Compressor, segment: Segment) -> None:
        with contextlib.suppress(OSError):
            compress_segment(segment)

    monkeypatch.setattr(Compressor, "add", compress)


posix = pytest.mark.skipif(sys.platform == "win32", reason="nobody can rename or remove an open file there")


def test_a_log_is_read_back_from_its_segments_and_itself_in_order(tmp_path: Path) -> None:
    soak = SoakLog(tmp_path, max_bytes=4000)
    soak.write(40)
    soak.log.close()
    assert soak.indices == list(range(40))
    *closed, last = soak.names
    assert len(closed) > 3
    assert closed == [f"requests-{number:05}.jsonl.gz" for number in range(1, len(closed) + 1)]
    assert last == REQUESTS
    assert soak.events == []


def test_no_segment_is_larger_than_it_may_be(tmp_path: Path) -> None:
    soak = SoakLog(tmp_path, max_bytes=4000)
    soak.write(40)
    soak.log.close()
    sizes = [len(gzip.decompress(path.read_bytes())) for path in tmp_path.glob("*.gz")]
    assert max(sizes) <= 4000


def test_a_segment_is_closed_after_an_hour(tmp_path: Path) -> None:
    soak = SoakLog(tmp_path)
    soak.write(3600)
    assert soak.names == [REQUESTS]
    soak.write(3601)
    soak.log.close()
    assert soak.names == ["requests-00001.jsonl.gz", "requests-00002.jsonl.gz", REQUESTS]
    assert soak.indices == list(range(7201))


def test_a_segment_is_an_eighth_of_the_budget_at_most(tmp_path: Path) -> None:
    soak = SoakLog(tmp_path, budget_bytes=400 * MIB)
    soak.write(3, text="x" * (15 * MIB))
    assert len(soak.names) == 1
    soak.write(1, text="x" * (5 * MIB))
    soak.log.close()
    assert soak.names == ["requests-00001.jsonl.gz", REQUESTS]


def test_equal_records_make_equal_files(tmp_path: Path) -> None:
    contents = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        soak = SoakLog(tmp_path / name, max_bytes=4000)
        soak.write(40)
        soak.log.close()
        contents.append({path.name: path.read_bytes() for path in (tmp_path / name).iterdir()})
    assert contents[0] == contents[1]


def test_a_retry_is_a_line_too(tmp_path: Path) -> None:
    soak = SoakLog(tmp_path)
    soak.log.retry(soak_record(0))
    soak.log.record(soak_record(0))
    soak.log.close()
    assert soak.indices == [0, 0]


def test_a_split_that_is_asked_for_closes_what_is_there(tmp_path: Path) -> None:
    soak = SoakLog(tmp_path)
    soak.log.split()
    soak.write(2)
    soak.log.split()
    soak.log.split()
    soak.write(1)
    soak.log.close()
    assert soak.names == ["requests-00001.jsonl.gz", REQUESTS]
    assert soak.indices == [0, 1, 2]


# --- the budget -------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize("budget_bytes", [MIB // 4, MIB])
def test_the_folder_is_never_above_its_budget_and_events_name_what_is_gone(tmp_path: Path, budget_bytes: int) -> None:
    soak = SoakLog(tmp_path, budget_bytes=budget_bytes)
    windows = tmp_path / "windows.jsonl"
    most = 0
    for _ in range(600):
        soak.write(1, text=os.urandom(1500).hex())
        with windows.open("ab") as file:
            file.write(b"w" * 100)
        most = max(most, bytes_in(tmp_path))
    soak.log.close()
    assert most <= budget_bytes
    assert budget_bytes * 0.3 < bytes_in(tmp_path) <= budget_bytes
    left = soak.indices
    assert left == list(range(left[0], 600))
    assert left[0] > 100
    assert {kind for kind, _ in soak.events} == {"records_dropped"}
    gone = set(windows_of(range(left[0])))
    assert windows_without_records(soak.details, count=10) == len(gone)


def test_whatever_else_grows_records_make_room_for_it_and_stop_at_last(tmp_path: Path) -> None:
    soak = SoakLog(tmp_path, budget_bytes=4 * MIB)
    other = tmp_path / "histograms.hlog"
    for _ in range(400):
        soak.write(1, text="x" * 5000)
        with other.open("ab") as file:
            file.write(b"h" * 10_000)
        if other.stat().st_size < 3 * MIB:
            assert bytes_in(tmp_path) <= 4 * MIB
    soak.log.close()
    last = soak.details[-1]
    assert last.startswith("from window ")
    assert last.endswith(" on: no records written, because the run folder may take 4 MiB")
    assert windows_without_records(soak.details, count=7) == 7 - len(set(windows_of(soak.indices)))


def test_a_record_that_is_larger_than_a_segment_has_a_segment_of_its_own(tmp_path: Path) -> None:
    soak = SoakLog(tmp_path, max_bytes=4000)
    soak.write(3)
    soak.write(1, text="x" * 9000)
    soak.write(3)
    soak.log.close()
    assert soak.indices == list(range(7))
    assert [indices_of(path) for path in sorted(tmp_path.glob("*.gz"))] == [[0, 1, 2], [3]]


def indices_of(path: Path) -> list[int]:
    return [orjson.loads(line)["index"] for line in gzip.decompress(path.read_bytes()).splitlines()]


@pytest.mark.usefixtures("at_once")
def test_the_logs_of_workers_share_the_budget(tmp_path: Path) -> None:
    names = ("requests.w0.jsonl", "requests.w1.jsonl")
    logs = [SoakLog(tmp_path, name=name, budget_bytes=MIB // 2, logs=names) for name in names]
    most = 0
    for _ in range(300):
        for log in logs:
            log.write(1, text=os.urandom(1500).hex())
        most = max(most, bytes_in(tmp_path))
    for log in logs:
        log.log.close()
    assert most <= MIB // 2
    taken = [sum(path.stat().st_size for path in tmp_path.glob(f"requests.w{at}*")) for at in (0, 1)]
    assert min(taken) > MIB // 20
    assert len(indices_in(tmp_path)) > 50


@pytest.mark.usefixtures("at_once")
def test_events_name_the_windows_of_segments_that_an_earlier_process_wrote(tmp_path: Path) -> None:
    soak = SoakLog(tmp_path)
    for _ in range(2):
        soak.write(100)
        soak.log.split()
    soak.write(50)
    soak.log.close()
    again = SoakLog(tmp_path)
    again.written, again.space = 250, Space(1 << 40, 1)
    again.write(1)
    again.log.close()
    assert again.details[1].startswith("windows 0 to 4: 3 files of records removed, because ")
    assert again.indices == []
    assert again.names == [REQUESTS]


# --- a disk that is low, or full --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("space", "is_low"),
    [
        (Space(total=1 << 40, free=LOW_BYTES), False),
        (Space(total=1 << 40, free=LOW_BYTES - 1), True),
        (Space(total=100 * MIB, free=5 * MIB), False),
        (Space(total=100 * MIB, free=5 * MIB - 1), True),
    ],
)
def test_a_disk_is_low_below_512_mib_or_of_a_small_disk_below_5_percent(space: Space, is_low: bool) -> None:
    assert space.is_low == is_low


def test_while_the_disk_is_low_the_oldest_segments_go_and_then_no_record_is_written(tmp_path: Path) -> None:
    soak = SoakLog(tmp_path)
    for _ in range(3):
        soak.write(100)
        soak.log.split()
    soak.write(1)
    soak.log._closed._compressor.close()
    soak.space = Space(total=1 << 40, free=300 * MIB)
    soak.write(1)
    why = "300 MiB of the disk's 1024.00 GiB are free"
    assert soak.events == [
        ("disk_low", why),
        (
            "records_dropped",
            f"windows 0 to 4: 3 files of records removed, because {why}",
        ),
        ("records_dropped", f"from window 5 on: no records written, because {why}"),
    ]
    soak.space = Space(total=1 << 40, free=1 << 39)
    soak.write(200)
    soak.log.close()
    assert soak.indices == [300]
    assert windows_without_records(soak.details, count=9) == 9


def test_no_more_segments_go_than_the_disk_needs(tmp_path: Path) -> None:
    soak = SoakLog(tmp_path)
    for _ in range(3):
        soak.write(60)
        soak.log.split()
    soak.log._closed._compressor.close()
    (first, *_), spaces = sorted(tmp_path.glob("*.gz")), [Space(1 << 40, 300 * MIB), Space(1 << 40, 1 << 39)]

    def space_of(_: Path) -> Space:
        return spaces[0] if first.exists() else spaces[1]

    soak.log._space_of = space_of
    soak.write(1)
    soak.log.close()
    assert [kind for kind, _ in soak.events] == ["disk_low", "records_dropped"]
    assert soak.details[1].startswith("window 0: 1 file of records removed, because 300 MiB")
    assert soak.indices == list(range(60, 181))


class FullDisk:
    """A file on a disk that is full after so many more bytes. It takes a part of the line that does not fit."""

    def __init__(self, file: Any, room: int) -> None:
        self._file = file
        self._room = room

    def write(self, data: bytes) -> int:
        taken = min(len(data), self._room)
        if data and not taken:
            raise OSError(errno.ENOSPC, "No space left on device")
        self._room -= taken
        return int(self._file.write(data[:taken]))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


def test_a_full_disk_takes_the_oldest_segment_and_no_line_is_torn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    soak = SoakLog(tmp_path)
    for _ in range(2):
        soak.write(60)
        soak.log.split()
    soak.log._closed._compressor.close()
    original = soak.log._closed.remove
    for room in (10, 0):
        opened: OpenFile = soak.log._file
        file = opened._file
        opened._file = FullDisk(file, room)  # type: ignore[assignment]
        soak.events.clear()

        def remove(segment: Segment, opened: OpenFile = opened, file: Any = file) -> Span:
            opened._file = file  # it has made room
            return original(segment)

        monkeypatch.setattr(soak.log._closed, "remove", remove)
        soak.write(1)
        assert [kind for kind, _ in soak.events] == ["disk_low", "records_dropped"]
    soak.log.close()
    assert soak.indices == [120, 121]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("only root can mount a file system; FullDisk stands for it in the other tests")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.usefixtures("at_once")
def test_on_a_small_disk_the_newest_records_are_there_and_no_line_is_torn(small_disk: Path) -> None:
    soak = SoakLog(small_disk)
    soak.log._space_of = space_of
    for _ in range(600):
        soak.write(1, text=os.urandom(1500).hex())
    soak.log.close()
    left = soak.indices
    assert left == list(range(left[0], 600))
    assert 600 - left[0] > 80
    assert {kind for kind, _ in soak.events} == {"disk_low", "records_dropped"}
    assert windows_without_records(soak.details, count=10) == len(set(windows_of(range(left[0]))))


@pytest.mark.usefixtures("at_once")
def test_when_somebody_else_fills_the_disk_records_end_and_what_is_there_is_whole(small_disk: Path) -> None:
    soak = SoakLog(small_disk)
    soak.log._space_of = lambda _: Space(1 << 40, 1 << 39)  # so that it meets the full disk itself
    soak.write(100, text="x" * 1000)
    soak.log.split()
    with contextlib.suppress(OSError), (small_disk / "other").open("wb", buffering=0) as other:
        while other.write(bytes(4096)):
            pass
    soak.write(300, text=os.urandom(1500).hex())
    with contextlib.suppress(OSError), (small_disk / "more").open("wb", buffering=0) as other:
        while other.write(bytes(4096)):
            pass
    soak.write(300, text=os.urandom(1500).hex())
    soak.log.close()
    assert {kind for kind, _ in soak.events} == {"disk_low", "records_dropped"}
    assert soak.details[-1].startswith("from window ")
    left = soak.indices
    assert left == list(range(left[0], left[-1] + 1))
    assert left[-1] < 699


def test_with_nothing_to_remove_a_full_disk_ends_the_log_and_not_the_soak(tmp_path: Path) -> None:
    soak = SoakLog(tmp_path)
    soak.write(5)
    soak.log._file._file = FullDisk(soak.log._file._file, 100)  # type: ignore[assignment]
    soak.write(200)
    soak.log.close()
    assert soak.indices == list(range(5))
    assert [kind for kind, _ in soak.events] == ["disk_low", "records_dropped"]
    assert soak.details[1].startswith("from window 0 on: no records written, because ")


def test_any_other_failure_of_the_disk_ends_the_run(tmp_path: Path) -> None:
    soak = SoakLog(tmp_path)

    class Broken(FullDisk):
        def write(self, data: bytes) -> int:
            raise OSError(errno.EIO, "Input/output error")

    soak.log._file._file = Broken(soak.log._file._file, 0)  # type: ignore[assignment]
    with pytest.raises(FolderError, match="Input/output error"):
        soak.write(1)
    soak.log.close()


# --- somebody renames, removes or cuts the log ------------------------------------------------------------------------


@posix
def test_a_log_that_was_renamed_is_opened_anew_within_a_second_and_nothing_is_lost(tmp_path: Path) -> None:
    soak = SoakLog(tmp_path)
    soak.write(3)
    (tmp_path / REQUESTS).rename(tmp_path / "requests.jsonl.1")
    soak.write(3)
    soak.log.close()
    renamed = (tmp_path / "requests.jsonl.1").read_bytes().count(b"\n")
    assert 3 <= renamed <= 4
    assert soak.indices == list(range(renamed, 6))
    to = " to requests.jsonl.1" if sys.platform == "linux" else ""
    assert soak.events == [("records_reopened", f"requests.jsonl was renamed{to}; records go to a new requests.jsonl")]


@posix
def test_of_a_log_that_was_removed_no_later_line_is_lost(tmp_path: Path) -> None:
    soak = SoakLog(tmp_path)
    soak.write(62)
    soak.log.check()
    (tmp_path / REQUESTS).unlink()
    soak.clock.moment_ns -= 100 * S
    soak.write(3)
    soak.log.close()
    assert soak.indices == [62, 63, 64]
    assert soak.events == [
        (
            "records_reopened",
            "requests.jsonl was removed, with the records of windows 0 to 1; records go to a new requests.jsonl",
        )
    ]


@posix
def test_while_no_request_ends_a_check_opens_the_log_anew(tmp_path: Path) -> None:
    soak = SoakLog(tmp_path)
    soak.log.check()
    assert soak.events == []
    (tmp_path / REQUESTS).unlink()
    soak.log.check()
    assert (tmp_path / REQUESTS).exists()
    assert soak.details == ["requests.jsonl was removed; records go to a new requests.jsonl"]
    soak.log.close()


@posix
def test_a_log_that_was_cut_off_by_copying_and_truncating_is_written_on(tmp_path: Path) -> None:
    soak = SoakLog(tmp_path)
    soak.write(3)
    os.truncate(tmp_path / REQUESTS, 0)
    soak.write(3)
    soak.log.close()
    assert soak.indices == [3, 4, 5]
    gone = "requests.jsonl was cut off, with the records of window 0"
    assert soak.details == [f"{gone}; records go to a new requests.jsonl"]


@posix
def test_a_log_that_was_renamed_just_before_it_is_split_is_no_segment(tmp_path: Path) -> None:
    soak = SoakLog(tmp_path)
    soak.write(3)
    (tmp_path / REQUESTS).rename(tmp_path / "elsewhere")
    soak.log.split()
    soak.write(2)
    soak.log.close()
    assert soak.names == [REQUESTS]
    assert soak.indices == [3, 4]


@posix
def test_another_file_that_took_the_name_is_written_on_and_not_over(tmp_path: Path) -> None:
    soak = SoakLog(tmp_path)
    soak.write(2)
    (tmp_path / REQUESTS).rename(tmp_path / "elsewhere")
    shutil.copy(tmp_path / "elsewhere", tmp_path / REQUESTS)
    soak.clock.moment_ns += S
    soak.write(2)
    soak.log.close()
    assert soak.indices == [0, 1, 2, 3]


@posix
def test_a_segment_that_somebody_removed_is_not_missed(tmp_path: Path) -> None:
    soak = SoakLog(tmp_path, max_bytes=4000)
    soak.write(40)
    Segment(tmp_path / REQUESTS, 1).plain.unlink(missing_ok=True)
    soak.log.close()
    Segment(tmp_path / REQUESTS, 1).compressed.unlink(missing_ok=True)
    left = soak.indices
    assert left == list(range(left[0], 40))


@posix
@pytest.mark.parametrize(
    "end", [lambda soak: soak.write(1), lambda soak: soak.log.check(), lambda soak: soak.log.split()], ids="wcs"
)
def test_a_folder_that_is_gone_ends_the_run(tmp_path: Path, end: Callable[[SoakLog], None]) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    soak = SoakLog(folder)
    soak.write(1)
    shutil.rmtree(folder)
    with pytest.raises(FolderError, match="is gone"):
        end(soak)
    soak.log.close()
