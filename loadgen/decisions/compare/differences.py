"""Finds the differences between the runs of a comparison: those that must not be, and those that may. Pure.

A fact has a name and, for each run, a value as text. If the values differ, the difference is named with both sides'
values.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
from msgspec import UNSET, Struct, field

from loadgen.decisions.compare.paired_models import PairedModel
from loadgen.decisions.compare.sides import ComparedRun, Sides
from loadgen.errors import InputError
from loadgen.plan.plan import digest, make_plan
from loadgen.plan.prompts import load_prompts
from loadgen.plan.workload import Workload, work_keys, workload_of
from loadgen.redact import redact_url
from loadgen.scenario import PromptFiles, Trace
from loadgen.scenario.check import model_table
from loadgen.scenario.urls import base_url
from loadgen.store.manifest import Manifest, ModelCard
from loadgen.telemetry.host import Host

MEMORY_TOLERANCE: Final = 1.02
"""The same machine does not always report the same memory."""
NOT_SET: Final = "not set"
UNKNOWN: Final = "not known"
LONGEST_VALUE: Final = 60
_LISTS_OF_LEVELS: Final = ("concurrency", "rates_per_s")
"""The keys of a load that list its levels, which are compared one by one."""
_CARD_FACTS: Final = (
    "id",
    "size_bytes",
    "quantization",
    "parameters",
    "context_tokens",
    "device",
    "execution_provider",
)

Facts = dict[str, str]


class Difference(Struct, frozen=True):
    """A fact that is not the same in all runs."""

    subject: str = field(name="what")
    base: str
    """The different values in BASE's runs, each once."""
    new: str
    allowed: bool
    """Whether it may differ, because it is the subject of the comparison."""


def differences_of(sides: Sides, models: Sequence[PairedModel], *, with_goodput: bool) -> tuple[Difference, ...]:
    """All differences, in order: the work, the SLO, the machine, the measurement, validity; then those that may be."""
    levels = tuple(dict.fromkeys(level for model in models for level in model.levels))
    must: list[Difference] = _differences_of_work(sides, levels)
    if with_goodput:
        must += _differing(sides, lambda run: _flat({"slo": _limits(run)}), allowed=False)
    must += _differing(sides, machine_of, allowed=False)
    must += _differing(sides, lambda run: _measurement(run, levels), allowed=False)
    must += _doubts(sides, models)
    return (*must, *_differing(sides, _asked_about, allowed=True))


def _differing(sides: Sides, facts_of: Callable[[ComparedRun], Facts], *, allowed: bool) -> list[Difference]:
    """The facts that are not the same in all runs."""
    each = [facts_of(run) for run in sides.runs]
    unlike = []
    for name in dict.fromkeys(name for facts in each for name in facts):
        values = [facts.get(name, NOT_SET) for facts in each]
        if len(set(values)) > 1 and not (name == "memory" and _same_memory(values)):
            base, new = values[: len(sides.base)], values[len(sides.base) :]
            unlike.append(Difference(name, _joined(base), _joined(new), allowed))
    return unlike


def _joined(values: Iterable[str]) -> str:
    return " and ".join(dict.fromkeys(values))


def _differences_of_work(sides: Sides, levels: Sequence[str]) -> list[Difference]:
    unlike = _differing(sides, lambda run: _flat(work_keys(run.manifest.scenario)), allowed=False)
    if len({run.manifest.plan_digest for run in sides.runs}) == 1:
        return unlike  # the requests are identical
    works: dict[str, Workload] = {}
    unknown: dict[str, str] = {}
    for run in sides.runs:
        match workload_in(run.manifest):
            case str(reason):
                unknown[run.run_id] = reason
            case work:
                works[run.run_id] = work
    if unknown:  # the work is not known, even if the reason is the same on both sides
        reasons = [[unknown.get(run.run_id, "known") for run in runs] for runs in (sides.base, sides.new)]
        return [*unlike, Difference("workload", _joined(reasons[0]), _joined(reasons[1]), allowed=False)]

    def prompts(run: ComparedRun) -> Facts:
        work = works[run.run_id]
        return {"prompts": f"{len(run.manifest.prompts)} texts (digest {work.prompts[:8]})"}

    def schedules(run: ComparedRun) -> Facts:
        work = works[run.run_id]
        return {f"schedule of {level}": f"digest {work.levels.get(level, '')[:8]}" for level in levels}

    other_prompts, other_schedules = (_differing(sides, facts, allowed=False) for facts in (prompts, schedules))
    causes = _differing(sides, _load_keys, allowed=False) if other_prompts or other_schedules else []
    return [*other_prompts, *unlike, *(causes or other_schedules)]


def _load_keys(run: ComparedRun) -> Facts:
    """The keys that determine the schedule of a level, without the list of levels."""
    scenario = run.manifest.scenario
    load = msgspec.to_builtins(scenario.load)
    return _flat({"load": {key: load[key] for key in load if key not in _LISTS_OF_LEVELS}, "seed": scenario.seed})


def workload_in(manifest: Manifest) -> Workload | str:
    """The work of a run; for an older manifest, computed from its scenario, or the reason why it cannot be."""
    if manifest.workload is not None:
        return manifest.workload
    scenario = manifest.scenario
    if isinstance(scenario.prompts, PromptFiles) or isinstance(scenario.load, Trace):
        return "not kept by that version, and its prompts or its trace are in files"
    try:
        plan = make_plan(scenario, load_prompts(scenario, Path(), manifest.run_id))
    except InputError as error:
        return f"not kept by that version ({error})"
    cards = {(card.alias): card for card in manifest.models}
    refused = {
        index: card.refused_keys
        for index, model in enumerate(scenario.models)
        if (card := cards.get(model.name)) is not None and card.refused_keys is not UNSET
    }
    if manifest.plan_digest not in (digest(plan), digest(plan, refused)):
        return "not kept by that version, whose plan differs from that of this version"
    return workload_of(plan)


def _limits(run: ComparedRun) -> dict[str, float | None]:
    slo = run.manifest.scenario.slo
    return {"ttft_ms": slo.ttft_ms, "tpot_ms": slo.tpot_ms, "e2e_ms": slo.e2e_ms}


def machine_of(run: ComparedRun) -> Facts:
    """The facts in a manifest that decide the speed of the machine."""
    return machine_facts(run.manifest.host)


def machine_facts(host: Host) -> Facts:
    """What decides how fast a machine is, as far as it is known."""
    major = (host.kernel or "").partition(".")[0]
    facts = {
        "CPU": host.cpu,
        "cores": host.cores,
        "usable cores": host.cores_usable,
        "memory": None if host.memory_mib is None else f"{host.memory_mib} MiB",
        "operating system": f"{host.system} {major}".strip() if host.system else None,
        "power": None if host.power is None else host.power.partition(" ")[0],
        "power profile": host.power_saving or host.governor,
    }
    return {name: UNKNOWN if value is None else str(value) for name, value in facts.items()}


def is_same_machine_fact(name: str, before: str, after: str) -> bool:
    """Whether two machines are alike in one of their `machine_facts`."""
    return before == after or (name == "memory" and _same_memory((before, after)))


def _same_memory(values: Sequence[str]) -> bool:
    sizes = [int(value.removesuffix(" MiB")) for value in values if value != UNKNOWN]
    return len(sizes) == len(values) and max(sizes) <= MEMORY_TOLERANCE * min(sizes)


def _measurement(run: ComparedRun, levels: Sequence[str]) -> Facts:
    manifest = run.manifest
    stages = [stage for stage in run.played if stage.level in levels]
    stamps = sorted({stage.validity.stamp_source for stage in stages if stage.validity is not UNSET})
    tokens = sorted({stage.tokens.source for stage in stages if stage.tokens is not UNSET})
    epoch = manifest.measurement_epoch
    loadgen = manifest.versions.get("loadgen", UNKNOWN)
    return {
        "measurement epoch": f"{UNKNOWN} (loadgen {loadgen})" if epoch is None else str(epoch),
        "Python": ".".join(manifest.versions.get("python", UNKNOWN).split(".")[:2]),
        "stamp source": " and ".join(stamps),
        "workers": str(manifest.workers),
        "token source": " and ".join(tokens),
    }


def _doubts(sides: Sides, models: Sequence[PairedModel]) -> list[Difference]:
    """Runs that did not end, and stages that are invalid."""
    unlike = []
    for run in sides.runs:
        if run.manifest.state != "complete" or run.summary.incomplete:
            state = "killed" if run.manifest.state == "running" else run.manifest.state
            unlike.append(_of_run(sides, run, "whole run", f"{state} ({run.run_id})"))
    for model, i, run, level in _compared_stages(sides, models):
        stage = run.stage(model.key(i, level))
        if stage is None:
            continue
        if stage.incomplete and run.manifest.state == "complete":
            unlike.append(_of_run(sides, run, f"{model.name} at {level}", f"incomplete ({run.run_id})"))
        if stage.validity is not UNSET and stage.validity.verdict == "invalid":
            why = "; ".join(reason.observed for reason in stage.validity.reasons if reason.fatal)
            unlike.append(_of_run(sides, run, f"{model.name} at {level}", f"invalid: {why} ({run.run_id})"))
    return unlike


class Degraded(Struct, frozen=True):
    """A degraded stage that is compared."""

    run: str
    model: str
    level: str
    reasons: tuple[str, ...]


def degraded_stages(sides: Sides, models: Sequence[PairedModel]) -> tuple[Degraded, ...]:
    """The stages with the verdict "degraded", and their reasons."""
    degraded = []
    for model, i, run, level in _compared_stages(sides, models):
        stage = run.stage(model.key(i, level))
        if stage is not None and stage.validity is not UNSET and stage.validity.verdict == "degraded":
            reasons = tuple(reason.observed for reason in stage.validity.reasons)
            degraded.append(Degraded(run.run_id, model.name, level, reasons))
    return tuple(degraded)


def _compared_stages(
    sides: Sides, models: Sequence[PairedModel]
) -> Iterator[tuple[PairedModel, int, ComparedRun, str]]:
    for model in models:
        for level in model.levels:
            for i, run in enumerate(sides.runs):
                yield model, i, run, level


def _of_run(sides: Sides, run: ComparedRun, subject: str, value: str) -> Difference:
    in_base = any(run is each for each in sides.base)
    return Difference(subject, value if in_base else "–", "–" if in_base else value, allowed=False)


def _asked_about(run: ComparedRun) -> Facts:
    """The facts that may differ: models and how they are served, versions, the commit of loadgen's checkout."""
    manifest = run.manifest
    facts: Facts = {"scenario": manifest.scenario.name}
    for i, model in enumerate(manifest.scenario.models):
        table = model_table(model)
        if model.url is not None:
            table["url"] = redact_url(base_url(model.url))
        facts |= _flat({f"models[{i}]": table})
    for card in manifest.models:
        known = card_facts(card) if len(manifest.models) == 1 else {}
        facts |= {f"model's {name}": value for name, value in known.items()}
    facts |= {f"version of {name}": version for name, version in manifest.versions.items() if name != "python"}
    return facts | {"git commit": manifest.git_commit or UNKNOWN, "kernel": manifest.host.kernel or UNKNOWN}


def card_facts(card: ModelCard) -> Facts:
    """What is known of a model itself, whoever serves it."""
    return {name: _text(value) for name in _CARD_FACTS if (value := getattr(card, name)) is not None}


def _flat(table: Mapping[str, Any], path: str = "") -> Facts:
    """A table's values by their dotted keys; keys that are not set are left out."""
    facts: Facts = {}
    for key, value in table.items():
        name = f"{path}.{key}" if path else key
        if isinstance(value, dict):
            facts |= _flat(value, name)
        elif value is not None and value != [] and value != ():
            facts[name] = _text(value)
    return facts


def _text(value: object) -> str:
    text = value if isinstance(value, str) else msgspec.json.encode(value).decode()
    return text if len(text) <= LONGEST_VALUE else f"{text[: LONGEST_VALUE - 1]}…"


class NotAlikeError(InputError):
    """Runs with differences that must not be."""

    def __init__(self, unlike: Sequence[Difference]) -> None:
        self.differences = tuple(unlike)
        lines = "; ".join(f"{each.subject}: {each.base}, {each.new}" for each in unlike)
        super().__init__(f"BASE and NEW are not alike: {lines}; make them alike, or compare them with --anyway")
