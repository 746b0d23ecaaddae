"""Derives error band, ceiling and budget from the steps of a calibration, by the rules of `docs/calibration.md`.
Pure."""

from collections.abc import Sequence
from typing import Final, Literal

from loadgen.analysis.validity import OWN_CPU, OWN_CPU_INVALID, SHARED, STAMP_ERROR_MS
from loadgen.calibrate.observation import Observation
from loadgen.store.calibration import SCHEMA, Budget, Calibration, Ceiling, ErrorBand, ErrorSpread, Limit, Machine, Step

LOOP_LAG_MS: Final = 5.0
"""The limit with user stamps, each of which contains the event loop's lag."""
LATE_READS_MS: Final = 20.0
LATE_READS_INVALID_MS: Final = 100.0
"""The limit with kernel stamps. They are true however late we read, but a reader that is this late also sends late, and
lets tokens pile up."""
STRETCH: Final = 1.1
"""If streams took this many times as long as scheduled, the server did not keep its schedule."""
MERGED: Final = 0.01
"""If a larger share of the tokens shared a read, the p99 of the error is no longer that of a stamp."""

Line = Literal["answers", "stamps", "cpu", "lag", "shared"]


def crossed(step: Step) -> tuple[Line, ...]:
    """The limits that a step exceeds; it is within the budget if there are none."""
    lag_line = LATE_READS_MS if step.kernel is not None else LOOP_LAG_MS
    is_beyond: dict[Line, bool] = {
        "answers": step.wrong > 0 or step.events == 0,
        "stamps": step.stamp is not None and step.stamp.p99_us > STAMP_ERROR_MS * 1e3,
        "cpu": step.cpu_share > OWN_CPU,
        "lag": step.loop_lag_p99_ms is not None and step.loop_lag_p99_ms > lag_line,
        "shared": step.shared_share > SHARED,
    }
    return tuple(line for line, beyond in is_beyond.items() if beyond)


def is_disturbed(observation: Observation) -> bool:
    """Whether something else may have disturbed a load, because CPU was left; such a load is played again."""
    lag = observation.loop_lag_p99_ms or 0.0
    return observation.cpu_share <= OWN_CPU and (lag > LATE_READS_MS or observation.merged_share > MERGED)


def is_too_much(observation: Observation) -> bool:
    """Whether a larger load is pointless, because we are at our limit, or the servers cannot keep their schedule."""
    lag = observation.loop_lag_p99_ms or 0.0
    return observation.cpu_share > OWN_CPU_INVALID or lag > LATE_READS_INVALID_MS or observation.stretch > STRETCH


def is_spent(step: Step) -> bool:
    """Whether our process, and not the server, was at its limit: no CPU was left, or tokens piled up."""
    return step.cpu_share > OWN_CPU_INVALID or step.shared_share > SHARED


def conclude(steps: Sequence[Step], machine: Machine, made_utc: str, busy_share: float = 0.0) -> Calibration:
    """The result of a calibration from its steps."""
    within = [step for step in steps if not crossed(step)]
    busiest = max(within, key=lambda step: step.events_per_s, default=None)
    return Calibration(
        schema=SCHEMA,
        made_utc=made_utc,
        machine=machine,
        band=ErrorBand(kernel=_worst([step.kernel for step in within]), user=_worst([step.user for step in within])),
        ceiling=_ceiling(steps),
        budget=Budget(events_per_s=_events_budget(steps), streams=_streams_budget(steps)),
        cpu_us_per_event=None if busiest is None else busiest.cpu_us_per_event,
        busy_share=busy_share,
        steps=tuple(steps),
    )


def _worst(spreads: Sequence[ErrorSpread | None]) -> ErrorSpread | None:
    """The largest value of each percentile over all steps."""
    known = [spread for spread in spreads if spread is not None]
    if not known:
        return None
    return ErrorSpread(*(max(getattr(spread, name) for spread in known) for name in ErrorSpread.__struct_fields__))


def _ceiling(steps: Sequence[Step]) -> Ceiling:
    sound = [step for step in steps if step.wrong == 0]
    events = max((step.events_per_s for step in sound), default=0.0)
    growing = [step for step in steps if step.series == "streams"]
    carried = _highest([step for step in growing if not is_spent(step) and not step.wrong], growing)
    return Ceiling(
        events_per_s=Limit(events, at_least=not any(is_spent(step) for step in steps)),
        streams=Limit(carried, at_least=all(step.streams <= carried for step in growing)),
    )


def _streams_budget(steps: Sequence[Step]) -> int:
    """The largest number of streams within the limits at both paces."""
    growing = [step for step in steps if step.series == "streams"]
    return _highest([step for step in growing if not crossed(step)], growing)


def _highest(good: Sequence[Step], played: Sequence[Step]) -> int:
    """The largest number of streams of the good steps, at the pace where it is smaller; 0 if there are none."""
    paces = {step.pace for step in played}
    return min((max((step.streams for step in good if step.pace == pace), default=0) for pace in paces), default=0)


def _events_budget(steps: Sequence[Step]) -> float:
    """The highest rate within the limits. If the next rate of the series exceeded only the CPU limit, the rate at which
    CPU would have reached that limit, by interpolation."""
    within = [step for step in steps if not crossed(step)]
    best = max((step.events_per_s for step in within), default=0.0)
    rates = [step for step in steps if step.series == "rates"]
    last = max((step for step in rates if not crossed(step)), key=lambda step: step.events_per_s, default=None)
    above = [] if last is None else [step for step in rates if step.events_per_s > last.events_per_s]
    following = min(above, key=lambda step: step.events_per_s, default=None)
    if last is not None and following is not None and crossed(following) == ("cpu",):
        share = (OWN_CPU - last.cpu_share) / (following.cpu_share - last.cpu_share)
        best = max(best, last.events_per_s + share * (following.events_per_s - last.events_per_s))
    return float(best // 100 * 100 if best >= 1000 else best // 1)
