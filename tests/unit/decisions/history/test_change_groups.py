"""Which changes are one group, which of them leads, and which are new."""

from collections.abc import Sequence

import pytest

from loadgen.decisions.history.change_groups import ChangeGroup, change_groups_of
from loadgen.decisions.history.changes import Direction, NightChange
from loadgen.decisions.history.possible_causes import PossibleCauses
from loadgen.decisions.history.series import series_of, stage_series_of
from loadgen.store.history import NightRecord
from loadgen.store.night_metrics import NIGHT_METRICS
from tests.night_records import QUIET, night, stage

NIGHTS = [night(day, stage(QUIET)) for day in range(60)]


def change(
    metric: str,
    at: int,
    *,
    shown_by: int | None = None,
    direction: Direction = "worse",
    deviate: float = 5.0,
    gone_on: int | None = None,
    nights: Sequence[NightRecord] = NIGHTS,
    model: str = "m",
) -> NightChange:
    played = next(each for each in stage_series_of(nights) if each.key.model == model and at in each.nights)
    (series,) = (each for each in series_of(played, NIGHT_METRICS) if each.metric.name == metric)
    return NightChange(
        series=series,
        direction=direction,
        change=0.1,
        before=100.0,
        after=110.0,
        night=at,
        shown_by=at + 3 if shown_by is None else shown_by,
        earliest=at,
        latest=at,
        deviate=deviate,
        possible_causes=PossibleCauses((), False, ()),
        gone_on=gone_on,
    )


def names_of(groups: Sequence[ChangeGroup]) -> list[list[str]]:
    return [[each.series.metric.name for each in group.changes] for group in groups]


@pytest.mark.parametrize("apart", [0, 1, 3])
def test_changes_of_a_model_within_three_nights_are_one_group(apart: int) -> None:
    changes = [change("ttft_p95", 20), change("itl_p50", 20 + apart, deviate=4.5)]
    assert names_of(change_groups_of(changes, NIGHTS)) == [["ttft_p95", "itl_p50"]]


def test_a_change_that_soaks_and_plain_runs_show_is_one_group() -> None:
    """They are two tests, and a group is news only once."""
    kinds = [night(day, stage(QUIET), digest=digest) for day in range(30) for digest in ("soak", "run")]
    changes = [change("ttft_p95", at, nights=kinds, deviate=5.0 - at / 100) for at in (40, 43)]
    assert len({each.series.stage.key.digest for each in changes}) == 2
    assert names_of(change_groups_of(changes, kinds)) == [["ttft_p95", "ttft_p95"]]
    later = [change("ttft_p95", at, nights=kinds) for at in (40, 49)]
    assert len(change_groups_of(later, kinds)) == 2, "four days apart"


def test_changes_further_apart_are_two_groups_the_newer_first() -> None:
    changes = [change("ttft_p95", 20), change("itl_p50", 24)]
    assert names_of(change_groups_of(changes, NIGHTS)) == [["itl_p50"], ["ttft_p95"]]


def test_a_group_does_not_grow_along_a_chain_of_changes() -> None:
    """Each is within three nights of the one before; the fourth is not within three of the first."""
    changes = [change(name, at) for name, at in (("ttft_p50", 20), ("ttft_p95", 22), ("itl_p50", 24))]
    assert sorted(names_of(change_groups_of(changes, NIGHTS))) == [["itl_p50"], ["ttft_p50", "ttft_p95"]]


def test_the_surest_change_leads() -> None:
    changes = [change("ttft_p50", 20, deviate=4.5), change("ttft_p95", 20, deviate=9.0), change("itl_p50", 21)]
    (group,) = change_groups_of(changes, NIGHTS)
    assert group.lead.series.metric.name == "ttft_p95"


def test_nights_between_are_counted_and_not_days() -> None:
    """The machine was off for three weeks, and another test was played in between."""
    nights = [night(day if day < 20 else day + 21, stage(QUIET)) for day in range(40)]
    nights[20:20] = [night(19 + number, stage(QUIET), digest="other") for number in range(1, 8)]
    changes = [change("ttft_p95", 19, nights=nights), change("itl_p50", 27, nights=nights)]
    assert names_of(change_groups_of(changes, nights)) == [["itl_p50", "ttft_p95"]]


def test_two_models_have_groups_of_their_own() -> None:
    nights = [night(day, stage(QUIET), stage(QUIET, model="n")) for day in range(30)]
    changes = [change("ttft_p95", 20, nights=nights), change("ttft_p95", 20, nights=nights, model="n")]
    assert names_of(change_groups_of(changes, nights)) == [["ttft_p95"], ["ttft_p95"]]


def test_levels_of_one_model_share_a_group() -> None:
    nights = [night(day, stage(QUIET), stage(QUIET, level="c4")) for day in range(30)]
    low, high = stage_series_of(nights)
    shown = [change("ttft_p95", 20, nights=nights)]
    (series,) = (each for each in series_of(high, NIGHT_METRICS) if each.metric.name == "ttft_p95")
    shown.append(
        NightChange(**{name: getattr(shown[0], name) for name in shown[0].__struct_fields__} | {"series": series})
    )
    (group,) = change_groups_of(shown, nights)
    assert {each.series.stage.key.level for each in group.changes} == {low.key.level, high.key.level}


def test_the_order_of_the_changes_alters_nothing() -> None:
    changes = [change(name, 20 + 2 * at) for at, name in enumerate(("ttft_p50", "ttft_p95", "itl_p50", "itl_p95"))]
    assert change_groups_of(changes[::-1], NIGHTS) == change_groups_of(changes, NIGHTS)


def test_a_group_is_new_for_the_night_that_showed_it_and_not_for_its_second_metric() -> None:
    (group,) = change_groups_of([change("ttft_p95", 20, shown_by=23), change("itl_p50", 20, shown_by=24)], NIGHTS)
    assert group.is_new("worse", 23)
    assert not group.is_new("worse", 24)
    assert not group.is_new("better", 0)


def test_a_group_that_was_better_first_is_new_again_when_something_gets_worse() -> None:
    gain = change("ttft_p95", 20, shown_by=23, direction="better")
    (group,) = change_groups_of([gain, change("server_memory", 21, shown_by=26)], NIGHTS)
    assert (group.shown_by, group.first_shown_by) == ({"better": 23, "worse": 26}, 23)
    assert group.is_new("worse", 26)
    assert not group.is_new("better", 26)


def test_a_group_stands_until_all_that_is_worse_has_gone() -> None:
    gone, better = change("ttft_p95", 20, gone_on=40), change("itl_p95", 20, direction="better")
    assert not change_groups_of([gone, better], NIGHTS)[0].stands
    assert change_groups_of([gone, better, change("itl_p50", 20)], NIGHTS)[0].stands


def test_a_later_change_moves_no_earlier_one_to_another_group() -> None:
    """The change of night 23 is nearer to that of night 25, which was shown later."""
    first = [change("ttft_p50", 20, shown_by=23), change("ttft_p95", 23, shown_by=26)]
    (before,) = change_groups_of(first, NIGHTS)
    after = change_groups_of([*first, change("itl_p50", 25, shown_by=30)], NIGHTS)
    assert before in after


def test_a_change_between_two_groups_joins_the_nearer_one() -> None:
    changes = [
        change("ttft_p50", 20, shown_by=23),
        change("ttft_p95", 25, shown_by=28),
        change("itl_p50", 23, shown_by=33),
    ]
    assert sorted(names_of(change_groups_of(changes, NIGHTS))) == [["itl_p50", "ttft_p95"], ["ttft_p50"]]
