"""What the scripted server is to do: one frozen value, all of it. Knows no socket and no clock."""

from typing import Literal

from msgspec import Struct

from loadgen.errors import InputError
from loadgen.mock.distribution import Distribution, FixedTime, mismatch
from loadgen.mock.fault import Fault


class Freeze(Struct, frozen=True):
    """The server stands still `for_s` seconds, `at_s` seconds after its first chat request has arrived."""

    at_s: float
    for_s: float


class Script(Struct, frozen=True, kw_only=True):
    """How the server answers. Equal scripts give a request of the same number the same answer at the same times.

    Raises InputError when a value makes no sense.
    """

    seed: int = 0
    """Of everything that is drawn."""
    ttft_s: Distribution = FixedTime(0.2)
    """From the request's last byte (with a queue: from its slot) to the first token."""
    itl_s: Distribution = FixedTime(0.05)
    """Each later gap."""
    tokens: Distribution = FixedTime(40)
    """How many tokens an answer has, rounded, at least 1; the request's own limit cuts it."""
    together_s: float = 0.0
    """Tokens are sent at multiples of this time only, those of all streams at once. 0: whenever they are due."""
    slots: int | None = None
    """Streams at a time; None: any number."""
    queue: int | None = None
    """How many requests may wait for a slot; None: any number. One that finds slots and queue full gets a 503."""
    retry_after_s: int = 1
    """How long a 503 or 429 says to wait."""
    slowdown: float = 0.0
    """By how much each other stream in progress lengthens a gap, as a share of it."""
    prefill_per_s: float | None = None
    """Words of the prompt a second, added to the first token's time; None: they cost nothing."""
    tokens_per_event: int = 1
    """How many tokens are sent as one event, at the last one's time."""
    role_event: bool = True
    """Whether an event with the role, and no text, goes out with the headers."""
    usage: Literal["asked", "always", "never"] = "asked"
    """When a stream says how many tokens it had."""
    keepalive_s: float = 0.0
    """A comment is sent each so long until the first token; 0: none."""
    close: bool = False
    """Answers end with their connection, and are not sent in chunks."""
    freezes: tuple[Freeze, ...] = ()
    """When the server stands still."""
    faults: tuple[Fault, ...] = ()
    """What goes wrong; of those that apply to a request, the first counts."""
    models: tuple[str, ...] = ("mock",)
    """What `/v1/models` lists. A chat may name any model."""

    def __post_init__(self) -> None:
        for name, minimum in (("slots", 1), ("queue", 0), ("tokens_per_event", 1), ("slowdown", 0), ("keepalive_s", 0)):
            value = getattr(self, name)
            if value is not None and value < minimum:
                raise InputError(f"mock script: {name} is {value}; it must be {minimum} or more")
        for name in ("ttft_s", "itl_s", "tokens"):
            problem = mismatch(getattr(self, name))
            if problem is not None:
                raise InputError(f"mock script: {name}: {problem}")
        if self.prefill_per_s is not None and self.prefill_per_s <= 0:
            raise InputError(f"mock script: prefill_per_s is {self.prefill_per_s:g}; it must be above 0, or None")
        if self.queue is not None and self.slots is None:
            raise InputError("mock script: a queue needs slots that can be full; say slots, too")
