"""Computes the summary of a run, or of repeated runs of one plan. Pure.

Every function takes a stage's `StageData` in each run. With several runs, outcomes, tokens and windows add up, the
worst verdict counts, and intervals treat the runs as independent, not their requests.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

import msgspec
from msgspec import UNSET

from loadgen.analysis import metrics, same_plan, stop_rule_monitor
from loadgen.analysis.quality import with_quality
from loadgen.analysis.samples import metric_of_runs
from loadgen.analysis.stage import StageData, stages_of
from loadgen.analysis.summary import (
    SCHEMA,
    AcrossRuns,
    Attainment,
    Metric,
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
    highest,
    mean,
    rounded,
    total,
)
from loadgen.analysis.throughput import rates_over_runs, throughput_of_run
from loadgen.analysis.validity import StageVerdict, validity
from loadgen.record import OUTCOMES, Record
from loadgen.scenario.stop_rule import StopRule
from loadgen.stats.quantile import Floor, Quantile
from loadgen.stats.settled import relative_half_width
from loadgen.store.run_folder import Run

FLUID: Final = 0.9

VERDICTS: Final[tuple[StageVerdict, ...]] = ("valid", "degraded", "invalid")
"""From the best to the worst."""

OVER_RUNS: Final[dict[str, Callable[[Sequence[float]], float | None]]] = {
    "in_flight_sampled": mean,
    "in_flight_recorded": mean,
    "achieved_share": min,
    "users_share": min,
    "over_range": sum,
    "clock_steps": sum,
}
"""How to combine what several runs measured of themselves, by the field of `Self`: the lowest of shares that should be
high, the sum of counts. The highest of any other field."""


def summarize(run: Run, *, floor: Floor | None = None) -> Summary:
    """The summary of a run that was read from its folder. Equal folders give equal summaries.

    floor: how many samples a percentile needs; "strict": as many as MLPerf requires for a published result; None: as
    the scenario says.
    """
    stages = stages_of(run, floor=floor)
    return with_quality(summary_of([run], [stages]), [stages], run.manifest.scenario.sampling)


def merged(runs: Sequence[Run], *, floor: Floor | None = None) -> Summary:
    """The summary of two or more runs of one plan, in the order given.

    A percentile is that of a typical run, and its interval comes from the differences between the runs
    (`loadgen.stats.repeats`); `p99_runs` has each run's own value. Rates are means over the runs. Both leave out runs
    in which the stage was cut short, if there are two complete ones. Each reason of a verdict says in how many runs it
    holds. floor: as in `summarize`. Raises InputError if the runs are not of one plan, or if one is given twice.
    """
    same_plan.check_alike(runs)
    stages = [stages_of(run, floor=floor) for run in runs]
    return with_quality(summary_of(runs, stages), stages, runs[0].manifest.scenario.sampling)


def summary_of(runs: Sequence[Run], stages: Sequence[Sequence[StageData]]) -> Summary:
    """The summary of one run, or of several of one plan, without the quality of the answers. stages: each run's, from
    `stages_of`."""
    first = runs[0].manifest
    strict = any(stage.floor == "strict" for stages_of_run in stages for stage in stages_of_run)
    floor: Floor = "strict" if strict else "contract"
    return Summary(
        schema=SCHEMA,
        scenario=first.scenario.name,
        run_id=first.run_id if len(runs) == 1 else f"{first.run_id}-x{len(runs)}",
        started_utc=first.started_utc,
        incomplete=any(run.manifest.state != "complete" for run in runs),
        stages=tuple(_stage(in_each_run, floor) for in_each_run in zip(*stages, strict=True)),
        plan_digest=first.plan_digest,
        torn_lines=sum(run.torn for run in runs),
        streamed=first.scenario.sampling.stream,
        floor=floor,
        runs=() if len(runs) == 1 else tuple(run.manifest.run_id for run in runs),
    )


def _stage(stages: Sequence[StageData], floor: Floor) -> StageSummary:
    """The summary of one stage from its data in each run. Runs in which it was skipped are left out."""
    played = [stage for stage in stages if not stage.is_skipped]
    first = played[0] if played else stages[0]
    planned = first.planned
    summary = StageSummary(model=planned.model, target=planned.target, load=planned.load, level=planned.level)
    if not played:
        reason, problem = UNSET if planned.skipped is None else planned.skipped, planned.problem or "unusable"
        return msgspec.structs.replace(summary, status="skipped", reason=reason, problem=problem)
    compared = _compared(stages)
    throughput = [None if stage is None else throughput_of_run(stage) for stage in compared]
    rates = rates_over_runs(throughput)
    verdicts = [None if stage.is_skipped else validity(stage) for stage in stages]
    return msgspec.structs.replace(
        summary,
        # Without the fields that belong to the whole run.
        card=None if first.card is None else msgspec.structs.replace(first.card, probe=UNSET, settings=UNSET),
        incomplete=any(stage.is_skipped or not stage.is_complete for stage in stages),
        requests=_requests(played),
        window_s=total(_window_s(stage) for stage in played),
        metrics=_metrics(compared, floor),
        throughput=_throughput(throughput, rates),
        tokens=_tokens(played),
        slo=_attainment(played),
        server=_server(played),
        validity=_validity([each for each in verdicts if each is not None]),
        steadiness=_steadiness(played),
        not_valid=_not_valid(played),
        until=_until(played),
        runs=None if len(stages) == 1 else _runs(stages, verdicts, rates),
    )


def _compared(stages: Sequence[StageData]) -> list[StageData | None]:
    """Each run's stage if it is compared with the others, else None: if it was skipped, or if it was cut short and two
    runs have it complete."""
    is_complete = [not stage.is_skipped and stage.is_complete for stage in stages]
    is_compared = is_complete if sum(is_complete) >= 2 else [not stage.is_skipped for stage in stages]
    return [stage if compared else None for stage, compared in zip(stages, is_compared, strict=True)]


def _runs(stages: Sequence[StageData], verdicts: Sequence[Validity | None], rates: dict[str, AcrossRuns]) -> Runs:
    return Runs(
        played=sum(verdict is not None for verdict in verdicts),
        verdicts=tuple("skipped" if verdict is None else verdict.verdict for verdict in verdicts),
        windows_s=tuple(None if stage.is_skipped else _window_s(stage) for stage in stages),
        throughput=rates,
    )


def _window_s(stage: StageData) -> float | None:
    return rounded(stage.steady_window.length_s) if stage.steady_window else None


def _requests(stages: Sequence[StageData]) -> Requests:
    """The counts of all runs added up. Requests that a killed run planned and has no record of count as cancelled."""
    counted = Counter(record.outcome for stage in stages for record in stage.measured)
    planned = sum(stage.requests for stage in stages)
    counted["cancelled"] += planned - counted.total()
    attempts = [record for stage in stages for record in (*stage.measured, *stage.earlier) if _was_made(record)]
    return Requests(
        planned=planned,
        ok=counted["ok"],
        failed=planned - counted["ok"],
        by_outcome={str(outcome): counted[outcome] for outcome in OUTCOMES if counted[outcome]},
        warmup=sum(len(stage.warmup) for stage in stages),
        retried=sum(record.attempt == 1 for record in attempts),
        attempts=len(attempts),
    )


def _was_made(record: Record) -> bool:
    """Whether the attempt of a record was made. It was not if the request was shed, or stopped before this attempt."""
    return (record.attempt_ns if record.attempt else record.dispatched_ns) is not None


def _metrics(compared: Sequence[StageData | None], floor: Floor) -> dict[str, Metric]:
    """Each latency that has values in some run, from the runs in which it has."""
    names = dict.fromkeys(name for stage in compared if stage is not None for name in stage.latencies)
    return {name: _metric(name, compared, floor) for name in names}


def _metric(name: str, compared: Sequence[StageData | None], floor: Floor) -> Metric:
    having = [stage if stage is not None and name in stage.latencies else None for stage in compared]
    known = [stage.latencies[name] for stage in having if stage is not None]
    counted = [metric for metric in known if metric.count]
    if len(counted) < 2:  # one run says how its own requests differ, and nothing of other runs
        return (counted or known)[0]
    metric = name.removesuffix("_ms")
    return metric_of_runs([None if stage is None else stage.samples(metric) for stage in having], floor=floor)


def _throughput(each: Sequence[Throughput | None], rates: dict[str, AcrossRuns]) -> Throughput:
    """The means of the rates over the runs. For a single run: its rates, with the interval from its own requests."""
    if len(each) == 1 and each[0] is not None:
        return each[0]
    return Throughput(
        **{name: rate.mean for name, rate in rates.items()}, e2e_tokens_per_s_ci=rates["e2e_tokens_per_s"].ci
    )


def _tokens(stages: Sequence[StageData]) -> Tokens:
    """The tokens of all runs added up. If one run does not know its prompt tokens, the sum is not known."""
    records = [record for stage in stages for record in stage.ok]
    sources = {record.token_source for record in records}
    prompt = [_prompt_tokens(stage.ok) for stage in stages]
    cached = [record.cached_tokens for record in records if record.cached_tokens is not UNSET]
    return Tokens(
        prompt=None if None in prompt else sum(count for count in prompt if count is not None),
        output=sum(record.output_tokens or 0 for record in records),
        source="mixed" if len(sources) > 1 else next(iter(sources), "usage"),
        cached=sum(cached) if cached else UNSET,
    )


def _prompt_tokens(records: Sequence[Record]) -> int | None:
    counts = [record.prompt_tokens for record in records if record.prompt_tokens is not None]
    return sum(counts) if counts or not records else None


def _attainment(stages: Sequence[StageData]) -> Attainment | None:
    """How many requests met the SLO, as far as it can be judged. None without an SLO, and if none of it can be judged
    and there is no gate. A gate is not passed if some of the SLO cannot be judged."""
    of_runs = [stage for stage in stages if stage.slo_limits_ms or (stage.not_judged and stage.slo.attainment)]
    if not of_runs:
        return None
    limits, asked = of_runs[0].slo_limits_ms, of_runs[0].slo.attainment
    planned = sum(stage.requests for stage in of_runs)
    met = sum(_met(stage) for stage in of_runs if stage.slo_limits_ms)
    share = met / planned if planned else 0.0
    is_known = all(stage.not_judged is None for stage in stages)
    passed = None if asked is None else share >= asked and is_known
    if not limits:
        return Attainment({}, 0, None, asked, passed)
    fluid = [(metrics.fluidity(stage.ok, stage.judged_slo, origin=stage.latency_origin), stage) for stage in of_runs]
    weighted = [(shares, len(stage.ok)) for shares, stage in fluid if shares]
    return Attainment(
        slo=limits,
        met=met,
        share=round(share, 4),
        attainment=asked,
        passed=passed,
        fluidity=_weighted([(sum(shares) / len(shares), count) for shares, count in weighted]),
        fluid_share=_weighted([(sum(s >= FLUID for s in shares) / len(shares), count) for shares, count in weighted]),
    )


def _met(stage: StageData) -> int:
    """How many of a run's requests met the SLO."""
    slo, origin = stage.judged_slo, stage.latency_origin
    return sum(metrics.meets(record, slo, origin=origin) for record in stage.measured)


def _weighted(pairs: Sequence[tuple[float, int]]) -> float | None:
    total = sum(weight for _, weight in pairs)
    return rounded(sum(round(value, 4) * weight for value, weight in pairs) / total) if total else None


def _server(stages: Sequence[StageData]) -> ServerSummary | None:
    """What we measured of the server's processes together, with the highest memory and the mean CPU over the runs; and
    its own timings beside ours."""
    runs = [stage.facts.servers for stage in stages if stage.facts is not None and stage.facts.servers]
    rates = metrics.server_rates([record for stage in stages for record in stage.ok])
    if not runs and rates is None:
        return None
    server = ServerSummary() if rates is None else ServerSummary(rates=rates)
    if not runs:
        return server
    return msgspec.structs.replace(
        server,
        rss_start_mib=highest(_mib(server.rss_start_bytes for server in servers) for servers in runs),
        rss_peak_mib=highest(_mib(server.rss_peak_bytes for server in servers) for servers in runs),
        cpu_share=mean(total(server.cpu_share for server in servers) for servers in runs),
    )


def _mib(sizes: Iterable[int | None]) -> float | None:
    return total(None if size is None else size / 2**20 for size in sizes)


def _validity(each: Sequence[Validity]) -> Validity:
    """The worst verdict of the runs, with the reasons of all, and the facts of the machine in the run that neighbors
    slowed most."""
    machines = [run.machine for run in each if run.machine is not UNSET]
    return Validity(
        verdict=max((run.verdict for run in each), key=VERDICTS.index),
        reasons=_reasons([run.reasons for run in each]),
        stamp_source="user" if any(run.stamp_source == "user" for run in each) else "kernel",
        machine=max(machines, key=lambda machine: machine.slowdown or 0.0) if machines else UNSET,
        self=msgspec.structs.replace(
            each[0].self,
            **{name: _over_runs(name, [getattr(run.self, name) for run in each]) for name in Self.__struct_fields__},
        ),
    )


def _over_runs(name: str, values: Sequence[Any]) -> Any:
    if all(value is UNSET for value in values):
        return UNSET
    known = [value for value in values if value is not None and value is not UNSET]
    return OVER_RUNS[name](known) if known and name in OVER_RUNS else highest(known)


def _reasons(each: Sequence[Sequence[Reason]]) -> tuple[Reason, ...]:
    """Each reason once, in the words of the run in which it is worst. With several runs, it says in how many it
    holds."""
    if len(each) == 1:
        return tuple(each[0])
    by_code: dict[str, dict[int, Reason]] = {}
    for run, reasons in enumerate(each):
        for reason in reasons:
            by_code.setdefault(reason.code, {}).setdefault(run, reason)
    merged = []
    for crossed in by_code.values():
        worst = next((reason for reason in crossed.values() if reason.fatal), next(iter(crossed.values())))
        observed = f"{worst.observed}, in {len(crossed)} of {len(each)} runs"
        merged.append(msgspec.structs.replace(worst, observed=observed))
    return tuple(merged)


def _steadiness(stages: Sequence[StageData]) -> Steadiness | None:
    """The steadiness of the run that settled least."""
    each = [stage.steadiness for stage in stages if stage.steadiness is not None]
    return max(each, key=lambda run: ((True, None, False).index(run.steady), run.warmed_after), default=None)


def _not_valid(stages: Sequence[StageData]) -> dict[str, str]:
    """By metric, why it is not valid, in the words of the first such run, and in how many runs, if not in all."""
    reasons: dict[str, str] = {}
    each = [stage.not_valid for stage in stages]
    for name in dict.fromkeys(name for not_valid in each for name in not_valid):
        texts = [not_valid[name] for not_valid in each if name in not_valid]
        reasons[name] = texts[0] if len(texts) == len(each) else f"{texts[0]}, in {len(texts)} of {len(each)} runs"
    return reasons


def _until(stages: Sequence[StageData]) -> Until | None:
    """What the stop rule of a stage came to, in the run that was furthest from meeting it."""
    each = [_until_in_run(stage, stage.until) for stage in stages if stage.until is not None]
    return max(each, key=lambda run: (run.reached is None, run.needed or 0, run.width or 0.0), default=None)


def _until_in_run(stage: StageData, rule: StopRule) -> Until:
    """What the stop rule came to in one run, by the interval in the summary."""
    known = stage.latencies[f"{rule.metric}_ms"].percentile(rule.percentile)
    width = relative_half_width(Quantile(rule.p, known.value, known.low, known.high))
    early = stage.facts is not None and stage.facts.ended_early
    # If the requests ran out, the width did not choose when to stop, so it counts as it is.
    reached = width is not None and (early or width <= rule.within)
    return Until(
        metric=rule.metric,
        percentile=rule.percentile,
        asked=rule.within,
        reached=rounded(width) if reached else None,
        requests=len(stage.ok),
        early=early,
        width=rounded(width),
        needed=None if reached else stop_rule_monitor.needed(width, len(stage.ok), rule, stage.floor),
    )
