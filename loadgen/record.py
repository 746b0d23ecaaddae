"""The immutable record of one attempt of a request: a line of `requests.jsonl`. Knows no statistics and no socket."""

from typing import Any, Literal

from msgspec import UNSET, Struct, UnsetType, field

JsonObject = dict[str, Any]
"""A JSON object whose keys are not ours to choose, or are not known before it is read."""

Phase = Literal["warmup", "measured"]
LatencyOrigin = Literal["sent", "intended"]
"""The moment from which the latencies of a stage count: `sent` in a closed loop, `intended` in an open loop."""
StampSource = Literal["kernel", "user"]
TokenSource = Literal["usage", "events"]
Outcome = Literal[
    "ok",
    "http_error",
    "stream_error",
    "truncated",
    "malformed",
    "not_streamed",
    "empty",
    "connect_error",
    "timeout",
    "cancelled",
    "shed",
]
"""How a planned request ended. Every request has exactly one; `docs/outcomes.md` explains them."""

OUTCOMES: tuple[Outcome, ...] = Outcome.__args__  # type: ignore[attr-defined]


class StageKey(Struct, frozen=True, order=True):
    """The stage and the model to which a record, a summary or a pace belongs."""

    target: str
    model: str
    level: str


class ServerTimings(Struct, frozen=True):
    """The timings that llama.cpp sends for a request: tokens of the prompt and of the answer, and the time of each,
    ms."""

    prompt_n: int
    prompt_ms: float
    predicted_n: int
    predicted_ms: float


class ReplyFields(Struct, frozen=True, kw_only=True):
    """The fields that a `Reply` and a `Record` share: the result of one attempt of a request.

    All `_ns` moments are on the run's monotonic clock; each is None if the request did not get that far.
    """

    outcome: Outcome
    status: int | None = None
    detail: str | None = None
    """What went wrong, as text, which may quote the server."""
    dispatched_ns: int | None = None
    """When the engine began to send the request. A later attempt has that of the first attempt: the wait counts."""
    sent_ns: int | None = None
    """When the client began to connect, if it needed a new connection; otherwise when it wrote the request. A later
    attempt has that of the first attempt."""
    written_ns: int | None = None
    """When the last byte of the request was handed to the kernel."""
    held_ns: int = 0
    """How long the plan's in-flight limit delayed a request that was due. This does not count as our own lateness."""
    attempt: int = 0
    """How many attempts of the same request there were before."""
    attempt_ns: int | None = None
    """When this attempt was dispatched; None for the first attempt, and for one that was never sent."""
    end_ns: int | None = None
    """When the orderly end arrived, or when the request was given up."""
    last_byte_ns: int | None = None
    """When the last byte of the body arrived. A user may ask again from then on."""
    first_visible_ns: int | None = None
    """When the first visible content arrived."""
    connect_ns: int | None = None
    """How long a new connection took to set up."""
    stamps_ns: tuple[int, ...] = ()
    """When the last byte of each token-bearing event arrived."""
    tokens_per_event: tuple[int, ...] | None = None
    """How many tokens each event has; None unless the server counts them."""
    stamp_source: StampSource = "user"
    shared_reads: int = 0
    """How many token-bearing events arrived in the same read as the event before. Their stamps are equal, so the gap
    between them is not known."""
    prompt_tokens: int | None = None
    cached_tokens: int | UnsetType = UNSET
    """How many tokens of the prompt the server took from a cache; unset if it does not say."""
    output_tokens: int | None = None
    token_source: TokenSource = "events"
    finish_reason: str | None = None
    text_sha256: str | None = None
    timings: ServerTimings | None = None
    text: str | UnsetType = UNSET


class Reply(ReplyFields, frozen=True, kw_only=True):
    """The result of one attempt, from the client or from an adapter."""

    retry_after_s: float | None = None
    """How long the head of the answer asks to wait before another attempt. Only the head counts, whatever the body
    says. It is not in the log; `detail` quotes it there."""


class Record(ReplyFields, frozen=True, kw_only=True):
    """One attempt of a planned request: a line of `requests.jsonl`. If the scenario has retries, each attempt of a
    request is a record with the same index, and the one with the highest `attempt` counts."""

    model: str
    target: str
    level: str
    index: int
    """The request's number within its model, level and phase."""
    phase: Phase
    prompt_id: str
    intended_ns: int
    """When the request should have begun by the plan."""

    @property
    def ended_ns(self) -> int:
        """When it ended, or was due if it was never sent."""
        return self.intended_ns if self.end_ns is None else self.end_ns

    @property
    def stage_key(self) -> StageKey:
        return StageKey(self.target, self.model, self.level)


class BegunRequest(Struct, frozen=True):
    """A measured request that has begun: its place in the plan."""

    model: str
    target: str
    level: str
    index: int
    prompt_id: str
    intended_ns: int
    """As of a `Record`."""


def record_of(reply: Reply, key: StageKey, *, index: int, phase: Phase, prompt_id: str, intended_ns: int) -> Record:
    """The record of one attempt: its reply and its place in the plan. intended_ns: since the run began."""
    return Record(
        **{name: getattr(reply, name) for name in ReplyFields.__struct_fields__},
        model=key.model,
        target=key.target,
        level=key.level,
        index=index,
        phase=phase,
        prompt_id=prompt_id,
        intended_ns=intended_ns,
    )


class ServerFacts(Struct, frozen=True):
    """The server's process during a stage. cpu_share: of one core (2.0: two cores busy). Memory: resident, bytes."""

    pid: int
    cpu_share: float | None
    rss_start_bytes: int | None
    rss_peak_bytes: int | None


class WorkerFacts(Struct, frozen=True, kw_only=True):
    """One of several processes that each played a part of a stage.

    requests: the measured requests that it reported before its end. cpu_share: of one core; None if it did not report
    one. lost: how it ended before its work was done, in words; None if it did not.
    """

    pid: int
    requests: int
    cpu_share: float | None = None
    lost: str | None = None


class Neighbor(Struct, frozen=True):
    """A program that is neither ours nor the server's. cpu_share: of one core, all its processes together."""

    name: str
    """The name of the program, without its path and arguments, which are private."""
    cpu_share: float


SlowdownSource = Literal["run_delay", "shared_waits", "idle_cores"]
"""How a slow-down was estimated (`loadgen.telemetry.neighbors`): from the time for which the server's threads waited
for a core; from the same, if they take over each other's work; or from the idle time of the cores."""


class MachineFacts(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The neighbors and the machine during a stage. None means not known. Shares are of the stage's time or of one
    core."""

    cores: int
    neighbors_cpu_share: float | None = None
    """CPU of all neighbors, as a share of one core (2.0: two busy cores)."""
    busiest: tuple[Neighbor, ...] = ()
    slowdown: float | None = None
    """By how much neighbors lengthened the server's work (0.05: 5 %); None if the server is not on this machine, or not
    known."""
    slowdown_source: SlowdownSource | None = None
    shared_slowdown: float | None = None
    """The slow-down if the server's threads take over each other's work while one of them waits, as those of llama.cpp
    do."""
    host_slowdown: float | None = None
    """By how much the host of this virtual machine lengthened the server's work."""
    server_wait_share: float | None = None
    """The share of the time in which a thread of the server was ready to run and waited for a core, for any reason."""
    server_shared_wait_share: float | None = None
    """The share of the time that the server lost by such waits if its threads take over each other's work."""
    steal_share: float | None = None
    """The CPU time that the host of this virtual machine took, as a share of one core."""
    throttled_share: float | None = None
    """The share of the time in which the limit of the server's control group kept it from running."""
    cpu_pressure: float | None = None
    """The share of the time in which some task of the machine waited for a core."""
    memory_pressure: float | None = None
    """The share of the time in which some task of the machine waited for memory."""
    memory_available_share: float | None = None
    """The least share of the machine's memory that was available to programs at one moment."""
    swapped_in_bytes: int | None = None


LAG_PERCENTILES = (50.0, 75.0, 90.0, 95.0, 97.0, 98.0, 99.0, 99.5)
"""The percentiles that represent the distribution of the event loop's lag."""


class StageFacts(Struct, frozen=True, kw_only=True):
    """Our measurements of ourselves during the measured requests of a stage: a line of `stages.jsonl`.

    models: the names of its models. All `_ns` moments are on the run's clock. loop_lag: how late the event loop woke a
    task, measured every 20 ms; a longer stall counts once for each 20 ms. stamp_lag: user stamp minus kernel stamp of a
    read. cpu_share: of one core; only that of the event loop's thread if a model runs in this process.
    in_flight_samples: (time, requests in flight), evenly spaced, from a sampler that does not use the records. workers:
    the processes that played the stage, if it was not this one (`loadgen.engine.workers.merge`). machine: the neighbors
    and the machine. loop_lags_ns: the lag at each of LAG_PERCENTILES; empty if it was not measured. timer_slack_ns: how
    late the timer alone may wake a task; loop_lag contains this, but no stamp does.
    """

    models: tuple[str, ...]
    targets: tuple[str, ...]
    level: str
    start_ns: int
    end_ns: int
    complete: bool
    cpu_share: float
    loop_lag_p50_ns: int | None = None
    loop_lag_p99_ns: int | None = None
    loop_lag_max_ns: int | None = None
    stamp_lag_p50_ns: int | None = None
    stamp_lag_p99_ns: int | None = None
    stamp_lag_max_ns: int | None = None
    stamped_reads: int = 0
    gc_pause_max_ns: int = 0
    clock_steps: int = 0
    in_flight_samples: tuple[tuple[int, int], ...] = ()
    servers: tuple[ServerFacts, ...] = ()
    workers: tuple[WorkerFacts, ...] = ()
    ended_early: bool = field(default=False, name="settled")
    """Whether a stop rule, a search or a soak ended it before it had its requests or its duration; `settled` in the
    file."""
    machine: MachineFacts | None = None
    loop_lags_ns: tuple[int, ...] = ()
    timer_slack_ns: int = 1_500_000
    loop_stalls_ns: tuple[tuple[int, int], ...] = ()
    """(When it ended, for how long) of each time that the event loop stood still for 20 ms or more: the longest 256."""
    loop_short_lags_ns: tuple[int, ...] = ()
    """The lag at each of LAG_PERCENTILES without stalls; empty where none was taken, and in older runs."""
    stamp_lags_ns: tuple[int, ...] = ()
    """stamp_lag at each of LAG_PERCENTILES; empty where none was taken."""
    gc_pause_end_ns: int | None = None
    """When the longest garbage collection ended; None without any, and in older runs."""
    clock_step_max_ns: int | None = None
    """By how much the wall clock was stepped at most, in either direction; None without any step, and in older runs."""

    def __post_init__(self) -> None:
        if len(self.models) != len(self.targets):  # a damaged line, which is then counted as unreadable
            raise ValueError(f"{len(self.models)} models of {len(self.targets)} targets")

    @property
    def keys(self) -> tuple[StageKey, ...]:
        """The keys of the stages that were played together: one for each model."""
        return tuple(StageKey(*pair, self.level) for pair in zip(self.targets, self.models, strict=True))


class ProcessFacts(Struct, frozen=True, kw_only=True):
    """Our measurements of one of our processes during a window of a soak. Lags: as in `StageFacts`."""

    cpu_share: float
    """Of one core."""
    ticks: int
    """How often the event loop's lag was measured."""
    loop_lags_ns: tuple[int, ...] = ()
    """The lag at each of LAG_PERCENTILES; empty if it was not measured."""
    stamped_reads: int = 0
    stamp_lags_ns: tuple[int, ...] = ()
    """User stamp minus kernel stamp at each of LAG_PERCENTILES; empty where none was taken."""
    clock_steps: int = 0
    """How often the wall clock was stepped."""
    clock_step_max_ns: int | None = None
    """The largest step since the stage began."""
    collector_ns: int = 0
    """How long the garbage collection before the window took."""
    rss_bytes: int | None = None
    """At the end of the window."""
    timer_slack_ns: int = 1_500_000
