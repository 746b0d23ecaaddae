"""The thread that compresses segments: what it leaves is complete or not there, and it is in nobody's way."""

import errno
import gzip
import os
import sys
import threading
import zlib
from pathlib import Path

import pytest

from loadgen.engine.soak.compressor import CHUNK_BYTES, Compressor
from loadgen.store.run_folder import REQUESTS
from loadgen.store.segments import Segment
from tests.soak_log import compress_segment


def segment_in(folder: Path, number: int = 1, content: bytes = b"{}\n" * 100) -> Segment:
    segment = Segment(folder / REQUESTS, number)
    segment.plain.write_bytes(content)
    return segment


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_segment_is_replaced_by_its_compressed_form_without_a_time_in_it(tmp_path: Path) -> None:
    segment = segment_in(tmp_path)
    compress_segment(segment)
    assert names(tmp_path) == ["requests-00001.jsonl.gz"]
    data = segment.compressed.read_bytes()
    assert gzip.decompress(data) == b"{}\n" * 100
    assert data[4:8] == bytes(4)


def test_a_segment_of_several_chunks_is_one_stream(tmp_path: Path) -> None:
    content = os.urandom(100_000) * (2 * CHUNK_BYTES // 100_000 + 1)
    compress_segment(segment := segment_in(tmp_path, content=content))
    assert zlib.decompress(segment.compressed.read_bytes(), 31) == content


@pytest.mark.skipif(sys.platform != "linux", reason="reads the priority of one thread")
def test_only_the_thread_has_a_low_priority(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nice = []
    monkeypatch.setattr(os, "fsync", lambda _: nice.append(os.getpriority(os.PRIO_PROCESS, threading.get_native_id())))
    thread = Compressor()
    thread.add(segment_in(tmp_path))
    thread.close()
    assert nice == [19]
    assert os.getpriority(os.PRIO_PROCESS, threading.get_native_id()) < 19


def test_if_the_disk_is_full_the_segment_stays_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    segment = segment_in(tmp_path)

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        compress_segment(segment)
    assert names(tmp_path) == ["requests-00001.jsonl"]
    thread = Compressor()
    thread.add(segment)
    thread.close()
    assert names(tmp_path) == ["requests-00001.jsonl"]


def test_all_that_wait_are_compressed_when_it_is_closed(tmp_path: Path) -> None:
    thread = Compressor()
    for number in (1, 2, 3):
        thread.add(segment_in(tmp_path, number))
    thread.close()
    assert names(tmp_path) == [f"requests-0000{number}.jsonl.gz" for number in (1, 2, 3)]


def test_one_that_was_removed_meanwhile_is_passed_over(tmp_path: Path) -> None:
    thread = Compressor()
    thread.add(Segment(tmp_path / REQUESTS, 1))
    thread.add(segment_in(tmp_path, 2))
    thread.close()
    assert names(tmp_path) == ["requests-00002.jsonl.gz"]


def test_a_segment_that_is_withdrawn_never_comes_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def wait(_: int) -> None:
        begun.set()
        go_on.wait(60)

    monkeypatch.setattr(os, "fsync", wait)
    thread = Compressor()
    first, second, third = (segment_in(tmp_path, number) for number in (1, 2, 3))
    thread.add(first)
    assert begun.wait(60)
    thread.add(second)
    thread.add(second)
    thread.add(third)
    assert thread.is_busy
    for segment in (first, second):
        thread.withdraw(segment)
        segment.plain.unlink()
    go_on.set()
    thread.close()
    assert names(tmp_path) == ["requests-00003.jsonl.gz"]
    assert not thread.is_busy


def test_without_a_segment_there_is_no_thread() -> None:
    before = threading.active_count()
    thread = Compressor()
    assert threading.active_count() == before
    thread.close()
