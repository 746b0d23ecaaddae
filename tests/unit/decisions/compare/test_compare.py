"""Whole comparisons of runs that are made by hand: their verdicts, their files, and what is refused."""

import json
import re
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from loadgen.decisions.baseline import keep_baseline
from loadgen.decisions.compare.comparison import CompareSettings, Comparison, Figure
from loadgen.decisions.compare.differences import NotAlikeError
from loadgen.decisions.compare.verdict import Limits
from loadgen.decisions.compare.words import context_lines, marked_name
from loadgen.errors import InputError
from loadgen.report.files import make_merged, make_reports
from loadgen.store import run_folder
from loadgen.store.manifest import SCHEMA
from tests.compared_runs import compare_runs, write_run, write_side

SPREAD = (0.99, 1.0, 1.01)


def figure(comparison: Comparison, metric: str, level: str | None) -> Figure:
    return next(each for each in comparison.figures if (each.metric, each.level) == (metric, level))


def compare(base: list[Path], new: list[Path], **asked: Any) -> Comparison:
    return compare_runs(base, new, settings=CompareSettings(**asked), results=base[0].parent)


# --- several runs -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("factor", "verdict"), [(1.0, "same"), (1.2, "worse"), (1 / 1.2, "better")], ids=["equal", "slower", "faster"]
)
def test_three_runs_a_side_tell_equal_from_slower_and_faster(tmp_path: Path, factor: float, verdict: str) -> None:
    base = write_side(tmp_path, SPREAD, first=0)
    new = write_side(tmp_path, [factor * each for each in SPREAD[::-1]], first=10)
    comparison = compare(base, new)
    assert comparison.verdict == verdict
    assert comparison.design == "runs"
    ttft = figure(comparison, "ttft_p50", None)
    assert ttft.verdict == verdict
    assert ttft.ratio_ci is not None and ttft.ratio_ci[0] < factor < ttft.ratio_ci[1]
    assert ttft.base is None and len(ttft.base_runs) == len(ttft.new_runs) == 3
    rate = figure(comparison, "output_tokens_per_s", "c4")
    assert rate.verdict == verdict
    assert rate.ratio == pytest.approx(1 / factor, rel=0.03)
    assert figure(comparison, "rss", "c1").verdict == "same"


def test_a_regression_below_the_least_effect_never_fails_however_certain(tmp_path: Path) -> None:
    base, new = write_side(tmp_path, [1.0] * 3, first=0), write_side(tmp_path, [1.015] * 3, first=10)
    assert figure(compare(base, new), "ttft_p50", "c1").verdict != "worse"
    strict = compare(base, new, limits=Limits(min_effect=0.001))
    assert strict.verdict == "worse"


def test_runs_that_answer_alike_but_of_other_numbers_of_requests_are_as_often_answered(tmp_path: Path) -> None:
    """The log odds of all of few requests are below those of all of many: that is no regression."""
    base = write_side(tmp_path, SPREAD, first=0, rounds=12)
    new = write_side(tmp_path, SPREAD, first=10, rounds=9)
    comparison = compare(base, new, unlike="accept")
    ok = figure(comparison, "ok", "c4")
    assert (ok.points, ok.points_ci, ok.verdict) == (0.0, (0.0, 0.0), "same")


def test_shares_are_compared_in_points(tmp_path: Path) -> None:
    base = write_side(tmp_path, SPREAD, first=0)
    new = write_side(tmp_path, [1.5 * each for each in SPREAD], first=10)  # beyond the limit on TTFT of 150 ms at c1
    goodput = figure(compare(base, new), "goodput", "c1")
    assert goodput.ratio is None
    assert goodput.verdict == "worse"
    assert goodput.points is not None and goodput.points < -0.4


def test_the_verdict_of_sides_exchanged_is_the_opposite(tmp_path: Path) -> None:
    base, new = write_side(tmp_path, SPREAD, first=0), write_side(tmp_path, [1.2, 1.21, 1.19], first=10)
    forth, back = compare(base, new), compare(new, base)
    for a, b in zip(forth.figures, back.figures, strict=True):
        assert (a.p_worse, a.p_better) == (b.p_better, b.p_worse)
        assert a.ratio is None or a.ratio * (b.ratio or 0) == pytest.approx(1, rel=1e-4)


def test_only_levels_that_all_runs_have_are_compared_and_the_others_are_named(tmp_path: Path) -> None:
    base = write_side(tmp_path, SPREAD, first=0, levels=(1, 4, 8))
    new = write_side(tmp_path, SPREAD, first=10, levels=(1, 4))
    comparison = compare(base, new)
    assert {each.level for each in comparison.figures} == {"c1", "c4", None}
    assert [(each.level, each.why) for each in comparison.left_out] == [("c8", "only in BASE")]
    assert {each.level for each in compare(base, new, levels=("c4",)).figures} == {"c4"}


def test_a_merged_folder_stands_for_its_runs_and_a_scenario_for_its_newest(tmp_path: Path) -> None:
    ids = [f"20260102T03{number:02d}05Z-0123abcd" for number in range(3)]
    base = [write_run(tmp_path / ids[i], i, SPREAD[i]) for i in range(3)]
    merged = make_merged(base).folder
    new = write_side(tmp_path / "other", SPREAD, first=10)
    assert compare_runs(merged, new, results=tmp_path) == compare_runs(base, new, results=tmp_path)
    assert compare_runs(merged, tmp_path / "other", results=tmp_path).new == ("20260102T031205Z-0123abcd",)


# --- few runs ---------------------------------------------------------------------------------------------------------


def test_requests_never_stand_in_for_runs(tmp_path: Path) -> None:
    """Thousands of requests that differ by little, in two runs that differ by 6 %: that may well be the runs."""
    base = write_side(tmp_path, [1.0], first=0, rounds=200)
    new = write_side(tmp_path, [1.06], first=10, rounds=200)
    comparison = compare(base, new)
    assert (comparison.design, comparison.verdict) == ("few", "unknown")
    assert (comparison.noise.source, comparison.noise.sd) == ("assumed", 0.05)
    assert figure(comparison, "ttft_p50", "c1").runs_needed is not None
    assert any(
        re.search(r"^not known: .*; \d+ (to \d+ )?runs a side would be enough to show a change of 5 %$", line)
        for line in context_lines(comparison)
    )
    certain = compare(base, new, noise=0.005)
    assert (certain.noise.source, certain.verdict) == ("given", "worse")


def test_a_large_regression_is_shown_by_one_run_against_one(tmp_path: Path) -> None:
    base, new = write_side(tmp_path, [1.0], first=0), write_side(tmp_path, [1.6], first=10)
    assert compare(base, new).verdict == "worse"


def test_noise_is_learned_from_repeats_of_the_sides(tmp_path: Path) -> None:
    base, new = write_side(tmp_path, [1.0, 1.01], first=0), write_side(tmp_path, [0.99, 1.0], first=10)
    noise = compare(base, new).noise
    assert (noise.source, noise.degrees) == ("repeats", 2)
    assert noise.sd is not None and noise.sd < 0.02


def test_a_figure_that_is_equal_in_two_runs_a_side_by_luck_is_not_taken_to_be_free_of_noise(tmp_path: Path) -> None:
    """Memory is the same in both runs of a side, and 3 % more in NEW."""
    base = write_side(tmp_path, [1.0, 1.04], first=0)
    new = write_side(tmp_path, [0.98, 1.02], first=10)
    for folder in new:
        log = folder / "stages.jsonl"
        peak = 128 * 2**20
        log.write_text(log.read_text("utf-8").replace(str(peak), str(round(1.03 * peak))), "utf-8")
    memory = figure(compare(base, new), "rss", None)
    assert memory.ratio == pytest.approx(1.03, rel=1e-3)
    assert memory.verdict != "worse"


def test_noise_is_learned_from_earlier_runs_of_the_same_work_on_the_same_machine(tmp_path: Path) -> None:
    folders = write_side(tmp_path / "x", [1.0, 1.02, 0.98, 1.01, 1.0], first=0)
    for folder in folders[:3]:
        make_reports(folder)
    noise = compare_runs(folders[3], folders[4], results=tmp_path).noise
    assert (noise.source, noise.degrees) == ("earlier", 2)
    assert noise.sd is not None and 0.005 < noise.sd < 0.04
    manifest = json.loads((folders[0] / "manifest.json").read_text())
    manifest["host"]["cpu"] = "another CPU"
    (folders[0] / "manifest.json").write_text(json.dumps(manifest))
    assert compare_runs(folders[3], folders[4], results=tmp_path).noise.source == "assumed"


def test_a_baseline_is_compared_by_its_intervals(tmp_path: Path) -> None:
    base, new = write_run(tmp_path / "a", 0), write_side(tmp_path, SPREAD, first=10)
    make_reports(base)
    keep_baseline(base, tmp_path / "baselines" / "before")
    comparison = compare_runs("baseline:before", new, results=tmp_path)
    assert comparison.design == "few"
    assert comparison.verdict in ("same", "unknown")
    with pytest.raises(
        InputError, match=r"^baseline:after: there is no .*; keep one with `loadgen run --baseline NAME`"
    ):
        compare_runs("baseline:after", new, results=tmp_path)


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"scenario": {"sampling": {"max_tokens": 32}}}, ("sampling.max_tokens", "128", "32")),
        ({"scenario": {"system": "Be brief."}}, ("system", "not set", "Be brief.")),
        ({"scenario": {"timeouts": {"request_s": 9.0}}}, ("timeouts.request_s", "not set", "9.0")),
        ({"scenario": {"slo": {"ttft_ms": 99.0}}}, ("slo.ttft_ms", "150.0", "99.0")),
        ({"measurement_epoch": 1}, ("measurement epoch", None, "1")),
        ({"measurement_epoch": None}, ("measurement epoch", None, "not known (loadgen 0.1.0)")),
        ({"versions": {"python": "3.12.1"}}, ("Python", "3.11", "3.12")),
        ({"workers": 2}, ("workers", "1", "2")),
        ({"state": "running"}, ("whole run", "–", "killed (20260102T031005Z-0123abcd)")),
    ],
    ids=str,
)
def test_what_must_be_alike_is_refused_by_name_and_compared_anyway(
    tmp_path: Path, changes: dict[str, Any], line: tuple[str, str | None, str]
) -> None:
    base, new = [write_run(tmp_path / "a", 0)], [write_run(tmp_path / "b", 10, **changes)]
    with pytest.raises(NotAlikeError) as refused:
        compare(base, new)
    (only,) = refused.value.differences
    assert (only.subject, only.new) == (line[0], line[2])
    assert line[1] is None or only.base == line[1]
    comparison = compare(base, new, unlike="accept")
    assert comparison.unlike == (only,)


def test_hosts_are_compared_but_for_a_little_memory_and_the_minor_version_of_the_system(tmp_path: Path) -> None:
    base = write_run(tmp_path / "a", 0)
    host = run_folder.read(base).manifest.host
    close = msgspec.structs.replace(host, memory_mib=4100, kernel="6.19")
    assert not compare([base], [write_run(tmp_path / "b", 1, host=close)]).unlike
    other = msgspec.structs.replace(host, memory_mib=8192, kernel="7.0", power="battery 80 %", power_saving="low power")
    with pytest.raises(NotAlikeError) as refused:
        compare([base], [write_run(tmp_path / "c", 2, host=other)])
    assert [each.subject for each in refused.value.differences] == [
        "memory",
        "operating system",
        "power",
        "power profile",
    ]


def test_models_servers_and_versions_may_differ_and_are_told(tmp_path: Path) -> None:
    base = write_run(tmp_path / "a", 0)
    new = write_run(tmp_path / "b", 10, model="large", git_commit="abc", versions={"python": "3.11.9", "aiohttp": "4"})
    comparison = compare([base], [new])
    assert not comparison.unlike
    differing = {each.subject: (each.base, each.new) for each in comparison.differences}
    assert differing["models[0].name"] == ("tiny", "large")
    assert differing["version of aiohttp"] == ("not set", "4")
    assert differing["git commit"] == ("not known", "abc")
    assert comparison.figures[0].model == ("tiny", "large")


def test_an_invalid_stage_is_refused_with_its_reason_and_a_degraded_one_is_marked(tmp_path: Path) -> None:
    base = write_run(tmp_path / "a", 0)
    invalid = write_run(tmp_path / "b", 1, own_cpu=0.97)
    with pytest.raises(NotAlikeError) as refused:
        compare([base], [invalid])
    assert [each.subject for each in refused.value.differences] == ["tiny at c1", "tiny at c4"]
    unknown = "TTFT, ITL and E2E may be too high, by how much is not known"
    invalid_text = f"invalid: {unknown}, because loadgen used 97% of a core (20260102T030105Z-0123abcd)"
    assert refused.value.differences[0].new == invalid_text
    comparison = compare([base], [write_run(tmp_path / "c", 2, own_cpu=0.8)])
    assert [(each.model, each.level) for each in comparison.degraded] == [("tiny", "c1"), ("tiny", "c4")]
    assert comparison.degraded[0].reasons == (f"{unknown}, because loadgen used 80% of a core",)
    assert marked_name(comparison, figure(comparison, "ttft_p50", "c1")) == "TTFT p50 at 1 user †"
    assert any(line.startswith("† degraded: tiny at 1 user in 2026") for line in context_lines(comparison))


def test_a_level_that_is_degraded_in_many_runs_is_named_once(tmp_path: Path) -> None:
    base = write_side(tmp_path, SPREAD, first=0)
    new = write_side(tmp_path, SPREAD, first=10, own_cpu=0.8)
    lines = [line for line in context_lines(compare(base, new)) if line.startswith("†")]
    assert lines == [
        f"† degraded: tiny at {users} in 3 runs, such as 20260102T031005Z-0123abcd (TTFT, ITL and E2E may be too high, "
        "by how much is not known, because loadgen used 80% of a core)"
        for users in ("1 user", "4 users")
    ]


def test_addresses_and_settings_that_differ_are_told_as_they_work(tmp_path: Path) -> None:
    """A port means an address; and a setting that is written out at its default is none that differs."""
    embedded = {"name": "tiny", "target": "llamacpp"}
    base = write_run(tmp_path / "a", 0, scenario={"models": [embedded]})
    new = write_run(tmp_path / "b", 1, scenario={"models": [embedded | {"llamacpp": {"threads": 1}}]})
    other = write_run(tmp_path / "c", 2, scenario={"models": [{"name": "tiny", "url": "8081"}]})
    assert {each.subject: each.new for each in compare([base], [new]).differences} == {
        "models[0].llamacpp.threads": "1"
    }
    told = {each.subject: each.new for each in compare([base], [other]).differences}
    assert told["models[0].url"] == "http://127.0.0.1:8081/v1"


def test_an_alpha_that_the_exchanges_cannot_reach_is_said_to_be_out_of_reach(tmp_path: Path) -> None:
    base = write_side(tmp_path, SPREAD, first=0)
    new = write_side(tmp_path, [1.5 * each for each in SPREAD], first=10)
    comparison = compare(base, new, limits=Limits(alpha=0.01))
    assert comparison.verdict != "worse"
    line = "3 runs against 3 cannot show worse or better at --alpha 1 %; 5 a side can"
    assert line in context_lines(comparison)
    assert line not in context_lines(compare(base, new))


def test_a_run_that_was_killed_is_refused(tmp_path: Path) -> None:
    kept = Path(__file__).parents[3] / "data" / "runs"
    with pytest.raises(NotAlikeError, match=r"whole run: –, killed"):
        compare_runs(kept / "closed", kept / "killed", results=tmp_path)


@pytest.mark.parametrize(
    ("base", "new", "words"),
    [
        (["run0"], ["run0"], r"run0: the same run as \S+run0"),
        (["run0", "run0"], ["run1"], r"the same run as"),
        (["run0"], ["nothing"], r"nothing: not a run folder"),
        (["run0"], ["other-levels"], r"no level in common: BASE has tiny at c1, c4, NEW has tiny at c2"),
        (["run0"], ["unanswered"], r"none of its requests was answered"),
        (["run0"], ["gone-x2"], r"one of the merged runs, is missing"),
    ],
)
def test_bad_input_is_one_line(tmp_path: Path, base: list[str], new: list[str], words: str) -> None:
    write_side(tmp_path, [1.0, 1.0], first=0)
    write_run(tmp_path / "other-levels", 5, levels=(2,))
    unanswered = write_run(tmp_path / "unanswered", 6)
    (unanswered / "requests.jsonl").write_bytes(b"")
    gone = [write_run(tmp_path / f"gone{i}", 20 + i) for i in range(2)]
    merged = make_merged(gone).folder
    merged.rename(tmp_path / "gone-x2")
    with pytest.raises(InputError, match=words) as refused:
        compare([tmp_path / each for each in base], [tmp_path / each for each in new])
    assert "\n" not in str(refused.value)


def test_manifests_of_older_versions_have_their_workload_computed(tmp_path: Path) -> None:
    kept = Path(__file__).parents[3] / "data" / "runs" / "repeats"
    runs = [kept / f"run{i}" for i in (1, 2, 3)]
    assert compare_runs(runs[:1], runs[1:], results=tmp_path).schema == "loadgen.comparison/1"
    old = json.loads((runs[0] / "manifest.json").read_text())
    assert old["schema"] == SCHEMA and "workload" not in old


# --- models that correspond -------------------------------------------------------------------------------------------


def test_two_models_of_other_names_correspond_as_they_are_paired(tmp_path: Path) -> None:
    from loadgen.decisions.compare.paired_models import paired_models
    from loadgen.decisions.compare.sides import read_sides

    sides = read_sides([write_run(tmp_path / "a", 0)], [write_run(tmp_path / "b", 1, model="large")], results=tmp_path)
    (model,), left_out = paired_models(sides, [("tiny", "large")], ())
    assert (model.base, model.new, model.levels, left_out) == ("tiny", "large", ("c1", "c4"), ())
    with pytest.raises(InputError, match=r"--pair: huge was not played in NEW; it has large@url"):
        paired_models(sides, [("tiny", "huge")], ())
    with pytest.raises(InputError, match=r"--stage c9: no run has it; they have c1, c4"):
        paired_models(sides, [], ("c9",))


# --- statistics -------------------------------------------------------------------------------------------------------


def test_a_blocked_resample_holds_as_many_requests_as_there_are() -> None:
    from loadgen.decisions.compare.within import RESAMPLES, resampled_counts

    counts = resampled_counts(25, 10, np.random.default_rng(1))
    assert counts.shape == (RESAMPLES, 25)
    assert (counts.sum(1) == 25).all()
    assert (resampled_counts(3, 10, np.random.default_rng(1)) == 1).all()
