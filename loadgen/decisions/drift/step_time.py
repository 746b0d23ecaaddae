"""Since when a series that changed is at its new level: the window at which a step fits best, and its 95 % range."""

from msgspec import Struct

from loadgen.stats.change_points import split_range
from loadgen.stats.steps import STEP_IS_CLEAR, Floats, best_split, blocks_of, step_gain


class StepTime(Struct, frozen=True):
    """When a series stepped to a new level. All moments in s since the run began."""

    at_s: float
    earliest_s: float
    latest_s: float


def step_time_of(values: Floats, at: Floats) -> StepTime | None:
    """When the series changed in a step; None if a straight line fits better, or nearly as well: it changed steadily.

    values: of each place; at: the middle of its time. Places are joined until they hardly resemble their neighbors,
    because the range is that of independent values.
    """
    blocks, size = blocks_of(values)
    split = best_split(blocks)
    if step_gain(blocks, split) < STEP_IS_CLEAR:
        return None
    first, last = split_range(blocks, split)
    inside = slice(max(0, (split - 1) * size), (split + 1) * size)
    exact = inside.start + best_split(values[inside])
    begin, end = at[first * size], at[min(last * size, at.size - 1)]
    return StepTime(float(at[exact]), float(min(begin, at[exact])), float(max(end, at[exact])))
