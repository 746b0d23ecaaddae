"""The median against numpy's."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadgen.stats.median import median


@given(st.lists(st.floats(-1e300, 1e300), min_size=1, max_size=40) | st.lists(st.integers(0, 2**52), min_size=1))
def test_it_is_numpy_s(values: list[float]) -> None:
    assert median(values) == float(np.median(values))
    assert median(np.array(values)) == float(np.median(np.array(values)))


def test_there_is_none_of_nothing() -> None:
    with pytest.raises(ValueError, match="no median"):
        median([])
