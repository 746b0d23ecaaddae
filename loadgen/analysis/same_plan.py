"""Whether runs are repeats of one plan, and what differs if they are not. Pure; knows no requests."""

from collections.abc import Sequence
from typing import Any, Final

import msgspec

from loadgen.errors import InputError
from loadgen.scenario import Scenario
from loadgen.store.manifest import Manifest
from loadgen.store.run_folder import Run

MATTERS: Final = ("load", "prompts", "sampling", "system", "models", "slo", "until", "seed", "warmup_requests", "order")
"""The keys of a scenario that are compared first if two runs are not of one plan."""
ASIDE: Final = ("name", "description", "keep_text", "probe", "strict")
"""Keys that do not influence what is sent and when."""


def check_alike(runs: Sequence[Run]) -> None:
    """Check that these are two or more runs of one plan, with the same SLO. Raises InputError if they are not."""
    first = runs[0]
    if len(runs) < 2:
        raise InputError(f"{first.folder}: one run is not merged with itself; give two or more")
    by_id: dict[str, Run] = {}
    for run in runs:
        if (twice := by_id.get(run.manifest.run_id)) is not None:
            raise InputError(f"{run.folder}: the same run as {twice.folder}; give each run once")
        by_id[run.manifest.run_id] = run
        differs = difference(first.manifest, run.manifest)
        if differs is not None:
            raise InputError(f"{run.folder}: not the same plan as {first.folder}: {differs}; merge runs of one plan")


def difference(first: Manifest, second: Manifest) -> str | None:
    """Why two runs are no repeats of one another, in words; None if they are."""
    scenarios = [_without_objectives(manifest.scenario) for manifest in (first, second)]
    where = [tuple(stage.key for stage in manifest.stages) for manifest in (first, second)]
    if first.plan_digest == second.plan_digest and scenarios[0].slo == scenarios[1].slo and where[0] == where[1]:
        return None
    differs = _first_difference(msgspec.to_builtins(scenarios[0]), msgspec.to_builtins(scenarios[1]), "")
    if differs is not None:
        return differs
    if first.prompts != second.prompts:
        return "the prompts differ"
    return "the models' addresses differ" if where[0] != where[1] else "the plans' digests differ"


def _without_objectives(scenario: Scenario) -> Scenario:
    """The scenario without the objectives of `loadgen capacity`, which change neither requests nor their goodput."""
    return msgspec.structs.replace(scenario, slo=msgspec.structs.replace(scenario.slo, objectives=()))


def _first_difference(first: Any, second: Any, path: str) -> str | None:
    if isinstance(first, dict) and isinstance(second, dict):
        keys = dict.fromkeys((*(MATTERS if not path else ()), *first, *second))
        deeper = (_first_difference(first.get(k), second.get(k), f"{path}.{k}" if path else k) for k in keys)
        return next((differs for differs in deeper if differs is not None), None)
    if first == second or path in ASIDE:
        return None
    return f"{path} is {_short(first)} there and {_short(second)} here"


def _short(value: Any) -> str:
    text = "not set" if value is None else msgspec.json.encode(value).decode()
    return text if len(text) <= 40 else f"{text[:39]}…"
