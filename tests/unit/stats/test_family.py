"""Tests that are one family: p-values adjusted for all of them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadgen.stats.family import holm


def test_holm_adjusts_for_all_of_them_and_keeps_the_order_of_those_given() -> None:
    assert holm(np.array([0.04, 0.01, 0.03])) == pytest.approx([0.06, 0.03, 0.06])
    assert holm(np.array([0.5, 0.9])).tolist() == [1.0, 1.0]
    assert holm(np.array([])).tolist() == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_never_lowers_a_p_and_never_changes_their_order(p_values: list[float]) -> None:
    adjusted = holm(np.array(p_values)).tolist()
    assert all(p <= a <= 1 for p, a in zip(p_values, adjusted, strict=True))
    assert [adjusted[i] for i in np.argsort(p_values, kind="stable")] == sorted(adjusted)
