"""A history in words, numbers in their units, and a sparkline that fits."""

from pathlib import Path

import msgspec
import pytest

from loadgen.decisions.history.read import ALL, HistoryRequest, read_answer
from loadgen.decisions.history.table import history_text
from loadgen.decisions.history.verdict import HistoryAnswer
from loadgen.decisions.history.words import (
    BLOCKS,
    format_value,
    group_sentence,
    history_lines,
    levels_text,
    signed_text,
    sparkline,
    title_text,
    verdict_sentence,
)
from loadgen.report.text_table import Screen
from loadgen.store.night_metrics import parse_metric
from tests.night_folders import MACHINE, QUIET, Night, write_nights

SLOWER = Night(factors={"ttft_p95": 1.12, "ttft_p50": 1.12, "output_tokens_per_s": 0.9}, server="b10719")


@pytest.fixture(autouse=True)
def _in_utc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "UTC")


def answer_of(path: Path, *nights: Night | None, noise: float = 0.01, **asked: object) -> HistoryAnswer:
    write_nights(path / "summarizer", nights, noise=noise)
    request = msgspec.structs.replace(HistoryRequest(machine=MACHINE), **asked)
    return read_answer("summarizer", request, path).answer


def test_a_regression_is_a_sentence_with_its_size_its_nights_and_its_builds(tmp_path: Path) -> None:
    answer = answer_of(tmp_path, *[QUIET] * 20, *[SLOWER] * 3)
    (line,) = history_lines(answer)
    assert line.startswith("new, worse: ")
    assert ", between builds b10711 and b10719; with it " in line
    assert "ttft_p95" in line and "12 %" in line and "→" in line and " on 4 Dec" in line
    assert line.endswith("; shown by the night of 6 Dec")
    assert verdict_sentence(answer).startswith("Worse, as the newest night showed: ")
    assert title_text(answer) == f"summarizer · 23 nights · machine {MACHINE} (a CPU)"


def test_a_group_that_another_metric_showed_first_names_that_metric(tmp_path: Path) -> None:
    """Or the surest change could begin, by its own estimate, after the night that showed the group."""
    later = msgspec.structs.replace(SLOWER, factors={"ttft_p50": 1.4})
    both = msgspec.structs.replace(SLOWER, factors={"ttft_p50": 1.4, "ttft_p95": 1.3})
    answer = answer_of(tmp_path, *[QUIET] * 30, *[later] * 2, *[both] * 60, noise=0.005)
    (group,) = answer.change_groups
    (line,) = history_lines(answer)
    first = min(group.changes, key=lambda change: change.shown_by)
    assert len({change.shown_by for change in group.changes}) == 2
    name = first.series.metric.name
    ending = "; shown by the night of " if group.lead == first else f"; first shown by {name} in the night of "
    assert ending in line
    led_by_the_later = msgspec.structs.replace(group, changes=group.changes[::-1])
    other = "; first shown by " if group.lead == first else "; shown by the night of "
    assert other in group_sentence(answer, led_by_the_later)


def test_what_was_shown_before_is_not_news_and_is_still_there(tmp_path: Path) -> None:
    answer = answer_of(tmp_path, *[QUIET] * 20, *[SLOWER] * 8)
    assert (
        verdict_sentence(answer) == "Nothing newly worse, as the newest night showed; 1 earlier regression still there."
    )
    assert history_lines(answer)[0].startswith("worse: ")


def test_what_went_away_says_when(tmp_path: Path) -> None:
    slower = msgspec.structs.replace(SLOWER, server="b10711")
    answer = answer_of(tmp_path, *[QUIET] * 20, *[slower] * 20, *[QUIET] * 20)
    assert [line.partition(":")[0] for line in history_lines(answer)] == ["better", "worse"]
    assert "; gone on " in history_lines(answer)[1]
    assert verdict_sentence(answer) == "Nothing newly worse, as the newest night showed."


def test_too_few_nights_are_counted(tmp_path: Path) -> None:
    answer = answer_of(tmp_path, *[QUIET] * 5)
    assert verdict_sentence(answer) == "Not enough nights: 5 of 11 nights that a change needs."


def test_another_machine_and_another_test_are_told_and_are_no_regression(tmp_path: Path) -> None:
    other = Night(machine="00000001", factors={"*": 2.0})
    answer = answer_of(tmp_path, *[QUIET] * 12, *[Night(level="c4")] * 12, *[other] * 12, machine=ALL)
    lines = history_lines(answer)
    assert lines[0].startswith("machine: 00000001 from 8 Dec on, after 3fa1c09e")
    assert lines[1] == "scenario: another test from 26 Nov on (load.concurrency); its series begin anew"
    assert answer.verdict == "same"
    assert title_text(answer) == "summarizer · 36 nights · 2 machines"


def test_the_year_is_named_where_it_is_another_one(tmp_path: Path) -> None:
    answer = answer_of(tmp_path, *[QUIET] * 20, *[SLOWER] * 40)
    assert " on 4 Dec 2025" in history_lines(answer)[0]


def test_the_console_fits_80_columns_with_names_of_any_length(tmp_path: Path) -> None:
    nights = [Night(models=("a-model-with-a-long-name", "m"), label="release candidate 1")] * 20
    answer = answer_of(tmp_path, *nights, *[msgspec.structs.replace(nights[0], factors={"*": 1.3}, label="rc2")] * 3)
    text = history_text(answer, ("a note " * 20,), Screen(80))
    assert max(map(len, text.splitlines())) <= 80
    assert "a-model-with-a-long-name" in text.splitlines()
    assert any(block in text for block in BLOCKS)
    plain = history_text(answer, (), Screen(80, encoding="ascii"))
    assert plain.isascii() and max(map(len, plain.splitlines())) <= 80


def test_a_name_cannot_control_the_terminal(tmp_path: Path) -> None:
    answer = answer_of(tmp_path, *[Night(label="\x1b[31mred")] * 12, *[Night(label="b\u202e", factors={"*": 2.0})] * 3)
    text = history_text(answer, (), Screen(80))
    assert text.replace("\n", "").isprintable()


@pytest.mark.parametrize(
    ("values", "width", "drawn"),
    [
        ([], 5, ""),
        ([None, None], 5, ""),
        ([1.0, 1.0], 5, "▄▄"),
        ([0.0, None, 7.0], 5, "▁ █"),
        ([0.0, 0.0, 7.0, 7.0], 2, "▁█"),
        ([None, 0.0, None, 7.0, None, None], 3, "▁█ "),
    ],
)
def test_a_sparkline_has_its_lowest_and_highest_values_at_its_ends(
    values: list[float | None], width: int, drawn: str
) -> None:
    assert sparkline(values, width) == drawn


@pytest.mark.parametrize(
    ("metric", "value", "text"),
    [
        ("ttft_p50", 412.3, "412 ms"),
        ("e2e_p95", 6410.0, "6.41 s"),
        ("failed_share", 0.0125, "1.25 %"),
        ("server_memory", 1611.2, "1611 MiB"),
        ("server_memory", 61.26, "61.3 MiB"),
        ("output_tokens_per_s", 38.44, "38.4 /s"),
        ("joules_per_token", 0.1234, "0.123 J"),
    ],
)
def test_a_value_has_the_unit_of_its_metric(metric: str, value: float, text: str) -> None:
    assert format_value(parse_metric(metric), value) == text


def test_a_change_has_its_sign_and_two_levels_share_their_unit() -> None:
    ttft, share = parse_metric("ttft_p50"), parse_metric("failed_share")
    assert [signed_text(ttft, size) for size in (0.123, -0.04, 0.0001)] == ["+12 %", "−4.0 %", "0.0 %"]
    assert [signed_text(share, size) for size in (0.008, 0.0)] == ["+0.8 points", "0 points"]
    assert levels_text(ttft, 412, 462) == "412 → 462 ms"
    assert levels_text(ttft, 912, 1462) == "912 ms → 1.46 s"
