"""Which level to play next, and when to end. Guesses decide what is played; only evidence supports a claim. Pure.

A search first brackets the capacity by short visits: it doubles the level and then halves the steps. Then it tries to
show a pair of claims: one level holds, and a higher one does not. Of the pairs that the rest of the budget can show, it
takes the pair whose levels are closest together.
"""

import math
from typing import Final

import numpy as np

from loadgen.decisions.capacity.e_values import Floats
from loadgen.decisions.capacity.known import Known, busy_visits
from loadgen.decisions.capacity.search import (
    NextVisit,
    Purpose,
    SearchEnd,
    SearchSettings,
    SearchState,
    Shown,
    StopReason,
)
from loadgen.decisions.capacity.visit import Visit

WITHIN_USERS: Final = 2
"""Two numbers of users that differ by no more are near enough, whatever share that is."""
FIRST_LOOK: Final = 8
LOOK_GROWTH: Final = 1.15
"""The first look at a visit comes after FIRST_LOOK requests, or one for each user; each further look after 15 %
more."""
FIRST_USERS_WHO_THINK: Final = 4
BURST_ROUNDS: Final = 3
STREAMS_UNKNOWN: Final = 8
"""A visit of an open loop begins with a burst, because a queue that begins empty makes latencies look too good. The
burst has BURST_ROUNDS times as many requests as streams are served at once, or STREAMS_UNKNOWN while that is not
known."""
BUSY_VISITS: Final = 5
"""If the machine was busy during so many visits in a row, the search ends, because nothing can be judged."""
BUSY_WAIT: Final = 1 / 64
"""A visit after one on a busy machine lasts for at least this share of the budget, and each further one twice as long,
so that the other programs have time to end. Together the repeated visits take about a quarter of the budget."""
INFLATION_OF_RATE: Final = 8.0
"""The least inflation of a rate that is assumed when the cost of a claim is guessed."""
_BRACKET_SHARE: Final = 0.25
_PAID_FROM: Final = (0.3, 0.6)
"""The share of the rest of the budget that a pair of claims may cost: until both ends are shown, and after that."""
_MIN_GOAL: Final = 12
_FEW: Final = {"users": (4, 16), "rate": (16, 32)}
"""The fewest requests of a short visit: while everything is met, and after that."""


def next_step(state: SearchState, settings: SearchSettings) -> NextVisit | SearchEnd:
    """The level to play next and for how long, or the reason why the search is over."""
    return _Choice(Known(state, settings), None).next_step()


def shown(state: SearchState, settings: SearchSettings) -> Shown:
    """The highest level shown to hold and the lowest shown not to."""
    return Known(state, settings).shown


class VisitLooks:
    """The looks at one visit while it is played. Each look, after a number of counted requests, decides whether to end.

    A visit that has reached its goal continues without a break if its level would also be played next.
    """

    def __init__(self, state: SearchState, settings: SearchSettings, step: NextVisit) -> None:
        """state: the search without this visit. step: the step that `next_step` chose."""
        self._state = state
        self._settings = settings
        self._level = step.level
        self._goal = step.requests
        self._least_s = step.least_s
        self.next_at = max(FIRST_LOOK, int(step.level) if settings.search == "users" else 0)
        """The number of counted requests at which the next look comes."""

    def should_stop(self, visit: Visit) -> bool:
        """Whether the visit should end now. Before it has `next_at` requests, only the budget ends it."""
        state = self._state.with_visit(visit)
        if state.spent_s >= self._settings.budget_s:
            return True
        if visit.requests < self.next_at:
            return False
        self.next_at = int(visit.requests * LOOK_GROWTH) + 1
        if visit.seconds < self._least_s:
            return False
        known = Known(state, self._settings)
        if known.is_shown(self._level):
            return True
        if visit.requests < self._goal:
            return False
        step = _Choice(known, self._level).next_step()
        if isinstance(step, SearchEnd) or step.level != self._level:
            return True
        self._goal = visit.requests + step.requests
        return False


class _Choice:
    """Chooses the next step from what is known. Levels are places, as in `Known`."""

    def __init__(self, known: Known, going_on: float | None) -> None:
        """going_on: the level of a visit that is still being played."""
        self._known = known
        self._going_on = going_on
        self._steps = known.steps
        self._settings = known.settings
        self._left_s = known.settings.budget_s - known.state.spent_s
        self._busy_visits = busy_visits(known.state)

    def next_step(self) -> NextVisit | SearchEnd:
        known = self._known
        low, high = known.ends
        if reason := self._reason_to_end(low, high):
            return SearchEnd(reason)
        last = known.state.visits[-1] if known.state.visits else None
        if last is not None and last.doubt == "client" and last.level in self._steps:
            return self._step(known.place(last.level), _MIN_GOAL, "again")
        if not known.levels:
            return self._step(self._first(), self._few(self._first(), 1), "bracket")
        if self._is_too_late:
            return SearchEnd("nothing_closer")
        return self._bracket() or self._show(low, high)

    def _reason_to_end(self, low: int, high: int) -> StopReason | None:
        top, is_cut = len(self._steps), self._known.cut is not None
        if high == 0 and top:
            return "bottom"
        if low == top - 1:
            return "client" if is_cut else "top"
        if self._left_s <= 0:
            return "budget"
        if self._busy_visits >= BUSY_VISITS:
            return "busy_machine"
        if low < 0 or high == top:
            return None
        if high - low == 1:
            return "shown"
        within, gap = self._settings.within, self._steps[high] - self._steps[low]
        is_near = within is not None and gap <= max(self._least_gap, within * self._steps[low])
        return "within" if is_near else None

    @property
    def _is_of_users(self) -> bool:
        return self._settings.search == "users"

    @property
    def _least_gap(self) -> float:
        return WITHIN_USERS if self._is_of_users else 0.0

    def _first(self) -> int:
        settings = self._settings
        first = FIRST_USERS_WHO_THINK if settings.think_s else 1.0
        return self._known.place(settings.from_level or (first if self._is_of_users else settings.first_rate))

    def _few(self, at: int, rounds: int) -> int:
        """The number of requests of a short visit. rounds: 1 while everything is met, then 2."""
        least, users = _FEW[self._settings.search][rounds - 1], int(self._steps[at]) if self._is_of_users else 0
        return max(least, rounds * users)

    def _bracket(self) -> NextVisit | None:
        """The next short visit, by doubling and then halving; None once the bracket is narrow enough."""
        known, steps, top = self._known, self._steps, len(self._steps) - 1
        is_good = {at: known.looks_good(at) for at in known.levels}
        bad = min((at for at in is_good if not is_good[at]), default=None)
        good = max((at for at in is_good if is_good[at] and (bad is None or at < bad)), default=None)
        rounds = 1 if bad is None else 2
        if bad is None:
            assert good is not None
            if good == top:
                return None
            at = min(int(np.searchsorted(steps, 2 * steps[good])), top)
        elif good is None:
            if bad == 0:
                return None
            at = min(known.place(steps[bad] / 2), bad - 1)
        else:
            gap = steps[bad] - steps[good]
            if bad - good <= 1 or gap <= max(self._least_gap, _BRACKET_SHARE * steps[good]):
                return None
            at = (good + bad) // 2
        missing = self._few(at, rounds) - (known.levels[at].evidence.requests if at in known.levels else 0)
        return self._step(at, missing, "bracket") if missing > 0 else None

    def _show(self, low: int, high: int) -> NextVisit | SearchEnd:
        """A visit for one of the two claims of the closest pair that the budget can show. The end of a search of rates
        if both claims are shown and the rest of the budget can show none that is closer. (A claim about users often
        takes less than is guessed.)

        If no level is shown yet for one of the claims, the visit is for that claim; else it is for the cheaper one. The
        visit takes half of the guessed cost, so that the guess is made again before the claim is shown.
        """
        top = len(self._steps)
        holds, fails = self._costs(low, high)
        is_both_shown = low >= 0 and high < top
        if is_both_shown and not self._is_of_users and min(*holds[1:-1], *fails[1:-1]) > self._left_s:
            return SearchEnd("nothing_closer")
        lower, upper = self._closest_pair(low, high, holds, fails)
        claims: list[tuple[float, int, Purpose]] = [
            (float(holds[lower - low]), lower, "holds"),
            (float(fails[upper - low]), upper, "fails"),
        ]
        claims = [claim for claim in claims if 0 < claim[0] < math.inf]
        if not claims:
            claims = [(float(holds[at - low]), at, "holds") for at in range(low + 1, high)]
            claims += [(float(fails[at - low]), at, "fails") for at in range(low + 1, high)]
        lacking: dict[Purpose, bool] = {"holds": low < 0, "fails": high == top}
        urgent = lacking["holds"] != lacking["fails"]
        cost, at, purpose = min(claims, key=lambda claim: (urgent and not lacking[claim[2]], claim[0]))
        if math.isinf(cost):  # no visit will show anything, so any level in the middle will do
            return self._step((low + 1 + high) // 2, _MIN_GOAL, purpose)
        half = math.ceil(cost * self._known.nearest(at).rate / 2)
        return self._step(at, max(half, _MIN_GOAL, self._settings.least_of_visit), purpose)

    @property
    def _is_too_late(self) -> bool:
        """Whether the rest of the budget is too short for any new visit that counts."""
        fastest = max(level.rate for level in self._known.levels.values())
        return self._going_on is None and (self._burst + self._settings.least_of_visit) / fastest > self._left_s

    def _closest_pair(self, low: int, high: int, holds: Floats, fails: Floats) -> tuple[int, int]:
        """The places of the closest pair of claims that the budget can show; of equally close pairs, the cheapest."""
        both_shown = low >= 0 and high < len(self._steps)
        sizes = self._sizes(low, high)
        apart = np.log(sizes[None, :] / sizes[:, None])
        cost = holds[:, None] + fails[None, :]
        allowed = np.triu(cost <= self._left_s * _PAID_FROM[both_shown], 1)
        allowed[0, -1] = True
        nearest = np.where(allowed & (apart <= apart[allowed].min() + 1e-9), cost, np.inf)
        if np.isinf(nearest).all():
            return low, high
        lower, upper = np.unravel_index(int(np.argmin(nearest)), nearest.shape)
        return low + int(lower), low + int(upper)

    def _sizes(self, low: int, high: int) -> Floats:
        """The levels from one place to another. A place below the lowest counts as half of it, one above as its
        double."""
        levels = [self._steps[0] / 2, *self._steps, 2 * self._steps[-1]]
        return np.asarray(levels[low + 1 : high + 2], float)

    def _costs(self, low: int, high: int) -> tuple[Floats, Floats]:
        """The guessed seconds that each claim takes, for all places from low to high; infinite if it cannot be shown.

        Requests still needed ≈ (ln wanted − ln E + 1) / KL(likely share, asked share) × inflation.
        """
        known, settings = self._known, self._settings
        holds, fails = np.full(high - low + 1, np.inf), np.full(high - low + 1, np.inf)
        holds[0] = fails[-1] = 0.0
        if high - low < 2:
            return holds, fails
        shares = np.asarray(settings.shares)
        likely = np.minimum(known.likely(np.asarray(self._steps[low + 1 : high], float)), 1 - 1e-9)
        with np.errstate(divide="ignore", invalid="ignore"):
            pull = likely * np.log(likely / shares) + (1 - likely) * np.log((1 - likely) / (1 - shares))
            of_holds = np.where(likely > shares, 1 / pull, np.inf)
            of_fails = np.where(likely < shares, 1 / pull, np.inf)
        for row, at in enumerate(range(low + 1, high)):
            near, level = known.nearest(at), known.levels.get(at)
            least = settings.floor(self._steps[at]) - (0 if level is None else level.evidence.requests)
            gained = (0.0, 0.0) if level is None else (level.evidence.log_holds, level.evidence.log_fails)
            beside = 0 if self._steps[at] == self._going_on else self._left_out(at)
            inflation = max(near.inflation, 1.0 if self._is_of_users else INFLATION_OF_RATE)
            for_holds = float(of_holds[row].max()) * (known.wanted - gained[0] + 1) * inflation
            for_fails = float(of_fails[row].min()) * (known.wanted - gained[1] + 1) * inflation
            holds[at - low] = (max(for_holds, least, 1) + beside) / near.rate
            fails[at - low] = (max(for_fails, least, 1) + beside) / near.rate
        return holds, fails

    def _left_out(self, at: int) -> int:
        """The number of requests of a new visit that are not counted."""
        return int(self._steps[at]) if self._is_of_users else self._burst

    @property
    def _burst(self) -> int:
        if self._is_of_users:
            return 0
        # The first visit measures it if its burst is larger than what is served at once. Later bursts add nothing.
        known = (visit.streams for visit in self._known.state.visits if visit.streams and visit.streams < visit.burst)
        return BURST_ROUNDS * next(known, STREAMS_UNKNOWN)

    def _step(self, at: int, requests: int, purpose: Purpose) -> NextVisit:
        doubled = 2 ** (self._busy_visits - 1) if self._busy_visits else 0
        least_s = min(self._left_s, doubled * BUSY_WAIT * self._settings.budget_s)
        return NextVisit(self._steps[at], requests, self._left_s, purpose, self._burst, least_s)
