"""How large a run folder is, also while a soak writes into it."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from loadgen.store.folder_size import measured_bytes


def test_a_segment_that_is_removed_while_the_folder_is_measured_counts_for_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "manifest.json").write_bytes(b"{" * 30)
    (tmp_path / "notes.txt").write_bytes(b"x" * 1000)
    segment = tmp_path / "requests-00001.jsonl"
    segment.write_bytes(b"x" * 500)
    assert measured_bytes(tmp_path) == 530

    scandir = os.scandir

    @contextmanager
    def removed_once_listed(folder: Path) -> Iterator["Iterator[os.DirEntry[str]]"]:
        with scandir(folder) as entries:
            listed = list(entries)
        segment.unlink()
        yield iter(listed)

    monkeypatch.setattr(os, "scandir", removed_once_listed)
    assert measured_bytes(tmp_path) == 30
