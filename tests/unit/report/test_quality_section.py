"""What the reports say of the quality of the answers, with the part marks of each."""

import csv
import io
import json
import re
from typing import Any

import msgspec
import pytest

from loadgen.analysis.quality_types import Quality
from loadgen.analysis.scorer.answer_score import AnswerScore
from loadgen.analysis.summarize import summarize
from loadgen.report.console import console
from loadgen.report.csv import csv_text
from loadgen.report.document import make_document, report_data
from loadgen.report.html import html
from loadgen.report.markdown import markdown
from loadgen.report.marked_answers import FORMS, LONGEST, answers_by_prompt, fragments_of
from loadgen.report.section import MarkedAnswer, Section
from loadgen.report.sections import quality
from loadgen.store.run_folder import Run
from tests.records import run_of, turn
from tests.scored_runs import BAD, CHOIR, GOOD, HALF, answer, levels_run, scored_run
from tests.unit.report.test_html import Page

HOSTILE = "<script>alert(1)</script> Owen prints 24 scores by Sunday. & it cost 977 &amp;"


def section_of(run: Run) -> Section:
    section = quality.quality(report_data(summarize(run), [run]))
    assert section is not None
    return section


def page_of(run: Run) -> str:
    return html(make_document(report_data(summarize(run), [run]))).decode()


def only_answer(run: Run) -> MarkedAnswer:
    (group,) = section_of(run).answers
    (marked,) = group.answers
    return marked


def test_an_answer_shows_which_key_point_it_says_where_and_what_it_invented() -> None:
    marked = only_answer(scored_run([answer(f"Well.\n{HALF} It costs 977.")]))
    assert [(fragment.text, fragment.kind, fragment.label) for fragment in marked.fragments] == [
        ("Well.\n", "plain", ""),
        (HALF, "said", "1"),
        (" It costs ", "plain", ""),
        ("977", "invented", ""),
        (".", "plain", ""),
    ]
    assert [(point.number, point.state) for point in marked.points] == [(1, "said"), (2, "missing"), (3, "missing")]
    assert marked.mark == "quality 16.7 of 100; 1 figure or name not in the prompt (× 0.5)"


def test_the_fragments_of_an_answer_are_its_text() -> None:
    for text in (GOOD, f"  {GOOD}\n\n{HALF}", "", "977 " * 3, HOSTILE):
        marked = [each for group in section_of(scored_run([answer(text)])).answers for each in group.answers]
        assert ["".join(fragment.text for fragment in each.fragments) for each in marked] == [text]


def test_a_long_answer_is_shown_to_a_limit() -> None:
    marked = only_answer(scored_run([answer("Owen sings. " * LONGEST)]))
    assert sum(len(fragment.text) for fragment in marked.fragments) == LONGEST + 1


def test_the_same_text_is_shown_once_with_the_stages_that_gave_it() -> None:
    run = levels_run(GOOD, GOOD, prompts=2, changed=2)
    groups = section_of(run).answers
    assert [group.prompt_id for group in groups] == ["p0", "p1"]
    assert [[each.title for each in group.answers] for group in groups] == [["m on t, 4 users; m on t, 1 user"]] * 2


def test_answers_that_failed_are_not_shown_as_texts() -> None:
    run = scored_run([answer(GOOD, 0), answer(None, 1, outcome="timeout")])
    assert only_answer(run).title == "m on t, 1 user"


def test_the_page_escapes_what_a_model_said_and_marks_it() -> None:
    page = page_of(scored_run([answer(HOSTILE)]))
    assert "alert(1)</script>" not in page
    read = Page(page)
    assert HOSTILE.split(" Owen")[0] in read.text
    kinds = [dict(attributes).get("class") for name, attributes in read.elements if name == "mark"]
    assert kinds == ["said", "invented", "said", "invented"]
    assert [name for name, _ in read.elements if name in ("img", "iframe", "a")] == []


def test_line_feeds_of_an_answer_are_line_breaks_and_other_controls_are_not_shown() -> None:
    page = page_of(scored_run([answer("- one\n- two\r\n- three\tfour\x1b[31m\u202e")]))
    (text,) = re.findall(r'<p class="text">(.*?)</p>', page, re.DOTALL)
    assert text.count("<br>") == 2
    assert "\x1b" not in page
    assert "\u202e" not in page


def test_the_main_table_has_the_quality_and_its_interval_in_every_format() -> None:
    run = levels_run(GOOD, BAD)
    summary = summarize(run)
    cells = {row.cells for row in make_document(report_data(summary, [run])).headline.table.rows}
    text = console(summary, width=300)
    assert "quality" in text.splitlines()[1]
    assert len(cells) == 2
    for expected in ("100.0–100.0", "0.0–0.0"):
        assert expected in text
    rows = list(csv.DictReader(io.StringIO(csv_text(summary))))
    assert [row["quality_mean"] for row in rows] == ["0.0", "100.0"]
    assert [(row["quality_low"], row["quality_high"]) for row in rows] == [("0.0", "0.0"), ("100.0", "100.0")]


def test_a_run_without_texts_says_nothing_of_quality() -> None:
    run = run_of([turn(index) for index in range(4)])
    summary = summarize(run)
    document = make_document(report_data(summary, [run]))
    assert "quality" not in markdown(document).lower()
    assert "quality" not in console(summary, width=300)
    assert "quality" not in csv_text(summary)


def test_without_key_points_the_report_says_that_only_the_form_was_checked() -> None:
    prompt = msgspec.structs.replace(CHOIR, key_points=())
    run = scored_run([answer(GOOD, finish_reason="length")], prompts=(prompt,))
    section = section_of(run)
    assert section.paragraphs == (quality.NO_KEY_POINTS,)
    assert section.charts == ()
    assert section.tables[0].rows[0].cells[-1] == "1 answer cut short by max_tokens"
    assert "quality" not in console(summarize(run), width=300)


@pytest.mark.parametrize(
    ("before", "after", "changed", "sentence"),
    [
        (
            GOOD,
            GOOD,
            16,
            "does not change with load from c1 to c4 (4 users) by 3 points or more (0 points, 0 to 0, 16 ",
        ),
        (
            GOOD,
            BAD,
            16,
            "quality is lower under load from c1 to c4 (4 users) (−100.0 points, −100.0 to −100.0, 16 prom",
        ),
        (
            GOOD,
            BAD,
            1,
            "whether load changes the quality from c1 to c4 (4 users) is not known (−6.2 points, −19.6 to +7",
        ),
    ],
)
def test_the_report_says_what_load_changed(before: str, after: str, changed: int, sentence: str) -> None:
    (point,) = section_of(levels_run(before, after, changed=changed)).points
    assert sentence in point
    assert re.search(r"; \d+(\.\d)? % of the prompts got the same text$", point)


def test_quality_is_drawn_by_level_and_by_prompt() -> None:
    section = section_of(levels_run(GOOD, BAD))
    by_level, by_prompt = section.charts
    assert by_level.traces[0]["y"] == [0.0, 100.0]
    assert by_prompt.layout["xaxis"]["ticktext"] == [f"p{number}" for number in range(16)]
    assert json.dumps([chart.traces for chart in section.charts])


def test_a_page_shows_only_so_many_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("loadgen.report.marked_answers.MOST_ANSWERS", 3)
    run = levels_run(GOOD, BAD)
    groups = answers_by_prompt(report_data(summarize(run), [run]).stages)
    assert [len(group.answers) for group in groups] == [2, 1]


def test_marks_that_overlap_are_cut_at_each_end() -> None:
    scored: Any = AnswerScore(quality=1.0, covered=(1.0, 1.0), places=((0, 6), (3, 9)), unsupported=((4, 5),))
    fragments = [(each.text, each.kind, each.label) for each in fragments_of("abcdefghijk", scored)]
    assert fragments == [
        ("abc", "said", ""),
        ("d", "said", ""),
        ("e", "invented", ""),
        ("f", "said", "1"),
        ("ghi", "said", "2"),
        ("jk", "plain", ""),
    ]


def test_every_flag_of_a_block_has_its_words() -> None:
    flags = set(AnswerScore.__annotations__["flags"].__args__[0].__args__)
    assert flags == set(FORMS)
    assert isinstance(summarize(scored_run([answer(GOOD)])).stages[0].quality, Quality)
