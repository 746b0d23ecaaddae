"""A pure fold: a run's records and facts become its summary. Knows no terminal, no socket and no clock."""

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any, Final

import msgspec
import numpy as np
from msgspec import Struct

from loadgen import metrics
from loadgen.capability import Probe, probe_of
from loadgen.chance import generator
from loadgen.marks import Marks, judged, marks
from loadgen.measure.histogram import Histogram
from loadgen.measure.observe import ServerFacts, StageFacts
from loadgen.measure.quantile import Quantile, estimate, estimate_clustered
from loadgen.measure.record import OUTCOMES, Record
from loadgen.measure.validity import Evidence, judge
from loadgen.metrics import Ns, Window
from loadgen.runfolder import PlannedStage, Run
from loadgen.scenario import Slo
from loadgen.summary import (
    METRICS,
    SCHEMA,
    Attainment,
    Metric,
    Requests,
    Self,
    StageSummary,
    Summary,
    Throughput,
    Tokens,
    Validity,
)

PERCENTILES: Final = (50.0, 90.0, 95.0, 99.0)
FLUID: Final = 0.9


class Slice(Struct, frozen=True):
    """One planned stage with the records and facts that belong to it."""

    planned: PlannedStage
    measured: tuple[Record, ...]
    warmup: tuple[Record, ...]
    together: tuple[Record, ...]
    facts: StageFacts | None
    probe: Probe | None = None

    @property
    def closed(self) -> bool:
        return bool(self.planned.load["mode"] == "closed")

    @property
    def ok(self) -> list[Record]:
        return [record for record in self.measured if record.outcome == "ok"]

    @property
    def window(self) -> Window | None:
        users, ramp_in_ns = self.planned.load.get("concurrency"), self.planned.ramp_in_ns
        return metrics.steady_window(self.together, concurrency=users, ramp_in_ns=ramp_in_ns)


def summarize(run: Run) -> Summary:
    """The summary of a run as it was read from its folder; equal folders give equal summaries."""
    manifest = run.manifest
    slo = msgspec.convert(manifest.scenario.get("slo", {}), Slo, strict=False)
    streamed = bool(manifest.scenario.get("sampling", {}).get("stream", True))
    if not streamed:  # what an answer does not have, it can neither meet nor miss
        slo = msgspec.structs.replace(slo, ttft_ms=None, tpot_ms=None)
    stages = tuple(_stage(part, slo, run) for part in slices(run))
    return Summary(
        schema=SCHEMA,
        scenario=str(manifest.scenario["name"]),
        run_id=manifest.run_id,
        started_utc=manifest.started_utc,
        incomplete=manifest.state != "complete",
        stages=stages,
        plan_digest=manifest.plan_digest,
        torn_lines=run.torn,
        streamed=streamed,
    )


def slices(run: Run) -> list[Slice]:
    """A run's records by planned stage, in the plan's order. Models that took turns share the load of their level."""
    keyed: dict[tuple[str, str, str], list[Record]] = {}
    for record in run.records:
        keyed.setdefault((record.target, record.model, record.level), []).append(record)
    found = []
    for planned in run.manifest.stages:
        facts = next((fact for fact in run.facts if _is_of(fact, planned)), None)
        mine = keyed.get((planned.target, planned.model, planned.level), [])
        pairs = zip(facts.targets, facts.models, strict=True) if facts else [(planned.target, planned.model)]
        together = [record for pair in pairs for record in keyed.get((*pair, planned.level), [])]
        found.append(
            Slice(
                planned=planned,
                measured=tuple(record for record in mine if record.phase == "measured"),
                warmup=tuple(record for record in mine if record.phase == "warmup"),
                together=tuple(record for record in together if record.phase == "measured"),
                facts=facts,
                probe=next((probe_of(card) for card in run.manifest.models if _serves(card, planned)), None),
            )
        )
    return found


def _serves(card: dict[str, Any], planned: PlannedStage) -> bool:
    return (card.get("target"), card.get("alias")) == (planned.target, planned.model)


def _is_of(facts: StageFacts, planned: PlannedStage) -> bool:
    return facts.level == planned.level and (planned.target, planned.model) in zip(
        facts.targets, facts.models, strict=True
    )


def histograms(part: Slice) -> dict[str, Histogram]:
    """A stage's histograms by metric, of its ok measured requests; over-range values are counted in each."""
    arrays = {**metrics.of_requests(part.ok, closed=part.closed), "itl": metrics.gaps(part.ok)[0]}
    nulled = marks(part.ok, part.probe).nulled
    found = {}
    for name in METRICS:
        found[name] = Histogram()
        if f"{name}_ms" not in nulled:
            found[name].record(arrays[name])
    return found


def _stage(part: Slice, slo: Slo, run: Run) -> StageSummary:
    planned = part.planned
    blank = StageSummary(model=planned.model, target=planned.target, load=planned.load, level=planned.level)
    if planned.skipped is not None and not part.measured:
        problem = planned.problem or "unusable"
        return msgspec.structs.replace(blank, status="skipped", reason=planned.skipped, problem=problem)
    requests = _requests(part)
    incomplete = part.facts is None or not part.facts.complete or len(part.measured) < requests.planned
    window = part.window
    found = marks(part.ok, part.probe)
    slo, of_slo = judged(slo, found)
    measured = _metrics(part) | {name: _unknown() for name in found.nulled if name.endswith("_ms")}
    return msgspec.structs.replace(
        blank,
        card=_card(planned, run),
        incomplete=incomplete,
        requests=requests,
        window_s=_round(window.length_s) if window else None,
        metrics=measured,
        throughput=_nulled(_throughput(part, window, slo), found),
        tokens=_tokens(part.ok),
        slo=_attainment(part, slo, requests.planned),
        server=_server(part),
        validity=_validity(part, window, measured, incomplete=incomplete),
        not_valid=found.not_valid | of_slo,
    )


def _card(planned: PlannedStage, run: Run) -> dict[str, Any] | None:
    """The model's card from the manifest, without what belongs to the whole run."""
    for card in run.manifest.models:
        if (card.get("target"), card.get("alias")) == (planned.target, planned.model):
            return {key: value for key, value in card.items() if key not in {"probe", "settings"}}
    return None


def _requests(part: Slice) -> Requests:
    """Counts that add up: what a killed run planned and has no record of counts as cancelled."""
    counted = Counter(record.outcome for record in part.measured)
    planned = max(part.planned.planned or 0, len(part.measured))
    lost = planned - len(part.measured)
    if lost:
        counted["cancelled"] += lost
    by_outcome = {str(outcome): counted[outcome] for outcome in OUTCOMES if counted[outcome]}
    ok = counted["ok"]
    return Requests(planned=planned, ok=ok, failed=planned - ok, by_outcome=by_outcome, warmup=len(part.warmup))


def _metrics(part: Slice) -> dict[str, Metric]:
    arrays = metrics.of_requests(part.ok, closed=part.closed)
    found = {f"{name}_ms": _independent(arrays[name]) for name in METRICS if name != "itl"}
    pooled, owners = metrics.gaps(part.ok)
    chance = generator(0, "bootstrap", part.planned.model, part.planned.target, part.planned.level)
    found["itl_ms"] = _describe(pooled, estimate_clustered(pooled, owners, PERCENTILES, rng=chance))
    if len(arrays["ttfc"]) and (
        len(arrays["ttfc"]) != len(arrays["ttft"]) or bool((arrays["ttfc"] != arrays["ttft"]).any())
    ):
        found["ttfc_ms"] = _independent(arrays["ttfc"])
    return {f"{name}_ms": found[f"{name}_ms"] for name in (*METRICS, "ttfc") if f"{name}_ms" in found}


def _unknown() -> Metric:
    """A metric that would be wrong: it has no values at all."""
    return _independent(np.empty(0, dtype=np.int64))


def _nulled(throughput: Throughput, found: Marks) -> Throughput:
    names = found.nulled & set(Throughput.__struct_fields__)
    return msgspec.structs.replace(throughput, **dict.fromkeys(names))


def _independent(values: Ns) -> Metric:
    return _describe(values, estimate(np.sort(values), PERCENTILES))


def _describe(values: Ns, quantiles: Sequence[Quantile]) -> Metric:
    """A metric as the contract has it, in ms. A percentile whose interval has no upper end is null."""
    told: Metric = {"count": len(values), "mean": None, "min": None, "max": None}
    if len(values):
        told |= {"mean": _ms(float(values.mean())), "min": _ms(int(values.min())), "max": _ms(int(values.max()))}
    for quantile in quantiles:
        name = f"p{quantile.p:g}"
        told[name] = _ms(quantile.value)
        if quantile.value is None:
            told[f"{name}_at_least"] = _ms(quantile.low)
        else:
            told[f"{name}_ci"] = [_ms(quantile.low), _ms(quantile.high)]
    return told


def _throughput(part: Slice, window: Window | None, slo: Slo) -> Throughput:
    speeds = sorted(1e9 / value for record in part.ok if (value := metrics.tpot_ns(record)))
    per_user = _round(float(np.median(speeds))) if speeds else None
    whole, interval = _whole_speed(part)
    if window is None:
        return Throughput(None, None, per_user, None, whole, interval)
    ended = [record for record in part.ok if record.end_ns is not None and window.holds(record.end_ns)]
    good = sum(metrics.meets(record, slo, closed=part.closed) for record in ended)
    return Throughput(
        output_tokens_per_s=_round(metrics.tokens_inside(part.measured, window) / window.length_s),
        requests_per_s=_round(len(ended) / window.length_s),
        per_user_tokens_per_s=per_user,
        goodput_requests_per_s=_round(good / window.length_s) if _targets(slo) else None,
        e2e_tokens_per_s=whole,
        e2e_tokens_per_s_ci=interval,
    )


def _whole_speed(part: Slice) -> tuple[float | None, tuple[float, float] | None]:
    """Median over ok requests of output tokens / e2e, and its 95 % interval where there are enough of them."""
    speeds = sorted(speed for r in part.ok if (speed := metrics.speed_per_s(r, closed=part.closed)) is not None)
    if not speeds:
        return None, None
    found = estimate(np.array(speeds, dtype=np.float64), (50.0,))[0]
    bounds = None if found.low is None or found.high is None else (round(found.low, 4), round(found.high, 4))
    return round(float(np.median(speeds)), 4), bounds


def _tokens(records: Sequence[Record]) -> Tokens:
    sources = {record.token_source for record in records}
    source = "mixed" if len(sources) > 1 else next(iter(sources), "usage")
    told = [record.prompt_tokens for record in records if record.prompt_tokens is not None]
    prompt = sum(told) if told or not records else None
    return Tokens(prompt=prompt, output=sum(record.output_tokens or 0 for record in records), source=source)


def _targets(slo: Slo) -> dict[str, float]:
    told = {"ttft_ms": slo.ttft_ms, "tpot_ms": slo.tpot_ms, "e2e_ms": slo.e2e_ms}
    return {name: limit for name, limit in told.items() if limit is not None}


def _attainment(part: Slice, slo: Slo, planned: int) -> Attainment | None:
    targets = _targets(slo)
    if not targets:
        return None
    met = sum(metrics.meets(record, slo, closed=part.closed) for record in part.measured)
    share = met / planned if planned else 0.0
    passed = None if slo.attainment is None else share >= slo.attainment
    told = [metrics.fluidity(record, slo, closed=part.closed) for record in part.ok]
    fluid = [share for share in told if share is not None]
    return Attainment(
        slo=targets,
        met=met,
        share=round(share, 4),
        attainment=slo.attainment,
        passed=passed,
        fluidity=_round(sum(fluid) / len(fluid)) if fluid else None,
        fluid_share=_round(sum(share >= FLUID for share in fluid) / len(fluid)) if fluid else None,
    )


def _server(part: Slice) -> dict[str, Any] | None:
    """The server's side of a stage: its process, as we saw it, and its own timings beside ours."""
    told: dict[str, Any] = {}
    if part.facts and part.facts.servers:
        told |= _processes(part.facts.servers)
    rates = metrics.server_rates(part.ok)
    if rates:
        told["rates"] = {name: _round(value) for name, value in rates.items()}
    return told or None


def _processes(servers: Sequence[ServerFacts]) -> dict[str, Any]:
    peaks = [server.rss_peak_bytes for server in servers if server.rss_peak_bytes is not None]
    starts = [server.rss_start_bytes for server in servers if server.rss_start_bytes is not None]
    shares = [server.cpu_share for server in servers if server.cpu_share is not None]
    return {
        "rss_start_mib": _round(sum(starts) / 2**20) if starts else None,
        "rss_peak_mib": _round(sum(peaks) / 2**20) if peaks else None,
        "cpu_share": _round(sum(shares)) if shares else None,
    }


def _validity(part: Slice, window: Window | None, measured: dict[str, Metric], *, incomplete: bool) -> Validity:
    facts, records = part.facts, part.measured
    slips = np.sort(
        np.array([r.dispatched_ns - r.intended_ns for r in records if r.dispatched_ns is not None], dtype=np.int64)
    )
    sources = {record.stamp_source for record in records if record.stamps_ns or record.outcome == "ok"}
    source = "kernel" if sources == {"kernel"} else "user"
    sampled = _sampled_in_flight(facts, window)
    recorded = metrics.in_flight_recorded(part.together, window) if window else None
    own = Self(
        dispatch_slip_p99_ms=_ms(_plain_quantile(slips, 99)),
        dispatch_slip_p90_ms=_ms(_plain_quantile(slips, 90)),
        loop_lag_p99_ms=_ms(facts.loop_lag_p99_ns) if facts else None,
        stamp_lag_p99_ms=_ms(facts.stamp_lag_p99_ns) if facts else None,
        cpu_share=round(facts.cpu_share, 4) if facts else None,
        gc_pause_max_ms=_ms(facts.gc_pause_max_ns) if facts else None,
        in_flight_sampled=_round(sampled),
        in_flight_recorded=_round(recorded),
        shared_reads_share=_round(metrics.shared_share(part.ok)),
    )
    judgement = judge(
        Evidence(
            stamp_source=source,
            ok=len(part.ok),
            complete=not incomplete,
            ttft_p50_ms=measured["ttft_ms"].get("p50"),
            e2e_p50_ms=measured["e2e_ms"].get("p50"),
            whole=bool(part.ok) and not any(record.stamps_ns for record in part.ok),
            dispatch_slip_p99_ms=own.dispatch_slip_p99_ms,
            dispatch_slip_p90_ms=own.dispatch_slip_p90_ms,
            loop_lag_p99_ms=own.loop_lag_p99_ms,
            cpu_share=own.cpu_share,
            gc_pause_max_ms=own.gc_pause_max_ms,
            shed=sum(record.outcome == "shed" for record in records),
            achieved_share=None if part.closed else metrics.achieved_share(part.together),
            in_flight_sampled=sampled,
            in_flight_recorded=recorded,
            shared_share=own.shared_reads_share,
            over_range=sum(histogram.over_range for histogram in histograms(part).values()),
            clock_steps=facts.clock_steps if facts else 0,
            window_s=window.length_s if window else None,
        )
    )
    return Validity(verdict=judgement.verdict, reasons=judgement.reasons, stamp_source=source, self=own)


def _plain_quantile(ordered: Ns, p: float) -> int | None:
    """Of what we measured of ourselves there is no more than the sample: its nearest rank, without an interval."""
    return int(ordered[math.ceil(p * len(ordered) / 100) - 1]) if len(ordered) else None


def _sampled_in_flight(facts: StageFacts | None, window: Window | None) -> float | None:
    """Mean in flight inside the window, from the independent sampler; None below a hundred samples."""
    if facts is None or window is None:
        return None
    inside = [count for moment, count in facts.in_flight_samples if window.holds(moment)]
    return sum(inside) / len(inside) if len(inside) >= 100 else None


def _ms(ns: float | None) -> float | None:
    return None if ns is None else round(ns / 1e6, 4)


def _round(value: float | None) -> float | None:
    return None if value is None else round(value, 4)
