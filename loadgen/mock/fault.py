"""The faults of a server, and which requests they affect: the grammar of `--fault`, and the choice. Plays nothing."""

import re
from typing import Final, Literal, get_args

from msgspec import Struct

from loadgen.errors import InputError
from loadgen.mock.distribution import parse_time_s
from loadgen.plan.rng import generator

Kind = Literal[
    "status",
    "html",
    "slow-headers",
    "reset",
    "fin",
    "stall",
    "cut-chunk",
    "malformed",
    "error-event",
    "split",
    "no-done",
    "no-end",
    "empty",
    "endless",
]
KINDS: Final[tuple[Kind, ...]] = get_args(Kind)
AFTER: Final = frozenset({"reset", "fin", "stall", "cut-chunk", "malformed", "error-event"})
"""The kinds whose parameter is the number of token events before the fault, by default 1."""


class Share(Struct, frozen=True, tag="share"):
    """Each request with this probability, from 0 to 1, drawn from the script's seed and the request's number."""

    probability: float


class Positions(Struct, frozen=True, tag="positions"):
    """The chat requests with numbers from `first` to `last`, both included; the first request has number 1."""

    first: int
    last: int


class Every(Struct, frozen=True, tag="every"):
    """Each n-th chat request: n, 2n, 3n, …"""

    n: int


When = Share | Positions | Every


class Fault(Struct, frozen=True):
    """A kind of fault, and the requests that it affects."""

    kind: Kind
    parameter: float = 0
    """For `status`, the code; for the kinds in AFTER, the number of token events before the fault; for `slow-headers`,
    seconds; for `split`, the number of random pieces of each frame, or 0 for single bytes; for all others 0."""
    when: When = Share(1.0)

    @property
    def label(self) -> str:
        """The name of the fault in the log of the truth: `fin:3`, `status:429`, `no-done`."""
        if self.kind == "slow-headers":
            return f"{self.kind}:{self.parameter:g}s"
        return f"{self.kind}:{self.parameter:g}" if self.parameter or self.kind in AFTER else self.kind


def choose_fault(faults: tuple[Fault, ...], seed: int, number: int) -> Fault | None:
    """The fault of a request: the first in the list that applies to it."""
    return next((fault for index, fault in enumerate(faults) if _applies(fault.when, seed, index, number)), None)


def _applies(when: When, seed: int, index: int, number: int) -> bool:
    match when:
        case Share(probability):
            return probability >= 1 or generator(seed, "mock", "fault", index, number).random() < probability
        case Positions(first, last):
            return first <= number <= last
        case Every(n):
            return number % n == 0


def parse_fault(text: str) -> Fault:
    """The fault of a text `KIND[:PARAM][@WHEN]`, such as `fin:3@2%` or `status:503@#5-8`. Raises InputError."""
    fault, at, when = text.strip().partition("@")
    kind, colon, parameter = fault.partition(":")
    if kind not in KINDS:
        raise InputError(f"--fault {text}: no such fault; there are {', '.join(KINDS)}")
    if colon and not parameter:
        raise InputError(f"--fault {text}: nothing behind the colon; write {kind} alone, or a parameter")
    return Fault(kind, _parameter(kind, parameter, text), _when(when, text) if at else Share(1.0))


def _parameter(kind: Kind, given: str, text: str) -> float:
    if kind == "status":
        if not re.fullmatch(r"[45][0-9]{2}", given):
            raise InputError(f"--fault {text}: status needs a code from 400 to 599; write e.g. status:429")
        return int(given)
    if kind == "slow-headers":
        seconds = parse_time_s(given or "1s", "--fault", text)
        if not seconds:
            raise InputError(f"--fault {text}: slow-headers needs a time above 0; write e.g. slow-headers:2s")
        return seconds
    if kind in AFTER or kind == "split":
        minimum = 2 if kind == "split" else 0
        if given and not (re.fullmatch(r"[0-9]{1,9}", given) and int(given) >= minimum):
            meaning = "pieces of each frame, 2 or more" if kind == "split" else "token events that come before it"
            raise InputError(f"--fault {text}: {given!r} is not a number of {meaning}; write e.g. {kind}:3")
        return int(given) if given else float(kind in AFTER)
    if given:
        raise InputError(f"--fault {text}: {kind} takes no parameter; write {kind} alone")
    return 0


def _when(given: str, text: str) -> When:
    if share := re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)%", given):
        if float(share[1]) <= 100:
            return Share(float(share[1]) / 100)
    elif every := re.fullmatch(r"#every:([0-9]{1,9})", given):
        if int(every[1]) > 0:
            return Every(int(every[1]))
    elif positions := re.fullmatch(r"#([0-9]{1,9})(?:-([0-9]{1,9}))?", given):
        first, last = int(positions[1]), int(positions[2] or positions[1])
        if 0 < first <= last:
            return Positions(first, last)
    raise InputError(
        f"--fault {text}: {given!r} does not say which requests; write 2% (of them), #7 (the seventh), "
        "#5-8 (fifth to eighth) or #every:10"
    )
