"""Whether enough is known of a stage to end it: looks at the percentile that was asked for, now and then, as requests
end. Knows no socket, no process and no clock.

The looks, and why there are so few of them, are those of `loadgen.stats.quantile.is_settled`.
"""

import asyncio
import math
from array import array
from collections.abc import Callable, Sequence
from typing import Final

import numpy as np

from loadgen.analysis import metrics
from loadgen.analysis.metrics import Ns
from loadgen.analysis.samples import Samples, gap_samples, quantiles_of
from loadgen.plan.plan import Plan
from loadgen.record import LatencyOrigin, Record
from loadgen.scenario.stop_rule import StopRule
from loadgen.stats.quantile import (
    STOPPED_CONFIDENCE,
    Floor,
    Quantile,
    floor_of,
    is_settled,
    relative_half_width,
)

FEWEST: Final = 30
GROWTH: Final = 1.25
AT_ONCE: Final = 500_000
GAPS_AT_ONCE: Final = 20_000
"""A look at more values, or gaps, takes 10 ms or longer: it is then taken in a thread, so that nothing is sent late."""

Sample = tuple[int, tuple[int, ...]]
"""What an ok measured request tells a look: its model's place in the stage, and its numbers (`numbers_of`)."""


def first_look(goal: StopRule, floor: Floor = "contract") -> int:
    """At how many requests of a model the first look is: twice the percentile's floor, and 30 at least."""
    return max(FEWEST, 2 * floor_of(goal.p, floor))


def earliest_end(goal: StopRule, floor: Floor = "contract") -> int:
    """The fewest requests of a model after which a stage may end: two looks in a row."""
    return math.ceil(first_look(goal, floor) * GROWTH)


def reason_unreachable(plan: Plan) -> str | None:
    """Why no stage of a plan can end early, whatever is measured; None where one can, or nothing was to end it."""
    bounded = [stage for stage in plan.stages if stage.until is not None and stage.count is not None]
    if not bounded or len(bounded) < len(plan.stages):
        return None
    goal, most = bounded[0].until, max((stage.count or 0) // len(stage.models) for stage in bounded)
    fewest = 0 if goal is None else earliest_end(goal, plan.scenario.floor)
    if most >= fewest:
        return None
    return f"until {goal}: no level ends early, it takes {fewest:,} requests at least, and {most:,} are the most here"


def estimate_for(samples: Samples, goal: StopRule, floor: Floor = "contract") -> Quantile:
    """The goal's percentile, at the confidence that intervals need which decide when to stop."""
    return quantiles_of(samples, (goal.p,), floor=floor, confidence=STOPPED_CONFIDENCE)[0]


def needed(width: float | None, count: int, goal: StopRule, floor: Floor = "contract") -> int:
    """About how many requests would reach the goal. width: the relative half width that `count` of them reached, which
    shrinks with the square root of their number; None: nothing is known yet, and it takes two looks at least."""
    more = GROWTH if width is None else (width / goal.within) ** 2
    return max(earliest_end(goal, floor), math.ceil(count * more))


def sampler(
    goal: StopRule, who: Sequence[tuple[str, str]], *, origin: LatencyOrigin
) -> Callable[[Record], Sample | None]:
    """What makes a sample of a record; None of one that is none. who: (target, model) of the stage, in its order."""
    places = {pair: place for place, pair in enumerate(who)}

    def sample(record: Record) -> Sample | None:
        if record.phase != "measured" or record.outcome != "ok":
            return None
        numbers = numbers_of(record, goal.metric, origin=origin)
        return (places[record.target, record.model], numbers) if numbers else None

    return sample


def numbers_of(record: Record, metric: str, *, origin: LatencyOrigin) -> tuple[int, ...]:
    """The metric's value of one request, ns; of itl the arrivals of its tokens; empty where it has none."""
    if metric == "itl":
        return record.stamps_ns if len(record.stamps_ns) > 1 else ()
    return tuple(metrics.of_requests([record], origin=origin)[metric].tolist())


class Series:
    """The samples of one model as they come, and the looks that were taken at them."""

    def __init__(self, goal: StopRule, floor: Floor) -> None:
        self._goal = goal
        self._floor: Floor = floor
        self._numbers = array("q")
        self._lengths = array("q")
        self._looks: list[Quantile] = []
        self._next = first_look(goal, floor)
        self._looking = False

    def take(self, numbers: Sequence[int]) -> None:
        """Of one request, as `numbers_of` has them."""
        self._numbers.extend(numbers)
        self._lengths.append(len(numbers))

    @property
    def is_due(self) -> bool:
        """Whether it is time to look: `begin`, then `estimate_for` wherever there is time for it, then `end`."""
        return not self._looking and not self.met and len(self._lengths) >= self._next

    @property
    def met(self) -> bool:
        return is_settled(self._looks, self._goal.within)

    @property
    def width(self) -> float | None:
        """The relative half width at the last look; None where it was not known, or nobody has looked."""
        return relative_half_width(self._looks[-1]) if self._looks else None

    @property
    def is_long(self) -> bool:
        """Whether a look takes too long for an event loop on which requests are due."""
        return len(self._numbers) > (GAPS_AT_ONCE if self._goal.metric == "itl" else AT_ONCE)

    def begin(self) -> Samples:
        """What is there, for a look at it."""
        self._looking = True
        self._next = math.ceil(len(self._lengths) * GROWTH)
        numbers: Ns = np.array(self._numbers)
        return gap_samples(numbers, np.array(self._lengths)) if self._goal.metric == "itl" else Samples(numbers)

    def look(self, samples: Samples) -> Quantile:
        return estimate_for(samples, self._goal, self._floor)

    def end(self, look: Quantile) -> None:
        self._looking = False
        self._looks.append(look)


class StopRuleMonitor:
    """One stage that ends when enough is known of each of its models."""

    def __init__(
        self,
        goal: StopRule,
        models: int,
        floor: Floor,
        *,
        enough: Callable[[], None],
        say: Callable[[str], None],
    ) -> None:
        """enough: called once. say: told in words how far it is, after each look."""
        import scipy.special  # noqa: F401  now: in the middle of the stage its import would hold up what is sent

        self._goal = goal
        self._series = [Series(goal, floor) for _ in range(models)]
        self._enough = enough
        self._say = say
        self.met = False

    def take(self, sample: Sample | None) -> None:
        """A request has ended; None: it tells nothing."""
        if sample is None or self.met:
            return
        place, numbers = sample
        series = self._series[place]
        series.take(numbers)
        if not series.is_due:
            return
        samples = series.begin()
        if not series.is_long:
            self._add_look(series, series.look(samples))
            return
        looking = asyncio.get_running_loop().run_in_executor(None, series.look, samples)
        looking.add_done_callback(lambda done: None if done.cancelled() else self._add_look(series, done.result()))

    def _add_look(self, series: Series, look: Quantile) -> None:
        series.end(look)
        self._say(self.words)
        if not self.met and all(series_of_model.met for series_of_model in self._series):
            self.met = True
            self._enough()

    @property
    def words(self) -> str:
        """How far it is, by the model that is furthest from it."""
        goal = f"{self._goal.metric} {self._goal.percentile}"
        widths = [series.width for series in self._series]
        worst = None if None in widths else max(width for width in widths if width is not None)
        reached = "not known yet" if worst is None else f"±{100 * worst:.2g} %"
        return f"{goal} {reached} (asked: ±{100 * self._goal.within:.3g} %)"
