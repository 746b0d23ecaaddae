"""Run folders that an earlier loadgen played: whoever reads them now computes the same numbers, byte for byte."""

import csv
import io
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
import pytest

from loadgen.analysis.summarize import merged, summarize
from loadgen.analysis.summary import Summary, summary_data
from loadgen.report.csv import csv_of, csv_text
from loadgen.store import files, run_folder

FOLDER: Final = Path(__file__).parents[2] / "data" / "runs"
RUNS: Final = sorted(path.parent for path in FOLDER.rglob(run_folder.MANIFEST))
LOGS: Final = sorted(FOLDER.rglob("requests*.jsonl"))
REPEATS: Final = FOLDER / "repeats"
RENAMED: Final = {
    "licence": "license",
    "honours_max_tokens": "honors_max_tokens",
    "honours_stop": "honors_stop",
    "honours_seed": "honors_seed",
}
ADDED: Final[tuple[str, ...]] = ()
"""Keys of a summary that came later, and are computed for old runs too: `upload_ms` for a metric, `retried_share` for a
number of the verdict. They are left out of what is compared; any other key that the expected files lack is a fault."""


def name(path: Path) -> str:
    return str(path.relative_to(FOLDER))


def as_spelled_now(expected: bytes) -> bytes:
    """The one key of a summary that was renamed since."""
    return expected.replace(b'"licence": ', b'"license": ')


def without(data: Any, added: Sequence[str]) -> Any:
    """JSON data without the keys that were added."""
    match data:
        case dict():
            return {key: without(value, added) for key, value in data.items() if key not in added}
        case list() | tuple():
            return [without(item, added) for item in data]
        case _:
            return data


def csv_without(text: str, added: Sequence[str]) -> str:
    """CSV without the columns of the keys that were added: of `upload_ms` all that are of `upload`."""
    starts = tuple(f"{key.removesuffix('_ms')}_" for key in added)
    rows = csv.DictReader(io.StringIO(text))
    return csv_of([{key: value for key, value in row.items() if not f"{key}_".startswith(starts)} for row in rows])


def assert_same_summary(summary: Summary, expected: Path, written: Path, added: Sequence[str] = ADDED) -> None:
    files.write_json(written, without(summary_data(summary), added))
    assert written.read_bytes() == as_spelled_now((expected / "summary.json").read_bytes())
    text = csv_text(summary)
    assert (csv_without(text, added) if added else text).encode() == (expected / "summary.csv").read_bytes()


def renamed(value: Any) -> Any:
    """A manifest's values under the keys of now."""
    match value:
        case dict():
            return {RENAMED.get(key, key): renamed(item) for key, item in value.items()}
        case list():
            return [renamed(item) for item in value]
        case _:
            return value


def lost(before: Any, after: Any, path: str = "") -> list[str]:
    """Where `after` lacks a key of `before`, or has another value there; it may have more keys."""
    match before, after:
        case dict(), dict():
            return [at for key in before for at in lost(before[key], after.get(key, "no such key"), f"{path}.{key}")]
        case list(), list() if len(before) == len(after):
            return [at for i, (a, b) in enumerate(zip(before, after, strict=True)) for at in lost(a, b, f"{path}[{i}]")]
        case _:
            return [] if before == after else [f"{path}: {before!r} became {after!r}"]


def test_all_kept_folders_are_there() -> None:
    assert len(RUNS) == 14
    assert len(LOGS) == 15


@pytest.mark.parametrize("folder", RUNS, ids=name)
def test_a_kept_run_has_the_same_summary(folder: Path, tmp_path: Path) -> None:
    assert_same_summary(summarize(run_folder.read(folder)), folder, tmp_path / "summary.json")


def test_kept_repeats_have_the_same_merged_summary(tmp_path: Path) -> None:
    folders = sorted(path.parent for path in REPEATS.rglob(run_folder.MANIFEST))
    summary = merged([run_folder.read(folder) for folder in folders])
    assert_same_summary(summary, REPEATS / "merged", tmp_path / "summary.json")


def test_a_key_that_came_later_is_left_out_of_what_is_compared_and_no_other(tmp_path: Path) -> None:
    folder, old = FOLDER / "closed", tmp_path / "old"
    summary, added = summarize(run_folder.read(folder)), ("connect_ms", "gc_pause_max_ms", *ADDED)
    old.mkdir()
    files.write_json(old / "summary.json", without(msgspec.json.decode((folder / "summary.json").read_bytes()), added))
    text = (folder / "summary.csv").read_text("utf-8")
    columns = [place for place, head in enumerate(text.split("\n")[0].split(",")) if not head.startswith("connect_")]
    lines = [line.split(",") for line in text.splitlines()]
    files.write_whole(
        old / "summary.csv",
        "".join(",".join(cells[place] for place in columns) + "\n" for cells in lines).encode(),
    )
    assert_same_summary(summary, old, tmp_path / "summary.json", added)
    for forgotten in added:
        with pytest.raises(AssertionError):
            assert_same_summary(summary, old, tmp_path / "summary.json", [key for key in added if key != forgotten])


@pytest.mark.parametrize("log", LOGS, ids=name)
def test_requests_that_are_read_and_written_again_are_the_same_bytes(log: Path, tmp_path: Path) -> None:
    alone = tmp_path / "run"  # a run of this log alone: where workers kept several, each is compared by itself
    alone.mkdir()
    shutil.copy(log.parent / run_folder.MANIFEST, alone)
    shutil.copy(log, alone / run_folder.REQUESTS)
    again = run_folder.Log(tmp_path / "again.jsonl")
    for record in run_folder.read(alone).records:
        again.append(record)
    again.close()
    expected = log.read_bytes()
    whole_lines = expected[: expected.rindex(b"\n") + 1]
    assert (tmp_path / "again.jsonl").read_bytes() == whole_lines


@pytest.mark.parametrize("folder", RUNS, ids=name)
def test_a_manifest_and_stages_that_are_read_and_written_again_keep_every_key_and_value(folder: Path) -> None:
    run = run_folder.read(folder)
    before = renamed(msgspec.json.decode((folder / run_folder.MANIFEST).read_bytes()))
    assert lost(before, msgspec.json.decode(msgspec.json.encode(run.manifest))) == []
    lines = (folder / run_folder.STAGES).read_bytes().splitlines()
    stages = [renamed(msgspec.json.decode(line)) for line in lines]
    assert lost(stages, msgspec.json.decode(msgspec.json.encode(run.facts))) == []


def test_no_kept_file_names_a_place_of_the_machine_that_made_it() -> None:
    place = re.compile(rb"/(tmp|root|home|work|Users)/")
    files = [path for path in FOLDER.rglob("*") if path.is_file()]
    assert [name(path) for path in files if place.search(path.read_bytes())] == []
