"""The reports of a soak: from its windows, histograms and events alone, and the same bytes each time."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.cells import cell_len

from loadgen.analysis.summary import summary_from
from loadgen.decisions.compare.sides import read_compared
from loadgen.decisions.drift.document import EVENTS_SHOWN, soak_text
from loadgen.decisions.drift.files import PAGE, REPORTS, Soak, is_soak, make_soak_reports
from loadgen.engine.soak.disk import BLOCK_BYTES, room_of
from loadgen.errors import InputError
from loadgen.report.files import make_reports
from loadgen.report.text_table import Screen
from loadgen.store.events import EVENTS
from loadgen.store.folder_size import keep_measured_bytes
from loadgen.store.run_folder import REQUESTS
from loadgen.store.windows import HISTOGRAMS, WINDOWS, read_windows
from tests import soak_folder
from tests.soak_folder import (
    DRIFTING,
    INTERRUPTED,
    INTERRUPTIONS,
    LEAKING,
    QUIET,
    ScriptedNight,
    event,
    write_soak,
)

pytestmark = pytest.mark.slow  # nights

Written = Callable[[str], Path]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Soaks that no test may change."""
    at = tmp_path_factory.mktemp("soaks")
    return {
        "quiet": write_soak(at / "quiet", [QUIET]),
        "drifting": write_soak(at / "drifting", [DRIFTING]),
        "leaking": write_soak(at / "leaking", [LEAKING], [event("server_restarted", 20, model="m")]),
        "interrupted": write_soak(at / "interrupted", [INTERRUPTED], INTERRUPTIONS, state="interrupted"),
        "several": write_soak(
            at / "several",
            [ScriptedNight(model="slow", change=0.3, windows=60), ScriptedNight(model="fast", windows=60, seed=2)],
            [event("server_gone", 5, model="slow"), event("server_back", 7, model="slow", for_s=120.0)],
        ),
    }


@pytest.fixture(scope="module")
def soaks(folders: dict[str, Path]) -> dict[str, Soak]:
    return {name: make_soak_reports(folder) for name, folder in folders.items()}


def stages_in(folder: Path) -> list[dict[str, Any]]:
    stages: list[dict[str, Any]] = json.loads((folder / "summary.json").read_bytes())["stages"]
    return stages


def test_a_quiet_night_is_stable_and_a_slowing_one_degrades(soaks: dict[str, Soak]) -> None:
    assert soaks["quiet"].word == "stable"
    assert soaks["drifting"].word == "degrading"
    drift = soaks["drifting"].summary.stages[0].drift
    assert drift and drift.metrics["ttft_p50"].verdict == "degrading"
    assert "TTFT p50 +" in soaks["drifting"].sentence or "TTFT p50 rose by" in soaks["drifting"].sentence


def test_a_leak_is_named_with_its_pace(soaks: dict[str, Soak]) -> None:
    drift = soaks["leaking"].summary.stages[0].drift
    assert drift and drift.metrics["server_memory"].verdict == "degrading"
    rate = drift.metrics["server_memory"].mib_per_h
    assert isinstance(rate, float) and 100 < rate < 140
    assert "memory rose by" in soaks["leaking"].sentence
    assert "a request" in soak_text(soaks["leaking"].summary, (), Screen(None))


@pytest.mark.parametrize("name", ["quiet", "drifting", "leaking", "interrupted", "several"])
def test_the_same_folder_gives_the_same_bytes(name: str, folders: dict[str, Path], soaks: dict[str, Soak]) -> None:
    before = {report: (folders[name] / report).read_bytes() for report in REPORTS}
    make_soak_reports(folders[name])
    assert {report: (folders[name] / report).read_bytes() for report in REPORTS} == before
    assert soaks[name].reports.unwritten == ()


def test_the_summary_can_be_read_back(folders: dict[str, Path], soaks: dict[str, Soak]) -> None:
    for name, soak in soaks.items():
        assert summary_from((folders[name] / "summary.json").read_bytes()) == soak.summary


def test_windows_histograms_and_summary_agree(folders: dict[str, Path], soaks: dict[str, Soak]) -> None:
    for name, soak in soaks.items():
        windows = read_windows(folders[name])
        for stage in soak.summary.stages:
            own = [window for window in windows if window.model == stage.model]
            assert stage.requests and stage.metrics and stage.tokens
            assert stage.requests.ok == sum(window.ok for window in own)
            assert stage.metrics["ttft_ms"].count == stage.metrics["e2e_ms"].count == stage.requests.ok
            assert stage.tokens.output == sum(window.output_tokens for window in own)
            lowest = min(window.extremes_ns["ttft"][0] for window in own if window.ok)
            assert stage.metrics["ttft_ms"].min == pytest.approx(lowest / 1e6, abs=1e-4)


def test_percentiles_come_from_histograms_and_say_so(folders: dict[str, Path], soaks: dict[str, Soak]) -> None:
    (stage,) = stages_in(folders["quiet"])
    for metric in ("ttft_ms", "itl_ms", "tpot_ms", "e2e_ms"):
        assert stage["metrics"][metric]["exact"] is False
        low, high = stage["metrics"][metric]["p50_ci"]
        assert low <= stage["metrics"][metric]["p50"] <= high
    assert stage["metrics"]["ttft_ms"]["p50"] == pytest.approx(200, rel=0.1)


def test_what_happened_is_counted(folders: dict[str, Path], soaks: dict[str, Soak]) -> None:
    (stage,) = stages_in(folders["interrupted"])
    assert stage["soak"]["outages"] == {"count": 1, "s": 180.0}
    assert stage["soak"]["suspended_s"] == 91.0
    assert stage["soak"]["server_restarts"] == 1
    assert (stage["soak"]["windows"], stage["soak"]["valid_windows"]) == (120, 119)
    assert stage["incomplete"] is True
    assert "1 outage (3 min)" in soaks["interrupted"].sentence
    assert "so far" in soaks["interrupted"].sentence


def test_an_outage_that_did_not_end_lasts_until_the_end(tmp_path: Path) -> None:
    night = ScriptedNight(windows=10, silent=(7, 8, 9))
    folder = write_soak(tmp_path / "run", [night], [event("server_gone", 7, model="m")])
    (stage,) = make_soak_reports(folder).summary.stages
    assert stage.soak and (stage.soak.outages.count, stage.soak.outages.s) == (1, 180.0)


def test_an_outage_of_one_model_is_no_outage_of_another(soaks: dict[str, Soak]) -> None:
    slow, fast = soaks["several"].summary.stages
    assert slow.soak and fast.soak
    assert (slow.soak.outages.count, fast.soak.outages.count) == (1, 0)
    assert soaks["several"].sentence.startswith("slow on llamacpp: degrading")
    assert soaks["several"].word == "degrading"


@pytest.mark.parametrize(("invalid", "verdict"), [(1, "valid"), (2, "degraded"), (10, "degraded"), (11, "invalid")])
def test_a_soak_is_as_valid_as_its_windows(invalid: int, verdict: str, tmp_path: Path) -> None:
    night = ScriptedNight(windows=20, requests=2, invalid=tuple(range(invalid)))
    (stage,) = make_soak_reports(write_soak(tmp_path / "run", [night])).summary.stages
    assert stage.validity and stage.validity.verdict == verdict
    assert [reason.code for reason in stage.validity.reasons] == ([] if verdict == "valid" else ["invalid_windows"])


def test_a_soak_in_which_nothing_was_answered_is_invalid_and_has_a_report(tmp_path: Path) -> None:
    night = ScriptedNight(windows=60, requests=0, failed=3)
    soak = make_soak_reports(write_soak(tmp_path / "run", [night]))
    (stage,) = soak.summary.stages
    assert stage.validity and stage.validity.reasons[0].code == "nothing_answered"
    assert soak.word == "not enough data"
    assert "No request was answered." in (soak.folder / "report.md").read_text()


def test_too_few_windows_and_too_few_answers_say_so(tmp_path: Path) -> None:
    few = make_soak_reports(write_soak(tmp_path / "few", [ScriptedNight(windows=30)]))
    thin = make_soak_reports(write_soak(tmp_path / "thin", [ScriptedNight(windows=60, requests=2)]))
    assert "it has 30 windows, and a verdict needs 50" in few.sentence
    assert "metric" not in soak_text(few.summary, (), Screen(80))
    assert "95 % interval" not in (few.folder / "report.md").read_text()
    assert "it has 120 answered requests, and a verdict needs 300" in thin.sentence


def test_windows_after_the_deadline_are_counted_and_in_no_test(tmp_path: Path) -> None:
    soak = make_soak_reports(write_soak(tmp_path / "run", [ScriptedNight(windows=60, draining=2)]))
    (stage,) = soak.summary.stages
    assert stage.soak and stage.drift and stage.requests
    assert stage.soak.windows == 60
    assert stage.drift.windows + stage.drift.left_out == 60
    assert stage.requests.ok == 62 * 20


def test_a_soak_that_is_going_on_has_a_report_of_what_there_is(folders: dict[str, Path], tmp_path: Path) -> None:
    going = tmp_path / "run"
    shutil.copytree(folders["quiet"], going)
    windows = (going / WINDOWS).read_bytes().splitlines(keepends=True)
    (going / WINDOWS).write_bytes(b"".join(windows[:60]) + windows[60][:50])
    intervals = (going / HISTOGRAMS).read_bytes()
    (going / HISTOGRAMS).write_bytes(intervals[: intervals.rfind(b"\n", 0, len(intervals) * 61 // 120) + 30])
    manifest = json.loads((going / "manifest.json").read_bytes()) | {"state": "running"}
    (going / "manifest.json").write_text(json.dumps(manifest))
    (stage,) = make_soak_reports(going).summary.stages
    assert stage.soak and stage.requests and stage.metrics
    assert stage.soak.windows == 60
    assert stage.metrics["ttft_ms"].count == stage.requests.ok == 1200
    assert "so far" in make_soak_reports(going).sentence


def test_a_soak_without_a_window_yet_has_a_report(tmp_path: Path) -> None:
    folder = write_soak(tmp_path / "run", [ScriptedNight(windows=0)], state="running")
    soak = make_soak_reports(folder)
    assert soak.sentence == "not enough data: no window is complete."
    assert (folder / "report.html").exists()


def test_a_stricter_floor_hides_percentiles(tmp_path: Path) -> None:
    folder = write_soak(tmp_path / "run", [ScriptedNight(windows=60, requests=6)])
    usual, strict = (make_soak_reports(folder, floor=floor).summary for floor in (None, "strict"))
    assert (usual.floor, strict.floor) == ("contract", "strict")
    known = [
        sum(percentile.value is not None for percentile in metrics["ttft_ms"].percentiles.values())
        for summary in (usual, strict)
        if (metrics := summary.stages[0].metrics)
    ]
    assert known[0] >= known[1]


def test_goodput_and_attainment_come_from_the_windows(tmp_path: Path) -> None:
    scenario = {"slo": {"ttft_ms": 300.0, "attainment": 0.9}}
    folder = write_soak(tmp_path / "run", [ScriptedNight(windows=60, slo_met=15, failed=5)], scenario=scenario)
    (stage,) = make_soak_reports(folder).summary.stages
    assert stage.slo is not None and stage.throughput
    assert (stage.slo.met, stage.slo.share, stage.slo.passed) == (900, 0.6, False)
    assert stage.throughput.goodput_requests_per_s == 0.25
    assert stage.throughput.requests_per_s == pytest.approx(20 / 60, abs=1e-4)


@pytest.mark.parametrize("name", ["quiet", "drifting", "leaking", "interrupted", "several"])
def test_the_console_fits_80_columns_and_begins_with_the_verdict(name: str, soaks: dict[str, Soak]) -> None:
    soak = soaks[name]
    text = soak_text(soak.summary, soak.events, Screen(80))
    assert max(cell_len(line) for line in text.splitlines()) <= 80
    assert " ".join(text.split("\n\n")[0].split()).endswith(soak.sentence)
    assert not any(line != line.rstrip() for line in text.splitlines())


def test_the_console_names_each_metric_with_its_word(soaks: dict[str, Soak]) -> None:
    text = soak_text(soaks["drifting"].summary, (), Screen(None))
    row = next(line for line in text.splitlines() if line.startswith("TTFT p50 "))
    assert "degrading" in row and "%" in row and "ms" in row
    assert "windows are tested" in text


def test_many_events_are_counted_on_the_console_and_folded_in_the_report(tmp_path: Path) -> None:
    events = [event("clock_stepped", window, detail="by 2 s") for window in range(30)]
    soak = make_soak_reports(write_soak(tmp_path / "run", [ScriptedNight(windows=60)], events))
    text = soak_text(soak.summary, soak.events, Screen(80))
    assert text.count("the clock was set") == EVENTS_SHOWN
    assert "18 events more in events.jsonl" in text
    assert (soak.folder / "report.md").read_text().count("the clock was set") == EVENTS_SHOWN + 30


def test_the_page_and_the_markdown_have_the_same_words(folders: dict[str, Path], soaks: dict[str, Soak]) -> None:
    page = (folders["interrupted"] / "report.html").read_text()
    text = (folders["interrupted"] / "report.md").read_text()
    for words in ("the machine was suspended", "the server was gone", "Over time", "The soak as one stage"):
        assert words in page
        assert words in text


def test_the_csv_has_the_verdict_and_each_change(folders: dict[str, Path], soaks: dict[str, Soak]) -> None:
    head, row = (folders["drifting"] / "summary.csv").read_text().splitlines()
    cells = dict(zip(head.split(","), row.split(","), strict=True))
    assert cells["drift"] == "degrading"
    assert cells["ttft_p50_drift"] == "degrading"
    assert float(cells["ttft_p50_change_low"]) < float(cells["ttft_p50_change"]) < float(cells["ttft_p50_change_high"])


def test_hostile_texts_are_only_texts(tmp_path: Path) -> None:
    hostile = "</script><img src=x onerror=alert(1)>"
    night = ScriptedNight(model=hostile, windows=60)
    soak = make_soak_reports(write_soak(tmp_path / "run", [night], [event("server_gone", 3, detail=hostile)]))
    page = (soak.folder / "report.html").read_text()
    assert "<img src=x" not in page


def test_a_folder_that_is_no_soak_is_refused_in_one_line(tmp_path: Path) -> None:
    folder = write_soak(tmp_path / "run", [ScriptedNight(windows=1)], soak=None)
    assert not is_soak(folder)
    with pytest.raises(InputError, match="not a soak"):
        make_soak_reports(folder)


def test_a_report_that_cannot_be_written_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_soak(tmp_path / "run", [ScriptedNight(windows=60)])
    (folder / "report.html").mkdir()
    reports = make_soak_reports(folder).reports
    assert reports.unwritten == ("report.html",)
    assert (folder / "summary.json").exists()


def test_a_page_for_which_the_budget_has_no_room_is_left_out_and_can_be_written_elsewhere(tmp_path: Path) -> None:
    night, budget = ScriptedNight(windows=20), 4 << 20
    usual = write_soak(tmp_path / "usual", [night])
    make_soak_reports(usual)
    small = write_soak(tmp_path / "small", [night], disk_bytes=budget)
    (small / "report.html").write_text("of an earlier time, when there was room")
    soak = make_soak_reports(small, page_path=tmp_path / "page.html")
    assert sorted(path.name for path in usual.iterdir() if not (small / path.name).exists()) == ["report.html"]
    assert sum(path.stat().st_size for path in small.iterdir()) < budget
    assert "larger than its budget of 4 MiB" in soak.page_remark
    assert soak.reports.unwritten == ()
    assert soak.page_remark.replace("`", "\\`") in (small / "report.md").read_text()
    assert (tmp_path / "page.html").read_bytes() == (usual / "report.html").read_bytes()
    before = (small / "report.md").read_bytes()
    make_soak_reports(small)
    assert (small / "report.md").read_bytes() == before


def test_reports_of_a_folder_whose_records_fill_the_budget_have_their_place_within_it(tmp_path: Path) -> None:
    budget = 4 << 20
    folder = write_soak(tmp_path / "full", [ScriptedNight(windows=60)], disk_bytes=budget)
    for name in REPORTS:
        (folder / name).unlink(missing_ok=True)
    records = folder / "requests-00001.jsonl.gz"
    records.write_bytes(b"")
    room = room_of(folder / REQUESTS, budget, (REQUESTS,))
    records.write_bytes(bytes(room.left // BLOCK_BYTES * BLOCK_BYTES))
    written = None
    for _ in range(2):  # the second time with the reports of the first there
        soak = make_soak_reports(folder)
        assert soak.reports.unwritten == ()
        contents = {name: (folder / name).read_bytes() for name in REPORTS if (folder / name).exists()}
        assert set(contents) == set(REPORTS) - {PAGE}
        assert written in (None, contents)
        written = contents
        blocks = sum(-(-path.stat().st_size // BLOCK_BYTES) for path in folder.iterdir())
        assert blocks * BLOCK_BYTES <= budget


def test_a_page_elsewhere_is_written_beside_that_of_the_folder(tmp_path: Path) -> None:
    folder = write_soak(tmp_path / "run", [ScriptedNight(windows=20)])
    soak = make_soak_reports(folder, page_path=tmp_path / "page.html")
    assert soak.page_remark == ""
    assert (tmp_path / "page.html").read_bytes() == (folder / "report.html").read_bytes()
    with pytest.raises(InputError, match=r"nowhere.page\.html: cannot be written"):
        make_soak_reports(folder, page_path=tmp_path / "nowhere" / "page.html")


def test_records_are_never_read(tmp_path: Path) -> None:
    folder = write_soak(tmp_path / "run", [ScriptedNight(windows=60)])
    (folder / "requests.jsonl").write_bytes(b"not a record\n" * 3)
    before = make_soak_reports(folder).summary
    assert before.torn_lines == 0
    assert (folder / EVENTS).exists()
    assert before.stages[0].target == soak_folder.TARGET


def test_what_lies_beside_the_data_of_a_soak_changes_no_byte(tmp_path: Path) -> None:
    folder = write_soak(tmp_path / "run", [ScriptedNight(windows=10)])
    make_soak_reports(folder)
    before = (folder / "summary.json").read_bytes()
    (folder / "comparison.md").write_text("somebody compared it")
    make_soak_reports(folder)
    assert (folder / "summary.json").read_bytes() == before


def test_two_soaks_are_compared_by_their_summaries(tmp_path: Path) -> None:
    folders = [
        write_soak(
            tmp_path / name, [ScriptedNight(model="m", windows=60, seed=seed)], run_id=f"20261129T22000{seed}Z-0a"
        )
        for name, seed in (("base", 1), ("new", 2))
    ]
    for folder in folders:
        make_soak_reports(folder)
        (folder / "requests.jsonl").write_bytes(b"a record that nobody reads")
    base, new = (read_compared(folder) for folder in folders)
    assert base.stages is None
    assert new.summary.stages[0].soak


def test_other_reports_leave_the_histograms_of_a_soak_as_they_are(tmp_path: Path) -> None:
    folder = write_soak(tmp_path / "run", [ScriptedNight(windows=2)])
    before = (folder / HISTOGRAMS).read_bytes()
    with pytest.raises(InputError, match="use `loadgen report"):
        make_reports(folder)
    assert (folder / HISTOGRAMS).read_bytes() == before


def test_records_that_are_removed_after_the_end_change_no_byte(tmp_path: Path) -> None:
    folder = write_soak(tmp_path / "run", [ScriptedNight(windows=10)])
    (folder / "requests-00001.jsonl.gz").write_bytes(b"compressed records")
    keep_measured_bytes(folder)
    make_soak_reports(folder)
    before = {report: (folder / report).read_bytes() for report in REPORTS}
    (folder / "requests-00001.jsonl.gz").unlink()
    make_soak_reports(folder)
    assert {report: (folder / report).read_bytes() for report in REPORTS} == before


def test_windows_that_cannot_be_tested_are_not_counted_as_windows_of_a_verdict(tmp_path: Path) -> None:
    night = ScriptedNight(windows=60, requests=4, invalid=tuple(range(20)))
    sentence = make_soak_reports(write_soak(tmp_path / "few", [night])).sentence
    assert "only 40 of its 60 windows can be tested, and a verdict needs 50" in sentence
    thin = ScriptedNight(windows=60, requests=5, gaps=dict.fromkeys(range(5), 60.0), invalid=(10, 11, 12))
    sentence = make_soak_reports(write_soak(tmp_path / "thin", [thin])).sentence
    assert "it has 275 answered requests, and a verdict needs 300" in sentence
    thinner = ScriptedNight(windows=60, requests=5, invalid=(10, 11))
    sentence = make_soak_reports(write_soak(tmp_path / "thinner", [thinner])).sentence
    assert "the windows that can be tested have fewer than the 300 answers that a verdict needs" in sentence
