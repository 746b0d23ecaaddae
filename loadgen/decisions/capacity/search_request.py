"""Checks what a search asks, and makes from a scenario and settings the plan that bounds it. Sends nothing."""

from typing import Final

import msgspec
from msgspec import Struct

from loadgen.decisions.capacity.forecast import ForecastRequest
from loadgen.decisions.capacity.levels import MAX_USERS
from loadgen.decisions.capacity.objective import check_streamed, objectives_of
from loadgen.decisions.capacity.resume import EarlierSearch
from loadgen.decisions.capacity.search import FIRST_RATE, SearchKind, SearchSettings
from loadgen.errors import InputError
from loadgen.plan.plan import Plan
from loadgen.plan.visits import Visits
from loadgen.scenario import Closed, Load, Poisson, RatedLoad, ThinkTime
from loadgen.scenario.file import LoadedScenario

BOUND_S: Final = 1.0
"""The length of the stage that bounds a search of rates. Only the streams that it needs at once count."""


class CapacitySettings(Struct, frozen=True, kw_only=True):
    """The settings of a search."""

    objectives: tuple[str, ...] = ()
    """The objectives, such as "ttft_p95=2s"; empty: those of the scenario."""
    search: SearchKind | None = None
    """Users or rates; None: the kind of the scenario's load."""
    think_s: float | None = None
    """The mean of an exponential think time; None: the think time of the scenario."""
    lowest: float | None = None
    """The lowest level that may be played; None: 1 user, any rate."""
    highest: float | None = None
    """The highest level that may be played; None: 512 users, any rate."""
    budget_s: float = 600.0
    """The most time played for each model."""
    confidence: float = 0.95
    """The confidence with which both claims are true: that a level holds, and that another does not."""
    within: float | None = 0.05
    """The search is done when those two levels differ by at most this share; None: only when they are neighbors."""
    forecasts: ForecastRequest = ForecastRequest()


class SearchRequest(Struct, frozen=True, kw_only=True):
    """A search that has been checked and can be played."""

    plan: Plan
    """Its stages are the highest levels, one for each model. They tell how many streams the search may need at once."""
    settings: SearchSettings
    forecasts: ForecastRequest = ForecastRequest()
    earlier: EarlierSearch | None = None
    """The search that is resumed."""


def searchable(loaded: LoadedScenario, asked: CapacitySettings) -> LoadedScenario:
    """The scenario with a load whose levels can be searched. Raises InputError if it has no levels, or if its load has
    no users whose think time could be set."""
    load = _searchable_load(loaded, asked)
    scenario = msgspec.structs.replace(loaded.scenario, load=load, until=None)
    if asked.objectives:  # they also decide how long a request may take
        slo = msgspec.structs.replace(scenario.slo, objectives=asked.objectives)
        scenario = msgspec.structs.replace(scenario, slo=slo)
    return msgspec.structs.replace(loaded, scenario=scenario, rounds=None)


def _searchable_load(loaded: LoadedScenario, asked: CapacitySettings) -> Closed | RatedLoad:
    load: Load = loaded.scenario.load
    if asked.search == "users" and not isinstance(load, Closed):
        load = Closed()
    if asked.search == "rate" and not isinstance(load, RatedLoad):
        load = Poisson((FIRST_RATE,))
    if not isinstance(load, Closed | RatedLoad):
        mode = type(load).__name__.lower()
        raise InputError(f'{loaded.where}: load.mode: a "{mode}" load has no levels to search; add --users or --rate')
    if isinstance(load, RatedLoad):
        if asked.think_s:
            raise InputError("--think: a search of rates has no users who could think; leave it out, or add --users")
        return msgspec.structs.replace(load, requests=None, duration_s=None)
    if asked.think_s is not None:
        load = msgspec.structs.replace(load, think_time=ThinkTime(asked.think_s, "exponential"))
    return msgspec.structs.replace(load, requests=None, duration_s=None, min_requests=None)


def request_of(
    plan: Plan, asked: CapacitySettings, *, where: str, earlier: EarlierSearch | None = None
) -> SearchRequest:
    """The search of a plan whose scenario is `searchable`. where: the scenario's name, for messages. Raises InputError
    for what cannot be searched."""
    scenario = plan.scenario
    objectives = objectives_of(asked.objectives, scenario.slo, scenario=where)
    check_streamed(objectives, scenario)
    load = scenario.load
    is_users = isinstance(load, Closed)
    for flag, level in (("--from", asked.lowest), ("--to", asked.highest)):
        if is_users and level is not None and level != int(level):
            raise InputError(
                f"{flag} {level:g}: the number of users must be whole; write e.g. {flag} {max(1, int(level))}"
            )
    settings = SearchSettings(
        objectives=objectives,
        search="users" if is_users else "rate",
        from_level=asked.lowest,
        to_level=asked.highest,
        first_rate=load.rates_per_s[0] if isinstance(load, RatedLoad) else FIRST_RATE,
        budget_s=asked.budget_s,
        confidence=asked.confidence,
        within=asked.within,
        think_s=load.think_time.mean_s if isinstance(load, Closed) else 0.0,
    )
    highest = asked.highest or (MAX_USERS if is_users else settings.first_rate)
    bounds = tuple(
        Visits(scenario, len(plan.prompts), model).visit(highest, 1, seconds=BOUND_S)
        for model in range(len(scenario.models))
    )
    request = SearchRequest(
        plan=msgspec.structs.replace(plan, stages=bounds),
        settings=settings,
        forecasts=asked.forecasts,
        earlier=earlier,
    )
    if earlier is not None:
        earlier.check(request.plan, settings)
    return request
