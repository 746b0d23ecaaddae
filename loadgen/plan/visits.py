"""Stages that are chosen during a run. Each is one uninterrupted visit to a level. Knows no clock."""

import re
from typing import Final

import msgspec
import numpy as np

from loadgen.plan.plan import Level, Stage, StageLoad, stage_of
from loadgen.plan.rng import generator
from loadgen.scenario import Closed, Load, RatedLoad, Scenario

SHORTEST_S: Final = 0.001
"""The shortest visit. With no time left, a visit is still planned, but it sends hardly any request."""
MOST_ARRIVALS: Final = 1_000_000
"""About the most requests of an open loop that are planned. No visit needs more, and each takes memory."""


class Visits:
    """Makes the visits to one model's levels. The seed of a visit depends on the scenario's seed, the level and the
    visit's number. So a search that chooses the same levels sends the same requests."""

    def __init__(self, scenario: Scenario, prompts: int, model: int) -> None:
        """prompts: how many the plan has. model: the index into the plan's models."""
        self._scenario = scenario
        self._prompts = prompts
        self._model = model

    def visit(self, level: float, number: int, *, seconds: float, warmup: int = 0, burst: int = 0) -> Stage:
        """The visit to a level, which is users of a closed loop or requests per second. number: of the visit, from 1.

        seconds: how long new requests may begin. warmup: requests before the measured ones. burst: measured requests
        of an open loop that come due at its beginning, before those of the rate.
        """
        label = visit_label(self._scenario.load, level, number)
        rng = generator(self._scenario.seed, "visit", label)
        load = _at_level(self._scenario.load, level, max(seconds, SHORTEST_S))
        # A seed of its own, because a second visit with the same arrivals would not be new evidence.
        scenario = msgspec.structs.replace(
            self._scenario, load=load, seed=int(rng.integers(1 << 32)), warmup_requests=warmup, until=None
        )
        stage = stage_of(scenario, _level_of(load, level, label), (self._model,), self._prompts)
        stage = msgspec.structs.replace(stage, visit=number, first_prompt=int(rng.integers(self._prompts)))
        if stage.due_ns is None or not burst:
            return stage
        due_ns = np.concatenate([np.zeros(burst, np.int64), stage.due_ns])
        return msgspec.structs.replace(stage, due_ns=due_ns, count=len(due_ns))


def visit_label(load: Load, level: float, number: int) -> str:
    """The name of a visit: `c6` or `r1.25`, and `c6.2` or `r1.25.2` when the level is visited again."""
    name = f"c{level:g}" if isinstance(load, Closed) else f"r{level:g}"
    if number == 1:
        return name
    # With `.0`, because `r1.2` is the name of another rate.
    return f"{name}{'' if isinstance(load, Closed) or '.' in name else '.0'}.{number}"


def visit_number(load: StageLoad, label: str) -> int:
    """The number of the visit to a level that a label names, from 1; 1 also for a stage that is no visit."""
    level = load.concurrency or load.rate_per_s or 0
    again = re.fullmatch(rf"[cr]{re.escape(f'{level:g}')}(?:\.0)?\.(\d+)", label)
    return int(again[1]) if again else 1


def visit_words(stage: Stage) -> str:
    """A visit in words: `1 user`, `4 users (visit 2)`, `1.25 requests per second`."""
    level = stage.level.concurrency or stage.level.rate_per_s or 0
    unit = "user" if stage.level.concurrency else "request"
    per = "" if stage.level.concurrency else " per second"
    again = f" (visit {stage.visit})" if stage.visit > 1 else ""
    return f"{level:.4g} {unit}{'' if level == 1 else 's'}{per}{again}"


def _at_level(load: Load, level: float, seconds: float) -> Closed | RatedLoad:
    """As `at_level`, with at most MOST_ARRIVALS."""
    return at_level(load, level, min(seconds, MOST_ARRIVALS / level) if isinstance(load, RatedLoad) else seconds)


def at_level(load: Load, level: float, seconds: float) -> Closed | RatedLoad:
    """A load with one level, which only time ends. Raises ValueError for a load without levels."""
    if isinstance(load, Closed):
        return msgspec.structs.replace(
            load, concurrency=(round(level),), requests=None, min_requests=None, duration_s=seconds
        )
    if isinstance(load, RatedLoad):
        return msgspec.structs.replace(load, rates_per_s=(level,), requests=None, duration_s=seconds)
    raise ValueError(f"a load of {type(load).__name__} has no levels")


def _level_of(load: Closed | RatedLoad, level: float, label: str) -> Level:
    if isinstance(load, Closed):
        return Level(label=label, mode="closed", concurrency=round(level))
    mode = type(load).__name__.lower()
    return Level(label=label, mode=mode, rate_per_s=level, burstiness=getattr(load, "burstiness", None))
