"""Reads the runs of a selection, and refuses runs that do not compare. Keeps of each only what a choice needs."""

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
from msgspec import UNSET, Struct

from loadgen.analysis import metrics
from loadgen.analysis.quality import stored_answers
from loadgen.analysis.quality_types import ScoredAnswer
from loadgen.analysis.stage import StageData, stages_of
from loadgen.analysis.summarize import summary_of
from loadgen.analysis.summary import Reason, StageSummary, summary_from
from loadgen.decisions.candidates.power import Power, measured_powers
from loadgen.decisions.compare.differences import workload_in
from loadgen.errors import InputError
from loadgen.plan.workload import Workload, work_keys
from loadgen.store import run_folder
from loadgen.store.manifest import Manifest

SUMMARY: Final = "summary.json"
SAME_KEYS: Final = ("system", "sampling")
"""The keys of a scenario that must be the same, so that the answers of two runs can be compared."""


class TimedAnswer(Struct, frozen=True):
    """The answer to one measured request."""

    prompt_id: str
    text: str | None
    """None if the request failed, or if the run did not keep texts."""
    scored: ScoredAnswer | None
    """None if the run did not keep texts."""


class StageResult(Struct, frozen=True, kw_only=True):
    """One stage of one model in one run."""

    summary: StageSummary
    e2e_ms: dict[str, float]
    """By prompt, the geometric mean of E2E over its answered requests."""
    quality: dict[str, float]
    """By prompt, the mean quality of its answers, 0 to 100; empty if it is not known."""
    answers: tuple[TimedAnswer, ...]
    power: Power | None
    """The measured power; None if it was not measured."""

    @property
    def level(self) -> str:
        return self.summary.level

    @property
    def load(self) -> float:
        """How much load the level is: its users, or its rate."""
        load = self.summary.load
        return float(max(load.concurrency or 0, load.rate_per_s or 0, load.from_per_s or 0, load.to_per_s or 0))

    @property
    def invalid_because(self) -> str | None:
        """Why it cannot speak for the model; None if it can."""
        summary = self.summary
        if summary.status != "played":
            return "skipped" if summary.reason is UNSET else f"skipped: {summary.reason}"
        if summary.requests is UNSET or not summary.requests.ok:
            return "no request was answered"
        if summary.validity is not UNSET and summary.validity.verdict == "invalid":
            reasons = [reason.observed for reason in summary.validity.reasons if reason.fatal]
            return f"invalid: {'; '.join(reasons)}"
        return None

    @property
    def reasons(self) -> tuple[Reason, ...]:
        """The reasons of its verdict."""
        return () if self.summary.validity is UNSET else self.summary.validity.reasons

    @property
    def is_degraded(self) -> bool:
        return self.summary.validity is not UNSET and self.summary.validity.verdict == "degraded"

    @property
    def prompts(self) -> frozenset[str]:
        """The prompts that say something about the model."""
        return frozenset(answer.prompt_id for answer in self.answers if answer.scored is None or answer.scored.counts)

    @property
    def requests_per_s(self) -> float | None:
        """Answers per second inside the steady window; None if there is none."""
        return None if self.summary.throughput is UNSET else self.summary.throughput.requests_per_s


class SelectRun(Struct, frozen=True, kw_only=True):
    """One run of a selection."""

    folder: Path
    manifest: Manifest
    stages: tuple[StageResult, ...]
    workload: Workload | str
    """The digests of its work; or why they are not known."""
    prompts: frozenset[tuple[str, str]]
    """The id of each prompt and the SHA-256 of its text; empty if the run did not keep them."""

    @property
    def run_id(self) -> str:
        return self.manifest.run_id

    @property
    def is_complete(self) -> bool:
        return self.manifest.state == "complete"

    @property
    def keeps_texts(self) -> bool:
        return any(answer.scored is not None for stage in self.stages for answer in stage.answers)


def read_runs(paths: Sequence[str | Path]) -> tuple[SelectRun, ...]:
    """The runs behind paths, in the order in which they were started: run folders, or scenarios' folders (the newest
    run of each).

    Raises InputError for what is no run, for a merged run, for a run that is given twice, and for runs that do not
    compare.
    """
    if not paths:
        raise InputError("no run is given; name run folders, such as results/choose-summarizer/*")
    folders = _run_folders([Path(path) for path in paths])
    runs: dict[str, SelectRun] = {}
    for folder in folders:
        run = _read(folder)
        if (twice := runs.get(run.run_id)) is not None:
            raise InputError(f"{folder}: the same run as {twice.folder} ({run.run_id}); give each run once")
        runs[run.run_id] = run
    ordered = tuple(sorted(runs.values(), key=lambda run: (run.manifest.started_utc, run.run_id)))
    _check_alike(ordered)
    return ordered


def _run_folders(paths: Sequence[Path]) -> list[Path]:
    """The folders of the runs. A merged folder whose runs are all given besides is left out."""
    folders, merged = [], {}
    for path in paths:
        if (runs := _merged_runs(path)) is None:
            folders.append(run_folder.run_folder_at(path))
        else:
            merged[path] = runs
    given = {folder.name for folder in folders}
    for path, runs in merged.items():
        if not set(runs) <= given:
            listed = " ".join(str(path.parent / run_id) for run_id in runs)
            raise InputError(f"{path}: a merged run, which has no answers of its own; give its runs: {listed}")
    return folders


def _merged_runs(path: Path) -> tuple[str, ...] | None:
    """The ids of the runs of a merged folder; None if it is not one."""
    if (path / run_folder.MANIFEST).exists() or not (path / SUMMARY).is_file():
        return None
    try:
        return summary_from((path / SUMMARY).read_bytes()).runs or None
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise InputError(f"{path / SUMMARY}: cannot be read ({error}); is the folder damaged?") from error


def _read(folder: Path) -> SelectRun:
    run = run_folder.read(folder)
    stages = stages_of(run)
    summary = summary_of([run], [stages])
    powers = measured_powers(run)
    scored = {(each.target, each.model, each.level, each.index): each for each in stored_answers(run, stages)}
    results = []
    for stage, stage_summary in zip(stages, summary.stages, strict=True):
        key = stage.planned.key
        answers = tuple(
            TimedAnswer(
                record.prompt_id,
                record.text if isinstance(record.text, str) else None,
                scored.get((key.target, key.model, key.level, record.index)),
            )
            for record in stage.measured
        )
        results.append(
            StageResult(
                summary=stage_summary,
                e2e_ms=_e2e_ms(stage),
                quality=_quality(answers),
                answers=answers,
                power=powers.get(key),
            )
        )
    return SelectRun(
        folder=folder,
        manifest=run.manifest,
        stages=tuple(results),
        workload=workload_in(run.manifest),
        prompts=frozenset((each.id, hashlib.sha256(each.text.encode()).hexdigest()) for each in run.prompts),
    )


def _quality(answers: Iterable[TimedAnswer]) -> dict[str, float]:
    """By prompt, the mean quality of its answers by the key points; empty if it is not known."""
    by_prompt: dict[str, list[float]] = {}
    for answer in answers:
        if answer.scored is not None and answer.scored.quality is not None:
            by_prompt.setdefault(answer.prompt_id, []).append(answer.scored.quality)
    return {prompt: math.fsum(values) / len(values) for prompt, values in by_prompt.items()}


def _e2e_ms(stage: StageData) -> dict[str, float]:
    """By prompt, the geometric mean of E2E over its answered requests, ms."""
    logarithms: dict[str, list[float]] = {}
    for record, value in zip(stage.ok, stage.each["e2e"], strict=True):
        if value != metrics.MISSING and value > 0:
            logarithms.setdefault(record.prompt_id, []).append(math.log(value / 1e6))
    return {prompt: math.exp(float(np.mean(values))) for prompt, values in logarithms.items()}


def _check_alike(runs: Sequence[SelectRun]) -> None:
    """Raise InputError, which names the difference, for runs that ask different things."""
    first, *others = runs
    for other in others:
        if (difference := _difference(first, other)) is not None:
            hint = "a selection needs runs with the same prompts, sampling and system text"
            raise InputError(f"{first.folder} and {other.folder} do not compare: {difference}; {hint}")


def _difference(first: SelectRun, other: SelectRun) -> str | None:
    keys = [_flat(work_keys(run.manifest.scenario), SAME_KEYS) for run in (first, other)]
    for name in dict.fromkeys([*keys[0], *keys[1]]):
        values = [facts.get(name, "not set") for facts in keys]
        if values[0] != values[1]:
            return f"{name} is {_short(values[0])} in one and {_short(values[1])} in the other"
    is_same_plan = first.manifest.plan_digest == other.manifest.plan_digest
    if is_same_plan or (first.prompts and first.prompts == other.prompts):  # in whatever order they were asked
        return None
    unknown = next((run for run in (first, other) if isinstance(run.workload, str)), None)
    if unknown is not None:
        return f"the prompts of {unknown.run_id} are {unknown.workload}"
    digests = [run.workload.prompts for run in (first, other) if isinstance(run.workload, Workload)]
    if digests[0] == digests[1]:
        return None
    counts = [
        f"{len(run.manifest.prompts)} texts (digest {digest[:8]})"
        for run, digest in zip((first, other), digests, strict=True)
    ]
    return f"the prompts are {counts[0]} in one and {counts[1]} in the other"


def _flat(table: Mapping[str, Any], names: Iterable[str], path: str = "") -> dict[str, str]:
    """The values of some keys of a table, and of the tables in it, as text."""
    facts: dict[str, str] = {}
    for key in names:
        value, name = table[key], f"{path}{key}"
        if isinstance(value, dict):
            facts |= _flat(value, value, f"{name}.")
        elif value is not None and value not in ([], ()):
            facts[name] = value if isinstance(value, str) else msgspec.json.encode(value).decode()
    return facts


def _short(text: str) -> str:
    return f"“{text[:40]}…”" if len(text) > 40 else text
