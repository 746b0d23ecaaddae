"""What a reader of a selection must know besides the numbers, each in one line. Pure."""

from collections.abc import Iterable, Sequence
from typing import Final

import msgspec

from loadgen.decisions.candidates.candidate import Levels
from loadgen.decisions.candidates.runs import SelectRun
from loadgen.decisions.compare.differences import machine_facts
from loadgen.decisions.select.cost import GIVEN
from loadgen.decisions.select.given import GivenFacts, without_candidate
from loadgen.decisions.select.known import KnownCandidate
from loadgen.decisions.select.ranking import Ranking
from loadgen.redact import escape_control
from loadgen.scenario.policy import QualityBy

_MOST_NAMES: Final = 5


def remarks_of(
    runs: Sequence[SelectRun],
    known: Sequence[KnownCandidate],
    levels: Levels | None,
    given: Sequence[GivenFacts] = (),
) -> tuple[str, ...]:
    """The remarks, those about the runs first. levels: those of the comparison. given: what a person says of the
    candidates."""
    return tuple(
        dict.fromkeys(
            (
                *_of_runs(runs),
                *_of_prompts(known),
                *_of_levels(known, levels),
                *(remark for each in known for remark in _of_candidate(each)),
                *_of_given(given, known),
            )
        )
    )


def remarks_of_ranking(ranking: Ranking, compared: Sequence[KnownCandidate], quality_by: QualityBy) -> tuple[str, ...]:
    """The remarks about what is compared."""
    return (*_of_graded(ranking, compared, quality_by), *_of_cost(ranking, compared))


def _of_graded(ranking: Ranking, compared: Sequence[KnownCandidate], quality_by: QualityBy) -> Iterable[str]:
    """A line if fewer prompts are compared than all were asked, because the others have no note."""
    asked = frozenset.intersection(*(each.values.prompts for each in compared if each.values is not None))
    if quality_by != "key_points" and len(ranking.prompts) < len(asked):
        few = f"{len(ranking.prompts)} of {len(asked)} prompts"
        yield f"quality and latency are over the {few} whose answers all have notes"


def _of_cost(ranking: Ranking, compared: Sequence[KnownCandidate]) -> Iterable[str]:
    """A line if cost says nothing that throughput does not say, because a person gave one power for all."""
    sources = {each.cost.source for each in compared if each.cost is not None}
    if sources == {GIVEN} and {"cost", "throughput"} <= set(ranking.shares):
        share = ranking.shares["cost"] + ranking.shares["throughput"]
        yield (
            f"with one given power for all, cost and throughput both say how fast each is; together they weigh "
            f"{share:.2f}; leave one out with --weights cost=0, or measure the power"
        )


def _of_runs(runs: Sequence[SelectRun]) -> Iterable[str]:
    for run in runs:
        if not run.is_complete:
            yield f"{run.run_id} was cut short; what it has counts"
    machines = [machine_facts(run.manifest.host) for run in runs]
    for name in machines[0]:
        values = list(dict.fromkeys(machine[name] for machine in machines))
        if len(values) > 1:
            yield f"the runs are from different machines ({name}: {', '.join(values)}), so times compare machines too"
            break
    epochs = {run.manifest.measurement_epoch for run in runs}
    if len(epochs) > 1:
        yield "the runs were measured by different versions of loadgen; play them again to compare small differences"
    if len({msgspec.json.encode(run.manifest.scenario.select) for run in runs}) > 1:
        yield f"the runs have different [select] tables; that of the newest, {runs[-1].run_id}, counts"


def _of_prompts(known: Sequence[KnownCandidate]) -> Iterable[str]:
    prompts = {each.name: each.values.prompts for each in known if each.out is None and each.values is not None}
    asked = frozenset().union(*prompts.values())
    for name, own in prompts.items():
        if own != asked:
            few = f"{len(asked) - len(own)} of {len(asked)} prompts"
            yield f"{name} was not asked {few}, so all are compared on the others alone"


def _of_levels(known: Sequence[KnownCandidate], levels: Levels | None) -> Iterable[str]:
    """A line if a higher level was played, but not validly by all that are compared, so that throughput is of a lower
    one."""
    if levels is None:
        return
    stages = [stage for each in known for run in each.candidate.runs for stage in run]
    loads = {stage.level: stage.load for stage in stages}
    higher = [level for level, load in loads.items() if load > loads[levels.of_throughput]]
    if higher:
        highest = max(higher, key=lambda level: loads[level])
        played = levels.of_throughput
        yield f"throughput is that at {played}, because not all candidates have a valid stage at {highest}"


def _of_given(given: Sequence[GivenFacts], known: Sequence[KnownCandidate]) -> Iterable[str]:
    candidates = [each.candidate for each in known]
    unused = without_candidate(given, [(each.model, each.target, each.device) for each in candidates])
    if unused:
        more = f" and {len(unused) - _MOST_NAMES} more" if len(unused) > _MOST_NAMES else ""
        shown = ", ".join(escape_control(name) for name in unused[:_MOST_NAMES])
        yield f"no candidate has these facts: {shown}{more}; the names of candidates are {_names(known)}"


def _names(known: Sequence[KnownCandidate]) -> str:
    more = f" and {len(known) - _MOST_NAMES} more" if len(known) > _MOST_NAMES else ""
    return ", ".join(each.name for each in known[:_MOST_NAMES]) + more


def _of_candidate(known: KnownCandidate) -> Iterable[str]:
    name = known.name
    if any(stage.is_degraded for stage in known.stages):
        reasons = dict.fromkeys(
            reason.observed for stage in known.stages if stage.is_degraded for reason in stage.reasons
        )
        yield f"{name} is degraded: {'; '.join(reasons)}"
    if known.stages:  # otherwise, it is out for this reason
        for stage in (stage for run in known.candidate.runs for stage in run):
            if stage.invalid_because is not None:
                yield f"{name}: {stage.level} does not count: {stage.invalid_because}"
    requests = [stage.summary.requests for stage in known.stages]
    counts = [each for each in requests if isinstance(each, msgspec.Struct)]
    failed = sum(each.failed - sum(each.by_outcome.get(word, 0) for word in ("cancelled", "shed")) for each in counts)
    if failed:
        planned = sum(each.planned for each in counts)
        yield f"{name}: {failed} of {planned} requests failed; each counts as quality 0, and none in latency"
    yield from (f"{name}: {remark}" for remark in known.facts.remarks)
