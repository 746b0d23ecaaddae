"""The state of one answer, and the interfaces that it needs: a sender, a peer, a server. Knows no socket."""

from collections import defaultdict
from collections.abc import Callable
from typing import Final, Protocol

from loadgen.mock import wording
from loadgen.mock.chat import Chat
from loadgen.mock.distribution import values
from loadgen.mock.fault import Fault
from loadgen.mock.request import RequestReader
from loadgen.mock.script import Script
from loadgen.mock.truth import Truth
from loadgen.mock.wording import Framing

SENT: Final = 1
HELD: Final = 0
BROKEN: Final = -1
NEVER: Final = -1


class Sender(Protocol):
    """Sends the bytes of one connection."""

    def send(self, data: bytes) -> int:
        """SENT: the kernel has all of it. HELD: the rest waits until the client reads. BROKEN: the client is gone."""
        ...

    def close(self) -> None:
        """Close the connection with a FIN after the bytes that are still held."""
        ...

    def reset(self) -> None:
        """Cut the connection with a RST."""
        ...


class ServerState(Protocol):
    """The interface of the server to its answers; `loadgen.mock.core.Core` implements it."""

    script: Script
    now_ns: Callable[[], int]
    created: int
    keepalive_ns: int
    slips: defaultdict[int, int]

    def ns_per_gap_second(self) -> float: ...

    def aligned_ns(self, due_ns: int) -> int: ...

    def release(self, answer: "Answer", then: Callable[[], None] | None = None) -> None: ...


Step = Callable[["Answer", int], int | None]


class Peer:
    """A connection as the server sees it."""

    __slots__ = ("answer", "closing", "nth", "number", "requests", "sender")

    def __init__(self, sender: Sender, number: int) -> None:
        self.sender, self.number = sender, number
        self.nth = 0
        self.requests = RequestReader()
        self.answer: Answer | None = None
        """The one in progress."""
        self.closing = False
        """Nothing more will be sent or read."""


class Answer:
    """The state of one answer, from its request until the server releases it."""

    __slots__ = (
        *("batch", "chat", "events", "events_text", "fault", "fault_event", "fault_step", "first_ns", "framing"),
        *("gaps", "held_step_ns", "live", "number", "peer", "sender", "sent", "server", "split", "step", "stop_at"),
        *("tokens", "truth"),
    )

    def __init__(
        self,
        server: ServerState,
        peer: Peer,
        truth: Truth,
        chat: Chat,
        framing: Framing,
        fault: Fault | None,
        step: Step,
    ) -> None:
        self.server, self.peer, self.sender = server, peer, peer.sender
        self.truth, self.chat, self.framing, self.fault = truth, chat, framing, fault
        self.live = True
        self.number = truth.number
        script = server.script
        self.gaps = values(script.itl_s, script.seed, "mock", "itl", self.number)
        drawn = max(1, round(next(values(script.tokens, script.seed, "mock", "tokens", self.number))))
        limit = chat.token_limit
        self.tokens = drawn if limit is None else min(drawn, limit)
        """How many there will be."""
        self.sent = self.events = 0
        """Tokens and token events so far."""
        self.batch = 1
        """Tokens of the next event."""
        self.first_ns = 0
        """When the first token is due."""
        self.step = self.fault_step = step
        """What is played next; and what is played in place of event `fault_event`."""
        self.fault_event = self.stop_at = self.split = NEVER
        """stop_at: the end goes out with the event that brings this many tokens. split: in how many pieces frames are
        sent, 0 for single bytes."""
        self.held_step_ns: int | None = None
        """When the step is due that waits for the client to read."""
        self.events_text = wording.stream_events(self.number, chat.model, server.created)

    @property
    def fault_kind(self) -> str | None:
        return None if self.fault is None else self.fault.kind

    @property
    def finish_reason(self) -> str:
        return "length" if self.tokens == self.chat.token_limit else "stop"

    def record_fault(self) -> None:
        """Note in the log of the truth that the fault has been played."""
        if self.fault is not None:
            self.truth.fault = self.fault.label
