"""Turning points in words: what is said holds as it is rounded, and reads as a change."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadgen.decisions.select.words import turning_text

SHARES = st.floats(0.0001, 0.9999)


@pytest.mark.parametrize(
    ("share", "first", "text"),
    [
        (
            0.2,
            ((0.0, "a"), (0.6312, "b")),
            "stays first while latency weighs less than 0.63 (now 0.20); above that, b is first",
        ),
        (
            0.4444,
            ((0.0, "b"), (0.4358, "a")),
            "stays first while latency weighs more than 0.436 (now 0.444); below that, b is first",
        ),
        (0.4, ((0.0, "b"), (0.1, "a"), (0.5, "c")), "stays first while latency weighs 0.10 to 0.50 (now 0.40); "),
        (0.4, ((0.0, "a"),), "stays first whatever latency weighs (now 0.40)"),
    ],
)
def test_a_turning_point_has_so_many_decimals_that_it_differs_from_the_weight(
    share: float, first: tuple[tuple[float, str], ...], text: str
) -> None:
    assert turning_text("latency", share, first).startswith(text)


@pytest.mark.parametrize(
    ("recommended", "text"),
    [
        (None, ""),
        ((0.0, 1.0), ""),
        ((0.0, 0.4149), "; from 0.41 on they are tied"),
        ((0.0512, 1.0), "; up to 0.06 they are tied"),
        ((0.0512, 0.4149), "; up to 0.06 and from 0.41 on they are tied"),
        ((0.0, 0.2004), "; from 0.2004 on they are tied"),
    ],
)
def test_from_which_weights_on_the_first_is_tied_is_said_behind_it(
    recommended: tuple[float, float] | None, text: str
) -> None:
    said = turning_text("latency", 0.2, ((0.0, "a"),), recommended)
    assert said == f"stays first whatever latency weighs (now 0.20){text}"


@given(st.lists(SHARES, min_size=3, max_size=3, unique_by=lambda share: round(share, 5)))
def test_what_is_said_of_a_weight_is_within_the_range_in_which_it_holds(shares: list[float]) -> None:
    low, share, high = sorted(shares)
    text = turning_text("latency", share, ((0.0, "b"), (low, "a"), (high, "c")))
    shown = re.fullmatch(
        r"stays first while latency weighs (\S+) to (\S+) \(now (\S+)\); below that, b is first, and above that, c",
        text,
    )
    assert shown is not None
    said_low, said_high, now = map(float, shown.groups())
    assert low <= said_low <= share + 1e-9 and share - 1e-9 <= said_high <= high
    assert said_low <= now <= said_high
