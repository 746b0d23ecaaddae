"""Whether a server drifted over a soak: the verdict on each series, and on each model. Pure.

stages = read_stage_windows(folder)
drifts = drifts_of(stages, matters=0.05, machine_bytes=None)
"""

from collections.abc import Sequence
from typing import Final, Literal

import numpy as np
from msgspec import UNSET, Struct
from msgspec.structs import replace

from loadgen.analysis.soak_types import (
    DRIFT_METRICS,
    DRIFT_VERDICTS,
    MAY_BE_UNSURE,
    Drift,
    DriftMetric,
    DriftMetricName,
    DriftVerdict,
)
from loadgen.analysis.summary import rounded
from loadgen.decisions.drift.memory import MemoryMeasure, memory_measure
from loadgen.decisions.drift.series import Measure, TestedWindows, is_fit, measures_of, tested_windows
from loadgen.decisions.drift.stage_windows import StageWindows
from loadgen.decisions.drift.step_time import StepTime, step_time_of
from loadgen.plan.soak import MIN_WINDOWS
from loadgen.stats.family import holm
from loadgen.store.windows import WindowLine

FALSE_ALARMS: Final = 0.04
"""Of how many quiet soaks any metric of any model may be significant. 4 %, so that soaks whose pace wanders slowly
stay below 5 %."""
MIN_ANSWERS: Final = 300
"""With fewer answers in the windows that are tested, there is no verdict."""
SHORT_S: Final = 7200.0
"""In a shorter soak, a slow wander of the pace looks like drift."""
STABLE_WITHIN: Final = 2.0
"""`stable`: the 90 % interval is within so many times what matters."""
NEVER_DECIDES: Final = frozenset[DriftMetricName]({"temperature"})
"""What is told, and decides nothing: a warmer device is a cause, and not a failure."""


class _Tested(Struct, frozen=True):
    stage: StageWindows
    windows: TestedWindows
    measures: tuple[Measure, ...]
    why: Literal["few_windows", "few_requests"] | None


def drifts_of(stages: Sequence[StageWindows], matters: float, machine_bytes: int | None = None) -> tuple[Drift, ...]:
    """The drift of each stage of a soak, in their order.

    matters: the smallest change that counts, of medians, the pace and the memory (0.05: 5 %). machine_bytes: the memory
    of the machine that serves, if it is this one and known. All metrics of all stages are one family: the more there
    are, the surer each must be.
    """
    tested = [_test(stage, matters, machine_bytes) for stage in stages]
    p_values = [measure.movement.p for each in tested for measure in each.measures]
    adjusted = iter(holm(np.array(p_values, dtype=np.float64)).tolist())
    return tuple(_drift(each, [next(adjusted) for _ in each.measures]) for each in tested)


def _test(stage: StageWindows, matters: float, machine_bytes: int | None) -> _Tested:
    windows = tested_windows(stage)
    fit = [window for window in stage.windows if is_fit(window)]
    if len(fit) < MIN_WINDOWS:
        return _Tested(stage, windows, (), "few_windows")
    if sum(window.ok for window in fit) < MIN_ANSWERS:
        return _Tested(stage, windows, (), "few_requests")
    measures = (*measures_of(windows, matters), *memory_measure(stage.windows, matters, machine_bytes))
    ordered = sorted(measures, key=lambda measure: DRIFT_METRICS.index(measure.name))
    return _Tested(stage, windows, tuple(ordered), None)


def _drift(tested: _Tested, adjusted: Sequence[float]) -> Drift:
    lines = tested.windows.lines
    metrics = {measure.name: _metric(measure, p, lines) for measure, p in zip(tested.measures, adjusted, strict=True)}
    verdict = verdict_of(metrics)
    deciding = [metric for name, metric in metrics.items() if metric.verdict == verdict and name not in NEVER_DECIDES]
    surest = min(deciding, key=lambda metric: metric.p_adjusted or 0.0, default=None)
    timed = [window for window in tested.stage.windows if not window.draining]
    spent_s = (timed[-1].end_ns - timed[0].start_ns) / 1e9 if timed else 0.0
    return Drift(
        verdict=verdict,
        windows=len(lines),
        left_out=len(timed) - len(lines),
        warm_up=tested.windows.warm_up,
        why=tested.why,
        short=spent_s < SHORT_S,
        since_utc=surest.since_utc if surest is not None else None,
        metrics=metrics,
    )


def verdict_of(metrics: dict[DriftMetricName, DriftMetric]) -> DriftVerdict:
    """The word of the worst metric. A tail that is unsure does not count, and the temperature never does."""
    words = {
        metric.verdict
        for name, metric in metrics.items()
        if name not in NEVER_DECIDES and not (name in MAY_BE_UNSURE and metric.verdict == "not enough data")
    }
    return next((word for word in DRIFT_VERDICTS if word in words), "not enough data")


def word_of(measure: Measure, p_adjusted: float) -> DriftVerdict:
    """The word of one series, by the p that is adjusted for all series of the run."""
    movement = measure.movement
    is_large = abs(movement.change) >= measure.matters
    if isinstance(measure, MemoryMeasure):
        is_large = measure.goes_on
    if p_adjusted <= FALSE_ALARMS and is_large:
        return "degrading" if movement.change * measure.worse > 0 else "improving"
    most, (low, high) = STABLE_WITHIN * measure.matters, movement.ci90
    may_be_none = movement.ci[0] <= 0 <= movement.ci[1] or abs(movement.change) < measure.matters
    return "stable" if may_be_none and -most < low and high < most else "not enough data"


def _metric(measure: Measure, p_adjusted: float, lines: tuple[WindowLine, ...]) -> DriftMetric:
    movement, word = measure.movement, word_of(measure, p_adjusted)
    low, high = movement.ci90
    step = step_time_of(measure.values, measure.at) if word in {"degrading", "improving"} else None
    metric = DriftMetric(
        verdict=word,
        change=rounded(movement.change),
        change_ci=(round(movement.ci[0], 4), round(movement.ci[1], 4)),
        p=_probability(movement.p),
        p_adjusted=_probability(p_adjusted),
        matters=round(measure.matters, 6),
        start=rounded(movement.start),
        end=rounded(movement.end),
        unit=measure.unit,
        percentile=UNSET if measure.percentile is None else measure.percentile,
        from_ns=round(measure.at[0] * 1e9),
        to_ns=round(measure.at[-1] * 1e9),
        within=rounded(max(abs(low), abs(high))) if word == "stable" else None,
        could_show=rounded((high - low) / 2) if word == "not enough data" else None,
        since_utc=None if step is None else utc_of(step.at_s, lines),
        since_between_utc=None if step is None else _between_utc(step, lines),
    )
    return _with_leak(metric, measure) if isinstance(measure, MemoryMeasure) else metric


def _with_leak(metric: DriftMetric, memory: MemoryMeasure) -> DriftMetric:
    return replace(
        metric,
        life=memory.life,
        mib_per_h=rounded(memory.mib_per_h),
        mib_per_request=_fine(memory.mib_per_request),
        mib_per_1000_tokens=_fine(memory.mib_per_1000_tokens),
        full_in_h=rounded(memory.full_in_h),
    )


def _probability(p: float) -> float:
    """With three digits, however small it is."""
    return float(f"{p:.3g}")


def _fine(value: float | None) -> float | None:
    """What a request leaks may be some bytes."""
    return None if value is None else round(value, 7)


def _between_utc(step: StepTime, lines: Sequence[WindowLine]) -> tuple[str, str]:
    return utc_of(step.earliest_s, lines), utc_of(step.latest_s, lines)


def utc_of(at_s: float, lines: Sequence[WindowLine]) -> str:
    """When the window began, by the wall clock, in which this moment is, s since the run began."""
    return next((line.start_utc for line in reversed(lines) if line.start_ns <= at_s * 1e9), lines[0].start_utc)
