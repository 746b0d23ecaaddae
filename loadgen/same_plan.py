"""Whether runs are repeats of one plan, and what differs where they are not. Pure; knows no requests."""

from collections.abc import Sequence
from typing import Any, Final

import msgspec

from loadgen.errors import InputError
from loadgen.runfolder import Manifest, Run

MATTERS: Final = ("load", "prompts", "sampling", "system", "models", "slo", "until", "seed", "warmup_requests", "order")
"""Keys of a scenario that are looked through first, when two runs are not of one plan."""
ASIDE: Final = ("name", "description", "keep_text", "probe", "strict")
"""Keys that decide nothing of what is sent and when."""


def check_alike(runs: Sequence[Run]) -> None:
    """Raises InputError unless these are two or more runs of one plan, judged by one SLO."""
    first = runs[0]
    if len(runs) < 2:
        raise InputError(f"{first.folder}: one run is not merged with itself; give two or more")
    seen: dict[str, Run] = {}
    for run in runs:
        if (twice := seen.get(run.manifest.run_id)) is not None:
            raise InputError(f"{run.folder}: the same run as {twice.folder}; give each run once")
        seen[run.manifest.run_id] = run
        differs = difference(first.manifest, run.manifest)
        if differs is not None:
            raise InputError(f"{run.folder}: not the same plan as {first.folder}: {differs}; merge runs of one plan")


def difference(one: Manifest, other: Manifest) -> str | None:
    """What keeps two runs from being repeats of one another, in words; None where nothing does."""
    slos = (one.scenario.get("slo"), other.scenario.get("slo"))
    where = [tuple((s.target, s.model, s.level) for s in manifest.stages) for manifest in (one, other)]
    if one.plan_digest == other.plan_digest and slos[0] == slos[1] and where[0] == where[1]:
        return None
    found = _first_difference(one.scenario, other.scenario, "")
    if found is not None:
        return found
    if one.prompts != other.prompts:
        return "the prompts differ"
    return "the models' addresses differ" if where[0] != where[1] else "the plans' digests differ"


def _first_difference(one: Any, other: Any, path: str) -> str | None:
    if isinstance(one, dict) and isinstance(other, dict):
        keys = dict.fromkeys((*(MATTERS if not path else ()), *one, *other))
        deeper = (_first_difference(one.get(k), other.get(k), f"{path}.{k}" if path else k) for k in keys)
        return next((found for found in deeper if found is not None), None)
    if one == other or path in ASIDE:
        return None
    return f"{path} is {_short(one)} there and {_short(other)} here"


def _short(value: Any) -> str:
    text = "not set" if value is None else msgspec.json.encode(value).decode()
    return text if len(text) <= 40 else f"{text[:39]}…"
