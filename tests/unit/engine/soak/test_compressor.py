"""What compresses segments: what it leaves is complete or not there, and it is in nobody's way."""

import gzip
import os
import sys
import zlib
from pathlib import Path

import pytest

from loadgen.child import BackgroundProcess
from loadgen.engine.soak import compressor
from loadgen.engine.soak.compress_program import CHUNK_BYTES, NICENESS
from loadgen.engine.soak.compressor import PROGRAM, Compressor
from loadgen.store.run_folder import REQUESTS
from loadgen.store.segments import Segment
from tests.soak_log import compress_segment


def segment_in(folder: Path, number: int = 1, content: bytes = b"{}\n" * 100) -> Segment:
    segment = Segment(folder / REQUESTS, number)
    segment.plain.write_bytes(content)
    return segment


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def compress_by(monkeypatch: pytest.MonkeyPatch, folder: Path, code: str) -> None:
    """Have this code run in place of the program that compresses."""
    folder.mkdir()
    program = folder / "program.py"
    program.write_text(f"import sys\nsource, target = sys.argv[1:]\n{code}\n")
    monkeypatch.setattr(compressor, "PROGRAM", program)


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


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="waits for the program by a pipe with a name")
def test_only_the_process_that_compresses_has_a_low_priority(tmp_path: Path) -> None:
    source = tmp_path / "source"
    os.mkfifo(source)
    process = BackgroundProcess(PROGRAM, source, tmp_path / "target")
    with source.open("wb") as pipe:  # which the program has opened too
        own = os.getpriority(os.PRIO_PROCESS, 0)
        assert os.getpriority(os.PRIO_PROCESS, process._process.pid) == min(19, own + NICENESS) > own
        if sys.platform == "linux":
            policies = os.sched_getscheduler(0), os.sched_getscheduler(process._process.pid)
            assert policies == (os.SCHED_OTHER, os.SCHED_IDLE)
        pipe.write(b"{}\n")
    process.wait()
    assert process.exit_code == 0
    process.end()
    assert gzip.decompress((tmp_path / "target").read_bytes()) == b"{}\n"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="waits for the program by a pipe with a name")
def test_what_compresses_ends_when_the_process_ends_that_started_it(tmp_path: Path) -> None:
    source = tmp_path / "source"
    os.mkfifo(source)
    process = BackgroundProcess(PROGRAM, source, tmp_path / "target")
    with source.open("wb"):
        assert process._process.stdin is not None
        process._process.stdin.close()
        process.wait()
    assert process.exit_code == 1


def test_the_program_imports_only_what_starts_at_once() -> None:
    lines = PROGRAM.read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if line.startswith(("import ", "from "))] == [
        "import os",
        "import sys",
        "import threading",
        "import zlib",
    ]


def test_if_it_cannot_be_compressed_the_segment_stays_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compress_by(monkeypatch, tmp_path / "program", "open(target, 'wb').write(b'half')\nsys.exit(1)")
    (folder := tmp_path / "run").mkdir()
    compressing = Compressor()
    compressing.add(segment_in(folder))
    compressing.close()
    assert names(folder) == ["requests-00001.jsonl"]


def test_if_no_process_can_be_started_the_segments_stay_as_they_were(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "missing"))
    compressing = Compressor()
    for number in (1, 2):
        compressing.add(segment_in(tmp_path, number))
    compressing.close()
    assert names(tmp_path) == ["requests-00001.jsonl", "requests-00002.jsonl"]


def test_all_that_wait_are_compressed_when_it_is_closed(tmp_path: Path) -> None:
    compressing = Compressor()
    for number in (1, 2, 3):
        compressing.add(segment_in(tmp_path, number))
    compressing.close()
    assert names(tmp_path) == [f"requests-0000{number}.jsonl.gz" for number in (1, 2, 3)]


def test_what_has_been_compressed_is_taken_without_a_wait(tmp_path: Path) -> None:
    compressing = Compressor()
    compressing.add(segment_in(tmp_path))
    assert compressing._process is not None
    compressing._process.wait()
    assert compressing.is_busy
    compressing.go_on()
    assert names(tmp_path) == ["requests-00001.jsonl.gz"]
    assert not compressing.is_busy


def test_one_that_was_removed_meanwhile_is_passed_over(tmp_path: Path) -> None:
    compressing = Compressor()
    compressing.add(Segment(tmp_path / REQUESTS, 1))
    compressing.add(segment_in(tmp_path, 2))
    compressing.close()
    assert names(tmp_path) == ["requests-00002.jsonl.gz"]


def test_a_segment_that_is_withdrawn_never_comes_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder := tmp_path / "run").mkdir()
    compressing = Compressor()
    first, second, third = (segment_in(folder, number) for number in (1, 2, 3))
    with monkeypatch.context() as patched:
        compress_by(patched, tmp_path / "program", "open(target, 'wb').write(b'half')\nsys.stdin.read()")
        compressing.add(first)
    compressing.add(second)
    compressing.add(second)
    compressing.add(third)
    assert compressing.is_busy
    for segment in (first, second):
        compressing.withdraw(segment)
        segment.plain.unlink()
    compressing.close()
    assert names(folder) == ["requests-00003.jsonl.gz"]
    assert not compressing.is_busy


def test_one_that_is_compressed_and_then_withdrawn_is_not_taken(tmp_path: Path) -> None:
    compressing = Compressor()
    compressing.add(segment := segment_in(tmp_path))
    assert compressing._process is not None
    compressing._process.wait()
    compressing.withdraw(segment)
    segment.plain.unlink()
    compressing.close()
    assert names(tmp_path) == []


def test_without_a_segment_there_is_no_process() -> None:
    compressing = Compressor()
    assert not compressing.is_busy
    compressing.close()
