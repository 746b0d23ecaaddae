"""A year of nights, told night by night: what changed, what is no change, and when the exit code is 1."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from functools import cache
from itertools import pairwise
from typing import Final

import msgspec
import numpy as np
import pytest

from loadgen.decisions.history.history_json import HistoryJson, history_json
from loadgen.decisions.history.verdict import HistoryAnswer, HistorySettings, history_of
from loadgen.store.history import NightRecord
from loadgen.store.night_metrics import parse_metric
from tests.night_records import FIRST, QUIET, night, nights_of, stage, step

SETTINGS: Final = HistorySettings(scenario="summarizer")
STEP, WENT_AWAY, CAME_BACK, TWO_BUILDS, SCENARIO, MACHINE = 90, 160, 200, 250, 290, 325
"""The nights of the year on which something happened."""
DAMAGED: Final = {30: "invalid", 130: "missing", 170: "incomplete", 171: "short"}
OUTLIERS: Final = (12, 55, 100, 145, 220, 221, 270)


def factors_of(day: int) -> dict[str, float]:
    """By how much each metric of a night is off, before its noise."""
    factors = dict.fromkeys(QUIET, 1.0)
    if day >= STEP:  # build b2 is slower at prefilling
        factors["ttft_p50"] = factors["ttft_p95"] = 1.12
    if WENT_AWAY <= day < CAME_BACK:
        factors["server_memory"] = 1.25
    if day >= TWO_BUILDS:
        factors["output_tokens_per_s"], factors["itl_p50"] = 1.2, 1 / 1.2
    if day in OUTLIERS:
        factors |= {name: factor * 1.4 for name, factor in factors.items() if name.endswith("p95")}
    if day >= MACHINE:  # much slower: no regression
        factors = {name: factor * (0.5 if name == "output_tokens_per_s" else 2.0) for name, factor in factors.items()}
    return factors


def build_of(day: int) -> str:
    return "b1" if day < STEP else "b2" if day < TWO_BUILDS else "b4"


def table_of(day: int, rng: np.random.Generator) -> dict[str, float | None]:
    noise = np.exp(0.02 * rng.standard_normal(len(QUIET)))
    factors = factors_of(day)
    return {name: value * factors[name] * factor for (name, value), factor in zip(QUIET.items(), noise, strict=True)}


@cache
def year() -> tuple[NightRecord, ...]:
    """365 nights of one model, in order."""
    rng = np.random.default_rng(2026)
    nights = []
    for day in range(365):
        table, damage = table_of(day, rng), DAMAGED.get(day, "")
        if damage == "invalid":
            table = {name: 9 * (value or 0) for name, value in table.items()}
        if damage == "missing":
            table |= {"ttft_p95": None, "itl_p95": None}
        played = stage(
            table,
            build=build_of(day),
            verdict="invalid" if damage == "invalid" else "valid",
            ok={"incomplete": 70, "short": 20}.get(damage, 100),
        )
        other: Mapping[str, object] = {"load": {"concurrency": 3}} if day >= SCENARIO else {}
        nights.append(
            night(
                day,
                played,
                incomplete=damage in ("incomplete", "short"),
                digest="d2" if day >= SCENARIO else "d1",
                scenario=other,
                machine="ffffffff" if day >= MACHINE else "3fa1c09e",
                traits={"kernel": "6.12.9" if day >= STEP + 20 else "6.12.5"},
            )
        )
        if day == TWO_BUILDS - 1:  # the first build of the day was tried, and replaced
            nights.append(night(day + 0.03, stage(table_of(day, rng), build="b3"), run="second"))
    return tuple(nights)


@cache
def answer_up_to(count: int) -> HistoryAnswer:
    return history_of(year()[:count], SETTINGS)


def answer() -> HistoryAnswer:
    return answer_up_to(len(year()))


def days(history: HistoryAnswer, nights: Iterable[int]) -> list[int]:
    return [(history.nights[each].moment - FIRST).days for each in nights]


def test_of_a_year_exactly_the_true_groups_are_told_the_newest_first() -> None:
    history = answer()
    leads = [group.lead for group in history.change_groups]
    assert all(
        abs(day - truth) <= 1
        for day, truth in zip(
            days(history, (lead.night for lead in leads)), (TWO_BUILDS, CAME_BACK, WENT_AWAY, STEP), strict=True
        )
    )
    assert [sorted(change.series.metric.name for change in group.changes) for group in history.change_groups] == [
        ["itl_p50", "output_tokens_per_s"],
        ["server_memory"],
        ["server_memory"],
        ["ttft_p50", "ttft_p95"],
    ]
    assert [lead.direction for lead in leads] == ["better", "better", "worse", "worse"]


def test_the_real_step_is_told_between_its_two_builds() -> None:
    group = answer().change_groups[-1]
    for change in group.changes:
        assert change.change == pytest.approx(0.12, abs=0.03)
        assert change.earliest <= change.night <= change.latest
        assert change.possible_causes.builds == ("b1", "b2")
        assert change.possible_causes.is_between_two_builds
        assert change.possible_causes.traits == ()  # the kernel changed three weeks later
        assert change.gone_on is None


def test_a_step_that_went_away_has_gone_on_the_night_on_which_it_did() -> None:
    back, up = (group.lead for group in answer().change_groups[1:3])
    assert up.gone_on == back.night
    assert back.gone_on is None
    assert (up.possible_causes.builds, back.possible_causes.builds) == ((), ())


def test_of_two_builds_in_one_night_the_right_one_is_named() -> None:
    """Of the two runs of that day, the second had b3 and was still as slow; b4 came on the next night."""
    group = answer().change_groups[0]
    assert {change.possible_causes.builds for change in group.changes} == {("b3", "b4")}
    second = answer().nights[group.lead.night - 1]
    assert second.run_id.endswith("second")
    assert second.date == answer().nights[group.lead.night - 2].date


def test_the_scenario_and_the_machine_are_told_as_such_and_their_levels_are_no_change() -> None:
    history = answer()
    machine, scenario = history.breaks
    assert (machine.kind, scenario.kind) == ("machine", "scenario")
    assert days(history, (machine.night, scenario.night)) == [MACHINE, SCENARIO]
    assert scenario.keys == ("load.concurrency",)
    assert not scenario.levels
    levels = {level.metric: level.after / level.before for level in machine.levels if level.before}
    assert levels["ttft_p50"] == pytest.approx(2, rel=0.05)
    assert levels["output_tokens_per_s"] == pytest.approx(0.5, rel=0.05)
    assert all(change.night < SCENARIO for change in history.changes)


def test_the_nights_that_count_are_told() -> None:
    history = answer()
    assert len(history.nights) == 366
    assert history.used == 364  # neither the invalid one nor the short one
    by_name = {each.metric.name: each for each in history.series if each.stage.key.digest == "d1"}
    assert len(by_name["ttft_p50"].used) == SCENARIO + 1 - 2
    assert len(by_name["ttft_p95"].used) == SCENARIO + 1 - 3
    assert history.usable == SCENARIO + 1 - 2


def test_night_by_night_the_exit_code_is_one_once_for_each_regression() -> None:
    """And on no other night of the year: not for its second metric, not for the machine, not for an outlier."""
    shown = [group.shown_by["worse"] + 1 for group in answer().change_groups if "worse" in group.shown_by]
    around = {
        count + near for group in answer().change_groups for count in group.shown_by.values() for near in range(4)
    }
    counts = sorted(around | {MACHINE + 1, SCENARIO + 1} | set(range(11, len(year()), 40)))
    fails = [count for count in counts if answer_up_to(count).fails("regression")]
    assert fails == sorted(shown)
    assert len(fails) == 2


def test_night_by_night_no_group_is_taken_back() -> None:
    def lasting(history: HistoryAnswer) -> set[tuple[object, ...]]:
        return {
            (
                change.series.metric.name,
                change.night,
                change.shown_by,
                change.before,
                change.after,
                group.first_shown_by,
            )
            for group in history.change_groups
            for change in group.changes
        }

    for earlier, later in pairwise(range(80, len(year()) + 1, 35)):
        assert lasting(answer_up_to(earlier)) <= lasting(answer_up_to(later))


def test_the_order_in_which_nights_are_given_alters_nothing() -> None:
    shuffled = [year()[at] for at in np.random.default_rng(1).permutation(len(year()))]
    assert encoded(history_of(shuffled, SETTINGS)) == encoded(answer())


def encoded(history: HistoryAnswer) -> bytes:
    return msgspec.json.encode(history_json(history))


def test_fewer_than_eleven_usable_nights_are_not_enough() -> None:
    few = history_of(nights_of([400.0, None, *[400.0] * 9]), SETTINGS)
    assert (few.verdict, few.usable, few.used) == ("not enough nights", 10, 10)
    assert history_of(nights_of([400.0] * 11), SETTINGS).verdict == "same"
    assert not few.fails("change")


def test_without_a_night_there_is_an_answer() -> None:
    nothing = history_of([], SETTINGS)
    assert (nothing.verdict, nothing.newest, nothing.series) == ("not enough nights", None, ())
    document = history_json(nothing)
    assert (document.nights, document.newest, document.machine) == (0, None, None)


REGRESSED: Final = nights_of([400.0 + day % 3 for day in range(30)] + [500.0, 501.0, 499.0])


def verdicts(nights: Sequence[NightRecord], settings: HistorySettings = SETTINGS) -> tuple[str, bool, bool, bool]:
    history = history_of(nights, settings)
    return history.verdict, history.fails("regression"), history.fails("change"), history.fails("never")


def test_a_regression_that_the_newest_night_shows_fails() -> None:
    assert verdicts(REGRESSED) == ("regression", True, True, False)


def test_the_night_after_a_regression_was_shown_does_not_fail_whatever_it_is() -> None:
    assert verdicts([*REGRESSED, night(33, stage(500.0))]) == ("same", False, False, False)
    assert verdicts([*REGRESSED, night(33, stage(500.0, verdict="invalid"))]) == ("same", False, False, False)
    assert verdicts([*REGRESSED, night(33, stage(1.0), digest="d2")]) == ("same", False, False, False)


def test_since_a_moment_everything_from_then_on_is_new() -> None:
    later = [*REGRESSED, *(night(day, stage(500.0)) for day in range(33, 40))]

    def since(day: float) -> HistorySettings:
        return msgspec.structs.replace(SETTINGS, since=FIRST + timedelta(days=day))

    assert verdicts(later) == ("same", False, False, False)
    assert verdicts(later, since(32)) == ("regression", True, True, False)
    assert verdicts(later, since(32.01)) == ("same", False, False, False)
    assert verdicts(later, since(1000)) == ("same", False, False, False)


def test_a_regression_that_has_gone_does_not_fail() -> None:
    gone = [*REGRESSED, *nights_of([500.0] * 41)[33:], *nights_of([400.0] * 60)[41:]]
    settings = msgspec.structs.replace(SETTINGS, since=FIRST)
    history = history_of(gone, settings)
    assert [(change.direction, change.gone_on is None) for change in history.changes] == [
        ("better", True),
        ("worse", False),
    ]
    assert (history.verdict, history.fails("regression"), history.fails("change")) == ("improvement", False, True)


def test_an_improvement_fails_only_who_asks_for_any_change() -> None:
    better = nights_of([400.0 + day % 3 for day in range(30)] + [300.0, 301.0, 299.0])
    assert verdicts(better) == ("improvement", False, True, False)


def test_a_second_machine_has_series_of_its_own_and_is_told_once() -> None:
    nights = []
    for day in range(40):  # in turn: a machine that comes back is no new one
        nights.append(night(day, stage(400.0 + day % 3)))
        nights.append(night(day + 0.1, stage(800.0 + day % 3), machine="bbbbbbbb", run="b"))
    history = history_of(nights, SETTINGS)
    assert history.changes == ()
    (told,) = history.breaks
    assert (told.kind, told.night, told.before) == ("machine", 1, 0)
    assert told.levels == ()  # one night of the other machine was played before
    here = history_of(nights, msgspec.structs.replace(SETTINGS, machine="bbbbbbbb"))
    assert {series.stage.key.machine for series in here.series} == {"bbbbbbbb"}
    assert (len(here.chosen), here.used) == (40, 40)
    machine = history_json(here).machine
    assert machine is not None
    assert (machine.id, machine.name) == ("bbbbbbbb", "Processor of bbbbbbbb")
    there = history_of(nights, msgspec.structs.replace(SETTINGS, machine="3fa1c09e"))
    assert there.breaks == ()


def test_a_test_on_a_new_machine_that_is_new_too_is_told_as_both() -> None:
    nights = [night(0, stage(1.0)), night(1, stage(2.0), machine="bbbbbbbb", digest="d2", scenario={"seed": 4})]
    assert [(each.kind, each.keys) for each in history_of(nights, SETTINGS).breaks] == [
        ("machine", ()),
        ("scenario", ("seed",)),
    ]


def test_a_known_test_on_a_new_machine_is_no_new_test() -> None:
    nights = [night(0, stage(1.0)), night(1, stage(2.0), digest="d2"), night(2, stage(1.0), machine="bbbbbbbb")]
    assert [(each.kind, each.night) for each in history_of(nights, SETTINGS).breaks] == [
        ("machine", 2),
        ("scenario", 1),
    ]


def test_a_model_and_a_level_can_be_asked_for() -> None:
    nights = [night(day, stage(1.0), stage(1.0, model="n"), stage(1.0, level="c4")) for day in range(3)]

    def keys(model: str | None, level: str | None) -> list[tuple[str, str]]:
        history = history_of(nights, msgspec.structs.replace(SETTINGS, model=model, level=level))
        return [(series.stage.key.model, series.stage.key.level) for series in history.series]

    assert keys(None, None) == [("m", "c2"), ("n", "c2"), ("m", "c4")]
    assert keys("m", None) == [("m", "c2"), ("m", "c4")]
    assert keys(None, "c2") == [("m", "c2"), ("n", "c2")]
    assert keys("n", "c4") == []


def test_a_metric_can_be_asked_for() -> None:
    settings = msgspec.structs.replace(SETTINGS, metrics=(parse_metric("itl_p50"),))
    history = history_of(year()[:200], settings)
    assert {series.metric.name for series in history.series} == {"itl_p50"}


def test_the_json_has_exactly_its_keys_and_tells_nights_by_their_ids() -> None:
    settings = msgspec.structs.replace(SETTINGS, machine="3fa1c09e")
    document = msgspec.to_builtins(history_json(history_of(REGRESSED, settings)))
    assert list(document) == [
        "schema",
        "scenario",
        "nights",
        "used",
        "machine",
        "newest",
        "verdict",
        "changes",
        "series",
        "breaks",
    ]
    (change,), (series,) = document["changes"], document["series"]
    ids = [each.run_id for each in REGRESSED]
    assert document["machine"] == {"id": "3fa1c09e", "name": "Processor of 3fa1c09e"}
    assert (document["schema"], document["scenario"]) == ("loadgen.history/1", "summarizer")
    assert (document["nights"], document["used"], document["newest"]) == (33, 33, ids[-1])
    assert change == {
        "model": "m",
        "target": "llamacpp",
        "level": "c2",
        "metric": "ttft_p95",
        "direction": "worse",
        "change": 0.2469,
        "from": 401.0,
        "to": 500.0,
        "unit": "ms",
        "night": ids[30],
        "utc": REGRESSED[30].started_utc,
        "between": (ids[30], ids[30]),
        "shown_by": ids[32],
        "builds": (),
        "traits": (),
        "gone_on": None,
        "new": True,
    }
    assert list(series) == ["model", "target", "level", "metric", "machine", "nights", "values", "usable"]
    assert (series["usable"], list(series["nights"]), series["values"][:2]) == (33, ids, (400.0, 401.0))


def test_in_the_json_a_value_that_does_not_count_is_null() -> None:
    nights = [night(0, stage(1.0)), night(1, stage(None)), night(2, stage(9.0, verdict="invalid"))]
    (series,) = history_json(history_of(nights, SETTINGS)).series
    assert (series.values, series.usable) == ((1.0, None, None), 1)


def test_in_the_json_a_regression_is_new_as_its_group_is() -> None:
    assert verdict_in(history_json(history_of(REGRESSED, SETTINGS))) == "regression"
    for count in (*(group.shown_by.get("worse", 0) + 1 for group in answer().change_groups), 200):
        document = history_json(answer_up_to(count))
        assert (document.verdict == "regression") == (verdict_in(document) == "regression")


def verdict_in(document: HistoryJson) -> str:
    worse = (change for change in document.changes if change.new and change.direction == "worse")
    return "regression" if any(change.gone_on is None for change in worse) else ""


def test_a_change_from_zero_has_no_size_in_the_json() -> None:
    nights = [night(day, stage({"output_tokens_per_s": 0.0 if day < 15 else 12.0})) for day in range(20)]
    (change,) = history_json(history_of(nights, SETTINGS)).changes
    assert (change.change, change.before, change.direction) == (None, 0.0, "better")


def test_breaks_are_in_the_json_with_what_differs() -> None:
    machine, scenario = history_json(answer()).breaks
    assert (machine.machine.id, scenario.keys) == ("ffffffff", ("load.concurrency",))
    assert machine.levels[0].metric == "ttft_p50"


def test_a_step_of_the_values_of_two_models_is_two_groups() -> None:
    nights = [night(day, stage(value), stage(value, model="n")) for day, value in enumerate(step(30, 10, 1.4))]
    assert len(history_of(nights, SETTINGS).change_groups) == 2
