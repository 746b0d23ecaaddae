"""What a report says of a stage that did not settle."""

import pytest

from loadgen.analysis.stage_steady import unsteady_words
from loadgen.analysis.summary import Steadiness

UNSETTLED = "had not settled by the middle of the stage, and is off, by how much is not known"
TREND = "from the first third to the last, so it depends on how long the stage was"


@pytest.mark.parametrize(
    ("steady", "growth", "words"),
    [
        (False, None, f"TTFT {UNSETTLED}"),
        (False, 0.5, f"TTFT grew all the time, by 50% {TREND}"),
        (False, -0.25, f"TTFT fell all the time, by 25% {TREND}"),
        (True, None, None),
        (None, None, None),
    ],
)
def test_a_stage_that_did_not_settle_is_said_to_grow_to_fall_or_neither(
    steady: bool | None, growth: float | None, words: str | None
) -> None:
    assert unsteady_words(Steadiness(steady, "drift", 0, growth), "TTFT") == words


def test_of_a_stage_whose_steadiness_is_not_known_nothing_is_said() -> None:
    assert unsteady_words(None, "E2E") is None
