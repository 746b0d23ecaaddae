"""Words and figures of a text: one meaning, whatever its spelling."""

import pytest

from loadgen.analysis.scorer.tokens import Token, fold, stem, tokens_of


def figures(text: str) -> list[Token]:
    return [token for token in tokens_of(text) if token.kind == "figure"]


def mean_the_same(first: str, second: str) -> bool:
    """Whether the figures of two texts share a meaning, one by one."""
    pairs = list(zip(figures(first), figures(second), strict=True))
    return bool(pairs) and all(one_reading(a, b) for a, b in pairs)


def one_reading(first: Token, second: Token) -> bool:
    return any(all(needed & second.atoms for needed in reading) for reading in first.readings)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("1,340 claims", "1340 claims"),
        ("1,340", "1.340"),
        ("1,340", "1 340"),
        ("1,340", "1 340"),
        ("1,340", "1'340"),
        ("1,340", "1.34k"),
        ("118,000", "118k"),
        ("118,000", "118 thousand"),
        ("118,000", "one hundred and eighteen thousand"),
        ("24", "two dozen"),
        ("12", "a dozen"),
        ("€18,500", "EUR 18.500"),
        ("€5.50", "5,50 €"),
        ("€5.50", "5.5"),
        ("five and a half", "5.5"),
        ("twenty-four", "24"),
        ("twenty four", "24"),
        ("nine", "9"),
        ("7.5 tonnes", "7,5 t"),
        ("7 pm", "19:00"),
        ("7 pm", "7 p.m."),
        ("7 pm", "19h"),
        ("7 pm", "7"),
        ("14:30", "2:30 pm"),
        ("14:30", "2.30pm"),
        ("14:30", "14.30"),
        ("14:30", "14h30"),
        ("8:30", "half past eight"),
        ("8:30", "eight-thirty"),
        ("7:50", "seven fifty"),
        ("09:00", "9 am"),
        ("09:00", "nine"),
        ("05:40", "5.40 am"),
        ("noon", "12:00"),
        ("noon", "12 pm"),
        ("3rd", "3"),
        ("third", "3"),
        ("2 million", "2,000,000"),
    ],
)
def test_two_spellings_of_a_figure_mean_the_same(first: str, second: str) -> None:
    assert mean_the_same(first, second)
    assert mean_the_same(second, first)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("1,340", "1,430"),
        ("1,340", "13.40"),
        ("7 pm", "7 am"),
        ("7 pm", "8 pm"),
        ("19 tickets", "7 tickets"),
        ("14:30", "14:00"),
        ("14:30", "3:30 pm"),
        ("118,000", "118"),
        ("24", "twenty-five"),
        ("12:00", "midnight 0:00"),
        ("5.50", "5.05"),
    ],
)
def test_two_different_figures_do_not_mean_the_same(first: str, second: str) -> None:
    assert not mean_the_same(first, second)


@pytest.mark.parametrize("date", ["3/4", "03/04", "3.4.", "03.04.2026", "2026-04-03", "4/3"])
def test_a_numeric_date_means_a_day_and_a_month(date: str) -> None:
    (figure,) = figures(date)
    assert {"3", "april"} <= figure.atoms


def test_a_number_at_the_end_of_a_sentence_is_not_only_a_date() -> None:
    (figure,) = figures("Potassium was 3.1.")
    assert "3.1" in figure.atoms


def test_a_token_knows_its_place_in_the_text() -> None:
    text = "Zoë's 1,340 claims, at half past six, cost €18.5k"
    places = [text[token.start : token.end] for token in tokens_of(text)]
    assert places == ["Zoë's", "1,340", "claims", "half past six", "cost", "18.5k"]


def test_words_are_known_by_their_stems_without_accents() -> None:
    assert {stem(fold(word)) for word in ("prints", "printed", "Printing", "print")} == {"print"}
    assert stem(fold("rose")) == stem(fold("rises")) == stem(fold("rising"))
    assert fold("Tomás") == "tomas"
    assert fold("Sørensen’s") == "sorensen"
    assert stem(fold("odours")) == stem(fold("odors"))
    assert stem(fold("organised")) == stem(fold("organizes"))


def test_months_and_weekdays_have_one_name_each() -> None:
    texts = {"Thu": "thursday", "Thurs.": "thursday", "Sept": "september", "Sat": "saturday", "Mar": "march"}
    for text, name in texts.items():
        (token,) = tokens_of(text)
        assert (token.kind, sorted(token.atoms)) == ("calendar", [name])


def test_a_month_that_is_another_word_too_is_told_by_its_capital() -> None:
    assert [token.kind for token in tokens_of("it may rain on 3 May")] == ["word", "figure", "calendar"]


@pytest.mark.parametrize("text", ["", "   ", "…", "()", "\x00", "1" * 5000, "a" * 5000, "1," * 3000, "👩‍🚀 7"])
def test_no_text_is_too_strange(text: str) -> None:
    assert all(0 <= token.start < token.end <= len(text) for token in tokens_of(text))


def test_per_cent_is_one_word_and_a_hundred_is_a_figure() -> None:
    assert mean_the_same("a hundred", "100")
    assert [token.kind for token in tokens_of("five per cent")] == ["figure", "word"]
