"""A search as data: its settings, the visits so far, and the next step. Pure."""

from typing import Final, Literal

from msgspec import Struct

from loadgen.decisions.capacity.e_values import MIN_REQUESTS, MIN_REQUESTS_OF_RATE, MIN_ROUNDS
from loadgen.decisions.capacity.visit import Visit
from loadgen.scenario.objective import Objective

SearchKind = Literal["users", "rate"]
StopReason = Literal[
    "shown",
    "within",
    "budget",
    "nothing_closer",
    "top",
    "bottom",
    "client",
    "busy_machine",
    "target_lost",
    "interrupted",
]
"""`shown`: one level is shown to hold and its neighbor not to. `within`: the two levels that are shown are near enough.
`nothing_closer`: the rest of the budget is too short to show two levels that are nearer to each other.
`top`, `bottom`: the highest level that may be played holds, or the lowest does not. `client`: loadgen itself was the
limit. `busy_machine`: other programs, or the host of this virtual machine, disturbed every one of the last visits."""
Purpose = Literal["bracket", "holds", "fails", "again"]
"""`bracket`: a short visit; `holds`, `fails`: to show that claim; `again`: loadgen disturbed the last visit."""

FIRST_RATE: Final = 1.0
"""The rate at which a search of rates begins by default, requests per second."""


class SearchSettings(Struct, frozen=True, kw_only=True):
    """What is searched, and how sure and how exact the answer must be."""

    objectives: tuple[Objective, ...]
    search: SearchKind = "users"
    """Levels are users of a closed loop, or requests per second of an open loop."""
    from_level: float | None = None
    """The lowest level that may be played; the search begins with it. None: 1 user, or a rate near `first_rate`."""
    to_level: float | None = None
    """The highest level that may be played. None: 512 users, or any rate."""
    first_rate: float = FIRST_RATE
    """The rate at which a search of rates begins without `from_level`."""
    budget_s: float = 600.0
    confidence: float = 0.95
    """The confidence that both claims are true: 0.8 to 0.999."""
    within: float | None = 0.05
    """The search may end when the level shown to hold and the level shown not to differ by at most this share; None:
    only when they are neighbors."""
    think_s: float = 0.0
    """The mean think time of users."""

    @property
    def shares(self) -> tuple[float, ...]:
        return tuple(objective.share for objective in self.objectives)

    @property
    def least_of_visit(self) -> int:
        """The fewest counted requests of a visit that is evidence."""
        return MIN_REQUESTS_OF_RATE if self.search == "rate" else 0

    def floor(self, level: float) -> int:
        """The fewest counted requests for a claim about a level."""
        return max(MIN_REQUESTS, MIN_ROUNDS * int(level)) if self.search == "users" else MIN_REQUESTS_OF_RATE


class SearchState(Struct, frozen=True):
    """The visits so far, in order."""

    visits: tuple[Visit, ...] = ()
    earlier: int = 0
    """How many of them were played by the earlier searches that this one continues."""

    @property
    def spent_s(self) -> float:
        return sum(visit.seconds for visit in self.visits)

    def with_visit(self, visit: Visit) -> "SearchState":
        return SearchState((*self.visits, visit), self.earlier)


class NextVisit(Struct, frozen=True):
    """The next step: play a level without interruption until `VisitLooks.should_stop` is true."""

    level: float
    requests: int
    """About how many counted requests are wanted, in addition to those that are left out."""
    seconds: float
    """The most time that it may take: the rest of the budget."""
    purpose: Purpose
    burst: int = 0
    """For an open loop: the number of requests that all come due when the visit begins. They do not count."""
    least_s: float = 0.0
    """No look ends the visit before it has taken so many seconds, unless the budget is spent."""


class SearchEnd(Struct, frozen=True):
    """The search is over."""

    reason: StopReason


class Shown(Struct, frozen=True):
    """The levels that the evidence shows so far; None: no level is shown."""

    holds: float | None
    """The highest level below `fails` that is shown to hold."""
    fails: float | None
    """The lowest level that is shown not to hold."""
    not_monotone: tuple[float, ...] = ()
    """Levels above `fails` that are nevertheless shown to hold."""
