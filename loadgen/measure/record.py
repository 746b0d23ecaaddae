"""One immutable record a planned request: what `requests.jsonl` holds. Knows no statistics and no socket."""

from typing import Literal

import msgspec
from msgspec import Struct

Phase = Literal["warmup", "measured"]
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
"""How a planned request ended; the closed set of `docs/metrics.md`. Exactly one each."""

OUTCOMES: tuple[Outcome, ...] = Outcome.__args__  # type: ignore[attr-defined]


class ServerTimings(Struct, frozen=True):
    """llama.cpp's own account of a request: tokens and ms of prefill (`prompt_`) and of decoding (`predicted_`)."""

    prompt_n: int
    prompt_ms: float
    predicted_n: int
    predicted_ms: float


class Record(Struct, frozen=True, kw_only=True):
    """What became of one planned request.

    All `_ns` are on the run's monotonic clock, from the run's beginning; None where the request did not get so far.
    intended: when the plan said. dispatched: the engine began. sent: the connection's start when a new one was needed,
    else the write. written: the last byte of the request was with the kernel. stamps: arrival of each token-bearing
    event's last byte. end: arrival of the orderly end, or when the request was given up. connect: the set-up of a new
    connection. tokens_per_event: only where the server counts them. shared_reads: token-bearing events that arrived in
    the same read as the one before (their stamps are equal, and say so no more).
    """

    model: str
    target: str
    level: str
    index: int
    phase: Phase
    outcome: Outcome
    status: int | None = None
    detail: str | None = None
    prompt_id: str
    intended_ns: int
    dispatched_ns: int | None = None
    sent_ns: int | None = None
    written_ns: int | None = None
    end_ns: int | None = None
    first_visible_ns: int | None = None
    connect_ns: int | None = None
    stamps_ns: tuple[int, ...] = ()
    tokens_per_event: tuple[int, ...] | None = None
    stamp_source: StampSource = "user"
    shared_reads: int = 0
    prompt_tokens: int | None = None
    output_tokens: int | None = None
    token_source: TokenSource = "events"
    finish_reason: str | None = None
    text_sha256: str | None = None
    timings: ServerTimings | None = None
    text: str | None = msgspec.field(default=None)
