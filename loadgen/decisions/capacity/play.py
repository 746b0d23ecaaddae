"""Plays a search: chooses each visit, plays it, and then writes the answer so far. Measures nothing itself.

The servers of a model run from its first visit to its last. Each visit is a stage of one run folder. So, however the
search ends, its visits can be reported and the search can be resumed.
"""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import msgspec
import numpy as np
from msgspec import Struct

from loadgen.analysis.stage import StageData, stages_of
from loadgen.clock import SYSTEM_CLOCK, Clock
from loadgen.decisions.capacity.answer import CapacityFile, answer_of
from loadgen.decisions.capacity.choose import VisitLooks, next_step
from loadgen.decisions.capacity.e_values import requests_to_show
from loadgen.decisions.capacity.files import CapacityWriter
from loadgen.decisions.capacity.objective import late_after_ns
from loadgen.decisions.capacity.search import NextVisit, SearchEnd, SearchState, StopReason
from loadgen.decisions.capacity.search_request import SearchRequest
from loadgen.decisions.capacity.visit import Visit, VisitTally, unconnected_at_end
from loadgen.decisions.capacity.visit_data import VisitData, state_of, visit_data_of
from loadgen.decisions.capacity.words import progress_words
from loadgen.engine.run import play_plan
from loadgen.engine.stage import RunContext
from loadgen.engine.stage_source import StageSource
from loadgen.engine.stop import StopSignal
from loadgen.live.progress import Progress, Silence
from loadgen.live.sink import NullSink, Sink, StageStart
from loadgen.plan.plan import Stage
from loadgen.plan.visits import Visits
from loadgen.record import Record, StageFacts
from loadgen.report.format import format_time
from loadgen.store.manifest import manifest_from
from loadgen.store.run_folder import MANIFEST, SEARCH_PREFIX, Run
from loadgen.targets.registry import target_name
from loadgen.wire.client import Client

SHORTEST_VISIT_S: Final = 1.0
"""The shortest visit. A shorter rest of the budget is not played."""
LOOK_EVERY_PERCENT: Final = 2
"""A visit is added up at most once in so many percent of its records."""


class VisitWatch(NullSink):
    """The sink of one visit. It keeps the records, looks at them as requests end, and ends the visit when the search
    has enough of them."""

    def __init__(
        self,
        step: NextVisit,
        tally: VisitTally,
        looks: VisitLooks,
        stop: StopSignal,
        clock: Clock,
        report: Callable[[Visit | None], None],
    ) -> None:
        """stop: that of the stage. report: called when the visit begins, and after each look with the visit so far."""
        self.records: list[Record] = []
        self.facts: StageFacts | None = None
        self._step = step
        self._tally = tally
        self._looks = looks
        self._stop = stop
        self._clock = clock
        self._report = report
        self._began_ns = clock.now_ns()
        self._look_after = 0
        """No look comes before the tally has so many requests."""

    def start(self, stage: StageStart) -> None:
        self._report(None)

    def record(self, record: Record) -> None:
        self.records.append(record)
        if record.phase == "measured":
            self._tally.take(record)
            self._take_look(record.level)

    def late(self, record: Record) -> None:
        self._tally.take_open(record)
        self._take_look(record.level)

    def _take_look(self, label: str) -> None:
        """End the visit if it has taken its time, or if a look is due and finds that it has enough requests."""
        seconds = (self._clock.now_ns() - self._began_ns) / 1e9
        if self._stop.requested:
            return
        if seconds >= self._step.seconds:
            self._stop.end_stage()
        elif self._tally.counted_at_most >= self._looks.next_at and self._tally.taken >= self._look_after:
            # Of many users, many requests may be open that began before those that have ended, and do not let them
            # count yet. To add up a visit at each of them would delay others.
            self._look_after = self._tally.taken * (100 + LOOK_EVERY_PERCENT) // 100
            next_at = self._looks.next_at
            visit = self._tally.visit(level=self._step.level, label=label, seconds=seconds)
            if self._looks.should_stop(visit):
                self._stop.end_stage()
            if self._looks.next_at != next_at or self._stop.requested:
                self._report(visit)

    def retry(self, record: Record) -> None:
        self.records.append(record)

    def stop(self, facts: StageFacts) -> None:
        self.facts = facts


class SearchContext(Struct, frozen=True):
    """The objects that the models of a search share while it is played."""

    request: SearchRequest
    run: RunContext
    folder: Path
    writer: CapacityWriter
    progress: Progress
    workers: int


class ModelSearch:
    """The `StageSource` of one model. Its stages are visits; each is chosen after the visit before it has ended."""

    def __init__(self, context: SearchContext, place: int) -> None:
        """place: the place of the model in the plan."""
        request = context.request
        self.models = (place,)
        self._context = context
        self._played = [thinned(played) for played in _earlier_visits(request, place)]
        self._earlier = len(self._played)
        # The time of earlier searches does not count against this budget.
        budget_s = request.settings.budget_s + self._state.spent_s
        self._settings = msgspec.structs.replace(request.settings, budget_s=budget_s)
        self._visits = Visits(request.plan.scenario, len(request.plan.prompts), place)
        self._step: NextVisit | None = None
        self._watch: VisitWatch | None = None
        self._warmup = request.plan.scenario.warmup_requests
        self._lost = False

    @property
    def _state(self) -> SearchState:
        return state_of(self._played, earlier=self._earlier)

    def next_stage(self) -> Stage | None:
        if self._step is None:
            self._check_model()
        self._end_visit()
        step = self._choose()
        if isinstance(step, SearchEnd):
            self._write(step.reason)
            return None
        self._write("interrupted")  # this reason stays if the program is killed
        self._step = step
        number = 1 + sum(played.visit.level == step.level for played in self._played)
        warmup, self._warmup = self._warmup, 0  # a server needs one warm-up only
        seconds = math.floor(10 * step.seconds) / 10  # rounded, because users see it
        stage = self._visits.visit(step.level, number, seconds=seconds, warmup=warmup, burst=step.burst)
        late_ns = late_after_ns(self._settings.objectives, self._context.request.plan.scenario.slo)
        return msgspec.structs.replace(stage, late_after_ns=late_ns)

    def sinks(self, stage: Stage, stop: StopSignal) -> tuple[Sink, ...]:
        assert self._step is not None
        context, scenario = self._context, self._context.request.plan.scenario
        state = self._state
        tally = VisitTally(self._settings.objectives, stage.level.load(), scenario.slo, context.workers)
        looks = VisitLooks(state, self._settings, self._step)
        self._watch = VisitWatch(self._step, tally, looks, stop, context.run.clock, self._report)
        return (self._watch,)

    def lose_model(self, model: int, reason: str) -> None:
        self._lost = True

    def _choose(self) -> NextVisit | SearchEnd:
        if self._lost:
            return SearchEnd("target_lost")
        if self._context.run.stop_signal.requested:
            return SearchEnd("interrupted")
        step = next_step(self._state, self._settings)
        return SearchEnd("budget") if isinstance(step, NextVisit) and step.seconds < SHORTEST_VISIT_S else step

    def _end_visit(self) -> None:
        """Add the visit that has just been played, if there is one, to the search."""
        watch, self._watch = self._watch, None
        if watch is None or watch.facts is None:
            return
        played = visit_data_of(self._stage_of(watch.records, watch.facts), self._settings)
        if not self._played:
            self._warn_if_short(played)
        self._played.append(thinned(played))
        unconnected = np.array([record.outcome == "connect_error" for record in watch.records], bool)
        self._lost = self._lost or unconnected_at_end(unconnected, played.stage.planned.load.concurrency) > 0

    def _stage_of(self, records: Sequence[Record], facts: StageFacts) -> StageData:
        """The visit in the form in which a stage is read from a run folder."""
        manifest = manifest_from((self._context.folder / MANIFEST).read_bytes())
        planned = tuple(stage for stage in manifest.stages if stage.key in facts.keys)
        manifest = msgspec.structs.replace(manifest, stages=planned)
        (stage,) = stages_of(Run(self._context.folder, manifest, tuple(records), (facts,)))
        return stage

    def _write(self, stopped: StopReason) -> None:
        model = self._context.request.plan.models[self.models[0]]
        answer = answer_of(
            self._played,
            self._settings,
            stopped,
            model=model.name,
            target=target_name(model),
            earlier=self._earlier,
        )
        self._context.writer.put(self.models[0], answer)

    def _report(self, visit: Visit | None) -> None:
        self._context.progress.known(progress_words(visit, self._state, self._settings))

    def _warn_if_short(self, played: VisitData) -> None:
        """Warn if the budget is too short to show the objectives with one request at a time."""
        e2e_ns = played.stage.values["e2e"]
        if not e2e_ns.size:
            return
        settings = self._settings
        each_s = float(e2e_ns.mean()) / 1e9
        needed = {share: requests_to_show(share, settings.confidence) for share in settings.shares}
        most = max(needed, key=lambda share: needed[share])
        if each_s * needed[most] > settings.budget_s - self._state.spent_s:
            self._context.progress.warn(
                f"to show a share of {100 * most:g} % takes {needed[most]} requests of a level without a miss: at "
                f"{each_s:.3g} s each {format_time(each_s * needed[most])}, and the budget is "
                f"{format_time(settings.budget_s)}"
            )

    def _check_model(self) -> None:
        """Raise InputError if the served model is not the model of the search that is resumed."""
        earlier = self._context.request.earlier
        if earlier is None or self._lost:
            return
        model = self._context.request.plan.models[self.models[0]]
        manifest = manifest_from((self._context.folder / MANIFEST).read_bytes())
        target = target_name(model)
        earlier.check_card(target, model.name, manifest.card(target, model.name))


async def play_search(
    request: SearchRequest,
    results: Path,
    *,
    workers: int = 1,
    progress: Progress | None = None,
    stop: StopSignal | None = None,
    sinks: Sequence[Sink] = (),
    clock: Clock = SYSTEM_CLOCK,
    client: Client | None = None,
) -> Path:
    """Play a search and return its run folder, which has capacity.json but no reports yet.

    Arguments and errors are those of `loadgen.engine.run.play_plan`.
    """
    progress = progress or Silence()

    def make_sources(context: RunContext, folder: Path) -> list[StageSource]:
        import scipy.special  # noqa: F401  imported now, because in the middle of a visit it would delay requests

        shared = SearchContext(request, context, folder, _writer(request, folder), progress, workers)
        return [ModelSearch(shared, place) for place in range(len(request.plan.models))]

    run = await play_plan(
        request.plan,
        results,
        workers=workers,
        progress=progress,
        stop=stop,
        sinks=sinks,
        clock=clock,
        client=client,
        make_sources=make_sources,
        folder_prefix=SEARCH_PREFIX,
    )
    return run.folder


def _writer(request: SearchRequest, folder: Path) -> CapacityWriter:
    """The writer of a search before its first visit."""
    settings, earlier = request.settings, request.earlier
    models = []
    for place, model in enumerate(request.plan.models):
        visits = _earlier_visits(request, place)
        names = {"model": model.name, "target": target_name(model)}
        models.append(answer_of(visits, settings, "interrupted", **names, earlier=len(visits)))
    capacity = CapacityFile(
        run_id=folder.name,
        resumed=() if earlier is None else earlier.run_ids,
        confidence=settings.confidence,
        budget_s=settings.budget_s,
        spent_s=round(sum(model.spent_s for model in models), 3),
        models=tuple(models),
    )
    return CapacityWriter(folder, capacity)


def _earlier_visits(request: SearchRequest, place: int) -> list[VisitData]:
    if request.earlier is None:
        return []
    model = request.plan.models[place]
    return request.earlier.visits(model.name, target_name(model), request.settings)


def thinned(played: VisitData) -> VisitData:
    """A visit whose records have only the fields that an answer needs, so that an hour of them fits in memory."""
    records = tuple(_thin(record) for record in played.stage.measured)
    stage = msgspec.structs.replace(played.stage, measured=records, together=records, warmup=(), earlier=())
    return msgspec.structs.replace(played, stage=stage)


def _thin(record: Record) -> Record:
    ends = record.stamps_ns[:: max(1, len(record.stamps_ns) - 1)]
    return msgspec.structs.replace(record, stamps_ns=ends, tokens_per_event=None, text=msgspec.UNSET)
