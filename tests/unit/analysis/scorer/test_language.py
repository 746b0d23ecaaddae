"""The language of a paragraph by its function words, and its script; nothing is said of what could be either."""

import pytest

from loadgen.analysis.scorer.language import language_of, script_and_language_of, script_of

PARAGRAPHS = {
    "en": "The rehearsal is moved to Thursday because the hall is taken, and Owen will print the scores for all of us.",
    "de": "Die Probe wird auf den Donnerstag verlegt, weil der Saal belegt ist, und Owen druckt die Noten für uns.",
    "fr": "La répétition est déplacée à jeudi parce que la salle est prise, et Owen va imprimer les partitions.",
    "es": "El ensayo se pasa al jueves porque la sala está ocupada, y Owen va a imprimir las partituras.",
    "it": "La prova è spostata a giovedì perché la sala è occupata, e Owen stampa gli spartiti per la squadra.",
    "pt": "O ensaio passa para quinta porque a sala está ocupada, e o Owen vai imprimir as partituras para os outros.",
    "nl": "De repetitie gaat naar donderdag omdat de zaal bezet is, en Owen drukt de partituren voor het koor.",
    "vi": "Buổi tập được chuyển sang thứ năm vì phòng đã có người, và Owen in các bản nhạc cho một nhóm.",
}


@pytest.mark.parametrize("language", PARAGRAPHS)
def test_a_paragraph_is_known_by_its_function_words(language: str) -> None:
    assert language_of(PARAGRAPHS[language]) == language


@pytest.mark.parametrize(
    "text",
    [
        "Blue van: new clutch. Red van: Tuesday. White van: sold. Old van: keep. Big van, small van: wash both.",
        "- No chips tonight - No pesto near table six - No fryer - No overtime - No meeting next week, no cake",
        "Scores: Owen, Sunday. Heating: plumber, 3 April.",
        "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu",
    ],
)
def test_notes_without_function_words_are_of_no_known_language(text: str) -> None:
    assert language_of(text) is None


@pytest.mark.parametrize(
    ("text", "script"),
    [
        ("Owen prints the scores", "latin"),
        ("Оуэн печатает ноты", "cyrillic"),
        ("欧文在星期天之前打印二十四份乐谱", "chinese"),
        ("オーウェンは日曜日までに楽譜を印刷します", "japanese"),
        ("오언은 일요일까지 악보를 인쇄합니다", "korean"),
        ("โอเว่นพิมพ์โน้ตเพลงภายในวันอาทิตย์", "thai"),
        ("أوين يطبع النوتات قبل الأحد", "arabic"),
        ("Owen 24", None),
    ],
)
def test_a_text_is_of_the_script_of_most_of_its_letters(text: str, script: str | None) -> None:
    assert script_of(text) == script


def test_a_difference_takes_two_languages_that_are_known() -> None:
    english, german, notes = (
        script_and_language_of(text) for text in (PARAGRAPHS["en"], PARAGRAPHS["de"], "Scores: Owen, Sunday")
    )
    assert german.is_other_than(english)
    assert not english.is_other_than(english)
    assert not notes.is_other_than(german)
