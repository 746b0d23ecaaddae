"""From levels without think time to users who think, and to fleets. Pure.

A forecast says nothing of what was not measured, and then what would have to be played.
"""

import math
from collections.abc import Sequence
from typing import Final

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from loadgen.decisions.capacity.known import Known
from loadgen.decisions.capacity.measured_levels import REACH, MeasuredLevels, measured_levels
from loadgen.decisions.capacity.played import PlayedVisit, state_of
from loadgen.decisions.capacity.search import SearchSettings
from loadgen.decisions.capacity.thinking import ThinkingUsers, play_thinking_users
from loadgen.plan.rng import generator
from loadgen.scenario import Slo
from loadgen.scenario.objective import Objective, limits_ms

MIN_LEVELS: Final = 3
MAX_BEYOND: Final = 0.01
"""So many requests may see more in flight than REACH allows."""
MAX_USERS: Final = 100_000
REQUESTS: Final = 20_000
REQUESTS_ROUGH: Final = 4_000
RESAMPLES: Final = 20
SEED: Final = 1
RANDOM_POINT: Final = 0.99
_Z_95: Final = 1.96


class FleetAnswer(Struct, frozen=True):
    """Devices for so many users. None: not known."""

    users: int
    devices: int | None
    """If each user is bound to a device: enough by what is known of one device."""
    devices_at_best: int | None
    """If one device carries the most that it may carry."""
    devices_random: int | None
    """If requests are routed at random: the load of a device is Binomial(users, 1/devices), and its 99 % point stays
    within what a device carries."""


class ForecastAnswer(Struct, frozen=True):
    """How many users a device carries, who think for so long between an answer and the next question."""

    think_s: float
    """The mean of an exponential think time."""
    users: int | None
    """None: not known, and `why_not` says what to play."""
    users_ci: tuple[int, int] | None
    """95 %: from resampled requests and rates."""
    why_not: str | None = None
    fleet: FleetAnswer | None = None


class ForecastRequest(Struct, frozen=True):
    """What is to be forecast."""

    think_s: tuple[float, ...] = ()
    """One forecast for each; none: the fleet is for users as they were played."""
    fleet: int | None = None
    """How many users there are in all."""


def forecasts_of(
    visits: Sequence[PlayedVisit], settings: SearchSettings, request: ForecastRequest
) -> tuple[ForecastAnswer, ...]:
    """The forecasts that are asked for; none where nothing is asked."""
    if not request.think_s:
        return () if request.fleet is None else (_as_played(visits, settings, request.fleet),)
    return tuple(_forecast(visits, settings, think_s, request.fleet) for think_s in request.think_s)


def fleet_of(users: int, sure: int, best: int) -> FleetAnswer:
    """Devices for so many users. sure, best: users that a device carries for sure, and at best; 1 or more."""
    return FleetAnswer(users, math.ceil(users / sure), math.ceil(users / best), _devices_random(users, sure))


def _as_played(visits: Sequence[PlayedVisit], settings: SearchSettings, users: int) -> ForecastAnswer:
    """A fleet for users as they were played, which takes no forecast."""
    known = Known(state_of(visits), settings)
    holds, best = known.shown.holds, known.capacity
    if settings.search == "rate":
        return _not_known(settings.think_s, users, "not known: a fleet takes a search of users, not of rates")
    if holds is None or best is None:
        return _not_known(settings.think_s, users, "not known: no level is shown to hold")
    fleet = fleet_of(users, int(holds), int(best))
    return ForecastAnswer(settings.think_s, int(best), (int(holds), int(best)), None, fleet)


def _forecast(
    visits: Sequence[PlayedVisit], settings: SearchSettings, think_s: float, fleet: int | None
) -> ForecastAnswer:
    if (why_not := _reason_unknown(visits, settings)) is not None:
        return _not_known(think_s, fleet, why_not)
    levels = measured_levels(visits, settings.objectives)
    if len(levels.levels) < MIN_LEVELS or not len(levels.needs.first_s):
        message = f"not known: play at least {MIN_LEVELS} levels (this search has {len(levels.levels)})"
        return _not_known(think_s, fleet, message)
    asked = _Asked(settings.objectives, visits[0].stage.slo, think_s)
    users = asked.most_users(levels, REQUESTS)
    in_flight, reach = asked.in_flight(levels, max(users, 1)), REACH * levels.levels[-1]
    if in_flight > reach:
        message = (
            f"not known: play up to {math.ceil(in_flight / REACH)} users; {in_flight:g} would be in flight at once"
        )
        return _not_known(think_s, fleet, f"{message}, and that is beyond 1.5 times the {levels.levels[-1]:g} played")
    rng = generator(SEED, "forecast")
    others = [asked.most_users(levels.resampled(rng), REQUESTS_ROUGH, users) for _ in range(RESAMPLES)]
    spread = _Z_95 * float(np.std(others, ddof=1))
    interval = (max(0, math.floor(users - spread)), math.ceil(users + spread))
    devices = None if fleet is None else fleet_of(fleet, users, interval[1]) if users else _no_fleet(fleet)
    return ForecastAnswer(think_s, users, interval, None, devices)


def _reason_unknown(visits: Sequence[PlayedVisit], settings: SearchSettings) -> str | None:
    """Why a search can say nothing of other think times; None where it may."""
    if settings.search == "rate":
        return "not known: search users, not rates"
    if settings.think_s:
        return "not known: the users of this search thought themselves; search without think time"
    return None if visits else "not known: nothing was played"


def _not_known(think_s: float, fleet: int | None, why_not: str) -> ForecastAnswer:
    return ForecastAnswer(think_s, None, None, why_not, None if fleet is None else _no_fleet(fleet))


def _no_fleet(users: int) -> FleetAnswer:
    return FleetAnswer(users, None, None, None)


def _devices_random(users: int, sure: int) -> int:
    """The fewest devices of which each has at most `sure` of the users at 99 %, where chance deals them out."""
    from scipy.special import bdtr  # here, as in `loadgen.stats.quantile`

    low, high = math.ceil(users / sure), users
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if bdtr(sure, users, 1 / middle) >= RANDOM_POINT else (middle + 1, high)
    return low


class _Asked:
    """What is asked of users who think: whether so many of them meet every objective."""

    def __init__(self, objectives: Sequence[Objective], slo: Slo, think_s: float) -> None:
        self._objectives = objectives
        self._slo = slo
        self._think_s = think_s

    def most_users(self, levels: MeasuredLevels, requests: int, near: int = 1) -> int:
        """The most users of whom every objective is met, 0 if none. near: where to begin."""
        low, high, step = 0, max(1, near), 1
        while high < MAX_USERS and self._is_met(levels, high, requests):
            low, high, step = high, high + step if near > 1 else 2 * high, 2 * step
        step = 1
        while low == 0 and near > 1 and high > 1:
            middle = max(1, high - step)
            low, high, step = (middle, high, step) if self._is_met(levels, middle, requests) else (0, middle, 2 * step)
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if self._is_met(levels, middle, requests) else (low, middle)
        return low

    def in_flight(self, levels: MeasuredLevels, users: int) -> float:
        """The most in flight that all but MAX_BEYOND of the requests see."""
        played = self._play(levels, users, REQUESTS)
        return float(np.quantile(played.in_flight, 1 - MAX_BEYOND, method="inverted_cdf"))

    def _play(self, levels: MeasuredLevels, users: int, requests: int) -> ThinkingUsers:
        return play_thinking_users(levels.server, users, self._think_s, generator(SEED, "thinking"), requests)

    def _is_met(self, levels: MeasuredLevels, users: int, requests: int) -> bool:
        played = self._play(levels, users, requests)
        return all(self._share(objective, levels, played) >= objective.share for objective in self._objectives)

    def _share(self, objective: Objective, levels: MeasuredLevels, played: ThinkingUsers) -> float:
        """Of the requests to which an objective applies. `ok` is taken to be as it was at the levels."""
        limits: dict[str, float] = {objective.metric: objective.limit_ms or 0.0}
        if objective.metric == "goodput":
            limits = limits_ms(self._slo)
        if objective.metric == "ok":
            return 1.0
        applies = np.ones(len(played.end_s), bool)
        if objective.metric in {"tpot", "itl"}:
            applies = levels.needs.tokens[played.drawn] >= 2
        met = np.ones(len(applies), bool)
        for metric, limit in limits.items():
            met &= _latency_s(metric, levels, played) <= limit / 1e3
        return float(met[applies].mean()) if applies.any() else 1.0


def _latency_s(metric: str, levels: MeasuredLevels, played: ThinkingUsers) -> NDArray[np.float64]:
    """A latency of each request, s; 0 where it has none."""
    needs = levels.needs.drawn(played.drawn)
    writing = played.end_s - played.first_s
    stretch = writing / np.maximum(needs.end_s - needs.first_s, 1e-9)
    match metric:
        case "ttft":
            return played.first_s
        case "ttfc":
            return played.first_s + (needs.visible_s - needs.first_s) * stretch
        case "tpot":
            return np.where(needs.tokens >= 2, writing / np.maximum(needs.tokens - 1, 1), 0.0)
        case "itl":
            return needs.gap_s * stretch
    return played.end_s
