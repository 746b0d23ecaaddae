"""Folders become nights: which of them count, what each says of itself, and what makes two of them the same test."""

import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loadgen.errors import InputError
from loadgen.store import files
from loadgen.store.history import UNKNOWN_MACHINE, History, read_history, scenario_differences
from loadgen.store.night_metrics import parse_metric
from tests.night_folders import MACHINE, QUIET, Night, night_id, write_night, write_nights


def folder_of(path: Path, *nights: Night | None) -> Path:
    write_nights(path / "summarizer", nights, noise=0.0)
    return path / "summarizer"


def read(path: Path, *nights: Night | None) -> History:
    return read_history(folder_of(path, *nights))


def test_a_night_has_the_values_of_its_summary_with_their_intervals(tmp_path: Path) -> None:
    (night,) = read(tmp_path, Night(failed=40, factors={"ttft_p95": 1.1})).nights
    (stage,) = night.stages
    assert (stage.model, stage.target, stage.level, stage.verdict, stage.ok) == ("m", "llamacpp", "c2", "valid", 960)
    assert stage.values["ttft_p95"].value == pytest.approx(453.2)
    assert (stage.values["ttft_p95"].low, stage.values["ttft_p95"].high) == pytest.approx((439.604, 471.328))
    assert stage.values["failed_share"].value == 0.04
    assert stage.values["server_memory"].value == 611.0
    assert (night.machine, night.machine_name, night.kind, night.incomplete) == (MACHINE, "a CPU", "soak", False)
    assert (night.run_id, night.folder.name) == (night_id(0, QUIET),) * 2


def test_what_could_not_be_bounded_is_missing_and_not_zero(tmp_path: Path) -> None:
    (night,) = read(tmp_path, Night(unbounded=("ttft_p95", "e2e_p95"))).nights
    assert {"ttft_p95", "e2e_p95"}.isdisjoint(night.stages[0].values)
    assert "ttft_p50" in night.stages[0].values


def test_a_model_that_could_not_be_served_has_no_values(tmp_path: Path) -> None:
    (night,) = read(tmp_path, Night(models=("m", "n"), skipped=("n",))).nights
    assert [(stage.model, stage.played, len(stage.values)) for stage in night.stages] == [
        ("m", True, 8),
        ("n", False, 0),
    ]


def test_nights_are_in_the_order_in_which_they_began(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, *[QUIET] * 3)
    first = folder / night_id(0, QUIET)
    first.rename(folder / "z-copied")
    assert next(night.folder.name for night in read_history(folder).nights) == "z-copied"


def test_folders_that_are_no_night_are_passed_over_with_a_note(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, *[QUIET] * 8)
    (folder / "notes").mkdir()
    (folder / "a-file.txt").write_text("x", "utf-8")
    (folder / f"{night_id(0, QUIET)}-ab6").mkdir()
    (folder / f"{night_id(0, QUIET)}-ab6" / "pairs.json").write_text("{}", "utf-8")
    (folder / night_id(1, QUIET) / "manifest.json").write_bytes(b'{"schema": "loadgen.man')
    (folder / night_id(2, QUIET) / "summary.json").write_bytes(b"\xff\xfe")
    (folder / night_id(3, QUIET) / "summary.json").unlink()
    change(folder / night_id(4, QUIET) / "manifest.json", schema="loadgen.manifest/9")
    change(folder / night_id(5, QUIET) / "manifest.json", started_utc="yesterday")
    change(folder / night_id(6, QUIET) / "summary.json", schema="loadgen.summary/9")
    shutil.copytree(folder / night_id(7, QUIET), folder / "capacity-20260101T000000Z-1")
    history = read_history(folder)
    assert [night.run_id for night in history.nights] == [night_id(0, QUIET), night_id(7, QUIET)]
    about = {
        number: [note for note in history.remarks if note.startswith(night_id(number, QUIET))] for number in range(8)
    }
    assert [len(about[number]) for number in range(8)] == [0, 1, 1, 1, 1, 1, 1, 0]
    assert "manifest.json is damaged" in about[1][0]
    assert "summary.json is damaged" in about[2][0]
    assert "`loadgen report" in about[3][0]
    assert "schema" in about[4][0] and "schema" in about[6][0]
    assert "manifest.json is damaged" in about[5][0]
    others = set(history.remarks) - {note for notes in about.values() for note in notes}
    assert others == {
        "1 folder passed over: no manifest.json in it, so no run",
        "1 search of `loadgen capacity` passed over",
    }


def change(path: Path, **keys: Any) -> None:
    files.write_json(path, json.loads(path.read_bytes()) | keys)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root reads everything")
def test_a_file_that_may_not_be_read_is_named(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, QUIET, QUIET)
    (folder / night_id(0, QUIET) / "summary.json").chmod(0)
    history = read_history(folder)
    assert len(history.nights) == 1 and "cannot be read" in history.remarks[0]


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_whatever_a_file_says_the_other_nights_are_read(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """A place in one of the files has another value, or is gone."""
    folder = folder_of(tmp_path_factory.mktemp("nights"), QUIET, QUIET)
    path = folder / night_id(0) / data.draw(st.sampled_from(["manifest.json", "summary.json"]))
    document = json.loads(path.read_bytes())
    holder: Any = document
    while True:
        keys = sorted(holder) if isinstance(holder, dict) else list(range(len(holder)))
        key = data.draw(st.sampled_from(keys))
        if not isinstance(holder[key], dict | list) or not holder[key] or data.draw(st.booleans()):
            break
        holder = holder[key]
    holder[key] = data.draw(
        st.sampled_from([None, True, -1, 1e308, 10**30, "", "0001-01-01T00:00:00", [], [1, 2], {}, {"a": {}}])
    )
    path.write_bytes(json.dumps(document).encode())
    ids = [night.run_id for night in read_history(folder).nights]
    assert night_id(1) in ids


def test_a_file_in_place_of_a_folder_of_a_night_is_no_error(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, QUIET)
    (folder / night_id(0, QUIET) / "summary.json").unlink()
    (folder / night_id(0, QUIET) / "summary.json").mkdir()
    history = read_history(folder)
    assert not history.nights and "summary.json cannot be read" in history.remarks[0]


def test_no_folder_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nothing: cannot be read \(No such file or directory\); name a scenario"):
        read_history(tmp_path / "nothing")


def test_merged_runs_are_one_night_and_their_parts_are_left_out(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, *[Night(is_soak=False)] * 4)
    ids = [night_id(number) for number in range(4)]
    for name, parts in (("a-x2", ids[:2]), ("b-x3", ids[:3]), ("c-x2", ["gone", "lost"])):
        shutil.copytree(folder / ids[0], folder / name)
        (folder / name / "manifest.json").unlink()
        change(folder / name / "summary.json", run_id=name, runs=parts)
    history = read_history(folder)
    assert [(night.run_id, night.kind) for night in history.nights] == [("b-x3", "merged"), (ids[3], "run")]
    assert any(note.startswith("a-x2: passed over, its runs are in another") for note in history.remarks)
    assert any(note.startswith("c-x2: passed over, none of the runs") for note in history.remarks)


def test_a_copy_of_a_night_and_the_second_variant_are_no_nights(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, QUIET, Night(manifest={"variant": "A", "block": 1}), Night(manifest={"variant": "B"}))
    shutil.copytree(folder / night_id(0, QUIET), folder / "copy")
    history = read_history(folder)
    assert [night.run_id for night in history.nights] == [night_id(0), night_id(1)]
    assert history.remarks == (
        f"copy: passed over, it is the run of {night_id(0)} once more",
        "1 run of the second variant of --versus passed over",
    )


def test_the_digest_of_a_soak_is_without_its_length_and_that_of_a_run_is_its_plan(tmp_path: Path) -> None:
    longer = Night(hours=9, plan="9" * 8, manifest={"soak": {"duration_s": 32400, "window_s": 30, "disk_bytes": 1}})
    more_users = Night(level="c4")
    first, second, third = read(tmp_path / "soaks", QUIET, longer, more_users).nights
    assert first.digest == second.digest != third.digest
    first, second = read(tmp_path / "runs", Night(is_soak=False), Night(is_soak=False, plan="9" * 8)).nights
    assert (first.digest, second.digest) == ("0123abcd" * 8, "9" * 64)


def test_keys_of_later_versions_do_not_begin_a_new_test(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, QUIET, QUIET)
    path = folder / night_id(1) / "manifest.json"
    manifest = json.loads(path.read_bytes())
    manifest["scenario"]["sampling"] |= {"min_p": None, "tools": []}
    manifest["scenario"]["load"] |= {"session": None}
    manifest["scenario"] |= {"build": "b2", "description": "another"}
    files.write_json(path, manifest)
    first, second = read_history(folder).nights
    assert first.digest == second.digest
    assert scenario_differences(first, second) == ()


def test_the_keys_that_changed_are_named(tmp_path: Path) -> None:
    other = Night(level="c4", scenario={"sampling": {"max_tokens": 12}, "seed": 2, "description": "x"})
    first, second = read(tmp_path, QUIET, other).nights
    assert set(scenario_differences(first, second)) == {"load.concurrency", "sampling.max_tokens", "seed"}
    workloads: list[dict[str, Any]] = [{"digest": "d", "prompts": prompts, "levels": {}} for prompts in ("p", "q")]
    first, second = read(tmp_path / "files", *(Night(manifest={"workload": each}) for each in workloads)).nights
    assert scenario_differences(first, second) == ("prompts",)
    assert first.digest != second.digest


def test_a_build_is_its_label_else_what_the_server_tells_else_unknown(tmp_path: Path) -> None:
    nights = (Night(label="rc1"), Night(), Night(server=None), Night(manifest={"build": None, "models": []}))
    assert [night.stages[0].build for night in read(tmp_path, *nights).nights] == ["rc1", "b10711", None, None]


def test_the_version_of_an_older_manifest_is_that_of_its_settings(tmp_path: Path) -> None:
    card = {"alias": "m", "id": "m", "target": "llamacpp", "settings": {"version": "xllamacpp 0.1", "threads": 3}}
    (night,) = read(tmp_path, Night(manifest={"models": [card]})).nights
    assert night.stages[0].build == "xllamacpp 0.1"
    assert night.stages[0].traits == {"server": "xllamacpp 0.1", "setting threads": "3"}


def test_traits_are_told_without_what_changes_from_boot_to_boot(tmp_path: Path) -> None:
    first = Night(host={"power": "battery 81 %", "memory_mib": 15_990, "governor": "performance"}, weights="w1")
    second = Night(host={"power": "battery 44 %", "memory_mib": 16_010, "governor": "performance"}, label="x")
    one, other = read(tmp_path, first, second).nights
    assert one.traits == other.traits
    assert one.traits["memory"] == "16 GiB" and one.traits["power"] == "battery" and one.traits["kernel"] == "6.12.5"
    assert one.stages[0].traits == {"model file": "w1", "server": "b10711"}
    assert other.stages[0].traits == {"server": "b10711"}


def test_a_machine_without_an_id_is_unknown(tmp_path: Path) -> None:
    assert read(tmp_path, Night(machine=None)).nights[0].machine == UNKNOWN_MACHINE


def test_a_run_of_an_older_version_is_a_night() -> None:
    history = read_history(Path(__file__).parents[2] / "data" / "runs")
    assert {"closed", "open", "embedded"} <= {night.folder.name for night in history.nights}
    closed = next(night for night in history.nights if night.folder.name == "closed")
    assert closed.stages[0].values["ttft_p50"].value == 24.9962
    assert "ttft_p95" not in closed.stages[0].values


def test_metrics_beyond_the_usual_ones_are_read_by_name_or_path(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, QUIET)
    metrics = [parse_metric(text) for text in ("metrics.ttft_ms.p50", "throughput.requests_per_s")]
    history = read_history(folder, metrics)
    assert set(history.nights[0].stages[0].values) == {"ttft_p50", "requests_per_s"}
    assert {"ttft_p50", "itl_p95", "requests_per_s"} <= set(history.metrics)


@pytest.mark.parametrize(("failed", "planned"), [(11, 10), (-1, 10), (10**400, 10**400), (1, 10**400), (1, 0), (0, -3)])
def test_a_share_of_failed_requests_is_between_0_and_1_or_missing(tmp_path: Path, failed: int, planned: int) -> None:
    folder = folder_of(tmp_path, QUIET)
    path = folder / night_id(0) / "summary.json"
    summary = json.loads(path.read_bytes())
    summary["stages"][0]["requests"] |= {"failed": failed, "planned": planned, "ok": 10**400}
    path.write_text(json.dumps(summary), encoding="utf-8")
    (stage,) = read_history(folder).nights[0].stages
    assert "failed_share" not in stage.values
    assert stage.ok == 0


@pytest.mark.parametrize("value", [None, "12", [], {}, True, -1, -0.5, 10**400, -(10**400), 1e300])
def test_a_value_that_no_run_measured_is_missing(tmp_path: Path, value: object) -> None:
    folder = folder_of(tmp_path, QUIET)
    path = folder / night_id(0) / "summary.json"
    summary = json.loads(path.read_bytes())
    summary["stages"][0]["metrics"]["ttft_ms"]["p50"] = value
    summary["stages"][0]["requests"] = {"planned": value, "ok": value}
    summary["stages"][0]["throughput"] = value
    path.write_text(json.dumps(summary), encoding="utf-8")
    assert set(read_history(folder).nights[0].stages[0].values) == {
        "ttft_p95",
        "itl_p50",
        "itl_p95",
        "e2e_p95",
        "server_memory",
    }


def test_400_nights_of_two_models_are_read_within_a_second_of_cpu_time(tmp_path: Path) -> None:
    """The bound is ten times what it takes, so that a busy machine does not matter."""
    folder = tmp_path / "summarizer"
    place = write_night(folder, 0, Night(models=("m", "n")))
    manifest, summary = ((place / name).read_bytes() for name in ("manifest.json", "summary.json"))
    for number in range(1, 400):
        copy = folder / f"{number:03d}"
        copy.mkdir()
        (copy / "manifest.json").write_bytes(manifest.replace(night_id(0).encode(), f"{number}".encode()))
        (copy / "summary.json").write_bytes(summary)
    before = time.process_time()
    history = read_history(folder)
    assert len(history.nights) == 400
    assert time.process_time() - before < 1.0


def test_reading_twice_gives_the_same(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, *[Night(label=f"b{number // 3}") for number in range(9)])
    assert read_history(folder) == read_history(folder)
