"""Logs that cannot be written, and folders that are gone: one line for the person, and no line of it is two."""

import asyncio
import errno
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from loadgen.engine.manifest_writer import ManifestWriter
from loadgen.engine.workers.messages import Unwritable, decode_event, line_of
from loadgen.errors import ExitCode, FolderError, InputError
from loadgen.store.run_folder import (
    REQUESTS,
    Log,
    create,
    logs_of,
    no_longer_written,
    part_name,
    read,
    ungroup_errors,
)
from tests.records import manifest, planned, record, run_of, write

posix = pytest.mark.skipif(sys.platform == "win32", reason="these files are POSIX's")
GONE = "is gone: it was removed or moved while the run was on; run again, and leave it there until the end"


class Narrow:
    """A file that takes a few bytes at a time, and so many in all; then the disk is full."""

    def __init__(self, log: Log, room: int | None = None) -> None:
        self._file: Any = log._file
        self._room = room

    def write(self, data: memoryview) -> int:
        if self._room == 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        taken = min(7, len(data), len(data) if self._room is None else self._room)
        if self._room is not None:
            self._room -= taken
        self._file.write(data[:taken])
        return taken

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


def test_a_line_of_which_only_parts_are_taken_at_a_time_is_written_whole(tmp_path: Path) -> None:
    folder = write(tmp_path, run_of([], [planned(2)]))
    log = Log(folder / REQUESTS)
    log._file = Narrow(log)  # type: ignore[assignment]
    log.append(record(index=0))
    log.append(record(index=1))
    log.close()
    found = read(folder)
    assert (found.records, found.torn) == ((record(index=0), record(index=1)), 0)


def test_of_the_line_that_found_the_disk_full_the_part_that_is_there_counts_as_torn(tmp_path: Path) -> None:
    folder = write(tmp_path, run_of([], [planned(2)]))
    log = Log(folder / REQUESTS)
    log.append(record(index=0))
    log._file = Narrow(log, room=100)  # type: ignore[assignment]
    with pytest.raises(FolderError) as caught:
        log.append(record(index=1))
    log.close()
    kept = "what was measured until then is kept"
    assert str(caught.value) == f"{folder}: no space left on the device; {kept}; free some space and run again"
    assert caught.value.exit_code == ExitCode.BAD_INPUT
    found = read(folder)
    assert (found.records, found.torn) == ((record(index=0),), 1)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="has no disk that is always full")
def test_a_device_that_is_full_is_named_as_such(tmp_path: Path) -> None:
    (tmp_path / REQUESTS).symlink_to("/dev/full")
    log = Log(tmp_path / REQUESTS)
    with pytest.raises(FolderError, match="no space left on the device"):
        log.append(record())
    log.close()


@posix
def test_a_log_that_was_removed_is_not_written_on_for_nobody_to_read(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    log = Log(folder / REQUESTS)
    log.append(record())
    shutil.rmtree(folder)
    with pytest.raises(FolderError) as caught:
        log.append(record())
    log.close()
    assert str(caught.value) == f"{folder}: {GONE}"


def test_a_log_in_a_folder_that_is_gone_cannot_be_opened(tmp_path: Path) -> None:
    with pytest.raises(FolderError, match="is gone"):
        Log(tmp_path / "gone" / REQUESTS)


def test_a_manifest_in_a_folder_that_is_gone_cannot_be_written(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    book = ManifestWriter(folder, manifest([]))
    shutil.rmtree(folder)
    with pytest.raises(FolderError, match="is gone"):
        book.end("complete")


def test_any_other_reason_is_told_in_the_system_s_words() -> None:
    error = no_longer_written(Path("run"), OSError(errno.EIO, "Input/output error"))
    kept = "what was measured until then is kept"
    assert str(error) == f"run: cannot be written any more (Input/output error); {kept}; fix that and run again"


def test_however_many_tasks_met_it_there_is_one_error() -> None:
    met = [FolderError("first", Path()), FolderError("second", Path())]
    group = ExceptionGroup("", [ExceptionGroup("", met), met[1]])
    with pytest.raises(FolderError, match="first"), ungroup_errors():
        raise group


def test_what_is_a_fault_of_ours_is_not_hidden_behind_it() -> None:
    for group in (
        ExceptionGroup("", [FolderError("full", Path()), ValueError("ours")]),
        ExceptionGroup("", [ValueError()]),
    ):
        with pytest.raises(ExceptionGroup) as caught, ungroup_errors():
            raise group
        assert caught.value is group


async def _stop_with(error: Exception) -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(asyncio.sleep(3600))

        async def fail() -> None:
            raise error

        group.create_task(fail())


def test_one_that_a_task_met_ends_the_others() -> None:
    with pytest.raises(FolderError, match="full"), ungroup_errors():
        asyncio.run(_stop_with(FolderError("full", Path())))


def test_a_worker_s_last_word_arrives_as_it_was_said() -> None:
    said = Unwritable("/results/x: no space left on the device")
    assert decode_event(line_of(said)) == said


def test_records_are_in_the_log_or_as_long_as_it_is_not_there_in_those_of_workers(tmp_path: Path) -> None:
    assert logs_of(tmp_path) == []
    for serial in (1, 0):
        (tmp_path / part_name(serial)).touch()
    assert [log.name for log in logs_of(tmp_path)] == [part_name(0), part_name(1)]
    (tmp_path / REQUESTS).touch()
    assert logs_of(tmp_path) == [tmp_path / REQUESTS]


@pytest.mark.slow
def test_of_many_that_ask_at_once_no_two_get_the_same_folder(tmp_path: Path) -> None:
    started = datetime(2026, 1, 2, tzinfo=UTC)
    with ThreadPoolExecutor(16) as pool:
        made = list(pool.map(lambda _: create(tmp_path, "x", started, "0123abcd"), range(200)))
    assert len(set(made)) == 200
    assert all(folder.is_dir() for folder in made)


@posix
@pytest.mark.parametrize("out", ["/dev/null", "/dev/null/below", "/proc/results"])
def test_where_no_folder_can_be_made_a_line_says_to_give_another(out: str) -> None:
    with pytest.raises(InputError, match=rf"^{out}/x.* --out$"):
        create(Path(out), "x", datetime(2026, 1, 2, tzinfo=UTC), "0123abcd")
