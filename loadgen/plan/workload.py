"""The work of a plan, independent of the server: two runs must have the same work to be compared. Pure.

The digest of a plan (`loadgen.plan.plan.digest`) is for repeats: it includes the names of the models, but no timeouts.
"""

import hashlib
from collections.abc import Iterable

import msgspec
import numpy as np
from msgspec import Struct

from loadgen.plan.plan import Plan, Stage, parts_sent
from loadgen.plan.prompts import Prompt
from loadgen.scenario import Scenario

WORK_KEYS = ("system", "order", "sampling", "warmup_requests", "timeouts", "retries", "until")
"""The keys of a scenario that belong to the work, in addition to the prompts and the load."""


class Workload(Struct, frozen=True):
    """The work of a plan as SHA-256 digests."""

    digest: str
    """The digest of the whole work: prompts, levels, and the other keys of the scenario that affect the requests."""
    prompts: str
    """The digest of the prompts in the order in which they are used: their texts, recorded chats and tools."""
    levels: dict[str, str]
    """The digest of each level, by its label: schedule, think times, limits and counts."""


def workload_of(plan: Plan) -> Workload:
    """The work of a plan; equal for equal work, on every platform."""
    levels: dict[str, str] = {}
    for stage in plan.stages:  # models that play one after another each have the same levels
        levels.setdefault(stage.level.label, _level_digest(stage))
    prompts = _prompts_digest(plan.prompts)
    return Workload(_sha256([prompts, levels, work_keys(plan.scenario)]), prompts, levels)


def work_keys(scenario: Scenario) -> dict[str, object]:
    """The keys of a scenario that belong to the work, as plain values, without those that have no effect.

    The time to wait for a server does not belong to the work, nor does the order of the models if there is only one.
    """
    keys: dict[str, object] = {name: msgspec.to_builtins(getattr(scenario, name)) for name in WORK_KEYS}
    timeouts = keys["timeouts"]
    assert isinstance(timeouts, dict)
    del timeouts["ready_s"]
    if len(scenario.models) == 1:
        del keys["order"]
    if scenario.retries.attempts == 0:
        keys["retries"] = {"attempts": 0}
    return keys


def _prompts_digest(prompts: Iterable[Prompt]) -> str:
    return _sha256([parts_sent(prompt) for prompt in prompts])


def _level_digest(stage: Stage) -> str:
    # `until` and the warm-up are compared as keys of the scenario, because a difference in a key can be named.
    bounds = [stage.count, stage.duration_ns, stage.max_in_flight, stage.max_requests_per_s, stage.at_limit]
    offsets = [
        None if column is None else hashlib.sha256(np.ascontiguousarray(column, dtype="<i8").tobytes()).hexdigest()
        for column in (stage.due_ns, stage.think_ns, stage.ramp_in_ns)
    ]
    least = [["at least", stage.min_count]] if stage.min_count else []
    visit = [["visit", stage.visit, stage.first_prompt]] if stage.visit else []
    return _sha256([stage.level, len(stage.models), bounds, offsets, *least, *visit])


def _sha256(value: object) -> str:
    return hashlib.sha256(msgspec.json.encode(value, order="deterministic")).hexdigest()
