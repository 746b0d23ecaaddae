"""One line that says which percentiles a run's requests suffice for, and how many requests the others take. Pure."""

import math
from collections.abc import Sequence

from loadgen.analysis.summary import Requests, StageSummary, Summary, Throughput
from loadgen.report.format import format_minutes
from loadgen.report.section import SHOWN_PERCENTILES
from loadgen.stats.quantile import Floor, floor_of


def sureness(summary: Summary) -> str | None:
    """The number of answered requests of a level, the percentiles that are known from them, and the number of requests
    that each other percentile takes. None if no request was answered."""
    answered = [stage for stage in summary.stages if _ok(stage)]
    if not answered:
        return None
    metric = "ttft_ms" if summary.streamed else "e2e_ms"
    lacking = {name: [stage for stage in answered if _is_unknown(stage, metric, name)] for name in SHOWN_PERCENTILES}
    known = [name for name, stages in lacking.items() if not stages]
    where = "Each level of each run" if summary.runs else "Each level"
    low, high = min(map(_ok, answered)), max(map(_ok, answered))
    if low == high:
        requests = f"{high:,} answered {'request' if high == 1 else 'requests'}"
        text = f"{where} has {requests}, {f'enough for {_joined(known)}' if known else 'too few for any percentile'}"
    else:
        is_known = f"{_joined(known) or 'no percentile'} {'are' if len(known) > 1 else 'is'} known at every level"
        text = f"{where} has {low:,} to {high:,} answered requests; {is_known}"
    floor: Floor = "strict" if summary.floor == "strict" else "contract"
    costs = [_cost(name, stages, floor) for name, stages in lacking.items() if stages]
    return f"{text}; {', '.join(costs)}." if costs else f"{text}."


def _ok(stage: StageSummary) -> int:
    """The answered requests of a stage; for repeated runs, the mean over the runs, because each run must know a
    percentile by itself."""
    if not isinstance(stage.requests, Requests):
        return 0
    return math.ceil(stage.requests.ok / max(1, stage.runs.played if stage.runs is not None else 1))


def _is_unknown(stage: StageSummary, metric: str, name: str) -> bool:
    latency = stage.metric(metric)
    return latency is None or latency.percentile(name).value is None


def _cost(name: str, stages: Sequence[StageSummary], floor: Floor) -> str:
    """How many requests a percentile takes, and about how long a level with that many takes."""
    needed = floor_of(float(name.removeprefix("p")), floor)
    rates = [stage.throughput.requests_per_s for stage in stages if isinstance(stage.throughput, Throughput)]
    times_s = [needed / rate for rate in rates if rate]
    about = f" ({format_minutes(max(times_s))})" if times_s else ""
    return f"{name} takes {needed:,}{about}"


def _joined(names: Sequence[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]]) if len(names) > 1 else "".join(names)
