"""The types of `summary.json`: data only. `loadgen.analysis.summarize` computes them.

The file has a percentile as keys (`p99`, `p99_ci`); here it is a `Percentile` (`summary_data` and `summary_from`).
"""

from collections.abc import Iterable
from typing import Final

import msgspec
from msgspec import UNSET, Struct, UnsetType, field

from loadgen.analysis.quality_types import Quality
from loadgen.analysis.reason_codes import Code
from loadgen.analysis.soak_types import Drift, SoakSummary
from loadgen.plan.plan import StageLoad
from loadgen.record import JsonObject, MachineFacts
from loadgen.store.manifest import ServedModel

SCHEMA: Final = "loadgen.summary/1"
METRICS: Final = ("ttft", "service_ttft", "itl", "tpot", "e2e", "queue", "connect")


class Percentile(Struct, frozen=True):
    """One percentile of a metric with its 95 % interval, ms."""

    value: float | None
    """None if the samples do not bound it from above. Then `at_least` is shown in its place, or nothing."""
    low: float | None = None
    high: float | None = None
    """None exactly if the value is None."""
    runs: tuple[float | None, ...] | None = None
    """If runs are merged, each run's own value; None for a run in which it is not known."""

    @property
    def at_least(self) -> float | None:
        """The lower end of the interval, if the value is not known: the percentile is at or above this."""
        return self.low if self.value is None else None

    @property
    def interval(self) -> tuple[float, float] | None:
        """Both ends of the interval; None if the value is not known."""
        return None if self.value is None or self.low is None or self.high is None else (self.low, self.high)


class Metric(Struct, frozen=True):
    """The statistics of one latency, ms."""

    count: int = 0
    mean: float | None = None
    min: float | None = None
    max: float | None = None
    percentiles: dict[str, Percentile] = {}
    """By name: p50, p90, …"""
    exact: bool | UnsetType = UNSET
    """False if the percentiles are those of histograms, and so up to 0.1 % too high; unset if they are those of the
    requests."""

    def percentile(self, name: str) -> Percentile:
        """A percentile by its name; one that was not computed has no value."""
        return self.percentiles[name] if name in self.percentiles else Percentile(None)


class ServerRates(Struct, frozen=True):
    """Tokens a second by the server's own clock, and the same by our stamps."""

    server_prefill_tokens_per_s: float
    client_prefill_tokens_per_s: float
    server_decode_tokens_per_s: float
    client_decode_tokens_per_s: float


class ServerSummary(Struct, frozen=True):
    """All processes of the server together, during a stage. Null: not known; a missing key: not measured."""

    rss_start_mib: float | UnsetType | None = UNSET
    rss_peak_mib: float | UnsetType | None = UNSET
    cpu_share: float | UnsetType | None = UNSET
    """As a share of one core: 2.0 is two busy cores."""
    rates: ServerRates | UnsetType = UNSET


class Requests(Struct, frozen=True):
    """Counts of measured requests; planned = ok + failed, always. failed: all outcomes but ok. attempts: how many
    attempts were made; retried: how many requests had more than one attempt. The last three are unset in a soak, whose
    windows do not count them."""

    planned: int
    ok: int
    failed: int
    by_outcome: dict[str, int]
    warmup: int | UnsetType = UNSET
    retried: int | UnsetType = UNSET
    attempts: int | UnsetType = UNSET


class Throughput(Struct, frozen=True):
    """Rates inside the steady window; null without one. Goodput needs an SLO. Medians over all ok requests, in the
    window or not: per_user_tokens_per_s of 1/TPOT, e2e_tokens_per_s, with its interval, of output tokens / E2E."""

    output_tokens_per_s: float | None
    requests_per_s: float | None
    per_user_tokens_per_s: float | None
    goodput_requests_per_s: float | None
    e2e_tokens_per_s: float | None = None
    e2e_tokens_per_s_ci: tuple[float, float] | None = None


class Tokens(Struct, frozen=True):
    """Tokens of the ok requests. prompt: null if no answer says it. source: "usage", "events", or "mixed"; of a
    soak whose server was not probed, "unknown". cached: how many prompt tokens came from a cache; the key is missing if
    no answer says it."""

    prompt: int | None
    output: int
    source: str
    cached: int | UnsetType = UNSET


class Effect(Struct, frozen=True, order=True):
    """A number of a report that is off because of us. share: by how much, relative to the true value (0.05: 5 %).
    by_ms: by how much in ms; for a rate, how long each request waited for us."""

    share: float
    number: str
    by_ms: float


class Self(Struct, frozen=True):
    """The measurements of ourselves, which decide the verdict. Null: not measured, of no meaning for this kind of load,
    or with fewer samples than such a percentile needs (`loadgen.stats.quantile.floor_of`)."""

    dispatch_slip_p99_ms: float | None = None
    loop_lag_p99_ms: float | None = None
    stamp_lag_p99_ms: float | None = None
    cpu_share: float | None = None
    gc_pause_max_ms: float | None = None
    dispatch_slip_p90_ms: float | None = None
    in_flight_sampled: float | None = None
    in_flight_recorded: float | None = None
    shared_reads_share: float | None = None
    loop_lag_max_ms: float | None = None
    stamp_lag_p50_ms: float | None = None
    stamp_lag_max_ms: float | None = None
    server_cpu_share: float | None = None
    achieved_share: float | None = None
    users_share: float | None = None
    over_range: int = 0
    clock_steps: int = 0
    dispatch_slip_p50_ms: float | None = None
    dispatch_slip_max_ms: float | None = None
    dispatch_slip_p99_ci_ms: tuple[float, float] | None = None
    dispatch_slip_p99_at_least_ms: float | None = None
    """If the p99 is not known: it is at or above this."""
    slip_effect: Effect | None = None
    """The number that is most off because requests left late."""
    loop_lag_p99_ci_ms: tuple[float, float] | UnsetType = UNSET
    loop_lag_p99_at_least_ms: float | UnsetType | None = UNSET
    """Unset if the p99 is known, and in older runs, which tell too little for an interval."""
    stamp_lag_p99_ci_ms: tuple[float, float] | UnsetType = UNSET
    stamp_lag_p99_at_least_ms: float | UnsetType | None = UNSET


class Reason(Struct, frozen=True):
    """One limit that was crossed. observed and limit are in words with units; advice says what to do."""

    code: Code
    observed: str = field(name="seen")
    """`seen` in summary.json."""
    limit: str
    advice: str
    fatal: bool = False


class Validity(Struct, frozen=True):
    """The verdict on a stage, its reasons, and the measurements behind it."""

    verdict: str
    reasons: tuple[Reason, ...]
    stamp_source: str
    self: Self
    machine: MachineFacts | UnsetType = UNSET
    """What other programs on the machine did; unset if that was not measured."""


class Attainment(Struct, frozen=True):
    """slo: the limits that can be judged. share: the share of planned requests that met all of these; null if none can
    be judged. attainment: the required share. passed: whether it was reached, and all of the SLO could be judged. Both
    are null without a gate. fluidity: the mean over ok requests of the share of tokens that came in time. fluid_share:
    the share of requests with at least 0.9. Both need limits on TTFT and TPOT."""

    slo: dict[str, float]
    met: int
    share: float | None
    attainment: float | None
    passed: bool | None
    fluidity: float | None = None
    fluid_share: float | None = None


class Until(Struct, frozen=True, kw_only=True):
    """What a stage's stop rule came to: a percentile with a relative half-width of at most `asked` (0.05: ±5 %).
    reached: the half-width at the end; null if the requests were used up before it was that narrow. early: whether the
    rule ended the stage. width: the half-width, reached or not; null if the interval has no upper end. requests: how
    many answered requests it comes from. needed: about how many would be enough; null if it was reached."""

    metric: str
    percentile: str
    asked: float
    reached: float | None
    requests: int
    early: bool = False
    width: float | None = None
    needed: int | None = None


class AcrossRuns(Struct, frozen=True):
    """A number over runs. values: that of each run, null if it is not known. mean: over the runs that know it. ci: the
    mean's 95 % interval by Student's t, null for fewer than two values."""

    values: tuple[float | None, ...]
    mean: float | None
    ci: tuple[float, float] | None


class Runs(Struct, frozen=True):
    """A stage over repeated runs. played: in how many runs it was played. verdicts: that of each run, or "skipped".
    windows_s: the length of each run's window, null without one. throughput: by the names of `Throughput`."""

    played: int
    verdicts: tuple[str, ...]
    windows_s: tuple[float | None, ...]
    throughput: dict[str, AcrossRuns]


class Steadiness(Struct, frozen=True):
    """Whether a stage's latencies settled. steady: null if there were too few requests to tell. why: "steady",
    "too_few", "never_settles", or "drift". warmed_after: how many requests at the start of the window still warmed up.
    growth: the median of the last third over that of the first, minus 1."""

    steady: bool | None
    why: str
    warmed_after: int
    growth: float | None


class StageSummary(Struct, frozen=True, kw_only=True):
    """One stage of one model. reason: why it was skipped, and what can be done; problem: the same as a code. card: the
    known facts about the model. steadiness: null without a window, and if the load itself is meant to change.
    not_valid: by metric, why it does not mean what its name says here; a metric that would be wrong is also null.
    until: what the stop rule came to, if the stage has one. runs: set if several runs are merged. soak, drift: what
    happened during a soak, and whether the model drifted; set only in a soak."""

    model: str
    target: str
    load: StageLoad
    level: str
    status: str = "played"
    reason: str | UnsetType = UNSET
    problem: str | UnsetType = UNSET
    card: ServedModel | None = None
    incomplete: bool = False
    requests: Requests | UnsetType = UNSET
    window_s: float | None = None
    metrics: dict[str, Metric] | UnsetType = UNSET
    throughput: Throughput | UnsetType = UNSET
    tokens: Tokens | UnsetType = UNSET
    slo: Attainment | None = None
    server: ServerSummary | None = None
    validity: Validity | UnsetType = UNSET
    steadiness: Steadiness | None = None
    not_valid: dict[str, str] = {}
    until: Until | None = None
    runs: Runs | None = None
    quality: Quality | UnsetType | None = UNSET
    soak: SoakSummary | UnsetType = UNSET
    drift: Drift | UnsetType = UNSET

    def metric(self, name: str) -> Metric | None:
        """A metric by its name; None if the stage does not have it."""
        return None if self.metrics is UNSET or name not in self.metrics else self.metrics[name]

    @property
    def peak_mib(self) -> float | None:
        """The highest resident memory of the server's processes; None if not known."""
        return None if self.server is None or self.server.rss_peak_mib is UNSET else self.server.rss_peak_mib

    @property
    def server_cpu_share(self) -> float | None:
        """How many cores the server's processes kept busy; None if not known."""
        return None if self.server is None or self.server.cpu_share is UNSET else self.server.cpu_share


class Summary(Struct, frozen=True, kw_only=True):
    """The results of a run. streamed: whether answers came token by token; if not, they have no TTFT, ITL and TPOT.
    floor: how many samples a percentile needs: as usual ("contract"), or as many as a published result needs
    ("strict"). runs: the ids of the runs that were merged; empty for a single run."""

    schema: str
    scenario: str
    run_id: str
    started_utc: str
    incomplete: bool
    stages: tuple[StageSummary, ...]
    plan_digest: str
    torn_lines: int = 0
    streamed: bool = True
    floor: str = "contract"
    runs: tuple[str, ...] = ()


def metric_data(metric: Metric) -> JsonObject:
    """A metric as in `summary.json`: count, mean, min, max; for each percentile, as p50, a number with p50_ci beside
    it, or null with p50_at_least. Merged runs also have p50_runs."""
    data: JsonObject = {"count": metric.count, "mean": metric.mean, "min": metric.min, "max": metric.max}
    for name, percentile in metric.percentiles.items():
        data[name] = percentile.value
        if percentile.value is None:
            data[f"{name}_at_least"] = percentile.low
        else:
            data[f"{name}_ci"] = [percentile.low, percentile.high]
        if percentile.runs is not None:
            data[f"{name}_runs"] = list(percentile.runs)
    if metric.exact is not UNSET:
        data["exact"] = metric.exact
    return data


def _metric_from(data: JsonObject) -> JsonObject:
    """The fields of a `Metric` from its form in `summary.json`: the inverse of `metric_data`."""
    names = [key for key in data if key.startswith("p") and "_" not in key]
    keys = ("count", "mean", "min", "max", *(("exact",) if "exact" in data else ()))
    return {key: data[key] for key in keys} | {"percentiles": {name: _percentile_from(name, data) for name in names}}


def _percentile_from(name: str, data: JsonObject) -> JsonObject:
    low, high = data.get(f"{name}_ci", (data.get(f"{name}_at_least"), None))
    return {"value": data[name], "low": low, "high": high, "runs": data.get(f"{name}_runs")}


def summary_data(summary: Summary) -> JsonObject:
    """A summary as plain values, in the form of `summary.json`."""
    data: JsonObject = msgspec.to_builtins(summary)
    for stage, stage_data in zip(summary.stages, data["stages"], strict=True):
        if stage.metrics is not UNSET:
            stage_data["metrics"] = {name: metric_data(metric) for name, metric in stage.metrics.items()}
    return data


def summary_from(raw: bytes) -> Summary:
    """The summary in the text of a `summary.json`. Raises msgspec.MsgspecError if the text is none."""
    data = msgspec.json.decode(raw)
    try:
        for stage in data["stages"]:
            if "metrics" in stage:
                stage["metrics"] = {name: _metric_from(metric) for name, metric in stage["metrics"].items()}
    except (TypeError, KeyError, AttributeError) as error:
        raise msgspec.ValidationError(f"not a summary: {error}") from error
    return msgspec.convert(data, Summary)


def in_ms(ns: float | None) -> float | None:
    """ns in the unit of a summary: ms, rounded to a tenth of a µs."""
    return None if ns is None else round(ns / 1e6, 4)


def rounded(value: float | None) -> float | None:
    """A number rounded as in a summary: to four decimal places."""
    return None if value is None else round(value, 4)


def total(values: Iterable[float | None]) -> float | None:
    """The sum of the numbers that are known; None if none is."""
    known = [value for value in values if value is not None]
    return rounded(sum(known)) if known else None


def mean(values: Iterable[float | None]) -> float | None:
    """The mean of the numbers that are known; None if none is."""
    known = [value for value in values if value is not None]
    return rounded(sum(known) / len(known)) if known else None


def highest(values: Iterable[float | None]) -> float | None:
    """The highest of the numbers that are known; None if none is."""
    return max((value for value in values if value is not None), default=None)
