"""Which percentiles a run's requests suffice for, and how many requests the others take. Pure: a sentence."""

import math
from collections.abc import Sequence

from loadgen.analysis.summary import Requests, StageSummary, Summary, Throughput
from loadgen.report.format import format_minutes
from loadgen.report.section import SHOWN_PERCENTILES
from loadgen.stats.quantile import Floor, floor_of


def sureness(summary: Summary) -> str | None:
    """How many answered requests each level has, which percentiles they suffice for, and how many the others take; None
    if no request was answered."""
    answered = [stage for stage in summary.stages if _ok(stage)]
    if not answered:
        return None
    metric = "ttft_ms" if summary.streamed else "e2e_ms"
    lacking = {name: [stage for stage in answered if _is_unknown(stage, metric, name)] for name in SHOWN_PERCENTILES}
    known = [name for name, stages in lacking.items() if not stages]
    where = "at each level in each run" if summary.runs else "at each level"
    low, high = min(map(_ok, answered)), max(map(_ok, answered))
    if low == high:
        suffice = "answered request {} suffices for" if high == 1 else "answered requests {} suffice for"
        text = f"{high:,} {suffice.format(where)} {_joined(known) or 'no percentile'}"
    else:
        is_known = f"{_joined(known) or 'no percentile'} {'are' if len(known) > 1 else 'is'} known at every level"
        text = f"{low:,} to {high:,} answered requests {where}: {is_known}"
    floor: Floor = "strict" if summary.floor == "strict" else "contract"
    costs = [_cost(name, stages, floor) for name, stages in lacking.items() if stages]
    return f"{text}; it takes {', '.join(costs)}." if costs else f"{text}."


def _ok(stage: StageSummary) -> int:
    """Answered requests; of repeated runs, of each of them on average, as each is to know a percentile by itself."""
    if not isinstance(stage.requests, Requests):
        return 0
    return math.ceil(stage.requests.ok / max(1, stage.runs.played if stage.runs is not None else 1))


def _is_unknown(stage: StageSummary, metric: str, name: str) -> bool:
    latency = stage.metric(metric)
    return latency is None or latency.percentile(name).value is None


def _cost(name: str, stages: Sequence[StageSummary], floor: Floor) -> str:
    """How many requests a percentile takes, and about how long a level with as many takes."""
    needed = floor_of(float(name.removeprefix("p")), floor)
    rates = [stage.throughput.requests_per_s for stage in stages if isinstance(stage.throughput, Throughput)]
    times_s = [needed / rate for rate in rates if rate]
    about = f" ({format_minutes(max(times_s))})" if times_s else ""
    return f"{needed:,} for {name}{about}"


def _joined(names: Sequence[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]]) if len(names) > 1 else "".join(names)
