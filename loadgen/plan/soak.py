"""The plan of a soak: one level of a scenario for hours, by each model in turn or by all together. Knows no clock."""

import math
from typing import Final

import msgspec
from msgspec import Struct

from loadgen.errors import InputError
from loadgen.plan.plan import Plan, Stage, levels
from loadgen.plan.visits import at_level
from loadgen.scenario import Closed, Load, Poisson, RatedLoad, Scenario
from loadgen.scenario.file import LoadedScenario
from loadgen.scenario.soak import parse_bytes

MIN_WINDOWS: Final = 50
"""With fewer windows of a model, there is no verdict on it."""
FOLDER_BYTES: Final = 1 << 20
"""What a run folder may need beside its windows."""
WINDOW_BYTES: Final = 20 << 10
"""What the line and the histograms of one window of one model may need."""
GIVE_UP_S: Final = 1800.0


class SoakSettings(Struct, frozen=True, kw_only=True):
    """How a soak is played, in numbers."""

    duration_s: float
    """How long requests may start, of all models together."""
    window_s: float
    disk_bytes: int
    """How large the run folder may become."""
    matters: float
    """The smallest change over the soak that counts, as a share."""
    give_up_s: float = GIVE_UP_S
    """A server that has answered nothing for so long ends the soak."""


class SoakPlan(Struct, frozen=True, kw_only=True):
    """What a soak plays, and how."""

    loaded: LoadedScenario
    """The scenario with the one level as its load. Its `[soak]` has no level any more."""
    settings: SoakSettings
    remarks: tuple[str, ...] = ()
    """Lines for the user about the choice of the level and the length of the windows."""


def soak_of(loaded: LoadedScenario, give_up_s: float = GIVE_UP_S) -> SoakPlan:
    """The soak of a scenario. Raises InputError if the scenario does not say for how long, if it has no level that can
    be soaked, or if the windows alone may not fit in the run folder's budget."""
    scenario, where = loaded.scenario, loaded.where
    table = scenario.soak
    if scenario.until is not None:
        raise InputError(f"{where}: until: a soak ends by its duration alone; leave the key out of this scenario")
    if table.duration_s is None:
        raise InputError(f"{where}: soak.duration_s: missing; add --duration 8h, or write duration_s = 28800 in [soak]")
    settings = SoakSettings(
        duration_s=table.duration_s,
        window_s=table.window_s,
        disk_bytes=parse_bytes(table.disk) or 0,
        matters=table.matters,
        give_up_s=give_up_s,
    )
    _check_budget(scenario, settings, where)
    load, remarks = _one_level(scenario, where)
    share_s = model_share_s(scenario, settings)
    if share_s < MIN_WINDOWS * settings.window_s:
        shortest = f"a window of {settings.window_s:g} s is longer than a fiftieth of {share_s:g} s"
        remarks += (f"{shortest}: fewer than {MIN_WINDOWS} windows allow no verdict; soak longer, or lower --window",)
    # Without its level, the table cannot contradict the load, from which a resumed soak takes it.
    rest = msgspec.structs.replace(table, concurrency=None, rate_per_s=None)
    scenario = msgspec.structs.replace(scenario, load=at_level(load, level_of(load), share_s), soak=rest)
    return SoakPlan(
        loaded=msgspec.structs.replace(loaded, scenario=scenario, rounds=None), settings=settings, remarks=remarks
    )


def model_share_s(scenario: Scenario, settings: SoakSettings) -> float:
    """How long each model is played: all the time if they take turns, else an equal share of it."""
    return settings.duration_s / (1 if scenario.order == "interleaved" else len(scenario.models))


def soak_stages(plan: Plan) -> Plan:
    """The plan with stages that may end at any time: Ctrl-C, or a deadline on another clock, leaves nothing missing."""
    stages = tuple(msgspec.structs.replace(stage, open_ended=True) for stage in plan.stages)
    return msgspec.structs.replace(plan, stages=stages)


def stage_from(stage: Stage, index: int, duration_ns: int) -> Stage:
    """The rest of a stage, from a request of each of its models on. duration_ns: how long it may take.

    In an open loop, the first of its requests comes as long after its beginning as it would have come after the request
    before it: the schedule goes on where it was left.
    """
    first = index * len(stage.models)
    rest = msgspec.structs.replace(stage, first_position=first, duration_ns=duration_ns)
    if stage.due_ns is None:
        return rest
    begins_ns = stage.due_ns[first - 1] if 0 < first <= len(stage.due_ns) else 0
    due_ns = stage.due_ns[first:] - begins_ns
    return msgspec.structs.replace(rest, due_ns=due_ns, count=len(due_ns))


def level_of(load: Load) -> float:
    """The first level of a load. Raises ValueError for a load without levels."""
    if isinstance(load, Closed):
        return load.concurrency[0]
    if isinstance(load, RatedLoad):
        return load.rates_per_s[0]
    raise ValueError(f"a load of {type(load).__name__} has no levels")


def _one_level(scenario: Scenario, where: str) -> tuple[Closed | RatedLoad, tuple[str, ...]]:
    """The load of the soak's level, and a remark if it was chosen among several."""
    table, load = scenario.soak, scenario.load
    if table.concurrency is not None:
        base = load if isinstance(load, Closed) else Closed()
        return msgspec.structs.replace(base, concurrency=(table.concurrency,)), ()
    if table.rate_per_s is not None:
        rates = (table.rate_per_s,)
        return msgspec.structs.replace(load, rates_per_s=rates) if isinstance(load, RatedLoad) else Poisson(rates), ()
    if not isinstance(load, Closed | RatedLoad):
        mode = type(load).__name__.lower()
        hint = "add --concurrency N or --rate R, or a level to [soak]"
        raise InputError(f'{where}: load.mode: a "{mode}" load has no level that could be soaked; {hint}')
    labels = [level.label for level in levels(load)]
    if len(labels) == 1:
        return load, ()
    hint = "--concurrency, --rate or [soak] chooses another"
    return load, (f"a soak plays one level: {labels[0]}, the first of {', '.join(labels)}; {hint}",)


def _check_budget(scenario: Scenario, settings: SoakSettings, where: str) -> None:
    windows = math.ceil(settings.duration_s / settings.window_s)
    lines = windows * (len(scenario.models) if scenario.order == "interleaved" else 1)
    needed = FOLDER_BYTES + lines * WINDOW_BYTES
    if settings.disk_bytes < needed:
        what_for = f"{lines} windows alone may need {math.ceil(needed / (1 << 20))} MiB"
        hint = "allow as much, or make the windows longer with --window"
        budget = f"a run folder of {scenario.soak.disk} (--disk, or soak.disk) is too small"
        raise InputError(f"{where}: {budget}, because {what_for}; {hint}")
