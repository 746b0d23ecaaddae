"""The answer of a search, as in capacity.json: what is shown about each level, what limited the server, and what
follows from that. Pure."""

from collections.abc import Sequence
from typing import Final, Literal

from msgspec import Struct

from loadgen.decisions.capacity.forecast import ForecastAnswer
from loadgen.decisions.capacity.known import JudgedLevel, Known
from loadgen.decisions.capacity.limit import LimitedBy, LimitFigures, limit_of
from loadgen.decisions.capacity.search import SearchKind, SearchSettings, StopReason
from loadgen.decisions.capacity.throughput import LevelRates, ThroughputAnswer, rates_of, throughput_of_levels
from loadgen.decisions.capacity.visit import Doubt
from loadgen.decisions.capacity.visit_data import VisitData, state_of
from loadgen.scenario.objective import ObjectiveMetric

SCHEMA: Final = "loadgen.capacity/1"
LevelState = Literal["holds", "fails", "undecided", "not_judged"]


class AskedObjective(Struct, frozen=True):
    """An objective of the search."""

    objective: str
    """Its text, as the user wrote it: "ttft_p95=2s"."""
    metric: ObjectiveMetric
    limit_ms: float | None
    share: float


class ObjectiveAnswer(Struct, frozen=True):
    """How many requests of one level met one objective."""

    objective: str
    met: int
    missed: int
    share: float | None
    """The share of the requests that met it; None if it applied to no request."""
    share_ci: tuple[float, float] | None
    """The 95 % interval of that share, from the effective counts (Clopper & Pearson)."""
    log_holds: float
    """ln of the evidence that the share is at least the share asked. At 95 % confidence, ln 40 is enough."""
    log_fails: float
    """ln of the evidence that the share is below the share asked."""


class LevelAnswer(Struct, frozen=True):
    """What is known about one level."""

    level: float
    """Users, or requests per second."""
    state: LevelState
    visits: tuple[str, ...]
    """The stages of its visits in the run folder."""
    requests: int
    """The number of requests that count."""
    seconds: float
    """The time played, including warm-up."""
    inflation: float
    """How many neighboring requests count as one independent request."""
    requests_per_s: float | None
    output_tokens_per_s: float | None
    objectives: tuple[ObjectiveAnswer, ...]
    doubts: tuple[Doubt, ...] = ()
    """Why some of its visits do not count in full."""
    contradicted: bool = False
    """Whether both claims were shown for the level; it is then undecided."""


class ModelAnswer(Struct, frozen=True, kw_only=True):
    """The answer for one model."""

    model: str
    target: str
    search: SearchKind
    think_s: float
    objectives: tuple[AskedObjective, ...]
    capacity: float | None
    """The highest level, at least `holds` and below `fails`, whose likely share meets every objective; None: not
    known."""
    holds: float | None
    """The highest level shown to hold; None: no level is."""
    fails: float | None
    """The lowest level shown not to hold; None: no level is."""
    stopped: StopReason
    limited_by: LimitedBy | None
    """What limited the server at the levels that do not hold; None: not known. While no level is shown not to hold
    (`fails` is None), it is what probably limited it."""
    limit: LimitFigures
    levels: tuple[LevelAnswer, ...]
    """In ascending order."""
    throughput: ThroughputAnswer
    forecasts: tuple[ForecastAnswer, ...] = ()
    not_monotone: tuple[float, ...] = ()
    """Levels above `fails` that are nevertheless shown to hold."""
    spent_s: float = 0.0
    """The time played, including warm-up and the earlier searches that this one resumed."""
    earlier_s: float = 0.0
    """The part of `spent_s` that the earlier searches played. It does not count against the budget."""


class CapacityFile(Struct, frozen=True, kw_only=True):
    """The whole of capacity.json."""

    schema: str = SCHEMA
    run_id: str
    resumed: tuple[str, ...] = ()
    """The ids of the earlier searches whose visits count too."""
    confidence: float
    budget_s: float
    """The most time played for each model."""
    spent_s: float
    models: tuple[ModelAnswer, ...]


def answer_of(
    visits: Sequence[VisitData],
    settings: SearchSettings,
    stopped: StopReason,
    *,
    model: str,
    target: str,
    earlier: int = 0,
) -> ModelAnswer:
    """The answer for one model, without forecasts. visits: in the order of playing, including those of resumed
    searches, which are the first `earlier` ones."""
    known = Known(state_of(visits), settings)
    levels = _levels(visits, known)
    shown = known.shown
    limited_by, limit = limit_of(visits, known)
    return ModelAnswer(
        model=model,
        target=target,
        search=settings.search,
        think_s=settings.think_s,
        objectives=tuple(
            AskedObjective(each.text, each.metric, each.limit_ms, each.share) for each in settings.objectives
        ),
        capacity=known.capacity,
        holds=shown.holds,
        fails=shown.fails,
        stopped=stopped,
        limited_by=limited_by,
        limit=limit,
        levels=levels,
        throughput=_throughput(visits, known),
        not_monotone=shown.not_monotone,
        spent_s=round(known.state.spent_s, 3),
        earlier_s=round(sum(each.visit.seconds for each in visits[:earlier]), 3),
    )


def _throughput(visits: Sequence[VisitData], known: Known) -> ThroughputAnswer:
    """How throughput grows. Not known where nothing is shown, because the visits were then too few or too short."""
    if known.shown.holds is None and known.shown.fails is None:
        return ThroughputAnswer()
    return throughput_of_levels(rates_of(visits), known.settings.search, known.settings.think_s)


def _levels(visits: Sequence[VisitData], known: Known) -> tuple[LevelAnswer, ...]:
    by_level: dict[float, list[VisitData]] = {}
    for played in visits:
        by_level.setdefault(played.visit.level, []).append(played)
    rates = {each.level: each for each in rates_of(visits)}
    return tuple(_level(level, by_level[level], known, rates.get(level)) for level in sorted(by_level))


def _level(level: float, visits: Sequence[VisitData], known: Known, rates: LevelRates | None) -> LevelAnswer:
    at = known.place(level) if level in known.steps else None
    played = None if at is None else known.levels.get(at)
    doubts = [each.visit.doubt for each in visits if each.visit.doubt is not None]
    return LevelAnswer(
        level=level,
        state=_state(level, known),
        visits=tuple(each.visit.label for each in visits),
        requests=0 if played is None else played.evidence.requests,
        seconds=round(sum(each.visit.seconds for each in visits), 3),
        inflation=1.0 if played is None else round(played.inflation, 3),
        requests_per_s=None if rates is None else rates.requests_per_s,
        output_tokens_per_s=None if rates is None else rates.output_tokens_per_s,
        objectives=() if played is None else _objectives(played, known.settings),
        doubts=tuple(dict.fromkeys(doubts)),
        contradicted=played is not None and min(played.log_holds, played.log_fails) >= known.wanted,
    )


def _state(level: float, known: Known) -> LevelState:
    """The state of a level: as shown for the level itself, or else as follows from a higher or a lower level."""
    at = known.place(level) if level in known.steps else None
    played = None if at is None else known.levels.get(at)
    if at is None or played is None:
        return "not_judged"
    if min(played.log_holds, played.log_fails) >= known.wanted:
        return "undecided"
    if known.is_shown_to_hold(at) or known.is_shown_to_fail(at):
        return "holds" if known.is_shown_to_hold(at) else "fails"
    low, high = known.ends
    return "holds" if at < low else "fails" if at > high else "undecided"


def _objectives(played: JudgedLevel, settings: SearchSettings) -> tuple[ObjectiveAnswer, ...]:
    answers = []
    for objective, evidence in zip(settings.objectives, played.evidence.objectives, strict=True):
        counts = evidence.counts
        total = counts.met + counts.missed
        answers.append(
            ObjectiveAnswer(
                objective=objective.text,
                met=counts.met,
                missed=counts.missed,
                share=round(counts.met / total, 6) if total else None,
                share_ci=share_interval(counts.hits, counts.misses) if total else None,
                log_holds=round(evidence.log_holds, 4),
                log_fails=round(evidence.log_fails, 4),
            )
        )
    return tuple(answers)


def share_interval(hits: float, misses: float, confidence: float = 0.95) -> tuple[float, float]:
    """Clopper & Pearson's interval of a share. Effective counts need not be whole numbers."""
    from scipy.special import betaincinv

    tail = (1 - confidence) / 2
    low = float(betaincinv(hits, misses + 1, tail)) if hits > 0 else 0.0
    high = float(betaincinv(hits + 1, misses, 1 - tail)) if misses > 0 else 1.0
    return round(low, 6), round(high, 6)
