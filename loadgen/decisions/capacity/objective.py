"""The objectives of a search, and whether one request met them. `loadgen.scenario.objective` reads the texts. Pure."""

import math
from collections.abc import Sequence
from typing import Final, Literal

from msgspec import Struct

from loadgen.analysis import metrics
from loadgen.errors import InputError
from loadgen.record import LatencyOrigin, Record
from loadgen.scenario import Scenario, Slo
from loadgen.scenario.file import BUILT_IN
from loadgen.scenario.objective import (
    DEFAULT_ATTAINMENT,
    STREAMED_LATENCIES,
    Objective,
    first_repeated,
    limits_ms,
    mismatch_of_objective,
    objective_of,
)
from loadgen.scenario.problem import Problem, Source, input_error
from loadgen.stats.quantile import nearest_rank

ObjectiveVerdict = Literal["met", "missed", "not_applicable", "undecided"]
"""`not_applicable`: the answer has no such latency. `undecided`: the request was cut off before its limit had
passed."""

MISSED_WHILE_OPEN: Final = frozenset({"ttft", "ttfc", "e2e"})
"""The metrics whose limit a request can have missed before it ends."""
FAILED: Final = math.inf
"""The latency of a request that failed, which counts among the slowest."""


class Judged(Struct, frozen=True):
    """The judgment of one request by one objective."""

    verdict: ObjectiveVerdict
    slowness: float
    """The value by which requests are ranked, in any unit; infinite if the request failed."""


def objectives_of(texts: Sequence[str], slo: Slo | None, *, scenario: str = "SCENARIO") -> tuple[Objective, ...]:
    """The objectives: those of `--slo`, or else of `[slo] objectives`, or else every limit of `[slo]` at once.

    scenario: its name, for messages. Raises InputError, one line, if a text cannot be read or there is no objective.
    """
    limits = {} if slo is None else limits_ms(slo)
    if texts:
        source, keys = Source("capacity"), [f"--slo {text}" if text.strip() else "--slo" for text in texts]
    else:
        texts = () if slo is None else slo.objectives
        source, keys = Source(scenario), [f"slo.objectives[{i}]" for i in range(len(texts))]
    for text, key in zip(texts, keys, strict=True):
        if (wrong := mismatch_of_objective(text)) is not None:
            raise input_error(source, Problem(key, *wrong))
    objectives = tuple(objective_of(text) for text in texts)
    if any(objective.metric == "goodput" for objective in objectives) and not limits:
        key = keys[[objective.metric for objective in objectives].index("goodput")]
        message = "asks for every limit of [slo] at once, but [slo] has no limits"
        limit = "name the limit here, as in --slo ttft_p95=2s"
        hint = limit if scenario == BUILT_IN else f"add e.g. ttft_ms = 2000.0 to [slo], or {limit}"
        raise input_error(source, Problem(key, message, hint))
    if (again := first_repeated(objectives)) is not None:
        key = keys[len(objectives) - 1 - objectives[::-1].index(again)]
        raise input_error(source, Problem(key, "the same share of the same metric is asked for twice", "leave one out"))
    if not objectives and slo is not None and limits:
        share = _share_of_goodput(slo, scenario)
        objectives = (Objective(f"goodput={100 * share:g}%", "goodput", None, share),)
    if not objectives:
        instead = "search a scenario file that has [slo]" if scenario == BUILT_IN else f"[slo] to {scenario}"
        raise InputError(f"capacity: there is no objective; add --slo ttft_p95=2s, or {instead}")
    return objectives


def check_streamed(objectives: Sequence[Objective], scenario: Scenario) -> None:
    """Raise InputError for an objective that answers without streaming (`stream = false`) can neither meet nor miss."""
    if scenario.sampling.stream:
        return
    for objective in objectives:
        limits = limits_ms(scenario.slo) if objective.metric == "goodput" else {objective.metric: 0.0}
        if streamed := [metric for metric in limits if metric in STREAMED_LATENCIES]:
            message = f"an answer without streaming (stream = false) has no {streamed[0]}"
            raise input_error(Source("capacity"), Problem(objective.text, message, "ask for e2e, or set stream = true"))


def _share_of_goodput(slo: Slo, scenario: str) -> float:
    """The attainment that a scenario asks for. Raises InputError if a search cannot show it."""
    share = DEFAULT_ATTAINMENT if slo.attainment is None else slo.attainment
    if 0.5 < share < 1:
        return share
    message = f"a search shows shares above 50 % and below 100 %, not {share:.0%}"
    hint = f"add --slo goodput={99 if share == 1 else 90}%"
    raise input_error(Source(scenario), Problem("slo.attainment", message, hint))


def latency_limits(objectives: Sequence[Objective], slo: Slo) -> list[tuple[str, float]]:
    """Each metric that an objective limits, with its limit, ms. slo: the limits of `goodput`."""
    limits: list[tuple[str, float]] = [(each.metric, each.limit_ms) for each in objectives if each.limit_ms is not None]
    if any(each.metric == "goodput" for each in objectives):
        limits += limits_ms(slo).items()
    return limits


def late_after_ns(objectives: Sequence[Objective], slo: Slo) -> tuple[int, ...]:
    """After how long a request that is still open may have missed an objective, ascending."""
    limits = latency_limits(objectives, slo)
    return tuple(sorted({round(limit * 1e6) for metric, limit in limits if metric in MISSED_WHILE_OPEN}))


def slowness_limit(objective: Objective) -> float:
    """The slowness (see `Judged`) above which a request misses an objective; infinite if none is too slow for it."""
    if objective.metric == "goodput":
        return 1e6  # the ratio of a latency in ns to its limit in ms
    return math.inf if objective.limit_ms is None else objective.limit_ms * 1e6


def verdict_of(objective: Objective, record: Record, *, origin: LatencyOrigin, slo: Slo | None = None) -> Judged:
    """Whether a request met an objective.

    A request that is not `ok` missed it. A request that loadgen cancelled missed it if the limit had passed by then;
    else it is undecided. A request that is still open may be given as cancelled now. slo: the limits of `goodput`.
    """
    if record.outcome == "cancelled":
        return Judged("missed" if _is_too_late(objective, record, origin, slo) else "undecided", FAILED)
    if record.outcome != "ok":
        return Judged("missed", FAILED)
    if objective.metric == "goodput":
        assert slo is not None
        is_met = metrics.meets(record, slo, origin=origin)
        return Judged("met" if is_met else "missed", _worst_ratio(record, slo, origin))
    e2e = _latency("e2e", record, objective, origin)
    if objective.metric == "ok":
        return Judged("met", 0.0 if e2e is None else e2e)
    value = _latency(objective.metric, record, objective, origin)
    if value is None:
        return Judged("not_applicable", 0.0)
    assert objective.limit_ms is not None
    return Judged("met" if value <= objective.limit_ms * 1e6 else "missed", value)


def _is_too_late(objective: Objective, record: Record, origin: LatencyOrigin, slo: Slo | None) -> bool:
    """Whether a request that was cut off had waited longer than its limit."""
    limits = limits_ms(slo) if objective.metric == "goodput" and slo is not None else {}
    if objective.limit_ms is not None:
        limits = {objective.metric: objective.limit_ms}
    start, end = metrics.start_of(record, origin=origin), record.end_ns
    if start is None or end is None:
        return False
    for metric, limit in limits.items():
        reached = {"ttft": record.stamps_ns[0] if record.stamps_ns else None, "ttfc": record.first_visible_ns}
        waited = (reached.get(metric) or end) - start
        if metric in MISSED_WHILE_OPEN and waited > limit * 1e6:
            return True
    return False


def _latency(metric: str, record: Record, objective: Objective, origin: LatencyOrigin) -> float | None:
    """A latency of an answered request, ns; None if it has none."""
    start = metrics.start_of(record, origin=origin)
    match metric:
        case "tpot":
            return metrics.tpot_ns(record)
        case "itl":
            return _gap_percentile(record, objective.gap_percentile or 95.0)
        case "ttft":
            end = record.stamps_ns[0] if record.stamps_ns else None
        case "ttfc":
            end = record.first_visible_ns
        case _:
            end = record.end_ns
    return None if start is None or end is None else end - start


def _gap_percentile(record: Record, percentile: float) -> float | None:
    """A percentile of the gaps of one request, ns; None if it has no gap."""
    gaps = metrics.gaps_of([record]).values
    gaps.sort()
    return nearest_rank(gaps, percentile) if gaps.size else None


def _worst_ratio(record: Record, slo: Slo, origin: LatencyOrigin) -> float:
    """The largest ratio of one of a request's latencies to its limit."""
    probe = Objective("", "goodput", None, 0.0)
    values = {metric: _latency(metric, record, probe, origin) for metric in limits_ms(slo)}
    limits = limits_ms(slo)
    return max((value / limits[metric] for metric, value in values.items() if value is not None), default=0.0)
