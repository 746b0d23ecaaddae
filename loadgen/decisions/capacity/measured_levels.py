"""What the levels of a search show about its server: its speed by the requests in work, and the time that requests
need. Pure."""

import math
from collections.abc import Sequence
from typing import Final

import numpy as np
from msgspec import Struct, structs
from numpy.typing import NDArray

from loadgen.analysis.metrics import gaps_of
from loadgen.decisions.capacity.thinking import MeasuredServer
from loadgen.decisions.capacity.throughput import MIN_LEVELS, LevelRates, fit_usl, rates_of, usl_rate
from loadgen.decisions.capacity.visit_data import VisitData
from loadgen.record import Record
from loadgen.scenario.objective import Objective
from loadgen.stats.quantile import nearest_rank

Floats = NDArray[np.float64]

REACH: Final = 1.5
"""The most requests in flight that a forecast covers, as a multiple of the highest level played."""


class RequestNeeds(Struct, frozen=True):
    """The times that the requests of the lowest level needed, a value for each, in seconds after sending."""

    first_s: Floats
    """To the first token."""
    visible_s: Floats
    """To the first visible token."""
    end_s: Floats
    tokens: Floats
    gap_s: Floats
    """The percentile of its own gaps that an objective judges; 0 if there is no such objective or no gap."""

    def drawn(self, picks: NDArray[np.int64]) -> "RequestNeeds":
        """These requests at the places `picks`, which may repeat."""
        return RequestNeeds(*(getattr(self, name)[picks] for name in self.__struct_fields__))


class MeasuredLevels(Struct, frozen=True):
    """What the levels of a search show about its server. Levels are users, ascending."""

    levels: tuple[float, ...]
    rates: tuple[float, ...]
    """Requests per second at each level."""
    errors: tuple[float, ...]
    """The relative standard error of each rate."""
    slots: int | None
    """How many requests are in work together, if that number stopped growing; None: all."""
    needs: RequestNeeds

    def resampled(self, rng: np.random.Generator) -> "MeasuredLevels":
        """The levels of another measurement that chance could have given."""
        noise = np.exp(np.asarray(self.errors) * rng.standard_normal(len(self.rates)))
        rates = tuple((np.asarray(self.rates) * noise).tolist())
        count = len(self.needs.first_s)
        return structs.replace(self, rates=rates, needs=self.needs.drawn(rng.integers(count, size=count)))

    @property
    def server(self) -> MeasuredServer:
        speeds = speeds_of(*self._rates_in_work())
        return MeasuredServer(speeds, self.slots, self.needs.first_s, self.needs.end_s)

    def _rates_in_work(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """The numbers of requests in work, and the rate with each. Above the slots, further users wait: so these levels
        all tell the rate with the slots full, also if no level has exactly as many users."""
        if self.slots is None:
            return self.levels, self.rates
        below = sum(level < self.slots for level in self.levels)
        weights = 1 / np.square(self.errors[below:])
        full = float(np.average(self.rates[below:], weights=weights))
        return (*self.levels[:below], float(self.slots)), (*self.rates[:below], full)


def measured_levels(visits: Sequence[VisitData], objectives: Sequence[Objective]) -> MeasuredLevels:
    """The levels of a search of users, without the visits that loadgen itself or other programs disturbed."""
    judged = [played for played in visits if played.visit.is_judged]
    rates = [each for each in rates_of(judged) if each.requests_per_s]
    lowest = [played.stage for played in judged if rates and played.visit.level == rates[0].level]
    records = [
        record
        for stage in lowest
        for record in stage.ok
        if record.stamps_ns and record.end_ns is not None and record.sent_ns is not None
    ]
    percentile = next((each.gap_percentile for each in objectives if each.gap_percentile is not None), None)
    return MeasuredLevels(
        levels=tuple(each.level for each in rates),
        rates=tuple(each.requests_per_s or 0.0 for each in rates),
        errors=tuple(_relative_error(each, judged) for each in rates),
        slots=_slots(rates, judged),
        needs=RequestNeeds(
            first_s=_seconds(records, [record.stamps_ns[0] for record in records]),
            visible_s=_seconds(records, [record.first_visible_ns or record.stamps_ns[0] for record in records]),
            end_s=_seconds(records, [record.end_ns or 0 for record in records]),
            tokens=np.array([record.output_tokens or 1 for record in records], float),
            gap_s=np.array([_gap_s(record, percentile) for record in records], float),
        ),
    )


def speeds_of(levels: Sequence[float], rates: Sequence[float]) -> tuple[float, ...]:
    """The speed of each of 1, 2, … requests in work, as a share of its speed at the lowest level, up to REACH.

    The measured rates are first made to grow with the level. Between levels, rates lie on lines. Above the highest
    level they stay constant, unless USL, fitted without that level, predicts its rate better.
    """
    n = np.arange(1, max(2, math.ceil(REACH * levels[-1])) + 1, dtype=float)
    growing = _growing(np.asarray(rates, float))
    at = np.interp(n, levels, growing)
    at = np.where(n < levels[0], growing[0] * n / levels[0], at)
    if len(levels) > MIN_LEVELS and (usl := fit_usl(levels[:-1], rates[:-1])) is not None:
        predicted = float(usl_rate(np.array([levels[-1]]), usl.rate, usl.contention, usl.coherence)[0])
        if abs(predicted - rates[-1]) < abs(growing[-2] - rates[-1]):
            beyond = usl_rate(n, usl.rate, usl.contention, usl.coherence) * growing[-1] / predicted
            at = np.where(n > levels[-1], beyond, at)
    speeds = at / n / (growing[0] / levels[0])
    return tuple(np.minimum(speeds, 1.0).tolist())


def _growing(rates: Floats) -> Floats:
    """The nearest rates that never fall, from pooling adjacent violators."""
    blocks: list[tuple[float, int]] = []
    for rate in rates.tolist():
        block = (rate, 1)
        while blocks and block[0] < blocks[-1][0]:
            earlier = blocks.pop()
            length = block[1] + earlier[1]
            block = ((block[0] * block[1] + earlier[0] * earlier[1]) / length, length)
        blocks.append(block)
    return np.repeat([rate for rate, _ in blocks], [length for _, length in blocks])


def _relative_error(level: LevelRates, judged: Sequence[VisitData]) -> float:
    visits = [played.visit for played in judged if played.visit.level == level.level]
    return 1 / math.sqrt(max(1.0, sum(visit.requests / max(visit.inflation, default=1.0) for visit in visits)))


def _slots(rates: Sequence[LevelRates], judged: Sequence[VisitData]) -> int | None:
    """The most requests in work at the highest level, if they are no more than at the level below; else None."""
    peaks = [
        max((played.visit.streams or 0 for played in judged if played.visit.level == each.level), default=0)
        for each in rates[-2:]
    ]
    return peaks[1] if len(peaks) == 2 and 0 < peaks[1] <= peaks[0] else None


def _seconds(records: Sequence[Record], moments_ns: Sequence[int]) -> Floats:
    return np.array([at - (r.sent_ns or 0) for at, r in zip(moments_ns, records, strict=True)], float) / 1e9


def _gap_s(record: Record, percentile: float | None) -> float:
    gaps = np.sort(gaps_of([record]).values)
    return 0.0 if percentile is None or not gaps.size else nearest_rank(gaps, percentile) / 1e9
