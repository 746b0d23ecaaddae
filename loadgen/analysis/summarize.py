"""Runs become their summary: of each stage what it says in one run, or in repeated runs of one plan. Pure.

Every function takes a stage as it was in each run. Of one run it says what that run says; of several, outcomes, tokens
and windows add up, and a verdict is the worst. Runs are what is independent then, not their requests.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

import msgspec
from msgspec import UNSET

from loadgen.analysis import metrics, same_plan, stop_rule
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
from loadgen.analysis.validity import Verdict, validity
from loadgen.record import OUTCOMES, Record
from loadgen.scenario.stop_rule import StopRule
from loadgen.stats.quantile import Floor, Quantile, relative_half_width
from loadgen.store.run_folder import Run

FLUID: Final = 0.9

VERDICTS: Final[tuple[Verdict, ...]] = ("valid", "degraded", "invalid")
"""From the best to the worst."""

OVER_RUNS: Final[dict[str, Callable[[Sequence[float]], float | None]]] = {
    "in_flight_sampled": mean,
    "in_flight_recorded": mean,
    "achieved_share": min,
    "users_share": min,
    "over_range": sum,
    "clock_steps": sum,
}
"""What several runs measured of themselves, by its name in `Self`: shares that should be high at their lowest, counts
added up. All else is at its highest."""


def summarize(run: Run, *, floor: Floor | None = None) -> Summary:
    """The summary of a run as it was read from its folder; equal folders give equal summaries.

    floor: how many samples a percentile needs, "strict" being as many as MLPerf asks for a published result; None: as
    many as the scenario says.
    """
    return summary_of([run], [stages_of(run, floor=floor)])


def merged(runs: Sequence[Run], *, floor: Floor | None = None) -> Summary:
    """The summary of two or more runs of one plan, in the order given.

    A percentile is that of a typical run, and its interval comes from how the runs differ (`loadgen.stats.repeats`);
    `p99_runs` has each run's own. Rates are means over the runs. For both, a run in which the stage was cut short is
    passed over where two complete ones are there. Each reason of a verdict says in how many runs it was met. floor: as
    in `summarize`. Raises InputError for runs that are not of one plan, or of which one is given twice.
    """
    same_plan.check_alike(runs)
    return summary_of(runs, [stages_of(run, floor=floor) for run in runs])


def summary_of(runs: Sequence[Run], stages: Sequence[Sequence[StageData]]) -> Summary:
    """The summary of one run, or of several of one plan. stages: of each run, by `stages_of`."""
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
    """One stage, as it was in each run. Where it was skipped in some, of the others."""
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
        # Without what belongs to the whole run.
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
    """Each run's stage, as far as it is to be compared with the others: not where it was skipped, nor, where there are
    two that were played to their end, where it was cut short."""
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
    """Counts that add up: what a killed run planned and has no record of counts as cancelled."""
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
    """Whether an attempt was made: not of what was shed, or stopped before its turn, first or later."""
    return (record.attempt_ns if record.attempt else record.dispatched_ns) is not None


def _metrics(compared: Sequence[StageData | None], floor: Floor) -> dict[str, Metric]:
    """Each latency that some run has: of those runs in which it has values."""
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
    """The means over the runs; of one run its rates, with the interval that its own requests give."""
    if len(each) == 1 and each[0] is not None:
        return each[0]
    return Throughput(
        **{name: rate.mean for name, rate in rates.items()}, e2e_tokens_per_s_ci=rates["e2e_tokens_per_s"].ci
    )


def _tokens(stages: Sequence[StageData]) -> Tokens:
    """Prompt tokens that one run does not know are known of none."""
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
    """How far the SLO was met, as far as it can be judged; None without one, or without a gate where nothing can be.
    No gate is passed by what is not known."""
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
    """The server's side: its processes together, as we saw them, memory at its highest and CPU on average over the
    runs; and its own timings beside ours."""
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
    """Of each run whether it is to be believed; of all, what the worst says, and of machines, the one that neighbors
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
    known = [value for value in values if value is not None]
    return OVER_RUNS[name](known) if known and name in OVER_RUNS else highest(known)


def _reasons(each: Sequence[Sequence[Reason]]) -> tuple[Reason, ...]:
    """Each reason once, as the run says it that has it at its worst; of several runs, in how many."""
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
    """Of the run which settled least."""
    each = [stage.steadiness for stage in stages if stage.steadiness is not None]
    return max(each, key=lambda run: ((True, None, False).index(run.steady), run.warmed_after), default=None)


def _not_valid(stages: Sequence[StageData]) -> dict[str, str]:
    """By metric, the first run's words; and in how many runs, where it is not all of them."""
    reasons: dict[str, str] = {}
    each = [stage.not_valid for stage in stages]
    for name in dict.fromkeys(name for not_valid in each for name in not_valid):
        texts = [not_valid[name] for not_valid in each if name in not_valid]
        reasons[name] = texts[0] if len(texts) == len(each) else f"{texts[0]}, in {len(texts)} of {len(each)} runs"
    return reasons


def _until(stages: Sequence[StageData]) -> Until | None:
    """What a stage waited for: in the run that came least far."""
    each = [_until_in_run(stage, stage.until) for stage in stages if stage.until is not None]
    return max(each, key=lambda run: (run.reached is None, run.needed or 0, run.width or 0.0), default=None)


def _until_in_run(stage: StageData, goal: StopRule) -> Until:
    """By the interval in the summary, which was made for that."""
    known = stage.latencies[f"{goal.metric}_ms"].percentile(goal.percentile)
    width = relative_half_width(Quantile(goal.p, known.value, known.low, known.high))
    early = stage.facts is not None and stage.facts.rule_met
    # Where the requests ran out, nobody chose the moment by the width: it counts as it is.
    reached = width is not None and (early or width <= goal.within)
    return Until(
        metric=goal.metric,
        percentile=goal.percentile,
        asked=goal.within,
        reached=rounded(width) if reached else None,
        requests=len(stage.ok),
        early=early,
        width=rounded(width),
        needed=None if reached else stop_rule.needed(width, len(stage.ok), goal, stage.floor),
    )
