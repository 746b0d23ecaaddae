"""One answer's state, and what it needs around it: a way out, a peer, a floor. Knows no socket, and sends nothing."""

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

WENT: Final = 1
HELD: Final = 0
BROKEN: Final = -1
NEVER: Final = -1


class Line(Protocol):
    """The way out of one connection."""

    def send(self, data: bytes) -> int:
        """WENT: the kernel has all of it. HELD: the rest waits until the client reads. BROKEN: the client is gone."""
        ...

    def close(self) -> None:
        """No more will be sent: a FIN behind what is held."""
        ...

    def reset(self) -> None: ...


class Floor(Protocol):
    """What all answers of a server have in common: `loadgen.mock.core.Core`."""

    script: Script
    now_ns: Callable[[], int]
    created: int
    keepalive_ns: int
    slips: defaultdict[int, int]

    def pace_ns(self) -> float: ...

    def aligned_ns(self, due_ns: int) -> int: ...

    def over(self, answer: "Answer", then: Callable[[], None] | None = None) -> None: ...


Step = Callable[["Answer", int], int | None]


class Peer:
    """A connection as the server sees it. answer: the one in progress. closing: nothing more will be sent or read."""

    __slots__ = ("answer", "closing", "line", "nth", "number", "requests")

    def __init__(self, line: Line, number: int) -> None:
        self.line, self.number = line, number
        self.nth = 0
        self.requests = RequestReader()
        self.answer: Answer | None = None
        self.closing = False


class Answer:
    """The state of one answer, from its request until the floor has let it go.

    tokens: how many there will be. sent, events: tokens and token events so far. batch: tokens of the next event.
    stop_at: the end goes out with the event that brings this many tokens. turn: played in place of event `turn_at`.
    first_ns: when the first token is due. parked_ns: when the step is due that waits for the client to read.
    split: in how many pieces frames are sent, 0 for single bytes.
    """

    __slots__ = (
        *("batch", "chat", "events", "fault", "first_ns", "floor", "framing", "gaps", "line", "live", "number"),
        *("parked_ns", "peer", "sent", "split", "step", "stop_at", "tokens", "truth", "turn", "turn_at", "words"),
    )

    def __init__(
        self,
        floor: Floor,
        peer: Peer,
        truth: Truth,
        chat: Chat,
        framing: Framing,
        fault: Fault | None,
        step: Step,
    ) -> None:
        self.floor, self.peer, self.line = floor, peer, peer.line
        self.truth, self.chat, self.framing, self.fault = truth, chat, framing, fault
        self.step = self.turn = step
        self.live = True
        self.parked_ns: int | None = None
        self.first_ns = self.sent = self.events = 0
        self.turn_at = self.stop_at = self.split = NEVER
        self.number = truth.number
        script = floor.script
        self.gaps = values(script.itl_s, script.seed, "mock", "itl", self.number)
        drawn = max(1, round(next(values(script.tokens, script.seed, "mock", "tokens", self.number))))
        most = chat.most_tokens
        self.tokens = drawn if most is None else min(drawn, most)
        self.batch = 1
        self.words = wording.wording(self.number, chat.model, floor.created)

    @property
    def kind(self) -> str | None:
        """Of what is to go wrong with it."""
        return None if self.fault is None else self.fault.kind

    @property
    def reason(self) -> str:
        """Why it ends where it ends."""
        return "length" if self.tokens == self.chat.most_tokens else "stop"

    def played(self) -> None:
        """What was to go wrong has gone wrong."""
        if self.fault is not None:
            self.truth.fault = self.fault.word
