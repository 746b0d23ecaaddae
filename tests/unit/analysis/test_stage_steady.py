"""What a report says of a stage that did not settle."""

import pytest

from loadgen.analysis.stage_steady import in_words
from loadgen.analysis.summary import Steadiness


@pytest.mark.parametrize(
    ("steady", "growth", "words"),
    [
        (False, None, "the latencies had not settled by the middle of the stage"),
        (False, 0.5, "the latencies grew all the time: by 50% from the first third to the last"),
        (False, -0.25, "the latencies fell all the time: by 25% from the first third to the last"),
        (True, None, None),
        (None, None, None),
    ],
)
def test_a_stage_that_did_not_settle_is_said_to_grow_to_fall_or_neither(
    steady: bool | None, growth: float | None, words: str | None
) -> None:
    assert in_words(Steadiness(steady, "drift", 0, growth)) == words


def test_of_a_stage_whose_steadiness_is_not_known_nothing_is_said() -> None:
    assert in_words(None) is None
