"""A client whose servers are a function, for whole runs in virtual time. Opens no socket."""

import asyncio
import json
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, nullcontext
from typing import Any, Final

from msgspec import Struct

from loadgen.wire.client import Client
from loadgen.wire.exchange import ChatRequest, Exchange, Failure
from tests.virtual import VirtualClock

MS: Final = 1_000_000
CLOCK: Final = VirtualClock()


class Answer(Struct, frozen=True):
    """What a server does with one chat."""

    pieces: tuple[bytes, ...] = ()
    status: int = 200
    gap_ns: int = 10 * MS
    """Before each piece."""
    failure: Failure | None = None
    """Why there is no answer."""
    retry_after: str | None = None


def stream(*texts: str, gap_ns: int = 10 * MS, finish: str = "stop", usage: int | None = None) -> Answer:
    """A streamed answer: an event a text, and with the last of them the end."""
    events = [{"choices": [{"index": 0, "delta": {"content": text}}]} for text in texts]
    ends: list[Any] = [{"choices": [{"index": 0, "delta": {}, "finish_reason": finish}]}]
    if usage is not None:
        ends.append({"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": usage}})
    pieces = [f"data: {json.dumps(event)}\n\n".encode() for event in events] or [b""]
    end = b"".join(f"data: {json.dumps(event)}\n\n".encode() for event in ends) + b"data: [DONE]\n\n"
    return Answer((*pieces[:-1], pieces[-1] + end), gap_ns=gap_ns)


def refuse(status: int, body: object, retry_after: str | None = None) -> Answer:
    """An answer of an error's status; its body as it is, or as JSON."""
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return Answer((raw,), status, retry_after=retry_after)


def no_connection() -> Answer:
    return Answer(failure=Failure("connect_error", "Connection refused"))


class ScriptedClient(Client):
    """Servers behind the client: a function of the body and of how many chats there were before answers each."""

    def __init__(self, answer: Callable[[dict[str, Any], int], Answer]) -> None:
        super().__init__()
        self.requests: list[ChatRequest] = []
        self.sent_at_ns: list[int] = []
        self.turn: AbstractAsyncContextManager[Any] = nullcontext()
        """What a request waits for before its answer begins, such as one of so many slots."""
        self._answer = answer
        self._open: set[Exchange] = set()

    @property
    def bodies(self) -> list[dict[str, Any]]:
        """The chats so far."""
        return [json.loads(request.body) for request in self.requests]

    async def __aenter__(self) -> Client:
        return self

    async def __aexit__(self, *_: object) -> None:
        pass

    @property
    def in_flight(self) -> int:
        return len(self._open)

    def exchange_of(self, task: asyncio.Task[object] | None) -> Exchange | None:
        return next((each for each in self._open if each.task is task), None)

    def abandon(self, why: str = "stopped by the user") -> None:
        for exchange in list(self._open):
            exchange.give_up("cancelled", why)

    async def open_connections(self, url: str, count: int, headers: dict[str, str]) -> None:
        pass

    async def send(self, request: ChatRequest, dispatched_ns: int) -> Exchange:
        exchange, answer = Exchange(request, dispatched_ns), self._answer(json.loads(request.body), len(self.requests))
        self.requests.append(request)
        self.sent_at_ns.append(CLOCK.now_ns())
        exchange.task = asyncio.current_task()
        self._open.add(exchange)
        until_ns = dispatched_ns + request.deadlines.request_ns
        try:
            await self._play(exchange, answer, until_ns)
        except asyncio.CancelledError:
            if exchange.failure is None or exchange.task is None:
                raise
            exchange.task.uncancel()
        finally:
            self._open.discard(exchange)
            exchange.task = None
        exchange.ended_ns = CLOCK.now_ns()
        return exchange

    async def _play(self, exchange: Exchange, answer: Answer, until_ns: int) -> None:
        if answer.failure is not None:
            await CLOCK.sleep_until_ns(CLOCK.now_ns() + answer.gap_ns)
            exchange.failure = answer.failure
            return
        exchange.stamps.record_write(CLOCK.now_ns())
        async with self.turn:
            await self._stream(exchange, answer, until_ns)

    async def _stream(self, exchange: Exchange, answer: Answer, until_ns: int) -> None:
        response = exchange.response
        response.status, response.retry_after = answer.status, answer.retry_after
        response.content_type = "text/event-stream" if answer.status == 200 else "application/json"
        for piece in answer.pieces:
            await CLOCK.sleep_until_ns(min(CLOCK.now_ns() + answer.gap_ns, until_ns))
            if CLOCK.now_ns() >= until_ns:
                exchange.failure = Failure("timeout", "the request's deadline passed")
                return
            response.append(piece)
            exchange.stamps.record_read(len(exchange.body()), CLOCK.now_ns(), 0)
