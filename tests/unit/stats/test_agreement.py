"""Agreement between graders: against the reference implementation, and what must hold for any notes."""

import math
from collections.abc import Sequence

import krippendorff
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadgen.stats.agreement import Alpha, GradedUnit, ordinal_alpha, quadratic_kappa

NOTES = st.lists(st.lists(st.one_of(st.none(), st.integers(1, 5)), min_size=3, max_size=3), min_size=4, max_size=20)


def units_of(rows: Sequence[Sequence[int | None]]) -> list[GradedUnit]:
    """A unit for each row; a note of None was not given."""
    return [
        GradedUnit(index, {f"grader {place}": note for place, note in enumerate(row) if note is not None})
        for index, row in enumerate(rows)
    ]


def reference(rows: Sequence[Sequence[int | None]]) -> float:
    """Alpha by the package `krippendorff`: graders × units."""
    data = np.array([[math.nan if note is None else note for note in row] for row in rows]).T
    return float(krippendorff.alpha(reliability_data=data, level_of_measurement="ordinal"))


@given(NOTES)
def test_alpha_is_that_of_the_reference(rows: list[list[int | None]]) -> None:
    alpha = ordinal_alpha(units_of(rows))
    paired = [[note for note in row if note is not None] for row in rows]
    values = {note for notes in paired if len(notes) > 1 for note in notes}
    if len(values) < 2:
        assert alpha is None
    else:
        assert alpha is not None
        assert alpha.value == pytest.approx(reference(rows), abs=1e-9)


@given(NOTES)
def test_alpha_does_not_depend_on_the_order_of_units_nor_on_who_graded(rows: list[list[int | None]]) -> None:
    mixed = [row[::-1] for row in rows[::-1]]
    first, second = ordinal_alpha(units_of(rows)), ordinal_alpha(units_of(mixed))
    assert (first is None) == (second is None)
    if first is not None and second is not None:
        assert first.value == pytest.approx(second.value)


def test_graders_who_agree_have_an_alpha_of_one_and_those_who_disagree_less_than_chance() -> None:
    same, opposite = [(note, note) for note in (1, 2, 3, 4, 5)], [(note, 6 - note) for note in (1, 2, 4, 5)]
    agreed, disagreed = ordinal_alpha(units_of(same)), ordinal_alpha(units_of(opposite))
    assert agreed == Alpha(1.0, (1.0, 1.0), 5)
    assert disagreed is not None
    assert disagreed.value < -0.5


def test_one_grader_or_one_note_throughout_gives_no_alpha() -> None:
    assert ordinal_alpha(units_of([(3, None), (4, None)])) is None
    assert ordinal_alpha(units_of([(3, 3), (3, 3)])) is None
    assert ordinal_alpha([]) is None


def test_an_interval_leaves_out_the_aspects_of_an_answer_together() -> None:
    rows = [(1, 2), (2, 2), (4, 5), (3, 4), (5, 5), (2, 1), (4, 4), (3, 2)]
    alone = ordinal_alpha(units_of(rows))
    together = ordinal_alpha([GradedUnit(i // 2, {"a": a, "b": b}) for i, (a, b) in enumerate(rows)])
    assert alone is not None
    assert together is not None
    assert alone.value == together.value
    assert alone.ci != together.ci


def test_two_groups_are_too_few_for_an_interval() -> None:
    alpha = ordinal_alpha([GradedUnit(i % 2, {"a": i, "b": i + 1}) for i in range(1, 5)])
    assert alpha is not None
    assert alpha.ci is None


@pytest.mark.parametrize(
    ("first", "second", "kappa"),
    [
        ((1, 2, 3), (1, 2, 3), 1.0),
        # One of three differs by 1, and the mean squared difference of all pairs is 1.
        ((1, 2, 3), (1, 2, 2), 1 - 1 / 3),
        ((3, 3), (3, 3), None),
        ((), (), None),
    ],
)
def test_quadratic_kappa(first: tuple[int, ...], second: tuple[int, ...], kappa: float | None) -> None:
    assert quadratic_kappa(first, second) == (None if kappa is None else pytest.approx(kappa))
