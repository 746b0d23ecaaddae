"""Tokens and requests a second, goodput among them, of one run and over repeated runs. Pure."""

from collections.abc import Sequence
from typing import Final

import msgspec
import numpy as np

from loadgen.analysis import metrics
from loadgen.analysis.stage import StageData
from loadgen.analysis.summary import AcrossRuns, Throughput, rounded
from loadgen.stats.mean import mean_interval
from loadgen.stats.median import median
from loadgen.stats.quantile import estimate

RATES: Final = tuple(name for name in Throughput.__struct_fields__ if not name.endswith("_ci"))


def throughput_of_run(stage: StageData) -> Throughput:
    """A stage's rates in one run. Those that would be wrong on its server are None."""
    window = stage.steady_window
    tpots = sorted(1e9 / value for record in stage.ok if (value := metrics.tpot_ns(record)))
    answer_speed, interval = _answer_speed(stage)
    rates = Throughput(
        output_tokens_per_s=None,
        requests_per_s=None,
        per_user_tokens_per_s=rounded(median(tpots)) if tpots else None,
        goodput_requests_per_s=None,
        e2e_tokens_per_s=answer_speed,
        e2e_tokens_per_s_ci=interval,
    )
    if window is not None:
        ended = [record for record in stage.ok if record.end_ns is not None and window.holds(record.end_ns)]
        slo, origin = stage.judged_slo, stage.latency_origin
        good = sum(metrics.meets(record, slo, origin=origin) for record in ended)
        tokens = metrics.tokens_inside((*stage.measured, *stage.earlier), window)
        rates = msgspec.structs.replace(
            rates,
            output_tokens_per_s=rounded(tokens / window.length_s),
            requests_per_s=rounded(len(ended) / window.length_s),
            goodput_requests_per_s=rounded(good / window.length_s) if stage.slo_limits_ms else None,
        )
    return msgspec.structs.replace(rates, **dict.fromkeys(stage.flags.nulled & set(Throughput.__struct_fields__)))


def _answer_speed(stage: StageData) -> tuple[float | None, tuple[float, float] | None]:
    """The median over ok requests of output tokens / e2e, and its 95 % interval if there are enough requests."""
    origin = stage.latency_origin
    speeds = sorted(speed for record in stage.ok if (speed := metrics.speed_per_s(record, origin=origin)) is not None)
    if not speeds:
        return None, None
    middle = estimate(np.array(speeds, dtype=np.float64), (50.0,))[0]
    bounds = None if middle.low is None or middle.high is None else (round(middle.low, 4), round(middle.high, 4))
    return round(median(speeds), 4), bounds


def rates_over_runs(each: Sequence[Throughput | None]) -> dict[str, AcrossRuns]:
    """By name, a stage's rates over the runs. each: the rates in each run; None: the run is not compared."""
    return {name: over([None if rates is None else getattr(rates, name) for rates in each]) for name in RATES}


def over(values: Sequence[float | None]) -> AcrossRuns:
    """A number over the runs: its mean, and Student's 95 % interval of it, N − 1 degrees of freedom."""
    known = [value for value in values if value is not None]
    if (interval := mean_interval(known)) is None:
        return AcrossRuns(tuple(values), rounded(known[0]) if known else None, None)
    mean = sum(known) / len(known)
    return AcrossRuns(tuple(values), rounded(mean), (round(interval[0], 4), round(interval[1], 4)))
