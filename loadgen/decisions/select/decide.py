"""From the runs and the policy to a selection: requirements first, then Pareto fronts, then steps and weights. Pure."""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Literal

import msgspec
import numpy as np
from msgspec import UNSET, Struct

from loadgen.analysis.summary import StageSummary
from loadgen.decisions.candidates.candidate import candidates_of, compared_levels_of
from loadgen.decisions.candidates.runs import SelectRun, StageResult
from loadgen.decisions.select.candidate_values import mean_with_interval, quality_with_interval
from loadgen.decisions.select.criteria import CRITERIA, UNITS, Criterion, Values, steps_of
from loadgen.decisions.select.graded import (
    UsedNotes,
    graded_lines,
    graded_rows,
    left_out_lines,
    notes_of,
    with_notes,
)
from loadgen.decisions.select.known import KnownCandidate, known_candidates
from loadgen.decisions.select.policy import Policy
from loadgen.decisions.select.ranking import ENOUGH_KEYS, Ranking, ranking_of
from loadgen.decisions.select.remarks import remarks_of, remarks_of_ranking
from loadgen.decisions.select.requirements import missed_requirements, require_data
from loadgen.decisions.select.selection import (
    SCHEMA,
    CandidateRow,
    CriterionRow,
    Decision,
    LeadRow,
    PolicyUsed,
    RequirementRow,
    Selection,
    SelectionVerdict,
    SensitivityRow,
)
from loadgen.decisions.select.words import decision_text, turning_text
from loadgen.report.format import lower_bound


class SelectionData(Struct, frozen=True, kw_only=True):
    """A selection, and what its pages show besides."""

    selection: Selection
    known: tuple[KnownCandidate, ...]
    """The candidates with their answers, by name."""
    started_utc: str
    """When the first run was started."""
    key_points: dict[str, tuple[str, ...]]
    """Those of each prompt, by its id, in the order of the plan."""
    notes: UsedNotes
    """What people and judges say of the answers."""


def decide(runs: Sequence[SelectRun], policy: Policy) -> SelectionData:
    """The selection. Raises InputError if a level is asked that no run has, or if nothing that weighs is known; and
    DisagreementError if it is by the notes of graders who disagree."""
    notes = notes_of(runs)
    if policy.quality_by != "key_points":
        runs = with_notes(runs, notes, policy.quality_by, policy.disagreement)
    candidates = candidates_of(runs)
    levels = compared_levels_of(candidates, policy.level)
    known = known_candidates(candidates, levels, policy)
    compared = [each for each in known if each.out is None]
    ranking = ranking_of(compared, policy) if compared else None
    graded = graded_rows(notes, known, policy.quality_by)
    deciding = [line for row in graded if row.decides for line in graded_lines(row)]
    rows = sorted((_row(each, ranking, policy) for each in known), key=_place)
    selection = Selection(
        schema=SCHEMA,
        scenario=runs[-1].manifest.scenario.name,
        runs=tuple(run.run_id for run in runs),
        level=None if levels is None else levels.of_answers,
        throughput_level=None if levels is None else levels.of_throughput,
        quality_by=policy.quality_by,
        prompts=0 if ranking is None else len(ranking.prompts),
        policy=_policy_used(policy, ranking),
        candidates=tuple(rows),
        decision=_decision(rows, known, ranking),
        sensitivity={} if ranking is None else _sensitivity(ranking),
        left_out={} if ranking is None else ranking.left_out,
        graded=graded,
        remarks=(
            *deciding,
            *([] if ranking is None else remarks_of_ranking(ranking, compared, policy.quality_by)),
            *left_out_lines(notes),
            *remarks_of(runs, known, levels, policy.given),
        ),
    )
    decision = msgspec.structs.replace(selection.decision, text=decision_text(selection))
    return SelectionData(
        notes=notes,
        selection=msgspec.structs.replace(selection, decision=decision),
        known=known,
        started_utc=runs[0].manifest.started_utc,
        key_points={prompt.id: prompt.key_points for prompt in runs[0].manifest.prompts},
    )


def _place(row: CandidateRow) -> tuple[bool, float, str]:
    return row.utility is None, -(row.utility or 0.0), row.name


def _policy_used(policy: Policy, ranking: Ranking | None) -> PolicyUsed:
    enough = msgspec.to_builtins(policy.enough)
    return PolicyUsed(
        weights={name: policy.weights[name] for name in CRITERIA},
        weights_by=policy.weights_by,
        shares={} if ranking is None else {name: short(share) for name, share in ranking.shares.items()},
        require=require_data(policy.require),
        enough={key: value for key, value in enough.items() if value is not None},
        cost=policy.cost,
        bound=policy.bound,
    )


def _row(known: KnownCandidate, ranking: Ranking | None, policy: Policy) -> CandidateRow:
    at = None if ranking is None or known.out is not None else ranking.names.index(known.name)
    summaries = [stage.summary for stage in known.stages]
    row = CandidateRow(
        name=known.name,
        model=known.candidate.model,
        target=known.candidate.target,
        device=known.facts.device.value and known.facts.device.value.lower(),
        runs=known.candidate.run_ids,
        eligible=known.out is None,
        out=known.out,
        verdict=_verdict(known.stages),
        incomplete=any(summary.incomplete for summary in summaries),
        requirements=tuple(
            RequirementRow(
                key=check.key,
                asked=check.asked,
                observed=check.observed,
                holds=check.holds,
                why=check.why,
                text=check.text,
            )
            for check in known.checks
        ),
        criteria=_criteria(known, ranking, policy),
        flags=_flags(known.stages),
        e2e_ms={
            "mean": _mean(summaries, lambda stage: _latency(stage, "e2e_ms", "mean")),
            "p50": _mean(summaries, lambda stage: _latency(stage, "e2e_ms", "p50")),
            "p95": _mean(summaries, lambda stage: _latency(stage, "e2e_ms", "p95")),
            "p95_at_least": _bound(summaries),
        },
        ttft_p50_ms=_mean(summaries, lambda stage: _latency(stage, "ttft_ms", "p50")),
        tokens_per_s=_mean(
            summaries, lambda stage: None if stage.throughput is UNSET else stage.throughput.e2e_tokens_per_s
        ),
        slo_share=_mean(summaries, lambda stage: None if stage.slo is None else stage.slo.share),
        ok_share=_mean(summaries, _ok_share),
        cost=known.cost,
        facts=known.facts,
    )
    return row if at is None or ranking is None else _ranked(row, ranking, at)


def _ranked(row: CandidateRow, ranking: Ranking, at: int) -> CandidateRow:
    """The row with its place among those that are compared."""
    lead = ranking.leader.leads[at]
    return msgspec.structs.replace(
        row,
        pareto=at in ranking.front,
        pareto_all=at in ranking.front_of_all,
        utility=short(float(ranking.utilities.mean[at])),
        lead=None if lead is None else LeadRow(short(lead.steps), _ends(lead.ci)),
        chance_of_first=None if ranking.chances is None else short(ranking.chances[at]),
        acceptability=short(ranking.acceptability[at]),
    )


def _criteria(known: KnownCandidate, ranking: Ranking | None, policy: Policy) -> dict[str, CriterionRow]:
    """The values of a candidate. If it is compared, quality and latency are over the common prompts."""
    values = known.values
    if values is None:
        return {}
    prompts = ranking.prompts if ranking is not None and known.out is None else tuple(sorted(values.prompts))
    quality = [values.quality[prompt] for prompt in prompts if prompt in values.quality]
    latency = [values.e2e_ms[prompt] for prompt in prompts if prompt in values.e2e_ms]
    facts, cost = known.facts, known.cost
    single: dict[Criterion, tuple[float | None, str]] = {
        "memory": (facts.memory_mib.value, facts.memory_mib.source),
        "throughput": (values.requests_per_s, "measured"),
        "cost": (None, "") if cost is None else (cost.per_1000, cost.source or "given"),
        "disk": (facts.disk_mib.value, facts.disk_mib.source),
    }
    rows: dict[str, CriterionRow] = {}
    for name in CRITERIA:
        enough = getattr(policy.enough, ENOUGH_KEYS[name])
        if name == "quality" and quality:
            rows[name] = _quality_row(name, np.array(quality), policy.quality_by, enough)
        elif name == "latency" and latency:
            rows[name] = _geometric_row(name, np.array(latency), enough)
        elif name in single and (value := single[name][0]):
            steps = float(steps_of(name, np.array(value), enough))
            unit, source = UNITS[name].name, single[name][1]
            rows[name] = CriterionRow(value=short(value), unit=unit, ci=None, n=None, source=source, steps=short(steps))
    return rows


def _quality_row(name: Criterion, values: Values, quality_by: str, enough: float | None) -> CriterionRow:
    mean, interval = quality_with_interval(values)
    return CriterionRow(
        value=short(mean),
        unit=UNITS[name].name,
        ci=_ends(interval),
        n=values.size,
        source="measured" if quality_by == "key_points" else quality_by,
        steps=short(float(steps_of(name, values, enough).mean())),
    )


def _geometric_row(name: Criterion, values: Values, enough: float | None) -> CriterionRow:
    mean, interval = mean_with_interval(np.log(values))
    ends = None if interval is None else (math.exp(interval[0]), math.exp(interval[1]))
    return CriterionRow(
        value=short(math.exp(mean)),
        unit=UNITS[name].name,
        ci=_ends(ends),
        n=values.size,
        source="measured",
        steps=short(float(steps_of(name, values, enough).mean())),
    )


def _sensitivity(ranking: Ranking) -> dict[str, SensitivityRow]:
    rows = {}
    for name, bands in ranking.bands.items():
        first = tuple((short(band.start), ranking.names[band.first]) for band in bands)
        share = ranking.shares[name]
        sure = _ends(ranking.recommended[name])
        rows[str(name)] = SensitivityRow(short(share), first, turning_text(name, share, first, sure), sure)
    return rows


def _decision(rows: Sequence[CandidateRow], known: Sequence[KnownCandidate], ranking: Ranking | None) -> Decision:
    """The decision, without its text."""
    if ranking is None:
        return Decision(
            verdict="none",
            recommended=None,
            first=None,
            not_told_apart=(),
            needed_prompts=None,
            nearest=_nearest(known),
            text="",
        )
    leader = ranking.leader
    alone = len(leader.not_told_apart) == 1
    first = ranking.names[leader.first]
    verdict: SelectionVerdict = "recommended" if alone else "tied"
    return Decision(
        verdict=verdict,
        recommended=first if alone else None,
        first=first,
        not_told_apart=() if alone else tuple(ranking.names[at] for at in leader.not_told_apart),
        needed_prompts=leader.needed_prompts,
        nearest=None,
        text="",
    )


def _nearest(known: Iterable[KnownCandidate]) -> str | None:
    """Who misses the fewest requirements, and those by the least; None if nobody was measured."""
    measured = [each for each in known if each.checks]
    if not measured:
        return None

    def miss(each: KnownCandidate) -> tuple[int, float, str]:
        failed = missed_requirements(each.checks)
        return len(failed), sum(check.distance for check in failed), each.name

    return min(measured, key=miss).name


def _verdict(stages: Sequence[StageResult]) -> Literal["valid", "degraded", "invalid"]:
    if not stages:
        return "invalid"
    return "degraded" if any(stage.is_degraded for stage in stages) else "valid"


def _flags(stages: Sequence[StageResult]) -> dict[str, int]:
    """By flag of the answers, how many have it."""
    scored = [answer.scored for stage in stages for answer in stage.answers if answer.scored is not None]
    return dict(sorted(Counter(str(flag) for each in scored for flag in each.flags).items()))


def _latency(stage: StageSummary, name: str, figure: str) -> float | None:
    metric = stage.metric(name)
    if metric is None:
        return None
    return metric.mean if figure == "mean" else metric.percentile(figure).value


def _bound(stages: Iterable[StageSummary]) -> float | None:
    """The lowest bound of the p95 of E2E in those runs that do not know it; None if there is none."""
    metrics = [metric for stage in stages if (metric := stage.metric("e2e_ms")) is not None]
    bounds = [bound for metric in metrics if (bound := lower_bound(metric, "p95")) is not None]
    return short(min(bounds)) if bounds else None


def _ok_share(stage: StageSummary) -> float | None:
    return None if stage.requests is UNSET or not stage.requests.planned else stage.requests.ok / stage.requests.planned


def _mean(stages: Iterable[StageSummary], value_of: Callable[[StageSummary], float | None]) -> float | None:
    """The mean over runs; None if one of them does not know it."""
    values = [value_of(stage) for stage in stages]
    known = [value for value in values if value is not None]
    return short(math.fsum(known) / len(known)) if known and len(known) == len(values) else None


def short(value: float) -> float:
    """A number with six significant digits, so that rounding of the last digits does not show in files."""
    return float(f"{value:.6g}")


def _ends(interval: tuple[float, float] | None) -> tuple[float, float] | None:
    return None if interval is None else (short(interval[0]), short(interval[1]))
