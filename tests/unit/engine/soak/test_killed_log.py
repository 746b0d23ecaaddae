"""A process that is killed while it writes, splits or compresses its log loses no line and doubles none."""

import gzip
import os
from pathlib import Path
from typing import Any

import pytest

from loadgen.engine.soak import compress_program
from loadgen.engine.soak.segments import OpenFile
from loadgen.store.run_folder import REQUESTS
from loadgen.store.segments import Segment
from tests.soak_log import SoakLog, compress_in_process, indices_in

REAL = 10
"""After each so many moments, the next process has its segments compressed by another, as it does for users."""


class Killed(BaseException):
    pass


class Killer:
    """Ends the process before its n-th change to the disk: this one and all later ones do nothing, or half."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, changes: int) -> None:
        self.left = changes
        for name in ("rename", "replace", "unlink", "open"):
            self._guard(monkeypatch, Path, name)
        self._guard(monkeypatch, OpenFile, "append", half=half_line)
        compress_in_process(monkeypatch)
        monkeypatch.setattr(compress_program, "open", self._open, raising=False)
        monkeypatch.setattr(os, "fsync", lambda _: self.change())

    def change(self) -> None:
        self.left -= 1
        if self.left < 0:
            raise Killed

    def _open(self, *args: Any, **named: Any) -> Any:
        self.change()
        return open(*args, **named)  # noqa: PTH123

    def _guard(self, monkeypatch: pytest.MonkeyPatch, owner: type, name: str, half: Any = None) -> None:
        original = getattr(owner, name)

        def guarded(first: Any, *args: Any, **named: Any) -> Any:
            self.left -= 1
            if self.left < 0:
                if half is not None and self.left == -1:
                    half(first, *args)
                raise Killed
            return original(first, *args, **named)

        monkeypatch.setattr(owner, name, guarded)


def half_line(file: OpenFile, line: bytes) -> None:
    file._file.write(line[: len(line) // 2])


def test_whenever_it_is_killed_every_line_is_read_once_and_the_next_process_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    moment, was_killed = 0, True
    while was_killed:
        folder = tmp_path / str(moment)
        folder.mkdir()
        soak = SoakLog(folder, max_bytes=1500)
        with monkeypatch.context() as patched:
            Killer(patched, moment)
            try:
                soak.write(9)
                was_killed = False
            except Killed:
                pass
        soak.log._file.close()
        written = soak.written
        at_once = [index for index in indices_in(folder) if index >= 0]
        assert at_once in (list(range(written)), list(range(written + 1))), moment
        with monkeypatch.context() as patched:
            if moment % REAL:
                compress_in_process(patched)
            resumed = SoakLog(folder, max_bytes=1500)
            resumed.written = len(at_once)
            resumed.write(9)
            resumed.log.close()
        assert indices_in(folder) == list(range(len(at_once) + 9)), moment
        assert [path.name for path in folder.iterdir() if path.name.startswith(".")] == []
        plain = [path.name for path in folder.glob("*.jsonl")]
        assert plain == [REQUESTS], moment
        moment += 1
    assert moment > 30


def test_of_a_segment_in_both_forms_the_plain_one_is_read_until_the_next_process_compresses_it(tmp_path: Path) -> None:
    soak = SoakLog(tmp_path)
    soak.write(3)
    soak.log.split()
    soak.log.close()
    segment = Segment(tmp_path / REQUESTS, 1)
    compressed = segment.compressed.read_bytes()
    segment.plain.write_bytes(gzip.decompress(compressed))
    segment.compressed.write_bytes(compressed[:20])
    assert soak.indices == [0, 1, 2]
    again = SoakLog(tmp_path)
    again.log.close()
    assert segment.compressed.read_bytes() == compressed
    assert not segment.plain.exists()


def test_a_line_that_was_torn_off_is_cut_when_the_next_process_goes_on(tmp_path: Path) -> None:
    soak = SoakLog(tmp_path)
    soak.write(3)
    soak.log.close()
    log = tmp_path / REQUESTS
    log.write_bytes(log.read_bytes() + b'{"index": 3, "text": "' + b"x" * 200_000)
    again = SoakLog(tmp_path)
    again.written = 3
    again.write(2)
    again.log.close()
    assert again.indices == [0, 1, 2, 3, 4]


def test_a_log_of_one_torn_line_becomes_empty(tmp_path: Path) -> None:
    (tmp_path / REQUESTS).write_bytes(b"x" * 100)
    soak = SoakLog(tmp_path)
    soak.log.close()
    assert soak.names == [REQUESTS]
    assert (tmp_path / REQUESTS).read_bytes() == b""
