"""When a stop rule is met: estimates its percentile now and then, as requests end. Knows no socket, no process and no
clock.

Each estimate is called a look. `loadgen.stats.settled.is_settled` says how many of them end a stage, and why they are
few. `loadgen.engine.stop_rule_sink` ends the stage.
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
)
from loadgen.stats.settled import is_settled, relative_half_width

MIN_REQUESTS: Final = 30
GROWTH: Final = 1.25
AT_ONCE: Final = 500_000
GAPS_AT_ONCE: Final = 20_000
"""A look at more values, or gaps, takes 10 ms or longer. It then runs in a thread, so that no request is sent late."""

Sample = tuple[int, tuple[int, ...]]
"""One ok measured request: its model's place in the stage, and its numbers (`numbers_of`)."""


def first_look(rule: StopRule, floor: Floor = "contract") -> int:
    """After how many requests of a model the first look comes: twice the percentile's floor, at least 30."""
    return max(MIN_REQUESTS, 2 * floor_of(rule.p, floor))


def earliest_end(rule: StopRule, floor: Floor = "contract") -> int:
    """The smallest number of requests of a model after which a stage may end: it takes two looks."""
    return math.ceil(first_look(rule, floor) * GROWTH)


def reason_unreachable(plan: Plan) -> str | None:
    """Why no stage of a plan can end early, whatever is measured; None if one can, or if the plan has no stop rule."""
    bounded = [stage for stage in plan.stages if stage.until is not None and stage.count is not None]
    if not bounded or len(bounded) < len(plan.stages):
        return None
    rule, most = bounded[0].until, max((stage.count or 0) // len(stage.models) for stage in bounded)
    fewest = 0 if rule is None else earliest_end(rule, plan.scenario.floor)
    if most >= fewest:
        return None
    return f"until {rule}: no level can end early: that takes at least {fewest:,} requests, and a level has {most:,}"


def estimate_for(samples: Samples, rule: StopRule, floor: Floor = "contract") -> Quantile:
    """The rule's percentile, with an interval at the confidence that deciding when to stop needs."""
    return quantiles_of(samples, (rule.p,), floor=floor, confidence=STOPPED_CONFIDENCE)[0]


def needed(width: float | None, count: int, rule: StopRule, floor: Floor = "contract") -> int:
    """About how many requests would meet the rule.

    width: the relative half-width after `count` requests, which shrinks with the square root of their number. None: it
    is not known yet; then the estimate is for two looks.
    """
    more = GROWTH if width is None else (width / rule.within) ** 2
    return max(earliest_end(rule, floor), math.ceil(count * more))


def sampler(
    rule: StopRule, models: Sequence[tuple[str, str]], *, origin: LatencyOrigin
) -> Callable[[Record], Sample | None]:
    """A function that makes a sample of a record, or None if the record does not count. models: (target, model) of each
    model of the stage, in its order."""
    places = {pair: place for place, pair in enumerate(models)}

    def sample(record: Record) -> Sample | None:
        if record.phase != "measured" or record.outcome != "ok":
            return None
        numbers = numbers_of(record, rule.metric, origin=origin)
        return (places[record.target, record.model], numbers) if numbers else None

    return sample


def numbers_of(record: Record, metric: str, *, origin: LatencyOrigin) -> tuple[int, ...]:
    """The metric's value of one request, ns; for itl the arrivals of its tokens. Empty if the request has none."""
    if metric == "itl":
        return record.stamps_ns if len(record.stamps_ns) > 1 else ()
    return tuple(metrics.of_requests([record], origin=origin)[metric].tolist())


class Series:
    """The samples of one model so far, and the looks at them."""

    def __init__(self, rule: StopRule, floor: Floor) -> None:
        self._rule = rule
        self._floor: Floor = floor
        self._numbers = array("q")
        self._lengths = array("q")
        self._looks: list[Quantile] = []
        self._next = first_look(rule, floor)
        self._looking = False

    def take(self, numbers: Sequence[int]) -> None:
        """Add the numbers of one request, from `numbers_of`."""
        self._numbers.extend(numbers)
        self._lengths.append(len(numbers))

    @property
    def is_due(self) -> bool:
        """Whether the next look is due: call `begin`, then `estimate`, which may run in a thread, then `end`."""
        return not self._looking and not self.met and len(self._lengths) >= self._next

    @property
    def met(self) -> bool:
        return is_settled(self._looks, self._rule.within)

    @property
    def width(self) -> float | None:
        """The relative half-width at the last look; None if it was not known then, or if there was no look."""
        return relative_half_width(self._looks[-1]) if self._looks else None

    @property
    def is_long(self) -> bool:
        """Whether a look takes too long for the event loop that sends requests."""
        return len(self._numbers) > (GAPS_AT_ONCE if self._rule.metric == "itl" else AT_ONCE)

    def begin(self) -> Samples:
        """Begin a look: returns a copy of the samples so far."""
        self._looking = True
        self._next = math.ceil(len(self._lengths) * GROWTH)
        numbers: Ns = np.array(self._numbers)
        return gap_samples(numbers, np.array(self._lengths)) if self._rule.metric == "itl" else Samples(numbers)

    def estimate(self, samples: Samples) -> Quantile:
        return estimate_for(samples, self._rule, self._floor)

    def end(self, look: Quantile) -> None:
        self._looking = False
        self._looks.append(look)


class StopRuleMonitor:
    """Watches one stage, whose stop rule is met when it is met for each of its models."""

    def __init__(
        self,
        rule: StopRule,
        models: int,
        floor: Floor,
        *,
        enough: Callable[[], None],
        report: Callable[[str], None],
    ) -> None:
        """enough: called once, when the rule is met. report: called after each look, with a text about the progress."""
        import scipy.special  # noqa: F401  imported now, because in the middle of the stage it would delay requests

        self._rule = rule
        self._series = [Series(rule, floor) for _ in range(models)]
        self._enough = enough
        self._report = report
        self.met = False

    def take(self, sample: Sample | None) -> None:
        """Add the sample of a request that has ended; None: it does not count."""
        if sample is None or self.met:
            return
        place, numbers = sample
        series = self._series[place]
        series.take(numbers)
        if not series.is_due:
            return
        samples = series.begin()
        if not series.is_long:
            self._add_look(series, series.estimate(samples))
            return
        looking = asyncio.get_running_loop().run_in_executor(None, series.estimate, samples)
        looking.add_done_callback(lambda done: None if done.cancelled() else self._add_look(series, done.result()))

    def _add_look(self, series: Series, look: Quantile) -> None:
        series.end(look)
        self._report(self.words)
        if not self.met and all(series_of_model.met for series_of_model in self._series):
            self.met = True
            self._enough()

    @property
    def words(self) -> str:
        """How precisely the percentile is known, for the model for which it is known least."""
        percentile = f"{self._rule.metric} {self._rule.percentile}"
        widths = [series.width for series in self._series]
        worst = None if None in widths else max(width for width in widths if width is not None)
        reached = "not known yet" if worst is None else f"±{100 * worst:.2g} %"
        return f"{percentile} {reached} (asked: ±{100 * self._rule.within:.3g} %)"
