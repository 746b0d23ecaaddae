"""The mark of an answer: what it says of each key point and where, what it invents, and its form."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks import quality
from loadgen.analysis.scorer.answer_score import LONGEST, AnswerScore, Rubric, rubric_of, score
from tests.scored_runs import CHOIR, GOOD

RUBRIC = rubric_of(CHOIR.text, CHOIR.key_points)
TEAM = rubric_of(
    "Ann: Bob, you call the supplier before Friday. Bob: Fine. Ann: Then I write the report by 3 May, twelve pages. "
    "Cem: And I book the room for 40 people. Ann: We have 900 euros left for all of it, and the fair is on 12 June.",
    ("Bob calls the supplier before Friday", "Ann writes the report by 3 May", "Cem books the room for 40 people"),
)


def covered(text: str, rubric: Rubric = TEAM) -> tuple[float, ...]:
    return score(text, rubric).covered


@pytest.mark.parametrize(
    "text",
    [
        "Bob calls the supplier before Friday. Ann writes the report by 3 May. Cem books the room for 40 people.",
        "- Supplier: Bob calls before Fri\n- Report: Ann writes it by 3/5\n- Room for forty people: Cem books",
        "Bob will phone the supplier before Friday, Ann is writing the report by May 3rd, and Cem booked the room "
        "for 40.",
        "The supplier is called by Bob before Friday; the report is written by Ann by 3 May; a room for 40 people is "
        "booked by Cem.",
        "**Bob**\n- calls the supplier before Friday\n\n**Ann**\n- writes the report by 3 May\n\n## Cem\n- books the "
        "room for 40 people",
        "| Who | What |\n|---|---|\n| Bob | call supplier before Friday |\n| Ann | write report by 3 May |\n"
        "| Cem | book room for 40 people |",
        "1. Bob calls the supplier before Friday.\n2. Ann writes the report by 3 May.\n3. Cem books the room, for 40 "
        "people.",
    ],
)
def test_a_key_point_is_covered_in_any_style(text: str) -> None:
    scored = score(text, TEAM)
    assert min(scored.covered) >= 0.7
    assert sum(scored.covered) >= 2.6
    assert (scored.supported, scored.flags) == (1.0, ())


def test_an_owner_in_the_place_of_another_is_no_owner() -> None:
    swapped = (
        "Ann calls the supplier before Friday, Cem writes the report by 3 May and Bob books the room for 40 people."
    )
    assert max(covered(swapped)) < 0.1
    assert min(score(swapped, TEAM).mentioned) > 0.5


def test_a_figure_in_the_place_of_another_does_not_count() -> None:
    swapped = "Bob calls the supplier before Friday, Ann writes the report by 40 May, Cem books the room for 3 people."
    assert covered(swapped) == (1.0, 0.0, 0.0)


@pytest.mark.parametrize(
    "text",
    [
        "Bob calls the supplier before Tuesday.",
        "Before Tues., the supplier is called by Bob.",
        "- Bob: call supplier, due Tuesday",
    ],
)
def test_another_weekday_than_the_right_one_makes_the_date_wrong(text: str) -> None:
    assert covered(text)[0] < 0.1
    assert score(text, TEAM).mentioned[0] > 0.5


@pytest.mark.parametrize("date", ["3 June", "June 3rd", "the third of June"])
def test_another_month_than_the_right_one_is_half_of_the_date(date: str) -> None:
    assert 0 < covered(f"Ann writes the report by {date}.")[1] <= 0.5


def test_a_date_that_is_only_missing_costs_no_more_than_its_weight() -> None:
    assert covered("Bob calls the supplier.")[0] > 0.5


def test_the_date_of_something_else_is_no_wrong_date() -> None:
    alone = covered("Bob calls the supplier.")[0]
    assert covered("Bob calls the supplier, and the rest of the team comes on Monday.")[0] == alone
    assert covered("Bob calls the supplier before Friday and not on Monday.")[0] == 1.0


def test_words_all_over_an_answer_are_no_statement() -> None:
    apart = "Bob likes tea. There was much talk about the weather in town. Calls cost money. The supplier sells fish."
    assert covered(apart)[0] < 0.5


def test_two_sentences_make_one_statement_unless_the_second_names_somebody_else() -> None:
    assert covered("Bob has a task before Friday. He calls the supplier.")[0] == 1.0
    assert covered("Bob has a task before Friday. Cem calls the supplier.")[0] < 1.0


@pytest.mark.parametrize(
    ("text", "flag"),
    [
        ("", "empty"),
        ("  …  ", "empty"),
        ("<think>I should list the tasks.</think>", "empty"),
        ("<think>Bob calls the supplier, so", "empty"),
        ("I'm sorry, but I can't help with that.", "refused"),
        ("Sorry, I cannot do this. Bob calls the supplier before Friday.", "refused"),
        ("As an AI language model, I have no access to meetings.", "refused"),
        ("Unfortunately, I am not able to summarize this.", "refused"),
        (
            "Bob ruft den Lieferanten vor dem Freitag an, und Ann schreibt den Bericht bis zum 3. Mai, und die anderen "
            "kommen mit dem Zug zu der Messe.",
            "wrong_language",
        ),
        ("鲍勃星期五之前给供应商打电话，安在五月三日之前写报告，杰姆为四十人预订房间。", "wrong_language"),
        ("Боб звонит поставщику до пятницы, Анн пишет отчёт до 3 мая.", "wrong_language"),
        ("Bob calls the supplier before Friday. " * 6, "repeated"),
        (
            "Ann: Then I write the report by 3 May, twelve pages. Cem: And I book the room for 40 people.",
            "copied",
        ),
    ],
)
def test_the_form_of_an_answer_is_named(text: str, flag: str) -> None:
    scored = score(text, TEAM)
    assert flag in scored.flags
    assert scored.quality is not None
    assert scored.quality < 50
    if flag in ("empty", "refused", "wrong_language"):
        assert scored.quality == 0


def test_an_answer_that_was_cut_off_is_truncated() -> None:
    assert score("Bob calls the supplier", TEAM, "length").flags == ("truncated",)
    assert score("Bob calls the supplier", TEAM, "stop").flags == ()


def test_reasoning_is_no_part_of_an_answer_and_places_are_those_of_the_text() -> None:
    text = f"<think>{GOOD} Or 77?</think>Owen prints 24 scores by Sunday."
    scored = score(text, RUBRIC)
    assert scored.covered == (0.0, 1.0, 0.0)
    place = scored.places[1]
    assert place is not None
    assert text[slice(*place)] == "Owen prints 24 scores by Sunday."
    assert scored.unsupported == ()


def test_the_whole_source_is_no_summary_of_itself() -> None:
    assert score(CHOIR.text, RUBRIC).quality == 0


def test_a_language_without_spaces_between_words_has_no_mark() -> None:
    rubric = rubric_of(
        "田中：会議は木曜日の午後七時に移ります。佐藤が楽譜を二十四部印刷します。", ("会議は木曜日の午後七時に移る",)
    )
    scored = score("会議は木曜日の午後七時です。", rubric)
    assert (scored.quality, scored.flags) == (None, ("unspaced",))


def test_german_key_points_are_found_in_german() -> None:
    rubric = rubric_of(
        "Marta: Die Probe ist am Donnerstag um 19 Uhr, weil der Saal am Mittwoch belegt ist. Owen druckt die 24 Noten "
        "bis Sonntag. Der Klempner kommt am 3. April wegen der Heizung, und wir singen dann mit Mantel und mit Schal.",
        ("Die Probe ist am Donnerstag um 19 Uhr", "Owen druckt 24 Noten bis Sonntag", "Der Klempner kommt am 3. April"),
    )
    good = "Am Donnerstag um 19 Uhr ist Probe. Bis Sonntag druckt Owen 24 Noten, und am 3. April kommt der Klempner."
    bad = "Am Freitag um 20 Uhr ist Probe. Bis Montag druckt Marta 30 Noten, und im Mai kommt der Klempner mit dem Bus."
    assert (score(good, rubric).quality or 0) > 85
    assert (score(bad, rubric).quality or 0) < 15


def test_the_numbers_of_a_list_are_no_figures_of_the_answer() -> None:
    scored = score("1. Bob calls the supplier before Friday.\n2. Cem books a room.\n3) Ann writes.", TEAM)
    assert scored.supported == 1.0


def test_the_numbers_of_a_second_list_and_the_capitals_of_a_heading_are_no_figures_and_names() -> None:
    text = "Fair Tasks:\n1. Bob calls the supplier.\n2. Ann writes.\n\nVenue Work:\n1. Cem books a room.\n2. Cem waits."
    assert score(text, TEAM).unsupported == ()


def test_an_abbreviation_ends_no_sentence() -> None:
    rubric = rubric_of(
        "Ward: Dr Kessler reviews the pain plan of Mr. Duarte at 9.", ("Dr Kessler reviews the plan at 9",)
    )
    assert score("At 9 the plan of Mr. Duarte is reviewed by Dr. Kessler.", rubric).covered == (1.0,)


TEXT = st.text(max_size=300) | st.lists(
    st.sampled_from(
        [*GOOD.split(), "24", "7 pm", ".", ":", "\n- ", "half", "past", "six", "Dr.", "<think>", "%", "1,3"]
    ),
    max_size=60,
).map(" ".join)


@given(answer=TEXT, source=TEXT, points=st.lists(TEXT, max_size=4))
@settings(max_examples=150, deadline=None)
def test_any_answer_to_any_prompt_has_a_mark_within_bounds_and_places_within_the_text(
    answer: str, source: str, points: list[str]
) -> None:
    rubric = rubric_of(source, tuple(points))
    scored = score(answer, rubric)
    assert scored == score(answer, rubric)
    shares = [*scored.covered, *scored.mentioned, scored.supported or 0.0, scored.distinct, scored.copied]
    assert all(0 <= share <= 1 for share in shares)
    assert all(full <= loose for full, loose in zip(scored.covered, scored.mentioned, strict=True))
    assert len(scored.covered) == len(scored.places) == len(points)
    spans = [*(place for place in scored.places if place), *scored.unsupported]
    assert all(0 <= start < end <= len(answer) for start, end in spans)
    assert (scored.quality is None) == (not points or "unspaced" in scored.flags)
    assert scored.quality is None or 0 <= scored.quality <= 100


@given(order=st.permutations(GOOD.split(". ")))
@settings(max_examples=6, deadline=None)
def test_the_order_of_statements_does_not_matter(order: list[str]) -> None:
    assert score(". ".join(part.rstrip(".") for part in order) + ".", RUBRIC).quality == 100


def test_an_endless_answer_is_read_only_to_a_limit() -> None:
    endless: AnswerScore = score("Owen 24 prints " * 40_000, RUBRIC)
    assert endless.words * len("Owen 24 prints ") <= 3 * LONGEST + 100
    assert endless.quality == 0


@pytest.fixture(scope="module")
def measured() -> dict[str, quality.Measured]:
    return {name: quality.measure(folder) for name, folder in quality.FOLDERS.items()}


@pytest.mark.slow
def test_good_summaries_are_above_worse_ones_of_another_style(measured: dict[str, quality.Measured]) -> None:
    for each in measured.values():
        assert quality.missed(each.meetings, each.cases, slowest=0.0) == []


@pytest.mark.slow
def test_the_table_in_the_docs_is_what_the_benchmark_measures(measured: dict[str, quality.Measured]) -> None:
    page = quality.PAGE.read_text(encoding="utf-8")
    assert quality.table(measured) in page
    assert quality.load_table() in page


@pytest.mark.parametrize("unit", ["°C", "° C", "°F", "℃"])
def test_the_letter_of_a_unit_of_temperature_is_no_name(unit: str) -> None:
    fridge = rubric_of(
        "Ann: The fridge was at 11 degrees. Bob: Then I throw the milk away.", ("Bob throws the milk away",)
    )
    assert score(f"The fridge was at 11 {unit}, so Bob throws the milk away.", fridge).unsupported == ()
    assert score("The fridge was at 11 degrees, so Carl throws the milk away.", fridge).unsupported != ()
