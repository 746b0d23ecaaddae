"""Which nights are in which series, and which of their values count."""

import pytest
from msgspec import structs

from loadgen.decisions.history.series import StageSeriesKey, in_order, series_of, stage_series_of
from loadgen.store.history import NightRecord, NightStage
from loadgen.store.night_metrics import NIGHT_METRICS, parse_metric
from tests.night_records import night, nights_of, only_series, stage


def test_nights_are_in_the_order_in_which_they_began() -> None:
    nights = [night(2, run="a"), night(0, run="b"), night(1, run="d"), night(1, run="c")]
    assert [each.run_id[-1] for each in in_order(nights)] == ["b", "c", "d", "a"]


def test_the_zone_of_a_moment_does_not_alter_the_order() -> None:
    late, early = night(0.5), night(0.4)
    shifted = structs.replace(late, started_utc="2026-01-02T02:00:00-09:00")
    assert in_order([shifted, early]) == (early, shifted)


@pytest.mark.parametrize(
    "other",
    [
        night(1, stage(1.0, model="n")),
        night(1, stage(1.0, target="foundry")),
        night(1, stage(1.0, level="c4")),
        night(1, stage(1.0), digest="d2"),
        night(1, stage(1.0), machine="00000000"),
    ],
)
def test_another_model_target_level_test_or_machine_is_another_series(other: NightRecord) -> None:
    assert [each.nights for each in stage_series_of([night(0, stage(1.0)), other])] == [(0,), (1,)]


def test_the_key_of_a_series_says_what_it_is_of() -> None:
    (series,) = stage_series_of([night(0, stage(1.0))])
    assert series.key == StageSeriesKey("3fa1c09e", "d1", "m", "llamacpp", "c2")


def test_a_test_that_comes_back_goes_on_with_its_series() -> None:
    nights = [night(0, stage(1.0)), night(1, stage(2.0), digest="d2"), night(2, stage(3.0))]
    assert [each.nights for each in stage_series_of(nights)] == [(0, 2), (1,)]


def test_a_series_has_a_metric_that_some_night_has() -> None:
    nights = [night(0, stage({"ttft_p95": 1.0})), night(1, stage({"failed_share": 0.0}))]
    (played,) = stage_series_of(nights)
    assert [each.metric.name for each in series_of(played, NIGHT_METRICS)] == ["ttft_p95", "failed_share"]
    assert series_of(played, [parse_metric("tpot_p50")]) == ()


def test_a_value_that_a_night_does_not_have_is_missing_and_not_zero() -> None:
    series = only_series(nights_of([1.0, None, 3.0]))
    assert series.stage.nights == (0, 1, 2)
    assert series.used == ((0, 1.0), (2, 3.0))
    assert series.values[1] is None


def test_a_model_that_was_not_played_is_not_in_its_series() -> None:
    (series,) = stage_series_of([night(0, stage(1.0)), night(1, stage(None, played=False))])
    assert series.nights == (0,)


@pytest.mark.parametrize(("verdict", "counts"), [("valid", True), ("degraded", True), (None, True), ("invalid", False)])
def test_an_invalid_night_does_not_count(verdict: str | None, counts: bool) -> None:
    (series,) = stage_series_of([night(0, stage(1.0, verdict=verdict))])
    assert series.is_used == (counts,)


def counted(*rows: tuple[bool, NightStage]) -> tuple[bool, ...]:
    """Which nights count, of pairs of `is_incomplete` and a stage."""
    nights = [night(day, played, incomplete=incomplete) for day, (incomplete, played) in enumerate(rows)]
    (series,) = stage_series_of(nights)
    return series.is_used


@pytest.mark.parametrize(("ok", "counts"), [(100, True), (50, True), (49, False), (0, False)])
def test_an_incomplete_night_counts_with_half_of_what_its_fellow_nights_have(ok: int, counts: bool) -> None:
    fellows = [(False, stage(1.0, ok=count)) for count in (80, 100, 300)]
    assert counted(*fellows, (True, stage(1.0, ok=ok)))[-1] is counts


def test_an_incomplete_night_is_compared_with_complete_ones_before_it_alone() -> None:
    """So that no later night changes whether it counts."""
    assert counted((True, stage(1.0, ok=90)), (False, stage(1.0, ok=100))) == (False, True)
    long, short = (False, stage(1.0, ok=100)), (True, stage(1.0, ok=60))
    assert counted(long, short, *[(False, stage(1.0, ok=500))] * 3) == (True,) * 5
    assert counted(long, *[(True, stage(1.0, ok=10))] * 3, short) == (True, False, False, False, True)


def test_an_incomplete_night_that_is_invalid_does_not_count() -> None:
    assert counted((False, stage(1.0)), (True, stage(1.0, verdict="invalid"))) == (True, False)


def test_what_a_model_got_of_an_incomplete_night_decides_for_this_model_alone() -> None:
    nights = [
        night(0, stage(1.0, ok=100), stage(1.0, model="n", ok=100)),
        night(1, stage(1.0, ok=100), stage(1.0, model="n", ok=3), incomplete=True),
    ]
    assert [each.is_used for each in stage_series_of(nights)] == [(True, True), (True, False)]
