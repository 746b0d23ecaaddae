"""Forecasts from measured levels without think time: for users who think, and for fleets of devices. Pure.

A forecast makes no statement beyond what was measured. It then says which level would have to be played.
"""

import math
from collections.abc import Sequence
from typing import Final

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from loadgen.decisions.capacity.known import Known
from loadgen.decisions.capacity.measured_levels import REACH, MeasuredLevels, measured_levels
from loadgen.decisions.capacity.search import SearchSettings
from loadgen.decisions.capacity.thinking import ThinkingUsers, play_thinking_users
from loadgen.decisions.capacity.visit_data import VisitData, state_of
from loadgen.plan.rng import generator
from loadgen.scenario import Slo
from loadgen.scenario.objective import Objective, limits_ms

MIN_LEVELS: Final = 3
MAX_BEYOND: Final = 0.01
"""The share of requests that may see more in flight than REACH allows."""
MAX_USERS: Final = 100_000
REQUESTS: Final = 20_000
REQUESTS_ROUGH: Final = 4_000
RESAMPLES: Final = 20
SEED: Final = 1
RANDOM_POINT: Final = 0.99
_Z_95: Final = 1.96


class FleetAnswer(Struct, frozen=True):
    """The devices that a number of users needs. None: not known."""

    users: int
    devices: int | None
    """If each user is bound to a device: the number that is enough for sure, with the users a device that are shown to
    hold, or with the lower end of the forecast's interval."""
    devices_at_best: int | None
    """The number that is enough at best, with the capacity that the search says, or with the upper end of the
    forecast's interval."""
    devices_random: int | None
    """If requests are routed at random: the load of a device is then Binomial(users, 1/devices), and a device carries
    the 99 % point of that for sure."""


class ForecastAnswer(Struct, frozen=True):
    """The number of users that a device carries if they think for a time between an answer and the next question."""

    think_s: float
    """The mean of the exponential think time."""
    users: int | None
    """None: not known. `why_not` then says what to play."""
    users_ci: tuple[int, int | None] | None
    """The 95 % interval, from resampled requests and rates. For the think time that was played: what the search shows,
    at its confidence, and no upper end if no level is shown not to hold."""
    why_not: str | None = None
    fleet: FleetAnswer | None = None


class ForecastRequest(Struct, frozen=True):
    """What to forecast."""

    think_s: tuple[float, ...] = ()
    """The think times, each with a forecast. If empty, the fleet is for users who think as they did in the search."""
    fleet: int | None = None
    """The total number of users."""


NO_FORECASTS: Final = ForecastRequest()


def forecasts_of(
    visits: Sequence[VisitData],
    settings: SearchSettings,
    request: ForecastRequest,
    earlier: Sequence[ForecastAnswer] = (),
) -> tuple[ForecastAnswer, ...]:
    """The forecasts that are asked for, if any, after those that were asked for before. Each think time has one.

    earlier: the answers to earlier questions, which are computed again. A new question about the same think time
    replaces the earlier one, but keeps its fleet if it names none.
    """
    fleets = {answer.think_s: None if answer.fleet is None else answer.fleet.users for answer in earlier}
    for think_s in request.think_s or (() if request.fleet is None else (settings.think_s,)):
        fleets[think_s] = fleets.get(think_s) if request.fleet is None else request.fleet
    return tuple(_answer(visits, settings, think_s, fleet) for think_s, fleet in fleets.items())


def fleet_of(users: int, sure: int, best: int) -> FleetAnswer:
    """The devices for a number of users. sure, best: the users that a device carries for sure, and at best. With 0, the
    number of devices is not known."""
    return FleetAnswer(
        users,
        math.ceil(users / sure) if sure else None,
        math.ceil(users / best) if best else None,
        _devices_random(users, sure) if sure else None,
    )


def _answer(visits: Sequence[VisitData], settings: SearchSettings, think_s: float, fleet: int | None) -> ForecastAnswer:
    if settings.search == "rate":
        return _not_known(think_s, fleet, "not known: search users, not rates")
    if think_s == settings.think_s:
        return _as_played(visits, settings, fleet)
    return _forecast(visits, settings, think_s, fleet)


def _as_played(visits: Sequence[VisitData], settings: SearchSettings, users: int | None) -> ForecastAnswer:
    """The answer for users who think as they did in the search: what it shows."""
    known = Known(state_of(visits), settings)
    holds, fails, best = known.shown.holds, known.shown.fails, known.capacity
    if holds is None or best is None:
        return _not_known(settings.think_s, users, "not known: no level is shown to hold")
    fleet = None if users is None else fleet_of(users, int(holds), int(best))
    most = None if fails is None else math.ceil(fails) - 1
    return ForecastAnswer(settings.think_s, int(best), (int(holds), most), None, fleet)


def _forecast(
    visits: Sequence[VisitData], settings: SearchSettings, think_s: float, fleet: int | None
) -> ForecastAnswer:
    if (why_not := _reason_unknown(visits, settings)) is not None:
        return _not_known(think_s, fleet, why_not)
    levels = measured_levels(visits, settings.objectives)
    if len(levels.levels) < MIN_LEVELS:
        return _not_known(think_s, fleet, f"not known: play at least {MIN_LEVELS} levels ({_count(visits, levels)})")
    if not len(levels.needs.first_s):
        message = f"not known: the lowest level ({levels.levels[0]:g}) has no answer with tokens"
        return _not_known(think_s, fleet, message)
    asked = _Asked(settings.objectives, visits[0].stage.slo, think_s)
    users = asked.most_users(levels, REQUESTS)
    in_flight, reach = asked.in_flight(levels, max(users, 1)), REACH * levels.levels[-1]
    if in_flight > reach:
        message = (
            f"not known: play up to {math.ceil(in_flight / REACH)} users; {in_flight:g} requests would be in flight"
        )
        return _not_known(think_s, fleet, f"{message}, which is more than 1.5 times the {levels.levels[-1]:g} played")
    rng = generator(SEED, "forecast")
    others = [asked.most_users(levels.resampled(rng), REQUESTS_ROUGH, users) for _ in range(RESAMPLES)]
    spread = _Z_95 * float(np.std(others, ddof=1))
    interval = (max(0, math.floor(users - spread)), math.ceil(users + spread))
    devices = None if fleet is None else fleet_of(fleet, *interval)
    return ForecastAnswer(think_s, users, interval, None, devices)


def _reason_unknown(visits: Sequence[VisitData], settings: SearchSettings) -> str | None:
    """The reason why a search allows no forecast for other think times; None if it allows one."""
    if settings.think_s:
        return "not known: the users of this search had think time; search without it"
    return None if visits else "not known: nothing was played"


def _count(visits: Sequence[VisitData], levels: MeasuredLevels) -> str:
    """The number of levels that a search has, and how many of them tell a rate."""
    played, measured = len({each.visit.level for each in visits}), len(levels.levels)
    return f"this search has {played}" + (f", of which {measured} could be judged" if measured < played else "")


def _not_known(think_s: float, fleet: int | None, why_not: str) -> ForecastAnswer:
    return ForecastAnswer(think_s, None, None, why_not, None if fleet is None else fleet_of(fleet, 0, 0))


def _devices_random(users: int, sure: int) -> int:
    """The fewest devices such that a device has at most `sure` users with 99 % probability, if users are spread at
    random."""
    from scipy.special import bdtr  # here, as in `loadgen.stats.quantile`

    low, high = math.ceil(users / sure), users
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if bdtr(sure, users, 1 / middle) >= RANDOM_POINT else (middle + 1, high)
    return low


class _Asked:
    """The question of a forecast: whether a number of users who think meet every objective."""

    def __init__(self, objectives: Sequence[Objective], slo: Slo, think_s: float) -> None:
        self._objectives = objectives
        self._slo = slo
        self._think_s = think_s

    def most_users(self, levels: MeasuredLevels, requests: int, near: int = 1) -> int:
        """The most users whose requests meet every objective; 0 if not even one. near: the number to begin with."""
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
        """The number in flight that all but a share MAX_BEYOND of the requests see at most."""
        played = self._thinking_users(levels, users, REQUESTS)
        return float(np.quantile(played.in_flight, 1 - MAX_BEYOND, method="inverted_cdf"))

    def _thinking_users(self, levels: MeasuredLevels, users: int, requests: int) -> ThinkingUsers:
        return play_thinking_users(levels.server, users, self._think_s, generator(SEED, "thinking"), requests)

    def _is_met(self, levels: MeasuredLevels, users: int, requests: int) -> bool:
        played = self._thinking_users(levels, users, requests)
        return all(self._share(objective, levels, played) >= objective.share for objective in self._objectives)

    def _share(self, objective: Objective, levels: MeasuredLevels, played: ThinkingUsers) -> float:
        """The share that meets an objective, of the requests to which it applies. `ok` keeps its share from the
        levels."""
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
    """The latency of each request, s; 0 if it has none."""
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
