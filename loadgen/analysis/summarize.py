"""A pure fold: a run's records and facts become its summary. Knows no terminal, no socket and no clock."""

from collections import Counter
from collections.abc import Sequence
from typing import Final

import msgspec
import numpy as np
from msgspec import UNSET

from loadgen.analysis import metrics, stop_rule
from loadgen.analysis.metric_flags import MetricFlags, judged
from loadgen.analysis.metrics import Ns, Window
from loadgen.analysis.stage import StageData, stages_of
from loadgen.analysis.stage_steady import in_words, settled
from loadgen.analysis.summary import (
    METRICS,
    SCHEMA,
    Attainment,
    Metric,
    Percentile,
    Requests,
    ServerSummary,
    StageSummary,
    Summary,
    Throughput,
    Tokens,
    Until,
    in_ms,
    rounded,
)
from loadgen.analysis.validity import processes, validity
from loadgen.record import OUTCOMES, Record
from loadgen.scenario import Slo
from loadgen.scenario.stop_rule import StopRule
from loadgen.stats.median import median
from loadgen.stats.quantile import (
    Floor,
    Quantile,
    Values,
    estimate,
    estimate_clustered,
    moments_of,
    relative_half_width,
)
from loadgen.stats.repeats import Repeated
from loadgen.store.manifest import PlannedStage, ServedModel
from loadgen.store.run_folder import Run

PERCENTILES: Final = (50.0, 90.0, 95.0, 99.0, 99.9)
FLUID: Final = 0.9


def summarize(run: Run, *, floor: Floor | None = None) -> Summary:
    """The summary of a run as it was read from its folder; equal folders give equal summaries.

    floor: how many samples a percentile needs, "strict" being as many as MLPerf asks for a published result; None: as
    many as the scenario says.
    """
    return summary_of(run, stages_of(run, floor=floor))


def summary_of(run: Run, parts: Sequence[StageData]) -> Summary:
    """The summary of a run, of its stages by `stages_of`."""
    manifest = run.manifest
    slo = manifest.scenario.slo
    streamed = manifest.scenario.sampling.stream
    if not streamed:  # what an answer does not have, it can neither meet nor miss
        slo = msgspec.structs.replace(slo, ttft_ms=None, tpot_ms=None)
    stages = tuple(_stage(part, slo, run) for part in parts)
    return Summary(
        schema=SCHEMA,
        scenario=manifest.scenario.name,
        run_id=manifest.run_id,
        started_utc=manifest.started_utc,
        incomplete=manifest.state != "complete",
        stages=stages,
        plan_digest=manifest.plan_digest,
        torn_lines=run.torn,
        streamed=streamed,
        floor=parts[0].floor if parts else "contract",
    )


def _stage(part: StageData, slo: Slo, run: Run) -> StageSummary:
    planned = part.planned
    blank = StageSummary(model=planned.model, target=planned.target, load=planned.load, level=planned.level)
    if planned.skipped is not None and not part.measured:
        problem = planned.problem or "unusable"
        return msgspec.structs.replace(blank, status="skipped", reason=planned.skipped, problem=problem)
    requests = _requests(part)
    steadiness, window = settled(part, part.window)
    flags = part.flags
    slo, of_slo = judged(slo, flags)
    measured = _metrics(part) | {name: _unknown() for name in flags.nulled if name.endswith("_ms")}
    return msgspec.structs.replace(
        blank,
        card=_card(planned, run),
        incomplete=not part.is_complete,
        requests=requests,
        window_s=rounded(window.length_s) if window else None,
        metrics=measured,
        throughput=_nulled(_throughput(part, window, slo), flags),
        tokens=_tokens(part.ok),
        slo=_attainment(part, slo, requests.planned, of_slo.get("slo")),
        server=_server(part),
        validity=validity(part, window, measured, unsteady=in_words(steadiness)),
        steadiness=steadiness,
        not_valid={name: why for name, why in (flags.not_valid | of_slo).items() if _is_shown(name, measured)},
        until=None if part.until is None else _until(part, part.until, measured[f"{part.until.metric}_ms"]),
    )


def _is_shown(name: str, measured: dict[str, Metric]) -> bool:
    """Whether a stage has what a mark is of: not each one has every latency."""
    return name in measured or not name.endswith("_ms")


def _card(planned: PlannedStage, run: Run) -> ServedModel | None:
    """The model's card from the manifest, without what belongs to the whole run."""
    card = run.manifest.card(planned.target, planned.model)
    return None if card is None else msgspec.structs.replace(card, probe=UNSET, settings=UNSET)


def _requests(part: StageData) -> Requests:
    """Counts that add up: what a killed run planned and has no record of counts as cancelled."""
    counted = Counter(record.outcome for record in part.measured)
    planned = max(part.planned.planned or 0, len(part.measured))
    lost = planned - len(part.measured)
    if lost:
        counted["cancelled"] += lost
    by_outcome = {str(outcome): counted[outcome] for outcome in OUTCOMES if counted[outcome]}
    ok = counted["ok"]
    attempts = [record for record in (*part.measured, *part.earlier) if _was_made(record)]
    return Requests(
        planned=planned,
        ok=ok,
        failed=planned - ok,
        by_outcome=by_outcome,
        warmup=len(part.warmup),
        retried=sum(record.attempt == 1 for record in attempts),
        attempts=len(attempts),
    )


def _was_made(record: Record) -> bool:
    """Whether an attempt was made: not of what was shed, or stopped before its turn, first or later."""
    return (record.attempt_ns if record.attempt else record.dispatched_ns) is not None


def _metrics(part: StageData) -> dict[str, Metric]:
    arrays = part.values
    by_name = {f"{name}_ms": _independent(arrays[name], part.floor) for name in METRICS if name != "itl"}
    pooled = part.gaps.values
    itl = estimate_clustered(pooled, part.gaps.owners, PERCENTILES, moments=_moments(part), floor=part.floor)
    by_name["itl_ms"] = _describe(pooled, itl)
    if part.until is not None:
        name, values = part.until.metric, arrays.get(part.until.metric, pooled)
        owners, moments = (part.gaps.owners, _moments(part)) if name == "itl" else (None, None)
        samples = stop_rule.Samples(values, owners, moments)
        estimated = percentile_of(stop_rule.estimate_for(samples, part.until, part.floor))
        metric = by_name[f"{name}_ms"]
        percentiles = metric.percentiles | {part.until.percentile: estimated}
        by_name[f"{name}_ms"] = msgspec.structs.replace(metric, percentiles=percentiles)
    if part.latency_origin == "intended":
        by_name |= {f"{name}_ms": _independent(arrays[name], part.floor) for name in metrics.FROM_SEND}
    if len(arrays["ttfc"]) and (
        len(arrays["ttfc"]) != len(arrays["ttft"]) or bool((arrays["ttfc"] != arrays["ttft"]).any())
    ):
        by_name["ttfc_ms"] = _independent(arrays["ttfc"], part.floor)
    order = (*METRICS, *metrics.FROM_SEND, "ttfc")
    return {f"{name}_ms": by_name[f"{name}_ms"] for name in order if f"{name}_ms" in by_name}


def _moments(part: StageData) -> Ns:
    """The slice of time of each gap of a stage."""
    return moments_of(metrics.gap_ends(part.ok), part.gaps.values)


def _unknown() -> Metric:
    """A metric that would be wrong: it has no values at all."""
    return _independent(np.empty(0, dtype=np.int64))


def _nulled(throughput: Throughput, flags: MetricFlags) -> Throughput:
    names = flags.nulled & set(Throughput.__struct_fields__)
    return msgspec.structs.replace(throughput, **dict.fromkeys(names))


def _independent(values: Ns, floor: Floor = "contract") -> Metric:
    return _describe(values, estimate(np.sort(values), PERCENTILES, floor=floor))


def _describe(values: Ns, quantiles: Sequence[Quantile]) -> Metric:
    """A metric as the contract has it, in ms. A percentile whose interval has no upper end is null."""
    percentiles = {f"p{quantile.p:g}": percentile_of(quantile) for quantile in quantiles}
    return metric_of(values, percentiles) if len(values) else Metric(percentiles=percentiles)


def metric_of(values: Values, percentiles: dict[str, Percentile]) -> Metric:
    """At least one value, ns, as a metric, ms."""
    mean, low, high = in_ms(float(values.mean())), in_ms(int(values.min())), in_ms(int(values.max()))
    return Metric(len(values), mean, low, high, percentiles)


def percentile_of(quantile: Quantile | Repeated) -> Percentile:
    """A percentile of ns in ms."""
    return Percentile(in_ms(quantile.value), in_ms(quantile.low), in_ms(quantile.high))


def _until(part: StageData, goal: StopRule, metric: Metric) -> Until:
    """What a stage waited for, by its interval in the summary, which was made for that."""
    name = goal.percentile
    known = metric.percentile(name)
    width = relative_half_width(Quantile(goal.p, known.value, known.low, known.high))
    # Where the requests ran out, nobody chose the moment by the width: it counts as it is.
    reached = width is not None and ((part.facts is not None and part.facts.settled) or width <= goal.within)
    return Until(
        metric=goal.metric,
        percentile=name,
        asked=goal.within,
        reached=rounded(width) if reached else None,
        requests=len(part.ok),
        early=part.facts is not None and part.facts.settled,
        width=rounded(width),
        needed=None if reached else stop_rule.needed(width, len(part.ok), goal, part.floor),
    )


def _throughput(part: StageData, window: Window | None, slo: Slo) -> Throughput:
    speeds = sorted(1e9 / value for record in part.ok if (value := metrics.tpot_ns(record)))
    per_user = rounded(median(speeds)) if speeds else None
    answer_speed, interval = _whole_speed(part)
    if window is None:
        return Throughput(None, None, per_user, None, answer_speed, interval)
    ended = [record for record in part.ok if record.end_ns is not None and window.holds(record.end_ns)]
    good = sum(metrics.meets(record, slo, origin=part.latency_origin) for record in ended)
    return Throughput(
        output_tokens_per_s=rounded(metrics.tokens_inside((*part.measured, *part.earlier), window) / window.length_s),
        requests_per_s=rounded(len(ended) / window.length_s),
        per_user_tokens_per_s=per_user,
        goodput_requests_per_s=rounded(good / window.length_s) if _targets(slo) else None,
        e2e_tokens_per_s=answer_speed,
        e2e_tokens_per_s_ci=interval,
    )


def _whole_speed(part: StageData) -> tuple[float | None, tuple[float, float] | None]:
    """Median over ok requests of output tokens / e2e, and its 95 % interval where there are enough of them."""
    speeds = sorted(speed for r in part.ok if (speed := metrics.speed_per_s(r, origin=part.latency_origin)) is not None)
    if not speeds:
        return None, None
    middle = estimate(np.array(speeds, dtype=np.float64), (50.0,))[0]
    bounds = None if middle.low is None or middle.high is None else (round(middle.low, 4), round(middle.high, 4))
    return round(median(speeds), 4), bounds


def _tokens(records: Sequence[Record]) -> Tokens:
    sources = {record.token_source for record in records}
    source = "mixed" if len(sources) > 1 else next(iter(sources), "usage")
    prompt_counts = [record.prompt_tokens for record in records if record.prompt_tokens is not None]
    prompt = sum(prompt_counts) if prompt_counts or not records else None
    return Tokens(prompt=prompt, output=sum(record.output_tokens or 0 for record in records), source=source)


def _targets(slo: Slo) -> dict[str, float]:
    limits = {"ttft_ms": slo.ttft_ms, "tpot_ms": slo.tpot_ms, "e2e_ms": slo.e2e_ms}
    return {name: limit for name, limit in limits.items() if limit is not None}


def _attainment(part: StageData, slo: Slo, planned: int, not_judged: str | None) -> Attainment | None:
    """slo: of it, what can be judged. not_judged: why not all of it can be; a gate on it is then not passed."""
    targets = _targets(slo)
    if not targets and (not_judged is None or slo.attainment is None):
        return None
    fluid = metrics.fluidity(part.ok, slo, origin=part.latency_origin)
    return attainment_of(
        targets,
        slo.attainment,
        met=sum(metrics.meets(record, slo, origin=part.latency_origin) for record in part.measured),
        planned=planned,
        fluidity=rounded(sum(fluid) / len(fluid)) if fluid else None,
        fluid_share=rounded(sum(share >= FLUID for share in fluid) / len(fluid)) if fluid else None,
        not_judged=not_judged,
    )


def attainment_of(
    targets: dict[str, float],
    asked: float | None,
    *,
    met: int,
    planned: int,
    fluidity: float | None,
    fluid_share: float | None,
    not_judged: str | None = None,
) -> Attainment:
    """How far an SLO was met. asked: the share of the planned requests that is to meet it; None without a gate.
    not_judged: why some of its limits are not judged; no gate is passed by what is not known."""
    share = met / planned if planned else 0.0
    passed = None if asked is None else share >= asked and not_judged is None
    if not targets:
        return Attainment({}, 0, None, asked, passed)
    return Attainment(targets, met, round(share, 4), asked, passed, fluidity, fluid_share)


def _server(part: StageData) -> ServerSummary | None:
    """The server's side of a stage: its process, as we saw it, and its own timings beside ours."""
    server = processes(part.facts.servers) if part.facts and part.facts.servers else None
    return server_of(server, part.ok)


def server_of(server: ServerSummary | None, records: Sequence[Record]) -> ServerSummary | None:
    """The server's side with its own timings, those of the answered requests, beside ours."""
    rates = metrics.server_rates(records)
    return server if rates is None else msgspec.structs.replace(server or ServerSummary(), rates=rates)
