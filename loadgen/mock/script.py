"""What the scripted server is to do: one frozen value, all of it. Knows no socket and no clock."""

from typing import Literal

from msgspec import Struct

from loadgen.errors import InputError
from loadgen.mock.distribution import Distribution, FixedTime, parameter_problem
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
    """The time from each token to the next."""
    tokens: Distribution = FixedTime(40)
    """The number of tokens in an answer, rounded, at least 1; the request's own limit may lower it."""
    together_s: float = 0.0
    """Tokens are sent only at multiples of this time, those of all streams at once. 0: each when it is due."""
    slots: int | None = None
    """Streams at a time; None: any number."""
    queue: int | None = None
    """How many requests may wait for a slot; None: any number. If slots and queue are full, a request gets a 503."""
    retry_after_s: int = 1
    """The `Retry-After` of a 503 or 429, in seconds."""
    slowdown: float = 0.0
    """By how much each other stream in progress lengthens a gap, as a share of it."""
    prefill_per_s: float | None = None
    """Prompt words per second, which delay the first token; None: no delay."""
    tokens_per_event: int = 1
    """How many tokens are sent as one event, at the time of the last one."""
    role_event: bool = True
    """Whether an event with the role and no text is sent with the headers."""
    usage: Literal["asked", "always", "never"] = "asked"
    """When a stream has token counts."""
    keepalive_s: float = 0.0
    """The interval of comments until the first token; 0: no comments."""
    close: bool = False
    """Whether answers end with their connection, instead of being sent in chunks."""
    freezes: tuple[Freeze, ...] = ()
    """When the server stands still."""
    faults: tuple[Fault, ...] = ()
    """The faults to play; the first that applies to a request counts."""
    models: tuple[str, ...] = ("mock",)
    """The models that `/v1/models` lists. A chat may name any model."""

    def __post_init__(self) -> None:
        for name, minimum in (("slots", 1), ("queue", 0), ("tokens_per_event", 1), ("slowdown", 0), ("keepalive_s", 0)):
            value = getattr(self, name)
            if value is not None and value < minimum:
                raise InputError(f"mock script: {name} is {value}; it must be {minimum} or more")
        for name in ("ttft_s", "itl_s", "tokens"):
            problem = parameter_problem(getattr(self, name))
            if problem is not None:
                raise InputError(f"mock script: {name}: {problem}")
        if self.prefill_per_s is not None and self.prefill_per_s <= 0:
            raise InputError(f"mock script: prefill_per_s is {self.prefill_per_s:g}; it must be above 0, or None")
        if self.queue is not None and self.slots is None:
            raise InputError("mock script: a queue needs slots that can be full; say slots, too")
