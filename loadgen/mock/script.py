"""What the scripted server is to do: one frozen value, all of it. Knows no socket and no clock."""

from typing import Literal

from msgspec import Struct

from loadgen.errors import InputError
from loadgen.mock.distribution import Distribution, FixedTime, wrong
from loadgen.mock.fault import Fault


class Freeze(Struct, frozen=True):
    """The server stands still `for_s` seconds, `at_s` seconds after its first chat request has arrived."""

    at_s: float
    for_s: float


class Script(Struct, frozen=True, kw_only=True):
    """How the server answers. Equal scripts give a request of the same number the same answer at the same times.

    seed: of everything that is drawn.
    ttft_s: from the request's last byte (with a queue: from its slot) to the first token. itl_s: each later gap.
    tokens: how many there are, rounded, at least 1; the request's own limit cuts it.
    together_s: tokens are sent at multiples of this time only, those of all streams at once. 0: whenever they are due.
    slots: streams at a time; None: any number. queue: how many requests may wait for one; None: any number. Who finds
        both full is refused with a 503. retry_after_s: what a 503 or 429 says to wait.
    slowdown: by how much each other stream in progress lengthens a gap, as a share of it.
    prefill_per_s: words of the prompt a second, added to the first token's time; None: they cost nothing.
    tokens_per_event: how many tokens are sent as one event, at the last one's time.
    role_event: whether an event with the role, and no text, goes out with the headers.
    usage: whether a stream says how many tokens it had: when it was asked to, always, or never.
    keepalive_s: a comment each so long until the first token; 0: none.
    close: answers end with their connection, and are not sent in chunks.
    freezes: when the server stands still. faults: what goes wrong; of those that fall on a request, the first counts.
    models: what `/v1/models` lists. A chat may name any model.

    Raises InputError when a value makes no sense.
    """

    seed: int = 0
    ttft_s: Distribution = FixedTime(0.2)
    itl_s: Distribution = FixedTime(0.05)
    tokens: Distribution = FixedTime(40)
    together_s: float = 0.0
    slots: int | None = None
    queue: int | None = None
    retry_after_s: int = 1
    slowdown: float = 0.0
    prefill_per_s: float | None = None
    tokens_per_event: int = 1
    role_event: bool = True
    usage: Literal["asked", "always", "never"] = "asked"
    keepalive_s: float = 0.0
    close: bool = False
    freezes: tuple[Freeze, ...] = ()
    faults: tuple[Fault, ...] = ()
    models: tuple[str, ...] = ("mock",)

    def __post_init__(self) -> None:
        for name, least in (("slots", 1), ("queue", 0), ("tokens_per_event", 1), ("slowdown", 0), ("keepalive_s", 0)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise InputError(f"mock script: {name} is {value}; it must be {least} or more")
        for name in ("ttft_s", "itl_s", "tokens"):
            complaint = wrong(getattr(self, name))
            if complaint is not None:
                raise InputError(f"mock script: {name}: {complaint}")
        if self.prefill_per_s is not None and self.prefill_per_s <= 0:
            raise InputError(f"mock script: prefill_per_s is {self.prefill_per_s:g}; it must be above 0, or None")
        if self.queue is not None and self.slots is None:
            raise InputError("mock script: a queue needs slots that can be full; say slots, too")
