"""Repeated runs of one plan as one summary: runs are what is independent, not their requests. Pure; knows no files."""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

import msgspec
import numpy as np
from msgspec import UNSET, Struct, UnsetType

from loadgen.analysis import metrics
from loadgen.analysis.stage import StageData, stages_of
from loadgen.analysis.summarize import PERCENTILES, summary_of
from loadgen.analysis.summary import (
    AcrossRuns,
    Attainment,
    Metric,
    Percentile,
    Reason,
    Requests,
    Runs,
    Self,
    ServerSummary,
    StageSummary,
    Steadiness,
    Summary,
    Throughput,
    Tokens,
    Until,
    Validity,
    in_ms,
    rounded,
)
from loadgen.errors import InputError
from loadgen.record import JsonObject
from loadgen.stats.quantile import CONFIDENCE, Floor, Values
from loadgen.stats.repeats import Repeated, estimate_repeated
from loadgen.store.manifest import Manifest
from loadgen.store.run_folder import Run

VERDICTS: Final = ("valid", "degraded", "invalid")


class Part(Struct, frozen=True):
    """One stage in one run: its summary by itself, and the data that it is of."""

    summary: StageSummary
    data: StageData


def merged(runs: Sequence[Run], *, floor: Floor | None = None) -> Summary:
    """The summary of two or more runs of one plan, in the order given.

    Outcomes, tokens and windows add up. A percentile is that of a typical run, and its interval comes from how the runs
    differ (`loadgen.stats.repeats`); `p99_runs` has each run's own. Rates are means over the runs. For both, a run in
    which the stage was cut short is passed over where two whole ones are there. A verdict is the worst, and each reason
    says in how many runs it was met. floor: as in `summarize`. Raises InputError for runs that are not of one plan, or
    of which one is given twice.
    """
    check_alike(runs)
    stages = [stages_of(run, floor=floor) for run in runs]
    summaries = list(map(summary_of, runs, stages))
    merged_floor: Floor = "strict" if any(summary.floor == "strict" for summary in summaries) else "contract"
    parts = [list(map(Part, summary.stages, data)) for summary, data in zip(summaries, stages, strict=True)]
    first = summaries[0]
    return msgspec.structs.replace(
        first,
        run_id=f"{first.run_id}-x{len(runs)}",
        incomplete=any(summary.incomplete for summary in summaries),
        stages=tuple(_stage(stage, len(runs), merged_floor) for stage in zip(*parts, strict=True)),
        torn_lines=sum(summary.torn_lines for summary in summaries),
        floor=merged_floor,
        runs=tuple(summary.run_id for summary in summaries),
    )


def _stage(parts: Sequence[Part], count: int, floor: Floor) -> StageSummary:
    """One stage of all runs. Where it was skipped in some, of the others."""
    played = [part for part in parts if part.summary.status == "played"]
    if not played:
        return parts[0].summary
    stages = [part.summary for part in played]
    first = stages[0]
    compared = _compared(parts)
    throughput = {name: over([getattr(s.throughput, name, None) for s in compared]) for name in _RATES}
    return msgspec.structs.replace(
        first,
        incomplete=len(played) < count or any(stage.incomplete for stage in stages),
        requests=_requests([stage.requests for stage in stages if isinstance(stage.requests, Requests)]),
        window_s=_sum(stage.window_s for stage in stages),
        metrics=_metrics(compared, parts, floor),
        throughput=_throughput(throughput),
        tokens=_tokens([stage.tokens for stage in stages if isinstance(stage.tokens, Tokens)]),
        slo=_attainment([stage for stage in stages if stage.slo is not None]),
        server=_server(played),
        validity=_validity([s.validity for s in stages if isinstance(s.validity, Validity)], len(played)),
        steadiness=_steadiness([stage.steadiness for stage in stages if stage.steadiness is not None]),
        not_valid=_not_valid(stages),
        until=_until([stage.until for stage in stages if stage.until is not None]),
        runs=Runs(
            played=len(played),
            verdicts=tuple(getattr(part.summary.validity, "verdict", "skipped") for part in parts),
            windows_s=tuple(part.summary.window_s for part in parts),
            throughput=throughput,
        ),
    )


def _compared(parts: Sequence[Part]) -> list[StageSummary]:
    """What each run says where it is to be compared with others: nothing where it was skipped, or was cut short."""
    is_comparable = [part.summary.status == "played" and not part.summary.incomplete for part in parts]
    if sum(is_comparable) < 2:
        return [part.summary for part in parts]
    bare = {"metrics": UNSET, "throughput": UNSET}
    return [
        part.summary if comparable else msgspec.structs.replace(part.summary, **bare)
        for part, comparable in zip(parts, is_comparable, strict=True)
    ]


_RATES: Final = tuple(name for name in Throughput.__struct_fields__ if not name.endswith("_ci"))


def over(values: Iterable[float | None]) -> AcrossRuns:
    """A number over the runs: its mean, and Student's 95 % interval of it, N − 1 degrees of freedom."""
    each = tuple(values)
    known = [value for value in each if value is not None]
    if len(known) < 2:
        return AcrossRuns(each, rounded(known[0]) if known else None, None)
    from scipy.special import stdtrit  # here, as in `loadgen.stats.quantile`

    mean = sum(known) / len(known)
    variance = sum((value - mean) ** 2 for value in known) / (len(known) - 1)
    reach = float(stdtrit(len(known) - 1, (1 + CONFIDENCE) / 2)) * math.sqrt(variance / len(known))
    return AcrossRuns(each, rounded(mean), (round(mean - reach, 4), round(mean + reach, 4)))


def _throughput(rates: dict[str, AcrossRuns]) -> Throughput:
    means: JsonObject = {name: rate.mean for name, rate in rates.items()}
    return Throughput(**means, e2e_tokens_per_s_ci=rates["e2e_tokens_per_s"].ci)


def _requests(each: Sequence[Requests]) -> Requests:
    by_outcome: Counter[str] = Counter()
    for requests in each:
        by_outcome.update(requests.by_outcome)
    return Requests(
        planned=sum(requests.planned for requests in each),
        ok=sum(requests.ok for requests in each),
        failed=sum(requests.failed for requests in each),
        by_outcome=dict(by_outcome),
        warmup=sum(requests.warmup for requests in each),
        retried=sum(requests.retried for requests in each),
        attempts=sum(requests.attempts for requests in each),
    )


def _tokens(each: Sequence[Tokens]) -> Tokens:
    sources = {tokens.source for tokens in each}
    return Tokens(
        prompt=None if any(tokens.prompt is None for tokens in each) else sum(tokens.prompt or 0 for tokens in each),
        output=sum(tokens.output for tokens in each),
        source=sources.pop() if len(sources) == 1 else "mixed",
    )


def _metrics(compared: Sequence[StageSummary], parts: Sequence[Part], floor: Floor) -> dict[str, Metric]:
    """Of each metric that some run has: of those runs in which it has values that are valid."""
    each = [{} if stage.metrics is UNSET else stage.metrics for stage in compared]
    names = dict.fromkeys(name for metrics_of_run in each for name in metrics_of_run)
    return {name: _metric(name, [of_run.get(name) for of_run in each], parts, floor) for name in names}


def _metric(name: str, each: Sequence[Metric | None], parts: Sequence[Part], floor: Floor) -> Metric:
    known = {at: metric for at, metric in enumerate(each) if metric is not None and metric.count}
    if len(known) < 2:  # one run says how its own requests differ, and nothing of other runs
        return next(iter(known.values()), None) or next(metric for metric in each if metric is not None)
    values, owners = zip(*(_values(name, parts[at].data) for at in known), strict=True)
    pooled = np.concatenate(values)
    runs = np.repeat(np.arange(len(values)), [array.size for array in values])
    of_gaps = None if owners[0] is None else np.concatenate(owners)
    quantiles = estimate_repeated(pooled, runs, PERCENTILES, request_ids=of_gaps, floor=floor)
    percentiles = {}
    for quantile in quantiles:
        of_runs: list[float | None] = [None] * len(parts)
        for at, value in zip(known, quantile.runs, strict=True):
            of_runs[at] = in_ms(value)
        percentiles[f"p{quantile.p:g}"] = msgspec.structs.replace(_percentile(quantile), runs=tuple(of_runs))
    mean, low, high = in_ms(float(pooled.mean())), in_ms(int(pooled.min())), in_ms(int(pooled.max()))
    return Metric(int(pooled.size), mean, low, high, percentiles)


def _values(name: str, part: StageData) -> tuple[Values, Values | None]:
    """A metric's values in one run, and of gaps the request that each is of."""
    metric = name.removesuffix("_ms")
    if metric == "itl":
        return part.gaps.values, part.gaps.owners
    return part.values[metric], None


def _percentile(repeated: Repeated) -> Percentile:
    if repeated.value is None or repeated.high is None or not math.isfinite(repeated.high):
        return Percentile(None, in_ms(repeated.low))
    return Percentile(in_ms(repeated.value), in_ms(repeated.low), in_ms(repeated.high))


def _attainment(stages: Sequence[StageSummary]) -> Attainment | None:
    each = [(stage.slo, stage.requests) for stage in stages]
    known = [(slo, requests) for slo, requests in each if slo is not None and isinstance(requests, Requests)]
    if not known:
        return None
    first, met, planned = known[0][0], sum(slo.met for slo, _ in known), sum(r.planned for _, r in known)
    share = met / planned if planned else 0.0
    return msgspec.structs.replace(
        first,
        met=met,
        share=round(share, 4),
        passed=None if first.attainment is None else share >= first.attainment,
        fluidity=_weighted((slo.fluidity, requests.ok) for slo, requests in known),
        fluid_share=_weighted((slo.fluid_share, requests.ok) for slo, requests in known),
    )


def _weighted(pairs: Iterable[tuple[float | None, int]]) -> float | None:
    known = [(value, weight) for value, weight in pairs if value is not None]
    total = sum(weight for _, weight in known)
    return rounded(sum(value * weight for value, weight in known) / total) if total else None


def _server(parts: Sequence[Part]) -> ServerSummary | None:
    """Memory at its highest, CPU on average; the server's own rates over the requests of all runs."""
    each = [part.summary.server for part in parts if part.summary.server is not None]
    rates = metrics.server_rates([record for part in parts for record in part.data.ok])
    if not each and rates is None:
        return None
    return ServerSummary(
        rss_start_mib=_together([server.rss_start_mib for server in each], max),
        rss_peak_mib=_together([server.rss_peak_mib for server in each], max),
        cpu_share=_together([server.cpu_share for server in each], _mean),
        rates=UNSET if rates is None else rates,
    )


def _together(
    values: Sequence[float | UnsetType | None], together: Callable[[Sequence[float]], float | None]
) -> float | UnsetType | None:
    """A figure of several runs as one; unset where no run looked at it."""
    looked_at = [value for value in values if value is not UNSET]
    known = [value for value in looked_at if value is not None]
    return UNSET if not looked_at else together(known) if known else None


def _mean(values: Sequence[float]) -> float | None:
    return rounded(sum(values) / len(values))


def _sum(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return rounded(sum(known)) if known else None


def _validity(each: Sequence[Validity], count: int) -> Validity:
    """The worst verdict; each reason once, as the run says it that has it at its worst, and in how many runs."""
    reasons: dict[str, dict[int, Reason]] = {}
    for run, validity in enumerate(each):
        for reason in validity.reasons:
            reasons.setdefault(reason.code, {}).setdefault(run, reason)
    merged_reasons = []
    for met in reasons.values():
        worst = next((reason for reason in met.values() if reason.fatal), next(iter(met.values())))
        merged_reasons.append(msgspec.structs.replace(worst, seen=f"{worst.seen}, {_in_runs(len(met), count)}"))
    return Validity(
        verdict=max((validity.verdict for validity in each), key=VERDICTS.index),
        reasons=tuple(merged_reasons),
        stamp_source="kernel" if all(validity.stamp_source == "kernel" for validity in each) else "user",
        self=_self([validity.self for validity in each]),
    )


def _in_runs(met: int, count: int) -> str:
    return f"in {met} of {count} runs"


def _self(each: Sequence[Self]) -> Self:
    """What was measured of ourselves, at its worst: shares that should be high at their lowest, all else at its
    highest; what is a count added up, and requests in flight averaged."""
    fields: JsonObject = {}
    for name in Self.__struct_fields__:
        values = [value for own in each if (value := getattr(own, name)) is not None]
        fields[name] = _TOGETHER.get(name, max)(values) if values else None
    return Self(**fields)


_TOGETHER: Final[dict[str, Callable[[Sequence[float]], float | None]]] = {
    "in_flight_sampled": _mean,
    "in_flight_recorded": _mean,
    "achieved_share": min,
    "users_share": min,
    "over_range": sum,
    "clock_steps": sum,
}


def _steadiness(each: Sequence[Steadiness]) -> Steadiness | None:
    """That of the run which settled least."""
    order = (True, None, False)
    return max(each, key=lambda steadiness: (order.index(steadiness.steady), steadiness.warmed_after), default=None)


def _until(each: Sequence[Until]) -> Until | None:
    """That of the run which came least far."""
    return max(each, key=lambda until: (until.reached is None, until.needed or 0, until.width or 0.0), default=None)


def _not_valid(stages: Sequence[StageSummary]) -> dict[str, str]:
    reasons: dict[str, str] = {}
    for name in dict.fromkeys(name for stage in stages for name in stage.not_valid):
        why = [stage.not_valid[name] for stage in stages if name in stage.not_valid]
        reasons[name] = why[0] if len(why) == len(stages) else f"{why[0]}, {_in_runs(len(why), len(stages))}"
    return reasons


# Whether runs are repeats of one plan, and what differs where they are not. Pure; knows no requests.

MATTERS: Final = ("load", "prompts", "sampling", "system", "models", "slo", "until", "seed", "warmup_requests", "order")
"""Keys of a scenario that are looked through first, when two runs are not of one plan."""
ASIDE: Final = ("name", "description", "keep_text", "probe", "strict")
"""Keys that decide nothing of what is sent and when."""


def check_alike(runs: Sequence[Run]) -> None:
    """Raises InputError unless these are two or more runs of one plan, judged by one SLO."""
    first = runs[0]
    if len(runs) < 2:
        raise InputError(f"{first.folder}: one run is not merged with itself; give two or more")
    by_id: dict[str, Run] = {}
    for run in runs:
        if (twice := by_id.get(run.manifest.run_id)) is not None:
            raise InputError(f"{run.folder}: the same run as {twice.folder}; give each run once")
        by_id[run.manifest.run_id] = run
        differs = difference(first.manifest, run.manifest)
        if differs is not None:
            raise InputError(f"{run.folder}: not the same plan as {first.folder}: {differs}; merge runs of one plan")


def difference(first: Manifest, second: Manifest) -> str | None:
    """What keeps two runs from being repeats of one another, in words; None where nothing does."""
    slos = (first.scenario.slo, second.scenario.slo)
    where = [tuple(stage.key for stage in manifest.stages) for manifest in (first, second)]
    if first.plan_digest == second.plan_digest and slos[0] == slos[1] and where[0] == where[1]:
        return None
    differs = _first_difference(msgspec.to_builtins(first.scenario), msgspec.to_builtins(second.scenario), "")
    if differs is not None:
        return differs
    if first.prompts != second.prompts:
        return "the prompts differ"
    return "the models' addresses differ" if where[0] != where[1] else "the plans' digests differ"


def _first_difference(first: Any, second: Any, path: str) -> str | None:
    if isinstance(first, dict) and isinstance(second, dict):
        keys = dict.fromkeys((*(MATTERS if not path else ()), *first, *second))
        deeper = (_first_difference(first.get(k), second.get(k), f"{path}.{k}" if path else k) for k in keys)
        return next((differs for differs in deeper if differs is not None), None)
    if first == second or path in ASIDE:
        return None
    return f"{path} is {_short(first)} there and {_short(second)} here"


def _short(value: Any) -> str:
    text = "not set" if value is None else msgspec.json.encode(value).decode()
    return text if len(text) <= 40 else f"{text[:39]}…"
