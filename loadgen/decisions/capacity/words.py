"""The answer of a search in words: what is shown, what limited the server, why the search ended, and what follows.
Pure."""

import math
from collections.abc import Iterable
from typing import Final

from loadgen.decisions.capacity.answer import LevelAnswer, ModelAnswer, ObjectiveAnswer
from loadgen.decisions.capacity.choose import shown
from loadgen.decisions.capacity.e_values import MIN_REQUESTS_OF_RATE
from loadgen.decisions.capacity.forecast import ForecastAnswer
from loadgen.decisions.capacity.limit import LimitFigures
from loadgen.decisions.capacity.search import SearchSettings, SearchState
from loadgen.decisions.capacity.visit import BUSY, Doubt, Visit
from loadgen.report.format import UNKNOWN, format_duration, format_number, format_percent, format_time
from loadgen.scenario.objective import objective_of

_DOUBTS: Final[dict[Doubt, str]] = {
    "client": "loadgen itself was in the way",
    "busy_machine": "other programs were in the way",
    "busy_host": "the host of this virtual machine took too much CPU time",
    "drift": "its latencies never settled",
    "behind": "fewer requests ended than came due",
    "drains": "the burst at its beginning was not yet worked off",
}
ROOM: Final = 2
"""A budget is long enough for a claim about a rate if it has room for so many times its requests. The first requests of
a visit do not count, and the search has to try other rates."""
_STALL_SHARE: Final = 3
"""A stall may not have been seen if it comes less often than once in a third of the time played at `holds`."""


def format_level(level: float, search: str) -> str:
    """`1 user`, `5 users`, or `1.25 requests per second`."""
    if search == "users":
        return f"{level:g} user" if level == 1 else f"{level:g} users"
    return f"{level:.4g} {'request' if level == 1 else 'requests'} per second"


def objective_words(text: str) -> str:
    """The objective that requests met: `within ttft_p95 = 2 s`, or `met ok = 99 %`. text: that of the objective."""
    objective = objective_of(text)
    name, _, value = objective.text.partition("=")
    if objective.limit_ms is not None:
        return f"within {name} = {format_duration(objective.limit_ms)}"
    return f"met {name} = {value.removesuffix('%')} %"


def answer_line(model: ModelAnswer, confidence: float) -> str:
    """The first line: the number of users, and how sure it is."""
    sure, search, between = f"{format_percent(confidence)} sure", model.search, _between(model)
    match model.holds, model.fails:
        case float(holds), float(fails):
            capacity = format_level(model.capacity or holds, search)
            claims = f"{_number(holds)} {_hold(holds)} and that {_number(fails)} {_do(fails)} not"
            return f"{capacity}: {sure} that {claims}{between}"
        case float(holds), None:
            return f"at least {format_level(holds, search)}: {sure} that {_number(holds)} {_hold(holds)}{between}"
        case None, float(fails):
            claim = f"{_number(fails)} {_do(fails)} not hold"
            return f"fewer than {format_level(fails, search)}: {sure} that {claim}{between}"
    if model.levels and all(level.state == "not_judged" for level in model.levels):
        doubts = dict.fromkeys(_DOUBTS[doubt] for level in model.levels for doubt in level.doubts)
        return f"not known: no visit could be judged, because {' and '.join(doubts)}"
    if not model.levels:
        return "not known: no level was played to the end of a visit"
    played = "; ".join(_level_words(level) for level in model.levels)
    return f"not known: none of the levels played is decided yet ({played})"


def limit_line(model: ModelAnswer, budget_s: float) -> str:
    """The second line: what limited the server, and why the search ended. budget_s: that of the search."""
    limit, stopped = limit_words(model), stopped_words(model, budget_s)
    return f"{limit}. {stopped}" if limit else stopped


def limit_words(model: ModelAnswer) -> str | None:
    """What limited the server at the levels that do not hold, with its figures; None if nothing did."""
    limit = model.limit
    binding = f" ({limit.binding} is missed first)" if limit.binding else ""
    limited = "limited" if is_limit_shown(model) else "probably limited"
    match model.limited_by:
        case None:
            return None
        case "queue":
            streams = limit.served_at_once
            served = (
                ""
                if streams is None
                else f": {streams} {'streams are' if streams != 1 else 'stream is'} served at once"
            )
            return f"{limited} by the queue{served}{_waiting(limit)}{binding}"
        case "errors":
            return f"{limited} by the server's errors: {_error_words(limit)}"
        case "memory":
            return f"limited by memory: {limit.reason or 'the machine ran out of it'}"
        case "client":
            return f"limited by loadgen itself: {limit.reason or 'its own measurements say so'}"
        case "prefill":
            return f"{limited} by the time to work through prompts (prefill){binding}"
        case "decode":
            return f"{limited} by the time to write tokens (decode){binding}"


def is_limit_shown(model: ModelAnswer) -> bool:
    """Whether what limited is sure: a level is shown not to hold, or loadgen or the memory was observed to be short."""
    return model.fails is not None or model.limited_by in {"client", "memory"}


def _waiting(limit: LimitFigures) -> str:
    share = limit.waiting_share
    return "" if share is None else f"; {format_percent(share)} of the growth of TTFT is waiting"


def _error_words(limit: LimitFigures) -> str:
    status = "" if limit.status is None else f" {limit.status}"
    detail = f" ({limit.detail})" if limit.detail else ""
    return f"{limit.outcome}{status}{detail}, {format_percent(limit.share)} of the misses"


def stopped_words(model: ModelAnswer, budget_s: float) -> str:
    """Why the search of a model ended, after how long (the time that counts against its own budget), and what would
    show more. budget_s: that of the search."""
    spent = _spent(model)
    match model.stopped:
        case "shown":
            return f"Stopped: neighboring levels are shown, {spent}"
        case "within":
            gap = (model.fails or 0) - (model.holds or 0)
            return f"Stopped: within {format_level(gap, model.search)}, {spent}"
        case "budget" | "nothing_closer":
            return f"Stopped: {_out_of_budget(model, budget_s, spent)}"
        case "top":
            return f"Stopped: the highest level that may be played holds (--to), {spent}"
        case "bottom":
            return f"Stopped: the lowest level that may be played does not hold (--from), {spent}"
        case "client":
            return f"Stopped: loadgen itself was the limit, so no higher level is played, {spent}"
        case "busy_machine":
            who, remedy = _busy(model)
            why = f"{who} kept this machine too busy to judge a visit"
            return f"Stopped: {why}, {spent}; {remedy} (--resume continues this search)"
        case "target_lost":
            lost = f"the server was lost, {spent}; --resume continues the search"
            return f"Stopped: {lost if model.levels else 'the model could not be served, so nothing was played'}"
        case "interrupted":
            return f"Stopped: interrupted, {spent}; --resume continues it"


def _spent(model: ModelAnswer) -> str:
    total, own = format_time(model.spent_s), format_time(model.spent_s - model.earlier_s)
    return f"after {own} ({total} with the earlier searches)" if model.earlier_s else f"after {own}"


def _out_of_budget(model: ModelAnswer, budget_s: float, spent: str) -> str:
    """That the budget ended the search, and what would show more. spent: the time that the search took."""
    hint, is_spent = _longer_visits(model, budget_s), model.stopped == "budget"
    if is_spent and _only_busy(model):
        return f"the budget is spent, {spent}; {_busy(model)[1]}"
    if hint:
        return f"{'the budget is spent' if is_spent else 'the rest of the budget is too short'}, {spent}; {hint}"
    if is_spent:
        return f"the budget is spent, {spent}; more time (--resume) would show more"
    return f"the rest of the budget would show no more, {spent}; more time (--resume) would"


def _longer_visits(model: ModelAnswer, budget_s: float) -> str:
    """What to do where no visit to a rate had as many requests as a claim takes; empty where that is not why."""
    played = [level for level in model.levels if level.requests]
    is_known = model.holds is not None or model.fails is not None
    if model.search != "rate" or is_known or not played:
        return ""
    if max(level.requests for level in played) >= MIN_REQUESTS_OF_RATE:
        return ""
    wanted = ROOM * MIN_REQUESTS_OF_RATE
    rate = math.ceil(wanted / budget_s * 10) / 10
    minutes = math.ceil(max(wanted / played[0].level, ROOM * budget_s) / 60)
    faster = f"--from {rate:g}, so that they fit, or " if rate > played[-1].level else ""
    return f"a claim takes {MIN_REQUESTS_OF_RATE} requests: use {faster}a longer --budget, such as {minutes}m"


def _only_busy(model: ModelAnswer) -> bool:
    """Whether nothing could be judged because of other work on this machine, so that more time alone would show no
    more."""
    levels = model.levels
    return bool(levels) and all(level.state == "not_judged" and BUSY.issuperset(level.doubts) for level in levels)


def _busy(model: ModelAnswer) -> tuple[str, str]:
    """Whose work kept the machine busy while a model was searched, and what to do."""
    host, later = "the host of this virtual machine", "search again later, or on a machine of your own"
    doubts = BUSY.intersection(doubt for level in model.levels for doubt in level.doubts)
    if "busy_host" not in doubts:
        return "other programs", "close the other programs, and search again"
    if "busy_machine" not in doubts:
        return host, later
    return f"other programs and {host}", f"close the other programs, and {later}"


def throughput_line(model: ModelAnswer) -> str | None:
    """The third line: the highest throughput, and the level above which it hardly grows."""
    rates = [level for level in model.levels if level.requests_per_s]
    if not rates:
        return None
    most = max(rates, key=lambda level: level.requests_per_s or 0.0)
    tokens = f" and {format_number(most.output_tokens_per_s)} output tokens/s" if most.output_tokens_per_s else ""
    line = f"throughput: up to {format_number(most.requests_per_s)} requests/s{tokens}"
    saturates, knee = model.throughput.saturates_at, model.throughput.knee
    if saturates is not None:
        line += f"; 95 % of it from {format_level(saturates, model.search)} on"
    if knee is not None and model.search == "users":
        line += f"; knee at {format_number(knee)} users"
    return line


def forecast_line(forecast: ForecastAnswer, confidence: float = 0.95) -> str:
    """A forecast in words, or the reason why there is none. confidence: that of its interval."""
    think = f"forecast for users who think {format_time(forecast.think_s)}"
    if forecast.think_s == 0:
        think = "forecast for users who do not think"
    fleet = forecast.fleet
    if forecast.users is None:
        line = f"{think}: {forecast.why_not or 'not known'}"
        return line if fleet is None else f"{line}; devices for {fleet.users} users: not known"
    low, high = forecast.users_ci or (forecast.users, forecast.users)
    interval = f"{low:g} to {high:g}" if high is not None else f"from {low:g} on"
    line = (
        f"{think}: {format_level(forecast.users, 'users')} a device ({format_percent(confidence)} interval {interval})"
    )
    if fleet is None:
        return line
    devices = [f"{fleet.devices} for sure" if fleet.devices is not None else "not known for sure"]
    if fleet.devices_at_best is not None:
        devices.append(f"{fleet.devices_at_best} at best")
    if fleet.devices_random is not None:
        devices.append(f"{fleet.devices_random} with random routing")
    return f"{line}; devices for {fleet.users} users: {', '.join(devices)}"


def remarks_of(model: ModelAnswer) -> list[str]:
    """The limits of the answer, and what is unusual about it."""
    remarks = []
    if model.not_monotone:
        names = ", ".join(map(_number, model.not_monotone))
        lower = f"{_number(model.fails or 0)}, which is shown not to"
        remarks.append(f"not monotone: shown to hold above {lower}: {names}; the lower claim counts")
    highest = next((level for level in model.levels if level.level == model.holds), None)
    if highest is not None:
        rare = format_time(highest.seconds / _STALL_SHARE)
        remarks.append(
            f"{format_level(highest.level, model.search)} were played for {format_time(highest.seconds)}: a stall of "
            f"the server that comes less often than once in {rare} may not have been seen"
        )
    for level in model.levels:
        if level.doubts:
            which = "not judged" if level.state == "not_judged" else "some of its visits do not count"
            why = ", ".join(_DOUBTS[doubt] for doubt in level.doubts)
            remarks.append(f"{format_level(level.level, model.search)}: {which}: {why}")
    return remarks


def lines_of_model(model: ModelAnswer, confidence: float, budget_s: float) -> list[str]:
    """The answer of a model, line by line. confidence, budget_s: those of the search."""
    forecasts = [
        # What is said of users as they were played is what the search shows, at its confidence.
        forecast_line(forecast, confidence) if forecast.think_s == model.think_s else forecast_line(forecast)
        for forecast in model.forecasts
    ]
    more = (throughput_line(model), *forecasts)
    return [answer_line(model, confidence), limit_line(model, budget_s), *(line for line in more if line)]


def share_text(objective: ObjectiveAnswer) -> str:
    """A share with its 95 % interval: `97.8 % (96–99)`."""
    if objective.share is None:
        return UNKNOWN
    if objective.share_ci is None:
        return format_percent(objective.share)
    low, high = (f"{100 * end:.3g}" for end in objective.share_ci)
    return f"{format_percent(objective.share)} ({low}–{high})"


def worst_objective(level: LevelAnswer) -> ObjectiveAnswer | None:
    """The objective that a level misses by most, or comes closest to missing."""
    known = [each for each in level.objectives if each.share is not None]
    return max(known, key=lambda each: each.log_fails, default=None)


def _between(model: ModelAnswer) -> str:
    """The undecided levels between the two that are shown, in brackets."""
    low, high = model.holds or 0.0, model.fails or float("inf")
    undecided = [level for level in model.levels if low < level.level < high and level.state == "undecided"]
    if not undecided:
        return ""
    return f" ({'; '.join(_undecided(level) for level in _closest(undecided, model.capacity))})"


def _closest(levels: Iterable[LevelAnswer], capacity: float | None) -> list[LevelAnswer]:
    """The levels closest to the capacity, at most two, in order."""
    near = sorted(levels, key=lambda level: abs(level.level - (capacity or 0.0)))[:2]
    return sorted(near, key=lambda level: level.level)


def _undecided(level: LevelAnswer) -> str:
    return f"{_number(level.level)}: undecided{''.join(f', {share}' for share in _worst_share(level))}"


def _level_words(level: LevelAnswer) -> str:
    """A level that is not decided: `4: 93.1 % of 58 requests within ttft_p95 = 2 s`."""
    state = "not judged" if level.state == "not_judged" else "no request counts"
    return f"{_number(level.level)}: {''.join(_worst_share(level)) or state}"


def _worst_share(level: LevelAnswer) -> list[str]:
    """How many requests met the objective that the level misses by most; empty if that is not known."""
    worst = worst_objective(level)
    if worst is None:
        return []
    return [f"{format_percent(worst.share)} of {level.requests} requests {objective_words(worst.objective)}"]


def _number(level: float) -> str:
    return f"{level:.4g}"


def _hold(level: float) -> str:
    return "holds" if level == 1 else "hold"


def _do(level: float) -> str:
    return "does" if level == 1 else "do"


def progress_words(visit: Visit | None, state: SearchState, settings: SearchSettings) -> str:
    """The progress of a search: the visit so far, the levels that are shown, and the rest of the budget. state: without
    that visit. visit: None if it has only begun."""
    counts = () if visit is None else zip(settings.objectives, visit.met, visit.missed, strict=True)
    shares = [
        f"{format_percent(met / (met + missed))} met {objective.text}"
        for objective, met, missed in counts
        if met + missed
    ]
    state = state if visit is None else state.with_visit(visit)
    ends = shown(state, settings)
    known = [f"{_number(level)} {word}" for level, word in ((ends.holds, "holds"), (ends.fails, "fails")) if level]
    left = f"{format_time(max(0.0, settings.budget_s - state.spent_s))} left"
    return " · ".join([*shares, f"shown: {', '.join(known)}" if known else "nothing shown yet", left])
