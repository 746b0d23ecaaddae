"""What a run says: the shape of `summary.json`. Data only; making it is `loadgen.analysis.summarize`.

The file has a percentile as keys beside each other (`p99`, `p99_ci`); in here it is a `Percentile`. `summary_data` and
`summary_from` lead from the one to the other.
"""

from collections.abc import Iterable
from typing import Final, Literal

import msgspec
from msgspec import UNSET, Struct, UnsetType, field

from loadgen.plan.plan import StageLoad
from loadgen.record import JsonObject, MachineFacts
from loadgen.store.manifest import ServedModel

SCHEMA: Final = "loadgen.summary/1"
METRICS: Final = ("ttft", "service_ttft", "itl", "tpot", "e2e", "queue", "connect")


class Percentile(Struct, frozen=True):
    """One percentile of a metric with its 95 % interval, ms."""

    value: float | None
    """None where the samples do not bound it from above: then it is shown by `at_least`, or not at all."""
    low: float | None = None
    high: float | None = None
    """None exactly where the value is."""
    runs: tuple[float | None, ...] | None = None
    """Where runs are merged, each run's own; None for a run in which it is not known."""

    @property
    def at_least(self) -> float | None:
        """What stands in place of a value that is not known: the interval's lower end."""
        return self.low if self.value is None else None

    @property
    def interval(self) -> tuple[float, float] | None:
        """Both ends of the interval; None where the value is not known."""
        return None if self.value is None or self.low is None or self.high is None else (self.low, self.high)


class Metric(Struct, frozen=True):
    """What is known of one latency, ms."""

    count: int = 0
    mean: float | None = None
    min: float | None = None
    max: float | None = None
    percentiles: dict[str, Percentile] = {}
    """By name: p50, p90, …"""

    def percentile(self, name: str) -> Percentile:
        """A percentile by its name; one that nobody computed is not known."""
        return self.percentiles[name] if name in self.percentiles else Percentile(None)


class ServerRates(Struct, frozen=True):
    """Tokens a second by the server's own clock, and the same by our stamps."""

    server_prefill_tokens_per_s: float
    client_prefill_tokens_per_s: float
    server_decode_tokens_per_s: float
    client_decode_tokens_per_s: float


class ServerSummary(Struct, frozen=True):
    """The server's side of a stage. Of its processes, all together: null is not known, a missing key not looked at."""

    rss_start_mib: float | UnsetType | None = UNSET
    rss_peak_mib: float | UnsetType | None = UNSET
    cpu_share: float | UnsetType | None = UNSET
    """Of one core: 2.0 is two cores busy."""
    rates: ServerRates | UnsetType = UNSET


class Requests(Struct, frozen=True):
    """Measured requests: planned = ok + failed, always. failed: every other outcome. attempts: how often one of them
    was sent, or tried to be; retried: those that more than one attempt was made of."""

    planned: int
    ok: int
    failed: int
    by_outcome: dict[str, int]
    warmup: int = 0
    retried: int = 0
    attempts: int = 0


class Throughput(Struct, frozen=True):
    """Inside the steady window; null where there was none, or no SLO. Per-user: the median over requests of 1/TPOT; and
    e2e_tokens_per_s that of output tokens / E2E, with its 95 % interval; both of all ok requests, window or not."""

    output_tokens_per_s: float | None
    requests_per_s: float | None
    per_user_tokens_per_s: float | None
    goodput_requests_per_s: float | None
    e2e_tokens_per_s: float | None = None
    e2e_tokens_per_s_ci: tuple[float, float] | None = None


class Tokens(Struct, frozen=True):
    """Tokens of the ok requests. prompt: null where no answer told. source: "usage", "events", or "mixed". cached: of
    the prompt's, those that the server took from a cache; no such key where no answer told."""

    prompt: int | None
    output: int
    source: str
    cached: int | UnsetType = UNSET


class Effect(Struct, frozen=True, order=True):
    """A number that is off because of us.

    share: by how much of what it would be (0.05: 5 %). number: its name in a report. by_ms: the same in ms; of a rate,
    how long each request waited for us.
    """

    share: float
    number: str
    by_ms: float


class Self(Struct, frozen=True):
    """Our own part in the numbers, and what the verdict rests on. Null: not measured, not of this kind of load, or of
    fewer samples than such a percentile needs (`loadgen.stats.quantile.floor_of`)."""

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
    """Where the p99 is not known, what it is not below."""
    slip_effect: Effect | None = None
    """The number that is most off because requests left late."""


Code = Literal[
    "dispatch_slip",
    "loop_lag",
    "stamp_lag",
    "own_cpu",
    "shed",
    "gc_pause",
    "achieved_rate",
    "achieved_users",
    "littles_law",
    "shared_reads",
    "held_back",
    "over_range",
    "clock_step",
    "no_window",
    "never_steady",
    "nothing_answered",
    "incomplete",
    "server_died",
    "worker_lost",
    "beyond_calibration",
    "busy_machine",
]
"""Why a stage is not simply valid: the closed set."""


class Reason(Struct, frozen=True):
    """One line that was crossed. observed and limit in words with units; advice: what to do."""

    code: Code
    observed: str = field(name="seen")
    """`seen` in summary.json."""
    limit: str
    advice: str
    fatal: bool = False


class Validity(Struct, frozen=True):
    """Whether the stage is to be believed, and why not."""

    verdict: str
    reasons: tuple[Reason, ...]
    stamp_source: str
    self: Self
    machine: MachineFacts | UnsetType = UNSET
    """Who else was on the machine; unset where nobody looked."""


class Attainment(Struct, frozen=True):
    """The SLO as far as it can be judged, and the share of planned requests that met all of that; null where none of it
    can be. attainment: the share that the scenario asks for; passed: whether it was reached, and all of the SLO could
    be judged; both null without a gate. fluidity: the mean over ok requests of the share
    of tokens that came in time, and fluid_share: of requests with at least 0.9; null without SLOs on TTFT and TPOT."""

    slo: dict[str, float]
    met: int
    share: float | None
    attainment: float | None
    passed: bool | None
    fluidity: float | None = None
    fluid_share: float | None = None


class Until(Struct, frozen=True, kw_only=True):
    """What a stage waited for: a percentile's 95 % interval with a relative half width of `asked` at most (0.05: ±5 %).

    reached: that half width at the end; null where the budget was spent before it was so narrow. early: whether that
    ended the stage. width: the half width, reached or not; null where the interval has no two ends. requests: answered
    ones, of which it is. needed: about how many would do; null where it was reached.
    """

    metric: str
    percentile: str
    asked: float
    reached: float | None
    requests: int
    early: bool = False
    width: float | None = None
    needed: int | None = None


class AcrossRuns(Struct, frozen=True):
    """A number over runs. values: of each, null where it is not known. mean: of those that know it; ci: its 95 %
    interval by Student's t, null for fewer than two."""

    values: tuple[float | None, ...]
    mean: float | None
    ci: tuple[float, float] | None


class Runs(Struct, frozen=True):
    """A stage over repeated runs. played: in how many it was. verdicts: of each run, "skipped" where it was not played;
    windows_s: of each, null without one. throughput: by the names of `Throughput`."""

    played: int
    verdicts: tuple[str, ...]
    windows_s: tuple[float | None, ...]
    throughput: dict[str, AcrossRuns]


class Steadiness(Struct, frozen=True):
    """Whether a stage's latencies settled. steady: null where there were too few requests to tell. why: "steady",
    "too_few", "never_settles", or "drift". warmed_after: requests at the window's front that still warmed up. growth:
    the median of the last third over that of the first, less 1."""

    steady: bool | None
    why: str
    warmed_after: int
    growth: float | None


class StageSummary(Struct, frozen=True, kw_only=True):
    """One stage of one model, as `summary.json` has it. reason: why it was skipped, and what can be done; problem: the
    same in a word. card: what is known of the model. steadiness: null without a window, and where the load itself is
    meant to change. not_valid: by metric, why it is not what its name says on this server; one that would be wrong is
    null besides. until: what it waited for, if anything. runs: where it is of several."""

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

    def metric(self, name: str) -> Metric | None:
        """A metric by its name; None where the stage does not have it."""
        return None if self.metrics is UNSET or name not in self.metrics else self.metrics[name]

    @property
    def peak_mib(self) -> float | None:
        """Resident memory of the server's processes at its highest; None where it is not known."""
        return None if self.server is None or self.server.rss_peak_mib is UNSET else self.server.rss_peak_mib

    @property
    def server_cpu_share(self) -> float | None:
        """How many cores the server's processes kept busy; None where it is not known."""
        return None if self.server is None or self.server.cpu_share is UNSET else self.server.cpu_share


class Summary(Struct, frozen=True, kw_only=True):
    """What a run says. streamed: answers came token by token; else whole, and have no TTFT, ITL and TPOT. floor: how
    many samples a percentile needs, by the "contract", or as many as a published result ("strict"). runs: the ids of
    the runs that were merged; empty for a run."""

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
    """A metric as `summary.json` has it: count, mean, min, max; p50…: a number with p50_ci beside it, or null with
    p50_at_least; of merged runs also p50_runs."""
    data: JsonObject = {"count": metric.count, "mean": metric.mean, "min": metric.min, "max": metric.max}
    for name, percentile in metric.percentiles.items():
        data[name] = percentile.value
        if percentile.value is None:
            data[f"{name}_at_least"] = percentile.low
        else:
            data[f"{name}_ci"] = [percentile.low, percentile.high]
        if percentile.runs is not None:
            data[f"{name}_runs"] = list(percentile.runs)
    return data


def _metric_from(data: JsonObject) -> JsonObject:
    """The fields of the `Metric` that `metric_data` was made of."""
    names = [key for key in data if key.startswith("p") and "_" not in key]
    return {key: data[key] for key in ("count", "mean", "min", "max")} | {
        "percentiles": {name: _percentile_from(name, data) for name in names}
    }


def _percentile_from(name: str, data: JsonObject) -> JsonObject:
    low, high = data.get(f"{name}_ci", (data.get(f"{name}_at_least"), None))
    return {"value": data[name], "low": low, "high": high, "runs": data.get(f"{name}_runs")}


def summary_data(summary: Summary) -> JsonObject:
    """A summary as `summary.json` has it, of plain values."""
    data: JsonObject = msgspec.to_builtins(summary)
    for stage, stage_data in zip(summary.stages, data["stages"], strict=True):
        if stage.metrics is not UNSET:
            stage_data["metrics"] = {name: metric_data(metric) for name, metric in stage.metrics.items()}
    return data


def summary_from(raw: bytes) -> Summary:
    """The summary in the text of a `summary.json`. Raises msgspec.MsgspecError for what is none."""
    data = msgspec.json.decode(raw)
    try:
        for stage in data["stages"]:
            if "metrics" in stage:
                stage["metrics"] = {name: _metric_from(metric) for name, metric in stage["metrics"].items()}
    except (TypeError, KeyError, AttributeError) as error:
        raise msgspec.ValidationError(f"not a summary: {error}") from error
    return msgspec.convert(data, Summary)


def in_ms(ns: float | None) -> float | None:
    """ns as a summary says it: ms, to a tenth of a µs."""
    return None if ns is None else round(ns / 1e6, 4)


def rounded(value: float | None) -> float | None:
    """A number as a summary says it: four digits behind the point."""
    return None if value is None else round(value, 4)


def total(values: Iterable[float | None]) -> float | None:
    """The sum of the numbers that are known; None where none is."""
    known = [value for value in values if value is not None]
    return rounded(sum(known)) if known else None


def mean(values: Iterable[float | None]) -> float | None:
    """The mean of the numbers that are known; None where none is."""
    known = [value for value in values if value is not None]
    return rounded(sum(known) / len(known)) if known else None


def highest(values: Iterable[float | None]) -> float | None:
    """The highest of the numbers that are known; None where none is."""
    return max((value for value in values if value is not None), default=None)
