"""Reads an ended exchange: raw bytes and stamps become a `Reply` with one stamp a token and one outcome. Pure.

An answer that was not streamed has no stamps of tokens. It ends with its last byte, and the number of its tokens comes
from `usage`, or is not known.
"""

import re
from array import array
from bisect import bisect_left
from collections.abc import Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Final

import numpy as np
from msgspec import UNSET, Struct
from numpy.typing import NDArray

from loadgen.clock import utc_now
from loadgen.record import Outcome, Reply, ServerTimings, StampSource, TokenSource
from loadgen.redact import redact_keys
from loadgen.wire.chat_stream import Completion, decode
from loadgen.wire.chat_whole import WholeAnswer, decode_whole
from loadgen.wire.exchange import Exchange
from loadgen.wire.receiver import Columns, columns_of

DETAIL_CHARS: Final = 300
_SECONDS: Final = re.compile(r"[0-9]{1,9}(?:\.[0-9]{1,9})?")
_MAX_EARLY_NS: Final = 1_000_000  # a kernel's stamp that is later than ours by more than this cannot be right
_MAX_LATE_NS: Final = 60_000_000_000  # nor can one that is earlier than ours by more than this
_WHOLE_BODY_STARTS: Final = (b"{", b"[", b"<")


class ArrivalTimes:
    """When each byte of a body had arrived, ns on the run's clock. By kernel stamps if every read has a valid one.

    Here a kernel stamp of the wall clock becomes a moment of the run. In plain Python, because numpy costs more for so
    few numbers.
    """

    def __init__(self, reads: Sequence[tuple[int, int, int]] | Columns, epoch_ns: int, wall_offset_ns: int) -> None:
        self._offsets, user, wall = reads if isinstance(reads, Columns) else columns_of(reads)
        # A stamp from after we had the bytes, or from long before, comes from a wall clock that was stepped meanwhile.
        # Then no kernel stamp of this body is used: stamps of two clocks would make up gaps between tokens.
        lags = [user_ns - wall_ns + wall_offset_ns for user_ns, wall_ns in zip(user, wall, strict=True)]
        sound = bool(lags) and min(wall) > 0 and min(lags) > -_MAX_EARLY_NS and max(lags) < _MAX_LATE_NS
        self.source: StampSource = "kernel" if sound else "user"
        self.lags_ns: NDArray[np.int64] = np.array(array("q", lags if sound else ()))
        if sound:
            # Within the tolerance a kernel's stamp may be later than ours. Then ours is used, because the bytes had
            # arrived when we had them.
            self._arrived = [
                user_ns - epoch_ns - (lag if lag > 0 else 0) for user_ns, lag in zip(user, lags, strict=True)
            ]
        else:
            self._arrived = [user_ns - epoch_ns for user_ns in user]

    @property
    def last_ns(self) -> int | None:
        """When the last read arrived."""
        return self._arrived[-1] if self._arrived else None

    def at(self, ends: list[int]) -> tuple[list[int], int]:
        """When the events that end at these body offsets had arrived, and how many of them came in the same read as the
        one before. ends: offsets that never decrease.

        An event has the stamp of the read that brought its last byte.
        """
        offsets, arrived = self._offsets, self._arrived
        if not arrived or not ends:
            return [], 0
        first = bisect_left(offsets, ends[0])
        if list(offsets[first : first + len(ends)]) == ends:  # the usual case: each event came in a read of its own
            return arrived[first : first + len(ends)], 0
        stamps: list[int] = []
        shared, before, read, last = 0, -1, 0, len(offsets) - 1
        for end in ends:
            read = min(bisect_left(offsets, end, read), last)
            shared += read == before
            before = read
            stamps.append(arrived[read])
        return stamps, shared


class _Answer(Struct, frozen=True, kw_only=True):
    """The content of an answer, streamed or not: the fields of its `Reply` that do not come from the connection."""

    outcome: Outcome
    detail: str | None
    end_offset: int | None
    """The body offset at which its orderly end ends; None without an orderly end."""
    first_visible_ns: int | None = None
    stamps_ns: tuple[int, ...] = ()
    tokens_per_event: tuple[int, ...] | None = None
    shared_reads: int = 0
    prompt_tokens: int | None
    cached_tokens: int | None
    output_tokens: int | None
    token_source: TokenSource
    finish_reason: str | None
    text: str | None
    """None if nothing was generated. It is empty if all tokens are hidden."""
    text_sha256: str | None
    timings: ServerTimings | None


def read_reply(
    exchange: Exchange, *, epoch_ns: int, wall_offset_ns: int, keep_text: bool = False
) -> tuple[Reply, NDArray[np.int64]]:
    """The reply of an exchange, and how much later (ns) user space saw each read than the kernel stamped it.

    epoch_ns: the run's beginning on the monotonic clock. wall_offset_ns: see `loadgen.clock.wall_offset_ns`.
    """
    body = exchange.body()
    sending = exchange.stamps
    arrivals = ArrivalTimes(sending.columns, epoch_ns, wall_offset_ns)
    answer = _streamed(exchange, body, arrivals) if exchange.request.streams else _whole(exchange, body)

    def on_run(moment_ns: int | None) -> int | None:
        return None if moment_ns is None else moment_ns - epoch_ns

    # The answer ends when its orderly end arrived. The user does not wait for what the connection does after it.
    orderly_end = arrivals.at([answer.end_offset])[0] if answer.end_offset is not None else []
    began = [moment for moment in (sending.connect_start_ns, sending.first_write_ns) if moment is not None]
    reply = Reply(
        outcome=answer.outcome,
        status=exchange.response.status,
        detail=answer.detail,
        dispatched_ns=on_run(exchange.dispatched_ns),
        sent_ns=on_run(min(began, default=None)),
        written_ns=on_run(sending.written_ns),
        end_ns=orderly_end[0] if orderly_end else on_run(exchange.ended_ns),
        last_byte_ns=_last_byte_ns(exchange, arrivals, epoch_ns),
        first_visible_ns=answer.first_visible_ns,
        connect_ns=_connect_ns(sending.connect_start_ns, sending.connect_end_ns),
        stamps_ns=answer.stamps_ns,
        tokens_per_event=answer.tokens_per_event,
        stamp_source=arrivals.source,
        shared_reads=answer.shared_reads,
        prompt_tokens=answer.prompt_tokens,
        cached_tokens=UNSET if answer.cached_tokens is None else answer.cached_tokens,
        output_tokens=answer.output_tokens,
        token_source=answer.token_source,
        finish_reason=answer.finish_reason,
        text_sha256=answer.text_sha256,
        timings=answer.timings,
        text=answer.text if keep_text and answer.text is not None else UNSET,
        retry_after_s=_retry_after_s(exchange),
    )
    return reply, arrivals.lags_ns


def read_open(exchange: Exchange, *, epoch_ns: int, wall_offset_ns: int, now_ns: int) -> Reply | None:
    """What is known of an exchange that has not ended, as if it were cancelled at now_ns. None if its answer is over,
    which the client has not noticed yet. The other arguments are those of `read_reply`. Not on the hot path."""
    stamps: list[int] = []
    visible: int | None = None
    sending = exchange.stamps
    if exchange.request.streams and exchange.response.status == 200:
        completion = decode(exchange.body())
        if completion.end_offset is not None or completion.error is not None:
            return None
        stamps, _ = ArrivalTimes(sending.columns, epoch_ns, wall_offset_ns).at(completion.token_ends)
        visible = completion.first_visible
    began = [moment for moment in (sending.connect_start_ns, sending.first_write_ns) if moment is not None]
    return Reply(
        outcome="cancelled",
        dispatched_ns=exchange.dispatched_ns - epoch_ns,
        sent_ns=min(began) - epoch_ns if began else None,
        end_ns=now_ns - epoch_ns,
        first_visible_ns=stamps[visible] if visible is not None and stamps else None,
        stamps_ns=tuple(stamps),
    )


def _streamed(exchange: Exchange, body: bytes, arrivals: ArrivalTimes) -> _Answer:
    completion = exchange.completion()
    stamps, shared = arrivals.at(completion.token_ends)
    outcome, detail = outcome_of(exchange, completion, body)
    counted = completion.output_tokens is not None
    tokens = completion.output_tokens if counted else len(stamps)
    visible = completion.first_visible
    return _Answer(
        outcome=outcome,
        detail=detail,
        end_offset=completion.end_offset,
        first_visible_ns=stamps[visible] if visible is not None and stamps else None,
        stamps_ns=tuple(stamps),
        tokens_per_event=tuple(completion.tokens_per_event) if completion.tokens_per_event else None,
        shared_reads=shared,
        prompt_tokens=completion.prompt_tokens,
        cached_tokens=completion.cached_tokens,
        output_tokens=tokens if exchange.response.status == 200 else None,
        token_source="usage" if counted else "events",
        finish_reason=completion.finish_reason,
        text=completion.text if stamps else None,
        text_sha256=completion.text_sha256 if stamps else None,
        timings=completion.timings,
    )


def _whole(exchange: Exchange, body: bytes) -> _Answer:
    answer = decode_whole(body if exchange.response.status == 200 else b"")
    outcome, detail = outcome_of_whole(exchange, answer, body)
    return _Answer(
        outcome=outcome,
        detail=detail,
        end_offset=len(body) if answer.answers else None,
        prompt_tokens=answer.prompt_tokens,
        cached_tokens=answer.cached_tokens,
        output_tokens=answer.output_tokens,
        token_source="events" if answer.output_tokens is None else "usage",
        finish_reason=answer.finish_reason,
        text=answer.text if answer.speaks else None,
        text_sha256=answer.text_sha256,
        timings=answer.timings,
    )


def outcome_of(exchange: Exchange, completion: Completion, body: bytes) -> tuple[Outcome, str | None]:
    """How a request ended, and a line about it. What the answer says decides before what the connection did."""
    failure, status = exchange.failure, exchange.response.status
    if status is not None and status >= 400:
        return "http_error", _http_detail(exchange, body)
    if completion.error is not None:
        return "stream_error", completion.error
    if completion.malformed is not None:
        return "malformed", completion.malformed
    if completion.end_offset is not None:  # after an orderly end, a failure of the connection does not count
        return ("ok", None) if completion.token_ends else ("empty", "an orderly end, and no token before it")
    if failure is not None:
        return failure.outcome, failure.detail
    if status != 200:
        return "not_streamed", f"status {status} where a stream was asked for"
    return _without_an_end(exchange, completion, body)


def outcome_of_whole(exchange: Exchange, answer: WholeAnswer, body: bytes) -> tuple[Outcome, str | None]:
    """How a request that was not streamed ended, and a line about it. Decided in the same order as `outcome_of`."""
    failure, status = exchange.failure, exchange.response.status
    if status is not None and status >= 400:
        return "http_error", _http_detail(exchange, body)
    if answer.error is not None:
        return "stream_error", answer.error
    if answer.answers:
        return ("ok", None) if answer.speaks else ("empty", "a whole answer, and nothing in it")
    if failure is not None and (answer.cut or status != 200):
        return failure.outcome, failure.detail
    if status != 200:
        return "malformed", f"status {status} where an answer was asked for"
    if answer.malformed is not None:
        return "malformed", f"{answer.malformed}: {_one_line(body[:200])}"
    return "truncated", f"the body breaks off after {len(body)} bytes" if body else "the body was empty"


def _without_an_end(exchange: Exchange, completion: Completion, body: bytes) -> tuple[Outcome, str | None]:
    start = body[:200].lstrip(b"\xef\xbb\xbf \t\r\n")
    if start.startswith(_WHOLE_BODY_STARTS) and not completion.token_ends:
        return "not_streamed", f"a whole {exchange.response.content_type} body: {_one_line(start)}"
    if not body:
        return "truncated", "the body was empty"
    if completion.token_ends:
        tokens = "1 token" if len(completion.token_ends) == 1 else f"{len(completion.token_ends)} tokens"
        return "truncated", f"the stream ended after {tokens}, without an orderly end"
    if b"data:" in body:
        return "truncated", "the stream ended before the first token, without an orderly end"
    return "malformed", f"not server-sent events: {_one_line(start)}"


def _http_detail(exchange: Exchange, body: bytes) -> str:
    wait = f"Retry-After: {exchange.response.retry_after}; " if exchange.response.retry_after else ""
    return (redact_keys(wait) + _one_line(body))[:DETAIL_CHARS]


def _retry_after_s(exchange: Exchange) -> float | None:
    header, status = exchange.response.retry_after, exchange.response.status
    return retry_after_s(header, utc_now()) if header and status is not None and status >= 400 else None


def retry_after_s(value: str, now: datetime) -> float | None:
    """How long a Retry-After header asks to wait, s. It has seconds or a date (RFC 9110, 10.2.3); a past date gives 0.
    None if the value is neither."""
    value = value.strip()
    if _SECONDS.fullmatch(value):
        return float(value)
    try:
        until = parsedate_to_datetime(value)
    except (ValueError, OverflowError):
        return None
    until = until if until.tzinfo is not None else until.replace(tzinfo=UTC)
    return max(0.0, (until - now).total_seconds())


def _one_line(data: bytes) -> str:
    text = redact_keys(" ".join(data.decode("utf-8", "replace").split()))  # before it is cut
    return text if len(text) <= DETAIL_CHARS else text[: DETAIL_CHARS - 1] + "…"


def _connect_ns(start_ns: int | None, end_ns: int | None) -> int | None:
    return None if start_ns is None or end_ns is None else end_ns - start_ns


def _last_byte_ns(exchange: Exchange, arrivals: ArrivalTimes, epoch_ns: int) -> int | None:
    """When the body was over: when its last byte arrived, or when we gave up a connection that the server kept open
    after the orderly end."""
    let_go = exchange.failure is not None and exchange.failure.outcome == "ok"
    return exchange.ended_ns - epoch_ns if let_go and exchange.ended_ns is not None else arrivals.last_ns
