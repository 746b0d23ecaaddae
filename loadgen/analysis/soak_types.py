"""The types of the keys `soak` and `drift` of a stage in `summary.json`. Data only.

`loadgen.analysis.soak_summary` computes `soak`, and `loadgen.decisions.drift` computes `drift`.
"""

from typing import Final, Literal

from msgspec import UNSET, Struct, UnsetType, field

DriftVerdict = Literal["degrading", "not enough data", "improving", "stable"]
DRIFT_VERDICTS: Final[tuple[DriftVerdict, ...]] = DriftVerdict.__args__  # type: ignore[attr-defined]
"""From the worst to the best: the word of a soak is that of its worst metric."""
DriftMetricName = Literal[
    "ttft_p50",
    "ttft_tail",
    "itl_p50",
    "itl_tail",
    "stream_tokens_per_s",
    "failed_share",
    "server_memory",
    "temperature",
]
DRIFT_METRICS: Final[tuple[DriftMetricName, ...]] = DriftMetricName.__args__  # type: ignore[attr-defined]
"""The series of a model, in the order of every report."""
MAY_BE_UNSURE: Final = frozenset[DriftMetricName]({"ttft_tail", "itl_tail", "temperature"})
"""The metrics that do not make the verdict of a soak `not enough data`."""
DriftUnit = Literal["ms", "tokens/s", "share", "MiB", "°C"]


class DriftMetric(Struct, frozen=True, kw_only=True):
    """The verdict on one series of a model. A change is relative (0.05: 5 %) and is that between both ends of the time
    that is tested; that of `failed_share` is a difference of shares, that of `temperature` one of °C."""

    verdict: DriftVerdict
    change: float | None
    """None if too little is known to compute it."""
    change_ci: tuple[float, float] | None
    """Its 95 % interval."""
    p: float | None
    """Of the test that nothing changes."""
    p_adjusted: float | None
    """By Holm's method over all metrics of all models of the run."""
    matters: float
    """The smallest change that counts, in the unit of `change`."""
    start: float | None = field(default=None, name="from")
    """The level at the start of the time that is tested, on the fitted line, in `unit`; `from` in the file."""
    end: float | None = field(default=None, name="to")
    """The level at its end; `to` in the file."""
    unit: DriftUnit
    percentile: str | UnsetType = UNSET
    """Of a tail: which percentile it is, such as `p95`."""
    from_ns: int | None = None
    to_ns: int | None = None
    """The start and the end of the time that is tested, ns since the run began."""
    within: float | None = None
    """If the verdict is `stable`: the end of the 90 % interval that is farther from 0, which no change exceeds."""
    could_show: float | None = None
    """If the verdict is `not enough data`: the smallest change that this night could have shown."""
    since_utc: str | None = None
    """If it changed in a step: when. None: all night, or it did not change."""
    since_between_utc: tuple[str, str] | None = None
    """The 95 % range of `since_utc`."""
    life: int | UnsetType = UNSET
    """Of the server's memory: which life of its process is tested, from 0."""
    mib_per_h: float | UnsetType | None = UNSET
    mib_per_request: float | UnsetType | None = UNSET
    mib_per_1000_tokens: float | UnsetType | None = UNSET
    """Of the server's memory: by how much it grows, per hour, per answered request and per 1,000 output tokens."""
    full_in_h: float | UnsetType | None = UNSET
    """Of the server's memory: hours until it fills the machine's memory; None if it does not grow."""


class Drift(Struct, frozen=True, kw_only=True):
    """Whether a model drifted over a soak."""

    verdict: DriftVerdict
    windows: int
    """How many windows are tested."""
    left_out: int
    """How many windows are not: those of the warm-up, those in a gap, and those that are not valid."""
    warm_up: int
    """How many of the windows that are left out are warm-up: the first ones."""
    why: Literal["few_windows", "few_requests"] | None = None
    """Why nothing is tested: fewer than 50 windows, or fewer than 300 answered requests."""
    short: bool = False
    """Whether the soak is shorter than two hours, in which a slow wander of the pace looks like drift."""
    since_utc: str | None
    """`since_utc` of the metric that decides the verdict."""
    metrics: dict[DriftMetricName, DriftMetric]
    """By name, in the order of `DRIFT_METRICS`; a series that is not known has no entry."""


class Outages(Struct, frozen=True):
    """The times during which the server answered nothing although something was asked for."""

    count: int
    s: float
    """How long they lasted together."""


class SoakSummary(Struct, frozen=True, kw_only=True):
    """What happened to one model during a soak."""

    windows: int
    """Without those after the deadline."""
    valid_windows: int
    outages: Outages
    suspended_s: float
    """How long the machine was suspended."""
    stopped_s: float
    """How long loadgen itself was not run, although the machine was on."""
    resumed: int
    """How often the soak was resumed after loadgen had ended."""
    server_restarts: int
    records_dropped_windows: int
    """How many windows have no records any more, because the disk budget was used up."""
    own_memory_mib_per_h: float | None
    """The growth of loadgen's own memory; None if it is not known."""
    run_folder_bytes: int
    """The size of what was measured: all files of the run folder but the reports."""
