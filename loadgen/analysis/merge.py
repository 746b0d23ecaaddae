"""Repeated runs of one plan as one summary: runs are what is independent, not their requests. Pure; knows no files."""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, Final, TypeVar

import msgspec
import numpy as np
from msgspec import UNSET, Struct

from loadgen.analysis.stage import StageData, stages_of
from loadgen.analysis.summarize import PERCENTILES, attainment_of, metric_of, percentile_of, server_of, summary_of
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
    Summary,
    Throughput,
    Tokens,
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
    return summary_of_runs(runs, [stages_of(run, floor=floor) for run in runs])


def summary_of_runs(runs: Sequence[Run], stages: Sequence[Sequence[StageData]]) -> Summary:
    """As `merged`, of the runs' stages by `stages_of`."""
    check_alike(runs)
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
    compared = _compared(parts)
    throughput = {name: over([getattr(s.throughput, name, None) for s in compared]) for name in _RATES}
    return msgspec.structs.replace(
        folded(stages, STAGE_RULES),
        incomplete=len(played) < count or any(stage.incomplete for stage in stages),
        metrics=_metrics(compared, parts, floor),
        throughput=_throughput(throughput),
        slo=_attainment(stages),
        server=_server(played),
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
    return metric_of(pooled, percentiles)


def _values(name: str, part: StageData) -> tuple[Values, Values | None]:
    """A metric's values in one run, and of gaps the request that each is of."""
    metric = name.removesuffix("_ms")
    if metric == "itl":
        return part.gaps.values, part.gaps.owners
    return part.values[metric], None


def _percentile(repeated: Repeated) -> Percentile:
    """An interval that has no finite end is one without an upper end."""
    bounded = repeated.high is not None and math.isfinite(repeated.high)
    return percentile_of(repeated if bounded else msgspec.structs.replace(repeated, value=None, high=None))


def _attainment(stages: Sequence[StageSummary]) -> Attainment | None:
    each = [(stage.slo, stage.requests) for stage in stages]
    known = [(slo, requests) for slo, requests in each if slo is not None and isinstance(requests, Requests)]
    if not known:
        return None
    return attainment_of(
        known[0][0].slo,
        known[0][0].attainment,
        met=sum(slo.met for slo, _ in known),
        planned=sum(requests.planned for _, requests in known),
        fluidity=_weighted((slo.fluidity, requests.ok) for slo, requests in known),
        fluid_share=_weighted((slo.fluid_share, requests.ok) for slo, requests in known),
        not_judged=next((stage.not_valid["slo"] for stage in stages if "slo" in stage.not_valid), None),
    )


def _weighted(pairs: Iterable[tuple[float | None, int]]) -> float | None:
    known = [(value, weight) for value, weight in pairs if value is not None]
    total = sum(weight for _, weight in known)
    return rounded(sum(value * weight for value, weight in known) / total) if total else None


def _server(parts: Sequence[Part]) -> ServerSummary | None:
    """Memory at its highest, CPU on average; the server's own rates over the requests of all runs."""
    servers = [part.summary.server for part in parts if part.summary.server is not None]
    records = [record for part in parts for record in part.data.ok]
    return server_of(folded(servers, SERVER_RULES) if servers else None, records)


# How the runs' values of a field become one value.

AnyStruct = TypeVar("AnyStruct", bound=Struct)
Rule = Callable[[Sequence[Any]], Any]
"""Of the values of a field that are known, at least one, the value that stands for all runs."""


def folded(each: Sequence[AnyStruct], rules: Mapping[str, Rule]) -> AnyStruct:
    """Several structs as one: each field by its rule, and one that has no rule as the first struct has it."""
    fields = {name: _fold([getattr(struct, name) for struct in each], rule) for name, rule in rules.items()}
    return msgspec.structs.replace(each[0], **fields)


def _fold(values: Sequence[Any], rule: Rule) -> Any:
    """The values that are known, by a rule; None where no run knows it, unset where none looked at it."""
    looked_at = [value for value in values if value is not UNSET]
    known = [value for value in looked_at if value is not None]
    if not known:
        return None if looked_at else UNSET
    return rule(known)


def _mean(values: Sequence[float]) -> float | None:
    return rounded(sum(values) / len(values))


def _reasons(each: Sequence[Sequence[Reason]]) -> tuple[Reason, ...]:
    """Each reason once, as the run says it that has it at its worst, and in how many runs."""
    by_code: dict[str, dict[int, Reason]] = {}
    for run, reasons in enumerate(each):
        for reason in reasons:
            by_code.setdefault(reason.code, {}).setdefault(run, reason)
    merged_reasons = []
    for met in by_code.values():
        worst = next((reason for reason in met.values() if reason.fatal), next(iter(met.values())))
        merged_reasons.append(msgspec.structs.replace(worst, seen=f"{worst.seen}, in {len(met)} of {len(each)} runs"))
    return tuple(merged_reasons)


def _not_valid(each: Sequence[Mapping[str, str]]) -> dict[str, str]:
    """By metric, the first run's words; and in how many runs, where it is not all of them."""
    reasons: dict[str, str] = {}
    for name in dict.fromkeys(name for of_run in each for name in of_run):
        texts = [of_run[name] for of_run in each if name in of_run]
        reasons[name] = texts[0] if len(texts) == len(each) else f"{texts[0]}, in {len(texts)} of {len(each)} runs"
    return reasons


def _tokens(each: Sequence[Tokens]) -> Tokens:
    """Prompt tokens that one run does not know are known of none."""
    total = folded(each, TOKENS_RULES)
    return msgspec.structs.replace(total, prompt=None) if any(tokens.prompt is None for tokens in each) else total


REQUESTS_RULES: Final[dict[str, Rule]] = {
    **dict.fromkeys(Requests.__struct_fields__, sum),
    "by_outcome": lambda each: dict(sum(map(Counter, each), Counter())),
}
TOKENS_RULES: Final[dict[str, Rule]] = {
    "prompt": sum,
    "output": sum,
    "source": lambda each: each[0] if len(set(each)) == 1 else "mixed",
}
SELF_RULES: Final[dict[str, Rule]] = {
    **dict.fromkeys(Self.__struct_fields__, max),
    "in_flight_sampled": _mean,
    "in_flight_recorded": _mean,
    "achieved_share": min,
    "users_share": min,
    "over_range": sum,
    "clock_steps": sum,
}
"""At its worst: shares that should be high at their lowest, all else at its highest; counts add up, and requests in
flight are averaged."""
SERVER_RULES: Final[dict[str, Rule]] = {"rss_start_mib": max, "rss_peak_mib": max, "cpu_share": _mean}
VALIDITY_RULES: Final[dict[str, Rule]] = {
    "verdict": partial(max, key=VERDICTS.index),
    "reasons": _reasons,
    "stamp_source": partial(max, key=("kernel", "user").index),
    "self": partial(folded, rules=SELF_RULES),
}
STAGE_RULES: Final[dict[str, Rule]] = {
    "requests": partial(folded, rules=REQUESTS_RULES),
    "window_s": lambda each: rounded(sum(each)),
    "tokens": _tokens,
    "validity": partial(folded, rules=VALIDITY_RULES),
    # The run which settled least, and the one which came least far.
    "steadiness": partial(max, key=lambda it: ((True, None, False).index(it.steady), it.warmed_after)),
    "until": partial(max, key=lambda it: (it.reached is None, it.needed or 0, it.width or 0.0)),
    "not_valid": _not_valid,
}


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
