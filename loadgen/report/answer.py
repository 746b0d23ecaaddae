"""The answer of a run: up to how many users at once the server met the SLO. Pure: a summary in, a sentence out."""

import itertools
from collections.abc import Sequence

from loadgen.analysis.summary import Requests, StageSummary, Summary, Validity
from loadgen.report.format import format_count, format_duration
from loadgen.report.metric_names import metric_title
from loadgen.scenario.objective import DEFAULT_ATTAINMENT


def answer(summary: Summary) -> str | None:
    """Up to how many users at once the SLO was met, one sentence for each model; None without an SLO or a closed
    loop."""
    by_model: dict[str, list[StageSummary]] = {}
    for stage in summary.stages:
        if stage.load.is_closed and (stage.slo is not None or "slo" in stage.not_valid):
            by_model.setdefault(f"{stage.model} on {stage.target}", []).append(stage)
    return " ".join(_answer_for(who, stages) for who, stages in by_model.items()) or None


def _answer_for(who: str, stages: Sequence[StageSummary]) -> str:
    """The highest level at and below which every stage shows that the required share of requests met the SLO. Names the
    levels that show nothing: those that are invalid, and the one above that has too few answers."""
    ordered = sorted(stages, key=lambda stage: stage.load.concurrency or 0)
    slo = next((stage.slo for stage in stages if stage.slo is not None and stage.slo.slo), None)
    if slo is None or _share(ordered[0]) is None:
        return f"{who}: it is not known with how many users at once the SLO was met: {ordered[0].not_valid['slo']}."
    limits = ", ".join(f"{metric_title(name)} ≤ {format_duration(limit)}" for name, limit in slo.slo.items())
    needed = slo.attainment or DEFAULT_ATTAINMENT
    share = f"at least {needed:.0%} of the requests met {limits}"
    good = list(itertools.takewhile(lambda stage: _is_good(stage, needed), ordered))
    rest = ordered[len(good) :]
    unknown = [*_too_few(rest[:1], needed), *_invalid(rest)]
    if not good and (_is_invalid(ordered[0]) or _is_met(ordered[0], needed)):
        return f"{who}: it is not known with how many users at once {share}: {', and '.join(unknown)}."
    if not good:
        return f"{who}: {'; '.join([f'at no level of this run {share}', *unknown])}."
    highest = good[-1].load.concurrency
    users = "one user at a time" if highest == 1 else f"up to {highest} users at once"
    more = "" if rest else ", the highest level of this run"
    return f"{who}: {'; '.join([f'{share} with {users}{more}', *unknown])}."


def _too_few(stages: Sequence[StageSummary], needed: float) -> list[str]:
    """That a level has too few answers, although they met the SLO."""
    return [
        f"{_level(stage)} has {format_count(_answered(stage), 'answered request')}, too few for a median"
        for stage in stages
        if _is_met(stage, needed) and not _is_invalid(stage)
    ]


def _invalid(stages: Sequence[StageSummary]) -> list[str]:
    """Which of the levels are invalid, as one text."""
    users = [str(stage.load.concurrency) for stage in stages if _is_invalid(stage)]
    if len(users) > 1:
        return [f"the levels with {', '.join(users[:-1])} and {users[-1]} users are invalid"]
    return [f"{_level(stage)} is invalid" for stage in stages if _is_invalid(stage)]


def _level(stage: StageSummary) -> str:
    users = stage.load.concurrency
    return f"the level with {users} {'user' if users == 1 else 'users'}"


def _answered(stage: StageSummary) -> int:
    return stage.requests.ok if isinstance(stage.requests, Requests) else 0


def _is_good(stage: StageSummary, needed: float) -> bool:
    """Whether the table shows that a level met the SLO: it can be believed, and the medians of the limited latencies
    are known."""
    is_believable = isinstance(stage.validity, Validity) and not _is_invalid(stage)
    return is_believable and _is_met(stage, needed) and _knows_medians(stage)


def _is_met(stage: StageSummary, needed: float) -> bool:
    share = _share(stage)
    return share is not None and share >= needed


def _knows_medians(stage: StageSummary) -> bool:
    """Whether the median of each limited latency is known. Answers of a single token have no TPOT, and meet every limit
    on it."""
    limits = {} if stage.slo is None else stage.slo.slo
    latencies = [metric for name in (*limits, "e2e_ms") if (metric := stage.metric(name)) is not None and metric.count]
    return bool(latencies) and all(latency.percentile("p50").value is not None for latency in latencies)


def _is_invalid(stage: StageSummary) -> bool:
    """Whether the stage says nothing about the SLO, neither that it was met nor that it was missed."""
    return isinstance(stage.validity, Validity) and stage.validity.verdict == "invalid"


def _share(stage: StageSummary) -> float | None:
    """The share of requests that met the SLO; None if it was not judged."""
    return None if stage.slo is None else stage.slo.share
