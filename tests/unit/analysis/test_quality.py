"""The quality of a run's answers: of each, of a stage, and under load."""

from pathlib import Path
from typing import Any

import msgspec
import pytest

from loadgen.analysis.quality import answers_of, scored_answers
from loadgen.analysis.quality_types import Quality
from loadgen.analysis.scorer.answer_score import AnswerScore, score
from loadgen.analysis.summarize import merged, summarize
from loadgen.analysis.summary import summary_data, summary_from
from loadgen.record import Outcome
from loadgen.report.files import write_reports
from loadgen.store import files
from loadgen.store.run_folder import Run, SentPrompt
from tests import records, scored_runs
from tests.records import planned
from tests.scored_runs import BAD, CHOIR, GOOD, HALF, answer, levels_run, other, scored_run


def quality_of(run: Run, stage: int = 0) -> Quality:
    quality = summarize(run).stages[stage].quality
    assert isinstance(quality, Quality)
    return quality


def test_an_answer_that_says_all_key_points_has_100_and_the_places_where_it_does() -> None:
    (scored,) = answers_of(scored_run([answer(GOOD)]))
    assert (scored.quality, scored.covered, scored.supported, scored.flags) == (100.0, (1.0, 1.0, 1.0), 1.0, ())
    assert [GOOD[place[0] : place[1]].strip() for place in scored.places if place] == [
        f"{sentence}." for sentence in GOOD.removesuffix(".").split(". ")
    ]


def test_a_key_point_that_is_missing_has_no_place() -> None:
    (scored,) = answers_of(scored_run([answer(HALF)]))
    assert scored.places[1:] == (None, None)
    assert scored.quality == pytest.approx(100 / 3, abs=0.01)


def test_invented_figures_and_names_are_marked_and_cost() -> None:
    text = f"{GOOD} The costs are 950, says Ebenezer."
    (scored,) = answers_of(scored_run([answer(text)]))
    assert [text[start:end] for start, end in scored.unsupported] == ["950", "Ebenezer"]
    assert scored.quality is not None and scored.quality < 90


def test_a_failed_request_has_quality_0_and_one_that_we_gave_up_is_left_out_and_counted() -> None:
    outcomes: tuple[Outcome, ...] = ("http_error", "timeout", "empty", "cancelled", "shed")
    lines = [answer(GOOD), *(answer(None, 1 + at, outcome=outcome) for at, outcome in enumerate(outcomes))]
    run = scored_run(lines)
    assert [scored.quality for scored in answers_of(run)] == [100.0, 0.0, 0.0, 0.0, None, None]
    quality = quality_of(run)
    assert (quality.answers, quality.failed, quality.left_out, quality.mean) == (1, 3, 2, 25.0)


def test_a_mean_is_over_prompts_whose_repeats_are_averaged_first() -> None:
    lines = [answer(GOOD, 0), answer(BAD, 1), answer(BAD, 2), answer(BAD, 3), answer(GOOD, 4, "b")]
    quality = quality_of(scored_run(lines, prompts=(CHOIR, other("b"))))
    assert (quality.prompts, quality.answers, quality.mean) == (2, 5, 62.5)
    assert quality.ci == (0.0, 100.0)


def test_one_prompt_has_no_interval() -> None:
    assert quality_of(scored_run([answer(GOOD, 0), answer(BAD, 1)])).ci is None


def test_without_texts_there_is_no_quality_at_all() -> None:
    summary = summarize(records.run_of([records.record()]))
    assert "quality" not in summary_data(summary)["stages"][0]


def test_a_scenario_may_leave_its_answers_without_marks(tmp_path: Path) -> None:
    run = scored_run([answer(GOOD)], scenario={"quality": {"score": False}})
    assert "quality" not in summary_data(summarize(run))["stages"][0]
    folder = scored_runs.write(tmp_path / "run", run)
    write_reports(folder)
    assert not (folder / "quality.jsonl").exists()
    assert scored_answers(folder) == ()


def test_prompts_without_key_points_get_the_checks_of_form_and_no_mark() -> None:
    prompt = msgspec.structs.replace(CHOIR, key_points=())
    run = scored_run([answer(GOOD, 0), answer("I'm sorry, I can't help with that.", 1)], prompts=(prompt,))
    quality = quality_of(run)
    assert (quality.prompts, quality.mean, quality.covered, quality.rouge_l) == (0, None, None, None)
    assert (quality.answers, quality.supported, quality.flags) == (2, None, {"refused": 1})


def test_a_stage_that_was_skipped_has_a_quality_that_is_not_known() -> None:
    stages = [planned(1), planned(1, model="n", skipped="no such model", problem="unusable")]
    summary = summarize(scored_run([answer(GOOD)], stages=stages))
    assert summary_data(summary)["stages"][1]["quality"] is None


def test_a_killed_run_counts_what_it_has() -> None:
    run = scored_run([answer(GOOD)], stages=[planned(5)], seen=[], state="running")
    assert (quality_of(run).answers, quality_of(run).left_out, quality_of(run).mean) == (1, 4, 100.0)


def test_the_share_of_texts_that_are_the_same_is_of_prompts_that_were_asked_more_than_once() -> None:
    lines = [answer(GOOD, 0), answer(GOOD, 1), answer(GOOD, 2, "b"), answer(BAD, 3, "b"), answer(GOOD, 4, "c")]
    run = scored_run(lines, prompts=(CHOIR, other("b"), other("c")))
    assert quality_of(run).same_text == 0.5


@pytest.mark.parametrize(
    "sampling", [{"temperature": 0.7}, {"omit": ["temperature"]}, {"extra": {"temperature": 1}}], ids=str
)
def test_texts_that_are_sampled_are_not_compared(sampling: dict[str, object]) -> None:
    run = scored_run([answer(GOOD, 0), answer(GOOD, 1)], scenario={"sampling": sampling})
    assert quality_of(run).same_text is None


@pytest.mark.parametrize(
    ("before", "after", "changed", "verdict", "same_text"),
    [
        (GOOD, GOOD, 16, "unchanged", 1.0),
        (GOOD, BAD, 16, "lower", 0.0),
        (BAD, GOOD, 16, "higher", 0.0),
        (GOOD, BAD, 1, "unknown", 0.9375),
        (GOOD, f"{GOOD} ", 16, "unchanged", 0.0),
    ],
)
def test_the_highest_level_is_compared_with_the_lowest_prompt_by_prompt(
    before: str, after: str, changed: int, verdict: str, same_text: float
) -> None:
    run = levels_run(before, after, changed=changed)
    under_load = quality_of(run, stage=0).under_load
    assert under_load is not None
    assert (under_load.lowest, under_load.prompts) == ("c1", 16)
    assert (under_load.verdict, under_load.same_text) == (verdict, same_text)
    assert quality_of(run, stage=1).under_load is None


@pytest.mark.parametrize(
    ("prompts", "after", "verdict"), [(15, GOOD, "unknown"), (4, BAD, "unknown"), (5, BAD, "lower")]
)
def test_with_few_prompts_less_is_said_about_load(prompts: int, after: str, verdict: str) -> None:
    under_load = quality_of(levels_run(GOOD, after, prompts=prompts, changed=prompts)).under_load
    assert under_load is not None
    assert under_load.verdict == verdict


def test_merged_runs_average_each_prompt_over_the_runs() -> None:
    first = scored_run([answer(GOOD, 0), answer(GOOD, 1, "b")], prompts=(CHOIR, other("b")))
    second = scored_run([answer(BAD, 0), answer(GOOD, 1, "b")], prompts=(CHOIR, other("b")), run_id="2")
    quality = merged([first, second]).stages[0].quality
    assert isinstance(quality, Quality)
    assert (quality.prompts, quality.answers, quality.mean, quality.same_text) == (2, 4, 75.0, 0.5)


def test_a_summary_with_quality_is_read_as_it_was_written() -> None:
    summary = summarize(levels_run(GOOD, BAD))
    assert summary_from(files.json_document(summary_data(summary))) == summary


def test_the_files_are_made_again_from_the_folder_alone(tmp_path: Path) -> None:
    folder = scored_runs.write(tmp_path / "run", levels_run(GOOD, BAD))
    write_reports(folder)
    names = ("quality.jsonl", "summary.json", "report.html", "report.md", "summary.csv")
    before = {name: (folder / name).read_bytes() for name in names}
    for name in names:
        (folder / name).unlink()
    write_reports(folder)
    assert {name: (folder / name).read_bytes() for name in names} == before
    assert len(before["quality.jsonl"].splitlines()) == 32


def test_scored_answers_are_read_from_their_file_unless_it_is_of_other_answers(tmp_path: Path) -> None:
    folder = scored_runs.write(tmp_path / "run", scored_run([answer(GOOD, 0), answer(BAD, 1)]))
    write_reports(folder)
    lines = (folder / "quality.jsonl").read_bytes()
    assert [scored.quality for scored in scored_answers(folder)] == [100.0, 0.0]
    (folder / "quality.jsonl").write_bytes(lines.replace(b'"quality":100.0', b'"quality":12.0'))
    assert [scored.quality for scored in scored_answers(folder)] == [12.0, 0.0]
    for damaged in (lines.replace(b"key_points/1", b"key_points/0"), lines.splitlines()[0], b"{", b"\xff\n"):
        (folder / "quality.jsonl").write_bytes(damaged)
        assert [scored.quality for scored in scored_answers(folder)] == [100.0, 0.0]


def test_identical_texts_are_scored_once(monkeypatch: pytest.MonkeyPatch) -> None:
    texts: list[str] = []

    def counted(text: str, *others: Any) -> AnswerScore:
        texts.append(text)
        return score(text, *others)

    monkeypatch.setattr("loadgen.analysis.scorer.answer_score.score", counted)
    run = levels_run(GOOD, GOOD)
    assert len(answers_of(run)) == 32
    assert len(texts) == 16


def test_a_recorded_chat_and_a_system_message_are_what_an_answer_may_draw_on() -> None:
    prompt = msgspec.structs.replace(CHOIR, text=f"{CHOIR.text}\n\nassistant: The fee is 950.")
    text = f"{GOOD} The fee is 950 and the choir is called Larkspur."
    (without,) = answers_of(scored_run([answer(text)], prompts=(prompt,)))
    system = {"system": "You are the secretary of the choir Larkspur."}
    (with_system,) = answers_of(scored_run([answer(text)], prompts=(prompt,), scenario=system))
    assert [text[a:b] for a, b in without.unsupported] == ["Larkspur"]
    assert with_system.unsupported == ()


def test_key_points_that_do_not_come_from_the_prompt_ask_neither_for_brevity_nor_for_its_figures() -> None:
    prompt = SentPrompt(
        "tides", "What causes the tides?", ("the Moon's gravity pulls the oceans", "two bulges of water")
    )
    text = "The gravity of the Moon pulls the oceans, 384,400 km away, as Newton said. There are two bulges of water."
    (scored,) = answers_of(scored_run([answer(text, prompt_id="tides")], prompts=(prompt,)))
    assert (scored.quality, scored.unsupported) == (100.0, ())


def test_answers_to_a_prompt_that_is_no_longer_known_are_left_out(tmp_path: Path) -> None:
    run = scored_run([answer(GOOD, 0), answer(GOOD, 1, "lost")])
    folder = scored_runs.write(tmp_path / "run", run)
    assert write_reports(folder).stages[0].quality is not None
    assert [scored.prompt_id for scored in scored_answers(folder)] == ["choir"]
