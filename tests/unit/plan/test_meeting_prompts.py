"""Facts about the meeting transcripts in scenarios/prompts, read with tomllib; knows nothing of loadgen."""

import itertools
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

PROMPTS = Path(__file__).parents[3] / "scenarios" / "prompts"
FOLDERS = ("meetings", "meetings-more")
# 74,500 and 08:15 and 5.50 each count as one number, so a part of another number does not pass for one.
NUMBER = re.compile(r"\d+(?:[.,:]\d+)*")
# Names, weekdays and months; also the first word of a statement, which is most often the owner's name.
NAME = re.compile(r"\b[A-ZÀ-Þ]\w+")
WORD = re.compile(r"\w+")


def read_meetings(folder: str) -> dict[str, dict[str, Any]]:
    """The parsed files by stem, in the order of their names."""
    paths = sorted((PROMPTS / folder).glob("*.toml"))
    return {path.stem: tomllib.loads(path.read_text(encoding="utf-8")) for path in paths}


@pytest.fixture(scope="module", params=FOLDERS)
def meetings(request: pytest.FixtureRequest) -> dict[str, dict[str, Any]]:
    return read_meetings(request.param)


def words(text: str) -> int:
    return len(text.split())


def test_there_are_at_least_sixteen_meetings(meetings: dict[str, dict[str, Any]]) -> None:
    assert len(meetings) >= 16


def test_the_folders_share_no_id_no_number_and_no_text() -> None:
    each = [meeting for folder in FOLDERS for meeting in read_meetings(folder).values()]
    for values in ([m["id"] for m in each], [m["id"][:2] for m in each], [m["text"] for m in each]):
        assert len(set(values)) == len(each)


def test_no_two_meetings_of_both_folders_have_the_same_length() -> None:
    lengths = [words(meeting["text"]) for folder in FOLDERS for meeting in read_meetings(folder).values()]
    assert len(set(lengths)) == len(lengths)


def test_a_meeting_has_id_key_points_and_text_and_nothing_else(meetings: dict[str, dict[str, Any]]) -> None:
    odd = {stem: set(meeting) for stem, meeting in meetings.items() if set(meeting) != {"id", "key_points", "text"}}
    assert odd == {}


def test_an_id_is_a_slug_and_equals_the_stem_of_its_file(meetings: dict[str, dict[str, Any]]) -> None:
    assert [meeting["id"] for meeting in meetings.values()] == list(meetings)
    assert [stem for stem in meetings if not re.fullmatch(r"\d\d-[a-z]+", stem)] == []


def test_ids_and_texts_are_unique(meetings: dict[str, dict[str, Any]]) -> None:
    for key in ("id", "text"):
        assert len({meeting[key] for meeting in meetings.values()}) == len(meetings)


def test_lengths_span_about_80_to_about_900_words(meetings: dict[str, dict[str, Any]]) -> None:
    lengths = [words(meeting["text"]) for meeting in meetings.values()]
    assert min(lengths) == pytest.approx(80, rel=0.05)
    assert max(lengths) == pytest.approx(900, rel=0.05)


def test_each_meeting_is_at_least_5_percent_longer_than_the_next_shorter_one(
    meetings: dict[str, dict[str, Any]],
) -> None:
    lengths = sorted(words(meeting["text"]) for meeting in meetings.values())
    too_close = [(a, b) for a, b in itertools.pairwise(lengths) if b < 1.05 * a]
    assert too_close == []


def test_a_meeting_has_3_to_8_key_points_of_4_to_14_words(meetings: dict[str, dict[str, Any]]) -> None:
    counts = {stem: len(meeting["key_points"]) for stem, meeting in meetings.items()}
    assert {stem: n for stem, n in counts.items() if not 3 <= n <= 8} == {}
    points = [point for meeting in meetings.values() for point in meeting["key_points"]]
    assert [point for point in points if not 4 <= words(point) <= 14] == []


def cited(pattern: re.Pattern[str], statements: list[str]) -> set[str]:
    """What the pattern finds in the statements, in lower case."""
    return {item.casefold() for statement in statements for item in pattern.findall(statement)}


def test_every_number_in_a_key_point_occurs_in_the_text(meetings: dict[str, dict[str, Any]]) -> None:
    missing = {
        stem: cited(NUMBER, meeting["key_points"]) - cited(NUMBER, [meeting["text"]])
        for stem, meeting in meetings.items()
    }
    assert {stem: numbers for stem, numbers in missing.items() if numbers} == {}
    assert [stem for stem, meeting in meetings.items() if not cited(NUMBER, meeting["key_points"])] == []


def test_every_name_in_a_key_point_occurs_in_the_text(meetings: dict[str, dict[str, Any]]) -> None:
    missing = {
        stem: cited(NAME, meeting["key_points"]) - cited(WORD, [meeting["text"]]) for stem, meeting in meetings.items()
    }
    assert {stem: names for stem, names in missing.items() if names} == {}
