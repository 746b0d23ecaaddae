"""The run folder: what is written is read back, whatever cut it short; and no run writes into another's."""

import errno
import os
import shutil
import stat
import sys
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from loadgen.errors import ExitCode, InputError
from loadgen.record import Record
from loadgen.store import run_folder
from loadgen.store.calibration import Stored, stored
from loadgen.store.files import write_json, write_whole
from loadgen.store.manifest import SCHEMA, Probe, ServedModel
from loadgen.store.paths import CACHE_VARIABLE, user_cache_folder
from loadgen.store.run_folder import MANIFEST, PARTS, REQUESTS, STAGES, Log, create, join_parts, part_name, read
from tests.records import facts, planned, record, run_of, turn, unsent, write

STARTED = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def complaint(folder: Path) -> str:
    with pytest.raises(InputError) as caught:
        read(folder)
    assert caught.value.exit_code == ExitCode.BAD_INPUT
    return str(caught.value)


# --- reading back -----------------------------------------------------------------------------------------------------


def test_a_run_is_read_back_as_it_was(tmp_path: Path) -> None:
    texts = [record(text="Grüße \u2028 \x1b[31m"), record(text="")]
    run = run_of([turn(0), turn(1), unsent("shed", 2), *texts], [planned(3)], seen=[facts(in_flight_samples=((1, 2),))])
    found = read(write(tmp_path, run))
    assert found == msgspec.structs.replace(run, folder=tmp_path)


def test_a_line_that_was_torn_off_is_counted_and_the_others_are_read(tmp_path: Path) -> None:
    folder = write(tmp_path, run_of([turn(0), turn(1), turn(2)]))
    log = folder / REQUESTS
    log.write_bytes(log.read_bytes()[:-40])
    found = read(folder)
    assert [kept.index for kept in found.records] == [0, 1]
    assert found.torn == 1


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_wherever_a_log_is_cut_all_whole_lines_are_read_and_at_most_one_is_torn(
    tmp_path: Path, data: st.DataObject
) -> None:
    whole = msgspec.json.encode(record(detail="é" * 5)) + b"\n"
    cut = data.draw(st.integers(0, 3 * len(whole)))
    folder = write(tmp_path, run_of([]))
    (folder / REQUESTS).write_bytes((3 * whole)[:cut])
    found = read(folder)
    lines, rest = divmod(cut, len(whole))
    only_the_newline_is_missing = rest == len(whole) - 1
    assert len(found.records) == lines + only_the_newline_is_missing
    assert found.torn == (rest > 0 and not only_the_newline_is_missing)


def test_what_is_torn_in_the_facts_counts_too_and_logs_may_be_missing(tmp_path: Path) -> None:
    folder = write(tmp_path, run_of([turn(0)]))
    (folder / STAGES).write_bytes(b'{"models": ["m"], "targ')
    assert (read(folder).facts, read(folder).torn) == ((), 1)
    (folder / REQUESTS).unlink()
    (folder / STAGES).unlink()
    assert (read(folder).records, read(folder).facts, read(folder).torn) == ((), (), 0)


def test_bytes_that_are_not_utf_8_are_a_torn_line(tmp_path: Path) -> None:
    folder = write(tmp_path, run_of([turn(0)]))
    with (folder / REQUESTS).open("ab") as log:
        log.write(msgspec.json.encode(record(detail="AAAA")).replace(b"AAAA", b"A\xff\xfeA") + b"\n")
        log.write(b"\x00" * 64 + b"\n")
    assert len(read(folder).records) == 1
    assert read(folder).torn == 2


def test_a_line_is_in_the_file_as_soon_as_it_is_appended(tmp_path: Path) -> None:
    log = Log(tmp_path / "log")
    for count in (1, 2, 3):
        log.append(record())
        assert (tmp_path / "log").read_bytes().count(b"\n") == count
    log.close()


def test_a_log_that_is_there_is_continued(tmp_path: Path) -> None:
    for _ in range(2):
        log = Log(tmp_path / "log")
        log.append(record())
        log.close()
    assert (tmp_path / "log").read_bytes().count(b"\n") == 2


def test_a_line_has_the_keys_that_are_promised(tmp_path: Path) -> None:
    folder = write(tmp_path, run_of([record(), record(text="Hello.")]))
    first, second = (orjson.loads(line) for line in (folder / REQUESTS).read_bytes().splitlines())
    promised = {
        *("model", "level", "index", "phase", "outcome", "status", "detail", "prompt_id"),
        *("intended_ns", "dispatched_ns", "sent_ns", "written_ns", "end_ns", "stamps_ns", "tokens_per_event"),
        *("stamp_source", "prompt_tokens", "output_tokens", "token_source", "finish_reason", "text_sha256"),
    }
    assert promised <= set(first)
    assert "text" not in first
    assert second["text"] == "Hello."


# --- what is no run folder --------------------------------------------------------------------------------------------


def test_what_is_not_a_run_folder_is_said_to_be_none(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for path in (tmp_path, tmp_path / "nowhere", tmp_path / "file"):
        assert complaint(path).startswith(f"{path}: not a run folder (manifest.json: ")
        assert complaint(path).endswith("give one under results/")


def test_a_folder_of_another_version_is_named_as_such(tmp_path: Path) -> None:
    write(tmp_path, run_of([], schema="loadgen.manifest/2"))
    assert complaint(tmp_path) == (
        f"{tmp_path / MANIFEST}: schema is 'loadgen.manifest/2', this loadgen reads '{SCHEMA}'; use the other version"
    )


@pytest.mark.parametrize(
    "raw", [b"", b"{", b"[]", b'{"schema": 1}', b"\xff", b'{"schema": "\xff"}', b'{"schema": "loadgen.manifest/1"}']
)
def test_a_damaged_manifest_is_a_person_s_matter_and_no_traceback(tmp_path: Path, raw: bytes) -> None:
    (tmp_path / MANIFEST).write_bytes(raw)
    assert complaint(tmp_path).startswith(f"{tmp_path / MANIFEST}: not a manifest (")


def test_a_manifest_may_say_more_than_we_know(tmp_path: Path) -> None:
    folder = write(tmp_path, run_of([]))
    told = orjson.loads((folder / MANIFEST).read_bytes()) | {"of a later version": 1}
    (folder / MANIFEST).write_bytes(orjson.dumps(told))
    assert read(folder).manifest == run_of([]).manifest


def test_keys_of_older_model_cards_are_read_as_they_are_spelled_now(tmp_path: Path) -> None:
    folder = write(tmp_path, run_of([]))
    manifest = orjson.loads((folder / MANIFEST).read_bytes())
    old_probe = {"honours_max_tokens": True, "honours_stop": False, "honours_seed": None, "role_event": True}
    manifest["models"] = [
        {"alias": "a", "id": "a", "target": "t", "licence": "mit", "probe": old_probe},
        {"alias": "b", "id": "b", "target": "t", "license": "cc0"},
    ]
    (folder / MANIFEST).write_bytes(orjson.dumps(manifest))
    probe = Probe(honors_max_tokens=True, honors_stop=False, role_event=True)
    assert read(folder).manifest.models == (
        ServedModel(alias="a", id="a", target="t", license="mit", probe=probe),
        ServedModel(alias="b", id="b", target="t", license="cc0"),
    )


# --- writing ----------------------------------------------------------------------------------------------------------


def test_a_file_appears_whole_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_whole(path, b"one")
    write_whole(path, b"two, and longer")
    assert path.read_bytes() == b"two, and longer"
    assert list(tmp_path.iterdir()) == [path]


def test_when_it_cannot_be_written_the_old_file_stays_and_nothing_is_left(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.mkdir()
    (path / "old").write_text("old")
    with pytest.raises(OSError):
        write_whole(path, b"new")
    assert [left.name for left in tmp_path.iterdir()] == ["a.json"]
    assert (path / "old").read_text() == "old"


def test_what_is_no_json_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"a": 1})
    with pytest.raises(TypeError):
        write_json(path, {"a": object()})
    assert orjson.loads(path.read_bytes()) == {"a": 1}


@pytest.mark.skipif(sys.platform == "win32", reason="has no such permissions")
def test_a_file_can_be_read_by_others(tmp_path: Path) -> None:
    write_whole(tmp_path / "a.json", b"x")
    assert stat.S_IMODE((tmp_path / "a.json").stat().st_mode) == 0o644


# --- a folder of its own ----------------------------------------------------------------------------------------------


def test_a_folder_is_named_by_scenario_time_and_tag(tmp_path: Path) -> None:
    assert create(tmp_path, "chat", STARTED, "0123abcd") == tmp_path / "chat" / "20260102T030405Z-0123abcd"


def test_two_runs_never_share_a_folder(tmp_path: Path) -> None:
    folders = [create(tmp_path, "chat", STARTED, "t") for _ in range(4)]
    assert len(set(folders)) == 4
    assert all(folder.is_dir() for folder in folders)
    assert sorted(folders) == folders


def test_a_folder_that_cannot_be_made_says_so(tmp_path: Path) -> None:
    (tmp_path / "chat").write_text("a file")
    with pytest.raises(InputError, match=r"cannot be made|not a folder"):
        create(tmp_path, "chat", STARTED, "t")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "20260102T030405Z-t").write_text("a file")
    with pytest.raises(InputError, match="give another --out"):
        create(tmp_path, "other", STARTED, "t")


def test_the_names_on_disk_are_those_of_the_contract() -> None:
    assert (run_folder.MANIFEST, run_folder.REQUESTS) == ("manifest.json", "requests.jsonl")


# --- the logs of workers ----------------------------------------------------------------------------------------------


def deal(folder: Path, *parts: list[Record]) -> Path:
    """A run folder as workers leave it: a log each, and none of the run."""
    write(folder, run_of([], [planned(4)]))
    (folder / REQUESTS).unlink()
    for serial, records in enumerate(parts):
        log = Log(folder / part_name(serial))
        for kept in records:
            log.append(kept)
        log.close()
    return folder


def test_logs_of_workers_are_joined_in_the_order_in_which_requests_ended(tmp_path: Path) -> None:
    folder = deal(tmp_path, [turn(0), turn(2), turn(5)], [turn(1), turn(3), unsent("shed", 9), turn(4)], [])
    join_parts(folder)
    found = read(folder)
    assert [kept.index for kept in found.records] == [0, 1, 2, 3, 9, 4, 5]
    assert list(folder.glob(PARTS)) == []
    assert found.torn == 0


def test_before_they_are_joined_they_are_read_as_they_are(tmp_path: Path) -> None:
    folder = deal(tmp_path, [turn(0), turn(2)], [turn(1)])
    assert sorted(kept.index for kept in read(folder).records) == [0, 1, 2]


def test_what_a_worker_was_writing_as_it_died_is_counted_before_and_after_joining(tmp_path: Path) -> None:
    folder = deal(tmp_path, [turn(0), turn(2)], [turn(1), turn(3)])
    log = folder / part_name(0)
    log.write_bytes(log.read_bytes()[:-40])
    for _ in range(3):
        found = read(folder)
        assert (sorted(kept.index for kept in found.records), found.torn) == ([0, 1, 3], 1)
        join_parts(folder)


def test_cut_short_between_joining_and_clearing_up_nothing_counts_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = deal(tmp_path, [turn(0), turn(2)], [turn(1)])

    def pulled(_: Path) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Path, "unlink", pulled)
        join_parts(folder)
    assert len(list(folder.glob(PARTS))) == 2
    assert [kept.index for kept in read(folder).records] == [0, 1, 2]


def test_cut_short_while_joining_the_parts_are_all_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = deal(tmp_path, [turn(0), turn(2)], [turn(1)])

    def full(_: int) -> None:
        raise OSError("no space left")

    with monkeypatch.context() as patch, pytest.raises(OSError, match="space"):
        patch.setattr("os.fsync", full)
        join_parts(folder)
    assert not (folder / REQUESTS).exists()
    assert len(read(folder).records) == 3


def test_a_run_whose_workers_wrote_nothing_has_an_empty_log(tmp_path: Path) -> None:
    folder = deal(tmp_path)
    join_parts(folder)
    assert (folder / REQUESTS).read_bytes() == b""


# --- values of the right type that nobody can use ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("started_utc",), "x"),
        (("started_utc",), ""),
        (("scenario", "until"), "x"),
        (("scenario", "until"), "ttft_p99:0%"),
        (("stages", 0, "load", "concurrency"), 0),
        (("stages", 0, "load", "concurrency"), -(10**18)),
    ],
)
def test_a_manifest_with_a_value_that_no_reader_could_use_is_refused_by_its_place(
    tmp_path: Path, path: tuple[str | int, ...], value: object
) -> None:
    folder = write(tmp_path, run_of([turn(0)]))
    data = orjson.loads((folder / MANIFEST).read_bytes())
    *parents, last = path
    parent = data
    for key in parents:
        parent = parent[key]
    parent[last] = value
    (folder / MANIFEST).write_bytes(orjson.dumps(data))
    place = "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in path).replace("[0]", "[...]")
    said = complaint(folder)
    assert f"at `${place}`" in said.replace("[0]", "[...]")
    assert said.endswith("is the folder damaged?")


@pytest.mark.parametrize("changes", [{"models": []}, {"targets": []}, {"targets": ["t", "t"]}])
def test_a_stage_whose_models_and_targets_do_not_pair_is_a_line_that_cannot_be_read(
    tmp_path: Path, changes: dict[str, list[str]]
) -> None:
    folder = write(tmp_path, run_of([turn(0)], seen=[facts()]))
    line = orjson.loads((folder / STAGES).read_bytes()) | changes
    (folder / STAGES).write_bytes(orjson.dumps(line) + b"\n")
    found = read(folder)
    assert (found.facts, found.torn) == ((), 1)


@pytest.mark.skipif(sys.platform == "win32", reason="homes are named otherwise there")
def test_a_cache_in_a_home_that_nobody_has_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CACHE_VARIABLE, "~nobody-of-this-name/cache")
    with pytest.raises(InputError, match=f"set {CACHE_VARIABLE}"):
        user_cache_folder()


@pytest.mark.skipif(sys.platform == "win32", reason="homes are named otherwise there")
def test_without_a_home_there_is_no_calibration_and_nothing_to_say_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CACHE_VARIABLE, "~nobody-of-this-name/cache")
    assert stored() == Stored()


@pytest.mark.parametrize("name", [run_folder.MANIFEST, run_folder.REQUESTS, run_folder.STAGES])
def test_a_file_of_a_run_that_cannot_be_read_is_one_line(name: str, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(Path(__file__).parents[2] / "data" / "runs" / "closed", folder)
    (folder / name).unlink()
    (folder / name).mkdir()  # whoever tries it: root may read every file
    with pytest.raises(InputError) as caught:
        run_folder.read(folder)
    assert name in str(caught.value) and "\n" not in str(caught.value)


def test_a_run_in_a_folder_of_somebody_else_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> bool:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)

    monkeypatch.setattr(Path, "is_file", refuse)
    with pytest.raises(InputError, match="cannot be read \\(Permission denied\\); fix that, or name another run"):
        run_folder.run_folder_at(tmp_path)
