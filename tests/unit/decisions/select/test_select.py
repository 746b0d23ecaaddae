"""Whole selections of runs that are made by hand: who is chosen, who is out and why, and what is refused."""

import itertools
import json
import re
import runpy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

import loadgen
from loadgen.analysis.summary import Throughput
from loadgen.decisions.candidates.runs import read_runs
from loadgen.decisions.select.criteria import CRITERIA, DEFAULT_WEIGHTS
from loadgen.decisions.select.decide import decide
from loadgen.decisions.select.document import report_document
from loadgen.decisions.select.policy import PolicyFlags, policy_from, policy_of
from loadgen.decisions.select.selection import CandidateRow, Selection, SensitivityRow
from loadgen.decisions.select.tables import state_text, turning_table
from loadgen.errors import InputError
from loadgen.report.files import make_merged, make_reports
from loadgen.report.markdown import markdown
from loadgen.scenario import SelectTable, SelectWeights
from loadgen.store import run_folder
from tests.selected_runs import SelectedModel, write_run

EXAMPLES = Path(__file__).parents[4] / "examples"
GOOD = SelectedModel(name="good", points=(4, 4, 3, 4), e2e_ms=1500, memory_mib=900)
POOR = SelectedModel(name="poor", points=(1, 2, 1, 1), e2e_ms=1450, memory_mib=890)
FAST = SelectedModel(name="fast", points=(3, 2, 4, 2), e2e_ms=300, memory_mib=250)
ALIKE = (SelectedModel(name="a", points=(3, 2, 4)), SelectedModel(name="b", points=(3, 2, 4)))
ONLY_QUALITY = {"weights": {name: float(name == "quality") for name in CRITERIA}}


def select(folder: Path, models: Sequence[SelectedModel], policy: Any = None, **changes: Any) -> Selection:
    """The selection of one run of these models."""
    return loadgen.select(write_run(folder / "run", models, **changes), policy)


def row(selection: Selection, name: str) -> CandidateRow:
    return next(each for each in selection.candidates if each.model == name)


def weights(**shares: float) -> dict[str, Any]:
    return {"weights": {name: shares.get(name, 0.0) for name in CRITERIA}}


# --- the decision -----------------------------------------------------------------------------------------------------


def test_a_clearly_better_model_is_recommended_with_its_reason(tmp_path: Path) -> None:
    selection = select(tmp_path, [POOR, GOOD])
    assert selection.decision.verdict == "recommended"
    assert selection.decision.recommended == "good@url"
    assert selection.decision.not_told_apart == ()
    assert selection.decision.text.startswith("good@url is recommended: quality 9")
    assert "It leads poor@url by" in selection.decision.text
    assert ", for its quality (94 against 31), and stays first " in selection.decision.text
    assert row(selection, "good").lead is None
    lead = row(selection, "poor").lead
    assert lead is not None and lead.ci is not None and 0 < lead.ci[0] < lead.steps < lead.ci[1]


def test_two_alike_are_tied_and_no_number_of_prompts_is_promised(tmp_path: Path) -> None:
    selection = select(tmp_path, ALIKE)
    assert selection.decision.verdict == "tied"
    assert set(selection.decision.not_told_apart) == {"a@url", "b@url"}
    assert selection.decision.recommended is None
    assert "cannot be told apart on 16 prompts" in selection.decision.text
    assert "Until then: " in selection.decision.text


def test_one_candidate_alone_is_recommended_with_nothing_to_compare_with(tmp_path: Path) -> None:
    selection = select(tmp_path, [GOOD])
    assert selection.decision.recommended == "good@url"
    assert "There is nothing to compare with: it is the only candidate." in selection.decision.text
    assert row(selection, "good").chance_of_first == 1.0


def test_a_model_that_nobody_should_use_is_said_to_be_of_no_use(tmp_path: Path) -> None:
    selection = select(tmp_path, [SelectedModel(name="a", points=(0, 1, 0, 0)), SelectedModel(name="b", points=(0,))])
    assert selection.decision.text.startswith("None of them does this job: the best quality is ")


def test_all_that_the_file_holds_is_what_the_function_returns(tmp_path: Path) -> None:
    """A reader of the file needs no other module."""
    data = json.loads(msgspec.json.encode(select(tmp_path, [GOOD, FAST])))
    assert data["schema"] == "loadgen.selection/1"
    assert data["policy"]["weights"] == DEFAULT_WEIGHTS
    assert data["policy"]["weights_by"] == "default"
    assert set(data["candidates"][0]["criteria"]) == {"quality", "latency", "memory", "throughput", "disk"}
    assert {"value", "ci", "n", "source", "steps"} <= set(data["candidates"][0]["criteria"]["quality"])
    assert data["left_out"].keys() == {"cost"}
    assert sum(data["policy"]["shares"].values()) == pytest.approx(1)


def test_criteria_are_what_was_measured(tmp_path: Path) -> None:
    folder = write_run(tmp_path, [SelectedModel(name="a", points=(2,), e2e_ms=800, spread=0.0, memory_mib=512), FAST])
    selection = loadgen.select(folder)
    criteria = row(selection, "a").criteria
    assert criteria["quality"].value == pytest.approx(50)
    assert criteria["quality"].n == 16
    assert criteria["latency"].value == pytest.approx(800, rel=1e-3)
    assert criteria["memory"].value == pytest.approx(512)
    throughput = loadgen.summarize(loadgen.read_run(folder)).stages[1].throughput
    assert isinstance(throughput, Throughput) and throughput.requests_per_s is not None
    assert criteria["throughput"].value == pytest.approx(throughput.requests_per_s, rel=1e-4)
    assert (selection.level, selection.throughput_level) == ("c1", "c4")


def test_taking_a_candidate_away_or_adding_one_never_turns_the_order_of_two_others(tmp_path: Path) -> None:
    models = [GOOD, POOR, FAST, SelectedModel(name="huge", points=(4,), e2e_ms=9000, memory_mib=6000)]
    everyone = [each.model for each in select(tmp_path / "all", models).candidates]
    for number, few in enumerate(itertools.combinations(models, 2)):
        order = [each.model for each in select(tmp_path / str(number), few).candidates]
        assert order == [name for name in everyone if name in order]


def test_a_turning_point_is_where_other_weights_change_who_is_first(tmp_path: Path) -> None:
    """Only the weight of one criterion changes; the others keep their proportions."""
    folder = write_run(tmp_path / "run", [GOOD, FAST])
    selection = loadgen.select(folder)
    shares, changes = selection.policy.shares, 0
    for name, sensitivity in selection.sensitivity.items():
        for (_, before), (edge, after) in itertools.pairwise(sensitivity.first):
            if edge > 0.99:
                continue
            for share, expected in ((edge - 0.005, before), (edge + 0.005, after)):
                rest = {key: value * (1 - share) / (1 - shares[name]) for key, value in shares.items() if key != name}
                changed = loadgen.select(folder, weights(**rest, **{name: share}))
                assert changed.decision.first == expected, (name, share)
                changes += 1
    assert changes > 2


def test_one_criterion_alone_has_no_turning_point(tmp_path: Path) -> None:
    selection = select(tmp_path, [GOOD, FAST], weights(quality=1.0))
    assert selection.decision.text.endswith("and nothing else than quality has a weight.")
    assert selection.sensitivity["quality"].first == ((0.0, "good@url"),)


@pytest.mark.parametrize("asked", [{}, {"disk": 0.01}, {"quality": 0.0, "latency": 3.0}])
def test_every_flag_to_try_makes_first_whom_the_row_foretells(tmp_path: Path, asked: dict[str, float]) -> None:
    """Also with weights that are from flags already, which the flag to try then has as well."""
    models = [
        SelectedModel(name=f"m{n}", points=(n % 5, (2 * n) % 5), e2e_ms=400 * n + 200, memory_mib=1500 - 250 * n)
        for n in range(1, 5)
    ]
    runs = read_runs([write_run(tmp_path, models, prompts=8)])

    def chosen(flags: dict[str, float]) -> Selection:
        table = SelectTable(weights=SelectWeights(**flags))
        return decide(runs, policy_of(runs[0].manifest.scenario.select, None, PolicyFlags(table=table))).selection

    selection, tried = chosen(asked), 0
    for (name, sensitivity), cells in zip(
        selection.sensitivity.items(), (row.cells for row in turning_table(selection).rows), strict=True
    ):
        others = re.findall(r"(?:below|above) that, (\S+)", sensitivity.text)
        flags = [text for text in re.split(r",? ?--weights ", str(cells[-1])) if text]
        assert cells[0] == name and len(flags) == len(others)
        for flag, other in zip(flags, others, strict=True):
            weights = {key: float(value) for key, value in (pair.split("=") for pair in flag.split(","))}
            assert chosen(weights).decision.first == other, flag
            tried += 1
    assert tried


def test_a_flag_to_try_is_within_a_narrow_range_of_a_weight(tmp_path: Path) -> None:
    selection = select(tmp_path, [GOOD, FAST])
    narrow = SensitivityRow(0.2, ((0.0, "a"), (0.344144, "b"), (0.344752, "c")), "")
    table = turning_table(msgspec.structs.replace(selection, sensitivity={"latency": narrow}))
    share = float(str(table.rows[0].cells[-1]).removeprefix("--weights latency="))
    rest = sum(
        weight
        for name, weight in selection.policy.weights.items()
        if name in selection.policy.shares.keys() - {"latency"}
    )
    assert 0.344144 < share / (share + rest) < 0.344752


def test_the_words_of_a_turning_point_hold_as_they_are_rounded(tmp_path: Path) -> None:
    selection = select(tmp_path, [GOOD, FAST])
    assert selection.decision.first is not None
    words = selection.sensitivity["quality"].text
    assert words == "stays first while quality weighs more than 0.439 (now 0.444); below that, fast@url is first"


# --- requirements -----------------------------------------------------------------------------------------------------


def test_a_license_without_commercial_use_is_out(tmp_path: Path) -> None:
    free = SelectedModel(name="free", points=(4,), card={"license": "cc-by-nc-4.0"})
    selection = select(tmp_path, [GOOD, free], {"require": {"license": "commercial"}})
    assert selection.decision.recommended == "good@url"
    assert row(selection, "free").out == "CC-BY-NC-4.0 does not allow commercial use"
    check = row(selection, "good").requirements[0]
    assert "There is nothing to compare with: all others are out." in selection.decision.text
    assert (check.key, check.asked, check.observed, check.holds, check.why) == (
        "license",
        "commercial",
        "Apache-2.0",
        True,
        "card",
    )


@pytest.mark.parametrize("license_text", [None, "the license of my uncle"])
def test_a_license_that_is_not_known_fails_and_says_how_to_give_it(tmp_path: Path, license_text: str | None) -> None:
    unknown = SelectedModel(name="unknown", points=(4,), card={"license": license_text})
    selection = select(tmp_path, [GOOD, unknown], {"require": {"license": "commercial"}})
    out = row(selection, "unknown")
    assert not out.eligible and out.out is not None and "--facts" in out.out
    assert out.requirements[0].why == "unknown"


def test_a_license_with_conditions_holds_only_if_they_are_accepted(tmp_path: Path) -> None:
    llama = SelectedModel(name="llama", points=(4,), card={"license": "llama3.2"})
    folder = write_run(tmp_path / "run", [llama])
    refused = loadgen.select(folder, {"require": {"license": "commercial"}})
    assert refused.decision.verdict == "none"
    accepted = loadgen.select(folder, {"require": {"license": "commercial", "accept_licenses": ["llama3.2"]}})
    assert accepted.decision.verdict == "recommended"


@pytest.mark.parametrize(
    ("requirement", "text"),
    [
        ({"memory_mib": 512}, "memory 900 MiB, 512 at most"),
        ({"disk_mib": 100}, "disk 200 MiB, 100 at most"),
        ({"quality": 99}, "99 or more"),
        ({"latency_ms": 1000}, "median E2E 1,"),
        ({"context_tokens": 100}, "context unknown: give it with --facts"),
        ({"capabilities": ["summarize"]}, "capabilities unknown: give it with --facts"),
        ({"device": "npu"}, "device unknown: give it with --facts"),
        ({"slo_share": 0.9}, "set limits in the scenario's [slo]"),
        ({"cost": 1.0}, "no power was measured"),
    ],
)
def test_a_requirement_that_does_not_hold_says_what_was_seen(
    tmp_path: Path, requirement: dict[str, Any], text: str
) -> None:
    selection = select(tmp_path, [GOOD], {"require": requirement})
    assert selection.decision.verdict == "none"
    assert selection.decision.nearest == "good@url"
    assert text in (row(selection, "good").out or "")


@pytest.mark.parametrize(
    ("requirement", "why"),
    [
        ({"memory_mib": 2048}, "measured"),
        ({"disk_mib": 500}, "card"),
        ({"quality": 80}, "measured"),
        ({"latency_ms": 5000}, "measured"),
        ({"ok_share": 1.0}, "measured"),
        ({"license": "MIT"}, "card"),
        ({"context_tokens": 2048}, "card"),
        ({"capabilities": ["summarize", "CHAT"]}, "card"),
        ({"device": "cpu"}, "card"),
    ],
)
def test_a_requirement_that_holds_says_where_the_value_is_from(
    tmp_path: Path, requirement: dict[str, Any], why: str
) -> None:
    card = {"license": "MIT License", "context_tokens": 4096, "capabilities": "chat, summarize", "device": "CPU"}
    model = msgspec.structs.replace(GOOD, card=card)
    check = row(select(tmp_path, [model], {"require": requirement}), "good").requirements[0]
    assert (check.holds, check.why) == (True, why)


def test_with_strict_a_floor_must_hold_with_the_whole_interval(tmp_path: Path) -> None:
    runs = read_runs([write_run(tmp_path / "run", [msgspec.structs.replace(GOOD, points=(4, 2))])])
    asked = policy_from({"require": {"quality": 70, "ok_share": 0.99}})
    assert asked is not None
    assert decide(runs, policy_of(asked)).selection.decision.verdict == "recommended"
    strict = decide(runs, policy_of(asked, flags=PolicyFlags(bound="interval"))).selection
    assert strict.decision.verdict == "none"
    checks = row(strict, "good").requirements
    assert [check.holds for check in checks] == [False, False]  # 16 of 16: 79 % or more
    assert [check.text for check in checks] == [
        "quality 61.2 (lower end of its interval), 70 or more",
        "answered 79.4 % (lower end of its interval), 99 or more",
    ]


def test_with_strict_what_is_not_known_has_no_end_of_an_interval(tmp_path: Path) -> None:
    asked = policy_from({"require": {"slo_share": 0.9}})
    assert asked is not None
    runs = read_runs([write_run(tmp_path / "run", [GOOD])])
    (check,) = row(decide(runs, policy_of(asked, flags=PolicyFlags(bound="interval"))).selection, "good").requirements
    assert check.text == "within the SLO unknown: set limits in the scenario's [slo]"


def test_with_strict_a_quality_is_never_below_0(tmp_path: Path) -> None:
    """Few good answers among bad ones: Student's interval alone would end below 0."""
    runs = read_runs([write_run(tmp_path / "run", [msgspec.structs.replace(GOOD, points=(*[0] * 7, 1))])])
    asked = policy_from({"require": {"quality": 1}})
    assert asked is not None
    strict = decide(runs, policy_of(asked, flags=PolicyFlags(bound="interval"))).selection
    (check,) = row(strict, "good").requirements
    assert (check.observed, check.text) == (0, "quality 0 (lower end of its interval), 1 or more")


# --- candidates -------------------------------------------------------------------------------------------------------


def test_repeated_runs_of_a_candidate_are_averaged_by_run(tmp_path: Path) -> None:
    slow = msgspec.structs.replace(GOOD, e2e_ms=4000, spread=0.0)
    fast = msgspec.structs.replace(GOOD, e2e_ms=1000, spread=0.0)
    runs = [write_run(tmp_path / "one", [slow], 0), write_run(tmp_path / "two", [fast], 1)]
    selection = loadgen.select(runs)
    assert len(selection.candidates) == 1
    assert len(selection.candidates[0].runs) == 2
    assert selection.candidates[0].criteria["latency"].value == pytest.approx(2000, rel=1e-3)


def test_each_device_of_a_model_is_a_candidate_of_its_own(tmp_path: Path) -> None:
    slow, fast = (
        msgspec.structs.replace(GOOD, target=f"foundry/{device}", e2e_ms=e2e_ms, card={"device": device.upper()})
        for device, e2e_ms in (("cpu", 2000), ("gpu", 200))
    )
    selection = select(tmp_path, [slow, fast])
    assert [(each.name, each.target, each.device) for each in selection.candidates] == [
        ("good@foundry/gpu", "foundry", "gpu"),
        ("good@foundry/cpu", "foundry", "cpu"),
    ]
    only_gpu = loadgen.select(tmp_path / "run", {"require": {"device": "gpu"}})
    assert only_gpu.decision.recommended == "good@foundry/gpu"


def test_a_device_that_was_asked_for_and_the_same_that_was_not_are_one_candidate(tmp_path: Path) -> None:
    asked, unasked = (
        msgspec.structs.replace(GOOD, target=target, card={"device": "CPU"}) for target in ("foundry/cpu", "foundry")
    )
    runs = [write_run(tmp_path / "one", [asked], 0), write_run(tmp_path / "two", [unasked], 1)]
    (candidate,) = loadgen.select(runs).candidates
    assert candidate.name == "good@foundry/cpu"
    assert len(candidate.runs) == 2


def test_candidates_of_several_runs_are_compared(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / "one", [GOOD], 0), write_run(tmp_path / "two", [POOR], 1)]
    assert loadgen.select(runs).decision.recommended == "good@url"


def test_a_model_whose_requests_all_failed_is_out(tmp_path: Path) -> None:
    silent = SelectedModel(name="silent", outcomes=("http_error",))
    selection = select(tmp_path, [GOOD, silent])
    assert row(selection, "silent").verdict == "invalid"
    assert row(selection, "silent").out == "c1 no request was answered"
    assert selection.decision.recommended == "good@url"


def test_all_out_is_said_plainly(tmp_path: Path) -> None:
    selection = select(tmp_path, [SelectedModel(name="silent", outcomes=("http_error",))])
    assert selection.decision.verdict == "none"
    assert selection.decision.text == "No candidate can be compared: silent@url: c1 no request was answered."


def test_an_answer_that_failed_has_quality_0(tmp_path: Path) -> None:
    half = SelectedModel(name="half", points=(4,), outcomes=("ok", "http_error"))
    selection = select(tmp_path, [half, POOR])
    assert row(selection, "half").criteria["quality"].value == pytest.approx(50, abs=1)
    assert row(selection, "half").flags["failed"] == 8
    assert any("half@url: 8 of 16 requests failed" in note for note in selection.remarks)


def test_a_run_that_was_killed_counts_with_what_it_has_and_is_marked(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", [GOOD, POOR], state="running")
    stages = (folder / run_folder.STAGES).read_text("utf-8").splitlines(keepends=True)
    (folder / run_folder.STAGES).write_text("".join(stages[:-1]), "utf-8")
    selection = loadgen.select(folder)
    assert selection.decision.recommended == "good@url"
    assert "20260102T030005Z-0123abcd was cut short; what it has counts" in selection.remarks


def test_a_stage_that_was_cut_short_is_marked_as_degraded_and_incomplete(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", [GOOD, POOR], levels=(1,))
    lines = (folder / run_folder.REQUESTS).read_text("utf-8").splitlines(keepends=True)
    (folder / run_folder.REQUESTS).write_text("".join(lines[:-4]), "utf-8")
    selection = loadgen.select(folder)
    assert (row(selection, "poor").verdict, row(selection, "poor").incomplete) == ("degraded", True)
    assert selection.prompts == 12
    assert state_text(selection, row(selection, "poor")) == "compared, degraded, incomplete"
    assert any(note.startswith("poor@url is degraded: ") for note in selection.remarks)


def test_answers_whose_prompts_were_lost_are_not_said_to_be_missing(tmp_path: Path) -> None:
    folder = write_run(tmp_path, [GOOD, POOR])
    (folder / run_folder.PROMPTS).unlink()
    assert loadgen.select(folder).left_out["quality"] == (
        "unknown for all: the run folder has no prompts.jsonl that can be read, so its answers cannot be scored"
    )


def test_without_texts_quality_is_left_out_with_how_to_keep_them(tmp_path: Path) -> None:
    selection = select(tmp_path, [GOOD, FAST], keep_text=False)
    assert "play with --set keep_text=true" in selection.left_out["quality"]
    assert selection.decision.first == "fast@url"


def test_without_key_points_quality_is_left_out_with_what_is_missing(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", [GOOD, FAST])
    lines = [json.loads(line) for line in (folder / "prompts.jsonl").read_text("utf-8").splitlines()]
    (folder / "prompts.jsonl").write_text(
        "".join(f"{json.dumps(each | {'key_points': []})}\n" for each in lines), "utf-8"
    )
    assert "the prompts have no key points; add key_points to them" in loadgen.select(folder).left_out["quality"]


def test_a_level_that_is_asked_speaks_for_latency(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", [msgspec.structs.replace(GOOD, spread=0.0)])
    selection = loadgen.select(folder, {"level": "c4"})
    assert selection.level == "c4"
    assert selection.candidates[0].criteria["latency"].value == pytest.approx(3000, rel=1e-3)
    with pytest.raises(InputError, match=r"^level c8: no run has it; choose from c1, c4$"):
        loadgen.select(folder, {"level": "c8"})


def test_one_who_played_another_level_is_out(tmp_path: Path) -> None:
    runs = [
        write_run(tmp_path / "one", [GOOD, POOR], 0, levels=(1,)),
        write_run(tmp_path / "two", [FAST], 1, levels=(4,)),
    ]
    selection = loadgen.select(runs)
    assert selection.level == "c1"
    assert row(selection, "fast").out == "did not play c1"


def test_one_who_was_asked_few_of_the_prompts_is_out(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", [GOOD, POOR])
    lines = (folder / run_folder.REQUESTS).read_text("utf-8").splitlines(keepends=True)
    records = [json.loads(line) for line in lines]
    few = [line for line, each in zip(lines, records, strict=True) if each["model"] == "good" or each["index"] < 4]
    (folder / run_folder.REQUESTS).write_text("".join(few), "utf-8")
    selection = loadgen.select(folder)
    assert row(selection, "poor").out == "was asked 4 of 16 prompts"


def test_one_who_was_asked_fewer_prompts_limits_all_to_these_and_the_report_says_so(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", [GOOD, POOR, FAST])
    lines = (folder / run_folder.REQUESTS).read_text("utf-8").splitlines(keepends=True)
    records = [json.loads(line) for line in lines]
    few = [line for line, each in zip(lines, records, strict=True) if each["model"] != "poor" or each["index"] < 11]
    (folder / run_folder.REQUESTS).write_text("".join(few), "utf-8")
    selection = loadgen.select(folder)
    assert selection.prompts == 11
    assert "poor@url was not asked 5 of 16 prompts, so all are compared on the others alone" in selection.remarks


def test_one_prompt_tells_nothing_and_more_would(tmp_path: Path) -> None:
    selection = select(tmp_path, [GOOD, POOR], prompts=1)
    assert selection.decision.verdict == "tied"
    assert "cannot be told apart on 1 prompt " in selection.decision.text
    assert "; one prompt cannot tell; play more prompts. " in selection.decision.text


@pytest.mark.parametrize(
    ("require", "message"),
    [
        ({"license": "comercial"}, "require: license: “comercial” is unknown; did you mean commercial?"),
        ({"device": "gppu"}, "require: device: “gppu” is unknown; did you mean gpu?"),
    ],
)
def test_a_requirement_that_is_a_slip_of_the_pen_is_one_line(
    tmp_path: Path, require: dict[str, str], message: str
) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        select(tmp_path, [GOOD, POOR], {"require": require})


def test_a_report_shows_the_beginning_of_an_answer_without_end(tmp_path: Path) -> None:
    folder = write_run(tmp_path, [GOOD, POOR])
    lines = [json.loads(line) for line in (folder / run_folder.REQUESTS).read_text("utf-8").splitlines()]
    texts = [
        "".join(json.dumps({**line, "text": "x" * 1_000_000} if at == 0 else line)) for at, line in enumerate(lines)
    ]
    (folder / run_folder.REQUESTS).write_text("\n".join([*texts, ""]), "utf-8")
    runs = read_runs([folder])
    shown = markdown(report_document(decide(runs, policy_of(runs[0].manifest.scenario.select))))
    assert len(shown) < 50_000
    assert "xxx… (990,000 more characters are in the run folder)" in shown


def test_commercial_may_be_written_with_a_capital_letter(tmp_path: Path) -> None:
    assert select(tmp_path, [GOOD], {"require": {"license": "Commercial"}}).decision.verdict == "recommended"


# --- cost -------------------------------------------------------------------------------------------------------------


def test_a_cost_is_compared_if_its_factors_are_given(tmp_path: Path) -> None:
    """1,000 requests at r per second take 1,000 / r seconds of 36 W, which is 0.01 kWh × 1,000 / r / 1,000."""
    policy = {"cost": {"watts": 36.0, "price_per_kwh": 0.5, "currency": "EUR"}, **weights(cost=1.0)}
    selection = select(tmp_path, [GOOD, FAST], policy, levels=(1,))
    for each in selection.candidates:
        assert each.cost is not None and each.cost.per_1000 is not None
        rate = each.criteria["throughput"].value  # of the same level
        assert each.cost.per_1000 == pytest.approx(1000 / rate * 36 / 3.6e6 * 0.5, rel=1e-4)
        assert each.criteria["cost"].value == pytest.approx(each.cost.per_1000, rel=1e-4)
    assert selection.decision.recommended == "fast@url"


def test_a_cost_from_a_given_power_is_given(tmp_path: Path) -> None:
    policy = {"cost": {"watts": 36.0, "price_per_kwh": 0.5}, "require": {"cost": 100.0}}
    assert row(select(tmp_path, [GOOD], policy), "good").requirements[0].why == "given"


def test_cost_by_one_given_power_is_said_to_be_the_pace_once_more(tmp_path: Path) -> None:
    policy = {"cost": {"watts": 36.0, "price_per_kwh": 0.5}}
    double = "with one given power for all, cost and throughput both say how fast each is; together they weigh 0.2"
    assert any(note.startswith(double) for note in select(tmp_path / "both", [GOOD, FAST], policy).remarks)
    without = {"weights": {"throughput": 0.0}, **policy}
    assert not any("both say" in note for note in select(tmp_path / "without", [GOOD, FAST], without).remarks)


def test_weights_of_nothing_that_is_known_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^nothing that has a weight can be compared: cost unknown for good@url"):
        select(tmp_path, [GOOD], weights(cost=1.0))


# --- what does not compare --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "difference"),
    [
        ({"scenario": {"sampling": {"max_tokens": 64}}}, "sampling.max_tokens is 128 in one and 64 in the other"),
        ({"scenario": {"sampling": {"temperature": 0.7}}}, "sampling.temperature is 0.0 in one and 0.7 in the other"),
        ({"scenario": {"system": "Be brief."}}, "system is not set in one and Be brief. in the other"),
        ({"prompts": 15}, r"the prompts are 16 texts \(digest \w{8}\) in one and 15 texts"),
    ],
)
def test_runs_that_ask_other_things_are_refused_with_the_difference(
    tmp_path: Path, changes: dict[str, Any], difference: str
) -> None:
    runs = [write_run(tmp_path / "one", [GOOD], 0), write_run(tmp_path / "two", [POOR], 1, **changes)]
    with pytest.raises(InputError, match=difference) as refused:
        loadgen.select(runs)
    assert "\n" not in str(refused.value)


def test_runs_that_ask_the_same_prompts_in_another_order_compare(tmp_path: Path) -> None:
    """Another seed of the scenario is another order, and no other question."""
    one, two = write_run(tmp_path / "one", [GOOD], 0), write_run(tmp_path / "two", [POOR], 1, plan_digest="0" * 64)
    text = (two / "manifest.json").read_text("utf-8")
    digest = json.loads(text)["workload"]["prompts"]
    (two / "manifest.json").write_text(text.replace(digest, "f" * 64), "utf-8")
    assert loadgen.select([one, two]).decision.recommended == "good@url"
    (two / "prompts.jsonl").unlink()
    with pytest.raises(InputError, match="the prompts are 16 texts"):
        loadgen.select([one, two])


def test_a_merged_run_is_refused_and_left_out_beside_its_runs(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / f"20260102T03{at:02d}05Z-0123abcd", [GOOD, POOR], at) for at in range(2)]
    merged = make_merged(runs).folder
    with pytest.raises(InputError, match="a merged run, which has no answers of its own; give its runs: "):
        loadgen.select(merged)
    assert loadgen.select([*runs, merged]) == loadgen.select(runs)


def test_a_run_is_given_once_and_a_folder_that_is_none_is_refused(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", [GOOD])
    with pytest.raises(InputError, match="the same run as"):
        loadgen.select([folder, folder])
    with pytest.raises(InputError, match="not a run folder"):
        loadgen.select(tmp_path / "nowhere")
    with pytest.raises(InputError, match="no run is given"):
        loadgen.select([])


def test_scores_are_read_from_their_file_and_give_the_same(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", [GOOD, FAST])
    before = loadgen.select(folder)
    make_reports(folder)
    assert (folder / "quality.jsonl").is_file()
    assert loadgen.select(folder) == before


# --- the policy -------------------------------------------------------------------------------------------------------


def test_the_table_of_the_scenario_counts_and_a_policy_replaces_it(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", [GOOD, FAST], scenario={"select": weights(latency=1.0)})
    assert loadgen.select(folder).policy.weights_by == "scenario"
    assert loadgen.select(folder).decision.recommended == "fast@url"
    file = tmp_path / "policy.toml"
    file.write_text("[select.weights]\nlatency = 0\nquality = 1\n", "utf-8")
    selection = loadgen.select(folder, file)
    assert (selection.policy.weights_by, selection.decision.first) == ("policy", "good@url")


def test_better_than_enough_counts_as_enough(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", [GOOD, FAST])
    selection = loadgen.select(folder, weights(latency=1.0) | {"enough": {"latency_ms": 60_000}})
    assert selection.decision.verdict == "tied"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[select.weights]\nlatncy = 1\n", "select.weights.latncy: unknown key `latncy`; did you mean `latency`?"),
        ("[select.weights]\nquality = -1\n", "select.weights.quality: -1 is not a number of 0 or more"),
        ("[select.require]\nlicence = 'x'\n", "select.require.licence: unknown key `licence`; did you mean `license`?"),
        ("[select]\nwieghts = {}\n", "select.wieghts: unknown key `wieghts`; did you mean `weights`?"),
        ("[selct]\n", "there is no table [select]; did you mean [selct] to be [select]?"),
        ("x = [", "not TOML"),
    ],
)
def test_a_wrong_policy_is_one_line_with_file_key_and_mend(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "policy.toml"
    file.write_text(text, "utf-8")
    with pytest.raises(InputError) as refused:
        loadgen.select(write_run(tmp_path / "run", [GOOD]), file)
    assert str(refused.value).startswith(f"{file}: ")
    assert message in str(refused.value)


def test_weights_none_of_which_is_above_0_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="weights: none is above 0"):
        select(tmp_path, [GOOD], weights())


# --- the examples -----------------------------------------------------------------------------------------------------


def test_the_example_chooses_by_the_policy_beside_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    example = runpy.run_path(str(EXAMPLES / "choose_model.py"))
    assert example["main"]([str(write_run(tmp_path / "run", [GOOD, POOR]))]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("good@url is recommended: ")
    assert "  poor@url is " in printed and "  latency: good@url stays first " in printed
    policy = loadgen.select(tmp_path / "run", EXAMPLES / "choose_model.toml").policy
    assert (policy.weights_by, policy.weights["quality"], policy.require["license"]) == ("policy", 0.45, "commercial")
