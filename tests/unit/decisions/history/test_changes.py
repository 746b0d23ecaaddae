"""What changed in a series: size and direction, between which nights, builds and traits, and whether it has gone."""

from collections.abc import Sequence

import pytest

from loadgen.decisions.history.changes import NightChange, changes_of, matters_of, night_levels_of
from loadgen.decisions.history.possible_causes import PossibleCauses, boundaries_of, possible_causes_in
from loadgen.store.history import NightRecord
from loadgen.store.night_metrics import FAILED_SHARE, parse_metric
from tests.night_records import night, nights_of, only_series, stage, step, wobble


def changes(nights: Sequence[NightRecord], matters: float = 0.03) -> tuple[NightChange, ...]:
    series = only_series(nights)
    return changes_of(series, boundaries_of(series.stage, nights), matters)


def only_change(nights: Sequence[NightRecord]) -> NightChange:
    (change,) = changes(nights)
    return change


def test_a_step_is_a_change_with_its_levels_and_nights() -> None:
    change = only_change(nights_of(step(30, 20, 1.12)))
    assert change.direction == "worse"
    assert change.change == pytest.approx(0.12, abs=0.02)
    assert change.before == pytest.approx(400, rel=0.01)
    assert change.after == pytest.approx(448, rel=0.02)
    assert change.earliest <= change.night <= change.latest
    assert abs(change.night - 30) <= 1
    assert 32 <= change.shown_by <= 36
    assert change.gone_on is None


def test_nights_that_are_missing_are_no_nights_of_the_series() -> None:
    values = step(30, 20, 1.3)
    values[29] = values[31] = None
    change = only_change(nights_of(values))
    assert (change.night, change.shown_by) == (30, 33)
    assert (change.earliest, change.latest) == (30, 30)


@pytest.mark.parametrize(
    ("metric", "factor", "direction"),
    [
        ("ttft_p95", 1.2, "worse"),
        ("ttft_p95", 0.8, "better"),
        ("output_tokens_per_s", 1.2, "better"),
        ("output_tokens_per_s", 0.8, "worse"),
        ("server_memory", 1.2, "worse"),
    ],
)
def test_what_is_worse_is_the_metrics_own_direction(metric: str, factor: float, direction: str) -> None:
    nights = [night(day, stage({metric: value})) for day, value in enumerate(step(20, 10, factor))]
    assert only_change(nights).direction == direction


def test_a_share_changes_by_points_and_half_a_point_matters() -> None:
    def shares(high: float) -> list[NightRecord]:
        return [night(day, stage({"failed_share": 0.0 if day < 20 else high})) for day in range(30)]

    assert matters_of(FAILED_SHARE, 0.03) == 0.005
    assert matters_of(parse_metric("ttft_p99"), 0.03) == 0.03
    assert changes(shares(0.004)) == ()
    change = only_change(shares(0.02))
    assert (change.change, change.direction, change.before) == (0.02, "worse", 0.0)


def test_a_change_smaller_than_what_matters_is_none() -> None:
    nights = nights_of(step(60, 60, 1.06))
    assert len(changes(nights)) == 1
    assert changes(nights, matters=0.15) == ()


def test_ten_nights_are_too_few_and_eleven_are_enough() -> None:
    values = [100.0, 101.0, 99.0, 100.0, 101.0, 99.0, 100.0, 100.0, 200.0, 201.0, 199.0]
    assert changes(nights_of([*values[:-1], None])) == ()
    assert only_change(nights_of(values)).shown_by == 10


def test_a_build_that_changed_in_the_range_is_named_with_the_one_before() -> None:
    change = only_change(nights_of(step(30, 20, 1.4), ["b1"] * 30 + ["b2"] * 20))
    assert change.possible_causes.builds == ("b1", "b2")
    assert change.possible_causes.is_between_two_builds


def test_builds_that_changed_long_before_or_after_are_not_named() -> None:
    names = ["b1"] * 10 + ["b2"] * 32 + ["b3"] * 8
    causes = only_change(nights_of(step(30, 20, 1.4), names)).possible_causes
    assert (causes.builds, causes.is_between_two_builds) == ((), False)


def causes(names: Sequence[str], old: int, new: int, split: int) -> PossibleCauses:
    """What changed between two nights, from the build and from the source of power of each night."""
    nights = [
        night(day, stage(1.0, build=name), traits={"power": name.replace("b", "source ")})
        for day, name in enumerate(names)
    ]
    return possible_causes_in(boundaries_of(only_series(nights).stage, nights), old, new, (split - 1, split))


def test_of_several_builds_the_one_that_changed_exactly_at_the_split_is_first() -> None:
    several = causes(["b1", "b1", "b2", "b3", "b3"], 0, 4, split=3)
    assert several.builds == ("b2", "b3", "b1")
    assert not several.is_between_two_builds
    assert several.traits == ("power source 2 → source 3", "power source 1 → source 2")


def test_the_build_of_the_night_before_the_range_is_the_old_one() -> None:
    names = ["b1", "b2", "b3", "b4", "b5"]
    assert causes(names, 1, 2, split=2) == PossibleCauses(("b2", "b3"), True, ("power source 2 → source 3",))
    assert causes(names, 2, 2, split=2) == PossibleCauses((), False, ())


def test_what_changed_and_changed_back_is_told_twice() -> None:
    back = causes(["b1", "b1", "b2", "b1", "b1"], 0, 4, split=2)
    assert back.builds == ("b1", "b2")
    assert not back.is_between_two_builds
    assert back.traits == ("power source 1 → source 2", "power source 2 → source 1")


def test_a_night_without_a_known_build_may_have_had_either() -> None:
    names = ["b1"] * 28 + [None, None, None, None] + ["b2"] * 18
    causes = only_change(nights_of(step(30, 20, 1.5), names)).possible_causes
    assert causes.builds == ("b1", "b2")
    assert not causes.is_between_two_builds


def test_without_any_known_build_none_is_named() -> None:
    causes = only_change(nights_of(step(30, 20, 1.5))).possible_causes
    assert (causes.builds, causes.is_between_two_builds, causes.traits) == ((), False, ())


def test_two_builds_in_one_night_are_two_nights() -> None:
    values, names = step(30, 20, 1.4), ["b1"] * 30 + ["b2"] * 20
    nights = nights_of(values, names)
    nights.insert(30, night(29.03, stage(401.0, build="b1.1"), run="second"))
    change = only_change(nights)
    assert nights[30].date == nights[29].date
    assert change.night == 31
    assert change.possible_causes.builds == ("b1.1", "b2")


def test_the_build_of_a_night_that_does_not_count_is_known_all_the_same() -> None:
    nights = nights_of(step(30, 20, 1.4), ["b1"] * 30 + ["b3"] * 20)
    nights.insert(30, night(29.5, stage(900.0, build="b2", verdict="invalid"), run="bad"))
    change = only_change(nights)
    assert change.possible_causes.builds == ("b1", "b2", "b3")
    assert not change.possible_causes.is_between_two_builds


def test_traits_of_the_machine_and_of_the_server_that_changed_are_told() -> None:
    nights = []
    for day, value in enumerate(step(30, 20, 1.4)):
        new = day >= 30
        kernel = {"kernel": "6.12.9" if new else "6.12.5", "power": "mains", **({"firmware": "7"} if new else {})}
        nights.append(night(day, stage(value, traits={"model file": "ffff" if new else "0000"}), traits=kernel))
    assert only_change(nights).possible_causes.traits == ("kernel 6.12.5 → 6.12.9", "model file 0000 → ffff")


def test_a_server_version_that_is_the_build_is_told_once() -> None:
    def nights(label: str | None) -> list[NightRecord]:
        versions = ["v1"] * 30 + ["v2"] * 20
        return [
            night(day, stage(value, build=label or version, traits={"server": version}))
            for day, (value, version) in enumerate(zip(step(30, 20, 1.4), versions, strict=True))
        ]

    unlabeled, labeled = only_change(nights(None)).possible_causes, only_change(nights("same")).possible_causes
    assert (unlabeled.builds, unlabeled.traits) == (("v1", "v2"), ())
    assert (labeled.builds, labeled.traits) == ((), ("server v1 → v2",))


def test_a_change_that_a_later_one_undoes_has_gone_on_its_night() -> None:
    up, down = changes(nights_of(step(40, 40, 1.2) + step(40, 0, 1.0, seed=2)))
    assert (up.gone_on, down.gone_on) == (down.night, None)
    assert abs(down.night - 80) <= 1
    assert (up.direction, down.direction) == ("worse", "better")


def test_a_change_has_gone_too_when_the_level_went_beyond_the_old_one() -> None:
    up, down = changes(nights_of(step(40, 40, 1.2) + step(40, 0, 1.0, level=300.0, seed=2)))
    assert up.gone_on == down.night


def test_a_change_that_is_undone_in_part_has_not_gone() -> None:
    up, down = changes(nights_of(step(40, 40, 1.3) + step(40, 0, 1.0, level=460.0, seed=2)))
    assert (up.gone_on, down.gone_on) == (None, None)


def test_two_steps_have_gone_when_the_first_level_is_back() -> None:
    first, second, back = changes(nights_of(step(40, 40, 1.2) + step(40, 40, 1 / 1.44, level=576.0, seed=2)))
    assert (first.gone_on, second.gone_on, back.gone_on) == (back.night, back.night, None)


def test_a_gain_that_is_lost_again_has_gone() -> None:
    down, up = changes(nights_of(step(40, 40, 0.8) + step(40, 0, 1.0, seed=2)))
    assert (down.direction, down.gone_on) == ("better", up.night)


def test_a_share_has_gone_back_when_it_is_within_half_a_point() -> None:
    values = [0.01] * 20 + [0.05] * 20 + [0.014] * 20
    nights = [night(day, stage({"failed_share": value})) for day, value in enumerate(values)]
    up, down = changes(nights)
    assert up.gone_on == down.night == 40


def test_later_nights_add_only_what_a_change_is_between_and_that_it_has_gone() -> None:
    values = step(40, 30, 1.1) + step(40, 40, 1.2, seed=2) + step(30, 0, 1.0, seed=3)
    final = changes(nights_of(values))
    assert len(final) >= 2

    def lasting(change: NightChange) -> tuple[object, ...]:
        return change.night, change.shown_by, change.before, change.after, change.change, change.deviate

    around = {each.shown_by + near for each in final for near in (0, 1, 2)}
    for count in sorted(around | set(range(11, len(values), 9))):
        earlier = changes(nights_of(values[:count]))
        assert [lasting(each) for each in earlier] == [lasting(each) for each in final if each.shown_by < count]


def test_levels_are_the_medians_between_the_changes() -> None:
    series = only_series(nights_of(step(40, 40, 1.2)))
    shown = changes_of(series, (), 0.03)
    before, after = night_levels_of(series, shown)
    assert (before.first, before.last, after.last) == (0, shown[0].night - 1, 79)
    assert after.first == shown[0].night
    assert after.value / before.value == pytest.approx(1.2, rel=0.01)


def test_a_series_without_a_night_that_counts_has_no_level() -> None:
    series = only_series([night(0, stage(400.0, verdict="invalid"))])
    assert night_levels_of(series, ()) == ()
    assert changes_of(series, (), 0.03) == ()


def test_noise_alone_changes_nothing() -> None:
    assert changes(nights_of([400 * factor for factor in wobble(200)])) == ()
