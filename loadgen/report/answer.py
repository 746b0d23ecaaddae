"""The answer of a run: up to how many users at once the server met the SLO. Pure: a summary in, a sentence out."""

import itertools
from collections.abc import Sequence
from typing import Final

from loadgen.analysis.summary import StageSummary, Summary, Validity
from loadgen.report.format import format_duration
from loadgen.report.metric_names import metric_title

DEFAULT_ATTAINMENT: Final = 0.9
"""The share of requests that must meet the SLO at a level, if the scenario sets no gate."""


def answer(summary: Summary) -> str | None:
    """Up to how many users at once the SLO was met, one sentence for each model; None without an SLO or a closed
    loop."""
    by_model: dict[str, list[StageSummary]] = {}
    for stage in summary.stages:
        if stage.load.is_closed and (stage.slo is not None or "slo" in stage.not_valid):
            by_model.setdefault(f"{stage.model} on {stage.target}", []).append(stage)
    return " ".join(_answer_for(who, stages) for who, stages in by_model.items()) or None


def _answer_for(who: str, stages: Sequence[StageSummary]) -> str:
    """The highest level at and below which no stage is invalid and the required share of requests met the SLO."""
    ordered = sorted(stages, key=lambda stage: stage.load.concurrency or 0)
    slo = next((stage.slo for stage in stages if stage.slo is not None and stage.slo.slo), None)
    if slo is None or _share(ordered[0]) is None:
        return f"{who}: it is not known with how many users at once the SLO was met: {ordered[0].not_valid['slo']}."
    limits = ", ".join(f"{metric_title(name)} ≤ {format_duration(limit)}" for name, limit in slo.slo.items())
    needed = slo.attainment or DEFAULT_ATTAINMENT
    share = f"at least {needed:.0%} of the requests met {limits}"
    good = [stage.load.concurrency for stage in itertools.takewhile(lambda stage: _is_good(stage, needed), ordered)]
    if not good and _is_invalid(ordered[0]):
        lowest = ordered[0].load.concurrency
        level = f"the level with {lowest} {'user' if lowest == 1 else 'users'} is invalid"
        return f"{who}: it is not known with how many users at once {share}: {level}."
    if not good:
        return f"{who}: at no level of this run {share}."
    users = "one user at a time" if good[-1] == 1 else f"up to {good[-1]} users at once"
    more = ", the highest level of this run" if len(good) == len(ordered) else ""
    return f"{who}: {share} with {users}{more}."


def _is_good(stage: StageSummary, needed: float) -> bool:
    is_believable = isinstance(stage.validity, Validity) and not _is_invalid(stage)
    share = _share(stage)
    return is_believable and share is not None and share >= needed


def _is_invalid(stage: StageSummary) -> bool:
    """Whether the stage says nothing about the SLO, neither that it was met nor that it was missed."""
    return isinstance(stage.validity, Validity) and stage.validity.verdict == "invalid"


def _share(stage: StageSummary) -> float | None:
    """The share of requests that met the SLO; None if it was not judged."""
    return None if stage.slo is None else stage.slo.share
