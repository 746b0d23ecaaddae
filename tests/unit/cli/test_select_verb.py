"""`loadgen select`: what it prints and leaves, its exit codes, and a line for everything that is wrong."""

import csv
import json
import re
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgspec
import pytest
from rich.cells import cell_len

from loadgen.decisions.grade.judge_exam import JudgeTest
from loadgen.decisions.grade.judges_file import Judging, append_judging
from loadgen.decisions.grade.notes import Note, answer_id, append_notes
from loadgen.report.files import make_merged
from tests.command_line import run_command, without_settings
from tests.selected_runs import PROMPTS, SelectedModel, answer_of, prompt, write_run

GOOD = SelectedModel(name="good", points=(4, 4, 3, 4), e2e_ms=1500, memory_mib=900)
POOR = SelectedModel(name="poor", points=(1, 2, 1, 1), e2e_ms=1450, memory_mib=890)
HUGE = SelectedModel(name="huge", points=(4,), e2e_ms=9000, memory_mib=6000, card={"license": "cc-by-nc-4.0"})
FILES = {"selection.json", "benchmark_report.md", "selection.html", "selection.csv", "models.json"}


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    without_settings(monkeypatch)


def select(*words: object) -> Any:
    return run_command("select", *words)


def run_of(models: Sequence[SelectedModel], name: str = "run", number: int = 0, **changes: Any) -> Path:
    return write_run(Path(name), models, number, **changes)


def folder_of_selection(at: int = -1) -> Path:
    return sorted(Path("results/selections").iterdir())[at]


def test_it_prints_the_decision_and_leaves_a_folder_of_files() -> None:
    ended = select(run_of([GOOD, POOR, HUGE]), "--require", "memory_mib=2048")
    assert ended.returncode == 0
    assert ended.stdout.startswith("good@url is recommended: quality ")
    assert "Out: huge@url (memory 6,000 MiB, 2,048 at most)." in ended.stdout
    assert "a judgment of ours; set yours with --weights" in ended.stdout
    assert ended.stderr == ""
    assert {file.name for file in folder_of_selection().iterdir()} == FILES
    assert ended.stdout.splitlines()[-1].startswith(f"selection: {folder_of_selection() / 'selection.html'}")


def test_the_same_input_gives_the_same_bytes() -> None:
    folder = run_of([GOOD, POOR])
    for out in ("one", "two"):
        assert select(folder, "--out", out, "--quiet").stdout == ""
    one, two = (next(Path(out, "selections").iterdir()) for out in ("one", "two"))
    for name in FILES:
        assert (one / name).read_bytes() == (two / name).read_bytes()


def test_a_selection_that_is_there_is_written_into_its_own_folder_again() -> None:
    folder = run_of([GOOD, POOR])
    first = select(folder)
    (folder_of_selection() / "selection.csv").unlink()
    assert select(folder).stdout == first.stdout
    assert {file.name for file in folder_of_selection().iterdir()} == FILES
    assert len(list(Path("results/selections").iterdir())) == 1
    select(folder, "--weights", "latency=0.9")
    assert len(list(Path("results/selections").iterdir())) == 2


def test_a_folder_whose_selection_is_damaged_is_left_alone() -> None:
    folder = run_of([GOOD, POOR])
    select(folder)
    damaged = folder_of_selection() / "selection.json"
    damaged.write_text("{", "utf-8")
    assert select(folder).returncode == 0
    assert damaged.read_text("utf-8") == "{"
    assert len(list(Path("results/selections").iterdir())) == 2


def test_json_is_the_file_and_nothing_else() -> None:
    ended = select(run_of([GOOD, POOR]), "--json")
    assert json.loads(ended.stdout) == json.loads((folder_of_selection() / "selection.json").read_text("utf-8"))


@pytest.mark.parametrize("columns", [80, 60, 40])
def test_no_line_is_wider_than_the_terminal(columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = run_of([GOOD, POOR, HUGE])
    monkeypatch.setenv("COLUMNS", str(columns))
    ended = select(folder, "--require", "license=commercial", "--out", "o")
    *lines, place = ended.stdout.splitlines()
    assert place.startswith("selection: ")
    assert max(map(cell_len, lines)) <= columns
    assert "good@url" in ended.stdout


def test_the_report_begins_with_the_decision_and_the_four_columns_of_the_workshop() -> None:
    select(run_of([GOOD, POOR]), "--quiet")
    report = (folder_of_selection() / "benchmark_report.md").read_text("utf-8").splitlines()
    assert report[4].startswith("**good@url is recommended: ")
    table = next(line for line in report if line.startswith("|"))
    assert table.startswith("| Model | Avg Latency | p95 | TPS | quality | memory | disk | license | cost/1,000 |")
    row = next(line for line in report if line.startswith("| good@url"))
    assert re.match(r"\| good@url \| 1\.\d+ s \| ≥ 1\.\d+ s \|", row)  # 16 requests do not make a p95 known
    headings = [line.removeprefix("## ") for line in report if line.startswith("## ")]
    assert headings[:2] == ["How sure the choice is", "What would change the choice"]
    assert "Three answers side by side" in headings


def test_the_page_has_every_answer_with_its_marks_and_reaches_for_nothing() -> None:
    select(run_of([GOOD, POOR]), "--quiet")
    page = (folder_of_selection() / "selection.html").read_text("utf-8")
    assert page.count('<details class="folded">') == PROMPTS
    for number in range(PROMPTS):
        assert prompt(number).key_points[3] in page
        assert answer_of(number, 1) in page
    assert 'id="chart-quality"' in page and 'id="chart-bands"' in page
    assert "default-src &#39;none&#39;" in page or "default-src 'none'" in page


def test_the_flag_that_the_report_names_makes_another_the_first() -> None:
    folder = run_of([GOOD, SelectedModel(name="fast", points=(3, 2, 4, 2), e2e_ms=300, memory_mib=250)])
    first = json.loads(select(folder, "--json").stdout)["decision"]["first"]
    report = (folder_of_selection() / "benchmark_report.md").read_text("utf-8")
    flags = re.findall(r"--weights (\w+=[\d.]+)", report)
    assert len(flags) > 2
    for flag in flags:
        assert json.loads(select(folder, "--json", "--weights", flag).stdout)["decision"]["first"] != first, flag


def test_a_row_a_candidate_is_in_the_csv() -> None:
    select(run_of([GOOD, POOR, HUGE]), "--require", "license=commercial", "--quiet")
    with (folder_of_selection() / "selection.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["candidate"] for row in rows] == ["good@url", "poor@url", "huge@url"]
    assert [row["eligible"] for row in rows] == ["true", "true", "false"]
    assert float(rows[0]["quality"]) > 90 and rows[0]["behind_by"] == "" and float(rows[1]["behind_by"]) > 0


def test_models_json_has_those_that_may_be_used_by_priority() -> None:
    card = {"capabilities": "summarize"}
    select(run_of([msgspec.structs.replace(GOOD, card=card), POOR, HUGE]), "--require", "license=commercial", "--quiet")
    models = json.loads((folder_of_selection() / "models.json").read_text("utf-8"))
    assert {name: model["priority"] for name, model in models.items()} == {"good": 1, "poor": 2}
    assert models["good"]["capabilities"] == ["summarize"]
    assert models["good"]["size_mb"] == 200.0


def test_it_sends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    folder = run_of([GOOD, POOR])

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a socket was made")

    monkeypatch.setattr("socket.socket", refuse)
    assert select(folder, "--quiet").returncode == 0


# --- exit codes -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("models", "words", "code"),
    [
        ([GOOD, POOR], [], 0),
        ([GOOD], [], 0),
        ([GOOD, msgspec.structs.replace(GOOD, name="twin")], [], 0),
        ([GOOD, msgspec.structs.replace(GOOD, name="twin")], ["--require-clear"], 1),
        ([GOOD, POOR], ["--require-clear"], 0),
        ([HUGE], ["--require", "license=commercial"], 1),
        ([SelectedModel(name="silent", outcomes=("timeout",))], [], 1),
    ],
)
def test_the_exit_code_says_whether_there_is_a_choice(models: list[SelectedModel], words: list[str], code: int) -> None:
    assert select(run_of(models), "--quiet", *words).returncode == code


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ("run --weights latncy=1", "--weights latncy: unknown weight; did you mean latency?"),
        ("run --weights speed=1", "--weights speed: unknown weight; choose from quality, latency, memory, "),
        ("run --weights quality=-1", "--weights: quality: -1 is not a number of 0 or more; write e.g. quality = 0.4"),
        ("run --weights quality=much", '--weights: quality: "much" is a text, not a number of 0 or more'),
        ("run --weights quality=nan", "--weights: quality: nan is not a "),
        ("run --weights quality=inf", "--weights: quality: inf is not a finite number"),
        ("run --weights quality", "“quality” is not NAME=VALUE; write e.g. --weights quality=0.4"),
        ("run --weights quality=1,quality=2", "--weights quality: given twice; give it once"),
        (
            "run --weights quality=0,latency=0,memory=0,throughput=0,cost=0,disk=0",
            "weights: none is above 0; give one that is, such as --weights quality=1",
        ),
        ("run --require licence=commercial", "--require licence: unknown requirement; did you mean license?"),
        ("run --require quality=200", "--require: quality: 200 is not a number from 0 to 100"),
        ("run --require context_tokens=2.5", "--require: context_tokens: 2.5 is "),
        ("run --cost wats=15", "--cost wats: unknown key of the cost; did you mean watts?"),
        ("run --cost device_price=600", "device_price: it needs lifetime_years and utilization; add e.g."),
        ("run --quality hands", "--quality hands: unknown; did you mean hand?"),
        ("run --level c9", "level c9: no run has it; choose from c1, c4"),
        ("run --policy nowhere.toml", "nowhere.toml: cannot be read: No such file or directory"),
        ("run --facts nowhere.json", "nowhere.json"),
        ("nowhere", "nowhere: not a run folder"),
        ("run run", "run: the same run as run"),
        ("other", "schema is 'loadgen.manifest/9', this loadgen reads 'loadgen.manifest/1'"),
        ("damaged", "damaged/manifest.json: not a manifest"),
        ("run elsewhere", "run and elsewhere do not compare: sampling.max_tokens is 128 in one and 9 in the other"),
    ],
)
def test_a_wrong_line_is_one_line_and_exit_2(words: str, line: str) -> None:
    run_of([GOOD])
    run_of([GOOD], "elsewhere", 1, scenario={"sampling": {"max_tokens": 9}})
    manifest = Path("run/manifest.json").read_text("utf-8")
    for name, text in (("other", manifest.replace("manifest/1", "manifest/9")), ("damaged", manifest[:500])):
        Path(name).mkdir()
        Path(name, "manifest.json").write_text(text, "utf-8")
    ended = select(*words.split())
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.count("\n") == 1
    assert line in ended.stderr
    assert not Path("results").exists()


def test_a_merged_run_is_refused_with_the_runs_to_give() -> None:
    ids = [f"20260102T03{number:02d}05Z-0123abcd" for number in range(2)]
    merged = make_merged([run_of([GOOD], ids[at], at) for at in range(2)]).folder
    ended = select(merged)
    assert ended.returncode == 2
    assert f"give its runs: {ids[0]} {ids[1]}" in ended.stderr


def test_a_requirement_of_the_scenario_can_be_taken_back() -> None:
    folder = run_of([GOOD], scenario={"select": {"require": {"memory_mib": 100}}})
    assert select(folder, "--quiet").returncode == 1
    assert select(folder, "--quiet", "--require", "memory_mib=none").returncode == 0


def test_a_list_in_a_flag_has_a_plus_between_its_words() -> None:
    folder = run_of([msgspec.structs.replace(GOOD, card={"capabilities": "chat, summarize", "license": "llama3.2"})])
    words = "capabilities=chat+summarize,license=commercial,accept_licenses=llama3.1+llama3.2"
    assert select(folder, "--quiet", "--require", words).returncode == 0
    assert select(folder, "--quiet", "--require", "capabilities=chat+vision").returncode == 1


def test_facts_of_a_file_fill_what_is_unknown() -> None:
    folder = run_of([msgspec.structs.replace(GOOD, card={"license": None})])
    assert select(folder, "--quiet", "--require", "license=commercial").returncode == 1
    Path("models.json").write_text(json.dumps({"good": {"license": "MIT", "capabilities": ["chat"]}}), "utf-8")
    ended = select(folder, "--json", "--require", "license=commercial", "--facts", "models.json")
    assert ended.returncode == 0
    requirement = json.loads(ended.stdout)["candidates"][0]["requirements"][0]
    assert (requirement["seen"], requirement["why"]) == ("MIT", "given")


# --- notes ------------------------------------------------------------------------------------------------------------


def grade(folder: Path, notes: dict[str, dict[int, int]], kind: str = "hand", prompts: int = 6) -> None:
    """Notes on every aspect of the answers to the first prompts. notes: by grader, by the points of the answer."""
    written = []
    for grader, by_points in notes.items():
        for number in range(prompts):
            for points, note in by_points.items():
                digest = sha256(answer_of(number, points).encode()).hexdigest()
                name = prompt(number).id
                written += [
                    Note(
                        answer=answer_id(name, digest),
                        prompt_id=name,
                        text_sha256=digest,
                        aspect=aspect,
                        note=min(5, max(1, note + (number % 2 if note < 5 else 0))),
                        by=grader,
                        kind=kind,  # type: ignore[arg-type]
                        at="2026-01-03T00:00:00Z",
                    )
                    for aspect in ("complete", "correct", "brief", "clear")
                ]
    append_notes(written, [folder])


def test_notes_by_hand_decide_if_the_graders_agree() -> None:
    """People who like short answers: the marks of the key points say the opposite."""
    folder = run_of([SelectedModel(name="long", points=(4,)), SelectedModel(name="short", points=(1,))])
    grade(folder, {"ana": {4: 1, 1: 5}, "ben": {4: 1, 1: 5}})
    assert "long@url is recommended" in select(folder).stdout
    ended = select(folder, "--quality", "hand")
    assert ended.returncode == 0
    assert "short@url is recommended: quality 100" in ended.stdout
    assert "quality is by the notes of ana, ben on 6 prompts (Krippendorff's alpha 1.00" in ended.stdout
    assert "quality and latency are over the 6 of 16 prompts whose answers all have notes" in ended.stdout


def test_notes_of_graders_who_disagree_decide_nothing_unless_they_are_forced() -> None:
    folder = run_of([SelectedModel(name="long", points=(4,)), SelectedModel(name="short", points=(1,))])
    grade(folder, {"ana": {4: 1, 1: 5}, "ben": {4: 5, 1: 1}})
    ended = select(folder, "--quality", "hand")
    assert (ended.returncode, ended.stdout) == (1, "")
    assert "graders disagree: these notes decide nothing yet (Krippendorff's alpha −" in ended.stderr
    assert "on 12 answers with notes of two graders or more; 0.667 is the least); grade together first" in ended.stderr
    assert ended.stderr.count("\n") == 1
    assert select(folder, "--quality", "hand", "--force").returncode == 0


def test_where_few_answers_have_two_graders_the_refusal_says_that_alpha_is_hardly_known() -> None:
    folder = run_of([SelectedModel(name="long", points=(4,)), SelectedModel(name="short", points=(1,))])
    grade(folder, {"ana": {4: 1, 1: 5}})
    grade(folder, {"ben": {4: 4, 1: 3}}, prompts=1)
    ended = select(folder, "--quality", "hand")
    assert (ended.returncode, ended.stdout) == (1, "")
    assert "(95 % interval unknown: too few answers, or all notes too alike)" in ended.stderr
    assert "on 2 answers with notes of two graders or more" in ended.stderr
    assert "0.667 is the least, and the true alpha may be above it); grade more of the same answers, or" in ended.stderr
    assert ended.stderr.count("\n") == 1
    forced = select(folder, "--quality", "hand", "--force").stdout
    assert "the true alpha may be above it; graders disagree, and their notes count by --force" in forced


def test_the_selection_has_who_graded_and_how_far_they_agree_beside_the_key_points() -> None:
    folder = run_of([SelectedModel(name="long", points=(4,)), SelectedModel(name="short", points=(1,))])
    grade(folder, {"ana": {4: 1, 1: 5}, "ben": {4: 1, 1: 5}})
    for by, decides in (("key_points", False), ("hand", True)):
        (graded,) = json.loads(select(folder, "--quality", by, "--json").stdout)["graded"]
        assert (graded["kind"], graded["decides"], graded["graders"]) == ("hand", decides, ["ana", "ben"])
        assert graded["prompts"] == 6
        assert graded["agreement"]["alpha"] == graded["agreement"]["kappa"] == 1.0
        assert graded["quality"]["short@url"] == {"value": 100.0, "ci": [100.0, 100.0], "n": 6, "key_points": 25.0}
    report = (folder_of_selection() / "benchmark_report.md").read_text("utf-8")
    assert "## Quality by notes" in report
    assert re.search(r"\| short@url +\| by hand +\| +6 \| +100 \(100 to 100\) \| +25 \|", report)
    page = (folder_of_selection() / "selection.html").read_text("utf-8")
    assert "complete 5, correct 5, brief 5, clear 5" in page


def test_a_choice_by_key_points_says_nothing_of_notes_without_any() -> None:
    folder = run_of([GOOD, POOR])
    assert json.loads(select(folder, "--json").stdout)["graded"] == []
    assert "Quality by notes" not in (folder_of_selection() / "benchmark_report.md").read_text("utf-8")


def judged(folder: Path, model: str, notes: dict[int, int], *, self_judged: bool = False) -> None:
    """Notes of a judge, by the points of the answer, and the line of its judging."""
    by = f"{model} (notes/1)"
    grade(folder, {by: notes}, "judge")
    test = JudgeTest(passed=True, right={"other": 8, "figures": 8}, pairs=8)
    judging = Judging(
        by=by,
        model=model,
        url="http://localhost:1/v1",
        response_format="none",
        version="notes/1",
        votes=1,
        test=test,
        asked=8,
        without_verdict=0,
        answers=2,
        notes=8,
        pairs=None,
        self_judged=self_judged,
        at="2026-01-03T00:00:00Z",
    )
    append_judging(judging, [folder])


def test_notes_of_a_judge_decide_if_they_are_asked_for_and_are_compared_with_people() -> None:
    folder = run_of([SelectedModel(name="long", points=(4,)), SelectedModel(name="short", points=(1,))])
    judged(folder, "strict", {4: 1, 1: 5})
    assert "long@url is recommended" in select(folder).stdout
    ended = select(folder, "--quality", "judge")
    assert "short@url is recommended: quality 100" in ended.stdout
    assert "strict (notes/1): not compared with people" in ended.stdout
    grade(folder, {"ana": {4: 1, 1: 5}})
    ended = select(folder, "--quality", "judge")
    assert "strict (notes/1): with people: Krippendorff's alpha 1.000" in ended.stdout
    assert "Spearman 1.00, on 12 answers" in ended.stdout


@pytest.mark.parametrize("model", ["long", "LONG", "models/Long.gguf", "long:4"])
def test_the_notes_of_a_judge_that_is_a_candidate_do_not_count(model: str) -> None:
    folder = run_of([SelectedModel(name="long", points=(4,)), SelectedModel(name="short", points=(1,))])
    judged(folder, model, {4: 1, 1: 5})
    ended = select(folder, "--quality", "judge")
    assert f"the notes of {model} (notes/1) do not count: it is one of the candidates" in ended.stdout
    assert "no prompt has verdicts for every candidate" in ended.stdout
    assert json.loads(select(folder, "--json").stdout)["graded"] == []


def test_a_candidate_that_is_a_judge_does_not_count_either_if_the_line_of_its_judging_is_gone() -> None:
    folder = run_of([SelectedModel(name="long", points=(4,)), SelectedModel(name="short", points=(1,))])
    judged(folder, "long", {4: 1, 1: 5})
    (folder / "judges.jsonl").unlink()
    assert "the notes of long (notes/1) do not count" in select(folder, "--quality", "judge").stdout


def test_a_judge_that_was_a_candidate_of_the_runs_that_it_graded_does_not_count() -> None:
    folder = run_of([SelectedModel(name="long", points=(4,)), SelectedModel(name="short", points=(1,))])
    judged(folder, "third", {4: 1, 1: 5}, self_judged=True)
    assert "the notes of third (notes/1) do not count" in select(folder, "--quality", "judge").stdout


def test_a_judge_with_the_name_of_another_version_is_no_candidate() -> None:
    folder = run_of([SelectedModel(name="long:1", points=(4,)), SelectedModel(name="short", points=(1,))])
    judged(folder, "long:2", {4: 1, 1: 5})
    assert "short@url is recommended" in select(folder, "--quality", "judge").stdout


def test_a_damaged_file_of_notes_is_one_line() -> None:
    folder = run_of([GOOD, POOR])
    (folder / "notes.jsonl").write_text("{}\n", "utf-8")
    ended = select(folder)
    assert (ended.returncode, ended.stderr.count("\n")) == (2, 1)
    assert "notes.jsonl, line 1: not a note" in ended.stderr


def notes_on(folder: Path, numbers: range, points: int, note: int) -> None:
    """Notes of ana on one candidate's answers to some prompts."""
    written = []
    for number in numbers:
        digest = sha256(answer_of(number, points).encode()).hexdigest()
        name = prompt(number).id
        written += [
            Note(
                answer=answer_id(name, digest),
                prompt_id=name,
                text_sha256=digest,
                aspect=aspect,
                note=note,
                by="ana",
                kind="hand",
                at="2026-01-03T00:00:00Z",
            )
            for aspect in ("complete", "correct", "brief", "clear")
        ]
    append_notes(written, [folder])


def test_only_prompts_with_notes_for_every_candidate_count_also_for_a_requirement() -> None:
    folder = run_of([SelectedModel(name="long", points=(4,)), SelectedModel(name="short", points=(1,))])
    notes_on(folder, range(4), 4, 5)
    notes_on(folder, range(2, 6), 1, 1)
    notes_on(folder, range(2), 4, 1)
    ended = json.loads(select(folder, "--quality", "hand", "--require", "quality=90", "--json").stdout)
    quality = {row["name"]: row["criteria"]["quality"] for row in ended["candidates"]}
    assert {name: (row["value"], row["n"]) for name, row in quality.items()} == {
        "long@url": (100.0, 2),
        "short@url": (0.0, 2),
    }
    assert ended["decision"]["recommended"] == "long@url"
    assert ended["graded"][0]["prompts"] == 2


def test_notes_on_the_answers_of_one_candidate_alone_say_nothing() -> None:
    folder = run_of([SelectedModel(name="long", points=(4,)), SelectedModel(name="short", points=(1,))])
    notes_on(folder, range(4), 4, 5)
    ended = select(folder, "--quality", "hand")
    assert "quality (unknown for all: no prompt has notes for every candidate" in ended.stdout


@pytest.mark.parametrize(("kind", "task"), [("hand", "--by NAME"), ("judge", "--judge")])
def test_a_choice_by_notes_needs_notes_and_says_how_to_get_some(kind: str, task: str) -> None:
    ended = select(run_of([GOOD, POOR]), "--quality", kind)
    assert ended.returncode == 2
    assert f"--quality {kind}: the runs have no such notes; " in ended.stderr
    assert task in ended.stderr
    assert len(ended.stderr.splitlines()) == 1
