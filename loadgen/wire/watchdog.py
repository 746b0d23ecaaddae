"""Gives up what has passed its deadline, or has ended while its connection stays open. Knows no session and no plan."""

import asyncio
import heapq
import itertools
from typing import Final

from loadgen.clock import now_ns
from loadgen.measure.record import Outcome
from loadgen.wire.exchange import Exchange

CHECK_NS: Final = 250_000_000
"""How often a request that has no nearer deadline is looked at."""
LINGER_NS: Final = 400_000_000
"""A stream that has been silent for so long is looked into: an orderly end may have come while the server keeps the
connection open."""


class Watchdog:
    """Gives up what has passed its deadline: one timer for all requests in flight."""

    def __init__(self) -> None:
        self._heap: list[tuple[int, int, Exchange]] = []
        self._order = itertools.count()
        self._timer: asyncio.TimerHandle | None = None
        self._timer_due_ns = 0

    def watch(self, exchange: Exchange) -> None:
        self._push(self._next_look_ns(exchange, exchange.dispatched_ns), exchange)
        self._arm()

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._heap.clear()

    def _push(self, due_ns: int, exchange: Exchange) -> None:
        heapq.heappush(self._heap, (due_ns, next(self._order), exchange))

    def _arm(self) -> None:
        if not self._heap:
            return
        due_ns = self._heap[0][0]
        if self._timer is not None:
            if self._timer_due_ns <= due_ns:
                return
            self._timer.cancel()
        self._timer_due_ns = due_ns
        self._timer = asyncio.get_running_loop().call_later(max(0, due_ns - now_ns()) / 1e9, self._look)

    def _look(self) -> None:
        self._timer = None
        now = now_ns()
        while self._heap and self._heap[0][0] <= now:
            exchange = heapq.heappop(self._heap)[2]
            if exchange.ended_ns is not None or exchange.failure is not None:
                continue
            verdict = overdue(exchange, now)
            if verdict is not None:
                exchange.give_up(*verdict)
            else:
                self._push(self._next_look_ns(exchange, now), exchange)
        self._arm()

    @staticmethod
    def _next_look_ns(exchange: Exchange, now: int) -> int:
        # At the same moments for all, so that one wake-up serves them: one each costs a third as much as the tokens.
        check_ns = (now // CHECK_NS + 1) * CHECK_NS
        return min([check_ns, *(due for due, _ in due_times(exchange) if due > now)])


def due_times(exchange: Exchange) -> list[tuple[int, str]]:
    """When which deadline of an exchange passes, given what is known to have arrived so far: (ns, what is late)."""
    limits, start = exchange.deadlines, exchange.dispatched_ns
    if exchange.status is None:
        stage = "headers"
    elif exchange.last_token_ns is None:
        stage = "first token"
    else:
        stage = "next token"
    due = [(start + limits.request_ns, f"waiting for {stage}, request deadline {limits.request_ns / 1e9:g} s")]
    if limits.headers_ns is not None and stage == "headers":
        due.append((start + limits.headers_ns, f"waiting for headers, {limits.headers_ns / 1e9:g} s"))
    if limits.first_token_ns is not None and exchange.last_token_ns is None:
        due.append((start + limits.first_token_ns, f"waiting for first token, {limits.first_token_ns / 1e9:g} s"))
    if limits.next_token_ns is not None and exchange.last_token_ns is not None:
        due.append(
            (exchange.last_token_ns + limits.next_token_ns, f"waiting for next token, {limits.next_token_ns / 1e9:g} s")
        )
    return due


def overdue(exchange: Exchange, now: int) -> tuple[Outcome, str] | None:
    """Whether an exchange is to be given up now, and as what.

    An orderly end on a connection that the server keeps open is given up as `ok`: nothing more can come.
    """
    silent_since = exchange.silent_since_ns()
    passed = [what for due, what in due_times(exchange) if due <= now]
    silent = silent_since is not None and now - silent_since >= LINGER_NS
    if not passed and not silent and exchange.deadlines.next_token_ns is None:
        return None
    if exchange.status == 200 and silent_since is not None and (silent or passed or exchange.last_token_ns is None):
        exchange.tokens_so_far()
        if silent and exchange.is_orderly():
            return "ok", "the server kept the connection open after the end"
        passed = [what for due, what in due_times(exchange) if due <= now]
    return ("timeout", passed[0]) if passed else None
