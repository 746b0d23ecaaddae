"""A run folder that can no longer be written: the run ends at once with one line, and what was measured is kept."""

import asyncio
import errno
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import psutil
import pytest

from loadgen import api
from loadgen.errors import FolderError
from loadgen.live.progress import Silence
from loadgen.record import Record
from loadgen.report.files import write_reports
from loadgen.store import files, run_folder
from tests.command_line import run_command
from tests.integration.engine.test_session import SCENARIO, closed, counted, loadgen, measured, scenario
from tests.integration.server import Script, Served, Server, streamed

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="limits on files, and what may be removed, are Linux's")
ROOM_BYTES = 32 << 10
PLAIN = streamed("a", "b", gap_s=0.005)


@pytest.fixture
def server() -> Iterator[Server]:
    with Server(PLAIN) as served:
        yield served


def described(folder: Path, server: Server) -> str:
    """A scenario file that asks for 400 answers: 200 kB of records, and more."""
    path = folder / "killed.toml"
    path.write_text(SCENARIO.format(url=server.url), encoding="utf-8")
    return str(path)


OF_THE_MACHINE = ("this machine ",)
"""What a run says of a machine that is busy or on battery: nothing that these tests decide."""


def ended(*command: object) -> tuple[int, str, str]:
    """The exit code of a command, what it printed, and what it said on standard error; none of its processes is left
    behind."""
    before = psutil.Process().children(recursive=True)
    done = run_command(*command)
    left = [child for child in psutil.Process().children(recursive=True) if child not in before]
    assert [child for child in left if child.status() != psutil.STATUS_ZOMBIE] == []
    lines = [line for line in done.stderr.splitlines(keepends=True) if not line.startswith(OF_THE_MACHINE)]
    return done.returncode, done.stdout, "".join(lines)


@contextmanager
def no_file_longer_than(size_bytes: int) -> Iterator[None]:
    """For this process and its workers."""
    import resource  # which Windows has not

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def the_run(results: Path) -> Path:
    (folder,) = results.glob("*/*/")
    return folder


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_log_that_cannot_grow_ends_the_run_with_one_line_and_keeps_what_was_measured(
    workers: str, server: Server, tmp_path: Path
) -> None:
    results = tmp_path / "results"
    with no_file_longer_than(ROOM_BYTES):
        code, printed, told = ended("run", described(tmp_path, server), "--out", results, "--workers", workers)
    folder = the_run(results)
    reason = os.strerror(errno.EFBIG)
    kept = "what was measured until then is kept"
    assert told == f"loadgen: {folder}: cannot be written any more ({reason}); {kept}; fix that and run again\n"
    assert code == 2
    asked = len(server.chats)
    assert 30 < asked < 400, "nothing more was sent"
    run = run_folder.read(folder)
    assert f"{len(measured(run))}/400" in printed, "the table of what was measured"
    assert "report.html" not in printed
    assert run.manifest.state == "interrupted"
    assert asked - 10 <= len(run.records) <= asked
    assert 1 <= run.torn <= int(workers)
    for _ in range(2):  # the second time, there are reports already
        summary = write_reports(folder)
        assert (summary.incomplete, summary.torn_lines) == (True, run.torn)
        ok = len(measured(run))
        assert counted(summary.stages[0]) == {"ok": ok, "cancelled": 400 - ok}


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    place = tmp_path / "disk"
    place.mkdir()
    mount = shutil.which("mount")
    if mount is None or os.getuid() != 0:
        pytest.skip("only root may mount a small disk")
    made = subprocess.run(
        [mount, "-t", "tmpfs", "-o", f"size={ROOM_BYTES}", "tmpfs", str(place)], capture_output=True, check=False
    )
    if made.returncode != 0:
        pytest.skip(f"no small disk can be mounted here: {made.stderr.decode().strip()}")
    try:
        yield place
    finally:
        subprocess.run(["umount", str(place)], check=True)


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_full_disk_ends_the_run_with_one_line_and_a_report_can_be_made_once_there_is_room(
    workers: str, server: Server, small_disk: Path, tmp_path: Path
) -> None:
    code, printed, told = ended("run", described(tmp_path, server), "--out", small_disk, "--workers", workers)
    folder = the_run(small_disk)
    kept = "what was measured until then is kept; free some space and run again"
    assert (code, told) == (2, f"loadgen: {folder}: no space left on the device; {kept}\n")
    assert 20 < len(run_folder.read(folder).records) < len(server.chats) + 1 < 400
    assert f"{len(measured(run_folder.read(folder)))}/400" in printed

    with pytest.raises(FolderError) as caught:
        write_reports(folder)
    reason = os.strerror(errno.ENOSPC)
    mend = f"but the records are kept; fix that, then run `loadgen report {folder}`"
    assert str(caught.value) == f"{folder}: no report could be written ({reason}), {mend}"
    assert not list(folder.glob("summary*"))
    assert [path.name for path in folder.iterdir() if path.name.startswith(".")] == [], "nothing half-written is left"
    shutil.copytree(folder, tmp_path / "roomy")
    assert write_reports(tmp_path / "roomy").incomplete


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_folder_that_is_removed_ends_the_run_with_one_line(workers: str, tmp_path: Path) -> None:
    results = tmp_path / "results"
    gone: list[Path] = []

    def choose(_: Served) -> Script:
        if not gone and sum(log.stat().st_size for log in results.glob("*/*/requests*")) > 4000:
            gone.append(the_run(results))
            shutil.rmtree(results)
        return PLAIN

    with Server(choose) as server:
        code, printed, told = ended("run", described(tmp_path, server), "--out", results, "--workers", workers)
    (folder,) = gone
    why = "is gone: it was removed or moved while the run was on; run again, and leave it there until the end"
    assert (code, printed, told) == (2, "", f"loadgen: {folder}: {why}\n")
    assert len(server.chats) < 400
    assert not results.exists()


ALL_REPORTS = "summary.json, summary.csv, prompts.csv, histograms.hlog, report.md, report.html"


@pytest.fixture
def no_room_for_reports(monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that has room for the records and the manifest, and for nothing else."""
    write_whole = files.write_whole

    def write(path: Path, data: bytes | Iterable[bytes]) -> None:
        if path.name != "manifest.json":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write_whole(path, data)

    monkeypatch.setattr(files, "write_whole", write)


def short_run(server: Server, results: Path) -> tuple[object, ...]:
    usual = ("--requests", "3", "--warmup", "0", "--set", "load.ramp_in_s=0", "--no-preflight")
    return ("run", "--url", server.url, "--model", "m", *usual, "--out", results)


@pytest.mark.usefixtures("no_room_for_reports")
@pytest.mark.parametrize("flags", [(), ("--json",), ("--quiet",), ("--repeats", "2"), ("--baseline", "b")], ids=str)
def test_a_run_whose_reports_do_not_fit_prints_them_and_says_which_are_missing(
    flags: tuple[str, ...], server: Server, tmp_path: Path
) -> None:
    code, printed, told = ended(*short_run(server, tmp_path), *flags)
    lines = told.splitlines()
    (merged, *runs) = sorted(tmp_path.glob("*/*/"), key=lambda folder: not folder.name.endswith("-x2"))
    names = "summary.json, summary.csv, report.md, report.html" if runs else ALL_REPORTS
    assert f"loadgen: {merged}: not written: {names} (No space left on device)" in lines
    assert code == (1 if any("exit 1" in line for line in lines) else 2)
    kind = "json" if printed.startswith("{") else "text" if "TTFT" in printed else "nothing"
    assert kind == {"--json": "json", "--quiet": "nothing"}.get("".join(flags[:1]), "text")
    assert "report.html" not in printed
    if "--baseline" in flags:
        assert "no baseline was kept: its reports could not be written" in lines
        assert not (tmp_path / "baselines").exists()


def test_of_repeats_that_cannot_go_on_the_runs_that_were_played_are_printed(server: Server, tmp_path: Path) -> None:
    numbers = count()
    make_folder = run_folder.create

    def create(results: Path, *more: Any) -> Path:
        return make_folder(results if next(numbers) < 2 else Path("/dev/null"), *more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run_folder, "create", create)
        code, printed, told = ended(*short_run(server, tmp_path), "--repeats", "3")
    assert (code, told.count("\n")) == (2, 1)
    assert told.startswith("loadgen: /dev/null/")
    assert "2 runs of one plan" in printed
    assert "-x2/report.html" in printed


def test_the_first_run_that_cannot_begin_prints_nothing(server: Server) -> None:
    code, printed, told = ended(*short_run(server, Path("/dev/null")))
    assert (code, printed, told.count("\n")) == (2, "", 1)


async def played(*arguments: str) -> tuple[int | None, str]:
    """The exit code of a process of its own, and what it said on standard error."""
    process = await asyncio.create_subprocess_exec(
        *loadgen(*arguments), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    _, told = await asyncio.wait_for(process.communicate(), timeout=90)
    return process.returncode, told.decode()


@pytest.mark.asyncio
async def test_two_runs_of_one_plan_that_start_at_once_share_nothing(server: Server, tmp_path: Path) -> None:
    results = tmp_path / "results"
    command = ("run", described(tmp_path, server), "--set", "load.requests=10", "--out", str(results))
    both = await asyncio.gather(*(played(*command) for _ in range(2)))
    assert {code for code, _ in both} <= {0, 1}, both  # 1: a busy machine may make it no good
    lines = [line for _, told in both for line in told.splitlines()]
    assert [line for line in lines if not line.startswith((*OF_THE_MACHINE, "loadgen: exit 1: "))] == []
    folders = list(results.glob("*/*/"))
    assert len(folders) == 2
    for folder in folders:
        run = run_folder.read(folder)
        assert (run.manifest.state, run.torn) == ("complete", 0)
        assert sorted(record.index for record in measured(run)) == list(range(10))


class FillAfter(Silence):
    """Somebody else fills the disk when so many requests have ended: no report will fit."""

    def __init__(self, count: int, fill: Callable[[], object]) -> None:
        self._left = count
        self._fill = fill

    def record(self, record: Record) -> None:
        self._left -= 1
        if self._left == 0:
            self._fill()


@pytest.mark.asyncio
async def test_a_manifest_that_no_longer_fits_ends_the_run_and_the_records_stay(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    progress = FillAfter(6, lambda: monkeypatch.setattr("os.fsync", full))
    asked = scenario(tmp_path, {"m": server.url}, closed(1, 5))
    with pytest.raises(FolderError, match="no space left on the device; what was measured until then is kept"):
        await api.run(asked, results=tmp_path, progress=progress)
    folder = the_run(tmp_path)
    run = run_folder.read(folder)
    assert (run.manifest.state, len(run.records), run.torn) == ("running", 6, 0)
    with pytest.raises(FolderError, match=r"no report could be written .* `loadgen report "):
        write_reports(folder)
    assert [path.name for path in folder.iterdir() if path.name.startswith((".", "summary"))] == []
    monkeypatch.undo()
    summary = write_reports(folder)
    assert summary.incomplete
    assert counted(summary.stages[0]) == {"ok": 5}
