"""Gives up requests that are past a deadline, and those that are over though the server keeps the connection open.

Knows no session and no plan.
"""

import asyncio
from collections.abc import Callable
from typing import Final

from loadgen.clock import now_ns
from loadgen.record import Outcome
from loadgen.wire.exchange import Exchange

CHECK_NS: Final = 250_000_000
"""How often every request in flight is checked."""
LINGER_NS: Final = 400_000_000
"""A stream that has been silent for this long is decoded: it may have had its orderly end, or an error, while the
server keeps the connection open."""


class Watchdog:
    """Gives up requests that are past a deadline. One timer checks all requests in flight together.

    A request whose deadline comes before the next such check has a timer of its own.
    """

    def __init__(self) -> None:
        self.watched: set[Exchange] = set()
        # Fires at multiples of CHECK_NS while anything is watched, so that an idle client never wakes.
        self._timer: asyncio.TimerHandle | None = None
        self._own: dict[Exchange, asyncio.TimerHandle] = {}

    def watch(self, exchange: Exchange) -> None:
        self.watched.add(exchange)
        now = now_ns()
        next_check_ns = _next_check_ns(now)
        if self._timer is None:
            self._timer = _call_at(now, next_check_ns, self._check)
        self._arm(exchange, now, next_check_ns)

    def forget(self, exchange: Exchange) -> None:
        """Stop watching an exchange, which has ended."""
        self.watched.discard(exchange)
        if (own := self._own.pop(exchange, None)) is not None:
            own.cancel()

    def close(self) -> None:
        for timer in (self._timer, *self._own.values()):
            if timer is not None:
                timer.cancel()
        self._timer = None
        self._own.clear()
        self.watched.clear()

    def _arm(self, exchange: Exchange, now: int, before_ns: int) -> None:
        """Give the exchange a timer of its own if its next deadline comes before `before_ns`."""
        due_ns = next_due_ns(exchange)
        if now < due_ns < before_ns and exchange not in self._own:
            self._own[exchange] = _call_at(now, due_ns, self._check_alone, exchange)

    def _check_alone(self, exchange: Exchange) -> None:
        self._own.pop(exchange, None)
        now = now_ns()
        if not self._give_up_if_overdue(exchange, now):
            self._arm(exchange, now, _next_check_ns(now))

    def _check(self) -> None:
        now = now_ns()
        next_check_ns = _next_check_ns(now)
        self._timer = _call_at(now, next_check_ns, self._check) if self.watched else None
        for exchange in list(self.watched):
            if not self._give_up_if_overdue(exchange, now):
                self._arm(exchange, now, next_check_ns)

    @staticmethod
    def _give_up_if_overdue(exchange: Exchange, now: int) -> bool:
        """True if the exchange is over: it had ended already, or was given up here."""
        if exchange.ended_ns is not None or exchange.failure is not None:
            return True
        if is_unremarkable(exchange, now):
            return False
        verdict = overdue(exchange, now)
        if verdict is None:
            return False
        exchange.give_up(*verdict)
        return True


def _next_check_ns(now: int) -> int:
    return (now // CHECK_NS + 1) * CHECK_NS


def _call_at(now: int, due_ns: int, callback: Callable[..., None], *args: object) -> asyncio.TimerHandle:
    return asyncio.get_running_loop().call_later(max(0, due_ns - now) / 1e9, callback, *args)


def is_unremarkable(exchange: Exchange, now: int) -> bool:
    """Whether there is nothing to do, told without decoding: no deadline has passed, and a silent stream was
    decoded."""
    if next_due_ns(exchange) <= now:
        return False
    progress, stamps = exchange.progress, exchange.stamps
    if exchange.request.deadlines.next_token_ns is not None and progress.last_token_ns is None:
        return False  # only decoding tells whether and when the first token came
    last_read_ns = stamps.last_read_ns
    return last_read_ns is None or now - last_read_ns < LINGER_NS or progress.silence_checked_at == stamps.reads_so_far


def next_due_ns(exchange: Exchange) -> int:
    """The next deadline of an exchange, given what is known to have arrived so far."""
    limits, start = exchange.request.deadlines, exchange.dispatched_ns
    due_ns, last_token_ns = start + limits.request_ns, exchange.progress.last_token_ns
    if limits.headers_ns is not None and exchange.response.status is None:
        due_ns = min(due_ns, start + limits.headers_ns)
    if limits.first_token_ns is not None and last_token_ns is None:
        due_ns = min(due_ns, start + limits.first_token_ns)
    if limits.next_token_ns is not None and last_token_ns is not None:
        due_ns = min(due_ns, last_token_ns + limits.next_token_ns)
    return due_ns


def due_times(exchange: Exchange) -> list[tuple[int, str]]:
    """When each deadline of an exchange passes, and what the client waits for then: (ns, text).

    Given what is known to have arrived so far.
    """
    limits, start = exchange.request.deadlines, exchange.dispatched_ns
    last_token_ns = exchange.progress.last_token_ns
    if exchange.response.status is None:
        awaited = "headers"
    elif last_token_ns is None:
        awaited = "first token"
    else:
        awaited = "next token"
    due = [(start + limits.request_ns, f"waiting for {awaited}, request deadline {limits.request_ns / 1e9:g} s")]
    if limits.headers_ns is not None and awaited == "headers":
        due.append((start + limits.headers_ns, f"waiting for headers, {limits.headers_ns / 1e9:g} s"))
    if limits.first_token_ns is not None and last_token_ns is None:
        due.append((start + limits.first_token_ns, f"waiting for first token, {limits.first_token_ns / 1e9:g} s"))
    if limits.next_token_ns is not None and last_token_ns is not None:
        due.append((last_token_ns + limits.next_token_ns, f"waiting for next token, {limits.next_token_ns / 1e9:g} s"))
    return due


def overdue(exchange: Exchange, now: int) -> tuple[Outcome, str] | None:
    """The outcome with which an exchange is to be given up now, and its detail; None: it goes on.

    Nothing more can come after an orderly end, after an error event, or of an error's body that has fallen silent.
    Where the server keeps the connection open all the same, these are given up as `ok`, `stream_error` and
    `http_error`.
    """
    response, progress = exchange.response, exchange.progress
    last_read_ns = exchange.stamps.last_read_ns
    late = [text for due_ns, text in due_times(exchange) if due_ns <= now]
    silent = last_read_ns is not None and now - last_read_ns >= LINGER_NS
    if not late and not silent and exchange.request.deadlines.next_token_ns is None:
        return None
    if silent and response.status is not None and response.status >= 400:
        return "http_error", "the server left its error unfinished"
    if response.status == 200 and last_read_ns is not None and (silent or late or progress.last_token_ns is None):
        # First, because the body may have ended unnoticed, and a request that is over is not given up as late.
        if response.settle_if_ended():
            return None
        if silent:
            progress.silence_checked_at = exchange.stamps.reads_so_far
        decoder = progress.update(response)
        if silent and decoder.orderly:
            return "ok", "the server kept the connection open after the end"
        if silent and decoder.error is not None:
            return "stream_error", decoder.error
        # Decoding may have told when the last token came, which moves the deadline for the next one.
        late = [text for due_ns, text in due_times(exchange) if due_ns <= now]
    return ("timeout", late[0]) if late else None
