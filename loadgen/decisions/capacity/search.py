"""A search as data: what is asked, what was played so far, and what is to be played next. Pure."""

from typing import Final, Literal

from msgspec import Struct

from loadgen.decisions.capacity.evidence import MIN_REQUESTS, MIN_REQUESTS_OF_RATE, MIN_ROUNDS
from loadgen.decisions.capacity.visit import Visit
from loadgen.scenario.objective import Objective

SearchKind = Literal["users", "rate"]
StopReason = Literal["shown", "within", "budget", "top", "bottom", "client", "target_lost", "interrupted"]
"""`shown`: neighbors are told apart. `within`: what is shown lies near enough. `top`, `bottom`: the highest level that
may be played holds, or the lowest does not. `client`: loadgen itself was the limit."""
Purpose = Literal["bracket", "holds", "fails", "again"]
"""`bracket`: a short visit; `holds`, `fails`: to show that claim; `again`: loadgen was in the way the last time."""

FIRST_RATE: Final = 1.0
"""Where a search of rates begins if nobody says, requests a second."""


class SearchSettings(Struct, frozen=True, kw_only=True):
    """What is searched, and how sure and how near the answer is to be."""

    objectives: tuple[Objective, ...]
    search: SearchKind = "users"
    """Levels are users of a closed loop, or requests a second of an open loop."""
    from_level: float | None = None
    """The lowest level that may be played, with which the search begins. None: 1 user; a rate near `first_rate`."""
    to_level: float | None = None
    """The highest level that may be played. None: 512 users; any rate."""
    first_rate: float = FIRST_RATE
    """Where a search of rates begins without `from_level`."""
    budget_s: float = 600.0
    confidence: float = 0.95
    """Of both claims together: 0.8 to 0.999."""
    within: float | None = 0.05
    """What is shown to hold and what is shown not to may lie so far apart, as a share; None: only neighbors will do."""
    think_s: float = 0.0
    """The mean think time of users."""

    @property
    def shares(self) -> tuple[float, ...]:
        return tuple(objective.share for objective in self.objectives)

    @property
    def least_of_visit(self) -> int:
        """A visit of fewer counted requests is no evidence."""
        return MIN_REQUESTS_OF_RATE if self.search == "rate" else 0

    def floor(self, level: float) -> int:
        """Below so many counted requests nothing is claimed of a level."""
        return max(MIN_REQUESTS, MIN_ROUNDS * int(level)) if self.search == "users" else MIN_REQUESTS_OF_RATE


class SearchState(Struct, frozen=True):
    """What has been played so far, in order."""

    visits: tuple[Visit, ...] = ()

    @property
    def spent_s(self) -> float:
        return sum(visit.seconds for visit in self.visits)

    def with_visit(self, visit: Visit) -> "SearchState":
        return SearchState((*self.visits, visit))


class PlayVisit(Struct, frozen=True):
    """What to do next: play a level without interruption until `VisitLooks.should_stop` says so."""

    level: float
    requests: int
    """About how many counted requests are wanted, beyond those that are left out."""
    seconds: float
    """The most that it may take: what is left of the budget."""
    purpose: Purpose
    burst: int = 0
    """Of an open loop: how many requests, which are not counted, all come due as the visit begins."""


class End(Struct, frozen=True):
    """The search is over."""

    reason: StopReason


class Shown(Struct, frozen=True):
    """What the evidence shows by now. Levels; None: nothing is shown."""

    holds: float | None
    """The highest level below `fails` that is shown to hold."""
    fails: float | None
    """The lowest level that is shown not to hold."""
    not_monotone: tuple[float, ...] = ()
    """Levels above `fails` that are shown to hold all the same."""
