"""What a session knows of the servers that it asks: whether each may be asked now, and which process it is. Knows no
HTTP."""

import asyncio
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Final, Literal

from msgspec import Struct

from loadgen.engine.listeners import Listeners
from loadgen.record import ReplyFields


class ServerGates:
    """A gate for each model: closed while its server is gone, so that the users of a closed loop wait there together,
    and only a probe asks.

    Each process that plays has its own. Those of workers are opened with those of the process that started them.
    """

    def __init__(self) -> None:
        self._closed: dict[int, asyncio.Event] = {}
        self._listeners = Listeners[[int]]()

    def close(self, model: int) -> None:
        """Have whoever asks for a model next wait. model: its index in the plan."""
        self._closed.setdefault(model, asyncio.Event())

    def open(self, model: int) -> None:
        """Let everybody go on who waits for a model, and call the listeners."""
        gate = self._closed.pop(model, None)
        if gate is not None:
            gate.set()
        self._listeners.call(model)

    def is_closed(self, model: int) -> bool:
        return model in self._closed

    async def wait_until_open(self, model: int) -> None:
        """Return when a model may be asked, which is at once if its gate is open."""
        while (gate := self._closed.get(model)) is not None:
            await gate.wait()

    def calling(self, listener: Callable[[int], None]) -> AbstractContextManager[None]:
        """While the context lasts, call `listener` with each model that may be asked again."""
        return self._listeners.calling(listener)


class ServerLife(Struct, frozen=True):
    """One life of a model's server: the time in which the same process serves."""

    number: int
    """How many lives there were before."""
    pid: int | None
    """None: not known, or on another machine."""


class ServerLives:
    """Which process serves each model, and how many did before."""

    def __init__(self) -> None:
        self._lives: dict[int, ServerLife] = {}
        self._listeners = Listeners[[int, ServerLife]]()

    def of(self, model: int) -> ServerLife:
        """The present life of a model's server. model: its index in the plan."""
        return self._lives.get(model, ServerLife(0, None))

    def begin(self, model: int, pid: int | None) -> None:
        """A process serves a model from now on. The first one begins life 0; each later one calls the listeners."""
        before = self._lives.get(model)
        life = self._lives[model] = ServerLife(0 if before is None else before.number + 1, pid)
        if before is not None:
            self._listeners.call(model, life)

    def calling(self, listener: Callable[[int, ServerLife], None]) -> AbstractContextManager[None]:
        """While the context lasts, call `listener` with each new life of a model's server."""
        return self._listeners.calling(listener)


WhenGone = Literal["cancel", "wait"]
"""What the users of a closed loop do when their server accepts no connection: after 10 s, the rest of the stage is
cancelled; or they wait until the server is back."""

NOT_SERVING: Final = frozenset({502, 503, 504})
"""Statuses of a server that is loading its model, or of a gateway whose server is gone."""
_CUT: Final = frozenset({"truncated", "timeout"})


def is_unanswered(reply: ReplyFields) -> bool:
    """Whether a server gave no answer at all: it accepted no connection, closed it or stayed silent before the head of
    an answer, or said that it does not serve now."""
    if reply.outcome == "connect_error":
        return True
    if reply.status is None:
        return reply.outcome in _CUT and not reply.stamps_ns
    return reply.outcome == "http_error" and reply.status in NOT_SERVING


def is_answer(reply: ReplyFields) -> bool:
    """Whether a server answered, well or badly. Requests that we ended or never sent tell nothing."""
    return reply.outcome not in {"cancelled", "shed"} and not is_unanswered(reply)
