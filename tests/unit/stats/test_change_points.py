"""Changes of a level: shown soon, never taken back, and not shown where there are none."""

from collections.abc import Iterator
from itertools import pairwise
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import ndtri, stdtr

from loadgen.stats import change_points as change_points_module
from loadgen.stats import change_points as module
from loadgen.stats.change_points import (
    CERTAIN,
    LIMIT,
    MIN_VALUES,
    STRETCH,
    ChangePoint,
    Floats,
    change_points,
    normal_deviate,
    split_range,
)

NOISE = 0.02


def noise_of(kind: str, count: int, seed: int) -> Floats:
    rng = np.random.default_rng([7, seed])
    values = rng.standard_normal(count) * NOISE
    match kind:
        case "heavy":
            values = rng.standard_t(3, count) * NOISE * 0.88
        case "outliers":
            values += 0.2 * (rng.random(count) < 0.05)
        case "ar5":
            for at in range(1, count):
                values[at] += 0.5 * values[at - 1]
        case "coarse":  # many values are equal
            values = np.round(values, 2)
    return values


def step(before: int, after: int, change: float, kind: str = "normal", seed: int = 1) -> Floats:
    """A level of 100 with a night's noise, and another level from index `before` on."""
    level = np.log1p(change) * (np.arange(before + after) >= before)
    return np.asarray(100 * np.exp(noise_of(kind, before + after, seed) + level), dtype=np.float64)


def ranks(y: Floats) -> Floats:
    """Those of `scipy.stats`, which takes a second to import."""
    ordered = np.sort(y)
    ranks: Floats = (np.searchsorted(ordered, y, "left") + np.searchsorted(ordered, y, "right") + 1) / 2
    return ranks


def scan_in_full(y: Floats) -> tuple[float, int]:
    """The scan of one stretch, written out as its definition reads: the deviate with its sign, and the split."""
    n = y.size
    z = ndtri((ranks(y) - 0.375) / (n + 0.25))
    lost_by_ties = sum(ndtri((np.arange(1, n + 1) - 0.375) / (n + 0.25)) ** 2) - z @ z
    statistic = {k: abs(z[k:].mean() - z[:k].mean()) * np.sqrt(k * (n - k) / n) for k in range(8, n - 2)}
    at = max(statistic, key=lambda k: statistic[k])
    left, right = z[:at].mean(), z[at:].mean()
    rest = np.concatenate([z[:at] - left, z[at:] - right])
    power = rest @ rest + lost_by_ties
    phi = (rest[1:] @ rest[:-1]) / power
    phi = min(max(phi + (1 + 3 * phi) / n, 0.0), 0.8)
    error = np.sqrt(power / (n - 2) * (1 + phi) / (1 - phi) * (1 / at + 1 / (n - at)))
    t, degrees = (right - left) / error, max(2.0, (n - 2) * (1 - phi) / (1 + phi))
    return float(-np.sign(t) * ndtri(stdtr(degrees, -abs(t)))), at


def last_three_are_far(y: Floats, matters: float) -> bool:
    before, last = y[:-3], y[-3:]
    scale = 1.4826 * np.median(abs(before - np.median(before))) * (1 + 5 / before.size)
    limit = max(4 * scale, np.log1p(matters))
    off = last - np.median(before)
    return bool((off >= limit).all() or (off <= -limit).all())


def in_full(values: Floats, matters: float) -> Iterator[tuple[int, int]]:
    """The night that showed each change, and the split, with one look a night."""
    begin = 0
    for end in range(1, values.size + 1):
        first = max(begin, end - 90)
        stretch = np.log(values[first:end])
        if stretch.size < 11:
            continue
        splits = [stretch.size - 3] if last_three_are_far(stretch, matters) else []
        deviate, at = scan_in_full(stretch)
        splits += [at] if abs(deviate) >= 4.4 else []
        for split in splits:
            if abs(np.median(values[first + split : end]) / np.median(values[first : first + split]) - 1) >= matters:
                yield end - 1, first + split
                begin = first + split
                break


@pytest.mark.parametrize("kind", ["normal", "heavy", "outliers", "ar5", "coarse"])
def test_the_changes_are_those_of_one_look_a_night_as_the_rules_define_it(kind: str) -> None:
    values = np.concatenate([step(40, 20, 0.05, kind, 1), step(75, 60, -0.08, kind, 2), step(5, 20, 0.2, kind, 3)])
    expected = list(in_full(values, 0.03))
    assert [(change.shown, change.split) for change in change_points(values, 0.03)] == expected
    assert len(expected) >= 2


@pytest.mark.parametrize("kind", ["normal", "heavy", "outliers", "ar5", "coarse"])
def test_quiet_values_have_no_change(kind: str) -> None:
    assert [change_points(step(300, 0, 0.0, kind, seed), 0.03) for seed in range(3)] == [()] * 3


@pytest.mark.parametrize("change", [0.05, -0.05, 0.1])
def test_a_step_is_shown_within_two_weeks_at_its_place_with_its_size(change: float) -> None:
    (shown,) = change_points(step(100, 40, change), 0.03)
    assert 102 <= shown.shown <= 113
    assert abs(shown.split - 100) <= 2
    assert shown.change == pytest.approx(change, abs=0.025)
    assert shown.before == pytest.approx(100, rel=0.01)
    assert shown.change == shown.after / shown.before - 1
    assert LIMIT <= shown.deviate <= CERTAIN


def test_three_values_in_a_row_that_are_far_off_show_a_change_at_once() -> None:
    values = np.concatenate([step(30, 0, 0.0), [130.0, 131.0, 129.0]])
    (change,) = change_points(values, 0.03)
    assert (change.shown, change.split, change.after) == (32, 30, 130.0)


@pytest.mark.parametrize("last", [[130.0], [130.0, 131.0], [130.0, 131.0, 100.0], [130.0, 70.0, 130.0]])
def test_outliers_that_are_no_three_in_a_row_on_one_side_show_nothing(last: list[float]) -> None:
    assert change_points(np.concatenate([step(30, 0, 0.0), last]), 0.03) == ()


def test_a_change_needs_eight_values_before_it_and_three_from_it_on() -> None:
    before, after = [100.0, 101.0, 99.0, 100.5, 99.5, 100.2, 99.8, 100.1], [200.0, 201.0, 199.0]
    (change,) = change_points(np.array(before + after), 0.03)
    assert (change.shown, change.split) == (MIN_VALUES - 1, 8)
    assert change_points(np.array(before[1:] + after), 0.03) == ()
    assert change_points(np.array(before + after[1:]), 0.03) == ()
    assert change_points(np.array([]), 0.03) == ()


def test_the_next_change_is_looked_for_from_the_last_one_on() -> None:
    values = np.concatenate([step(50, 40, 0.1, seed=1), step(40, 0, 0.0, seed=2)])
    up, down = change_points(values, 0.03)
    assert (abs(up.split - 50) <= 2, down.split) == (True, 90)
    assert down.before == pytest.approx(110, rel=0.01)
    assert down.change == pytest.approx(1 / 1.1 - 1, abs=0.02)


def test_a_change_smaller_than_what_matters_is_not_shown() -> None:
    values = step(80, 80, 0.04, "normal")
    assert change_points(values, 0.10) == ()
    assert len(change_points(values, 0.03)) == 1


def test_where_three_values_that_are_off_do_not_matter_the_scan_still_shows_what_does() -> None:
    """Of values that hardly vary any three others are far off."""
    level = [100.0] * 20 + [106.0, 100.0, 106.0, 106.0, 100.0, 106.0, 106.0, 106.0, 100.0] + [106.0] * 6
    changes = change_points(np.array(level), 0.03)
    assert [change.change for change in changes] == [pytest.approx(0.06)]


def test_equal_values_have_no_change_and_a_step_between_them_is_shown_by_its_third_value() -> None:
    assert change_points(np.full(200, 5.0), 0.0) == ()
    (change,) = change_points(np.repeat([5.0, 6.0], 20), 0.03)
    assert (change.shown, change.split) == (22, 20)
    assert change.change == pytest.approx(0.2)
    assert change.deviate > 20


@pytest.mark.parametrize("bad", [[0.02], [0.02, 0.02], [0.02, 0.0, 0.02], [0.02, 0.001, 0.02], [0.001] * 5])
def test_one_or_two_values_that_are_off_among_equal_ones_show_nothing(bad: list[float]) -> None:
    shares = np.array([*[0.0] * 40, *bad, *[0.0] * 10])
    assert change_points(shares, 0.005, "difference") == ()
    assert change_points(shares + 1, 0.005) == ()


def test_a_share_changes_by_a_difference() -> None:
    shares = np.repeat([0.0, 0.02], 15)
    assert [change.change for change in change_points(shares, 0.005, "difference")] == [0.02]
    assert change_points(shares / 10, 0.005, "difference") == ()


def test_a_ratio_to_zero_is_not_known_and_its_change_is_shown() -> None:
    (change,) = change_points(np.repeat([0.0, 12.0], 15), 0.03)
    assert (change.before, change.after, change.change) == (0.0, 12.0, None)


def test_zeros_and_negative_values_are_judged_as_they_are() -> None:
    values = step(60, 0, 0.0)
    values[20] = 0.0
    assert change_points(values, 0.03) == ()
    (change,) = change_points(np.concatenate([values, [150.0, 151.0, 152.0]]), 0.03)
    assert change.split == 60
    (change,) = change_points(-step(30, 20, 0.2), 0.03)
    assert change.change == pytest.approx(0.2, abs=0.02)


def test_a_look_goes_back_no_further_than_a_stretch() -> None:
    """A value that is out of reach influences nothing."""
    values = step(STRETCH + 60, 40, 0.1)
    altered = values.copy()
    altered[:40] = values[:40][::-1] * 1.01
    late = [change for change in change_points(altered, 0.03) if change.split > STRETCH]
    assert late == list(change_points(values, 0.03))


def test_values_that_come_later_take_nothing_back() -> None:
    values = np.concatenate([step(40, 30, 0.08, "outliers", 1), step(50, 30, -0.1, "ar5", 2), step(140, 90, 0.05)])
    changes = change_points(values, 0.03)
    assert len(changes) >= 3
    counts = {*range(0, values.size, 11), *(change.shown + near for change in changes for near in (0, 1, 2))}
    for count in counts:
        assert change_points(values[:count], 0.03) == tuple(change for change in changes if change.shown < count)


def test_how_many_looks_are_computed_together_alters_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    values = step(150, 100, 0.05, "heavy")
    changes = change_points(values, 0.03)
    for looks in (1, 7, 1000):
        monkeypatch.setattr(module, "_LOOKS", looks)
        assert change_points(values, 0.03) == changes


LEVELS = st.lists(st.sampled_from([100.0, 101.0, 102.0, 104.0, 108.0, 120.0, 60.0, 0.0]), max_size=12)
"""Of a week or two each, so that changes are frequent."""


@st.composite
def histories(draw: st.DrawFn) -> Floats:
    parts = [np.full(draw(st.integers(1, 25)), level) for level in draw(LEVELS)]
    level = np.concatenate([[100.0], *parts])
    return np.asarray(level * np.exp(noise_of(draw(st.sampled_from(["normal", "heavy", "coarse"])), level.size, 5)))


@settings(max_examples=60)
@given(histories(), st.integers(0, 300))
def test_no_history_is_rewritten(values: Floats, count: int) -> None:
    earlier = tuple(change for change in change_points(values, 0.03) if change.shown < count)
    assert change_points(values[:count], 0.03) == earlier


@settings(max_examples=40)
@given(histories(), st.integers(-40, 40))
def test_another_unit_scales_the_levels_and_nothing_else(values: Floats, power: int) -> None:
    factor = 2.0**power
    expected = tuple(
        (c.shown, c.split, c.before * factor, c.after * factor, c.change) for c in change_points(values, 0.03)
    )
    changes = change_points(values * factor, 0.03)
    assert tuple((c.shown, c.split, c.before, c.after, c.change) for c in changes) == expected


@settings(max_examples=40)
@given(histories())
def test_the_mirror_image_of_a_share_changes_the_other_way(values: Floats) -> None:
    shares = values / 200
    for change, mirrored in zip(
        change_points(shares, 0.005, "difference"), change_points(1 - shares, 0.005, "difference"), strict=True
    ):
        assert (change.shown, change.split) == (mirrored.shown, mirrored.split)
        assert change.change == pytest.approx(-(mirrored.change or 0.0))


@settings(max_examples=40)
@given(histories())
def test_changes_keep_the_order_of_the_values_and_their_distance(values: Floats) -> None:
    changes = change_points(values, 0.03)
    for change in changes:
        assert isinstance(change, ChangePoint)
        assert change.shown - change.split >= 2
    for earlier, later in pairwise(changes):
        assert later.split - earlier.split >= 8
        assert later.shown > earlier.shown


@pytest.mark.parametrize(("change", "width"), [(0.05, 10), (0.1, 4), (0.5, 0)])
@pytest.mark.parametrize("after", [3, 40])
def test_the_range_of_a_split_holds_it_and_is_the_narrower_the_larger_the_step(
    change: float, width: int, after: int
) -> None:
    for seed in range(5):
        low, high = split_range(step(60, after, change, seed=seed), 60)
        assert low <= 60 <= high
        assert high - low <= width


def test_the_range_reaches_to_the_split_that_was_shown() -> None:
    values = step(60, 40, 0.5)
    assert split_range(values, 58) == (58, 60)
    assert split_range(values, 63) == (60, 63)


def test_an_outlier_at_the_step_may_belong_to_either_level_and_widens_the_range_by_itself() -> None:
    values = step(60, 40, 0.5)
    values[59] = values[60]
    assert split_range(values, 60) == (59, 60)
    values[57], values[59] = values[59], values[57]
    low, high = split_range(values, 60)
    assert (low, high) in {(58, 60), (60, 60)}


def test_the_range_of_a_step_between_equal_values_is_the_step() -> None:
    assert split_range(np.repeat([1.0, 2.0], 10), 10) == (10, 10)
    assert split_range(np.repeat([0.0, 2e-300], 10), 10) == (10, 10)
    assert split_range(np.array([1.0, 2.0]), 1) == (1, 1)


def test_without_a_step_every_split_is_as_likely() -> None:
    assert split_range(np.full(20, 3.0), 10) == (1, 19)
    assert split_range(np.zeros(20), 10) == (1, 19)
    assert split_range(np.array([3.0] * 12 + [5.0] + [3.0] * 7), 10) == (1, 19)


@pytest.mark.parametrize("power", [-30, 3, 40])
def test_the_range_is_the_same_in_every_unit(power: int) -> None:
    values = step(60, 20, 0.06)
    assert split_range(values * 2.0**power, 60) == split_range(values, 60)


@pytest.mark.parametrize("t", [0.0, 1.0, 4.4, 6.0])
def test_of_many_degrees_of_freedom_t_is_its_own_normal_deviate(t: float) -> None:
    assert normal_deviate(t, 1e9) == pytest.approx(t, abs=1e-3)


def test_of_few_degrees_of_freedom_t_is_worth_less() -> None:
    assert normal_deviate(12.706, 1.0) == pytest.approx(NormalDist().inv_cdf(0.975), abs=1e-3)
    assert normal_deviate(float("inf"), 5.0) == CERTAIN
    assert normal_deviate(1e9, 100.0) <= CERTAIN


def test_a_level_that_stays_has_no_change_and_one_that_was_0_none_that_is_known() -> None:
    assert change_points_module._size_of(0.0, 0.0, "ratio") == 0.0
    assert change_points_module._size_of(0.0, 1.0, "ratio") is None
