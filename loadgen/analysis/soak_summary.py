"""The summary of one model of a soak, from its windows, histograms and events alone. Pure."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Final

import msgspec
import numpy as np
from msgspec import UNSET

from loadgen.analysis.samples import PERCENTILES, percentile_of
from loadgen.analysis.soak_types import Outages, SoakSummary
from loadgen.analysis.stage import slo_of
from loadgen.analysis.summary import (
    Attainment,
    Metric,
    Reason,
    Requests,
    Self,
    ServerSummary,
    StageSummary,
    Throughput,
    Tokens,
    Validity,
    highest,
    in_ms,
    rounded,
)
from loadgen.analysis.validity import NOTHING
from loadgen.record import OUTCOMES, StageKey
from loadgen.scenario import Slo
from loadgen.stats.blocks import estimate_in_blocks
from loadgen.stats.bucket_counts import BucketCounts
from loadgen.stats.drift import theil_sen
from loadgen.stats.histogram import EDGES_NS
from loadgen.stats.quantile import Floor, Quantile
from loadgen.store.events import Event
from loadgen.store.manifest import Manifest, PlannedStage, Probe
from loadgen.store.segments import windows_without_records
from loadgen.store.windows import WindowLine

BLOCKS: Final = 16
"""Intervals come from this many blocks of windows. What wanders more slowly than one block looks like drift."""
VALID_SHARE: Final = 0.95
INVALID_SHARE: Final = 0.5
"""A soak is valid from the first share of valid windows on, and invalid below the second."""
LATENCIES: Final = ("ttft", "itl", "tpot", "e2e")
MOST_SLOPES: Final = 480
"""The growth of our own memory is that of at most so many windows, evenly spaced."""
ADVICE: Final = "see in windows.jsonl which limits were crossed, and when"
_CAUSES: Final[dict[str, str]] = {
    "dispatch_slip": "loadgen sent requests late",
    "loop_lag": "loadgen's event loop was late",
    "stamp_lag": "loadgen read late",
    "own_cpu": "loadgen used much of a core",
    "gc_pause": "loadgen collected garbage",
    "busy_machine": "other work on the machine slowed the server",
    "achieved_rate": "the rate was not reached",
    "achieved_users": "users waited for loadgen",
    "shed": "requests were shed",
}
"""The most frequent reasons of a window, in words; the others are named by their codes."""


def soak_stage(
    planned: PlannedStage,
    manifest: Manifest,
    windows: Sequence[WindowLine],
    counts: Mapping[str, BucketCounts],
    *,
    floor: Floor,
) -> StageSummary:
    """The summary of one model, without `soak` and `drift`.

    windows: those of the model, in order, also those after the deadline. counts: by metric. floor: how many samples a
    percentile needs.
    """
    card = manifest.card(planned.target, planned.model)
    summary = StageSummary(model=planned.model, target=planned.target, load=planned.load, level=planned.level)
    if planned.skipped is not None and not windows:
        problem = planned.problem or "unusable"
        return msgspec.structs.replace(summary, status="skipped", reason=planned.skipped, problem=problem)
    steady = [window for window in windows if window.valid and not window.draining]
    metrics = {f"{name}_ms": _metric(name, windows, counts.get(name), floor) for name in LATENCIES}
    is_incomplete = manifest.state != "complete"
    return msgspec.structs.replace(
        summary,
        card=None if card is None else msgspec.structs.replace(card, probe=UNSET, settings=UNSET),
        incomplete=is_incomplete,
        requests=_requests(windows),
        window_s=rounded(_seconds(steady)) if steady else None,
        metrics=metrics,
        throughput=_throughput(steady, metrics["tpot_ms"]),
        tokens=_tokens(windows, None if card is None else card.known_probe),
        slo=_attainment(windows, slo_of(manifest.scenario)),
        server=_server(windows),
        validity=_validity(windows, manifest.stamp_source),
    )


def soak_summary_of(
    key: StageKey, windows: Sequence[WindowLine], events: Sequence[Event], *, run_folder_bytes: int
) -> SoakSummary:
    """What happened to a model. events: those of the run."""
    own = [event for event in events if event.model in (None, key.model)]
    timed = [window for window in windows if not window.draining]
    outages_s = _outages_s(own, timed[-1].end_ns if timed else 0)
    return SoakSummary(
        windows=len(timed),
        valid_windows=sum(window.valid for window in timed),
        outages=Outages(len(outages_s), round(sum(outages_s), 3)),
        suspended_s=_lasted(own, "suspended"),
        stopped_s=_lasted(own, "stopped"),
        resumed=sum(event.kind == "resumed" for event in own),
        server_restarts=sum(event.kind == "server_restarted" for event in own),
        records_dropped_windows=_without_records(events, windows),
        own_memory_mib_per_h=own_memory_slope(timed),
        run_folder_bytes=run_folder_bytes,
    )


def own_memory_slope(windows: Sequence[WindowLine]) -> float | None:
    """The growth of loadgen's own memory after the first tenth of the windows, MiB an hour: the median of the slopes
    between any two windows (Theil & Sen). None for fewer than two windows."""
    known = [(window.start_ns, window.own_rss_bytes) for window in windows if window.own_rss_bytes is not None]
    known = known[len(known) // 10 :]
    known = known[:: max(1, -(-len(known) // MOST_SLOPES))]
    if len(known) < 2:
        return None
    hours, sizes = np.array([(ns / 3.6e12, size / 2**20) for ns, size in known]).T
    return round(theil_sen(sizes, hours), 4) + 0.0


def _outages_s(events: Sequence[Event], end_ns: int) -> list[float]:
    """How long each outage lasted; one that did not end lasts until `end_ns`. events: those of one model."""
    lengths_s = list[float]()
    begun: Event | None = None
    for event in events:
        if event.kind == "server_gone" and begun is None:
            begun = event
        elif event.kind == "server_back" and begun is not None:
            lengths_s.append((event.at_ns - begun.at_ns) / 1e9 if event.for_s is None else event.for_s)
            begun = None
    return lengths_s if begun is None else [*lengths_s, max(0, end_ns - begun.at_ns) / 1e9]


def _without_records(events: Sequence[Event], windows: Sequence[WindowLine]) -> int:
    details = [event.detail for event in events if event.kind == "records_dropped"]
    return windows_without_records(details, max((window.window for window in windows), default=-1) + 1)


def _lasted(events: Sequence[Event], kind: str) -> float:
    return round(sum(event.for_s or 0.0 for event in events if event.kind == kind), 3)


def _seconds(windows: Sequence[WindowLine]) -> float:
    return sum(window.end_ns - window.start_ns for window in windows) / 1e9


def _requests(windows: Sequence[WindowLine]) -> Requests:
    counted = Counter[str]()
    for window in windows:
        counted.update(window.by_outcome)
    planned = counted.total()
    by_outcome = {str(outcome): counted[outcome] for outcome in OUTCOMES if counted[outcome]}
    return Requests(planned=planned, ok=counted["ok"], failed=planned - counted["ok"], by_outcome=by_outcome)


def _metric(name: str, windows: Sequence[WindowLine], counts: BucketCounts | None, floor: Floor) -> Metric:
    """The statistics of a metric: percentiles of all its values, which are those of their buckets; the exact smallest
    and largest value."""
    extremes = [window.extremes_ns[name] for window in windows if name in window.extremes_ns]
    if counts is None or not counts.count.size or not extremes:
        return Metric(percentiles={f"p{p:g}": percentile_of(Quantile(p, None, None, None)) for p in PERCENTILES})
    smallest, largest = min(low for low, _ in extremes), max(high for _, high in extremes)
    buckets, at = np.unique(counts.bucket, return_inverse=True)
    blocks = np.zeros((BLOCKS, buckets.size), dtype=np.int64)
    np.add.at(blocks, (counts.window * BLOCKS // counts.window_count, at.reshape(-1)), counts.count)
    lows, tops = EDGES_NS[buckets].clip(smallest, largest), (EDGES_NS[buckets + 1] - 1).clip(smallest, largest)
    totals, middles = blocks.sum(axis=0), (lows + tops) / 2
    quantiles = estimate_in_blocks(lows, tops, blocks, PERCENTILES, floor=floor)
    return Metric(
        count=int(totals.sum()),
        mean=in_ms(float((totals * middles).sum() / totals.sum())),
        min=in_ms(smallest),
        max=in_ms(largest),
        percentiles={f"p{quantile.p:g}": percentile_of(quantile) for quantile in quantiles},
        exact=False,
    )


def _throughput(windows: Sequence[WindowLine], tpot: Metric) -> Throughput:
    """The rates over windows. Goodput needs an SLO."""
    seconds, pace = _seconds(windows), tpot.percentile("p50").value

    def rate(counts: Sequence[int]) -> float | None:
        return rounded(sum(counts) / seconds) if seconds else None

    good = [window.slo_met for window in windows if window.slo_met is not None]
    return Throughput(
        output_tokens_per_s=rate([window.output_tokens for window in windows]),
        requests_per_s=rate([window.ok for window in windows]),
        per_user_tokens_per_s=rounded(1e3 / pace) if pace else None,
        goodput_requests_per_s=rate(good) if good else None,
    )


def _tokens(windows: Sequence[WindowLine], probe: Probe | None) -> Tokens:
    """The tokens of all windows. Who counted them, only the findings about the server may say."""
    prompt = sum(window.prompt_tokens for window in windows)
    source = {True: "usage", False: "events", None: "unknown"}[None if probe is None else probe.usage_in_stream]
    return Tokens(prompt=prompt or None, output=sum(window.output_tokens for window in windows), source=source)


def _attainment(windows: Sequence[WindowLine], slo: Slo) -> Attainment | None:
    """How many requests met the SLO; None without one."""
    limits = {"ttft_ms": slo.ttft_ms, "tpot_ms": slo.tpot_ms, "e2e_ms": slo.e2e_ms}
    known = {name: limit for name, limit in limits.items() if limit is not None}
    if not known:
        return None
    planned = sum(sum(window.by_outcome.values()) for window in windows)
    met = sum(window.slo_met or 0 for window in windows)
    share = met / planned if planned else 0.0
    passed = None if slo.attainment is None else share >= slo.attainment
    return Attainment(slo=known, met=met, share=round(share, 4), attainment=slo.attainment, passed=passed)


def _server(windows: Sequence[WindowLine]) -> ServerSummary | None:
    sizes = [size for window in windows if (size := window.server_rss_bytes) is not None]
    if not sizes:
        return None
    return ServerSummary(rss_start_mib=rounded(sizes[0] / 2**20), rss_peak_mib=rounded(max(sizes) / 2**20))


def _validity(windows: Sequence[WindowLine], stamp_source: str) -> Validity:
    """The verdict on a soak: that of its windows until the deadline."""
    timed = [window for window in windows if not window.draining]
    own = Self(
        dispatch_slip_p99_ms=highest(window.dispatch_slip_p99_ms for window in timed),
        loop_lag_p99_ms=highest(window.loop_lag_p99_ms for window in timed),
    )
    if not any(window.ok for window in windows):
        nothing = Reason("nothing_answered", NOTHING, "at least one", "look at the outcomes", fatal=True)
        return Validity("invalid", (nothing,), stamp_source, own)
    share = sum(window.valid for window in timed) / len(timed) if timed else 1.0
    if share >= VALID_SHARE:
        return Validity("valid", (), stamp_source, own)
    is_invalid = share < INVALID_SHARE
    reason = Reason("invalid_windows", _invalid_text(timed), f"≥ {VALID_SHARE:.0%} valid", ADVICE, is_invalid)
    return Validity("invalid" if is_invalid else "degraded", (reason,), stamp_source, own)


def _invalid_text(windows: Sequence[WindowLine]) -> str:
    """How many windows are not valid, and the most frequent reasons."""
    invalid = [window for window in windows if not window.valid]
    causes = Counter(code for window in invalid for code in window.reasons).most_common(3)
    named = ", ".join(f"{_CAUSES.get(code, code)} in {count}" for code, count in causes)
    text = f"{len(invalid)} of {len(windows)} windows are not valid, and in no test"
    return f"{text} ({named})" if named else text
